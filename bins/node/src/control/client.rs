//! The operator's side of the control socket.

use core::time::Duration;
use std::{io, path::PathBuf};
use thiserror::Error;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Answer, Event, LineError, LineReader, Question, Refusal, Request, Response, Said};
use crate::data_dir::{DataDir, DataDirError};

/// Longest line from the node, in bytes. 8 MiB: a block's ids, a value with its proof, all with room (our guess).
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// How long an answer may take. 30 s: our guess; a node that is alive takes milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the node did not do what was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Of the directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// No node listens there.
    #[error("no node is running in {path}: start it with `peerage run --dir {path}`", path = .0.display())]
    NotRunning(PathBuf),
    /// The node refused.
    #[error("the node refused: {0}")]
    Refused(#[from] Refusal),
    /// The node did not answer in time.
    #[error("the node did not answer within {} s: look at its log", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The node went away.
    #[error("the node ended the connection: it may have stopped, look at its log")]
    Closed,
    /// What came is not the answer to what was asked: another version of the node, perhaps.
    #[error("the node's answer is not understood: use the `peerage` of the version that runs the node")]
    Unexpected,
    /// The socket broke.
    #[error("the control socket failed: {0}")]
    Line(#[from] LineError),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Line(error.into())
    }
}

/// A connection to a running node.
#[derive(Debug)]
pub struct ControlClient {
    lines: LineReader<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    next_id: u64,
}

impl ControlClient {
    /// Connects to the node in a data directory.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], [`ClientError::DataDir`], [`ClientError::Line`].
    pub async fn connect(dir: &DataDir) -> Result<Self, ClientError> {
        let socket = dir.control_socket()?;
        let stream = UnixStream::connect(&socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(dir.path().to_owned())
            }
            _ => error.into(),
        })?;
        let (reader, writer) = stream.into_split();
        Ok(Self { lines: LineReader::new(BufReader::new(reader), MAX_ANSWER_BYTES), writer, next_id: 1 })
    }

    /// Asks, and waits for the answer. After an error other than [`ClientError::Refused`] the connection is of no use.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_vec(&Question { id, request }).map_err(io::Error::from)?;
        line.push(b'\n');
        let exchange = async {
            // A node that refuses a line may close before it has read all of it; its words count then.
            let written = self.writer.write_all(&line).await;
            match self.lines.next().await {
                Ok(Some(line)) => serde_json::from_slice::<Answer>(line).map_err(|_| ClientError::Unexpected),
                Ok(None) => Err(written.err().map_or(ClientError::Closed, ClientError::from)),
                Err(error) => Err(error.into()),
            }
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| ClientError::Timeout)??;
        match answer.said {
            // A refusal may lack the id: the node could not read it.
            Said::Error(refusal) => Err(refusal.into()),
            Said::Result(response) if answer.id == Some(id) => Ok(response),
            Said::Result(_) => Err(ClientError::Unexpected),
        }
    }

    /// Asks for events. All that happen after this returned are told.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(mut self) -> Result<EventStream, ClientError> {
        match self.call(Request::Watch).await? {
            Response::Watching => Ok(EventStream { client: self }),
            _ => Err(ClientError::Unexpected),
        }
    }
}

/// Events of a running node.
#[derive(Debug)]
pub struct EventStream {
    client: ControlClient,
}

impl EventStream {
    /// The next event; `None` when the node stopped. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        match self.client.lines.next().await? {
            Some(line) => serde_json::from_slice(line).map(Some).map_err(|_| ClientError::Unexpected),
            None => Ok(None),
        }
    }
}
