//! What an idle circuit costs a relay.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::error::DropReason;
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{PACKET, Packet, Sealed};
use circuit::seen::SeenSetups;
use netsim::host::Program;
use netsim::seeds;
use netsim::world::Plan;

const CIRCUITS: usize = 2000;

/// A node on scales: counts what it allocates less what it frees.
struct Weighed<N> {
    node: N,
    bytes: Rc<Cell<i64>>,
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
        self.weigh(|node| node.handle_datagram(now, from, packet))
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
                let node = program.start(SeenSetups::restored([]), world.sim.draw());
                world.sim.replace(*id, Box::new(Weighed { node, bytes: Rc::clone(&bytes) }));
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
