//! How many dials each source of addresses is good for: whoever tells of many at which nobody answers must not have the node knock
//! at all of them.
//!
//! A source is the group of addresses, /24 or /48, of whoever told first of a peer, or, when that
//! one has no tokens, who told of it then and has some; those of whom nobody knows who told share one.
//! A dial to where a peer was never reached and the operator does not say that it is takes one token of its source, and gives it
//! back if the peer was there: telling the truth costs nothing.

use core::num::NonZeroU64;
use std::collections::BTreeMap;

use peerage_core::Timestamp;

use crate::proto::{admission::Group, bucket::Bucket};

/// Dials that one source is good for at once (our guess: two answers to lookups, with 16 nodes each).
pub(super) const RATION: u64 = 32;
/// And each second from then on (our guess: a network of which half is gone is joined all the same).
const RATION_A_SECOND: u64 = 1;
/// Sources whose tokens are counted, about 100 B each; beyond that the one that has most is forgotten (our guess).
const MAX_SOURCES: usize = 1024;

/// All sources that do not have all of their tokens.
#[derive(Debug, Default)]
pub(super) struct Rations {
    sources: BTreeMap<Option<Group>, Bucket>,
}

impl Rations {
    /// Whether a source is good for one more.
    pub(super) fn has(&self, now: Timestamp, source: Option<Group>) -> bool {
        self.sources.get(&source).is_none_or(|bucket| bucket.has(now, 1))
    }

    pub(super) fn take(&mut self, now: Timestamp, source: Option<Group>) {
        const RATE: NonZeroU64 = NonZeroU64::new(RATION_A_SECOND).expect("not zero");
        if !self.sources.contains_key(&source) && self.sources.len() >= MAX_SOURCES {
            self.make_room(now);
        }
        self.sources.entry(source).or_insert_with(|| Bucket::full(RATE, RATION, now)).take(now, 1);
    }

    pub(super) fn give_back(&mut self, now: Timestamp, source: Option<Group>) {
        if let Some(bucket) = self.sources.get_mut(&source) {
            bucket.give(now, 1);
        }
    }

    /// Forgets those that have all of their tokens, or else the one that is the first to have them.
    fn make_room(&mut self, now: Timestamp) {
        let full = i64::try_from(RATION).unwrap_or(i64::MAX);
        self.sources.retain(|_, bucket| !bucket.has(now, full));
        if self.sources.len() >= MAX_SOURCES {
            let first = self.sources.iter().min_by_key(|(_, bucket)| bucket.has_at(full)).map(|(source, _)| *source);
            first.and_then(|source| self.sources.remove(&source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Option<Group> {
        Some(Group::of(core::net::IpAddr::V4((number << 8).into())))
    }

    #[test]
    fn a_source_that_spent_its_tokens_gets_one_a_second_and_others_have_their_own() {
        let (mut rations, at) = (Rations::default(), Timestamp::from_millis);
        for _ in 0..RATION {
            assert!(rations.has(at(0), source(1)));
            rations.take(at(0), source(1));
        }
        assert!(!rations.has(at(999), source(1)) && rations.has(at(1000), source(1)));
        assert!(rations.has(at(0), source(2)) && rations.has(at(0), None));
        rations.give_back(at(0), source(1));
        assert!(rations.has(at(0), source(1)), "who was there costs nothing");
    }

    #[test]
    fn however_many_sources_there_are_the_table_is_bounded_and_those_who_spent_most_stay_known() {
        let (mut rations, now) = (Rations::default(), Timestamp::ZERO);
        (0..RATION).for_each(|_| rations.take(now, source(0)));
        for number in 1..2 * MAX_SOURCES as u32 {
            rations.take(now, source(number));
        }
        assert_eq!(rations.sources.len(), MAX_SOURCES);
        assert!(!rations.has(now, source(0)));
        rations.take(Timestamp::from_millis(60_000), source(1 << 20));
        assert_eq!(rations.sources.len(), 1, "the others have all of theirs again");
    }
}
