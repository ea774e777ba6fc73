//! What is dropped when memory is short.

use peerage_core::{Class, Command};
use peerage_wire::Envelope;
use std::collections::BTreeMap;

use super::{Mux, cost};
use crate::proto::connection::requests::Requests;

/// What was dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::proto::connection) struct Dropped {
    /// Notifications and responses, by kind.
    pub(in crate::proto::connection) messages: BTreeMap<Command, u64>,
    /// The runner's names of requests; they have ended.
    pub(in crate::proto::connection) requests: Vec<u64>,
}

impl Mux {
    /// Drops messages until so many bytes that are owed are free: those of the lowest class first, of these the newest, as if
    /// they had found no room. What has begun to go out stays: the other side could not do without the rest.
    pub(in crate::proto::connection) fn shed(&mut self, bytes: usize, requests: &mut Requests) -> Dropped {
        let (mut dropped, mut freed) = (Dropped::default(), 0);
        for class in Class::ALL.into_iter().rev() {
            let queue = &mut self.0[class];
            while freed < bytes
                && let Some(queued) = queue.pop_back_if(|queued| !queued.fragments.is_begun())
            {
                let message = queued.fragments.message();
                freed += cost(message.len());
                match queued.envelope {
                    Envelope::Request(id) => dropped.requests.extend(requests.end(id)),
                    Envelope::Notification | Envelope::Response(_) => {
                        *dropped.messages.entry(message.command).or_default() += 1;
                    }
                }
            }
            if queue.capacity() > 2 * queue.len() {
                queue.shrink_to_fit();
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use peerage_core::{Budget, Layer, Message, Outbound, Pool, Timestamp};
    use std::sync::Arc;

    use super::*;
    use crate::proto::connection::{credit::SendCredit, packing::Packing};

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
            let charge = Budget::default().charge(Pool::Outbound, length).expect("an empty ledger");
            let resident = Arc::new(charge.into());
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
