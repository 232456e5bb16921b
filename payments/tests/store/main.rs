//! The store: what it promises, and what it says when it cannot.
#![cfg(feature = "io")]

#[cfg(test)]
mod crash;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod file;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod thread;
