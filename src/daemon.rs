//! The daemons: `chive relay run` and `chive up`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use circuit::keys::{DhSecret, RelayId};
use client::guards::MAX_GUARDS;
use client::status::NO_SINGLE_HOP;
use client::wishes::Wishes;
use directory::atlas::Atlas;
use directory::chain::Chain;
use directory::payment::Rate;
use directory::swarm::Handle as Directory;
use directory::view::View;
use payments::Address;
use router::announcer::{self, SequenceFile};
use router::driver::Keys;
use router::herald::{Facts, Herald, HeraldConfig};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use crate::bond::{self, Bond};
use crate::cli::Up;
use crate::config::{ClientConfig, KeyFiles, RelayConfig, Wallet};
use crate::control::{self, Control, Daemon};
use crate::descriptors::{self, Need};
use crate::facts;
use crate::failure::{Failure, Kind};
use crate::keystore;
use crate::money;
use crate::network::{self, Members};
use crate::open::{self, Open, Wanted};
use crate::output::Format;
use crate::outside;
use crate::wallet::keystore as purse;

/// How often expired onion keys are looked for on disk.
const ERASE_EVERY: Duration = Duration::from_mins(1);
/// When a relay first asks others to begin a link to it, how often then, and how long ago the last one may have come.
const CALL_FIRST: Duration = Duration::from_secs(30);
const CALL_EVERY: Duration = Duration::from_mins(10);
const REACHED_FOR: u64 = 3600;
/// How often a client without a circuit says why.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether a circuit stands.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a daemon that was asked to stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What a daemon prints when it can be used.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    event: &'static str,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<RelayName>,
    /// Where the relay receives links, or the client SOCKS5.
    listen: SocketAddr,
    control: &'a Path,
}

#[derive(Clone, Copy, Debug)]
struct RelayName(RelayId);

impl Serialize for RelayName {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// Runs something on a runtime of this thread, as the drivers want it.
pub(crate) fn on_this_thread<T>(what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot start")?;
    LocalSet::new().block_on(&runtime, what)
}

/// SIGINT and SIGTERM, taken over from its making on.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// `chive relay run`.
pub(crate) fn run_relay(file: &Path, output: Format) -> anyhow::Result<()> {
    let config = RelayConfig::read(file)?;
    descriptors::raise(if config.exit.is_some() { Need::Exit } else { Need::Relay });
    let now = outside::unix();
    keystore::erase_expired(&config.keys.onion, now)?;
    let keys = keystore::read(&config.keys)?;
    let Members { view, bootstrap } = network::members(&config.network)?;
    if bootstrap.as_ref().is_some_and(Vec::is_empty) {
        tracing::warn!(
            "the network file names no bootstrap address: this relay meets others only if their files name it"
        );
    }
    let id = keys.identity.id();
    let facts = match &bootstrap {
        None => {
            require_known(&view, &keys)?;
            None
        }
        Some(_) => Some(facts::of(&config, view.chain().zip(owner_of(config.wallet.as_ref())?))?),
    };
    facts.as_ref().map_or(Ok(()), |facts| facts::require_public(&facts.addresses, &view))?;
    keystore::private_folder(&config.state)?;
    let socket = control_socket(config.control.clone(), "relay")?;
    on_this_thread(async {
        let payment = match &facts {
            Some(facts) => facts.payment,
            None => view.get(&id).and_then(|descriptor| descriptor.payment),
        };
        let money = money::of_relay(&view, config.wallet.as_ref(), payment, &config.state).await?;
        let bond = bond(&config, id, view.chain(), money.as_ref(), file)?;
        let open = match (bootstrap, &money) {
            (Some(bootstrap), Some(money)) => Some(Open::start(Wanted {
                identity: Some(keys.identity.clone()),
                listen: gossip_address(&config, facts.as_ref()),
                bootstrap,
                view: view.clone(),
                chain: Arc::clone(&money.chain),
                state: config.state.clone(),
            })?),
            _ => None,
        };
        let (open, view) = open.map_or((None, view), |(open, view)| (Some(open), view));
        let herald = facts.map(|facts| herald(&keys, &view, facts, &config)).transpose()?;
        let mut relay = router::driver::Relay::bind(router::driver::Settings {
            keys,
            network: view.network(),
            view,
            listen: config.listen,
            exit: config.exit,
            allow_single_hop: config.allow_single_hop,
            money,
            state: Some(config.state),
            limits: config.limits,
        })?;
        if let (Some(open), Some((herald, facts, sequence))) = (&open, herald) {
            if bond.is_none() {
                tell_registration(open, id, &facts);
            }
            relay.serve_directory(open.swarm().clone());
            take_part(open.clone(), herald, facts, sequence, relay.handle(), &config.keys);
        }
        let mut control = Control::bind(&socket)?;
        if let Some(bond) = bond {
            tokio::task::spawn_local(bond.run());
        }
        let stop = StopSignals::new()?;
        let (handle, listen) = (relay.handle(), relay.address());
        let ready =
            Ready { event: "ready", role: "relay", id: Some(RelayName(id)), listen, control: control.path() };
        announce(output, &ready, format!("ready: relay {id} receives links on {listen}"));
        let erasing = erase_on_time(&config.keys);
        let drain = config.limits.drain;
        let running = async { Ok(relay.run().await?) };
        tokio::select! {
            end = attended(running, &mut control, Daemon::Relay(handle), open, stop, drain) => end,
            never = erasing => never,
        }
    })
}

/// Who puts up the relay's bond, if it does so itself.
fn bond(
    config: &RelayConfig,
    id: RelayId,
    chain: Option<&Chain>,
    money: Option<&router::money::Money>,
    file: &Path,
) -> anyhow::Result<Option<Bond>> {
    let wanted = config.wallet.as_ref().and_then(|wallet| wallet.bond);
    let (Some(amount), Some(chain), Some(money)) = (wanted, chain, money) else { return Ok(None) };
    bond::require_enough(amount, chain.minimum_bond)?;
    anyhow::ensure!(
        money.signer.address() == money.owner,
        "`bond` in [wallet] wants the wallet of the pot's owner, and this is its signer's; leave `bond` out, or name the owner's wallet"
    );
    Ok(Some(Bond {
        chain: Arc::clone(&money.chain),
        signer: money.signer.clone(),
        id,
        amount,
        minimum: chain.minimum_bond,
        gas_price: money.gas_price,
        state: config.state.clone(),
        config: file.to_owned(),
    }))
}

/// The account of a wallet, by the word of its file.
fn owner_of(wallet: Option<&Wallet>) -> anyhow::Result<Option<Address>> {
    let Some(wallet) = wallet else { return Ok(None) };
    let owner = purse::read(&wallet.file)?.address();
    owner.map(Some).with_context(|| {
        format!(
            "the wallet {} does not name its address: import its key into a new one",
            wallet.file.display()
        )
    })
}

/// Where a relay of an open network serves descriptors.
fn gossip_address(config: &RelayConfig, facts: Option<&Facts>) -> Vec<SocketAddr> {
    let port = facts.map_or(0, |facts| facts.gossip_port);
    if port == 0 { Vec::new() } else { vec![SocketAddr::new(config.listen.ip(), port)] }
}

/// Who says what the relay is, beginning with these facts, and from which number on.
fn herald(
    keys: &Keys,
    view: &View,
    facts: Facts,
    config: &RelayConfig,
) -> anyhow::Result<(Herald, watch::Sender<Facts>, SequenceFile)> {
    let (file, sequence) =
        SequenceFile::open(&config.state).context("cannot read the last sequence number")?;
    let about = HeraldConfig {
        identity: keys.identity.clone(),
        network: view.network(),
        link: keys.link.clone(),
        keys: keys.onion.clone(),
        sequence,
    };
    let herald = Herald::new(about, facts.clone(), outside::random()?)
        .map_err(|problem| anyhow!("what [announce] says cannot be in a descriptor: {problem}"))?;
    Ok((herald, watch::Sender::new(facts), file))
}

/// Publishes what the relay is, follows what the others are, and tells what is missing.
fn take_part(
    open: Open,
    herald: Herald,
    facts: watch::Sender<Facts>,
    sequence: SequenceFile,
    relay: router::driver::Handle,
    keys: &KeyFiles,
) {
    let onion = keys.onion.clone();
    let keep = move |keys: &BTreeMap<_, _>| {
        keystore::replace_onion(&onion, keys).map_err(|error| io::Error::other(format!("{error:#}")))
    };
    let swarm = open.swarm().clone();
    let publish = move |descriptor| {
        let swarm = swarm.clone();
        tokio::task::spawn_local(async move {
            if let Err(problem) = swarm.publish(descriptor).await {
                tracing::warn!("this relay's descriptor is not published: {problem}");
            }
        });
    };
    let heard = facts.subscribe();
    tokio::task::spawn_local(call_others(open.swarm().clone(), relay.clone()));
    tokio::task::spawn_local(be_called(open.swarm().clone(), relay.clone()));
    tokio::task::spawn_local(announcer::announce(herald, heard, relay.clone(), sequence, keep, publish));
    let asking = relay.clone();
    tokio::task::spawn_local(async move { follow_price(&asking, &facts).await });
    tokio::task::spawn_local(open.follow(async move |view| relay.set_view(view).await));
}

/// Begins links to relays that ask whether they are reached.
async fn call_others(directory: Directory, relay: router::driver::Handle) {
    let mut callers = directory.callers().await;
    while let Some(caller) = callers.recv().await {
        relay.call(caller).await;
    }
}

/// Asks others to begin a link to this relay while nobody has come for long.
async fn be_called(directory: Directory, relay: router::driver::Handle) {
    let mut wait = CALL_FIRST;
    loop {
        tokio::time::sleep(wait).await;
        let Some(status) = relay.status().await else { return };
        if outside::unix().saturating_sub(status.last_reached) < REACHED_FOR {
            wait = CALL_EVERY;
            continue;
        }
        let Some(linked) = relay.neighbours().await else { return };
        wait = if directory.be_called(linked).await > 0 { CALL_EVERY } else { CALL_FIRST };
    }
}

fn tell_registration(open: &Open, id: RelayId, facts: &watch::Sender<Facts>) {
    let payment = facts.borrow().payment;
    if let Some(payment) = payment {
        tokio::task::spawn_local(open.clone().tell_registration(id, payment.owner));
    }
}

/// What `chive price` sets is said in the next descriptor.
async fn follow_price(relay: &router::driver::Handle, facts: &watch::Sender<Facts>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(status) = relay.status().await else { return };
        let asks = status.money.and_then(|money| {
            let [ask, exit] = money.asks.map(|ask| ask.parse().map(Rate));
            Some((ask.ok()?, exit.ok()?))
        });
        facts.send_if_modified(|facts| {
            let (Some(payment), Some((ask, exit))) = (&mut facts.payment, asks) else { return false };
            let exit = if facts.exit.is_some() { exit } else { Rate::FREE };
            let changed = (payment.ask, payment.exit_ask) != (ask, exit);
            (payment.ask, payment.exit_ask) = (ask, exit);
            changed
        });
    }
}

/// `chive up`.
pub(crate) fn up(wanted: &Up, output: Format) -> anyhow::Result<()> {
    let config = ClientConfig::read(&wanted.config)?;
    descriptors::raise(Need::Client);
    let Members { mut view, bootstrap } = network::members(&config.network)?;
    view.set_content(config.few_relays);
    let wishes = wanted.wished.over(config.wishes);
    let hops = wishes.hops;
    let atlas = network::atlas(config.geoip.as_ref(), &wishes)?;
    match &bootstrap {
        None => network::require_path(&view, &wishes, Arc::clone(&atlas))?,
        Some(doors) if doors.is_empty() => return Err(no_door(&config.network.file)),
        Some(_) => {}
    }
    keystore::private_folder(&config.state)?;
    let socket = control_socket(config.control, "client")?;
    on_this_thread(async {
        let money = money::of_client(&view, config.wallet.as_ref(), &config.state).await?;
        let open = match (bootstrap, &money) {
            (Some(bootstrap), Some(money)) => Some(Open::start(Wanted {
                identity: None,
                listen: Vec::new(),
                bootstrap,
                view: view.clone(),
                chain: Arc::clone(&money.chain),
                state: config.state.clone(),
            })?),
            _ => None,
        };
        let (open, view) = open.map_or((None, view), |(open, view)| (Some(open), view));
        let list = open.is_none().then(|| Arc::new(view.clone()));
        let client = client::driver::Client::bind(client::driver::Settings {
            network: view.network(),
            socks: wanted.socks.unwrap_or(config.socks),
            wishes: wishes.clone(),
            atlas: Arc::clone(&atlas),
            prebuilt: config.prebuilt,
            udp: config.udp.unwrap_or_else(|| any_address(&view)),
            view,
            money,
            state: Some(config.state),
        })?;
        let mut control = Control::bind(&socket)?;
        let stop = StopSignals::new()?;
        let (handle, listen) = (client.handle(), client.socks_address());
        if !listen.ip().is_loopback() {
            tracing::warn!(
                "other machines can use the SOCKS port; the setting `socks` decides who reaches it"
            );
        }
        if let Some(open) = &open {
            let client = handle.clone();
            tokio::task::spawn_local(open.clone().tell(hops));
            tokio::task::spawn_local(ask_through_circuits(client.clone(), open.clone()));
            tokio::task::spawn_local(open.clone().follow(async move |view| {
                let _ = client.set_view(view).await;
            }));
        }
        let path = control.path().to_owned();
        let (waiting, directory) = (handle.clone(), open.clone());
        tokio::task::spawn_local(async move {
            if ready(&waiting, directory.as_ref()).await {
                let ready = Ready { event: "ready", role: "client", id: None, listen, control: &path };
                announce(output, &ready, format!("ready: SOCKS5 on {listen}, {hops} relays in every path"));
                watch_circuits(&waiting).await;
            }
        });
        let hope = Hope { open: open.clone(), list, client: handle.clone(), wishes, atlas };
        let running = async {
            tokio::select! {
                end = Box::pin(client.run()) => Ok(end?),
                problem = hope.is_over() => Err(problem),
            }
        };
        attended(running, &mut control, Daemon::Client(handle), open, stop, Duration::ZERO).await
    })
}

/// What tells whether a path as it is wished may stand one day.
struct Hope {
    open: Option<Open>,
    /// The relays of a network that is not open.
    list: Option<Arc<View>>,
    client: client::driver::Handle,
    wishes: Wishes,
    atlas: Arc<dyn Atlas>,
}

impl Hope {
    /// Ends with the reason once it is known that no such path will ever stand.
    async fn is_over(&self) -> anyhow::Error {
        if let Some(open) = &self.open
            && let Err(problem) =
                open.clone().require_path(self.wishes.clone(), Arc::clone(&self.atlas)).await
        {
            return problem;
        }
        if self.wishes.hops == 1
            && let Some(problem) = self.refused_alone().await
        {
            return problem;
        }
        core::future::pending().await
    }

    /// Why there will be no circuit of a single hop: all exits that this client would use have refused; nothing once one stands.
    ///
    /// Exits do not say before whether they take such circuits.
    async fn refused_alone(&self) -> Option<anyhow::Error> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let status = self.client.status().await?;
            if status.state == "ready" {
                return None;
            }
            if !status.last_error.is_some_and(|error| error.ends_with(NO_SINGLE_HOP)) {
                continue;
            }
            let relays = self.client.relays().await?;
            let refused = |relay: &&client::status::Relay| {
                relay.guard && relay.measured.as_ref().is_some_and(|seen| seen.built == 0 && seen.failed > 0)
            };
            let refused: BTreeSet<_> = relays
                .iter()
                .filter(refused)
                .filter_map(|relay| crate::config::relay_id(&relay.id))
                .collect();
            let asked = refused.len();
            let none_is_left = || {
                let mut wishes = self.wishes.clone();
                wishes.excluded_relays.extend(refused);
                let open = self.open.as_ref().map(|open| Arc::clone(&open.swarm().views().borrow()));
                let view = open.or_else(|| self.list.clone());
                view.is_some_and(|view| {
                    network::require_path(&view, &wishes, Arc::clone(&self.atlas)).is_err()
                })
            };
            if asked > 0 && (asked >= MAX_GUARDS || none_is_left()) {
                let text = format!(
                    "all exits that were asked ({asked}) refuse circuits of a single hop, which show them your address: use --hops 2 or more, \
                     or exits whose operators allow it (allow_single_hop = true in [exit])"
                );
                return Some(Failure::new(Kind::NoRoute, text).into());
            }
        }
    }
}

/// A client that nobody tells who is there.
fn no_door(network: &Path) -> anyhow::Error {
    let text = format!(
        "`bootstrap` in {} is empty, and only the first relay of a network can start so: write the addresses of some of its relays \
         there, such as bootstrap = [\"203.0.113.7:7000\"], or get the file from whoever runs the network",
        network.display()
    );
    Failure::new(Kind::Usage, text).into()
}

/// Asks exits what they know, so that peers of the directory need not see who asks.
async fn ask_through_circuits(client: client::driver::Handle, open: Open) {
    loop {
        tokio::time::sleep(open::PEERS_EVERY).await;
        let _ = client.synchronise(open.swarm()).await;
    }
}

/// Prints that a daemon can be used; one that nobody reads runs all the same.
fn announce(output: Format, ready: &Ready<'_>, text: String) {
    if let Err(error) = output.print(ready, || text) {
        tracing::warn!(%error, "the ready line could not be printed");
    }
}

/// Says once when no circuit stands any more, and once when one stands again.
async fn watch_circuits(client: &client::driver::Handle) {
    let mut stood = true;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(status) = client.status().await else {
            return;
        };
        let stands = status.state == "ready";
        match (stood, stands) {
            (true, false) => {
                tracing::warn!("no circuit stands any more ({}); `chive status` shows why", status.state);
            }
            (false, true) => tracing::info!("a circuit stands again"),
            _ => {}
        }
        stood = stands;
    }
}

/// Waits for the first circuit, and says why there is none, each time that the reason changes.
async fn ready(client: &client::driver::Handle, open: Option<&Open>) -> bool {
    let mut said = String::new();
    loop {
        if let Ok(ready) = tokio::time::timeout(TELL_EVERY, client.ready()).await {
            return ready;
        }
        let Some(status) = client.status().await else {
            return false;
        };
        let missing = open.map(Open::status).and_then(|network| {
            let unread = network.trouble.clone().filter(|_| network.block == 0);
            unread.or_else(|| network.nobody(status.hops))
        });
        let reason = missing.or(status.last_error).unwrap_or_else(|| "no relay has answered".to_owned());
        let text = format!("no circuit stands yet ({}): {reason}", status.state);
        if text != said {
            tracing::warn!("{text}");
            said = text;
        }
    }
}

/// Runs a daemon with its control API until it ends, which a signal asks it for; a second one does not wait for its circuits.
async fn attended(
    running: impl Future<Output = anyhow::Result<()>>,
    control: &mut Control,
    daemon: Daemon,
    open: Option<Open>,
    mut stop: StopSignals,
    drain: Duration,
) -> anyhow::Result<()> {
    let mut running = core::pin::pin!(running);
    let mut answering = core::pin::pin!(control.serve(daemon.clone(), open, drain));
    let mut patience = drain + STOP_WITHIN;
    let mut until: Option<Instant> = None;
    loop {
        tokio::select! {
            end = &mut running => return end,
            end = &mut answering => return end.context("the control API ended"),
            () = stop.next() => {
                tracing::info!("a signal asks to stop");
                daemon.stop();
                until = Some(Instant::now() + core::mem::replace(&mut patience, STOP_WITHIN));
            }
            // What does not stop by itself in time is dropped.
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return Ok(()),
        }
    }
}

fn control_socket(configured: Option<PathBuf>, of: &str) -> anyhow::Result<PathBuf> {
    configured.map_or_else(|| control::default_socket(of), Ok)
}

/// The local UDP address from which all relays can be reached.
pub(crate) fn any_address(view: &View) -> SocketAddr {
    let only_v4 = view.iter().all(|relay| relay.addresses.iter().any(SocketAddr::is_ipv4));
    if only_v4 { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() }
}

/// Refuses to run a relay that clients could not use: its keys must be those of its descriptor.
fn require_known(view: &View, keys: &Keys) -> anyhow::Result<()> {
    let id = keys.identity.id();
    let now = outside::unix();
    let descriptor = view.usable(&id, now).with_context(|| {
        format!(
            "the network file has no use for this relay, {id}; have it signed again with its new descriptor"
        )
    })?;
    let epoch = directory::descriptor::epoch(now);
    let onion = keys.onion.get(&epoch).map(DhSecret::public);
    anyhow::ensure!(
        descriptor.link_key == keys.link.public(),
        "the link key is another than in the network file's descriptor of this relay; restore the file `keys.link` names"
    );
    anyhow::ensure!(
        onion.as_ref() == descriptor.onion_key(epoch),
        "the onion key of epoch {epoch} is another than in the network file's descriptor of this relay; \
         restore the file `keys.onion` names"
    );
    Ok(())
}

/// Keeps the disk free of expired onion keys.
async fn erase_on_time(keys: &KeyFiles) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(ERASE_EVERY);
    loop {
        beat.tick().await;
        match keystore::erase_expired(&keys.onion, outside::unix()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "expired onion keys were erased from disk"),
            Err(error) => tracing::warn!(%error, "expired onion keys are still on disk"),
        }
    }
}
