//! First messages, answers and cookies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use circuit::aead::Suite;
use circuit::keys::{BootId, DhPublic, Secret, mac};
use circuit::link::Suites;
use circuit::link::cookie::{cookie as make_cookie, write_cookie};
use circuit::link::handshake::{
    Accepted, Choice, Initiator, Kind, Mac2, Message, Noise, Offer, Responder, answer_mac1_key,
    first_mac1_key,
};
use circuit::link::session::{Keys, Side};
use circuit::packet::PACKET;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

use crate::edits::edit;
use crate::fixture::{NETWORK, UNIX, identity, link_key, secret};
use crate::input::Input;

type Bytes = [u8; PACKET];

const NOISE: core::ops::Range<usize> = 16..1380;
/// The relay that answers, and the one that asks.
const RESPONDER: u8 = 1;
const ASKER: u8 = 2;
const ASKER_INDEX: u32 = 0xaabb_ccdd;
const SEEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 50_123);
const CHOICE: Choice =
    Choice { suite: Suite::ChaCha20Poly1305, index: 77, boot: BootId(5), unix_ms: UNIX, seen: Some(SEEN) };

fn responder() -> Responder {
    Responder { network: NETWORK, id: identity(RESPONDER).id(), link_key: link_key(RESPONDER).public() }
}

/// A real first message, between relays or of a client.
fn first(ik: bool, cookie: Option<Secret<16>>) -> (Initiator, Bytes) {
    let asker = link_key(ASKER);
    let offer = Offer {
        static_key: ik.then_some(&asker),
        ephemeral: secret(50),
        suites: Suites::default(),
        index: ASKER_INDEX,
        unix_ms: UNIX * 1000,
        cookie,
    };
    let mut packet = [0; PACKET];
    let initiator = Initiator::start(&responder(), offer, &mut packet).unwrap();
    (initiator, packet)
}

/// Puts a right mac1 under whatever the packet says.
fn fix_mac1(packet: &mut Bytes, key: &Secret<32>) {
    let tag = mac(key, &[&packet[..1380]]);
    packet[1380..1396].copy_from_slice(&tag);
}

fn noise(packet: &Bytes) -> Option<Noise<'_>> {
    match Message::parse(packet) {
        Ok(Message::Noise(noise)) => Some(noise),
        Ok(Message::Cookie(_)) | Err(_) => None,
    }
}

/// Noise by itself, as a peer runs it that puts into its messages what it likes.
fn builder(ik: bool, prologue: &[u8], ephemeral: u8) -> snow::Builder<'_> {
    let pattern = if ik { "Noise_IK_25519_ChaChaPoly_BLAKE2s" } else { "Noise_NK_25519_ChaChaPoly_BLAKE2s" };
    snow::Builder::with_resolver(pattern.parse().unwrap(), Box::new(Resolver(ephemeral)))
        .prologue(prologue)
        .unwrap()
}

/// Draws an ephemeral key of this byte only.
struct Resolver(u8);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Self(self.0)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Random for Resolver {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        out.fill(self.0);
        Ok(())
    }
}

fn prologue() -> Vec<u8> {
    [&b"chive link 1"[..], &NETWORK.0, &identity(RESPONDER).id().0].concat()
}

/// Both ends have the same keys.
fn assert_same(ours: &Keys, theirs: &Keys, suite: Suite) {
    for side in [Side::Initiator, Side::Responder] {
        let mut data = *b"some data";
        let tag = ours.packet(side, suite).seal(3, b"head", &mut data);
        theirs.packet(side, suite).open(3, b"head", &mut data, &tag).unwrap();
        assert_eq!(&data, b"some data");
    }
    assert_eq!(ours.chain(), theirs.chain());
}

/// A responder believes a first message as it was made and no other, and understands any payload that Noise carries.
pub fn handshake_first(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let (ik, fixes) = (flags & 1 == 1, flags & 2 == 2);
    match flags >> 2 & 3 {
        0 => {
            let packet = input.array();
            read_first(&packet);
        }
        1 => first_with_payload(ik, input.rest()),
        _ => {
            let (mut initiator, real) = first(ik, None);
            let mut packet = real;
            edit(&mut input, &mut packet);
            if fixes {
                fix_mac1(&mut packet, &first_mac1_key(&link_key(RESPONDER).public()));
            }
            let same = packet[NOISE] == real[NOISE] && packet[4] == real[4];
            let Some((accepted, right)) = read_first(&packet) else {
                assert!(packet != real, "the real message");
                return;
            };
            assert!(right || !fixes);
            assert_eq!(accepted.is_some(), same, "a message that was changed is another one");
            let Some(accepted) = accepted else { return };
            assert_eq!((accepted.offered, accepted.unix_ms), (3, UNIX * 1000));
            assert_eq!(accepted.static_key, ik.then(|| link_key(ASKER).public()));
            let mut answer = [0; PACKET];
            let (keys, hh) = accepted.answer(CHOICE, &mut answer).unwrap();
            let answered = initiator.finish(&noise(&answer).unwrap()).unwrap();
            assert_eq!((answered.hh, answered.suite, answered.boot), (hh, CHOICE.suite, CHOICE.boot));
            assert_eq!(answered.seen, CHOICE.seen);
            assert_same(&keys, &answered.keys, CHOICE.suite);
        }
    }
}

/// What the responder makes of a packet, and whether its mac1 is right.
fn read_first(packet: &Bytes) -> Option<(Option<Accepted>, bool)> {
    let first = noise(packet)?;
    assert_eq!(packet[..4], [0; 4]);
    assert!(first.sender != 0 && (first.receiver == 0) == (first.kind != Kind::Answer));
    let right = first.mac1_is_right(&first_mac1_key(&link_key(RESPONDER).public()));
    assert_eq!(first.mac2([]) == Mac2::Absent, packet[1396..] == [0; 16]);
    Some((Accepted::read(&responder(), &link_key(RESPONDER), secret(51), &first).ok(), right))
}

fn first_with_payload(ik: bool, payload: &[u8]) {
    let (start, own, theirs) = (prologue(), link_key(ASKER).expose(), link_key(RESPONDER).public());
    let builder = builder(ik, &start, 50).remote_public_key(&theirs.0).unwrap();
    let builder = if ik { builder.local_private_key(own.expose()).unwrap() } else { builder };
    let mut state = builder.build_initiator().unwrap();
    let mut plain = vec![0; if ik { 1268 } else { 1316 }];
    let length = payload.len().min(plain.len());
    plain[..length].copy_from_slice(&payload[..length]);
    let mut packet = [0; PACKET];
    packet[4] = if ik { 2 } else { 1 };
    packet[12..16].copy_from_slice(&ASKER_INDEX.to_be_bytes());
    assert_eq!(state.write_message(&plain, &mut packet[NOISE]).unwrap(), NOISE.len());
    let (accepted, _) = read_first(&packet).unwrap();
    let accepted = accepted.unwrap();
    assert_eq!(accepted.offered, plain[0]);
    assert_eq!(accepted.unix_ms.to_be_bytes(), plain[1..9]);
    // A suite is only chosen of those that were offered.
    let chosen = Suites::default().choose(accepted.offered);
    assert_eq!(chosen.is_some(), accepted.offered & 3 != 0);
    let mut answer = [0; PACKET];
    accepted.answer(CHOICE, &mut answer).unwrap();
    let mut plain = [0; 1364];
    state.read_message(&answer[NOISE], &mut plain).unwrap();
    assert_eq!(plain[0], CHOICE.suite.code());
}

/// An initiator believes the answer to its message as it was made and no other, is not disturbed by what it refuses, and
/// understands any payload that Noise carries.
pub fn handshake_answer(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let (ik, fixes) = (flags & 1 == 1, flags & 2 == 2);
    let (mut initiator, message) = first(ik, None);
    let key = answer_mac1_key(&secret(50).public());
    if flags >> 2 & 3 == 1 {
        return answer_with_payload(ik, &mut initiator, &message, input.rest());
    }
    let (accepted, _) = read_first(&message).unwrap();
    let mut real = [0; PACKET];
    let (keys, _) = accepted.unwrap().answer(CHOICE, &mut real).unwrap();
    let mut packet = real;
    if flags >> 2 & 3 < 1 {
        packet = input.array();
    } else {
        edit(&mut input, &mut packet);
    }
    if fixes {
        fix_mac1(&mut packet, &key);
    }
    if let Some(answer) = noise(&packet).filter(|_| packet != real) {
        let changed =
            packet[NOISE] != real[NOISE] || packet[1396..] != [0; 16] || answer.kind != Kind::Answer;
        assert!(!initiator.owns(&answer) || fixes);
        if changed || !fixes {
            initiator.finish(&answer).unwrap_err();
        }
        if !changed && fixes {
            // Another index, under a MAC that whoever saw the first message can make.
            return;
        }
    }
    let answered = initiator.finish(&noise(&real).unwrap()).unwrap();
    assert_eq!(
        (answered.suite, answered.boot, answered.unix_ms),
        (CHOICE.suite, CHOICE.boot, CHOICE.unix_ms)
    );
    assert_same(&keys, &answered.keys, CHOICE.suite);
}

fn answer_with_payload(ik: bool, initiator: &mut Initiator, message: &Bytes, payload: &[u8]) {
    let (start, own) = (prologue(), link_key(RESPONDER).expose());
    let builder = builder(ik, &start, 51).local_private_key(own.expose()).unwrap();
    let mut state = builder.build_responder().unwrap();
    state.read_message(&message[NOISE], &mut [0; 1364]).unwrap();
    let mut plain = vec![0; 1316];
    let length = payload.len().min(plain.len());
    plain[..length].copy_from_slice(&payload[..length]);
    let mut packet = [0; PACKET];
    packet[4] = 3;
    packet[8..12].copy_from_slice(&ASKER_INDEX.to_be_bytes());
    packet[12..16].copy_from_slice(&9_u32.to_be_bytes());
    assert_eq!(state.write_message(&plain, &mut packet[NOISE]).unwrap(), NOISE.len());
    fix_mac1(&mut packet, &answer_mac1_key(&secret(50).public()));
    match initiator.finish(&noise(&packet).unwrap()) {
        Ok(answered) => {
            assert_eq!(answered.suite.code(), plain[0]);
            assert_eq!(answered.boot.0.to_be_bytes(), plain[1..9]);
            assert_eq!(answered.unix_ms.to_be_bytes(), plain[9..17]);
            if let Some(seen) = answered.seen {
                let ip = match seen.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                assert_eq!(ip.octets(), plain[17..33]);
                assert_eq!(seen.port().to_be_bytes(), plain[33..35]);
                assert!(!seen.ip().is_unspecified() && seen.port() != 0);
            }
        }
        Err(_) => assert!(!(1..=2).contains(&plain[0]), "suite {}", plain[0]),
    }
}

/// A cookie opens for the message that it answers as it was made, and no other; mac2 is right with that cookie only.
pub fn cookie(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let port = input.u16();
    let source = SocketAddr::from((input.array::<16>(), port));
    let value = make_cookie(&Secret::new([3; 32]), source);
    let key: DhPublic = link_key(RESPONDER).public();
    let (_, message) = first(flags & 1 == 1, None);
    let mac1 = *noise(&message).unwrap().mac1;
    let mut real = [0; PACKET];
    write_cookie(&key, &mac1, ASKER_INDEX, &[4; 32], &value, &mut real).unwrap();
    let mut packet = if flags & 2 == 2 { input.array() } else { real };
    if flags & 2 == 0 {
        edit(&mut input, &mut packet);
    }
    match Message::parse(&packet) {
        Ok(Message::Cookie(read)) => {
            let opened = read.open(&key, &mac1);
            assert_eq!(opened.is_ok(), packet == real);
            let mut other = mac1;
            other[0] ^= 1;
            read.open(&key, &other).unwrap_err();
            if let Ok(opened) = opened {
                assert_eq!((&opened, read.receiver), (&value, ASKER_INDEX));
            }
        }
        Ok(Message::Noise(_)) | Err(_) => assert!(packet != real),
    }
    let (_, message) = first(flags & 1 == 1, Some(value.clone()));
    let message = noise(&message).unwrap();
    assert_eq!(message.mac2([value.clone()]), Mac2::Right);
    let other = make_cookie(&Secret::new([3; 32]), SocketAddr::from((source.ip(), port.wrapping_add(1))));
    assert_eq!(message.mac2([other]), Mac2::Wrong);
}

/// A first message, its answer, and the cookie that it may get instead.
pub(crate) fn transcript(ik: bool) -> (Bytes, Bytes, Bytes) {
    let (_, message) = first(ik, None);
    let (accepted, _) = read_first(&message).unwrap();
    let (mut answer, mut cookie) = ([0; PACKET], [0; PACKET]);
    accepted.unwrap().answer(CHOICE, &mut answer).unwrap();
    let mac1 = *noise(&message).unwrap().mac1;
    let value = Secret::new([6; 16]);
    // Of another relay, for no cookie but that of the target itself opens there.
    write_cookie(&link_key(9).public(), &mac1, ASKER_INDEX, &[4; 32], &value, &mut cookie).unwrap();
    (message, answer, cookie)
}
