//! What the client tells its own user: plain data, taken from the node's counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How the last error ends where an exit was asked to be the only relay, and does not permit it.
pub const NO_SINGLE_HOP: &str = "; the exit's policy is against circuits of a single hop, which show it your address: use --hops 2 or more";

/// A client at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `starting`, `connecting`, `ready`, or `clock is off by N s`.
    pub state: String,
    /// Seconds since the client started.
    pub uptime_s: u64,
    /// Relays in each path.
    pub hops: usize,
    /// Where applications reach it by SOCKS5.
    pub socks: SocketAddr,
    /// Its circuits.
    pub circuits: Circuits,
    /// Open streams.
    pub streams: u64,
    /// Bytes of applications sent into streams since the start.
    pub bytes_up: u64,
    /// Bytes of streams given to applications since the start.
    pub bytes_down: u64,
    /// Packets sent and received on links since the start.
    pub packets: [u64; 2],
    /// The round trip to the entry in milliseconds, if a link is up and was measured.
    pub link_rtt_ms: Option<f64>,
    /// What went wrong last, in plain words, since a circuit came to stand.
    pub last_error: Option<String>,
    /// What it pays, on a paid network.
    pub money: Option<Box<Money>>,
}

/// What a client pays; amounts in wei, as decimal text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Its pot.
    pub owner: String,
    /// Spendable, at the contract.
    pub balance: String,
    /// Collateral, at the contract.
    pub reserve: String,
    /// What was paid in draws, since the store was made.
    pub paid: String,
    /// So many draws.
    pub draws: u64,
    /// So many of them won.
    pub wins: u64,
    /// The faces of the wins.
    pub won: String,
    /// What is paid ahead, and can still be used.
    pub ahead: String,
    /// Packets sent with payments, since the start.
    pub packets: u64,
    /// What a GiB costs, the whole path, at the price of the circuits in use.
    pub per_gib: String,
    /// The newest block seen.
    pub block: u64,
    /// What is wrong with chain or disk, and what to do.
    pub trouble: Option<String>,
}

/// How many circuits a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuits {
    /// Circuits that stand.
    pub ready: u64,
    /// Circuits whose setup is not answered yet.
    pub building: u64,
    /// Setups that failed since the start.
    pub failed: u64,
}

/// One circuit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    /// A number that means something in this client only.
    pub id: u64,
    /// `building`, `ready` or `closing`.
    pub state: String,
    /// `streams`, `spare`, `questions` or `test`.
    pub purpose: String,
    /// Its relays, the entry first.
    pub path: Vec<Hop>,
    /// Seconds since its setup was sent.
    pub age_s: u64,
    /// The round trip to the last relay in milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
    /// Open streams.
    pub streams: u64,
    /// Cells sent.
    pub cells_sent: u64,
    /// Cells received.
    pub cells_received: u64,
}

/// One relay of a path. Only the user's own control API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The first bytes of the relay's id, in hexadecimal.
    pub id: String,
    /// The country that the relay's descriptor names, two lower-case letters.
    pub country: Option<String>,
    /// The address of the relay's links.
    pub address: SocketAddr,
}

/// What came of a series of test circuits, which are closed again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Circuits asked for.
    pub asked: u64,
    /// Circuits that stood.
    pub built: u64,
    /// Circuits that did not, by reason in plain words.
    pub failed: BTreeMap<String, u64>,
    /// How long all took together, in seconds.
    pub seconds: f64,
    /// Circuits built per second.
    pub per_second: f64,
    /// The time of one build in milliseconds; nothing if none was built.
    pub ms: Option<Quantiles>,
}

/// How build times are spread, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half were faster.
    pub p50: f64,
    /// 19 of 20 were faster.
    pub p95: f64,
    /// The slowest.
    pub max: f64,
}

/// A relay, as the client sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relay {
    /// Its id, in hexadecimal.
    pub id: String,
    /// The country it is taken to be in, two lower-case letters.
    pub country: Option<String>,
    /// The country it claims, if that is another one.
    pub claimed_country: Option<String>,
    /// The numbers of the autonomous systems that its addresses are in, where a table of addresses has them.
    #[serde(default)]
    pub autonomous_systems: Vec<u32>,
    /// Who runs it, in its own words.
    pub operator: String,
    /// What it runs, in its own words.
    pub version: String,
    /// What it claims to carry, in kB/s; 0 if it does not say.
    pub bandwidth: u32,
    /// What it asks for carrying a cell on, in wei.
    pub ask: Option<u64>,
    /// What it asks for a cell as an exit, in wei.
    pub exit_ask: Option<u64>,
    /// The ports it serves as an exit.
    pub exit: Option<String>,
    /// Whether the client enters by it, or has.
    pub guard: bool,
    /// Why no path has it, if that is so.
    pub unusable: Option<String>,
    /// What the client has measured of it.
    pub measured: Option<Measured>,
}

/// What a client has measured of a relay, in circuits that it was part of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Circuits that stood.
    pub built: u64,
    /// Circuits that did not, be it by its fault or another's.
    pub failed: u64,
    /// How long setups took, in milliseconds.
    pub setup_ms: Option<f64>,
    /// The most that came over a circuit in a second.
    pub bytes_per_s: u64,
    /// The share of packets that were lost.
    pub loss: Option<f32>,
}

/// How long the way to the end of a circuit and back takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// The number of the circuit.
    pub circuit: u64,
    /// Its relays, the entry first.
    pub path: Vec<Hop>,
    /// The time in milliseconds; nothing if no answer came.
    pub ms: Option<f64>,
}
