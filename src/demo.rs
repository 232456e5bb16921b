//! `chive demo`: a whole network in one process, to look at, to use, and to check.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use client::driver::Handle;
use client::status::{Hop, Status};
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::Demo;
use crate::control::{Control, Daemon};
use crate::daemon::{StopSignals, on_this_thread};
use crate::descriptors::{self, Need};
use crate::failure::{Failure, Kind};
use crate::output::{self, Format, NobodyReads};
use crate::report::{bytes_text, float, path_text};

mod bank;
mod earnings;
mod network;
mod site;
mod visitor;

use earnings::Earnings;
use network::Nodes;
use site::Site;
use visitor::Transfer;

const STAGES: usize = 6;
/// How long everything up to the end of the check may take, beside what it moves.
const WITHIN: Duration = Duration::from_mins(1);
/// How often it is told why no circuit stands yet.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// MiB that the check moves both ways in one more second at least.
const SLOWEST: u64 = 4;

/// What the command prints as it goes, one document each.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Stage { number: usize, of: usize, text: &'a str, elapsed_ms: u128 },
    Ready { socks: SocketAddr, site: SocketAddr, hops: usize, control: &'a Path },
    Status(&'a Status),
    Check(Proof),
}

/// What a check that passed has proved.
#[derive(Debug, Serialize)]
struct Proof {
    passed: bool,
    hops: usize,
    /// The path of the download.
    path: Vec<Hop>,
    bytes_down: u64,
    bytes_up: u64,
    first_byte_ms: f64,
    down_mb_s: f64,
    up_mb_s: f64,
    /// Connections at the site, all of which exits made.
    site_connections: u64,
    /// Packets that client and relays sent, and how many of them were payments.
    packets: u64,
    payment_packets: u64,
    /// What the relays earned, on a paid network.
    earnings: Option<Earnings>,
}

/// Runs the demonstration.
pub(crate) fn run(wanted: &Demo, output: Format) -> anyhow::Result<()> {
    if wanted.hops > wanted.relays {
        let text = format!("a path of {} relays needs as many with --relays", wanted.hops);
        return Err(Failure::new(Kind::Usage, text).into());
    }
    descriptors::raise(Need::Demo);
    on_this_thread(async {
        let mut nodes = Nodes::default();
        let mut stop = StopSignals::new()?;
        let end = tokio::select! {
            end = play(wanted, output, &mut nodes) => end,
            () = stop.next() => Ok(()),
        };
        if output::is_terminal() && output == Format::Text && !wanted.check {
            output::replace_line("");
        }
        let stopped = nodes.stop().await;
        match end {
            Err(error) if wanted.check && error.is::<NobodyReads>() => {
                Err(anyhow!("the check did not end, for nobody reads standard output"))
            }
            end => end.and(stopped),
        }
    })
}

/// Prints the stages as they finish.
struct Stages {
    output: Format,
    start: Instant,
    within: Duration,
    done: usize,
}

impl Stages {
    fn done(&mut self, text: &str) -> anyhow::Result<()> {
        self.done += 1;
        let (number, elapsed) = (self.done, self.start.elapsed());
        let event = Event::Stage { number, of: STAGES, text, elapsed_ms: elapsed.as_millis() };
        self.output.print(&event, || format!("[{number}/{STAGES}] {:6.2} s  {text}", elapsed.as_secs_f64()))
    }
}

impl Stages {
    /// Gives up on something when all together has taken too long.
    async fn in_time<T>(
        &self,
        what: &str,
        doing: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let late = || anyhow!("{} s were over before {what}", self.within.as_secs());
        tokio::time::timeout_at(self.start + self.within, doing).await.map_err(|_| late())?
    }
}

async fn play(wanted: &Demo, output: Format, nodes: &mut Nodes) -> anyhow::Result<()> {
    let within = WITHIN + Duration::from_secs(wanted.mib / SLOWEST);
    let mut stages = Stages { output, start: Instant::now(), within, done: 0 };
    let site = Site::open().await?;
    let at = site.address()?;
    stages.done(&format!("a web site is open on {at}"))?;
    let mut plans = network::plan(wanted.relays, at)?;
    let folder = tempfile::Builder::new()
        .prefix("chive-demo-")
        .tempdir()
        .context("no temporary folder can be made")?;
    let money =
        if wanted.free { None } else { Some(network::Money::open(folder.path(), &mut plans, wanted.mib)?) };
    stages.done(&money.as_ref().map_or_else(
        || "relays work for nothing".to_owned(),
        |money| format!("a chain runs in this process, the contract is at {}", money.bank.domain().contract),
    ))?;
    let (relays, exits) = (plans.len(), plans.iter().filter(|plan| plan.exit.is_some()).count());
    let view = nodes.start_relays(plans, wanted, money.as_ref()).await?;
    stages.done(&format!("{relays} relays have keys and run, {exits} of them exits"))?;
    let (client, socks) = nodes.start_client(view, wanted.socks, wanted.hops, money.as_ref()).await?;
    stages.done(&format!("the client runs, SOCKS5 on {socks}"))?;
    let mut control = Control::bind(&folder.path().join("run/control.sock"))?;
    let path = control.path().to_owned();
    let body = async {
        first_circuit(&client, &stages).await?;
        stages.done(&format!(
            "the first circuit stands, through {} {}",
            wanted.hops,
            relays_word(wanted.hops)
        ))?;
        let first = fetch_page(socks, at, &stages).await?;
        stages.done(&format!("the site answers through it, first byte after {:.1} ms", ms(first)))?;
        if wanted.check {
            let mut proof = check(&client, nodes, &site, &stages, socks, wanted).await?;
            if let Some(money) = &money {
                proof.earnings = Some(earnings::check(&client, nodes, money, &proof.path).await?);
            }
            let text = proof.text();
            output.print(&Event::Check(proof), || text)
        } else {
            let ready = Event::Ready { socks, site: at, hops: wanted.hops, control: &path };
            output.print(&ready, || ready_text(socks, at, &path))?;
            watch(&client, nodes, output).await
        }
    };
    tokio::select! {
        end = body => end,
        end = site.serve() => end,
        end = mine(money.as_ref()) => end,
        end = control.serve(Daemon::Client(client.clone()), None, Duration::ZERO) => end,
    }
}

/// Makes blocks, if there is a chain.
async fn mine(money: Option<&network::Money>) -> anyhow::Result<()> {
    match money {
        Some(money) => money.bank.mine().await,
        None => std::future::pending().await,
    }
}

async fn first_circuit(client: &Handle, stages: &Stages) -> anyhow::Result<()> {
    let ready = async {
        loop {
            if let Ok(ready) = tokio::time::timeout(TELL_EVERY, client.ready()).await {
                return ready.then_some(()).context("the client ended");
            }
            let status = client.status().await.context("the client ended")?;
            tracing::warn!("no circuit stands yet: {}", status.last_error.unwrap_or(status.state));
        }
    };
    let Err(late) = stages.in_time("a circuit stood", ready).await else {
        return Ok(());
    };
    let status = client.status().await.context("the client ended")?;
    Err(late.context(status.last_error.unwrap_or(status.state)))
}

async fn fetch_page(socks: SocketAddr, site: SocketAddr, stages: &Stages) -> anyhow::Result<Duration> {
    let fetch = visitor::download(socks, site, 1_000, async {});
    Ok(stages.in_time("the site's page came", fetch).await?.first_byte)
}

/// Moves bytes both ways, compares them all, and looks at who made the connections.
async fn check(
    client: &Handle,
    nodes: &Nodes,
    site: &Site,
    stages: &Stages,
    socks: SocketAddr,
    wanted: &Demo,
) -> anyhow::Result<Proof> {
    let at = site.address()?;
    let (hops, bytes) = (wanted.hops, wanted.mib << 20);
    let mut path = Vec::new();
    let download = visitor::download(socks, at, bytes, async {
        path = path_in_use(client).await.unwrap_or_default();
    });
    let down = stages.in_time("the download ended", download).await?;
    let up = stages.in_time("the upload ended", visitor::upload(socks, at, bytes)).await?;

    ensure!(path.len() == hops, "the download's circuit has {} relays, not {hops}", path.len());
    let visits = site.visits();
    let made = nodes.exit_connections().await;
    let by_exits: u64 = made.iter().map(|(_, count)| count).sum();
    ensure!(
        by_exits == visits.connections,
        "the site saw {} connections, but the exits made {by_exits}",
        visits.connections
    );
    let exit = path.last().map(|hop| hop.id.as_str()).unwrap_or_default();
    ensure!(made.iter().any(|(id, _)| id.starts_with(exit)), "the path's last relay connected nowhere");
    let (packets, payment_packets) = packets(client, nodes).await;
    Ok(Proof {
        passed: true,
        hops,
        path,
        bytes_down: bytes,
        bytes_up: bytes,
        first_byte_ms: ms(down.first_byte),
        down_mb_s: mb_s(bytes, down),
        up_mb_s: mb_s(bytes, up),
        site_connections: visits.connections,
        packets,
        payment_packets,
        earnings: None,
    })
}

/// The packets that client and relays have sent, and how many of them were payments.
async fn packets(client: &Handle, nodes: &Nodes) -> (u64, u64) {
    let (mut all, mut paying) = nodes.packets().await;
    if let Some(status) = client.status().await {
        let [sent, _] = status.packets;
        all += sent;
        paying += status.money.map_or(0, |money| money.packets);
    }
    (all, paying)
}

/// The path of a circuit that carries a stream now.
async fn path_in_use(client: &Handle) -> Option<Vec<Hop>> {
    let circuits = client.circuits().await?;
    circuits.into_iter().find(|circuit| circuit.streams > 0).map(|circuit| circuit.path)
}

impl Proof {
    fn text(&self) -> String {
        let earned = self.earnings.as_ref().map_or_else(String::new, |earnings| {
            let share = float(self.payment_packets) / float(self.packets.max(1)) * 100.0;
            let (paying, all) = (self.payment_packets, self.packets);
            format!("{}\n  {paying} of {all} packets were payments ({share:.3} %)", earnings.text())
        });
        format!(
            "check passed: {} down and {} up, byte for byte, through {} {} ({}), first byte after {:.1} ms, \
             {:.1} MB/s down and {:.1} MB/s up; all {} connections at the site were made by exits{earned}",
            bytes_text(self.bytes_down),
            bytes_text(self.bytes_up),
            self.hops,
            relays_word(self.hops),
            path_text(&self.path),
            self.first_byte_ms,
            self.down_mb_s,
            self.up_mb_s,
            self.site_connections,
        )
    }
}

fn ready_text(socks: SocketAddr, site: SocketAddr, control: &Path) -> String {
    let control = control.display();
    format!(
        "\nSOCKS5 proxy: {socks}\nTry in another terminal:\n\n    curl --socks5-hostname {socks} http://{site}/\n    \
         curl --socks5-hostname {socks} -o /dev/null http://{site}/bytes/100000000\n    \
         chive circuits --control {control}\n\nCtrl-C ends the demonstration.\n"
    )
}

/// Shows what the client does and the relays earn, until the future is dropped or the client is stopped.
async fn watch(client: &Handle, nodes: &Nodes, output: Format) -> anyhow::Result<()> {
    let live = output == Format::Text && output::is_terminal();
    let every = Duration::from_secs(if live { 1 } else { 10 });
    let mut beat = tokio::time::interval(every);
    let mut last: Option<Status> = None;
    loop {
        beat.tick().await;
        // It was stopped by its control API.
        let Some(status) = client.status().await else { return Ok(()) };
        let text = live_text(&status, last.as_ref(), every.as_secs_f64()) + &earnings::live_text(nodes).await;
        if live {
            output::replace_line(&text);
        } else {
            output.print(&Event::Status(&status), || text)?;
        }
        last = Some(status);
    }
}

fn live_text(now: &Status, last: Option<&Status>, seconds: f64) -> String {
    let rate = |now: u64, last: Option<u64>| float(now.saturating_sub(last.unwrap_or(now))) / seconds / 1e6;
    let rtt = now.link_rtt_ms.map_or_else(String::new, |rtt| format!(" | entry {rtt:.1} ms"));
    format!(
        "{} | {} circuits, {} streams | {:.1} MB/s down, {:.1} MB/s up{rtt}",
        now.state,
        now.circuits.ready,
        now.streams,
        rate(now.bytes_down, last.map(|last| last.bytes_down)),
        rate(now.bytes_up, last.map(|last| last.bytes_up)),
    )
}

fn relays_word(count: usize) -> &'static str {
    if count == 1 { "relay" } else { "relays" }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mb_s(bytes: u64, transfer: Transfer) -> f64 {
    float(bytes) / transfer.whole.as_secs_f64().max(1e-6) / 1e6
}
