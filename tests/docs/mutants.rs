//! The patches of `tests/spec/mutants`, which show that a rule's tests can fail, and those of `tests/fuzz/planted`, which show that
//! a fuzz target finds bugs: each still fits the code, and the rule that it breaks, or the target, is still there. That they
//! do what they are for is shown by `tests/spec/mutants/run` and `tests/fuzz/find-planted`, which take minutes. (Not among the
//! tests of `spec`, since those are what the former runs over code that the patch has changed.)

use std::{collections::BTreeSet, fs, path::PathBuf};

use crate::{read, root};

/// Lines that stand together in a file, before and after.
#[derive(Debug, Default)]
struct Hunk {
    file: String,
    old: Vec<String>,
    new: Vec<String>,
}

/// A patch: lines that say what it is for, and what `git diff -U1` writes.
#[derive(Debug, Default)]
struct Patch {
    above: Vec<String>,
    hunks: Vec<Hunk>,
}

const MUTANTS: &str = "tests/spec/mutants";
const PLANTED: &str = "tests/fuzz/planted";

fn patches(dir: &str) -> Vec<(String, Patch)> {
    let dir = root().join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("a readable directory").path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "patch")).collect();
    paths.sort();
    let named = |path: PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let patch = parse(&read(&path)).unwrap_or_else(|line| panic!("{name}: what is this line? {line}"));
        (name, patch)
    };
    paths.into_iter().map(named).collect()
}

/// # Errors
/// The first line that has no place in a patch.
fn parse(text: &str) -> Result<Patch, String> {
    let (mut patch, mut file) = (Patch::default(), String::new());
    for line in text.lines() {
        match (line.split_at_checked(1), patch.hunks.last_mut()) {
            _ if ["--- a/", "diff --git ", "index "].iter().any(|head| line.starts_with(head)) => {}
            _ if line.starts_with("+++ b/") => file = line["+++ b/".len()..].into(),
            _ if line.starts_with("@@ ") => patch.hunks.push(Hunk { file: file.clone(), ..Hunk::default() }),
            (Some((" ", kept)), Some(hunk)) => {
                hunk.old.push(kept.into());
                hunk.new.push(kept.into());
            }
            (Some(("-", gone)), Some(hunk)) => hunk.old.push(gone.into()),
            (Some(("+", come)), Some(hunk)) => hunk.new.push(come.into()),
            (_, None) => patch.above.push(line.into()),
            _ => return Err(line.into()),
        }
    }
    Ok(patch)
}

/// At which lines `wanted` stands in `text`.
fn places(text: &str, wanted: &[String]) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.windows(wanted.len()).enumerate().filter(|(_, lines)| lines.iter().eq(wanted));
    found.map(|(at, _)| at).collect()
}

/// The rule that a mutant breaks, and how.
fn rule(patch: &Patch) -> Option<(&str, &str)> {
    let [rule, breaks] = &patch.above[..] else { return None };
    Some((rule.strip_prefix("rule: ")?, breaks.strip_prefix("breaks: ")?))
}

#[test]
fn each_patch_fits_the_code_in_one_place() {
    for (name, patch) in [MUTANTS, PLANTED].into_iter().flat_map(patches) {
        assert!(!patch.hunks.is_empty(), "{name}: it changes nothing");
        let mut last = (String::new(), 0);
        for hunk in &patch.hunks {
            assert_ne!(hunk.old, hunk.new, "{name}: it changes nothing");
            let places = places(&read(&root().join(&hunk.file)), &hunk.old);
            let [at] = places[..] else {
                panic!("{name}: in {} {} places look so; write it anew: {:#?}", hunk.file, places.len(), hunk.old)
            };
            assert!(last.0 != hunk.file || last.1 < at, "{name}: {}: the changes are not in order", hunk.file);
            last = (hunk.file.clone(), at);
        }
    }
}

#[test]
fn each_patch_says_which_rule_it_breaks_and_every_document_has_one() {
    let patches = patches(MUTANTS);
    assert!(patches.len() >= 10, "{} patches: are they found at all?", patches.len());
    let mut broken = BTreeSet::new();
    for (number, (name, patch)) in (1..).zip(&patches) {
        assert!(name.starts_with(&format!("{number:02}-")), "{name}: it should be number {number}");
        let Some((rule, breaks)) = rule(patch) else {
            panic!("{name}: `rule: DOCUMENT N.M` and `breaks: ..`, and not {:#?}", patch.above)
        };
        let document = rule.split(' ').next().expect("a split has a part");
        let text = read(&root().join("docs/protocol").join(document).with_extension("md"));
        let begin = format!("**{rule}** ");
        assert!(text.lines().any(|line| line.starts_with(&begin)), "{name}: there is no rule {rule}");
        assert!(!breaks.is_empty(), "{name}: it does not say what it breaks");
        broken.insert(document);
    }
    let documents = BTreeSet::from(["wire", "transport", "discovery", "gossip", "chain"]);
    assert_eq!(broken, documents, "documents of whose rules one is broken");
}

#[test]
fn each_planted_bug_says_what_it_is_and_is_for_a_target_that_there_is() {
    let patches = patches(PLANTED);
    assert!(patches.len() >= 6, "{} patches: are they found at all?", patches.len());
    for (name, patch) in patches {
        let target = name.split('.').next().expect("a split has a part");
        let file = root().join("tests/fuzz/fuzz_targets").join(target).with_extension("rs");
        assert!(file.exists(), "{name}: there is no target {target}");
        assert!(patch.above.iter().any(|line| line.ends_with('.')), "{name}: it does not say what it is");
    }
}

#[test]
fn a_patch_is_read_as_diff_writes_it() {
    let text = "rule: wire 1.1\nbreaks: it.\n--- a/x.rs\n+++ b/x.rs\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n";
    let patch = parse(text).expect("a patch");
    assert_eq!(rule(&patch), Some(("wire 1.1", "it.")));
    let [hunk] = &patch.hunks[..] else { panic!("one hunk: {patch:?}") };
    assert_eq!((&*hunk.file, &hunk.old, &hunk.new.concat()), ("x.rs", &hunk.old, &"oneTWOthree".to_owned()));
    assert_eq!(places("zero\none\ntwo\nthree\none\ntwo\n", &hunk.old), [1]);
    assert_eq!(places("one\ntwo\nthree\none\ntwo\nthree", &hunk.old), [0, 3], "in two places it may go wrong");
    assert!(places("one\n two\nthree\n", &hunk.old).is_empty(), "spaces count");
    let other = parse("rule: wire 1.1\nnonsense").expect("words above, and no changes");
    assert_eq!((rule(&other), other.hunks.len()), (None, 0));
    assert_eq!(parse(&format!("{text}nonsense")).map(|patch| patch.above), Err("nonsense".into()));
}
