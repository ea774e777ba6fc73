//! What the manager says when it is asked why somebody is not dialled.

use super::*;

#[test]
fn why_somebody_is_not_dialled_is_told_and_whoever_may_be_is() {
    let at = |group: u8| SocketAddr::from(([30, group, 0, 1], 4000));
    let mut bench = Bench::new(|config| {
        (config.addresses, config.target_outbound) = (AddressPolicy::Public, 2);
        config.deny = vec!["30.66.0.0/16".parse().expect("a rule")];
    });
    let why_not = |bench: &Bench, number: u8| bench.manager.why_not(bench.now, &id(number));
    let hear = |bench: &mut Bench, number: u8, addr: SocketAddr| {
        bench.order(PeerCommand::Want(Want::Candidate { peer: id(number), addrs: vec![addr], source: None }))
    };
    assert_eq!(why_not(&bench, 5), Some(WhyNot::Oneself));
    assert_eq!(why_not(&bench, 9), Some(WhyNot::Unmet(Unmet::NoAddress)));
    hear(&mut bench, 9, at(66));
    assert_eq!(why_not(&bench, 9), Some(WhyNot::Unmet(Unmet::Denied)));
    hear(&mut bench, 10, at(10));
    assert_eq!(why_not(&bench, 10), None, "it is dialled at the next look");
    assert_eq!(dials(&bench.pass(TICK)), [at(10)]);
    assert_eq!(why_not(&bench, 10), Some(WhyNot::Dialled));
    bench.up_at(10, true, at(10));
    assert_eq!(why_not(&bench, 10), Some(WhyNot::Connected));
    hear(&mut bench, 11, "30.10.0.2:4000".parse().expect("an address"));
    assert_eq!(why_not(&bench, 11), Some(WhyNot::GroupFull));
    bench.order(PeerCommand::Limits(PeerLimits { target_outbound: 1, ..PeerLimits::default() }));
    assert_eq!(why_not(&bench, 11), Some(WhyNot::Enough));
    bench.order(PeerCommand::Ban { subject: Subject::Peer(id(11)), lasting: Duration::from_secs(60) });
    assert_eq!(why_not(&bench, 11), Some(WhyNot::Unmet(Unmet::Banned)));
    let asks = PeerCommand::Want(Want::Now { peer: id(12), addrs: vec![at(12)] });
    bench.order(asks);
    let closed = Closed::by_network(CloseReason::DialRefused);
    bench.manager.handle_network(bench.now, NetworkEvent::DialFailed { addr: at(12), expected: Some(id(12)), closed });
    assert_eq!(why_not(&bench, 12), Some(WhyNot::Unmet(Unmet::Resting)));
    bench.pass(Duration::from_secs(2));
    assert_eq!(why_not(&bench, 12), Some(WhyNot::NoPlace), "a wish gives none");
}

#[test]
fn the_operator_hears_once_of_a_reserved_peer_that_cannot_be_dialled() {
    let mut bench = Bench::new(|config| {
        config.reserved = vec![KnownPeer { peer: id(1), addrs: vec![] }, known(2)];
        config.deny = vec![Rule::Peer(id(2))];
    });
    bench.pass(Duration::from_secs(60));
    let undialled = |number, why| PeerEvent::ReservedUndialled { peer: id(number), why };
    assert_eq!(bench.told, [undialled(1, Unmet::NoAddress), undialled(2, Unmet::Denied)]);
    bench.order(PeerCommand::Reserve(known(1)));
    assert_eq!(dials(&bench.pass(TICK)), [addr(1)], "its name has an address now");
    bench.order(PeerCommand::Deny(Vec::new()));
    assert_eq!(dials(&bench.pass(TICK)), [addr(2)]);
    assert_eq!(bench.told.len(), 2);
}

#[test]
fn whoever_waits_for_somebody_that_is_reached_and_turned_away_hears_it() {
    let mut bench = Bench::new(|_| ());
    bench.order(PeerCommand::Want(Want::Now { peer: id(9), addrs: vec![addr(9)] }));
    bench.order(PeerCommand::Deny(vec![Rule::Peer(id(9))]));
    let (link, done) = bench.up(9, true);
    assert_eq!(done, [Outlet::Close { link, reason: CloseReason::Denied }]);
    assert_eq!(bench.told, [PeerEvent::Unmet { peer: id(9), why: Unmet::TurnedAway(CloseReason::Denied) }]);
}

#[test]
fn a_dial_whose_end_nobody_tells_is_given_up() {
    let mut bench = Bench::new(|config| config.target_outbound = 0);
    bench.order(PeerCommand::Want(Want::Now { peer: id(9), addrs: vec![addr(9)] }));
    bench.pass(Duration::from_secs(59));
    assert_eq!((bench.manager.dials.len(), bench.told.len()), (1, 0));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.manager.dials.len(), 0);
    assert_eq!(bench.told, [PeerEvent::Unmet { peer: id(9), why: Unmet::TurnedAway(CloseReason::DialTimeout) }]);
}

#[test]
fn who_loses_a_privilege_goes_if_a_list_concerns_it() {
    let mut bench = Bench::new(|config| {
        config.allow = vec![Rule::Peer(id(9))];
        config.trusted = vec![id(1)];
        config.reserved = vec![known(2)];
    });
    let (links, _): (Vec<_>, Vec<_>) = [1, 2].into_iter().map(|number| bench.up(number, false)).unzip();
    let denied = |link| [Outlet::Close { link, reason: CloseReason::Denied }];
    assert_eq!(bench.order(PeerCommand::Trust(id(1), false)), denied(links[0]));
    assert_eq!(bench.order(PeerCommand::Release(id(2))), denied(links[1]));
}
