//! `peerage verify`: opens the stores of stopped nodes, each alone, executes every block again and compares the results
//! with each other and with a journal of acknowledged transactions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use peerage_chain::{
    proto::id::TxId,
    store::{
        Report, compare,
        verify::{CrossCheck, verify_file},
    },
};
use serde::Serialize;

use super::{CliError, print_json};
use crate::{cli::VerifyArgs, data_dir::DataDir, genesis::load_genesis};

/// Findings of one kind at one node that are printed one by one. Our guess: enough to see the pattern.
const SHOWN: usize = 5;

/// Does what `peerage verify` says; `true` if everything is as it should be.
///
/// # Errors
/// [`CliError`]: the journal cannot be read, or `out` not be written. What is wrong with stores is in the output.
pub fn execute(args: &VerifyArgs, out: &mut impl Write) -> Result<bool, CliError> {
    let journal = args.journal.as_deref().map(read_journal).transpose()?;
    let stores = args.dirs.iter().zip(names(&args.dirs)).map(|(dir, name)| (name, dir.clone())).collect();
    let verdict = check(stores, journal.as_deref());
    if args.json {
        print_json(&verdict, out)?
    } else {
        verdict.print(out)?
    }
    Ok(verdict.ok)
}

/// What came out of checking stores.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether nothing was found.
    pub ok: bool,
    /// Those stores that could be read.
    pub stores: Vec<StoreLine>,
    /// Transactions of the journal, each counted once; none if there is no journal.
    pub journalled: Option<usize>,
    /// Of these, how many stand in every chain exactly once; none do if a store could not be read.
    pub committed: usize,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

/// One store that could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreLine {
    /// Its node.
    pub node: String,
    /// Height of its last block.
    pub height: u64,
    /// That block.
    pub head: String,
    /// The state that execution from genesis gives.
    pub state_root: String,
    /// Transactions in its blocks, repeated ones as often as they stand there.
    pub transactions: usize,
}

/// Something that is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its node.
    pub node: String,
    /// Where in the chain; none if the store could not be read at all.
    pub height: Option<u64>,
    /// What was checked, in one word.
    pub check: String,
    /// What was found.
    pub detail: String,
}

/// Checks the stores of data directories, each with the name of its node, at the same time, and compares them with each
/// other and with the journal.
pub fn check(dirs: Vec<(String, PathBuf)>, journal: Option<&[TxId]>) -> Verdict {
    let reports: Vec<(String, Result<Report, Finding>)> = thread::scope(|scope| {
        let checks: Vec<_> =
            dirs.into_iter().map(|(node, dir)| (node.clone(), scope.spawn(move || check_one(node, &dir)))).collect();
        let joined = checks.into_iter().map(|(node, check)| {
            let report = check.join().unwrap_or_else(|_| {
                Err(Finding::unreadable(&node, "the check itself failed: this is a fault of the program"))
            });
            (node, report)
        });
        joined.collect()
    });
    let (mut readable, mut findings) = (Vec::new(), Vec::new());
    for (node, report) in reports {
        match report {
            Ok(report) => readable.push((node, report)),
            Err(finding) => findings.push(finding),
        }
    }
    for (node, report) in &readable {
        findings.extend(report.problems.iter().map(|problem| Finding {
            node: node.clone(),
            height: Some(problem.height),
            check: format!("{:?}", problem.check),
            detail: problem.detail.clone(),
        }));
    }
    findings.extend(compare(&readable, journal.unwrap_or_default()).into_iter().filter_map(|finding| {
        let (check, detail) = match finding.check {
            // The store's own report, above, says more about it.
            CrossCheck::OwnReport(_) => return None,
            CrossCheck::CutOff => ("CutOff", "the store ends here, others go on".to_owned()),
            CrossCheck::OtherBlock => ("OtherBlock", "the block is not the one that others have".to_owned()),
            CrossCheck::AcknowledgedMissing(id) => ("AcknowledgedMissing", format!("{id} stands in no block")),
            CrossCheck::Repeated(id) => ("Repeated", format!("{id} stands in the chain more than once")),
        };
        Some(Finding { node: finding.node, height: Some(finding.height), check: check.to_owned(), detail })
    }));
    let journal = journal.map(|ids| ids.iter().copied().collect::<BTreeSet<_>>());
    let committed = match &journal {
        Some(ids) if findings.iter().all(|finding| finding.height.is_some()) => committed_once(ids, &readable),
        _ => 0,
    };
    let stores = readable.into_iter().map(|(node, report)| StoreLine {
        node,
        height: report.height,
        head: report.head.to_string(),
        state_root: report.state_root.to_string(),
        transactions: report.transactions.len(),
    });
    Verdict {
        ok: findings.is_empty(),
        stores: stores.collect(),
        journalled: journal.map(|ids| ids.len()),
        committed,
        findings,
    }
}

/// How many of these transactions stand in every chain exactly once.
fn committed_once(ids: &BTreeSet<TxId>, reports: &[(String, Report)]) -> usize {
    let mut once: BTreeMap<TxId, usize> = ids.iter().map(|id| (*id, 0)).collect();
    for (_, report) in reports {
        let mut places: BTreeMap<TxId, usize> = BTreeMap::new();
        report.transactions.iter().for_each(|(_, id)| *places.entry(*id).or_default() += 1);
        for (id, stores) in &mut once {
            *stores += usize::from(places.get(id) == Some(&1));
        }
    }
    once.into_values().filter(|stores| *stores == reports.len()).count()
}

fn check_one(node: String, path: &Path) -> Result<Report, Finding> {
    let failed = |error: &dyn core::fmt::Display| Finding::unreadable(&node, error);
    let dir = DataDir::open(path).map_err(|error| failed(&error))?;
    // A node that still runs would go on writing: the lock says so better than the database.
    let _lock = dir.lock().map_err(|error| failed(&error))?;
    let genesis = load_genesis(&dir.genesis()).map_err(|error| failed(&error))?;
    verify_file(&dir.store(), Arc::new(genesis)).map_err(|error| failed(&error))
}

impl Finding {
    fn unreadable(node: &str, error: impl core::fmt::Display) -> Self {
        Self { node: node.to_owned(), height: None, check: "Unreadable".to_owned(), detail: error.to_string() }
    }
}

impl Verdict {
    /// The head that all stores have, and none if they differ or one could not be read.
    pub fn common_head(&self) -> Option<&str> {
        self.common(|store| &store.head)
    }

    /// The state root that all stores have, and none if they differ or one could not be read.
    pub fn common_state_root(&self) -> Option<&str> {
        self.common(|store| &store.state_root)
    }

    fn common<'a>(&'a self, of: impl Fn(&'a StoreLine) -> &'a String) -> Option<&'a str> {
        let first = of(self.stores.first()?);
        let same = self.findings.iter().all(|finding| finding.height.is_some())
            && self.stores.iter().all(|store| of(store) == first);
        same.then_some(first)
    }

    /// Prints it for people: a line for each store, one for each finding, and a conclusion.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let width = self.stores.iter().map(|store| store.node.len()).max().unwrap_or(0).max("store".len());
        writeln!(out, "{:width$}  {:>8}  {:>12}  {:16}  state", "store", "height", "transactions", "head")?;
        for StoreLine { node, height, transactions, head, state_root } in &self.stores {
            let (head, state) = (short(head), short(state_root));
            writeln!(out, "{node:width$}  {height:>8}  {transactions:>12}  {head:16}  {state}")?;
        }
        let mut shown: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for Finding { node, height, check, detail } in &self.findings {
            let count = shown.entry((node, check)).or_default();
            *count += 1;
            if *count > SHOWN {
                continue;
            }
            match height {
                Some(height) => writeln!(out, "{node}: height {height}: {check}: {detail}")?,
                None => writeln!(out, "{node}: {check}: {detail}")?,
            }
        }
        for ((node, check), count) in shown.into_iter().filter(|(_, count)| *count > SHOWN) {
            writeln!(out, "{node}: {check}: {} more", count - SHOWN)?;
        }
        let journal = self.journalled.map_or_else(String::new, |count| {
            format!(", and each of {count} journalled transactions stands in every chain exactly once")
        });
        match (&self.stores[..], self.ok) {
            ([_], true) => writeln!(out, "ok: the store is consistent{journal}"),
            (stores, true) => writeln!(out, "ok: {} stores are consistent and agree{journal}", stores.len()),
            (_, false) => writeln!(out, "FAILED: {} findings", self.findings.len()),
        }
    }
}

/// The beginning of a hash: enough to tell two apart by eye.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// The last part of each directory's path, or all of it where that is not unique.
fn names(dirs: &[PathBuf]) -> Vec<String> {
    let last = |dir: &PathBuf| dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut counts: BTreeMap<Option<String>, usize> = BTreeMap::new();
    dirs.iter().for_each(|dir| *counts.entry(last(dir)).or_default() += 1);
    let name =
        |dir: &PathBuf| last(dir).filter(|_| counts[&last(dir)] == 1).unwrap_or_else(|| dir.display().to_string());
    dirs.iter().map(name).collect()
}

/// Reads a journal: transaction ids, one a line, each given out once.
///
/// A last line that is cut short is passed over: whoever was writing it never came to submit that transaction.
///
/// # Errors
/// [`CliError::Io`], with the line that is no id.
pub fn read_journal(path: &Path) -> Result<Vec<TxId>, CliError> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(failed)?;
    let mut ids = BTreeSet::new();
    for (line, text) in text.split_inclusive('\n').enumerate() {
        match text.trim().parse() {
            Ok(id) => ids.insert(id),
            Err(_) if !text.ends_with('\n') || text.trim().is_empty() => continue,
            Err(_) => {
                let reason = format!("{}:{}: not the id of a transaction", path.display(), line + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason).into());
            }
        };
    }
    Ok(ids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_up_to_a_cut_line_and_its_damage_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal");
        let (a, b) = (TxId([1; 32]), TxId([2; 32]));
        fs::write(&path, format!("{b}\n{a}\n{a}\n{}", &b.to_string()[..40])).expect("written");
        assert_eq!(read_journal(&path).expect("readable"), [a, b]);
        fs::write(&path, format!("{a}\nnonsense\n{b}\n")).expect("written");
        assert!(read_journal(&path).expect_err("damaged").to_string().contains("journal:2: "));
        assert!(read_journal(&dir.path().join("other")).is_err());
    }

    #[test]
    fn nodes_are_named_briefly_where_that_is_unambiguous() {
        let dirs = ["/a/x", "/b/x", "/b/y"].map(PathBuf::from);
        assert_eq!(names(&dirs), ["/a/x", "/b/x", "y"]);
    }

    #[test]
    fn a_missing_store_is_a_finding_and_no_verdict_is_good_without_it() {
        let verdict = check(vec![("n".to_owned(), "/does/not/exist".into())], None);
        assert!(!verdict.ok && verdict.common_head().is_none());
        let mut out = Vec::new();
        verdict.print(&mut out).expect("a vector takes it");
        let out = String::from_utf8(out).expect("text");
        assert!(out.contains("n: Unreadable: there is no data directory") && out.contains("FAILED: 1"), "{out}");
    }
}
