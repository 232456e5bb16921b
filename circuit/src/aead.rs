//! The two AEAD suites of packets and layers, in place over fixed buffers, with counters owned by the caller.

use aegis::aegis128l::Aegis128L;
use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, KeyInit as _};

use crate::keys::Secret;

/// The size of a tag.
pub const TAG: usize = 16;

/// An AEAD of docs/spec/01-link.md section 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Suite {
    /// AEGIS-128L, for processors with AES instructions.
    Aegis128L = 1,
    /// ChaCha20-Poly1305 (RFC 8439), for all others.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// The suite of a wire code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Aegis128L),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The wire code.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// The tag of a message does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTag;

/// One key of one suite, for one direction.
#[derive(Clone, Debug)]
pub struct AeadKey {
    suite: Suite,
    key: Secret<32>,
}

impl AeadKey {
    /// A key of `suite` from 32 derived bytes, of which suite 1 takes the first 16.
    pub const fn new(suite: Suite, key: Secret<32>) -> Self {
        Self { suite, key }
    }

    fn aegis(&self, nonce: u64) -> Aegis128L<TAG> {
        let [key, _] = halves(self.key.expose());
        Aegis128L::new(&key, &u128::from(nonce).to_be_bytes())
    }

    /// Seals `data` in place under the counter `nonce`, and returns the tag.
    pub fn seal(&self, nonce: u64, associated: &[u8], data: &mut [u8]) -> [u8; TAG] {
        match self.suite {
            Suite::Aegis128L => self.aegis(nonce).encrypt_in_place(data, associated),
            // Fails only beyond 256 GiB; then the tag is one that nobody accepts.
            Suite::ChaCha20Poly1305 => ChaCha20Poly1305::new(self.key.expose().into())
                .encrypt_inout_detached(&chacha_nonce(nonce).into(), associated, data.into())
                .map_or([0; TAG], Into::into),
        }
    }

    /// Checks the tag and opens `data` in place; on failure `data` is of no use.
    pub fn open(
        &self,
        nonce: u64,
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), BadTag> {
        match self.suite {
            Suite::Aegis128L => self.aegis(nonce).decrypt_in_place(data, tag, associated).map_err(|_| BadTag),
            Suite::ChaCha20Poly1305 => ChaCha20Poly1305::new(self.key.expose().into())
                .decrypt_inout_detached(&chacha_nonce(nonce).into(), associated, data.into(), tag.into())
                .map_err(|_| BadTag),
        }
    }
}

/// `PRF(key, nonce)`: the AEGIS-128L key stream (docs/spec/02-circuit.md section 2).
pub fn prf<const N: usize>(key: &Secret<16>, nonce: &[u8; 16]) -> [u8; N] {
    let mut out = [0; N];
    Aegis128L::<TAG>::new(key.expose(), nonce).stream(&mut out);
    out
}

fn halves(key: &[u8; 32]) -> [[u8; 16]; 2] {
    let mut out = [[0; 16]; 2];
    for (half, bytes) in out.iter_mut().zip(key.chunks_exact(16)) {
        half.copy_from_slice(bytes);
    }
    out
}

fn chacha_nonce(nonce: u64) -> [u8; 12] {
    let mut wide = [0; 12];
    for (to, from) in wide.iter_mut().skip(4).zip(nonce.to_be_bytes()) {
        *to = from;
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        for suite in [Suite::Aegis128L, Suite::ChaCha20Poly1305] {
            let key = AeadKey::new(suite, Secret::new([5; 32]));
            let mut data = *b"some bytes of a cell";
            let tag = key.seal(9, b"ad", &mut data);
            assert_ne!(&data, b"some bytes of a cell");
            for (nonce, associated, flip) in [(8, b"ad", 0), (9, b"ae", 0), (9, b"ad", 1)] {
                let (mut copy, mut tag) = (data, tag);
                tag[3] ^= flip;
                assert_eq!(key.open(nonce, associated, &mut copy, &tag), Err(BadTag));
            }
            assert_eq!(key.open(9, b"ad", &mut data, &tag), Ok(()));
            assert_eq!(&data, b"some bytes of a cell");
        }
    }

    #[test]
    fn the_key_stream_is_the_encryption_of_zeros() {
        let mut zeros = [0; 100];
        Aegis128L::<TAG>::new(&[7; 16], &[8; 16]).encrypt_in_place(&mut zeros, &[]);
        assert_eq!(prf::<100>(&Secret::new([7; 16]), &[8; 16]), zeros);
    }
}
