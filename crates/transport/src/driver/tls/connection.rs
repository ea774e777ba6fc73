//! A connection whose stream can end for reasons of TLS.

use std::sync::Arc;

use peerage_core::{Class, CloseReason, Connection, ConnectionCommand, ConnectionEvent, Now, PerClass, Timestamp};

use super::stream::Fate;
use crate::proto::connection::SecureConnection;

/// A [`SecureConnection`] that learns from its stream why it ended; before it seals anything more, even if nobody reads.
pub(super) struct Certified {
    pub(super) connection: SecureConnection,
    pub(super) fate: Arc<Fate>,
}

impl Certified {
    /// From an end on nothing is said but that it is over.
    fn heed(&mut self) {
        if let Some(closed) = self.fate.tell() {
            self.connection.handle_end_below(closed);
        }
    }
}

impl Connection for Certified {
    fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.connection.handle_bytes(now, bytes);
    }

    fn handle_stream_end(&mut self, now: Now, reason: CloseReason) {
        // The stream may have told of it already, by failing.
        match self.fate.tell().or_else(|| self.fate.ended()) {
            Some(closed) => self.connection.handle_end_below(closed),
            None => self.connection.handle_stream_end(now, reason),
        }
    }

    fn handle_command(&mut self, now: Now, command: ConnectionCommand) {
        self.heed();
        self.connection.handle_command(now, command);
    }

    fn handle_timeout(&mut self, now: Now) {
        self.heed();
        self.connection.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Now, buf: &mut Vec<u8>, limit: usize) -> bool {
        self.heed();
        self.connection.poll_transmit(now, buf, limit)
    }

    fn wants_to_send(&mut self) -> PerClass<bool> {
        self.heed();
        self.connection.wants_to_send()
    }

    fn poll_record(&mut self, now: Now, buf: &mut Vec<u8>, class: Class, limit: usize) -> bool {
        self.heed();
        self.connection.poll_record(now, buf, class, limit)
    }

    fn poll_event(&mut self) -> Option<ConnectionEvent> {
        self.connection.poll_event()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        // At once, for a connection that waits to read or to write.
        if self.fate.is_untold() { Some(Timestamp::ZERO) } else { self.connection.next_timeout() }
    }

    fn wants_bytes(&self) -> bool {
        self.connection.wants_bytes()
    }
}
