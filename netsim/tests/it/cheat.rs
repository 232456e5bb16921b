//! A relay that is paid and pays like an honest one, and cheats: it drops what it was paid for, charges for more than it
//! carries, or sends what nobody has granted.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use circuit::cell::{BodyType, body, write_body};
use circuit::error::DropReason;
use circuit::keys::{BootId, Random, RelayId};
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{CELL, Cell, CircuitWord, Opened, PACKET, Packet, PacketType, Sealed};
use circuit::relay::{Action, CellStep, From, Relay, RelayConfig};
use circuit::seen::SeenSetups;
use circuit::setup::Status;
use circuit::table::CircuitKey;
use netsim::host::RelayProgram;
use netsim::money::Disk;
use netsim::world::POT;
use payments::Address;
use payments::amount::Wei;
use payments::frame::{Frame, Frames, Role};
use payments::outgoing::Outgoing;
use payments::till::PayerAccount;
use payments::wallet::Pot;
use rand_core::{Rng as _, SeedableRng as _};
use router::cashier::{Cashier, Request};

/// How it cheats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cheat {
    /// Drops so many of a hundred forward cells, after it was paid for them, once it has carried a thousand.
    DropForward(u32),
    /// Drops so many of a hundred backward cells, after it has charged for them, once it has carried a thousand.
    DropBackward(u32),
    /// Drops all cells after so many of a direction.
    Stall(u64),
    /// Says that it has charged so much more of a hundred.
    Overbill(u128),
    /// Answers no frame of a payment.
    Mute,
    /// At the end of a path: sends so many cells back for each that comes, whatever it was granted.
    Flood(usize),
}

/// What the test sees.
#[derive(Debug, Default)]
pub(crate) struct Loot {
    /// Cells that it should have carried.
    pub(crate) dropped: u64,
    /// Cells that it sent unasked.
    pub(crate) flooded: u64,
    /// What it was credited by all.
    pub(crate) credited: BTreeMap<Address, u128>,
}

pub(crate) struct CheatRelay {
    program: RelayProgram,
    links: Links,
    relay: Relay,
    cashier: Cashier,
    rng: Random,
    cheat: Cheat,
    waiting: Vec<(LinkId, CircuitKey)>,
    outbox: VecDeque<(LinkId, CircuitWord, Box<Cell>)>,
    events: VecDeque<Event>,
    loot: Rc<RefCell<Loot>>,
}

impl CheatRelay {
    pub(crate) fn new(
        now: Now,
        program: RelayProgram,
        cheat: Cheat,
        seed: [u8; 32],
    ) -> (Self, Rc<RefCell<Loot>>) {
        let mut rng = Random::from_seed(seed);
        let keys = program.keys.clone();
        let id = keys.identity.id();
        let config = LinkConfig {
            network: program.network,
            relay: Some(RelayKeys { identity: keys.identity, link: keys.link }),
            boot: BootId(rng.next_u64()),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let mut draw = || {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            seed
        };
        let mut links = Links::new(config, draw());
        links.set_relays(program.view.iter().map(|relay| (relay.link_key, relay.id)));
        let random = Random::from_seed(draw());
        let (asks, config) = program.money.expect("a relay with a pot").cashier(&Disk::default(), draw());
        let relay = RelayConfig { exit: program.exit.is_some(), asks: Some(asks), ..RelayConfig::new(id) };
        let mut cashier = Cashier::new(config);
        let pot = Pot { balance: Wei(POT), reserve: Wei(POT), unlocking: false, only_payee: None };
        cashier.own_pot(now, Some(pot));
        let loot = Rc::<RefCell<Loot>>::default();
        let cheat = Self {
            program,
            links,
            relay: Relay::new(relay, keys.onion, SeenSetups::restored([]), random),
            cashier,
            rng,
            cheat,
            waiting: vec![],
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            loot: Rc::clone(&loot),
        };
        (cheat, loot)
    }

    fn pass(
        &mut self,
        now: Now,
        link: LinkId,
        mut packet: Packet<'_, Opened>,
    ) -> Result<Verdict, DropReason> {
        let forward = packet.word().opener() != self.links.our_opener(link);
        let step = self.relay.handle_cell(now.instant, link, packet.word(), packet.cell())?;
        let (next, word) = match step {
            CellStep::Pass(next, word) => (next, word),
            CellStep::Here(key) => {
                self.flood(key, link, packet.word());
                return Ok(Verdict::Consumed);
            }
        };
        let counts = self.relay.counts();
        let carried = counts.forward.max(counts.backward);
        let share = match self.cheat {
            Cheat::DropForward(share) if forward && carried > 1_000 => share,
            Cheat::DropBackward(share) if !forward && carried > 1_000 => share,
            Cheat::Stall(after) if carried > after => 100,
            _ => 0,
        };
        if self.rng.next_u32() % 100 < share {
            self.loot.borrow_mut().dropped += 1;
            return Ok(Verdict::Consumed);
        }
        packet.set_word(word);
        let (_, to) = self.links.seal(now, next, packet)?;
        Ok(Verdict::Forward(to))
    }

    /// Grants itself what it likes, and sends it.
    fn flood(&mut self, key: CircuitKey, link: LinkId, word: CircuitWord) {
        let Cheat::Flood(cells) = self.cheat else { return };
        if let Some(account) = self.cashier.account(link)
            && let Some(account) = self.relay.ledger_mut().get_mut(account)
        {
            account.credit = 1 << 100;
        }
        let _ = self.relay.handle_grant(link, word, 1 << 40);
        for _ in 0..cells {
            let mut cell = Box::new([0; CELL]);
            let written = write_body(body(&mut cell), BodyType::Quic, |data| {
                data[..40].fill(0x40);
                Some(40)
            });
            assert_eq!(written, Ok(Some(40)));
            let Some((back, word)) = self.relay.start(key, &mut cell) else { return };
            self.loot.borrow_mut().flooded += 1;
            self.outbox.push_back((back, word, cell));
        }
    }

    fn other(&mut self, now: Now, link: LinkId, mut packet: Packet<'_, Opened>) -> Result<(), DropReason> {
        let word = packet.word();
        match word.kind() {
            Some(PacketType::Setup) => {
                let from = From {
                    link,
                    peer: self.links.peer(link),
                    source: self.links.source(link),
                    our_opener: self.links.our_opener(link),
                    account: self.cashier.account(link),
                };
                self.relay.handle_setup(now, from, word, packet.cell())
            }
            Some(PacketType::Reply) => self.relay.handle_reply(now, link, word, packet.cell()),
            Some(PacketType::Destroy) => self.relay.handle_destroy(now, link, word),
            _ => Err(DropReason::Misbehaved),
        }
    }

    fn payments(&mut self, now: Now, link: LinkId, cell: &Cell) -> Result<(), DropReason> {
        for frame in Frames::new(cell) {
            match frame? {
                Frame::Grant { circuit, cells } => {
                    let _ = self.relay.handle_grant(link, CircuitWord::from_bits(circuit), cells);
                }
                _ if self.cheat == Cheat::Mute => {}
                frame => self.cashier.handle(now, self.relay.ledger_mut(), link, &frame)?,
            }
        }
        Ok(())
    }

    fn act(&mut self, now: Now) {
        while let Some(event) = self.links.poll_event() {
            match event {
                LinkEvent::Up { link } => {
                    let peer = self.links.peer(link);
                    let owner =
                        peer.and_then(|peer| self.program.view.payment(&peer)).map(|terms| terms.owner);
                    if let Some(owner) = owner {
                        self.cashier.relay_up(now, self.relay.ledger_mut(), link, owner);
                    }
                    let (opener, payee) = (self.links.our_opener(link), self.cashier.account(link));
                    for (_, circuit) in self.waiting.extract_if(.., |(over, _)| *over == link) {
                        self.relay.onward(circuit, link, opener, payee);
                    }
                }
                LinkEvent::Lost { link } => {
                    self.relay.handle_link_lost(now, link);
                    self.cashier.link_lost(link);
                }
            }
        }
        self.handle_money(now);
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Log(entry) => self.events.push_back(Event::Persist(entry)),
                Action::Send(link, word, cell) => self.outbox.push_back((link, word, cell)),
                Action::Extend(circuit, next) => self.extend(now, circuit, &next),
                Action::Hold(link) => self.links.hold(link),
                Action::Release(link) => self.links.release(now, link),
                Action::Grant(link, word, cells) => {
                    let circuit = word.with_kind(PacketType::Cell).to_bits();
                    self.cashier.send(link, Frame::Grant { circuit, cells });
                }
                Action::Ended(_) | Action::Granted(_) => {}
            }
        }
    }

    /// Pays, writes records to a disk that nobody reads, and finds all pots full.
    fn handle_money(&mut self, now: Now) {
        let (cashier, relay) = (&mut self.cashier, &mut self.relay);
        while let Some(account) = relay.ledger_mut().poll_note() {
            cashier.noted(now, relay.ledger_mut(), account);
        }
        while let Some((book, id, _)) = cashier.poll_record() {
            cashier.persisted(now, relay.ledger_mut(), book, id);
        }
        while let Some(address) = cashier.poll_lookup() {
            let account = PayerAccount {
                balance: Wei(POT),
                reserve: Wei(POT),
                unlocking: false,
                signer: address,
                only_payee: None,
                head_stale: false,
                registered: true,
            };
            cashier.seen(now, relay.ledger_mut(), address, account);
        }
        while cashier.poll_claim().is_some() {}
        while let Some(request) = cashier.poll_request() {
            match request {
                Request::Credited(account) => relay.credited(account),
                Request::Close(account) => relay.close_account(now, account),
                Request::Leave(account) => relay.leave_account(now, account),
            }
        }
        let views = cashier.till().snapshot();
        self.loot.borrow_mut().credited.extend(views.iter().map(|view| (view.payer, view.credited.0)));
    }

    fn extend(&mut self, now: Now, circuit: CircuitKey, next: &RelayId) {
        let peer = self.program.view.get(next).map(|relay| Peer {
            id: relay.id,
            link_key: relay.link_key,
            address: relay.addresses[0],
        });
        match peer.and_then(|peer| self.links.dial(now, &peer).ok()) {
            Some(link) if self.links.is_up(link) => {
                let payee = self.cashier.account(link);
                self.relay.onward(circuit, link, self.links.our_opener(link), payee);
            }
            Some(link) => self.waiting.push((link, circuit)),
            None => self.relay.refuse(now, circuit, Status::Unreachable),
        }
    }

    /// Writes frames that wait, the bills as it likes them.
    fn transmit_payments(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        loop {
            let mut packet = Packet::blank(out);
            let link = self.cashier.poll_frames(packet.cell())?;
            if let Cheat::Overbill(share) = self.cheat {
                let mut frames = Outgoing::default();
                for frame in Frames::new(packet.cell()).map(Result::unwrap) {
                    frames.push(overbill(frame, share));
                }
                assert!(frames.write(packet.cell()));
            }
            packet.set_word(CircuitWord::CONTROL);
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                return Some(to);
            }
        }
    }
}

fn overbill(frame: Frame, share: u128) -> Frame {
    match frame {
        Frame::Meter { role: Role::Payee, cells, due, credited } => {
            Frame::Meter { role: Role::Payee, cells, due: Wei(due.0 + due.0 * share / 100), credited }
        }
        other => other,
    }
}

impl Node for CheatRelay {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        let result = match self.links.open(now, from, packet)? {
            Arrival::Circuit { link, packet } if packet.word().kind() == Some(PacketType::Cell) => {
                self.pass(now, link, packet)
            }
            Arrival::Circuit { link, packet } => self.other(now, link, packet).map(|()| Verdict::Consumed),
            Arrival::Payments { link, mut packet } => {
                self.payments(now, link, packet.cell()).map(|()| Verdict::Consumed)
            }
            Arrival::Consumed => Ok(Verdict::Consumed),
        };
        self.act(now);
        result
    }

    fn handle_timeout(&mut self, now: Now) {
        self.links.handle_timeout(now);
        self.relay.handle_timeout(now);
        self.cashier.handle_timeout(now, self.relay.ledger_mut());
        self.act(now);
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        self.act(now);
        if let Some(to) = self.transmit_payments(now, out) {
            return Some(to);
        }
        while let Some((link, word, cell)) = self.outbox.pop_front() {
            let mut packet = Packet::blank(out);
            packet.set_word(word);
            *packet.cell() = *cell;
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                return Some(to);
            }
        }
        self.links.poll_transmit(now, out)
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let due = [self.links.poll_timeout(), self.relay.poll_timeout(), self.cashier.poll_timeout()];
        due.into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn flow_read(&mut self, _: Now, _: FlowId, _: usize) -> FlowRead {
        FlowRead::Reset
    }

    fn flow_write(&mut self, _: Now, _: FlowId, _: &[u8]) -> FlowWrite {
        FlowWrite::Reset
    }

    fn flow_finish(&mut self, _: Now, _: FlowId) {}

    fn flow_reset(&mut self, _: Now, _: FlowId) {}
}
