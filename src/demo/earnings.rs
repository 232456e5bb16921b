//! What the relays of the demonstration earned, and whether all sums agree to the wei.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use client::driver::Handle;
use client::status::Hop;
use payments::amount::Wei;
use serde::Serialize;
use tokio::time::Instant;

use super::network::{Money, Nodes};
use crate::wallet::ether_text;

/// How long draws under way and redemptions may take after the last byte.
const WITHIN: Duration = Duration::from_secs(15);

/// Counts of both ends of a link may differ by one part of so many: packets are lost on the way.
const TOLERANCE: u128 = 100;

/// What one relay of the path earned; amounts in wei.
#[derive(Debug, Serialize)]
struct Earned {
    relay: String,
    cells: u64,
    value: String,
    credited: String,
    draws: u64,
    wins: u64,
    won: String,
    redeemed: String,
}

/// What all earned.
#[derive(Debug, Serialize)]
pub(super) struct Earnings {
    /// Hop by hop.
    hops: Vec<Earned>,
    /// What the client paid in draws.
    client_paid: String,
    /// What all relays were credited in draws, and what client and relays paid.
    credited: String,
    /// What the contract paid out for wins.
    redeemed: String,
    /// What all pots hold, before and after.
    held: String,
}

struct Sums {
    relays: Vec<Earned>,
    client_paid: Wei,
    /// By client and relays.
    paid: Wei,
    /// What cells cost, by the counts of who sent them and of who got them.
    owed: Wei,
    earned: Wei,
    credited: Wei,
    won: Wei,
    redeemed: Wei,
}

/// Waits until nothing is under way, and adds everything up.
pub(super) async fn check(
    client: &Handle,
    nodes: &Nodes,
    money: &Money,
    path: &[Hop],
) -> anyhow::Result<Earnings> {
    let owners: Vec<_> = money.relays.iter().chain([&money.client]).map(super::bank::Pot::owner).collect();
    let count = u64::try_from(owners.len())?;
    let filled = super::bank::POT.checked_mul(2 * count).context("a sum of wei")?;
    let late = Instant::now() + WITHIN;
    loop {
        let sums = add_up(client, nodes, money).await?;
        let held = money.bank.held(&owners).await?;
        // What was lost on the way is not owed any more once both sides have said their counts.
        let close = sums.earned.0.abs_diff(sums.owed.0) <= sums.owed.0 / TOLERANCE;
        let agree = close && sums.paid == sums.credited && sums.won == sums.redeemed;
        if agree || Instant::now() > late {
            let Sums { paid, owed, earned, credited, won, redeemed, .. } = sums;
            ensure!(
                close,
                "{earned} wei were charged for cells, but by the counts of who sent them they cost {owed} wei"
            );
            ensure!(paid == credited, "{paid} wei were paid in draws, but {credited} credited");
            ensure!(won == redeemed, "{won} wei were won, but {redeemed} redeemed");
            ensure!(held == filled, "the pots hold {held} wei, but were filled with {filled}");
            return of_path(sums, path, held);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The earnings of the relays of a path, the entry first.
fn of_path(mut sums: Sums, path: &[Hop], held: Wei) -> anyhow::Result<Earnings> {
    let mut hops = Vec::new();
    for hop in path {
        let at = sums.relays.iter().position(|earned| earned.relay.starts_with(&hop.id));
        let mut earned = sums.relays.swap_remove(at.context("a relay of the path tells no earnings")?);
        ensure!(earned.cells > 0 && earned.draws > 0, "relay {} of the path has earned nothing", hop.id);
        earned.relay.clone_from(&hop.id);
        hops.push(earned);
    }
    Ok(Earnings {
        hops,
        client_paid: sums.client_paid.to_string(),
        credited: sums.credited.to_string(),
        redeemed: sums.redeemed.to_string(),
        held: held.to_string(),
    })
}

async fn add_up(client: &Handle, nodes: &Nodes, money: &Money) -> anyhow::Result<Sums> {
    let wei = |text: &str| text.parse().map(Wei).with_context(|| format!("{text} is no amount"));
    let own = client.status().await.and_then(|status| status.money).context("the client pays nobody")?;
    let client_paid = wei(&own.paid)?;
    let mut sums = Sums {
        relays: Vec::new(),
        client_paid,
        paid: client_paid,
        owed: client_paid.checked_sub(wei(&own.ahead)?).unwrap_or_default(),
        earned: Wei::ZERO,
        credited: Wei::ZERO,
        won: Wei::ZERO,
        redeemed: Wei::ZERO,
    };
    for ((relay, earned), pot) in nodes.earnings().await.into_iter().zip(&money.relays) {
        let redeemed = money.bank.redeemed(pot.owner()).await?;
        sums.paid = sums.paid.saturating_add(wei(&earned.paid)?);
        sums.owed = sums.owed.saturating_add(wei(&earned.owed)?);
        sums.earned = sums.earned.saturating_add(wei(&earned.earned)?);
        sums.credited = sums.credited.saturating_add(wei(&earned.credited)?);
        sums.won = sums.won.saturating_add(wei(&earned.won)?);
        sums.redeemed = sums.redeemed.saturating_add(redeemed);
        sums.relays.push(Earned {
            relay,
            cells: earned.cells,
            value: earned.earned,
            credited: earned.credited,
            draws: earned.draws,
            wins: earned.wins,
            won: earned.won,
            redeemed: redeemed.to_string(),
        });
    }
    Ok(sums)
}

/// Who has earned what so far, in a few words; nothing on a free network.
pub(super) async fn live_text(nodes: &Nodes) -> String {
    let wei = |text: &str| text.parse().map_or(Wei::ZERO, Wei);
    let earned = nodes.earnings().await.into_iter().map(|(_, money)| (wei(&money.credited), money.wins));
    let earned: Vec<_> = earned.filter(|(credited, _)| *credited > Wei::ZERO).collect();
    let sum = earned.iter().fold(Wei::ZERO, |sum, (credited, _)| sum.saturating_add(*credited));
    let wins: u64 = earned.iter().map(|(_, wins)| wins).sum();
    match earned.len() {
        0 => String::new(),
        relays => format!(" | {relays} relays earned {}, {wins} wins", ether_text(sum)),
    }
}

impl Earnings {
    /// In words, a line per hop.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for hop in &self.hops {
            let _ = write!(
                text,
                "\n  {}: {} cells earned {} wei; {} wei credited in {} draws, {} of which won {} wei, {} wei redeemed on chain",
                hop.relay, hop.cells, hop.value, hop.credited, hop.draws, hop.wins, hop.won, hop.redeemed
            );
        }
        let _ = write!(
            text,
            "\n  the client paid {} wei; all that client and relays paid, {} wei, was credited; {} wei were won and redeemed; \
             all pots together hold the {} wei they were filled with",
            self.client_paid, self.credited, self.redeemed, self.held
        );
        text
    }
}
