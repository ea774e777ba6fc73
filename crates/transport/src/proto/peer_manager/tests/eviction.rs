//! Who keeps a place when there are more than places.

use super::*;

/// A public host in the /16 of that number.
fn host(group: u8, number: u8) -> SocketAddr {
    SocketAddr::from(([30, group, 0, number], 50_000))
}

#[test]
fn honest_peers_that_are_of_use_keep_their_places_while_a_crowd_fills_a_node() {
    let mut bench = Bench::new(|config| config.addresses = AddressPolicy::Public);
    for number in 10..18 {
        bench.up_at(number, false, host(number, 1));
        bench.pass(Duration::from_secs(10));
    }
    // Hour by hour thirteen newcomers a minute from four groups of addresses, each with an identity of its own.
    for turn in 0..600u32 {
        let number = 100 + (turn % 150) as u8;
        bench.up_at(number, false, host(200 + (turn % 4) as u8, number));
        if turn % 10 == 0 {
            for useful in 10..18 {
                bench.order(PeerCommand::Want(Want::Keep { peer: id(useful) }));
            }
        }
        bench.pass(Duration::from_millis(4_500));
        assert!(bench.manager.peers().count() <= 56 + GUESTS, "turn {turn}");
    }
    for number in 10..18 {
        assert!(bench.manager.peer(&id(number)).is_some(), "peer {number} is of use and lost its place");
    }
}

#[test]
fn who_is_trusted_comes_in_beyond_all_limits_and_is_never_banned() {
    let mut bench = Bench::new(|config| {
        (config.max_peers, config.target_outbound) = (1, 0);
        config.trusted = vec![id(1)];
    });
    let (trusted, _) = bench.up(1, false);
    for number in 10..100 {
        bench.up(number, false);
        bench.pass(TICK);
    }
    assert!(bench.manager.peer(&id(1)).is_some_and(|peer| peer.link == trusted));
    let report = PeerCommand::Report { peer: id(1), fault: Fault::InvalidBlock };
    assert_eq!(bench.order(report), [Outlet::Close { link: trusted, reason: CloseReason::Misbehaviour }]);
    let (again, done) = bench.up(1, false);
    assert!(done.contains(&Outlet::Admit(again)), "{done:?}");
}

#[test]
fn at_most_one_outbound_connection_is_kept_in_one_group_of_addresses() {
    let mut bench = Bench::new(|config| config.addresses = AddressPolicy::Public);
    for number in 10..40 {
        let addrs = vec![SocketAddr::from(([40 + number % 3, 7, number, 1], 4000))];
        bench.order(PeerCommand::Want(Want::Candidate { peer: id(number), addrs, source: None }));
    }
    let dialled = dials(&bench.pass(TICK));
    let mut groups: Vec<_> = dialled.iter().map(|addr| NetGroup::of(*addr, AddressPolicy::Public)).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!((dialled.len(), groups.len()), (3, 3), "{dialled:?}");

    // Somebody wanted just then in a group that has one: it may come, but not stay.
    let remote = dialled[0];
    bench.up_at(90, true, remote);
    let wanted = SocketAddr::from((
        [remote.ip().to_string().split('.').next().map_or(0, |a| a.parse().expect("a byte")), 7, 250, 1],
        4000,
    ));
    assert_eq!(dials(&bench.order(PeerCommand::Want(Want::Now { peer: id(91), addrs: vec![wanted] }))), [wanted]);
    bench.up_at(91, true, wanted);
    assert!(bench.manager.peer(&id(91)).is_some_and(|peer| peer.transient));
    let link = LinkId(bench.next_link);
    let done = bench.pass(TRANSIENT_KEEP + TICK);
    assert!(done.contains(&Outlet::Close { link, reason: CloseReason::Surplus }), "{done:?}");
}

#[test]
fn limits_may_change_while_the_node_runs_and_whoever_is_too_many_goes() {
    let mut bench = Bench::new(|_| ());
    (10..18).for_each(|number| drop(bench.up(number, true)));
    (20..60).for_each(|number| drop(bench.up(number, false)));
    assert_eq!(bench.manager.peers().count(), 48);
    bench.order(PeerCommand::Limits(PeerLimits { target_outbound: 4, max_peers: 10, ..PeerLimits::default() }));
    bench.pass(Duration::from_secs(10));
    let outbound = bench.manager.peers().filter(|peer| peer.info.outbound).count();
    assert_eq!((outbound, bench.manager.peers().count()), (4, 10));
}
