//! The result of a devnet, for people and for machines.

use std::io::{self, Write};

use serde::Serialize;

use super::propagation::Propagation;
use crate::commands::verify::Verdict;

/// What a devnet came to.
#[derive(Debug)]
pub struct Summary {
    /// Transactions that should have been submitted, by rate and time.
    pub due: u64,
    /// Transactions that were handed to a node, whatever it answered.
    pub submitted: u64,
    /// Transactions that a node refused for good.
    pub rejected: u64,
    /// The least number of peers of any node at the end of the load.
    pub peers_min: usize,
    /// How fast transactions spread.
    pub propagation: Propagation,
    /// Events that were not heard, because this process was too slow or a node broke off; propagation misses them.
    pub missed_events: u64,
    /// What went wrong while it ran, for people.
    pub troubles: Vec<String>,
    /// What the stores say.
    pub verdict: Verdict,
    /// How many nodes there were.
    pub nodes: usize,
}

/// The last line with `--json`.
#[derive(Serialize)]
struct Line {
    nodes: usize,
    height: u64,
    heads_equal: bool,
    state_roots_equal: bool,
    submitted: u64,
    committed: usize,
    rejected: u64,
    peers_min: usize,
    propagation_ms: PropagationLine,
}

#[derive(Serialize)]
struct PropagationLine {
    p50: Option<f64>,
    p99: Option<f64>,
    n: u64,
    #[serde(skip_serializing_if = "is_zero")]
    missing: u64,
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Milliseconds, to a hundredth.
fn rounded(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

impl Summary {
    /// Everything that is not as it should be, besides what was found in the stores; empty if all is well.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.troubles.clone();
        if !self.verdict.ok {
            failures.push(format!("verification found {} faults", self.verdict.findings.len()));
        }
        if self.verdict.common_head().is_none() || self.verdict.common_state_root().is_none() {
            failures.push("the stores do not agree".to_owned());
        }
        let committed = self.verdict.committed;
        if committed as u64 != self.submitted {
            failures
                .push(format!("{committed} of {} transactions are committed exactly once everywhere", self.submitted));
        }
        // At least 0.9 of the load that was asked for.
        if u128::from(self.submitted) * 10 < u128::from(self.due) * 9 {
            failures
                .push(format!("the load was not kept up: {} of {} transactions submitted", self.submitted, self.due));
        }
        failures
    }

    /// Whether all is well.
    pub fn ok(&self) -> bool {
        self.failures().is_empty()
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let line = Line {
            nodes: self.nodes,
            height: self.verdict.stores.iter().map(|store| store.height).max().unwrap_or(0),
            heads_equal: self.verdict.common_head().is_some(),
            state_roots_equal: self.verdict.common_state_root().is_some(),
            submitted: self.submitted,
            committed: self.verdict.committed,
            rejected: self.rejected,
            peers_min: self.peers_min,
            propagation_ms: PropagationLine {
                p50: self.propagation.p50_ms.map(rounded),
                p99: self.propagation.p99_ms.map(rounded),
                n: self.propagation.expected,
                missing: self.propagation.missing,
            },
        };
        serde_json::to_string(&line).expect("numbers and names")
    }

    /// Prints it for people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        self.verdict.print(out)?;
        writeln!(out)?;
        writeln!(out, "submitted    {} of {} due, {} rejected", self.submitted, self.due, self.rejected)?;
        writeln!(out, "committed    {} exactly once everywhere", self.verdict.committed)?;
        writeln!(out, "peers        {} at least", self.peers_min)?;
        let Propagation { p50_ms, p99_ms, expected, missing } = self.propagation;
        let (p50, p99) = (ms(p50_ms), ms(p99_ms));
        writeln!(out, "propagation  p50 {p50} ms, p99 {p99} ms, of {expected} arrivals, {missing} missing")?;
        if self.missed_events > 0 {
            writeln!(
                out,
                "             {} events were missed: this process was too slow for them",
                self.missed_events
            )?;
        }
        let failures = self.failures();
        for failure in &failures {
            writeln!(out, "FAILED       {failure}")?;
        }
        if failures.is_empty() {
            writeln!(out, "ok           every node has the same chain, and every transaction stands in it once")?;
        }
        Ok(())
    }
}

/// Milliseconds for people.
pub fn ms(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::verify::{Finding, StoreLine};

    fn summary() -> Summary {
        let store = |node: &str| StoreLine {
            node: node.to_owned(),
            height: 41,
            head: "aa".to_owned(),
            state_root: "bb".to_owned(),
            transactions: 1000,
        };
        let stores = ["node-0", "node-1", "node-2", "node-3", "node-4"].map(store).to_vec();
        let propagation = Propagation { p50_ms: Some(1.8999), p99_ms: Some(8.2), expected: 4000, missing: 0 };
        Summary {
            due: 1000,
            submitted: 1000,
            rejected: 0,
            peers_min: 4,
            propagation,
            missed_events: 0,
            troubles: Vec::new(),
            verdict: Verdict { ok: true, stores, journalled: Some(1000), committed: 1000, findings: Vec::new() },
            nodes: 5,
        }
    }

    #[test]
    fn the_line_for_machines_has_exactly_these_fields_in_this_order() {
        let good = summary();
        assert!(good.ok(), "{:?}", good.failures());
        let line = concat!(
            r#"{"nodes":5,"height":41,"heads_equal":true,"state_roots_equal":true,"submitted":1000,"committed":1000,"#,
            r#""rejected":0,"peers_min":4,"propagation_ms":{"p50":1.9,"p99":8.2,"n":4000}}"#
        );
        assert_eq!(good.to_json(), line);
        let mut missing = good;
        missing.propagation.missing = 2;
        assert!(missing.to_json().ends_with(r#""n":4000,"missing":2}}"#));
    }

    #[test]
    fn each_thing_that_is_not_as_it_should_be_is_a_failure_by_itself() {
        let failing: [fn(&mut Summary); 6] = [
            |summary| summary.submitted = 899,
            |summary| summary.verdict.committed = 999,
            |summary| summary.troubles.push("node-3 died".to_owned()),
            |summary| summary.verdict.stores[2].head = "cc".to_owned(),
            |summary| summary.verdict.stores[4].state_root = "cc".to_owned(),
            |summary| {
                let (node, check, detail) = ("node-1".to_owned(), "Unreadable".to_owned(), String::new());
                summary.verdict.findings.push(Finding { node, height: None, check, detail });
            },
        ];
        for (index, spoil) in failing.into_iter().enumerate() {
            let mut summary = summary();
            spoil(&mut summary);
            assert!(!summary.ok(), "case {index}");
            let mut out = Vec::new();
            summary.print(&mut out).expect("a vector takes it");
            assert!(String::from_utf8_lossy(&out).contains("FAILED"), "case {index}");
        }
        let mut least = summary();
        (least.submitted, least.verdict.committed) = (900, 900);
        assert!(least.ok(), "{:?}", least.failures());
    }
}
