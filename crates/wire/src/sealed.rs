//! Sealed records: once keys stand, `length u16`, big-endian, and an AEAD body whose first plaintext byte is
//! `kind << 4 | flags`. Magic and version are agreed by then.
//!
//! The codec knows where a body begins and ends; the transport encrypts and decrypts it in place.

use crate::{
    DecodeError, RecordKind,
    buffer::fill,
    limits::{KIND_BYTE, MAX_PLAINTEXT, MAX_SEALED_BODY, SEALED_HEADER, TAG},
};

/// Begins a sealed record: appends room for its length and the byte of its kind.
///
/// Append the plaintext next, then call [`finish_sealed`] with what this returns, the position of the record.
pub fn begin_sealed(out: &mut Vec<u8>, kind: RecordKind) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, (kind as u8) << 4]);
    start
}

/// Ends the plaintext of the record at `start`: writes the length that it will have with its tag.
///
/// Returns the position of the AEAD body: encrypt `out[position..]` in place, then append the 16 bytes of the tag.
///
/// # Panics
/// In debug builds if the plaintext is longer than [`MAX_PLAINTEXT`]: a mistake of the caller.
pub fn finish_sealed(out: &mut [u8], start: usize) -> usize {
    let body = start + SEALED_HEADER;
    let plaintext = out.len() - body;
    debug_assert!(plaintext <= KIND_BYTE + MAX_PLAINTEXT, "{plaintext} bytes in a sealed record");
    out[start..body].copy_from_slice(&((plaintext + TAG) as u16).to_be_bytes());
    body
}

/// Splits the plaintext of a sealed record, the tag removed, into its kind and what follows.
///
/// # Errors
/// `RecordTooShort`, `UnknownKind`, `RecordFlags` or `RecordTooLong`; the sender's fault, since the record authenticates.
pub fn open_plaintext(plaintext: &[u8]) -> Result<(RecordKind, &[u8]), DecodeError> {
    let (&first, rest) = plaintext.split_first().ok_or(DecodeError::RecordTooShort { length: 0 })?;
    let kind = RecordKind::from_number(u16::from(first >> 4))?;
    if first & 0xf != 0 {
        return Err(DecodeError::RecordFlags { found: first & 0xf });
    }
    if rest.len() > kind.max_len() {
        return Err(DecodeError::RecordTooLong { length: rest.len() as u32, limit: kind.max_len() as u32 });
    }
    Ok((kind, rest))
}

/// What an empty decoder keeps of its buffer (our guess: as much as a heartbeat or a small request takes).
const KEPT: usize = 512;

/// Puts sealed records together from whatever pieces a stream arrives in; one buffer, one record at a time. Between records
/// it holds next to nothing.
#[derive(Debug, Default)]
pub struct SealedDecoder {
    buffer: Vec<u8>,
    given: bool,
}

impl SealedDecoder {
    /// A decoder at the beginning of the sealed part of a stream.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), given: false }
    }

    /// Takes bytes off the front of `input`; the AEAD body they complete (17 to [`MAX_SEALED_BODY`] bytes, the tag at its
    /// end), to be decrypted in place, or `None` when `input` is used up.
    ///
    /// # Errors
    /// `RecordTooShort` or `RecordTooLong`. Every later call returns the same error.
    pub fn read<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<&'a mut [u8]>, DecodeError> {
        if core::mem::take(&mut self.given) {
            self.buffer.clear();
            if input.is_empty() {
                self.buffer.shrink_to(KEPT);
            }
        }
        if !fill(&mut self.buffer, input, SEALED_HEADER) {
            return Ok(None);
        }
        let length = u16::from_be_bytes(*self.buffer.first_chunk().expect("filled to a length just now"));
        let body = usize::from(length);
        if body < KIND_BYTE + TAG {
            return Err(DecodeError::RecordTooShort { length });
        }
        if body > MAX_SEALED_BODY {
            return Err(DecodeError::RecordTooLong { length: length.into(), limit: MAX_SEALED_BODY as u32 });
        }
        if !fill(&mut self.buffer, input, SEALED_HEADER + body) {
            return Ok(None);
        }
        self.given = true;
        Ok(Some(&mut self.buffer[SEALED_HEADER..]))
    }
}
