//! A client, pure: keeps circuits ready, attaches streams to them, and builds anew what fails.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use circuit::cell::{self, BodyType};
use circuit::error::DropReason;
use circuit::flows::{FlowEvent, Flows};
use circuit::keys::{BootId, NetworkId, Random};
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Suites};
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::origin::{Action, Answered, Origin};
use circuit::packet::{Cell, CircuitWord, Opened, PACKET, Packet, PacketType, Sealed};
use circuit::request::{Kind, MAX_REQUEST, ReplyCode, Request, Target};
use circuit::setup::Purpose as SetupPurpose;
use circuit::stream::{End, StreamConfig};
use circuit::table::CircuitKey;
use directory::atlas::{Atlas, Blank};
use directory::view::View;
use rand_core::{Rng as _, SeedableRng as _};

use crate::backoff::Backoff;
use crate::guards::Guards;
use crate::path::{NoPath, Paths};
use crate::payer::Payer;
use crate::pool::{Circuit, Failure, LINGER, Pool, Purpose, SPARE_LIFE, TestRun};
use crate::ports::RecentPorts;
use crate::socks::Credentials;
use crate::wishes::Wishes;

mod attach;
mod delivery;
mod entry;
mod pay;
mod ping;
mod question;
mod renew;

pub use ping::Echo;
pub use question::Answer;

use delivery::Strikes;
use entry::Entry;
use ping::Pings;
use question::Questions;

/// The most circuits of a client.
const MAX_CIRCUITS: usize = 16_384;
/// The most circuits that are being built for streams at once.
const MAX_BUILDING: usize = 32;
/// How long a circuit may stand, as the relays are told, in seconds.
const LIFE: u64 = 12 * 3600;
/// After so many bad replies in a row the entry is left.
const BAD_REPLIES: u32 = 3;
/// How often waiting is looked after.
const TICK: Duration = Duration::from_millis(250);
/// A clock that is off by more than this makes setups fail, in ms.
const CLOCK_TOLERANCE: u64 = 60_000;

/// What a client is made of.
#[derive(Debug)]
pub struct Config {
    /// Its network.
    pub network: NetworkId,
    /// The relays.
    pub view: View,
    /// What the user wants of every path.
    pub wishes: Wishes,
    /// Circuits that are kept ready.
    pub prebuilt: usize,
    /// Pays the entry; nothing on a free network.
    pub payer: Option<Payer>,
    /// The guards of the last run.
    pub guards: Guards,
    /// Where addresses are.
    pub atlas: Arc<dyn Atlas>,
}

impl Config {
    /// A client of a free network that was never run before.
    pub fn new(network: NetworkId, view: View, wishes: Wishes) -> Self {
        Self {
            network,
            view,
            wishes,
            prebuilt: 0,
            payer: None,
            guards: Guards::default(),
            atlas: Arc::new(Blank),
        }
    }
}

/// Where the stream of an application stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No circuit has it.
    Waiting,
    /// The exit was asked at this time; the application may have written already.
    Asked { at: Instant, wrote: bool },
    /// The exit has answered.
    Open,
}

/// The stream of an application.
#[derive(Debug)]
struct Wish {
    target: Target,
    isolation: Option<Credentials>,
    stage: Stage,
    since: Instant,
    tries: u32,
    /// The application ended its direction before the exit answered.
    finished: bool,
}

/// Bytes of applications, and what went wrong.
#[derive(Clone, Debug, Default)]
pub struct ClientCounts {
    /// From applications into streams.
    pub bytes_up: u64,
    /// From streams to applications.
    pub bytes_down: u64,
    /// Setups that failed.
    pub failed: u64,
    /// What went wrong last, in words, and no circuit has come to stand since.
    pub last_error: Option<String>,
}

/// A client.
#[derive(Debug)]
pub struct ClientNode {
    network: NetworkId,
    prebuilt: usize,
    payer: Option<Payer>,
    /// The money may have work for the outside.
    worked: bool,
    payment_packets: u64,
    links: Links,
    origin: Origin,
    flows: Flows,
    paths: Paths,
    entry: Option<Entry>,
    /// A guard that comes before the entry in use, while it is tried again.
    probe: Option<Entry>,
    pool: Pool,
    wishes: BTreeMap<FlowId, Wish>,
    /// Wishes that no circuit has, in the order they came.
    waiting: VecDeque<FlowId>,
    tests: BTreeMap<u64, TestRun>,
    pings: Pings,
    questions: Questions,
    ports: RecentPorts,
    outbox: VecDeque<(LinkId, CircuitWord, Box<Cell>)>,
    events: VecDeque<Event>,
    tick: Option<Instant>,
    /// Of setups that are refused, or answered wrongly.
    backoff: Backoff,
    /// Replies in a row that no honest path sends.
    bad_replies: u32,
    /// Circuits over the entry that did not carry what was paid for.
    strikes: Strikes,
    counts: ClientCounts,
}

impl ClientNode {
    /// A client whose randomness comes from `seed`; it dials its entry at the first [`Node::handle_timeout`].
    pub fn new(now: Now, config: Config, seed: [u8; 32]) -> Self {
        let mut rng = Random::from_seed(seed);
        let link_config = LinkConfig {
            network: config.network,
            relay: None,
            boot: BootId(rng.next_u64()),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let mut draw = || {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            seed
        };
        Self {
            links: Links::new(link_config, draw()),
            origin: Origin::new(MAX_CIRCUITS, Random::from_seed(draw())),
            flows: Flows::new(End::Client, StreamConfig::default(), Random::from_seed(draw())),
            paths: Paths::new(Random::from_seed(draw()), config.view, config.wishes)
                .with_guards(config.guards)
                .with_atlas(config.atlas),
            network: config.network,
            prebuilt: config.prebuilt,
            payer: config.payer,
            worked: true,
            payment_packets: 0,
            entry: None,
            probe: None,
            pool: Pool::new(),
            wishes: BTreeMap::new(),
            waiting: VecDeque::new(),
            tests: BTreeMap::new(),
            pings: Pings::default(),
            questions: Questions::default(),
            ports: RecentPorts::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            tick: Some(now.instant),
            backoff: Backoff::default(),
            bad_replies: 0,
            strikes: Strikes::default(),
            counts: ClientCounts::default(),
        }
    }

    /// Its circuits, to look at.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Its links, to look at.
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// The link to the entry, if there is one.
    pub fn entry_link(&self) -> Option<LinkId> {
        self.entry.map(|entry| entry.link)
    }

    /// Its streams, to look at.
    pub const fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The relays that it knows.
    pub const fn view(&self) -> &View {
        self.paths.view()
    }

    /// The choice of its paths, to look at.
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The number of relays in each path.
    pub const fn hops(&self) -> usize {
        self.paths.wishes().hops
    }

    /// Bytes, failures, and what went wrong last.
    pub const fn counts(&self) -> &ClientCounts {
        &self.counts
    }

    /// The number of streams of applications.
    pub fn streams(&self) -> usize {
        self.wishes.len()
    }

    /// Whether some circuit stands.
    pub fn is_ready(&self) -> bool {
        self.pool.values().any(|circuit| circuit.opened.is_some() && circuit.silent.is_none())
    }

    /// By how much our clock is ahead of the entry's in seconds, if that is so much that setups fail.
    pub fn clock_off(&self) -> Option<i64> {
        let off = self.links.peer_clock_ms(self.entry?.link)?;
        (off.unsigned_abs() > CLOCK_TOLERANCE).then_some(-off / 1000)
    }

    /// Asks for a stream to `target` that shares its circuit only with streams of equal `isolation`.
    ///
    /// [`Event::Answered`] follows in any case.
    pub fn open(&mut self, now: Now, isolation: Option<Credentials>, target: Target) -> FlowId {
        let flow = self.flows.reserve();
        let wish =
            Wish { target, isolation, stage: Stage::Waiting, since: now.instant, tries: 0, finished: false };
        self.wishes.insert(flow, wish);
        self.waiting.push_back(flow);
        self.settle(now);
        flow
    }

    /// Builds `count` circuits, `concurrency` at a time, and closes them again.
    pub fn test(&mut self, now: Now, count: usize, concurrency: usize) -> u64 {
        let number = self.tests.keys().next_back().map_or(1, |last| last + 1);
        self.tests.insert(number, TestRun::new(now.instant, count, concurrency));
        self.settle(now);
        number
    }

    /// The result of a test run that has ended; it is forgotten.
    pub fn take_test(&mut self, number: u64) -> Option<TestRun> {
        self.tests.get(&number)?.ended?;
        self.tests.remove(&number)
    }

    /// Sends a setup.
    fn build(&mut self, now: Now, entry: Entry, purpose: Purpose, port: Option<u16>) -> Result<(), NoPath> {
        let via = match purpose {
            Purpose::Test(number) => self.tests.get(&number).and_then(|run| run.via),
            Purpose::Spare | Purpose::Streams(_) | Purpose::Questions => None,
        };
        let path = self.paths.choose_via(now, entry.relay, port, via)?;
        let link = entry.link;
        let Ok(account) = self.account_for(now, entry, &path) else { return Ok(()) };
        let setup = SetupPurpose {
            expiry: u32::try_from(now.unix() + LIFE).unwrap_or(u32::MAX),
            minute: u32::try_from(now.unix() / 60).unwrap_or(u32::MAX),
            exit: true,
            early: &[],
        };
        match self.origin.build(link, self.links.our_opener(link), &path, setup, account) {
            Ok(key) => {
                let path = path.iter().map(|hop| hop.id).collect();
                self.pool.insert(key, Circuit::new(now.instant, path, purpose));
            }
            Err(misuse) => {
                self.counts.last_error = Some(misuse.to_string());
                self.note_test(now, &purpose, Failure::NotSent);
            }
        }
        self.act(now);
        Ok(())
    }

    fn handle_reply(&mut self, now: Now, key: CircuitKey, answered: Answered) {
        match answered {
            Answered::Ready => self.opened(now, key),
            Answered::Refused(0, circuit::setup::Status::Unpaid) => {
                self.not_credited(now);
                self.lost(now, key, Failure::Refused(circuit::setup::Status::Unpaid));
            }
            Answered::Refused(hop, circuit::setup::Status::Unpaid) => {
                self.not_passed_on(now, key, hop);
                self.lost(now, key, Failure::Refused(circuit::setup::Status::Unpaid));
            }
            Answered::Refused(hop, status) => {
                // The next hop is the one that could not be reached.
                let blamed = if status == circuit::setup::Status::Unreachable { hop + 1 } else { hop };
                let path = self.pool.get(&key).map_or(&[][..], |circuit| &circuit.path);
                let relay = path.get(blamed).copied();
                let quality = self.paths.quality_mut();
                if let (Some(from), Some(to)) = (path.get(hop).filter(|_| blamed > hop), relay) {
                    quality.strike_edge(now.instant, *from, to);
                }
                if let Some(relay) = relay {
                    quality.strike(now.instant, relay);
                }
                if relay.is_some() && relay == self.entry.map(|entry| entry.relay) {
                    self.leave_entry(now);
                }
                self.lost(now, key, Failure::Refused(status));
            }
            Answered::Bad => {
                // Some relay of the path did it; which, is not known. One that sees all replies is found out.
                self.avoid_beyond_entry(now, key);
                self.bad_replies += 1;
                if self.bad_replies >= BAD_REPLIES {
                    self.bad_replies = 0;
                    self.leave_entry(now);
                }
                self.lost(now, key, Failure::BadReply);
            }
        }
    }

    fn opened(&mut self, now: Now, key: CircuitKey) {
        let Some(circuit) = self.pool.get_mut(&key) else { return };
        circuit.opened = Some(now.instant);
        circuit.heard = now.instant;
        let time = circuit.setup_time().unwrap_or_default();
        self.paths.quality_mut().built(now.instant, &circuit.path, time);
        if let Some(entry) = circuit.path.first() {
            self.paths.guards_mut().worked(now.unix(), entry);
            if !is_test(&circuit.purpose) {
                self.paths.guards_mut().count(entry, true);
            }
        }
        self.tell_guards();
        self.backoff.succeeded();
        self.bad_replies = 0;
        self.counts.last_error = None;
        let Some(circuit) = self.pool.get_mut(&key) else { return };
        if let Purpose::Test(number) = circuit.purpose {
            if let Some(run) = self.tests.get_mut(&number) {
                run.note(now.instant, Ok(time));
            }
            self.close(now, key);
        } else if self.flows.add(now.instant, key, time).is_err() {
            self.close(now, key);
        }
    }

    /// Ends a circuit that stands or is being built.
    fn close(&mut self, now: Now, key: CircuitKey) {
        self.note_traffic(now, key);
        self.origin.close(now, key);
        self.pool.remove(&key);
        self.flows.remove(key);
    }

    /// A circuit is gone.
    fn lost(&mut self, now: Now, key: CircuitKey, failure: Failure) {
        self.note_traffic(now, key);
        let Some(circuit) = self.pool.remove(&key) else { return };
        self.flows.remove(key);
        if circuit.opened.is_none() {
            self.paths.quality_mut().not_built(now.instant, &circuit.path);
            self.count_against_guard(now, &circuit, failure);
            self.counts.failed += 1;
            self.counts.last_error = Some(format!("a circuit was not built: {}", failure.as_str()));
            // A time-out is a wait already.
            if matches!(failure, Failure::Refused(_) | Failure::BadReply) && !is_test(&circuit.purpose) {
                self.backoff.failed(now.instant);
            }
            self.note_test(now, &circuit.purpose, failure);
        }
    }

    /// A circuit was not built: its test run, if it is of one, is told.
    fn note_test(&mut self, now: Now, purpose: &Purpose, failure: Failure) {
        if let Purpose::Test(number) = purpose
            && let Some(run) = self.tests.get_mut(number)
        {
            run.note(now.instant, Err(failure));
        }
    }

    /// Does what the parts want done, until they want nothing more.
    fn act(&mut self, now: Now) {
        loop {
            self.act_on_money(now);
            if let Some(action) = self.origin.poll_action() {
                match action {
                    Action::Send(link, word, cell) => self.outbox.push_back((link, word, cell)),
                    Action::Hold(link) => self.links.hold(link),
                    Action::Release(link) => self.links.release(now, link),
                }
            } else if let Some(event) = self.links.poll_event() {
                self.handle_link_event(now, event);
            } else if let Some(event) = self.flows.poll_event() {
                self.handle_flow_event(now, event);
            } else {
                return;
            }
        }
    }

    fn handle_link_event(&mut self, now: Now, event: LinkEvent) {
        if let LinkEvent::Lost { link } = event {
            if self.entry.is_some_and(|entry| entry.link == link) {
                self.entry = None;
            }
            if let Some(payer) = &mut self.payer {
                payer.link_lost(link);
            }
            for key in self.origin.handle_link_lost(now, link) {
                self.lost(now, key, Failure::LinkLost);
            }
        }
    }

    /// Gives up what waited too long, and replaces what has grown old.
    fn expire(&mut self, now: Now) {
        let (mut late, mut old) = (vec![], vec![]);
        let limit = self.paths.quality().build_limit();
        for (key, circuit) in &self.pool {
            let age = now.instant.saturating_duration_since(circuit.began);
            let idle = self.flows.on(*key) == 0;
            let worn = match circuit.purpose {
                Purpose::Spare => age >= SPARE_LIFE || circuit.retired,
                Purpose::Streams(_) => idle && !circuit.takes(now.instant, isolation_of(circuit)),
                // directory.stream.2
                Purpose::Questions => {
                    let over = circuit.used.map_or(age >= SPARE_LIFE, |used| {
                        now.instant.saturating_duration_since(used) >= LINGER
                    });
                    idle && (over || circuit.retired)
                }
                Purpose::Test(_) => false,
            };
            let hopeless = circuit.silent.is_some_and(|since| {
                idle || now.instant.saturating_duration_since(since) > 10 * circuit.patience()
            });
            if circuit.opened.is_none() && age >= limit {
                late.push(*key);
            } else if circuit.opened.is_some() && (worn || hopeless) {
                old.push(*key);
            }
        }
        for key in late {
            self.paths.quality_mut().given_up();
            self.avoid_beyond_entry(now, key);
            self.origin.close(now, key);
            self.lost(now, key, Failure::TimedOut);
        }
        for key in old {
            self.close(now, key);
        }
    }

    /// Some relay of the path does not answer; which, is not known. The entry answers for itself on its link.
    fn avoid_beyond_entry(&mut self, now: Now, key: CircuitKey) {
        let Some(circuit) = self.pool.get(&key) else { return };
        for relay in circuit.path.iter().skip(1) {
            self.paths.quality_mut().strike(now.instant, *relay);
        }
    }

    fn handle_cell(
        &mut self,
        now: Now,
        link: LinkId,
        mut packet: Packet<'_, Opened>,
    ) -> Result<(), DropReason> {
        let word = packet.word();
        let (key, hop) = match self.origin.handle_cell(now.instant, link, word, packet.cell()) {
            Ok(opened) => opened,
            Err((key, reason)) => {
                if let (Some(key), DropReason::BadLayer | DropReason::NoCredit) = (key, reason) {
                    // pay.bill.3
                    if reason == DropReason::NoCredit && self.entry_link() == self.origin.link(key) {
                        self.leave_entry(now);
                    }
                    self.close(now, key);
                    self.act(now);
                    self.settle(now);
                }
                return Err(reason);
            }
        };
        let last = self.origin.hops(key).map_or(0, |hops| hops - 1);
        let honest = match cell::read_body(cell::body(packet.cell())) {
            // circuit.cell.2: only the exit speaks.
            Ok((BodyType::Quic, data)) if hop == last => {
                self.flows.handle_packet(now.instant, key, data).is_ok()
            }
            Ok(_) | Err(_) => false,
        };
        if let Some(circuit) = self.pool.get_mut(&key) {
            circuit.received += 1;
            circuit.heard = now.instant;
            circuit.silent = None;
            if circuit.probe.take().is_none() {
                circuit.repeats = 0;
            }
        }
        self.grant(key);
        if !honest {
            self.leave_broken(now, key);
        }
        self.act(now);
        if !honest || !self.waiting.is_empty() {
            self.settle(now);
        }
        Ok(())
    }

    fn handle_other(
        &mut self,
        now: Now,
        link: LinkId,
        mut packet: Packet<'_, Opened>,
    ) -> Result<(), DropReason> {
        let word = packet.word();
        match word.kind() {
            Some(PacketType::Reply) => {
                let (key, answered) = self.origin.handle_reply(now, link, word, packet.cell())?;
                self.handle_reply(now, key, answered);
                Ok(())
            }
            Some(PacketType::Destroy) => {
                let key = self.origin.handle_destroy(now, link, word)?;
                // Which relay ended it is not known.
                self.avoid_beyond_entry(now, key);
                self.lost(now, key, Failure::Destroyed);
                Ok(())
            }
            Some(PacketType::Cell | PacketType::Setup | PacketType::Control) | None => {
                Err(DropReason::Misbehaved)
            }
        }
    }

    /// Writes the next cell of a stream.
    fn transmit_streams(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        loop {
            let (flows, origin) = (&mut self.flows, &mut self.origin);
            let mut packet = Packet::blank(out);
            let mut chosen = None;
            cell::write_body(cell::body(packet.cell()), BodyType::Quic, |data| {
                let (key, length) = flows.poll_transmit(now.instant, data, |key| origin.may_seal(key))?;
                chosen = Some(key);
                Some(length)
            })
            .ok()?;
            let key = chosen?;
            let last = self.origin.hops(key)?.checked_sub(1)?;
            let Some((link, word)) = self.origin.seal(key, last, packet.cell()) else {
                self.close(now, key);
                self.act(now);
                continue;
            };
            if let Some(circuit) = self.pool.get_mut(&key) {
                circuit.sent += 1;
            }
            packet.set_word(word);
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                return Some(to);
            }
        }
    }

    fn transmit_waiting(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        while let Some((link, word, cell)) = self.outbox.pop_front() {
            let mut packet = Packet::blank(out);
            packet.set_word(word);
            *packet.cell() = *cell;
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                return Some(to);
            }
        }
        None
    }
}

const fn is_test(purpose: &Purpose) -> bool {
    matches!(purpose, Purpose::Test(_))
}

const fn isolation_of(circuit: &Circuit) -> Option<&Credentials> {
    match &circuit.purpose {
        Purpose::Streams(Some(credentials)) => Some(credentials),
        Purpose::Streams(None) | Purpose::Spare | Purpose::Questions | Purpose::Test(_) => None,
    }
}

impl Node for ClientNode {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        match self.links.open(now, from, packet)? {
            Arrival::Circuit { link, packet } if packet.word().kind() == Some(PacketType::Cell) => {
                self.handle_cell(now, link, packet)?;
            }
            Arrival::Circuit { link, packet } => {
                let handled = self.handle_other(now, link, packet);
                self.settle(now);
                handled?;
            }
            Arrival::Payments { link, mut packet } => {
                let handled = self.handle_payments(now, link, packet.cell());
                self.act(now);
                self.settle(now);
                handled?;
            }
            Arrival::Consumed => {
                self.act(now);
                self.settle(now);
            }
        }
        Ok(Verdict::Consumed)
    }

    fn handle_timeout(&mut self, now: Now) {
        self.links.handle_timeout(now);
        self.flows.handle_timeout(now.instant);
        self.pay_timeout(now);
        self.act(now);
        if self.tick.is_some_and(|tick| tick <= now.instant) {
            self.expire(now);
            self.measure(now);
            self.watch_entry(now);
            self.return_to_guard(now);
            self.find_silence(now);
            self.grant_again(now);
            self.watch_delivery(now);
            self.tick = Some(now.after(TICK));
        }
        self.settle(now);
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        // Payment goes before what it pays for.
        self.transmit_payments(now, out)
            .or_else(|| self.transmit_waiting(now, out))
            .or_else(|| self.links.poll_transmit(now, out))
            .or_else(|| self.transmit_streams(now, out))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let money = self.payer.as_ref().and_then(Payer::poll_timeout);
        [self.links.poll_timeout(), self.flows.poll_timeout(), self.tick, money].into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        if self.worked && self.payer.is_some() {
            self.worked = false;
            return Some(Event::Money);
        }
        self.events.pop_front()
    }

    fn flow_read(&mut self, now: Now, flow: FlowId, max: usize) -> FlowRead {
        if self.wishes.get(&flow).is_some_and(|wish| wish.stage != Stage::Open) {
            return FlowRead::Blocked;
        }
        let read = self.flows.read(flow, max);
        if let FlowRead::Data(bytes) = &read {
            self.counts.bytes_down += bytes.len() as u64;
        }
        self.forget_if_over(now, flow);
        read
    }

    fn flow_write(&mut self, now: Now, flow: FlowId, bytes: &[u8]) -> FlowWrite {
        match self.wishes.get_mut(&flow) {
            None => return FlowWrite::Reset,
            Some(Wish { stage: Stage::Waiting, .. }) => return FlowWrite::Accepted(0),
            Some(Wish { stage: Stage::Asked { wrote, .. }, .. }) => *wrote |= !bytes.is_empty(),
            Some(Wish { stage: Stage::Open, .. }) => {}
        }
        let written = self.flows.write(flow, bytes);
        if let FlowWrite::Accepted(taken) = written {
            self.counts.bytes_up += taken as u64;
        }
        self.forget_if_over(now, flow);
        written
    }

    fn flow_finish(&mut self, now: Now, flow: FlowId) {
        match self.wishes.get_mut(&flow) {
            // Until then the request may have to be made again.
            Some(wish) if wish.stage != Stage::Open => {
                wish.finished = true;
            }
            _ => self.flows.finish(flow),
        }
        self.forget_if_over(now, flow);
    }

    fn flow_reset(&mut self, now: Now, flow: FlowId) {
        self.waiting.retain(|waiting| *waiting != flow);
        self.flows.reset(flow);
        self.wishes.remove(&flow);
        self.act(now);
    }
}
