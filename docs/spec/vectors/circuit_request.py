"""Streams: 02-circuit.md section 3 and the body header; request.json."""

from __future__ import annotations

from ipaddress import ip_address

from circuit_cell import BODY, DATA_MAX, decode_body, encode_body
from primitives import Refused, be, digest, rand

KINDS = {"CONNECT": 1, "UDP": 2, "RESOLVE": 3, "PING": 4, "DIRECTORY": 5}
IPV4, NAME, IPV6 = 1, 3, 4


def encode_address(address: str) -> bytes:
    """``address type 1 | address``."""
    try:
        packed = ip_address(address).packed
    except ValueError:
        name = address.encode("ascii")
        assert 1 <= len(name) <= 255
        return be(NAME, 1) + be(len(name), 1) + name
    return be(IPV4 if len(packed) == 4 else IPV6, 1) + packed


def encode_request(kind: str, address: str, port: int) -> bytes:
    """A stream's request."""
    return be(KINDS[kind], 1) + encode_address(address) + be(port, 2)


def decode_request(data: bytes) -> tuple[int, str, int, int]:
    """Return kind, address, port and the length of a request."""
    kind, form = data[0], data[1]
    sizes = {IPV4: (2, 4), IPV6: (2, 16), NAME: (3, data[2])}
    if form not in sizes or kind not in KINDS.values():
        raise Refused("request")
    start, length = sizes[form]
    raw, end = data[start:start + length], start + length
    address = raw.decode("ascii") if form == NAME else str(ip_address(raw))
    return kind, address, int.from_bytes(data[end:end + 2], "big"), end + 2


def request_samples() -> list[dict]:
    """Requests of every address form."""
    samples = [
        ("CONNECT", "192.0.2.1", 443), ("CONNECT", "example.org", 80),
        ("CONNECT", "2001:db8::1", 8443), ("CONNECT", "a", 65535),
        ("CONNECT", "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 61
         + ".e", 443),
        ("UDP", "198.51.100.7", 53), ("UDP", "2001:db8::2", 53),
        ("UDP", "example.net", 123), ("RESOLVE", "example.com", 0),
    ]
    out = []
    for kind, address, port in samples:
        request = encode_request(kind, address, port)
        early = request + b"data"
        assert decode_request(early) == (
            KINDS[kind], address, port, len(request))
        out.append({"kind": KINDS[kind], "name": kind, "address": address,
                    "address_type": request[1], "port": port,
                    "request": request.hex()})
    return out


def body_samples() -> list[dict]:
    """Body headers that are right."""
    out = []
    for kind, length in [(0, 0), (0, 1278), (1, 1), (1, 1278), (2, 256),
                         (3, 255), (4, 1277)]:
        data = rand(f"request body {kind} {length}", length)
        body = encode_body(kind, data)
        assert decode_body(body) == (kind, data) and len(body) == BODY
        out.append({"type": kind, "length": length, "head": body[:2].hex(),
                    "data_blake3": digest(data).hex(),
                    "body_blake3": digest(body).hex()})
    return out


def refused_samples() -> list[dict]:
    """Body headers that close the circuit (circuit.cell.5)."""
    return [
        {"why": "length above 1,278", "head": be(1 << 13 | DATA_MAX + 1, 2).hex(),
         "then": "zeros"},
        {"why": "largest length", "head": be(1 << 13 | 0x1FFF, 2).hex(),
         "then": "zeros"},
        {"why": "zeros are not zero", "head": be(1 << 13, 2).hex(),
         "then": "one 01 as the last byte of the body, else zeros"},
        {"why": "type is not expected", "head": be(7 << 13, 2).hex(),
         "then": "zeros"},
    ]


def build() -> dict:
    """The content of request.json."""
    return {
        "spec": "docs/spec/02-circuit.md sections 2 (body) and 3",
        "about": "Stream requests and body headers; see README.md.",
        "requests": request_samples(),
        "bodies": body_samples(),
        "bodies_refused": refused_samples(),
    }
