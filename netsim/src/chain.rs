//! A chain of the simulation: the contract's rules for claims, without blocks.

use std::collections::{BTreeMap, BTreeSet};

use payments::Address;
use payments::amount::Wei;
use payments::claim::Claim;
use payments::session::Domain;
use payments::till::PayerAccount;
use payments::wallet::Pot;

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
    /// Faces that were paid out, by payee.
    pub redeemed: BTreeMap<Address, u128>,
}

impl Chain {
    /// A chain without accounts.
    pub const fn new(domain: Domain) -> Self {
        Self { domain, accounts: BTreeMap::new(), used: BTreeSet::new(), redeemed: BTreeMap::new() }
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

    /// Pays a claim out; false if the contract would not.
    pub fn redeem(&mut self, claim: &Claim) -> bool {
        let session = &claim.session;
        let name = (session.payer, session.payee, session.nonce);
        let face = session.face.0;
        if claim.signer(&self.domain) != Some(session.payer) || self.used.contains(&name) {
            return false;
        }
        let payer = self.accounts.entry(session.payer).or_default();
        if payer.balance < face {
            return false;
        }
        payer.balance -= face;
        self.accounts.entry(session.payee).or_default().balance += face;
        *self.redeemed.entry(session.payee).or_default() += face;
        self.used.insert(name)
    }

    /// All that the accounts hold.
    pub fn total(&self) -> u128 {
        self.accounts.values().map(|account| account.balance + account.reserve).sum()
    }
}
