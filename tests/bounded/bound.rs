//! The formula of the bound, as `docs/bounds.md` has it, for the victim of these stories.

use peerage_chain::proto::genesis::MAX_BLOCK_BYTES;

/// The budget: the least that may be configured (parameters, 2.3).
pub(crate) const CAP: usize = 32 << 20;
/// Peers that the victim admits.
pub(crate) const MAX_PEERS: usize = 112;
/// The page cache of its store. The node's is 64 MiB; it is another term of the formula and nothing to prove here.
pub(crate) const STORE_CACHE: usize = 2 << 20;

/// Connections of a story: those who attack, and the honest one, which may have to come again.
pub(crate) const LINKS: usize = 104;
/// What one of them costs whatever it does: buffers to read and to write, one record, what is held back during a pause,
/// keys, its task, and what the layers know of a peer.
pub(crate) const PER_LINK: usize = 256 << 10;

/// Connections in all (parameters, 2.1).
pub(crate) const MAX_LINKS: usize = 1024;
/// What one costs that is in its handshake or takes leave.
const PER_STRANGER: usize = 16 << 10;

/// What does not depend on connections: tables of a fixed size, and what jobs and the stack work on while they work.
const FIXED: usize = 8 << 20;

/// Threads that check blocks (parameters, 2.3), and what that takes for each byte of a block: a transaction of as many
/// of the smallest operations as there may be takes 293 bytes on the wire and 13 times as much when it is decoded.
const COMPUTE_THREADS: usize = 2;
const PER_BLOCK_BYTE: usize = 14;
/// What checking blocks may take while it lasts, whoever sent them.
pub(crate) const CHECKING: usize = COMPUTE_THREADS * PER_BLOCK_BYTE * MAX_BLOCK_BYTES;

/// What the heap may have beyond an idle node's, if so much is charged while there are so many connections.
pub(crate) const fn heap(charged: usize, links: usize, strangers: usize) -> usize {
    charged + links * PER_LINK + strangers * PER_STRANGER + STORE_CACHE + FIXED
}

/// What such a heap may take of the machine's memory: with what the system's allocator rounds up, and what it keeps of what
/// was given back.
pub(crate) const fn resident(heap: usize) -> usize {
    heap + heap / 4 + (8 << 20)
}

/// What the tasks of a thread read into and write from, of each of the victim's two threads: 64 KiB and 48.
const SCRATCH: usize = 2 * (112 << 10);

/// What the heap may keep, besides what is charged, when all are gone: what is known of those who left, what each thread reads
/// into and writes from, and what the store has cached of its blocks.
pub(crate) const fn at_rest(blocks: bool) -> usize {
    (512 << 10) + SCRATCH + if blocks { STORE_CACHE } else { 0 }
}
