//! One node of a devnet: a process of its own, which never outlives this one.

use core::time::Duration;
use std::{
    fs::OpenOptions,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
};

use tokio::{
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

use super::DevnetError;
use crate::{
    control::{ClientError, ControlClient, Request, Response, Status},
    data_dir::DataDir,
};

/// How long a node may take from its start to an answer on its control socket. Our guess: many nodes share few cores.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a node may take to stop once it was asked to. Our guess; then it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Pause before a node that starts is asked again. Our guess.
const POLL: Duration = Duration::from_millis(20);

/// A running node. Dropping it kills the process; should this process die first, the node sees the end of its standard
/// input and stops.
#[derive(Debug)]
pub struct NodeProcess {
    name: String,
    dir: DataDir,
    process: Child,
    /// Held open for as long as the node may run.
    _stdin: Option<ChildStdin>,
}

impl NodeProcess {
    /// Starts the node in `dir`. What it prints goes to the file `log` there.
    ///
    /// # Errors
    /// [`DevnetError::Io`].
    pub fn start(executable: &Path, name: String, dir: &DataDir) -> Result<Self, DevnetError> {
        let path = dir.path().join("log");
        let log = OpenOptions::new().append(true).create(true).open(&path);
        let log = log.map_err(DevnetError::io("open", &path))?;
        let copy = log.try_clone().map_err(DevnetError::io("open", &path))?;
        let mut command = std::process::Command::new(executable);
        command.arg("run").arg("--exit-with-stdin").arg("--dir").arg(dir.path());
        command.stdin(Stdio::piped()).stdout(copy).stderr(log);
        // Settings meant for another node, and Ctrl-C at the terminal, are for this process alone.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PEERAGE_")) {
            command.env_remove(variable);
        }
        command.process_group(0);
        let mut command = Command::from(command);
        let mut process = command.kill_on_drop(true).spawn().map_err(DevnetError::io("start", executable))?;
        let stdin = process.stdin.take();
        Ok(Self { name, dir: dir.clone(), process, _stdin: stdin })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub const fn dir(&self) -> &DataDir {
        &self.dir
    }

    /// Waits until it answers on its control socket.
    ///
    /// # Errors
    /// [`DevnetError::Died`] and [`DevnetError::Mute`].
    pub async fn answers(&mut self) -> Result<Status, DevnetError> {
        let asked = timeout(START_DEADLINE, async {
            loop {
                if let Some(error) = self.died() {
                    return Err(error);
                }
                // Whatever the reason, it may be better in a moment.
                if let Ok(status) = status(&self.dir).await {
                    return Ok(status);
                }
                sleep(POLL).await;
            }
        });
        let answered = asked.await;
        answered.unwrap_or_else(|_| Err(DevnetError::Mute { node: self.name.clone(), log: self.log() }))
    }

    /// An error if the process ended by itself.
    pub fn died(&mut self) -> Option<DevnetError> {
        match self.process.try_wait() {
            Ok(Some(status)) => Some(DevnetError::Died { node: self.name.clone(), how: how(status), log: self.log() }),
            // A process whose state cannot be told is found out by its silence.
            Ok(None) | Err(_) => None,
        }
    }

    /// Asks it to stop, waits, and kills it if it does not. `Some` says what was not as it should be.
    pub async fn stop(mut self) -> Option<String> {
        if let Some(error) = self.died() {
            return Some(error.to_string());
        }
        let asked = async { ControlClient::connect(&self.dir).await?.call(Request::Shutdown).await };
        // Whether it understood shows in whether it ends.
        let _ = timeout(STOP_DEADLINE, asked).await;
        match timeout(STOP_DEADLINE, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => None,
            Ok(Ok(status)) => Some(format!("{} ended with {}: see {}", self.name, how(status), self.log())),
            Ok(Err(error)) => Some(format!("{} cannot be waited for: {error}", self.name)),
            Err(_) => {
                let killed = self.process.kill().await;
                let killed =
                    killed.map_or_else(|error| format!("could not be killed: {error}"), |()| "was killed".into());
                Some(format!("{} did not stop within {} s and {killed}", self.name, STOP_DEADLINE.as_secs()))
            }
        }
    }

    fn log(&self) -> String {
        self.dir.path().join("log").display().to_string()
    }
}

/// Asks a node how it is.
///
/// # Errors
/// [`ClientError`].
pub async fn status(dir: &DataDir) -> Result<Status, ClientError> {
    match ControlClient::connect(dir).await?.call(Request::Status).await? {
        Response::Status(status) => Ok(*status),
        _ => Err(ClientError::Unexpected),
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}
