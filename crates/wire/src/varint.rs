//! Unsigned numbers as LEB128: seven bits a byte, the lowest first, the top bit set on all bytes but the last
//! (DWARF 5, section 7.6; the same as in postcard and protocol buffers). Only the shortest form is accepted.

use crate::DecodeError;

/// Bytes of the longest number: 64 bits, seven a byte.
pub const MAX_LEN: usize = 10;

/// How many bytes a number takes, 1 to [`MAX_LEN`].
pub const fn encoded_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends a number.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `input`, which is left alone on error.
///
/// # Errors
/// [`Truncated`](DecodeError::Truncated), [`VarintNotMinimal`](DecodeError::VarintNotMinimal) or
/// [`VarintTooLong`](DecodeError::VarintTooLong), by the fault of the sender.
pub fn take(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0;
    for (index, &byte) in input.iter().take(MAX_LEN).enumerate() {
        if index == MAX_LEN - 1 && byte > 1 {
            return Err(DecodeError::VarintTooLong);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(DecodeError::VarintNotMinimal);
            }
            *input = &input[index + 1..];
            return Ok(value);
        }
    }
    Err(DecodeError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_of_each_length() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 1]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!((out.as_slice(), encoded_len(value)), (bytes, bytes.len()), "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_number_comes_back_and_nothing_else_is_taken(value: u64, shift in 0..64u32, rest: Vec<u8>) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert_eq!(bytes.len(), encoded_len(value));
            bytes.extend(&rest);
            let mut input = bytes.as_slice();
            prop_assert_eq!(take(&mut input), Ok(value));
            prop_assert_eq!(input, rest.as_slice());
        }

        #[test]
        fn whatever_is_accepted_is_the_shortest_form(bytes in prop::collection::vec(prop_oneof![Just(0x80u8), Just(0), any::<u8>()], 0..12)) {
            let mut input = bytes.as_slice();
            if let Ok(value) = take(&mut input) {
                let mut again = Vec::new();
                put(&mut again, value);
                prop_assert_eq!(again.as_slice(), &bytes[..bytes.len() - input.len()]);
            } else {
                prop_assert_eq!(input.len(), bytes.len());
            }
        }
    }
}
