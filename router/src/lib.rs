//! The relay: forwards cells, serves exits.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod exit;
pub mod node;
pub mod policy;
pub mod status;
