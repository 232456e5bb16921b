"""Builds payments.json out of payments.py."""

from __future__ import annotations

from typing import Any

import payments as pay
from primitives import Refused, be, rand


def shown(value: Any) -> Any:
    """Bytes as hex, numbers of more than 32 bits as decimal text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    if type(value) is int and value >> 32:
        return str(value)
    return value


def number(label: str, bits: int) -> int:
    """A number of at most so many "random" bits."""
    return int.from_bytes(rand(label, 16), "big") >> 128 - bits


def rates() -> list[dict]:
    """Rates with their forms, and what they are rounded up to."""
    values = [0, 1, 2, 0xffffff, 0x1000000, 0x1000001, 0x1ffffff,
              (1 << 64) - 1, 0xffffff << 40, (0xffffff << 40) + 1]
    values += [number(f"rate {i}", 4 + 4 * i) for i in range(16)]
    return [{"rate": str(value), "form": pay.encode_rate(value),
             "rounded_up": str(pay.round_up(value))} for value in values]


def forms() -> list[dict]:
    """Forms with their rates; none for those that are refused."""
    values = [0, 1, 0x00ffffff, 0x01000001, 0x01800000, 0x017fffff,
              0x28ffffff, 0x29800000, 0xffffffff]
    values += [number(f"form {i}", 32) for i in range(16)]
    found = []
    for form in values:
        try:
            rate: str | None = str(pay.decode_rate(form))
        except Refused:
            rate = None
        found.append({"form": form, "rate": rate})
    return found


def classes() -> list[dict]:
    """The rates of whole paths."""
    found = []
    for middle, exit_, ask in [(4, 8, 7), (0, 96, 3), (95, 1, 12345678901),
                               (96, 96, (1 << 64) - 1), (255, 255, 0),
                               (63, 77, 0), (255, 40, 99)]:
        for hops in range(1, 6):
            pairs = pay.class_rates(middle, exit_, ask, hops)
            found.append({"class": middle << 8 | exit_, "ask": str(ask),
                          "hops": hops,
                          "rates": [[str(a), str(b)] for a, b in pairs]})
    return found


def offer_odds() -> list[dict]:
    """Win probabilities; none for terms that are refused."""
    pairs = [(1, 2), (1, 3), (2, 3), (0, 3), (1, 1 << 96),
             (1, (1 << 96) - 1), ((1 << 95) - 1, (1 << 96) - 1)]
    pairs += [(number(f"value {i}", 10 + 8 * i),
               number(f"face {i}", 14 + 8 * i)) for i in range(10)]
    found = []
    for value, face in pairs:
        try:
            win_prob: str | None = str(pay.odds(value, face))
        except Refused:
            win_prob = None
        found.append({"value": str(value), "face": str(face),
                      "win_prob": win_prob})
    return found


def session(i: int) -> dict:
    """A session with its secrets, signature, draws and claims."""
    def own(name: str, size: int) -> bytes:
        return rand(f"session {i} {name}", size)

    chain_id, contract = number(f"chain id {i}", 1 + 9 * i), own("contract", 20)
    draws = [64, 1, 2, 40, 63, 64][i]
    value = number(f"session value {i}", 20 + 8 * i)
    face = value * [2, 4, 5, 40, 16, 100][i] + i
    secret = own("signer", 32)
    who = {"payer": own("payer", 20), "payee": own("payee", 20),
           "nonce": number(f"nonce {i}", 32)}
    where = pay.place(chain_id, contract, *who.values())
    salt, payee_seed, payer_seed = (
        own("salt", 16), own("payee seed", 32), own("payer seed", 32))
    r = pay.secret_number(payee_seed, where, salt)
    links = pay.chain(payer_seed, where, pay.keccak(r), draws)
    terms = {**who, "anchor": links[0], "rand_hash": pay.keccak(r),
             "face": face, "win_prob": pay.odds(value, face),
             "expiry": number(f"expiry {i}", 40)}
    digest = pay.session_digest(terms, chain_id, contract)
    signature = pay.sign(secret, digest)
    won = [n for n in range(1, draws + 1)
           if pay.wins(links[n], r, terms["win_prob"])]
    claims = [{"draw": n, "claim": pay.encode_claim(
        terms, n, links[n], r, signature)} for n in won[:2]]
    return {
        "chain_id": str(chain_id), "contract": contract, "draws": draws,
        "value": str(value),
        "session": {**terms, "face": str(face),
                    "win_prob": str(terms["win_prob"]),
                    "expiry": str(terms["expiry"])},
        "payee_seed": payee_seed, "salt": salt, "rand": r,
        "payer_seed": payer_seed, "links": links, "signer_secret": secret,
        "signer": pay.recover(signature, digest), "digest": digest,
        "signature": signature, "wins": won, "claims": claims}


def recoveries() -> list[dict]:
    """Signatures, good and bad, and who they are recovered to, if anyone."""
    digest = pay.keccak(b"recover")
    good = pay.sign(rand("recover secret", 32), digest)
    r, vs = good[:32], int.from_bytes(good[32:], "big")
    s, half = vs & (1 << 255) - 1, pay.ORDER // 2
    found = [good, r + be(vs ^ 1 << 255, 32)]
    for other in [0, half, half + 1, (1 << 255) - 1, (s + 1) % half]:
        found += [r + be(other, 32), r + be(other | 1 << 255, 32)]
    found += [be(x, 32) + be(s, 32) for x in
              [0, 1, 2, 5, pay.ORDER - 1, pay.ORDER, (1 << 256) - 1]]
    return [{"digest": digest, "signature": signature,
             "signer": pay.recover(signature, digest)} for signature in found]


def frames() -> list[dict]:
    """One frame of each type, and one of each number in it."""
    found = []
    for name, (_, layout) in pay.FRAMES.items():
        numbered = [key for key, _ in layout if key in pay.NUMBERED]
        choices = pay.NUMBERED[numbered[0]] if numbered else [0]
        for choice in choices:
            fields: dict[str, Any] = {}
            for key, size in layout:
                label = f"frame {name} {choice} {key}"
                if key in pay.BYTES:
                    fields[key] = rand(label, size)
                elif key in pay.NUMBERED:
                    fields[key] = choice
                else:
                    fields[key] = number(label, 8 * size)
            text = {key: str(value) if type(value) is int else value
                    for key, value in fields.items()}
            found.append({"name": name, "fields": text,
                          "bytes": pay.encode_frame(name, fields)})
    return found


def refused() -> list[bytes]:
    """Cells with a frame that makes them malformed."""
    cells = []
    for frame in (bytes.fromhex(item["bytes"]) for item in shown(frames())):
        length = int.from_bytes(frame[1:3], "big")
        cells += [frame[:-1], frame[:1] + be(length - 1, 2) + frame[3:-1],
                  frame[:1] + be(length + 1, 2) + frame[3:] + b"\0"]
    cells += [bytes.fromhex(text) for text in [
        "2300050000000 10b".replace(" ", ""), "28000103", "270029" + "03" * 41]]
    for cell in cells:
        try:
            pay.decode_frames(cell)
        except Refused:
            continue
        raise AssertionError(cell.hex())
    return cells


def build() -> dict:
    """All of payments.json."""
    all_frames = b"".join(item["bytes"] for item in frames())
    assert len(pay.decode_frames(all_frames)) == len(frames())
    return shown({
        "rates": rates(), "forms": forms(),
        "tiers": [str(pay.tier_rate(k)) for k in range(pay.MAX_TIER + 1)],
        "classes": classes(), "odds": offer_odds(),
        "sessions": [session(i) for i in range(6)],
        "recoveries": recoveries(), "frames": frames(),
        "frames_refused": refused()})
