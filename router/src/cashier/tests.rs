//! Who a link's circuits are charged to, and when.

use std::time::Duration;

use circuit::keys::Random;
use payments::offer::Face;
use payments::record::{Key, Record};
use payments::session::{Domain, Signer};
use payments::till::TillLimits;
use payments::wallet::WalletLimits;
use rand_core::SeedableRng as _;

use super::*;

const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::repeat_byte(7) };

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 }
}

fn signer(number: u8) -> Signer {
    Signer::from_bytes([number; 32]).unwrap()
}

fn wallet(number: u8) -> Wallet {
    let limits =
        WalletLimits { redemption_cost: Wei(1 << 60), max_open: 2, value: Wei(384), max_value: Wei(1 << 60) };
    let mut wallet = Wallet::new(DOMAIN, signer(number).address(), signer(number), [number; 32], limits);
    let pot = Pot { balance: Wei(1 << 80), reserve: Wei(1 << 80), unlocking: false, only_payee: None };
    wallet.on_account(start().unix(), Some(pot));
    wallet
}

fn cashier() -> Cashier {
    restarted(&BTreeMap::new(), 2)
}

/// A cashier that continues what is on a disk.
fn restarted(disk: &BTreeMap<Key, Record>, fresh: u8) -> Cashier {
    let limits = TillLimits { face: Face::Draws(1_000), min_value: Wei(1), draws: 64, max_payers: 10 };
    let mut till = Till::new(DOMAIN, signer(1).address(), [1; 32], [fresh; 32], limits);
    till.restore(disk.values().cloned());
    let meters = disk.values().filter_map(|record| match record {
        Record::Meter(row) => Some(*row),
        _ => None,
    });
    let meters = meters.collect();
    Cashier::new(CashierConfig { owner: signer(1).address(), wallet: wallet(1), till, meters })
}

fn account(number: u8) -> PayerAccount {
    PayerAccount {
        balance: Wei(1 << 80),
        reserve: Wei(1 << 80),
        unlocking: false,
        signer: signer(number).address(),
        only_payee: None,
        head_stale: false,
        registered: false,
    }
}

fn links() -> Vec<LinkId> {
    // Names of links come from links only.
    use circuit::keys::{BootId, DhSecret, NetworkId, RelayId};
    use circuit::link::{LinkConfig, LinkLimits, Links, Peer, Suites};
    let config = LinkConfig {
        network: NetworkId([1; 16]),
        relay: None,
        boot: BootId(1),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let mut links = Links::new(config, [3; 32]);
    (1..=2)
        .map(|n: u8| {
            let link_key = DhSecret::random(&mut Random::seed_from_u64(n.into())).public();
            let peer = Peer { id: RelayId([n; 32]), link_key, address: ([127, 0, 0, n], 1).into() };
            links.dial(start(), &peer).unwrap()
        })
        .collect()
}

/// A payer's wallet against the cashier, over one link.
struct Payer {
    wallet: Wallet,
    address: Address,
    held: Vec<Frame>,
    /// That of the cashier.
    disk: BTreeMap<Key, Record>,
}

impl Payer {
    fn new(number: u8) -> Self {
        Self {
            wallet: wallet(number),
            address: signer(number).address(),
            held: vec![],
            disk: BTreeMap::new(),
        }
    }

    /// Carries frames both ways until nothing moves; draws are held back if `hold`.
    fn settle(&mut self, cashier: &mut Cashier, ledger: &mut Ledger, link: LinkId, hold: bool) {
        let now = start();
        let payee = cashier.owner();
        loop {
            let mut moved = false;
            while let Some((id, _)) = self.wallet.poll_record() {
                self.wallet.persisted(now.unix(), id);
                moved = true;
            }
            while let Some((to, frame)) = self.wallet.poll_frame() {
                assert_eq!(to, payee);
                moved = true;
                if hold && matches!(frame, Frame::Draw { .. }) {
                    self.held.push(frame);
                } else {
                    cashier.handle(now, ledger, link, &frame).unwrap();
                }
            }
            while let Some(address) = cashier.poll_lookup() {
                assert_eq!(address, self.address);
                cashier.seen(now, ledger, address, account(9));
                moved = true;
            }
            while let Some((book, id, change)) = cashier.poll_record() {
                match change.record {
                    Some(record) => drop(self.disk.insert(change.key, record)),
                    None => drop(self.disk.remove(&change.key)),
                }
                cashier.persisted(now, ledger, book, id);
                moved = true;
            }
            let mut cell = [0; circuit::packet::CELL];
            while let Some(to) = cashier.poll_frames(&mut cell) {
                assert_eq!(to, link);
                moved = true;
                for frame in payments::frame::Frames::new(&cell) {
                    self.wallet.handle(now.unix(), payee, &frame.unwrap()).unwrap();
                }
            }
            if !moved {
                return;
            }
        }
    }
}

// pay.account.1, pay.credit.1
#[test]
fn a_link_has_the_account_of_who_reveals_its_draws_and_of_nobody_else() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let [own, other] = links()[..] else { panic!() };
    let mut payer = Payer::new(9);
    payer.wallet.pay(start().unix(), cashier.owner(), Wei(384 * 3));
    payer.settle(&mut cashier, &mut ledger, own, true);
    assert!(!payer.held.is_empty());
    assert_eq!(cashier.account(own), None, "a session alone buys nothing");
    for draw in std::mem::take(&mut payer.held) {
        cashier.handle(start(), &mut ledger, own, &draw).unwrap();
    }
    let account = cashier.account(own).expect("it has paid");
    assert_eq!(ledger.get(account).map(|a| (a.credit, a.credited)), Some((384 * 3, 384 * 3)));
    // Somebody else says that he is this payer: he is answered, but has nothing of it.
    let want = Frame::Want { payer: payer.address, floor: 0, value: Wei(384) };
    cashier.handle(start(), &mut ledger, other, &want).unwrap();
    assert_eq!((cashier.account(other), cashier.account(own)), (None, Some(account)));
    // The payer itself moves by its next draw.
    let mut cell = [0; circuit::packet::CELL];
    while cashier.poll_frames(&mut cell).is_some() {}
    payer.wallet.pay(start().unix(), cashier.owner(), Wei(384 * 4));
    payer.settle(&mut cashier, &mut ledger, other, false);
    assert_eq!((cashier.account(other), cashier.account(own)), (Some(account), None));
    assert_eq!(ledger.get(account).map(|a| a.credited), Some(384 * 4));
    cashier.link_lost(other);
    assert_eq!(cashier.account(other), None);
}

// pay.account.1, pay.frame.2
#[test]
fn a_stranger_that_names_a_relay_neither_uses_its_credit_nor_speaks_for_it() {
    for before in [false, true] {
        let (mut cashier, mut ledger) = (cashier(), Ledger::default());
        let [own, strange] = links()[..] else { panic!() };
        let owner = signer(9).address();
        let want = Frame::Want { payer: owner, floor: 0, value: Wei(384) };
        let (offer, anchor) = ([0; 4], [1; 32].into());
        let signature = payments::session::Signature([2; 64]);
        let session = Frame::Session { payer: owner, nonce: 1, offer, anchor, signature };
        if before {
            // It comes first, when nobody knows that this is a relay.
            cashier.handle(start(), &mut ledger, strange, &want).unwrap();
        }
        cashier.relay_up(start(), &mut ledger, own, owner);
        cashier.seen(start(), &mut ledger, owner, PayerAccount { registered: true, ..account(9) });
        let known = cashier.account(own).unwrap();
        ledger.meet(known, 1);
        ledger.engage(known, 1);
        ledger.owe(known, 1, 10_000);
        said(&mut cashier);
        let state = *ledger.get(known).unwrap();
        let counts = Frame::Meter { role: Role::Payee, cells: 0, due: Wei(1 << 90), credited: Wei(0) };
        let ok = Frame::DrawOk { nonce: 1, index: 1, link: [7; 32].into() };
        let paused = Frame::Credit(Level::Paused);
        for frame in [want, session, counts, paused, ok] {
            let outcome = cashier.handle(start(), &mut ledger, strange, &frame);
            assert_eq!(outcome, Err(DropReason::Misbehaved), "{frame:?}");
            assert_eq!(cashier.account(strange), None, "{frame:?}");
        }
        assert_eq!((ledger.get(known), cashier.account(own)), (Some(&state), Some(known)));
        assert!(!cashier.distrusts(owner) && cashier.poll_request().is_none());
        // Nor is it taken for the relay when that one is gone.
        cashier.link_lost(own);
        assert!(cashier.handle(start(), &mut ledger, strange, &want).is_err());
        cashier.noted(start(), &mut ledger, known);
        assert_eq!(said(&mut cashier), []);
        assert_eq!((cashier.account(own), cashier.account(strange)), (None, None));
    }
}

// pay.credit.4
#[test]
fn a_payer_without_credit_is_told_now_and_then_and_left_in_the_end() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let link = links()[0];
    let mut payer = Payer::new(9);
    payer.wallet.pay(start().unix(), cashier.owner(), Wei(384));
    payer.settle(&mut cashier, &mut ledger, link, false);
    let account = cashier.account(link).unwrap();
    ledger.meet(account, 1);
    let told = |cashier: &mut Cashier| {
        let mut cell = [0; circuit::packet::CELL];
        let mut frames = vec![];
        while cashier.poll_frames(&mut cell).is_some() {
            frames.extend(payments::frame::Frames::new(&cell).map(Result::unwrap));
        }
        frames
    };
    assert!(ledger.charge(account, 1, 300));
    while let Some(noted) = ledger.poll_note() {
        cashier.noted(start(), &mut ledger, noted);
    }
    let frames = told(&mut cashier);
    assert_eq!(frames, [Frame::Credit(Level::Low)]);
    let mut now = start();
    for step in 0..40u32 {
        now.instant += Duration::from_secs(1);
        now.unix_ms += 1_000;
        assert!(!ledger.charge(account, 1, 100));
        while let Some(noted) = ledger.poll_note() {
            cashier.noted(now, &mut ledger, noted);
            // Again at once: nothing more is said.
            cashier.noted(now, &mut ledger, noted);
        }
        let credits =
            told(&mut cashier).into_iter().filter(|frame| matches!(frame, Frame::Credit(_))).count();
        assert!(credits <= 1, "step {step}");
        cashier.handle_timeout(now, &mut ledger);
        told(&mut cashier);
    }
    assert!(ledger.charge(account, 1, 84) && !ledger.charge(account, 1, 1));
    cashier.noted(now, &mut ledger, account);
    let mut closed = false;
    for _ in 0..40 {
        now.instant += Duration::from_secs(1);
        now.unix_ms += 1_000;
        cashier.handle_timeout(now, &mut ledger);
        while let Some(request) = cashier.poll_request() {
            closed |= request == Request::Close(account);
        }
    }
    assert!(closed);
}

// pay.account.2, pay.account.3
#[test]
fn a_restart_leaves_a_payer_what_it_has_paid_ahead_but_no_more_than_a_window() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let link = links()[0];
    let mut payer = Payer::new(9);
    let mut now = start();
    let mut paid = 384 * 60;
    payer.wallet.pay(now.unix(), cashier.owner(), Wei(paid));
    payer.settle(&mut cashier, &mut ledger, link, false);
    // The second time it is charged nothing before the crash, and the third time more than the disk knows.
    for (start, (used, unwritten)) in (3..).zip([(7_000, 0), (0, 0), (400, 300)]) {
        let account = cashier.account(link).unwrap();
        ledger.meet(account, 1);
        assert!(ledger.charge(account, 1, used));
        for _ in 0..2 {
            now.instant += Duration::from_secs(1);
            now.unix_ms += 1_000;
            cashier.handle_timeout(now, &mut ledger);
        }
        payer.settle(&mut cashier, &mut ledger, link, false);
        assert!(ledger.charge(account, 1, unwritten));
        let before = *ledger.get(account).unwrap();
        (cashier, ledger) = (restarted(&payer.disk, start), Ledger::default());
        payer.wallet.introduce(now.unix(), cashier.owner());
        payer.settle(&mut cashier, &mut ledger, link, false);
        assert_eq!(cashier.account(link), None, "not before it pays again");
        paid += 384;
        payer.wallet.pay(now.unix(), cashier.owner(), Wei(paid));
        payer.settle(&mut cashier, &mut ledger, link, false);
        let after = *ledger.get(cashier.account(link).unwrap()).unwrap();
        let left = (before.credit + i128::from(unwritten)).min(8_192);
        assert_eq!(after.credit, left + 384);
        assert_eq!(after.credited - after.earned, after.credit.unsigned_abs());
        assert_eq!((after.credited, after.cells_in), (paid, before.cells_in - unwritten));
    }
}

// pay.account.2
#[test]
fn a_relay_that_restarts_pays_on_at_once_and_counts_on_what_it_paid_ahead_when_it_is_told() {
    let mut ledger = Ledger::default();
    let payee = signer(9).address();
    let mut cashier = cashier();
    let link = links()[0];
    // It has paid in another life.
    cashier.wallet.restore([Record::Payee(payments::record::PayeeRow {
        payee,
        tally: payments::record::Tally { value: Wei(100_000), draws: 100, ..Default::default() },
        ..Default::default()
    })]);
    cashier.relay_up(start(), &mut ledger, link, payee);
    let account = cashier.account_of(payee).unwrap();
    ledger.engage(account, 1);
    let state = *ledger.get(account).unwrap();
    assert_eq!((state.owed, state.committed, state.paid), (100_000, 100_000, 100_000));
    // Little is paid ahead of little, and never more than 768 cells.
    for (more, target) in [(1, 100_002), (500, 101_002), (2_000, 103_269)] {
        ledger.owe(account, 1, more);
        let noted = ledger.poll_note().unwrap();
        cashier.noted(start(), &mut ledger, noted);
        assert_eq!(cashier.wallet.snapshot().first().map(|payee| payee.target), Some(Wei(target)));
    }
    ledger.forgive(account, 1, 2_500);
    // The payee has charged 500 cells less than it was paid.
    let meter = Frame::Meter { role: Role::Payee, cells: 5, due: Wei(99_501), credited: Wei(100_000) };
    let mut now = start();
    for _ in 0..5 {
        now.instant += Duration::from_secs(1);
        cashier.handle_timeout(now, &mut ledger);
    }
    cashier.handle(now, &mut ledger, link, &meter).unwrap();
    // That cell is still owed.
    assert_eq!(ledger.get(account).map(|a| a.owed), Some(99_502));
}

// pay.credit.2
#[test]
fn relays_of_a_list_have_their_credit_when_they_come_first() {
    let (mut cashier, mut ledger, link) = (cashier(), Ledger::default(), links()[0]);
    let other = signer(9).address();
    cashier.expect([cashier.owner(), other]);
    assert_eq!((cashier.poll_lookup(), cashier.poll_lookup()), (Some(other), None));
    cashier.seen(start(), &mut ledger, other, PayerAccount { registered: true, ..account(9) });
    cashier.relay_up(start(), &mut ledger, link, other);
    let account = cashier.account(link).unwrap();
    ledger.meet(account, 1);
    assert_eq!(ledger.get(account).map(|state| state.credit), Some(760));
}

/// Carries frames between a relay that pays and its payee until nothing moves.
fn carry(cashier: &mut Cashier, ledger: &mut Ledger, link: LinkId, till: &mut Till) -> Vec<Record> {
    let (now, mut cell, mut disk) = (start(), [0; circuit::packet::CELL], vec![]);
    loop {
        let mut moved = false;
        while let Some((book, id, change)) = cashier.poll_record() {
            disk.extend(change.record);
            cashier.persisted(now, ledger, book, id);
        }
        while let Some((id, _)) = till.poll_record() {
            till.persisted(id);
        }
        while cashier.poll_frames(&mut cell).is_some() {
            for frame in payments::frame::Frames::new(&cell).map(Result::unwrap) {
                moved = true;
                if frame.is_for_payee() {
                    till.handle(now.unix(), cashier.owner(), &frame, Some(&account(1))).unwrap();
                }
            }
        }
        while let Some((_, frame)) = till.poll_frame() {
            moved = true;
            cashier.handle(now, ledger, link, &frame).unwrap();
        }
        if !moved {
            return disk;
        }
    }
}

// pay.draw.5, pay.meter.1
#[test]
fn a_relay_that_restarts_does_not_take_its_payee_for_a_liar_because_its_own_disk_is_behind() {
    let (mut ledger, mut payer, link) = (Ledger::default(), cashier(), links()[0]);
    let payee = signer(9).address();
    let limits = TillLimits { face: Face::Draws(1_000), min_value: Wei(1), draws: 64, max_payers: 10 };
    let mut till = Till::new(DOMAIN, payee, [9; 32], [9; 32], limits);
    payer.relay_up(start(), &mut ledger, link, payee);
    let id = payer.account_of(payee).unwrap();
    ledger.engage(id, 1);
    ledger.owe(id, 1, 384 * 20);
    payer.noted(start(), &mut ledger, id);
    let disk = carry(&mut payer, &mut ledger, link, &mut till);
    let credited = till.credited(payer.owner()).0;
    assert!(credited > 384 * 20);

    // Its disk knows the session, and none of its draws.
    (payer, ledger) = (cashier(), Ledger::default());
    payer.wallet.restore(disk.into_iter().filter(|record| matches!(record, Record::Payee(_))));
    assert_eq!(payer.wallet.paid(payee), Wei::ZERO);
    payer.relay_up(start(), &mut ledger, link, payee);
    let id = payer.account_of(payee).unwrap();
    ledger.engage(id, 1);
    let says = |due| Frame::Meter { role: Role::Payee, cells: 0, due: Wei(due), credited: Wei(credited) };
    // It had used the credit line as well.
    let due = credited + 700;
    payer.handle(start(), &mut ledger, link, &says(due)).unwrap();
    payer.wallet.handle_timeout(start().unix());
    payer.route(None);
    carry(&mut payer, &mut ledger, link, &mut till);
    let state = *ledger.get(id).unwrap();
    assert_eq!((state.paid, state.owed, state.committed), (credited, credited, credited));
    payer.handle(start(), &mut ledger, link, &says(due)).unwrap();
    assert_eq!((ledger.get(id).unwrap().owed, payer.distrusts(payee)), (due, false));
    // Once, and no more than that.
    assert!(payer.handle(start(), &mut ledger, link, &says(due + 384 * 8)).is_err());
    assert!(payer.distrusts(payee));
}

// pay.credit.3, pay.meter.1, pay.meter.4
#[test]
fn one_dear_setup_does_not_make_a_relay_pay_more_than_a_credit_line() {
    const DEAR: u64 = 1_000_000;
    let (mut ledger, mut cashier, link) = (Ledger::default(), cashier(), links()[0]);
    let payee = signer(9).address();
    let mut now = start();
    cashier.relay_up(now, &mut ledger, link, payee);
    let account = cashier.account_of(payee).unwrap();
    // Much at a low rate, and one setup of somebody who has paid the relay 80 cells for it.
    ledger.engage(account, 1);
    ledger.owe(account, 1, 50_000);
    ledger.engage(account, DEAR);
    ledger.owe(account, DEAR, 64);
    ledger.promise(account, DEAR, 16);
    let honest = ledger.get(account).unwrap().committed;
    // The payee says whatever brings it most.
    for step in 0..400_u128 {
        now.instant += Duration::from_millis(500);
        now.unix_ms += 500;
        let state = *ledger.get(account).unwrap();
        let due = Wei(state.committed + (step % 7) * u128::from(DEAR) * 40);
        let meter = Frame::Meter { role: Role::Payee, cells: 0, due, credited: Wei(state.paid) };
        for frame in [Frame::Credit(Level::Low), Frame::Credit(Level::Paused), meter] {
            // What makes it be left brings nothing more.
            if !cashier.distrusts(payee) {
                let _ = cashier.handle(now, &mut ledger, link, &frame);
            }
        }
        cashier.handle_timeout(now, &mut ledger);
    }
    assert!(cashier.distrusts(payee), "it was found out");
    let paid = cashier.neighbours[&payee].target;
    assert!(paid > honest, "it has got something");
    assert!(paid < honest + 760 * u128::from(DEAR), "{} cells", (paid - honest) / u128::from(DEAR));
}

/// All frames that wait.
fn said(cashier: &mut Cashier) -> Vec<Frame> {
    let mut cell = [0; circuit::packet::CELL];
    let mut frames = vec![];
    while cashier.poll_frames(&mut cell).is_some() {
        frames.extend(payments::frame::Frames::new(&cell).map(Result::unwrap));
    }
    frames
}

// pay.credit.4
#[test]
fn who_was_told_that_nothing_passes_is_told_when_it_does_again() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let link = links()[0];
    let mut payer = Payer::new(9);
    payer.wallet.pay(start().unix(), cashier.owner(), Wei(384 * 3));
    payer.settle(&mut cashier, &mut ledger, link, false);
    let account = cashier.account(link).unwrap();
    ledger.meet(account, 1);
    assert!(ledger.charge(account, 1, 384 * 3) && !ledger.charge(account, 1, 1));
    cashier.noted(start(), &mut ledger, account);
    let frames = said(&mut cashier);
    assert!(matches!(frames[..], [Frame::Credit(Level::Paused), Frame::Meter { cells: 1_152, .. }]));
    for (draws, over) in [(4, false), (5, true), (6, false)] {
        payer.wallet.pay(start().unix(), cashier.owner(), Wei(384 * draws));
        while let Some((_, frame)) = payer.wallet.poll_frame() {
            cashier.handle(start(), &mut ledger, link, &frame).unwrap();
        }
        assert_eq!(said(&mut cashier).contains(&Frame::Credit(Level::Ok)), over, "{draws} draws");
    }
}

// pay.credit.2, pay.credit.4
#[test]
fn a_relay_that_came_before_its_pot_was_seen_is_told_when_it_has_credit() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let (link, owner) = (links()[0], signer(9).address());
    cashier.relay_up(start(), &mut ledger, link, owner);
    let known = cashier.account(link).unwrap();
    ledger.meet(known, 1);
    cashier.noted(start(), &mut ledger, known);
    assert!(said(&mut cashier).contains(&Frame::Credit(Level::Paused)));
    for paused in [false, true] {
        cashier.seen(start(), &mut ledger, owner, PayerAccount { registered: true, ..account(9) });
        assert_eq!(said(&mut cashier).contains(&Frame::Credit(Level::Ok)), !paused, "it is said once");
        // Circuits that wait for credit go on.
        assert_eq!(cashier.poll_request(), (!paused).then_some(Request::Credited(known)));
    }
}

// pay.meter.2, pay.meter.3
#[test]
fn counts_are_said_now_and_then_and_to_who_has_others() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let link = links()[0];
    let mut payer = Payer::new(9);
    payer.wallet.pay(start().unix(), cashier.owner(), Wei(384 * 16));
    payer.settle(&mut cashier, &mut ledger, link, false);
    let account = cashier.account(link).unwrap();
    ledger.meet(account, 1);
    let mut now = start();
    let mut told = vec![];
    for _ in 0..10 {
        assert!(ledger.charge(account, 1, 500));
        now.instant += TICK;
        cashier.handle_timeout(now, &mut ledger);
        told.extend(said(&mut cashier).into_iter().filter_map(|frame| match frame {
            Frame::Meter { role: Role::Payee, cells, .. } => Some(cells),
            _ => None,
        }));
    }
    assert_eq!(told, [4_500], "once in more than 4,096 cells");
    let claim =
        |due, credited| Frame::Meter { role: Role::Payer, cells: 0, due: Wei(due), credited: Wei(credited) };
    cashier.handle(now, &mut ledger, link, &claim(5_000, 6_144)).unwrap();
    assert_eq!(said(&mut cashier), [], "the same");
    cashier.handle(now, &mut ledger, link, &claim(4_999, 6_144)).unwrap();
    cashier.handle(now, &mut ledger, link, &claim(4_998, 6_144)).unwrap();
    let frames = said(&mut cashier);
    assert!(matches!(frames[..], [Frame::Meter { role: Role::Payee, due: Wei(5_000), .. }]), "{frames:?}");
}

// pay.credit.2
#[test]
fn the_registry_vouches_for_a_neighbour_until_its_pot_is_seen() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let (link, owner) = (links()[0], signer(9).address());
    cashier.vouch(&mut ledger, owner, Wei(256_000_000));
    assert_eq!(cashier.account(link), None, "a stranger");
    cashier.relay_up(start(), &mut ledger, link, owner);
    let known = cashier.account(link).unwrap();
    ledger.meet(known, 1);
    assert!(!ledger.charge(known, 1, 1), "nobody vouches yet");
    cashier.vouch(&mut ledger, owner, Wei(256 * 500));
    assert!(ledger.charge(known, 1, 500) && !ledger.charge(known, 1, 1));
    cashier.seen(start(), &mut ledger, owner, account(9));
    assert_eq!(ledger.get(known).map(|known| known.line), Some(0), "the pot itself says otherwise");
}

/// A cashier that owes the relay of signer 9 over a link.
fn debtor() -> (Cashier, Ledger, LinkId, AccountId) {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let (link, payee) = (links()[0], signer(9).address());
    cashier.relay_up(start(), &mut ledger, link, payee);
    let account = cashier.account(link).unwrap();
    ledger.engage(account, 1);
    ledger.owe(account, 1, 10_000);
    cashier.noted(start(), &mut ledger, account);
    said(&mut cashier);
    (cashier, ledger, link, account)
}

// pay.meter.1
#[test]
fn a_payee_that_charges_too_much_is_left_and_not_paid_for_an_hour() {
    let (mut cashier, mut ledger, link, account) = debtor();
    let payee = signer(9).address();
    let bill = |due| Frame::Meter { role: Role::Payee, cells: 0, due: Wei(due), credited: Wei(0) };
    cashier.handle(start(), &mut ledger, link, &bill(18_000)).unwrap();
    assert!(!cashier.distrusts(payee), "losses on the way explain it");
    assert!(cashier.handle(start(), &mut ledger, link, &bill(28_000)).is_err());
    assert!(cashier.distrusts(payee));
    assert_eq!(cashier.poll_request(), Some(Request::Leave(account)));
    ledger.owe(account, 1, 1_000);
    cashier.noted(start(), &mut ledger, account);
    assert_eq!(said(&mut cashier), []);
    let mut later = start();
    later.instant += Duration::from_secs(3_601);
    later.unix_ms += 3_601_000;
    cashier.handle_timeout(later, &mut ledger);
    assert!(!cashier.distrusts(payee));
}

// pay.credit.5
#[test]
fn a_relay_that_is_told_that_nothing_passes_holds_cells_back_for_a_while() {
    let (mut cashier, mut ledger, link, account) = debtor();
    let mut now = start();
    cashier.handle(now, &mut ledger, link, &Frame::Credit(Level::Low)).unwrap();
    assert!(!ledger.is_paused(account));
    cashier.handle(now, &mut ledger, link, &Frame::Credit(Level::Paused)).unwrap();
    assert!(ledger.is_paused(account), "there is no session to pay with");
    cashier.handle(now, &mut ledger, link, &Frame::Credit(Level::Ok)).unwrap();
    assert!(!ledger.is_paused(account));
    cashier.handle(now, &mut ledger, link, &Frame::Credit(Level::Paused)).unwrap();
    for paused in [true, false] {
        assert_eq!(ledger.is_paused(account), paused);
        now.instant += TICK;
        cashier.handle_timeout(now, &mut ledger);
    }
}

// pay.table.1
#[test]
fn a_pot_that_cannot_pay_is_looked_up_again_each_time_and_one_that_can_is_watched() {
    let (mut cashier, mut ledger) = (cashier(), Ledger::default());
    let link = links()[0];
    let payer = signer(9).address();
    let want = Frame::Want { payer, floor: 0, value: Wei(384) };
    let empty = PayerAccount { signer: Address::ZERO, reserve: Wei::ZERO, ..account(9) };
    for _ in 0..2 {
        cashier.handle(start(), &mut ledger, link, &want).unwrap();
        assert_eq!(cashier.poll_lookup(), Some(payer));
        cashier.seen(start(), &mut ledger, payer, empty);
        assert_eq!(cashier.poll_lookup(), None, "it asks again only when it is asked");
        let said = said(&mut cashier);
        assert!(
            matches!(said[..], [Frame::SessionOk { answer: payments::frame::Answer::NoPot, .. }]),
            "{said:?}"
        );
    }
    cashier.handle(start(), &mut ledger, link, &want).unwrap();
    assert_eq!(cashier.poll_lookup(), Some(payer));
    cashier.seen(start(), &mut ledger, payer, account(9));
    for known in [true, false] {
        cashier.handle(start(), &mut ledger, link, &want).unwrap();
        assert_eq!(cashier.poll_lookup(), (!known).then_some(payer));
        // It is not watched any more: what was seen of it may be old.
        cashier.not_seen(payer);
    }
}
