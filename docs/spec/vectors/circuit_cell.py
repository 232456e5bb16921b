"""Cells: 02-circuit.md section 2, and the content of cell.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from primitives import (
    Refused, be, cut, digest, kdf, prf, rand, suite_open,
    suite_seal, xor)

CELL, BODY = 1380, 1280
SLOT, SLOTS, REST = 20, 100, 80
END = 1 << 31                           # bit 31 of a word
COUNTERS = END - 1                      # bits 30..0
PHASE_BITS = 20
DATA_MAX = BODY - 2
WINDOW = 1024
LAST = (1 << 31) - (1 << 20) - 1        # last counter of circuit.cell.4


@cache
def phase_keys(ratchet: bytes, phase: int) -> tuple[bytes, bytes]:
    """Keys of a phase: body 32, slot 16."""
    for _ in range(phase):
        ratchet = cut(kdf("phase", ratchet, 80), 48, 32)[1]
    body, slot, _ = cut(kdf("phase", ratchet, 80), 32, 16, 32)
    return body, slot


def mask_word(mask: bytes, word: bytes, tag: bytes) -> bytes:
    """Mask or unmask a word: ``word xor PRF(mask, tag)[0..4]``."""
    return xor(word, prf(mask, tag, 4))


@dataclass
class Layer:
    """One hop's keys of one direction, and its window when it receives."""

    suite: int
    mask: bytes
    ratchet: bytes
    seen: set[int] = field(default_factory=set)

    def keys(self, counter: int) -> tuple[bytes, bytes]:
        """Keys of the phase of a counter."""
        return phase_keys(self.ratchet, counter >> PHASE_BITS)

    def pad(self, counter: int) -> bytes:
        """``PRF(slot, c)``, 100 bytes."""
        return prf(self.keys(counter)[1], be(counter, 16), SLOTS)

    def shift(self, counter: int, slots: bytes) -> bytes:
        """``slots xor PRF(slot, c)[0..n]``, for n bytes of slots."""
        return xor(slots, self.pad(counter)[:len(slots)])

    def seal(self, word: int, ad: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Seal a body: return ``masked word | tag`` and the ciphertext."""
        counter = word & COUNTERS
        sealed = suite_seal(self.suite, self.keys(counter)[0], counter, body,
                            be(word, 4) + ad)
        cipher, tag = sealed[:BODY], sealed[BODY:]
        return mask_word(self.mask, be(word, 4), tag) + tag, cipher

    def word(self, slot: bytes) -> int:
        """Unmask the word of a slot, and check the window."""
        word = int.from_bytes(mask_word(self.mask, slot[:4], slot[4:]), "big")
        counter = word & COUNTERS
        newest = max(self.seen, default=0)
        if counter in self.seen or counter + WINDOW <= newest:
            raise Refused("replay")
        if counter >> PHASE_BITS > (newest >> PHASE_BITS) + 1:
            raise Refused("phase")
        return word

    def open(self, word: int, ad: bytes, tag: bytes, body: bytes) -> bytes:
        """Open a body and mark its counter."""
        counter = word & COUNTERS
        plain = suite_open(self.suite, self.keys(counter)[0], counter,
                           body + tag, be(word, 4) + ad)
        self.seen.add(counter)
        return plain


# --- bodies ----------------------------------------------------------------

def encode_body(kind: int, data: bytes) -> bytes:
    """Body: ``type 3 bits, length 13 bits | data | zeros``."""
    assert len(data) <= DATA_MAX
    return (be(kind << 13 | len(data), 2) + data).ljust(BODY, b"\0")


def decode_body(body: bytes) -> tuple[int, bytes]:
    """Return type and data of a body."""
    head = int.from_bytes(body[:2], "big")
    length = head & 0x1FFF
    if length > DATA_MAX or any(body[2 + length:]):
        raise Refused("body")
    return head >> 13, body[2:2 + length]


# --- forward ---------------------------------------------------------------

def forward_tail(layers: list[Layer], counters: list[int], dest: int) -> bytes:
    """What the hops before ``dest`` append, as ``dest`` sees it."""
    tail = b""
    for layer, counter in zip(layers[:dest], counters):
        longer = tail + bytes(SLOT)
        tail = xor(longer, layer.pad(counter)[SLOTS - len(longer):])
    return tail


def forward_build(layers: list[Layer], counters: list[int], dest: int,
                  body: bytes, fill: bytes) -> bytes:
    """Client: build a cell for hop ``dest``; ``fill``: the unused slots."""
    rest = fill + forward_tail(layers, counters, dest)
    slots = b""
    for i in reversed(range(dest + 1)):
        if i < dest:
            rest = layers[i].shift(counters[i], slots[:REST])
        word = counters[i] | (END if i == dest else 0)
        slot, body = layers[i].seal(word, rest, body)
        slots = slot + rest
    assert len(slots + body) == CELL
    return slots + body


def forward_hop(layer: Layer, cell: bytes) -> tuple[bool, bytes]:
    """Relay: return (ends here, body or next cell)."""
    if len(cell) != CELL:
        raise Refused("size")
    slot, rest, body = cut(cell, SLOT, REST, BODY)
    word = layer.word(slot)
    body = layer.open(word, rest, slot[4:], body)
    if word & END:
        return True, body
    counter = word & COUNTERS
    return False, layer.shift(counter, rest + bytes(SLOT)) + body


# --- backward --------------------------------------------------------------

def backward_hop(layer: Layer, counter: int, body: bytes, old: bytes,
                 starts: bool) -> bytes:
    """Relay: add a layer; at the start ``old`` is 100 zero bytes."""
    assert len(old) == SLOTS
    slot, body = layer.seal(counter | (END if starts else 0), b"", body)
    return slot + layer.shift(counter, old[:REST]) + body


def backward_open(layers: list[Layer], cell: bytes) -> tuple[int, bytes]:
    """Client: peel a cell; return the hop where it started and the body."""
    if len(cell) != CELL:
        raise Refused("size")
    slots, body = cut(cell, SLOTS, BODY)
    for hop, layer in enumerate(layers):
        slot, rest = slots[:SLOT], slots[SLOT:]
        word = layer.word(slot)
        body = layer.open(word, b"", slot[4:], body)
        slots = layer.shift(word & COUNTERS, rest) + bytes(SLOT)
        if word & END:
            if any(slots[:REST - SLOT * hop]):
                raise Refused("slots behind the start")
            return hop, body
    raise Refused("no end")


# --- the content of cell.json ----------------------------------------------

STEP = 1 << PHASE_BITS
COUNTER_SETS = [
    [0, 0, 0, 0, 0],
    [STEP - 1, STEP, 1, STEP + 1, 2 * STEP - 1],
    [STEP, STEP - 1, 2 * STEP, 2 * STEP - 1, 0],
    [LAST, LAST - STEP, LAST - 1, LAST - STEP + 1, LAST],
    [7, 70_000, 123_456_789, 0x12345678, 0x01020304],
]
SUITES = {"1": [1] * 5, "2": [2] * 5, "mixed": [1, 2, 2, 1, 2]}
BODIES = [(1, 1278), (2, 40), (0, 0), (3, 1), (4, 300)]


def layer_of(hop: int, direction: str, suite: int) -> Layer:
    """Fresh layer of a sample hop."""
    return Layer(suite, rand(f"cell hop {hop} mask_{direction}", 16),
                 rand(f"cell hop {hop} ratchet_{direction}", 32))


def layers_of(direction: str, suites: list[int], counters: list[int]
              ) -> list[Layer]:
    """Layers of sample hops that have opened a phase of these counters."""
    layers = []
    for hop, (suite, counter) in enumerate(zip(suites, counters)):
        layer = layer_of(hop, direction, suite)
        phase = counter >> PHASE_BITS
        layer.seen = {(phase - 1) << PHASE_BITS} if phase else set()
        layers.append(layer)
    return layers


def body_of(number: int) -> tuple[dict, bytes]:
    """A sample body and its JSON."""
    kind, length = BODIES[number]
    data = rand(f"cell body {number}", length)
    body = encode_body(kind, data)
    assert decode_body(body) == (kind, data)
    return {"type": kind, "length": length, "head": body[:2].hex(),
            "data": data.hex(), "body_blake3": digest(body).hex()}, body


def cell_json(cell: bytes, full: bool) -> dict:
    """A cell: slots and digest, and in full where asked."""
    out = {"slots": cell[:SLOTS].hex(), "cell_blake3": digest(cell).hex()}
    return out | ({"cell": cell.hex()} if full else {})


def forward_case(suites: list[int], counters: list[int], dest: int,
                 body: bytes, fill: bytes, full: bool) -> dict:
    """A forward cell as each hop receives it."""
    cell = forward_build(layers_of("f", suites, counters), counters, dest,
                         body, fill)
    fillers, cells = [], []
    for hop, layer in enumerate(layers_of("f", suites, counters)[:dest + 1]):
        cells.append(cell_json(cell, full))
        ends, cell = forward_hop(layer, cell)
        assert ends == (hop == dest)
        if not ends:
            fillers.append(cell[REST:SLOTS].hex())
    assert cell == body
    return {"fill": fill.hex(), "fillers": fillers, "received": cells}


def backward_case(suites: list[int], counters: list[int], start: int,
                  body: bytes, old: bytes, full: bool) -> dict:
    """A backward cell as each hop emits it, hop 0 first."""
    layers = layers_of("b", suites, counters)
    cell = backward_hop(layers[start], counters[start], body, old, True)
    cells = [cell_json(cell, full)]
    for hop in reversed(range(start)):
        cell = backward_hop(layers[hop], counters[hop], cell[SLOTS:],
                            cell[:SLOTS], False)
        cells.insert(0, cell_json(cell, full))
    assert backward_open(layers, cell) == (start, body)
    return {"emitted": cells}


def case(name: str, hops: int, end: int, number: int) -> dict:
    """A forward and a backward cell for one end and one counter set."""
    label = f"cell {name} {hops} {end} {number}"
    suites, counters = SUITES[name][:hops], COUNTER_SETS[number][:hops]
    fill = rand(label + " fill", REST - SLOT * end)
    old = bytes(SLOTS)
    full = hops == 3 and end == 2 and number < 4
    body = body_of(number)[1]
    return {"suites": suites, "hops": hops, "end": end, "counters": counters,
            "body": number,
            "forward": forward_case(suites, counters, end, body, fill, full),
            "backward": backward_case(suites, counters, end, body, old, full)}


def hop_vector(hop: int) -> dict:
    """Masks, ratchets and some phase keys of a sample hop."""
    out: dict = {}
    for direction in "fb":
        layer = layer_of(hop, direction, 1)
        out[f"mask_{direction}"] = layer.mask.hex()
        out[f"ratchet_{direction}"] = layer.ratchet.hex()
        out[f"phases_{direction}"] = [
            dict(zip(("phase", "body", "slot"),
                     [phase] + [key.hex() for key in
                                phase_keys(layer.ratchet, phase)]))
            for phase in (0, 1, 2, LAST >> PHASE_BITS)]
    return out


def prf_samples() -> list[dict]:
    """PRF and word-mask samples."""
    key, tag = rand("prf key", 16), rand("prf tag", 16)
    return [{"key": key.hex(), "counter": counter,
             "prf_100": prf(key, be(counter, 16), 100).hex(),
             "tag": tag.hex(), "word": be(counter | END, 4).hex(),
             "masked": mask_word(key, be(counter | END, 4), tag).hex()}
            for counter in (0, 1, STEP, COUNTERS)]


def build() -> dict:
    """The content of cell.json."""
    cases = [case(name, hops, end, number)
             for name in ("1", "2") for hops in range(1, 6)
             for end in range(hops) for number in range(len(COUNTER_SETS))]
    cases += [case("mixed", 5, end, number)
              for end in range(5) for number in range(len(COUNTER_SETS))]
    return {
        "spec": "docs/spec/02-circuit.md section 2",
        "about": "Cells over 1 to 5 hops, every end; see README.md.",
        "prf": prf_samples(),
        "hops": [hop_vector(hop) for hop in range(5)],
        "bodies": [body_of(number)[0] for number in range(len(BODIES))],
        "cases": cases,
    }
