use proptest::prelude::*;

use super::*;
use crate::descriptor::{Descriptor, EPOCH_SECONDS};
use crate::sample::{FIRST_EPOCH, NETWORK, NOW, chain, descriptor, identity, payment, signed};

fn with(n: u8, change: impl FnOnce(&mut Descriptor)) -> SignedDescriptor {
    let mut new = descriptor(n);
    change(&mut new);
    SignedDescriptor::sign(new, &identity(n)).unwrap()
}

fn view(relays: &[u8]) -> View {
    let mut view = View::new(NETWORK);
    for n in relays {
        view.insert(signed(*n)).unwrap();
    }
    view
}

#[test]
fn the_order_does_not_depend_on_the_order_of_insertion() {
    let view_a = view(&[1, 2, 3, 4]);
    assert_eq!(view_a, view(&[3, 4, 2, 1]));
    let ids: Vec<_> = view_a.iter().map(|relay| relay.id).collect();
    assert!(ids.is_sorted());
    assert_eq!(ids.len(), 4);
}

// directory.view.1
#[test]
fn the_newest_sequence_wins() {
    let mut view = view(&[1]);
    let before = view.clone();
    assert_eq!(view.insert(signed(1)), Ok(()));
    assert_eq!(view.insert(with(1, |d| d.sequence = 6)), Err(NotInserted::Older(7)));
    assert_eq!(view, before);
    // Of two with one number the smaller digest wins, whichever comes first.
    let other = with(1, |d| d.operator.clear());
    let (smaller, larger) =
        if other.digest() < signed(1).digest() { (other, signed(1)) } else { (signed(1), other) };
    for order in [[&smaller, &larger], [&larger, &smaller]] {
        let mut view = View::new(NETWORK);
        let results = order.map(|relay| view.insert(relay.clone()));
        let second = if order[0] == &smaller { Err(NotInserted::SameSequence(7)) } else { Ok(()) };
        assert_eq!((results, view.get(&smaller.id)), ([Ok(()), second], Some(&smaller)));
    }
    let newer = with(1, |d| d.sequence = 8);
    assert_eq!(view.insert(newer.clone()), Ok(()));
    assert_eq!(view.get(&newer.id), Some(&newer));
    assert_eq!(view.insert(signed(1)), Err(NotInserted::Older(8)));
}

// directory.view.2
#[test]
fn a_link_key_has_one_owner_until_the_owner_leaves_it() {
    let mut view = view(&[1]);
    let second = with(2, |d| d.link_key = DhPublic([1; 32]));
    assert_eq!(view.insert(second.clone()), Err(NotInserted::LinkKeyTaken(identity(1).id())));
    assert_eq!(view.iter().len(), 1);
    view.insert(with(1, |d| {
        d.sequence = 8;
        d.link_key = DhPublic([9; 32]);
    }))
    .unwrap();
    assert_eq!(view.insert(second), Ok(()));
    let back = with(1, |d| d.sequence = 9);
    assert_eq!(view.insert(back), Err(NotInserted::LinkKeyTaken(identity(2).id())));
}

#[test]
fn another_network_and_a_relay_too_many_are_refused() {
    let mut view = view(&[1]);
    let other = NetworkId([0x22; 16]);
    assert_eq!(view.insert(with(2, |d| d.network = other)), Err(NotInserted::OtherNetwork(other)));
    assert_eq!(view.most, MAX_RELAYS);
    view.most = 1;
    assert_eq!(view.insert(signed(3)), Err(NotInserted::Full));
    assert_eq!(view.insert(with(1, |d| d.sequence = 8)), Ok(()));
}

#[test]
fn onion_keys_and_exits_are_found() {
    let view = view(&[1, 2, 3]);
    let id = identity(2).id();
    assert_eq!(view.onion_key(&id, FIRST_EPOCH), Some(&DhPublic([2 ^ 0x40; 32])));
    assert_eq!(view.onion_key(&id, FIRST_EPOCH + 1), Some(&DhPublic([2 ^ 0x80; 32])));
    assert_eq!(view.onion_key(&id, FIRST_EPOCH + 2), None);
    assert_eq!(view.onion_key(&id, FIRST_EPOCH - 1), None);
    assert_eq!(view.onion_key(&RelayId([0; 32]), FIRST_EPOCH), None);
    let mut exits = [identity(1).id(), identity(3).id()];
    exits.sort();
    assert!(view.exits_for_port(443).map(|relay| relay.id).eq(exits));
    assert_eq!(view.exits_for_port(25).count(), 0);
}

// directory.view.3
#[test]
fn what_cannot_be_used_has_a_reason() {
    let mut view = view(&[1]);
    let early = with(2, |d| d.first_epoch += 1);
    let short = with(3, |d| d.expires = NOW + 1);
    let (early_id, short_id) = (early.id, short.id);
    view.insert(early).unwrap();
    view.insert(short).unwrap();
    assert!(view.usable(&identity(1).id(), NOW).is_ok());
    assert!(view.usable(&short_id, NOW).is_ok());
    assert_eq!(view.usable(&RelayId([0; 32]), NOW), Err(Unfit::Missing));
    let mut expected =
        [(early_id, Unfit::NoOnionKey { epoch: FIRST_EPOCH }), (short_id, Unfit::Expired { at: NOW + 1 })];
    expected.sort();
    assert!(view.unfit(NOW + 1).eq(expected));
    assert!(view.usable(&early_id, NOW + EPOCH_SECONDS - 1).is_ok());
}

// directory.view.2
#[test]
fn who_proves_a_link_key_has_it_whoever_came_first() {
    let link = circuit::keys::DhSecret::from_bytes([9; 32]);
    let describe = |n: u8| Descriptor { payment: Some(payment(n)), link_key: link.public(), ..descriptor(n) };
    let thief = SignedDescriptor::sign(describe(1), &identity(1)).unwrap();
    let holder = SignedDescriptor::prove(describe(2), &identity(2), &link).unwrap();
    // The thief registered first, and so did not have to know whose key he would take.
    let mut first = View::new(NETWORK).with_chain(chain());
    first.set_registry(Arc::new(registry(&[1, 2])));
    let mut second = first.clone();
    first.insert(thief.clone()).unwrap();
    first.insert(holder.clone()).unwrap();
    assert_eq!(first.insert(thief.clone()), Err(NotInserted::LinkKeyTaken(holder.id)));
    second.insert(holder.clone()).unwrap();
    assert_eq!(second.insert(thief), Err(NotInserted::LinkKeyTaken(holder.id)));
    assert!(first == second && first.iter().map(|relay| relay.id).eq([holder.id]));
    // Of two that prove it, both of one hand, the first to register has it.
    let other = SignedDescriptor::prove(describe(1), &identity(1), &link).unwrap();
    first.insert(other.clone()).unwrap();
    assert_eq!(first.insert(holder), Err(NotInserted::LinkKeyTaken(other.id)));
}

// directory.view.4
#[test]
fn who_is_paid_elsewhere_or_nowhere_is_unfit() {
    let id = |n| identity(n).id();
    let mut view = view(&[1]).with_chain(chain());
    view.insert(with(2, |d| d.payment = Some(payment(2)))).unwrap();
    view.insert(with(3, |d| d.payment = Some(Payment { chain_id: 9, ..payment(3) }))).unwrap();
    let contract = Address::repeat_byte(9);
    view.insert(with(4, |d| d.payment = Some(Payment { contract, ..payment(4) }))).unwrap();
    assert_eq!(view.usable(&id(1), NOW), Err(Unfit::NoPayment));
    assert!(view.usable(&id(2), NOW).is_ok());
    let elsewhere = |chain_id, contract| Err(Unfit::PaidElsewhere { chain_id, contract });
    assert_eq!(view.usable(&id(3), NOW), elsewhere(9, chain().contract));
    assert_eq!(view.usable(&id(4), NOW), elsewhere(chain().id, contract));
    assert_eq!(view.payment(&id(4)).map(|payment| payment.contract), Some(contract));
    assert_eq!((view.payment(&id(1)), view.chain()), (None, Some(&chain())));
    // On a free network nobody is paid.
    let mut free = View::new(NETWORK);
    free.insert(with(2, |d| d.payment = Some(payment(2)))).unwrap();
    assert_eq!(free.usable(&id(2), NOW), elsewhere(chain().id, chain().contract));
    assert_eq!(free.unfit(NOW).count(), 1);
}

fn registry(owners: &[u8]) -> Registry {
    let mut registry = Registry::default();
    for (seq, n) in (1..).zip(owners) {
        registry.apply(seq, payment(*n).owner, identity(*n).id(), true).unwrap();
        registry.set_bond(payment(*n).owner, chain().minimum_bond);
    }
    registry
}

fn paid(n: u8) -> SignedDescriptor {
    with(n, |d| d.payment = Some(payment(n)))
}

// directory.view.5
#[test]
fn only_what_its_owner_registered_is_in_the_view() {
    let id = |n| identity(n).id();
    let mut open = View::new(chain().open_network()).with_chain(chain()).with_local(true);
    let early = with(1, |d| (d.network, d.payment) = (open.network(), Some(payment(1))));
    assert_eq!(open.insert(early.clone()), Err(NotInserted::Unregistered));
    open.set_registry(Arc::new(registry(&[1, 4])));
    assert_eq!((open.insert(early), open.missing()), (Ok(()), 1));
    let mut view = View::new(NETWORK).with_chain(chain());
    view.insert(paid(1)).unwrap();
    view.insert(paid(2)).unwrap();
    view.insert(signed(3)).unwrap();
    assert_eq!(view.set_registry(Arc::new(registry(&[1, 3, 4]))), 2);
    assert!(view.iter().map(|relay| relay.id).eq([id(1)]));
    assert_eq!(view.usable(&id(2), NOW), Err(Unfit::Unregistered));
    assert_eq!(view.usable(&id(3), NOW), Err(Unfit::Missing));
    assert_eq!(view.insert(paid(2)), Err(NotInserted::Unregistered));
    assert_eq!(view.insert(signed(3)), Err(NotInserted::OtherOwner));
    let other = with(3, |d| d.payment = Some(Payment { owner: payment(4).owner, ..payment(3) }));
    assert_eq!(view.insert(other), Err(NotInserted::OtherOwner));
    assert_eq!(view.insert(paid(3)), Ok(()));
    // A link key is free again when its relay has left.
    view.set_registry(Arc::new(registry(&[2, 3])));
    assert_eq!(
        view.insert(with(2, |d| (d.payment, d.link_key) = (Some(payment(2)), DhPublic([1; 32])))),
        Ok(())
    );
}

// directory.view.7
#[test]
fn a_relay_of_an_open_network_is_on_the_public_internet() {
    let open = View::new(chain().open_network()).with_chain(chain());
    let at = |addresses: &[&str]| {
        with(1, |d| {
            (d.network, d.payment) = (chain().open_network(), Some(payment(1)));
            d.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        })
    };
    let insert = |view: &View, addresses: &[&str]| {
        let mut view = view.clone();
        view.set_registry(Arc::new(registry(&[1])));
        view.insert(at(addresses))
    };
    assert_eq!(insert(&open, &["93.184.216.34:1", "[2a00:1450::1]:1"]), Ok(()));
    for private in ["127.0.0.1:1", "10.0.0.1:1", "169.254.169.254:80", "[fd00::1]:1", "[64:ff9b::a00:1]:1"] {
        let refused = insert(&open, &["93.184.216.34:1", private]);
        assert!(matches!(refused, Err(NotInserted::Special(_))), "{private} {refused:?}");
        assert_eq!(insert(&open.clone().with_local(true), &[private]), Ok(()));
    }
    assert!(!open.is_local() && View::new(NETWORK).with_chain(chain()).is_local(), "a list is signed");
}

// directory.view.6
#[test]
fn a_bond_below_the_minimum_is_a_reason_and_all_are_counted() {
    let mut registry = registry(&[1, 2, 3, 4, 5]);
    registry.set_bond(payment(2).owner, Wei(5));
    let mut view = View::new(NETWORK).with_chain(chain());
    view.set_registry(Arc::new(registry));
    view.insert(paid(1)).unwrap();
    view.insert(paid(2)).unwrap();
    view.insert(with(3, |d| (d.payment, d.expires) = (Some(payment(3)), NOW + 1))).unwrap();
    view.insert(with(4, |d| d.payment = Some(Payment { chain_id: 9, ..payment(4) }))).unwrap();
    let poor = Unfit::BondTooLow { bond: Wei(5), minimum: chain().minimum_bond };
    assert_eq!(view.usable(&identity(2).id(), NOW), Err(poor));
    let count = view.count(NOW + 1);
    let expected =
        Count { registered: Some(5), known: 4, usable: 1, missing: 1, stale: 1, poor: 1, paid_elsewhere: 1 };
    assert_eq!(count, expected);
    assert_eq!(view.unfit(NOW + 1).count(), 4);
    assert!(view.unfit(NOW + 1).map(|(id, _)| id).is_sorted());
    assert_eq!(view.expire(NOW + 1), 1);
    assert_eq!((view.count(NOW + 1).missing, view.missing(), view.count(NOW + 1).stale), (2, 2, 0));
    let free = View::new(NETWORK).count(NOW);
    assert_eq!(free, Count::default());
}

// directory.view.8
#[test]
fn a_full_view_has_the_highest_bonds_whoever_came_first() {
    let mut registry = registry(&[1, 2, 3, 4, 5, 6]);
    for (n, bond) in [(1, 0), (2, 0), (3, 9), (4, 5), (5, 9), (6, 9)] {
        registry.set_bond(payment(n).owner, Wei(bond));
    }
    let registry = Arc::new(registry);
    let ids = |relays: &[u8]| {
        let mut ids: Vec<_> = relays.iter().map(|n| identity(*n).id()).collect();
        ids.sort();
        ids
    };
    // Whoever fills it first, with relays that cost him nothing, ends with nothing.
    for order in [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [2, 6, 1, 5, 3, 4]] {
        let mut view = View::new(NETWORK).with_chain(chain());
        view.most = 3;
        view.set_registry(Arc::clone(&registry));
        for n in order {
            let known = view.iter().len();
            let taken = view.insert(paid(n));
            assert!(matches!(taken, Ok(()) | Err(NotInserted::Full)), "{taken:?}");
            assert!(view.iter().len() == known.max((known + 1).min(3)), "{order:?}");
        }
        assert_eq!(view.iter().map(|relay| relay.id).collect::<Vec<_>>(), ids(&[3, 5, 6]));
        assert_eq!(view.link_keys.len(), 3);
        assert_eq!(view.insert(paid(1)), Err(NotInserted::Full));
        assert_eq!(view.insert(with(3, |d| (d.sequence, d.payment) = (8, Some(payment(3))))), Ok(()));
        assert_eq!(view.expire(NOW + 10 * EPOCH_SECONDS), 3);
        assert_eq!(view.insert(paid(1)), Ok(()), "there is room again");
    }
    // Of equal bonds the one that was registered first stays.
    let mut view = View::new(NETWORK).with_chain(chain());
    view.most = 1;
    view.set_registry(registry);
    for (n, taken) in [(5, Ok(())), (6, Err(NotInserted::Full)), (3, Ok(())), (5, Err(NotInserted::Full))] {
        assert_eq!(view.insert(paid(n)), taken, "{n}");
    }
}

// path.guard.9 operate.view.3
#[test]
fn three_in_five_of_those_with_a_bond_are_enough() {
    for (known, of, few) in [(0, 0, false), (3, 5, false), (2, 5, true), (5_999, 10_000, true)] {
        assert_eq!(Share { known, of }.is_few(), few, "{known} of {of}");
    }
    let mut registry = registry(&[1, 2, 3, 4, 5, 6, 7]);
    registry.set_bond(payment(6).owner, Wei(1));
    // Another owner of the same id makes no second relay.
    registry.apply(8, payment(9).owner, identity(1).id(), true).unwrap();
    registry.set_bond(payment(9).owner, chain().minimum_bond);
    let mut view = View::new(NETWORK).with_chain(chain());
    assert_eq!((view.share(), view.gap()), (None, None), "without a registry nothing can be expected");
    view.set_registry(Arc::new(registry));
    for n in [1, 2, 3, 6] {
        view.insert(paid(n)).unwrap();
    }
    assert_eq!(view.gap(), Some(Share { known: 3, of: 6 }));
    view.set_content(true);
    assert_eq!(view.gap(), None, "its user knows that there are no more");
    view.set_content(false);
    view.insert(paid(4)).unwrap();
    assert_eq!((view.share(), view.gap()), (Some(Share { known: 4, of: 6 }), None));
}

/// What is kept beside the relays of a view, counted anew.
fn counted(view: &View) -> (Option<Share>, Option<(Rank, RelayId)>, usize) {
    let share = view.registry.as_ref().map(|registry| {
        let least = chain().minimum_bond;
        let bonded = registry.iter().filter(|(_, entry)| entry.bond >= least);
        let ids: BTreeSet<_> = bonded.map(|(_, entry)| entry.id).collect();
        let known = view.iter().filter(|relay| view.rank(relay).0 >= least).count();
        Share { known, of: ids.len().min(view.most) }
    });
    let first = view.iter().map(|relay| (view.rank(relay), relay.id)).min();
    (share, first.filter(|_| view.iter().len() >= view.most), view.iter().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // directory.view.8 path.guard.9
    #[test]
    fn what_is_counted_on_the_way_is_what_there_is(
        steps in prop::collection::vec((0_u8..8, 1_u8..8, 1_u8..8), 0..60),
    ) {
        let mut view = View::new(NETWORK).with_chain(chain());
        view.most = 4;
        let bonds = [0, 5, chain().minimum_bond.0, chain().minimum_bond.0 + 1];
        for (step, (what, n, other)) in steps.into_iter().enumerate() {
            let new = |change: &dyn Fn(&mut Descriptor)| with(n, |d| {
                (d.sequence, d.payment) = (step as u64 + 10, Some(payment(n)));
                change(d);
            });
            match what {
                0 => {
                    // Some leave, some bonds change, and one id has a second owner.
                    let mut registry = registry(&[1, 2, 3, 4, 5, 6, 7]);
                    registry.apply(8, payment(other).owner, identity(other).id(), false).unwrap();
                    registry.apply(9, payment(8).owner, identity(n).id(), true).unwrap();
                    for (relay, bond) in [n, other, 8].into_iter().zip(bonds.into_iter().cycle().skip(step)) {
                        registry.set_bond(payment(relay).owner, Wei(bond));
                    }
                    view.set_registry(Arc::new(registry));
                }
                1 => drop(view.expire(NOW + u64::from(n) * 10)),
                2 => drop(view.insert(new(&|d| d.link_key = DhPublic([other; 32])))),
                3 => drop(view.insert(new(&|d| d.payment = Some(payment(8))))),
                _ => drop(view.insert(new(&|d| d.expires = NOW + u64::from(other) * 10))),
            }
            prop_assert_eq!((view.share(), view.last(), view.ranks.len()), counted(&view));
            prop_assert_eq!(view.link_keys.len(), view.relays.len());
        }
    }
}
