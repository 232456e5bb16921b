//! A thread that waits for the disk, so that nothing else has to.

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::store::{Batch, Error, Persisted, Store};

/// Waiting batches that go to the disk in one commit.
const MERGED: usize = 1024;
/// Between two attempts to write again after the disk has failed.
const RETRY: Duration = Duration::from_secs(1);

type Done = Box<dyn FnOnce(Persisted) + Send>;
/// Opens the store again after a failed commit.
type Open = Box<dyn FnMut() -> Result<Store, Error> + Send>;

/// The way to the thread; clones share it, and the thread ends with the last of them.
#[derive(Clone)]
pub struct Writer {
    batches: Sender<(Batch, Done)>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("trouble", &self.trouble()).finish_non_exhaustive()
    }
}

impl Writer {
    /// Has a batch written and returns at once; `done` is called in the store's thread when it is durable.
    ///
    /// Batches become durable in the order of these calls. While the disk fails they wait, and nothing is reported.
    pub fn write(&self, batch: Batch, done: impl FnOnce(Persisted) + Send + 'static) {
        // The thread lives as long as any writer.
        let _ = self.batches.send((batch, Box::new(done)));
    }

    /// Has a batch written and waits for it, without blocking the thread; `None` if the store's thread has ended.
    pub async fn commit(&self, batch: Batch) -> Option<Persisted> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.write(batch, move |persisted| {
            let _ = sender.send(persisted);
        });
        receiver.await.ok()
    }

    /// Why nothing has been written for a while, in words for the operator; `None` if all is well.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts the thread of a store; its end is when the last [`Writer`] is gone and all is written.
///
/// When a commit fails, the file is opened again and the commit repeated, until it succeeds.
pub fn spawn(store: Store) -> std::io::Result<(Writer, JoinHandle<()>)> {
    let path: PathBuf = store.path().to_owned();
    spawn_with(store, Box::new(move || Store::open(&path)))
}

/// [`spawn`] for a store that is no file: `open` opens it again.
pub fn spawn_with(store: Store, open: Open) -> std::io::Result<(Writer, JoinHandle<()>)> {
    let (batches, receiver) = channel();
    let trouble = Arc::new(Mutex::new(None));
    let writer = Writer { batches, trouble: Arc::clone(&trouble) };
    let mut disk = Disk { store: Some(store), open, trouble };
    let thread = std::thread::Builder::new().name("store".into()).spawn(move || disk.run(&receiver))?;
    Ok((writer, thread))
}

struct Disk {
    /// `None` after a failed commit.
    store: Option<Store>,
    open: Open,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Disk {
    fn run(&mut self, batches: &Receiver<(Batch, Done)>) {
        let mut dones = Vec::new();
        while let Ok((mut batch, done)) = batches.recv() {
            dones.push(done);
            // What has come in meanwhile shares one wait for the disk.
            for (later, done) in batches.try_iter().take(MERGED) {
                batch.append(later);
                dones.push(done);
            }
            let persisted = self.insist(&batch);
            for done in dones.drain(..) {
                done(persisted);
            }
        }
    }

    fn insist(&mut self, batch: &Batch) -> Persisted {
        loop {
            match self.attempt(batch) {
                Ok(persisted) => {
                    if self.set_trouble(None).is_some() {
                        tracing::info!("the store is written again");
                    }
                    return persisted;
                }
                Err(error) => {
                    let said = error.to_string();
                    if self.set_trouble(Some(said.clone())).as_deref() != Some(said.as_str()) {
                        tracing::error!("{said}");
                    }
                }
            }
            pause();
        }
    }

    fn attempt(&mut self, batch: &Batch) -> Result<Persisted, Error> {
        let store = match self.store.take() {
            Some(store) => store,
            None => (self.open)()?,
        };
        let persisted = store.commit(batch)?;
        self.store = Some(store);
        Ok(persisted)
    }

    fn set_trouble(&self, trouble: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner), trouble)
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread does nothing but wait for the disk")]
fn pause() {
    std::thread::sleep(RETRY);
}
