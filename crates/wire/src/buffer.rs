//! Buffers that grow with what arrived.

/// The capacity to give a buffer that must hold `needed` bytes now and `most` in the end: twice what it had, so that
/// growing costs a constant factor, but never more than `most`, nor than twice what arrived.
pub(crate) fn grown(capacity: usize, needed: usize, most: usize) -> usize {
    if needed <= capacity { capacity } else { needed.max(capacity * 2).min(most.max(needed)) }
}

/// Moves bytes from the front of `input` until `buffer` holds `target` bytes; whether it does.
pub(crate) fn fill(buffer: &mut Vec<u8>, input: &mut &[u8], target: usize) -> bool {
    let count = target.saturating_sub(buffer.len()).min(input.len());
    let (taken, rest) = input.split_at(count);
    let needed = buffer.len() + count;
    buffer.reserve_exact(grown(buffer.capacity(), needed, target) - buffer.len());
    buffer.extend_from_slice(taken);
    *input = rest;
    buffer.len() >= target
}
