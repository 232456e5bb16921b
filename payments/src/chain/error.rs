//! What can go wrong with a chain, whose fault it is, and what to do.

use alloy_primitives::Address;

use crate::amount::{Wei, ether_text};

/// Why a chain has not answered, or has not done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The RPC serves another chain.
    #[error("{url} serves chain {found}, not {expected}: set the RPC and the chain id of the same chain")]
    WrongChain {
        /// Which RPC.
        url: String,
        /// The chain it serves.
        found: u64,
        /// The chain that is configured.
        expected: u64,
    },
    /// There is no code at the address.
    #[error("there is no contract at {contract} on chain {chain_id}: check the address in the network file")]
    NoContract {
        /// The address.
        contract: Address,
        /// The chain.
        chain_id: u64,
    },
    /// There is other code at the address.
    #[error(
        "the contract at {contract} is not the one this version of chive knows: check the address in the network file, and \
         whether chive is up to date; send no money there"
    )]
    OtherContract {
        /// The address.
        contract: Address,
    },
    /// The contract is in the newest block, and not in the one that was asked for.
    #[error(
        "the contract at {contract} on chain {chain_id} is not final yet: it was deployed a short time ago; wait until the chain \
         calls its block final, some minutes on most chains"
    )]
    NotFinal {
        /// The address.
        contract: Address,
        /// The chain.
        chain_id: u64,
    },
    /// The chain is not as far as the block of the contract's deployment.
    #[error(
        "the network file says that the contract is in block {deployed}, and the chain has not come so far: correct `deployed` in [chain] \
         of the file (0 is always right, but slow), or name an RPC that is not behind"
    )]
    NotThatFar {
        /// The block of the network file.
        deployed: u64,
    },
    /// No URL that can be asked.
    #[error(
        "the address of an RPC cannot be used ({0}): give the whole of it, which begins with http:// or https://"
    )]
    NoAddress(String),
    /// No answer.
    #[error(
        "no RPC answers ({0}): check the network and the RPC addresses, or name another RPC (--rpc, or `rpc` in [wallet])"
    )]
    Down(String),
    /// The chain's newest block is old.
    #[error(
        "the chain's newest block, {number}, is {age} s old: the RPC or the chain is behind; add a second RPC, or wait"
    )]
    Stale {
        /// Its height.
        number: u64,
        /// Seconds since its time.
        age: u64,
    },
    /// Two answers cannot both be true.
    #[error(
        "{url} contradicts what was known ({what}): one RPC lies or is broken; remove the one you trust less"
    )]
    Disagree {
        /// Which RPC.
        url: String,
        /// What about.
        what: &'static str,
    },
    /// An answer that is none.
    #[error("the RPC's answer cannot be read ({0}): use another RPC")]
    Malformed(&'static str),
    /// The sender cannot pay for the transaction.
    #[error(
        "{address} has {} and needs {} ({needs} wei) for this transaction, with its highest fee: send it ether, {} or more",
        ether_text(*has), ether_text(*needs), ether_text(needs.saturating_sub(*has))
    )]
    NoGasMoney {
        /// The sender.
        address: Address,
        /// What it has.
        has: Wei,
        /// What may be needed.
        needs: Wei,
    },
    /// Gas costs more than allowed.
    #[error("gas costs {price} wei, above the limit of {limit} wei: wait, or raise the limit")]
    FeeTooHigh {
        /// What it costs.
        price: u128,
        /// The limit.
        limit: u128,
    },
    /// Another transaction of this sender took the nonce.
    #[error(
        "another transaction of this address took its place: look at the address on the chain, and try again"
    )]
    NonceUsed,
    /// The network wants more for it, or for replacing another one.
    #[error("the network does not take the transaction at this price: try again with a higher limit")]
    Underpriced,
    /// The contract refuses.
    #[error("the contract refuses: {0}")]
    Reverted(String),
    /// The network refuses.
    #[error("the transaction was rejected: {0}")]
    Rejected(String),
    /// The file of the embedded chain cannot be written.
    #[error("the embedded chain is not kept: {0}")]
    Disk(String),
}

impl Error {
    /// Whether the same question may be answered later or elsewhere, without anything changed.
    pub const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Down(_)
                | Self::Stale { .. }
                | Self::Malformed(_)
                | Self::NotFinal { .. }
                | Self::NotThatFar { .. }
        )
    }
}
