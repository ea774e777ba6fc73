//! What waits to be sent, and what goes next.
//!
//! One queue for each class, first in, first out. A record is filled with messages of the highest class that has any and
//! has credit for it, one after the other, so that many small ones share a record without any timer. A message longer
//! than a record goes in pieces of one record each, and after each piece the highest class is chosen anew: nothing waits
//! behind more than one record.

mod shed;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use peerage_core::{
    Class, Command, ConnectionEvent, DropReason, Outbound, Owed, PerClass, Resident,
    queue::{pop_front, push_back, rest},
};
use peerage_wire::{Envelope, Fragmenter, limits::MAX_PLAINTEXT};

use super::{
    credit::{SendCredit, cost},
    packing::Packing,
    requests::Requests,
};

/// Room in a record that is not worth another piece: its prefix would take up to a third of it (our guess).
const MIN_PIECE: usize = 64;

/// A message in its queue. Once its last byte is in a record it is dropped, and with it what pays for it.
#[derive(Debug)]
struct Queued {
    fragments: Fragmenter,
    envelope: Envelope,
    resident: Arc<Resident>,
    owed: Owed,
}

/// The queues, and how many messages of which kind left them unsent. What is in them was charged by whoever put it there.
#[derive(Debug)]
pub(super) struct Mux(PerClass<VecDeque<Queued>>, BTreeMap<(Command, DropReason), u64>);

/// Where frames go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes that the record has left.
    pub(super) left: usize,
    /// Bytes that it would have if it were empty: what fits these is not cut.
    pub(super) whole: usize,
}

impl Mux {
    pub(super) fn new() -> Self {
        Self(PerClass::from_fn(|_| VecDeque::new()), BTreeMap::new())
    }

    /// Puts a message, which the configuration allows, at the end of the queue of its class.
    pub(super) fn push(&mut self, envelope: Envelope, outbound: Outbound) {
        let Outbound { message, resident, owed } = outbound;
        let class = message.command.class();
        let fragments = Fragmenter::new(message, envelope);
        push_back(&mut self.0[class], Queued { fragments, envelope, resident, owed });
    }

    /// Gives back the memory of queues that are empty.
    pub(super) fn rest(&mut self) {
        self.0.0.iter_mut().for_each(rest);
    }

    /// Appends frames to `out`, at most `room` bytes, as long as something can be sent. Requests that are not open any
    /// more are forgotten unsent.
    pub(super) fn fill(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        credit: &mut SendCredit,
        requests: &Requests,
        packing: &mut Packing,
    ) {
        self.fill_from(&Class::ALL, out, Room { left: room, whole: MAX_PLAINTEXT }, credit, requests, packing);
    }

    /// The same of one class alone, in a record that may be a short one.
    pub(super) fn fill_class(
        &mut self,
        class: Class,
        out: &mut Vec<u8>,
        room: Room,
        credit: &mut SendCredit,
        requests: &Requests,
        packing: &mut Packing,
    ) {
        self.fill_from(&[class], out, room, credit, requests, packing);
    }

    /// Of which classes something could be sent.
    pub(super) fn ready(&mut self, credit: &SendCredit, requests: &Requests) -> PerClass<bool> {
        PerClass::from_fn(|class| self.is_ready(class, credit, requests))
    }

    fn fill_from(
        &mut self,
        classes: &[Class],
        out: &mut Vec<u8>,
        room: Room,
        credit: &mut SendCredit,
        requests: &Requests,
        packing: &mut Packing,
    ) {
        let end = out.len() + room.left;
        while let Some((class, queued)) = self.next(classes, credit, requests) {
            let left = end - out.len();
            let Queued { fragments, resident, .. } = queued;
            if !fragments.is_begun() {
                packing.pack(fragments, resident);
                let whole = fragments.whole_len();
                // What fits a record of its own is not cut to fill this one.
                if whole > left && (whole <= room.whole || left < MIN_PIECE) {
                    return;
                }
                credit.spend(class, cost(fragments.message().len()));
                packing.count_sent(fragments);
            } else if left < MIN_PIECE {
                return;
            }
            let appended = fragments.fill(left, out);
            debug_assert!(appended > 0, "{MIN_PIECE} bytes hold a piece of every message");
            if fragments.is_done() {
                pop_front(&mut self.0[class]);
            } else {
                queued.owed.begin();
            }
        }
    }

    /// The message to continue or to begin now.
    fn next(&mut self, classes: &[Class], credit: &SendCredit, requests: &Requests) -> Option<(Class, &mut Queued)> {
        let class = *classes.iter().find(|class| self.is_ready(**class, credit, requests))?;
        Some((class, self.0[class].front_mut()?))
    }

    fn is_ready(&mut self, class: Class, credit: &SendCredit, requests: &Requests) -> bool {
        self.forget_abandoned(class, requests);
        self.0[class].front().is_some_and(|queued| {
            let fragments = &queued.fragments;
            fragments.is_begun() || credit.covers(class, cost(fragments.message().len()))
        })
    }

    /// Forgets the requests at the head of a queue for whose answers nobody waits any more.
    fn forget_abandoned(&mut self, class: Class, requests: &Requests) {
        while let Some(queued) = self.0[class].front().filter(|queued| queued.is_abandoned(requests)) {
            *self.1.entry((queued.fragments.message().command, DropReason::Superseded)).or_default() += 1;
            pop_front(&mut self.0[class]);
        }
    }

    /// The same in all queues, so that it is told when it happens and not when there is something to send.
    pub(super) fn forget_all_abandoned(&mut self, requests: &Requests) {
        Class::ALL.into_iter().for_each(|class| self.forget_abandoned(class, requests));
    }

    /// The connection is over: nothing that waits will be sent. Requests fail by themselves.
    pub(super) fn lose_all(&mut self) {
        for class in Class::ALL {
            for queued in core::mem::take(&mut self.0[class]) {
                if !matches!(queued.envelope, Envelope::Request(_)) {
                    let lost = (queued.fragments.message().command, DropReason::ConnectionLost);
                    *self.1.entry(lost).or_default() += 1;
                }
            }
        }
    }

    /// What will never be sent and has not been told.
    pub(super) fn next_unsent(&mut self) -> Option<ConnectionEvent> {
        let ((command, reason), count) = self.1.pop_first()?;
        Some(ConnectionEvent::Unsent { command, reason, count })
    }
}

impl Queued {
    fn is_abandoned(&self, requests: &Requests) -> bool {
        match self.envelope {
            Envelope::Request(id) => !self.fragments.is_begun() && !requests.is_open(id),
            Envelope::Notification | Envelope::Response(_) => false,
        }
    }
}
