//! The node's side of the control socket.

use core::time::Duration;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, broadcast, mpsc, oneshot},
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{Answer, ErrorCode, Event, LineError, LineReader, Question, Refusal, Request, Response};
use crate::data_dir::{DataDirError, DataDirLock};

/// Longest request, in bytes: a transaction of the largest size takes half a MiB as text. 1 MiB: our guess.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Clients at a time; others wait. 64: our guess, for the operator's own tools.
const MAX_CLIENTS: usize = 64;
/// Calls that wait for the node. Our guess: one of each client.
const CALLS: usize = MAX_CLIENTS;
/// How long a client may leave what is sent to it unread. 30 s: our guess.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, such as for want of file descriptors. 100 ms: our guess.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request for the node to answer. Dropping `reply` answers that the node is stopping.
#[derive(Debug)]
pub struct ControlCall {
    /// What is asked; never [`Request::Watch`], which the server answers itself.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Response, Refusal>>,
}

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Of the directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The operating system refused.
    #[error("cannot listen on the control socket {}: {reason}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
}

/// The control socket of a running node.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    calls: mpsc::Sender<ControlCall>,
    events: broadcast::Sender<Event>,
}

impl ControlServer {
    /// Listens on the control socket of a directory that this process has locked, so that a socket found there is one
    /// left behind and is replaced. The node answers what comes out of the receiver; watchers get what it sends to
    /// `events`, as many behind as that channel holds.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        lock: &DataDirLock,
        events: broadcast::Sender<Event>,
    ) -> Result<(Self, mpsc::Receiver<ControlCall>), BindError> {
        let path = lock.dir().control();
        let failed = |reason| BindError::Io { path: path.clone(), reason };
        remove(&path).map_err(failed)?;
        let socket = lock.dir().control_socket()?;
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        // Nobody else gets here before: the directory is closed to others.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (calls, receiver) = mpsc::channel(CALLS);
        Ok((Self { listener, path, calls, events }, receiver))
    }

    /// Serves clients until the future is dropped, which also ends their connections and removes the socket.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            let stream = loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => break stream,
                    Err(error) => {
                        warn!(%error, "cannot accept a control connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let (calls, events) = (self.calls.clone(), self.events.clone());
            clients.spawn(async move {
                if let Err(error) = serve(stream, calls, events).await {
                    debug!(%error, "a control connection broke");
                }
                drop(slot);
            });
            while clients.try_join_next().is_some() {}
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // Should it not work, the next start replaces the socket.
        let _ = remove(&self.path);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

type Lines = LineReader<BufReader<OwnedReadHalf>>;

async fn serve(
    stream: UnixStream,
    calls: mpsc::Sender<ControlCall>,
    events: broadcast::Sender<Event>,
) -> Result<(), LineError> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = LineReader::new(BufReader::new(reader), MAX_REQUEST_BYTES);
    loop {
        let question = match lines.next().await {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => serde_json::from_slice::<Question>(line),
            Err(LineError::TooLong(max)) => {
                let refusal = Refusal::new(ErrorCode::TooLong, format_args!("a request has {max} bytes at most"));
                return send(&mut writer, &Answer::new(None, Err(refusal))).await;
            }
            Err(error) => return Err(error),
        };
        let answer = match question {
            Err(error) => Answer::new(None, Err(Refusal::new(ErrorCode::BadRequest, error))),
            Ok(Question { id, request: Request::Watch }) => {
                // Subscribed before the answer: whatever happens after it is told.
                let events = events.subscribe();
                send(&mut writer, &Answer::new(Some(id), Ok(Response::Watching))).await?;
                return watch(lines, writer, events).await;
            }
            Ok(Question { id, request }) => Answer::new(Some(id), call(&calls, request).await),
        };
        send(&mut writer, &answer).await?;
    }
}

async fn call(calls: &mpsc::Sender<ControlCall>, request: Request) -> Result<Response, Refusal> {
    let stopping = || Refusal::new(ErrorCode::Stopping, "the node is stopping");
    let (reply, answer) = oneshot::channel();
    calls.send(ControlCall { request, reply }).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

async fn watch(
    mut lines: Lines,
    mut writer: OwnedWriteHalf,
    mut events: broadcast::Receiver<Event>,
) -> Result<(), LineError> {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            // A watcher has nothing more to say; its end is all that counts.
            line = lines.next() => match line? {
                Some(_) => continue,
                None => return Ok(()),
            },
        };
        let event = match event {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(events)) => Event::Missed { events },
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        send(&mut writer, &event).await?;
    }
}

async fn send(writer: &mut OwnedWriteHalf, message: &impl serde::Serialize) -> Result<(), LineError> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
    line.push(b'\n');
    tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&line)).await.map_err(io::Error::from)??;
    Ok(())
}
