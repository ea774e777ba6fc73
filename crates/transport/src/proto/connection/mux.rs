//! What waits to be sent, and what goes next.
//!
//! One queue for each class, first in, first out. A record is filled with messages of the highest class that has any and
//! has credit for it, one after the other, so that many small ones share a record without any timer. A message longer
//! than a record goes in pieces of one record each, and after each piece the highest class is chosen anew: nothing waits
//! behind more than one record.

use std::{collections::VecDeque, sync::Arc};

use peerage_core::{
    Charge, Class, Outbound, Owed, PerClass,
    queue::{pop_front, push_back, rest},
};
use peerage_wire::{Envelope, Fragmenter, limits::MAX_PLAINTEXT};

use super::{
    credit::{SendCredit, cost},
    requests::Requests,
};

/// Room in a record that is not worth another piece: its prefix would take up to a third of it (our guess).
const MIN_PIECE: usize = 64;

/// A message in its queue. Once its last byte is in a record it is dropped, and with it what pays for it.
#[derive(Debug)]
struct Queued {
    fragments: Fragmenter,
    envelope: Envelope,
    _resident: Arc<Charge>,
    _owed: Owed,
}

/// The queues. What is in them was charged by whoever put it there.
#[derive(Debug)]
pub(super) struct Mux(PerClass<VecDeque<Queued>>);

impl Mux {
    pub(super) fn new() -> Self {
        Self(PerClass::from_fn(|_| VecDeque::new()))
    }

    /// Puts a message, which the configuration allows, at the end of the queue of its class.
    pub(super) fn push(&mut self, envelope: Envelope, outbound: Outbound) {
        let Outbound { message, resident, owed } = outbound;
        let class = message.command.class();
        let fragments = Fragmenter::new(message, envelope);
        push_back(&mut self.0[class], Queued { fragments, envelope, _resident: resident, _owed: owed });
    }

    /// Gives back the memory of queues that are empty.
    pub(super) fn rest(&mut self) {
        self.0.0.iter_mut().for_each(rest);
    }

    /// Appends frames to `out`, at most `room` bytes, as long as something can be sent. Requests that are not open any
    /// more are forgotten unsent.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, room: usize, credit: &mut SendCredit, requests: &Requests) {
        let end = out.len() + room;
        while let Some((class, queued)) = self.next(credit, requests) {
            let left = end - out.len();
            let fragments = &mut queued.fragments;
            if !fragments.is_begun() {
                let whole = fragments.whole_len();
                // What fits a record of its own is not cut to fill this one.
                if whole > left && (whole <= MAX_PLAINTEXT || left < MIN_PIECE) {
                    return;
                }
                credit.spend(class, cost(fragments.message().len()));
            } else if left < MIN_PIECE {
                return;
            }
            let appended = fragments.fill(left, out);
            debug_assert!(appended > 0, "{MIN_PIECE} bytes hold a piece of every message");
            if fragments.is_done() {
                pop_front(&mut self.0[class]);
            }
        }
    }

    /// The message to continue or to begin now.
    fn next(&mut self, credit: &SendCredit, requests: &Requests) -> Option<(Class, &mut Queued)> {
        let class = Class::ALL.into_iter().find(|class| {
            let queue = &mut self.0[*class];
            while queue.front().is_some_and(|queued| queued.is_abandoned(requests)) {
                pop_front(queue);
            }
            queue.front().is_some_and(|queued| {
                let fragments = &queued.fragments;
                fragments.is_begun() || credit.covers(*class, cost(fragments.message().len()))
            })
        })?;
        Some((class, self.0[class].front_mut()?))
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
