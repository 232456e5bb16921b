//! Puts a node's records on disk, whatever the chain does meanwhile: nothing that is promised may wait for an RPC.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use tokio::sync::mpsc;

use super::{Job, News, TOO_LONG};
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
}

/// What is left to be done when records have been kept.
#[derive(Debug)]
pub(super) enum Rest {
    Note(Note),
    Job(Job),
}

#[derive(Debug)]
pub(super) struct Keeper {
    writer: Writer,
    news: mpsc::UnboundedSender<News>,
    /// Books with a change that cannot be written: nothing more of theirs is called kept.
    withheld: Vec<Book>,
}

const fn table(key: &Key) -> Table {
    match key {
        Key::Payee(_) | Key::Debt(..) => Table::PayerSessions,
        Key::Payer(_) => Table::PayeeSessions,
        Key::Win(..) => Table::Wins,
        Key::Meter(_) => Table::Counters,
    }
}

impl Keeper {
    pub(super) const fn new(writer: Writer, news: mpsc::UnboundedSender<News>) -> Self {
        Self { writer, news, withheld: Vec::new() }
    }

    /// Keeps records, and hands on all other jobs, until nobody hands out jobs any more.
    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        rest: mpsc::UnboundedSender<Rest>,
        trouble: impl Fn(&'static str),
    ) {
        while let Some(job) = jobs.recv().await {
            let left = match job {
                Job::Keep(changes) => {
                    let note = self.keep(changes, &trouble);
                    if note.used.is_empty() && note.debts.is_empty() {
                        continue;
                    }
                    Rest::Note(note)
                }
                job => Rest::Job(job),
            };
            // The other part ends after this one.
            let _ = rest.send(left);
        }
    }

    fn keep(&mut self, changes: Vec<(Book, RecordId, Change)>, trouble: impl Fn(&'static str)) -> Note {
        let (mut batch, mut last, mut note) = (Batch::new(), BTreeMap::new(), Note::default());
        for (book, id, change) in changes {
            last.insert(book, id);
            match change.key {
                Key::Payer(payer) => note.used.push(payer),
                Key::Debt(payee, nonce) => note.debts.push(((payee, nonce), change.record.is_some())),
                _ => {}
            }
            match change.record.map(|record| record.encode()) {
                Some(Ok(bytes)) => batch.put(table(&change.key), change.key.encode(), bytes),
                // pay.persist.1
                Some(Err(_)) => {
                    self.withheld.push(book);
                    trouble(TOO_LONG);
                }
                None => batch.delete(table(&change.key), change.key.encode()),
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
