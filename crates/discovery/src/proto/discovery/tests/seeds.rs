//! When seeds are wanted, and when not.

use super::*;

#[test]
fn seeds_are_wanted_until_somebody_is_there_and_again_when_all_are_lost() {
    let seeds = vec![(id(1), vec![addr(1)]), (id(0), vec![addr(0)])];
    let mut node = Node::with(|config| config.seeds = seeds);
    let want = Want::Now { peer: id(1), addrs: vec![addr(1)] };
    let mut wanted_at = Vec::new();
    for second in 0..100 {
        node.0.handle_timeout(now(second * 1_000));
        if node.wants().contains(&want) {
            wanted_at.push(second);
        }
    }
    assert!(wanted_at.starts_with(&[0, 5, 15]), "{wanted_at:?}");
    node.up(1);
    let [(_, request)] = node.requests()[..] else { panic!("it looks for itself") };
    node.responds(1, request, Ok(nodes(&[])));
    assert!(node.actions().iter().any(|action| matches!(action, Action::Emit(Event::Joined))));
    assert!(node.0.is_joined());
    node.0.handle_timeout(now(400_000));
    assert_eq!(node.wants(), []);
    node.0.handle_network(
        now(400_000),
        NetworkEvent::PeerDown { peer: id(1), closed: Closed::by_us(CloseReason::Surplus) },
    );
    node.0.handle_timeout(now(405_000));
    assert!(node.wants().contains(&want));
}

/// Whoever comes by himself may be of one party with all others who do.
#[test]
fn strangers_who_came_by_themselves_keep_nobody_from_the_seeds() {
    let wanted_after_loss = |outbound: bool| {
        let mut node = Node::with(|config| config.seeds = vec![(id(9), vec![addr(9)])]);
        let seed = Want::Now { peer: id(9), addrs: vec![addr(9)] };
        node.up_as(1, false, addr(1));
        node.up_as(2, outbound, addr(2));
        let asked = node.requests();
        let (_, request) = asked[0];
        node.responds(1, request, Ok(nodes(&[])));
        node.actions();
        node.0.joined = true;
        node.0.searches.clear();
        node.0.handle_timeout(now(200_000));
        let before = node.wants().contains(&seed);
        node.down(200_000, 2);
        node.0.handle_timeout(now(200_000 + SEEDS_MOST.as_millis() as u64));
        (before, node.wants().contains(&seed))
    };
    assert_eq!(wanted_after_loss(true), (false, true), "the last that it chose is lost");
    assert_eq!(wanted_after_loss(false), (true, true), "it never chose any");
}

#[test]
fn a_seed_is_wanted_now_and_then_though_nobody_was_lost() {
    let seeds = vec![(id(0), vec![addr(0)]), (id(8), vec![addr(8)]), (id(9), vec![addr(9)])];
    let mut node = Node::with(|config| config.seeds = seeds);
    node.knows(1);
    let [(_, request)] = node.requests()[..] else { panic!("it looks for itself") };
    node.responds(1, request, Ok(nodes(&[])));
    node.up(9);
    node.actions();
    node.0.handle_timeout(now(SELF_LOOKUP.as_millis() as u64 - 1));
    let seed = Want::Now { peer: id(8), addrs: vec![addr(8)] };
    assert!(!node.wants().contains(&seed));
    node.0.handle_timeout(now(SELF_LOOKUP.as_millis() as u64));
    assert_eq!(node.wants(), [seed], "the other one is here");
}

#[test]
fn a_seed_whose_place_is_told_later_is_wanted_there_at_once_unless_nobody_is_needed() {
    let mut node = Node::with(|config| config.seeds = vec![(id(9), vec![])]);
    node.0.handle_timeout(now(0));
    assert_eq!(node.wants(), [], "nobody knows where it is");
    let seed = |number| Want::Now { peer: id(9), addrs: vec![addr(number)] };
    node.0.handle_command(now(1), Command::SetSeeds(vec![(id(9), vec![addr(9)])]));
    assert_eq!(node.wants(), [seed(9)]);
    node.up(1);
    node.0.joined = true;
    node.actions();
    node.0.handle_command(now(2), Command::SetSeeds(vec![(id(9), vec![addr(7)])]));
    assert_eq!(node.wants(), []);
    node.down(3, 1);
    node.0.handle_timeout(now(3 + SEEDS_FIRST.as_millis() as u64));
    assert_eq!(node.wants(), [seed(7)]);
}

#[test]
fn whoever_wants_more_peers_than_before_walks_more_often_from_the_next_walk_on() {
    let mut node = Node::with(|config| config.target = 1);
    node.up(1);
    let mut pause = |target: usize| {
        node.0.handle_command(now(0), Command::SetTarget(target));
        let due = node.0.timers.deadline(&Timer::Walk).expect("it walks for ever");
        let at = Now { mono: due, wall: WALL };
        node.0.handle_timeout(at);
        node.0.timers.deadline(&Timer::Walk).expect("it walks for ever").since(due)
    };
    assert!(pause(1) >= WALK_SATED);
    assert!(pause(2) < WALK_SATED / 2);
    assert!(pause(1) >= WALK_SATED);
}
