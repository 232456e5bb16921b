//! How simulated hosts pay and are paid: their pots, their disks, and the chain.

use std::collections::BTreeMap;

use circuit::relay::Asks;
use client::payer::Payer;
use payments::Address;
use payments::amount::Wei;
use payments::offer::Face;
use payments::record::{Change, Record};
use payments::session::{Domain, Signer};
use payments::till::{Till, TillLimits};
use payments::wallet::{Wallet, WalletLimits};
use router::cashier::{Cashier, CashierConfig};

use crate::host::{Host, HostId, Running};
use crate::sim::Sim;

/// The chain and the contract of all simulated networks.
pub const DOMAIN: Domain = Domain { chain_id: 31_337, contract: Address::repeat_byte(0xc0) };

/// What a host pays with, and what it asks.
#[derive(Clone, Copy, Debug)]
pub struct Money {
    /// The key of its pot.
    pub secret: [u8; 32],
    /// What a cell costs; only at a relay.
    pub asks: Asks,
    /// The draws that a win is worth.
    pub face: u32,
}

impl Money {
    fn signer(&self) -> Signer {
        Signer::from_bytes(self.secret).expect("a key that is drawn is one")
    }

    /// Its account.
    pub fn owner(&self) -> Address {
        self.signer().address()
    }

    fn wallet(&self, disk: &Disk, max_open: usize) -> Wallet {
        let limits =
            WalletLimits { redemption_cost: Wei(1 << 60), max_open, value: Wei(1), max_value: Wei(1 << 60) };
        let mut wallet = Wallet::new(DOMAIN, self.owner(), self.signer(), self.secret, limits);
        wallet.restore(disk.records());
        wallet
    }

    /// What a relay works with, as its disk has it.
    pub fn cashier(&self, disk: &Disk, fresh: [u8; 32]) -> (Asks, CashierConfig) {
        let limits =
            TillLimits { face: Face::Draws(self.face), min_value: Wei(1), draws: 64, max_payers: 1_000 };
        let mut till = Till::new(DOMAIN, self.owner(), self.secret, fresh, limits);
        till.restore(disk.records());
        let meters = disk.records().filter_map(|record| match record {
            Record::Meter(row) => Some(row),
            _ => None,
        });
        let meters = meters.collect();
        (self.asks, CashierConfig { owner: self.owner(), wallet: self.wallet(disk, 8), till, meters })
    }

    /// What a client works with, as its disk has it.
    pub fn payer(&self, disk: &Disk) -> Payer {
        Payer::new(self.wallet(disk, 2))
    }
}

/// The records of a host.
#[derive(Clone, Debug, Default)]
pub struct Disk(BTreeMap<[u8; 25], Record>);

impl Disk {
    fn write(&mut self, change: Change) {
        match change.record {
            Some(record) => drop(self.0.insert(change.key.encode(), record)),
            None => drop(self.0.remove(&change.key.encode())),
        }
    }

    fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.0.values().cloned()
    }
}

impl Sim {
    /// Writes what is to be kept, looks accounts up, and redeems wins; whether there was anything.
    pub(crate) fn handle_money(&mut self, id: HostId) -> bool {
        let now = self.now();
        let Self { chain, hosts, .. } = self;
        let Some(Host { running: Some(running), disk, frozen: None, .. }) = hosts.get_mut(id.0) else {
            return false;
        };
        match running {
            Running::Relay(node) => {
                let mut any = false;
                while let Some((book, number, change)) = node.cashier_mut().and_then(Cashier::poll_record) {
                    any = true;
                    disk.write(change);
                    node.with_cashier(now, |cashier, ledger| cashier.persisted(now, ledger, book, number));
                }
                while let Some(address) = node.cashier_mut().and_then(Cashier::poll_lookup) {
                    any = true;
                    let seen = chain.payer(address);
                    node.with_cashier(now, |cashier, ledger| cashier.seen(now, ledger, address, seen));
                }
                while let Some(claim) = node.cashier_mut().and_then(Cashier::poll_claim) {
                    any = true;
                    chain.redeem(&claim);
                }
                any
            }
            Running::Client(node) => {
                let mut any = false;
                while let Some((number, change)) = node.payer_mut().and_then(Payer::poll_record) {
                    any = true;
                    disk.write(change);
                    node.with_payer(now, |payer, ledger| payer.persisted(now, ledger, number));
                }
                any
            }
            Running::Foreign(_) => false,
        }
    }

    /// Shows every host its pot and the pots of its payers as they are on the chain now.
    pub fn show_chain(&mut self) {
        let now = self.now();
        let Self { chain, hosts, .. } = self;
        for host in hosts {
            let Some(owner) = host.money.map(|money| money.owner()) else { continue };
            match &mut host.running {
                Some(Running::Relay(node)) => {
                    node.with_cashier(now, |cashier, ledger| {
                        cashier.own_pot(now, Some(chain.pot(owner)));
                        for address in cashier.watched() {
                            cashier.seen(now, ledger, address, chain.payer(address));
                        }
                    });
                }
                Some(Running::Client(node)) => {
                    node.with_payer(now, |payer, _| payer.own_pot(now, Some(chain.pot(owner))));
                }
                Some(Running::Foreign(_)) | None => {}
            }
        }
    }
}
