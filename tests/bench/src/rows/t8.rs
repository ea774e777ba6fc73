//! T8: memory under abuse, as the test `bounded` of the workspace measures it, built as a node is built.
//!
//! That test judges floods one by one by the formula of `docs/bounds.md`, and a crowd of two hundred peers by what was offered,
//! delivered and resident; here its figures are held against the targets too, and what honest peers notice is compared.

use std::{collections::BTreeMap, path::Path, process::Command};

use super::Plan;
use crate::report::{Figure, Goal, Printer};

/// Columns of its table, in MiB: offered, ledger, heap, bound of the heap, resident, bound of that, kept, charged.
const COLUMNS: usize = 8;
/// The budget of the node under attack, in MiB (`tests/bounded/bound.rs`), and of the one with the crowd (`crowd/desk.rs`).
const BUDGET: f64 = 32.0;
const CROWD_BUDGET: f64 = 64.0;

/// A flood, and what it did. With one thread a line begins with the test's own name.
fn flood(line: &str) -> Option<(String, [f64; COLUMNS])> {
    let line = line.split_once("... ").map_or(line, |(_, rest)| rest);
    let words: Vec<_> = line.split_whitespace().collect();
    let (name, cells) = words.split_at_checked(words.len().checked_sub(COLUMNS)?)?;
    let cells: Vec<f64> = cells.iter().map_while(|cell| cell.parse().ok()).collect();
    Some((name.join(" "), cells.try_into().ok()?)).filter(|(name, _)| !name.is_empty())
}

/// What the story of the crowd says of itself, by name; flags are 0 and 1.
fn crowd(line: &str) -> Option<BTreeMap<&str, f64>> {
    let (_, words) = line.split_once("crowd: ")?;
    let value = |text: &str| match text {
        "true" => Some(1.0),
        "false" => Some(0.0),
        number => number.parse().ok(),
    };
    let pairs = words.split_whitespace().filter_map(|word| word.split_once('='));
    Some(pairs.filter_map(|(name, text)| Some((name, value(text)?))).collect())
}

/// A figure with what it is held against.
fn figure(printer: Printer, what: String, unit: &'static str, ours: f64, (bound, name): (f64, &str), goal: Goal) {
    let peer_name = name.into();
    printer.figure(&Figure { row: "T8", what, unit, ours: vec![ours], peer: vec![bound], peer_name, goal });
}

pub(crate) fn run(_: &Plan, printer: Printer) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(["test", "--release", "--package", "system-tests", "--test", "bounded", "--manifest-path"]).arg(root);
    command.args(["--", "--nocapture", "--test-threads=1"]);
    let Ok(output) = command.output() else { return printer.note("T8", "cargo cannot be run") };
    let text = String::from_utf8_lossy(&output.stdout);
    for figures in text.lines().filter_map(crowd) {
        let get = |name: &str| figures.get(name).copied().unwrap_or(f64::NAN);
        let charging = get("charging") > 0.0;
        // Without charging the bound must break, or the test would hold nothing.
        let (name, bounded) =
            if charging { ("crowd", Goal::AtMost(1.0)) } else { ("crowd, uncharged", Goal::AtLeast(1.0)) };
        let row = |what: &str, unit, ours, bound, goal| {
            figure(printer, format!("{name}: {what}"), unit, ours, bound, goal);
        };
        row("offered", "MiB", get("offered"), (10.0 * CROWD_BUDGET, "ten budgets"), Goal::AtLeast(1.0));
        row("resident growth", "MiB", get("resident"), (1.1 * CROWD_BUDGET, "the budget and 10 %"), bounded);
        let ledger = (get("ledger_since_met"), "the ledger");
        row("heap since all were there", "MiB", get("heap_since_met"), ledger, Goal::AtMost(1.1));
        if charging {
            let before = (get("p99_before"), "the same peers before");
            row("p99 of an honest peer's request", "ms", get("p99_meanwhile"), before, Goal::AtMost(2.0));
        }
    }
    for (name, [offered, ledger, heap, heap_bound, resident, ..]) in text.lines().filter_map(flood) {
        let bounded = if name.contains("uncharged") { Goal::AtLeast(1.0) } else { Goal::AtMost(1.0) };
        for (what, ours, bound, bound_name, goal) in [
            ("offered", offered, 10.0 * BUDGET, "ten budgets", Goal::AtLeast(1.0)),
            ("most on the ledger", ledger, BUDGET, "the budget", bounded),
            ("most on the heap", heap, heap_bound, "the formula of docs/bounds.md", bounded),
            ("resident growth", resident, 1.1 * BUDGET, "the budget and 10 %", bounded),
        ] {
            figure(printer, format!("{name}: {what}"), "MiB", ours, (bound, bound_name), goal);
        }
    }
    let verdict = if output.status.success() { "passes" } else { "FAILS" };
    printer.note("T8", &format!("the test itself {verdict}; it counts that every honest message is delivered"));
}
