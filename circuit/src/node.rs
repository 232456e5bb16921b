//! How a pure node is driven: the same methods for relay and client, with sockets or in the simulator.
//!
//! After every batch of calls that change a node, drain it: [`Node::poll_event`] until it returns nothing (what an event asks
//! to be stored is stored at once), then [`Node::poll_transmit`] until it returns nothing, then [`Node::poll_timeout`].
//! Time never goes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::DropReason;
use crate::packet::{PACKET, Packet, Sealed};
use crate::request::{ReplyCode, Target};

/// The present, as the driver read it: once per batch of packets, never per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock: milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

impl Now {
    /// Seconds since 1970-01-01 UTC.
    pub const fn unix(&self) -> u64 {
        self.unix_ms / 1000
    }

    /// The monotonic time `delay` from now.
    pub fn after(&self, delay: Duration) -> Instant {
        self.instant + delay
    }
}

/// A TCP connection beside a stream: at the exit to its destination, at the client from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// What becomes of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The buffer now holds a sealed packet for this address: send it.
    Forward(SocketAddr),
    /// The node took what it needed.
    Consumed,
}

/// What a node wants done outside, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Append these replay tags (tag 16, minute made 4) to the log before anything that [`Node::poll_transmit`] returns later is sent.
    Persist([u8; 20]),
    /// The node's money has work for the outside: records to keep, pots to look at, wins to redeem.
    Money,
    /// The relays by which the client enters have changed: store them.
    Guards,
    /// Connect to this target for the flow, then call `connected`.
    Connect(FlowId, Target),
    /// Answer this question about the directory, then call `answer_directory`.
    Directory(FlowId, Bytes),
    /// The exit answered the request of this flow.
    Answered(FlowId, ReplyCode),
    /// [`Node::flow_read`] has something new to return for this flow.
    Readable(FlowId),
    /// [`Node::flow_write`] accepts bytes again.
    Writable(FlowId),
    /// The flow is gone, in both directions; calls for it are harmless, and answer [`FlowRead::Reset`] and
    /// [`FlowWrite::Reset`].
    Closed(FlowId),
}

/// What [`Node::flow_read`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowRead {
    /// The next bytes, never empty.
    Data(Bytes),
    /// Nothing now; [`Event::Readable`] will tell.
    Blocked,
    /// The other side ended its direction; half-close.
    Finished,
    /// The other side reset the flow, or its circuit is gone.
    Reset,
}

/// What [`Node::flow_write`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowWrite {
    /// So many of the bytes were taken; if not all, [`Event::Writable`] will tell when to go on.
    Accepted(usize),
    /// The other side takes no more, or the circuit is gone.
    Reset,
}

/// A pure state machine with packets on one side and flows on the other.
pub trait Node {
    /// Takes a received packet; on [`Verdict::Forward`] its buffer is to be sent as it is.
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason>;

    /// Does what is due by [`Node::poll_timeout`].
    fn handle_timeout(&mut self, now: Now);

    /// Writes the next packet of the node's own into `out`, sealed, and says where it goes.
    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr>;

    /// When [`Node::handle_timeout`] is to be called next; may change with every call of another method.
    fn poll_timeout(&mut self) -> Option<Instant>;

    /// The next event.
    fn poll_event(&mut self) -> Option<Event>;

    /// Bytes that came for the flow from the other end of its stream, at most `max`.
    fn flow_read(&mut self, now: Now, flow: FlowId, max: usize) -> FlowRead;

    /// Hands bytes of the flow to its stream.
    fn flow_write(&mut self, now: Now, flow: FlowId, bytes: &[u8]) -> FlowWrite;

    /// Ends our direction of the flow in order.
    fn flow_finish(&mut self, now: Now, flow: FlowId);

    /// Ends both directions of the flow at once.
    fn flow_reset(&mut self, now: Now, flow: FlowId);
}
