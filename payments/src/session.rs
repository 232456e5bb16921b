//! What a payer signs: a session over a hash chain, as EIP-712 typed data; and the keys that sign.

use core::fmt;

use alloy_primitives::{Address, B256, keccak256};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SecretKey};
use wire::{Full, Malformed, Reader, Writer};
use zeroize::Zeroizing;

use crate::amount::Wei;

const DOMAIN_TYPE: &[u8] =
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const SESSION_TYPE: &[u8] =
    b"Session(address payer,address payee,uint32 nonce,bytes32 anchor,bytes32 randHash,\
uint96 face,uint64 winProb,uint40 expiry)";
const NAME: &[u8] = b"OnionPay";
const VERSION: &[u8] = b"1";
/// The number above which an `s` is refused: half of the order of secp256k1.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5d,
    0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];
/// The last second that a session's 40 bits can name.
pub const MAX_EXPIRY: u64 = (1 << 40) - 1;

/// The contract on the chain that sessions are for; what is signed for one is nothing at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// The chain's number.
    pub chain_id: u64,
    /// The contract's address.
    pub contract: Address,
}

impl Domain {
    /// The EIP-712 domain separator.
    pub fn separator(&self) -> B256 {
        let mut words = Words::<5>::default();
        words.put(0, keccak256(DOMAIN_TYPE).as_slice());
        words.put(1, keccak256(NAME).as_slice());
        words.put(2, keccak256(VERSION).as_slice());
        words.put(3, &self.chain_id.to_be_bytes());
        words.put(4, self.contract.as_slice());
        words.hash()
    }
}

/// Words of 32 bytes as the EVM encodes them: each value at the right end of its own.
struct Words<const N: usize>([[u8; 32]; N]);

impl<const N: usize> Default for Words<N> {
    fn default() -> Self {
        Self([[0; 32]; N])
    }
}

impl<const N: usize> Words<N> {
    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(word) = self.0.get_mut(at)
            && let Some(end) = 32usize.checked_sub(value.len()).and_then(|start| word.get_mut(start..))
        {
            end.copy_from_slice(value);
        }
    }

    fn hash(&self) -> B256 {
        keccak256(self.0.as_flattened())
    }
}

/// What a payer promises a payee: for a preimage of `anchor` that wins, `face` until `expiry`, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose pot pays.
    pub payer: Address,
    /// Who is paid.
    pub payee: Address,
    /// Names the session; no two sessions of a pair share one.
    pub nonce: u32,
    /// The start of the payer's hash chain.
    pub anchor: B256,
    /// The hash of the payee's secret number.
    pub rand_hash: B256,
    /// What a win pays; at most 96 bits.
    pub face: Wei,
    /// The probability of a draw to win, in 2^-64.
    pub win_prob: u64,
    /// The last second of redemption, unix time; at most 40 bits.
    pub expiry: u64,
}

impl Session {
    /// The bytes of [`Session::write`].
    pub const SIZE: usize = 133;

    /// The EIP-712 digest that the payer's signer signs.
    // pay.session.1
    pub fn digest(&self, domain: &Domain) -> B256 {
        let mut words = Words::<9>::default();
        words.put(0, keccak256(SESSION_TYPE).as_slice());
        words.put(1, self.payer.as_slice());
        words.put(2, self.payee.as_slice());
        words.put(3, &self.nonce.to_be_bytes());
        words.put(4, self.anchor.as_slice());
        words.put(5, self.rand_hash.as_slice());
        words.put(6, &self.face.0.to_be_bytes());
        words.put(7, &self.win_prob.to_be_bytes());
        words.put(8, &self.expiry.to_be_bytes());
        let mut message = [0; 66];
        let mut w = Writer::new(&mut message);
        // 66 bytes hold all three.
        let _ = w
            .put(&[0x19, 0x01])
            .and_then(|()| w.put(domain.separator().as_slice()))
            .and_then(|()| w.put(words.hash().as_slice()));
        keccak256(message)
    }

    /// The first bytes of `rand_hash`, which tell offers with the same nonce apart.
    pub(crate) fn offer_tag(&self) -> [u8; 4] {
        self.rand_hash.first_chunk().copied().unwrap_or_default()
    }

    /// Writes the fixed form, the fields in order: 133 bytes.
    pub fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.put(self.payer.as_slice())?;
        w.put(self.payee.as_slice())?;
        w.u32(self.nonce)?;
        w.put(self.anchor.as_slice())?;
        w.put(self.rand_hash.as_slice())?;
        self.face.write(w)?;
        w.u64(self.win_prob)?;
        write_time(w, self.expiry)
    }

    /// Reads the fixed form.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            payer: read_address(r, "payer")?,
            payee: read_address(r, "payee")?,
            nonce: r.u32("nonce")?,
            anchor: read_hash(r, "anchor")?,
            rand_hash: read_hash(r, "rand hash")?,
            face: Wei::read(r, "face")?,
            win_prob: r.u64("win probability")?,
            expiry: read_time(r, "expiry")?,
        })
    }
}

pub(crate) fn read_address(r: &mut Reader<'_>, field: &'static str) -> Result<Address, Malformed> {
    r.array::<20>(field).map(Address::from)
}

pub(crate) fn read_hash(r: &mut Reader<'_>, field: &'static str) -> Result<B256, Malformed> {
    r.array::<32>(field).map(B256::from)
}

/// Reads a unix time of 40 bits.
pub(crate) fn read_time(r: &mut Reader<'_>, field: &'static str) -> Result<u64, Malformed> {
    Ok(u64::from(r.u8(field)?) << 32 | u64::from(r.u32(field)?))
}

/// Writes a unix time of 40 bits; [`Full`] above [`MAX_EXPIRY`].
pub(crate) fn write_time(w: &mut Writer<'_>, time: u64) -> Result<(), Full> {
    let [0, 0, 0, time @ ..] = time.to_be_bytes() else { return Err(Full) };
    w.put(&time)
}

/// A secp256k1 signature in the compact form of EIP-2098: `r 32 | parity 1 bit | s 255 bits`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// The address whose key signed `digest`; `None` for a high `s`, zeros, and what is no signature.
    // pay.session.2
    pub fn recover(&self, digest: &B256) -> Option<Address> {
        let mut compact = self.0;
        let high = compact.get_mut(32)?;
        let parity = RecoveryId::from_u8_masked(*high >> 7);
        *high &= 0x7f;
        if compact.last_chunk::<32>()? > &HALF_ORDER {
            return None;
        }
        let signature = RecoverableSignature::from_compact(&compact, parity).ok()?;
        signature.recover(Message::from_digest(digest.0)).ok().map(|key| address(&key))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn address(key: &PublicKey) -> Address {
    let [_, point @ ..] = key.serialize_uncompressed();
    Address::from_word(keccak256(point))
}

/// These 32 bytes are no secp256k1 secret; whoever made them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these 32 bytes are no secret key of secp256k1")]
pub struct NoSecretKey;

/// The secret key of a pot's signer; erased when dropped.
#[derive(Clone)]
pub struct Signer {
    secret: Zeroizing<[u8; 32]>,
    address: Address,
}

impl Signer {
    /// Takes over the bytes of a secret key.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, NoSecretKey> {
        let secret = Zeroizing::new(bytes);
        let mut key = SecretKey::from_secret_bytes(*secret).map_err(|_| NoSecretKey)?;
        let address = address(&PublicKey::from_secret_key(&key));
        key.non_secure_erase();
        Ok(Self { secret, address })
    }

    /// The address of the key.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a digest, with a nonce made of key and digest (RFC 6979) and a low `s`.
    pub fn sign(&self, digest: &B256) -> Signature {
        // Checked in `from_bytes`.
        let Ok(mut key) = SecretKey::from_secret_bytes(*self.secret) else { return Signature([0; 64]) };
        let signature = RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.0), &key);
        key.non_secure_erase();
        let (parity, mut compact) = signature.serialize_compact();
        if let Some(high) = compact.get_mut(32) {
            *high |= (parity.to_u8() & 1) << 7;
        }
        Signature(compact)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests;
