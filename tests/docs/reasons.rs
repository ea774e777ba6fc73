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

#[test]
fn every_reason_is_explained_to_the_operator_and_none_that_does_not_exist() {
    let drops: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    assert_eq!(explained(|heading| heading == "Dropped messages"), drops);
    let closes: BTreeSet<_> = CloseReason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    assert_eq!(explained(|heading| !["Dropped messages", "What happened"].contains(&heading)), closes);
}
