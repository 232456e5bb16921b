//! A node that does what the first bytes of a packet say, and whose flows are joined in pairs.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use circuit::error::DropReason;
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{PACKET, Packet, Sealed};

/// Sent back. A smaller index is the number of the route that the packet is forwarded to.
pub(super) const ECHO: u32 = 1001;
/// Sent back by the timer.
pub(super) const LATER: u32 = 1002;
/// Stored, then sent back.
pub(super) const STORE_AND_ECHO: u32 = 1003;
/// Stored, then forwarded to route 0.
pub(super) const STORE_AND_FORWARD: u32 = 1004;
/// Dropped.
pub(super) const BAD: u32 = 1005;

/// What a flow takes before its other end reads it.
pub(super) const PIPE: usize = 100_000;
/// What a flow gives at once: about what a packet carries.
const PIECE: usize = 1200;

/// A packet with this index and counter.
pub(super) fn packet(index: u32, counter: u64) -> [u8; PACKET] {
    let mut bytes = [7; PACKET];
    bytes[..4].copy_from_slice(&index.to_be_bytes());
    bytes[4..12].copy_from_slice(&counter.to_be_bytes());
    bytes
}

#[derive(Debug, Default)]
pub(super) struct Toy {
    pub(super) routes: Vec<SocketAddr>,
    pub(super) out: VecDeque<(SocketAddr, [u8; PACKET])>,
    pub(super) events: VecDeque<Event>,
    /// Takes whatever comes, whatever it says.
    pub(super) sink: bool,
    /// What came: index and counter, in order.
    pub(super) seen: Vec<(u32, u64)>,
    pub(super) senders: Vec<SocketAddr>,
    /// Things that must never happen.
    pub(super) wrong: Vec<&'static str>,
    /// Shared with the outside: how many tags are stored.
    pub(super) stored: Rc<Cell<u64>>,
    pub(super) asked_to_store: u64,
    pub(super) due: Option<Instant>,
    pub(super) later: VecDeque<(SocketAddr, [u8; PACKET])>,
    pub(super) last: Option<Instant>,
    pub(super) ends: HashMap<FlowId, End>,
}

/// What is on its way to the reader of one flow.
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) bytes: VecDeque<u8>,
    pub(super) finished: bool,
    pub(super) reset: bool,
    reader_waits: bool,
    writer_waits: bool,
}

pub(super) const fn other(flow: FlowId) -> FlowId {
    FlowId(flow.0 ^ 1)
}

impl Toy {
    pub(super) fn sink() -> Self {
        Self { sink: true, ..Self::default() }
    }

    fn at(&mut self, now: Now) {
        if self.last.is_some_and(|last| last > now.instant) {
            self.wrong.push("time went back");
        }
        self.last = Some(now.instant);
    }

    fn store(&mut self) {
        self.asked_to_store += 1;
        self.events.push_back(Event::Persist([0; 20]));
    }
}

impl Node for Toy {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        self.at(now);
        self.seen.push((packet.index(), packet.counter()));
        self.senders.push(from);
        match packet.index() {
            _ if self.sink => {}
            ECHO => self.out.push_back((from, *packet.bytes())),
            LATER => {
                self.due = Some(now.after(Duration::from_millis(5)));
                self.later.push_back((from, *packet.bytes()));
            }
            STORE_AND_ECHO => {
                self.store();
                self.out.push_back((from, *packet.bytes()));
            }
            STORE_AND_FORWARD => {
                self.store();
                return Ok(Verdict::Forward(self.routes[0]));
            }
            route => match self.routes.get(route as usize) {
                Some(to) => return Ok(Verdict::Forward(*to)),
                None => return Err(DropReason::BadTag),
            },
        }
        Ok(Verdict::Consumed)
    }

    fn handle_timeout(&mut self, now: Now) {
        self.at(now);
        if self.due.is_none_or(|due| due > now.instant) {
            self.wrong.push("the timer came early");
        }
        self.due = None;
        self.out.append(&mut self.later);
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        self.at(now);
        if self.stored.get() < self.asked_to_store || !self.events.is_empty() {
            self.wrong.push("packets were asked for before all events were taken");
        }
        let (to, bytes) = self.out.pop_front()?;
        *out = bytes;
        Some(to)
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        if !self.out.is_empty() || !self.events.is_empty() {
            self.wrong.push("the node was not drained");
        }
        self.due
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn flow_read(&mut self, now: Now, flow: FlowId, max: usize) -> FlowRead {
        self.at(now);
        let end = self.ends.entry(flow).or_default();
        if end.reset {
            return FlowRead::Reset;
        }
        let piece: Vec<u8> = end.bytes.drain(..end.bytes.len().min(max).min(PIECE)).collect();
        if !piece.is_empty() {
            if std::mem::take(&mut end.writer_waits) {
                self.events.push_back(Event::Writable(other(flow)));
            }
            return FlowRead::Data(piece.into());
        }
        if end.finished {
            return FlowRead::Finished;
        }
        end.reader_waits = true;
        FlowRead::Blocked
    }

    fn flow_write(&mut self, now: Now, flow: FlowId, bytes: &[u8]) -> FlowWrite {
        self.at(now);
        let end = self.ends.entry(other(flow)).or_default();
        if end.reset {
            return FlowWrite::Reset;
        }
        if end.finished {
            self.wrong.push("a write after the end");
        }
        let taken = bytes.len().min(PIPE - end.bytes.len());
        end.bytes.extend(&Bytes::copy_from_slice(&bytes[..taken]));
        end.writer_waits = taken < bytes.len();
        if taken > 0 && std::mem::take(&mut end.reader_waits) {
            self.events.push_back(Event::Readable(other(flow)));
        }
        FlowWrite::Accepted(taken)
    }

    fn flow_finish(&mut self, now: Now, flow: FlowId) {
        self.at(now);
        self.ends.entry(other(flow)).or_default().finished = true;
        self.events.push_back(Event::Readable(other(flow)));
    }

    fn flow_reset(&mut self, now: Now, flow: FlowId) {
        self.at(now);
        for flow in [flow, other(flow)] {
            let end = self.ends.entry(flow).or_default();
            if !std::mem::replace(&mut end.reset, true) {
                self.events.push_back(Event::Closed(flow));
            }
        }
    }
}
