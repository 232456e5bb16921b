//! Cells are those of the independent reference (docs/spec/vectors/cell.json).

use core::fmt::Debug;

use rand_core::SeedableRng as _;
use serde_json::Value;

use super::*;
use crate::cell::{self, BodyType};
use crate::packet::CELL;

fn number<T: TryFrom<u64, Error: Debug>>(value: &Value) -> T {
    value.as_u64().unwrap().try_into().unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap().try_into().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn file() -> Value {
    serde_json::from_str(include_str!("../../../docs/spec/vectors/cell.json")).unwrap()
}

fn keys(hop: &Value, suite: Suite) -> HopKeys {
    let direction = |mask, ratchet| (Secret::new(array(&hop[mask])), Secret::new(array(&hop[ratchet])));
    let (forward, backward) = (direction("mask_f", "ratchet_f"), direction("mask_b", "ratchet_b"));
    HopKeys { suite, forward, backward }
}

/// The ratchet in the phase before that of `counter`, so that the layer has to take the last step.
fn wind(ratchet: &mut Ratchet, counter: u32) {
    while ratchet.phase + 1 < counter >> PHASE_BITS {
        *ratchet = ratchet.stepped();
    }
}

/// One cell each way over a path, of which hop `end` is where the one ends and the other starts.
struct Case<'a> {
    name: String,
    json: &'a Value,
    end: usize,
    counters: Vec<u32>,
    body: [u8; BODY],
    origin: Layers,
    relays: Vec<RelayLayer>,
}

impl<'a> Case<'a> {
    fn new(file: &Value, json: &'a Value) -> Self {
        let name = format!("suites {} end {} counters {}", json["suites"], json["end"], json["counters"]);
        let suites = list(&json["suites"]).iter().map(|suite| Suite::from_code(number(suite)).unwrap());
        let keys: Vec<_> =
            list(&file["hops"]).iter().zip(suites).map(|(hop, suite)| keys(hop, suite)).collect();
        let counters: Vec<u32> = list(&json["counters"]).iter().map(number).collect();
        let (mut origin, mut relays) = (Layers::new(&keys), vec![]);
        for ((keys, (sealer, opener)), counter) in keys.iter().zip(&mut origin.hops).zip(&counters) {
            let mut relay = RelayLayer::new(keys);
            wind(&mut sealer.ratchet, *counter);
            wind(&mut opener.ratchet, *counter);
            relay.forward.ratchet = sealer.ratchet.clone();
            relay.backward.ratchet = opener.ratchet.clone();
            (sealer.counter, relay.backward.counter) = (*counter, *counter);
            relays.push(relay);
        }
        assert_eq!(number::<usize>(&json["hops"]), relays.len(), "{name}");
        let body = body(&file["bodies"][number::<usize>(&json["body"])]);
        Self { name, json, end: number(&json["end"]), counters, body, origin, relays }
    }

    /// The cell is the one that the reference describes.
    fn check(&self, hop: usize, cell: &Cell, expected: &Value) {
        let name = &self.name;
        assert_eq!(cell[..SLOTS], array::<SLOTS>(&expected["slots"]), "{name}: slots at hop {hop}");
        assert_eq!(
            blake3::hash(cell).as_bytes(),
            &array(&expected["cell_blake3"]),
            "{name}: cell at hop {hop}"
        );
        if !expected["cell"].is_null() {
            assert_eq!(cell, &array(&expected["cell"]), "{name}: cell at hop {hop}");
        }
    }

    /// The forward cells as each hop receives them, sealed from the last hop inwards over the reference's slots.
    fn received(&mut self) -> Vec<Cell> {
        let mut body = self.body;
        let mut cells = vec![];
        for hop in (0..=self.end).rev() {
            let (name, expected) = (&self.name, &self.json["forward"]["received"][hop]);
            let slots: [u8; SLOTS] = array(&expected["slots"]);
            let sealer = &mut self.origin.hops[hop].0;
            let counter = sealer.next().unwrap();
            sealer.counter = counter;
            let word = if hop == self.end { counter | END } else { counter };
            let tag = sealer.ratchet.keys.body.seal(counter.into(), &associated(word, &slots), &mut body);
            assert_eq!(
                read_slot(&slots),
                (mask_word(&sealer.mask, &tag, word), &tag),
                "{name}: slot of hop {hop}"
            );
            let mut cell = [0; CELL];
            cell[..SLOTS].copy_from_slice(&slots);
            *cell::body(&mut cell) = body;
            self.check(hop, &cell, expected);
            cells.push(cell);
        }
        cells.reverse();
        cells
    }
}

fn body(json: &Value) -> [u8; BODY] {
    let kind = [BodyType::Padding, BodyType::Quic, BodyType::Control, BodyType::Ratchet, BodyType::Count]
        [number::<usize>(&json["type"])];
    let data = data_encoding::HEXLOWER.decode(json["data"].as_str().unwrap().as_bytes()).unwrap();
    let mut body = [0xaa; BODY];
    let written = cell::write_body(&mut body, kind, |room| {
        room[..data.len()].copy_from_slice(&data);
        Some(data.len())
    });
    assert_eq!(written, Ok(Some(number(&json["length"]))));
    assert_eq!(body[..2], array::<2>(&json["head"]));
    assert_eq!(blake3::hash(&body).as_bytes(), &array(&json["body_blake3"]));
    assert_eq!(cell::read_body(&body), Ok((kind, &data[..])));
    body
}

#[test]
fn pads_and_masked_words_are_those_of_the_reference() {
    for sample in list(&file()["prf"]) {
        let (key, counter) = (array::<16>(&sample["key"]), number(&sample["counter"]));
        let slot = Secret::new(key);
        let keys = PhaseKeys { body: AeadKey::new(Suite::Aegis128L, Secret::new([0; 32])), slot };
        assert_eq!(keys.pad(counter), array(&sample["prf_100"]), "counter {counter}");
        let (tag, word) = (array(&sample["tag"]), u32::from_be_bytes(array(&sample["word"])));
        let masked = u32::from_be_bytes(array(&sample["masked"]));
        assert_eq!(mask_word(&keys.slot, &tag, word), masked, "word {word:x}");
    }
}

#[test]
fn phase_keys_are_those_of_the_reference() {
    for (i, hop) in list(&file()["hops"]).iter().enumerate() {
        // Suite 2 uses all 32 bytes of a key.
        let suite = Suite::ChaCha20Poly1305;
        let HopKeys { forward, backward, .. } = keys(hop, suite);
        for (phases, (_, first)) in [("phases_f", forward), ("phases_b", backward)] {
            let mut ratchet = Ratchet::new(suite, &first);
            for expected in list(&hop[phases]) {
                let phase = number(&expected["phase"]);
                while ratchet.phase < phase {
                    ratchet = ratchet.stepped();
                }
                assert_eq!(ratchet.keys.slot.expose(), &array(&expected["slot"]), "hop {i} {phases} {phase}");
                let body = AeadKey::new(suite, Secret::new(array(&expected["body"])));
                let tag = |key: &AeadKey| key.seal(1, b"", &mut [0; 9]);
                assert_eq!(tag(&ratchet.keys.body), tag(&body), "hop {i} {phases} {phase}");
            }
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn forward_cells_are_those_of_the_reference() {
    let (file, now) = (file(), Instant::now());
    let mut rng = Random::seed_from_u64(1);
    for json in list(&file["cases"]) {
        let mut case = Case::new(&file, json);
        let cells = case.received();
        for hop in 0..=case.end {
            let (name, mut cell) = (&case.name, cells[hop]);
            let opened = case.relays[hop].open(now, &mut cell);
            if hop == case.end {
                assert_eq!(opened, Ok(Recognized::Here), "{name}: hop {hop}");
                assert_eq!(*cell::body(&mut cell), case.body, "{name}: body");
            } else {
                assert_eq!(opened, Ok(Recognized::Onward), "{name}: hop {hop}");
                assert_eq!(
                    cell[REST..SLOTS],
                    array::<SLOT>(&json["forward"]["fillers"][hop]),
                    "{name}: filler {hop}"
                );
                case.check(hop + 1, &cell, &json["forward"]["received"][hop + 1]);
            }
        }
        // Only the unused slots are random; to the fifth hop there are none.
        let mut cell = [0; CELL];
        *cell::body(&mut cell) = case.body;
        assert!(case.origin.seal(&mut rng, case.end, &mut cell), "{}", case.name);
        if case.end + 1 == MAX_HOPS {
            case.check(0, &cell, &json["forward"]["received"][0]);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn backward_cells_are_those_of_the_reference() {
    let (file, now) = (file(), Instant::now());
    for json in list(&file["cases"]) {
        let mut case = Case::new(&file, json);
        let mut cell = [0xaa; CELL];
        *cell::body(&mut cell) = case.body;
        for hop in (0..=case.end).rev() {
            let relay = &mut case.relays[hop];
            assert!(
                if hop == case.end { relay.start(&mut cell) } else { relay.seal(&mut cell) },
                "{}",
                case.name
            );
            assert_eq!(case.relays[hop].backward.counter, case.counters[hop] + 1, "{}", case.name);
            case.check(hop, &cell, &json["backward"]["emitted"][hop]);
        }
        assert_eq!(case.origin.open(now, &mut cell), Ok(case.end), "{}", case.name);
        assert_eq!(*cell::body(&mut cell), case.body, "{}: body", case.name);
    }
}
