"""Payments: 03-payments.md; payments.json."""

from __future__ import annotations

from hashlib import sha256
from math import isqrt

from Crypto.Hash import keccak as keccak_family
from blake3 import blake3
from ecdsa import SECP256k1, SigningKey, VerifyingKey
from ecdsa.errors import MalformedPointError
from ecdsa.util import sigdecode_string, sigencode_string

from primitives import Refused, be

ORDER = SECP256k1.order
MAX_DRAWS, MAX_EXPONENT, MAX_TIER, FREE = 64, 40, 96, 255
DOMAIN_TYPE = (b"EIP712Domain(string name,string version,uint256 chainId,"
               b"address verifyingContract)")
SESSION_TYPE = (b"Session(address payer,address payee,uint32 nonce,"
                b"bytes32 anchor,bytes32 randHash,uint96 face,uint64 winProb,"
                b"uint40 expiry)")


def keccak(*parts: bytes) -> bytes:
    """Keccak-256 of the joined parts."""
    return keccak_family.new(digest_bits=256, data=b"".join(parts)).digest()


# --- section 1 -------------------------------------------------------------

def encode_rate(rate: int) -> int | None:
    """The 4-byte form of a rate as a number, if it has one."""
    exponent = 0
    while rate >> exponent >= 1 << 24:
        exponent += 1
    mantissa = rate >> exponent
    if mantissa << exponent != rate or exponent > MAX_EXPONENT:
        return None
    return exponent << 24 | mantissa


def decode_rate(form: int) -> int:
    """The rate of a form."""
    exponent, mantissa = form >> 24, form & 0xffffff
    if exponent > MAX_EXPONENT or (exponent and not mantissa >> 23):
        raise Refused("rate")
    return mantissa << exponent


def round_up(rate: int) -> int:
    """The next rate with a form; the highest of all above the scale."""
    cut = max(rate.bit_length() - 24, 0)
    up = -(-rate >> cut) << cut
    return min(up, 0xffffff << MAX_EXPONENT)


def tier_rate(tier: int) -> int:
    """The rate of a tier."""
    if tier == FREE:
        return 0
    if not 0 <= tier <= MAX_TIER:
        raise Refused("tier")
    root = isqrt(1 << tier)
    cut = max(root.bit_length() - 24, 0)
    return root >> cut << cut


def class_rates(middle: int, exit_: int, ask: int,
                hops: int) -> list[tuple[int, int]]:
    """``(rate_in, rate_out)`` of every hop, entry first."""
    keeps = [ask, *[tier_rate(middle)] * (hops - 2), tier_rate(exit_)]
    rates, out = [], 0
    for keep in reversed(keeps if hops > 1 else [ask]):
        rates.append((round_up(out + keep), out))
        out = rates[-1][0]
    return rates[::-1]


# --- section 2 -------------------------------------------------------------

def odds(value: int, face: int) -> int:
    """The win probability of an offer."""
    if not 0 < 2 * value <= face < 1 << 96:
        raise Refused("odds")
    return (value << 64) // face


def place(chain_id: int, contract: bytes, payer: bytes, payee: bytes,
          nonce: int) -> bytes:
    """What every secret is bound to."""
    return be(chain_id, 8) + contract + payer + payee + be(nonce, 4)


def secret_number(seed: bytes, where: bytes, salt: bytes) -> bytes:
    """The payee's r."""
    return blake3(b"chive rand 1" + where + salt, key=seed).digest()


def chain(seed: bytes, where: bytes, rand_hash: bytes,
          draws: int) -> list[bytes]:
    """The payer's chain, w_0 first."""
    links = [blake3(b"chive chain 1" + where + rand_hash, key=seed).digest()]
    for _ in range(draws):
        links.append(keccak(links[-1]))
    return links[::-1]


def wins(link: bytes, secret: bytes, win_prob: int) -> bool:
    """Whether a draw wins."""
    return int.from_bytes(keccak(link, secret)[:8], "big") < win_prob


def word(value: bytes) -> bytes:
    """A value as the EVM encodes it."""
    return value.rjust(32, b"\0")


def session_digest(session: dict, chain_id: int, contract: bytes) -> bytes:
    """The EIP-712 digest."""
    separator = keccak(
        keccak(DOMAIN_TYPE), keccak(b"OnionPay"), keccak(b"1"),
        be(chain_id, 32), word(contract))
    struct = keccak(
        keccak(SESSION_TYPE), word(session["payer"]), word(session["payee"]),
        be(session["nonce"], 32), session["anchor"], session["rand_hash"],
        be(session["face"], 32), be(session["win_prob"], 32),
        be(session["expiry"], 32))
    return keccak(b"\x19\x01", separator, struct)


def address(key: VerifyingKey) -> bytes:
    """The address of a public key."""
    return keccak(key.to_string("raw"))[12:]


def sign(secret: bytes, digest: bytes) -> bytes:
    """RFC 6979, low s, EIP-2098."""
    key = SigningKey.from_string(secret, SECP256k1)
    raw = key.sign_digest_deterministic(digest, sha256, sigencode_string)
    r, s = sigdecode_string(raw, ORDER)
    s = min(s, ORDER - s)
    for parity in range(2):
        signature = be(r, 32) + be(s | parity << 255, 32)
        if recover(signature, digest) == address(key.verifying_key):
            return signature
    raise AssertionError("no parity fits")


def recover(signature: bytes, digest: bytes) -> bytes | None:
    """The address that signed, or nothing."""
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    parity, s = s >> 255, s & (1 << 255) - 1
    if not 0 < r < ORDER or not 0 < s <= ORDER // 2:
        return None
    # r + order as an abscissa needs r < 2^129: not one of 2^127 signatures.
    prime, curve = SECP256k1.curve.p(), SECP256k1.curve
    y = pow(r ** 3 + 7, (prime + 1) // 4, prime)
    if (y * y - r ** 3 - 7) % prime:
        return None
    from ecdsa.ellipticcurve import INFINITY, PointJacobi
    y = y if y % 2 == parity else prime - y
    point = PointJacobi(curve, r, y, 1, ORDER)
    inverse = pow(r, -1, ORDER)
    z = int.from_bytes(digest, "big")
    public = point * (s * inverse % ORDER) + SECP256k1.generator * (
        -z * inverse % ORDER)
    if public == INFINITY:
        return None
    try:
        return address(VerifyingKey.from_public_point(
            public.to_affine(), SECP256k1))
    except MalformedPointError:
        return None


# --- section 5 -------------------------------------------------------------

FRAMES = {
    "WANT": (32, [("payer", 20), ("floor", 4), ("value", 12)]),
    "OFFER": (33, [("payee", 20), ("nonce", 4), ("rand_hash", 32),
                   ("face", 12), ("win_prob", 8), ("draws", 2),
                   ("expiry", 5), ("value", 12)]),
    "SESSION": (34, [("payer", 20), ("nonce", 4), ("offer", 4),
                     ("anchor", 32), ("signature", 64)]),
    "SESSION_OK": (35, [("nonce", 4), ("answer", 1)]),
    "DRAW": (36, [("nonce", 4), ("index", 2), ("link", 32)]),
    "DRAW_OK": (37, [("nonce", 4), ("index", 2), ("link", 32)]),
    "ROTATE": (38, [("nonce", 4), ("reason", 1), ("index", 2),
                    ("link", 32), ("rand", 32)]),
    "METER": (39, [("role", 1), ("cells", 8), ("due", 16),
                   ("credited", 16)]),
    "CREDIT": (40, [("level", 1)]),
    "GRANT": (41, [("circuit", 4), ("cells", 8)]),
}
BYTES = {"payer", "payee", "rand_hash", "offer", "anchor", "signature",
         "link", "rand"}
NUMBERED = {"answer": range(11), "reason": range(4), "role": range(1, 3),
            "level": range(3)}


def encode_frame(name: str, fields: dict) -> bytes:
    """``type 1 | length 2 | value``."""
    kind, layout = FRAMES[name]
    value = b"".join(
        fields[key] if key in BYTES else be(fields[key], size)
        for key, size in layout)
    return be(kind, 1) + be(len(value), 2) + value


def decode_frames(cell: bytes) -> list[tuple[str, dict]]:
    """The payment frames of a control cell."""
    names = {kind: name for name, (kind, _) in FRAMES.items()}
    found = []
    while cell and cell[0]:
        length = int.from_bytes(cell[1:3], "big")
        if len(cell) < 3 + length:
            raise Refused("frame length")
        kind, value, cell = cell[0], cell[3:3 + length], cell[3 + length:]
        if kind not in names:
            continue
        fields, at = {}, 0
        for key, size in FRAMES[names[kind]][1]:
            raw, at = value[at:at + size], at + size
            fields[key] = raw if key in BYTES else int.from_bytes(raw, "big")
            if fields[key] not in NUMBERED.get(key, [fields[key]]):
                raise Refused(key)
        if at != len(value):
            raise Refused("frame length")
        found.append((names[kind], fields))
    return found


def encode_claim(session: dict, draw: int, link: bytes, secret: bytes,
                 signature: bytes) -> bytes:
    """The stored form of a claim, version 1."""
    return (be(1, 1) + session["payer"] + session["payee"]
            + be(session["nonce"], 4) + session["anchor"]
            + session["rand_hash"] + be(session["face"], 12)
            + be(session["win_prob"], 8) + be(session["expiry"], 5)
            + be(draw, 2) + link + secret + signature)
