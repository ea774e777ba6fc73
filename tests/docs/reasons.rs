//! `docs/operators/why.md` against the code: each reason, and each thing that happens to a peer, is explained to whoever runs a node.

use std::collections::BTreeSet;

use peerage_core::{CloseReason, DropReason};

use crate::{quoted, read, root, rows};

/// The names in the first column of the tables below the headings that are `wanted`.
fn explained(wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let text = read(&root().join("docs/operators/why.md"));
    let tables = rows(&text).into_iter().filter(|(heading, _)| wanted(heading));
    tables.flat_map(|(_, row)| quoted(&row[0]).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The labels that `Happening::label` gives, read from its code: to make one of each would need a list that somebody can forget.
fn happenings() -> BTreeSet<String> {
    let text = read(&root().join("crates/transport/src/proto/recorder.rs"));
    let (_, rest) = text.split_once("pub const fn label(&self)").expect("Happening::label");
    let (body, _) = rest.split_once("\n    }\n").expect("its end");
    let arms = body.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \""));
    arms.filter_map(|(_, label)| Some(label.strip_suffix("\",")?.to_owned())).collect()
}

#[test]
fn everything_that_happens_to_a_peer_is_explained_to_the_operator_and_nothing_else() {
    let happenings = happenings();
    assert!(happenings.len() > 10, "{happenings:?}: are they found at all?");
    assert_eq!(explained(|heading| heading == "What happened"), happenings);
}

#[test]
fn every_reason_is_explained_to_the_operator_and_none_that_does_not_exist() {
    let drops: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    assert_eq!(explained(|heading| heading == "Dropped messages"), drops);
    let closes: BTreeSet<_> = CloseReason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    assert_eq!(explained(|heading| !["Dropped messages", "What happened"].contains(&heading)), closes);
}
