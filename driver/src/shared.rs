//! The node, and what its event loop and its flows share with the embedding driver.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use circuit::error::Drops;
use circuit::node::{FlowId, Node, Now};
use tokio::sync::Notify;

/// The size of a read from a TCP connection.
const SCRATCH: usize = 1 << 16;

/// What the event loop has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received, of any size.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets that the kernel took.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Receive calls that returned something.
    pub receive_batches: u64,
    /// Send calls that the kernel took.
    pub send_batches: u64,
    /// Receive calls that failed, for example by an ICMP message.
    pub receive_errors: u64,
    /// Packets that the kernel refused to send, for example for want of a route.
    pub send_refused: u64,
    /// Why received packets were dropped, wrong sizes included.
    pub drops: Drops,
}

/// A node shared by its event loop, its flows and the embedding driver, all on one thread.
#[derive(Debug)]
pub struct Shared<N> {
    pub(crate) node: RefCell<N>,
    /// Wakes the event loop: the node was changed and is to be drained.
    pub(crate) changed: Notify,
    pub(crate) counters: RefCell<Counters>,
    /// What TCP connections are read into; all flows use it in turn.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    flows: RefCell<HashMap<FlowId, Rc<Signal>>>,
}

/// How the event loop wakes the pump of a flow.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    pub(crate) wake: Notify,
    pub(crate) closed: Cell<bool>,
}

impl<N: Node> Shared<N> {
    /// Takes over `node`.
    pub fn new(node: N) -> Rc<Self> {
        Rc::new(Self {
            node: RefCell::new(node),
            changed: Notify::new(),
            counters: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            flows: RefCell::default(),
        })
    }

    /// Changes the node; the event loop drains it soon after. Must not be called within itself.
    pub fn with_node<R>(&self, change: impl FnOnce(&mut N, Now) -> R) -> R {
        let result = change(&mut self.node.borrow_mut(), now());
        self.changed.notify_one();
        result
    }

    /// Looks at the node, for a snapshot. Must not be called within [`Shared::with_node`].
    pub fn look<R>(&self, at: impl FnOnce(&N) -> R) -> R {
        at(&self.node.borrow())
    }

    /// What the event loop has done so far.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// The signal that wakes the pump of `flow` from now on.
    pub(crate) fn watch(&self, flow: FlowId) -> Rc<Signal> {
        let signal = Rc::new(Signal::default());
        self.flows.borrow_mut().insert(flow, Rc::clone(&signal));
        signal
    }

    pub(crate) fn unwatch(&self, flow: FlowId) {
        self.flows.borrow_mut().remove(&flow);
    }

    /// Wakes the pump of `flow`; false if it has none.
    pub(crate) fn signal(&self, flow: FlowId, closed: bool) -> bool {
        let flows = self.flows.borrow();
        let Some(signal) = flows.get(&flow) else {
            return false;
        };
        signal.closed.set(signal.closed.get() || closed);
        signal.wake.notify_one();
        true
    }
}

/// The present: one reading of both clocks.
#[expect(clippy::disallowed_methods, reason = "the one place where a driver reads the clocks")]
pub fn now() -> Now {
    let unix_ms = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Now { instant: Instant::now(), unix_ms }
}
