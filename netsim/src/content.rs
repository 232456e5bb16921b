//! What applications and sites send each other: bytes that tell where in which stream they belong.

use wire::{Malformed, Reader};

/// The bytes of a request that an application sends first.
pub const REQUEST: usize = 25;

/// How an exchange ends once all bytes are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Each side ends its direction after its last byte.
    Finish,
    /// The site does not answer before the application has ended its direction.
    AfterUpload,
    /// The site resets the connection after its last byte.
    Reset,
    /// The application keeps its direction open until it is told to hang up, and the site until then.
    Hold,
}

/// What an application and a site have to tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Bytes from the application, after the request.
    pub upload: u64,
    /// Bytes from the site.
    pub download: u64,
    /// Which bytes.
    pub seed: u64,
    /// What happens then.
    pub ending: Ending,
}

impl Exchange {
    /// The request.
    pub fn encode(&self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        let numbers = [self.upload, self.download, self.seed].into_iter().flat_map(u64::to_be_bytes);
        let ending = match self.ending {
            Ending::Finish => 0,
            Ending::AfterUpload => 1,
            Ending::Reset => 2,
            Ending::Hold => 3,
        };
        for (to, from) in bytes.iter_mut().zip(numbers.chain([ending])) {
            *to = from;
        }
        bytes
    }

    /// Reads a request.
    pub fn decode(bytes: &[u8; REQUEST]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let exchange = Self {
            upload: r.u64("upload")?,
            download: r.u64("download")?,
            seed: r.u64("seed")?,
            ending: match r.u8("ending")? {
                0 => Ending::Finish,
                1 => Ending::AfterUpload,
                2 => Ending::Reset,
                3 => Ending::Hold,
                _ => return Err(Malformed("ending")),
            },
        };
        r.finish("request")?;
        Ok(exchange)
    }

    /// What the application sends: the request, then its bytes.
    pub fn up(&self) -> Content {
        Content { head: self.encode().to_vec(), seed: self.seed, length: self.upload }
    }

    /// What the site sends.
    pub const fn down(&self) -> Content {
        Content { head: Vec::new(), seed: !self.seed, length: self.download }
    }
}

/// The bytes of one direction.
#[derive(Clone, Debug)]
pub struct Content {
    head: Vec<u8>,
    seed: u64,
    length: u64,
}

impl Content {
    /// The number of all bytes.
    pub const fn len(&self) -> u64 {
        self.head.len() as u64 + self.length
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `offset` on, at most `max`.
    pub fn bytes(&self, offset: u64, max: usize) -> Vec<u8> {
        let count = self.len().saturating_sub(offset).min(max as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or(max) + 8);
        let mut at = offset;
        while at < offset + count {
            let in_head =
                usize::try_from(at).ok().and_then(|at| self.head.get(at..)).filter(|head| !head.is_empty());
            if let Some(head) = in_head {
                bytes.extend_from_slice(head);
                at += head.len() as u64;
                continue;
            }
            let word = at - self.head.len() as u64;
            let skip = usize::try_from(word % 8).unwrap_or(0);
            let piece = mix(self.seed, word / 8).to_le_bytes();
            bytes.extend(piece.iter().skip(skip));
            at += 8 - skip as u64;
        }
        bytes.truncate(usize::try_from(count).unwrap_or(max));
        bytes
    }

    /// Where `bytes`, which came at `offset`, first differ from what they should be.
    pub fn differs(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let right = self.bytes(offset, bytes.len());
        if right == bytes {
            return None;
        }
        let same = right.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        Some(offset + same as u64)
    }
}

/// Mixes two numbers into one (the finalizer of `SplitMix64`).
fn mix(seed: u64, word: u64) -> u64 {
    let mut z = seed ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole_and_differences_are_found() {
        let exchange = Exchange { upload: 1000, download: 0, seed: 7, ending: Ending::Hold };
        let up = exchange.up();
        let whole = up.bytes(0, usize::MAX);
        assert_eq!(whole.len(), 1000 + REQUEST);
        assert_eq!(Exchange::decode(whole.first_chunk().unwrap()), Ok(exchange));
        for cut in [0, 1, 24, 25, 26, 33, 500] {
            let (front, back) = whole.split_at(cut);
            assert_eq!(up.bytes(0, cut), front);
            assert_eq!(up.bytes(cut as u64, usize::MAX), back);
            assert_eq!(up.differs(cut as u64, back), None);
        }
        let mut wrong = whole.clone();
        wrong[700] ^= 1;
        assert_eq!(up.differs(0, &wrong), Some(700));
        assert_eq!(up.differs(0, &[whole, vec![0]].concat()), Some(1025));
    }
}
