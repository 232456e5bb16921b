//! Streams of one circuit: one QUIC connection (RFC 9000) between client and exit, inside the cell bodies.
//!
//! [`Streams`] is the same type at both ends and pure: it reads no clock, no socket and no global random
//! source. Nothing of the handshake travels, because the circuit has authenticated and encrypted every body
//! already (`session`), so the first stream bytes arrive after one one-way trip. Packets are at most
//! [`MAX_QUIC_PACKET`] bytes and always have a short header.
//!
//! The profile is frozen, for all of it would tell clients apart: no migration, no tokens, no resumption, no
//! spin bit, no ECN, no MTU discovery, connection ids of no length. Links repair what they lose, so only time
//! declares a packet lost ([`TIME_THRESHOLD`] round trips), and `controller` does not take a lost packet
//! for congestion.
//!
//! An idle end costs 10 kB (client) or 13 kB (exit). One gigabyte takes about 2 CPU seconds, both ends together:
//! 2 to 3 µs per packet with its share of acknowledgements.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, ReadError,
    StreamEvent as QuicStreamEvent, TransportErrorCode, VarInt, WriteError,
};

use crate::error::Misbehaved;

mod controller;
mod session;
#[cfg(test)]
mod tests;

/// The QUIC packet that fits one cell body.
pub const MAX_QUIC_PACKET: usize = 1278;

/// A packet is lost when it is this many round trips old and a later one was acknowledged.
pub const TIME_THRESHOLD: f32 = 2.25;

/// Streams that a client may open at first; an exit allows more with use, up to [`StreamConfig::max_streams`].
const FIRST_STREAMS: u32 = 32;

/// The receive window of a stream, and the largest send buffer of a connection.
const STREAM_WINDOW: u32 = 8 << 20;

/// The most packets that are built at once.
const BATCH: usize = 10;

/// The address that quinn-proto believes the peer to have.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)), 1);

/// Which end of the circuit this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The origin, which opens streams.
    Client,
    /// The last hop, which accepts them.
    Exit,
}

impl End {
    /// What this end takes of all streams together before the application takes it, in bytes.
    ///
    /// More than [`STREAM_WINDOW`], so that streams whose application stands still do not stop the others: seven downloads
    /// of a client, whose memory it is, and one upload at an exit.
    const fn window(self) -> u32 {
        match self {
            Self::Client => 8 * STREAM_WINDOW,
            Self::Exit => 2 * STREAM_WINDOW,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Exit,
            Self::Exit => Self::Client,
        }
    }
}

/// Limits of the streams of one circuit.
///
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// The most streams that the client may have open: the exit's choice, not below the 32 it starts with.
    pub max_streams: u32,
    /// The connection is lost when nothing arrives for this long.
    pub idle: Duration,
    /// The round-trip time to believe before the first sample; the setup of the circuit measures a good one.
    pub first_rtt: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self { max_streams: 256, idle: Duration::from_hours(24), first_rtt: Duration::from_millis(100) }
    }
}

/// The name of a stream in its circuit, equal at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(quinn_proto::StreamId);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.index())
    }
}

/// Why a call on a stream cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// There is no such stream (any more): it was finished, reset, stopped or never opened.
    #[error("no such stream")]
    Unknown,
    /// The peer gave up sending, with its code.
    #[error("reset by the peer: code {0}")]
    Reset(u64),
    /// The peer gave up reading, with its code.
    #[error("stopped by the peer: code {0}")]
    Stopped(u64),
    /// The configuration is not one that quinn-proto accepts.
    #[error("not a possible configuration")]
    Config,
}

/// What a read gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes, never none.
    Data(Bytes),
    /// Nothing now; [`StreamEvent::Readable`] follows.
    Blocked,
    /// The peer finished, and all of it was read.
    Finished,
}

/// Why the connection ended, other than by our own [`Streams::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The peer closed it, with its code.
    #[error("closed by the peer: code {0}")]
    Closed(u64),
    /// The peer says that we broke a rule of QUIC, with its error code.
    #[error("aborted by the peer: error {0}")]
    Aborted(u64),
    /// The peer broke a rule of QUIC.
    #[error(transparent)]
    Broken(#[from] Misbehaved),
    /// Nothing arrived for [`StreamConfig::idle`].
    #[error("idle for too long")]
    Idle,
}

/// Something that the owner of the streams should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The client opened a stream (exit only); [`StreamEvent::Readable`] follows at once.
    Opened(StreamId),
    /// There may be bytes, an end or a reset to read.
    Readable(StreamId),
    /// A write that was blocked may go on.
    Writable(StreamId),
    /// The peer has all that was written before [`Streams::finish`].
    Finished(StreamId),
    /// The peer gave up reading, with its code; our side of the stream has been reset with the same code.
    Stopped(StreamId, u64),
    /// More streams may be opened (client only).
    Available,
    /// The connection is over.
    Lost(Lost),
}

/// Counters of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Packets sent, probes and acknowledgements included.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// Packets declared lost, wrongly or rightly.
    pub lost: u64,
    /// The congestion window, in bytes.
    pub window: u64,
    /// The smoothed round-trip time.
    pub rtt: Duration,
}

/// One QUIC connection inside one circuit, established from the first.
///
/// After every call that changes something, drain: [`Streams::poll_transmit`], [`Streams::poll_event`] and
/// [`Streams::poll_timeout`].
pub struct Streams {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    end: End,
    /// Nothing is sent before there is something to say: a circuit that waits in the pool stays silent.
    started: bool,
    batch: Batch,
    events: VecDeque<StreamEvent>,
    /// Streams of which a half is still in use.
    open: BTreeMap<StreamId, Halves>,
    /// Streams that the client may have open now, and at most.
    allowed: u32,
    most_allowed: u32,
}

/// The halves of a stream that are over.
#[derive(Clone, Copy, Default)]
struct Halves {
    sent: bool,
    received: bool,
}

/// Packets that were built together and leave one by one.
struct Batch {
    bytes: Vec<u8>,
    next: usize,
    segment: usize,
    /// How many packets to ask for; grows while all that was asked for is there.
    ask: usize,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("end", &self.end)
            .field("open", &self.open.len())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Streams {
    /// One end of a connection that both ends hold established, without any packet.
    ///
    /// `seed` makes all random choices (packet numbers that are skipped); the same seed and calls give the
    /// same bytes. Errors: [`StreamError::Config`].
    pub fn new(now: Instant, end: End, config: &StreamConfig, seed: [u8; 32]) -> Result<Self, StreamError> {
        let (endpoint, handle, mut connection) = session::establish(now, end, config, seed)?;
        // quinn-proto starts with a key update after some packets; this one takes its place, and there is no
        // other, as the limits of the keys are never reached.
        connection.force_key_update();
        while let Some(event) = connection.poll() {
            if matches!(event, Event::ConnectionLost { .. }) {
                return Err(StreamError::Config);
            }
        }
        let mut streams = Self {
            endpoint,
            handle,
            connection,
            end,
            started: false,
            batch: Batch { bytes: Vec::new(), next: 0, segment: 0, ask: 1 },
            events: VecDeque::new(),
            open: BTreeMap::new(),
            allowed: FIRST_STREAMS,
            most_allowed: config.max_streams,
        };
        streams.pass_endpoint_events();
        Ok(streams)
    }

    /// Takes a packet out of the body of a cell.
    ///
    /// A packet with a long header (bit 0x80) or one that makes no sense is dropped. Errors: the peer broke a
    /// rule of QUIC, and the circuit ends.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) -> Result<(), Misbehaved> {
        // circuit.stream.1
        if packet.first().is_none_or(|first| first & 0x80 != 0) || packet.len() > MAX_QUIC_PACKET {
            return Ok(());
        }
        self.started = true;
        let was_closed = self.connection.is_closed();
        let mut answer = Vec::new(); // stays empty: nothing is ever answered to a short header
        let event = self.endpoint.handle(now, PEER, None, None, BytesMut::from(packet), &mut answer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
        self.pass_endpoint_events();
        if !was_closed && self.connection.is_closed() {
            self.collect();
            for event in &self.events {
                if let StreamEvent::Lost(Lost::Broken(misbehaved)) = event {
                    return Err(*misbehaved);
                }
            }
        }
        Ok(())
    }

    /// Writes the next packet, and gives its length; `out` must have room for [`MAX_QUIC_PACKET`] bytes.
    ///
    /// `None` when there is nothing to send now, or when `out` is too short.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if !self.started || out.len() < MAX_QUIC_PACKET {
            return None;
        }
        loop {
            while let Some(datagram) = self.batch.pop() {
                if let Some(packet) = session::strip(datagram)
                    && let Some(out) = out.get_mut(..packet.len())
                {
                    out.copy_from_slice(packet);
                    return Some(packet.len());
                }
            }
            self.batch.bytes.clear();
            let ask = self.batch.ask;
            let Some(transmit) = self.connection.poll_transmit(now, ask, &mut self.batch.bytes) else {
                self.batch.ask = (ask / 2).max(1);
                self.batch.release();
                return None;
            };
            self.pass_endpoint_events();
            self.batch.filled(transmit.size, transmit.segment_size);
        }
    }

    /// When to call [`Streams::handle_timeout`].
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
        self.pass_endpoint_events();
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<StreamEvent> {
        if self.events.is_empty() {
            self.collect();
        }
        self.events.pop_front()
    }

    /// Opens a stream; `None` until [`StreamEvent::Available`] when the exit allows no more, and at an exit.
    pub fn open(&mut self) -> Option<StreamId> {
        let id = StreamId(self.connection.streams().open(Dir::Bi)?);
        self.open.insert(id, Halves::default());
        self.started = true;
        Some(id)
    }

    /// Takes as many bytes as there is room for; if not all, [`StreamEvent::Writable`] follows.
    pub fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        self.half(id, |halves| halves.sent)?;
        let mut written = 0;
        // quinn-proto tells of room only after it has refused something.
        while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
            match self.connection.send_stream(id.0).write(rest) {
                Ok(more) => written += more,
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(code)) => return Err(StreamError::Stopped(code.into_inner())),
                Err(WriteError::ClosedStream) => return Err(StreamError::Unknown),
            }
        }
        Ok(written)
    }

    /// The next bytes of a stream, at most `max`, shared with the packet that brought them.
    ///
    /// After [`Read::Finished`] or [`StreamError::Reset`] the receiving half is over, and unknown.
    pub fn read(&mut self, id: StreamId, max: usize) -> Result<Read, StreamError> {
        self.half(id, |halves| halves.received)?;
        let mut stream = self.connection.recv_stream(id.0);
        let mut chunks = stream.read(true).map_err(|_| StreamError::Unknown)?;
        let next = chunks.next(max);
        // What it says about transmitting is for drivers that do not drain.
        let _ = chunks.finalize();
        match next {
            Ok(Some(chunk)) => Ok(Read::Data(chunk.bytes)),
            Ok(None) => {
                self.over(id, |halves| halves.received = true);
                Ok(Read::Finished)
            }
            Err(ReadError::Blocked) => Ok(Read::Blocked),
            Err(ReadError::Reset(code)) => {
                self.over(id, |halves| halves.received = true);
                Err(StreamError::Reset(code.into_inner()))
            }
        }
    }

    /// Ends our half after all that was written; [`StreamEvent::Finished`] follows when the peer has it.
    pub fn finish(&mut self, id: StreamId) {
        if self.half(id, |halves| halves.sent).is_ok() {
            // The only errors: it was finished before, or stopped, of which the event tells.
            let _ = self.connection.send_stream(id.0).finish();
        }
    }

    /// Gives up our half: the peer may lose bytes that were written, and reads a reset with this code.
    pub fn reset(&mut self, id: StreamId, code: u32) {
        if self.half(id, |halves| halves.sent).is_ok() {
            let _ = self.connection.send_stream(id.0).reset(VarInt::from_u32(code));
            self.over(id, |halves| halves.sent = true);
        }
    }

    /// Gives up reading: the peer gets [`StreamEvent::Stopped`] with this code.
    pub fn stop(&mut self, id: StreamId, code: u32) {
        if self.half(id, |halves| halves.received).is_ok() {
            let _ = self.connection.recv_stream(id.0).stop(VarInt::from_u32(code));
            self.over(id, |halves| halves.received = true);
        }
    }

    /// Sends something that the peer acknowledges at once.
    pub fn ping(&mut self) {
        self.connection.ping();
    }

    /// Closes the connection with a code; one more packet tells the peer.
    pub fn close(&mut self, now: Instant, code: u32) {
        self.started = true;
        self.connection.close(now, VarInt::from_u32(code), Bytes::new());
        self.pass_endpoint_events();
    }

    /// Whether the connection is closed, by whom ever.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// The number of streams of which a half is still in use.
    pub fn open_streams(&self) -> usize {
        self.open.len()
    }

    /// The smoothed round-trip time; [`StreamConfig::first_rtt`] before the first sample.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// The counters.
    pub fn stats(&self) -> StreamStats {
        let stats = self.connection.stats();
        StreamStats {
            sent: stats.path.sent_packets,
            received: stats.udp_rx.datagrams,
            lost: stats.path.lost_packets,
            window: stats.path.cwnd,
            rtt: stats.path.rtt,
        }
    }

    /// Whether a half of a stream is in use.
    fn half(&self, id: StreamId, is_over: impl Fn(&Halves) -> bool) -> Result<(), StreamError> {
        match self.open.get(&id) {
            Some(halves) if !is_over(halves) => Ok(()),
            _ => Err(StreamError::Unknown),
        }
    }

    /// Notes that a half of a stream is over; forgets the stream with its second half.
    fn over(&mut self, id: StreamId, note: impl Fn(&mut Halves)) {
        if let Some(halves) = self.open.get_mut(&id) {
            note(halves);
            if halves.sent && halves.received {
                self.open.remove(&id);
            }
        }
    }

    /// Passes what the connection has to tell its endpoint, and back.
    fn pass_endpoint_events(&mut self) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
    }

    /// Moves all events of the connection into `events`.
    fn collect(&mut self) {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Stream(event) => self.collect_stream(&event),
                Event::ConnectionLost { reason } => {
                    self.events.extend(lost(&reason).map(StreamEvent::Lost));
                }
                _ => {}
            }
        }
    }

    fn collect_stream(&mut self, event: &QuicStreamEvent) {
        match *event {
            QuicStreamEvent::Opened { dir } => {
                while let Some(id) = self.connection.streams().accept(dir) {
                    let id = StreamId(id);
                    self.open.insert(id, Halves::default());
                    self.events.push_back(StreamEvent::Opened(id));
                    self.events.push_back(StreamEvent::Readable(id));
                }
                self.allow_more();
            }
            QuicStreamEvent::Readable { id } => {
                // One for every packet; the owner reads all there is.
                let event = StreamEvent::Readable(StreamId(id));
                if self.events.back() != Some(&event) {
                    self.events.push_back(event);
                }
            }
            QuicStreamEvent::Writable { id } => self.events.push_back(StreamEvent::Writable(StreamId(id))),
            QuicStreamEvent::Finished { id } => {
                let id = StreamId(id);
                if self.half(id, |halves| halves.sent).is_ok() {
                    self.over(id, |halves| halves.sent = true);
                    self.events.push_back(StreamEvent::Finished(id));
                }
            }
            QuicStreamEvent::Stopped { id, error_code } => {
                let id = StreamId(id);
                if self.half(id, |halves| halves.sent).is_ok() {
                    let _ = self.connection.send_stream(id.0).reset(error_code);
                    self.over(id, |halves| halves.sent = true);
                    self.events.push_back(StreamEvent::Stopped(id, error_code.into_inner()));
                }
            }
            QuicStreamEvent::Available { .. } => self.events.push_back(StreamEvent::Available),
        }
    }

    /// Allows the client twice the streams when it has half of them open.
    fn allow_more(&mut self) {
        let half = usize::try_from(self.allowed / 2).unwrap_or(usize::MAX);
        if self.allowed < self.most_allowed && self.open.len() >= half {
            self.allowed = self.allowed.saturating_mul(2).min(self.most_allowed);
            self.connection.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(self.allowed));
        }
    }
}

impl Batch {
    /// The next packet as quinn-proto built it.
    fn pop(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.next..)?;
        let datagram = rest.get(..self.segment.min(rest.len()))?;
        self.next += datagram.len();
        (!datagram.is_empty()).then_some(datagram)
    }

    /// Notes what was built, and asks for more next time when all that was asked for is there.
    fn filled(&mut self, size: usize, segment: Option<usize>) {
        self.bytes.truncate(size);
        self.next = 0;
        self.segment = segment.unwrap_or(size).max(1);
        self.ask = if size >= self.segment.saturating_mul(self.ask) {
            (self.ask * 2).min(BATCH)
        } else if size <= self.segment {
            (self.ask / 2).max(1)
        } else {
            self.ask
        };
    }

    /// Gives memory back once packets leave alone.
    fn release(&mut self) {
        self.next = 0;
        if self.ask == 1 {
            self.bytes = Vec::new();
        }
    }
}

/// Names the end of a connection; `None` when we ended it.
fn lost(reason: &ConnectionError) -> Option<Lost> {
    Some(match reason {
        ConnectionError::TransportError(error) => Lost::Broken(Misbehaved(match error.code {
            TransportErrorCode::FLOW_CONTROL_ERROR => "stream: more data than allowed",
            TransportErrorCode::STREAM_LIMIT_ERROR => "stream: more streams than allowed",
            TransportErrorCode::STREAM_STATE_ERROR => "stream: frame for a stream in the wrong state",
            TransportErrorCode::FINAL_SIZE_ERROR => "stream: two different ends",
            TransportErrorCode::FRAME_ENCODING_ERROR => "stream: malformed frame",
            _ => "stream: QUIC protocol violation",
        })),
        ConnectionError::ApplicationClosed(close) => Lost::Closed(close.error_code.into_inner()),
        ConnectionError::ConnectionClosed(close) => Lost::Aborted(close.error_code.into()),
        ConnectionError::TimedOut => Lost::Idle,
        ConnectionError::LocallyClosed => return None,
        ConnectionError::VersionMismatch | ConnectionError::Reset | ConnectionError::CidsExhausted => {
            Lost::Broken(Misbehaved("stream: QUIC protocol violation"))
        }
    })
}
