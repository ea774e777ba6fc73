//! rustls on a stream. `tokio-rustls` 0.26 would do but for one thing: of what rustls wants to say last it writes one record
//! only, and behind a ChangeCipherSpec (RFC 8446, D.4) that is not the alert which tells the other side why.

use core::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};
use std::io::{self, Read, Write};

use peerage_wire::limits::{MAX_PLAINTEXT, RECORD_HEADER};
use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Tapped;

/// Bytes that rustls takes at a time: one of our records, so that a slow socket is seen to take something.
const WRITE: usize = RECORD_HEADER + MAX_PLAINTEXT;
/// Times that the socket is read, 4 KiB each, until something is there for who reads (our guess: a record of 16 KiB takes five).
const READS: usize = 8;

/// A session on its stream.
pub(super) struct TlsStream {
    io: Tapped,
    pub(super) session: Connection,
    /// Bytes that rustls has taken and that are not yet all with the socket.
    taken: Option<usize>,
    said_goodbye: bool,
}

impl TlsStream {
    /// The handshake, up to the end as this side sees it.
    ///
    /// # Errors
    /// Why there is no session, once the other side was told; and the stream, on which nothing more can be said.
    pub(super) async fn open(session: Connection, io: Tapped) -> Result<Self, (io::Error, Tapped)> {
        let mut this = Self { io, session, taken: None, said_goodbye: false };
        match poll_fn(|cx| this.poll_handshake(cx)).await {
            Ok(()) => Ok(this),
            Err(error) => {
                // The alert; if it cannot be said, the first error is the one that counts.
                let _unsaid = poll_fn(|cx| this.poll_send(cx)).await;
                Err((error, this.io))
            }
        }
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Hands to the socket whatever rustls has for it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let sent = self.session.write_tls(&mut Blocking { io: &mut self.io, cx });
            if ready!(pending(sent))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Takes what the socket has for rustls; how much.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let received = self.session.read_tls(&mut Blocking { io: &mut self.io, cx });
        let count = ready!(pending(received))?;
        match self.session.process_new_packets() {
            Ok(_) => Poll::Ready(Ok(count)),
            Err(error) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        for _ in 0..READS {
            match self.session.reader().read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            let received = ready!(self.poll_receive(cx));
            // An alert, or the answer to a new key: said as soon as the socket takes it, at the latest with the next bytes.
            if self.session.wants_write()
                && let Poll::Ready(Err(error)) = self.poll_send(cx)
                && received.is_ok()
            {
                return Poll::Ready(Err(error));
            }
            received?;
        }
        // What came was padding, or a record longer than any that means something: others have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for TlsStream {
    /// Ready only once the socket has all of it: rustls would keep the rest until somebody flushes. Whoever gets `Pending` offers
    /// the same bytes again, as link tasks do.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = match self.taken.take() {
            Some(taken) => taken,
            None => self.session.writer().write(&bytes[..bytes.len().min(WRITE)])?,
        };
        match self.poll_send(cx) {
            Poll::Ready(sent) => Poll::Ready(sent.map(|()| taken.min(bytes.len()))),
            Poll::Pending => {
                self.taken = Some(taken);
                Poll::Pending
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !core::mem::replace(&mut self.said_goodbye, true) {
            self.session.send_close_notify();
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A stream as rustls wants it, for one poll.
struct Blocking<'a, 'b> {
    io: &'a mut Tapped,
    cx: &'a mut Context<'b>,
}

impl Read for Blocking<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        blocking(Pin::new(&mut *self.io).poll_read(self.cx, &mut buf)).map(|()| buf.filled().len())
    }
}

impl Write for Blocking<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // rustls does not ask; `poll_send` flushes
    }
}

fn blocking<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn pending<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}
