//! Applications at a client: each asks for one stream, as SOCKS5 would, sends, receives and checks every byte.

use std::time::Duration;

use circuit::node::{FlowId, FlowRead, FlowWrite, Node as _, Now};
use circuit::request::{Host, ReplyCode, Target};
use client::node::ClientNode;
use client::socks::Credentials;

use crate::content::{Content, Ending, Exchange};
use crate::host::HostId;

/// What an application writes at once.
const PIECE: usize = 1 << 14;

/// What an application wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Of whom.
    pub target: Target,
    /// As whom.
    pub isolation: Option<Credentials>,
    /// What is said.
    pub exchange: Exchange,
    /// Whether the other side sends back what we send.
    pub echo: bool,
    /// Whether it writes without waiting for the answer.
    pub eager: bool,
    /// Whether it ends its direction without waiting for the answer, if it is eager.
    pub hasty: bool,
    /// It stops to read once so many bytes have come.
    pub appetite: u64,
    /// Resets the stream once so many bytes have come.
    pub reset_after: Option<u64>,
}

impl Wish {
    /// An exchange with the site of this name.
    pub fn new(site: &str, exchange: Exchange) -> Self {
        Self {
            target: Target { host: Host::Name(site.to_owned()), port: 80 },
            isolation: None,
            exchange,
            echo: false,
            eager: false,
            hasty: false,
            appetite: u64::MAX,
            reset_after: None,
        }
    }
}

/// How it ended for an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both directions came to their end.
    Finished,
    /// The stream was not granted.
    Refused(ReplyCode),
    /// The other side, or the network, reset it.
    Reset,
    /// The application reset it.
    ResetByUs,
}

/// Names an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppId {
    /// Its client.
    pub host: HostId,
    /// The client's name for its stream.
    pub flow: FlowId,
}

/// An application, and what it saw. Times are since the start of the simulation.
#[derive(Debug)]
pub struct App {
    wish: Wish,
    up: Content,
    down: Content,
    flow: FlowId,
    hung_up: bool,
    wrote_end: bool,
    read_end: bool,
    /// When it asked.
    pub asked: Duration,
    /// When the stream was granted or refused.
    pub answered: Option<Duration>,
    /// When the first byte of the other side came.
    pub first_byte: Option<Duration>,
    /// When and how it ended.
    pub done: Option<(Duration, Outcome)>,
    /// Bytes that were taken from it.
    pub sent: u64,
    /// Bytes that came.
    pub received: u64,
    /// Where the bytes that came first differed from what they should be.
    pub wrong: Option<u64>,
}

impl App {
    pub(crate) fn new(asked: Duration, wish: Wish, flow: FlowId) -> Self {
        let up = wish.exchange.up();
        let down = if wish.echo { up.clone() } else { wish.exchange.down() };
        let hung_up = wish.exchange.ending != Ending::Hold;
        Self {
            wish,
            up,
            down,
            flow,
            hung_up,
            wrote_end: false,
            read_end: false,
            asked,
            answered: None,
            first_byte: None,
            done: None,
            sent: 0,
            received: 0,
            wrong: None,
        }
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.done.map(|(_, outcome)| outcome)
    }

    /// The time from its request to `at`.
    pub const fn since_asked(&self, at: Duration) -> Duration {
        at.saturating_sub(self.asked)
    }

    /// Whether all bytes of the other side came, and no others.
    pub fn is_whole(&self) -> bool {
        self.wrong.is_none() && self.received == self.down.len()
    }

    /// Ends our direction of an exchange with [`Ending::Hold`].
    pub(crate) const fn hang_up(&mut self) {
        self.hung_up = true;
    }

    pub(crate) fn take_answer(&mut self, at: Duration, code: ReplyCode) {
        if self.done.is_some() {
            return;
        }
        self.answered = Some(at);
        if code != ReplyCode::Succeeded {
            self.done = Some((at, Outcome::Refused(code)));
        }
    }

    /// The node has forgotten the stream; what it gave out before counts.
    pub(crate) fn take_closed(&mut self, at: Duration) {
        self.done.get_or_insert((at, Outcome::Reset));
    }

    /// Writes and reads what can be.
    pub(crate) fn advance(&mut self, node: &mut ClientNode, now: Now, at: Duration) {
        if self.done.is_none() && (self.answered.is_some() || self.wish.eager) {
            self.write(node, now, at);
        }
        if self.done.is_none() && self.answered.is_some() {
            self.read(node, now, at);
        }
        if self.done.is_none() && self.wrote_end && self.read_end {
            self.done = Some((at, Outcome::Finished));
        }
    }

    fn write(&mut self, node: &mut ClientNode, now: Now, at: Duration) {
        while self.sent < self.up.len() {
            let piece = self.up.bytes(self.sent, PIECE);
            match node.flow_write(now, self.flow, &piece) {
                FlowWrite::Accepted(taken) => {
                    self.sent += taken as u64;
                    if taken < piece.len() {
                        return;
                    }
                }
                FlowWrite::Reset => {
                    node.flow_reset(now, self.flow);
                    self.done = Some((at, Outcome::Reset));
                    return;
                }
            }
        }
        // What is finished before the answer is finished before the request, if the request is made again.
        if self.hung_up && !self.wrote_end && (self.wish.hasty || self.answered.is_some()) {
            node.flow_finish(now, self.flow);
            self.wrote_end = true;
        }
    }

    fn read(&mut self, node: &mut ClientNode, now: Now, at: Duration) {
        while !self.read_end && self.received < self.wish.appetite {
            match node.flow_read(now, self.flow, usize::MAX) {
                FlowRead::Data(bytes) => {
                    self.first_byte.get_or_insert(at);
                    self.wrong = self.wrong.or_else(|| self.down.differs(self.received, &bytes));
                    self.received += bytes.len() as u64;
                    if self.wish.reset_after.is_some_and(|after| self.received >= after) {
                        node.flow_reset(now, self.flow);
                        self.done = Some((at, Outcome::ResetByUs));
                        return;
                    }
                }
                FlowRead::Blocked => return,
                FlowRead::Finished => self.read_end = true,
                FlowRead::Reset => {
                    node.flow_reset(now, self.flow);
                    self.done = Some((at, Outcome::Reset));
                    return;
                }
            }
        }
    }
}
