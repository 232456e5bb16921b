//! Back-ends of the chain: one suite for all of them, and what only an RPC can do wrong.
#![cfg(feature = "io")]

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod file;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod server;
