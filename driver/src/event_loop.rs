//! The event loop: moves packets between the UDP socket and the node, and hands out the node's events.

use std::pin::pin;
use std::time::Duration;
use std::{io, mem};

use circuit::error::DropReason;
use circuit::node::{Event, Node, Verdict};
use circuit::packet::{PACKET, Packet};
use tokio::time::{Instant, sleep};

use crate::runs::Runs;
use crate::shared::{Shared, now};
use crate::socket::{Batch, MAX_SEGMENTS, Sent, UdpSocket};

/// Packets of the node's own that are sent together.
const TRANSMITS: usize = 2 * MAX_SEGMENTS;
/// So many failed receive calls in a row, and the loop pauses instead of trying again at once.
const FAILURES: u32 = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// What the embedding driver does for its node.
pub trait Outside {
    /// Does what `event` asks for.
    ///
    /// [`Event::Persist`] is to be on disk when this returns: what waits for it is sent next. Anything slow else is to
    /// be spawned. `Readable`, `Writable` and `Closed` come here only for flows that no [`pump`](crate::pump) serves.
    /// [`Shared::with_node`] may be called.
    fn event(&mut self, event: Event);
}

/// Drives the node of `shared` until `stop` is ready; the node is drained once more before the return.
///
/// Errors of the socket are counted in [`Counters`](crate::Counters) and never end the loop.
pub async fn run<N: Node>(
    shared: &Shared<N>,
    socket: &UdpSocket,
    outside: impl Outside,
    stop: impl Future<Output = ()>,
) {
    let mut engine = EventLoop {
        shared,
        socket,
        outside,
        batch: Batch::new(),
        runs: Runs::new(),
        transmits: vec![[0; PACKET]; TRANSMITS],
        changed: true,
        failures: 0,
    };
    let mut stop = pin!(stop);
    let mut timer = pin!(sleep(Duration::ZERO));
    let mut deadline = None;
    loop {
        let more = engine.receive().await;
        if mem::take(&mut engine.changed) {
            deadline = engine.settle().await.map(Instant::from_std);
        }
        if more {
            // One batch, then the flows have their turn.
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = tokio::task::yield_now() => continue,
            }
        }
        if let Some(deadline) = deadline
            && timer.deadline() != deadline
        {
            timer.as_mut().reset(deadline);
        }
        tokio::select! {
            biased;
            () = &mut stop => break,
            () = shared.changed.notified() => engine.changed = true,
            readable = socket.readable() => if readable.is_err() { break },
            () = &mut timer, if deadline.is_some() => engine.changed = true,
        }
    }
    engine.drain().await;
}

struct EventLoop<'a, N, O> {
    shared: &'a Shared<N>,
    socket: &'a UdpSocket,
    outside: O,
    batch: Batch,
    runs: Runs,
    transmits: Vec<[u8; PACKET]>,
    /// The node may have something to be taken.
    changed: bool,
    failures: u32,
}

impl<N: Node, O: Outside> EventLoop<'_, N, O> {
    /// Receives one batch and forwards what is to be forwarded out of the buffers it came in; true if there may be more.
    async fn receive(&mut self) -> bool {
        let more = match self.socket.try_receive(&mut self.batch) {
            Ok(more) => more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // ICMP messages come as errors of later calls; they say nothing that links do not find out themselves.
            Err(_) => {
                self.shared.counters.borrow_mut().receive_errors += 1;
                self.failures += 1;
                if self.failures > FAILURES {
                    sleep(PAUSE).await;
                }
                return true;
            }
        };
        self.failures = 0;
        self.changed = true;
        self.handle();
        // What the node wants stored is stored before anything it made of these packets is sent.
        self.events();
        let sent = self.runs.send(self.socket, |buffer| self.batch.packets(buffer)).await;
        self.count(sent);
        more
    }

    /// Shows the node every packet of the batch, where it lies.
    fn handle(&mut self) {
        let now = now();
        let mut node = self.shared.node.borrow_mut();
        let mut counters = self.shared.counters.borrow_mut();
        counters.receive_batches += 1;
        for (buffer, burst) in self.batch.bursts().enumerate() {
            counters.packets_in += (burst.packets.len() + burst.misfits) as u64;
            counters.bytes_in += burst.bytes as u64;
            // link.size.1
            for _ in 0..burst.misfits {
                counters.drops.count(DropReason::Malformed);
            }
            for (at, packet) in burst.packets.iter_mut().enumerate() {
                match node.handle_datagram(now, burst.from, Packet::received(packet)) {
                    Ok(Verdict::Forward(to)) => self.runs.add(to, buffer, at),
                    Ok(Verdict::Consumed) => {}
                    Err(reason) => counters.drops.count(reason),
                }
            }
        }
    }

    /// Drains the node, does what is due, and returns when something will be due next.
    async fn settle(&mut self) -> Option<std::time::Instant> {
        self.drain().await;
        let deadline = self.shared.node.borrow_mut().poll_timeout()?;
        let now = now();
        if deadline > now.instant {
            return Some(deadline);
        }
        self.shared.node.borrow_mut().handle_timeout(now);
        self.drain().await;
        self.shared.node.borrow_mut().poll_timeout()
    }

    /// Takes from the node all events and packets that it has.
    async fn drain(&mut self) {
        self.events();
        loop {
            let more = self.transmit().await;
            if !self.events() && !more {
                return;
            }
        }
    }

    /// Hands out all events; false if there were none.
    fn events(&mut self) -> bool {
        let mut any = false;
        loop {
            // The borrow ends before the event is handed out: the driver may change the node at once.
            let Some(event) = self.shared.node.borrow_mut().poll_event() else {
                return any;
            };
            any = true;
            let taken = match event {
                Event::Readable(flow) | Event::Writable(flow) => self.shared.signal(flow, false),
                Event::Closed(flow) => self.shared.signal(flow, true),
                _ => false,
            };
            if !taken {
                self.outside.event(event);
            }
        }
    }

    /// Sends packets of the node's own; true if it may have more.
    async fn transmit(&mut self) -> bool {
        let filled = {
            let now = now();
            let mut node = self.shared.node.borrow_mut();
            let mut filled = 0;
            for (at, packet) in self.transmits.iter_mut().enumerate() {
                let Some(to) = node.poll_transmit(now, packet) else {
                    break;
                };
                self.runs.add(to, 0, at);
                filled += 1;
            }
            filled
        };
        if filled > 0 {
            let sent = self.runs.send(self.socket, |_| &self.transmits).await;
            self.count(sent);
        }
        filled == self.transmits.len()
    }

    fn count(&self, sent: Sent) {
        let mut counters = self.shared.counters.borrow_mut();
        counters.packets_out += sent.packets;
        counters.bytes_out += sent.packets * PACKET as u64;
        counters.send_batches += sent.calls;
        counters.send_refused += sent.refused;
    }
}
