"""A peer that was written from docs/protocol alone, in another language, against a node that was not.

It joins a fresh network, proves who it is, pings, looks up a node and dials it where it was found, subscribes,
publishes a transaction, and computes the block that must come of it for itself. Docstrings, here and in the modules
beside it (encoding, connection, discovery, chain), name the sections of the documents that they follow.

`.ci/interop` runs it; each step that succeeds is one line, the first that fails ends it with exit code 1.
"""

import argparse
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import chain
import discovery
from chain import BLOCK_TOPIC, BLOCKS, HEAD, TX_TOPIC, Genesis, Transaction, check_first_block, head_payload, read_block
from connection import NOTIFICATION, Connection, Message, Network
from discovery import FIND, RECORD, NodeRecord, dht_key, find, node_record, read_node_record
from encoding import Identity, ProtocolError, array, blob, read_whole, require, varint

ITEM, SUBSCRIBE = 0x0203, 0x020A  # gossip 2
GOSSIP_LIMITS = {ITEM: 2_096_161, SUBSCRIBE: 2113}


def notification(command: int) -> Callable[[Message], Message | None]:
    return lambda m: m if (m.command, m.purpose) == (command, NOTIFICATION) else None


def item_of(topic: str) -> Callable[[Message], bytes | None]:
    """gossip 4: the content of an item of a topic."""
    return lambda m: m.body if (m.command, m.head) == (ITEM, blob(topic.encode())) else None


def look_up(peer: Connection, node: bytes) -> dict[bytes, NodeRecord]:
    """discovery 5: asks until the node is named; the one we ask may have met it only now."""
    while node not in (nodes := find(peer, node)):
        peer.time_left()
        time.sleep(0.2)  # discovery 4.3 permits ten a second
    return nodes


def say(step: str) -> None:
    print(step, flush=True)


def run(arguments: argparse.Namespace) -> None:
    """The steps of the documents' smallest peer and a user's, in their order; one line each."""
    genesis = Genesis.load(arguments.genesis)
    deadline = time.monotonic() + arguments.timeout
    limits, answers = discovery.LIMITS | GOSSIP_LIMITS | chain.LIMITS, discovery.ANSWERS | chain.ANSWERS
    network = Network(genesis.network, genesis.magic(), limits, answers)
    me, witness, guest = Identity(), Identity(), Identity()
    node, other = arguments.node, arguments.find
    place = socket.create_server(("127.0.0.1", 0))  # the address of our record is ours, though nobody answers there
    topics = [BLOCK_TOPIC, TX_TOPIC]

    def dial(
        address: tuple[str, int],
        identity: Identity,
        expected: bytes,
        dial_key: bytes | None = None,
        question: tuple[int, bytes] | None = None,
    ) -> Connection:
        return Connection(address, network, identity, expected, deadline, dial_key, question)

    with dial(arguments.connect, me, node) as peer:
        say(f"connected to {arguments.connect[0]}:{arguments.connect[1]}, network {genesis.network.hex()}")
        rtt = peer.ping()  # the first sealed record that comes back: only now the node has taken our proof
        say(f"proved: we are {me.id.hex()}, the node is {node.hex()}")
        say(f"pinged, rtt {rtt * 1000:.1f} ms")

        # discovery 4 and 5, gossip 3, chain 10: what each side tells a peer that connects.
        my_record = node_record(me, genesis.network, place.getsockname())
        peer.send(RECORD, my_record)
        theirs = read_node_record(peer.wait(notification(RECORD)).head, genesis.network)
        require(theirs.node == node, "RECORD of another node than the sender")
        nodes = look_up(peer, other)
        with dial(nodes[other].addresses[0], guest, other) as found:
            found.ping()
            other_key = found.dial_key
        question = (FIND, dht_key(me.id))
        with dial(arguments.connect, witness, node, peer.dial_key, question) as second:
            require(not second.retried and second.dial_key == peer.dial_key, "the node does not know its own key")
            require(second.asked == question, "the question was not asked with the first words")
            named = find(second, me.id).get(me.id)
            require(second.asked is None, "the question was asked a second time")
            require(named is not None and named.addresses == [place.getsockname()], "others do not find us")
        say(f"looked up {len(nodes)} nodes, dialled {other.hex()} where it was found; others find us")

        # transport 5.8: a key of another process, as if the node had restarted since.
        with dial(arguments.connect, guest, node, other_key) as again:
            again.ping()
            require(again.retried and again.dial_key == peer.dial_key, "another key did not lead to RETRY")
        say("dialled and asked by its key (IK), and dialled by a key that it does not have (RETRY, then XX)")

        peer.send(SUBSCRIBE, array([blob(topic.encode()) for topic in topics]))
        peer.send(HEAD, head_payload(0, genesis.block_zero()))
        wants = read_whole(peer.wait(notification(SUBSCRIBE)).head, lambda reader: reader.list(reader.blob))
        require(TX_TOPIC.encode() in wants and wants == sorted(set(wants)), f"the node subscribed to {wants}")
        head = peer.wait(notification(HEAD)).head
        require(head == head_payload(0, genesis.block_zero()), f"the network is not fresh: HEAD {head.hex()}")
        say(f"subscribed to {', '.join(topics)}")

        transaction = Transaction.put(genesis.chain_id, arguments.key.encode(), arguments.value.encode(), 1000)
        peer.send(ITEM, blob(TX_TOPIC.encode()), transaction.encoded)
        say(f"published {transaction.id().hex()}")

        encoded = peer.wait(item_of(BLOCK_TOPIC))
        block = read_block(encoded, genesis)
        check_first_block(block, genesis, transaction)
        new_head = head_payload(block.height, block.id)
        peer.wait(lambda m: True if (m.command, m.head) == (HEAD, new_head) else None)
        answer = peer.ask(BLOCKS, BLOCKS, varint(block.height) + varint(1_048_576))
        lengths = read_whole(answer.head, lambda reader: reader.list(lambda: reader.varint(32)))
        require((lengths, answer.body) == ([len(encoded)], encoded), "BLOCKS gives another block than gossip")
        say(f"committed at height {block.height} in block {block.id.hex()}")


def address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genesis", type=Path, required=True, help="genesis.toml of a network without blocks")
    parser.add_argument("--connect", type=address, required=True, metavar="IP:PORT", help="the node to connect to")
    parser.add_argument("--node", type=bytes.fromhex, required=True, metavar="ID", help="its id")
    parser.add_argument("--find", type=bytes.fromhex, required=True, metavar="ID", help="another node, to be looked up")
    parser.add_argument("--key", required=True, help="the key to write")
    parser.add_argument("--value", required=True, help="the value to give it")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for everything together")
    try:
        run(parser.parse_args())
    except (ProtocolError, OSError) as error:
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
