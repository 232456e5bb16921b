"""Circuit setup and reply: 02-circuit.md section 1, and setup.json."""

from __future__ import annotations

from dataclasses import dataclass, field

from primitives import (
    Refused, be, cut, dh, digest, kdf, mac, public, rand, sign_public, stream,
    xor)

CELL = 1380
BETA, BLOCK, DELTA = 960, 192, 372
EARLY_MAX = DELTA - 18
REGION, RECORD, REST = 480, 80, 384
DROPPED = REGION - REST                 # falls off at every hop of a reply
TERMINAL, EXIT = 1, 2
OK, BUSY = 0, 1
EPOCH = 21_600
START = 1_767_225_600                   # a whole epoch; all samples follow it

SETUP_KEYS = (("k_mac", 32), ("k_beta", 32), ("k_delta", 32), ("k_rep", 32),
              ("k_repmac", 32), ("k_fill", 32), ("rtag", 16), ("m", 32))
SESSION_KEYS = (("auth", 16), ("mask_f", 16), ("mask_b", 16),
                ("ratchet_f", 32), ("ratchet_b", 32), ("count", 32))
Keys = dict[str, bytes]


def named(label: str, data: bytes, layout: tuple) -> Keys:
    """Derive one KDF output and cut it into named keys."""
    sizes = [size for _, size in layout]
    pieces = cut(kdf(label, data, sum(sizes)), *sizes)
    return {name: piece for (name, _), piece in zip(layout, pieces)}


def setup_keys(s: bytes, x_pub: bytes, onion: bytes, relay: bytes,
               epoch: int) -> Keys:
    """``KDF("setup", s | X | B | ID | epoch 4)``."""
    return named("setup", s + x_pub + onion + relay + be(epoch, 4), SETUP_KEYS)


def session_keys(m: bytes, e: bytes, x_pub: bytes, y_pub: bytes, onion: bytes,
                 relay: bytes, block: bytes) -> Keys:
    """``KDF("session", m | e | X | Y | B | ID | BLAKE3(block))``."""
    data = m + e + x_pub + y_pub + onion + relay + digest(block)
    return named("session", data, SESSION_KEYS)


def setup_mac(k_mac: bytes, x_pub: bytes, beta: bytes, delta: bytes) -> bytes:
    """MAC of a setup message."""
    return mac(k_mac, b"\x01\x01" + x_pub + beta + delta)


@dataclass
class Relay:
    """A relay of a sample path: its keys and the tags it has seen."""

    label: str
    seen: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.relay_id = sign_public(rand(self.label + " identity", 32))
        self.b = rand(self.label + " onion", 32)
        self.onion = public(self.b)
        self.y = rand(self.label + " y", 32)
        self.y_pub = public(self.y)


@dataclass
class Opened:
    """What a relay gets out of a setup message."""

    x_pub: bytes
    s: bytes
    keys: Keys
    block: bytes
    delta: bytes
    forward: bytes                      # the next setup message


def open_setup(relay: Relay, epoch: int, message: bytes) -> Opened:
    """Relay: steps 3 and 5 of the processing, and the next message."""
    if len(message) != CELL:
        raise Refused("size")
    x_pub, tag, beta, delta = cut(message, 32, 16, BETA, DELTA)
    s = dh(relay.b, x_pub)
    keys = setup_keys(s, x_pub, relay.onion, relay.relay_id, epoch)
    if setup_mac(keys["k_mac"], x_pub, beta, delta) != tag:
        raise Refused("mac")
    if keys["rtag"] in relay.seen:
        raise Refused("replay")
    relay.seen.add(keys["rtag"])
    plain = xor(beta + bytes(BLOCK), stream(keys["k_beta"], BETA + BLOCK))
    delta = xor(delta, stream(keys["k_delta"], DELTA))
    block = plain[:BLOCK]
    if block[0] != 1 or block[3] != 0 or block[2] not in (1, 2):
        raise Refused("malformed block")
    if block[1] & TERMINAL and delta[:16] != bytes(16):
        raise Refused("delta")
    return Opened(x_pub, s, keys, block, delta,
                  block[144:] + plain[BLOCK:] + delta)


def relay_session(relay: Relay, opened: Opened) -> tuple[bytes, Keys]:
    """Relay: e and the session keys."""
    e = dh(relay.y, opened.x_pub)
    return e, session_keys(opened.keys["m"], e, opened.x_pub, relay.y_pub,
                           relay.onion, relay.relay_id, opened.block)


# --- the client ------------------------------------------------------------

@dataclass
class Fields:
    """The fields of a block that the client chooses for one hop."""

    flags: int
    suite: int
    expiry: int
    minute: int
    next_id: bytes

    def encode(self, next_x: bytes, next_mac: bytes) -> bytes:
        """Return the block of 192 bytes."""
        terms = bytes(16) + be(self.minute, 4)
        block = (be(1, 1) + be(self.flags, 1) + be(self.suite, 1) + bytes(1)
                 + be(self.expiry, 4) + self.next_id + bytes(20) + bytes(64)
                 + terms + next_x + next_mac)
        assert len(block) == BLOCK
        return block


@dataclass
class Client:
    """The client's state for one path, and the setup message."""

    path: list[Relay]
    xs: list[bytes]
    epoch: int
    fields: list[Fields]
    early: bytes
    noise: bytes                        # unused blocks, as on the wire
    delta_random: bytes

    def __post_init__(self) -> None:
        self.x_pubs = [public(x) for x in self.xs]
        self.s = [dh(x, relay.onion) for x, relay in zip(self.xs, self.path)]
        self.keys = [
            setup_keys(s, x_pub, relay.onion, relay.relay_id, self.epoch)
            for s, x_pub, relay in zip(self.s, self.x_pubs, self.path)]
        self.pads = [stream(keys["k_beta"], BETA + BLOCK)
                     for keys in self.keys]
        self.delta = (bytes(16) + be(len(self.early), 2) + self.early
                      + self.delta_random)
        assert len(self.delta) == DELTA
        self.build()

    def tail(self) -> bytes:
        """What the hops before the last append to beta, as it sees it."""
        tail = b""
        for pad in self.pads[:-1]:
            longer = tail + bytes(BLOCK)
            tail = xor(longer, pad[len(pad) - len(longer):])
        return tail

    def build(self) -> None:
        """Build from the last hop inwards; keeps the block of every hop."""
        self.blocks = [b""] * len(self.path)
        delta, next_x, next_mac, beta = self.delta, bytes(32), bytes(16), b""
        for i in reversed(range(len(self.path))):
            block = self.fields[i].encode(next_x, next_mac)
            if i == len(self.path) - 1:
                beta = xor(block, self.pads[i][:BLOCK]) + self.noise \
                    + self.tail()
            else:
                beta = xor(block + beta[:BETA - BLOCK], self.pads[i][:BETA])
            delta = xor(delta, stream(self.keys[i]["k_delta"], DELTA))
            self.blocks[i], next_x = block, self.x_pubs[i]
            next_mac = setup_mac(self.keys[i]["k_mac"], next_x, beta, delta)
        self.message = next_x + next_mac + beta + delta
        assert len(self.message) == CELL

    def session(self, hop: int, y_pub: bytes) -> Keys:
        """Session keys of a hop, given the Y of its record."""
        relay = self.path[hop]
        return session_keys(
            self.keys[hop]["m"], dh(self.xs[hop], y_pub), self.x_pubs[hop],
            y_pub, relay.onion, relay.relay_id, self.blocks[hop])

    def dropped(self, end: int) -> list[bytes]:
        """The bytes that fell off at hops 0..end-1 if ``end`` answered."""
        pads = [stream(keys["k_rep"], RECORD + REST)[RECORD:]
                for keys in self.keys]
        known = xor(stream(self.keys[end]["k_fill"], REST), pads[end])
        out = [b""] * end
        for i in reversed(range(end)):
            out[i], known = known[-DROPPED:], known[:-DROPPED]
            known = xor(known, pads[i][REST - len(known):])
        return out

    def peel(self, region: bytes, end: int) -> list[bytes]:
        """Check a region as if hop ``end`` had answered; get the records."""
        dropped, records = self.dropped(end), []
        for i in range(end + 1):
            record, tag, rest = cut(region, RECORD, 16, REST)
            if mac(self.keys[i]["k_repmac"], record + rest) != tag:
                raise Refused(f"tag of hop {i}")
            plain = xor(record + rest,
                        stream(self.keys[i]["k_rep"], RECORD + REST))
            records.append(plain[:RECORD])
            if i < end:
                region = plain[RECORD:] + dropped[i]
        return records

    def accept(self, region: bytes) -> list[bytes]:
        """Try every hop that may have answered; check every AUTH.

        ``peel`` cannot tell who answered by tags alone: the first hop's tag
        is right for every ``end``.  So the last record decides: the hop that
        answered is the terminal one, or its status is not OK.
        """
        for end in range(len(self.path)):
            try:
                records = self.peel(region, end)
            except Refused:
                continue
            if records[end][48] == OK and end < len(self.path) - 1:
                continue
            for hop, record in enumerate(records):
                self.check_record(hop, record, hop == end)
            return records
        raise Refused("reply")

    def check_record(self, hop: int, record: bytes, last: bool) -> None:
        """Check AUTH if the status is OK, and the zero counter base."""
        status = record[48]
        if status != OK and not last:
            raise Refused("a hop that failed passed a reply")
        if status == OK and (
                self.session(hop, record[:32])["auth"] != record[32:48]):
            raise Refused(f"auth of hop {hop}")
        if record[56:64] != bytes(8):
            raise Refused("counter base")


# --- the reply at a relay --------------------------------------------------

def make_record(y_pub: bytes, auth: bytes, status: int, expiry: int) -> bytes:
    """A record; class and counter base are zero, and all of a refusal but its status."""
    if status != OK:
        return bytes(48) + be(status, 1) + bytes(RECORD - 49)
    record = (y_pub + auth + be(status, 1) + bytes(2) + bytes(1)
              + be(expiry, 4) + bytes(8) + bytes(16))
    assert len(record) == RECORD
    return record


def reply_region(keys: Keys, record: bytes, incoming: bytes | None) -> bytes:
    """The region that a hop emits; the answering hop has no incoming one."""
    rest = stream(keys["k_fill"], REST) if incoming is None else incoming[:REST]
    c = xor(record + rest, stream(keys["k_rep"], RECORD + REST))
    region = c[:RECORD] + mac(keys["k_repmac"], c) + c[RECORD:]
    assert len(region) == REGION
    return region


def reply(keys: list[Keys], records: list[bytes]) -> list[bytes]:
    """Regions as each hop emits them; the hop of the last record answers."""
    regions = [b""] * len(records)
    region = None
    for i in reversed(range(len(records))):
        region = reply_region(keys[i], records[i], region)
        regions[i] = region
    return regions


# --- the content of setup.json ---------------------------------------------

EARLY = {1: 0, 2: 11, 3: 100, 4: 0, 5: EARLY_MAX}


def sample_client(hops: int) -> Client:
    """The client of the sample with this many hops."""
    label = f"setup {hops}"
    now = START + EPOCH * (hops % 2) + 1234
    path = [Relay(f"{label} relay {i}") for i in range(hops)]
    early = rand(label + " early", EARLY[hops])
    ids = [relay.relay_id for relay in path[1:]] + [bytes(32)]
    fields = [Fields(TERMINAL | EXIT if i == hops - 1 else 0,
                     1 + (hops + i) % 2, now + 3600 + i, now // 60, ids[i])
              for i in range(hops)]
    return Client(path, [rand(f"{label} x {i}", 32) for i in range(hops)],
                  now // EPOCH, fields, early,
                  rand(label + " beta noise", BETA - BLOCK * hops),
                  rand(label + " delta", EARLY_MAX - len(early)))


def hexes(keys: Keys) -> dict[str, str]:
    """Hex strings of named keys."""
    return {name: value.hex() for name, value in keys.items()}


def field_vector(fields: Fields) -> dict:
    """Block fields as JSON."""
    return {"version": 1, "flags": fields.flags, "suite": fields.suite,
            "expiry": fields.expiry, "next_id": fields.next_id.hex(),
            "next_address": bytes(20).hex(), "admission": bytes(64).hex(),
            "class": 0, "role": 0, "rate_in": 0, "rate_out": 0,
            "minute": fields.minute}


def hop_vector(client: Client, hop: int, message: bytes, opened: Opened,
               e: bytes, session: Keys) -> dict:
    """One hop of a setup sample."""
    relay = client.path[hop]
    return {
        "relay_id": relay.relay_id.hex(),
        "onion_secret": relay.b.hex(), "onion_public": relay.onion.hex(),
        "x_secret": client.xs[hop].hex(), "x_public": opened.x_pub.hex(),
        "y_secret": relay.y.hex(), "y_public": relay.y_pub.hex(),
        "block_fields": field_vector(client.fields[hop]),
        "block": opened.block.hex(), "block_blake3": digest(opened.block).hex(),
        "s": opened.s.hex(), "setup_keys": hexes(opened.keys),
        "e": e.hex(), "session_keys": hexes(session),
        "setup_received": message.hex(),
        "setup_received_blake3": digest(message).hex(),
    }


def reply_vector(client: Client, sessions: list[Keys], end: int,
                 status: int) -> dict:
    """The reply if hop ``end`` answers with ``status``."""
    records = [make_record(client.path[i].y_pub, sessions[i]["auth"],
                           status if i == end else OK, client.fields[i].expiry)
               for i in range(end + 1)]
    regions = reply(client.keys, records)
    assert client.accept(regions[0]) == records
    return {"answered_by": end, "status": status,
            "records": [record.hex() for record in records],
            "regions": [region.hex() for region in regions],
            "dropped": [piece.hex() for piece in client.dropped(end)]}


def case(hops: int) -> dict:
    """The sample with this many hops."""
    client, message = sample_client(hops), b""
    message, vectors, sessions = client.message, [], []
    for i, relay in enumerate(client.path):
        opened = open_setup(relay, client.epoch, message)
        assert opened.block == client.blocks[i]
        e, session = relay_session(relay, opened)
        assert session == client.session(i, relay.y_pub)
        sessions.append(session)
        vectors.append(hop_vector(client, i, message, opened, e, session))
        message = opened.forward
    assert opened.delta == client.delta
    pad = client.pads[-1][BLOCK:BLOCK + len(client.noise)]
    return {
        "hops": hops,
        "now": client.fields[0].minute * 60, "epoch": client.epoch,
        "parity": client.epoch & 1, "early_data": client.early.hex(),
        "beta_noise_wire": client.noise.hex(),
        "beta_noise_plain": xor(client.noise, pad).hex(),
        "delta_random": client.delta_random.hex(),
        "delta_innermost": client.delta.hex(),
        "path": vectors,
        "reply": reply_vector(client, sessions, hops - 1, OK),
        "failures": [reply_vector(client, sessions, end, BUSY)
                     for end in range(hops - 1)],
    }


def build() -> dict:
    """The content of setup.json."""
    return {
        "spec": "docs/spec/02-circuit.md section 1",
        "about": "Circuit setup and reply over 1 to 5 hops; see README.md.",
        "cases": [case(hops) for hops in range(1, 6)],
    }
