use std::cell::Cell;
use std::future::pending;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;

use circuit::error::DropReason;
use circuit::node::{Event, FlowId};
use circuit::packet::{PACKET, Packet};
use quinn_udp::{Transmit, UdpSocketState};
use tokio::sync::Notify;

use super::toy::{BAD, ECHO, LATER, STORE_AND_ECHO, STORE_AND_FORWARD, Toy, packet};
use super::{Memory, Nothing, Running, any_port, on_one_thread, until};
use crate::{Outside, UdpSocket};

/// Packets of one sender for `routes` receivers, in the order of `pick`; each receiver gets its own, in order.
fn forwards(routes: u32, count: u64, pick: impl Fn(u64) -> u32) {
    on_one_thread(async {
        let sinks: Vec<_> = (0..routes).map(|_| Running::start(Toy::sink())).collect();
        let relay =
            Running::start(Toy { routes: sinks.iter().map(|sink| sink.address).collect(), ..Toy::default() });
        let source = Running::start(Toy::sink());
        source.send((0..count).map(|n| (relay.address, packet(pick(n), n))));
        until(|| sinks.iter().map(|sink| sink.shared.counters().packets_in).sum::<u64>() == count).await;
        for (route, sink) in (0..).zip(&sinks) {
            let expected: Vec<_> = (0..count).filter(|n| pick(*n) == route).map(|n| (route, n)).collect();
            assert_eq!(sink.shared.look(|toy| toy.seen.clone()), expected);
        }
        let counters = relay.shared.counters();
        assert_eq!((counters.packets_in, counters.packets_out), (count, count));
        assert_eq!((counters.bytes_in, counters.bytes_out), (count * PACKET as u64, count * PACKET as u64));
        assert_eq!((counters.send_refused, counters.receive_errors, counters.drops.total()), (0, 0, 0));
        relay.assert_nothing_wrong();
        if cfg!(target_os = "linux") {
            assert!(counters.receive_batches < count / 8, "bursts are received together: {counters:?}");
            assert!(counters.send_batches < count / 4, "bursts are sent together: {counters:?}");
        }
    });
}

#[test]
fn a_burst_is_forwarded_whole() {
    forwards(1, 900, |_| 0);
}

#[test]
fn long_runs_to_several_addresses_keep_their_order() {
    forwards(3, 900, |n| u32::try_from(n / 20 % 3).unwrap());
}

#[test]
fn packets_that_alternate_between_addresses_are_gathered_in_order() {
    forwards(4, 900, |n| u32::try_from(n % 4).unwrap());
}

#[test]
fn short_and_long_runs_to_one_address_keep_their_order() {
    forwards(2, 900, |n| u32::from(n % 17 % 5 == 4 && n % 3 == 0));
}

// link.size.1
#[test]
fn other_sizes_are_dropped_and_counted() {
    on_one_thread(async {
        let echo = Running::start(Toy::default());
        let other = StdSocket::bind("127.0.0.1:0").unwrap();
        let sizes = [0, 1, PACKET - 1, PACKET + 1, 2 * PACKET, 46 * PACKET, 65_507];
        for size in sizes {
            other.send_to(&vec![7; size], echo.address).unwrap();
        }
        other.send_to(&packet(BAD, 0), echo.address).unwrap();
        // Bursts: of a wrong size; of the right one, with a shorter last datagram.
        let state = UdpSocketState::new((&other).into()).unwrap();
        let burst = [[7; 300].as_slice(), &packet(BAD, 1), &packet(BAD, 2), &[7; 100]].concat();
        let (mut dropped, mut bad) = (sizes.len() as u64, 1);
        if state.max_gso_segments() > 1 {
            for (contents, segment) in [(&burst[..950], 300), (&burst[300..], PACKET)] {
                let transmit = Transmit {
                    destination: echo.address,
                    ecn: None,
                    contents,
                    segment_size: Some(segment),
                    src_ip: None,
                };
                state.try_send((&other).into(), &transmit).unwrap();
            }
            dropped += 4 + 1;
            bad += 2;
        }
        let source = Running::start(Toy::sink());
        source.send([(echo.address, packet(ECHO, 3))]);
        until(|| source.shared.counters().packets_in == 1).await;
        let counters = echo.shared.counters();
        assert_eq!(counters.drops.get(DropReason::Malformed), dropped);
        assert_eq!(counters.drops.get(DropReason::BadTag), bad);
        assert_eq!(counters.drops.total(), dropped + bad);
        assert_eq!(counters.packets_in, dropped + bad + 1);
        assert_eq!(echo.shared.look(|toy| toy.seen.len() as u64), bad + 1);
    });
}

#[test]
fn icmp_errors_are_counted_and_survived() {
    on_one_thread(async {
        let nobody = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = any_port();
        socket.report_icmp_errors();
        let echo = Running::start_with(Toy::default(), socket, Nothing, pending());
        let source = Running::start(Toy::sink());
        for n in 1..=100 {
            echo.send([(nobody, packet(BAD, n))]);
            // Where an error is reported, a packet may be refused in place of the one to blame.
            let refused = echo.shared.counters().send_refused;
            source.send([(echo.address, packet(ECHO, n))]);
            until(|| {
                let lost = echo.shared.counters().send_refused - refused;
                source.shared.counters().packets_in + lost >= n || lost > 0
            })
            .await;
        }
        let counters = echo.shared.counters();
        assert_eq!(counters.packets_in, 100);
        if cfg!(target_os = "linux") {
            assert!(counters.receive_errors + counters.send_refused > 0, "{counters:?}");
        }
    });
}

#[test]
fn addresses_that_cannot_be_sent_to_harm_nothing() {
    on_one_thread(async {
        let sink = Running::start(Toy::sink());
        let source = Running::start(Toy::sink());
        let impossible: [SocketAddr; 3] =
            ["127.0.0.1:0", "[::1]:9", "255.255.255.255:9"].map(|a| a.parse().unwrap());
        for to in impossible {
            source.send((0..3).map(|n| (to, packet(BAD, n))));
        }
        source.send((0..100).map(|n| (sink.address, packet(BAD, n))));
        until(|| sink.shared.counters().packets_in == 100).await;
        let counters = source.shared.counters();
        assert_eq!((counters.send_refused, counters.packets_out), (9, 100));
        if cfg!(target_os = "linux") {
            assert!(counters.send_batches < 20, "bursts are still sent together: {counters:?}");
        }
    });
}

#[test]
fn a_socket_for_both_families_names_ipv4_senders_by_their_ipv4_address() {
    on_one_thread(async {
        let both = UdpSocket::bind("[::]:0".parse().unwrap(), "listen").unwrap();
        let port = both.local_address().port();
        let echo = Running::start_with(Toy::default(), both, Nothing, pending());
        let source = Running::start(Toy::sink());
        source.send([((SocketAddr::from(([127, 0, 0, 1], port))), packet(ECHO, 1))]);
        until(|| source.shared.counters().packets_in == 1).await;
        assert_eq!(echo.shared.look(|toy| toy.senders.clone()), [source.address]);
    });
}

/// Counts what it is asked to store, and watches what is forwarded.
struct Store {
    stored: Rc<Cell<u64>>,
    sink: StdSocket,
    forwarded: Rc<Cell<u64>>,
}

impl Store {
    fn watch(&self) {
        let mut bytes = [0; PACKET];
        while self.sink.recv(&mut bytes).is_ok() {
            let number = Packet::received(&mut bytes).counter();
            assert!(number < self.stored.get(), "sent before it was stored");
            self.forwarded.set(self.forwarded.get() + 1);
        }
    }
}

impl Outside for Store {
    fn event(&mut self, event: Event) {
        self.watch();
        if matches!(event, Event::Persist(_)) {
            self.stored.set(self.stored.get() + 1);
        }
    }
}

#[test]
fn what_is_to_be_stored_is_stored_before_anything_is_sent() {
    on_one_thread(async {
        let (stored, forwarded) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let sink = StdSocket::bind("127.0.0.1:0").unwrap();
        sink.set_nonblocking(true).unwrap();
        let toy =
            Toy { routes: vec![sink.local_addr().unwrap()], stored: Rc::clone(&stored), ..Toy::default() };
        let store = Store { stored: Rc::clone(&stored), sink, forwarded: Rc::clone(&forwarded) };
        let relay = Running::start_with(toy, any_port(), store, pending());
        let source = Running::start(Toy::sink());
        let index = |n| if n % 2 == 0 { STORE_AND_ECHO } else { STORE_AND_FORWARD };
        source.send((0..60).map(|n| (relay.address, packet(index(n), n))));
        until(|| source.shared.counters().packets_in == 30 && relay.shared.counters().packets_out == 60)
            .await;
        // One more event lets the store look at the last ones.
        relay.shared.with_node(|toy, _| toy.events.push_back(Event::Closed(FlowId(0))));
        until(|| forwarded.get() == 30).await;
        assert_eq!(stored.get(), 60);
        relay.assert_nothing_wrong();
    });
}

#[test]
fn the_timer_wakes_a_loop_without_packets() {
    on_one_thread(async {
        let (echo, source) = (Running::start(Toy::default()), Running::start(Toy::sink()));
        for n in 1..=10 {
            source.send([(echo.address, packet(LATER, n))]);
            until(|| source.shared.counters().packets_in == n).await;
        }
        echo.assert_nothing_wrong();
    });
}

#[test]
fn the_loop_stops_when_told_and_sends_what_is_left() {
    on_one_thread(async {
        let (sink, load) = (Running::start(Toy::sink()), Running::start(Toy::sink()));
        let stop = Rc::new(Notify::new());
        let told = Rc::clone(&stop);
        let stopping = Running::start_with(Toy::default(), any_port(), Nothing, async move {
            told.notified().await;
        });
        load.send([(stopping.address, packet(BAD, 0))]);
        until(|| stopping.shared.counters().packets_in == 1).await;
        load.send((0..2_000).map(|n| (stopping.address, packet(BAD, n))));
        stopping.send((0..300).map(|n| (sink.address, packet(BAD, n))));
        stop.notify_one();
        stopping.task.await.unwrap();
        assert_eq!(stopping.shared.counters().packets_out, 300);
        until(|| sink.shared.counters().packets_in == 300).await;
    });
}

#[test]
fn events_of_flows_that_nobody_pumps_go_outside() {
    on_one_thread(async {
        let memory = Memory::default();
        let one = Running::start_with(Toy::default(), any_port(), memory.clone(), pending());
        let flow = FlowId(6);
        let events = [Event::Readable(flow), Event::Writable(flow), Event::Closed(flow)];
        one.shared.with_node(|toy, _| toy.events.extend(events.clone()));
        until(|| memory.0.borrow().len() == events.len()).await;
        assert_eq!(*memory.0.borrow(), events);
    });
}

#[test]
fn a_taken_port_is_told_with_address_and_setting() {
    on_one_thread(async {
        let first = any_port();
        let error = UdpSocket::bind(first.local_address(), "relay.listen").unwrap_err().to_string();
        assert!(error.contains(&first.local_address().to_string()), "{error}");
        assert!(error.contains("choose another port, in the setting `relay.listen`"), "{error}");
        let error = UdpSocket::bind("192.0.2.1:5".parse().unwrap(), "listen").unwrap_err().to_string();
        assert!(error.contains("does not have the address"), "{error}");
        assert!(first.buffer_sizes().receive > 0 && first.buffer_sizes().send > 0);
    });
}
