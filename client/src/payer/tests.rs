//! What a payer makes of what its entry says.

use circuit::keys::{BootId, DhSecret, NetworkId, Random, RelayId};
use circuit::link::{LinkConfig, LinkLimits, Links, Peer, Suites};
use payments::session::{Domain, Signer};
use payments::wallet::WalletLimits;
use rand_core::SeedableRng as _;

use super::*;

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 }
}

fn signer(number: u8) -> Signer {
    Signer::from_bytes([number; 32]).unwrap()
}

fn payer() -> Payer {
    let domain = Domain { chain_id: 1, contract: Address::repeat_byte(7) };
    let limits =
        WalletLimits { redemption_cost: Wei(1 << 60), max_open: 2, value: Wei(384), max_value: Wei(1 << 60) };
    Payer::new(Wallet::new(domain, signer(1).address(), signer(1), [1; 32], limits))
}

/// Names of links come from links only.
fn link() -> LinkId {
    let config = LinkConfig {
        network: NetworkId([1; 16]),
        relay: None,
        boot: BootId(1),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let link_key = DhSecret::random(&mut Random::seed_from_u64(1)).public();
    let peer = Peer { id: RelayId([1; 32]), link_key, address: ([127, 0, 0, 1], 1).into() };
    Links::new(config, [3; 32]).dial(start(), &peer).unwrap()
}

// pay.deliver.1
#[test]
fn an_entry_that_charges_for_all_cells_hides_no_losses_by_naming_fewer() {
    let (mut payer, mut ledger, link) = (payer(), Ledger::default(), link());
    let account = payer.entry_up(start(), &mut ledger, link, signer(2).address());
    ledger.engage(account, 10);
    ledger.owe(account, 10, 10_000);
    for (cells, due, uncharged) in [(0, 100_000, 0), (10_000, 95_000, 500), (0, 100_010, 0)] {
        let counts = Frame::Meter { role: Role::Payee, cells, due: Wei(due), credited: Wei(0) };
        payer.handle(start(), &mut ledger, link, &counts).unwrap();
        assert_eq!(payer.uncharged(link), uncharged, "{cells} cells, {due} wei");
    }
}

// pay.meter.1
#[test]
fn who_was_left_for_a_lie_is_named_as_long_as_it_is_not_paid() {
    let (mut payer, mut ledger, link) = (payer(), Ledger::default(), link());
    let owner = signer(2).address();
    let account = payer.entry_up(start(), &mut ledger, link, owner);
    ledger.engage(account, 10);
    assert!(payer.distrusted().is_empty());
    let counts = Frame::Meter { role: Role::Payee, cells: 0, due: Wei(1 << 100), credited: Wei(0) };
    assert!(payer.handle(start(), &mut ledger, link, &counts).is_err());
    assert_eq!(payer.distrusted(), [owner]);
}
