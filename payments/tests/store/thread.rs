//! The thread that waits for the disk.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use payments::store::thread::{spawn, spawn_with};
use payments::store::{Batch, Error, Store, Table};
use redb::StorageBackend;

use crate::disk::{Disk, Shared};

const PATIENCE: Duration = Duration::from_mins(1);

/// A disk that waits to be let go on, or is full.
#[derive(Debug)]
struct Slow {
    inner: Shared,
    syncs: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
    /// Each sync takes one from here, once there is a sender.
    gate: Arc<Mutex<Option<Receiver<()>>>>,
}

impl Slow {
    fn wait(&self) {
        if let Some(gate) = &*self.gate.lock().unwrap() {
            let _ = gate.recv_timeout(PATIENCE);
        }
    }
}

impl StorageBackend for Slow {
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.wait();
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.inner.write(offset, data)
    }
}

struct Bench {
    inner: Shared,
    syncs: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
    gate: Arc<Mutex<Option<Receiver<()>>>>,
}

impl Bench {
    fn new() -> Self {
        let inner = Shared(Arc::new(Mutex::new(Disk::new(Vec::new(), usize::MAX))));
        Self { inner, syncs: Arc::default(), full: Arc::default(), gate: Arc::default() }
    }

    fn opener(&self) -> impl FnMut() -> Result<Store, Error> + Send + use<> {
        let (inner, syncs) = (self.inner.clone(), Arc::clone(&self.syncs));
        let (full, gate) = (Arc::clone(&self.full), Arc::clone(&self.gate));
        move || {
            let (syncs, full, gate) = (Arc::clone(&syncs), Arc::clone(&full), Arc::clone(&gate));
            Store::with_backend(Path::new("disk"), Slow { inner: inner.clone(), syncs, full, gate })
        }
    }
}

fn numbered(number: u8) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Wins, [number], [number]);
    batch
}

// pay.persist.1
#[test]
fn batches_that_wait_share_one_wait_for_the_disk_and_are_reported_in_order() {
    let bench = Bench::new();
    let mut open = bench.opener();
    let (writer, thread) = spawn_with(open().unwrap(), Box::new(open)).unwrap();
    let (go_on, gate): (Sender<()>, _) = channel();
    *bench.gate.lock().unwrap() = Some(gate);
    let before = bench.syncs.load(Ordering::SeqCst);
    let (done, reports) = channel();
    for number in 0..100 {
        let (done, disk) = (done.clone(), bench.inner.clone());
        writer.write(numbered(number), move |_| {
            let durable = Disk::new(disk.disk().durable.clone(), usize::MAX);
            done.send((number, durable)).unwrap();
        });
    }
    assert!(reports.recv_timeout(Duration::from_millis(100)).is_err(), "reported before the disk had it");
    drop(go_on);
    for expected in 0..100 {
        let (number, durable) = reports.recv_timeout(PATIENCE).unwrap();
        assert_eq!(number, expected);
        if number % 33 == 0 {
            let store =
                Store::with_backend(Path::new("copy"), Shared(Arc::new(Mutex::new(durable)))).unwrap();
            assert_eq!(store.get(Table::Wins, &[number]).unwrap(), Some(vec![number]));
        }
    }
    // One commit for the first, and one or two for all that came while it waited.
    let syncs = bench.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs < 20, "{syncs} syncs for 100 batches");
    drop(writer);
    thread.join().unwrap();
}

// pay.persist.1
#[test]
fn a_full_disk_is_told_and_nothing_is_lost_when_there_is_room_again() {
    let bench = Bench::new();
    let mut open = bench.opener();
    let (writer, thread) = spawn_with(open().unwrap(), Box::new(open)).unwrap();
    bench.full.store(true, Ordering::SeqCst);
    let (done, reports) = channel();
    for number in 0..3 {
        let done = done.clone();
        writer.write(numbered(number), move |_| done.send(number).unwrap());
    }
    let mut waited = 0;
    let trouble = loop {
        if let Some(trouble) = writer.trouble() {
            break trouble;
        }
        assert!(reports.recv_timeout(Duration::from_millis(20)).is_err(), "reported on a full disk");
        waited += 1;
        assert!(waited < 3000, "no word of the full disk");
    };
    assert!(trouble.contains("full") && trouble.contains("make room"), "{trouble}");
    bench.full.store(false, Ordering::SeqCst);
    for number in 0..3 {
        assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), number);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(writer.commit(numbered(3))).is_some());
    assert_eq!(writer.trouble(), None);
    drop(writer);
    thread.join().unwrap();
    let store = bench.opener()().unwrap();
    assert_eq!(store.scan(Table::Wins).unwrap().len(), 4);
}

#[test]
fn the_thread_of_a_file_ends_with_its_last_writer_and_lets_the_file_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (writer, thread) = spawn(Store::open(&path).unwrap()).unwrap();
    let other = writer.clone();
    drop(writer);
    other.write(numbered(9), |_| ());
    drop(other);
    thread.join().unwrap();
    assert_eq!(Store::open(&path).unwrap().get(Table::Wins, &[9]).unwrap(), Some(vec![9]));
}
