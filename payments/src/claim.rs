//! A ticket: a session with the draw that won, which is what the contract is shown.

use alloy_primitives::{Address, B256, keccak256};
use wire::{Malformed, Reader, Writer};

use crate::draw::{MAX_DRAWS, walk, wins};
use crate::session::{Domain, Session, Signature, read_hash};

const VERSION: u8 = 1;

/// A session that won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What the payer signed.
    pub session: Session,
    /// The draw that won, from 1.
    pub draw: u16,
    /// Its link.
    pub link: B256,
    /// The payee's secret number, which `session.rand_hash` is the hash of.
    pub rand: B256,
    /// The payer's signature.
    pub signature: Signature,
}

impl Claim {
    /// The bytes of [`Claim::encode`].
    pub const SIZE: usize = 1 + Session::SIZE + 2 + 32 + 32 + 64;

    /// The fixed form: `version 1 | session 133 | draw 2 | link 32 | rand 32 | signature 64`.
    ///
    /// `None` if an amount or a time has more bits than the contract knows; no such session is ever accepted.
    pub fn encode(&self) -> Option<[u8; Self::SIZE]> {
        let mut bytes = [0; Self::SIZE];
        let mut w = Writer::new(&mut bytes);
        w.u8(VERSION).ok()?;
        self.session.write(&mut w).ok()?;
        w.u16(self.draw).ok()?;
        w.put(self.link.as_slice()).ok()?;
        w.put(self.rand.as_slice()).ok()?;
        w.put(&self.signature.0).ok()?;
        Some(bytes)
    }

    /// Reads the fixed form; what it says is checked by [`Claim::signer`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("version of a claim")? != VERSION {
            return Err(Malformed("version of a claim"));
        }
        let claim = Self {
            session: Session::read(&mut r)?,
            draw: r.u16("draw")?,
            link: read_hash(&mut r, "link")?,
            rand: read_hash(&mut r, "rand")?,
            signature: Signature(*r.array("signature")?),
        };
        r.finish("claim")?;
        Ok(claim)
    }

    /// Who signed, if all but the chain's own state is as the contract wants it: link, win and signature.
    // pay.claim.1
    pub fn signer(&self, domain: &Domain) -> Option<Address> {
        let Session { anchor, rand_hash, win_prob, .. } = self.session;
        let valid = (1..=MAX_DRAWS).contains(&self.draw)
            && walk(&self.link, self.draw) == anchor
            && keccak256(self.rand) == rand_hash
            && wins(&self.link, &self.rand, win_prob);
        if !valid {
            return None;
        }
        self.signature.recover(&self.session.digest(domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Wei;
    use crate::draw::Chain;
    use crate::session::Signer;

    const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::repeat_byte(5) };

    fn claim() -> (Claim, Address) {
        let signer = Signer::from_bytes([4; 32]).unwrap();
        let chain = Chain::new(B256::repeat_byte(1), 8);
        let rand = B256::repeat_byte(2);
        let session = Session {
            payer: Address::repeat_byte(1),
            payee: Address::repeat_byte(2),
            nonce: 3,
            anchor: chain.anchor(),
            rand_hash: keccak256(rand),
            face: Wei(1000),
            win_prob: u64::MAX,
            expiry: 77,
        };
        let signature = signer.sign(&session.digest(&DOMAIN));
        (Claim { session, draw: 5, link: chain.link(5).unwrap(), rand, signature }, signer.address())
    }

    #[test]
    fn the_fixed_form_comes_back_and_no_other_length_does() {
        let (claim, _) = claim();
        let bytes = claim.encode().unwrap();
        assert_eq!(Claim::decode(&bytes), Ok(claim));
        for n in 0..bytes.len() {
            assert!(Claim::decode(&bytes[..n]).is_err());
        }
        assert!(Claim::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Claim::decode(&[&[2], &bytes[1..]].concat()).is_err());
    }

    // pay.claim.1
    #[test]
    fn a_claim_with_anything_changed_is_none() {
        let (claim, signer) = claim();
        assert_eq!(claim.signer(&DOMAIN), Some(signer));
        let session = claim.session;
        let broken = [
            Claim { draw: 4, ..claim },
            Claim { draw: 0, link: session.anchor, ..claim },
            Claim { link: B256::ZERO, ..claim },
            Claim { rand: B256::ZERO, ..claim },
            Claim { signature: Signature([1; 64]), ..claim },
            Claim { session: Session { win_prob: 0, ..session }, ..claim },
            Claim { session: Session { nonce: 4, ..session }, ..claim },
        ];
        for other in broken {
            assert_ne!(other.signer(&DOMAIN), Some(signer), "{other:?}");
        }
        assert_ne!(claim.signer(&Domain { chain_id: 2, ..DOMAIN }), Some(signer));
    }
}
