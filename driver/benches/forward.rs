//! What one forwarded packet costs the event loop, with real loopback sockets and a node that does no cryptography.
//!
//! Time runs while the loop receives and sends; filling its socket before and emptying the sinks after is not counted.
//! What the kernel does for a packet on its way to the sink's socket is.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set up its sockets has nothing to measure")]

use std::future::{Future as _, pending};
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use circuit::error::DropReason;
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{PACKET, Packet, Sealed};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use driver::{Outside, Shared, UdpSocket, run};
use quinn_udp::{Transmit, UdpSocketState};

/// Packets in one sending call.
const BURST: usize = 44;
/// Packets that wait in the socket when the loop gets its turn.
const WAITING: usize = 8 * BURST;

/// Forwards each packet to the address whose number it begins with.
#[derive(Debug)]
struct Forwarder(Vec<SocketAddr>);

impl Node for Forwarder {
    fn handle_datagram(
        &mut self,
        _: Now,
        _: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        let to = usize::try_from(packet.index()).ok().and_then(|index| self.0.get(index));
        to.copied().map(Verdict::Forward).ok_or(DropReason::Malformed)
    }
    fn handle_timeout(&mut self, _: Now) {}
    fn poll_transmit(&mut self, _: Now, _: &mut [u8; PACKET]) -> Option<SocketAddr> {
        None
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    fn poll_event(&mut self) -> Option<Event> {
        None
    }
    fn flow_read(&mut self, _: Now, _: FlowId, _: usize) -> FlowRead {
        FlowRead::Data(Bytes::new())
    }
    fn flow_write(&mut self, _: Now, _: FlowId, _: &[u8]) -> FlowWrite {
        FlowWrite::Reset
    }
    fn flow_finish(&mut self, _: Now, _: FlowId) {}
    fn flow_reset(&mut self, _: Now, _: FlowId) {}
}

struct Nothing;

impl Outside for Nothing {
    fn event(&mut self, _: Event) {}
}

/// A sender, the loop's socket, and sinks that are emptied by dropping what they hold.
struct Course {
    sender: StdSocket,
    state: UdpSocketState,
    packets: Vec<u8>,
    /// Packets per sending call.
    burst: usize,
    sinks: Vec<StdSocket>,
    socket: UdpSocket,
    shared: Rc<Shared<Forwarder>>,
}

fn any_port() -> StdSocket {
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

impl Course {
    /// Packets go to the sinks in runs of `run`, and come in bursts of `burst`.
    fn new(sinks: usize, run: usize, burst: usize) -> Self {
        let sinks: Vec<_> = (0..sinks).map(|_| any_port()).collect();
        let mut packets = vec![0; WAITING * PACKET];
        for (at, packet) in packets.chunks_exact_mut(PACKET).enumerate() {
            let sink = u32::try_from(at / run % sinks.len()).unwrap();
            packet[..4].copy_from_slice(&sink.to_be_bytes());
        }
        let sender = any_port();
        Self {
            state: UdpSocketState::new((&sender).into()).unwrap(),
            sender,
            packets,
            burst,
            socket: UdpSocket::bind("127.0.0.1:0".parse().unwrap(), "listen").unwrap(),
            shared: Shared::new(Forwarder(sinks.iter().map(|sink| sink.local_addr().unwrap()).collect())),
            sinks,
        }
    }

    fn fill(&self) {
        for contents in self.packets.chunks(self.burst * PACKET) {
            let transmit = Transmit {
                destination: self.socket.local_address(),
                ecn: None,
                contents,
                segment_size: Some(PACKET),
                src_ip: None,
            };
            self.state.try_send((&self.sender).into(), &transmit).unwrap();
        }
    }

    /// Forwards `rounds` times all packets that wait; the time of the forwarding alone.
    async fn forward(&self, rounds: u64) -> Duration {
        let mut task = pin!(run(&*self.shared, &self.socket, Nothing, pending()));
        let mut taken = Duration::ZERO;
        let mut scratch = vec![0; 1 << 16];
        for _ in 0..rounds {
            self.fill();
            let goal = self.shared.counters().packets_out + WAITING as u64;
            #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
            let start = Instant::now();
            std::future::poll_fn(|context| {
                let ended = task.as_mut().poll(context).is_ready();
                if ended || self.shared.counters().packets_out >= goal {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            taken += start.elapsed();
            for sink in &self.sinks {
                while sink.recv(&mut scratch).is_ok() {}
            }
        }
        assert_eq!(self.shared.counters().packets_in, self.shared.counters().packets_out);
        taken
    }
}

fn forward(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    group.throughput(Throughput::Elements(WAITING as u64));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let courses = [
        ("bursts to one address", 1, 1, BURST),
        ("bursts to 4 addresses in runs of 16", 4, 16, BURST),
        ("bursts to 4 addresses in turn", 4, 1, BURST),
        ("single packets to one address", 1, 1, 1),
        ("single packets to 4 addresses in turn", 4, 1, 1),
    ];
    for (name, sinks, run, burst) in courses {
        let _inside = runtime.enter();
        let course = Course::new(sinks, run, burst);
        group.bench_with_input(BenchmarkId::from_parameter(name), &course, |bencher, course| {
            bencher.iter_custom(|rounds| runtime.block_on(course.forward(rounds)));
        });
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
