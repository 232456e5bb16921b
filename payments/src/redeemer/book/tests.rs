use alloy_primitives::{B256, keccak256};

use super::*;
use crate::claim::Claim;
use crate::session::{Session, Signature};

const NOW: u64 = 1_700_000_000;
const FACE: Wei = Wei(1_000_000_000_000_000);
const PAYEE: Address = Address::repeat_byte(0xee);

fn win(payer: u8, nonce: u32) -> Win {
    let session = Session {
        payer: Address::repeat_byte(payer),
        payee: PAYEE,
        nonce,
        anchor: B256::ZERO,
        rand_hash: keccak256(B256::ZERO),
        face: FACE,
        win_prob: 1,
        expiry: NOW + 48 * HOUR,
    };
    let claim = Claim { session, draw: 1, link: B256::ZERO, rand: B256::ZERO, signature: Signature([1; 64]) };
    Win { claim, due: None, state: State::New, refused: None }
}

fn account(balance: Wei, reserve: Wei, bound: bool) -> Account {
    Account { balance, reserve, only_payee: bound.then_some(PAYEE), ..Account::default() }
}

fn facts(accounts: &[(u8, Account)]) -> Facts {
    let head = Head { number: 100, time: NOW, ..Head::default() };
    let finalized = Head { number: 98, time: NOW - 24, ..Head::default() };
    let accounts = accounts.iter().map(|(payer, account)| (Address::repeat_byte(*payer), *account)).collect();
    let purse = Purse { wei: Wei(1 << 80), ..Purse::default() };
    Facts { head, finalized, accounts, purse, fees: Fees { base: 1_000_000, tip: 0 }, ..Facts::default() }
}

fn rich(bound: bool) -> Account {
    account(FACE.saturating_mul(1000), FACE.saturating_mul(100), bound)
}

fn keys(plan: &Plan) -> Vec<(u8, u32)> {
    let claims = plan.submit.iter().flat_map(|submit| &submit.claims);
    claims.map(|((payer, _, nonce), _)| (payer[0], *nonce)).collect()
}

// pay.redeem.2
#[test]
fn only_bound_pots_wait_one_to_twelve_hours_and_never_into_the_end() {
    let (mut shortest, mut longest) = (u64::MAX, 0);
    for random in 0..2000u64 {
        let mut book = Book::default();
        for win in [win(1, 0), win(2, 0)] {
            book.add(&win, NOW).unwrap();
        }
        let facts = facts(&[(1, rich(true)), (2, rich(false))]);
        let plan = book.plan(&facts, NOW, random.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert_eq!(keys(&plan), [(2, 0)]);
        let due = book.wins[&win(1, 0).key()].due.unwrap() - NOW;
        (shortest, longest) = (shortest.min(due), longest.max(due));
        // Another look changes nothing.
        book.plan(&facts, NOW + 60, random);
        assert_eq!(book.wins[&win(1, 0).key()].due, Some(NOW + due));
        assert_eq!(keys(&book.plan(&facts, NOW + due, 0)), [(1, 0), (2, 0)]);
    }
    assert!(shortest >= HOUR && longest < 12 * HOUR, "{shortest} to {longest}");
    assert!(shortest < HOUR + 600 && longest > 12 * HOUR - 600, "{shortest} to {longest}");
    let mut late = win(1, 0);
    late.claim.session.expiry = NOW + 13 * HOUR;
    let mut book = Book::default();
    book.add(&late, NOW).unwrap();
    book.plan(&facts(&[(1, rich(true))]), NOW, u64::MAX);
    assert!(book.wins[&late.key()].due.unwrap() <= NOW + HOUR);
}

// pay.redeem.2
#[test]
fn a_bound_pot_with_more_than_a_quarter_of_its_reserve_at_stake_is_redeemed_at_once() {
    for (wins, waits) in [(5, true), (6, false)] {
        let mut book = Book::default();
        for nonce in 0..wins {
            book.add(&win(1, nonce), NOW).unwrap();
        }
        let account = account(FACE.saturating_mul(100), FACE.saturating_mul(20), true);
        let plan = book.plan(&facts(&[(1, account)]), NOW, 3);
        assert_eq!(keys(&plan).is_empty(), waits, "{wins} wins");
    }
}

// pay.redeem.3
#[test]
fn less_than_the_face_is_taken_at_the_end_only_and_never_less_than_it_costs() {
    let half = Wei(FACE.0 / 2);
    let mut book = Book::default();
    book.add(&win(1, 0), NOW).unwrap();
    let mut facts = facts(&[(1, account(half, Wei::ZERO, false))]);
    assert_eq!(keys(&book.plan(&facts, NOW, 0)), []);
    let late = NOW + 36 * HOUR;
    let plan = book.plan(&facts, late, 0);
    let (_, claim) = &plan.submit.unwrap().claims[0];
    // Whoever takes a wei out meanwhile makes it fail, and be tried again.
    assert_eq!((Wei::from(claim.minPayout), claim.mayDefault), (half, true));
    facts.fees.base = half.0 / u128::from(GAS_EACH) + 1;
    assert_eq!(keys(&book.plan(&facts, late, 0)), []);
    assert_eq!(book.wins[&win(1, 0).key()].refused, Some(Reason::Worthless));
}

#[test]
fn a_pot_is_not_reckoned_with_twice() {
    let mut book = Book::default();
    for nonce in 0..5 {
        book.add(&win(1, nonce), NOW).unwrap();
    }
    // Two out of the balance, one out of a reserve that loses twice as much.
    let account = account(FACE.saturating_mul(2), FACE.saturating_mul(2), false);
    assert_eq!(keys(&book.plan(&facts(&[(1, account)]), NOW, 0)), [(1, 0), (1, 1), (1, 2)]);
}

// pay.redeem.3
#[test]
fn a_win_that_waits_for_its_whole_face_does_not_hold_up_smaller_ones() {
    let mut book = Book::default();
    let mut big = win(1, 0);
    big.claim.session.face = FACE.saturating_mul(5);
    for win in [big, win(1, 1), win(1, 2)] {
        book.add(&win, NOW).unwrap();
    }
    let account = account(FACE.saturating_mul(2), Wei::ZERO, false);
    assert_eq!(keys(&book.plan(&facts(&[(1, account)]), NOW, 0)), [(1, 1), (1, 2)]);
}

#[test]
fn records_come_back_and_damaged_ones_do_not() {
    let reasons = [Reason::Expired, Reason::Refused(7), Reason::Worthless];
    let lost = reasons.map(State::Lost);
    let states = [State::New, State::Sent, State::Mined, State::Final { payout: Wei(5) }];
    for state in states.into_iter().chain(lost) {
        for refused in [None, Some(Reason::Refused(3))] {
            let win = Win { due: Some(NOW), state, refused, ..win(1, 2) };
            let bytes = win.encode().unwrap();
            assert_eq!(Win::decode(&bytes), Ok(win));
            for n in 0..bytes.len() {
                assert!(Win::decode(&bytes[..n]).is_err());
            }
            assert!(Win::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
    let place = Place { nonce: 4, max_fee: 5, tip: 6 };
    let flight =
        Flight { place, sent: 7, hashes: vec![B256::ZERO; 2], wins: vec![win(1, 1).key(), win(2, 2).key()] };
    assert_eq!(Flight::decode(4, &flight.encode()), Ok(flight.clone()));
    assert!(Flight::decode(4, &flight.encode()[..60]).is_err());
    let totals = Totals { paid: 1, payout: Wei(2), lost: 3, missed: Wei(4), fees: Wei(5) };
    assert_eq!(Totals::decode(&totals.encode()), Ok(totals));
    assert!(Totals::decode(&totals.encode()[1..]).is_err());
}
