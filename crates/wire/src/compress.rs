//! Compressed bodies: one LZ4 block each, made before the message is cut into fragments.
//!
//! Only bodies, since heads are short and read first; only of commands that are public ([`Limits::is_public`]), since a
//! length tells what is in a body that mixes a secret with words of whoever watches; and only where it [`saves`]. That
//! last rule binds both sides. A receiver needs it: credit pays for a body's own bytes, so what goes over the wire for it
//! must be less. Beyond it there is no canonical form. What is hashed, signed or compared is the body, never its packing.
//!
//! The announced length of the body is believed only as a ceiling: the output has exactly that many bytes, charged to the
//! budget before it exists, and the block must fill it to the last one. The length prefix that LZ4 tools put in front of
//! a block is not used.
//!
//! A block holds up to 255 times its bytes, but what it costs its sender is not its bytes: credit is spent by the length of
//! the body, so that whoever makes a node unpack 2 MiB has spent as much as with 2 MiB sent plainly, and gets it back at the
//! same rate. To unpack a MiB takes 0.14 ms of an honest block and 1.2 ms of the slowest (row LZ4 of the bench), hence about
//! 45 ms a second of one core at most for a peer that uses all its credit of all classes (37 MiB/s), where opening as much
//! takes 16.
//!
//! [`Limits::is_public`]: crate::Limits::is_public

use crate::DecodeError;

/// Whether this build can pack and unpack. If not, nothing is packed, and what arrives packed is refused.
pub const AVAILABLE: bool = cfg!(feature = "lz4");

/// A body of so many bytes or fewer is not compressed: what could be saved is a hundred bytes, beside a record's overhead
/// of nineteen (our guess).
pub const MIN_BODY: usize = 1 << 10;

/// A packed form saves one part in so many of the body at least. (On four blocks of Bitcoin LZ4 saves 7 to 37 %; below a
/// tenth the work of both sides is worth more than the bytes, our guess.)
pub const SAVED_PART: u64 = 10;

/// Whether a body of so many bytes may go over the wire as so many packed ones: it is longer than [`MIN_BODY`] and saves one
/// part in [`SAVED_PART`].
pub const fn saves(body: u64, packed: u64) -> bool {
    body > MIN_BODY as u64 && packed <= most_packed(body)
}

/// The longest packed form that is worth it.
const fn most_packed(body: u64) -> u64 {
    body - body.div_ceil(SAVED_PART)
}

/// Bytes that [`pack`] holds at most while it works, beside the body: what LZ4 wants to find for its output, whatever comes
/// of it. The table of 16 KiB is on the stack.
pub const fn pack_room(body: usize) -> usize {
    body + body / 10 + 20
}

/// The packed form of a body, in a buffer of just its size, if that [`saves`].
#[cfg(feature = "lz4")]
pub fn pack(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() <= MIN_BODY {
        return None;
    }
    let mut packed = vec![0; pack_room(body.len())];
    let len = lz4_flex::block::compress_into(body, &mut packed).ok()?;
    if !saves(body.len() as u64, len as u64) {
        return None;
    }
    packed.truncate(len);
    packed.shrink_to_fit();
    Some(packed)
}

/// The packed form of a body: never one in a build without LZ4.
#[cfg(not(feature = "lz4"))]
pub fn pack(_body: &[u8]) -> Option<Vec<u8>> {
    None
}

/// The body of `len` bytes of which this is the packed form, in a buffer of just that size. The caller has paid for it.
///
/// # Errors
/// `Packed`, by the fault of the sender, unless the block holds exactly so many bytes.
#[cfg(feature = "lz4")]
pub fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut body = vec![0; len];
    match lz4_flex::block::decompress_into(packed, &mut body) {
        Ok(written) if written == len => Ok(body),
        Ok(_) | Err(_) => Err(DecodeError::Packed { body: len }),
    }
}

/// The body of which this is the packed form: never one in a build without LZ4.
///
/// # Errors
/// `Compressed`.
#[cfg(not(feature = "lz4"))]
pub fn unpack(_packed: &[u8], _len: usize) -> Result<Vec<u8>, DecodeError> {
    Err(DecodeError::Compressed)
}

#[cfg(all(test, feature = "lz4"))]
mod tests {
    use super::*;
    use lz4_flex::block::get_maximum_output_size;

    #[test]
    fn the_room_to_pack_is_what_the_library_asks_for() {
        for len in [0, 1, 9, 10, 11, MIN_BODY, 65_535, 65_536, crate::limits::MAX_CONTENT] {
            assert_eq!(pack_room(len), get_maximum_output_size(len), "{len}");
        }
    }

    #[test]
    fn a_tenth_is_saved_or_nothing_is_packed() {
        assert!(saves(1025, 922) && !saves(1025, 923) && !saves(1024, 1) && !saves(0, 0));
        assert!(saves(u64::MAX, 1) && !saves(u64::MAX, u64::MAX));
        assert_eq!(pack(&[7; MIN_BODY]), None, "too short");
        let packed = pack(&[7; MIN_BODY + 1]).expect("all the same");
        assert!(packed.len() < 30 && packed.capacity() < 64, "{} in {}", packed.len(), packed.capacity());
        let noise: Vec<u8> =
            (0..4000_u64).map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2]).collect();
        assert_eq!(pack(&noise), None);
    }

    #[test]
    fn a_body_fills_its_announced_length_to_the_byte_or_is_refused() {
        let body = [9; 5000];
        let packed = pack(&body).expect("all the same");
        assert_eq!(unpack(&packed, 5000).as_deref(), Ok(&body[..]));
        for lie in [0, 1, 4999, 5001, 2 << 20] {
            assert_eq!(unpack(&packed, lie), Err(DecodeError::Packed { body: lie }));
        }
        let longer = [&packed[..], &[0x10, 7]].concat();
        assert_eq!(unpack(&longer, 5000), Err(DecodeError::Packed { body: 5000 }), "bytes behind the end");
        assert_eq!(unpack(&[], 5000), Err(DecodeError::Packed { body: 5000 }));
    }
}
