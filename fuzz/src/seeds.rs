//! Where the fuzzer begins: real messages and files, and scripts that take state machines through a whole life.

use circuit::cell::{BODY, BodyType, write_body};
use circuit::link::control::{Frame, Hello, Renewal, write_nack};
use circuit::packet::CELL;
use circuit::request::{Host, Kind, MAX_REQUEST, Request, Target};
use circuit::seen::SeenSetups;
use circuit::stream::{End, MAX_QUIC_PACKET, StreamConfig, Streams};
use wire::Writer;

use crate::descriptor::{sample, sample_file, sample_open_file};
use crate::files::{CLIENT_EXAMPLE, RELAY_EXAMPLE};
use crate::fixture::{identity, link_key, start};
use crate::handshake::transcript;

/// The name of a target, and bytes for it.
pub type Seed = (&'static str, Vec<u8>);

/// Seeds for all targets that need some.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = vec![];
    seeds.extend(requests().into_iter().map(|bytes| ("request", bytes)));
    seeds.extend(applications().into_iter().map(|bytes| ("socks", [&[3][..], &bytes].concat())));
    seeds.push(("body", quic_body()));
    seeds.push(("frames", control_frames()));
    let body = |n| sample(n).bytes().split_last_chunk::<64>().unwrap().0.to_vec();
    seeds.extend([1, 2, 5].map(|n| ("descriptor", [&[1, 0, 9][..], &body(n)].concat())));
    seeds.push(("descriptor", [&[0, 0, 9][..], sample(1).bytes()].concat()));
    seeds.push(("network_file", [&[0][..], sample_file().as_bytes()].concat()));
    seeds.push(("network_file", [&[2][..], sample_open_file().as_bytes()].concat()));
    // All relays gossip, one publishes; then the nodes compare, ask, push and compare.
    let gossip = [0, 1, 2, 3, 4].map(|n| [1, n, 5, n, 0, n]).concat();
    let rest =
        [3, 6, 0x85, 0, 0, 0x86, 0, 0, 0x81, 1, 9, 1, 0, 7, 0x87, 0, 0, 6, 0, 0, 0, 255, 255, 4, 5, 0, 0];
    seeds.push(("exchange", [&gossip[..], &rest].concat()));
    // A forged signature, a stolen link key, two contents of one number; an answer and a request that are changed.
    let lies = [1, 1, 7, 1, 1, 1, 200, 3, 0, 1, 1, 1, 7, 2, 0, 2, 0x82, 2, 7, 2, 0, 3, 0x82, 1, 7, 3, 0, 4];
    let changed =
        [6, 0, 1, 0, 60, 2, 0, 6, 4, 0, 70, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x86, 0, 0, 7, 6, 0, 2, 0, 30, 0];
    seeds.push(("exchange", [&lies[..], &changed, &[0x87, 0, 0, 5, 0, 0]].concat()));
    seeds.extend([RELAY_EXAMPLE, CLIENT_EXAMPLE].map(|text| ("config", without_comments(text))));
    let entries = [1_000_000, 999_990, 1_000_001].map(|minute| SeenSetups::entry([3; 16], minute)).concat();
    seeds.push(("seen_log", [&[0][..], b"CHVSEEN1", &entries].concat()));
    for (first, answer, cookie) in [transcript(false), transcript(true)] {
        seeds.push(("handshake_first", [&[2][..], &first[..]].concat()));
        seeds.push(("handshake_answer", [&[2][..], &answer[..]].concat()));
        seeds.push(("cookie", [&[2; 19][..], &cookie[..]].concat()));
    }
    seeds.push(("guards", crate::guards::sample()));
    seeds.extend(scripts());
    seeds.extend(paid_scripts());
    seeds
}

/// Frames of payments, sessions until they have won, and a relay that is paid.
fn paid_scripts() -> Vec<Seed> {
    // Pays, and lets both sides speak; time, a poor pot, redeemed wins.
    let pays = |draws: u8| [&[1, 0, draws][..], &[2, 7].repeat(6)].concat();
    let life =
        [&pays(3)[..], &[8, 0, 9, 2, 7, 0, 60], &[2, 7].repeat(12), &[11, 9, 1, 9, 1, 0, 5, 2, 7, 10, 2, 7]]
            .concat();
    let lies =
        [&pays(20)[..], &[6, 0, 3, 1, 1, 0, 20, 3, 0, 1], &[7, 0, 9, 0, 4, 0, 4, 9, 9, 0, 0], &[4, 5, 2, 3]]
            .concat();
    let mut seeds =
        vec![("payments", life), ("payments", lies), ("payments", [&[0][..], &money_frames()].concat())];
    // Pays twenty draws, opens circuits, streams and answers as on a free network, grants, and forges.
    let pay: Vec<u8> = [1, 0, 20].repeat(5);
    let use_it = [0, 2, 0, 0, 9, 0, 0, 9, 0, 0, 11, 0, 0, 0, 0, 0, 10, 0, 0, 0, 8, 0];
    let grants = [1, 3, 0, 0, 1, 0, 1, 0x13, 0, 0, 2, 0];
    let forges = [1, 2, 1, 0, 1, 1, 0, 9, 3, 0, 1, 2, 0, 0, 2, 6, 0, 12, 0, 0, 1, 2, 90];
    let paid = [&pay[..], &use_it, &grants, &use_it, &forges, &[0, 1, 1, 0]].concat();
    seeds.push(("paid_relay_node", paid));
    let client = [
        0, 2, 0, 0, 0, 9, 0, 7, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 9, 9, 3, 0, 0, 0, 3, 0, 0, 3, 1, 0, 9, 0, 0,
        200, 2,
    ];
    seeds.push(("paid_client_node", client.to_vec()));
    seeds.push(("paid_relay_node", [&pay[..], &[0, 3, 1, 0, 3, 1], &grants, &forges, &forges].concat()));
    seeds
}

fn money_frames() -> Vec<u8> {
    use payments::frame::{Frame, Level, Role};
    use payments::{Address, amount::Wei};
    let mut cell = [0; CELL];
    let mut w = Writer::new(&mut cell);
    let hash = Address::ZERO.into_word();
    for frame in [
        Frame::Want { payer: Address::ZERO, floor: 1, value: Wei(2) },
        Frame::Draw { nonce: 1, index: 2, link: hash },
        Frame::DrawOk { nonce: 1, index: 2, link: hash },
        Frame::Meter { role: Role::Payer, cells: 1, due: Wei(2), credited: Wei(3) },
        Frame::Credit(Level::Paused),
        Frame::Grant { circuit: 1, cells: 2 },
    ] {
        frame.write(&mut w).unwrap();
    }
    cell.to_vec()
}

fn without_comments(text: &str) -> Vec<u8> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .into()
}

fn requests() -> Vec<Vec<u8>> {
    let hosts = ["192.0.2.1", "2001:db8::1"].map(|ip| Host::Ip(ip.parse().unwrap()));
    let names = [&b"example.org"[..], &[b'x'; 255]].map(|name| Host::name(name).unwrap());
    let write = |host| {
        let mut bytes = [0; MAX_REQUEST];
        let mut w = Writer::new(&mut bytes);
        Request { kind: Kind::Connect, target: Target { host, port: 443 } }.write(&mut w).unwrap();
        let length = w.written();
        bytes[..length].to_vec()
    };
    hosts.into_iter().chain(names).map(write).collect()
}

fn applications() -> Vec<Vec<u8>> {
    let request = b"\x05\x01\x00\x03\x0bexample.org\x01\xbbGET / HTTP/1.1\r\n";
    vec![
        [&b"\x05\x01\x00"[..], request].concat(),
        [&b"\x05\x02\x00\x02\x01\x04user\x08password"[..], request].concat(),
        b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n".to_vec(),
        b"\x04\x01\x00\x50\xc0\x00\x02\x01\x00".to_vec(),
    ]
}

/// The first packet of a stream.
fn quic_body() -> Vec<u8> {
    let now = start().instant;
    let mut client = Streams::new(now, End::Client, &StreamConfig::default(), [1; 32]).unwrap();
    let id = client.open().unwrap();
    client.write(id, &requests()[2]).unwrap();
    let mut body = [0; BODY];
    let fill = |data: &mut [u8; MAX_QUIC_PACKET]| client.poll_transmit(now, data);
    write_body(&mut body, BodyType::Quic, fill).unwrap();
    body.to_vec()
}

fn control_frames() -> Vec<u8> {
    let mut cell = [0; CELL];
    let mut w = Writer::new(&mut cell);
    let hello = Hello::sign(&identity(1), &[5; 32], circuit::keys::BootId(1));
    let renewal = Renewal { index: 5, ephemeral: link_key(1).public() };
    for frame in [
        Frame::Ping(1),
        Frame::Pong(2),
        Frame::Tail(3),
        Frame::Hello(hello),
        Frame::Rekey(renewal),
        Frame::Rekeyed(renewal),
        Frame::Close,
    ] {
        frame.write(&mut w).unwrap();
    }
    write_nack(&[(1, 2), (7, 1)], &mut w).unwrap();
    w.u8(99).and_then(|()| w.u16(2)).and_then(|()| w.put(&[1, 2])).unwrap();
    cell.to_vec()
}

/// Actions of the state machines, as their `step` functions read them.
fn scripts() -> Vec<Seed> {
    // A PING, a NACK of two ranges, a TAIL, a REKEY, a REKEYED, a CLOSE.
    let control = |frames: &[u8]| {
        let length = u8::try_from(frames.len()).unwrap();
        [&[10, 0, 0, 3, 0, 0, length][..], frames, &[5]].concat()
    };
    let renewal = [&[0, 36, 0, 0, 0, 9][..], &link_key(1).public().0].concat();
    let links_up = [2, 0, 0, 0, 0, 5, 2, 0, 1, 0, 1, 5, 0, 20, 5].to_vec();
    let cells = [10, 0, 0, 0, 0, 0, 10, 0, 1, 0, 0, 0, 10, 0, 2, 0, 0, 0, 5, 1, 0, 40, 5];
    let links = |rest: &[u8]| ("links", [&links_up[..], &cells, rest].concat());
    let frames: [&[u8]; 5] = [
        &[1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 90, 255, 255],
        &[4, 0, 8, 0, 0, 0, 0, 0, 0, 255, 0],
        &[6],
        &[7],
    ];
    let mut seeds: Vec<Seed> = frames
        .into_iter()
        .map(|frame| {
            let frame = if frame.len() == 1 { [frame, &renewal].concat() } else { frame.to_vec() };
            links(&[&control(&frame)[..], &[1, 0, 200, 5], &cells].concat())
        })
        .collect();
    // Loss and repair, a rekey after two minutes, a restart.
    seeds.push(links(&[
        10, 0, 0, 8, 0, 0, 10, 0, 0, 0, 0, 0, 5, 0, 3, 5, 0, 3, 5, 0, 6, 5, 0, 9, 5, 0, 60, 5,
    ]));
    seeds.push(links(&[13, 0, 0, 0, 0, 1, 1, 30, 0, 5, 1, 1, 0, 5, 1, 1, 0, 5, 10, 0, 0, 0, 0, 0, 5]));
    seeds.push(links(&[15, 0, 1, 1, 1, 0, 5, 1, 1, 0, 5, 2, 0, 0, 0, 0, 5, 1, 1, 0, 5]));
    let circuits = [
        &[
            3, 0, 2, 7, 10, 0, 0, 0, 2, 7, 11, 0, 0, 7, 11, 0, 0, 10, 0, 0, 0, 1, 7, 14, 0, 0, 0, 7, 1, 5,
            13, 7,
        ][..],
        &[2, 0, 0, 3, 0, 1, 7, 10, 0, 0, 0, 0, 8, 0, 0, 4, 1, 0, 200, 7, 11, 0, 0, 8, 0, 0, 4, 1, 0, 9, 3, 7],
        &[12, 0, 0, 1, 0, 0, 0, 7, 12, 0, 1, 0, 0, 0, 0, 9, 7, 15, 3, 0, 2, 7, 1, 11, 13, 7],
    ];
    seeds.extend(circuits.map(|script| ("circuits", script.to_vec())));
    let request = [&[27][..], &[1, 3, 11], b"example.org", &[1, 187], b"hello world"].concat();
    let exit =
        [&[1][..], &request, &[4, 0, 0, 0, 0, 5, 0, 0, 3, 3, 0, 4, 0, 0, 2, 255, 2, 0, 0, 4, 9, 0, 30]]
            .concat();
    seeds.push(("exit", [&exit[..], &[2, 0, 0, 2, 4, 0, 0, 4, 0, 50]].concat()));
    seeds.push(("exit", [&exit[..], &[2, 0, 0, 3, 5, 0, 0, 5, 0, 50]].concat()));
    seeds.extend(["streams", "flows"].map(|name| (name, stream_script(name == "flows"))));
    let relay =
        [2, 0, 0, 3, 1, 0, 9, 9, 0, 0, 0, 0, 10, 11, 0, 0, 0, 0, 10, 0, 0, 0, 8, 0, 11, 0, 0, 3, 7, 0];
    seeds.push(("relay_node", relay.to_vec()));
    seeds.push((
        "relay_node",
        [&relay[..], &[10, 0, 0, 1, 11, 0, 0, 4, 0, 90, 15, 0, 0, 0, 1, 9, 9]].concat(),
    ));
    seeds.push(("relay_node", vec![4, 0, 0, 7, 4, 1, 0, 0, 9, 13, 1, 2, 1, 1, 0, 40, 14, 2, 1, 1, 1, 0]));
    // The exit may be either of two relays, and each is told to do everything.
    let at = |calls: &[u8]| [0, 2].map(|n| [&[7, 0, n][..], calls].concat()).concat();
    let client = [
        &[2, 0, 0, 9][..],
        &at(&[0, 0, 0, 0]),
        &[4, 0, 0, 0, 9, 9],
        &at(&[0, 0, 3, 4, 4]),
        &[0, 20, 4, 0, 0, 3],
        &at(&[0, 0, 2]),
    ]
    .concat();
    seeds.push(("client_node", client.clone()));
    seeds.push((
        "client_node",
        [&client[..], &[4, 0, 0, 3, 4, 0, 0, 1, 14, 0, 2, 1, 0, 90, 13, 9, 2, 2]].concat(),
    ));
    seeds
}

/// A stream with data both ways, a loss, and its end.
fn stream_script(flows: bool) -> Vec<u8> {
    if flows {
        return [
            &[2, 18, 3, 19, 5, 0, 0, 1, 3, 232, 8, 0, 20, 133, 0, 0, 1, 7, 208, 133, 0, 0, 0, 255, 255, 8][..],
            &[5, 0, 0, 0, 255, 255, 5, 0, 0, 2, 8, 133, 0, 0, 2, 8, 0, 90, 8, 5, 0, 1, 3, 8, 133, 0, 1, 4, 8],
        ]
        .concat();
    }
    [
        &[2, 3, 0, 0, 3, 232, 8, 0, 20, 132, 0, 0, 255, 255, 131, 0, 0, 7, 208, 11, 0, 0, 8, 0, 200, 8][..],
        &[
            4, 0, 0, 255, 255, 5, 0, 0, 8, 133, 0, 0, 8, 0, 90, 8, 2, 6, 0, 1, 8, 135, 0, 1, 8, 13, 0, 9, 1,
            3, 6, 1, 2,
        ],
    ]
    .concat()
}
