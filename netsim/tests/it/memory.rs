//! What circuits and cells cost a relay in memory.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::error::DropReason;
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{PACKET, Packet, Sealed};
use circuit::seen::SeenSetups;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::host::Program;
use netsim::seeds;
use netsim::world::Plan;

const CIRCUITS: usize = 2000;

/// A node on scales: counts what it allocates less what it frees, and its allocations on the straight pipe.
struct Weighed<N> {
    node: N,
    bytes: Rc<Cell<i64>>,
    pipe: Rc<Cell<Pipe>>,
}

/// Packets that were passed on in place, and the allocations that this took.
#[derive(Clone, Copy, Debug, Default)]
struct Pipe {
    packets: u64,
    allocations: u64,
}

impl<N> Weighed<N> {
    fn weigh<R>(&mut self, call: impl FnOnce(&mut N) -> R) -> R {
        let mut result = None;
        let used = allocation_counter::measure(|| result = Some(call(&mut self.node)));
        self.bytes.set(self.bytes.get() + used.bytes_current);
        result.expect("it was called")
    }
}

impl<N: Node> Node for Weighed<N> {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        let mut verdict = None;
        let used =
            allocation_counter::measure(|| verdict = Some(self.node.handle_datagram(now, from, packet)));
        self.bytes.set(self.bytes.get() + used.bytes_current);
        let verdict = verdict.expect("it was called");
        if let Ok(Verdict::Forward(_)) = verdict {
            let Pipe { packets, allocations } = self.pipe.get();
            self.pipe.set(Pipe { packets: packets + 1, allocations: allocations + used.count_total });
        }
        verdict
    }

    fn handle_timeout(&mut self, now: Now) {
        self.weigh(|node| node.handle_timeout(now));
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        self.weigh(|node| node.poll_transmit(now, out))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.weigh(N::poll_timeout)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.weigh(N::poll_event)
    }

    fn flow_read(&mut self, now: Now, flow: FlowId, max: usize) -> FlowRead {
        self.weigh(|node| node.flow_read(now, flow, max))
    }

    fn flow_write(&mut self, now: Now, flow: FlowId, bytes: &[u8]) -> FlowWrite {
        self.weigh(|node| node.flow_write(now, flow, bytes))
    }

    fn flow_finish(&mut self, now: Now, flow: FlowId) {
        self.weigh(|node| node.flow_finish(now, flow));
    }

    fn flow_reset(&mut self, now: Now, flow: FlowId) {
        self.weigh(|node| node.flow_reset(now, flow));
    }
}

#[test]
fn an_idle_circuit_costs_a_relay_at_most_four_kilobytes() {
    seeds::each(1, |seed| {
        let mut world = Plan { prebuilt: CIRCUITS, ..Plan::new(seed, 3) }.build();
        let relays = world.relays.clone();
        let scales: Vec<_> = relays
            .iter()
            .map(|id| {
                let Program::Relay(program) = world.sim.host(*id).program.clone() else { panic!("a relay") };
                let bytes = Rc::new(Cell::new(0));
                let node = program.start(
                    SeenSetups::restored([]),
                    &netsim::money::Disk::default(),
                    world.sim.draw(),
                );
                let pipe = Rc::default();
                world.sim.replace(*id, Box::new(Weighed { node, bytes: Rc::clone(&bytes), pipe }));
                bytes
            })
            .collect();
        // Ten circuits are more than the links need.
        let open = |world: &netsim::world::World| {
            world
                .sim
                .client(world.client())
                .pool()
                .values()
                .filter(|circuit| circuit.opened.is_some())
                .count()
        };
        let client = world.client();
        assert!(world.sim.run_until(Duration::from_secs(10), |sim| {
            sim.client(client).pool().values().filter(|circuit| circuit.opened.is_some()).count() >= 10
        }));
        let (before, first): (Vec<i64>, _) = (scales.iter().map(|bytes| bytes.get()).collect(), open(&world));
        world.sim.run_for(Duration::from_mins(1));
        let more = i64::try_from(open(&world) - first).unwrap();
        assert_eq!(open(&world), CIRCUITS);
        let entry = world.entry();
        for (n, id) in relays.iter().enumerate() {
            let each = (scales[n].get() - before[n]) / more;
            let place = if *id == entry {
                "entry"
            } else if n == 2 {
                "exit"
            } else {
                "middle"
            };
            println!("seed {seed}: an idle circuit costs the {place} {each} bytes");
            assert!(each > 0 && each <= 4096);
        }
    });
}

#[test]
fn a_cell_on_its_way_through_allocates_nothing() {
    seeds::each(1, |seed| {
        let mut world = Plan::new(seed, 3).build();
        let entry = world.relays[0];
        let Program::Relay(program) = world.sim.host(entry).program.clone() else { panic!("a relay") };
        let pipe: Rc<Cell<Pipe>> = Rc::default();
        let node = program.start(SeenSetups::restored([]), &netsim::money::Disk::default(), world.sim.draw());
        let weighed = Weighed { node, bytes: Rc::default(), pipe: Rc::clone(&pipe) };
        world.sim.replace(entry, Box::new(weighed));
        let mut pass = |megabytes: u64| {
            let bytes = megabytes << 20;
            let exchange = Exchange { upload: bytes, download: bytes, seed, ending: Ending::Finish };
            let app = world.ask(Wish::new("site", exchange));
            let (outcome, _) = world.finish(app, Duration::from_mins(5)).expect("it ends");
            assert_eq!(outcome, Outcome::Finished);
            pipe.replace(Pipe::default())
        };
        // The rings of the links grow to their full size first.
        pass(8);
        let measured = pass(14);
        println!("seed {seed}: {measured:?}");
        assert!(measured.packets > 20_000, "10,000 each way");
        assert_eq!(measured.allocations, 0);
    });
}
