//! QUIC frames that no honest peer sends, at both ends: the connection ends or nothing changes, and no memory is kept.

use super::*;

/// What a frame does to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing.
    Ignored,
    /// The circuit ends, for the peer broke a rule.
    Broken,
    /// The circuit ends, for the peer says so.
    Ended,
}
use Effect::{Broken, Ended, Ignored};

/// Variable-length integer of 8 bytes.
fn huge(value: u64) -> [u8; 8] {
    (value | 0xc0 << 56).to_be_bytes()
}

/// Frames by name, and their effect at an exit and at a client.
fn cases() -> Vec<(&'static str, Vec<u8>, Effect, Effect)> {
    let id = |sequence: u8, retire: u8, length: u8| {
        [&[0x18, sequence, retire, length][..], &vec![7; length.into()], &[9; 16]].concat()
    };
    let with = |head: &[u8], value: u64| [head, &huge(value)].concat();
    let same = |name, frames, effect| (name, frames, effect, effect);
    let most = (1 << 62) - 1;
    vec![
        same("PADDING only", vec![0; 1000], Ignored),
        same("PING", vec![1], Ignored),
        same("NEW_CONNECTION_ID", id(1, 0, 8), Broken),
        same("NEW_CONNECTION_ID of no length", id(1, 0, 0), Broken),
        same("NEW_CONNECTION_ID that retires more than there are", id(1, 2, 8), Broken),
        same("RETIRE_CONNECTION_ID", vec![0x19, 0], Broken),
        same("PATH_CHALLENGE", [&[0x1a][..], &[5; 8]].concat(), Ignored),
        same("PATH_RESPONSE", [&[0x1b][..], &[5; 8]].concat(), Ignored),
        ("NEW_TOKEN", vec![0x07, 3, 1, 2, 3], Broken, Ignored),
        ("NEW_TOKEN of no length", vec![0x07, 0], Broken, Broken),
        same("CRYPTO", vec![0x06, 0, 1, b'h'], Broken),
        ("HANDSHAKE_DONE", vec![0x1e], Broken, Ignored),
        same("an unknown type", vec![0x3f], Broken),
        same("an unknown type of two bytes", vec![0x7f, 0xff], Broken),
        same("DATAGRAM", vec![0x30, 1], Broken),
        (
            "STREAM beyond the window of a stream",
            [&with(&[0x0e, 0], 8 << 20)[..], b"\x01h"].concat(),
            Broken,
            Broken,
        ),
        same("STREAM at the last offset", [&with(&[0x0e, 0], most)[..], b"\x01h"].concat(), Broken),
        same("STREAM of a stream too far", vec![0x0a, 0x41, 0x00, 1, b'h'], Broken),
        same("STREAM of one direction", vec![0x0a, 2, 1, b'h'], Broken),
        same("STREAM of the exit's own", vec![0x0a, 1, 1, b'h'], Broken),
        ("RESET_STREAM of a stream that is not open", vec![0x04, 0, 0, 0], Ignored, Broken),
        ("STOP_SENDING of a stream that is not open", vec![0x05, 0, 0], Ignored, Broken),
        ("MAX_STREAM_DATA of a stream that is not open", vec![0x11, 0, 5], Ignored, Broken),
        same("MAX_STREAM_DATA of the exit's own", vec![0x11, 1, 5], Broken),
        same("MAX_STREAMS beyond what there can be", with(&[0x12], most), Broken),
        same("MAX_STREAMS, the most", with(&[0x12], 1 << 60), Ignored),
        same("MAX_STREAMS of one direction", with(&[0x13], 1 << 60), Ignored),
        same("MAX_DATA, the most", with(&[0x10], most), Ignored),
        same("DATA_BLOCKED", with(&[0x14], most), Ignored),
        same("STREAMS_BLOCKED beyond what there can be", with(&[0x16], most), Broken),
        same("ACK of what was not sent", vec![0x02, 5, 0, 0, 0], Broken),
        same("ACK with a range below zero", vec![0x02, 0, 0, 0, 5], Broken),
        same("ACK with more ranges than it has", vec![0x02, 0, 0, 0x3f, 0], Broken),
        same("CONNECTION_CLOSE of the transport", vec![0x1c, 0x0a, 0, 0], Ended),
        same("CONNECTION_CLOSE of the application", vec![0x1d, 7, 0], Ended),
        same("CONNECTION_CLOSE with a reason", [&[0x1d, 7, 0x44, 0][..], &[b'x'; 1024]].concat(), Ended),
        same(
            "ACK_FREQUENCY",
            [&[0x40, 0xaf, 0][..], &huge(1 << 20), &huge(1 << 20), &huge(0)].concat(),
            Ignored,
        ),
        same("ACK_FREQUENCY of no time", vec![0x40, 0xaf, 0, 1, 0, 0], Broken),
        same("IMMEDIATE_ACK", vec![0x1f], Ignored),
    ]
}

fn end_of(end: End, seed: u64) -> (Instant, Streams) {
    let (now, client, exit) = ends(&mut Rng(seed), &StreamConfig::default());
    (now, if end == End::Client { client } else { exit })
}

fn effect(streams: &mut Streams, got: Result<(), Misbehaved>) -> Effect {
    let lost: Vec<_> = events(streams).into_iter().filter(|e| matches!(e, StreamEvent::Lost(_))).collect();
    match (got, &lost[..]) {
        (Ok(()), []) => Ignored,
        (Err(_), [StreamEvent::Lost(Lost::Broken(_))]) => Broken,
        (Ok(()), [StreamEvent::Lost(Lost::Closed(_) | Lost::Aborted(_))]) => Ended,
        other => panic!("{other:?}"),
    }
}

// circuit.stream.2
#[test]
fn each_frame_ends_the_connection_or_changes_nothing() {
    for (name, frames, at_exit, at_client) in cases() {
        for (end, expected) in [(End::Exit, at_exit), (End::Client, at_client)] {
            let (now, mut streams) = end_of(end, 21);
            let got = streams.handle_packet(now, &raw(0, &frames));
            assert_eq!(effect(&mut streams, got), expected, "{name} at {end:?}");
            assert_eq!(streams.is_closed(), expected != Ignored, "{name} at {end:?}");
        }
    }
}

// circuit.stream.2
#[test]
fn a_frame_that_is_cut_short_ends_the_connection() {
    for (name, frames, at_exit, _) in cases() {
        if frames.len() > 100 || at_exit == Broken {
            continue;
        }
        for length in 1..frames.len() {
            let (now, mut streams) = end_of(End::Exit, 22);
            let got = streams.handle_packet(now, &raw(0, &frames[..length]));
            let effect = effect(&mut streams, got);
            assert!(effect == Broken || frames[..length].iter().all(|b| *b == 0), "{name} cut at {length}");
        }
    }
}

#[test]
fn frames_that_are_ignored_keep_little_memory() {
    for (name, frames, at_exit, at_client) in cases() {
        for (end, expected) in [(End::Exit, at_exit), (End::Client, at_client)] {
            if expected != Ignored {
                continue;
            }
            let (mut now, mut streams) = end_of(end, 23);
            let mut number = 0u32;
            let mut pour = |count: u32| {
                for _ in 0..count {
                    let mut packet = vec![0x47, 0, 0, 0, 0];
                    packet[1..].copy_from_slice(&number.to_be_bytes());
                    packet.extend_from_slice(&frames);
                    packet.extend_from_slice(&[1, 0, number.to_be_bytes()[1], number.to_be_bytes()[2]]);
                    number += 1;
                    let _ = streams.handle_packet(now, &packet);
                    let mut out = [0; MAX_QUIC_PACKET];
                    now += Duration::from_micros(100);
                    if streams.poll_timeout().is_some_and(|at| at <= now) {
                        streams.handle_timeout(now);
                    }
                    while streams.poll_transmit(now, &mut out).is_some() {}
                    let _ = events(&mut streams);
                }
            };
            // It remembers a thousand acknowledgements of its own that the peer does not acknowledge, and no more.
            let kept = allocation_counter::measure(|| pour(100_000));
            assert!(kept.bytes_current < 1_500_000, "{name} at {end:?}: {kept:?}");
            assert!(!streams.is_closed());
        }
    }
}

// circuit.stream.2
#[test]
fn bytes_with_gaps_are_bounded_and_then_end_the_connection() {
    let (now, mut exit) = end_of(End::Exit, 24);
    let mut ended = None;
    let used = allocation_counter::measure(|| {
        // Every second byte of a stream, from the second on: 150 frames in a packet.
        for number in 0u8..100 {
            let mut frames = vec![];
            for n in 0..120u32 {
                let offset = (u32::from(number) * 120 + n) * 2 + 1;
                frames.extend_from_slice(&[0x0e, 0]);
                frames.extend_from_slice(&(offset | 2 << 30).to_be_bytes());
                frames.extend_from_slice(&[1, b'x']);
            }
            if exit.handle_packet(now, &raw(number, &frames)).is_err() {
                ended = Some(number);
                return;
            }
        }
    });
    println!("ended by packet {ended:?}, {used:?}");
    assert!(ended.is_some(), "no honest peer makes thousands of gaps");
    assert!(used.bytes_max < 2 << 20, "{used:?}");
}

#[test]
fn streams_that_say_nothing_are_bounded() {
    let (now, mut exit) = end_of(End::Exit, 25);
    let used = allocation_counter::measure(|| {
        // One byte on as many streams as are allowed, and on the next one.
        let (mut stream, mut number) = (0u16, 0u8);
        loop {
            let frames = [&[0x0a][..], &((stream * 4) | 0x4000).to_be_bytes(), &[1, b'x']].concat();
            let got = exit.handle_packet(now, &raw(number, &frames));
            (stream, number) = (stream + 1, number.wrapping_add(1));
            let _ = events(&mut exit);
            if got.is_err() || number == 0 {
                break;
            }
        }
        assert!((32..=256).contains(&stream), "{stream} streams");
    });
    assert!(used.bytes_max < 1 << 20, "{used:?}");
}
