//! Records in clear: the preamble, the handshake, and everything on a stream that is plain or inside TLS.
//!
//! `magic u32 | version u8 | flags u8 | kind u16 | length u32`, big-endian, then `length` bytes.

use peerage_core::{CloseReason, NetworkId};

use crate::{
    DecodeError,
    buffer::fill,
    limits::{MAX_HANDSHAKE, MAX_PLAINTEXT, PREAMBLE, REASON, RECORD_HEADER},
};

/// The version of the record layout. The versions of what is inside are agreed in the [`Preamble`].
pub const RECORD_VERSION: u8 = 1;

/// The first four bytes of every record in clear: which kind of network this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Magic(pub u32);

impl Magic {
    // 0xf7 begins no text in UTF-8, no TLS record and no HTTP request; the letters are ours.
    /// The main network.
    pub const MAIN: Self = Self(u32::from_be_bytes([0xf7, b'p', b'g', b'M']));
    /// The test network.
    pub const TEST: Self = Self(u32::from_be_bytes([0xf7, b'p', b'g', b'T']));
    /// A developer's network on one machine.
    pub const DEV: Self = Self(u32::from_be_bytes([0xf7, b'p', b'g', b'D']));

    /// Whether `bytes`, as far as they go, begin as a record of this network does.
    fn begins(self, bytes: &[u8]) -> Result<(), DecodeError> {
        let magic = self.0.to_be_bytes();
        let Some(wrong) = magic.iter().zip(bytes).position(|(magic, byte)| magic != byte) else { return Ok(()) };
        let mut found = [0; 4];
        found[..=wrong].copy_from_slice(&bytes[..=wrong]);
        Err(DecodeError::WrongMagic { found: u32::from_be_bytes(found) })
    }
}

/// What a record holds. Below 16, because a sealed record has four bits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A [`Preamble`]: the initiator's first record.
    Preamble = 1,
    /// One handshake message.
    Handshake = 2,
    /// There will be no connection: one [`CloseReason`].
    Refuse = 3,
    /// One or more messages or fragments.
    Data = 4,
    /// The connection ends: one [`CloseReason`].
    Close = 5,
    /// The responder cannot read the first message and asks for another; nothing.
    Retry = 6,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Preamble, Self::Handshake, Self::Refuse, Self::Data, Self::Close, Self::Retry];

    /// The kind with this number.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`].
    pub const fn from_number(number: u16) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::Preamble),
            2 => Ok(Self::Handshake),
            3 => Ok(Self::Refuse),
            4 => Ok(Self::Data),
            5 => Ok(Self::Close),
            6 => Ok(Self::Retry),
            found => Err(DecodeError::UnknownKind { found }),
        }
    }

    /// How many bytes may follow the header, or the byte of kind and flags.
    pub const fn max_len(self) -> usize {
        match self {
            Self::Preamble => PREAMBLE,
            Self::Handshake => MAX_HANDSHAKE,
            Self::Refuse | Self::Close => REASON,
            Self::Data => MAX_PLAINTEXT,
            Self::Retry => 0,
        }
    }
}

/// The header of a record in clear, without the magic, which both sides know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What follows.
    pub kind: RecordKind,
    /// How many bytes follow; at most [`RecordKind::max_len`].
    pub length: u32,
}

impl RecordHeader {
    /// The 12 bytes of the header.
    pub fn encode(self, magic: Magic) -> [u8; RECORD_HEADER] {
        let mut bytes = [0; RECORD_HEADER];
        bytes[..4].copy_from_slice(&magic.0.to_be_bytes());
        bytes[4] = RECORD_VERSION;
        bytes[7] = self.kind as u8;
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads a header, the magic first: whoever speaks another language is told so and nothing else.
    ///
    /// # Errors
    /// `WrongMagic`, `WrongVersion`, `UnknownKind`, `RecordFlags` or `RecordTooLong`, in this order; the sender's fault.
    pub fn decode(bytes: &[u8; RECORD_HEADER], magic: Magic) -> Result<Self, DecodeError> {
        let [m0, m1, m2, m3, version, flags, k0, k1, l0, l1, l2, l3] = *bytes;
        magic.begins(&[m0, m1, m2, m3])?;
        if version != RECORD_VERSION {
            return Err(DecodeError::WrongVersion { found: version });
        }
        let kind = RecordKind::from_number(u16::from_be_bytes([k0, k1]))?;
        if flags != 0 {
            return Err(DecodeError::RecordFlags { found: flags });
        }
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length as usize > kind.max_len() {
            return Err(DecodeError::RecordTooLong { length, limit: kind.max_len() as u32 });
        }
        Ok(Self { kind, length })
    }
}

/// Appends a record in clear: begins it, lets `payload` append its bytes, and writes its length.
///
/// # Panics
/// In debug builds if more than [`RecordKind::max_len`] bytes are appended: a mistake of the caller.
pub fn put_record(out: &mut Vec<u8>, magic: Magic, kind: RecordKind, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    payload(out);
    let length = out.len() - start - RECORD_HEADER;
    debug_assert!(length <= kind.max_len(), "{length} bytes in a {kind:?} record");
    let header = RecordHeader { kind, length: length as u32 };
    out[start..start + RECORD_HEADER].copy_from_slice(&header.encode(magic));
}

/// A complete record in clear, borrowed from its decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it holds.
    pub kind: RecordKind,
    /// The whole record with its header: what a transcript is made of.
    pub raw: &'a [u8],
}

impl<'a> Record<'a> {
    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.raw[RECORD_HEADER..]
    }
}

/// Puts records in clear together from whatever pieces a stream arrives in.
///
/// It takes no byte beyond the end of the record that it returns, so that a [`SealedDecoder`](crate::SealedDecoder) can
/// go on from there, and holds one record at most.
#[derive(Debug)]
pub struct RecordDecoder {
    magic: Magic,
    buffer: Vec<u8>,
    given: bool,
}

impl RecordDecoder {
    /// A decoder at the beginning of a stream.
    pub const fn new(magic: Magic) -> Self {
        Self { magic, buffer: Vec::new(), given: false }
    }

    /// Takes bytes off the front of `input`; the record they complete, or `None` when `input` is used up.
    ///
    /// # Errors
    /// As [`RecordHeader::decode`], a wrong magic already at its first wrong byte. Every later call returns the same
    /// error.
    pub fn read<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Record<'a>>, DecodeError> {
        if core::mem::take(&mut self.given) {
            self.buffer.clear();
        }
        let complete = fill(&mut self.buffer, input, RECORD_HEADER);
        self.magic.begins(&self.buffer)?;
        if !complete {
            return Ok(None);
        }
        let header = self.buffer.first_chunk().expect("filled to a header just now");
        let header = RecordHeader::decode(header, self.magic)?;
        if !fill(&mut self.buffer, input, RECORD_HEADER + header.length as usize) {
            return Ok(None);
        }
        self.given = true;
        Ok(Some(Record { kind: header.kind, raw: &self.buffer }))
    }
}

/// The initiator's first words, in clear. The whole record is bound into the handshake, so that nobody on the path can
/// change it unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The lowest wire version that the initiator speaks.
    pub version_min: u8,
    /// The highest wire version that the initiator speaks.
    pub version_max: u8,
    /// The network that the initiator belongs to.
    pub network: NetworkId,
    /// The handshake pattern of the message that follows; the transport's numbers.
    pub pattern: u8,
    /// The cipher suite of the message that follows; the transport's numbers.
    pub suite: u8,
    /// For the transport; the codec gives them no meaning.
    pub flags: u8,
}

impl Preamble {
    /// The fixed layout: the fields in their order.
    pub fn encode(&self) -> [u8; PREAMBLE] {
        let mut bytes = [0; PREAMBLE];
        bytes[..2].copy_from_slice(&[self.version_min, self.version_max]);
        bytes[2..34].copy_from_slice(self.network.as_bytes());
        bytes[34..].copy_from_slice(&[self.pattern, self.suite, self.flags]);
        bytes
    }

    /// Reads the payload of a preamble record.
    ///
    /// # Errors
    /// `RecordLength` or `VersionRange`; the sender's fault.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let bytes: &[u8; PREAMBLE] = payload.try_into().map_err(|_| DecodeError::RecordLength {
            kind: RecordKind::Preamble,
            found: payload.len(),
            expected: PREAMBLE,
        })?;
        let [version_min, version_max, network @ .., pattern, suite, flags] = *bytes;
        if version_min > version_max {
            return Err(DecodeError::VersionRange { min: version_min, max: version_max });
        }
        let network = NetworkId::from_bytes(network);
        Ok(Self { version_min, version_max, network, pattern, suite, flags })
    }
}

/// Reads the payload of a [`Refuse`](RecordKind::Refuse) or [`Close`](RecordKind::Close) record; what is written is
/// [`CloseReason::code`], one byte. A code that this version does not know is [`CloseReason::Unknown`], not an error.
///
/// # Errors
/// `RecordLength`; the sender's fault.
pub fn decode_reason(kind: RecordKind, payload: &[u8]) -> Result<CloseReason, DecodeError> {
    match *payload {
        [code] => Ok(CloseReason::from_code(code).unwrap_or(CloseReason::Unknown)),
        _ => Err(DecodeError::RecordLength { kind, found: payload.len(), expected: REASON }),
    }
}
