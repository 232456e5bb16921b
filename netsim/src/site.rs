//! Destinations beyond the exits: TCP as exits and sites see it, without its packets.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use circuit::node::FlowId;
use circuit::request::{Host, ReplyCode, Target};

use crate::content::{Content, Ending, Exchange, REQUEST};
use crate::host::HostId;

/// What either side of a connection takes before the other has read.
const WINDOW: usize = 1 << 20;
/// What a site writes at once.
const PIECE: usize = 1 << 14;

/// What a site does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Sends back what comes, and ends when the other side does.
    Echo,
    /// Does what the [`Exchange`] at the front of the connection says.
    Exchange,
    /// Refuses connections.
    Refuse,
    /// Resets every connection as soon as a byte comes.
    Reset,
    /// Never answers to connections.
    Silent,
    /// Never answers to connections, and the exit does not give up.
    Lost,
    /// Never reads and never writes.
    Deaf,
}

/// A destination.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Its address.
    pub ip: IpAddr,
    /// The time that a byte takes from the exit to the site, or back.
    pub delay: Duration,
    /// What it does.
    pub service: Service,
}

/// What one side of a connection tells the other; it comes after the site's delay.
#[derive(Clone, Debug)]
pub enum Signal {
    /// The exit connects.
    Connect,
    /// The connection stands, or does not.
    Connected(ReplyCode),
    /// Bytes.
    Data(Bytes),
    /// So many bytes were read: there is room again.
    Room(usize),
    /// This direction has ended.
    End,
    /// Both directions have ended at once.
    Reset,
}

/// How a connection ended, as the site saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both directions came to their end.
    InOrder,
    /// The exit reset it.
    ByPeer,
    /// The site reset it.
    BySite,
}

/// A connection as the site sees it.
#[derive(Debug)]
pub struct Visit {
    service: Service,
    /// The request, as far as it came.
    head: Vec<u8>,
    exchange: Option<(Exchange, Content, Content)>,
    /// What is to be sent back.
    echo: VecDeque<Bytes>,
    room: usize,
    heard_end: bool,
    said_end: bool,
    /// Bytes that came, the request included.
    pub received: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// Where the bytes that came first differed from what was announced.
    pub wrong: Option<u64>,
    /// How it ended, once it has.
    pub ended: Option<Ended>,
}

impl Visit {
    const fn new(service: Service) -> Self {
        Self {
            service,
            head: Vec::new(),
            exchange: None,
            echo: VecDeque::new(),
            room: WINDOW,
            heard_end: false,
            said_end: false,
            received: 0,
            sent: 0,
            wrong: None,
            ended: None,
        }
    }

    /// What was asked for, once it is known.
    pub fn exchange(&self) -> Option<Exchange> {
        self.exchange.as_ref().map(|(exchange, ..)| *exchange)
    }

    /// Takes what the exit tells, and answers.
    fn take(&mut self, signal: Signal) -> Vec<Signal> {
        let mut answers = vec![];
        if self.ended.is_some() {
            return answers;
        }
        match signal {
            Signal::Connect => match self.service {
                Service::Refuse => {
                    self.ended = Some(Ended::BySite);
                    answers.push(Signal::Connected(ReplyCode::ConnectionRefused));
                }
                Service::Silent | Service::Lost => {}
                Service::Echo | Service::Exchange | Service::Reset | Service::Deaf => {
                    answers.push(Signal::Connected(ReplyCode::Succeeded));
                }
            },
            Signal::Data(bytes) if self.service == Service::Deaf => self.received += bytes.len() as u64,
            Signal::Data(bytes) => {
                answers.push(Signal::Room(bytes.len()));
                self.read(bytes);
            }
            Signal::Room(bytes) => self.room += bytes,
            Signal::End => self.heard_end = true,
            Signal::Reset => self.ended = Some(Ended::ByPeer),
            Signal::Connected(_) => {}
        }
        self.write(&mut answers);
        answers
    }

    fn read(&mut self, bytes: Bytes) {
        let at = self.received;
        self.received += bytes.len() as u64;
        if self.service == Service::Echo {
            self.echo.push_back(bytes);
            return;
        }
        if self.exchange.is_none() {
            self.head.extend_from_slice(&bytes);
            if let Some(head) = self.head.first_chunk::<REQUEST>() {
                match Exchange::decode(head) {
                    Ok(exchange) => {
                        self.wrong = exchange.up().differs(0, &self.head);
                        self.exchange = Some((exchange, exchange.up(), exchange.down()));
                    }
                    Err(_) => self.wrong = Some(0),
                }
            }
        } else if let Some((_, up, _)) = &self.exchange {
            self.wrong = self.wrong.or_else(|| up.differs(at, &bytes));
        }
    }

    fn write(&mut self, answers: &mut Vec<Signal>) {
        let (all, mut then) = match (self.service, &self.exchange) {
            (Service::Echo, _) => {
                while let Some(bytes) = self.echo.front_mut() {
                    let piece = bytes.split_to(bytes.len().min(self.room));
                    if piece.is_empty() {
                        break;
                    }
                    self.room -= piece.len();
                    self.sent += piece.len() as u64;
                    if bytes.is_empty() {
                        self.echo.pop_front();
                    }
                    answers.push(Signal::Data(piece));
                }
                (self.echo.is_empty() && self.heard_end, Signal::End)
            }
            (Service::Exchange, Some((exchange, _, down))) => {
                if exchange.ending == Ending::AfterUpload && !self.heard_end {
                    return;
                }
                while self.sent < down.len() && self.room > 0 {
                    let piece = down.bytes(self.sent, PIECE.min(self.room));
                    self.room -= piece.len();
                    self.sent += piece.len() as u64;
                    answers.push(Signal::Data(piece.into()));
                }
                let held = exchange.ending == Ending::Hold && !self.heard_end;
                let then = if exchange.ending == Ending::Reset { Signal::Reset } else { Signal::End };
                (self.sent == down.len() && !held, then)
            }
            (Service::Reset, _) => (self.received > 0, Signal::Reset),
            (Service::Exchange | Service::Refuse | Service::Silent | Service::Lost | Service::Deaf, _) => {
                (false, Signal::End)
            }
        };
        if all && !self.said_end && self.ended.is_none() {
            self.said_end = true;
            if matches!(then, Signal::Reset) {
                self.ended = Some(Ended::BySite);
            }
            answers.push(core::mem::replace(&mut then, Signal::End));
        }
        if self.said_end && self.heard_end && self.ended.is_none() {
            self.ended = Some(Ended::InOrder);
        }
    }
}

/// Names a connection from an exit to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// A connection: the exit's socket, and what the site makes of it.
#[derive(Debug)]
pub struct Connection {
    /// The exit.
    pub exit: HostId,
    /// The exit's name for it.
    pub flow: FlowId,
    /// The one-way time.
    pub delay: Duration,
    /// Whether the site has answered, or was given up.
    pub connected: bool,
    /// Bytes that the socket takes from the exit.
    pub room: usize,
    /// Bytes that came for the exit.
    pub inbox: VecDeque<Bytes>,
    /// The site has ended its direction.
    pub ended: bool,
    /// The exit has ended its direction.
    pub said_end: bool,
    /// The site's view.
    pub visit: Visit,
}

/// All sites and the connections to them.
#[derive(Debug, Default)]
pub struct Sites {
    by_name: BTreeMap<String, Site>,
    connections: BTreeMap<ConnectionId, Connection>,
    next: u64,
}

impl Sites {
    /// Adds a site under a name.
    pub fn add(&mut self, name: &str, site: Site) {
        self.by_name.insert(name.to_owned(), site);
    }

    /// Resolves a target.
    pub(crate) fn find(&self, target: &Target) -> Option<Site> {
        match &target.host {
            Host::Name(name) => self.by_name.get(name).copied(),
            Host::Ip(ip) => self.by_name.values().find(|site| site.ip == *ip).copied(),
        }
    }

    /// A new connection of an exit, on which nothing was said yet.
    pub(crate) fn begin(&mut self, exit: HostId, flow: FlowId, site: Site) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        let connection = Connection {
            exit,
            flow,
            delay: site.delay,
            connected: false,
            room: WINDOW,
            inbox: VecDeque::new(),
            ended: false,
            said_end: false,
            visit: Visit::new(site.service),
        };
        self.connections.insert(id, connection);
        id
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// Gives the site what the exit told it; the delay, and its answers.
    pub(crate) fn take(&mut self, id: ConnectionId, signal: Signal) -> Option<(Duration, Vec<Signal>)> {
        let connection = self.connections.get_mut(&id)?;
        Some((connection.delay, connection.visit.take(signal)))
    }

    /// What the sites have seen, in the order of the connections.
    pub fn visits(&self) -> impl Iterator<Item = &Visit> {
        self.connections.values().map(|connection| &connection.visit)
    }

    /// The visit that asked for this exchange.
    pub fn visit(&self, exchange: Exchange) -> Option<&Visit> {
        self.visits().find(|visit| visit.exchange() == Some(exchange))
    }
}
