//! The relay: forwards cells, serves exits.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

#[cfg(feature = "io")]
pub mod announcer;
pub mod cashier;
#[cfg(feature = "io")]
pub mod driver;
pub mod exit;
#[cfg(feature = "io")]
mod exit_io;
pub mod herald;
#[cfg(feature = "io")]
mod load;
#[cfg(feature = "io")]
pub mod money;
pub mod node;
pub mod policy;
pub mod quota;
#[cfg(feature = "io")]
mod seen_log;
pub mod status;
pub mod throttle;
