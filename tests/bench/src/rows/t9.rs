//! T9: how many crates of others a part of the stack pulls in.

use std::{collections::BTreeSet, path::Path, process::Command};

use super::Plan;
use crate::report::{Figure, Goal, Printer};

/// What is counted: a manifest, a package of it, its features.
struct Part<'a> {
    manifest: &'a Path,
    package: &'a str,
    features: &'a [&'a str],
}

impl Part<'_> {
    /// The crates that are not ours along these kinds of edges, by name and version.
    fn crates(&self, edges: &str) -> Option<BTreeSet<String>> {
        let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        command.args(["tree", "--prefix", "none", "--no-dedupe", "--format", "{p}", "--edges", edges]);
        command.args(["--package", self.package]).args(self.features).arg("--manifest-path").arg(self.manifest);
        let output = command.output().ok()?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
        Some(lines.filter(|line| !line.is_empty() && !line.starts_with("peerage")).collect())
    }
}

pub(crate) fn run(_: &Plan, printer: Printer) {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let ours = |package, features| Part { manifest: &root, package, features };
    let bare: &[&str] = &["--no-default-features"];
    let (all, run_time) = ("normal,build", "normal,no-proc-macro");
    let peer = Part { manifest: &bench, package: "libp2p", features: &[] };
    // The peer's own crate counts too.
    let peer = peer.crates(all);
    for (what, part, edges, most) in [
        ("wire, all", ours("peerage-wire", bare), all, Some(16)),
        ("wire, run time", ours("peerage-wire", bare), run_time, Some(8)),
        ("transport, pure, all", ours("peerage-transport", bare), all, None),
        ("transport with its driver, all", ours("peerage-transport", &[]), all, Some(60)),
        ("transport with its driver, run time", ours("peerage-transport", &[]), run_time, None),
        ("transport with its driver and ring, all", ours("peerage-transport", &["--features", "ring"]), all, None),
    ] {
        let (Some(crates), Some(peer)) = (part.crates(edges), &peer) else {
            printer.note("T9", &format!("{what}: cargo tree failed"));
            continue;
        };
        let figure = |bound: usize, name: &str, goal| Figure {
            row: "T9",
            what: format!("crates of others, {what}"),
            unit: "",
            ours: vec![crates.len() as f64],
            peer: vec![bound as f64],
            peer_name: name.into(),
            goal,
        };
        if let Some(most) = most {
            printer.figure(&figure(most, "target", Goal::AtMost(1.0)));
        }
        printer.figure(&figure(peer.len(), "libp2p (tcp, noise, yamux), all", Goal::None));
    }
    for package in
        ["peerage-core", "peerage-wire", "peerage-transport", "peerage-discovery", "peerage-gossip", "peerage-chain"]
    {
        let Some(crates) = ours(package, bare).crates(run_time) else { continue };
        printer.figure(&Figure {
            row: "T9",
            what: format!("tokio in {package} without its default features"),
            unit: "",
            ours: vec![crates.iter().filter(|name| name.starts_with("tokio ")).count() as f64],
            peer: vec![1.0],
            peer_name: "one would be too many".into(),
            goal: Goal::AtMost(0.0),
        });
    }
}
