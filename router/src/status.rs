//! What a relay tells its operator: plain data, taken from the node's counters.
//!
//! Nothing here names a neighbour, a client or a destination: what is not written down cannot leak.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A relay at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The relay's id, in hexadecimal.
    pub id: String,
    /// Seconds since the relay started.
    pub uptime_s: u64,
    /// The UDP address on which it listens for links.
    pub listen: SocketAddr,
    /// The ports that it serves as an exit, if it is one.
    pub exit: Option<String>,
    /// Links that are up.
    pub links: u64,
    /// Links that are up and that others began: this relay is reached.
    #[serde(default)]
    pub links_inbound: u64,
    /// Links that others have begun since the start, while this relay had begun none to them.
    #[serde(default)]
    pub reached: u64,
    /// When the last one came, in unix seconds; 0 for never.
    #[serde(default)]
    pub last_reached: u64,
    /// Where other relays see this one, by most places first.
    #[serde(default)]
    pub seen: Vec<Seen>,
    /// The other relays' clocks less this one's in milliseconds, the middle one of those that are known.
    #[serde(default)]
    pub clock_ms: Option<i64>,
    /// Its circuits.
    pub circuits: Circuits,
    /// Cells since the start.
    pub cells: Cells,
    /// UDP traffic since the start.
    pub traffic: Traffic,
    /// Dropped packets since the start, by reason; reasons that were not met may be missing.
    pub drops: BTreeMap<String, u64>,
    /// Connections to destinations, if it is an exit.
    pub exit_flows: Option<ExitFlows>,
    /// Whether it takes new circuits, and its limits.
    #[serde(default)]
    pub load: Load,
    /// What it earns and pays, on a paid network.
    pub money: Option<Box<Money>>,
}

/// Where a relay is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The relay's own address, as others see it.
    pub address: SocketAddr,
    /// From so many places, each a /16 (IPv4) or /32 (IPv6).
    pub places: usize,
}

/// How much a relay takes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// It takes no new circuits: it is about to end, or the month's traffic is used up.
    pub draining: bool,
    /// The most bytes per second, if there is a limit.
    pub rate: Option<u64>,
    /// The month's traffic, if there is a limit.
    pub monthly: Option<Monthly>,
}

/// What a relay has carried in this month, in bytes of cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monthly {
    /// What is used.
    pub used: u64,
    /// Of how much.
    pub cap: u64,
    /// When the next month begins, in unix seconds.
    pub resets: u64,
}

/// What a relay earns and pays; amounts in wei, as decimal text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Its pot.
    pub owner: String,
    /// Spendable, at the contract.
    pub balance: String,
    /// Its bond, at the contract.
    pub reserve: String,
    /// What it asks for carrying a cell on, and for serving one as an exit.
    pub asks: [String; 2],
    /// Cells that were charged for, of all payers that have come since the start, with what they used in earlier runs.
    pub cells: u64,
    /// What they cost.
    pub earned: String,
    /// What cells that went on to other relays cost, with all that earlier runs have paid.
    pub owed: String,
    /// What was credited in draws, since the store was made.
    pub credited: String,
    /// So many draws.
    pub draws: u64,
    /// So many of them won.
    pub wins: u64,
    /// The faces of the wins.
    pub won: String,
    /// What the contract has paid for them, for good.
    pub redeemed: String,
    /// Packets sent with payments, since the start.
    pub packets: u64,
    /// The faces of wins that are not paid yet.
    pub unredeemed: String,
    /// The faces of wins that were never paid.
    pub lost: String,
    /// What redeeming has cost.
    pub fees: String,
    /// What other relays were paid in draws.
    pub paid: String,
    /// The newest block seen.
    pub block: u64,
    /// What is wrong with chain or disk, and what to do.
    pub trouble: Option<String>,
}

/// How many circuits a relay has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuits {
    /// Circuits that stand.
    pub open: u64,
    /// Circuits whose setup is not answered yet.
    pub half_open: u64,
}

/// How many cells a relay has handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    /// Passed on, away from the clients.
    pub forward: u64,
    /// Passed on, towards the clients.
    pub backward: u64,
    /// Consumed or made by the relay itself.
    pub here: u64,
}

/// UDP packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets received.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

/// Connections of an exit to destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFlows {
    /// Open now.
    pub open: u64,
    /// Connected since the start, those that are open included.
    pub total: u64,
    /// Refused by the exit policy since the start.
    pub refused: u64,
    /// Failed to connect or to resolve since the start.
    pub failed: u64,
}

/// One circuit, as the relay sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// A number that means something on this relay only, while the circuit lives.
    pub id: u64,
    /// `half-open` or `open`.
    pub state: String,
    /// The relay's position: `middle` when it passes cells on, `end` when the circuit ends here.
    pub position: String,
    /// Seconds since the setup came.
    pub age_s: u64,
    /// Cells that came or went away from the client.
    pub cells_forward: u64,
    /// Cells that came or went towards the client.
    pub cells_backward: u64,
    /// Open streams, if the circuit ends here.
    pub streams: u64,
}
