//! Frames: how messages and pieces of messages lie inside a data record, one after the other.
//!
//! ```text
//! whole  command varint | flags u8 | [id varint] | lengths | head | body
//! first  command varint | flags u8 | [id varint] | lengths | piece length varint | piece
//! next   command varint | flags u8 | piece length varint | piece
//! lengths  head varint | [body varint | [packed body varint]]
//! flags  0-1 notification, request, response | 2 first | 3 last | 4 the body is compressed | 5 has a body | 6-7 zero
//! ```
//!
//! Requests and responses have an id. A message without a body has no body length; an empty body is something else. A
//! whole message is first and last. Of the later fragments only `last` may be set. Where the body is
//! [compressed](crate::compress), its packed form stands in its place, and the length of that beside its own.
//!
//! Fragments carry no number of their own: a sender has at most one message of a class under way, TCP keeps the order,
//! and the class follows from the command, so the class says which message a fragment belongs to. A piece is part of
//! head and body written one after the other. The first fragment announces all lengths, so that the receiver can refuse
//! the message before it holds any of it; it believes them only as far as bytes arrive.

use peerage_core::{Class, Command, Message};

use crate::{DecodeError, compress::saves, limits::MAX_CONTENT, varint};

const PURPOSE: u8 = 0b11;
const FIRST: u8 = 1 << 2;
const LAST: u8 = 1 << 3;
const COMPRESSED: u8 = 1 << 4;
const BODY: u8 = 1 << 5;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Envelope {
    /// It wants no answer.
    Notification,
    /// It wants an answer with this number; the sender's choice, unique among its open requests on the connection.
    Request(u64),
    /// It answers the request with this number.
    Response(u64),
}

impl Envelope {
    const fn bits(self) -> u8 {
        match self {
            Self::Notification => 0,
            Self::Request(_) => 1,
            Self::Response(_) => 2,
        }
    }

    const fn id(self) -> Option<u64> {
        match self {
            Self::Notification => None,
            Self::Request(id) | Self::Response(id) => Some(id),
        }
    }
}

/// One frame, borrowed from the plaintext of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message.
    Whole {
        /// Its command.
        command: Command,
        /// What it is for.
        envelope: Envelope,
        /// Its head.
        head: &'a [u8],
        /// Its body, if it has one.
        body: Option<&'a [u8]>,
    },
    /// The beginning of a message.
    First {
        /// Its command.
        command: Command,
        /// What it is for.
        envelope: Envelope,
        /// Bytes of its head in the end.
        head_len: usize,
        /// Bytes of its body in the end, if it has one.
        body_len: Option<usize>,
        /// The first bytes of head and body.
        piece: &'a [u8],
    },
    /// A whole message whose body is compressed.
    Packed {
        /// Its command.
        command: Command,
        /// What it is for.
        envelope: Envelope,
        /// Its head.
        head: &'a [u8],
        /// Bytes of its body.
        body_len: usize,
        /// The packed form of its body.
        packed: &'a [u8],
    },
    /// The beginning of a message whose body is compressed.
    FirstPacked {
        /// Its command.
        command: Command,
        /// What it is for.
        envelope: Envelope,
        /// Bytes of its head in the end.
        head_len: usize,
        /// Bytes of its body.
        body_len: usize,
        /// Bytes of the packed form of its body in the end.
        packed_len: usize,
        /// The first bytes of head and packed body.
        piece: &'a [u8],
    },
    /// More of a message.
    Next {
        /// Its command.
        command: Command,
        /// Whether it ends here.
        last: bool,
        /// The next bytes of head and body.
        piece: &'a [u8],
    },
}

impl<'a> Frame<'a> {
    /// The command of the message, and so its class.
    pub const fn command(&self) -> Command {
        match *self {
            Self::Whole { command, .. }
            | Self::First { command, .. }
            | Self::Packed { command, .. }
            | Self::FirstPacked { command, .. }
            | Self::Next { command, .. } => command,
        }
    }

    /// Bytes of head and body in this frame, as they lie in it.
    pub fn content_len(&self) -> usize {
        match self {
            Self::Whole { head, body, .. } => head.len() + body.map_or(0, <[u8]>::len),
            Self::Packed { head, packed, .. } => head.len() + packed.len(),
            Self::First { piece, .. } | Self::FirstPacked { piece, .. } | Self::Next { piece, .. } => piece.len(),
        }
    }

    /// Bytes of head and body of the message that begins here, as its receiver will have them: what its command limits and
    /// its credit pays. `None` if it began before.
    pub fn announced_len(&self) -> Option<usize> {
        match self {
            Self::Whole { .. } => Some(self.content_len()),
            Self::First { head_len, body_len, .. } => Some(head_len.saturating_add(body_len.unwrap_or(0))),
            Self::Packed { head, body_len, .. } => Some(head.len().saturating_add(*body_len)),
            Self::FirstPacked { head_len, body_len, .. } => Some(head_len.saturating_add(*body_len)),
            Self::Next { .. } => None,
        }
    }

    /// Bytes of the body and of its packed form, if a message begins here whose body is compressed.
    pub const fn packed_lens(&self) -> Option<(usize, usize)> {
        match *self {
            Self::Packed { body_len, packed, .. } => Some((body_len, packed.len())),
            Self::FirstPacked { body_len, packed_len, .. } => Some((body_len, packed_len)),
            Self::Whole { .. } | Self::First { .. } | Self::Next { .. } => None,
        }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.prefix().put(out);
        match *self {
            Self::Whole { head, body, .. } => {
                out.extend_from_slice(head);
                out.extend_from_slice(body.unwrap_or_default());
            }
            Self::Packed { head, packed, .. } => {
                out.extend_from_slice(head);
                out.extend_from_slice(packed);
            }
            Self::First { piece, .. } | Self::FirstPacked { piece, .. } | Self::Next { piece, .. } => {
                out.extend_from_slice(piece);
            }
        }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        self.prefix().encoded_len() + self.content_len()
    }

    fn prefix(&self) -> Prefix {
        match *self {
            Self::Whole { command, envelope, head, body } => Prefix::whole(
                command,
                envelope,
                Lengths { head: head.len(), body: body.map(<[u8]>::len), packed: None },
            ),
            Self::First { command, envelope, head_len: head, body_len: body, piece } => {
                Prefix::first(command, envelope, Lengths { head, body, packed: None }, piece.len())
            }
            Self::Packed { command, envelope, head, body_len, packed } => {
                let (head, body, packed) = (head.len(), Some(body_len), Some(packed.len()));
                Prefix::whole(command, envelope, Lengths { head, body, packed })
            }
            Self::FirstPacked { command, envelope, head_len: head, body_len, packed_len, piece } => {
                let lengths = Lengths { head, body: Some(body_len), packed: Some(packed_len) };
                Prefix::first(command, envelope, lengths, piece.len())
            }
            Self::Next { command, last, piece } => Prefix::next(command, last, piece.len()),
        }
    }
}

/// What a message announces of itself, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) head: usize,
    /// If it has one.
    pub(crate) body: Option<usize>,
    /// That of the packed body, if it is packed.
    pub(crate) packed: Option<usize>,
}

/// All of a frame but the content.
pub(crate) struct Prefix {
    command: Command,
    flags: u8,
    /// Id, lengths of head, body, packed body, piece: those that are there, in this order.
    numbers: [Option<u64>; 5],
}

impl Prefix {
    pub(crate) fn whole(command: Command, envelope: Envelope, lengths: Lengths) -> Self {
        let Lengths { head, body, packed } = lengths;
        let with = |flag, there: bool| if there { flag } else { 0 };
        let flags = envelope.bits() | FIRST | LAST | with(BODY, body.is_some()) | with(COMPRESSED, packed.is_some());
        let number = |len: usize| len as u64;
        Self {
            command,
            flags,
            numbers: [envelope.id(), Some(number(head)), body.map(number), packed.map(number), None],
        }
    }

    pub(crate) fn first(command: Command, envelope: Envelope, lengths: Lengths, piece: usize) -> Self {
        let mut prefix = Self::whole(command, envelope, lengths);
        prefix.flags &= !LAST;
        prefix.numbers[4] = Some(piece as u64);
        prefix
    }

    pub(crate) fn next(command: Command, last: bool, piece: usize) -> Self {
        Self { command, flags: if last { LAST } else { 0 }, numbers: [None, None, None, None, Some(piece as u64)] }
    }

    pub(crate) fn encoded_len(&self) -> usize {
        let numbers: usize = self.numbers.iter().flatten().map(|number| varint::encoded_len(*number)).sum();
        varint::encoded_len(self.command.number().into()) + 1 + numbers
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.command.number().into());
        out.push(self.flags);
        for number in self.numbers.iter().flatten() {
            varint::put(out, *number);
        }
    }
}

/// Appends a whole message as one frame.
pub fn encode_frame(message: &Message, envelope: Envelope, out: &mut Vec<u8>) {
    let (head, body) = (&message.head, message.body.as_deref());
    Frame::Whole { command: message.command, envelope, head, body }.encode(out);
}

/// How many bytes [`encode_frame`] appends. A message for which this is above
/// [`MAX_PLAINTEXT`](crate::limits::MAX_PLAINTEXT) must travel in fragments.
pub fn frame_len(message: &Message, envelope: Envelope) -> usize {
    let lengths =
        Lengths { head: message.head.len(), body: message.body.as_ref().map(bytes::Bytes::len), packed: None };
    Prefix::whole(message.command, envelope, lengths).encoded_len() + message.len()
}

/// Reads the frames of one data record's plaintext in order. After an error it is exhausted.
///
/// It checks the syntax and that no message claims more than any may have; what its command allows, and whether
/// fragments make up a message, is for the [`Reassembler`](crate::Reassembler).
#[derive(Clone, Debug)]
pub struct FrameReader<'a> {
    rest: &'a [u8],
    /// Set until the first frame: an empty record is an error, the end of a record is not.
    fresh: bool,
}

impl<'a> FrameReader<'a> {
    /// A reader over what follows the header, or the byte of kind and flags, of a data record.
    pub const fn new(plaintext: &'a [u8]) -> Self {
        Self { rest: plaintext, fresh: true }
    }

    /// What is not read yet: whole frames, so that a reader may be made of it later.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn frame(&mut self) -> Result<Frame<'a>, DecodeError> {
        let number = varint::take(&mut self.rest)?;
        let bad = DecodeError::BadCommand { found: number };
        let command = u16::try_from(number).ok().and_then(Command::from_u16).ok_or(bad)?;
        let flags = *self.slice(1)?.first().expect("a slice of one byte");
        let envelope = match (flags & !(PURPOSE | FIRST | LAST | COMPRESSED | BODY), flags & PURPOSE) {
            (0, 0) => Envelope::Notification,
            (0, 1) => Envelope::Request(0),
            (0, 2) => Envelope::Response(0),
            _ => return Err(DecodeError::FrameFlags { found: flags }),
        };
        if flags & FIRST == 0 {
            if flags & !LAST != 0 {
                return Err(DecodeError::FrameFlags { found: flags });
            }
            return Ok(Frame::Next { command, last: flags & LAST != 0, piece: self.piece()? });
        }
        if flags & COMPRESSED != 0 {
            if flags & BODY == 0 {
                return Err(DecodeError::FrameFlags { found: flags });
            }
            if command.class() == Class::Control {
                return Err(DecodeError::NotPublic { command });
            }
        }
        let envelope = match envelope {
            Envelope::Notification => envelope,
            Envelope::Request(_) => Envelope::Request(varint::take(&mut self.rest)?),
            Envelope::Response(_) => Envelope::Response(varint::take(&mut self.rest)?),
        };
        let head_len = varint::take(&mut self.rest)?;
        let body_len = if flags & BODY != 0 { Some(varint::take(&mut self.rest)?) } else { None };
        let len = head_len.saturating_add(body_len.unwrap_or(0));
        if len > MAX_CONTENT as u64 {
            return Err(DecodeError::MessageTooLong { command, len, limit: MAX_CONTENT });
        }
        if let Some(body) = body_len.filter(|_| flags & COMPRESSED != 0) {
            let packed = varint::take(&mut self.rest)?;
            if !saves(body, packed) {
                return Err(DecodeError::NotSaved { body, packed });
            }
            // All fit a `usize`: the sum of the other two does, and this is shorter than the body.
            let (head_len, body_len, packed_len) = (head_len as usize, body as usize, packed as usize);
            return Ok(if flags & LAST == 0 {
                Frame::FirstPacked { command, envelope, head_len, body_len, packed_len, piece: self.piece()? }
            } else {
                let head = self.slice(head_len)?;
                Frame::Packed { command, envelope, head, body_len, packed: self.slice(packed_len)? }
            });
        }
        // Both fit a `usize` since their sum does.
        let (head_len, body_len) = (head_len as usize, body_len.map(|len| len as usize));
        if flags & LAST == 0 {
            return Ok(Frame::First { command, envelope, head_len, body_len, piece: self.piece()? });
        }
        let head = self.slice(head_len)?;
        let body = body_len.map(|len| self.slice(len)).transpose()?;
        Ok(Frame::Whole { command, envelope, head, body })
    }

    fn piece(&mut self) -> Result<&'a [u8], DecodeError> {
        match usize::try_from(varint::take(&mut self.rest)?) {
            Ok(0) => Err(DecodeError::EmptyFragment),
            Ok(len) => self.slice(len),
            Err(_) => Err(DecodeError::Truncated),
        }
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (slice, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(slice)
    }
}

impl<'a> Iterator for FrameReader<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = core::mem::take(&mut self.fresh);
        if self.rest.is_empty() {
            return first.then_some(Err(DecodeError::EmptyRecord));
        }
        let frame = self.frame();
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}
