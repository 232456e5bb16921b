"""Links: the byte formats of 01-link.md, and the content of link.json."""

from __future__ import annotations

from dataclasses import dataclass

from primitives import (
    Noise, Refused, be, cut, dh, digest, kdf, mac, public, rand, sign,
    sign_public, stream, suite_open, suite_seal, verify)

DATAGRAM = 1412
CELL = 1380
PROLOGUE = b"chive link 1"
PAYLOAD = {1: 1316, 2: 1268, 3: 1316}
NOW_MS = 1_767_225_600_000              # unix time of all samples, in ms
PING, PONG, NACK, TAIL, HELLO, REKEY, REKEYED, CLOSE = range(1, 9)


# --- datagrams -------------------------------------------------------------

def circuit_word(kind: int, parity: int, opener: int, circuit: int) -> bytes:
    """Circuit word of section 2."""
    assert circuit < 1 << 27
    return be(kind << 29 | parity << 28 | opener << 27 | circuit, 4)


def link_counter(shard: int, sequence: int) -> int:
    """Counter: ``shard 1 | sequence 7``."""
    assert sequence < 1 << 56
    return shard << 56 | sequence


def seal_packet(suite: int, key: bytes, index: bytes, counter: int,
                word: bytes, cell: bytes) -> bytes:
    """Return a data packet."""
    assert len(cell) == CELL and len(word) == 4
    header = index + be(counter, 8)
    packet = header + suite_seal(suite, key, counter, word + cell, header)
    assert len(packet) == DATAGRAM
    return packet


def open_packet(suite: int, key: bytes, packet: bytes) -> tuple[bytes, bytes]:
    """Open a data packet: return its circuit word and cell."""
    if len(packet) != DATAGRAM:
        raise Refused("size")
    counter = int.from_bytes(packet[4:12], "big")
    plain = suite_open(suite, key, counter, packet[12:], packet[:12])
    return plain[:4], plain[4:]


# --- handshake -------------------------------------------------------------

def handshake_packet(kind: int, receiver: bytes, sender: bytes, noise: bytes,
                     mac1_input: bytes, cookie: bytes | None = None) -> bytes:
    """Return a handshake datagram with mac1 and, given a cookie, mac2."""
    packet = bytes(4) + be(kind, 1) + bytes(3) + receiver + sender + noise
    assert len(packet) == CELL
    packet += mac(kdf("mac1", mac1_input, 32), packet)
    packet += mac(kdf("mac2", cookie, 32), packet) if cookie else bytes(16)
    assert len(packet) == DATAGRAM
    return packet


def check_macs(packet: bytes, mac1_input: bytes,
               cookie: bytes | None = None) -> bool:
    """Check mac1, and mac2 if it is not zero; True if mac2 is right."""
    if mac(kdf("mac1", mac1_input, 32), packet[:1380]) != packet[1380:1396]:
        raise Refused("mac1")
    if packet[1396:] == bytes(16):
        return False
    if cookie is None or \
            mac(kdf("mac2", cookie, 32), packet[:1396]) != packet[1396:]:
        raise Refused("mac2")
    return True


def first_payload(kind: int, suites: int, time_ms: int) -> bytes:
    """Payload of a first message: ``suites offered 1 | time 8``, zeros."""
    return (be(suites, 1) + be(time_ms, 8)).ljust(PAYLOAD[kind], b"\0")


def answer_payload(suite: int, boot: bytes, time_ms: int,
                   seen: bytes) -> bytes:
    """Payload of an answer: ``suite 1 | boot id 8 | time 8 | seen 18``, zeros.

    ``seen`` is the initiator's ``address 16 | port 2``, zeros for not said.
    """
    assert len(seen) == 18
    payload = be(suite, 1) + boot + be(time_ms, 8) + seen
    return payload.ljust(PAYLOAD[3], b"\0")


def packet_key(key: bytes, suite: int) -> bytes:
    """Packet key of one direction."""
    return kdf("link packet", key + be(suite, 1), 32)


def frame(kind: int, value: bytes) -> bytes:
    """A control frame."""
    return be(kind, 1) + be(len(value), 2) + value


def control_cell(*frames: bytes) -> bytes:
    """A control cell: frames, a zero type, and zeros."""
    return b"".join(frames).ljust(CELL, b"\0")


CONTROL_WORD = circuit_word(4, 0, 0, 0)


def hello_value(seed: bytes, hh: bytes, boot: bytes) -> bytes:
    """Value of a HELLO frame; the relay id is the Ed25519 key of ``seed``."""
    signature = sign(seed, b"chive hello 1" + hh + boot)
    return sign_public(seed) + boot + signature


@dataclass
class Party:
    """The secrets of one side of a link, all drawn from a label."""

    label: str

    def bytes(self, what: str, length: int = 32) -> bytes:
        """Labelled bytes of this party."""
        return rand(f"link {self.label} {what}", length)

    def index(self, what: str = "index") -> bytes:
        """A receiver index owned by shard 0."""
        return b"\0" + self.bytes(what, 3)


# --- cookie and rekey ------------------------------------------------------

def cookie_value(secret: bytes, address: bytes, port: int) -> bytes:
    """The cookie of a source address (IPv4 mapped into 16 bytes)."""
    return mac(secret, address + be(port, 2))


def cookie_packet(receiver: bytes, salt: bytes, link_key: bytes,
                  mac1: bytes, cookie: bytes) -> tuple[bytes, bytes]:
    """Return the cookie message and its key."""
    key = kdf("cookie", link_key + mac1 + salt, 32)
    header = bytes(4) + be(4, 1) + bytes(3) + receiver + bytes(4) + salt
    packet = header + suite_seal(2, key, 0, cookie.ljust(1348, b"\0"), header)
    assert len(header) == 48 and len(packet) == DATAGRAM
    return packet, key


def open_cookie(packet: bytes, link_key: bytes, mac1: bytes) -> bytes:
    """Open a cookie message and return the cookie."""
    key = kdf("cookie", link_key + mac1 + packet[16:48], 32)
    return suite_open(2, key, 0, packet[48:], packet[:48])[:16]


def rekey_keys(chain: bytes, shared: bytes, e_i: bytes, e_r: bytes
               ) -> list[bytes]:
    """Return the next k_i, k_r and chain."""
    return cut(kdf("link rekey", chain + shared + e_i + e_r, 96), 32, 32, 32)


# --- the content of link.json ----------------------------------------------

def primitive_samples() -> dict:
    """KDF, MAC, STREAM, DH and suite samples."""
    key, data = rand("sample key", 32), rand("sample data", 100)
    secret, peer = rand("sample dh a", 32), public(rand("sample dh b", 32))
    labels = ["link chain", "link packet", "link rekey", "mac1", "mac2",
              "cookie", "setup", "session", "phase"]
    seals = [{"suite": suite, "key": key.hex(),
              "counter": be(counter, 8).hex(), "ad": data[:12].hex(),
              "plain": data[12:].hex(),
              "sealed": suite_seal(suite, key, counter, data[12:],
                                   data[:12]).hex()}
             for suite in (1, 2) for counter in (0, 0x0102030405060708)]
    return {
        "kdf": [{"label": label, "input": data.hex(),
                 "output_64": kdf(label, data, 64).hex()} for label in labels],
        "mac": [{"key": key.hex(), "input": data[:size].hex(),
                 "mac": mac(key, data[:size]).hex()} for size in (0, 1, 100)],
        "stream": [{"key": key.hex(), "output_160": stream(key, 160).hex(),
                    "output_1152_blake3": digest(stream(key, 1152)).hex()}],
        "dh": [{"secret": secret.hex(), "public": public(secret).hex(),
                "peer_public": peer.hex(), "shared": dh(secret, peer).hex()}],
        "seal": seals,
    }


def word_samples() -> list[dict]:
    """Circuit words of every packet type."""
    fields = [(0, 0, 0, 1), (0, 0, 1, (1 << 27) - 1), (1, 0, 0, 0x1234567),
              (1, 1, 1, 0x1234567), (2, 0, 0, 0x7000001), (3, 0, 1, 42),
              (4, 0, 0, 0)]
    return [{"type": kind, "parity": parity, "opener": opener,
             "circuit": circuit,
             "word": circuit_word(kind, parity, opener, circuit).hex()}
            for kind, parity, opener, circuit in fields]


@dataclass
class Handshake:
    """One complete handshake, run by both sides."""

    pattern: str
    suite: int
    suites: int
    label: str
    seen: bytes = bytes(18)             # the initiator's address and port
    cookie: bytes | None = None
    retry: str = ""                     # label suffix of fresh ephemerals

    def __post_init__(self) -> None:
        self.init = Party(f"{self.label} initiator")
        self.resp = Party(f"{self.label} responder")
        self.kind = {"NK": 1, "IK": 2}[self.pattern]
        self.network = rand("link network id", 16)
        self.relay_id = sign_public(self.resp.bytes("identity"))
        self.prologue = PROLOGUE + self.network + self.relay_id
        self.link_key = public(self.resp.bytes("static"))
        self.boot_i = self.init.bytes("boot", 8)
        self.boot_r = self.resp.bytes("boot", 8)
        self.e_i = self.init.bytes("ephemeral" + self.retry)
        self.e_r = self.resp.bytes("ephemeral" + self.retry)
        self.run_first()
        self.run_answer()

    def run_first(self) -> None:
        """Make the first message and read it at the responder."""
        static = self.init.bytes("static") if self.kind == 2 else None
        self.left = Noise(self.pattern, True, self.prologue, self.e_i,
                          s=static, rs=self.link_key)
        self.right = Noise(self.pattern, False, self.prologue, self.e_r,
                           s=self.resp.bytes("static"))
        payload = first_payload(self.kind, self.suites, NOW_MS)
        self.first = handshake_packet(
            self.kind, bytes(4), self.init.index(), self.left.write(payload),
            self.link_key, self.cookie)
        assert self.right.read(self.first[16:1380]) == payload
        check_macs(self.first, self.link_key, self.cookie)

    def run_answer(self) -> None:
        """Make the answer, read it, and derive the keys."""
        payload = answer_payload(self.suite, self.boot_r, NOW_MS + 30,
                                 self.seen)
        self.answer = handshake_packet(
            3, self.init.index(), self.resp.index(),
            self.right.write(payload), public(self.e_i))
        assert self.left.read(self.answer[16:1380]) == payload
        assert self.left.split() == self.right.split()
        assert self.left.h == self.right.h
        self.hh = self.left.h
        self.k_i, self.k_r = self.left.split()
        self.chain = kdf("link chain", self.k_i + self.k_r, 32)
        self.packet_i = packet_key(self.k_i, self.suite)
        self.packet_r = packet_key(self.k_r, self.suite)

    def inputs(self) -> dict:
        """What goes into the handshake."""
        static = {} if self.kind == 1 else {
            "initiator_static_secret": self.init.bytes("static").hex(),
            "initiator_static_public": public(self.init.bytes("static")).hex()}
        return static | {
            "network_id": self.network.hex(),
            "responder_relay_id": self.relay_id.hex(),
            "prologue": self.prologue.hex(),
            "responder_static_secret": self.resp.bytes("static").hex(),
            "responder_static_public": self.link_key.hex(),
            "initiator_ephemeral_secret": self.e_i.hex(),
            "responder_ephemeral_secret": self.e_r.hex(),
            "initiator_index": self.init.index().hex(),
            "responder_index": self.resp.index().hex(),
            "suites_offered": self.suites,
            "suite_chosen": self.suite,
            "initiator_time_ms": NOW_MS,
            "responder_time_ms": NOW_MS + 30,
            "responder_boot_id": self.boot_r.hex(),
            "initiator_seen_at": self.seen.hex(),
        }

    def outputs(self) -> dict:
        """The messages and keys."""
        return {
            "first_message": self.first.hex(),
            "first_mac1_key": kdf("mac1", self.link_key, 32).hex(),
            "answer_message": self.answer.hex(),
            "answer_mac1_key": kdf("mac1", public(self.e_i), 32).hex(),
            "handshake_hash": self.hh.hex(),
            "split_k_i": self.k_i.hex(),
            "split_k_r": self.k_r.hex(),
            "chain": self.chain.hex(),
            "packet_key_i": self.packet_i.hex(),
            "packet_key_r": self.packet_r.hex(),
        }

    def hello(self) -> dict:
        """The initiator's HELLO, as its first data packet."""
        seed = self.init.bytes("identity")
        value = hello_value(seed, self.hh, self.boot_i)
        verify(value[:32], value[40:], b"chive hello 1" + self.hh + value[32:40])
        cell = control_cell(frame(HELLO, value))
        packet = seal_packet(self.suite, self.packet_i, self.resp.index(), 0,
                             CONTROL_WORD, cell)
        assert open_packet(self.suite, self.packet_i, packet)[1] == cell
        return {
            "identity_seed": seed.hex(), "relay_id": value[:32].hex(),
            "boot_id": self.boot_i.hex(),
            "signed": (b"chive hello 1" + self.hh + self.boot_i).hex(),
            "signature": value[40:].hex(),
            "frame": frame(HELLO, value).hex(),
            "counter": be(0, 8).hex(), "packet": packet.hex()}

    def vector(self) -> dict:
        """The JSON object of this handshake."""
        out = {"pattern": self.pattern, "type": self.kind}
        out |= self.inputs() | self.outputs()
        if self.kind == 2:
            out["hello"] = self.hello()
        return out


def data_samples(shake: Handshake) -> list[dict]:
    """Data packets of a session, both directions and two shards."""
    out = []
    sides = [("i", shake.packet_i, shake.resp), ("r", shake.packet_r, shake.init)]
    for number, (side, key, receiver) in enumerate(sides):
        counter = link_counter(3 * number, 0x1_0000_0000 * number + 5)
        word = circuit_word(0, 0, number, 0x2ABCDEF)
        cell = rand(f"data cell {shake.suite} {side}", CELL)
        packet = seal_packet(shake.suite, key, receiver.index(), counter,
                             word, cell)
        assert open_packet(shake.suite, key, packet) == (word, cell)
        out.append({
            "handshake": shake.suite - 1, "suite": shake.suite, "from": side,
            "packet_key": key.hex(),
            "receiver_index": receiver.index().hex(),
            "counter": be(counter, 8).hex(),
            "word": word.hex(), "cell": cell.hex(), "packet": packet.hex()})
    return out


def cookie_sample(shake: Handshake) -> dict:
    """A cookie message for ``shake`` and the repeated first message."""
    secret, salt = rand("cookie secret", 32), rand("cookie salt", 32)
    address = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 7])
    cookie = cookie_value(secret, address, 50123)
    mac1 = shake.first[1380:1396]
    packet, key = cookie_packet(shake.init.index(), salt, shake.link_key,
                                mac1, cookie)
    assert open_cookie(packet, shake.link_key, mac1) == cookie
    again = Handshake(shake.pattern, shake.suite, shake.suites, shake.label,
                      shake.seen, cookie, " repeat")
    assert check_macs(again.first, again.link_key, cookie)
    return {
        "handshake": 0, "mac1": mac1.hex(),
        "secret": secret.hex(), "address": address.hex(), "port": 50123,
        "cookie": cookie.hex(), "salt": salt.hex(), "key": key.hex(),
        "cookie_message": packet.hex(),
        "mac2_key": kdf("mac2", cookie, 32).hex(),
        "repeat_initiator_ephemeral_secret": again.e_i.hex(),
        "repeat_first_message": again.first.hex(),
    }


def rekey_sample(number: int, shake: Handshake) -> dict:
    """A rekey of the session of ``handshakes[number]``: frames, packets and new keys."""
    e_i, e_r = rand("rekey e_i", 32), rand("rekey e_r", 32)
    new_i, new_r = shake.init.index("new index"), shake.resp.index("new index")
    shared = dh(e_i, public(e_r))
    assert shared == dh(e_r, public(e_i))
    k_i, k_r, chain = rekey_keys(shake.chain, shared, public(e_i), public(e_r))
    ask = frame(REKEY, new_i + public(e_i))
    reply = frame(REKEYED, new_r + public(e_r))
    return {
        "handshake": number,
        "suite": shake.suite, "old_chain": shake.chain.hex(),
        "initiator_ephemeral_secret": e_i.hex(),
        "responder_ephemeral_secret": e_r.hex(),
        "initiator_new_index": new_i.hex(), "responder_new_index": new_r.hex(),
        "shared": shared.hex(),
        "rekey_frame": ask.hex(), "rekeyed_frame": reply.hex(),
        "rekey_counter": be(9, 8).hex(), "rekey_packet": seal_packet(
            shake.suite, shake.packet_i, shake.resp.index(), 9,
            CONTROL_WORD, control_cell(ask)).hex(),
        "rekeyed_counter": be(4, 8).hex(), "rekeyed_packet": seal_packet(
            shake.suite, shake.packet_r, shake.init.index(), 4,
            CONTROL_WORD, control_cell(reply)).hex(),
        "k_i": k_i.hex(), "k_r": k_r.hex(), "chain": chain.hex(),
        "packet_key_i": packet_key(k_i, shake.suite).hex(),
        "packet_key_r": packet_key(k_r, shake.suite).hex(),
    }


def control_samples() -> list[dict]:
    """Single control frames."""
    token = rand("ping token", 8)
    gaps = [(5, 1), (9, 3), (1 << 32, 65535)]
    nack = b"".join(be(first, 8) + be(count, 2) for first, count in gaps)
    return [
        {"name": "PING", "frame": frame(PING, token).hex()},
        {"name": "PONG", "frame": frame(PONG, token).hex()},
        {"name": "NACK", "gaps": [list(gap) for gap in gaps],
         "frame": frame(NACK, nack).hex()},
        {"name": "TAIL", "counter": be(77, 8).hex(),
         "frame": frame(TAIL, be(77, 8)).hex()},
        {"name": "CLOSE", "frame": frame(CLOSE, b"").hex()},
    ]


def build() -> dict:
    """The content of link.json."""
    v4 = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 7]) + be(50123, 2)
    v6 = bytes.fromhex("20010db8") + bytes(11) + b"\x07" + be(7000, 2)
    shakes = [Handshake("NK", 1, 3, "nk1", v4), Handshake("NK", 2, 2, "nk2"),
              Handshake("IK", 1, 3, "ik1", v6), Handshake("IK", 2, 3, "ik2")]
    return {
        "spec": "docs/spec/01-link.md",
        "about": "Samples of primitives, handshakes, data packets, cookie, "
                 "rekey and control frames of a link; see README.md.",
        "primitives": primitive_samples(),
        "circuit_words": word_samples(),
        "control_frames": control_samples(),
        "handshakes": [shake.vector() for shake in shakes],
        "data_packets": data_samples(shakes[0]) + data_samples(shakes[1]),
        "cookie": cookie_sample(shakes[0]),
        "rekeys": [rekey_sample(number, shakes[number]) for number in (0, 3)],
    }
