//! Descriptors for the tests of this room.

use alloy_primitives::Address;
use circuit::keys::{DhPublic, IdentitySecret, NetworkId};
use payments::amount::{Rate, Wei};

use crate::chain::Chain;
use crate::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor};
use crate::exit_summary::ExitSummary;
use crate::payment::Payment;

pub(crate) const NETWORK: NetworkId = NetworkId([0x11; 16]);
pub(crate) const FIRST_EPOCH: u32 = 90_000;
/// A time at which all samples are valid.
pub(crate) const NOW: u64 = FIRST_EPOCH as u64 * EPOCH_SECONDS + 100;

pub(crate) fn identity(n: u8) -> IdentitySecret {
    IdentitySecret::from_bytes(&[n; 32])
}

/// A relay; those with odd numbers are exits for the ports 80 and 443.
pub(crate) fn descriptor(n: u8) -> Descriptor {
    Descriptor {
        id: identity(n).id(),
        network: NETWORK,
        sequence: 7,
        issued: NOW - 50,
        expires: NOW + EPOCH_SECONDS,
        link_key: DhPublic([n; 32]),
        first_epoch: FIRST_EPOCH,
        onion_keys: vec![DhPublic([n ^ 0x40; 32]), DhPublic([n ^ 0x80; 32])],
        addresses: vec![([192, 0, 2, n], 4433).into(), "[2001:db8::1]:4433".parse().unwrap()],
        exit: (n % 2 == 1).then(|| ExitSummary::new(vec![80..=80, 443..=443]).unwrap()),
        country: Some(*b"DE"),
        operator: format!("operator {n}"),
        version: "chive 0.1.0".to_owned(),
        bandwidth: 12_345,
        gossip_port: 4434,
        payment: None,
    }
}

pub(crate) fn chain() -> Chain {
    Chain {
        id: 31_337,
        contract: Address::repeat_byte(0xc0),
        rpc: vec!["http://127.0.0.1:8545".to_owned(), "https://example.org/rpc?key=1".to_owned()],
        minimum_bond: Wei(1_000_000_000_000_000),
        exit_operators: 3,
        deployed: 0,
    }
}

/// The payment part of the relay `n`, on [`chain`].
pub(crate) fn payment(n: u8) -> Payment {
    let exit_ask = if n % 2 == 1 { Rate(0x0100_0000) } else { Rate::FREE };
    Payment {
        chain_id: chain().id,
        contract: chain().contract,
        owner: Address::repeat_byte(n),
        ask: Rate(1_000),
        exit_ask,
    }
}

pub(crate) fn signed(n: u8) -> SignedDescriptor {
    SignedDescriptor::sign(descriptor(n), &identity(n)).unwrap()
}
