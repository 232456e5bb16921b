//! The daemons: `chive relay run` and `chive up`.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use circuit::keys::{DhSecret, RelayId};
use directory::view::View;
use router::driver::Keys;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use crate::cli::Up;
use crate::config::{ClientConfig, KeyFiles, RelayConfig};
use crate::control::{self, Control, Daemon};
use crate::descriptors::{self, Need};
use crate::keystore;
use crate::money;
use crate::network;
use crate::output::Format;
use crate::outside;

/// How often expired onion keys are looked for on disk.
const ERASE_EVERY: Duration = Duration::from_mins(1);
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
pub(crate) fn run_relay(config: &Path, output: Format) -> anyhow::Result<()> {
    let config = RelayConfig::read(config)?;
    descriptors::raise(if config.exit.is_some() { Need::Exit } else { Need::Relay });
    let now = outside::unix();
    keystore::erase_expired(&config.keys.onion, now)?;
    let keys = keystore::read(&config.keys)?;
    let view = network::read(&config.network)?;
    let id = keys.identity.id();
    require_known(&view, &keys)?;
    keystore::private_folder(&config.state)?;
    let socket = control_socket(config.control, "relay")?;
    on_this_thread(async {
        let payment = view.get(&id).and_then(|descriptor| descriptor.payment);
        let money = money::of_relay(&view, config.wallet.as_ref(), payment, &config.state).await?;
        let relay = router::driver::Relay::bind(router::driver::Settings {
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
        let mut control = Control::bind(&socket)?;
        let stop = StopSignals::new()?;
        let (handle, listen) = (relay.handle(), relay.address());
        let ready =
            Ready { event: "ready", role: "relay", id: Some(RelayName(id)), listen, control: control.path() };
        announce(output, &ready, format!("ready: relay {id} receives links on {listen}"));
        let erasing = erase_on_time(&config.keys);
        let drain = config.limits.drain;
        let running = async { Ok(relay.run().await?) };
        tokio::select! {
            end = attended(running, &mut control, Daemon::Relay(handle), stop, drain) => end,
            never = erasing => never,
        }
    })
}

/// `chive up`.
pub(crate) fn up(wanted: &Up, output: Format) -> anyhow::Result<()> {
    let config = ClientConfig::read(&wanted.config)?;
    descriptors::raise(Need::Client);
    let view = network::read(&config.network)?;
    let wishes = wanted.wished.over(config.wishes);
    let hops = wishes.hops;
    network::require_path(&view, &wishes)?;
    keystore::private_folder(&config.state)?;
    let socket = control_socket(config.control, "client")?;
    on_this_thread(async {
        let money = money::of_client(&view, config.wallet.as_ref(), &config.state).await?;
        let client = client::driver::Client::bind(client::driver::Settings {
            network: view.network(),
            socks: wanted.socks.unwrap_or(config.socks),
            wishes,
            country_of: |_| None,
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
        let path = control.path().to_owned();
        let waiting = handle.clone();
        tokio::task::spawn_local(async move {
            if ready(&waiting).await {
                let ready = Ready { event: "ready", role: "client", id: None, listen, control: &path };
                announce(output, &ready, format!("ready: SOCKS5 on {listen}, {hops} relays in every path"));
                watch_circuits(&waiting).await;
            }
        });
        let running = async { Ok(client.run().await?) };
        attended(running, &mut control, Daemon::Client(handle), stop, Duration::ZERO).await
    })
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

/// Waits for the first circuit, and says from time to time why there is none.
async fn ready(client: &client::driver::Handle) -> bool {
    loop {
        if let Ok(ready) = tokio::time::timeout(TELL_EVERY, client.ready()).await {
            return ready;
        }
        let Some(status) = client.status().await else {
            return false;
        };
        let reason = status.last_error.as_deref().unwrap_or("no relay has answered");
        tracing::warn!("no circuit stands yet ({}): {reason}", status.state);
    }
}

/// Runs a daemon with its control API until it ends, which a signal asks it for; a second one does not wait for its circuits.
async fn attended(
    running: impl Future<Output = anyhow::Result<()>>,
    control: &mut Control,
    daemon: Daemon,
    mut stop: StopSignals,
    drain: Duration,
) -> anyhow::Result<()> {
    let mut running = core::pin::pin!(running);
    let mut answering = core::pin::pin!(control.serve(daemon.clone()));
    let mut patience = drain + STOP_WITHIN;
    let mut until: Option<Instant> = None;
    loop {
        tokio::select! {
            end = &mut running => return end,
            end = &mut answering => return end.context("the control API ended"),
            () = stop.next() => {
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
