#![doc = include_str!("../README.md")]

mod buffer;
pub mod compress;
mod error;
mod fragment;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod limits;
pub mod payload;
mod record;
mod sealed;
pub mod varint;

pub use error::DecodeError;
pub use fragment::{Fragmenter, Incoming, Reassembler};
pub use frame::{Envelope, Frame, FrameReader, encode_frame, frame_len};
pub use limits::Limits;
pub use payload::PayloadError;
pub use record::{
    Magic, Preamble, RECORD_VERSION, Record, RecordDecoder, RecordHeader, RecordKind, decode_reason, put_record,
};
pub use sealed::{SealedDecoder, begin_sealed, finish_sealed, open_plaintext};
