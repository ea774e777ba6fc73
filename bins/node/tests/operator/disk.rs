//! Disks that are full: a real one of a few MiB, mounted for the story alone, and a log that nobody can write to.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    program::{Home, Program, ascii},
    support::alone,
};

/// A file system in memory in a mount namespace of its own, as long as this lives. Everybody reaches it through `/proc`.
struct SmallDisk {
    keeper: Child,
    path: PathBuf,
    /// Where it is mounted in its namespace; empty in ours.
    _point: TempDir,
}

impl SmallDisk {
    /// Mounts it, or says why that is not possible here.
    fn mount(mib: usize) -> Result<Self, String> {
        let point = tempfile::tempdir().expect("a temporary directory");
        let at = ascii(point.path());
        let script = format!("mount -t tmpfs -o size={mib}m,mode=700 tmpfs '{at}' && echo mounted && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        let keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut keeper = keeper.map_err(|error| format!("no program `unshare`: {error}"))?;
        let mut line = String::new();
        let out = keeper.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("the pipe works");
        let path = PathBuf::from(format!("/proc/{}/root{at}", keeper.id()));
        let disk = Self { keeper, path, _point: point };
        // Seen from here it must be another disk than the one that it is mounted on.
        let probe = disk.path.join("probe");
        match (line.as_str(), fs::write(&probe, "").and_then(|()| fs::remove_file(&probe))) {
            ("mounted\n", Ok(())) => Ok(disk),
            ("mounted\n", Err(error)) => Err(format!("the mounted disk cannot be reached: {error}")),
            _ => Err("no tmpfs can be mounted in a namespace of one's own".to_owned()),
        }
    }

    /// A disk, or `None` and a word about it on a machine that has none to give.
    fn or_skip() -> Option<Self> {
        Self::mount(4).map_err(|reason| eprintln!("skipped: {reason}")).ok()
    }

    /// Takes all the room there is but so many KiB, until the returned file is removed.
    fn fill(&self, but_kib: usize) -> PathBuf {
        let path = self.path.join("something else");
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).expect("a file");
        let mut written = 0;
        while file.write_all(&[1; 1024]).is_ok() {
            written += 1024;
        }
        file.set_len(written - 1024 * but_kib as u64).expect("shorter");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It may have ended already, for want of a namespace.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

const FULL: [&str; 3] =
    ["the store failed", "No space left on device", "make room on the disk and start the node again"];

/// Submits transactions until the node takes no more. Returns the ids of those that were acknowledged.
fn submit_until_refused(home: &Home) -> Vec<String> {
    let mut acknowledged = Vec::new();
    // Far more than the disk holds.
    for number in 0..5_000 {
        let ended = home.put(&format!("k{number}"), &"v".repeat(20_000), false);
        if !ended.is_good() {
            return acknowledged;
        }
        acknowledged.push(ended.succeeded().trim().to_owned());
    }
    panic!("100 MB fitted on a small disk");
}

/// Sees that each acknowledged transaction stands in the chain, once.
fn all_committed(home: &Home, ground: &Path, acknowledged: &[String]) {
    let journal = ground.join("journal");
    fs::write(&journal, acknowledged.iter().map(|id| format!("{id}\n")).collect::<String>()).expect("written");
    Program::start(&["verify", "--dir", home.path(), "--journal", ascii(&journal)]).ends().succeeded();
}

/// Starts the node again and waits until nothing that it acknowledged waits for a block any more; stops it.
fn catch_up(home: &Home) -> u64 {
    let (node, _) = home.up(&[]);
    crate::support::eventually("all that was acknowledged is in a block", || home.status().waiting() == 0);
    let height = home.status().height();
    node.terminate().succeeded();
    height
}

#[test]
fn a_node_that_fills_its_disk_ends_and_with_room_again_goes_on_where_it_was() {
    let _alone = alone();
    let Some(disk) = SmallDisk::or_skip() else { return };
    let ground = tempfile::tempdir().expect("a temporary directory");
    let home = Home::new(&disk.path.join("node"));
    let (node, _) = home.up(&[]);
    home.commit("first");
    let other = disk.fill(1_500);
    let acknowledged = submit_until_refused(&home);
    assert!(!acknowledged.is_empty(), "there was room for some");
    node.ends().failed(74, &FULL);

    // Still full, and nothing is worse for having tried; where it starts, it has nothing to write yet.
    match home.run_until_open() {
        Some(node) => drop(node),
        None => home.run().ends().failed(74, &["No space left on device", "make room"]),
    }
    fs::remove_file(other).expect("room again");
    assert!(catch_up(&home) >= 1);
    all_committed(&home, ground.path(), &acknowledged);
}

#[test]
fn a_follower_whose_disk_is_full_ends_and_later_fetches_what_it_missed() {
    let _alone = alone();
    let Some(disk) = SmallDisk::or_skip() else { return };
    let ground = tempfile::tempdir().expect("a temporary directory");
    let producer = Home::new(&ground.path().join("producer"));
    let follower = Home::joining(&disk.path.join("follower"), &producer);
    let (producing, status) = producer.up(&[]);
    let seed = status.seed();
    let (following, _) = follower.up(&["--seed", &seed]);
    producer.commit("first");
    crate::support::eventually("the follower has the block", || follower.status().height() == 1);
    let before = follower.status().head().to_owned();
    let other = disk.fill(0);
    for number in 0..40 {
        producer.put(&format!("k{number}"), &"v".repeat(20_000), false).succeeded();
    }
    following.ends().failed(74, &FULL);
    fs::remove_file(other).expect("room again");
    follower.verify().succeeded();

    let (following, again) = follower.up(&["--seed", &seed]);
    assert!(again.height() > 1 || again.head() == before, "it begins where it was");
    crate::support::eventually("both have the same head, and nothing waits", || {
        producer.status().waiting() == 0 && follower.status().head() == producer.status().head()
    });
    following.terminate().succeeded();
    producing.terminate().succeeded();
    follower.verify().succeeded();
}

#[test]
fn a_first_start_on_a_full_disk_leaves_no_half_a_store_behind() {
    let _alone = alone();
    let Some(disk) = SmallDisk::or_skip() else { return };
    let home = Home::new(&disk.path.join("node"));
    for room in [0, 4, 8] {
        let other = disk.fill(room);
        home.run().ends().failed(74, &["No space left on device", "make room on the disk and start the node again"]);
        fs::remove_file(other).expect("room again");
        assert!(!home.dir.store().exists(), "{room} KiB are too few for a store, and there is none");
    }
    let (node, status) = home.up(&[]);
    assert_eq!(status.height(), 0);
    home.commit("first");
    node.terminate().succeeded();
    home.verify().succeeded();
}

#[test]
fn a_log_that_cannot_be_written_changes_neither_what_a_node_does_nor_how_it_ends() {
    let _alone = alone();
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
        return eprintln!("skipped: there is no /dev/full");
    };
    let ground = tempfile::tempdir().expect("a temporary directory");
    let home = Home::new(&ground.path().join("node"));
    let log = || Stdio::from(full.try_clone().expect("a descriptor"));
    let run = ["run", "--dir", home.path(), "--listen", "127.0.0.1:0"];
    let node = Program::start_with(&run, |command| command.stderr(log()));
    crate::support::eventually("the node answers", || {
        Program::start(&["status", "--dir", home.path()]).ends().is_good()
    });
    home.commit("key");
    let second = Program::start_with(&run, |command| command.stderr(log())).ends();
    second.failed_silently(1);
    node.terminate().succeeded();
    home.verify().succeeded();
}
