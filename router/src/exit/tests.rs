use super::*;
use circuit::request::Target;
use circuit::table::Table;
use rand_core::SeedableRng as _;

const RTT: Duration = Duration::from_millis(100);

/// A client's streams and an exit on one circuit, with nothing between them.
struct Pair {
    now: Instant,
    key: CircuitKey,
    client: Flows,
    exit: Exit,
}

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn pair() -> Pair {
    let mut rng = Random::seed_from_u64(1);
    let key = Table::new(1, &mut rng).insert(()).unwrap();
    let now = Instant::now();
    let mut client = Flows::new(End::Client, StreamConfig::default(), Random::seed_from_u64(2));
    client.add(now, key, RTT).unwrap();
    let exit = Exit::new(ExitPolicy::default(), StreamConfig::default(), Random::seed_from_u64(3));
    Pair { now, key, client, exit }
}

impl Pair {
    /// Opens a stream whose first bytes are these.
    fn open(&mut self, bytes: &[u8]) -> FlowId {
        let flow = self.client.reserve();
        assert!(self.client.open(self.key, flow));
        assert_eq!(self.client.write(flow, bytes), FlowWrite::Accepted(bytes.len()));
        self.settle();
        flow
    }

    fn settle(&mut self) {
        let mut out = [0; circuit::stream::MAX_QUIC_PACKET];
        for _ in 0..10 {
            while let Some((key, length)) = self.client.poll_transmit(self.now, &mut out, |_| true) {
                self.exit.handle_packet(self.now, key, &out[..length]).unwrap();
            }
            while let Some((key, length)) = self.exit.poll_transmit(self.now, &mut out, |_| true) {
                self.client.handle_packet(self.now, key, &out[..length]).unwrap();
            }
            self.now += Duration::from_millis(25);
            self.client.handle_timeout(self.now);
            self.exit.handle_timeout(self.now);
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.exit.poll_event()).collect()
    }
}

fn request(name: &str) -> Vec<u8> {
    let target = Target { host: Host::Name(name.to_owned()), port: 80 };
    let mut bytes = [0; MAX_REQUEST];
    let mut w = wire::Writer::new(&mut bytes);
    Request { kind: Kind::Connect, target }.write(&mut w).unwrap();
    let length = w.written();
    bytes[..length].to_vec()
}

#[test]
fn with_the_circuit_every_flow_is_closed_whatever_its_stage() {
    let mut p = pair();
    p.open(&[1, 3, 9, b'h']);
    p.open(&request("connecting.example"));
    p.open(&request("open.example"));
    let connects = |event| match event {
        Event::Connect(flow, _) => Some(flow),
        _ => None,
    };
    let wanted: Vec<_> = p.events().into_iter().filter_map(connects).collect();
    let [connecting, open] = wanted[..] else { panic!("{wanted:?}") };
    p.exit.connected(open, ReplyCode::Succeeded);
    assert_eq!((p.exit.open(), p.exit.on(p.key)), (3, 3));
    p.events();
    p.exit.remove(p.key);
    let closed: Vec<_> = p.events();
    assert_eq!(closed.len(), 3);
    assert!(closed.iter().all(|event| matches!(event, Event::Closed(_))), "{closed:?}");
    assert!([connecting, open].iter().all(|flow| closed.contains(&Event::Closed(*flow))));
    assert_eq!((p.exit.open(), p.exit.on(p.key)), (0, 0));
    // The driver was still at it.
    p.exit.connected(connecting, ReplyCode::Succeeded);
    for flow in [connecting, open] {
        assert_eq!(p.exit.read(flow, 9), FlowRead::Reset);
        assert_eq!(p.exit.write(flow, b"late"), FlowWrite::Reset);
        p.exit.finish(flow);
        p.exit.reset(flow);
    }
    assert_eq!((p.exit.open(), p.events(), p.exit.poll_lost()), (0, vec![], None));
}

#[test]
fn what_is_no_request_is_answered_once_and_forgotten() {
    for (bytes, code) in [
        (&[9, 1, 1, 1, 1, 1, 0, 80][..], ReplyCode::GeneralFailure),
        (&[1, 9, 1, 1, 1, 1, 0, 80], ReplyCode::GeneralFailure),
        (&[1, 3, 0, 0, 80], ReplyCode::GeneralFailure),
        (&[2, 1, 198, 51, 100, 1, 0, 80], ReplyCode::CommandNotSupported),
        (&[1, 1, 127, 0, 0, 1, 0, 80], ReplyCode::NotAllowed),
        (&[1, 1, 198, 0, 0, 1, 0, 25], ReplyCode::NotAllowed),
    ] {
        let mut p = pair();
        let flow = p.open(bytes);
        assert_eq!(
            p.client.read(flow, 9),
            FlowRead::Data(Bytes::copy_from_slice(&[code.byte()])),
            "{bytes:?}"
        );
        assert_eq!(p.client.read(flow, 9), FlowRead::Finished, "{bytes:?}");
        assert_eq!((p.exit.open(), p.events()), (0, vec![]), "{bytes:?}");
    }
    // One that never comes whole takes no more than a request may be long.
    let mut p = pair();
    let flow = p.open(&[1, 3, 255]);
    assert_eq!((p.exit.open(), p.events()), (1, vec![]));
    p.client.reset(flow);
    p.settle();
    assert_eq!(p.exit.open(), 0);
}

// circuit.ping.1
#[test]
fn a_ping_is_answered_by_the_exit_itself() {
    let mut p = pair();
    let flow = p.open(&[4, 1, 0, 0, 0, 0, 0, 0]);
    let answer = Bytes::copy_from_slice(&[ReplyCode::Succeeded.byte()]);
    assert_eq!(p.client.read(flow, 9), FlowRead::Data(answer));
    assert_eq!(p.client.read(flow, 9), FlowRead::Finished);
    assert_eq!((p.exit.open(), p.events(), p.exit.counts()), (0, vec![], ExitCounts::default()));
}

/// Asks, in pieces as they are taken, and ends.
fn question(p: &mut Pair, length: usize) -> FlowId {
    let flow = p.open(&[5, 1, 0, 0, 0, 0, 0, 0]);
    let mut left = length;
    while left > 0 {
        match p.client.write(flow, &vec![7; left]) {
            FlowWrite::Accepted(taken) => left -= taken,
            FlowWrite::Reset => break,
        }
        p.settle();
    }
    p.client.finish(flow);
    p.settle();
    flow
}

/// All that comes, to the end.
fn all(p: &mut Pair, flow: FlowId) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match p.client.read(flow, 1 << 20) {
            FlowRead::Data(more) => bytes.extend_from_slice(&more),
            FlowRead::Blocked => p.settle(),
            FlowRead::Finished | FlowRead::Reset => return bytes,
        }
    }
}

// directory.stream.1
#[test]
fn a_question_about_the_directory_is_read_to_its_end_and_answered_whole() {
    let mut p = pair();
    let flow = question(&mut p, 10);
    assert_eq!(all(&mut p, flow), [ReplyCode::CommandNotSupported.byte()], "it has no directory");
    p.exit.serve_directory();
    for length in [0, 10, MAX_QUESTION] {
        let flow = question(&mut p, length);
        let [Event::Directory(asked, bytes)] = &p.events()[..] else { panic!("{length}") };
        assert_eq!(bytes, &vec![7; length]);
        assert_eq!((p.exit.read(*asked, 9), p.exit.open()), (FlowRead::Blocked, 1));
        p.exit.answer_directory(*asked, Some(vec![8; 1 << 20]));
        let answer = all(&mut p, flow);
        assert_eq!((answer.len(), answer[0], answer[1]), ((1 << 20) + 1, 0, 8), "{length}");
        assert_eq!(p.exit.open(), 0);
        p.events();
    }
    // What is too long is not read, and a refusal tells nothing.
    let flow = question(&mut p, MAX_QUESTION + 1);
    assert_eq!(all(&mut p, flow), [ReplyCode::GeneralFailure.byte()]);
    assert!(p.events().iter().all(|event| !matches!(event, Event::Directory(..))));
    let flow = question(&mut p, 3);
    let [Event::Directory(asked, _)] = p.events()[..] else { panic!("a question") };
    p.exit.answer_directory(asked, None);
    assert_eq!(all(&mut p, flow), [ReplyCode::GeneralFailure.byte()]);
    assert_eq!(p.exit.open(), 0);
}

// directory.stream.1
#[test]
fn questions_that_never_end_give_way_to_others() {
    let mut p = pair();
    p.exit.serve_directory();
    let slow: Vec<_> = (0..MAX_QUESTIONS).map(|_| p.open(&[5, 1, 0, 0, 0, 0, 0, 0, 7])).collect();
    assert_eq!(p.exit.open(), MAX_QUESTIONS);
    let flow = question(&mut p, 3);
    assert_eq!(p.exit.open(), MAX_QUESTIONS, "the oldest is gone");
    assert_eq!(p.client.read(slow[0], 9), FlowRead::Reset);
    assert_eq!(p.client.read(slow[1], 9), FlowRead::Blocked);
    let asked = p.events().into_iter().find_map(|event| match event {
        Event::Directory(asked, _) => Some(asked),
        _ => None,
    });
    p.exit.answer_directory(asked.unwrap(), Some(vec![1, 2, 3]));
    p.settle();
    assert_eq!(all(&mut p, flow), [0, 1, 2, 3]);
    p.exit.remove(p.key);
    assert_eq!(p.exit.open(), 0);
}

// circuit.stream.2
#[test]
fn a_violation_is_an_error_and_the_circuit_is_then_removed() {
    let mut p = pair();
    p.open(&request("site.example"));
    let bad = [0x44, 200, 0x3f, 1, 0, 0, 0];
    assert!(p.exit.handle_packet(p.now, p.key, &bad).is_err());
    p.events();
    p.exit.remove(p.key);
    assert_eq!((p.exit.open(), p.events().len()), (0, 1));
}
