//! Sessions, draws and tickets; payer and payee; the contract; chain back-ends (docs/spec/03-payments.md).
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod abi;
pub mod amount;
#[cfg(feature = "io")]
pub mod chain;
pub mod claim;
pub mod class;
pub mod draw;
#[cfg(feature = "evm")]
pub mod evm;
pub mod frame;
pub mod offer;
mod outbox;
pub mod outgoing;
pub mod record;
#[cfg(feature = "io")]
pub mod redeemer;
mod seed;
pub mod session;
#[cfg(feature = "io")]
pub mod store;
#[cfg(test)]
mod tests;
pub mod till;
#[cfg(feature = "io")]
pub mod treasury;
pub mod wallet;

pub use alloy_primitives::{Address, B256};
