"""From a stream to messages between two identities: wire 2, 3, 5 and 6, and transport. We only ever initiate."""

import hashlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseInvalidMessage

from encoding import Identity, Reader, array, blob, fail, read_whole, require, signed_bytes, varint, verify

T = TypeVar("T")

# wire 2: kinds of records and the most that each may carry.
PREAMBLE, HANDSHAKE, REFUSE, DATA, CLOSE, RETRY = 1, 2, 3, 4, 5, 6
LIMITS = {PREAMBLE: 37, HANDSHAKE: 4096, REFUSE: 1, DATA: 16384, CLOSE: 1, RETRY: 0}
# wire 5: purposes and flags of frames.
NOTIFICATION, REQUEST, RESPONSE = 0, 1, 2
FIRST, LAST, BODY = 0x04, 0x08, 0x20
# wire 9; transport 7 and 9: the longest message, the windows of classes 1 to 4, what a message costs beyond its bytes.
MAX_MESSAGE, MESSAGE_COST = 2_096_128, 256
WINDOWS = {1: 1_048_576, 2: 524_288, 3: 4_194_304, 4: 4_194_304}
# transport 7: number and limit of its own messages.
PING, PONG, CREDIT = 0x0000, 0x0008, 0x0010
CONTROL_LIMITS = {PING: 75, PONG: 85, CREDIT: 6}
# wire 7: limits by class, where no table names one.
CLASS_LIMITS = {0: 1024, 1: 262_144, 2: 65_536, 3: MAX_MESSAGE, 4: MAX_MESSAGE}
REQUESTED = 2  # wire 10
REKEY_AFTER = 65_536  # transport 6


class Network(NamedTuple):
    """What a connection must know of the network and of the layers above: the id, the magic, the limits of messages by
    command (wire 9.2), and to which requests we answer with which command and head."""

    id: bytes
    magic: bytes
    limits: Mapping[int, int]
    answers: Mapping[int, tuple[int, bytes]]


class Message(NamedTuple):
    """wire: command, purpose [id], head [body]."""

    command: int
    purpose: int
    id: int | None
    head: bytes
    body: bytes | None


class Assembly(NamedTuple):
    """wire 6: a message of which some fragments are still to come."""

    command: int
    purpose: int
    id: int | None
    head_length: int
    body_length: int | None
    pieces: bytearray


class Connection:
    """transport: one stream to one node, opened by us, by the key of its process if we know one (`dial_key`); then our
    first words may ask something, a command and a head (`question`). Every wait ends at `deadline` (monotonic seconds).
    Afterwards `dial_key` is the key that was proved, `retried` whether it was another one than we knew, `asked` the
    question whose answer is on its way or there."""

    def __init__(
        self,
        address: tuple[str, int],
        network: Network,
        identity: Identity,
        expected: bytes,
        deadline: float,
        dial_key: bytes | None = None,
        question: tuple[int, bytes] | None = None,
    ) -> None:
        self.network, self.identity, self.deadline = network, identity, deadline
        self.stream = socket.create_connection(address, timeout=self.time_left())
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = self.received = 0
        self.credit = dict(WINDOWS)  # what we may still send
        self.granted = dict(WINDOWS)  # what the node may still send
        self.partial: dict[int, Assembly] = {}
        self.inbox: deque[Message] = deque()
        self.pongs: set[int] = set()
        self.next_id = 0
        self.retried = False
        self.asked: tuple[int, bytes] | None = None
        self.handshake(expected, dial_key, question)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        """transport 12: say why, end our direction, and read on for a moment so that the words arrive."""
        try:
            self.write_record(CLOSE, bytes([REQUESTED]))
            self.stream.shutdown(socket.SHUT_WR)
            self.stream.settimeout(1)
            while self.stream.recv(65_536):
                pass
        except OSError:
            pass  # the node was faster
        finally:
            self.stream.close()

    def time_left(self) -> float:
        left = self.deadline - time.monotonic()
        require(left > 0, "it takes too long")
        return left

    def read_exactly(self, size: int) -> bytes:
        out = bytearray()
        while len(out) < size:
            self.stream.settimeout(self.time_left())
            piece = self.stream.recv(size - len(out))
            require(bool(piece), "the node ended the stream without a word")
            out += piece
        return bytes(out)

    # transport 2 to 5: the handshake

    def clear_record(self, kind: int, payload: bytes) -> bytes:
        """wire 2."""
        return self.network.magic + bytes([1, 0]) + kind.to_bytes(2) + len(payload).to_bytes(4) + payload

    def read_clear_record(self, awaited: tuple[int, ...] = (HANDSHAKE,), start: bytes = b"") -> tuple[int, bytes]:
        """wire 2: kind and payload of a record of these kinds; REFUSE is an error."""
        header = start + self.read_exactly(12 - len(start))
        kind, length = int.from_bytes(header[6:8]), int.from_bytes(header[8:])
        require(header[:6] == self.network.magic + b"\x01\x00", f"another magic, version or flags: {header.hex()}")
        require(kind in (*awaited, REFUSE) and length <= LIMITS[kind], f"a record of kind {kind}, {length} bytes")
        payload = self.read_exactly(length)
        require(kind != REFUSE, f"the node refused with reason {int.from_bytes(payload)} (wire 10)")
        return kind, payload

    def handshake(self, expected: bytes, dial_key: bytes | None, question: tuple[int, bytes] | None) -> None:
        """transport 2 and 3: PREAMBLE and message 1 at once; IK by a key that we know, else XX."""
        preamble = bytes([1, 1]) + self.network.id + bytes([1 if dial_key is None else 2, 1, 0])
        record = self.clear_record(PREAMBLE, preamble)
        if dial_key is None:
            self.handshake_xx(expected, b"peerage-v1" + record, record)
        else:
            self.handshake_ik(expected, record, dial_key, question)

    def begin(self, name: bytes, prologue: bytes, dial_key: bytes | None = None) -> None:
        """transport 3: what `Initialize()` leaves, with a static key that nobody has seen."""
        self.noise = NoiseConnection.from_name(name)
        self.noise.set_as_initiator()
        self.noise.set_prologue(prologue)
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, os.urandom(32))
        if dial_key is not None:
            self.noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, dial_key)
        self.noise.start_handshake()

    def handshake_xx(self, expected: bytes, prologue: bytes, before: bytes = b"") -> None:
        """transport 3: message 1 behind what comes before it, message 2, message 3."""
        self.begin(b"Noise_XX_25519_ChaChaPoly_SHA256", prologue)
        state = self.noise.noise_protocol.handshake_state
        self.stream.sendall(before + self.clear_record(HANDSHAKE, bytes(self.noise.write_message())))
        transcript = state.symmetric_state.get_handshake_hash()
        self.read_proof(self.read_clear_record()[1], transcript, expected)
        proof = self.proof(state.symmetric_state.get_handshake_hash(), state.s.public_bytes, version=1)
        self.stream.sendall(self.clear_record(HANDSHAKE, bytes(self.noise.write_message(proof))))

    def handshake_ik(
        self, expected: bytes, preamble: bytes, dial_key: bytes, question: tuple[int, bytes] | None
    ) -> None:
        """transport 3 and 5.7 to 5.13: message 1 with our proof and question, message 2 and the first record; XX after
        RETRY."""
        self.begin(b"Noise_IK_25519_ChaChaPoly_SHA256", b"peerage-v1" + preamble, dial_key)
        state = self.noise.noise_protocol.handshake_state
        words = b""
        if question is not None:
            command, head = question
            words = varint(command) + bytes([REQUEST | FIRST | LAST]) + varint(self.next_id) + varint(len(head)) + head
        proof = self.proof(state.symmetric_state.get_handshake_hash(), state.s.public_bytes, 0, words)
        first = self.clear_record(HANDSHAKE, bytes(self.noise.write_message(proof)))
        self.stream.sendall(preamble + first)
        transcript = state.symmetric_state.get_handshake_hash()
        kind, payload = self.read_clear_record((HANDSHAKE, RETRY))
        if kind == RETRY:
            self.retried = True
            both = hashlib.sha256(first + self.clear_record(RETRY, b"")).digest()
            return self.handshake_xx(expected, b"peerage-v1" + preamble + both)
        self.read_proof(payload, transcript, expected)
        self.asked = question
        self.next_id += question is not None
        self.send(PING, varint(0) + blob(b""))

    def read_proof(self, message: bytes, transcript: bytes, expected: bytes) -> None:
        """transport 3 and 4: the message of the node, and the key that it proves."""
        state = self.noise.noise_protocol.handshake_state
        try:
            payload = self.noise.read_message(message)
        except (InvalidTag, ValueError):
            fail("message 2 does not authenticate")
        self.dial_key = state.rs.public_bytes
        self.check_proof(bytes(payload), transcript, self.dial_key, expected)

    def proof(self, transcript: bytes, static: bytes, version: int, words: bytes = b"") -> bytes:
        """transport 4: our padded payload, with early words; we offer no features and accept no streams."""
        signature = self.identity.key.sign(signed_bytes("peerage-noise-v1", b"\x00", transcript, static))
        body = self.identity.id + signature + varint(version << 56) + array([])
        framed = len(body).to_bytes(2) + body
        framed += len(words).to_bytes(2) + words if words else b""
        return framed + bytes(-len(framed) % 256)

    def check_proof(self, payload: bytes, transcript: bytes, static: bytes, expected: bytes) -> None:
        """transport 4: the payload of message 2."""
        length = int.from_bytes(payload[:2])
        require(len(payload) <= 1024 and len(payload) == -(-(2 + length) // 256) * 256, "a proof of wrong size")
        require(not any(payload[2 + length :]), "the padding of a proof is not zeros")
        reader = Reader(payload[2 : 2 + length])
        identity, signature, features = reader.take(32), reader.take(64), reader.varint()
        listen = reader.list(reader.address)
        reader.end()
        require(len(listen) <= 4, "a proof names more than four addresses")
        verify(identity, signature, signed_bytes("peerage-noise-v1", b"\x01", transcript, static), "the node's proof")
        require(features >> 56 == 1, "the node chose a version that was not offered")
        require(identity == expected, f"the node is {identity.hex()}, not {expected.hex()}")

    # transport 6: sealed records

    def write_record(self, kind: int, payload: bytes) -> None:
        """wire 3; transport 6."""
        body = self.noise.encrypt(bytes([kind << 4]) + payload)
        self.stream.settimeout(self.time_left())
        self.stream.sendall(len(body).to_bytes(2) + body)
        self.sent += 1
        if self.sent % REKEY_AFTER == 0:
            self.noise.rekey_outbound_cipher()

    def read_record(self) -> bytes:
        """wire 3; transport 6: the frames of the next DATA record; CLOSE, and REFUSE by transport 5.3, are errors."""
        start = self.read_exactly(2)
        if self.received == 0 and start == self.network.magic[:2]:
            self.read_clear_record(start=start)
            fail("a record in clear came under keys")
        length = int.from_bytes(start)
        require(17 <= length <= LIMITS[DATA] + 17, f"a sealed record of {length} bytes")
        try:
            plain = self.noise.decrypt(self.read_exactly(length))
        except NoiseInvalidMessage:
            fail("a sealed record does not authenticate")
        self.received += 1
        if self.received % REKEY_AFTER == 0:
            self.noise.rekey_inbound_cipher()
        require(plain[0] != CLOSE << 4, f"the node closed with reason {int.from_bytes(plain[1:])} (wire 10)")
        require(plain[0] == DATA << 4, f"a sealed record of kind and flags {plain[0]:02x}")
        return plain[1:]

    # wire 5 and 6, transport 7 to 11: messages

    def send(
        self, command: int, head: bytes, body: bytes | None = None, purpose: int = NOTIFICATION, id: int = 0
    ) -> None:
        """wire 5: one whole frame in a record of its own, which all fits that we say; transport 9: within credit."""
        cost = len(head) + len(body or b"") + MESSAGE_COST
        while command & 7 and self.credit[command & 7] < cost:
            self.receive_record()
        if command & 7:
            self.credit[command & 7] -= cost
        flags = purpose | FIRST | LAST | (BODY if body is not None else 0)
        frame = varint(command) + bytes([flags]) + (varint(id) if purpose else b"") + varint(len(head))
        frame += varint(len(body)) + head + body if body is not None else head
        require(len(frame) <= LIMITS[DATA], "we have more to say than a record holds")
        self.write_record(DATA, frame)

    def receive_record(self) -> None:
        """Reads one record and handles the messages that it completes."""
        reader = Reader(self.read_record())
        require(reader.left() > 0, "a DATA record without a frame")
        while reader.left():
            message = self.read_frame(reader)
            if message is not None:
                self.handle(message)

    def read_frame(self, reader: Reader) -> Message | None:
        """wire 5 and 6: a message if this frame is or completes one."""
        command, flags = reader.varint(16), reader.byte()
        kind, limit = command & 7, self.limit(command)
        require(limit >= 0, f"command {command:04x} is of no class")
        if not flags & FIRST:
            require(flags & ~LAST == 0 and kind in self.partial, "a fragment out of place")
            partial = self.partial[kind]
            require(partial.command == command, "a fragment of another message")
        else:
            purpose = flags & 3
            require(purpose != 3 and flags & 0xD0 == 0 and kind not in self.partial, f"frame flags {flags:02x}")
            id = reader.varint() if purpose else None
            head, body = reader.varint(), reader.varint() if flags & BODY else None
            require(head + (body or 0) <= limit, f"a message of {head} and {body} bytes")
            self.spend(kind, head + (body or 0) + MESSAGE_COST)
            partial = Assembly(command, purpose, id, head, body, bytearray())
            if flags & LAST:
                partial.pieces.extend(reader.take(head + (body or 0)))
                return self.complete(partial)
            require(kind != 0, "a control message in fragments")
            self.partial[kind] = partial
        piece = reader.blob()
        partial.pieces.extend(piece)
        missing = partial.head_length + (partial.body_length or 0) - len(partial.pieces)
        require(len(piece) > 0 and missing >= 0 and (missing == 0) == bool(flags & LAST), "a piece of wrong size")
        require(not flags & FIRST or missing > 0, "a first fragment that is the whole")
        if missing:
            return None
        return self.complete(self.partial.pop(kind))

    def limit(self, command: int) -> int:
        """wire 9.2: of head and body together; -1 if the command's class does not exist."""
        of_class = CLASS_LIMITS.get(command & 7, -1)
        return min(CONTROL_LIMITS.get(command, self.network.limits.get(command, of_class)), MAX_MESSAGE)

    def spend(self, kind: int, cost: int) -> None:
        """transport 9.2."""
        if kind:
            self.granted[kind] -= cost
            require(self.granted[kind] >= 0, f"more than was granted in class {kind}")

    def complete(self, whole: Assembly) -> Message:
        """Cuts head from body, and returns the credit at once: what a script holds it has consumed (transport 9.3)."""
        kind, cost = whole.command & 7, len(whole.pieces) + MESSAGE_COST
        if kind:
            self.granted[kind] += cost
            self.send(CREDIT, bytes([kind]) + varint(cost))
        head, rest = bytes(whole.pieces[: whole.head_length]), bytes(whole.pieces[whole.head_length :])
        return Message(whole.command, whole.purpose, whole.id, head, None if whole.body_length is None else rest)

    def handle(self, message: Message) -> None:
        """transport 7 and 8: control messages, requests; the rest waits in the inbox for whoever wants it."""
        command, purpose, id, head, _ = message
        if (command, purpose) == (PING, NOTIFICATION):
            nonce, _theirs = read_whole(head, lambda reader: (reader.varint(), reader.blob()))
            self.send(PONG, varint(nonce) + varint(time.time_ns() // 1_000_000) + blob(b""))  # data would say how far we are, not repeat how far they are
        elif (command, purpose) == (PONG, NOTIFICATION):
            self.pongs.add(read_whole(head, lambda reader: (reader.varint(), reader.varint(), reader.blob()))[0])
        elif (command, purpose) == (CREDIT, NOTIFICATION):
            kind, amount = read_whole(head, lambda reader: (reader.byte(), reader.varint(32)))
            require(kind in WINDOWS and amount > 0, "credit for nothing")
            self.credit[kind] += amount
            require(self.credit[kind] <= WINDOWS[kind], "credit that was never spent")
        elif purpose == REQUEST and command in self.network.answers and id is not None:
            answer, payload = self.network.answers[command]
            self.send(answer, payload, purpose=RESPONSE, id=id)
        elif purpose != REQUEST:
            self.inbox.append(message)

    def wait(self, wanted: Callable[[Message], T | None]) -> T:
        """The first answer of `wanted` that is not None, to a message that waits or comes; skips none of the others."""
        while True:
            for index, message in enumerate(self.inbox):
                if (found := wanted(message)) is not None:
                    del self.inbox[index]
                    return found
            seen = len(self.inbox)
            while len(self.inbox) == seen:
                self.receive_record()

    def ask(self, command: int, answer: int, head: bytes) -> Message:
        """transport 11: a request, and the response with its id; one that our first words asked is not sent again."""
        if self.asked == (command, head):
            id, self.asked = 0, None
        else:
            id, self.next_id = self.next_id, self.next_id + 1
            self.send(command, head, purpose=REQUEST, id=id)
        return self.wait(lambda m: m if (m.command, m.purpose, m.id) == (answer, RESPONSE, id) else None)

    def ping(self) -> float:
        """transport 8: seconds until the PONG with our nonce."""
        nonce, begin = int.from_bytes(os.urandom(8)), time.monotonic()
        self.send(PING, varint(nonce) + blob(b""))
        while nonce not in self.pongs:
            self.receive_record()
        return time.monotonic() - begin
