//! The event loop of both drivers, relay and client: the one place that touches UDP sockets, the clock and TCP flows.
//!
//! A driver binds a [`UdpSocket`], puts its pure node into [`Shared`], and calls [`run`] on a current-thread runtime
//! inside a [`tokio::task::LocalSet`]. What the node wants done outside comes to the driver's [`Outside`]; what the
//! driver has to say goes to the node through [`Shared::with_node`]; TCP connections are tied to flows by [`pump`].
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod event_loop;
mod flow;
mod runs;
mod shared;
mod socket;
#[cfg(test)]
mod tests;

pub use event_loop::{Outside, run};
pub use flow::{Ended, pump};
pub use shared::{Counters, Shared, now};
pub use socket::{BindError, BufferSizes, UdpSocket};
