//! Puts a node's records on disk, whatever the chain does meanwhile: nothing that is promised may wait for an RPC.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use tokio::sync::mpsc;

use super::{Job, News};
use crate::claim::Claim;
use crate::record::{Book, Change, Key, RecordId};
use crate::store::thread::Writer;
use crate::store::{Batch, Table};

/// What the part that looks at the chain hears of the records.
#[derive(Debug, Default)]
pub(super) struct Note {
    /// Payers whose pots were used.
    pub(super) used: Vec<Address>,
    /// Debts by payee and nonce, and whether they are there still.
    pub(super) debts: Vec<((Address, u32), bool)>,
    /// A change could not be written.
    pub(super) withheld: bool,
}

/// What is left to be done when records have been kept.
#[derive(Debug)]
pub(super) enum Rest {
    Note(Note),
    Watch(Address),
    Redeem(Box<Claim>),
}

#[derive(Debug)]
pub(super) struct Keeper {
    writer: Writer,
    news: mpsc::UnboundedSender<News>,
    /// Books with a change that cannot be written: nothing more of theirs is called kept.
    withheld: BTreeSet<Book>,
}

impl Keeper {
    pub(super) const fn new(writer: Writer, news: mpsc::UnboundedSender<News>) -> Self {
        Self { writer, news, withheld: BTreeSet::new() }
    }

    /// Keeps records, and hands on all other jobs, until nobody hands out jobs any more.
    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        rest: mpsc::UnboundedSender<Rest>,
    ) {
        while let Some(job) = jobs.recv().await {
            let left = match job {
                Job::Keep(changes) => Rest::Note(self.keep(changes)),
                Job::Watch(address) => Rest::Watch(address),
                Job::Redeem(claim) => Rest::Redeem(claim),
            };
            // The other part ends after this one.
            let _ = rest.send(left);
        }
    }

    fn keep(&mut self, changes: Vec<(Book, RecordId, Change)>) -> Note {
        let (mut batch, mut last, mut note) = (Batch::new(), BTreeMap::new(), Note::default());
        for (book, id, change) in changes {
            last.insert(book, id);
            match change.key {
                Key::Payer(payer) => note.used.push(payer),
                Key::Debt(payee, nonce) => note.debts.push(((payee, nonce), change.record.is_some())),
                _ => {}
            }
            match change.record.map(|record| record.encode()) {
                Some(Ok(bytes)) => batch.put(Table::of(&change.key), change.key.encode(), bytes),
                // pay.persist.1
                Some(Err(_)) => {
                    self.withheld.insert(book);
                    note.withheld = true;
                }
                None => batch.delete(Table::of(&change.key), change.key.encode()),
            }
        }
        last.retain(|book, _| !self.withheld.contains(book));
        let news = self.news.clone();
        self.writer.write(batch, move |_| {
            for (book, id) in last {
                let _ = news.send(News::Kept(book, id));
            }
        });
        note
    }
}
