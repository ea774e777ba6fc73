//! What is dropped when memory is short.

use peerage_core::{Class, Command};
use peerage_wire::Envelope;
use std::{collections::BTreeMap, sync::Arc};

use super::{Mux, Queued};
use crate::proto::connection::requests::Requests;

/// What was dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::proto::connection) struct Dropped {
    /// Notifications and responses, by kind.
    pub(in crate::proto::connection) messages: BTreeMap<Command, u64>,
    /// The runner's names of requests; they have ended.
    pub(in crate::proto::connection) requests: Vec<u64>,
}

/// What dropping a message is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It frees so many bytes of what all share.
    Frees(usize),
    /// Others wait for the same bytes, which are free when the last of them has dropped them.
    Later,
}

impl Mux {
    /// Drops messages until so many bytes are free: those of the lowest class first, of these the newest, as if they had found no
    /// room. What has begun to go out stays: the other side could not do without the rest. Messages whose bytes nobody else waits for
    /// go before all others, since they alone free anything now; if they are not enough, so much of the others goes as is missing.
    pub(in crate::proto::connection) fn shed(&mut self, bytes: usize, requests: &mut Requests) -> Dropped {
        let mut dropped = Dropped::default();
        let freed = self.drop_some(bytes, requests, &mut dropped, |queued| match queued.use_of_dropping() {
            Use::Frees(bytes) if bytes > 0 => Some(bytes),
            Use::Frees(_) | Use::Later => None,
        });
        let rest = bytes.saturating_sub(freed);
        self.drop_some(rest, requests, &mut dropped, |queued| match queued.use_of_dropping() {
            Use::Later => Some(queued.owed.bytes()),
            Use::Frees(_) => None,
        });
        dropped
    }

    /// Drops so many bytes at least of what `worth` gives a worth in bytes; how many that were.
    fn drop_some(
        &mut self,
        bytes: usize,
        requests: &mut Requests,
        dropped: &mut Dropped,
        worth: impl Fn(&Queued) -> Option<usize>,
    ) -> usize {
        let mut sum = 0;
        for class in Class::ALL.into_iter().rev() {
            let queue = &mut self.0[class];
            // From which place on, counted from the newest.
            let mut keep = queue.len();
            let mut found = 0;
            while sum + found < bytes && keep > 0 {
                keep -= 1;
                found += queue.get(keep).and_then(|queued| worth_of(queued, &worth)).unwrap_or(0);
            }
            let mut place = 0;
            queue.retain(|queued| {
                place += 1;
                let Some(worth) = worth_of(queued, &worth).filter(|_| place > keep) else { return true };
                sum += worth;
                let message = queued.fragments.message();
                match queued.envelope {
                    Envelope::Request(id) => dropped.requests.extend(requests.end(id)),
                    Envelope::Notification | Envelope::Response(_) => {
                        *dropped.messages.entry(message.command).or_default() += 1;
                    }
                }
                false
            });
            if queue.capacity() > 2 * queue.len() {
                queue.shrink_to_fit();
            }
        }
        sum
    }
}

fn worth_of(queued: &Queued, worth: &impl Fn(&Queued) -> Option<usize>) -> Option<usize> {
    worth(queued).filter(|_| !queued.fragments.is_begun())
}

impl Queued {
    fn use_of_dropping(&self) -> Use {
        // Whoever drops the other references at this moment only makes this one worth more.
        if Arc::strong_count(&self.resident) == 1 { Use::Frees(self.resident.shared()) } else { Use::Later }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use peerage_core::{Budget, Layer, Message, Outbound, Pool, Resident, Timestamp};
    use std::sync::Arc;

    use super::*;
    use crate::proto::connection::{
        credit::{SendCredit, cost},
        packing::Packing,
    };

    const LENGTH: usize = 1000;

    const fn command(class: Class) -> Command {
        Command::new(Layer::Application, 0, class)
    }

    struct Bench {
        mux: Mux,
        packing: Packing,
        requests: Requests,
        account: peerage_core::Account,
    }

    impl Bench {
        fn new() -> Self {
            let packing = Packing::new(Arc::default(), Budget::default(), 0);
            Self { mux: Mux::new(), packing, requests: Requests::default(), account: Budget::account(1 << 20) }
        }

        fn push(&mut self, class: Class, length: usize, envelope: Envelope) {
            let charge = Budget::default().charge(Pool::Outbound, cost(length)).expect("an empty ledger");
            self.push_paid(class, length, envelope, &Arc::new(charge.into()));
        }

        /// A message whose bytes others may wait for, too.
        fn push_paid(&mut self, class: Class, length: usize, envelope: Envelope, resident: &Arc<Resident>) {
            let resident = Arc::clone(resident);
            let owed = self.account.owe(cost(length)).expect("little");
            let message = Message::new(command(class), vec![7; length]);
            self.mux.push(envelope, Outbound { message, resident, owed });
        }

        fn fill(&mut self, out: &mut Vec<u8>, room: usize, credit: &mut SendCredit) {
            self.mux.fill(out, room, credit, &self.requests, &mut self.packing);
        }

        fn shed(&mut self, bytes: usize) -> Dropped {
            self.mux.shed(bytes, &mut self.requests)
        }
    }

    #[test]
    fn the_lowest_class_goes_first_and_no_more_than_needed() {
        let mut bench = Bench::new();
        for class in [Class::Consensus, Class::Gossip, Class::Bulk, Class::Gossip] {
            bench.push(class, LENGTH, Envelope::Notification);
        }
        assert_eq!(bench.shed(1).messages, [(command(Class::Bulk), 1)].into());
        assert_eq!(bench.shed(2 * cost(LENGTH)).messages, [(command(Class::Gossip), 2)].into());
        assert_eq!(bench.account.owed(), cost(LENGTH), "what is dropped is not owed any more");
        assert_eq!(bench.shed(0), Dropped::default());
        assert_eq!(bench.shed(1).messages, [(command(Class::Consensus), 1)].into(), "the highest at last");
        assert_eq!(bench.shed(1), Dropped::default());
    }

    #[test]
    fn what_has_begun_to_go_out_stays() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.push(Class::Bulk, 50_000, Envelope::Notification);
        }
        let (mut out, mut credit) = (Vec::new(), SendCredit::new());
        bench.fill(&mut out, 16_000, &mut credit);
        assert_eq!(bench.shed(usize::MAX).messages, [(command(Class::Bulk), 2)].into());
        assert_eq!(bench.account.owed(), cost(50_000));
        bench.fill(&mut out, 100_000, &mut credit);
        assert!(out.len() > 50_000, "it goes on to its end");
        assert_eq!(bench.account.owed(), 0);
    }

    #[test]
    fn what_others_wait_for_too_frees_nothing_and_goes_after_what_does_and_no_more_of_it_than_is_missing() {
        let budget = Budget::default();
        let mut bench = Bench::new();
        let shared = Arc::new(budget.charge(Pool::Outbound, cost(LENGTH)).expect("an empty ledger").into());
        for _ in 0..3 {
            bench.push_paid(Class::Bulk, LENGTH, Envelope::Notification, &shared);
        }
        bench.push(Class::Consensus, LENGTH, Envelope::Notification);
        assert_eq!(bench.shed(1).messages, [(command(Class::Consensus), 1)].into(), "all that is free at once");
        assert_eq!(bench.shed(cost(LENGTH) + 1).messages, [(command(Class::Bulk), 2)].into());
        drop(shared);
        assert_eq!(bench.shed(1).messages, [(command(Class::Bulk), 1)].into(), "now it is the last");
        assert_eq!(budget.report().resident, 0);
    }

    #[test]
    fn what_a_floor_pays_for_is_nothing_that_others_could_have() {
        let budget = Budget::with_floors(1 << 20, 4);
        let mut bench = Bench::new();
        budget.seat(&bench.account);
        let of_floor = budget.charge_for(&bench.account, Pool::Outbound, cost(LENGTH)).expect("its floor");
        let (shared, of_floor) = (of_floor.shared(), Arc::new(of_floor.into()));
        assert_eq!(shared, 0);
        bench.push_paid(Class::Bulk, LENGTH, Envelope::Notification, &of_floor);
        drop(of_floor);
        assert_eq!(bench.shed(usize::MAX), Dropped::default());
    }

    #[test]
    fn a_request_that_is_dropped_ends_and_one_that_ended_before_is_not_told_again() {
        let mut bench = Bench::new();
        let open = bench.requests.begin(70, Timestamp::ZERO + Duration::from_secs(1));
        let over = bench.requests.begin(71, Timestamp::ZERO + Duration::from_secs(1));
        bench.push(Class::Signal, LENGTH, Envelope::Request(open));
        bench.push(Class::Signal, LENGTH, Envelope::Request(over));
        bench.requests.end(over);
        let dropped = bench.shed(usize::MAX);
        assert_eq!(dropped, Dropped { requests: vec![70], ..Dropped::default() });
        assert!(!bench.requests.is_open(open));
    }
}
