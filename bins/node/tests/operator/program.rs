//! The program and its data directory, as an operator handles them.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{JoinHandle, spawn},
};

use peerage::data_dir::DataDir;
use peerage_core::NodeId;

use crate::support::eventually;

/// A program that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// It failed with this code, and the last thing that it said contains all of these words.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        for word in words {
            assert!(last.starts_with("peerage: ") && last.contains(word), "no `{word}` in the last line of {self:#?}");
        }
    }

    /// The command line was refused, in these words somewhere.
    #[track_caller]
    pub(crate) fn failed_by_usage(&self, words: &[&str]) {
        let said = words.iter().all(|word| self.stderr.contains(word));
        assert!(self.status.code() == Some(2) && said, "not {words:?}: {self:#?}");
    }

    /// It failed with this code, and could not say why.
    #[track_caller]
    pub(crate) fn failed_silently(&self, code: i32) {
        assert_eq!((self.status.code(), self.stderr.as_str()), (Some(code), ""), "{self:#?}");
    }

    /// Whether it did what it was told.
    pub(crate) fn is_good(&self) -> bool {
        self.status.success()
    }

    /// It did what it was told; what it printed.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }
}

type Text = Arc<Mutex<String>>;

/// A running program; killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    out: Text,
    err: Text,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts `peerage` with these arguments and without settings from the environment.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, |command| command.stderr(Stdio::piped()))
    }

    /// The same with changes to how it is started.
    pub(crate) fn start_with(args: &[&str], change: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerage"));
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PEERAGE_")) {
            command.env_remove(variable);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = change(&mut command).spawn().expect("the program starts");
        let (out, err) = (Text::default(), Text::default());
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| read(pipe, &out)));
        readers.extend(child.stderr.take().map(|pipe| read(pipe, &err)));
        Self { child, out, err, readers }
    }

    /// Waits until it has said this on standard error.
    pub(crate) fn says(&mut self, words: &str) {
        let (err, child) = (&self.err, &mut self.child);
        eventually(&format!("it says `{words}`"), || {
            let said = text(err);
            let gone = child.try_wait().expect("a child can be waited for");
            assert!(gone.is_none() || said.contains(words), "{gone:?} without `{words}`: {said}");
            said.contains(words)
        });
    }

    /// Waits until it has said this on standard error, or ended without.
    pub(crate) fn says_or_ends(&mut self, words: &str) -> bool {
        let (err, child) = (&self.err, &mut self.child);
        let mut said = false;
        eventually(&format!("it says `{words}` or ends"), || {
            said = text(err).contains(words);
            said || child.try_wait().expect("a child can be waited for").is_some()
        });
        said
    }

    /// Asks it to stop as an operator does.
    pub(crate) fn terminate(self) -> Ended {
        // The shell's own `kill` is there on every machine; the program of that name is not.
        let sent = Command::new("sh").args(["-c", &format!("kill -s TERM {}", self.child.id())]).status();
        assert!(sent.expect("there is a shell").success(), "it runs");
        self.ends()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ends(mut self) -> Ended {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("what it says is text");
        }
        Ended { status: status.expect("it ended"), stdout: text(&self.out), stderr: text(&self.err) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut pipe: impl Read + Send + 'static, into: &Text) -> JoinHandle<()> {
    let into = Arc::clone(into);
    spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = pipe.read(&mut bytes) {
            let more = std::str::from_utf8(&bytes[..read]).expect("what is printed is ASCII");
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(more);
        }
    })
}

fn text(of: &Text) -> String {
    of.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The data directory of a node, its network's only producer unless it joined another's.
pub(crate) struct Home {
    pub(crate) dir: DataDir,
    accounts: PathBuf,
}

impl Home {
    /// What `peerage init` makes at `path`, and an account key beside it.
    pub(crate) fn new(path: &Path) -> Self {
        Self::made(path, &["--network", "dev"])
    }

    /// A data directory for a node of the same network.
    pub(crate) fn joining(path: &Path, other: &Self) -> Self {
        Self::made(path, &["--genesis", ascii(&other.dir.genesis())])
    }

    fn made(path: &Path, network: &[&str]) -> Self {
        let args = [&["init", "--dir", ascii(path)], network].concat();
        Program::start(&args).ends().succeeded();
        let accounts = path.with_extension("account.key");
        Program::start(&["key", "new", ascii(&accounts), "--kind", "account"]).ends().succeeded();
        Self { dir: DataDir::open(path).expect("it was made"), accounts }
    }

    pub(crate) fn path(&self) -> &str {
        ascii(self.dir.path())
    }

    /// Runs the node at a port that the system chooses.
    pub(crate) fn run(&self) -> Program {
        self.run_with(&["--listen", "127.0.0.1:0"])
    }

    /// Runs the node with these settings and no others.
    pub(crate) fn run_with(&self, settings: &[&str]) -> Program {
        Program::start(&[&["run", "--dir", self.path()], settings].concat())
    }

    /// Runs the node, waits until it answers, and returns what its status is.
    pub(crate) fn up(&self, settings: &[&str]) -> (Program, Status) {
        let mut node = self.run_with(&[&["--listen", "127.0.0.1:0"], settings].concat());
        node.says("store open");
        let status = self.status();
        (node, status)
    }

    /// Runs the node, if its store opens.
    pub(crate) fn run_until_open(&self) -> Option<Program> {
        let mut node = self.run();
        node.says_or_ends("store open").then_some(node)
    }

    /// What the running node says of itself.
    pub(crate) fn status(&self) -> Status {
        let said = Program::start(&["status", "--dir", self.path(), "--json"]).ends().succeeded();
        Status(serde_json::from_str(&said).expect("JSON"))
    }

    /// Sets a key in the name of the account, and waits until that is in a block if `wait`.
    pub(crate) fn put(&self, key: &str, value: &str, wait: bool) -> Ended {
        let mut args = vec!["tx", "put", "--dir", self.path(), "--key-file", ascii(&self.accounts), key, value];
        args.extend(wait.then_some("--wait"));
        Program::start(&args).ends()
    }

    /// Sets a key and waits until that is in a block.
    pub(crate) fn commit(&self, key: &str) {
        self.put(key, "value", true).succeeded();
    }

    /// Checks the store of the stopped node.
    pub(crate) fn verify(&self) -> Ended {
        Program::start(&["verify", "--dir", self.path()]).ends()
    }

    /// Starts the node once more, sees that its chain is at this head, and stops it.
    pub(crate) fn still_has(&self, head: &str) {
        let (node, status) = self.up(&[]);
        assert_eq!(status.head(), head);
        node.terminate().succeeded();
        self.verify().succeeded();
    }
}

/// What a node says of itself.
pub(crate) struct Status(serde_json::Value);

impl Status {
    pub(crate) fn head(&self) -> &str {
        self.0["head"].as_str().expect("a head")
    }

    pub(crate) fn height(&self) -> u64 {
        self.0["height"].as_u64().expect("a height")
    }

    /// The parts of its memory, each of which holds no more than it may.
    pub(crate) fn pools(&self) -> Vec<String> {
        let pools = self.0["pools"].as_array().expect("a list");
        let name = |pool: &serde_json::Value| {
            assert!(pool["used"].as_u64().expect("bytes") <= pool["limit"].as_u64().expect("bytes"), "{pool}");
            pool["pool"].as_str().expect("a name").to_owned()
        };
        pools.iter().map(name).collect()
    }

    /// What passes over its connections.
    pub(crate) fn traffic(&self) -> &serde_json::Value {
        &self.0["traffic"]
    }

    /// Transactions that wait for a block.
    pub(crate) fn waiting(&self) -> u64 {
        ["mempool_txs", "outbox_txs"].map(|field| self.0[field].as_u64().expect("a number")).into_iter().sum()
    }

    /// Who and where it is, as others name it among their seeds.
    pub(crate) fn seed(&self) -> String {
        let id: NodeId = self.0["node_id"].as_str().expect("an id").parse().expect("an id");
        format!("{id}@{}", self.0["listen"].as_str().expect("an address"))
    }
}

pub(crate) fn ascii(path: &Path) -> &str {
    path.to_str().expect("the paths of these stories are ASCII")
}
