//! The contract's interface, and its bytecode.

use alloy_primitives::aliases::{U40, U96};
use alloy_primitives::{B256, Bytes, U256, hex};
use alloy_sol_types::sol;

use crate::amount::Wei;
use crate::claim::Claim;

/// What `payments/contracts/build.mjs` made of the Solidity source.
const ARTIFACT: &str = include_str!("../contracts/artifact/OnionPay.json");

/// The bytecode that deploys the contract; its constructor takes nothing.
pub fn creation_code() -> Bytes {
    field("\"bytecode\": \"0x")
}

/// The code of a deployed contract, the same at every address and on every chain.
pub fn runtime_code() -> Bytes {
    field("\"runtime\": \"0x")
}

/// The hexadecimal digits after `start` in the artifact, which is part of the program.
fn field(start: &str) -> Bytes {
    let digits = ARTIFACT.split_once(start).and_then(|(_, rest)| rest.split('"').next());
    digits.and_then(|digits| hex::decode(digits).ok()).unwrap_or_default().into()
}

mod interface {
    #![expect(missing_docs, reason = "generated; docs/contract.md says what everything is")]
    use super::sol;

    sol! {
        #[derive(Debug, PartialEq, Eq)]
        contract OnionPay {
            struct Account {
                uint96 balance;
                uint96 reserve;
                uint40 unlockAt;
                uint16 defaults;
                bool bound;
                address signer;
                uint40 lastUnlock;
                bool registered;
                address onlyPayee;
            }
            struct Claim {
                address payer;
                address payee;
                uint32 nonce;
                bytes32 anchor;
                uint96 face;
                uint64 winProb;
                uint40 expiry;
                uint16 draw;
                bytes32 link;
                bytes32 rand;
                bytes32 r;
                bytes32 vs;
                uint96 minPayout;
                bool mayDefault;
            }
            struct Relay {
                address owner;
                uint40 since;
                bytes32 idKey;
            }
            enum Code {
                Paid,
                BadTerms,
                WrongCaller,
                Expired,
                TooFar,
                Used,
                BadChain,
                NoWin,
                BadSignature,
                WrongPayee,
                Short,
                BelowMinimum,
                Overflow
            }

            event AccountChanged(address indexed owner, uint96 balance, uint96 reserve, uint40 unlockAt);
            event KeysChanged(address indexed owner, address signer, address onlyPayee);
            event Redeemed(address indexed payer, address indexed payee, uint32 nonce, uint96 payout, bool defaulted);
            event RelayChanged(address indexed owner, uint64 seq, bytes32 idKey, bool registered);

            error Refused(Code code);
            error ReserveNotEmpty();
            error AmountTooLarge();
            error Zero();
            error Unlocking();
            error NotUnlocking();
            error TooEarly(uint40 time);
            error ReserveTooLow();
            error AlreadyRegistered();
            error SendFailed();

            function UNLOCK_DELAY() external view returns (uint40);
            function MAX_TICKET_LIFE() external view returns (uint40);
            function MAX_DRAWS() external view returns (uint16);
            function MIN_BOND() external view returns (uint96);
            function registryRoot() external view returns (bytes32);
            function registrySeq() external view returns (uint64);
            function burned() external view returns (uint256);

            function setSigner(address signer) external;
            function setOnlyPayee(address payee) external;
            function deposit(address owner) external payable;
            function addReserve() external payable;
            function moveToReserve(uint96 amount) external;
            function withdraw(address payable to, uint96 amount) external;
            function startUnlock() external;
            function cancelUnlock() external;
            function withdrawReserve(address payable to) external;
            function accounts(address owner) external view returns (Account memory);

            function redeem(Claim calldata claim) external returns (uint96 payout);
            function redeemMany(Claim[] calldata claims) external returns (uint256 total, uint8[] memory codes);
            function isUsed(address payer, address payee, uint32 nonce) external view returns (bool);

            function register(bytes32 idKey) external;
            function relayCount() external view returns (uint256);
            function relaysAt(uint256 from, uint256 n) external view returns (Relay[] memory page, uint96[] memory reserves);
        }
    }
}
pub use interface::OnionPay;

impl OnionPay::Claim {
    /// What the contract is shown for a ticket: it pays `min_payout` or more, or nothing; `may_default`: even if the balance is short.
    ///
    /// `None` if an amount or a time has more bits than the contract knows; no such session is ever accepted.
    pub fn new(claim: &Claim, min_payout: Wei, may_default: bool) -> Option<Self> {
        let session = &claim.session;
        let (r, vs) = claim.signature.0.split_first_chunk::<32>()?;
        Some(Self {
            payer: session.payer,
            payee: session.payee,
            nonce: session.nonce,
            anchor: session.anchor,
            face: uint96(session.face)?,
            winProb: session.win_prob,
            expiry: U40::try_from(session.expiry).ok()?,
            draw: claim.draw,
            link: claim.link,
            rand: claim.rand,
            r: r.into(),
            vs: B256::try_from(vs).ok()?,
            minPayout: uint96(min_payout)?,
            mayDefault: may_default,
        })
    }
}

/// The contract's form of an amount; `None` above [`Wei::MAX`].
pub fn uint96(wei: Wei) -> Option<U96> {
    U96::try_from(wei.0).ok()
}

impl From<U96> for Wei {
    fn from(amount: U96) -> Self {
        // 96 bits fit.
        Self(amount.saturating_to())
    }
}

impl TryFrom<U256> for Wei {
    type Error = wire::Malformed;

    fn try_from(amount: U256) -> Result<Self, Self::Error> {
        u128::try_from(amount).map(Self).map_err(|_| wire::Malformed("amount of more than 128 bits"))
    }
}
