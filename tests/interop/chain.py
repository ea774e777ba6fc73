"""A ledger of signed transactions: genesis, transactions, blocks and the state they lead to, as in chain."""

import tomllib
from pathlib import Path
from typing import NamedTuple

from encoding import Identity, Reader, array, blob, digest, require, signed_bytes, varint, verify

HEAD, TRANSACTIONS, BLOCKS = 0x0302, 0x030B, 0x0314  # chain 9
LIMITS = {HEAD: 42, TRANSACTIONS: 274_434, BLOCKS: 2_043_906}
# chain 11.1: what we answer to BLOCKS: our chain is empty.
ANSWERS = {BLOCKS: (BLOCKS, array([]))}
BLOCK_TOPIC, TX_TOPIC = "chain/blocks", "chain/transactions"  # chain 12
MAGICS = {"main": "f770674d", "test": "f7706754", "dev": "f7706744"}  # wire 2


class Genesis(NamedTuple):
    """chain 2: what a peer must know of its network."""

    chain_id: int
    name: str
    producer: bytes
    time: int
    network: bytes

    @classmethod
    def load(cls, path: Path) -> "Genesis":
        """chain 2: the file's values, defaults filled in, in canonical form; its hash is the network id."""
        toml = tomllib.loads(path.read_text())
        limits = toml.get("limits", {})
        producers = [bytes.fromhex(key) for key in toml["producers"]]
        require(toml.get("ordering", "solo") == "solo" and len(producers) == 1, "the genesis is not one of `solo`")
        canonical = b"".join(
            [
                varint(toml["chain_id"]),
                blob(toml["network"].encode()),
                array(producers),
                varint(0),
                varint(toml["time"]),
                varint(toml.get("block_interval_ms", 500)),
                varint(limits.get("max_block_bytes", 2_031_616)),
                varint(limits.get("max_tx_bytes", 262_144)),
                varint(limits.get("mempool_bytes", 67_108_864)),
                varint(limits.get("nonce_gap", 64)),
            ]
        )
        network = digest("peerage-chain-genesis-v1", canonical)
        return cls(toml["chain_id"], toml["network"], producers[0], toml["time"], network)

    def magic(self) -> bytes:
        """wire 2."""
        known = MAGICS.get(self.name)
        return bytes.fromhex(known) if known else b"\xf7" + self.network[:3]

    def block_zero(self) -> bytes:
        """chain 1: the id of block 0."""
        return digest("peerage-chain-block-zero-v1", self.network)


class Transaction(NamedTuple):
    """chain 3: one put to a fresh key by a fresh account."""

    account: bytes
    key: bytes
    value: bytes
    encoded: bytes

    @classmethod
    def put(cls, chain_id: int, key: bytes, value: bytes, valid_until: int) -> "Transaction":
        signer = Identity()
        operation = varint(0) + blob(key) + blob(value) + varint(0)
        body = varint(chain_id) + signer.id + varint(0) + varint(valid_until) + array([operation])
        return cls(signer.id, key, value, body + signer.key.sign(signed_bytes("peerage-chain-tx-v1", body)))

    def id(self) -> bytes:
        """chain 1."""
        return digest("peerage-chain-tx-id-v1", self.encoded)


def skip_transaction(reader: Reader) -> bytes:
    """chain 3: the bytes of one transaction of a block."""
    begin = reader.at
    reader.varint()
    reader.take(32)
    reader.varint()
    reader.varint()
    for _ in range(reader.varint()):
        variant = reader.varint()
        require(variant in (0, 1), "an operation that is neither put nor delete")
        reader.blob()
        if variant == 0:
            reader.blob()
        reader.varint()
    reader.take(64)
    return reader.data[begin : reader.at]


class Block(NamedTuple):
    """chain 4."""

    height: int
    parent: bytes
    time: int
    tx_root: bytes
    receipts_root: bytes
    state_root: bytes
    id: bytes
    transactions: list[bytes]


def read_block(data: bytes, genesis: Genesis) -> Block:
    """chain 4: a block that counts by itself (rules 4.2 and 4.3)."""
    reader = Reader(data)
    height, parent, when = reader.varint(), reader.take(32), reader.varint()
    tx_root, receipts_root, state_root, producer = (reader.take(32) for _ in range(4))
    header = data[: reader.at]
    transactions = reader.list(lambda: skip_transaction(reader))
    require(reader.varint() == 0, "a certificate that is not of `solo`")
    signature = reader.take(64)
    reader.end()
    require(producer == genesis.producer, "a block of another producer")
    certified = signed_bytes("peerage-chain-solo-certificate-v1", genesis.network, header)
    verify(producer, signature, certified, "a block's certificate")
    require(bool(transactions) and list_root(transactions) == tx_root, "a block with another tx_root")
    block_id = digest("peerage-chain-block-id-v1", header)
    return Block(height, parent, when, tx_root, receipts_root, state_root, block_id, transactions)


def list_root(items: list[bytes]) -> bytes:
    """chain 5."""
    if not items:
        return digest("peerage-chain-list-empty-v1")
    if len(items) == 1:
        return digest("peerage-chain-list-leaf-v1", items[0])
    half = 1 << (len(items) - 1).bit_length() - 1
    return digest("peerage-chain-list-node-v1", list_root(items[:half]), list_root(items[half:]))


def state_leaf(key_hash: bytes, version: int, value_hash: bytes) -> tuple[bytes, bytes]:
    """chain 7: where a leaf stands, and its hash."""
    return key_hash, digest("peerage-chain-state-leaf-v1", key_hash, version.to_bytes(8), value_hash)


def state_root(leaves: dict[bytes, bytes], depth: int = 0) -> bytes:
    """chain 7: of the leaves by their places."""
    if len(leaves) < 2:
        return next(iter(leaves.values()), bytes(32))
    halves: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    for place, leaf in leaves.items():
        halves[place[depth // 8] >> 7 - depth % 8 & 1][place] = leaf
    return digest("peerage-chain-state-branch-v1", *(state_root(half, depth + 1) for half in halves))


def check_first_block(block: Block, genesis: Genesis, transaction: Transaction) -> None:
    """chain 4.4, 6 and 7: executes the one transaction on the empty state and compares."""
    require((block.height, block.parent) == (1, genesis.block_zero()), "the block is not the first of its chain")
    require(block.time >= genesis.time, "the block lies before the genesis")
    require(block.transactions == [transaction.encoded], "the block holds other transactions too")
    require(block.receipts_root == list_root([varint(0)]), "another receipts_root than one `applied` gives")
    key_hash = digest("peerage-chain-state-key-v1", transaction.key)
    value_hash = digest("peerage-chain-state-value-v1", transaction.value)
    nonce_hash = digest("peerage-chain-state-nonce-v1", transaction.account)
    leaves = dict([state_leaf(key_hash, 1, value_hash), state_leaf(nonce_hash, 1, bytes(32))])
    require(block.state_root == state_root(leaves), "another state_root than execution gives")


def head_payload(height: int, block_id: bytes) -> bytes:
    """chain 9."""
    return varint(height) + block_id
