//! A TCP connection tied to a flow of the node: bytes, ends and resets, both ways.

use std::array;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _};
use std::mem;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use circuit::node::{FlowId, FlowRead, FlowWrite, Node};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::shared::{Shared, Signal};

/// Pieces of a flow that are written to TCP in one call; the node gives out pieces of about a packet.
const PIECES: usize = 64;
/// The most bytes that wait to be written to TCP.
const QUEUE: usize = 1 << 17;
/// The bytes that a flow may move before others get their turn.
const TURN: usize = 1 << 18;
/// How long the connection of a flow that the node has forgotten may stand still.
const LINGER: Duration = Duration::from_mins(1);

/// How a flow and its TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both directions came to their end, one after the other.
    InOrder,
    /// By a reset, from either side.
    ByReset,
}

/// Moves bytes between `tcp` and `flow` until both directions have ended; `already_read` was read from `tcp` before.
///
/// The end of one direction is passed on and leaves the other open; a reset on one side becomes a reset on the other
/// (circuit.stream.3). When the future is dropped, both sides are reset.
pub async fn pump<N: Node>(shared: &Shared<N>, flow: FlowId, tcp: TcpStream, already_read: &[u8]) -> Ended {
    pump_lingering(shared, flow, tcp, already_read, LINGER).await
}

/// [`pump`] with another time for what a forgotten flow has left.
pub(crate) async fn pump_lingering<N: Node>(
    shared: &Shared<N>,
    flow: FlowId,
    tcp: TcpStream,
    already_read: &[u8],
    linger: Duration,
) -> Ended {
    // Pieces are joined here already; waiting for more would only delay them.
    let _ = tcp.set_nodelay(true);
    let mut pump = Pump {
        shared,
        flow,
        tcp,
        signal: shared.watch(flow),
        to_flow: Direction::Open,
        held: Bytes::copy_from_slice(already_read),
        to_tcp: Direction::Open,
        queue: VecDeque::new(),
        in_order: false,
    };
    loop {
        match pump.turn() {
            Err(Reset) => return Ended::ByReset,
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) if pump.to_flow == Direction::Ended && pump.delivered() => {
                pump.in_order = true;
                return Ended::InOrder;
            }
            Ok(false) => {
                if pump.wait(linger).await.is_err() {
                    return Ended::ByReset;
                }
            }
        }
    }
}

/// One side was reset; the other is to be reset as well.
struct Reset;

impl From<io::Error> for Reset {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// What the node last said about one direction of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// It may have or take bytes.
    Open,
    /// It will tell when it has or takes bytes again.
    Blocked,
    /// There are no more bytes.
    Ended,
}

struct Pump<'a, N: Node> {
    shared: &'a Shared<N>,
    flow: FlowId,
    tcp: TcpStream,
    signal: Rc<Signal>,
    /// Ended: TCP has come to its end, and the node knows.
    to_flow: Direction,
    /// Bytes from TCP that the node did not take yet; while there are any, TCP is not read.
    held: Bytes,
    /// Ended: the flow has come to its end; once the queue is empty, TCP knows.
    to_tcp: Direction,
    /// Bytes from the node that TCP did not take yet; while there are any, the flow is not read.
    queue: VecDeque<Bytes>,
    in_order: bool,
}

impl<N: Node> Pump<'_, N> {
    /// Moves what can be moved both ways; true if there may be more.
    fn turn(&mut self) -> Result<bool, Reset> {
        let mut moved = 0;
        while moved < TURN {
            let step = self.tcp_to_flow()? + self.flow_to_tcp()?;
            if step == 0 {
                return Ok(false);
            }
            moved += step;
        }
        Ok(true)
    }

    /// The node has forgotten the flow; what it gave out before is still delivered.
    fn closed(&self) -> bool {
        self.signal.closed.get()
    }

    /// All that the flow had is with TCP, its end included.
    fn delivered(&self) -> bool {
        self.to_tcp == Direction::Ended && self.queue.is_empty()
    }

    /// Waits until one of the sides can go on.
    async fn wait(&mut self, linger: Duration) -> Result<(), Reset> {
        // A connection that breaks is noticed even while nothing is read from it or written to it.
        let mut interest = Interest::ERROR;
        if self.to_flow != Direction::Ended && self.held.is_empty() {
            interest |= Interest::READABLE;
        }
        if !self.queue.is_empty() {
            interest |= Interest::WRITABLE;
        }
        tokio::select! {
            biased;
            () = self.signal.wake.notified() => {
                for direction in [&mut self.to_flow, &mut self.to_tcp] {
                    if *direction == Direction::Blocked {
                        *direction = Direction::Open;
                    }
                }
                // A flow that waits for TCP is not read; that the other end gave it up shows here.
                if !self.queue.is_empty() && self.to_flow == Direction::Open && self.held.is_empty() {
                    self.flow_write(&[])?;
                }
            }
            ready = self.tcp.ready(interest) => if ready?.is_error() { return Err(Reset) },
            () = sleep(linger), if self.closed() => return Err(Reset),
        }
        Ok(())
    }

    /// Moves one read's worth of bytes from TCP to the flow.
    fn tcp_to_flow(&mut self) -> Result<usize, Reset> {
        if self.to_flow != Direction::Open {
            return Ok(0);
        }
        if !self.held.is_empty() {
            let mut held = mem::take(&mut self.held);
            let taken = self.flow_write(&held)?;
            held.advance(taken);
            self.held = held;
            return Ok(taken);
        }
        let shared = self.shared;
        let mut scratch = shared.scratch.borrow_mut();
        let got = match read(&self.tcp, &mut scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            other => other?,
        };
        if got == 0 {
            shared.with_node(|node, now| node.flow_finish(now, self.flow));
            self.to_flow = Direction::Ended;
            return Ok(0);
        }
        let bytes = scratch.get(..got).unwrap_or_default();
        let taken = self.flow_write(bytes)?;
        self.held = Bytes::copy_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(got)
    }

    fn flow_write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        match self.shared.with_node(|node, now| node.flow_write(now, self.flow, bytes)) {
            FlowWrite::Accepted(taken) => {
                if taken < bytes.len() {
                    self.to_flow = Direction::Blocked;
                }
                Ok(taken.min(bytes.len()))
            }
            FlowWrite::Reset => Err(Reset),
        }
    }

    /// Moves one queue's worth of bytes from the flow to TCP.
    fn flow_to_tcp(&mut self) -> Result<usize, Reset> {
        // A reset discards what waits; whether a closed flow was reset is known by reading it.
        if (self.queue.is_empty() || self.closed()) && self.to_tcp == Direction::Open {
            self.flow_read()?;
            if self.delivered() {
                SockRef::from(&self.tcp).shutdown(Shutdown::Write)?;
            }
        }
        if self.queue.is_empty() {
            return Ok(0);
        }
        let mut pieces = self.queue.iter();
        let slices: [IoSlice<'_>; PIECES] =
            array::from_fn(|_| IoSlice::new(pieces.next().map_or(&[], |piece| piece.as_ref())));
        let count = self.queue.len().min(PIECES);
        let written = match self.tcp.try_write_vectored(slices.get(..count).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            other => other?,
        };
        let mut left = written;
        while let Some(piece) = self.queue.front_mut() {
            if left < piece.len() {
                piece.advance(left);
                break;
            }
            left -= piece.len();
            self.queue.pop_front();
        }
        if self.delivered() {
            SockRef::from(&self.tcp).shutdown(Shutdown::Write)?;
        }
        Ok(written)
    }

    /// Fills the queue.
    fn flow_read(&mut self) -> Result<(), Reset> {
        let (shared, flow) = (self.shared, self.flow);
        shared.with_node(|node, now| {
            let mut room = QUEUE;
            loop {
                match node.flow_read(now, flow, room) {
                    FlowRead::Data(bytes) => {
                        room = room.saturating_sub(bytes.len());
                        self.queue.push_back(bytes);
                        if room == 0 || self.queue.len() >= PIECES {
                            return Ok(());
                        }
                    }
                    FlowRead::Blocked if self.signal.closed.get() => return Err(Reset),
                    FlowRead::Blocked => {
                        self.to_tcp = Direction::Blocked;
                        return Ok(());
                    }
                    FlowRead::Finished => {
                        self.to_tcp = Direction::Ended;
                        return Ok(());
                    }
                    FlowRead::Reset => return Err(Reset),
                }
            }
        })
    }
}

impl<N: Node> Drop for Pump<'_, N> {
    fn drop(&mut self) {
        self.shared.unwatch(self.flow);
        if !self.in_order {
            self.shared.with_node(|node, now| node.flow_reset(now, self.flow));
            // Without lingering the connection is closed by a reset, which the application can tell from an end.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

/// Reads what has come; no bytes mean the end.
fn read(tcp: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    let result = tcp.try_io(Interest::READABLE, || {
        got = (&*SockRef::from(tcp)).read(into)?;
        // A read that is not full has emptied the socket: saying so spares the call that would find it empty.
        if got > 0 && got < into.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if got > 0 { Ok(got) } else { result.map(|()| 0) }
}
