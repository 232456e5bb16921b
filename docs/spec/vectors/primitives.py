"""Primitives of 01-link.md section 1, Noise (revision 34) and the byte source.

Written from the spec pages only, so that agreement with the Rust code means
something.  Real primitives come from ``cryptography``, ``blake3`` and ``aeg``.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from aeg import aegis128l
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey, Ed25519PublicKey)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey, X25519PublicKey)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SEED = b"chive vectors 1|"
TAG = 16


class Refused(Exception):
    """A message was refused: a wrong tag, a replay or a malformed field."""


# --- small helpers ---------------------------------------------------------

def rand(label: str, length: int) -> bytes:
    """Return the "random" bytes of ``label``: SHAKE-256(SEED | label)."""
    return hashlib.shake_256(SEED + label.encode()).digest(length)


def be(value: int, length: int) -> bytes:
    """Return ``value`` as a big-endian number of ``length`` bytes."""
    return value.to_bytes(length, "big")


def xor(a: bytes, b: bytes) -> bytes:
    """Return the XOR of two strings of the same length."""
    assert len(a) == len(b)
    return bytes(x ^ y for x, y in zip(a, b))


def cut(data: bytes, *sizes: int) -> list[bytes]:
    """Cut ``data`` into pieces of these sizes, which must use it up."""
    assert sum(sizes) == len(data)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at:at + size])
        at += size
    return pieces


# --- 01-link.md section 1 --------------------------------------------------

def kdf(label: str, data: bytes, length: int) -> bytes:
    """``KDF(label, x)``: BLAKE3 derive-key mode."""
    hasher = blake3(data, derive_key_context="chive v1 " + label)
    return hasher.digest(length=length)


def mac(key: bytes, data: bytes) -> bytes:
    """``MAC(k, x)``: BLAKE3 keyed mode, first 16 bytes."""
    return blake3(data, key=key).digest(length=TAG)


def digest(data: bytes) -> bytes:
    """``BLAKE3(x)``: plain hash, 32 bytes."""
    return blake3(data).digest()


def stream(key: bytes, length: int) -> bytes:
    """``STREAM(k, n)``: ChaCha20 key stream, nonce and counter zero."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None)
    return cipher.encryptor().update(bytes(length))


def public(secret: bytes) -> bytes:
    """Return the X25519 public key of ``secret``."""
    return X25519PrivateKey.from_private_bytes(secret).public_key(
        ).public_bytes_raw()


def dh(secret: bytes, peer: bytes) -> bytes:
    """``DH(a, B)``: X25519; an all-zero result is refused."""
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(
            X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        raise Refused("all-zero DH result") from error
    if shared == bytes(32):
        raise Refused("all-zero DH result")
    return shared


def prf(key: bytes, nonce: bytes, length: int) -> bytes:
    """``PRF(k, n)`` of 02-circuit.md section 2: AEGIS-128L of zeros."""
    assert len(key) == 16 and len(nonce) == 16
    return bytes(aegis128l.encrypt(key, nonce, bytes(length)))[:length]


def suite_seal(suite: int, key: bytes, counter: int, plain: bytes,
               ad: bytes) -> bytes:
    """Seal under a suite with a 32-byte key; return ciphertext | tag."""
    if suite == 1:
        return bytes(aegis128l.encrypt(key[:16], be(counter, 16), plain, ad))
    assert suite == 2
    return ChaCha20Poly1305(key).encrypt(be(counter, 12), plain, ad)


def suite_open(suite: int, key: bytes, counter: int, sealed: bytes,
               ad: bytes) -> bytes:
    """Open what ``suite_seal`` made; raise ``Refused`` on a wrong tag."""
    try:
        if suite == 1:
            return bytes(
                aegis128l.decrypt(key[:16], be(counter, 16), sealed, ad))
        assert suite == 2
        return ChaCha20Poly1305(key).decrypt(be(counter, 12), sealed, ad)
    except (ValueError, InvalidTag) as error:
        raise Refused("wrong tag") from error


def sign(seed: bytes, message: bytes) -> bytes:
    """Ed25519 signature by the key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def sign_public(seed: bytes) -> bytes:
    """Ed25519 public key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key(
        ).public_bytes_raw()


def verify(key: bytes, signature: bytes, message: bytes) -> None:
    """Verify an Ed25519 signature; raises if it is wrong."""
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


# --- Noise, revision 34: 25519, ChaChaPoly, BLAKE2s ------------------------

PATTERNS = {
    "NK": (("e", "es"), ("e", "ee")),
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
}


def noise_hkdf(chaining: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise HKDF with two outputs."""
    def hmac2s(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.blake2s).digest()
    temp = hmac2s(chaining, material)
    first = hmac2s(temp, b"\x01")
    return first, hmac2s(temp, first + b"\x02")


@dataclass
class Noise:
    """A two-message Noise handshake, NK or IK, with a given ephemeral."""

    pattern: str
    initiator: bool
    prologue: bytes
    e: bytes                            # own ephemeral secret
    s: bytes | None = None              # own static secret
    rs: bytes | None = None             # peer's static public key
    re: bytes | None = None             # peer's ephemeral public key
    ck: bytes = b""
    h: bytes = b""
    k: bytes | None = None
    n: int = 0
    messages: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = f"Noise_{self.pattern}_25519_ChaChaPoly_BLAKE2s".encode()
        self.h = name.ljust(32, b"\0") if len(name) <= 32 else \
            hashlib.blake2s(name).digest()
        self.ck = self.h
        self.mix_hash(self.prologue)
        # Pre-message of both patterns: <- s
        self.mix_hash(self.rs if self.initiator else public(self.s))
        self.messages = list(PATTERNS[self.pattern])

    def mix_hash(self, data: bytes) -> None:
        """MixHash."""
        self.h = hashlib.blake2s(self.h + data).digest()

    def mix_key(self, material: bytes) -> None:
        """MixKey."""
        self.ck, self.k = noise_hkdf(self.ck, material)
        self.n = 0

    def cipher(self) -> tuple[ChaCha20Poly1305, bytes]:
        """Return the AEAD and its next nonce (32 zero bits | n LE)."""
        nonce = bytes(4) + self.n.to_bytes(8, "little")
        self.n += 1
        return ChaCha20Poly1305(self.k), nonce

    def encrypt_and_hash(self, plain: bytes) -> bytes:
        """EncryptAndHash; both patterns have a key by then."""
        aead, nonce = self.cipher()
        sealed = aead.encrypt(nonce, plain, self.h)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """DecryptAndHash; raises ``Refused`` on a wrong tag."""
        aead, nonce = self.cipher()
        try:
            plain = aead.decrypt(nonce, sealed, self.h)
        except InvalidTag as error:
            raise Refused("noise tag") from error
        self.mix_hash(sealed)
        return plain

    def mix_dh(self, token: str) -> None:
        """Mix the DH of a token such as "es" (initiator's key first)."""
        mine, theirs = token if self.initiator else token[::-1]
        self.mix_key(dh({"e": self.e, "s": self.s}[mine],
                        {"e": self.re, "s": self.rs}[theirs]))

    def write(self, payload: bytes) -> bytes:
        """WriteMessage."""
        out = b""
        for token in self.messages.pop(0):
            if token == "e":
                out += public(self.e)
                self.mix_hash(public(self.e))
            elif token == "s":
                out += self.encrypt_and_hash(public(self.s))
            else:
                self.mix_dh(token)
        return out + self.encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """ReadMessage; returns the payload."""
        for token in self.messages.pop(0):
            if token == "e":
                self.re, message = message[:32], message[32:]
                self.mix_hash(self.re)
            elif token == "s":
                self.rs = self.decrypt_and_hash(message[:48])
                message = message[48:]
            else:
                self.mix_dh(token)
        return self.decrypt_and_hash(message)

    def split(self) -> tuple[bytes, bytes]:
        """Split: the keys k_i (initiator to responder) and k_r."""
        assert not self.messages
        return noise_hkdf(self.ck, b"")
