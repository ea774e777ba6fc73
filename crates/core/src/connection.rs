//! The contract of a connection: the pure machine below the protocols, which speaks bytes.

use bytes::Bytes;
use core::{net::SocketAddr, time::Duration};
use std::sync::{Arc, OnceLock};

use crate::{
    Account, Charge, Class, CloseReason, Closed, Command, DropReason, Message, NodeId, Now, PerClass, RequestError,
    Timestamp, budget::Owed,
};

/// The X25519 public key of a peer's process, proved by a handshake with it: who knows it may dial that process with one
/// round trip less. It dies with the process, so it may be out of date at any time, which costs that round trip again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialKey(pub [u8; 32]);

/// Who is at the other end of an authenticated connection, and how it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The identity that the other side proved.
    pub peer: NodeId,
    /// Whether we dialled.
    pub outbound: bool,
    /// The address of the other end of the stream.
    pub remote: SocketAddr,
    /// Where the other side says that it listens; unproved.
    pub listen: Vec<SocketAddr>,
    /// Feature bits that both sides offered.
    pub features: u64,
    /// The key of the peer's process, if the channel has such keys.
    pub dial_key: Option<DialKey>,
}

/// What the heartbeats of a connection have shown of the way to the other side, and of its clock.
///
/// Estimates: whoever answers late makes the round trips longer, never shorter, and says of its clock what it likes. So nothing
/// is set by them, least of all a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// The smoothed round-trip time (RFC 6298, SRTT).
    pub rtt: Duration,
    /// The shortest round trip so far.
    pub minimum: Duration,
    /// The smoothed deviation of round trips (RFC 6298, RTTVAR).
    pub jitter: Duration,
    /// How far the other side's clock is ahead of ours in milliseconds, negative if it is behind: of the shortest of the last
    /// round trips, as NTP does it (RFC 5905, 10), so it is wrong by half of that one at most if the other side is honest.
    /// A day either way at most.
    pub clock_offset_ms: i64,
}

impl LinkStats {
    /// After the first round trip (RFC 6298, 2.2).
    pub fn first(rtt: Duration, clock_offset_ms: i64) -> Self {
        Self { rtt, minimum: rtt, jitter: rtt / 2, clock_offset_ms }
    }
}

/// What all recipients of a message share beside its bytes: what pays for them, and the compressed body once somebody has
/// made one.
#[derive(Debug)]
pub struct Resident {
    charge: Charge,
    packed: OnceLock<Option<(Bytes, Charge)>>,
}

impl Resident {
    /// The compressed body, which `pack` makes with what pays for it, for the first recipient that takes such. Whoever asks
    /// meanwhile waits for it. `pack` answers `None` if there is nothing to be gained or no memory, and is not asked again.
    /// It must give the same whoever asks.
    pub fn packed(&self, pack: impl FnOnce() -> Option<(Bytes, Charge)>) -> Option<&Bytes> {
        self.packed.get_or_init(pack).as_ref().map(|(bytes, _)| bytes)
    }

    /// What becomes free for all with the last reference to this, in bytes: the part of it that is not of a floor.
    pub fn shared(&self) -> usize {
        let packed = self.packed.get().and_then(Option::as_ref);
        self.charge.shared() + packed.map_or(0, |(_, charge)| charge.shared())
    }

    /// For when memory is short: nobody makes a compressed body, which would take more.
    pub fn without_packed(charge: Charge) -> Self {
        Self { charge, packed: OnceLock::from(None) }
    }
}

impl From<Charge> for Resident {
    fn from(charge: Charge) -> Self {
        Self { charge, packed: OnceLock::new() }
    }
}

/// A message on its way out, with what pays for it.
#[derive(Debug)]
pub struct Outbound {
    /// The message; its bytes are shared by all recipients.
    pub message: Message,
    /// Pays for the bytes, once for all recipients.
    pub resident: Arc<Resident>,
    /// This peer's share of the queue.
    pub owed: Owed,
}

/// What the runner asks of a connection.
#[derive(Debug)]
pub enum ConnectionCommand {
    /// Send a notification.
    Notify(Outbound),
    /// Send a request; exactly one [`ConnectionEvent::Response`] with this id follows.
    Request {
        /// The runner's name of the request.
        id: u64,
        /// What.
        outbound: Outbound,
        /// How long to wait for the answer.
        timeout: Duration,
    },
    /// Answer the request with this wire id.
    Respond {
        /// As given in [`ConnectionEvent::Request`].
        id: u64,
        /// What.
        outbound: Outbound,
    },
    /// The stack consumed so many bytes of a class: let the other side send as many again.
    Consumed {
        /// The class.
        class: Class,
        /// What the messages were charged on arrival (`Charge::bytes`), which is what their sender's credit paid.
        bytes: usize,
    },
    /// Carry these bytes in every heartbeat from now on; 64 at most.
    Heartbeat(Bytes),
    /// Charge what arrives from now on to this account, as soon as it has its [seat](crate::Budget::seat) in the budget.
    Account(Account),
    /// Drop messages that wait to be sent, those of the lowest class first, until so many bytes of what all share are free; never
    /// one of which something is sent, and those whose bytes others wait for, too, last. A request among them fails with [`DropReason::Shed`](crate::DropReason::Shed).
    Shed {
        /// How many at least.
        bytes: usize,
    },
    /// Whether to take bytes at all.
    Listen(bool),
    /// Say why and end.
    Close(CloseReason),
}

/// What a connection tells the runner.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The other side proved its identity; messages may flow.
    Established(LinkInfo),
    /// A notification arrived.
    Message {
        /// What.
        message: Message,
        /// Pays for what it keeps in memory.
        charge: Charge,
    },
    /// A request arrived.
    Request {
        /// The wire id, for [`ConnectionCommand::Respond`].
        id: u64,
        /// What.
        message: Message,
        /// Pays for what it keeps in memory.
        charge: Charge,
    },
    /// A question came with the first words of a handshake, from somebody who has yet to show that it is there: before
    /// `Established`, once at most.
    Early {
        /// The wire id, for [`ConnectionCommand::Respond`].
        id: u64,
        /// Who made it, now or earlier.
        claims: NodeId,
        /// What.
        message: Message,
    },
    /// A request of ours ended.
    Response {
        /// The runner's name of the request.
        id: u64,
        /// The answer, or why there is none.
        result: Result<(Message, Charge), RequestError>,
    },
    /// A heartbeat came back; what is known now.
    Stats(LinkStats),
    /// The other side's heartbeat carried these bytes.
    Heartbeat(Bytes),
    /// The budget refuses what arrives (`true`), or takes it again.
    Waits(bool),
    /// Messages of a class were skipped, because nobody knows their command or waits for them: counted, not punished.
    Skipped {
        /// How many in a row whose command nobody knows; responses that nobody waits for are none of these.
        count: u64,
        /// Their class.
        class: Class,
        /// What they cost their sender's credit, to be given back as [`ConnectionCommand::Consumed`] like that of any other
        /// message: this work is no more free than other work.
        bytes: usize,
    },
    /// Messages of a kind were taken and will never be sent.
    Unsent {
        /// Which kind of message.
        command: Command,
        /// Why: `Superseded` (a request whose time was over first), `Shed` (memory was short), `ConnectionLost`.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// Bodies went out or came in compressed since this was told last.
    Packed {
        /// Whether they came in.
        received: bool,
        /// Their bytes.
        bytes: u64,
        /// The bytes that went over the wire for them.
        packed: u64,
    },
    /// The connection is over; nothing follows. What it still has to transmit should be written first.
    Closed(Closed),
}

/// A connection as a pure state machine over bytes.
///
/// Inputs are `handle_*`, outputs `poll_*`. After every input the runner drains [`poll_event`](Self::poll_event), writes
/// what [`poll_transmit`](Self::poll_transmit) gives as long as the socket takes it, and asks
/// [`next_timeout`](Self::next_timeout).
pub trait Connection {
    /// Bytes arrived, in order. All are taken; while [`wants_bytes`](Self::wants_bytes) is false no more should come.
    fn handle_bytes(&mut self, now: Now, bytes: &[u8]);
    /// The stream is over: cleanly (`None`) or with an error.
    fn handle_stream_end(&mut self, now: Now, reason: CloseReason);
    /// The runner wants something.
    fn handle_command(&mut self, now: Now, command: ConnectionCommand);
    /// The moment that `next_timeout` named has passed.
    fn handle_timeout(&mut self, now: Now);
    /// Appends what must be written next to `buf` and says whether anything was appended. It fills at most `limit` bytes
    /// beyond what one record needs, and picks what is most urgent at this very moment: so ask only when the socket can
    /// take it. Fewer than `limit` bytes are all that there is at this moment.
    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>, limit: usize) -> bool;
    /// Of which classes a record could be written at this very moment: for a runner that decides over many connections who
    /// writes next. What `poll_record` gives whatever it is asked for counts as `Control`.
    fn wants_to_send(&mut self) -> PerClass<bool>;
    /// As [`poll_transmit`](Self::poll_transmit), but one record at most, of `limit` bytes at most with all that surrounds its
    /// messages, and of no class but this and what `Control` has due. What belongs to no record, such as a handshake's messages and
    /// the last words, comes alone and whole. A limit below 1 KiB may be passed.
    fn poll_record(&mut self, now: Now, buf: &mut Vec<u8>, class: Class, limit: usize) -> bool;
    /// What happened, in order; `None` when there is nothing more.
    fn poll_event(&mut self) -> Option<ConnectionEvent>;
    /// When to call `handle_timeout`, if at all.
    fn next_timeout(&self) -> Option<Timestamp>;
    /// Whether the socket should be read. False while the budget refuses what would arrive, or nobody wants to listen.
    fn wants_bytes(&self) -> bool;
}
