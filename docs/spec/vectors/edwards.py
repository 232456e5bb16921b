"""Ed25519 by a given scalar (RFC 8032 section 5.1), as directory.link.1 asks for.

``cryptography`` signs by seeds only.  Slow, and not for secrets.
"""

from __future__ import annotations

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE_Y = 4 * pow(5, -1, P) % P

Point = tuple[int, int]


def _x_of(y: int) -> int:
    """The even x of a point with this y."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == square
    return x if x % 2 == 0 else P - x


BASE: Point = (_x_of(BASE_Y), BASE_Y)


def _add(a: Point, b: Point) -> Point:
    cross = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + cross, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - cross, -1, P)
    return x % P, y % P


def _times(scalar: int, point: Point) -> Point:
    result: Point = (0, 1)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def _encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little") % ORDER


def montgomery(key: bytes) -> bytes:
    """The key as X25519 writes it: u = (1 + y) / (1 - y)."""
    y = int.from_bytes(key, "little") % 2**255
    return ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")


def prove(secret: bytes, nonce: bytes, message: bytes) -> bytes:
    """``key | signature`` by the scalar of an X25519 secret."""
    number = int.from_bytes(secret, "little")
    scalar = number & (2**254 - 8) | 2**254
    key = _encode(_times(scalar, BASE))
    once = _hash(nonce + message)
    point = _encode(_times(once, BASE))
    answer = (once + _hash(point + key + message) * scalar) % ORDER
    return key + point + answer.to_bytes(32, "little")
