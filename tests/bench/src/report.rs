//! What is printed: a JSON object a line, or a table.

use serde_json::{Value, json};

use crate::measure::{median, range};

/// What a ratio of ours to the peer's must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At most so much of the peer's: costs.
    AtMost(f64),
    /// At least so much of the peer's: rates.
    AtLeast(f64),
    /// No target: a figure that helps to read the others.
    None,
}

impl Goal {
    fn met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(ratio <= most),
            Self::AtLeast(least) => Some(ratio >= least),
            Self::None => None,
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::AtMost(most) => Some(format!("<= {most}")),
            Self::AtLeast(least) => Some(format!(">= {least}")),
            Self::None => None,
        }
    }
}

/// One comparison. `ours` and `peer` have a value for each round; the ratio is that of the values of one round, so that what
/// the machine does besides falls on both.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) row: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
    pub(crate) peer_name: String,
    pub(crate) goal: Goal,
}

/// Which library encrypts in this build of ours.
pub(crate) const PROVIDER: &str = if cfg!(feature = "ring") { "ring" } else { "portable" };

/// The rows whose figures depend on it.
const CIPHERED: &[&str] = &["T1", "T3", "T4", "T5", "T6", "T7"];

impl Figure {
    /// The ratio of each round; a single value of the peer (a published one, a bound) serves all rounds.
    fn ratios(&self) -> Vec<f64> {
        let peer = |round: usize| self.peer.get(round).or(self.peer.last()).copied().unwrap_or(f64::NAN);
        self.ours.iter().enumerate().map(|(round, ours)| ours / peer(round)).collect()
    }

    fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    fn json(&self) -> Value {
        let ratio = self.ratio();
        json!({
            "row": self.row,
            "what": if CIPHERED.contains(&self.row) { format!("{} [ours: {PROVIDER}]", self.what) } else { self.what.clone() },
            "unit": self.unit,
            "ours": short(median(&self.ours)),
            "peer": short(median(&self.peer)),
            "peer_name": self.peer_name,
            "ratio": short(ratio),
            "target": self.goal.text(),
            "met": self.goal.met(ratio),
            "range": range(&self.ratios()).map(short),
            "ours_range": range(&self.ours).map(short),
            "peer_range": range(&self.peer).map(short),
            "rounds": self.ours.len(),
        })
    }

    fn line(&self) -> String {
        let ratio = self.ratio();
        let [low, high] = range(&self.ratios());
        let verdict = match self.goal.met(ratio) {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        format!(
            "{:<4}{:<66}{:>11} {:>11} {:<6}{:>8.3} ({:.3}-{:.3})  {:<9}{:<8} {}",
            self.row,
            self.what,
            text(median(&self.ours)),
            text(median(&self.peer)),
            self.unit,
            ratio,
            low,
            high,
            self.goal.text().unwrap_or_default(),
            verdict,
            self.peer_name,
        )
    }
}

/// Four digits that mean something.
fn short(value: f64) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

fn text(value: f64) -> String {
    format!("{}", short(value))
}

/// Prints figures as they come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    pub(crate) json: bool,
}

impl Printer {
    pub(crate) fn heading(self) {
        if !self.json {
            println!(
                "Our ciphers come from: {PROVIDER}. Medians; the ratio is ours / peer, with its range over the rounds."
            );
        }
    }

    pub(crate) fn figure(self, figure: &Figure) {
        if self.json {
            println!("{}", figure.json());
        } else {
            println!("{}", figure.line());
        }
    }

    /// What a reader must know and no target is about.
    pub(crate) fn note(self, row: &str, note: &str) {
        if self.json {
            println!("{}", json!({ "row": row, "note": note }));
        } else {
            println!("{row:<4}note: {note}");
        }
    }
}
