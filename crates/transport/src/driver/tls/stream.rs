//! Streams around TLS: what the first bytes were, and how it ends.

use core::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
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

/// How a session ends, if it is TLS that ends it. The stream finds out, or the channel; the connection tells.
#[derive(Debug)]
pub(super) struct Fate {
    /// What the other side showed, to be judged again.
    pub(super) chain: Vec<CertificateDer<'static>>,
    state: Mutex<(Option<Closed>, Option<Waker>)>,
}

impl Fate {
    pub(super) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, state: Mutex::default() }
    }

    /// Ends the session; the first end counts.
    pub(super) fn end(&self, closed: Closed) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.get_or_insert(closed);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    pub(super) fn ended(&self) -> Option<Closed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether it has ended; if not, whoever asks is woken when it does.
    fn poll_ended(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_none() && state.1.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.1 = Some(cx.waker().clone());
        }
        state.0.is_some()
    }
}

/// The stream above TLS, as a link task uses it.
pub(super) struct Watched {
    stream: TlsStream,
    fate: Arc<Fate>,
    /// Whether the reader was told of its end; what still comes is to be read as ever.
    told: bool,
}

impl Watched {
    pub(super) const fn new(stream: TlsStream, fate: Arc<Fate>) -> Self {
        Self { stream, fate, told: false }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.told && self.fate.poll_ended(cx) {
            self.told = true;
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
