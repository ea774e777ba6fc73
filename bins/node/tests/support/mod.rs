//! What tests that start processes share.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

/// How long anything may take before a test gives up: ten times what a slow machine needs. Our guess.
const DEADLINE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

/// Lets one test at a time start processes, in whichever test binary; until the file is dropped.
pub fn alone() -> File {
    let path = std::env::temp_dir().join("peerage-process-tests.lock");
    let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
    let file = options.open(path).expect("the temporary directory takes files");
    file.lock().expect("a lock is given sooner or later");
    file
}

/// A program under test; killed when dropped.
pub struct Running {
    child: Child,
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
}

impl Running {
    /// Starts `peerage` with these arguments; standard error goes to the test's own.
    pub fn peerage(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerage"));
        let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self { child: child.expect("the program starts") }
    }

    /// Sends a signal by its name, such as `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("there is a `kill`").success(), "the program runs");
    }

    /// Reads what it prints until `text` stands there.
    pub fn prints(&mut self, text: &str) -> String {
        let out = self.child.stdout.as_mut().expect("standard output is a pipe");
        let mut printed = String::new();
        while !printed.contains(text) {
            printed.push_str(&some(out));
        }
        printed
    }

    /// Waits until it ends by itself.
    pub fn finish(mut self) -> Finished {
        let mut out = self.child.stdout.take().expect("standard output is a pipe");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).expect("text");
            text
        });
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        Finished { status: status.expect("it ended"), stdout: reader.join().expect("read") }
    }

    /// Kills it, without a chance to clean up.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is dead");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What has been printed since, waiting for something.
fn some(out: &mut ChildStdout) -> String {
    let mut bytes = [0; 4096];
    let read = out.read(&mut bytes).expect("a pipe can be read");
    assert!(read > 0, "the program ended early");
    String::from_utf8(bytes[..read].to_vec()).expect("what is printed is ASCII")
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !is_so() {
        assert!(waited < DEADLINE, "not in time: {what}");
        sleep(POLL);
        waited += POLL;
    }
}
