//! A daemon's part in an open network: the registry followed on the chain, descriptors exchanged with peers, the view kept current.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit::keys::{IdentitySecret, NetworkId, RelayId};
use client::wishes::Wishes;
use directory::atlas::Atlas;
use directory::chain_watch::{self, Watch};
use directory::swarm;
use directory::view::{Count, Share, View};
use payments::Address;
use payments::chain::Chain;
use payments::session::Domain;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::keystore;
use crate::network;
use crate::outside;

mod kept;

/// How often the chain is looked at.
const CHAIN_EVERY: Duration = Duration::from_secs(4);
/// How often peers are asked what they know, more or less.
pub(crate) const PEERS_EVERY: Duration = Duration::from_secs(15);
/// What was learnt is written after so long at first, then after twice as long each time, and at last so seldom.
const KEEP_FIRST: Duration = Duration::from_secs(2);
const KEEP_EVERY: Duration = Duration::from_mins(1);
/// The file of what was learnt, in the folder of the state.
const KEPT: &str = "descriptors";
/// The file of the registry, there too.
const REGISTRY: &str = "registry";
/// So long the network has to become known before a wish counts as one that it cannot fulfil.
const SETTLE: Duration = Duration::from_secs(30);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How a daemon takes part.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The relay's identity; a client's is drawn for each run.
    pub(crate) identity: Option<IdentitySecret>,
    /// Where a relay serves descriptors; nowhere for a client.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where the network is found first.
    pub(crate) bootstrap: Vec<String>,
    /// The network, without relays.
    pub(crate) view: View,
    /// Its chain, and from which block on the contract is there.
    pub(crate) chain: Arc<dyn Chain>,
    /// Where what is learnt is kept.
    pub(crate) state: PathBuf,
}

/// What a daemon knows of its open network, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The final block at which the registry was right last; 0 if it is not known.
    pub(crate) block: u64,
    /// Up to which block changes of the registry are read, and up to which they are to be.
    pub(crate) reading: u64,
    pub(crate) target: u64,
    /// When the chain confirmed it last, in unix seconds; 0 for not in this run.
    pub(crate) confirmed: u64,
    /// Registered relays.
    pub(crate) registered: usize,
    /// Relays whose descriptors are known.
    pub(crate) known: usize,
    /// Those of them that can be used now.
    pub(crate) usable: usize,
    /// Registered relays without a descriptor.
    pub(crate) missing: usize,
    /// The digest of all that is known, in hexadecimal: two nodes with the same one know the same.
    pub(crate) digest: String,
    /// Connected peers.
    pub(crate) peers: usize,
    /// Peers that were left because of what they sent or hid.
    pub(crate) left: u64,
    /// Connections that others have begun, to a relay.
    pub(crate) inbound: u64,
    /// When the last one came, in unix seconds; 0 for never.
    pub(crate) last_inbound: u64,
    /// Subnets (/16, /32) of the relays that said that they begin a link to this one, which had asked for it.
    #[serde(default)]
    pub(crate) called: usize,
    /// When the last one said it, in unix seconds; 0 for never.
    #[serde(default)]
    pub(crate) last_called: u64,
    /// Whether so few relays are known that a client without an entry waits until there are more.
    #[serde(default)]
    pub(crate) waits: bool,
    /// At which address most peers see this computer.
    pub(crate) seen_at: Option<IpAddr>,
    /// What is wrong, and what to do.
    pub(crate) trouble: Option<String>,
}

/// The registry and the relays that an earlier run has known, without asking anybody.
pub(crate) fn recall(state: &Path, view: &mut View) {
    let registry = view.chain().and_then(|chain| chain_watch::kept(&state.join(REGISTRY), &chain.domain()));
    if let Some(registry) = registry {
        view.set_registry(Arc::new(registry));
    }
    kept::read(&state.join(KEPT), view, outside::unix());
}

/// Whether what an earlier run has kept of the relays can be read as a whole.
pub(crate) fn kept_is_whole(state: &Path, network: NetworkId) -> std::io::Result<bool> {
    kept::is_whole(&state.join(KEPT), network, outside::unix())
}

/// Why the registry that an earlier run has kept would not be used; nothing if it would be.
pub(crate) fn trouble_of_registry(state: &Path, domain: &Domain) -> Option<String> {
    chain_watch::trouble_of(&state.join(REGISTRY), domain)
}

/// A part that is taken.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    watch: Watch,
    swarm: swarm::Handle,
    kept: PathBuf,
    since: Instant,
}

impl Open {
    /// Begins, with what an earlier run has kept; the view as it is then.
    pub(crate) fn start(wanted: Wanted) -> anyhow::Result<(Self, View)> {
        let Wanted { identity, listen, bootstrap, mut view, chain, state } = wanted;
        keystore::private_folder(&state)?;
        let watch = chain_watch::start(chain_watch::Settings {
            chain,
            deployed: view.chain().map_or(0, |chain| chain.deployed),
            file: Some(state.join(REGISTRY)),
            every: CHAIN_EVERY,
            now: outside::unix,
        });
        view.set_registry(Arc::clone(&watch.registry.borrow()));
        let kept = state.join(KEPT);
        kept::read(&kept, &mut view, outside::unix());
        let mut random = outside::random()?;
        let swarm = swarm::start(swarm::Settings {
            identity: identity.unwrap_or_else(|| IdentitySecret::random(&mut random)),
            listen,
            bootstrap,
            view: view.clone(),
            registry: watch.registry.clone(),
            every: PEERS_EVERY,
            limits: swarm::Limits::default(),
            random,
            now: outside::now,
        })?;
        Ok((Self { watch, swarm, kept, since: Instant::now() }, view))
    }

    /// Makes a relay's own descriptor known.
    pub(crate) const fn swarm(&self) -> &swarm::Handle {
        &self.swarm
    }

    /// Hands every new view on, and keeps it on disk, as long as the directory runs.
    pub(crate) async fn follow(self, mut set: impl AsyncFnMut(View)) {
        let mut views = self.swarm.views();
        let mut write_at: Option<Instant> = None;
        let mut wait = KEEP_FIRST;
        loop {
            tokio::select! {
                changed = views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let view = Arc::clone(&views.borrow_and_update());
                    set((*view).clone()).await;
                    write_at.get_or_insert_with(|| Instant::now() + wait);
                }
                () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() => {
                    (write_at, wait) = (None, KEEP_EVERY.min(wait * 2));
                    let (view, path) = (Arc::clone(&views.borrow()), self.kept.clone());
                    let written = tokio::task::spawn_blocking(move || kept::write(&path, &view)).await;
                    if let Ok(Err(error)) = written {
                        tracing::warn!("what is known of the network cannot be kept for the next start: {error}");
                    }
                }
            }
        }
    }

    /// How much of the network is known.
    pub(crate) fn status(&self) -> Status {
        let (registry, swarm) = (self.watch.status.borrow().clone(), self.swarm.status());
        let Count { known, usable, missing, .. } = self.count();
        let view = self.swarm.views();
        let (share, content) = (view.borrow().share(), view.borrow().is_content());
        Status {
            block: registry.block,
            reading: registry.reading,
            target: registry.target,
            confirmed: registry.confirmed,
            registered: registry.relays,
            known,
            usable,
            missing,
            digest: swarm.digest,
            peers: swarm.peers,
            left: swarm.left,
            inbound: swarm.inbound,
            last_inbound: swarm.last_inbound,
            called: swarm.called,
            last_called: swarm.last_called,
            waits: share.is_some_and(Share::is_few) && !content,
            seen_at: swarm.seen_at,
            trouble: registry.trouble.or(swarm.trouble).or_else(|| self.too_few(share?)),
        }
    }

    /// What is wrong when most relays stay unknown: they are gone, or kept from us by those we ask.
    // operate.view.3
    fn too_few(&self, share: Share) -> Option<String> {
        let settled = self.since.elapsed() >= SETTLE;
        (settled && share.is_few()).then(|| {
            let Share { known, of } = share;
            format!(
                "only {known} of {of} registered relays are known: either most do not run, or the peers that were asked hide them; add more \
                 addresses to `bootstrap` in the network file"
            )
        })
    }

    fn count(&self) -> Count {
        self.swarm.views().borrow().count(outside::unix())
    }

    /// Tells what is waited for, each time that it changes, until enough relays are known for a path of `hops`.
    pub(crate) async fn tell(self, hops: usize) {
        let (mut said, mut stage, mut at) = (String::new(), None, Instant::now());
        loop {
            let status = self.status();
            if status.usable >= hops && status.missing == 0 {
                tracing::info!("{} relays are registered, and all are known", status.registered);
                return;
            }
            let text = status.waiting();
            // Progress alone is told now and then.
            let new = stage != Some((status.block, status.peers, status.trouble.clone()));
            if text != said && (new || at.elapsed() >= TELL_EVERY) {
                tracing::info!("{text}");
                (said, stage, at) =
                    (text, Some((status.block, status.peers, status.trouble)), Instant::now());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the network is known; fails if it has no path as it is wished.
    pub(crate) async fn require_path(self, wishes: Wishes, atlas: Arc<dyn Atlas>) -> anyhow::Result<()> {
        let settled = async {
            loop {
                let status = self.status();
                if status.block > 0 && status.registered > 0 && status.missing == 0 {
                    return;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        // Relays that are registered and do not run are never known.
        let _ = timeout(SETTLE, settled).await;
        // Of few relays it cannot be said what there is.
        while self.swarm.views().borrow().gap().is_some() {
            sleep(LOOK_EVERY).await;
        }
        let view = Arc::clone(&self.swarm.views().borrow());
        if view.iter().len() == 0 {
            return Ok(());
        }
        network::require_path(&view, &wishes, atlas)
    }

    /// Tells once whether a relay is registered, and what to do if not.
    pub(crate) async fn tell_registration(self, id: RelayId, owner: Address) {
        let mut registry = self.watch.registry.clone();
        let mut warned = false;
        loop {
            let (known, registered) = {
                let registry = registry.borrow_and_update();
                (self.watch.status.borrow().block > 0, registry.get(&id, &owner).is_some())
            };
            match (known, registered) {
                (true, true) => {
                    tracing::info!("this relay is registered: others find it");
                    return;
                }
                (true, false) if !warned => {
                    warned = true;
                    tracing::warn!(
                        "this relay is not registered yet, and nobody finds it: chive wallet register {id} --config FILE, \
                         after chive wallet reserve AMOUNT --config FILE; or let it do both: `bond` in [wallet]"
                    );
                }
                _ => {}
            }
            if registry.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Status {
    /// Why there can be no path yet: nobody is registered.
    pub(crate) fn nobody(&self, hops: usize) -> Option<String> {
        (self.block > 0 && self.registered == 0).then(|| {
            format!(
                "no relay is registered at this network's contract, and a path of {hops} hops needs {hops}: check that the network file \
                 names the contract that is meant; on a new network start relays first (chive relay setup)"
            )
        })
    }

    /// What is waited for, in words; peers come and go, and are not part of it once there was one.
    fn waiting(&self) -> String {
        let trouble = self.trouble.as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
        if self.block == 0 {
            let progress = match (self.reading, self.target) {
                (_, 0) => String::new(),
                (reading, target) => format!(", block {reading} of {target}"),
            };
            return format!("the registry of relays is being read from the chain{progress}{trouble}");
        }
        let Self { registered, known, missing, .. } = self;
        if *registered == 0 {
            return format!("no relay is registered yet{trouble}");
        }
        if *known == 0 {
            return format!(
                "{registered} relays are registered; peers that know them are looked for{trouble}"
            );
        }
        let waits = if self.waits { ": no entry is chosen among so few, more are asked for" } else { "" };
        format!("{known} of {registered} relays are known, {missing} are missing{waits}{trouble}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_without_relays_is_told_from_one_that_is_not_known_yet() {
        let status = Status::default();
        assert_eq!(status.nobody(3), None, "the registry is not read yet");
        let empty = Status { block: 9, ..Status::default() };
        let text = empty.nobody(3).unwrap();
        assert!(text.contains("no relay is registered") && text.contains("start relays first"), "{text}");
        assert_eq!(Status { registered: 1, ..empty }.nobody(3), None);
    }

    #[test]
    fn what_is_waited_for_is_not_told_again_when_peers_come_and_go() {
        let status = Status { block: 9, registered: 5, missing: 5, ..Status::default() };
        assert!(status.waiting().contains("peers that know them are looked for"));
        let some = Status { known: 2, missing: 3, ..status };
        let few = Status { waits: true, ..some.clone() }.waiting();
        assert!(few.contains("missing: no entry is chosen among so few"), "{few}");
        let text = some.waiting();
        assert!(text.starts_with("2 of 5 relays are known, 3 are missing"), "{text}");
        for (peers, block) in [(0, 9), (3, 10)] {
            assert_eq!(Status { block, peers, ..some.clone() }.waiting(), text);
        }
    }
}
