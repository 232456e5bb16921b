use std::collections::BTreeSet;

use proptest::prelude::*;
use rand_core::SeedableRng as _;

use super::*;

const NETWORK: NetworkId = NetworkId([7; 16]);
const UNIX: u64 = 1_800_000_000;

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

fn id(n: u8) -> RelayId {
    RelayId([n; 32])
}

fn guards(relays: &[u8]) -> Guards {
    let mut guards = Guards::default();
    for n in relays {
        guards.add(UNIX, id(*n), &mut Random::seed_from_u64((*n).into()));
    }
    guards
}

fn everyone(_: &RelayId) -> bool {
    true
}

// path.guard.1
#[test]
fn the_first_is_used_until_it_fails_and_again_after_its_rest() {
    let (now, mut guards) = (start(), guards(&[1, 2, 3]));
    assert_eq!(guards.choose(now, everyone), Some(id(1)));
    assert_eq!(
        guards.choose(now, |relay| *relay != id(1)),
        Some(id(2)),
        "one that does not fit is passed over"
    );
    (1..=3).for_each(|n| guards.worked(UNIX + u64::from(n), &id(n)));
    guards.failed(now, &id(1));
    assert_eq!(guards.choose(now, everyone), Some(id(2)));
    assert_eq!(guards.choose(now + SHORTEST_REST, everyone), Some(id(1)));
    let mut alone = guards.clone();
    alone.failed(now + SHORTEST_REST, &id(1));
    assert_eq!(alone.choose(now + 2 * SHORTEST_REST, everyone), Some(id(1)), "nobody has worked meanwhile");
    guards.worked(UNIX + 9, &id(2));
    guards.failed(now + SHORTEST_REST, &id(1));
    assert_eq!(guards.choose(now + 2 * SHORTEST_REST, everyone), Some(id(2)), "the second rest is longer");
    guards.failed(now, &id(2));
    guards.failed(now, &id(3));
    assert_eq!(guards.choose(now, everyone), Some(id(2)), "all rest: the one whose rest ends first");
}

// path.guard.1
#[test]
fn a_new_one_is_wanted_only_while_they_are_few() {
    let (now, mut guards) = (start(), guards(&[1, 2]));
    for n in 1..=2 {
        guards.failed(now, &id(n));
    }
    assert_eq!(guards.choose(now, everyone), None);
    assert_eq!(guards.longest_rested(everyone), Some(id(1)));
    guards.add(UNIX, id(3), &mut Random::seed_from_u64(1));
    guards.add(UNIX, id(3), &mut Random::seed_from_u64(1));
    assert_eq!((guards.choose(now, everyone), guards.iter().len()), (Some(id(3)), 3));
    guards.failed(now, &id(3));
    assert!(guards.choose(now, everyone).is_some());
}

// path.guard.2
#[test]
fn one_that_was_used_comes_before_one_that_never_answered() {
    let (now, mut guards) = (start(), guards(&[1, 2, 3]));
    guards.failed(now, &id(1));
    guards.worked(UNIX + 5, &id(2));
    let order: Vec<_> = guards.iter().map(|guard| guard.id).collect();
    assert_eq!(order, [id(2), id(1), id(3)]);
    guards.worked(UNIX + 9, &id(1));
    guards.worked(UNIX + 20, &id(2));
    assert_eq!(guards.iter().map(|guard| guard.confirmed).collect::<Vec<_>>(), [UNIX + 5, UNIX + 9, 0]);
}

// path.guard.3
#[test]
fn a_network_that_is_down_is_no_guards_fault() {
    let (now, mut guards) = (start(), guards(&[1, 2]));
    for _ in 0..1000 {
        guards.failed(now, &id(1));
        guards.failed(now, &id(2));
    }
    guards.worked(UNIX, &id(1));
    assert_eq!(guards.iter().map(|guard| guard.strikes).collect::<Vec<_>>(), [0, 1]);
    for strikes in 2..=MAX_STRIKES {
        guards.failed(now, &id(2));
        guards.worked(UNIX, &id(1));
        assert_eq!(guards.in_use().any(|guard| guard.id == id(2)), strikes < MAX_STRIKES, "{strikes}");
    }
    assert!(guards.take_changed() && !guards.take_changed());
    // It is remembered, used where no other will do, and one again when it answers.
    assert_eq!(guards.choose(now, |relay| *relay == id(2)), None);
    assert_eq!(guards.longest_rested(|relay| *relay == id(2)), Some(id(2)));
    let mut kept = Guards::decode(&guards.encode(NETWORK), NETWORK).unwrap().unwrap();
    assert_eq!(kept.in_use().map(|guard| guard.id).collect::<Vec<_>>(), [id(1)]);
    kept.worked(UNIX, &id(2));
    assert_eq!(kept.in_use().count(), 2);
}

// path.guard.4
#[test]
fn each_is_one_for_months_and_not_for_ever() {
    let mut guards = guards(&[1, 2, 3, 4, 5, 6]);
    let ends: BTreeSet<_> = guards.iter().map(|guard| guard.expires).collect();
    assert_eq!(ends.len(), 6, "they do not end together");
    guards.expire(UNIX + SHORTEST_LIFE - 1);
    assert_eq!(guards.iter().len(), 6);
    guards.expire(UNIX + LONGEST_LIFE);
    assert_eq!(guards.iter().len(), 0);
}

// path.guard.8
#[test]
fn hidden_guards_are_waited_for_and_then_limit_new_ones() {
    let (now, mut guards) = (start(), guards(&[1, 2, 3, 4, 5, 6]));
    let hide = |guards: &mut Guards, now, hidden: &[u8]| {
        let is_hidden = |relay: &RelayId| hidden.iter().any(|n| *relay == id(*n));
        guards.note(now, |relay| if is_hidden(relay) { Standing::Hidden } else { Standing::Known });
        guards.lost(now)
    };
    let lost = |hidden, given_up, waits| Some(Lost { hidden, given_up, waits });
    assert_eq!(guards.lost(now), None);
    assert_eq!(hide(&mut guards, now, &[2]), lost(1, 0, true));
    let later = now + WAIT;
    assert_eq!(hide(&mut guards, later, &[2]), None, "it was waited for");
    assert_eq!(hide(&mut guards, later, &[3]), lost(1, 0, true), "each has its own time");
    hide(&mut guards, later, &[1, 2, 3, 4, 5]);
    assert_eq!(guards.lost(later + 100 * WAIT), lost(MAX_LOST, 0, false));
    assert_eq!(hide(&mut guards, later, &[]), None);
    // Those that are given up count with them, unless they have gone by themselves.
    for n in [2, 3] {
        (0..MAX_STRIKES).for_each(|_| {
            guards.failed(now, &id(n));
            guards.worked(UNIX, &id(1));
        });
    }
    assert_eq!(hide(&mut guards, later, &[]), None);
    hide(&mut guards, later, &[2, 4, 5, 6]);
    assert_eq!(guards.lost(later + WAIT), lost(4, 1, false));
    guards.note(later, |relay| if *relay == id(3) { Standing::Gone } else { Standing::Hidden });
    assert_eq!(guards.lost(later + WAIT), lost(5, 0, false));
    guards.note(later, |_| Standing::Gone);
    assert_eq!(guards.lost(later), None);
}

// path.guard.6
#[test]
fn one_over_which_few_circuits_stand_is_left() {
    let mut fair = guards(&[1, 2]);
    for n in 0..10_000 {
        assert!(!fair.count(&id(1), n % 2 == 0), "half of them stand");
    }
    assert!(fair.iter().all(|guard| guard.tried < MOST_TRIED));
    let mut unfair = guards(&[1, 2]);
    let left = (0..1000).find(|n| unfair.count(&id(1), n % 4 == 0));
    assert_eq!(left, Some(ENOUGH_TRIED as usize - 1));
    assert!(!unfair.count(&id(1), false), "it is said once");
    let now = start();
    assert_eq!(unfair.choose(now, everyone), Some(id(2)));
    assert_eq!(unfair.awake_before(now, &id(1)), [id(2)], "any other one comes before it");
    unfair.failed(now, &id(2));
    assert_eq!(unfair.longest_rested(everyone), Some(id(2)), "and also one that rests");
}

// path.guard.5
#[test]
fn what_is_stored_is_read_again_and_nothing_else() {
    let mut guards = guards(&[1, 2, 3]);
    guards.worked(UNIX, &id(2));
    guards.count(&id(2), true);
    assert!(guards.take_changed());
    let bytes = guards.encode(NETWORK);
    assert_eq!(Guards::decode(&bytes, NETWORK), Ok(Some(guards.clone())));
    assert_eq!(Guards::decode(&bytes, NetworkId([8; 16])), Ok(None));
    for length in 0..bytes.len() {
        assert!(Guards::decode(&bytes[..length], NETWORK).is_err(), "{length} bytes");
        let mut damaged = bytes.clone();
        damaged[length] ^= 1;
        assert!(Guards::decode(&damaged, NETWORK).is_err(), "byte {length}");
    }
    assert!(Guards::decode(&[bytes, vec![0]].concat(), NETWORK).is_err());
    let mut most = Guards::default();
    for n in 1..=40 {
        most.add(UNIX + u64::from(n), id(n), &mut Random::seed_from_u64(1));
    }
    assert_eq!((most.iter().len(), most.encode(NETWORK).len()), (MAX_REMEMBERED, MAX_FILE));
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &check(body)].concat()
}

// path.guard.5
#[test]
fn a_file_with_a_right_checksum_is_still_checked() {
    let bytes = guards(&[1, 2]).encode(NETWORK);
    let body = &bytes[..bytes.len() - CHECK];
    let with = |at: usize, value: u8| {
        let mut body = body.to_vec();
        body[at] = value;
        Guards::decode(&sealed(&body), NETWORK)
    };
    for (at, value) in [(0, b'X'), (4, 2), (21, 1), (21, 3), (21, 255)] {
        assert!(with(at, value).is_err(), "{at}");
    }
    let twice = [&body[..HEADER], &body[HEADER..HEADER + GUARD], &body[HEADER..HEADER + GUARD]].concat();
    assert!(Guards::decode(&sealed(&twice), NETWORK).is_err());
}

proptest! {
    // path.guard.5
    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some(guards)) = Guards::decode(&sealed(&body), NETWORK) {
            prop_assert_eq!(guards.encode(NETWORK), sealed(&body));
        }
    }
}
