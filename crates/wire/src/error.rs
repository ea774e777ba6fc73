//! One variant for each broken rule of the codec.

use peerage_core::{CloseReason, Command, OverBudget};
use thiserror::Error;

use crate::record::RecordKind;

/// Bytes that are not what they should be.
///
/// All variants but [`OverBudget`](Self::OverBudget) are the fault of the other side (or, before keys stand, of anyone on
/// the path) and end the connection with [`close_reason`](Self::close_reason). None leaves a decoder in a state worth
/// keeping, again except `OverBudget`, which changes nothing: the same frame may be offered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    // Records.
    /// The first bytes are those of another network or of no peer at all.
    #[error("magic {found:#010x} is not that of this network")]
    WrongMagic {
        /// What stood there, up to the first wrong byte, then zeros.
        found: u32,
    },
    /// A record in a layout that this version does not know.
    #[error("record version {found} is unknown")]
    WrongVersion {
        /// What stood there.
        found: u8,
    },
    /// A record kind that this version does not know.
    #[error("record kind {found} is unknown")]
    UnknownKind {
        /// What stood there.
        found: u16,
    },
    /// Flags of a record that are reserved, hence zero.
    #[error("record flags {found:#04x} are reserved")]
    RecordFlags {
        /// What stood there.
        found: u8,
    },
    /// A record longer than its kind may be. Refused by its header alone.
    #[error("record of {length} bytes, {limit} are allowed")]
    RecordTooLong {
        /// Announced bytes after the header.
        length: u32,
        /// Allowed bytes after the header.
        limit: u32,
    },
    /// A sealed record too short to hold its kind and its tag.
    #[error("sealed record of {length} bytes cannot hold a tag")]
    RecordTooShort {
        /// Announced bytes after the header.
        length: u16,
    },
    /// A record of fixed length that has another.
    #[error("{kind:?} record of {found} bytes, not {expected}")]
    RecordLength {
        /// The kind.
        kind: RecordKind,
        /// Bytes after the header.
        found: usize,
        /// What its layout needs.
        expected: usize,
    },
    /// A preamble whose lowest wire version is above its highest.
    #[error("wire versions {min} to {max} are no range")]
    VersionRange {
        /// The lowest offered.
        min: u8,
        /// The highest offered.
        max: u8,
    },

    // Frames.
    /// A data record without a message.
    #[error("data record without a message")]
    EmptyRecord,
    /// The record ends inside a message.
    #[error("record ends inside a message")]
    Truncated,
    /// A number written in more bytes than it needs.
    #[error("number in more bytes than it needs")]
    VarintNotMinimal,
    /// A number that does not fit 64 bits.
    #[error("number beyond 64 bits")]
    VarintTooLong,
    /// A command number beyond 16 bits or of no class.
    #[error("{found} is no command")]
    BadCommand {
        /// What stood there.
        found: u64,
    },
    /// Frame flags that are reserved or make no sense together.
    #[error("frame flags {found:#04x} are reserved")]
    FrameFlags {
        /// What stood there.
        found: u8,
    },
    /// A compressed body, on which nobody agreed.
    #[error("body is compressed")]
    Compressed,
    /// A compressed body of a command that is not public.
    #[error("body of {command:?} is compressed, but not public")]
    NotPublic {
        /// The command.
        command: Command,
    },
    /// A body that should not have been compressed: it is short, or hardly shorter so.
    #[error("body of {body} bytes compressed to {packed}")]
    NotSaved {
        /// Its announced bytes.
        body: u64,
        /// Announced bytes of its compressed form.
        packed: u64,
    },
    /// A compressed body that does not unpack to exactly the announced length.
    #[error("compressed body is not one of {body} bytes")]
    Packed {
        /// Its announced bytes.
        body: usize,
    },
    /// A message longer than its command allows. Refused by its announced length alone.
    #[error("message {command:?} of {len} bytes, {limit} are allowed")]
    MessageTooLong {
        /// The command.
        command: Command,
        /// Announced bytes of head and body.
        len: u64,
        /// Allowed bytes of head and body.
        limit: usize,
    },

    // Fragments.
    /// A fragment without a byte of its message.
    #[error("fragment without a byte")]
    EmptyFragment,
    /// A later fragment while no message of its class is begun.
    #[error("fragment of {command:?}, which was never begun")]
    FragmentWithoutFirst {
        /// The command of the fragment.
        command: Command,
    },
    /// A second message, or a fragment of one, while another of the same class is not complete.
    #[error("{command:?} inside an incomplete {begun:?}")]
    Interleaved {
        /// The command of the frame.
        command: Command,
        /// The command of the incomplete message.
        begun: Command,
    },
    /// More bytes than the first fragment announced.
    #[error("{excess} bytes more than announced")]
    PastTotal {
        /// How many more.
        excess: usize,
    },
    /// The last fragment, but bytes are missing.
    #[error("message ended {missing} bytes early")]
    EndsEarly {
        /// How many are missing.
        missing: usize,
    },
    /// All announced bytes are there, but the fragment does not say that it is the last.
    #[error("complete message without an end")]
    NotEnded,

    // Ours.
    /// The node's memory is taken. Not the fault of this peer; the decoder is unchanged.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
}

impl DecodeError {
    /// Why a connection on which this arrived ends.
    pub const fn close_reason(&self) -> CloseReason {
        match self {
            Self::WrongMagic { .. } => CloseReason::WrongMagic,
            Self::WrongVersion { .. } => CloseReason::WrongVersion,
            Self::UnknownKind { .. } | Self::RecordFlags { .. } => CloseReason::UnexpectedRecord,
            Self::RecordTooLong { .. } => CloseReason::RecordTooLong,
            Self::RecordTooShort { .. } => CloseReason::BadRecord,
            Self::RecordLength { kind: RecordKind::Preamble | RecordKind::Handshake, .. }
            | Self::VersionRange { .. } => CloseReason::BadHandshake,
            Self::RecordLength { .. }
            | Self::EmptyRecord
            | Self::Truncated
            | Self::VarintNotMinimal
            | Self::VarintTooLong
            | Self::BadCommand { .. }
            | Self::FrameFlags { .. }
            | Self::Compressed
            | Self::NotPublic { .. }
            | Self::NotSaved { .. }
            | Self::Packed { .. } => CloseReason::MalformedMessage,
            Self::MessageTooLong { .. } => CloseReason::MessageTooLong,
            Self::EmptyFragment
            | Self::FragmentWithoutFirst { .. }
            | Self::Interleaved { .. }
            | Self::PastTotal { .. }
            | Self::EndsEarly { .. }
            | Self::NotEnded => CloseReason::BadFragment,
            Self::OverBudget(_) => CloseReason::OverBudget,
        }
    }
}
