"""Who exists, and where: node records and lookups, as in discovery."""

import time
from typing import NamedTuple

from connection import Connection
from encoding import Identity, Reader, array, digest, ipv4, read_whole, require, signed_bytes, varint, verify

RECORD, FIND, NODES = 0x0102, 0x010A, 0x0112  # discovery 3
LIMITS = {RECORD: 300, FIND: 32, NODES: 4833}
# discovery 5.1: what we answer to FIND: our table is empty.
ANSWERS = {FIND: (NODES, array([]))}


class NodeRecord(NamedTuple):
    """discovery 2, as far as a lookup needs it."""

    node: bytes
    seq: int
    addresses: list[tuple[str, int]]


def node_record(identity: Identity, network: bytes, address: tuple[str, int]) -> bytes:
    """discovery 2; transport 13."""
    now = time.time_ns() // 1_000_000
    body = varint(now) + array([ipv4(address)]) + varint(0) + varint(now)
    version = (1).to_bytes(2)
    signature = identity.key.sign(signed_bytes("peerage-node-record", network, version, body))
    return identity.id + signature + version + body


def read_node_record(data: bytes, network: bytes) -> NodeRecord:
    """discovery 2; transport 13: in the order of rule 13.2."""
    require(len(data) <= 300, "a node record of more than 300 bytes")
    reader = Reader(data)
    node, signature = reader.take(32), reader.take(64)
    require(reader.take(2) == b"\x00\x01", "a node record of another version")
    seq, addresses, _features, issued = reader.varint(), reader.list(reader.address), reader.varint(), reader.varint()
    reader.end()
    require(len(addresses) <= 4, "a node record with more than four addresses")
    verify(node, signature, signed_bytes("peerage-node-record", network, data[96:]), "a node record")
    age = time.time() - issued / 1000
    require(-600 <= age <= 48 * 3600 + 600, f"a node record {age:.0f} s old")
    return NodeRecord(node, seq, addresses)


def dht_key(node: bytes) -> bytes:
    """discovery 1."""
    return digest("peerage-id", node)


def find(connection: Connection, node: bytes) -> dict[bytes, NodeRecord]:
    """discovery 5: what the other side answers to FIND, checked by rule 5.4, by node."""
    target = int.from_bytes(dht_key(node))
    answer = connection.ask(FIND, NODES, target.to_bytes(32))
    require(answer.body is None, "NODES with a body")
    raw = read_whole(answer.head, lambda reader: reader.list(reader.blob))
    records = [read_node_record(data, connection.network.id) for data in raw]
    distances = [int.from_bytes(dht_key(record.node)) ^ target for record in records]
    require(len(records) <= 16 and distances == sorted(set(distances)), "NODES out of order, twice or too many")
    return {record.node: record for record in records}
