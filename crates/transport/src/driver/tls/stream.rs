//! Streams around TLS: what the first bytes were, and how it ends.

use core::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use peerage_core::Closed;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{session::TlsStream, verify::closed_by};
use crate::driver::BoxedStream;

/// How many of the first bytes are kept: a REFUSE record.
pub(super) const FIRST: usize = peerage_wire::limits::RECORD_HEADER + peerage_wire::limits::REASON;

/// The stream below TLS.
pub(super) struct Tapped {
    pub(super) stream: BoxedStream,
    /// Bytes that were read before TLS began, and are to be read again.
    before: Vec<u8>,
    /// The first bytes that came while TLS was there, to see what it was if it was no TLS.
    pub(super) first: Vec<u8>,
}

impl Tapped {
    /// `before` was read from the stream already.
    pub(super) const fn new(stream: BoxedStream, before: Vec<u8>) -> Self {
        Self { stream, before, first: Vec::new() }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let count = self.before.len().min(buf.remaining());
            buf.put_slice(&self.before[..count]);
            self.before.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let more = FIRST - self.first.len();
        self.first.extend(buf.filled()[start..].iter().take(more));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How a session ends, if it is TLS that ends it. The stream finds out, or the channel; the connection tells, and learns of it
/// once, whether it reads or only writes.
#[derive(Debug)]
pub(super) struct Fate {
    /// What the other side showed, to be judged again.
    pub(super) chain: Vec<CertificateDer<'static>>,
    state: Mutex<End>,
}

#[derive(Debug, Default)]
struct End {
    closed: Option<Closed>,
    /// Whether the connection has learnt of it; what still comes is to be read as ever.
    told: bool,
    /// Of the task that runs the connection.
    waker: Option<Waker>,
}

impl Fate {
    pub(super) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, state: Mutex::default() }
    }

    /// Ends the session; the first end counts.
    pub(super) fn end(&self, closed: Closed) {
        let mut end = self.lock();
        end.closed.get_or_insert(closed);
        if let Some(waker) = end.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn ended(&self) -> Option<Closed> {
        self.lock().closed
    }

    /// Whether there is an end of which the connection has not learnt.
    pub(super) fn is_untold(&self) -> bool {
        let end = self.lock();
        end.closed.is_some() && !end.told
    }

    /// The end, for a connection that has not learnt of it.
    pub(super) fn tell(&self) -> Option<Closed> {
        let mut end = self.lock();
        let untold = end.closed.filter(|_| !end.told);
        end.told |= untold.is_some();
        untold
    }

    /// Wakes whoever asks when it ends.
    fn wake_at_end(&self, cx: &Context<'_>) {
        let mut end = self.lock();
        if end.closed.is_none() && end.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            end.waker = Some(cx.waker().clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        // Nothing is done under the lock that could leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream above TLS, as a link task uses it.
pub(super) struct Watched {
    stream: TlsStream,
    fate: Arc<Fate>,
}

impl Watched {
    pub(super) const fn new(stream: TlsStream, fate: Arc<Fate>) -> Self {
        Self { stream, fate }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.fate.wake_at_end(cx);
        if self.fate.tell().is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            Ok(()) => Poll::Ready(Ok(())),
            // An end without close_notify. A connection that ends has said so in a record, so nothing can be cut off
            // unnoticed; and a bare stream ends so too.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            Err(error) => {
                self.fate.end(closed_by(&error));
                Poll::Ready(Err(error))
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Who does not read must hear of it too. It is the connection that then stops, at the end of a record: behind a part of
        // one the other side could not be told why.
        self.fate.wake_at_end(cx);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
