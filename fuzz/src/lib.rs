//! Fuzz targets: one function per parser and state machine that strangers can reach.
//!
//! A target panics when a property does not hold. libFuzzer calls it through `fuzz_targets/NAME.rs`; `tests/replay.rs` runs
//! it over `corpus/NAME` and `regressions/NAME`. Nothing here depends on anything but the bytes.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a panic is how a target tells what it has found"
)]

mod body;
mod circuits;
mod client_node;
mod descriptor;
mod edits;
mod exchange;
mod exit;
mod files;
mod fixture;
mod frames;
mod guards;
mod handshake;
mod input;
mod links;
mod neighbour;
mod onion;
mod payments;
mod quic;
mod reader;
mod relay_node;
mod request;
pub mod seeds;
mod setup;
mod socks;

pub use body::body;
pub use circuits::circuits;
pub use client_node::{client_node, paid_client_node};
pub use descriptor::{descriptor, network_file};
pub use exchange::exchange;
pub use exit::exit;
pub use files::{config, seen_log};
pub use frames::frames;
pub use guards::guards;
pub use handshake::{cookie, handshake_answer, handshake_first};
pub use links::links;
pub use payments::payments;
pub use quic::{flows, streams};
pub use reader::reader;
pub use relay_node::{paid_relay_node, relay_node};
pub use request::request;
pub use setup::{reply, setup};
pub use socks::socks;

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("body", body),
    ("circuits", circuits),
    ("client_node", client_node),
    ("config", config),
    ("cookie", cookie),
    ("descriptor", descriptor),
    ("exchange", exchange),
    ("exit", exit),
    ("flows", flows),
    ("frames", frames),
    ("guards", guards),
    ("handshake_answer", handshake_answer),
    ("handshake_first", handshake_first),
    ("links", links),
    ("network_file", network_file),
    ("paid_client_node", paid_client_node),
    ("paid_relay_node", paid_relay_node),
    ("payments", payments),
    ("reader", reader),
    ("relay_node", relay_node),
    ("reply", reply),
    ("request", request),
    ("seen_log", seen_log),
    ("setup", setup),
    ("socks", socks),
    ("streams", streams),
];
