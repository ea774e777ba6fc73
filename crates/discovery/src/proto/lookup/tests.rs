//! The lookup alone, and in a static network of 1,000 nodes.

use super::*;
use peerage_core::Seed;
use rand_core::Rng;

fn id(number: u64) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn contact(node: NodeId) -> Contact {
    Contact { node, addrs: vec![], record: None }
}

/// Nodes by their distance to a key, closest first.
fn sorted(nodes: impl Iterator<Item = NodeId>, target: DhtKey) -> Vec<NodeId> {
    let mut nodes: Vec<_> = nodes.collect();
    nodes.sort_by_cached_key(|node| DhtKey::of(node).distance(&target));
    nodes
}

#[test]
fn it_asks_the_closest_first_alpha_at_once_and_ends_when_the_k_closest_answered() {
    let target = DhtKey::from_bytes([7; 32]);
    let order = sorted((0..10).map(id), target);
    let mut lookup = Lookup::new(target, 4, 3, 20);
    for node in &order[3..] {
        lookup.add(contact(*node));
    }
    let ask = |lookup: &mut Lookup| {
        core::iter::from_fn(|| lookup.next_to_ask()).map(|contact| contact.node).collect::<Vec<_>>()
    };
    assert_eq!(ask(&mut lookup), order[3..6]);
    assert!(lookup.failed(&order[4]), "it was asked");
    assert_eq!(ask(&mut lookup), [order[6]], "the next closest takes the place of who failed");
    order[..3].iter().for_each(|node| lookup.add(contact(*node)));
    assert!(lookup.answered(&order[3]));
    assert_eq!(ask(&mut lookup), [order[0]]);
    assert!(lookup.answered(&order[5]) && lookup.answered(&order[6]));
    assert_eq!(ask(&mut lookup), order[1..3]);
    assert!(!lookup.is_done());
    assert!(lookup.answered(&order[0]) && lookup.answered(&order[1]) && lookup.answered(&order[2]));
    assert!(lookup.is_done());
    assert_eq!(ask(&mut lookup), [], "farther ones need not be asked");
    assert_eq!(lookup.closest().map(|contact| contact.node).collect::<Vec<_>>(), order[..4]);
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let mut lookup = Lookup::new(DhtKey::from_bytes([7; 32]), 4, 3, 20);
    assert!(lookup.is_done(), "who knows nobody has nobody to ask");
    lookup.add(contact(id(1)));
    assert!(!lookup.answered(&id(1)) && !lookup.answered(&id(2)) && !lookup.failed(&id(1)));
    assert_eq!(lookup.next_to_ask().map(|contact| contact.node), Some(id(1)));
    assert!(lookup.failed(&id(1)));
    assert!(!lookup.answered(&id(1)), "too late");
    assert!(lookup.is_done() && lookup.closest().next().is_none());
}

#[test]
fn it_remembers_no_more_than_it_may_and_forgets_the_farthest() {
    let target = DhtKey::from_bytes([7; 32]);
    let order = sorted((0..1_000).map(id), target);
    let mut lookup = Lookup::new(target, 4, 3, 8);
    lookup.add(contact(order[999]));
    assert!(lookup.next_to_ask().is_some());
    order[..999].iter().rev().for_each(|node| lookup.add(contact(*node)));
    assert_eq!(lookup.candidates.len(), 8);
    let kept: Vec<_> = lookup.candidates.values().map(|(contact, _)| contact.node).collect();
    assert_eq!(kept[..7], order[..7]);
    assert_eq!(kept[7], order[999], "an answer of it is still to come");
}

/// Keys can be made at will, each closer than the last, and the signatures beforehand.
#[test]
fn whoever_always_names_somebody_closer_is_not_asked_for_ever() {
    let target = DhtKey::from_bytes([7; 32]);
    let mut closer = sorted((0..2_000).map(id), target);
    let mut lookup = Lookup::new(target, 4, 3, 8);
    lookup.add(contact(closer.pop().expect("many")));
    let mut asked = Vec::new();
    while let Some(Contact { node, .. }) = lookup.next_to_ask() {
        asked.push(node);
        closer.split_off(closer.len().saturating_sub(2)).into_iter().for_each(|node| lookup.add(contact(node)));
        // Every other one is a name without a node.
        assert!(if asked.len().is_multiple_of(2) { lookup.failed(&node) } else { lookup.answered(&node) });
    }
    assert_eq!(asked.len(), 8);
    assert!(lookup.is_done());
    assert_eq!(lookup.closest().count(), 4, "those that answered count");
}

#[test]
fn who_was_asked_is_not_asked_again_when_it_is_named_again() {
    let target = DhtKey::from_bytes([7; 32]);
    let order = sorted((0..5).map(id), target);
    let mut lookup = Lookup::new(target, 4, 2, 4);
    order[3..].iter().for_each(|node| lookup.add(contact(*node)));
    assert!(lookup.next_to_ask().is_some() && lookup.next_to_ask().is_some());
    // The nearer of the two fails first, and so many closer ones are named that there is no room for it.
    lookup.failed(&order[3]);
    order[..3].iter().for_each(|node| lookup.add(contact(*node)));
    lookup.failed(&order[4]);
    lookup.add(contact(order[3]));
    while let Some(Contact { node, .. }) = lookup.next_to_ask() {
        assert_ne!(node, order[3]);
        lookup.answered(&node);
    }
    assert!(lookup.is_done());
}

/// Full knowledge, as buckets would keep it: of each bucket any 16.
fn table(own: NodeId, nodes: &[NodeId], rng: &mut impl Rng) -> Vec<NodeId> {
    let mut buckets: BTreeMap<u8, Vec<NodeId>> = BTreeMap::new();
    for node in nodes {
        if let Some(bucket) = DhtKey::of(node).distance(&DhtKey::of(&own)).bucket() {
            buckets.entry(bucket).or_default().push(*node);
        }
    }
    for bucket in buckets.values_mut() {
        while bucket.len() > 16 {
            bucket.swap_remove((rng.next_u64() % bucket.len() as u64) as usize);
        }
    }
    buckets.into_values().flatten().collect()
}

/// Of 50 lookups from living nodes, how many find exactly the `depth` closest living ones. One in `dead_in` is dead, and
/// nobody knows it.
fn exact_lookups(seed: u64, dead_in: u64, depth: usize) -> usize {
    let mut rng = Seed::from_u64(seed).stream("test");
    let nodes: Vec<_> = (0..1_000).map(id).collect();
    let alive = |node: &NodeId| {
        let number = u64::from_be_bytes(node.as_bytes()[..8].try_into().expect("eight bytes"));
        number % dead_in != 1
    };
    // Tables are made when somebody asks for them: most are never seen.
    let mut tables: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    let (mut exact, mut asked) = (0, 0);
    for _ in 0..50 {
        let target = DhtKey::random(&mut rng);
        let own = nodes[(rng.next_u64() % 100) as usize * 3];
        let mut answer = |node: NodeId, rng: &mut _| {
            let known = tables.entry(node).or_insert_with(|| table(node, &nodes, rng));
            sorted(known.iter().copied().filter(|other| *other != own), target).into_iter().take(16)
        };
        let mut lookup = Lookup::new(target, 16, 3, 128);
        answer(own, &mut rng).for_each(|node| lookup.add(contact(node)));
        while let Some(Contact { node, .. }) = lookup.next_to_ask() {
            asked += 1;
            if alive(&node) {
                answer(node, &mut rng).for_each(|node| lookup.add(contact(node)));
                lookup.answered(&node);
            } else {
                lookup.failed(&node);
            }
        }
        assert!(lookup.is_done(), "seed {seed}");
        let truth = sorted(nodes.iter().copied().filter(|node| *node != own && alive(node)), target);
        exact +=
            usize::from(lookup.closest().take(depth).map(|contact| contact.node).eq(truth[..depth].iter().copied()));
    }
    assert!(asked < 50 * 40, "seed {seed}: {asked} questions");
    exact
}

#[test]
fn among_a_thousand_nodes_it_finds_exactly_the_sixteen_closest() {
    assert_eq!(exact_lookups(5, u64::MAX, 16), 50);
}

/// Answers still name the dead, so sixteen records show about eleven living nodes: no lookup can be sure of more.
#[test]
fn it_finds_the_closest_though_a_third_is_dead_and_nobody_noticed() {
    let exact = exact_lookups(6, 3, 4);
    assert!(exact >= 49, "{exact} of 50");
}
