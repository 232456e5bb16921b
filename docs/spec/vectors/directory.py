"""Descriptors, registry and exchange: 04-directory.md; directory.json."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from Crypto.Hash import keccak

from blake3 import blake3
from edwards import montgomery, prove
from payments import encode_rate
from primitives import be, kdf, public, rand, sign, sign_public, verify

STATE, SET, PUSH = 1, 2, 3
LIMIT = 1024                            # of a descriptor that is exchanged
UNIX = 1_944_000_100                    # all descriptors are valid then
EPOCH = 90_000
CHAIN_ID = 31_337
CONTRACT = rand("directory contract", 20)


def listed(items: list[bytes], size: int) -> bytes:
    """``count | items``."""
    return be(len(items), size) + b"".join(items)


def network_id(chain_id: int, contract: bytes) -> bytes:
    """The id of an open network (directory.file.8)."""
    hasher = blake3(be(chain_id, 8) + contract,
                    derive_key_context="chive open network 1")
    return hasher.digest()[:16]


def next_root(root: bytes, change: dict) -> bytes:
    """The registry's running hash after a change."""
    words = [root, be(change["seq"], 32), bytes(12) + change["owner"],
             change["id"], be(int(change["registered"]), 32)]
    return keccak.new(digest_bits=256, data=b"".join(words)).digest()


def encode_body(relay: dict) -> bytes:
    """What a relay signs."""
    addresses = []
    for ip, port in relay["addresses"]:
        address = ip_address(ip)
        addresses.append(be(address.version, 1) + address.packed + be(port, 2))
    ranges = [be(first, 2) + be(last, 2) for first, last in relay["exit"]]
    texts = [be(len(text), 1) + text.encode("ascii")
             for text in (relay["operator"], relay["version"])]
    paid = relay["payment"]
    payment = be(0, 1) if paid is None else b"".join([
        be(1, 1), be(paid["chain_id"], 8), paid["contract"], paid["owner"],
        be(encode_rate(paid["ask"]), 4), be(encode_rate(paid["exit_ask"]), 4)])
    return b"".join([
        b"CHVD", be(1, 1), sign_public(relay["seed"]), relay["network"],
        be(relay["sequence"], 8), be(relay["issued"], 8),
        be(relay["expires"], 8), relay["link_key"], be(relay["first_epoch"], 4),
        listed(relay["onion_keys"], 2), listed(addresses, 1),
        listed(ranges, 1), relay["country"].encode("ascii") or bytes(2),
        *texts, be(relay["bandwidth"], 4), be(relay["gossip_port"], 2),
        payment])


def descriptor(relay: dict, proof: bytes = b"") -> bytes:
    """``body | signature``, with the proof of the link key if there is one."""
    body = encode_body(relay) + (be(1, 1) + proof if proof else be(0, 1))
    return body + sign(relay["seed"], b"chive descriptor 1" + body)


def digest_of(data: bytes) -> bytes:
    """The digest of a descriptor."""
    return kdf("descriptor digest", data, 32)


class Node:
    """A set of descriptors by id, and the registry's last change."""

    def __init__(self, network: bytes, seq: int, known: list[bytes]) -> None:
        self.network, self.seq = network, seq
        self.known = {data[5:37]: data for data in known if len(data) <= LIMIT}

    def after(self, first: bytes) -> list[bytes]:
        """The descriptors of higher ids, ascending."""
        return [self.known[id_] for id_ in sorted(self.known) if id_ > first]

    def digest(self) -> bytes:
        """The digest of the set."""
        digests = [digest_of(data) for data in self.after(bytes(32))]
        return kdf("descriptor set", self.network + b"".join(digests), 32)

    def state(self) -> bytes:
        """What an answer says of this node."""
        return self.digest() + be(len(self.known), 2) + be(self.seq, 8)

    def shorts(self, asker: bytes, first: bytes) -> dict[bytes, bytes]:
        """The descriptors of higher ids by their shorts."""
        return {blake3(digest_of(data), key=asker).digest()[:6]: data
                for data in self.after(first)}

    def ask_state(self) -> bytes:
        """Request 1."""
        return be(STATE, 1) + self.network + self.digest()

    def ask_set(self, first: bytes) -> bytes:
        """Request 2."""
        digest = self.digest()
        shorts = sorted(self.shorts(digest, first))
        return (be(SET, 1) + self.network + digest + first
                + listed(shorts, 2))

    def push(self, lacking: list[bytes]) -> bytes:
        """Request 3."""
        sized = [be(len(data), 2) + data for data in lacking]
        return be(PUSH, 1) + self.network + listed(sized, 2)

    def answer(self, request: bytes) -> bytes:
        """The answer to request 1 or 2, all of which fits."""
        asker, first = request[17:49], request[49:81]
        if request[0] == STATE or asker == self.digest():
            return be(STATE, 1) + self.state()
        theirs = [request[at:at + 6] for at in range(83, len(request), 6)]
        mine = self.shorts(asker, first)
        sent = [be(len(data), 2) + data for short, data in mine.items()
                if short not in theirs]
        lacking = [short for short in theirs if short not in mine]
        return (be(SET, 1) + self.state() + asker + be(0, 1)
                + listed(sent, 2) + listed(lacking, 2))


def relays() -> list[dict]:
    """Six relays, the last of which is the first again, later."""
    network = network_id(CHAIN_ID, CONTRACT)
    found: list[dict] = []
    for i in range(6):
        who = i % 5
        exits = [[], [(80, 80), (443, 443)], [(1, 24), (26, 65535)]][who % 3]
        asks = rand(f"directory asks {i}", 2)
        found.append({
            "seed": rand(f"directory seed {who}", 32), "network": network,
            "sequence": UNIX - 60 + i, "issued": UNIX - 60 + i,
            "expires": (EPOCH + 1 + who % 2) * 21_600,
            "link_key": rand(f"directory link {who}", 32),
            "first_epoch": EPOCH,
            "onion_keys": [rand(f"directory onion {who} {n}", 32)
                           for n in range(1 + who % 2)],
            "addresses": [(f"192.0.2.{who + 1}", 4433),
                          (f"2001:db8::{who + 1}", 443)][:1 + who % 2],
            "exit": exits, "country": ["DE", "", "FR"][who % 3],
            "operator": f"operator {who}" if who else "",
            "version": "chive 0.1.0", "bandwidth": 12_500 * who,
            "gossip_port": 4434 if who else 0,
            "payment": {"chain_id": CHAIN_ID, "contract": CONTRACT,
                        "owner": rand(f"directory owner {who}", 20),
                        "ask": asks[0] << 20,
                        "exit_ask": asks[1] << 30 if exits else 0}})
    return found


def proved(known: list[dict]) -> tuple[list[dict], list[bytes]]:
    """Relays that prove their link keys, and descriptors with wrong proofs."""
    found, refused = [], []
    for i, relay in enumerate(known[:2]):
        secret = rand(f"directory link secret {i}", 32)
        relay = {**relay, "link_key": public(secret)}
        message = (b"chive link key 1" + relay["network"]
                   + sign_public(relay["seed"]))
        nonce = rand(f"directory link nonce {i}", 32)
        proof = prove(secret, nonce, message)
        assert montgomery(proof[:32]) == relay["link_key"]
        verify(proof[:32], proof[32:], message)
        data = descriptor(relay, proof)
        found.append({**relay, "link_secret": secret, "descriptor": data,
                      "digest": digest_of(data)})
        other = rand(f"directory link secret {i + 9}", 32)
        refused += [
            descriptor(relay, prove(other, nonce, message)),
            descriptor(relay, prove(secret, nonce, message[:-1] + b"?")),
            descriptor(relay, proof[:-1] + be(proof[-1] ^ 1, 1))]
    return found, refused


def changes(known: list[dict]) -> list[dict]:
    """The registry's changes: all five come, one more comes and leaves."""
    found = [{"seq": 1, "owner": rand("directory guest", 20),
              "id": sign_public(known[1]["seed"]), "registered": True}]
    for relay in known[:5]:
        found.append({"seq": len(found) + 1, "registered": True,
                      "owner": relay["payment"]["owner"],
                      "id": sign_public(relay["seed"])})
    found.append({**found[0], "seq": len(found) + 1, "registered": False})
    root = bytes(32)
    for change in found:
        root = change["root"] = next_root(root, change)
    return found


def exchanges(known: list[bytes], network: bytes, seq: int) -> list[dict]:
    """Two nodes, what one asks, and what the other answers."""
    found = []
    for mine, theirs in [([], []), ([], [0, 1, 2]), ([0, 1, 2], []),
                         ([0, 1, 2], [1, 2, 3, 4]), ([1, 5, 3], [0, 1, 2, 3]),
                         ([4, 3, 2, 1, 0], [0, 1, 2, 3, 4])]:
        asker = Node(network, seq, [known[i] for i in mine])
        other = Node(network, seq, [known[i] for i in theirs])
        state, all_ = asker.ask_state(), asker.ask_set(bytes(32))
        found.append({
            "asker": mine, "other": theirs, "digest": asker.digest(),
            "request_state": state, "answer_state": other.answer(state),
            "request_set": all_, "answer_set": other.answer(all_),
            "request_push": asker.push([known[i] for i in mine])})
    return found


def shown(value: Any) -> Any:
    """Bytes as hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    return value


def build() -> dict:
    """The content of directory.json."""
    known = relays()
    network = network_id(CHAIN_ID, CONTRACT)
    listed_changes = changes(known)
    bytes_ = [descriptor(relay) for relay in known]
    with_proof, refused = proved(known)
    return shown({
        "spec": "docs/spec/04-directory.md sections 1, 2, 3 and 5",
        "about": "Descriptors, a registry, and exchanges; see README.md.",
        "now": UNIX, "chain_id": CHAIN_ID, "contract": CONTRACT,
        "network": network, "registry": listed_changes,
        "descriptors": [{**relay, "descriptor": data,
                         "digest": digest_of(data)}
                        for relay, data in zip(known, bytes_)],
        "proved": with_proof, "refused": refused,
        "exchanges": exchanges(bytes_, network, len(listed_changes)),
    })
