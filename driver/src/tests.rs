//! The event loop and the flows over loopback, around a toy node.

mod flows;
mod packets;
mod toy;

use std::cell::RefCell;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use circuit::node::Event;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use toy::Toy;

use crate::{Outside, Shared, UdpSocket, run};

/// Far more than any of these tests needs, and less than a forgotten flow lingers.
const PATIENCE: Duration = Duration::from_secs(50);

/// Runs `test` as the drivers do: on one thread, with tasks that need not be `Send`.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async { tokio::time::timeout(PATIENCE, test).await.unwrap() }));
}

/// Turns the event loop until `done`.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn any_port() -> UdpSocket {
    UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "listen").unwrap()
}

/// An outside that does nothing.
struct Nothing;

impl Outside for Nothing {
    fn event(&mut self, _: Event) {}
}

/// An outside that remembers every event.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<Vec<Event>>>);

impl Outside for Memory {
    fn event(&mut self, event: Event) {
        self.0.borrow_mut().push(event);
    }
}

/// A toy in its own event loop, which lasts as long as the test.
struct Running {
    shared: Rc<Shared<Toy>>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    fn start(toy: Toy) -> Self {
        Self::start_with(toy, any_port(), Nothing, pending())
    }

    fn start_with(
        toy: Toy,
        socket: UdpSocket,
        outside: impl Outside + 'static,
        stop: impl Future<Output = ()> + 'static,
    ) -> Self {
        let shared = Shared::new(toy);
        let address = socket.local_address();
        let of_task = Rc::clone(&shared);
        let task = spawn_local(async move { run(&*of_task, &socket, outside, stop).await });
        Self { shared, address, task }
    }

    fn assert_nothing_wrong(&self) {
        assert_eq!(self.shared.look(|toy| toy.wrong.clone()), Vec::<&str>::new());
    }

    /// Has the toy send `packets` of its own.
    fn send(&self, packets: impl IntoIterator<Item = (SocketAddr, [u8; circuit::packet::PACKET])>) {
        self.shared.with_node(|toy, _| toy.out.extend(packets));
    }
}
