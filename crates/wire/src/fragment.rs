//! Messages longer than a record: cut on one side, put together on the other.

use bytes::Bytes;
use peerage_core::{Account, Budget, Charge, Command, Message, OverBudget, PerClass, Pool};
use std::sync::Arc;

use crate::{
    DecodeError, Envelope, Frame,
    buffer::grown,
    compress,
    frame::{Lengths, Prefix},
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
    /// What goes in place of the body.
    packed: Option<Bytes>,
    envelope: Envelope,
    sent: usize,
    begun: bool,
}

impl Fragmenter {
    /// A message of which nothing is sent yet. Whether it may be as long as it is, is for the caller to check.
    pub const fn new(message: Message, envelope: Envelope) -> Self {
        Self { message, packed: None, envelope, sent: 0, begun: false }
    }

    /// Sends this form of the body, made by [`compress::pack`] of the same, in its place. The message must not have begun.
    pub fn send_packed(&mut self, packed: Bytes) {
        debug_assert!(!self.begun && self.message.body.is_some(), "the lengths are announced already");
        self.packed = Some(packed);
    }

    /// The packed form of the body, if that is what is sent.
    pub const fn packed(&self) -> Option<&Bytes> {
        self.packed.as_ref()
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
        self.begun && self.remaining() == 0
    }

    /// Bytes of head and body, packed if it is, that are still to be sent.
    pub fn remaining(&self) -> usize {
        self.content_len() - self.sent
    }

    /// How many bytes the message takes as a single frame. Whoever does not want it cut leaves at least so much room.
    pub fn whole_len(&self) -> usize {
        Prefix::whole(self.message.command, self.envelope, self.lengths()).encoded_len() + self.content_len()
    }

    /// What goes as the body.
    fn body(&self) -> &[u8] {
        self.packed.as_ref().or(self.message.body.as_ref()).map_or(&[], |body| &body[..])
    }

    fn content_len(&self) -> usize {
        self.message.head.len() + self.body().len()
    }

    fn lengths(&self) -> Lengths {
        let Message { head, body, .. } = &self.message;
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map(Bytes::len);
        Lengths { head: head.len(), body: len(body), packed: len(&self.packed) }
    }

    /// Appends one frame of at most `room` bytes to `out`: the whole message if it fits and nothing of it is sent yet,
    /// else as long a piece as fits. Returns how many bytes were appended: 0 when nothing is left to send or the room
    /// does not even hold a piece of one byte. A room of 32 bytes always holds one, unless the message is empty; an
    /// empty one fits whole.
    pub fn fill(&mut self, room: usize, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        if !self.begun && self.whole_len() <= room {
            Prefix::whole(self.message.command, self.envelope, self.lengths()).put(out);
            self.put_content(self.content_len(), out);
        } else if let Some(piece) = self.next_piece(room) {
            self.prefix(piece).put(out);
            self.put_content(piece, out);
        }
        out.len() - before
    }

    /// Appends the next bytes of head and body.
    fn put_content(&mut self, piece: usize, out: &mut Vec<u8>) {
        let (head, body) = (&self.message.head, self.body());
        let (from, to) = (self.sent, self.sent + piece);
        out.extend_from_slice(&head[from.min(head.len())..to.min(head.len())]);
        out.extend_from_slice(&body[from.saturating_sub(head.len())..to.saturating_sub(head.len())]);
        self.sent = to;
        self.begun = true;
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
        if self.begun {
            Prefix::next(self.message.command, piece == self.remaining(), piece)
        } else {
            Prefix::first(self.message.command, self.envelope, self.lengths(), piece)
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
    /// The body, or its packed form.
    body: Option<Part>,
    /// Bytes of the body, if it is packed.
    unpacked: Option<usize>,
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
///
/// A compressed body is held as it came until it is complete. Then all that the message will take is charged to
/// [`Pool::Inbox`], as for any message that arrives whole, and only then it is unpacked; so it holds less of
/// [`Pool::Reassembly`] than the same message sent plainly.
pub struct Reassembler {
    limits: Arc<Limits>,
    budget: Budget,
    account: Option<Account>,
    unpacks: bool,
    /// Boxed, since most connections have none most of the time.
    partial: PerClass<Option<Box<Partial>>>,
}

impl Reassembler {
    /// A reassembler for the beginning of a connection.
    pub fn new(limits: Arc<Limits>, budget: Budget) -> Self {
        Self { limits, budget, account: None, unpacks: false, partial: PerClass::from_fn(|_| None) }
    }

    /// Takes compressed bodies from now on: both sides have agreed on it. In a build without LZ4 they are refused all the
    /// same.
    pub const fn unpack_bodies(&mut self) {
        self.unpacks = true;
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
    /// `MessageTooLong`, `FragmentWithoutFirst`, `Interleaved`, `PastTotal`, `EndsEarly` or `NotEnded`, and of compressed
    /// bodies `Compressed`, `NotPublic` or `Packed`, by the fault of the sender; the connection is lost. `OverBudget`, which is nobody's fault: nothing was taken, and the same frame can be
    /// offered again when there is room.
    pub fn accept(&mut self, frame: Frame<'_>) -> Result<Option<Incoming>, DecodeError> {
        let Self { limits, budget, account, unpacks, partial } = self;
        let pay = |pool, bytes| charge(budget, account.as_ref(), pool, bytes);
        let command = frame.command();
        let slot = &mut partial[command.class()];
        if let Some(len) = frame.announced_len() {
            if let Some(partial) = slot {
                return Err(DecodeError::Interleaved { command, begun: partial.command });
            }
            within(command, len, limits)?;
        }
        if let Frame::Packed { .. } | Frame::FirstPacked { .. } = frame {
            may_be_packed(command, limits, *unpacks)?;
        }
        match frame {
            Frame::Whole { envelope, head, body, .. } => {
                let charge = pay(Pool::Inbox, frame.content_len() + MESSAGE_OVERHEAD)?;
                let (head, body) = (Bytes::copy_from_slice(head), body.map(Bytes::copy_from_slice));
                Ok(Some(Incoming { envelope, message: Message { command, head, body }, charge }))
            }
            Frame::Packed { envelope, head, body_len, packed, .. } => {
                let charge = pay(Pool::Inbox, head.len() + body_len + MESSAGE_OVERHEAD)?;
                let (head, body) = (Bytes::copy_from_slice(head), Some(compress::unpack(packed, body_len)?.into()));
                Ok(Some(Incoming { envelope, message: Message { command, head, body }, charge }))
            }
            Frame::First { envelope, head_len, body_len, piece, .. } => {
                let (head, body) = (Part::new(head_len), body_len.map(Part::new));
                let charge = pay(Pool::Reassembly, MESSAGE_OVERHEAD)?;
                *slot = Some(begin(Partial { command, envelope, head, body, unpacked: None, charge }, piece)?);
                Ok(None)
            }
            Frame::FirstPacked { envelope, head_len, body_len, packed_len, piece, .. } => {
                let (head, body, unpacked) = (Part::new(head_len), Some(Part::new(packed_len)), Some(body_len));
                let charge = pay(Pool::Reassembly, MESSAGE_OVERHEAD)?;
                *slot = Some(begin(Partial { command, envelope, head, body, unpacked, charge }, piece)?);
                Ok(None)
            }
            Frame::Next { last, piece, .. } => {
                let partial = slot.as_mut().ok_or(DecodeError::FragmentWithoutFirst { command })?;
                if partial.command != command {
                    return Err(DecodeError::Interleaved { command, begun: partial.command });
                }
                fits(partial, piece, last)?;
                let room = match partial.unpacked.filter(|_| last) {
                    Some(len) => Some((len, pay(Pool::Inbox, partial.head.total + len + MESSAGE_OVERHEAD)?)),
                    None => None,
                };
                extend(partial, piece)?;
                let Some(partial) = slot.take_if(|_| last) else { return Ok(None) };
                match room {
                    Some((len, charge)) => unpack(*partial, len, charge).map(Some),
                    None => Ok(Some(complete(*partial))),
                }
            }
        }
    }
}

/// Whether the body of a message of this command may arrive compressed. What no table names is skipped in the end, as it
/// would be otherwise: a later version may know it, and have made it public.
fn may_be_packed(command: Command, limits: &Limits, unpacks: bool) -> Result<(), DecodeError> {
    if !unpacks {
        return Err(DecodeError::Compressed);
    }
    if limits.knows(command) && !limits.is_public(command) { Err(DecodeError::NotPublic { command }) } else { Ok(()) }
}

/// A message of which this is the first piece.
fn begin(mut partial: Partial, piece: &[u8]) -> Result<Box<Partial>, DecodeError> {
    fits(&partial, piece, false)?;
    extend(&mut partial, piece)?;
    Ok(Box::new(partial))
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

/// Whether a piece may come next.
fn fits(partial: &Partial, piece: &[u8], last: bool) -> Result<(), DecodeError> {
    let missing = partial.missing();
    match missing.checked_sub(piece.len()) {
        None => Err(DecodeError::PastTotal { excess: piece.len() - missing }),
        Some(0) if !last => Err(DecodeError::NotEnded),
        Some(missing) if missing > 0 && last => Err(DecodeError::EndsEarly { missing }),
        Some(_) => Ok(()),
    }
}

/// Adds a piece that fits, or changes nothing.
fn extend(partial: &mut Partial, piece: &[u8]) -> Result<(), OverBudget> {
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
    let Partial { command, envelope, head, body, charge, .. } = partial;
    let message = Message { command, head: head.bytes.into(), body: body.map(|part| part.bytes.into()) };
    Incoming { envelope, message, charge: charge.transfer(Pool::Inbox) }
}

/// A message all of which has arrived, its body of `len` bytes compressed; `charge` pays for what it will be.
fn unpack(partial: Partial, len: usize, charge: Charge) -> Result<Incoming, DecodeError> {
    let Partial { command, envelope, head, body, charge: arrived, .. } = partial;
    let packed = body.map(|part| part.bytes).unwrap_or_default();
    let body = compress::unpack(&packed, len)?;
    // What arrived counts as completed, as it does when it is kept.
    drop(arrived.transfer(Pool::Inbox));
    Ok(Incoming { envelope, message: Message { command, head: head.bytes.into(), body: Some(body.into()) }, charge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_covers_a_message_in_a_queue_that_is_half_empty() {
        assert!(2 * size_of::<Incoming>() <= MESSAGE_OVERHEAD, "{}", size_of::<Incoming>());
    }
}
