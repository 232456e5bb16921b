use super::*;
use crate::cell::{self, BODY};
use crate::packet::CELL;
use proptest::prelude::*;
use rand_core::SeedableRng as _;

fn keys(rng: &mut Random, suite: Suite) -> HopKeys {
    let mut draw = || {
        let (mut mask, mut ratchet) = ([0; 16], [0; 32]);
        rng.fill_bytes(&mut mask);
        rng.fill_bytes(&mut ratchet);
        (Secret::new(mask), Secret::new(ratchet))
    };
    HopKeys { suite, forward: draw(), backward: draw() }
}

struct Path {
    rng: Random,
    now: Instant,
    origin: Layers,
    relays: Vec<RelayLayer>,
}

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn path(seed: u64, hops: usize, suite: Suite) -> Path {
    let mut rng = Random::seed_from_u64(seed);
    let keys: Vec<_> = (0..hops).map(|_| keys(&mut rng, suite)).collect();
    let relays = keys.iter().map(RelayLayer::new).collect();
    Path { rng, now: Instant::now(), origin: Layers::new(&keys), relays }
}

fn body(n: u8) -> [u8; BODY] {
    core::array::from_fn(|i| n ^ u8::try_from(i % 251).unwrap())
}

impl Path {
    fn forward(&mut self, last: usize, n: u8) -> Cell {
        let mut cell = [0; CELL];
        *cell::body(&mut cell) = body(n);
        assert!(self.origin.seal(&mut self.rng, last, &mut cell));
        cell
    }

    /// The cell as each hop receives it, checked to arrive whole at `last`.
    fn carry(&mut self, last: usize, n: u8, mut cell: Cell) -> Vec<Cell> {
        let mut seen = vec![];
        for hop in 0..=last {
            seen.push(cell);
            let expected = if hop == last { Recognized::Here } else { Recognized::Onward };
            assert_eq!(self.relays[hop].open(self.now, &mut cell), Ok(expected));
        }
        assert_eq!(*cell::body(&mut cell), body(n));
        seen
    }

    fn backward(&mut self, first: usize, n: u8) -> Cell {
        let mut cell = [0; CELL];
        *cell::body(&mut cell) = body(n);
        assert!(self.relays[first].start(&mut cell));
        for hop in (0..first).rev() {
            assert!(self.relays[hop].seal(&mut cell));
        }
        cell
    }
}

#[test]
fn cells_pass_one_to_five_hops_both_ways() {
    for suite in [Suite::Aegis128L, Suite::ChaCha20Poly1305] {
        for hops in 1..=5 {
            let mut p = path(1, hops, suite);
            for round in 0..20 {
                for at in 0..hops {
                    let cell = p.forward(at, round);
                    p.carry(at, round, cell);
                    let mut cell = p.backward(at, round);
                    assert_eq!(p.origin.open(p.now, &mut cell), Ok(at));
                    assert_eq!(*cell::body(&mut cell), body(round));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_flipped_bit_dies_at_the_next_honest_hop(
        seed: u64, hops in 1usize..=5, at in 0usize..5, byte in 0..CELL, bit in 0u8..8, aegis: bool
    ) {
        // circuit.cell.1
        let mut p = path(seed, hops, if aegis { Suite::Aegis128L } else { Suite::ChaCha20Poly1305 });
        let last = hops - 1;
        let at = at % hops;
        let cell = p.forward(last, 1);
        let mut cell = {
            let mut cell = cell;
            for hop in 0..at { p.relays[hop].open(p.now, &mut cell).unwrap(); }
            cell
        };
        cell[byte] ^= 1 << bit;
        let refused = p.relays[at].open(p.now, &mut cell);
        // A changed tag unmasks to another counter, which may by chance be refused as late instead.
        prop_assert!(matches!(refused, Err(DropReason::BadLayer | DropReason::LateCell)), "{refused:?}");

        // circuit.cell.6: backward the origin is the next honest party that can know.
        let mut cell = p.backward(last, 2);
        cell[byte] ^= 1 << bit;
        let opened = p.origin.open(p.now, &mut cell);
        prop_assert!(opened.is_err(), "byte {byte} {opened:?}");
    }

    #[test]
    fn order_and_loss_do_not_matter_and_nothing_counts_twice(seed: u64, hops in 1usize..=5, drop in 0u8..255) {
        // circuit.window.1, circuit.window.2
        let mut p = path(seed, hops, Suite::Aegis128L);
        let last = hops - 1;
        let mut cells: Vec<_> = (0..60).map(|n| (n, p.forward(last, n))).filter(|(n, _)| *n != drop % 60).collect();
        for i in 0..cells.len() {
            let j = usize::try_from(p.rng.next_u32()).unwrap() % cells.len();
            cells.swap(i, j);
        }
        for (n, cell) in cells {
            let seen = p.carry(last, n, cell);
            for (hop, mut cell) in seen.into_iter().enumerate() {
                prop_assert_eq!(p.relays[hop].open(p.now, &mut cell), Err(DropReason::LateCell));
            }
        }
    }
}

#[test]
fn every_phase_is_opened_and_none_is_skipped() {
    // circuit.cell.4
    let mut p = path(3, 3, Suite::Aegis128L);
    let jump = |p: &mut Path, counter: u32| {
        for (sealer, _) in &mut p.origin.hops {
            while sealer.ratchet.phase < counter >> PHASE_BITS {
                sealer.ratchet = sealer.ratchet.stepped();
            }
            sealer.counter = counter;
        }
    };
    jump(&mut p, (1 << 20) - 2);
    let cells: Vec<_> = (0..4).map(|n| p.forward(2, n)).collect();
    // The first cell of the new phase comes before the last of the old one.
    for n in [0, 2, 3, 1] {
        p.carry(2, n, cells[usize::from(n)]);
    }
    // The old phase is erased after 3 s.
    let mut p = path(3, 1, Suite::Aegis128L);
    jump(&mut p, (1 << 20) - 2);
    let cells: Vec<_> = (0..4).map(|n| p.forward(0, n)).collect();
    p.carry(0, 2, cells[2]);
    p.now += PREVIOUS_KEPT;
    let mut late = cells[1];
    assert_eq!(p.relays[0].open(p.now, &mut late), Err(DropReason::LateCell));
    // Two phases ahead is refused.
    jump(&mut p, 3 << 20);
    let mut ahead = p.forward(0, 9);
    assert_eq!(p.relays[0].open(p.now, &mut ahead), Err(DropReason::BadLayer));
    // The last counter retires the circuit.
    jump(&mut p, LAST_COUNTER - 1);
    assert!(p.origin.seal(&mut p.rng, 0, &mut [0; CELL]));
    assert!(!p.origin.seal(&mut p.rng, 0, &mut [0; CELL]));
}

#[test]
fn the_far_hop_cannot_scramble_what_the_first_unscrambles() {
    for hops in 3..=5 {
        let mut p = path(4, hops, Suite::Aegis128L);
        let mut cell = [0; CELL];
        *cell::body(&mut cell) = body(1);
        assert!(p.relays[hops - 1].start(&mut cell));
        cell[500] ^= 1;
        for hop in (1..hops - 1).rev() {
            assert!(p.relays[hop].seal(&mut cell));
        }
        cell[500] ^= 1;
        assert!(p.relays[0].seal(&mut cell));
        assert_eq!(p.origin.open(p.now, &mut cell), Err(DropReason::BadLayer));
    }
}

#[test]
fn a_cell_without_a_start_or_of_another_circuit_is_refused() {
    // circuit.cell.2
    let (mut p, mut other) = (path(5, 3, Suite::Aegis128L), path(6, 3, Suite::Aegis128L));
    let mut cell = other.backward(2, 1);
    assert_eq!(p.origin.open(p.now, &mut cell), Err(DropReason::BadLayer));
    let mut cell = [7; CELL];
    for hop in (0..3).rev() {
        assert!(p.relays[hop].seal(&mut cell));
    }
    assert_eq!(p.origin.open(p.now, &mut cell), Err(DropReason::BadLayer));
}

#[test]
fn there_is_no_hop_behind_the_last() {
    let mut p = path(7, 2, Suite::Aegis128L);
    assert!(!p.origin.seal(&mut p.rng, 2, &mut [0; CELL]));
}

// circuit.cell.3
/// No byte that a relay sees tells its position: for every byte and position the mean over many cells is that of a uniform byte.
#[test]
fn relay_visible_bytes_do_not_tell_the_position() {
    const CELLS: u32 = 3000;
    for hops in 1..=5usize {
        let mut sums = vec![[0u32; CELL]; hops];
        let mut p = path(8, hops, Suite::Aegis128L);
        for _ in 0..CELLS {
            // The same body in every cell: any structure that leaks would be the same too.
            let cell = p.forward(hops - 1, 0);
            for (sum, cell) in sums.iter_mut().zip(p.carry(hops - 1, 0, cell)) {
                for (s, b) in sum.iter_mut().zip(cell) {
                    *s += u32::from(b);
                }
            }
        }
        // The mean of CELLS uniform bytes: 127.5, standard deviation 73.9 / sqrt(CELLS) = 1.35; 1380 x 15 bytes are looked at.
        for (position, sum) in sums.iter().enumerate() {
            for (byte, s) in sum.iter().enumerate() {
                let off = (f64::from(*s) / f64::from(CELLS) - 127.5).abs() / (73.9 / f64::from(CELLS).sqrt());
                assert!(off < 5.5, "byte {byte} at position {position} of {hops}: {off:.1} sigma");
            }
        }
    }
}

#[test]
fn a_layer_is_small() {
    let mut p = path(9, 1, Suite::Aegis128L);
    assert!(p.relays[0].memory() < 1500, "{}", p.relays[0].memory());
    p.relays[0].forget(p.now);
}
