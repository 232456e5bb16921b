//! Circuits that cost: every cell is charged and owed once, at every hop, and nobody is charged beyond his credit.

use super::*;
use crate::ledger::Account;
use crate::relay::fare::FORWARD;
use crate::setup::Role;

const ASK: u64 = 10;
const EXIT_ASK: u64 = 50;

/// The accounts of a chain whose relays are paid.
pub(super) struct Paid {
    /// Of the entry, at the origin.
    pub(super) own: AccountId,
    /// Of the neighbour before, at each relay.
    pub(super) payers: Vec<AccountId>,
    /// Of the neighbour behind, at each relay.
    pub(super) payees: Vec<AccountId>,
    pub(super) terms: Vec<Terms>,
}

fn terms(hops: usize) -> Vec<Terms> {
    let mut rate_out = 0;
    let mut terms: Vec<_> = (0..hops)
        .rev()
        .map(|n| {
            let (role, ask) = if n + 1 == hops { (Role::Exit, EXIT_ASK) } else { (Role::Forward, ASK) };
            let rate_in = rate_out + ask;
            let compact = |rate| wire::compact::encode(rate).unwrap();
            let terms = Terms { class: 7, role, rate_in: compact(rate_in), rate_out: compact(rate_out) };
            rate_out = rate_in;
            terms
        })
        .collect();
    terms.reverse();
    terms
}

fn rate(chain: &Chain, n: usize) -> u128 {
    wire::compact::decode(chain.paid.as_ref().unwrap().terms[n].rate_in).unwrap().into()
}

/// A chain in which every relay has given the neighbour before credit for `cells`, and the origin has paid so much.
fn paid(hops: usize, cells: u64) -> Chain {
    let mut c = chain(hops);
    let own = c.origin.ledger_mut().open();
    let (mut payers, mut payees) = (vec![], vec![]);
    let terms = terms(hops);
    for (relay, terms) in c.relays.iter_mut().zip(&terms) {
        relay.set_asks(Some(Asks { forward: ASK, exit: EXIT_ASK }));
        let payer = relay.ledger_mut().open();
        let credit = u128::from(wire::compact::decode(terms.rate_in).unwrap()) * u128::from(cells);
        relay.ledger_mut().get_mut(payer).unwrap().credit = credit.cast_signed();
        payers.push(payer);
        payees.push(relay.ledger_mut().open());
    }
    c.paid = Some(Paid { own, payers, payees, terms });
    let all = rate(&c, 0) * u128::from(cells);
    let entry = c.origin.ledger_mut().get_mut(own).unwrap();
    (entry.paid, entry.due) = (all, u128::MAX);
    c
}

impl Chain {
    fn at(&self, n: usize) -> (Account, Account) {
        let paid = self.paid.as_ref().unwrap();
        let ledger = self.relays[n].ledger();
        (*ledger.get(paid.payers[n]).unwrap(), *ledger.get(paid.payees[n]).unwrap())
    }

    fn entry(&self) -> Account {
        *self.origin.ledger().get(self.paid.as_ref().unwrap().own).unwrap()
    }

    fn cell_backward(&mut self) -> Result<(), DropReason> {
        let hops = self.relays.len();
        let exit = self.relays[hops - 1].snapshot()[0];
        let mut cell = [0; crate::packet::CELL];
        if !self.relays[hops - 1].may_start(exit.key) {
            return Err(DropReason::NoCredit);
        }
        let (mut to, mut word) = self.relays[hops - 1].start(exit.key, &mut cell).unwrap();
        for n in (0..hops - 1).rev() {
            let step = self.relays[n].handle_cell(self.now.instant, to, word, &mut cell)?;
            let CellStep::Pass(next, next_word) = step else { panic!("{step:?}") };
            (to, word) = (next, next_word);
        }
        self.origin.handle_cell(self.now.instant, to, word, &mut cell).map(drop).map_err(|(_, reason)| reason)
    }

    fn grant(&mut self, key: CircuitKey, window: u64) {
        if let Some((to, word, cells)) = self.origin.grant(key, window, 1) {
            self.relays[0].handle_grant(to, word, cells).unwrap();
            self.settle();
        }
    }
}

// pay.bill.2, pay.bill.1, pay.grant.4
#[test]
fn every_hop_earns_for_every_cell_and_owes_the_next_what_that_one_earns() {
    for hops in 1..=5 {
        let mut c = paid(hops, 10_000);
        let key = c.build();
        assert_eq!(c.answered, [Answered::Ready]);
        c.grant(key, 500);
        for _ in 0..30 {
            c.cell_forward(key, hops - 1);
        }
        for _ in 0..200 {
            assert_eq!(c.cell_backward(), Ok(()));
        }
        let cells = SETUP_CELLS + 30 + 200;
        for n in 0..hops {
            let (payer, payee) = c.at(n);
            assert_eq!((payer.cells_in, payer.earned), (cells, rate(&c, n) * u128::from(cells)), "hop {n}");
            if n + 1 < hops {
                let next = c.at(n + 1).0;
                assert_eq!((payee.owed, payee.cells_out), (next.earned, cells), "hop {n}");
                assert_eq!(payee.committed, rate(&c, n + 1) * u128::from(SETUP_CELLS + 30 + 500));
            } else {
                assert_eq!(payee.owed, 0);
            }
        }
        let entry = c.entry();
        assert_eq!((entry.owed, entry.cells_out), (c.at(0).0.earned, cells));
        // What was granted and not used comes back.
        c.origin.close(c.now, key);
        for _ in 0..hops {
            c.pass(Duration::from_secs(3));
        }
        for n in 0..hops {
            let (payer, payee) = c.at(n);
            assert_eq!(payer.credit.cast_unsigned() + payer.earned, rate(&c, n) * 10_000);
            assert_eq!(payee.committed, payee.owed);
        }
        assert_eq!(c.entry().committed, c.entry().owed);
    }
}

// pay.terms.1
#[test]
fn terms_that_do_not_pay_what_is_asked_are_refused_and_nothing_is_charged() {
    type Change = fn(&mut Terms);
    let cases: [(usize, Change); 6] = [
        (2, |t| t.rate_in -= 1),
        (1, |t| t.rate_in -= 1),
        (0, |t| t.rate_in -= 1),
        (1, |t| t.role = Role::Exit),
        (2, |t| t.rate_out = 1),
        (1, |t| t.rate_in = 0x0100_0000),
    ];
    for (hop, change) in cases {
        let mut c = paid(3, 1_000);
        change(&mut c.paid.as_mut().unwrap().terms[hop]);
        c.build();
        assert_eq!(c.answered, [Answered::Refused(hop, Status::Terms)], "hop {hop}");
        assert_eq!(c.at(hop).0.earned, 0);
        if hop > 0 {
            assert_eq!(c.at(hop - 1).1.owed, 0, "what was refused is not owed");
        } else {
            assert_eq!(c.entry().committed, 0);
        }
    }
}

// pay.terms.2
#[test]
fn a_next_relay_that_charges_another_rate_than_the_setup_says_is_left() {
    for forged in [1, u32::MAX] {
        let mut c = paid(2, 1_000);
        c.extend = false;
        c.origin.build(link(0), false, &c.path(), c.purpose(), c.paid.as_ref().map(|p| p.own)).unwrap();
        c.settle();
        let key = c.relays[0].snapshot()[0].key;
        c.relays[0].onward(key, link(1), false, Some(c.paid.as_ref().unwrap().payees[0]));
        let Some(Action::Hold(_)) = c.relays[0].poll_action() else { panic!() };
        let Some(Action::Send(to, word, cell)) = c.relays[0].poll_action() else { panic!() };
        let before = c.from(1);
        assert!(c.relays[1].handle_setup(c.now, before, word, &cell).is_ok());
        let reply = std::iter::from_fn(|| c.relays[1].poll_action()).find_map(|action| {
            if let Action::Send(_, word, reply) = action { Some((word, reply)) } else { None }
        });
        let (word, mut reply) = reply.unwrap();
        write_rate(&mut reply, forged);
        assert_eq!(c.relays[0].handle_reply(c.now, to, word, &reply), Err(DropReason::BadSetup));
        assert_eq!(c.relays[0].circuits(), (0, 0));
    }
}

// pay.credit.1
#[test]
fn without_credit_nothing_passes_and_nothing_is_owed() {
    let mut c = paid(2, SETUP_CELLS + FIRST_GRANT + 5);
    let key = c.build();
    for _ in 0..5 {
        c.cell_forward(key, 1);
    }
    let owed = c.at(0).1.owed;
    let mut cell = [0; crate::packet::CELL];
    assert!(!c.origin.may_seal(key), "an honest origin sends nothing that it has not paid for");
    let (to, word) = c.origin.seal(key, 1, &mut cell).unwrap();
    assert_eq!(c.relays[0].handle_cell(c.now.instant, to, word, &mut cell), Err(DropReason::NoCredit));
    assert_eq!(c.at(0).1.owed, owed);
    // And a setup neither.
    assert!(!c.origin.may_build(c.paid.as_ref().unwrap().own, 70));
    c.build();
    assert_eq!(c.answered, [Answered::Ready, Answered::Refused(0, Status::Unpaid)]);
}

// pay.credit.5
#[test]
fn what_the_next_hop_does_not_take_now_is_neither_charged_nor_owed() {
    let mut c = paid(2, 1_000);
    let key = c.build();
    let next = c.paid.as_ref().unwrap().payees[0];
    c.cell_forward(key, 1);
    let before = c.at(0);
    c.relays[0].ledger_mut().get_mut(next).unwrap().paused = true;
    let mut cell = [0; crate::packet::CELL];
    let (to, word) = c.origin.seal(key, 1, &mut cell).unwrap();
    assert_eq!(c.relays[0].handle_cell(c.now.instant, to, word, &mut cell), Err(DropReason::NoCredit));
    let after = c.at(0);
    assert_eq!((after.0.earned, after.1.owed), (before.0.earned, before.1.owed));
    assert!(c.cell_backward().is_ok(), "what was granted still comes");
    c.relays[0].ledger_mut().get_mut(next).unwrap().paused = false;
    c.cell_forward(key, 1);
    assert_eq!(c.at(0).1.owed, before.1.owed + 2 * rate(&c, 1));
}

// pay.meter.1
#[test]
fn circuits_that_are_owed_to_a_relay_that_is_left_end() {
    let mut c = paid(3, 1_000);
    c.build();
    let [payers, payees] = {
        let paid = c.paid.as_ref().unwrap();
        [paid.payers.clone(), paid.payees.clone()]
    };
    let now = c.now;
    c.relays[1].leave_account(now, payers[1]);
    assert_eq!(c.relays[1].circuits(), (1, 0));
    c.relays[1].leave_account(now, payees[1]);
    assert_eq!(c.relays[1].circuits(), (0, 0));
}

// pay.grant.2, pay.grant.4
#[test]
fn client_and_exit_together_cannot_make_the_relays_between_pay_more_than_was_paid() {
    let mut c = paid(3, 1_000);
    let key = c.build();
    // The client grants without end, and has paid for little.
    c.origin.ledger_mut().get_mut(c.paid.as_ref().unwrap().own).unwrap().paid = u128::MAX;
    c.grant(key, MAX_GRANT);
    let passed = (0..MAX_GRANT).take_while(|_| c.cell_backward().is_ok()).count();
    assert_eq!(passed as u64, 1_000 - SETUP_CELLS - FORWARD, "as many as the entry's credit covers");
    // What is left serves forward cells.
    for _ in 0..FORWARD {
        c.cell_forward(key, 2);
    }
    // An exit that ignores its grants is not paid for what comes beyond them.
    let exit = c.relays[2].snapshot()[0].key;
    let paid = c.paid.as_ref().unwrap().payers[2];
    c.relays[2].ledger_mut().get_mut(paid).unwrap().credit = i128::from(u64::MAX);
    c.relays[2].circuits.get_mut(exit).unwrap().meter.grant(100);
    let owed = c.at(1).1.owed;
    assert_eq!(c.cell_backward(), Err(DropReason::NoCredit));
    assert_eq!((c.at(1).1.owed, c.at(1).0.credit), (owed, 0));
    assert!(c.at(0).1.owed <= c.at(0).0.earned);
}

// pay.grant.1
#[test]
fn a_circuit_begins_with_sixteen_backward_cells() {
    let mut c = paid(3, 1_000);
    let key = c.build();
    let passed = (0..100).take_while(|_| c.cell_backward().is_ok()).count();
    assert_eq!(passed as u64, FIRST_GRANT);
    c.grant(key, 5);
    assert_eq!((0..100).take_while(|_| c.cell_backward().is_ok()).count(), 5);
}

// pay.grant.3
#[test]
fn cells_that_are_lost_on_the_way_do_not_stop_a_circuit_for_good() {
    let mut c = paid(2, 100_000);
    let key = c.build();
    let exit = c.relays[1].snapshot()[0].key;
    for round in 0..40 {
        c.grant(key, 4_000);
        for n in 0..1_000 {
            let mut cell = [0; crate::packet::CELL];
            let (to, word) = c.relays[1].start(exit, &mut cell).expect("the grant goes on");
            // Half of them are lost before the entry.
            if n % 2 == 0 {
                let CellStep::Pass(to, word) =
                    c.relays[0].handle_cell(c.now.instant, to, word, &mut cell).unwrap()
                else {
                    panic!()
                };
                assert!(c.origin.handle_cell(c.now.instant, to, word, &mut cell).is_ok(), "round {round}");
            }
        }
    }
    let entry = c.at(0).0;
    let reserved = rate(&c, 0) * 100_000 - entry.earned - entry.credit.cast_unsigned();
    assert!(reserved <= rate(&c, 0) * u128::from(MAX_GRANT), "{reserved}");
    assert!(c.entry().committed - c.entry().owed <= rate(&c, 0) * u128::from(MAX_GRANT));
}

// pay.bill.3
#[test]
fn an_entry_that_counts_cells_which_it_has_not_sent_is_left() {
    let mut c = paid(1, 100_000);
    let key = c.build();
    c.grant(key, MAX_GRANT);
    let entry = c.relays[0].snapshot()[0].key;
    let mut outcome = Ok(());
    for n in 0..2_000 {
        let mut cell = [0; crate::packet::CELL];
        let (to, word) = c.relays[0].start(entry, &mut cell).unwrap();
        if n % 4 == 0 {
            outcome = c.origin.handle_cell(c.now.instant, to, word, &mut cell).map(drop);
            if outcome.is_err() {
                break;
            }
        }
    }
    assert_eq!(outcome, Err((Some(key), DropReason::NoCredit)));
}
