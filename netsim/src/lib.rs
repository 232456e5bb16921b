//! The whole network in virtual time: real nodes on hosts, a network with faults between them, sites beyond the exits
//! and applications at the clients.
//!
//! Everything is drawn from one seed, so that a run repeats itself bit by bit: [`seeds::each`] says how.

pub mod app;
pub mod chain;
pub mod content;
pub mod fault;
pub mod host;
pub mod money;
pub mod network;
pub mod seeds;
pub mod sim;
pub mod site;
pub mod world;
