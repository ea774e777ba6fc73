//! T8: memory under abuse, as the test `bounded` of the workspace measures it.
//!
//! That test judges by the formula of `docs/bounds.md`, flood by flood; here its figures are held against the targets too.

use std::{path::Path, process::Command};

use super::Plan;
use crate::report::{Figure, Goal, Printer};

/// Columns of its table, in MiB: offered, ledger, heap, bound of the heap, resident, bound of that, kept, charged.
const COLUMNS: usize = 8;
/// The budget of the node under attack, in MiB (`tests/bounded/bound.rs`).
const BUDGET: f64 = 32.0;

/// A flood, and what it did. With one thread a line begins with the test's own name.
fn flood(line: &str) -> Option<(String, [f64; COLUMNS])> {
    let line = line.split_once("... ").map_or(line, |(_, rest)| rest);
    let words: Vec<_> = line.split_whitespace().collect();
    let (name, cells) = words.split_at_checked(words.len().checked_sub(COLUMNS)?)?;
    let cells: Vec<f64> = cells.iter().map_while(|cell| cell.parse().ok()).collect();
    Some((name.join(" "), cells.try_into().ok()?)).filter(|(name, _)| !name.is_empty())
}

pub(crate) fn run(_: &Plan, printer: Printer) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(["test", "--package", "system-tests", "--test", "bounded", "--manifest-path"]).arg(root);
    command.args(["--", "--nocapture", "--test-threads=1"]);
    let Ok(output) = command.output() else { return printer.note("T8", "cargo cannot be run") };
    let text = String::from_utf8_lossy(&output.stdout);
    for (name, [offered, ledger, heap, heap_bound, resident, ..]) in text.lines().filter_map(flood) {
        // Without charging the bound must break, or the test would hold nothing.
        let bounded = if name.contains("uncharged") { Goal::AtLeast(1.0) } else { Goal::AtMost(1.0) };
        for (what, ours, bound, bound_name, goal) in [
            ("offered", offered, 10.0 * BUDGET, "ten budgets", Goal::AtLeast(1.0)),
            ("most on the ledger", ledger, BUDGET, "the budget", bounded),
            ("most on the heap", heap, heap_bound, "the formula of docs/bounds.md", bounded),
            ("resident growth", resident, 1.1 * BUDGET, "the budget and 10 %", bounded),
        ] {
            printer.figure(&Figure {
                row: "T8",
                what: format!("{name}: {what}"),
                unit: "MiB",
                ours: vec![ours],
                peer: vec![bound],
                peer_name: bound_name.into(),
                goal,
            });
        }
    }
    let verdict = if output.status.success() { "passes" } else { "FAILS" };
    printer.note("T8", &format!("the test itself {verdict}; p99 of honest peers under abuse is not measured there"));
}
