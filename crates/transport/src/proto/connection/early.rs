//! Questions that go with message 1 of IK: what may be asked so, and what becomes of one of ours.
//!
//! Anybody can repeat message 1, so such a question changes nothing at whoever answers it ([`ConnectionConfig::early`]), and the
//! answer goes under keys that only who made the message can have. Ours is a request that the runner has not made yet:
//!
//! | state | input | output | next |
//! |---|---|---|---|
//! | asked | that request | | an open request like any other |
//! | asked | the answer | | answered |
//! | answered | that request | the answer | over |
//! | asked, answered | [`KEPT`] after keys stood | | over: an answer counts as one that comes too late |
//!
//! If message 1 does not count, because it was answered by RETRY or is one of XX, the question was never asked, and the request is
//! sent like any other.

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{Charge, CloseReason, Message, Timestamp};
use peerage_wire::{Envelope, Frame, FrameReader, encode_frame};

use super::ConnectionConfig;
use crate::proto::noise::identity::MAX_EARLY;

/// The longest answer in bytes that is sent before the asker has shown that it is there (our guess: sixteen node records, which are
/// a dozen times what message 1 takes). A longer one waits for that.
pub(super) const MAX_ANSWER: usize = 8 << 10;

/// How long after keys stood the request for a question, and its answer, may be missing (our guess: the stack makes it as soon as
/// it hears of the peer).
const KEPT: Duration = Duration::from_secs(1);

/// The id on the wire of a question of ours: it is the first request.
pub(super) const ID: u64 = 0;

/// The words for a question, if it may be asked so.
pub(super) fn encode(config: &ConnectionConfig, question: &Message) -> Option<Vec<u8>> {
    let mut words = Vec::new();
    if config.early.contains(&question.command) && config.allows(question) && question.len() <= MAX_EARLY {
        encode_frame(question, Envelope::Request(ID), &mut words);
    }
    Some(words).filter(|words| (1..=MAX_EARLY).contains(&words.len()))
}

/// The question in the early words of message 1, if there are any, and its id on the wire.
///
/// # Errors
/// Why such words end the handshake. Nobody in particular is at fault: whoever sends them may only repeat them.
pub(super) fn decode(config: &ConnectionConfig, words: &[u8]) -> Result<Option<(u64, Message)>, CloseReason> {
    let mut frames = FrameReader::new(words);
    if words.is_empty() {
        return Ok(None);
    }
    let Some(frame) = frames.next() else { return Ok(None) };
    let frame = frame.map_err(|error| error.close_reason())?;
    let (command, Frame::Whole { envelope: Envelope::Request(id), head, body, .. }) = (frame.command(), frame) else {
        return Err(CloseReason::BadHandshake);
    };
    if !frames.rest().is_empty() || !config.early.contains(&command) {
        return Err(CloseReason::BadHandshake);
    }
    if frame.content_len() > config.limits.of(command) {
        return Err(CloseReason::MessageTooLong);
    }
    let (head, body) = (Bytes::copy_from_slice(head), body.map(Bytes::copy_from_slice));
    Ok(Some((id, Message { command, head, body })))
}

/// A question of ours that message 1 asked, and whose request is still to be made.
#[derive(Debug)]
pub(super) struct Asked {
    question: Message,
    answer: Option<(Message, Charge)>,
    until: Timestamp,
}

/// What a request finds that was asked early.
pub(super) enum Found {
    /// Its answer.
    Answer(Message, Charge),
    /// Nothing yet, but the answer will come under this id.
    UnderWay(u64),
}

impl Asked {
    /// Keys stand now, so it counts.
    pub(super) fn new(question: Message, now: Timestamp) -> Self {
        Self { question, answer: None, until: now + KEPT }
    }

    /// When it is over.
    pub(super) const fn until(&self) -> Timestamp {
        self.until
    }

    /// Whether this is what was asked.
    pub(super) fn is(&self, request: &Message) -> bool {
        self.question == *request
    }

    /// Whether a response with this id is the answer.
    pub(super) const fn awaits(&self, id: u64) -> bool {
        id == ID && self.answer.is_none()
    }

    /// The answer is there.
    pub(super) fn answered(&mut self, message: Message, charge: Charge) {
        self.answer = Some((message, charge));
    }

    /// The request is made.
    pub(super) fn found(self) -> Found {
        self.answer.map_or(Found::UnderWay(ID), |(message, charge)| Found::Answer(message, charge))
    }

    /// The answer, which nobody waits for.
    pub(super) fn unclaimed(self) -> Option<Message> {
        self.answer.map(|(message, _)| message)
    }
}
