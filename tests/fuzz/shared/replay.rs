//! The inputs of the fuzz targets as ordinary tests. Each crate with targets includes this file in its tests.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use super::Target;

/// A valid input that a fuzzer begins with: its target, its name, its bytes.
pub(crate) type Seed = (&'static str, &'static str, Vec<u8>);

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    files.sort();
    files
}

/// Runs each body on what fuzzing found worth keeping (`corpus`) and on the valid inputs it began with (`seeds`), which
/// must be those that the code makes now: `BLESS=1` writes them anew.
pub(crate) fn replay(prefix: &str, targets: &[Target], seeds: &[Seed]) {
    compare(seeds);
    for (name, body) in targets {
        for kind in ["corpus", "seeds"] {
            let files = files(&fuzz_dir().join(kind).join(name));
            assert!(!files.is_empty(), "{kind}/{name} is empty: see tests/fuzz/README.md");
            for file in files {
                println!("{}", file.display()); // shown if the body panics: the last one is the culprit
                body(&fs::read(&file).expect("a readable input"));
            }
        }
    }
    // A corpus that no target replays, or a target that no fuzzer runs, is a mistake in a name.
    let names: BTreeSet<_> = targets.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (dir, suffix) in [("corpus", ""), ("seeds", ""), ("fuzz_targets", ".rs")] {
        let found: BTreeSet<_> = files(&fuzz_dir().join(dir))
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(suffix)?.to_owned()))
            .filter(|name| name.starts_with(prefix))
            .collect();
        assert_eq!(found, names, "tests/fuzz/{dir} against the targets of the crate");
    }
}

fn compare(seeds: &[Seed]) {
    for (target, name, bytes) in seeds {
        let path = fuzz_dir().join("seeds").join(target).join(name);
        if env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("within a directory")).expect("a writable directory");
            fs::write(&path, bytes).expect("a writable directory");
        }
        let written = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(&written, bytes, "seed {target}/{name} is not what the code makes now: BLESS=1 writes it");
    }
}
