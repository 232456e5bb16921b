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
pub mod keys;
pub mod layer;
pub mod node;
pub mod packet;
pub mod request;
pub mod setup;
pub mod stream;
pub mod window;
