//! A chain of the simulation: the contract's rules for claims, without blocks.

use std::collections::{BTreeMap, BTreeSet};

use payments::Address;
use payments::amount::Wei;
use payments::claim::Claim;
use payments::session::Domain;
use payments::till::PayerAccount;
use payments::wallet::Pot;

/// The least reserve of a registered relay.
pub const MIN_BOND: u128 = 1_000_000_000_000_000;

/// An account at the contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Spendable.
    pub balance: u128,
    /// Collateral.
    pub reserve: u128,
    /// Whether it is a relay.
    pub registered: bool,
}

/// The contract, as far as redeeming goes; pots are signed for by their owners.
#[derive(Clone, Debug)]
pub struct Chain {
    domain: Domain,
    accounts: BTreeMap<Address, Account>,
    used: BTreeSet<(Address, Address, u32)>,
    /// What was paid out, by payee.
    pub redeemed: BTreeMap<Address, u128>,
    /// What defaults have burnt.
    pub burned: u128,
}

impl Chain {
    /// A chain without accounts.
    pub const fn new(domain: Domain) -> Self {
        Self {
            domain,
            accounts: BTreeMap::new(),
            used: BTreeSet::new(),
            redeemed: BTreeMap::new(),
            burned: 0,
        }
    }

    /// Sets an account.
    pub fn set(&mut self, owner: Address, account: Account) {
        self.accounts.insert(owner, account);
    }

    /// An account; one that was never used is empty.
    pub fn account(&self, owner: Address) -> Account {
        self.accounts.get(&owner).copied().unwrap_or_default()
    }

    /// An account as payees look at it.
    pub fn payer(&self, owner: Address) -> PayerAccount {
        let account = self.account(owner);
        PayerAccount {
            balance: Wei(account.balance),
            reserve: Wei(account.reserve),
            unlocking: false,
            signer: owner,
            only_payee: None,
            head_stale: false,
            registered: account.registered,
        }
    }

    /// An account as its owner's wallet looks at it.
    pub fn pot(&self, owner: Address) -> Pot {
        let account = self.account(owner);
        Pot {
            balance: Wei(account.balance),
            reserve: Wei(account.reserve),
            unlocking: false,
            only_payee: None,
        }
    }

    /// Pays a claim out, as its payee shows it; what was paid, nothing if the contract would not.
    ///
    /// Where the balance is short the payer defaults: half of its reserve pays, and as much of it is burnt.
    pub fn redeem(&mut self, claim: &Claim) -> u128 {
        let session = &claim.session;
        let name = (session.payer, session.payee, session.nonce);
        let face = session.face.0;
        let theirs = session.payer != session.payee && claim.signer(&self.domain) == Some(session.payer);
        if !theirs || self.used.contains(&name) {
            return 0;
        }
        let payer = self.accounts.entry(session.payer).or_default();
        let short = face > payer.balance;
        let missing = face.saturating_sub(payer.balance).min(payer.reserve / 2);
        let payout = face.min(payer.balance + missing);
        if payout == 0 {
            return 0;
        }
        payer.balance -= payout - missing;
        payer.reserve -= 2 * missing;
        payer.registered &= !short || payer.reserve >= MIN_BOND;
        self.burned += missing;
        self.accounts.entry(session.payee).or_default().balance += payout;
        *self.redeemed.entry(session.payee).or_default() += payout;
        self.used.insert(name);
        payout
    }

    /// All that the accounts hold.
    pub fn total(&self) -> u128 {
        self.accounts.values().map(|account| account.balance + account.reserve).sum()
    }
}
