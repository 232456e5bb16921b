//! Follows the registry of relays on a chain, and believes it only when it adds up (docs/spec/06-open-network.md section 1).
//!
//! The changes are replayed from events; their running hash must be the contract's own at the same final block, and so must the
//! list of relays. Whatever goes wrong, the last registry that was right stays, and its age is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit::keys::RelayId;
use payments::abi::OnionPay;
use payments::abi::OnionPay::OnionPayEvents;
use payments::chain::{At, CHANGES, CHANGES_AND_BONDS, Chain, Error as ChainError, Head, Registry as Listed};
use payments::session::Domain;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::chain_watch::file::{Cached, CannotRead};
use crate::registry::{Inconsistent, Registry};

mod file;
#[cfg(test)]
mod tests;

/// The blocks whose events are asked for at once.
const SPAN: u64 = 2_000;
/// The newest block may be so old, in seconds, before the chain counts as stale.
const STALE: u64 = 120;
/// The whole list is read again after so many seconds, whatever events say.
const REREAD: u64 = 3_600;
/// After a contradiction so many rounds are left out: all changes must be read again.
const PENALTY: u32 = 10;

/// How a registry is followed.
#[derive(Debug)]
pub struct Settings {
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// The block in which the contract was deployed, or an earlier one.
    pub deployed: u64,
    /// Where the registry is kept between runs; `None` to read it anew.
    pub file: Option<PathBuf>,
    /// How often the chain is looked at.
    pub every: Duration,
    /// The wall clock, in unix seconds.
    pub now: fn() -> u64,
}

/// How well the registry is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// The final block at which the registry was right last; 0 if it is not known yet.
    pub block: u64,
    /// That block's time, in unix seconds.
    pub time: u64,
    /// Registered relays.
    pub relays: usize,
    /// Changes of the registry so far.
    pub changes: u64,
    /// When the chain last confirmed it, in unix seconds; 0 if it has not in this run.
    pub confirmed: u64,
    /// The block up to which changes are read; ahead of `block` while there is much to read.
    pub reading: u64,
    /// The final block up to which they are to be read; 0 if it is not known.
    pub target: u64,
    /// What is wrong, and what to do.
    pub trouble: Option<String>,
}

/// Why a registry is not known better.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The chain does not answer, or not well.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The events do not follow each other.
    #[error("{0}: {CONTRADICTION}")]
    Events(#[from] Inconsistent),
    /// The events do not lead to the contract's own state.
    #[error("the events of the registry do not lead to its {0}: {CONTRADICTION}")]
    State(&'static str),
}

/// What a contradiction means.
const CONTRADICTION: &str = "an RPC hides something or lies, or `deployed` in the network file names too late a block; the last \
                             registry that was right is kept; name another RPC";

/// A registry that is followed as long as anyone looks.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The registry, each time it has changed; empty until it is known.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// How well it is known.
    pub status: watch::Receiver<Status>,
}

/// Why the registry that is kept between runs would not be used at the next start; nothing if it would be, or there is none.
pub fn trouble_of(file: &Path, domain: &Domain) -> Option<String> {
    match file::read(file, domain) {
        Ok(_) | Err(CannotRead::NotThere) => None,
        Err(why) => Some(why.to_string()),
    }
}

/// The registry that is kept between runs, as old as it is; nothing if there is none that can be used.
pub fn kept(file: &Path, domain: &Domain) -> Option<Registry> {
    file::read(file, domain).ok().map(|cached| cached.registry)
}

/// Reads what an earlier run knew, and follows the chain from there; inside a [`tokio::task::LocalSet`].
pub fn start(settings: Settings) -> Watch {
    let (mut task, watch) = Task::new(settings);
    tokio::task::spawn_local(async move {
        while !task.registry.is_closed() {
            let rounds = task.round().await;
            tokio::select! {
                () = sleep(task.settings.every.saturating_mul(rounds)) => {}
                () = task.registry.closed() => {}
            }
        }
    });
    watch
}

/// The registry as it is read.
#[derive(Clone, Debug, Default)]
struct Draft {
    registry: Registry,
    /// The last block whose events are in it.
    read: Option<u64>,
    /// Bonds were left out, and are taken from the list.
    lacks_bonds: bool,
}

#[derive(Debug)]
struct Task {
    settings: Settings,
    /// The block at which the registry was right last.
    head: Head,
    draft: Draft,
    /// The registry was right in this run.
    met: bool,
    /// When the whole list was read last, in unix seconds.
    listed: Option<u64>,
    registry: watch::Sender<Arc<Registry>>,
    status: watch::Sender<Status>,
}

impl Task {
    fn new(settings: Settings) -> (Self, Watch) {
        let domain = settings.chain.domain();
        let cached = settings.file.as_deref().map(|path| file::read(path, &domain));
        let Cached { head, registry } = match cached {
            Some(Ok(cached)) => cached,
            Some(Err(CannotRead::NotThere)) | None => Cached::default(),
            Some(Err(why)) => {
                tracing::warn!("the registry that was kept is not used, and read anew from the chain: {why}");
                Cached::default()
            }
        };
        let read = Some(head.number).filter(|_| head != Head::default());
        let (sender, receiver) = watch::channel(Arc::new(registry.clone()));
        let (status, seen) = watch::channel(Status::default());
        let draft = Draft { registry, read, lacks_bonds: false };
        let task = Self { settings, head, draft, met: false, listed: None, registry: sender, status };
        task.report(None);
        (task, Watch { registry: receiver, status: seen })
    }

    /// Looks at the chain once; after how many rounds' time to look again.
    async fn round(&mut self) -> u32 {
        let trouble = self.follow().await.err();
        let contradiction = trouble.as_ref().is_some_and(|trouble| !matches!(trouble, Trouble::Chain(_)));
        if contradiction {
            // directory.watch.2: nothing of what was read is used.
            self.draft = Draft::default();
            self.listed = None;
        }
        self.report(trouble.map(|trouble| trouble.to_string()));
        if contradiction { PENALTY } else { 1 }
    }

    fn report(&self, trouble: Option<String>) {
        let registry = self.registry.borrow();
        self.status.send_modify(|status| {
            status.block = self.head.number;
            status.time = self.head.time;
            status.relays = registry.iter().len();
            status.changes = registry.seq();
            status.reading = self.draft.read.unwrap_or_default();
            if trouble.is_none() && self.listed.is_some() {
                status.confirmed = (self.settings.now)();
            }
            status.trouble = trouble;
        });
    }

    async fn follow(&mut self) -> Result<(), Trouble> {
        let chain = Arc::clone(&self.settings.chain);
        let now = (self.settings.now)();
        let mut head = chain.head(At::Finalized).await?;
        let deployed = self.settings.deployed;
        if deployed > head.number && deployed > chain.head(At::Latest).await?.number {
            return Err(ChainError::NotThatFar { deployed }.into());
        }
        self.recognise(&*chain).await;
        self.not_behind(head, now)?;
        // directory.watch.3
        let old =
            self.draft.lacks_bonds || self.listed.is_none_or(|listed| now.saturating_sub(listed) >= REREAD);
        let seq = chain.ask(At::Block(head.number), &OnionPay::registrySeqCall {}).await?;
        let listed =
            if old || seq != self.draft.registry.seq() { Some(chain.registry().await?) } else { None };
        let (root, seq) = match &listed {
            Some(listed) => {
                head = listed.head;
                (listed.root, listed.seq)
            }
            None => (chain.ask(At::Block(head.number), &OnionPay::registryRootCall {}).await?, seq),
        };
        self.not_behind(head, now)?;
        self.replay(&*chain, head.number, listed.is_some()).await?;
        // directory.watch.1
        let registry = &mut self.draft.registry;
        if (registry.root(), registry.seq()) != (root, seq) {
            return Err(Trouble::State("hash"));
        }
        if let Some(listed) = listed {
            compare(registry, &listed)?;
            self.draft.lacks_bonds = false;
            self.listed = Some(now);
        }
        self.confirmed(head);
        Ok(chain.head(At::Latest).await?.fresh(now, STALE)?)
    }

    /// Final blocks do not go away: it is the chain's back-end that has fallen behind what was read before.
    fn not_behind(&self, head: Head, now: u64) -> Result<(), ChainError> {
        // directory.watch.2: also after a contradiction, when all is read again.
        let known = self.draft.read.unwrap_or_default().max(self.head.number);
        if known > head.number {
            return Err(ChainError::Stale { number: head.number, age: now.saturating_sub(head.time) });
        }
        Ok(())
    }

    /// Starts over if what was kept is of another chain: a chain for tests that was made anew.
    async fn recognise(&mut self, chain: &dyn Chain) {
        if self.met || self.head == Head::default() {
            return;
        }
        // A chain that has forgotten the block does not contradict.
        if let Ok(same) = chain.head(At::Block(self.head.number)).await
            && same.hash != self.head.hash
        {
            tracing::warn!("the registry that was kept is of another chain, and read anew");
            self.draft = Draft::default();
            self.head = Head::default();
        }
    }

    /// Applies the events up to a block; those about bonds need not be fetched where the list tells them.
    async fn replay(&mut self, chain: &dyn Chain, last: u64, has_list: bool) -> Result<(), Trouble> {
        self.status.send_modify(|status| status.target = last);
        loop {
            let first = self.draft.read.map_or(self.settings.deployed, |read| read.saturating_add(1));
            if first > last {
                return Ok(());
            }
            let to = last.min(first.saturating_add(SPAN - 1));
            let kinds = if has_list { CHANGES } else { CHANGES_AND_BONDS };
            self.draft.lacks_bonds |= has_list;
            for (_, event) in chain.events_of(first, to, kinds).await? {
                match event {
                    OnionPayEvents::RelayChanged(change) => {
                        let id = RelayId(change.idKey.0);
                        self.draft.registry.apply(change.seq, change.owner, id, change.registered)?;
                    }
                    // Most are of payers, who have no relay.
                    OnionPayEvents::AccountChanged(account) => {
                        self.draft.registry.set_bond(account.owner, account.reserve.into());
                    }
                    _ => {}
                }
            }
            self.draft.read = Some(to);
            self.status.send_modify(|status| status.reading = to);
        }
    }

    /// Makes the registry known, and keeps it.
    fn confirmed(&mut self, head: Head) {
        let news = head.number != self.head.number;
        self.head = head;
        self.met = true;
        self.draft.registry.block = head.number;
        let same = |old: &Registry| {
            old.root() == self.draft.registry.root() && old.iter().eq(self.draft.registry.iter())
        };
        if same(&self.registry.borrow()) {
            // Nobody is woken for a block that changed nothing.
            if !news {
                return;
            }
        } else {
            // Who waits for the registry finds the status that goes with it.
            self.status.send_modify(|status| {
                (status.block, status.time) = (head.number, head.time);
                status.relays = self.draft.registry.iter().len();
                status.changes = self.draft.registry.seq();
            });
            self.registry.send_replace(Arc::new(self.draft.registry.clone()));
        }
        let Some(path) = &self.settings.file else { return };
        let domain = self.settings.chain.domain();
        if let Err(error) = file::write(path, &domain, &head, &self.draft.registry) {
            tracing::warn!(
                "the registry cannot be kept for the next start: {error}; check that the folder of the state exists and can be \
                 written to"
            );
        }
    }
}

/// Compares what was replayed with the contract's list, and takes the bonds from it.
fn compare(registry: &mut Registry, listed: &Listed) -> Result<(), Trouble> {
    let same = listed.relays.len() == registry.iter().len()
        && listed.relays.iter().all(|relay| registry.get(&RelayId(relay.id_key.0), &relay.owner).is_some());
    if !same {
        return Err(Trouble::State("list"));
    }
    for relay in &listed.relays {
        registry.set_bond(relay.owner, relay.reserve);
    }
    Ok(())
}
