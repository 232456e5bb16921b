//! The nodes of the demonstration, each on a thread and a runtime of its own, as if each were a process.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use client::driver::Client;
use client::wishes::Wishes;
use directory::geoip::Table;
use directory::view::View;
use router::driver::Relay;
use router::policy::ExitPolicy;

use super::bank::{Bank, Pot};
use crate::cli::Demo;
use crate::control::Daemon;
use crate::daemon::{any_address, on_this_thread};
use crate::outside;
use crate::sample::{self, Plan};

/// How long all nodes together may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Circuits that the client keeps ready.
const PREBUILT: usize = 2;

/// The nodes that run.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    relays: Vec<Node<router::driver::Handle>>,
    client: Option<Node<client::driver::Handle>>,
}

/// The bank, and the pots of the relays and of the client; nothing on a free network.
#[derive(Debug)]
pub(crate) struct Money {
    pub(crate) bank: Bank,
    pub(crate) relays: Vec<Pot>,
    pub(crate) client: Pot,
}

impl Money {
    /// Full pots for so many relays and a client, for so many MiB of traffic; prices go into the plans.
    pub(crate) fn open(folder: &Path, plans: &mut [Plan], mib: u64) -> anyhow::Result<Self> {
        let bank = Bank::open(folder, mib)?;
        let relays: Vec<_> =
            (1..=plans.len()).map(|number| bank.pot(&format!("relay{number}"))).collect::<Result<_, _>>()?;
        for (plan, pot) in plans.iter_mut().zip(&relays) {
            plan.payment = Some(bank.payment(pot, plan.exit.is_some()));
        }
        let client = bank.pot("client")?;
        Ok(Self { bank, relays, client })
    }
}

#[derive(Debug)]
struct Node<H> {
    handle: H,
    thread: JoinHandle<anyhow::Result<()>>,
}

/// Chooses a free port on an own loopback address for every relay; the last ones are exits that may reach `site`.
pub(crate) fn plan(relays: usize, site: SocketAddr) -> anyhow::Result<Vec<Plan>> {
    let exits = (relays / 3).max(3).min(relays);
    let policy = ExitPolicy::default().allow(&[site.to_string()])?;
    (1..=relays)
        .map(|number| {
            let own = u8::try_from(number).map_or([127, 0, 0, 1], |number| [127, 0, number, 1]);
            // Where only 127.0.0.1 is a loopback address, all relays share it.
            let socket = UdpSocket::bind(SocketAddr::from((own, 0)))
                .or_else(|_| UdpSocket::bind("127.0.0.1:0"))
                .context("no UDP port is free on this machine")?;
            let exit = (number > relays - exits).then(|| policy.clone());
            Ok(Plan { address: socket.local_addr()?, exit, payment: None })
        })
        .collect()
}

impl Nodes {
    /// Starts the relays of a plan; the view has their descriptors.
    pub(crate) async fn start_relays(
        &mut self,
        plans: Vec<Plan>,
        wanted: &Demo,
        money: Option<&Money>,
    ) -> anyhow::Result<View> {
        let (mut view, keys) = sample::network(&plans, 1, &mut outside::random()?)?;
        if let Some(money) = money {
            view = view.with_chain(money.bank.network());
        }
        for (number, (plan, keys)) in plans.into_iter().zip(keys).enumerate() {
            let pot = money.and_then(|money| Some((money, money.relays.get(number)?)));
            if let Some((money, pot)) = pot {
                money.bank.fill(pot, Some(keys.identity.id())).await?;
            }
            let settings = router::driver::Settings {
                keys,
                network: view.network(),
                view: view.clone(),
                listen: plan.address,
                exit: plan.exit,
                allow_single_hop: wanted.hops == 1,
                money: pot.map(|(money, pot)| money.bank.relay_money(pot)),
                state: None,
                limits: router::driver::Limits { rate: wanted.rate, ..Default::default() },
            };
            let bind = move || {
                let relay = Relay::bind(settings)?;
                Ok((relay.handle(), relay))
            };
            let (handle, thread) =
                start(format!("relay {}", number + 1), bind, async |relay: Relay| Ok(relay.run().await?))?;
            self.relays.push(Node { handle, thread });
        }
        Ok(view)
    }

    /// Starts the client; returns its handle and its SOCKS5 address.
    pub(crate) async fn start_client(
        &mut self,
        view: View,
        socks: SocketAddr,
        hops: usize,
        money: Option<&Money>,
    ) -> anyhow::Result<(client::driver::Handle, SocketAddr)> {
        let udp = any_address(&view);
        if let Some(money) = money {
            money.bank.fill(&money.client, None).await?;
        }
        let money = money.map(|money| money.bank.client_money(&money.client));
        let settings = client::driver::Settings {
            network: view.network(),
            view,
            socks,
            wishes: Wishes::hops(hops),
            atlas: Arc::new(Table::embedded()),
            prebuilt: PREBUILT,
            udp,
            money,
            state: None,
        };
        let bind = move || {
            let client = Client::bind(settings)?;
            Ok(((client.handle(), client.socks_address()), client))
        };
        let ((handle, address), thread) =
            start("client".to_owned(), bind, async |client: Client| Ok(client.run().await?))?;
        self.client = Some(Node { handle: handle.clone(), thread });
        Ok((handle, address))
    }

    /// Connections that the exits made so far, by the short ids of the exits that made any.
    pub(crate) async fn exit_connections(&self) -> Vec<(String, u64)> {
        let mut made = Vec::new();
        for relay in &self.relays {
            let status = relay.handle.status().await;
            made.extend(
                status.and_then(|s| Some((s.id, s.exit_flows?.total))).filter(|(_, total)| *total > 0),
            );
        }
        made
    }

    /// What each relay has earned, in the order of the plan.
    pub(crate) async fn earnings(&self) -> Vec<(String, router::status::Money)> {
        let mut all = Vec::new();
        for relay in &self.relays {
            all.extend(relay.handle.status().await.and_then(|status| Some((status.id, *status.money?))));
        }
        all
    }

    /// The packets that all relays have sent, and how many of them were payments.
    pub(crate) async fn packets(&self) -> (u64, u64) {
        let (mut all, mut paying) = (0, 0);
        for relay in &self.relays {
            if let Some(status) = relay.handle.status().await {
                all += status.traffic.packets_out;
                paying += status.money.map_or(0, |money| money.packets);
            }
        }
        (all, paying)
    }

    /// Stops all nodes; tells of one that broke down.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let client = self.client.into_iter().map(|node| (Daemon::Client(node.handle), node.thread));
        let relays = self.relays.into_iter().map(|node| (Daemon::Relay(node.handle), node.thread));
        let nodes: Vec<_> = client.chain(relays).collect();
        for (daemon, _) in &nodes {
            daemon.stop();
        }
        let all_ended = async {
            while nodes.iter().any(|(_, thread)| !thread.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(STOP_WITHIN, all_ended)
            .await
            .map_err(|_| anyhow!("not all nodes stopped within {} s", STOP_WITHIN.as_secs()))?;
        nodes.into_iter().try_for_each(|(_, thread)| {
            let name = thread.thread().name().unwrap_or("a node").to_owned();
            thread
                .join()
                .map_err(|_| anyhow!("{name} panicked"))?
                .with_context(|| format!("{name} broke down"))
        })
    }
}

/// Starts a node on a thread of its own: `bind` makes it there and says what others need of it.
fn start<N: 'static, H: Send + 'static>(
    name: String,
    bind: impl FnOnce() -> anyhow::Result<(H, N)> + Send + 'static,
    run: impl AsyncFnOnce(N) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<(H, JoinHandle<anyhow::Result<()>>)> {
    let (tell, told) = mpsc::channel();
    let failed = format!("{name} cannot start");
    let body = move || {
        on_this_thread(async move {
            match bind() {
                Ok((handle, node)) => {
                    tell.send(Ok(handle)).map_err(|_| anyhow!("nobody waits for the node"))?;
                    run(node).await
                }
                Err(error) => tell.send(Err(error)).map_err(|_| anyhow!("nobody waits for the node")),
            }
        })
    };
    let thread = Builder::new().name(name).spawn(body).with_context(|| failed.clone())?;
    let handle = told.recv().with_context(|| failed.clone())?.context(failed)?;
    Ok((handle, thread))
}
