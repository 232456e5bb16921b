//! A relay, pure: the straight pipe from packet to packet, and everything that is not a cell on its way through.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use circuit::cell::{self, BodyType};
use circuit::error::DropReason;
use circuit::keys::{BootId, DhSecret, IdentitySecret, NetworkId, Random, RelayId};
use circuit::ledger::{AccountId, Ledger};
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{CELL, Cell, CircuitWord, Opened, PACKET, Packet, PacketType, Sealed};
use circuit::relay::{Action, Asks, CellStep, From, Relay, RelayConfig};
use circuit::request::ReplyCode;
use circuit::seen::SeenSetups;
use circuit::setup::Status;
use circuit::stream::StreamConfig;
use circuit::table::CircuitKey;
use directory::view::View;
use payments::frame::{Frame, Frames};
use rand_core::{Rng as _, SeedableRng as _};

use crate::cashier::{Cashier, CashierConfig, Request};
use crate::exit::Exit;
use crate::policy::ExitPolicy;
use crate::throttle::Throttle;

mod change;

/// The most packets that wait for their turn; only control traffic waits.
const MAX_OUTBOX: usize = 16_384;
/// How long setups are refused after the log could not be written.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// A relay's secrets.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Who it is.
    pub identity: IdentitySecret,
    /// What its links are authenticated by.
    pub link: DhSecret,
    /// What setups are sealed to, by epoch.
    pub onion: BTreeMap<u32, DhSecret>,
}

/// What a relay is made of.
#[derive(Debug)]
pub struct Config {
    /// Its secrets.
    pub keys: Keys,
    /// Its network.
    pub network: NetworkId,
    /// The other relays.
    pub view: View,
    /// What it connects to, if it is an exit.
    pub exit: Option<ExitPolicy>,
    /// Whether it is an exit for clients directly.
    pub allow_single_hop: bool,
    /// The setups it has seen before.
    pub seen: SeenSetups,
    /// What it asks for a cell, and how it is paid; nothing on a free network.
    pub payments: Option<(Asks, CashierConfig)>,
}

/// A relay.
#[derive(Debug)]
pub struct RelayNode {
    id: RelayId,
    links: Links,
    relay: Relay,
    exit: Option<Exit>,
    view: View,
    rng: Random,
    /// Half-open circuits that wait for a link, and for which.
    extending: BTreeMap<CircuitKey, LinkId>,
    outbox: VecDeque<(LinkId, CircuitWord, Box<Cell>)>,
    events: VecDeque<Event>,
    no_setups_until: Option<Instant>,
    cashier: Option<Cashier>,
    /// The money may have work for the outside.
    worked: bool,
    payment_packets: u64,
    /// What limits the cells of a second.
    throttle: Throttle,
    reached: Reached,
}

/// Links that others have begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// How many, since the start.
    pub links: u64,
    /// When the last one came, in unix seconds; 0 for never.
    pub last: u64,
}

impl RelayNode {
    /// A relay whose randomness comes from `seed`.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let mut rng = Random::from_seed(seed);
        let id = config.keys.identity.id();
        let boot = BootId(rng.next_u64());
        let keys = RelayKeys { identity: config.keys.identity, link: config.keys.link };
        let link_config = LinkConfig {
            network: config.network,
            relay: Some(keys),
            boot,
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let mut links = Links::new(link_config, draw(&mut rng));
        links.set_relays(config.view.iter().map(|relay| (relay.link_key, relay.id)));
        let relay_config = RelayConfig {
            exit: config.exit.is_some(),
            single_hop: config.allow_single_hop,
            asks: config.payments.as_ref().map(|(asks, _)| *asks),
            ..RelayConfig::new(id)
        };
        let mut cashier = config.payments.map(|(_, cashier)| Cashier::new(cashier));
        if let Some(cashier) = cashier.as_mut().filter(|_| config.view.registry().is_none()) {
            cashier.expect(config.view.iter().filter_map(|relay| Some(relay.payment?.owner)));
        }
        let relay_rng = Random::from_seed(draw(&mut rng));
        let exit_rng = Random::from_seed(draw(&mut rng));
        Self {
            id,
            links,
            relay: Relay::new(relay_config, config.keys.onion, config.seen, relay_rng),
            exit: config.exit.map(|policy| Exit::new(policy, StreamConfig::default(), exit_rng)),
            view: config.view,
            rng,
            extending: BTreeMap::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            no_setups_until: None,
            cashier,
            worked: true,
            payment_packets: 0,
            throttle: Throttle::default(),
            reached: Reached::default(),
        }
    }

    /// The relay's name.
    pub const fn id(&self) -> RelayId {
        self.id
    }

    /// Its links, to look at.
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Whether others reach it.
    pub const fn reached(&self) -> Reached {
        self.reached
    }

    /// Its circuits, to look at.
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Its exit, to look at.
    pub const fn exit(&self) -> Option<&Exit> {
        self.exit.as_ref()
    }

    /// Its money, to look at.
    pub const fn cashier(&self) -> Option<&Cashier> {
        self.cashier.as_ref()
    }

    /// The packets sent with frames of payments.
    pub const fn payment_packets(&self) -> u64 {
        self.payment_packets
    }

    /// Its money, to take from what it has for the outside.
    pub const fn cashier_mut(&mut self) -> Option<&mut Cashier> {
        self.cashier.as_mut()
    }

    /// Tells the money what has happened outside: records kept, accounts seen.
    pub fn with_cashier<T>(
        &mut self,
        now: Now,
        work: impl FnOnce(&mut Cashier, &mut Ledger) -> T,
    ) -> Option<T> {
        let result = work(self.cashier.as_mut()?, self.relay.ledger_mut());
        self.worked = true;
        self.act(now);
        Some(result)
    }

    /// Replaces what is asked for a cell; circuits that stand keep their price.
    pub const fn set_asks(&mut self, asks: Asks) {
        if self.cashier.is_some() {
            self.relay.set_asks(Some(asks));
        }
    }

    /// Whether the exit may connect to a resolved address.
    pub fn exit_allows(&self, ip: IpAddr, port: u16) -> bool {
        self.exit.as_ref().is_some_and(|exit| exit.allows(ip, port))
    }

    /// Has questions about the directory answered from now on, if this is an exit.
    pub const fn serve_directory(&mut self) {
        if let Some(exit) = &mut self.exit {
            exit.serve_directory();
        }
    }

    /// The answer to a question about the directory, if it deserves one.
    pub fn answer_directory(&mut self, flow: FlowId, answer: Option<Vec<u8>>) {
        if let Some(exit) = &mut self.exit {
            exit.answer_directory(flow, answer);
        }
    }

    /// The driver has connected a flow to its destination, or has not.
    pub fn connected(&mut self, flow: FlowId, outcome: ReplyCode) {
        if let Some(exit) = &mut self.exit {
            exit.connected(flow, outcome);
        }
    }

    /// The log could not be written: what waits for it is never sent, and setups are refused for a while.
    pub fn log_failed(&mut self, now: Now) {
        self.no_setups_until = Some(now.after(LOG_PAUSE));
        let waits = |word: &CircuitWord| matches!(word.kind(), Some(PacketType::Setup | PacketType::Reply));
        let (unsent, rest): (VecDeque<_>, _) =
            std::mem::take(&mut self.outbox).into_iter().partition(|(_, word, _)| waits(word));
        self.outbox = rest;
        for (link, word, _) in unsent {
            self.relay.cancel(now, link, word);
        }
        self.act(now);
    }

    /// The straight pipe: one packet, one buffer.
    fn pipe(
        &mut self,
        now: Now,
        link: LinkId,
        mut packet: Packet<'_, Opened>,
    ) -> Result<Verdict, DropReason> {
        let word = packet.word();
        // operate.rate.1
        if !self.throttle.take(now.instant) {
            return Err(DropReason::Congestion);
        }
        match self.relay.handle_cell(now.instant, link, word, packet.cell())? {
            CellStep::Pass(link, word) => {
                packet.set_word(word);
                if self.relay.ledger().has_notes() {
                    self.act(now);
                }
                let (_, to) = self.links.seal(now, link, packet)?;
                Ok(Verdict::Forward(to))
            }
            CellStep::Here(circuit) => {
                self.consume(now, circuit, packet.cell());
                Ok(Verdict::Consumed)
            }
        }
    }

    /// Takes the body of a cell that ends here.
    fn consume(&mut self, now: Now, circuit: CircuitKey, cell: &mut Cell) {
        let honest = match (cell::read_body(cell::body(cell)), &mut self.exit) {
            (Ok((BodyType::Padding, _)), _) => true,
            (Ok((BodyType::Quic, packet)), Some(exit)) if self.relay.is_exit(circuit) => {
                exit.handle_packet(now.instant, circuit, packet).is_ok()
            }
            // circuit.cell.5
            _ => false,
        };
        if !honest {
            self.relay.close(now, circuit);
        }
        self.act(now);
    }

    fn handle_other(
        &mut self,
        now: Now,
        link: LinkId,
        mut packet: Packet<'_, Opened>,
    ) -> Result<(), DropReason> {
        let word = packet.word();
        match word.kind() {
            Some(PacketType::Setup) => {
                if self.no_setups_until.is_some_and(|until| until > now.instant) || self.has_left(now, link) {
                    return Err(DropReason::Limit);
                }
                let from = From {
                    link,
                    peer: self.links.peer(link),
                    source: self.links.source(link),
                    our_opener: self.links.our_opener(link),
                    account: self.cashier.as_ref().and_then(|cashier| cashier.account(link)),
                };
                self.relay.handle_setup(now, from, word, packet.cell())
            }
            Some(PacketType::Reply) => self.relay.handle_reply(now, link, word, packet.cell()),
            Some(PacketType::Destroy) => self.relay.handle_destroy(now, link, word),
            Some(PacketType::Cell | PacketType::Control) | None => Err(DropReason::Misbehaved),
        }
    }

    /// Does what the parts want done, until they want nothing more.
    fn act(&mut self, now: Now) {
        loop {
            while let Some(event) = self.links.poll_event() {
                self.handle_link_event(now, event);
            }
            while let Some(circuit) = self.exit.as_mut().and_then(Exit::poll_lost) {
                self.relay.close(now, circuit);
            }
            self.act_on_money(now);
            let Some(action) = self.relay.poll_action() else { return };
            match action {
                Action::Log(entry) => self.events.push_back(Event::Persist(entry)),
                Action::Send(link, word, cell) => {
                    if self.outbox.len() < MAX_OUTBOX {
                        self.outbox.push_back((link, word, cell));
                    }
                }
                Action::Extend(circuit, next) => self.extend(now, circuit, next),
                Action::Granted(circuit) => {
                    if let Some(exit) = &mut self.exit {
                        exit.wake(circuit);
                    }
                }
                Action::Grant(link, word, cells) => {
                    let circuit = word.with_kind(PacketType::Cell).to_bits();
                    if let Some(cashier) = &mut self.cashier {
                        cashier.send(link, Frame::Grant { circuit, cells });
                    }
                }
                Action::Hold(link) => self.links.hold(link),
                Action::Release(link) => self.links.release(now, link),
                Action::Ended(circuit) => {
                    self.extending.remove(&circuit);
                    if let Some(exit) = &mut self.exit {
                        exit.remove(circuit);
                    }
                }
            }
        }
    }

    /// Pays and tells what the ledger has noted, and does what the cashier asks for.
    fn act_on_money(&mut self, now: Now) {
        let Some(cashier) = &mut self.cashier else { return };
        while let Some(account) = self.relay.ledger_mut().poll_note() {
            self.worked = true;
            cashier.noted(now, self.relay.ledger_mut(), account);
        }
        while let Some(request) = cashier.poll_request() {
            match request {
                Request::Credited(account) => self.relay.credited(account),
                Request::Close(account) => self.relay.close_account(now, account),
                Request::Leave(account) => self.relay.leave_account(now, account),
            }
        }
    }

    /// Takes the frames of payments of a control packet.
    fn handle_payments(&mut self, now: Now, link: LinkId, cell: &Cell) -> Result<(), DropReason> {
        for frame in Frames::new(cell) {
            let frame = frame?;
            let Some(cashier) = &mut self.cashier else { return Err(DropReason::Misbehaved) };
            self.worked = true;
            match frame {
                // A circuit that ended here is no news to who granted it more.
                Frame::Grant { circuit, cells } => {
                    let _ = self.relay.handle_grant(link, CircuitWord::from_bits(circuit), cells);
                }
                frame => cashier.handle(now, self.relay.ledger_mut(), link, &frame)?,
            }
        }
        Ok(())
    }

    /// The account that a circuit over this link is owed to.
    fn payee(&self, link: LinkId) -> Option<AccountId> {
        self.cashier.as_ref()?.account(link)
    }

    /// Whether a relay is not to be paid at the moment, for what it did.
    // pay.meter.1
    fn distrusts(&self, relay: &RelayId) -> bool {
        let owner = self.view.payment(relay).map(|payment| payment.owner);
        owner.zip(self.cashier.as_ref()).is_some_and(|(owner, cashier)| cashier.distrusts(owner))
    }

    /// A relay as its own descriptor names it, if it can be used.
    fn peer(&self, now: Now, id: &RelayId) -> Option<Peer> {
        let relay = self.view.usable(id, now.unix()).ok()?;
        Some(Peer { id: relay.id, link_key: relay.link_key, address: relay.dialled()? })
    }

    /// link.address.1: the address is the one that the next relay's own descriptor names.
    fn extend(&mut self, now: Now, circuit: CircuitKey, next: RelayId) {
        if self.distrusts(&next) {
            return self.relay.refuse(now, circuit, Status::Unreachable);
        }
        let Some(link) = self.peer(now, &next).and_then(|peer| self.links.dial(now, &peer).ok()) else {
            return self.relay.refuse(now, circuit, Status::Unreachable);
        };
        if self.links.is_up(link) {
            self.relay.onward(circuit, link, self.links.our_opener(link), self.payee(link));
        } else {
            self.extending.insert(circuit, link);
        }
    }

    fn handle_link_event(&mut self, now: Now, event: LinkEvent) {
        match event {
            LinkEvent::Up { link } => {
                if self.links.came_in(link) {
                    self.reached = Reached { links: self.reached.links.saturating_add(1), last: now.unix() };
                }
                let our_opener = self.links.our_opener(link);
                let peer = self.links.peer(link);
                let owner = peer.and_then(|peer| self.view.payment(&peer)).map(|payment| payment.owner);
                if let (Some(cashier), Some(owner)) = (&mut self.cashier, owner) {
                    cashier.relay_up(now, self.relay.ledger_mut(), link, owner);
                    let registered = self.view.registry().zip(peer);
                    if let Some(known) = registered.and_then(|(registry, id)| registry.get(&id, &owner)) {
                        cashier.vouch(self.relay.ledger_mut(), owner, known.bond);
                    }
                    self.worked = true;
                }
                let payee = self.payee(link);
                for (circuit, _) in self.extending.extract_if(.., |_, waits_for| *waits_for == link) {
                    self.relay.onward(circuit, link, our_opener, payee);
                }
            }
            LinkEvent::Lost { link } => {
                for (circuit, _) in self.extending.extract_if(.., |_, waits_for| *waits_for == link) {
                    self.relay.refuse(now, circuit, Status::Unreachable);
                }
                self.relay.handle_link_lost(now, link);
                if let Some(cashier) = &mut self.cashier {
                    cashier.link_lost(link);
                }
            }
        }
    }

    /// Writes the next waiting packet; those whose link is gone are dropped.
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

    /// Writes frames of payments that wait.
    fn transmit_payments(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        let cashier = self.cashier.as_mut()?;
        loop {
            let mut packet = Packet::blank(out);
            let link = cashier.poll_frames(packet.cell())?;
            packet.set_word(CircuitWord::CONTROL);
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                self.payment_packets += 1;
                return Some(to);
            }
        }
    }

    /// Writes the next cell of the exit.
    fn transmit_exit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        loop {
            let (exit, relay) = (self.exit.as_mut()?, &self.relay);
            if !self.throttle.may_start(now.instant) {
                return None;
            }
            let mut packet = Packet::blank(out);
            let mut chosen = None;
            let body = cell::body(packet.cell());
            cell::write_body(body, BodyType::Quic, |data| {
                let (circuit, length) =
                    exit.poll_transmit(now.instant, data, |circuit| relay.may_start(circuit))?;
                chosen = Some(circuit);
                Some(length)
            })
            .ok()?;
            let circuit = chosen?;
            self.throttle.take(now.instant);
            let Some((link, word)) = self.relay.start(circuit, packet.cell()) else {
                self.relay.close(now, circuit);
                self.act(now);
                continue;
            };
            packet.set_word(word);
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                return Some(to);
            }
        }
    }

    /// Answers a cell of a circuit that we do not have (link.live.3).
    fn answer_unknown(&mut self, now: Now, link: LinkId, word: CircuitWord) {
        if word.kind() == Some(PacketType::Cell)
            && self.links.may_answer_unknown(now, link)
            && self.outbox.len() < MAX_OUTBOX
        {
            let mut cell = Box::new([0; CELL]);
            self.rng.fill_bytes(&mut *cell);
            self.outbox.push_back((link, word.with_kind(PacketType::Destroy), cell));
        }
    }
}

fn draw(rng: &mut Random) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

impl Node for RelayNode {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        match self.links.open(now, from, packet)? {
            Arrival::Circuit { link, packet } if packet.word().kind() == Some(PacketType::Cell) => {
                let word = packet.word();
                let piped = self.pipe(now, link, packet);
                match piped {
                    Ok(_) => {}
                    Err(DropReason::UnknownCircuit) => self.answer_unknown(now, link, word),
                    Err(_) => self.act(now),
                }
                piped
            }
            Arrival::Circuit { link, packet } => {
                let handled = self.handle_other(now, link, packet);
                self.act(now);
                handled.map(|()| Verdict::Consumed)
            }
            Arrival::Payments { link, mut packet } => {
                let handled = self.handle_payments(now, link, packet.cell());
                self.act(now);
                handled.map(|()| Verdict::Consumed)
            }
            Arrival::Consumed => {
                self.act(now);
                Ok(Verdict::Consumed)
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.throttle.handle_timeout(now.instant);
        self.links.handle_timeout(now);
        self.relay.handle_timeout(now);
        if let Some(cashier) = &mut self.cashier {
            cashier.handle_timeout(now, self.relay.ledger_mut());
            self.worked = true;
        }
        if let Some(exit) = &mut self.exit {
            exit.handle_timeout(now.instant);
        }
        self.act(now);
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        // Payment goes before what it pays for.
        self.transmit_payments(now, out)
            .or_else(|| self.transmit_waiting(now, out))
            .or_else(|| self.links.poll_transmit(now, out))
            .or_else(|| self.transmit_exit(now, out))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let exit = self.exit.as_ref().and_then(Exit::poll_timeout);
        let money = self.cashier.as_ref().and_then(Cashier::poll_timeout);
        [self.links.poll_timeout(), self.relay.poll_timeout(), exit, money, self.throttle.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        if self.worked && self.cashier.is_some() {
            self.worked = false;
            return Some(Event::Money);
        }
        self.events.pop_front().or_else(|| self.exit.as_mut()?.poll_event())
    }

    fn flow_read(&mut self, _: Now, flow: FlowId, max: usize) -> FlowRead {
        self.exit.as_mut().map_or(FlowRead::Reset, |exit| exit.read(flow, max))
    }

    fn flow_write(&mut self, _: Now, flow: FlowId, bytes: &[u8]) -> FlowWrite {
        self.exit.as_mut().map_or(FlowWrite::Reset, |exit| exit.write(flow, bytes))
    }

    fn flow_finish(&mut self, _: Now, flow: FlowId) {
        if let Some(exit) = &mut self.exit {
            exit.finish(flow);
        }
    }

    fn flow_reset(&mut self, _: Now, flow: FlowId) {
        if let Some(exit) = &mut self.exit {
            exit.reset(flow);
        }
    }
}
