//! Draws: the payer's hash chain, link by link, and which of them win.

use core::fmt;

use alloy_primitives::{B256, Keccak256, keccak256};
use zeroize::Zeroize as _;

/// The most draws of one session.
pub const MAX_DRAWS: u16 = 64;

/// A payer's hash chain: each link is the hash of the next; the first is the session's anchor, number `i` is draw `i`.
#[derive(Clone)]
pub struct Chain {
    /// The anchor first, the secret last.
    links: Vec<B256>,
}

impl Chain {
    /// The chain of `draws` draws that ends in the secret `last`; at most [`MAX_DRAWS`].
    // pay.draw.1
    pub fn new(last: B256, draws: u16) -> Self {
        let mut links = vec![last];
        links.reserve_exact(draws.min(MAX_DRAWS).into());
        let mut link = last;
        for _ in 0..draws.min(MAX_DRAWS) {
            link = keccak256(link);
            links.push(link);
        }
        links.reverse();
        Self { links }
    }

    /// The first link, which the payer signs.
    pub fn anchor(&self) -> B256 {
        self.link(0).unwrap_or_default()
    }

    /// The number of draws.
    pub fn draws(&self) -> u16 {
        u16::try_from(self.links.len().saturating_sub(1)).unwrap_or(0)
    }

    /// The link of a draw; the anchor for 0, nothing beyond the end.
    pub fn link(&self, index: u16) -> Option<B256> {
        self.links.get(usize::from(index)).copied()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for link in &mut self.links {
            link.0.zeroize();
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Whether a draw wins: the first 64 bits of keccak(link | rand) are below `win_prob`.
// pay.draw.2
pub fn wins(link: &B256, rand: &B256, win_prob: u64) -> bool {
    let mut hash = Keccak256::new();
    hash.update(link);
    hash.update(rand);
    let hash = hash.finalize();
    hash.first_chunk::<8>().is_some_and(|first| u64::from_be_bytes(*first) < win_prob)
}

/// The link that is `steps` before this one.
pub fn walk(link: &B256, steps: u16) -> B256 {
    (0..steps).fold(*link, |link, _| keccak256(link))
}

#[cfg(test)]
mod tests {
    use super::*;

    // pay.draw.1
    #[test]
    fn each_link_is_the_hash_of_the_next() {
        let chain = Chain::new(B256::repeat_byte(1), MAX_DRAWS);
        assert_eq!((chain.draws(), chain.link(MAX_DRAWS)), (64, Some(B256::repeat_byte(1))));
        for i in 1..=MAX_DRAWS {
            assert_eq!(walk(&chain.link(i).unwrap(), 1), chain.link(i - 1).unwrap());
            assert_eq!(walk(&chain.link(i).unwrap(), i), chain.anchor());
        }
        assert_eq!(chain.link(65), None);
        assert_eq!(Chain::new(B256::ZERO, u16::MAX).draws(), MAX_DRAWS);
        assert_eq!(format!("{chain:?}"), "[redacted]");
    }

    // pay.draw.2
    #[test]
    fn a_draw_wins_below_the_probability_only() {
        let (link, rand) = (B256::repeat_byte(2), B256::repeat_byte(3));
        let hash = keccak256([link.0, rand.0].concat());
        let first = u64::from_be_bytes(*hash.first_chunk().unwrap());
        assert!(wins(&link, &rand, first + 1));
        assert!(!wins(&link, &rand, first));
        assert!(!wins(&link, &rand, 0));
        assert!(wins(&link, &rand, u64::MAX));
    }
}
