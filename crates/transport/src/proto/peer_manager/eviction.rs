//! Who goes when all places of those who come by themselves are taken: whoever is easiest to do without and to imitate.
//!
//! Whoever would fill all places must be better than the others in each of several ways that cost something: be near, stay
//! long, deliver what nobody delivered before, come from many groups of addresses (as Bitcoin Core's `SelectNodeToEvict`).

use core::{cmp::Reverse, hash::BuildHasher, time::Duration};
use peerage_core::{KeyedState, LinkId, NodeId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

use super::address::NetGroup;

/// Of so many places, one is for each of the groups that a secret of the node prefers, up to one in ... (Bitcoin Core: 4 of
/// about 112 are protected so; we have half as many places and protect as many).
const GROUP_SHARE: usize = 14;
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

/// Chooses who goes among `candidates` in `places`: never one that is protected, and never one that came less than `age`
/// ago. `None` if nobody is left.
pub(super) fn select(
    candidates: Vec<Candidate>,
    places: usize,
    order: &KeyedState,
    now: Timestamp,
    age: Duration,
) -> Option<NodeId> {
    let mut rest = candidates;
    // The longest connected one of each group that comes first in an order nobody outside can foresee.
    rest.sort_by_cached_key(|peer| (order.hash_one(peer.group), peer.since, peer.link));
    let mut groups = BTreeSet::new();
    rest.retain(|peer| groups.len() >= places / GROUP_SHARE || !groups.insert(peer.group));
    protect(&mut rest, places / NEAR_SHARE, |peer| peer.rtt);
    protect(&mut rest, places / USEFUL_SHARE, |peer| peer.useful.map(Reverse));
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

/// Takes the `count` best out of `rest`: those with the least `key`; those without one stay.
fn protect<K: Ord>(rest: &mut Vec<Candidate>, count: usize, key: impl Fn(&Candidate) -> Option<K>) {
    rest.sort_by_key(|peer| (key(peer).is_none(), key(peer), peer.link));
    let with_key = rest.iter().filter(|peer| key(peer).is_some()).count();
    rest.drain(..count.min(with_key));
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
