//! Who goes when all places of those who come by themselves are taken: whoever is easiest to do without and to imitate.
//!
//! Whoever would fill all places must be better than the others in each of several ways that cost something (as Bitcoin Core's
//! `SelectNodeToEvict`). In this order, of those that are left:
//!
//! 1. protected: of each of some groups of addresses the one that is here longest; a secret of the node says which groups;
//! 2. protected: the nearest;
//! 3. protected: those that were of use last. One list for whatever was of use: whoever delivers much of what is cheap to make
//!    can hold these places and no others;
//! 4. protected: the half of the rest that was here first;
//! 5. left alone for now: who came just now;
//! 6. goes: of the group with the most left, the one that came last.
//!
//! With fewer places than a share is one of, that share protects nobody, and in a very small node the last rule alone holds.
//!
//! To add a criterion: a field of [`Candidate`], filled in [`Candidate::of`]; a constant for its share, with a row in
//! `docs/parameters.md`; a call of [`protect`] in [`select`]; a line here; a test in which it alone saves somebody.

use core::{cmp::Reverse, hash::BuildHasher, time::Duration};
use peerage_core::{KeyedState, LinkId, NodeId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

use super::{AddressPolicy, Peer, address::NetGroup};

/// One place in so many protects a peer for the group from which it comes (Bitcoin Core: 4 of about 112; we
/// have half as many places and protect as many).
const DIVERSE_SHARE: usize = 14;
/// One place in so many is for the shortest round trips (Bitcoin Core: 8 of about 112).
const NEAR_SHARE: usize = 7;
/// One place in so many is for those who were of use last (Bitcoin Core: 4 for transactions, 4 for blocks).
const USEFUL_SHARE: usize = 7;

/// What counts for and against a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) peer: NodeId,
    pub(super) link: LinkId,
    pub(super) group: NetGroup,
    pub(super) since: Timestamp,
    pub(super) rtt: Option<Duration>,
    /// When it last delivered something that nobody had delivered before.
    pub(super) useful: Option<Timestamp>,
}

impl Candidate {
    pub(super) fn of(peer: &Peer, policy: AddressPolicy) -> Self {
        Self {
            peer: peer.info.peer,
            link: peer.link,
            group: NetGroup::of(peer.info.remote, policy),
            since: peer.since,
            rtt: peer.stats.map(|stats| stats.minimum),
            useful: peer.useful,
        }
    }
}

/// Chooses who goes among `candidates` in `places`: never one that is protected, and never one that came less than `age`
/// ago. `None` if nobody is left.
pub(super) fn select(
    candidates: Vec<Candidate>,
    places: usize,
    order: &KeyedState,
    now: Timestamp,
    age: Duration,
) -> Option<NodeId> {
    // Of few places none are set aside: whoever came first stays.
    let share = |of: usize| places / of;
    let mut rest = candidates;
    // The longest connected one of each group that comes first in an order nobody outside can foresee.
    rest.sort_by_cached_key(|peer| (order.hash_one(peer.group), peer.since, peer.link));
    let mut groups = BTreeSet::new();
    let least = rest.len().saturating_sub(1);
    rest.retain(|peer| groups.len() >= share(DIVERSE_SHARE).min(least) || !groups.insert(peer.group));
    protect(&mut rest, share(NEAR_SHARE), |peer| peer.rtt);
    protect(&mut rest, share(USEFUL_SHARE), |peer| peer.useful.map(Reverse));
    let half = rest.len() / 2;
    protect(&mut rest, half, |peer| Some(peer.since));

    rest.retain(|peer| now.since(peer.since) >= age);
    let mut crowds: BTreeMap<NetGroup, (usize, Timestamp, LinkId, NodeId)> = BTreeMap::new();
    // The youngest comes last, so that it stays.
    rest.sort_by_key(|peer| (peer.since, peer.link));
    for Candidate { group, since, link, peer, .. } in rest {
        let count = crowds.get(&group).map_or(0, |(count, ..)| *count);
        crowds.insert(group, (count + 1, since, link, peer));
    }
    crowds.into_values().max().map(|(.., peer)| peer)
}

/// Takes the `count` best out of `rest`: those with the least `key`; those without one stay, and somebody always does: in a
/// small node all could be protected, and its limit would not hold.
fn protect<K: Ord>(rest: &mut Vec<Candidate>, count: usize, key: impl Fn(&Candidate) -> Option<K>) {
    rest.sort_by_key(|peer| (key(peer).is_none(), key(peer), peer.link));
    let with_key = rest.iter().filter(|peer| key(peer).is_some()).count();
    rest.drain(..count.min(with_key).min(rest.len().saturating_sub(1)));
}

#[cfg(test)]
mod tests {
    use peerage_core::Seed;

    use super::*;

    const PLACES: usize = 56;
    const SECOND: Duration = Duration::from_secs(1);

    fn at(secs: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(secs)
    }

    /// The `number`-th peer, which came then, from a group of its own.
    fn peer(number: u8) -> Candidate {
        Candidate {
            peer: NodeId::from_bytes([number; 32]),
            link: LinkId(u64::from(number)),
            group: NetGroup::V4([number, 7]),
            since: at(u64::from(number)),
            rtt: None,
            useful: None,
        }
    }

    fn order() -> KeyedState {
        Seed::from_u64(1).hasher("test")
    }

    /// Who goes one after the other until there are no more than places.
    fn evicted(mut candidates: Vec<Candidate>, places: usize) -> Vec<u8> {
        let mut gone = Vec::new();
        while candidates.len() > places {
            let next = select(candidates.clone(), places, &order(), at(1000), Duration::ZERO).expect("somebody may go");
            candidates.retain(|peer| peer.peer != next);
            gone.push(next.as_bytes()[0]);
        }
        gone
    }

    #[test]
    fn the_youngest_of_the_most_crowded_group_goes_first() {
        let mut all: Vec<_> = (1..=20).map(peer).collect();
        for peer in &mut all[14..17] {
            peer.group = NetGroup::V4([99, 9]); // numbers 15, 16, 17
        }
        assert_eq!(
            select(all, 0, &order(), at(1000), Duration::ZERO),
            Some(NodeId::from_bytes([17; 32])),
            "though 18 to 20 are younger"
        );
    }

    #[test]
    fn whoever_is_near_or_of_use_or_was_there_first_stays() {
        let mut all: Vec<_> = (1..=60).map(peer).collect();
        for late in &mut all[58..] {
            late.group = NetGroup::V4([1, 7]); // that of number 1, who was there first
        }
        for near in &mut all[50..58] {
            near.rtt = Some(Duration::from_millis(5)); // 51 to 58
        }
        for useful in &mut all[42..50] {
            useful.useful = Some(at(900)); // 43 to 50
        }
        let gone = evicted(all, PLACES);
        assert!(gone.contains(&60) && gone.contains(&59), "young and of no use: {gone:?}");
        assert!(!gone.iter().any(|number| (43..=58).contains(number)), "near or of use: {gone:?}");
        assert!(!gone.contains(&1), "the first to come: {gone:?}");
    }

    /// Nine peers of one group in eight places, of which the ninth goes.
    fn nine() -> Vec<Candidate> {
        let one_group = |number| Candidate { group: NetGroup::V4([99, 9]), ..peer(number) };
        let all: Vec<_> = (1..=9).map(one_group).collect();
        assert_eq!(evicted(all.clone(), 8), [9]);
        all
    }

    #[test]
    fn each_criterion_alone_saves_somebody_also_in_a_small_node() {
        let saved = |change: fn(&mut Candidate)| {
            let mut all = nine();
            change(&mut all[8]);
            evicted(all, 8) == [8]
        };
        assert!(saved(|last| last.rtt = Some(Duration::from_millis(5))), "it is near");
        assert!(saved(|last| last.useful = Some(at(900))), "it was of use");
        assert!(saved(|last| last.since = at(0)), "it was there first");
    }

    #[test]
    fn of_several_groups_each_keeps_somebody_however_late_it_came() {
        // Thirty peers of one group, then one each of ten groups: four groups are protected whatever else is true of them.
        let mut all: Vec<_> =
            (1..=30).map(|number| Candidate { group: NetGroup::V4([99, 9]), ..peer(number) }).collect();
        all.extend((31..=40).map(peer));
        let mut rest = all.clone();
        let mut gone = Vec::new();
        while let Some(next) =
            select(rest.clone(), PLACES, &order(), at(1000), Duration::ZERO).filter(|_| rest.len() > 8)
        {
            rest.retain(|peer| peer.peer != next);
            gone.push(next.as_bytes()[0]);
        }
        let groups: BTreeSet<_> = rest.iter().map(|peer| peer.group).collect();
        assert!(groups.len() >= PLACES / DIVERSE_SHARE, "{groups:?} are left; {gone:?} went");
    }

    #[test]
    fn in_the_smallest_node_somebody_can_always_go() {
        for places in 0..4 {
            let mut all: Vec<_> = (1..=5).map(peer).collect();
            for peer in &mut all {
                (peer.rtt, peer.useful) = (Some(SECOND), Some(at(900)));
            }
            assert_eq!(evicted(all, places).len(), 5 - places, "{places} places");
        }
    }

    #[test]
    fn a_crowd_that_comes_from_one_group_and_is_of_no_use_keeps_none_of_the_others_places() {
        // Twenty honest peers of as many groups, then a crowd of one group that never ends.
        let mut all: Vec<_> = (1..=20).map(peer).collect();
        for number in 21..=200 {
            all.push(Candidate { group: NetGroup::V4([99, 9]), ..peer(number) });
            if all.len() > PLACES {
                let next = select(all.clone(), PLACES, &order(), at(1000), Duration::ZERO).expect("somebody may go");
                assert!(next.as_bytes()[0] > 20, "{next} is honest");
                all.retain(|peer| peer.peer != next);
            }
        }
    }

    #[test]
    fn whoever_came_just_now_is_left_alone_for_a_moment() {
        let all: Vec<_> = (1..=9).map(peer).collect();
        assert_eq!(select(all.clone(), 0, &order(), at(10), 3 * SECOND), Some(NodeId::from_bytes([7; 32])));
        assert_eq!(
            select(all, 0, &order(), at(10), 8 * SECOND),
            None,
            "all others are protected by the time that they are here"
        );
    }
}
