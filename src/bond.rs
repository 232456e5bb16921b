//! A relay's bond, as the relay puts it up itself: the setting `bond` in `[wallet]`, once, and then its registration.
//!
//! What is to be done follows from the contract's state alone. A transaction is on disk before it is sent, and another deposit is sent
//! only in its place or once it can never come: a relay that is killed at any moment puts up its bond once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use circuit::keys::RelayId;
use payments::abi::OnionPay;
use payments::amount::Wei;
use payments::chain::action::Action;
use payments::chain::{Account, At, Call, Chain, Error, Fees, Limits, Place, Purse, Registry};
use payments::session::Signer;
use payments::treasury::STALE;
use payments::{Address, B256};
use tokio::time::sleep;

use crate::outside;
use crate::wallet::ether_text;

pub(crate) mod flight;

use flight::Flights;

/// From one look at the chain to the next: at first, while a block is waited for, and while somebody is.
const SOON: Duration = Duration::from_secs(2);
const BLOCK: Duration = Duration::from_secs(12);
const LATE: Duration = Duration::from_mins(1);
/// A transaction that has waited so many blocks is replaced by a dearer one.
const PATIENCE: u64 = 3;
/// A transaction that nobody knows any more is given up after so many.
const LOST: u64 = 16;

/// What is done at the contract, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Name the wallet's own key as the pot's signer, which is possible without a reserve only.
    Sign,
    /// Add to the reserve.
    Reserve,
    /// Register the relay.
    Register,
}

impl Step {
    const ALL: [Self; 3] = [Self::Sign, Self::Reserve, Self::Register];

    const fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Reserve => "reserve",
            Self::Register => "register",
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::Sign => Action::SetKeys,
            Self::Reserve => Action::AddReserve,
            Self::Register => Action::Register,
        }
    }
}

/// How an owner stands in the registry, for one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has registered this relay.
    Registered,
    /// It has registered a relay, and the final list does not say yet which.
    Unlisted,
    /// It has registered another relay.
    OtherRelay(RelayId),
    /// It has registered none, and another owner has registered this one.
    OtherOwner(Address),
    /// Its reserve is being unlocked.
    Unlocking,
    /// It has registered none.
    Absent,
}

/// How an owner stands, by its pot as it is now and the final list.
pub(crate) fn standing(id: &RelayId, owner: Address, account: &Account, listed: &Registry) -> Standing {
    if account.unlock_at.is_some() {
        return Standing::Unlocking;
    }
    if account.registered {
        let own = listed.relays.iter().find(|relay| relay.owner == owner);
        return match own {
            Some(relay) if relay.id_key.0 == id.0 => Standing::Registered,
            Some(relay) => Standing::OtherRelay(RelayId(relay.id_key.0)),
            None => Standing::Unlisted,
        };
    }
    let other = listed.relays.iter().find(|relay| relay.id_key.0 == id.0 && relay.owner != owner);
    other.map_or(Standing::Absent, |relay| Standing::OtherOwner(relay.owner))
}

impl Standing {
    /// Why only the operator can go on, and how; nothing where there is no such reason.
    pub(crate) fn problem(&self, id: &RelayId) -> Option<(String, String)> {
        let (found, remedy) = match self {
            Self::Registered | Self::Unlisted | Self::Absent => return None,
            Self::OtherRelay(other) => (
                format!("this wallet has registered another relay, {other}, and an owner has one at most"),
                "run that relay (its identity.key), or give this one a wallet of its own: chive wallet create; or end the other's \
                 registration with chive wallet unlock --config FILE, after which this one can be registered in 7 days"
                    .to_owned(),
            ),
            Self::OtherOwner(owner) => (
                format!("another wallet, {owner}, has registered this relay, and this one has not"),
                format!(
                    "if it is yours, name it in [wallet]; if it is a stranger's, that gains it nothing: \
                     chive wallet reserve AMOUNT --config FILE, and chive wallet register {id} --config FILE"
                ),
            ),
            Self::Unlocking => (
                "the reserve is being unlocked: the relay is not registered, and nobody takes payments from it".to_owned(),
                "to go on: chive wallet unlock --cancel --config FILE; the relay can be registered 7 days after the unlock began"
                    .to_owned(),
            ),
        };
        Some((found, remedy))
    }
}

/// What is left to do for an owner whose reserve is to be `bond`.
// operate.bond.1
fn steps(account: &Account, bond: Wei, minimum: Wei) -> Vec<Step> {
    let mut steps = Vec::new();
    if account.signer.is_none() && account.reserve == Wei::ZERO {
        steps.push(Step::Sign);
    }
    if account.reserve < if account.registered { minimum } else { bond } {
        steps.push(Step::Reserve);
    }
    if !account.registered {
        steps.push(Step::Register);
    }
    steps
}

/// What an address must have for all that is left to do, fees included as they are now.
fn needs(steps: &[Step], account: &Account, bond: Wei, fees: Fees) -> Wei {
    let gas: u64 = steps.iter().map(|step| step.action().gas()).sum();
    // As a transaction offers: the base fee may double before it is in a block.
    let fee = Wei(fees.price().saturating_add(fees.base).saturating_mul(gas.into()));
    let missing =
        if steps.contains(&Step::Reserve) { bond.saturating_sub(account.reserve) } else { Wei::ZERO };
    missing.saturating_add(fee)
}

/// What has to be sent to a relay's address before it can put up its bond, fees included.
pub(crate) fn lacks(account: &Account, purse: Purse, fees: Fees, bond: Wei, minimum: Wei) -> Option<Wei> {
    let steps = steps(account, bond, minimum);
    let missing = needs(&steps, account, bond, fees).saturating_sub(purse.wei);
    (missing > Wei::ZERO).then_some(missing)
}

/// Refuses a bond with which no client would use the relay.
pub(crate) fn require_enough(bond: Wei, minimum: Wei) -> anyhow::Result<()> {
    ensure!(
        bond >= minimum,
        "the setting `bond` in [wallet] is {}, and this network wants {} at least: raise it",
        ether_text(bond),
        ether_text(minimum)
    );
    Ok(())
}

/// Who puts up a relay's bond.
#[derive(Debug)]
pub(crate) struct Bond {
    pub(crate) chain: Arc<dyn Chain>,
    /// The owner itself: the contract asks who sends.
    pub(crate) signer: Signer,
    pub(crate) id: RelayId,
    /// What the reserve is to be.
    pub(crate) amount: Wei,
    /// What the network wants.
    pub(crate) minimum: Wei,
    /// The most wei per gas.
    pub(crate) gas_price: u128,
    /// The folder where the transaction on its way is noted.
    pub(crate) state: PathBuf,
    /// The relay's file, as people name it.
    pub(crate) config: PathBuf,
}

/// What was seen of the transaction on its way.
#[derive(Debug, Default)]
struct Sight {
    /// When it was sent, or seen first: the number of a block.
    sent: Option<u64>,
    /// When its nonce was seen to be over.
    over: Option<u64>,
}

/// What a round came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// There is nothing left to do.
    Done,
    /// A transaction was sent.
    Sent,
    /// Something is on its way.
    Waiting,
    /// Only people can go on; what is wrong and what to do.
    Stuck(String),
}

impl Bond {
    /// Sees to it until the relay is registered.
    pub(crate) async fn run(self) {
        let (mut sight, mut said, mut pause) = (Sight::default(), String::new(), SOON);
        loop {
            let (text, longest) = match self.round(&mut sight, outside::unix()).await {
                Ok(Outcome::Done) => {
                    tracing::info!("this relay is bonded and registered");
                    return;
                }
                Ok(Outcome::Sent) => (String::new(), SOON),
                Ok(Outcome::Waiting) => (String::new(), BLOCK),
                Ok(Outcome::Stuck(text)) => (text, LATE),
                Err(error) => (self.problem(&error), LATE),
            };
            // What differs in numbers only, as an age does, is nothing new.
            let kind: String = text.chars().filter(|letter| !letter.is_ascii_digit()).collect();
            pause = if kind == said { longest.min(pause.saturating_mul(2)) } else { SOON };
            if kind != said && !text.is_empty() {
                tracing::warn!("the relay's bond: {text}");
            }
            said = kind;
            sleep(pause).await;
        }
    }

    /// Looks at the chain, and does the next thing.
    // operate.bond.2
    async fn round(&self, sight: &mut Sight, now: u64) -> anyhow::Result<Outcome> {
        let chain = &*self.chain;
        let owner = self.signer.address();
        let head = chain.head(At::Latest).await?;
        head.fresh(now, STALE)?;
        // In this order: a pot that is read later is not older than the nonce.
        let purse = chain.purse(owner).await?;
        let mut account = chain.account(owner, At::Latest).await?;
        let stands = standing(&self.id, owner, &account, &chain.registry().await?);
        if let Some((found, remedy)) = stands.problem(&self.id) {
            return Ok(Outcome::Stuck(format!("{found}; {}", self.named(&remedy))));
        }
        if stands == Standing::Registered && account.reserve >= self.minimum {
            return Ok(Outcome::Done);
        }
        let Some(&step) = steps(&account, self.amount, self.minimum).first() else {
            return Ok(Outcome::Waiting);
        };
        let flights = flight::read(&self.state)?;
        let place = match flights.get(&step) {
            Some(place) if place.nonce == purse.nonce => replacement(place, purse, head.number, sight),
            // What was sent may come yet, after others of this wallet.
            Some(place) if place.nonce > purse.nonce && step == Step::Reserve => {
                self.fill(purse, head.number, sight).await?;
                None
            }
            // Its nonce is over, and the final state tells whether it came.
            Some(place) if place.nonce < purse.nonce && step == Step::Reserve => {
                // The block is read after the nonce: an earlier one would not tell.
                let newest = chain.head(At::Latest).await?.number.max(head.number);
                let over = *sight.over.get_or_insert(newest);
                if chain.head(At::Finalized).await?.number < over {
                    None
                } else {
                    account = chain.account(owner, At::Finalized).await?;
                    next(purse)
                }
            }
            _ => next(purse),
        };
        let Some(place) = place else { return Ok(Outcome::Waiting) };
        self.send(&account, purse, place, flights, sight, head.number).await
    }

    /// Takes the place of a transaction that was lost with its block, for which later ones wait, with one that does nothing.
    async fn fill(&self, purse: Purse, head: u64, sight: &mut Sight) -> anyhow::Result<()> {
        sight.over = None;
        let sent = *sight.sent.get_or_insert(head);
        let Some(place) = next(purse).filter(|_| head >= sent.saturating_add(LOST)) else { return Ok(()) };
        let call = Call::transfer(self.signer.address(), Wei::ZERO);
        let limits = Limits { gas: Action::Transfer.gas(), price: self.gas_price };
        let signed = self.chain.prepare(&self.signer, call, limits, Some(place)).await?;
        Ok(self.chain.broadcast(signed.raw).await?)
    }

    /// Sends the next transaction, if there is enough for all that follow.
    async fn send(
        &self,
        account: &Account,
        purse: Purse,
        place: Place,
        mut flights: Flights,
        sight: &mut Sight,
        head: u64,
    ) -> anyhow::Result<Outcome> {
        let chain = &*self.chain;
        let least: Result<_, Error> = chain.ask(At::Latest, &OnionPay::MIN_BONDCall {}).await;
        let minimum = self.minimum.max(least?.into());
        if self.amount < minimum {
            let text = format!(
                "the setting `bond` in [wallet] is below the contract's least: raise it to {}",
                ether_text(minimum)
            );
            return Ok(Outcome::Stuck(text));
        }
        let steps = steps(account, self.amount, minimum);
        let Some(&step) = steps.first() else { return Ok(Outcome::Waiting) };
        if step == Step::Reserve && account.defaults > 0 {
            let text = "it has paid for wins that the balance did not cover, and is not filled up by itself; \
                        chive wallet deposit AMOUNT --config FILE, and chive wallet reserve AMOUNT --config FILE";
            return Ok(Outcome::Stuck(self.named(text)));
        }
        let fees = chain.fees().await?;
        if purse.wei < needs(&steps, account, self.amount, fees) {
            let text = "the wallet lacks ether for it, and for the fees. Its address and how much to send are shown by: \
                        chive wallet show --config FILE; when the ether has come, the relay goes on by itself";
            return Ok(Outcome::Stuck(self.named(text)));
        }
        let domain = chain.domain();
        let call = match step {
            Step::Sign => {
                Call::new(&domain, &OnionPay::setSignerCall { signer: self.signer.address() }, Wei::ZERO)
            }
            Step::Reserve => {
                Call::new(&domain, &OnionPay::addReserveCall {}, self.amount.saturating_sub(account.reserve))
            }
            Step::Register => {
                Call::new(&domain, &OnionPay::registerCall { idKey: B256::from(self.id.0) }, Wei::ZERO)
            }
        };
        let limits = Limits { gas: step.action().gas(), price: self.gas_price };
        let signed = chain.prepare(&self.signer, call, limits, Some(place)).await?;
        flights.insert(step, signed.place);
        flight::write(&self.state, &flights)?;
        *sight = Sight { sent: Some(head), over: None };
        tracing::info!(
            "the relay's bond: {}",
            match step {
                Step::Sign => "the wallet's own key is named as the pot's signer",
                Step::Reserve => "the reserve is filled up to what `bond` in [wallet] says",
                Step::Register => "the relay is registered",
            }
        );
        chain.broadcast(signed.raw).await?;
        Ok(Outcome::Sent)
    }

    /// What stands in the way, without amounts.
    fn problem(&self, error: &anyhow::Error) -> String {
        match error.downcast_ref::<Error>() {
            Some(Error::NoGasMoney { .. }) => self
                .named("the wallet lacks ether for the fees: chive wallet show --config FILE tells how much"),
            Some(Error::FeeTooHigh { .. }) => {
                "gas costs more than `gas_price` in [wallet] allows: raise it, or wait".to_owned()
            }
            _ => format!("{}; it is tried again", crate::failure::text_of(error)),
        }
    }

    /// A text whose `FILE` is this relay's file.
    fn named(&self, text: &str) -> String {
        text.replace("FILE", &self.config.display().to_string())
    }
}

/// The next place, unless another transaction of the wallet's, such as a redemption, waits there.
fn next(purse: Purse) -> Option<Place> {
    (purse.pending <= purse.nonce).then(|| Place { nonce: purse.nonce, ..Place::default() })
}

/// Which place to take instead of a transaction that may still come; nothing while it is waited for.
fn replacement(place: &Place, purse: Purse, head: u64, sight: &mut Sight) -> Option<Place> {
    let sent = *sight.sent.get_or_insert(head);
    sight.over = None;
    let Place { nonce, max_fee, tip } = *place;
    if purse.pending <= nonce {
        return Some(Place { nonce, max_fee: 0, tip: 0 });
    }
    // Nodes want a tenth more for a replacement.
    let more = |fee: u128| fee.saturating_add(fee.div_ceil(8));
    (head >= sent.saturating_add(PATIENCE)).then(|| Place { nonce, max_fee: more(max_fee), tip: more(tip) })
}

#[cfg(test)]
mod tests;
