//! Messages longer than a record: cut on one side, put together on the other.

use bytes::Bytes;
use peerage_core::{Account, Budget, Charge, Command, Message, OverBudget, PerClass, Pool};
use std::sync::Arc;

use crate::{
    DecodeError, Envelope, Frame,
    buffer::grown,
    frame::{Prefix, encode_frame, frame_len},
    limits::{Limits, MESSAGE_OVERHEAD},
    varint,
};

/// A message on its way into records, a piece at a time.
///
/// The sender takes as much as it wants now and comes back for the rest after whatever is more urgent. It must finish
/// one message of a class before it begins another of that class.
#[derive(Clone, Debug)]
pub struct Fragmenter {
    message: Message,
    envelope: Envelope,
    sent: usize,
    begun: bool,
}

impl Fragmenter {
    /// A message of which nothing is sent yet. Whether it may be as long as it is, is for the caller to check.
    pub const fn new(message: Message, envelope: Envelope) -> Self {
        Self { message, envelope, sent: 0, begun: false }
    }

    /// The message.
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Whether some of it is sent: then no other message of its class may be begun, nor this one be dropped, until the
    /// rest is sent too.
    pub const fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether all of it is sent.
    pub fn is_done(&self) -> bool {
        self.begun && self.sent == self.message.len()
    }

    /// Bytes of head and body that are still to be sent.
    pub fn remaining(&self) -> usize {
        self.message.len() - self.sent
    }

    /// How many bytes the message takes as a single frame. Whoever does not want it cut leaves at least so much room.
    pub fn whole_len(&self) -> usize {
        frame_len(&self.message, self.envelope)
    }

    /// Appends one frame of at most `room` bytes to `out`: the whole message if it fits and nothing of it is sent yet,
    /// else as long a piece as fits. Returns how many bytes were appended: 0 when nothing is left to send or the room
    /// does not even hold a piece of one byte. A room of 32 bytes always holds one, unless the message is empty; an
    /// empty one fits whole.
    pub fn fill(&mut self, room: usize, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        if !self.begun && self.whole_len() <= room {
            encode_frame(&self.message, self.envelope, out);
            self.sent = self.message.len();
            self.begun = true;
        } else if let Some(piece) = self.next_piece(room) {
            self.prefix(piece).put(out);
            let head = &self.message.head;
            let (from, to) = (self.sent, self.sent + piece);
            out.extend_from_slice(&head[from.min(head.len())..to.min(head.len())]);
            if let Some(body) = &self.message.body {
                out.extend_from_slice(&body[from.saturating_sub(head.len())..to.saturating_sub(head.len())]);
            }
            self.sent = to;
            self.begun = true;
        }
        out.len() - before
    }

    /// The longest piece, one byte at least, that fits `room` with its prefix.
    fn next_piece(&self, room: usize) -> Option<usize> {
        let remaining = self.remaining();
        // The prefix of an empty piece counts one byte for the length of the piece.
        let fixed = self.prefix(0).encoded_len() - 1;
        let fits = |piece: usize| fixed + varint::encoded_len(piece as u64) + piece <= room;
        let guess = room.checked_sub(fixed + 1)?.min(remaining);
        // The length of the length takes at most a few bytes more than guessed.
        (guess.saturating_sub(varint::MAX_LEN)..=guess).rev().find(|piece| fits(*piece)).filter(|piece| *piece > 0)
    }

    fn prefix(&self, piece: usize) -> Prefix {
        let Message { command, head, body } = &self.message;
        if self.begun {
            Prefix::next(*command, piece == self.remaining(), piece)
        } else {
            Prefix::first(*command, self.envelope, head.len(), body.as_ref().map(Bytes::len), piece)
        }
    }
}

/// A complete message that arrived.
#[derive(Debug)]
pub struct Incoming {
    /// What it is for.
    pub envelope: Envelope,
    /// The message. Head and body are buffers of their own: keeping one does not keep the other, nor the record.
    pub message: Message,
    /// Pays, in [`Pool::Inbox`], for the bytes and [`MESSAGE_OVERHEAD`].
    pub charge: Charge,
}

/// A message of which bytes are missing.
struct Partial {
    command: Command,
    envelope: Envelope,
    head: Part,
    body: Option<Part>,
    charge: Charge,
}

impl Partial {
    fn missing(&self) -> usize {
        self.head.missing() + self.body.as_ref().map_or(0, Part::missing)
    }
}

/// A buffer that grows with what arrives, up to its total.
struct Part {
    bytes: Vec<u8>,
    total: usize,
}

impl Part {
    const fn new(total: usize) -> Self {
        Self { bytes: Vec::new(), total }
    }

    fn missing(&self) -> usize {
        self.total - self.bytes.len()
    }

    /// The capacity it will have with `more` bytes.
    fn capacity_for(&self, more: usize) -> usize {
        grown(self.bytes.capacity(), self.bytes.len() + more, self.total)
    }

    fn append(&mut self, piece: &[u8]) {
        self.bytes.reserve_exact(self.capacity_for(piece.len()) - self.bytes.len());
        self.bytes.extend_from_slice(piece);
    }
}

/// Makes messages of the frames of one connection, at most one incomplete message for each class.
///
/// Every byte that it keeps is charged to the budget before it is copied. It never holds more than twice what arrived,
/// whatever a first fragment announces.
pub struct Reassembler {
    limits: Arc<Limits>,
    budget: Budget,
    account: Option<Account>,
    /// Boxed, since most connections have none most of the time.
    partial: PerClass<Option<Box<Partial>>>,
}

impl Reassembler {
    /// A reassembler for the beginning of a connection.
    pub fn new(limits: Arc<Limits>, budget: Budget) -> Self {
        Self { limits, budget, account: None, partial: PerClass::from_fn(|_| None) }
    }

    /// What begins from now on is charged to a peer's account, once that has its seat in the same budget.
    pub fn charge_to(&mut self, account: Account) {
        self.account = Some(account);
    }

    /// Bytes that incomplete messages hold now, overhead included.
    pub fn held(&self) -> usize {
        self.partial.iter().filter_map(|(_, partial)| partial.as_ref()).map(|partial| partial.charge.bytes()).sum()
    }

    /// Takes the next frame; the message that it completes, if it does.
    ///
    /// # Errors
    /// `MessageTooLong`, `FragmentWithoutFirst`, `Interleaved`, `PastTotal`, `EndsEarly` or `NotEnded`, by the fault of the
    /// sender; the connection is lost. `OverBudget`, which is nobody's fault: nothing was taken, and the same frame can be
    /// offered again when there is room.
    pub fn accept(&mut self, frame: Frame<'_>) -> Result<Option<Incoming>, DecodeError> {
        let command = frame.command();
        let slot = &mut self.partial[command.class()];
        match (frame, slot) {
            (Frame::Whole { .. } | Frame::First { .. }, Some(partial)) => {
                Err(DecodeError::Interleaved { command, begun: partial.command })
            }
            (Frame::Whole { envelope, head, body, .. }, None) => {
                let len = frame.content_len();
                within(command, len, &self.limits)?;
                let charge = charge(&self.budget, self.account.as_ref(), Pool::Inbox, len + MESSAGE_OVERHEAD)?;
                let (head, body) = (Bytes::copy_from_slice(head), body.map(Bytes::copy_from_slice));
                Ok(Some(Incoming { envelope, message: Message { command, head, body }, charge }))
            }
            (Frame::First { envelope, head_len, body_len, piece, .. }, slot @ None) => {
                let total = head_len.saturating_add(body_len.unwrap_or(0));
                within(command, total, &self.limits)?;
                let charge = charge(&self.budget, self.account.as_ref(), Pool::Reassembly, MESSAGE_OVERHEAD)?;
                let (head, body) = (Part::new(head_len), body_len.map(Part::new));
                let mut partial = Box::new(Partial { command, envelope, head, body, charge });
                extend(&mut partial, piece, false)?;
                *slot = Some(partial);
                Ok(None)
            }
            (Frame::Next { .. }, None) => Err(DecodeError::FragmentWithoutFirst { command }),
            (Frame::Next { .. }, Some(partial)) if partial.command != command => {
                Err(DecodeError::Interleaved { command, begun: partial.command })
            }
            (Frame::Next { last, piece, .. }, slot @ Some(_)) => {
                let partial = slot.as_mut().expect("matched just now");
                extend(partial, piece, last)?;
                Ok(if last { slot.take().map(|partial| complete(*partial)) } else { None })
            }
        }
    }
}

fn charge(budget: &Budget, account: Option<&Account>, pool: Pool, bytes: usize) -> Result<Charge, OverBudget> {
    match account {
        Some(account) => budget.charge_for(account, pool, bytes),
        None => budget.charge(pool, bytes),
    }
}

/// Whether a message may be so long.
fn within(command: Command, len: usize, limits: &Limits) -> Result<(), DecodeError> {
    let limit = limits.of(command);
    if len > limit { Err(DecodeError::MessageTooLong { command, len: len as u64, limit }) } else { Ok(()) }
}

/// Adds a piece, or changes nothing.
fn extend(partial: &mut Partial, piece: &[u8], last: bool) -> Result<(), DecodeError> {
    let missing = partial.missing();
    match missing.checked_sub(piece.len()) {
        None => return Err(DecodeError::PastTotal { excess: piece.len() - missing }),
        Some(0) if !last => return Err(DecodeError::NotEnded),
        Some(missing) if missing > 0 && last => return Err(DecodeError::EndsEarly { missing }),
        Some(_) => {}
    }
    let (head, body) = piece.split_at(piece.len().min(partial.head.missing()));
    let more = |part: &Part, piece: &[u8]| part.capacity_for(piece.len()) - part.bytes.capacity();
    let growth = more(&partial.head, head) + partial.body.as_ref().map_or(0, |part| more(part, body));
    partial.charge.grow(growth)?;
    partial.head.append(head);
    if let Some(part) = &mut partial.body {
        part.append(body);
    }
    Ok(())
}

fn complete(partial: Partial) -> Incoming {
    let Partial { command, envelope, head, body, charge } = partial;
    let message = Message { command, head: head.bytes.into(), body: body.map(|part| part.bytes.into()) };
    Incoming { envelope, message, charge: charge.transfer(Pool::Inbox) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_covers_a_message_in_a_queue_that_is_half_empty() {
        assert!(2 * size_of::<Incoming>() <= MESSAGE_OVERHEAD, "{}", size_of::<Incoming>());
    }
}
