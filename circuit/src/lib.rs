//! The pure protocol core: links, setup, layers, cells, circuit tables, streams, meter.
//!
//! Nothing here reads a clock, a socket, a file or a global random source: time and randomness are arguments.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod aead;
pub mod cell;
pub mod error;
pub mod flows;
pub mod keys;
pub mod layer;
pub mod ledger;
pub mod link;
pub mod meter;
pub mod node;
pub mod origin;
pub mod packet;
pub mod reckoning;
pub mod relay;
pub mod request;
pub mod seen;
pub mod setup;
pub mod stream;
pub mod table;
pub mod window;
mod x25519;
