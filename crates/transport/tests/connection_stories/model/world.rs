//! Two connections, a pipe with delays, and what must be true after each step.

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{
    Charge, Class, CloseReason, Closed, ClosedBy, Connection, ConnectionCommand, ConnectionEvent, DialKey, DropReason,
    Message, PerClass, Pool, RequestError, Timestamp,
};
use peerage_transport::proto::connection::{COMPRESSION, credit::cost};
use peerage_wire::{Envelope, limits::MESSAGE_OVERHEAD};

use super::{
    eyes::shake_hands,
    half::{Due, Half},
};
use crate::harness::{A, B, Pair, STRANGE, config, credit_of};

/// Short, so that each case replaces keys.
const REKEY_EVERY: u64 = 5;

/// What a side has of a message that is not complete.
#[derive(Clone, Copy, Default)]
struct Part {
    bytes: usize,
    since: Timestamp,
}

/// How a side reads, and what it keeps.
#[derive(Default)]
pub(super) struct Reader {
    /// Deliveries that the stack has not consumed.
    held: Vec<ConnectionEvent>,
    /// Wire ids of requests, to be answered; an id that was answered may be here still.
    pub(super) asked: Vec<u64>,
    parts: PerClass<Part>,
    /// What arrived when.
    arrivals: Vec<(Timestamp, usize)>,
    /// When the last record was complete.
    heard: Timestamp,
    /// Since when the budget refuses.
    paused: Option<Timestamp>,
    /// Whether it was told not to read, and since when it reads again.
    deaf: bool,
    listens: Timestamp,
    /// The test's own use of the side's budget.
    squeeze: Option<Charge>,
    established: bool,
    closed: Option<Closed>,
    /// The reason of the side's own command, or that with which its stream broke.
    commanded: Option<CloseReason>,
    cut: Option<CloseReason>,
    /// Its last words are written.
    gone: bool,
}

pub(super) struct World {
    pub(super) pair: Pair,
    /// What each side sends.
    pub(super) halves: [Half; 2],
    pub(super) readers: [Reader; 2],
    names: u64,
}

impl World {
    /// Two sides whose handshake is over.
    pub(super) fn new(seed: u64, ik: bool, compresses: bool) -> Self {
        let [a, b] = [1, 2].map(|number| {
            let mut config = config(number);
            config.rekey_every = REKEY_EVERY;
            config.features = if compresses { COMPRESSION } else { 0 };
            config
        });
        let key = ik.then(|| DialKey(*b.static_key.public()));
        let mut pair = Pair::knowing(seed, a, b, None, key);
        pair.sides.iter_mut().for_each(|side| side.consumes = false);
        let (eyes, [by_a, by_b]) = shake_hands(&mut pair, seed, ik);
        let halves = eyes.map(|eyes| Half::new(eyes, ik, compresses));
        let mut world = Self { pair, halves, readers: Default::default(), names: 0 };
        world.wrote(A, &by_a, 0, Duration::ZERO);
        world.wrote(B, &by_b, 0, Duration::ZERO);
        world.read(A, usize::MAX);
        if ik {
            assert!(!world.readers[B].established, "somebody may have repeated message 1");
            world.write(A, 0, Duration::ZERO);
            world.read(B, usize::MAX);
        }
        [A, B].iter().for_each(|side| world.check(*side));
        assert!(world.readers.iter().all(|reader| reader.established), "seed {seed}");
        world
    }

    fn now(&self) -> Timestamp {
        self.pair.now.mono
    }

    pub(super) const fn is_closed(&self, side: usize) -> bool {
        self.readers[side].closed.is_some()
    }

    pub(super) fn notify(&mut self, side: usize, message: Message) {
        if !self.is_closed(side) && allowed(&message) {
            self.halves[side].push(message.clone(), Envelope::Notification);
        }
        self.pair.notify(side, message);
        self.check(side);
    }

    pub(super) fn request(&mut self, side: usize, message: Message, timeout: Duration) {
        self.names += 1;
        let (name, fits, deadline) = (self.names, allowed(&message), self.now() + timeout);
        if !self.is_closed(side) && fits {
            self.halves[side].ask(name, message.clone(), deadline);
        }
        self.pair.request(side, name, message, timeout);
        if !self.is_closed(side) && !fits {
            let refused = self.pair.sides[side].events.pop_front();
            let why = RequestError::Dropped(DropReason::TooLong);
            assert!(
                matches!(&refused, Some(ConnectionEvent::Response { id, result: Err(e) }) if *id == name && *e == why),
                "{refused:?}"
            );
        }
        self.check(side);
    }

    /// Answers a request that arrived; it may be answered again if `again`.
    pub(super) fn respond(&mut self, side: usize, which: usize, again: bool, message: Message) {
        let asked = &mut self.readers[side].asked;
        if asked.is_empty() {
            return;
        }
        let at = which % asked.len();
        let id = if again { asked[at] } else { asked.swap_remove(at) };
        if !self.is_closed(side) && allowed(&message) {
            self.halves[side].push(message.clone(), Envelope::Response(id));
        }
        self.pair.respond(side, id, message);
        self.check(side);
    }

    pub(super) fn heartbeat(&mut self, side: usize, data: Bytes) {
        self.pair.command(side, ConnectionCommand::Heartbeat(data));
        self.check(side);
    }

    /// The stack is done with a delivery.
    pub(super) fn consume(&mut self, side: usize, which: usize) {
        let held = &mut self.readers[side].held;
        if held.is_empty() {
            return;
        }
        let event = held.swap_remove(which % held.len());
        let (class, bytes) = credit_of(&event).expect("only deliveries are held");
        drop(event);
        self.pair.command(side, ConnectionCommand::Consumed { class, bytes });
        self.check(side);
    }

    /// Takes all of a side's budget but `left` bytes, until it is released.
    pub(super) fn squeeze(&mut self, side: usize, left: usize) {
        let budget = &self.pair.sides[side].config.budget;
        self.readers[side].squeeze = None;
        let report = budget.report();
        let taken = budget.charge(Pool::Table, (report.cap - report.resident).saturating_sub(left));
        self.readers[side].squeeze = Some(taken.expect("no more than there is"));
        self.check(side);
    }

    pub(super) fn release(&mut self, side: usize) {
        self.readers[side].squeeze = None;
        self.check(side);
    }

    /// Drops what waits, so that `bytes` are free; each of it is told at once.
    pub(super) fn shed(&mut self, side: usize, bytes: usize) {
        let (mut messages, mut requests) = self.halves[side].shed(bytes);
        self.pair.command(side, ConnectionCommand::Shed { bytes });
        self.pair.sides[side].events.retain(|event| match event {
            ConnectionEvent::Unsent { command, reason: DropReason::Shed, count } => {
                assert_eq!(messages.remove(command), Some(*count), "{command:?}");
                false
            }
            ConnectionEvent::Response { id: name, result: Err(RequestError::Dropped(DropReason::Shed)) } => {
                assert!(!requests.is_empty(), "request {name} is dropped for nothing");
                assert_eq!(self.halves[side].end(*name).id, requests.remove(0));
                false
            }
            _ => true,
        });
        assert!(messages.is_empty() && requests.is_empty(), "not told: {messages:?}, {requests:?}");
        self.check(side);
    }

    /// The runner lets a side read, or not.
    pub(super) fn listen(&mut self, side: usize, listens: bool) {
        let now = self.now();
        let reader = &mut self.readers[side];
        if listens && reader.deaf {
            reader.listens = now;
        }
        reader.deaf = !listens;
        self.pair.command(side, ConnectionCommand::Listen(listens));
        self.check(side);
    }

    pub(super) fn close(&mut self, side: usize, reason: CloseReason) {
        self.readers[side].commanded.get_or_insert(reason);
        self.pair.command(side, ConnectionCommand::Close(reason));
        self.check(side);
        assert!(self.is_closed(side));
    }

    /// The stream of a side breaks.
    pub(super) fn cut(&mut self, side: usize, reason: CloseReason) {
        self.readers[side].cut.get_or_insert(reason);
        self.pair.sides[side].connection.handle_stream_end(self.pair.now, reason);
        self.pair.drain(side);
        self.check(side);
        assert!(self.is_closed(side));
    }

    /// A side writes what takes its turn now; it arrives after `delay`, but nothing overtakes. Whether it was anything: bytes,
    /// or, once it is closed, the end of its stream.
    pub(super) fn write(&mut self, side: usize, limit: usize, delay: Duration) -> bool {
        let bytes = self.pair.transmit(side, limit);
        self.wrote(side, &bytes, limit, delay);
        let gone = self.is_closed(side) && bytes.is_empty();
        let ends = gone && !core::mem::replace(&mut self.readers[side].gone, gone);
        !bytes.is_empty() || ends
    }

    fn wrote(&mut self, side: usize, bytes: &[u8], limit: usize, delay: Duration) {
        let (arrives, closed) = (self.now() + delay, self.is_closed(side));
        self.halves[side].wrote(bytes, limit, arrives, closed);
        self.check(side);
    }

    /// A side reads, if it wants to, `most` bytes at most of what has arrived. Whether there was anything.
    pub(super) fn read(&mut self, side: usize, most: usize) -> bool {
        let (now, other) = (self.now(), 1 - side);
        if !self.is_closed(side) && !self.pair.sides[side].connection.wants_bytes() {
            return false;
        }
        let Some((arrives, bytes)) = self.halves[other].pipe.front_mut() else {
            let over = self.readers[other].gone && !self.is_closed(side);
            if over {
                self.pair.sides[side].connection.handle_stream_end(self.pair.now, CloseReason::StreamEnded);
                self.pair.drain(side);
                self.check(side);
            }
            return over;
        };
        if *arrives > now {
            return false;
        }
        let rest = bytes.split_off(most.clamp(1, bytes.len()));
        let piece = core::mem::replace(bytes, rest);
        if bytes.is_empty() {
            self.halves[other].pipe.pop_front();
        }
        self.arrived(side, piece.len());
        self.pair.deliver(side, &piece);
        self.check(side);
        true
    }

    /// Bytes come to a side; what they complete may be seen from now on.
    fn arrived(&mut self, side: usize, count: usize) {
        let now = self.now();
        self.readers[side].arrivals.push((now, count));
        let from = self.halves[1 - side].read;
        let to = from + count as u64;
        self.halves[1 - side].read = to;
        let new = |(end, _): &&(u64, Due)| (from + 1..=to).contains(end);
        let mut grants = Vec::new();
        for (_, due) in self.halves[1 - side].due.iter().filter(new) {
            self.readers[side].heard = now;
            if let Due::Grant(grant) = due {
                grants.push(*grant);
            }
        }
        grants.into_iter().for_each(|grant| self.halves[side].may_earn(grant));
    }

    /// Time passes, with all timeouts on the way; nobody reads or writes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        let due = |world: &Self| world.pair.sides.iter().filter_map(|side| side.connection.next_timeout()).min();
        while let Some(at) = due(self).filter(|at| *at <= end) {
            self.pair.now.mono = at.max(self.now());
            for side in [A, B] {
                if self.pair.sides[side].connection.next_timeout().is_some_and(|at| at <= self.now()) {
                    self.pair.sides[side].connection.handle_timeout(self.pair.now);
                    self.pair.drain(side);
                    self.check(side);
                    let overdue = self.halves[side].open.values().find(|asked| asked.deadline <= self.now());
                    assert!(overdue.is_none(), "a request outlives its deadline");
                }
            }
        }
        self.pair.now.mono = end;
    }

    /// Compares what happened at a side with what should have.
    pub(super) fn check(&mut self, side: usize) {
        while let Some(event) = self.pair.sides[side].events.pop_front() {
            assert!(!self.is_closed(side), "{event:?} after the end");
            self.happened(side, event);
        }
        if self.is_closed(side) {
            self.readers[side].parts = PerClass::default();
        } else {
            let reader = &self.readers[side];
            let wants = reader.paused.is_none() && !reader.deaf;
            assert_eq!(self.pair.sides[side].connection.wants_bytes(), wants);
            if reader.paused.is_none()
                && let Some(due) = self.next_due(side)
            {
                panic!("side {side} was not told of {due:?}");
            }
        }
        self.check_ledger(side);
    }

    /// The next thing that a side must hear of. What it does not hear of happens on the way.
    fn next_due(&mut self, side: usize) -> Option<Due> {
        let now = self.now();
        while let Some((_, due)) = {
            let other = &mut self.halves[1 - side];
            other.due.pop_front_if(|(end, _)| *end <= other.read)
        } {
            match due {
                Due::Grant(grant) => self.halves[side].earn(grant),
                Due::Piece(class, bytes) => {
                    let part = &mut self.readers[side].parts[class];
                    let since = if part.bytes == 0 { now } else { part.since };
                    *part = Part { bytes: part.bytes + bytes, since };
                }
                Due::Beat(data) if data.is_empty() => {}
                due => return Some(due),
            }
        }
        None
    }

    fn happened(&mut self, side: usize, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Established(_) => {
                assert!(!self.readers[side].established, "established twice");
                self.readers[side].established = true;
            }
            ConnectionEvent::Stats(_) | ConnectionEvent::Packed { .. } => {}
            ConnectionEvent::Waits(waits) => {
                let paused = &mut self.readers[side].paused;
                assert_eq!(paused.is_some(), !waits, "told twice");
                *paused = waits.then_some(self.pair.now.mono);
            }
            ConnectionEvent::Unsent { command, reason, count } => self.halves[side].unsent(command, reason, count),
            ConnectionEvent::Heartbeat(data) => match self.next_due(side) {
                Some(Due::Beat(due)) => assert_eq!(data, due),
                other => panic!("a heartbeat instead of {other:?}"),
            },
            ConnectionEvent::Response { id: name, result: Err(error) } => {
                let asked = self.halves[side].end(name);
                match error {
                    RequestError::Timeout => assert!(asked.deadline <= self.now(), "request {name} fails too early"),
                    RequestError::Closed(closed) => {
                        let last = self.pair.sides[side].events.back();
                        assert!(matches!(last, Some(ConnectionEvent::Closed(end)) if *end == closed), "{last:?}");
                    }
                    RequestError::Dropped(reason) => panic!("request {name} is dropped: {reason}"),
                }
            }
            ConnectionEvent::Skipped { count, class, bytes } => self.skipped(side, count, class, bytes),
            // Memory that is short delays what arrives and changes nothing of it; a request that is over need not be sent.
            ConnectionEvent::Closed(closed) => self.ended(side, closed),
            event => self.delivered(side, event),
        }
    }

    fn delivered(&mut self, side: usize, event: ConnectionEvent) {
        let (message, envelope) = match &event {
            ConnectionEvent::Message { message, .. } => (message, Envelope::Notification),
            ConnectionEvent::Request { id, message, .. } => (message, Envelope::Request(*id)),
            ConnectionEvent::Response { id, result: Ok((message, _)) } => {
                (message, Envelope::Response(self.halves[side].end(*id).id))
            }
            other => panic!("{other:?}"),
        };
        match self.next_due(side) {
            Some(Due::Message(due, to)) => assert!(due == *message && to == envelope, "{event:?} instead of {due:?}"),
            due => panic!("{event:?} instead of {due:?}"),
        }
        if let Envelope::Request(id) = envelope {
            self.readers[side].asked.push(id);
        }
        self.readers[side].parts[message.command.class()].bytes = 0;
        self.readers[side].held.push(event);
    }

    /// Messages of which the side is told only that there were some.
    fn skipped(&mut self, side: usize, mut count: u64, class: Class, mut bytes: usize) {
        while bytes > 0 {
            let Some(Due::Message(message, envelope)) = self.next_due(side) else { panic!("nothing to skip") };
            let strange = message.command == STRANGE;
            if let (Envelope::Response(id), false) = (envelope, strange) {
                let open =
                    self.halves[side].names.get(&id).is_some_and(|name| self.halves[side].open.contains_key(name));
                assert!(!open, "an answer is skipped that somebody waits for");
            } else {
                assert!(strange, "{message:?} is skipped");
                count -= 1;
            }
            assert_eq!(message.command.class(), class);
            self.readers[side].parts[class].bytes = 0;
            bytes = bytes.checked_sub(cost(message.len())).expect("what it cost, no more and no less");
        }
        assert_eq!(count, 0, "more was skipped than arrived");
    }

    /// A side is told of the end; there must be a reason.
    fn ended(&mut self, side: usize, closed: Closed) {
        let now = self.now();
        match closed.by {
            ClosedBy::Us => {
                // What arrived was heard, whatever came then.
                let reader = &self.readers[side];
                let lately = reader.arrivals.iter().rev().take_while(|(at, _)| *at + 10 * SECOND > now);
                let justified = match closed.reason {
                    CloseReason::HeartbeatTimeout => reader.heard + 90 * SECOND <= now,
                    CloseReason::OverBudget => reader.paused.is_some_and(|since| since + 15 * SECOND <= now),
                    CloseReason::TooSlow => {
                        // What the budget refused is read when it is tried again, 50 ms later at most.
                        let since = |part: &Part| part.since + 10 * SECOND - Duration::from_millis(50);
                        let listens = !reader.deaf && reader.listens + 10 * SECOND <= now;
                        let stuck = |part: &Part| part.bytes > 0 && since(part) <= now && listens;
                        reader.parts.0.iter().any(stuck) && lately.map(|(_, bytes)| bytes).sum::<usize>() < 10 << 10
                    }
                    reason => reader.commanded == Some(reason),
                };
                assert!(justified, "closed for no reason: {closed}");
            }
            ClosedBy::Them => match self.next_due(side) {
                Some(Due::Close(reason)) => assert_eq!(closed.reason, reason),
                due => panic!("{closed} instead of {due:?}"),
            },
            ClosedBy::Network => {
                let [reader, other] = [side, 1 - side].map(|side| &self.readers[side]);
                let over = other.gone && closed.reason == CloseReason::StreamEnded;
                assert!(reader.cut == Some(closed.reason) || over, "{closed}");
            }
        }
        assert!(self.halves[side].open.is_empty(), "a request has no end");
        self.halves[side].forget();
        self.readers[side].closed = Some(closed);
    }

    /// What a side holds is what it should hold, to the byte where that is defined.
    fn check_ledger(&self, side: usize) {
        let (half, reader, at) = (&self.halves[side], &self.readers[side], &self.pair.sides[side]);
        assert_eq!((at.account.owed(), at.outbound_budget.report().resident), half.waiting());
        let held: usize = reader.held.iter().filter_map(credit_of).map(|(_, bytes)| bytes).sum();
        let taken = reader.squeeze.as_ref().map_or(0, Charge::bytes);
        let rest = at.config.budget.report().resident.checked_sub(held + taken).expect("what is held is charged");
        let parts = reader.parts.0.iter().filter(|part| part.bytes > 0);
        let most: usize = parts.clone().map(|part| 2 * part.bytes + MESSAGE_OVERHEAD).sum();
        let least: usize = parts.map(|part| part.bytes + MESSAGE_OVERHEAD).sum();
        assert!(
            reader.paused.is_some() || (least..=most + half.beside()).contains(&rest),
            "{rest} bytes for pieces, not {least}..={most}"
        );
    }

    /// Both sides read, write, consume and answer until nothing moves any more: everything is delivered and answered, or the
    /// connection is over on both sides and for one reason; and nothing is held.
    pub(super) fn settle(&mut self) {
        for side in [A, B] {
            self.release(side);
            self.listen(side, true);
        }
        for round in 0.. {
            assert!(round < 10_000, "it never comes to rest");
            let mut moved = false;
            for side in [A, B] {
                moved |= self.write(side, 64 << 10, Duration::ZERO) | self.read(side, usize::MAX);
                while !self.readers[side].held.is_empty() {
                    self.consume(side, 0);
                    moved = true;
                }
                while !self.readers[side].asked.is_empty() {
                    self.respond(side, 0, false, Message::new(crate::harness::HAVE, vec![1, 2, 3]));
                    moved = true;
                }
            }
            let waits = |side: &usize| !self.is_closed(*side) && !self.pair.sides[*side].connection.wants_bytes();
            if [A, B].iter().any(waits) || self.halves.iter().any(|half| !half.pipe.is_empty()) {
                self.pass(Duration::from_millis(50));
            } else if !moved {
                // Of what the other side does not know, or cannot answer, only the deadline is left.
                let last = self.halves.iter().flat_map(|half| half.open.values()).map(|asked| asked.deadline).max();
                let Some(last) = last else { break };
                self.pass(last.since(self.now()));
            }
        }
        for side in [A, B] {
            let half = &self.halves[side];
            let over = self.is_closed(A) && self.is_closed(B);
            assert_eq!(self.is_closed(A), self.is_closed(B), "one side alone knows of the end");
            assert!(over || half.open.is_empty(), "a request has no end");
            assert!(over || half.is_full(), "credit got lost");
            assert_eq!(half.waiting(), (0, 0), "something was never sent");
            let at = &self.pair.sides[side];
            assert_eq!((at.account.owed(), at.outbound_budget.report().resident), (0, 0), "what was sent is kept");
            assert_eq!(at.config.budget.report().resident, 0, "memory is left behind");
        }
        if let [Some(a), Some(b)] = [A, B].map(|side| self.readers[side].closed) {
            for (at, one, other) in [(A, a, b), (B, b, a)] {
                let agree = match one.by {
                    ClosedBy::Them => other == Closed::by_us(one.reason),
                    ClosedBy::Network => self.readers[at].cut.is_some() || other.by == ClosedBy::Network,
                    ClosedBy::Us => true,
                };
                assert!(agree, "side {at} says {one}, the other one {other}");
            }
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Whether the limits of the harness let it be sent.
fn allowed(message: &Message) -> bool {
    let longest = match message.command.class() {
        Class::Control => 0,
        Class::Consensus => 256 << 10,
        Class::Signal => 64 << 10,
        Class::Gossip | Class::Bulk => (2 << 20) - 1024,
    };
    message.len() <= longest
}
