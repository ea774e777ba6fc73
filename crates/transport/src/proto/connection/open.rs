//! A connection that stands: everything between records and messages.

use core::time::Duration;
use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use peerage_core::{
    Class, CloseReason, Closed, ClosedBy, Command, ConnectionCommand, ConnectionEvent, DropReason, Message, Now,
    Outbound, PerClass, RequestError, SecretRng, Timestamp,
};
use peerage_wire::{
    DecodeError, Envelope, Frame, FrameReader, Incoming, Reassembler, RecordHeader, RecordKind, decode_reason,
    encode_frame,
    limits::{MAX_HANDSHAKE, REASON, RECORD_HEADER, SEALED_HEADER, SEALED_OVERHEAD},
    payload,
};
use rand_core::Rng;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    ConnectionConfig,
    commands::{self, Answer, Beat, Grant, MAX_HEARTBEAT_DATA},
    credit::{ReceiveCredit, SendCredit, cost},
    early::{Asked, Found},
    handshake::{Channel, Pattern, Secured},
    heartbeat::{ControlRate, Heartbeat},
    mux::{Mux, Room},
    pace::Pace,
    packing::Packing,
    records::Records,
    requests::Requests,
};

/// How often a refusal of the budget is tried again (our guess: short beside a round trip over the sea).
const RETRY: Duration = Duration::from_millis(50);

/// The least room in a record that is written alone (our guess: what `Control` may have due, and a piece of a message).
const LEAST_ROOM: usize = 512;

/// What happened, on its way to the runner.
pub(super) type Events = VecDeque<ConnectionEvent>;

/// A connection that stands.
pub(super) struct Open {
    records: Records,
    session: Session,
    /// Set in who sent the last handshake message, until bytes arrive that are no refusal.
    unconfirmed: Option<Unconfirmed>,
    /// Whether a DATA record of the other side authenticated.
    confirmed: bool,
    /// Whether the next record is the first of IK, which holds control messages alone.
    greets: bool,
    pause: Option<Pause>,
    /// Whether the runner wants to hear nothing for now.
    deaf: bool,
    pace: Pace,
}

/// Who does not accept the last handshake message cannot seal anything, so the refusal comes in clear, to somebody who has
/// keys already.
#[derive(Debug)]
struct Unconfirmed {
    refusal: [u8; RECORD_HEADER],
    seen: Vec<u8>,
    /// The longest body of a first record: a stranger is worth no more memory than in the handshake.
    longest: usize,
}

/// The budget refused a message.
#[derive(Debug)]
struct Pause {
    /// Frames of the current record that were not taken.
    frames: Vec<u8>,
    /// What came after that record: no more than was handed in before the runner saw that nothing is wanted.
    bytes: Vec<u8>,
    since: Timestamp,
    retry: Timestamp,
}

/// All that is not about records.
struct Session {
    config: Arc<ConnectionConfig>,
    mux: Mux,
    packing: Packing,
    reassembler: Reassembler,
    send_credit: SendCredit,
    receive_credit: ReceiveCredit,
    rate: ControlRate,
    requests: Requests,
    /// A question of ours that went with message 1, until its request is made.
    asked: Option<Box<Asked>>,
    heartbeat: Heartbeat,
}

impl Open {
    pub(super) fn new(
        config: &Arc<ConnectionConfig>,
        outbound: bool,
        secured: Secured,
        data: Bytes,
        now: Timestamp,
        rng: &mut SecretRng,
    ) -> Self {
        let longest = if outbound { usize::MAX } else { MAX_HANDSHAKE };
        let (records, pattern) = match secured.channel {
            Channel::Noise { pattern, keys } => (Records::sealed(keys, config.rekey_every), Some(pattern)),
            Channel::Below => (Records::plain(config.magic), None),
        };
        let packing = Packing::new(Arc::clone(&config.limits), config.budget.clone(), secured.features);
        let mut reassembler = Reassembler::new(Arc::clone(&config.limits), config.budget.clone());
        if packing.agreed() {
            reassembler.unpack_bodies();
        }
        // Below the records of a secured stream nobody else can speak, so whoever refuses says so like everybody else.
        let spoke_last = pattern.is_some_and(|pattern| outbound == pattern.initiator_speaks_last());
        let refusal = RecordHeader { kind: RecordKind::Refuse, length: REASON as u32 }.encode(config.magic);
        let heartbeat = Heartbeat::new(now, rng.next_u64(), config.heartbeat_interval, config.dead_after, data);
        let session = Session {
            config: Arc::clone(config),
            mux: Mux::new(),
            packing,
            reassembler,
            send_credit: SendCredit::new(),
            receive_credit: ReceiveCredit::new(),
            rate: ControlRate::new(now),
            requests: Requests::default(),
            asked: None,
            heartbeat,
        };
        Self {
            records,
            session,
            unconfirmed: spoke_last.then_some(Unconfirmed { refusal, seen: Vec::new(), longest }),
            confirmed: false,
            greets: pattern.is_some_and(Pattern::first_may_be_repeated),
            pause: None,
            deaf: false,
            pace: Pace::new(config.stall_window),
        }
    }

    /// Message 1 asked this already.
    pub(super) fn has_asked(&mut self, question: Message, now: Timestamp) {
        self.session.requests.reserve();
        self.session.asked = Some(Box::new(Asked::new(question, now)));
    }

    /// Whether the other side has shown that it has the keys, by a DATA record: whoever repeats messages of others cannot.
    pub(super) const fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    pub(super) const fn wants_bytes(&self) -> bool {
        self.pause.is_none() && !self.deaf
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        let retry = self.pause.as_ref().map(|pause| pause.retry);
        let asked = self.session.asked.as_ref().map(|asked| asked.until());
        let deadlines = [retry, asked, self.pace.next_timeout(), self.session.requests.next_timeout()];
        deadlines.into_iter().flatten().fold(self.session.heartbeat.next_timeout(), Timestamp::min)
    }

    /// `Err` is how the connection ends; here and below.
    pub(super) fn handle_bytes(&mut self, now: Now, bytes: &[u8], events: &mut Events) -> Result<(), Closed> {
        if let Some(pause) = &mut self.pause {
            pause.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        let Some(first) = &mut self.unconfirmed else { return self.read(now, bytes, events) };
        first.seen.extend_from_slice(bytes);
        if let Some(payload) = first.seen.strip_prefix(&first.refusal) {
            let Some(code) = payload.get(..REASON) else { return Ok(()) };
            let reason = decode_reason(RecordKind::Refuse, code).unwrap_or(CloseReason::Unknown);
            return Err(Closed::by_them(reason));
        }
        if first.refusal.starts_with(&first.seen) {
            return Ok(());
        }
        let Some(length) = first.seen.first_chunk::<SEALED_HEADER>() else { return Ok(()) };
        if usize::from(u16::from_be_bytes(*length)) > first.longest {
            return Err(Closed::by_us(CloseReason::RecordTooLong));
        }
        let seen = core::mem::take(&mut first.seen);
        self.unconfirmed = None;
        self.read(now, &seen, events)
    }

    fn read(&mut self, now: Now, input: &[u8], events: &mut Events) -> Result<(), Closed> {
        self.read_records(now, input, events)?;
        self.pace.arrived(now.mono, input.len(), self.session.reassembler.held() > 0);
        Ok(())
    }

    fn read_records(&mut self, now: Now, mut input: &[u8], events: &mut Events) -> Result<(), Closed> {
        while let Some((kind, plaintext)) = self.records.read(&mut input).map_err(Closed::by_us)? {
            self.session.heartbeat.hear(now.mono);
            match kind {
                RecordKind::Data => {
                    self.confirmed = true;
                    let untaken = self.session.read_frames(now, plaintext, events).map_err(Closed::by_us)?;
                    if !untaken.is_empty() {
                        let (frames, bytes) = (untaken.to_vec(), input.to_vec());
                        self.pause = Some(Pause { frames, bytes, since: now.mono, retry: now.mono + RETRY });
                        events.push_back(ConnectionEvent::Waits(true));
                        return Ok(());
                    }
                }
                RecordKind::Close => {
                    let reason = decode_reason(kind, plaintext).unwrap_or(CloseReason::Unknown);
                    return Err(Closed::by_them(reason));
                }
                RecordKind::Preamble | RecordKind::Handshake | RecordKind::Refuse | RecordKind::Retry => {
                    return Err(Closed::by_us(CloseReason::UnexpectedRecord));
                }
            }
        }
        Ok(())
    }

    pub(super) fn handle_timeout(&mut self, now: Now, rng: &mut SecretRng, events: &mut Events) -> Result<(), Closed> {
        // Deadlines are seldom, or the connection is quiet.
        self.session.mux.rest();
        if let Some(mut pause) = self.pause.take_if(|pause| pause.retry <= now.mono) {
            let untaken = self.session.read_frames(now, &pause.frames, events).map_err(Closed::by_us)?.len();
            if untaken == 0 {
                events.push_back(ConnectionEvent::Waits(false));
                self.read(now, &pause.bytes, events)?;
            } else if now.mono.since(pause.since) >= self.session.config.budget_patience {
                return Err(Closed::by_us(CloseReason::OverBudget));
            } else {
                if untaken < pause.frames.len() {
                    pause.since = now.mono;
                }
                pause.frames.drain(..pause.frames.len() - untaken);
                self.pause = Some(Pause { retry: now.mono + RETRY, ..pause });
            }
        }
        if !self.wants_bytes() {
            self.pace.restart(now.mono);
        } else if self.pace.is_too_slow(now.mono) {
            return Err(Closed::by_us(CloseReason::TooSlow));
        }
        if self.deaf {
            // It may have said much that nobody read.
            self.session.heartbeat.spare(now.mono);
        }
        self.session.heartbeat.handle_timeout(now.mono, || rng.next_u64()).map_err(Closed::by_us)?;
        while let Some((id, error)) = self.session.requests.end_due(now.mono) {
            events.push_back(ConnectionEvent::Response { id, result: Err(error) });
        }
        self.session.mux.forget_all_abandoned(&self.session.requests);
        if let Some(asked) = self.session.asked.take_if(|asked| asked.until() <= now.mono)
            && let Some(answer) = asked.unclaimed()
        {
            let (class, bytes) = (answer.command.class(), cost(answer.len()));
            push(events, ConnectionEvent::Skipped { count: 0, class, bytes });
        }
        Ok(())
    }

    /// Everything but [`ConnectionCommand::Close`], which is for the owner.
    pub(super) fn handle_command(&mut self, now: Timestamp, command: ConnectionCommand, events: &mut Events) {
        let session = &mut self.session;
        match command {
            ConnectionCommand::Account(account) => session.reassembler.charge_to(account),
            ConnectionCommand::Shed { bytes } => session.shed(bytes, events),
            ConnectionCommand::Listen(listens) => {
                // While it was not read, nobody could go on.
                if core::mem::replace(&mut self.deaf, !listens) {
                    self.pace.restart(now);
                    self.session.heartbeat.spare(now);
                }
            }
            ConnectionCommand::Notify(outbound) => session.send(Envelope::Notification, outbound),
            ConnectionCommand::Respond { id, outbound } => session.send(Envelope::Response(id), outbound),
            ConnectionCommand::Request { id, outbound, .. } if !session.config.allows(&outbound.message) => {
                let result = Err(RequestError::Dropped(DropReason::TooLong));
                events.push_back(ConnectionEvent::Response { id, result });
            }
            ConnectionCommand::Request { id, outbound, timeout } => {
                match session.asked.take_if(|asked| asked.is(&outbound.message)).map(|asked| asked.found()) {
                    Some(Found::Answer(message, charge)) => {
                        events.push_back(ConnectionEvent::Response { id, result: Ok((message, charge)) });
                    }
                    Some(Found::UnderWay(under_way)) => session.requests.resume(under_way, id, now + timeout),
                    None => {
                        let id = session.requests.begin(id, now + timeout);
                        session.send(Envelope::Request(id), outbound);
                    }
                }
            }
            ConnectionCommand::Consumed { class, bytes } => session.receive_credit.consume(class, bytes),
            ConnectionCommand::Heartbeat(data) if data.len() <= MAX_HEARTBEAT_DATA => session.heartbeat.set_data(data),
            ConnectionCommand::Heartbeat(_) | ConnectionCommand::Close(_) => {}
        }
    }

    /// Appends the first record of IK, once: short, so that a responder has to hold little to check it, and with nothing in
    /// it that depends on who the other side is, so that a responder need not wait for that.
    pub(super) fn greet(&mut self, now: Now, out: &mut Vec<u8>) -> Result<(), Closed> {
        if core::mem::take(&mut self.greets) {
            let Self { records, session, .. } = self;
            records.write(out, RecordKind::Data, |out, _| session.fill_control(now, out)).map_err(Closed::by_us)?;
        }
        Ok(())
    }

    /// Whether its first record is that of IK, and still to come.
    pub(super) const fn greets(&self) -> bool {
        self.greets
    }

    /// Of which classes a record could be written now.
    pub(super) fn wants_to_send(&mut self) -> PerClass<bool> {
        let session = &mut self.session;
        let mut wants = session.mux.ready(&session.send_credit, &session.requests);
        wants[Class::Control] = self.greets || session.receive_credit.is_due() || session.heartbeat.is_due();
        wants
    }

    /// Appends one record at most: messages of this class and what is due of `Control`, `limit` bytes with all that surrounds
    /// them.
    pub(super) fn poll_record(
        &mut self,
        now: Now,
        out: &mut Vec<u8>,
        class: Class,
        limit: usize,
    ) -> Result<(), Closed> {
        if self.greets {
            return self.greet(now, out);
        }
        let Self { records, session, .. } = self;
        let most = limit.saturating_sub(SEALED_OVERHEAD).max(LEAST_ROOM);
        let fill = |out: &mut Vec<u8>, room: usize| {
            let (start, whole) = (out.len(), room.min(most));
            session.fill_control(now, out);
            let room = Room { left: whole.saturating_sub(out.len() - start), whole };
            let Session { mux, send_credit, requests, packing, .. } = session;
            mux.fill_class(class, out, room, send_credit, requests, packing);
        };
        records.write(out, RecordKind::Data, fill).map(drop).map_err(Closed::by_us)
    }

    /// Appends records to `out` until nothing can be sent or `limit` bytes are there.
    pub(super) fn poll_transmit(&mut self, now: Now, out: &mut Vec<u8>, limit: usize) -> Result<(), Closed> {
        let start = out.len();
        self.greet(now, out)?;
        loop {
            let session = &mut self.session;
            let more = self
                .records
                .write(out, RecordKind::Data, |out, room| {
                    let end = out.len() + room;
                    session.fill_control(now, out);
                    let Session { mux, send_credit, requests, packing, .. } = session;
                    mux.fill(out, end - out.len(), send_credit, requests, packing);
                })
                .map_err(Closed::by_us)?;
            if !more || out.len() - start >= limit {
                return Ok(());
            }
        }
    }

    /// Ends the connection: the other side is told unless it knows, and what was asked of it fails.
    pub(super) fn close(mut self, closed: Closed, out: &mut Vec<u8>, events: &mut Events) {
        if closed.by == ClosedBy::Us {
            self.records.write_close(out, closed.reason);
        }
        for id in self.session.requests.end_all() {
            events.push_back(ConnectionEvent::Response { id, result: Err(RequestError::Closed(closed)) });
        }
        self.session.mux.lose_all();
        events.extend(core::iter::from_fn(|| self.session.mux.next_unsent()));
        events.extend(core::iter::from_fn(|| self.session.packing.next_event()));
    }

    /// What is counted and of which nobody was told: messages that will never be sent, and compressed bodies.
    pub(super) fn next_counted(&mut self) -> Option<ConnectionEvent> {
        self.session.mux.next_unsent().or_else(|| self.session.packing.next_event())
    }
}

impl Session {
    fn send(&mut self, envelope: Envelope, outbound: Outbound) {
        if self.config.allows(&outbound.message) {
            self.mux.push(envelope, outbound);
        }
    }

    /// Drops what waits, and tells of it.
    fn shed(&mut self, bytes: usize, events: &mut Events) {
        let dropped = self.mux.shed(bytes, &mut self.requests);
        for (command, count) in dropped.messages {
            events.push_back(ConnectionEvent::Unsent { command, reason: DropReason::Shed, count });
        }
        for id in dropped.requests {
            let result = Err(RequestError::Dropped(DropReason::Shed));
            events.push_back(ConnectionEvent::Response { id, result });
        }
    }

    /// Appends what is due of class `Control`: a few hundred bytes at most.
    fn fill_control(&mut self, now: Now, out: &mut Vec<u8>) {
        fn put(out: &mut Vec<u8>, command: Command, head: &impl Serialize) {
            encode_frame(&Message::new(command, payload::to_bytes(head)), Envelope::Notification, out);
        }
        while let Some(grant) = self.receive_credit.next_grant() {
            put(out, commands::CREDIT, &grant);
        }
        if let Some(beat) = self.heartbeat.take_pong(now.wall) {
            put(out, commands::PONG, &beat);
        }
        if let Some(beat) = self.heartbeat.take_ping(now.mono) {
            put(out, commands::PING, &beat);
        }
    }

    /// Takes the frames of a record; those that the budget refused are left over.
    fn read_frames<'a>(&mut self, now: Now, plaintext: &'a [u8], events: &mut Events) -> Result<&'a [u8], CloseReason> {
        let mut reader = FrameReader::new(plaintext);
        loop {
            let rest = reader.rest();
            let Some(frame) = reader.next() else { return Ok(&[]) };
            let frame = frame.map_err(|error| error.close_reason())?;
            if frame.command().class() == Class::Control {
                self.control(now, frame, events)?;
                continue;
            }
            match self.reassembler.accept(frame) {
                Err(DecodeError::OverBudget(_)) => return Ok(rest),
                Err(error) => return Err(error.close_reason()),
                Ok(incoming) => {
                    // A compressed body costs its own length: to unpack it is work as any other.
                    if let Some(len) = frame.announced_len() {
                        self.receive_credit.arrive(frame.command().class(), cost(len))?;
                    }
                    if let Some((body, packed)) = frame.packed_lens() {
                        self.packing.count_received(body, packed);
                    }
                    if let Some(incoming) = incoming {
                        self.deliver(incoming, events);
                    }
                }
            }
        }
    }

    /// Tells of a complete message.
    fn deliver(&mut self, incoming: Incoming, events: &mut Events) {
        let Incoming { envelope, message, charge } = incoming;
        let (class, bytes) = (message.command.class(), cost(message.len()));
        if !self.config.limits.knows(message.command) {
            return push(events, ConnectionEvent::Skipped { count: 1, class, bytes });
        }
        if let Envelope::Response(id) = envelope
            && let Some(asked) = self.asked.as_mut().filter(|asked| asked.awaits(id))
        {
            return asked.answered(message, charge);
        }
        let event = match envelope {
            Envelope::Notification => ConnectionEvent::Message { message, charge },
            Envelope::Request(id) => ConnectionEvent::Request { id, message, charge },
            Envelope::Response(id) => match self.requests.end(id) {
                Some(id) => ConnectionEvent::Response { id, result: Ok((message, charge)) },
                None => ConnectionEvent::Skipped { count: 0, class, bytes },
            },
        };
        push(events, event);
    }

    /// A message of class `Control`: the transport's own, or of a later version of it. It needs no budget, so that credit
    /// moves even when memory is short.
    fn control(&mut self, now: Now, frame: Frame<'_>, events: &mut Events) -> Result<(), CloseReason> {
        let Frame::Whole { command, envelope, head, body } = frame else { return Err(CloseReason::BadFragment) };
        if frame.content_len() > self.config.limits.of(command) {
            return Err(CloseReason::MessageTooLong);
        }
        let plain = envelope == Envelope::Notification && body.is_none();
        match command {
            commands::CREDIT if plain => return self.send_credit.earn(decode::<Grant>(head)?),
            _ => self.rate.take(now.mono)?,
        }
        let (data, stats) = match command {
            commands::PING if plain => (self.heartbeat.handle_ping(decode::<Beat>(head)?)?, None),
            commands::PONG if plain => self.heartbeat.handle_pong(now, decode::<Answer>(head)?)?,
            _ => {
                push(events, ConnectionEvent::Skipped { count: 1, class: Class::Control, bytes: 0 });
                return Ok(());
            }
        };
        events.extend(stats.map(ConnectionEvent::Stats));
        if !data.is_empty() {
            events.push_back(ConnectionEvent::Heartbeat(data));
        }
        Ok(())
    }
}

/// Adds an event. Skipped messages of a class in a row are one event, so that nobody can make many of what costs a few bytes
/// each.
fn push(events: &mut Events, event: ConnectionEvent) {
    use ConnectionEvent::Skipped;
    match (events.back_mut(), event) {
        (Some(Skipped { count, class, bytes }), Skipped { count: more, class: same, bytes: longer })
            if *class == same =>
        {
            *count += more;
            *bytes += longer;
        }
        (_, event) => events.push_back(event),
    }
}

fn decode<T: DeserializeOwned + Serialize>(head: &[u8]) -> Result<T, CloseReason> {
    payload::from_bytes(head, head.len()).map_err(|_| CloseReason::MalformedMessage)
}
