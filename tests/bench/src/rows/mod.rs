//! One file a row of the targets.

mod cap;
mod lz4;
mod t1;
pub(crate) mod t10;
mod t2;
mod t3;
mod t4;
mod t5;
mod t6;
mod t7;
mod t8;
mod t9;

use crate::report::Printer;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rounds, each with ours and every peer once.
    pub(crate) runs: usize,
    /// Size of the bulk transfer.
    pub(crate) mib: usize,
    /// Numbers of idle connections.
    pub(crate) connections: Vec<usize>,
    /// Ours alone, for a profiler; rows that have no use for it ignore it.
    pub(crate) ours: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { runs: 5, mib: 1024, connections: vec![1_000, 10_000], ours: false }
    }
}

/// A row: its name, and what measures and prints it.
pub(crate) type Row = (&'static str, fn(&Plan, Printer));

/// All rows, in the order of printing.
pub(crate) const ROWS: &[Row] = &[
    ("T1", t1::run),
    ("T2", t2::run),
    ("T3", t3::run),
    ("T4", t4::run),
    ("T5", t5::run),
    ("T6", t6::run),
    ("T7", t7::run),
    ("T8", t8::run),
    ("T9", t9::run),
    ("T10", t10::run),
    ("CAP", cap::run),
    ("LZ4", lz4::run),
];

/// The first argument of a process that is the other side of a measurement.
pub(crate) const CHILD: &str = "--other-side";

/// Such a process.
pub(crate) fn child(args: impl Iterator<Item = String>) {
    t7::child(args);
}
