//! What tests that start processes share.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{sleep, spawn},
    time::Duration,
};

/// How long anything may take before a test gives up: ten times what a slow machine needs. Our guess.
const DEADLINE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

/// Lets one test at a time start processes, in whichever test binary; until the file is dropped.
pub(crate) fn alone() -> File {
    let path = std::env::temp_dir().join("peerage-process-tests.lock");
    let options = OpenOptions::new().write(true).create(true).truncate(false).clone();
    let file = options.open(path).expect("the temporary directory takes files");
    file.lock().expect("a lock is given sooner or later");
    file
}

/// A program under test; killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// What it prints, as it comes.
    out: Receiver<String>,
}

/// What a program printed since it was last asked, and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
}

impl Running {
    /// Starts `peerage` with these arguments; standard error goes to the test's own.
    pub(crate) fn peerage(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerage"));
        let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        let mut pipe = child.stdout.take().expect("standard output is a pipe");
        let (sender, out) = channel();
        spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with the pipe, or when nobody listens any more.
            while let Ok(1..) = pipe.read(&mut bytes).map(|read| {
                let text = String::from_utf8(bytes[..read].to_vec()).expect("what is printed is ASCII");
                if sender.send(text).is_ok() { read } else { 0 }
            }) {}
        });
        Self { child, out }
    }

    /// Sends a signal by its name, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill` is there on every machine; the program of that name is not.
        let sent = Command::new("sh").args(["-c", &format!("kill -s {name} {}", self.child.id())]).status();
        assert!(sent.expect("there is a shell").success(), "the program runs");
    }

    /// What it prints until `text` stands there.
    pub(crate) fn prints(&mut self, text: &str) -> String {
        let mut printed = String::new();
        while !printed.contains(text) {
            let more = self.out.recv_timeout(DEADLINE);
            printed += &more.unwrap_or_else(|error| panic!("no `{text}`, {error}, in:\n{printed}"));
        }
        printed
    }

    /// Waits until it ends by itself.
    pub(crate) fn finish(mut self) -> Finished {
        let mut stdout = String::new();
        loop {
            match self.out.recv_timeout(DEADLINE) {
                Ok(more) => stdout += &more,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{stdout}"),
            }
        }
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        Finished { status: status.expect("it ended"), stdout }
    }

    /// Kills it, without a chance to clean up.
    pub(crate) fn kill(mut self) {
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

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while !is_so() {
        assert!(waited < DEADLINE, "not in time: {what}");
        sleep(POLL);
        waited += POLL;
    }
}
