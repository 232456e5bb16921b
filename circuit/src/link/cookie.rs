//! Cookies: under load a stranger must show that it receives at its address (docs/spec/01-link.md section 5).

use core::time::Duration;
use std::net::SocketAddr;
use std::time::Instant;

use rand_core::Rng as _;
use wire::{Malformed, Reader, Writer};

use crate::aead::{AeadKey, Suite, TAG};
use crate::error::DropReason;
use crate::keys::{DhPublic, Label, Random, Secret, kdf, mac};
use crate::packet::PACKET;

use super::witness::mapped;

const RENEW: Duration = Duration::from_mins(2);
const HEAD: usize = 48;
const SEALED: usize = 1348;

/// A cookie message, cut.
#[derive(Clone, Copy, Debug)]
pub struct CookieMessage<'a> {
    /// The index of the session at the receiver, never zero.
    pub receiver: u32,
    head: &'a [u8; HEAD],
    salt: &'a [u8; 32],
    sealed: &'a [u8; SEALED],
    tag: &'a [u8; TAG],
}

impl<'a> CookieMessage<'a> {
    /// Cuts what follows the receiver index.
    pub(super) fn parse(
        packet: &'a [u8; PACKET],
        receiver: u32,
        mut r: Reader<'a>,
    ) -> Result<Self, Malformed> {
        r.zeros(4, "cookie header")?;
        let salt = r.array("salt")?;
        let sealed = r.array("sealed cookie")?;
        let tag = r.array("tag")?;
        r.finish("cookie")?;
        let head = packet.first_chunk().ok_or(Malformed("cookie"))?;
        if receiver == 0 {
            Err(Malformed("cookie header"))
        } else {
            Ok(Self { receiver, head, salt, sealed, tag })
        }
    }

    /// Opens the cookie that answers the first message with `mac1` to the relay with `link_key`.
    pub fn open(&self, link_key: &DhPublic, mac1: &[u8; 16]) -> Result<Secret<16>, DropReason> {
        let mut plain = *self.sealed;
        key(link_key, mac1, self.salt)
            .open(0, self.head, &mut plain, self.tag)
            .map_err(|_| DropReason::Handshake)?;
        Ok(Secret::new(*Reader::new(&plain).array("cookie")?))
    }
}

/// Writes the cookie message for the first message with `mac1` and the sender index `receiver`.
pub fn write_cookie(
    link_key: &DhPublic,
    mac1: &[u8; 16],
    receiver: u32,
    salt: &[u8; 32],
    cookie: &Secret<16>,
    out: &mut [u8; PACKET],
) -> Result<(), DropReason> {
    let mut w = Writer::new(out);
    w.u32(0)?;
    w.u8(4)?;
    w.put(&[0; 3])?;
    w.u32(receiver)?;
    w.u32(0)?;
    w.put(salt)?;
    w.put(cookie.expose())?;
    w.pad();
    let (head, rest) = out.split_at_mut(HEAD);
    let (plain, tag) = rest.split_at_mut(SEALED);
    let sealed = key(link_key, mac1, salt).seal(0, head, plain);
    Writer::new(tag).put(&sealed)?;
    Ok(())
}

fn key(link_key: &DhPublic, mac1: &[u8; 16], salt: &[u8; 32]) -> AeadKey {
    AeadKey::new(Suite::ChaCha20Poly1305, kdf(Label::Cookie, &[&link_key.0, mac1, salt]).secret())
}

/// `cookie = MAC(secret, address 16 | port 2)`.
pub fn cookie(secret: &Secret<32>, source: SocketAddr) -> Secret<16> {
    Secret::new(mac(secret, &[&mapped(source.ip()), &source.port().to_be_bytes()]))
}

/// The responder's secret, renewed every 2 minutes.
#[derive(Debug, Default)]
pub(super) struct Cookies {
    current: Option<(Secret<32>, Instant)>,
    previous: Option<(Secret<32>, Instant)>,
}

impl Cookies {
    /// The cookie that `source` gets now.
    pub(super) fn make(&mut self, now: Instant, rng: &mut Random, source: SocketAddr) -> Secret<16> {
        if let Some((secret, born)) = &self.current
            && now.saturating_duration_since(*born) < RENEW
        {
            return cookie(secret, source);
        }
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        self.previous = self.current.take();
        let (secret, _) = self.current.insert((Secret::new(bytes), now));
        cookie(secret, source)
    }

    /// The cookies that are accepted from `source`.
    pub(super) fn accepted(&self, now: Instant, source: SocketAddr) -> impl Iterator<Item = Secret<16>> {
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(move |(_, born)| now.saturating_duration_since(*born) < 2 * RENEW)
            .map(move |(secret, _)| cookie(secret, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    #[test]
    fn a_cookie_lives_two_to_four_minutes() {
        let mut rng = Random::from_seed([5; 32]);
        let t = crate::link::tests::start().instant;
        let a: SocketAddr = "192.0.2.1:5".parse().unwrap();
        let mut cookies = Cookies::default();
        let first = cookies.make(t, &mut rng, a);
        assert_eq!(cookies.make(t + RENEW / 2, &mut rng, a), first);
        for other in ["192.0.2.1:6", "192.0.2.2:5"] {
            assert_ne!(cookies.make(t, &mut rng, other.parse().unwrap()), first);
        }
        assert_eq!(cookies.make(t, &mut rng, "[::ffff:192.0.2.1]:5".parse().unwrap()), first);
        let second = cookies.make(t + RENEW, &mut rng, a);
        assert_ne!(second, first);
        let accepted = |c: &Cookies, t| c.accepted(t, a).collect::<Vec<_>>();
        assert_eq!(accepted(&cookies, t + RENEW * 3 / 2), [second.clone(), first]);
        assert_eq!(accepted(&cookies, t + 2 * RENEW), [second]);
        assert!(accepted(&cookies, t + 4 * RENEW).is_empty());
    }
}
