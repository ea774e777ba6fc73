"""Values as bytes, hashes and signatures: wire 4 and 8, the notation of the README, transport 4.3."""

import hashlib
import socket
from collections.abc import Callable
from typing import NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

T = TypeVar("T")


class ProtocolError(Exception):
    """The node did what the documents do not permit, or did not do what they demand."""


def fail(why: str) -> NoReturn:
    raise ProtocolError(why)


def require(holds: bool, why: str) -> None:
    if not holds:
        fail(why)


def varint(value: int) -> bytes:
    """wire 4: seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def blob(data: bytes) -> bytes:
    """wire 8: a byte string or text."""
    return varint(len(data)) + data


def array(items: list[bytes]) -> bytes:
    """wire 8: a list of values that are already encoded."""
    return varint(len(items)) + b"".join(items)


class Reader:
    """wire 4 and 8: reads canonical values from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        require(self.at + size <= len(self.data), "a value ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, bits: int = 64) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            require(byte != 0 or shift == 0, "a varint is longer than it must be")
            value |= (byte & 0x7F) << shift
            require(value < 1 << bits, f"a varint exceeds {bits} bits")
            if byte < 0x80:
                return value
            shift += 7

    def blob(self) -> bytes:
        return self.take(self.varint())

    def list(self, element: Callable[[], T]) -> list[T]:
        return [element() for _ in range(self.varint())]

    def address(self) -> tuple[str, int]:
        family = self.varint()
        require(family in (0, 1), "an address is neither IPv4 nor IPv6")
        ip = self.take(4) if family == 0 else self.take(16)
        return socket.inet_ntop(socket.AF_INET if family == 0 else socket.AF_INET6, ip), self.varint(16)

    def left(self) -> int:
        return len(self.data) - self.at

    def end(self) -> None:
        require(self.left() == 0, "bytes stand behind a value")


def read_whole(data: bytes, value: Callable[[Reader], T]) -> T:
    """wire 8.1: a payload is one value with nothing behind it."""
    reader = Reader(data)
    result = value(reader)
    reader.end()
    return result


def ipv4(address: tuple[str, int]) -> bytes:
    """wire 8: an IPv4 address with port."""
    return b"\x00" + socket.inet_aton(address[0]) + varint(address[1])


def signed_bytes(domain: str, *parts: bytes) -> bytes:
    """README, notation: S(domain, parts..)."""
    return bytes([len(domain)]) + domain.encode() + b"".join(parts)


def digest(domain: str, *parts: bytes) -> bytes:
    """README, notation: H(domain, parts..)."""
    return hashlib.sha256(signed_bytes(domain, *parts)).digest()


def small_order(point: bytes) -> bool:
    """transport 4.3. On -x^2 + y^2 = 1 + d x^2 y^2 a point has an order that divides 8 exactly if y is 0, 1 or -1, or
    if the doubled point has y = 0, which is d y^4 + 2 y^2 = 1."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p)
    y = int.from_bytes(point, "little") % 2**255
    return y * (y * y - 1) * (d * y**4 + 2 * y * y - 1) % p == 0


def verify(signer: bytes, signature: bytes, message: bytes, what: str) -> None:
    """transport 4.3: strictly. The library checks without cofactor and that S is reduced, but not for small order."""
    require(not small_order(signer) and not small_order(signature[:32]), f"{what}: a point of small order")
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, message)
    except (InvalidSignature, ValueError):
        fail(f"{what}: the signature does not hold")


class Identity:
    """transport 1: an Ed25519 key; its public half is the node's id."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.id = self.key.public_key().public_bytes_raw()
