"""Attacks on the formats: every flipped byte, replay, undo, lengths.

Run by ``reference.py --self-test``.  Deterministic, no network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import circuit_cell as cells
import circuit_setup as setup
import link
import payments as pay
from primitives import (
    Refused, dh, digest, prf, rand, stream, suite_seal, xor)

HOPS = range(1, 6)


def refused(action: Callable, *args: object) -> bool:
    """Say whether an action raises ``Refused``."""
    try:
        action(*args)
    except Refused:
        return True
    return False


def flip(data: bytes, at: int) -> bytes:
    """Return ``data`` with one bit of one byte flipped."""
    damaged = bytearray(data)
    damaged[at] ^= 1 << at % 8
    return bytes(damaged)


def flipped(data: bytes) -> Iterator[bytes]:
    """Yield copies of ``data`` with one bit flipped, one for every byte."""
    return (flip(data, at) for at in range(len(data)))


# --- primitives ------------------------------------------------------------

def test_known_answers() -> None:
    """Published vectors of the primitives."""
    assert stream(bytes(32), 16).hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28")                 # RFC 8439 A.1
    assert digest(b"").hex().startswith("af1349b9f5f9a1a6")
    secret = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd"
                           "62144c0ac1fc5a18506a2244ba449ac4")
    peer = bytes.fromhex("e6db6867583030db3594c1a424b15f7c"
                         "726624ec26b3353b10a903a6d0ab1c4c")
    assert dh(secret, peer).hex() == (                      # RFC 7748 5.2
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert refused(dh, secret, bytes(32))                   # all-zero result


def test_aegis() -> None:
    """Vector A.2.1 of the AEGIS draft; its nonce is no counter."""
    from aeg import aegis128l
    key = bytes.fromhex("1001" + "00" * 14)
    nonce = bytes.fromhex("100002" + "00" * 13)
    assert bytes(aegis128l.encrypt(key, nonce, bytes(16))).hex() == (
        "c1c0e58bd913006feba00f4b3cc3594eabe0ece80c24868a226a35d16bdae37a")
    assert prf(key, nonce, 16).hex() == "c1c0e58bd913006feba00f4b3cc3594e"
    assert prf(key, nonce, 100) == bytes(
        aegis128l.stream(key, nonce, length=100))
    assert prf(key, nonce, 100).startswith(prf(key, nonce, 4))
    nonce = bytes(15) + b"\x07"
    assert suite_seal(1, key + bytes(16), 7, b"abc", b"ad") == bytes(
        aegis128l.encrypt(key, nonce, b"abc", b"ad"))


def library_side(shake: link.Handshake, initiator: bool):
    """One side of a handshake in ``noiseprotocol``."""
    from noise.connection import Keypair, NoiseConnection
    name = f"Noise_{shake.pattern}_25519_ChaChaPoly_BLAKE2s".encode()
    side = NoiseConnection.from_name(name)
    side.set_prologue(shake.prologue)
    if initiator:
        side.set_as_initiator()
        side.set_keypair_from_private_bytes(Keypair.EPHEMERAL, shake.e_i)
        side.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC,
                                           shake.link_key)
        if shake.kind == 2:
            side.set_keypair_from_private_bytes(
                Keypair.STATIC, shake.init.bytes("static"))
    else:
        side.set_as_responder()
        side.set_keypair_from_private_bytes(Keypair.EPHEMERAL, shake.e_r)
        side.set_keypair_from_private_bytes(
            Keypair.STATIC, shake.resp.bytes("static"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # fixed ephemerals: meant
        side.start_handshake()
    return side


def test_noise_library() -> None:
    """Another Noise implementation makes the same messages and keys."""
    for pattern in ("NK", "IK"):
        shake = link.Handshake(pattern, 1, 3, "self-test " + pattern)
        left, right = library_side(shake, True), library_side(shake, False)
        first = bytes(left.write_message(
            link.first_payload(shake.kind, 3, link.NOW_MS)))
        assert first == shake.first[16:1380]
        right.read_message(first)
        answer = bytes(right.write_message(
            link.answer_payload(1, shake.boot_r, link.NOW_MS + 30, bytes(18))))
        assert answer == shake.answer[16:1380]
        left.read_message(answer)
        assert left.get_handshake_hash() == shake.hh
        assert left.noise_protocol.cipher_state_encrypt.k == shake.k_i
        assert left.noise_protocol.cipher_state_decrypt.k == shake.k_r


# --- links -----------------------------------------------------------------

def test_data_packets() -> None:
    """A changed bit, another key or another length is refused."""
    for suite in (1, 2):
        key, cell = rand("self-test key", 32), rand("self-test cell", 1380)
        packet = link.seal_packet(suite, key, b"\0abc", 9, b"\0\0\0\1", cell)
        assert link.open_packet(suite, key, packet) == (b"\0\0\0\1", cell)
        for damaged in flipped(packet):
            assert refused(link.open_packet, suite, key, damaged)
        assert refused(link.open_packet, suite, flip(key, 3), packet)
        assert refused(link.open_packet, suite, key, packet[:-1])


def test_handshake_flips() -> None:
    """mac1 refuses changes; Noise refuses them where mac1 is made anew."""
    for pattern in ("NK", "IK"):
        shake = link.Handshake(pattern, 2, 3, "self-test " + pattern)
        for damaged in flipped(shake.first):
            assert refused(link.check_macs, damaged, shake.link_key)
        for at in range(1364):
            side = link.Noise(shake.pattern, False, shake.prologue, shake.e_r,
                              s=shake.resp.bytes("static"))
            assert refused(side.read, flip(shake.first[16:1380], at))
        other = link.Noise(shake.pattern, False, shake.prologue + b"!",
                           shake.e_r, s=shake.resp.bytes("static"))
        assert refused(other.read, shake.first[16:1380])


def test_cookie() -> None:
    """A cookie opens for its first message only; mac2 needs the cookie."""
    shake = link.Handshake("NK", 1, 3, "self-test NK")
    mac1, salt = shake.first[1380:1396], rand("self-test salt", 32)
    cookie = rand("self-test cookie", 16)
    packet, _ = link.cookie_packet(shake.init.index(), salt, shake.link_key,
                                   mac1, cookie)
    assert link.open_cookie(packet, shake.link_key, mac1) == cookie
    assert refused(link.open_cookie, packet, shake.link_key, flip(mac1, 0))
    for damaged in flipped(packet):
        assert refused(link.open_cookie, damaged, shake.link_key, mac1)
    again = link.Handshake("NK", 1, 3, "self-test NK", shake.seen, cookie,
                           " again")
    assert link.check_macs(again.first, again.link_key, cookie)
    assert refused(link.check_macs, again.first, again.link_key, salt[:16])


# --- setup and reply -------------------------------------------------------

def walk(client: setup.Client) -> list[setup.Opened]:
    """Send a setup over its path, with flips and a replay at every hop."""
    message, opened = client.message, []
    for relay in client.path:
        for damaged in flipped(message):
            assert refused(setup.open_setup, relay, client.epoch, damaged)
        for wrong in (client.epoch + 1, client.epoch - 1):
            assert refused(setup.open_setup, relay, wrong, message)
        opened.append(setup.open_setup(relay, client.epoch, message))
        assert refused(setup.open_setup, relay, client.epoch, message)
        message = opened[-1].forward
        assert len(message) == setup.CELL
    assert opened[-1].delta[18:18 + len(client.early)] == client.early
    return opened


def records_of(client: setup.Client, opened: list[setup.Opened], end: int,
               status: int) -> list[bytes]:
    """Records of the hops up to ``end``, which answers with ``status``."""
    out = []
    for i in range(end + 1):
        _, session = setup.relay_session(client.path[i], opened[i])
        out.append(setup.make_record(
            client.path[i].y_pub, session["auth"],
            status if i == end else setup.OK, client.fields[i].expiry))
    return out


def test_setup() -> None:
    """Setups of every length, and the replies to them."""
    for hops in HOPS:
        client = setup.sample_client(hops)
        opened = walk(client)
        for end in range(hops):
            status = setup.OK if end == hops - 1 else setup.BUSY
            records = records_of(client, opened, end, status)
            region = setup.reply(client.keys, records)[0]
            assert client.accept(region) == records
            for damaged in flipped(region):
                assert refused(client.accept, damaged)
            check_reply_on_the_way(client, records)
            check_wrong_records(client, records)


def check_reply_on_the_way(client: setup.Client, records: list[bytes]) -> None:
    """A bit flipped behind a hop is refused, also if hop 0 flips it back."""
    regions = setup.reply(client.keys, records)
    for hop in range(1, len(records)):          # the hop that emitted it
        for at in range(setup.REGION):
            seen = at < setup.REST              # else it falls off at once
            damaged = pass_reply(client, records, flip(regions[hop], at), hop)
            assert refused(client.accept, damaged) == seen
            if hop >= 2 and seen:
                undone = pass_reply(client, records, flip(regions[hop], at),
                                    hop, undo=at + setup.DROPPED * (hop - 1))
                assert refused(client.accept, undone)


def pass_reply(client: setup.Client, records: list[bytes], region: bytes,
               hop: int, undo: int | None = None) -> bytes:
    """Pass a region on from ``hop``; ``undo``: byte flipped before hop 0."""
    for i in reversed(range(hop)):
        if i == 0 and undo is not None and undo < setup.REGION:
            region = flip(region, undo)
        region = setup.reply_region(client.keys[i], records[i], region)
    return region


def check_wrong_records(client: setup.Client, records: list[bytes]) -> None:
    """A wrong AUTH, an early OK and a late failure are refused."""
    end, last = len(records) - 1, len(client.path) - 1

    def accepts(changed: list[bytes]) -> bool:
        region = setup.reply(client.keys, changed)[0]
        return not refused(client.accept, region)

    if end == last:
        for hop in range(len(records)):
            wrong = list(records)
            wrong[hop] = flip(wrong[hop], 32)           # AUTH
            assert not accepts(wrong)
            wrong[hop] = records[hop][:48] + b"\1" + records[hop][49:]
            # Tags do not say who answered: hop 0 may always claim to have.
            assert accepts(wrong) == (hop in (0, end))
    else:
        early = records[:end] + [records[end][:48] + b"\0" + records[end][49:]]
        assert not accepts(early)


# --- cells -----------------------------------------------------------------

def test_forward() -> None:
    """Forward cells to every hop: flips, replay, another order."""
    for suites in cells.SUITES.values():
        for end in range(5):
            counters = cells.COUNTER_SETS[4]
            layers = cells.layers_of("f", suites, counters)
            body = cells.body_of(0)[1]
            fill = rand("self-test fill", 80 - 20 * end)
            cell = cells.forward_build(layers, counters, end, body, fill)
            for hop in range(end + 1):
                layer = layers[hop]
                for damaged in flipped(cell):
                    assert refused(cells.forward_hop, layer, damaged)
                ends, following = cells.forward_hop(layer, cell)
                assert refused(cells.forward_hop, layer, cell)
                assert ends == (hop == end)
                assert ends or len(following) == cells.CELL
                cell = following
            assert cell == body


def test_backward() -> None:
    """Backward cells from every hop: flips, replay, undo."""
    for suites in cells.SUITES.values():
        for start in range(5):
            counters = cells.COUNTER_SETS[1]
            emitted = backward(suites, counters, start, None)
            layers = cells.layers_of("b", suites, counters)
            for at in range(cells.CELL):
                damaged = flip(emitted, at)
                layers = cells.layers_of("b", suites, counters)
                assert refused(cells.backward_open, layers, damaged)
            layers = cells.layers_of("b", suites, counters)
            assert cells.backward_open(layers, emitted)[0] == start
            assert refused(cells.backward_open, layers, emitted)
            if start >= 2:
                mask = rand("self-test mask", cells.BODY)
                undone = backward(suites, counters, start, mask)
                layers = cells.layers_of("b", suites, counters)
                assert refused(cells.backward_open, layers, undone)


def backward(suites: list[int], counters: list[int], start: int,
             mask: bytes | None) -> bytes:
    """A backward cell; with ``mask``: scrambled far away, undone at hop 0."""
    layers = cells.layers_of("b", suites, counters)
    cell = cells.backward_hop(layers[start], counters[start],
                              cells.body_of(1)[1], bytes(cells.SLOTS), True)
    assert len(cell) == cells.CELL
    for hop in reversed(range(start)):
        slots, body = cell[:cells.SLOTS], cell[cells.SLOTS:]
        if mask and hop in (start - 1, 0):
            body = xor(body, mask)
        cell = cells.backward_hop(layers[hop], counters[hop], body, slots,
                                  False)
        assert len(cell) == cells.CELL
    return cell


def test_bodies() -> None:
    """Lengths and zeros of bodies."""
    good = cells.encode_body(1, b"abc")
    assert cells.decode_body(good) == (1, b"abc")
    assert refused(cells.decode_body, flip(good, 1279))
    for length in (1279, 1280, 8191):
        head = (1 << 13 | length).to_bytes(2, "big")
        assert refused(cells.decode_body, head + bytes(1278))


def test_cell_limits() -> None:
    """Phases too far ahead, the window and wrong sizes are refused."""
    counters = [2 << 20]
    layers = cells.layers_of("f", [1], counters)
    cell = cells.forward_build(layers, counters, 0, bytes(1280), bytes(80))
    assert refused(cells.forward_hop, cells.layer_of(0, "f", 1), cell)
    assert refused(cells.forward_hop, layers[0], cell[:-1])
    layers[0].seen = {(2 << 20) + cells.WINDOW}
    assert refused(cells.forward_hop, layers[0], cell)
    layers[0].seen = {(2 << 20) + cells.WINDOW - 1}
    assert not refused(cells.forward_hop, layers[0], cell)


def test_payments() -> None:
    """Published answers, and what changes when anything is changed."""
    assert pay.keccak(b"").hex().startswith("c5d2460186f7233c927e7db2dcc703c0")
    secret = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff94"
                           "4bacb478cbed5efcae784d7bf4f2ff80")
    digest = pay.keccak(b"digest")
    signature = pay.sign(secret, digest)
    signer = pay.recover(signature, digest)
    assert signer.hex() == "f39fd6e51aad88f6f4ce6ab8827279cfffb92266"
    assert all(pay.recover(bad, digest) != signer for bad in flipped(signature))
    session = {"payer": rand("p", 20), "payee": rand("q", 20), "nonce": 1,
               "anchor": rand("a", 32), "rand_hash": rand("r", 32),
               "face": 2, "win_prob": 3, "expiry": 4}
    digests = {pay.session_digest(session, 1, rand("c", 20)),
               pay.session_digest(session, 2, rand("c", 20)),
               pay.session_digest(session, 1, rand("d", 20))}
    for key, value in session.items():
        other = flip(value, 0) if isinstance(value, bytes) else value + 1
        digests.add(pay.session_digest({**session, key: other}, 1,
                                       rand("c", 20)))
    assert len(digests) == 3 + len(session)
    assert refused(pay.odds, 3, 5) and refused(pay.tier_rate, 97)


def main() -> None:
    """Run every test of this module."""
    tests = [value for name, value in globals().items()
             if name.startswith("test_")]
    for test in tests:
        test()
        print(f"{test.__name__}: ok")
