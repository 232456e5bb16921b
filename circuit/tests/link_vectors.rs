//! The links of this crate against the independent reference (docs/spec/vectors/README.md).

#![expect(clippy::unwrap_used, reason = "a test file: its functions all belong to tests")]

use std::net::SocketAddr;
use std::path::Path;

use circuit::aead::{AeadKey, Suite};
use circuit::error::DropReason;
use circuit::keys::{
    BootId, DhPublic, DhSecret, IdentitySecret, Label, NetworkId, RelayId, Secret, kdf, mac, stream_xor,
};
use circuit::link::control::{Frame, Frames, Hello, Renewal, write_nack};
use circuit::link::cookie::{cookie, write_cookie};
use circuit::link::handshake::{
    Accepted, Answered, Choice, Initiator, Kind, Mac2, Message, Noise, Offer, Responder, Suites,
    answer_mac1_key, first_mac1_key,
};
use circuit::link::session::{Keys, Opener, Side};
use circuit::packet::{CircuitWord, PACKET, Packet, PacketType};
use data_encoding::HEXLOWER;
use serde_json::Value;
use wire::Writer;

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec/vectors/link.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(v: &Value) -> Vec<u8> {
    HEXLOWER.decode(v.as_str().unwrap().as_bytes()).unwrap()
}

fn array<const N: usize>(v: &Value) -> [u8; N] {
    bytes(v).try_into().unwrap()
}

fn secret<const N: usize>(v: &Value) -> Secret<N> {
    Secret::new(array(v))
}

fn index(v: &Value) -> u32 {
    u32::from_be_bytes(array(v))
}

fn counter(v: &Value) -> u64 {
    u64::from_be_bytes(array(v))
}

fn suite(v: &Value) -> Suite {
    Suite::from_code(u8::try_from(v.as_u64().unwrap()).unwrap()).unwrap()
}

fn list(v: &Value) -> &[Value] {
    let list = v.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

/// Whether `key` is the AEAD key of these bytes.
fn assert_key(key: &AeadKey, suite: Suite, expected: &Value) {
    let expected = AeadKey::new(suite, secret(expected));
    assert_eq!(key.seal(9, b"ad", &mut [1; 40]), expected.seal(9, b"ad", &mut [1; 40]));
}

#[test]
fn primitives_agree() {
    let v = &vectors()["primitives"];
    for (case, label) in list(&v["kdf"]).iter().zip([
        Label::LinkChain,
        Label::LinkPacket,
        Label::LinkRekey,
        Label::Mac1,
        Label::Mac2,
        Label::Cookie,
        Label::Setup,
        Label::Session,
        Label::Phase,
    ]) {
        assert_eq!(kdf(label, &[&bytes(&case["input"])]).bytes::<64>(), array(&case["output_64"]));
    }
    for case in list(&v["mac"]) {
        assert_eq!(mac(&secret(&case["key"]), &[&bytes(&case["input"])]), array(&case["mac"]));
    }
    for case in list(&v["stream"]) {
        let mut zeros = [0; 160];
        stream_xor(&secret(&case["key"]), &mut zeros);
        assert_eq!(zeros, array(&case["output_160"]));
    }
    for case in list(&v["dh"]) {
        let ours = DhSecret::from_bytes(array(&case["secret"]));
        assert_eq!(ours.public().0, array(&case["public"]));
        assert_eq!(ours.agree(&DhPublic(array(&case["peer_public"]))).unwrap(), secret(&case["shared"]));
    }
    for case in list(&v["seal"]) {
        let key = AeadKey::new(suite(&case["suite"]), secret(&case["key"]));
        let mut data = bytes(&case["plain"]);
        let tag = key.seal(counter(&case["counter"]), &bytes(&case["ad"]), &mut data);
        assert_eq!([&data[..], &tag].concat(), bytes(&case["sealed"]));
    }
}

#[test]
fn words_and_frames_agree() {
    let v = vectors();
    for case in list(&v["circuit_words"]) {
        let word = CircuitWord::from_bits(index(&case["word"]));
        let kind = [
            PacketType::Cell,
            PacketType::Setup,
            PacketType::Reply,
            PacketType::Destroy,
            PacketType::Control,
        ][usize::try_from(case["type"].as_u64().unwrap()).unwrap()];
        let id = u32::try_from(case["circuit"].as_u64().unwrap()).unwrap();
        let made = CircuitWord::new(kind, case["opener"] == 1, id).with_parity(case["parity"] == 1);
        assert_eq!(word, made);
        assert_eq!(word.kind(), Some(kind));
    }
    for case in list(&v["control_frames"]) {
        let expected = bytes(&case["frame"]);
        let read = Frames::new(&expected).next().unwrap().unwrap();
        let mut buffer = [0; 700];
        let mut w = Writer::new(&mut buffer);
        match (case["name"].as_str().unwrap(), read) {
            ("PING", Frame::Ping(_)) | ("PONG", Frame::Pong(_)) | ("CLOSE", Frame::Close) => {
                read.write(&mut w).unwrap();
            }
            ("TAIL", Frame::Tail(highest)) => {
                assert_eq!(highest, counter(&case["counter"]));
                read.write(&mut w).unwrap();
            }
            ("NACK", Frame::Nack(ranges)) => {
                let gaps: Vec<(u64, u16)> = list(&case["gaps"])
                    .iter()
                    .map(|g| (g[0].as_u64().unwrap(), u16::try_from(g[1].as_u64().unwrap()).unwrap()))
                    .collect();
                assert_eq!(ranges.iter().collect::<Vec<_>>(), gaps);
                write_nack(&gaps, &mut w).unwrap();
            }
            other => panic!("{other:?}"),
        }
        let n = w.written();
        assert_eq!(buffer[..n], expected);
    }
}

fn responder(case: &Value) -> Responder {
    Responder {
        network: NetworkId(array(&case["network_id"])),
        id: RelayId(array(&case["responder_relay_id"])),
        link_key: DhPublic(array(&case["responder_static_public"])),
    }
}

fn start(
    case: &Value,
    ephemeral: &Value,
    cookie: Option<Secret<16>>,
) -> Result<(Initiator, [u8; PACKET]), DropReason> {
    let static_key = case.get("initiator_static_secret").map(|key| DhSecret::from_bytes(array(key)));
    let suites = match case["suites_offered"].as_u64().unwrap() {
        2 => Suites::only(Suite::ChaCha20Poly1305),
        3 => Suites::default(),
        other => panic!("{other}"),
    };
    let offer = Offer {
        static_key: static_key.as_ref(),
        ephemeral: DhSecret::from_bytes(array(ephemeral)),
        suites,
        index: index(&case["initiator_index"]),
        unix_ms: case["initiator_time_ms"].as_u64().unwrap(),
        cookie,
    };
    let mut packet = [0; PACKET];
    Initiator::start(&responder(case), offer, &mut packet).map(|initiator| (initiator, packet))
}

fn noise(packet: &[u8; PACKET]) -> Noise<'_> {
    let Ok(Message::Noise(noise)) = Message::parse(packet) else { panic!() };
    noise
}

fn read(case: &Value, first: &[u8; PACKET]) -> Accepted {
    let static_key = DhSecret::from_bytes(array(&case["responder_static_secret"]));
    let ephemeral = DhSecret::from_bytes(array(&case["responder_ephemeral_secret"]));
    Accepted::read(&responder(case), &static_key, ephemeral, &noise(first)).unwrap()
}

/// What the answer says of the initiator's address (link.seen.1).
fn seen(case: &Value) -> Option<SocketAddr> {
    let said: [u8; 18] = array(&case["initiator_seen_at"]);
    let (address, port) = said.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    (said != [0; 18]).then(|| SocketAddr::new(std::net::IpAddr::from(*address).to_canonical(), port))
}

/// Runs both sides and compares every byte.
fn handshake(case: &Value) -> (Answered, Keys) {
    let (mut initiator, first) = start(case, &case["initiator_ephemeral_secret"], None).unwrap();
    assert_eq!(first, array(&case["first_message"]));
    let key = first_mac1_key(&responder(case).link_key);
    assert_eq!(key, secret(&case["first_mac1_key"]));
    assert!(noise(&first).mac1_is_right(&key));
    assert_eq!(noise(&first).mac2([]), Mac2::Absent);
    let accepted = read(case, &first);
    assert_eq!(u64::from(accepted.offered), case["suites_offered"].as_u64().unwrap());
    assert_eq!(accepted.unix_ms, case["initiator_time_ms"].as_u64().unwrap());
    let expected = case.get("initiator_static_public").map(|key| DhPublic(array(key)));
    assert_eq!(accepted.static_key, expected);
    assert_eq!(noise(&first).kind, if expected.is_some() { Kind::FirstIk } else { Kind::FirstNk });
    let choice = Choice {
        suite: suite(&case["suite_chosen"]),
        index: index(&case["responder_index"]),
        boot: BootId(counter(&case["responder_boot_id"])),
        unix_ms: case["responder_time_ms"].as_u64().unwrap(),
        seen: seen(case),
    };
    let mut answer = [0; PACKET];
    let (keys, hh) = accepted.answer(choice, &mut answer).unwrap();
    assert_eq!(answer, array(&case["answer_message"]));
    let e = DhSecret::from_bytes(array(&case["initiator_ephemeral_secret"])).public();
    assert_eq!(answer_mac1_key(&e), secret(&case["answer_mac1_key"]));
    let answered = initiator.finish(&noise(&answer)).unwrap();
    assert_eq!((answered.hh, hh), (array(&case["handshake_hash"]), array(&case["handshake_hash"])));
    assert_eq!(
        (answered.suite, answered.boot, answered.unix_ms, answered.seen),
        (choice.suite, choice.boot, choice.unix_ms, choice.seen)
    );
    (answered, keys)
}

#[test]
fn handshakes_agree() {
    let v = vectors();
    for case in list(&v["handshakes"]) {
        let (answered, keys) = handshake(case);
        let suite = suite(&case["suite_chosen"]);
        let split = Keys::of_handshake(secret(&case["split_k_i"]), secret(&case["split_k_r"]));
        for keys in [&answered.keys, &keys, &split] {
            assert_eq!(*keys.chain(), secret(&case["chain"]));
            assert_key(&keys.packet(Side::Initiator, suite), suite, &case["packet_key_i"]);
            assert_key(&keys.packet(Side::Responder, suite), suite, &case["packet_key_r"]);
        }
        let Some(v) = case.get("hello") else { continue };
        let identity = IdentitySecret::from_bytes(&array(&v["identity_seed"]));
        let hello = Hello::sign(&identity, &answered.hh, BootId(counter(&v["boot_id"])));
        assert_eq!((hello.id.0, hello.signature), (array(&v["relay_id"]), array(&v["signature"])));
        let frame = bytes(&v["frame"]);
        let Some(Ok(Frame::Hello(read))) = Frames::new(&frame).next() else { panic!() };
        assert_eq!(read, hello);
        read.verify(&answered.hh).unwrap();
        let opener = Opener::new(index(&case["responder_index"]), keys.packet(Side::Initiator, suite));
        let cell = open(opener, &v["packet"], CircuitWord::CONTROL);
        assert_eq!(cell[..frame.len()], frame);
        assert!(cell[frame.len()..].iter().all(|b| *b == 0));
    }
}

fn open(mut opener: Opener, packet: &Value, word: CircuitWord) -> Vec<u8> {
    let mut packet = array(packet);
    let received = Packet::received(&mut packet);
    assert_eq!(received.index(), opener.index());
    let mut opened = opener.open(received).unwrap();
    assert_eq!(opened.word(), word);
    opened.cell().to_vec()
}

#[test]
fn data_packets_agree() {
    let v = vectors();
    for case in list(&v["data_packets"]) {
        let suite = suite(&case["suite"]);
        let key = AeadKey::new(suite, secret(&case["packet_key"]));
        let header = [bytes(&case["receiver_index"]), bytes(&case["counter"])].concat();
        let mut data = [bytes(&case["word"]), bytes(&case["cell"])].concat();
        let tag = key.seal(counter(&case["counter"]), &header, &mut data);
        assert_eq!([header, data, tag.to_vec()].concat(), bytes(&case["packet"]));
        let mut opener = Opener::new(index(&case["receiver_index"]), key);
        if counter(&case["counter"]) >> 56 == 0 {
            let word = CircuitWord::from_bits(index(&case["word"]));
            assert_eq!(open(opener, &case["packet"], word), bytes(&case["cell"]));
        } else {
            // Peers of this version have one shard.
            let mut packet = array(&case["packet"]);
            assert_eq!(opener.open(Packet::received(&mut packet)).err(), Some(DropReason::Malformed));
        }
    }
}

#[test]
fn cookies_agree() {
    let v = vectors();
    let (v, shake) = (&v["cookie"], &v["handshakes"][0]);
    let address: [u8; 16] = array(&v["address"]);
    let port = u16::try_from(v["port"].as_u64().unwrap()).unwrap();
    let source = SocketAddr::from((address, port));
    let made = cookie(&secret(&v["secret"]), source);
    assert_eq!(made, secret(&v["cookie"]));
    assert_eq!(cookie(&secret(&v["secret"]), SocketAddr::new(source.ip().to_canonical(), port)), made);
    let link_key = responder(shake).link_key;
    let (initiator, first) = start(shake, &shake["initiator_ephemeral_secret"], None).unwrap();
    assert_eq!(*initiator.mac1(), array(&v["mac1"]));
    assert_eq!(noise(&first).mac1, initiator.mac1());
    let mut message = [0; PACKET];
    let receiver = index(&shake["initiator_index"]);
    write_cookie(&link_key, initiator.mac1(), receiver, &array(&v["salt"]), &made, &mut message).unwrap();
    assert_eq!(message, array(&v["cookie_message"]));
    let Ok(Message::Cookie(read)) = Message::parse(&message) else { panic!() };
    assert_eq!((read.receiver, read.open(&link_key, initiator.mac1()).unwrap()), (receiver, made.clone()));
    let (_, again) = start(shake, &v["repeat_initiator_ephemeral_secret"], Some(made.clone())).unwrap();
    assert_eq!(again, array(&v["repeat_first_message"]));
    assert_eq!(noise(&again).mac2([made]), Mac2::Right);
    assert_eq!(noise(&again).mac2([Secret::new([0; 16])]), Mac2::Wrong);
}

#[test]
fn rekeys_agree() {
    let all = vectors();
    for v in list(&all["rekeys"]) {
        let shake = &all["handshakes"][usize::try_from(v["handshake"].as_u64().unwrap()).unwrap()];
        let suite = suite(&v["suite"]);
        let (_, old) = handshake(shake);
        let e_i = DhSecret::from_bytes(array(&v["initiator_ephemeral_secret"]));
        let e_r = DhSecret::from_bytes(array(&v["responder_ephemeral_secret"]));
        let shared = e_i.agree(&e_r.public()).unwrap();
        assert_eq!(shared, secret(&v["shared"]));
        let keys = Keys::of_rekey(old.chain(), &shared, &e_i.public(), &e_r.public());
        let named = Keys::of_handshake(secret(&v["k_i"]), secret(&v["k_r"]));
        assert_eq!(*keys.chain(), secret(&v["chain"]));
        for keys in [&keys, &named] {
            assert_key(&keys.packet(Side::Initiator, suite), suite, &v["packet_key_i"]);
            assert_key(&keys.packet(Side::Responder, suite), suite, &v["packet_key_r"]);
        }
        for (name, sender, receiver, renewal) in [
            ("rekey", Side::Initiator, "responder_index", (&v["initiator_new_index"], e_i.public())),
            ("rekeyed", Side::Responder, "initiator_index", (&v["responder_new_index"], e_r.public())),
        ] {
            let frame = bytes(&v[format!("{name}_frame")]);
            let renewal = Renewal { index: index(renewal.0), ephemeral: renewal.1 };
            let expected = if name == "rekey" { Frame::Rekey(renewal) } else { Frame::Rekeyed(renewal) };
            assert_eq!(Frames::new(&frame).next(), Some(Ok(expected)));
            let mut buffer = [0; 39];
            expected.write(&mut Writer::new(&mut buffer)).unwrap();
            assert_eq!(buffer[..], frame);
            let opener = Opener::new(index(&shake[receiver]), old.packet(sender, suite));
            let cell = open(opener, &v[format!("{name}_packet")], CircuitWord::CONTROL);
            assert_eq!(cell[..frame.len()], frame);
        }
    }
}
