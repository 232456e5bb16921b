//! The bytes of handshakes: Noise NK and IK in packets of the one size (docs/spec/01-link.md section 3).
//!
//! Nothing here draws randomness or keeps a table: ephemeral keys, indices and the time are arguments.

use core::fmt;
use std::net::SocketAddr;

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random as NoiseRandom};
use snow::{Builder, HandshakeState};
use wire::{Full, Malformed, Reader, Writer};
use zeroize::Zeroize as _;

use crate::aead::Suite;
use crate::error::DropReason;
use crate::keys::{BootId, DhPublic, DhSecret, Label, NetworkId, RelayId, Secret, kdf, mac, tags_equal};
use crate::link::session::Keys;
use crate::link::witness::{mapped, said};
use crate::packet::PACKET;
use crate::x25519;

const NOISE: usize = 1364;
/// What mac1 covers, and what mac2 covers.
const MAC1_AT: usize = 1380;
const MAC2_AT: usize = 1396;
/// Payloads of types 1, 2 and 3.
const NK_PAYLOAD: usize = 1316;
const IK_PAYLOAD: usize = 1268;
const NO_MAC2: [u8; 16] = [0; 16];

/// The suites that a node offers and accepts, preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suites {
    first: Suite,
    second: Option<Suite>,
}

impl Suites {
    /// Both suites, `first` preferred.
    pub const fn preferring(first: Suite) -> Self {
        let second = match first {
            Suite::Aegis128L => Suite::ChaCha20Poly1305,
            Suite::ChaCha20Poly1305 => Suite::Aegis128L,
        };
        Self { first, second: Some(second) }
    }

    /// One suite only.
    pub const fn only(first: Suite) -> Self {
        Self { first, second: None }
    }

    /// The suites as they are offered: bit 0 is suite 1, bit 1 is suite 2.
    pub fn bits(self) -> u8 {
        bit(self.first) | self.second.map_or(0, bit)
    }

    /// The suite that we prefer of those offered.
    pub fn choose(self, offered: u8) -> Option<Suite> {
        [Some(self.first), self.second].into_iter().flatten().find(|suite| offered & bit(*suite) != 0)
    }
}

const fn bit(suite: Suite) -> u8 {
    1 << (suite.code() - 1)
}

impl Default for Suites {
    fn default() -> Self {
        Self::preferring(Suite::Aegis128L)
    }
}

/// The type of a handshake packet that carries Noise bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A first message of a client.
    FirstNk = 1,
    /// A first message of a relay.
    FirstIk = 2,
    /// The answer to a first message.
    Answer = 3,
}

/// A packet with receiver index zero, cut.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// A first message or an answer.
    Noise(Noise<'a>),
    /// A cookie.
    Cookie(super::cookie::CookieMessage<'a>),
}

/// A first message or an answer, cut.
#[derive(Clone, Copy, Debug)]
pub struct Noise<'a> {
    /// Which one.
    pub kind: Kind,
    /// The index of the session at the receiver; zero in a first message.
    pub receiver: u32,
    /// The index of the session at the sender, never zero.
    pub sender: u32,
    message: &'a [u8; NOISE],
    /// The tag under a key that names the responder, or the first message.
    pub mac1: &'a [u8; 16],
    mac2: &'a [u8; 16],
    packet: &'a [u8; PACKET],
}

impl<'a> Message<'a> {
    /// Cuts a packet whose index is zero.
    // link.header.1, link.handshake.1
    pub fn parse(packet: &'a [u8; PACKET]) -> Result<Self, Malformed> {
        let mut r = Reader::new(packet);
        r.zeros(4, "handshake index")?;
        let kind = r.u8("handshake type")?;
        r.zeros(3, "handshake header")?;
        let receiver = r.u32("receiver index")?;
        let kind = match kind {
            1 => Kind::FirstNk,
            2 => Kind::FirstIk,
            3 => Kind::Answer,
            4 => return super::cookie::CookieMessage::parse(packet, receiver, r).map(Message::Cookie),
            _ => return Err(Malformed("handshake type")),
        };
        let sender = r.u32("sender index")?;
        if (receiver == 0) != (kind != Kind::Answer) || sender == 0 {
            return Err(Malformed("handshake indices"));
        }
        let message = r.array("noise message")?;
        let mac1 = r.array("mac1")?;
        let mac2 = r.array("mac2")?;
        r.finish("handshake")?;
        Ok(Message::Noise(Noise { kind, receiver, sender, message, mac1, mac2, packet }))
    }
}

/// What mac2 of a first message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mac2 {
    /// There is none.
    Absent,
    /// It was made with one of the given cookies.
    Right,
    /// It is neither zero nor right.
    Wrong,
}

impl Noise<'_> {
    /// Whether mac1 was made with `key`, of [`first_mac1_key`] or [`answer_mac1_key`].
    pub fn mac1_is_right(&self, key: &Secret<32>) -> bool {
        let (covered, _) = self.packet.split_at(MAC1_AT);
        tags_equal(self.mac1, &mac(key, &[covered]))
    }

    /// Checks mac2 against the cookies that are valid for the sender.
    pub fn mac2(&self, cookies: impl IntoIterator<Item = Secret<16>>) -> Mac2 {
        if self.mac2 == &NO_MAC2 {
            return Mac2::Absent;
        }
        let (covered, _) = self.packet.split_at(MAC2_AT);
        let right =
            cookies.into_iter().any(|cookie| tags_equal(self.mac2, &mac(&mac2_key(&cookie), &[covered])));
        if right { Mac2::Right } else { Mac2::Wrong }
    }
}

/// The key of mac1 in a first message to the relay with this link key.
pub fn first_mac1_key(responder: &DhPublic) -> Secret<32> {
    kdf(Label::Mac1, &[&responder.0]).secret()
}

/// The key of mac1 in the answer to a first message with the ephemeral key `first`.
pub fn answer_mac1_key(first: &DhPublic) -> Secret<32> {
    first_mac1_key(first)
}

fn mac2_key(cookie: &Secret<16>) -> Secret<32> {
    kdf(Label::Mac2, &[cookie.expose()]).secret()
}

/// What both sides know before the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Responder {
    /// The network of both.
    pub network: NetworkId,
    /// The responder's name.
    pub id: RelayId,
    /// The responder's link key.
    pub link_key: DhPublic,
}

impl Responder {
    fn prologue(&self) -> Vec<u8> {
        [&b"chive link 1"[..], &self.network.0, &self.id.0].concat()
    }
}

/// What the initiator puts into a first message.
#[derive(Debug)]
pub struct Offer<'a> {
    /// Our link key, between relays.
    pub static_key: Option<&'a DhSecret>,
    /// A fresh ephemeral key.
    pub ephemeral: DhSecret,
    /// The suites that we offer.
    pub suites: Suites,
    /// The receiver index of our side of the session.
    pub index: u32,
    /// The time, milliseconds since 1970.
    pub unix_ms: u64,
    /// A cookie of the responder.
    pub cookie: Option<Secret<16>>,
}

/// The initiator's side of a handshake that is not answered yet.
pub struct Initiator {
    noise: HandshakeState,
    answer_key: Secret<32>,
    mac1: [u8; 16],
    suites: Suites,
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").field("suites", &self.suites).finish_non_exhaustive()
    }
}

/// What the initiator learns from a valid answer.
#[derive(Debug)]
pub struct Answered {
    /// The keys of the session.
    pub keys: Keys,
    /// The handshake hash.
    pub hh: [u8; 32],
    /// The suite that the responder chose.
    pub suite: Suite,
    /// The responder's boot id.
    pub boot: BootId,
    /// The responder's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Where the responder sees us, if it says so.
    pub seen: Option<SocketAddr>,
}

impl Initiator {
    /// Writes a first message for `responder` into `out`.
    pub fn start(
        responder: &Responder,
        offer: Offer<'_>,
        out: &mut [u8; PACKET],
    ) -> Result<Self, DropReason> {
        let ephemeral = offer.ephemeral.public();
        let (kind, payload_size) = match offer.static_key {
            None => (Kind::FirstNk, NK_PAYLOAD),
            Some(_) => (Kind::FirstIk, IK_PAYLOAD),
        };
        let prologue = responder.prologue();
        let static_key = offer.static_key.map(DhSecret::expose);
        let builder = builder(kind, offer.ephemeral)?.prologue(&prologue).map_err(refused)?;
        let builder = builder.remote_public_key(&responder.link_key.0).map_err(refused)?;
        let mut noise = match &static_key {
            None => builder.build_initiator(),
            Some(key) => builder.local_private_key(key.expose()).and_then(Builder::build_initiator),
        }
        .map_err(refused)?;
        let mut payload = [0; NK_PAYLOAD];
        let mut w = Writer::new(&mut payload);
        w.u8(offer.suites.bits())?;
        w.u64(offer.unix_ms)?;
        let (payload, _) = payload.split_at(payload_size);
        let header = Header { kind, receiver: 0, sender: offer.index };
        let key = first_mac1_key(&responder.link_key);
        let mac1 = header.write(&mut noise, payload, &key, offer.cookie.as_ref(), out)?;
        Ok(Self { noise, answer_key: answer_mac1_key(&ephemeral), mac1, suites: offer.suites })
    }

    /// Mac1 of the message, to which a cookie is bound.
    pub const fn mac1(&self) -> &[u8; 16] {
        &self.mac1
    }

    /// Whether `answer` belongs to this message.
    pub fn owns(&self, answer: &Noise<'_>) -> bool {
        answer.kind == Kind::Answer && answer.mac1_is_right(&self.answer_key) && answer.mac2 == &NO_MAC2
    }

    /// Takes the answer; one that is refused changes nothing.
    pub fn finish(&mut self, answer: &Noise<'_>) -> Result<Answered, DropReason> {
        if !self.owns(answer) {
            return Err(DropReason::Handshake);
        }
        let mut payload = [0; NK_PAYLOAD];
        self.noise.read_message(answer.message, &mut payload).map_err(refused)?;
        let mut r = Reader::new(&payload);
        // link.handshake.2
        let suite = Suite::from_code(r.u8("suite")?)
            .filter(|suite| self.suites.bits() & bit(*suite) != 0)
            .ok_or(DropReason::Handshake)?;
        let boot = BootId(r.u64("boot id")?);
        let unix_ms = r.u64("time")?;
        let seen = said(*r.array("seen address")?, r.u16("seen port")?);
        let (keys, hh) = split(&mut self.noise)?;
        Ok(Answered { keys, hh, suite, boot, unix_ms, seen })
    }
}

/// The responder's side of a first message that was read.
pub struct Accepted {
    noise: HandshakeState,
    first: DhPublic,
    /// The initiator's index.
    pub index: u32,
    /// The initiator's link key, between relays.
    pub static_key: Option<DhPublic>,
    /// The suites that the initiator offers.
    pub offered: u8,
    /// The initiator's clock, milliseconds since 1970.
    pub unix_ms: u64,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").field("offered", &self.offered).finish_non_exhaustive()
    }
}

/// What the responder puts into an answer.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The suite, one of those offered.
    pub suite: Suite,
    /// The receiver index of our side of the session.
    pub index: u32,
    /// Our boot id.
    pub boot: BootId,
    /// The time, milliseconds since 1970.
    pub unix_ms: u64,
    /// Where the first message came from, if the initiator is to know.
    pub seen: Option<SocketAddr>,
}

impl Accepted {
    /// Reads a first message whose mac1 was checked; `ephemeral` is for the answer.
    pub fn read(
        responder: &Responder,
        link_key: &DhSecret,
        ephemeral: DhSecret,
        first: &Noise<'_>,
    ) -> Result<Self, DropReason> {
        let (ik, payload_size) = match first.kind {
            Kind::FirstNk => (false, NK_PAYLOAD),
            Kind::FirstIk => (true, IK_PAYLOAD),
            Kind::Answer => return Err(DropReason::Handshake),
        };
        let prologue = responder.prologue();
        let mut noise = builder(first.kind, ephemeral)?
            .prologue(&prologue)
            .and_then(|b| b.local_private_key(link_key.expose().expose())?.build_responder())
            .map_err(refused)?;
        let mut payload = [0; NK_PAYLOAD];
        let (payload, _) = payload.split_at_mut(payload_size);
        noise.read_message(first.message, payload).map_err(refused)?;
        let mut r = Reader::new(payload);
        let offered = r.u8("suites")?;
        let unix_ms = r.u64("time")?;
        let static_key = noise.get_remote_static().and_then(|key| key.first_chunk()).copied().map(DhPublic);
        let e = Reader::new(first.message).array("ephemeral key").copied().map(DhPublic)?;
        let static_key = static_key.filter(|_| ik);
        Ok(Self { noise, first: e, index: first.sender, static_key, offered, unix_ms })
    }

    /// Writes the answer into `out`; returns the keys and the handshake hash.
    pub fn answer(mut self, choice: Choice, out: &mut [u8; PACKET]) -> Result<(Keys, [u8; 32]), DropReason> {
        let mut payload = [0; NK_PAYLOAD];
        let mut w = Writer::new(&mut payload);
        w.u8(choice.suite.code())?;
        w.u64(choice.boot.0)?;
        w.u64(choice.unix_ms)?;
        if let Some(seen) = choice.seen {
            w.put(&mapped(seen.ip()))?;
            w.u16(seen.port())?;
        }
        let header = Header { kind: Kind::Answer, receiver: self.index, sender: choice.index };
        header.write(&mut self.noise, &payload, &answer_mac1_key(&self.first), None, out)?;
        split(&mut self.noise)
    }
}

struct Header {
    kind: Kind,
    receiver: u32,
    sender: u32,
}

impl Header {
    /// Writes the whole packet and returns its mac1.
    fn write(
        &self,
        noise: &mut HandshakeState,
        payload: &[u8],
        mac1_key: &Secret<32>,
        cookie: Option<&Secret<16>>,
        out: &mut [u8; PACKET],
    ) -> Result<[u8; 16], DropReason> {
        let mut message = [0; NOISE];
        if noise.write_message(payload, &mut message).map_err(refused)? != NOISE {
            return Err(DropReason::Handshake);
        }
        let mut w = Writer::new(out);
        w.u32(0)?;
        w.u8(self.kind as u8)?;
        w.put(&[0; 3])?;
        w.u32(self.receiver)?;
        w.u32(self.sender)?;
        w.put(&message)?;
        let (covered, tags) = out.split_at_mut(MAC1_AT);
        let mac1 = mac(mac1_key, &[covered]);
        let mac2 = cookie.map_or(NO_MAC2, |cookie| mac(&mac2_key(cookie), &[covered, &mac1]));
        let mut w = Writer::new(tags);
        w.put(&mac1)?;
        w.put(&mac2)?;
        Ok(mac1)
    }
}

impl From<Full> for DropReason {
    fn from(_: Full) -> Self {
        Self::Malformed
    }
}

fn refused(_: snow::Error) -> DropReason {
    DropReason::Handshake
}

fn split(noise: &mut HandshakeState) -> Result<(Keys, [u8; 32]), DropReason> {
    let hh = *noise.get_handshake_hash().first_chunk().ok_or(DropReason::Handshake)?;
    let (k_i, k_r) = noise.dangerously_get_raw_split();
    Ok((Keys::of_handshake(Secret::new(k_i), Secret::new(k_r)), hh))
}

fn builder<'a>(kind: Kind, ephemeral: DhSecret) -> Result<Builder<'a>, DropReason> {
    let pattern = match kind {
        Kind::FirstNk => "Noise_NK_25519_ChaChaPoly_BLAKE2s",
        Kind::FirstIk | Kind::Answer => "Noise_IK_25519_ChaChaPoly_BLAKE2s",
    };
    let params = pattern.parse().map_err(refused)?;
    Ok(Builder::with_resolver(params, Box::new(Resolver { ephemeral })))
}

/// Gives Noise our X25519 and one ephemeral key instead of a random source.
struct Resolver {
    ephemeral: DhSecret,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn NoiseRandom>> {
        Some(Box::new(Once(Some(self.ephemeral.expose()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// A random source that has one value.
struct Once(Option<Secret<32>>);

impl NoiseRandom for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let bytes = self.0.take().ok_or(snow::Error::Rng)?;
        Writer::new(dest).put(bytes.expose()).map_err(|_| snow::Error::Rng)
    }
}

/// X25519 that refuses keys of small order.
#[derive(Default)]
struct X25519 {
    secret: [u8; 32],
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        if let Some(bytes) = secret.first_chunk() {
            self.secret = *bytes;
            self.public = DhSecret::from_bytes(*bytes).public().0;
        }
    }

    fn generate(&mut self, rng: &mut dyn NoiseRandom) -> Result<(), snow::Error> {
        let mut bytes = [0; 32];
        rng.try_fill_bytes(&mut bytes)?;
        self.set(&bytes);
        bytes.zeroize();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk().ok_or(snow::Error::Dh)?;
        // Not by `DhSecret`, which would compute its public key each time.
        let shared = x25519::agree(&Secret::new(self.secret), public).ok_or(snow::Error::Dh)?;
        Writer::new(out).put(shared.expose()).map_err(|_| snow::Error::Dh)
    }
}

impl Drop for X25519 {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}
