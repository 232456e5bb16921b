//! The secret that a node's secret numbers and hash chains are derived from.

use core::fmt;

use alloy_primitives::{Address, B256};
use zeroize::Zeroizing;

use crate::draw::Chain;
use crate::session::Domain;

/// 32 secret bytes; erased when dropped.
#[derive(Clone)]
pub(crate) struct Seed(Zeroizing<[u8; 32]>);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Whose session a secret is for; a part of every derivation, so that nothing is used twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) domain: Domain,
    pub(crate) payer: Address,
    pub(crate) payee: Address,
    pub(crate) nonce: u32,
}

impl Seed {
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    fn derive(&self, label: &[u8], place: &Place, last: &[u8]) -> B256 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(label);
        hasher.update(&place.domain.chain_id.to_be_bytes());
        hasher.update(place.domain.contract.as_slice());
        hasher.update(place.payer.as_slice());
        hasher.update(place.payee.as_slice());
        hasher.update(&place.nonce.to_be_bytes());
        hasher.update(last);
        B256::from(*hasher.finalize().as_bytes())
    }

    /// The payee's secret number of a session.
    // pay.secret.1
    pub(crate) fn rand(&self, place: &Place, salt: &[u8; 16]) -> B256 {
        self.derive(b"chive rand 1", place, salt)
    }

    /// The payer's hash chain of a session.
    // pay.secret.2
    pub(crate) fn chain(&self, place: &Place, rand_hash: &B256, draws: u16) -> Chain {
        Chain::new(self.derive(b"chive chain 1", place, rand_hash.as_slice()), draws)
    }

    /// Salt number `count`: never the same again, if the seed is fresh at every start.
    pub(crate) fn salt(&self, count: u64) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.0, &count.to_be_bytes());
        hash.as_bytes().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    // pay.secret.1, pay.secret.2
    #[test]
    fn a_secret_is_of_one_place_only() {
        let place = Place {
            domain: Domain { chain_id: 1, contract: Address::repeat_byte(1) },
            payer: Address::repeat_byte(2),
            payee: Address::repeat_byte(3),
            nonce: 4,
        };
        let places = [
            place,
            Place { domain: Domain { chain_id: 2, ..place.domain }, ..place },
            Place { domain: Domain { contract: Address::ZERO, ..place.domain }, ..place },
            Place { payer: Address::ZERO, ..place },
            Place { payee: Address::ZERO, ..place },
            Place { nonce: 5, ..place },
        ];
        let mut seen = BTreeSet::new();
        for seed in [Seed::new([1; 32]), Seed::new([2; 32])] {
            for place in &places {
                for n in [0, 1] {
                    seen.insert(seed.rand(place, &[n; 16]));
                    seen.insert(seed.chain(place, &B256::repeat_byte(n), 1).link(1).unwrap());
                }
            }
            seen.insert(B256::right_padding_from(&seed.salt(0)));
            seen.insert(B256::right_padding_from(&seed.salt(1)));
        }
        assert_eq!(seen.len(), 2 * (6 * 4 + 2));
        assert_eq!(format!("{:?}", Seed::new([1; 32])), "[redacted]");
    }
}
