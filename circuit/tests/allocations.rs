//! A cell on its way costs no allocation, in any layer, at relays and at the origin.

use std::time::Instant;

use circuit::aead::Suite;
use circuit::keys::{Random, Secret};
use circuit::layer::{HopKeys, Layers, Recognized, RelayLayer};
use circuit::packet::{CELL, Cell};
use rand_core::SeedableRng as _;

const HOPS: usize = 3;
const CELLS: usize = 10_000;

struct Circuit {
    rng: Random,
    now: Instant,
    origin: Layers,
    relays: Vec<RelayLayer>,
}

impl Circuit {
    #[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
    fn new(suite: Suite) -> Self {
        let direction = |n| (Secret::new([n; 16]), Secret::new([n; 32]));
        let keys = [(1, 4), (2, 5), (3, 6)].map(|(f, b)| HopKeys {
            suite,
            forward: direction(f),
            backward: direction(b),
        });
        Self {
            rng: Random::seed_from_u64(1),
            now: Instant::now(),
            origin: Layers::new(&keys),
            relays: keys.iter().map(RelayLayer::new).collect(),
        }
    }

    fn forward(&mut self, cell: &mut Cell) {
        assert!(self.origin.seal(&mut self.rng, HOPS - 1, cell));
        for (hop, relay) in self.relays.iter_mut().enumerate() {
            let expected = if hop + 1 == HOPS { Recognized::Here } else { Recognized::Onward };
            assert_eq!(relay.open(self.now, cell), Ok(expected));
        }
    }

    fn backward(&mut self, cell: &mut Cell) {
        for (hop, relay) in self.relays.iter_mut().enumerate().rev() {
            assert!(if hop + 1 == HOPS { relay.start(cell) } else { relay.seal(cell) });
        }
        assert_eq!(self.origin.open(self.now, cell), Ok(HOPS - 1));
    }
}

/// Windows grow when cells are lost, which none are here.
#[test]
fn no_cell_allocates() {
    for suite in [Suite::Aegis128L, Suite::ChaCha20Poly1305] {
        let (mut circuit, mut cell) = (Circuit::new(suite), [0; CELL]);
        let measured = allocation_counter::measure(|| {
            for _ in 0..CELLS {
                circuit.forward(&mut cell);
                circuit.backward(&mut cell);
            }
        });
        assert_eq!(measured.count_total, 0, "{suite:?}: {measured:?}");
    }
}

/// The counter counts: a circuit itself is not free.
#[test]
fn a_circuit_allocates() {
    let measured = allocation_counter::measure(|| drop(Circuit::new(Suite::Aegis128L)));
    assert!(measured.count_total > 0);
}
