//! What a node knows after a restart, what it tries out, and what it answers to wishes.

use super::*;

/// The book as it was told last.
fn remembered(bench: &mut Bench) -> Vec<BookLine> {
    bench.pass(Duration::from_secs(61));
    let lines = bench
        .told
        .iter()
        .rev()
        .find_map(|event| if let PeerEvent::Remember(lines) = event { Some(lines) } else { None });
    lines.expect("the book was told").clone()
}

#[test]
fn the_two_to_whom_we_were_connected_longest_are_dialled_first_after_a_restart() {
    let mut bench = Bench::new(|_| ());
    for number in 10..16 {
        bench.up(number, true);
        bench.pass(Duration::from_secs(1));
    }
    let lines = remembered(&mut bench);
    let anchors: Vec<_> = lines.iter().filter(|line| line.anchor).map(|line| line.known.peer).collect();
    assert!(anchors.len() == 2 && anchors.contains(&id(10)) && anchors.contains(&id(11)), "{anchors:?}");

    let mut again = Bench::new(|config| {
        config.remembered = lines;
        config.target_outbound = 2;
    });
    // A flood of hearsay before the first dial does not come before them.
    for number in 100..200 {
        again.order(PeerCommand::Want(Want::Candidate { peer: id(number), addrs: vec![addr(number)], source: None }));
    }
    let mut first = dials(&again.pass(TICK));
    first.sort_unstable();
    assert_eq!(first, [addr(10), addr(11)]);
}

#[test]
fn once_there_are_enough_connections_hearsay_is_tried_out_every_two_minutes() {
    let mut bench = Bench::new(|config| config.target_outbound = 1);
    bench.up(1, true);
    bench.order(PeerCommand::Want(Want::Candidate { peer: id(9), addrs: vec![addr(9)], source: None }));
    assert_eq!(bench.manager.book_sizes(), (1, 1));
    assert_eq!(dials(&bench.pass(Duration::from_secs(119))), []);
    assert_eq!(dials(&bench.pass(Duration::from_secs(2))), [addr(9)]);
    let (link, done) = bench.up(9, true);
    assert_eq!(done, [Outlet::Close { link, reason: CloseReason::Surplus }], "nobody hears of it");
    assert_eq!(bench.manager.book_sizes(), (0, 2), "it is there: no hearsay any more");
    let mut bench = Bench::new(|config| config.target_outbound = 1);
    bench.up(1, true);
    for number in 100..110 {
        bench.order(PeerCommand::Want(Want::Candidate { peer: id(number), addrs: vec![addr(number)], source: None }));
    }
    let mut trials = 0;
    for _ in 0..3600 {
        for to in dials(&bench.pass(Duration::from_secs(1))) {
            trials += 1;
            bench.dial_fails((to.port() - 4000) as u8, CloseReason::DialTimeout);
        }
    }
    assert!((20..=60).contains(&trials), "an hour at one each two minutes, more or less: {trials}");
}

#[test]
fn a_wish_that_cannot_be_granted_is_answered() {
    let mut bench = Bench::new(|config| config.target_outbound = 0);
    let want = |number| PeerCommand::Want(Want::Now { peer: id(number), addrs: vec![addr(number)] });
    for number in 108..116 {
        assert_eq!(dials(&bench.order(want(number))), [addr(number)]);
    }
    assert_eq!(bench.order(want(116)), [], "all dials for wishes are under way: it waits");
    assert_eq!(bench.told, []);
    bench.dial_fails(108, CloseReason::DialRefused);
    assert_eq!(dials(&bench.pass(TICK)), [addr(116)], "and has its turn");
    bench.order(want(117));
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.told, [PeerEvent::Unmet { peer: id(117), why: Unmet::Busy }], "or hears that it was in vain");
    bench.dial_fails(116, CloseReason::DialRefused);
    bench.order(want(116));
    assert_eq!(bench.told.last(), Some(&PeerEvent::Unmet { peer: id(116), why: Unmet::Resting }));
    bench.order(PeerCommand::Want(Want::Now { peer: id(120), addrs: vec![] }));
    assert_eq!(bench.told.last(), Some(&PeerEvent::Unmet { peer: id(120), why: Unmet::NoAddress }));
    let ban = PeerCommand::Ban { subject: Subject::Peer(id(121)), lasting: Duration::from_secs(60) };
    bench.order(ban);
    bench.order(want(121));
    assert_eq!(bench.told.last(), Some(&PeerEvent::Unmet { peer: id(121), why: Unmet::Banned }));
}

#[test]
fn whoever_comes_with_the_identity_of_a_peer_that_is_alive_elsewhere_does_not_cut_it_off() {
    let mut bench = Bench::new(|config| config.addresses = AddressPolicy::Public);
    let [home, elsewhere]: [SocketAddr; 2] = ["30.1.1.1:50000", "40.1.1.1:50000"].map(|addr| addr.parse().expect(addr));
    let (first, _) = bench.up_at(9, false, home);
    bench.pass(Duration::from_secs(40));
    bench.manager.alive(bench.now, &id(9));
    bench.pass(Duration::from_secs(40));
    let (copy, done) = bench.up_at(9, false, elsewhere);
    assert_eq!(done, [Outlet::Close { link: copy, reason: CloseReason::Duplicate }]);
    assert!(bench.told.contains(&PeerEvent::TwoHosts { peer: id(9), kept: home, refused: elsewhere }));
    assert!(bench.manager.peer(&id(9)).is_some_and(|peer| peer.link == first));

    // The same host again is a peer that restarted; and one that moved is let in once the old connection is silent.
    let (returned, done) = bench.up_at(9, false, home);
    assert_eq!(done, [Outlet::Close { link: first, reason: CloseReason::Duplicate }, Outlet::Admit(returned)]);
    bench.pass(ALIVE);
    let (moved, done) = bench.up_at(9, false, elsewhere);
    assert_eq!(done, [Outlet::Close { link: returned, reason: CloseReason::Duplicate }, Outlet::Admit(moved)]);
}

/// A wish for a peer, and the connection that comes of it.
fn acquire(bench: &mut Bench, number: u8) -> Vec<Outlet> {
    let dialled = bench.order(PeerCommand::Want(Want::Now { peer: id(number), addrs: vec![addr(number)] }));
    assert_eq!(dials(&dialled), [addr(number)], "{number}");
    bench.up(number, true).1
}

#[test]
fn the_pool_grows_with_what_is_wanted_up_to_its_limit_and_shrinks_when_nobody_wants_anything() {
    let (least, most) = (2, 6);
    let mut bench = Bench::new(|config| {
        (config.target_outbound, config.max_peers) = (least, most);
        config.idle_timeout = Duration::from_secs(30);
    });
    for number in 10..10 + least as u8 {
        bench.up(number, true);
    }
    let all = |bench: &Bench| bench.manager.peers().count();
    // Under load it grows; beyond the maximum and its guests the one that was wanted longest ago makes room.
    for number in 20..60 {
        bench.pass(Duration::from_millis(10));
        assert!(acquire(&mut bench, number).iter().any(|outlet| matches!(outlet, Outlet::Admit(_))));
    }
    assert_eq!(all(&bench), most + GUESTS);
    assert!(bench.manager.peer(&id(59)).is_some() && bench.manager.peer(&id(20)).is_none());
    // Whatever goes on being wanted stays as long as it is.
    for _ in 0..10 {
        bench.pass(Duration::from_secs(10));
        bench.order(PeerCommand::Want(Want::Now { peer: id(59), addrs: vec![] }));
    }
    assert!(bench.manager.peer(&id(59)).is_some());
    assert_eq!(all(&bench), least + 1, "the others were wanted half a minute ago");
    // How long that is can be said while it runs.
    let limits = PeerLimits { idle_timeout: Duration::from_secs(1), ..bench.manager.limits() };
    bench.order(PeerCommand::Limits(limits));
    bench.pass(Duration::from_secs(2));
    assert_eq!(all(&bench), least, "never below what it keeps without a wish");
}

#[test]
fn a_wish_waits_as_long_as_was_said_and_hears_of_a_place_that_was_not_there() {
    let mut bench =
        Bench::new(|config| (config.target_outbound, config.acquire_timeout) = (0, Duration::from_secs(20)));
    let want = |number| PeerCommand::Want(Want::Now { peer: id(number), addrs: vec![addr(number)] });
    (100..109).for_each(|number| drop(bench.order(want(number))));
    bench.pass(Duration::from_secs(19));
    assert_eq!(bench.told, [], "it waits");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.told, [PeerEvent::Unmet { peer: id(108), why: Unmet::Busy }]);

    // All places are taken by those who came, and none of them is one of passing need.
    let mut bench = Bench::new(|config| (config.target_outbound, config.max_peers) = (0, 0));
    (20..36).for_each(|number| drop(bench.up(number, false)));
    bench.order(want(100));
    let (link, done) = bench.up(100, true);
    assert_eq!(done, [Outlet::Close { link, reason: CloseReason::TooManyPeers }]);
    let why = Unmet::TurnedAway(CloseReason::TooManyPeers);
    assert_eq!(bench.told.last(), Some(&PeerEvent::Unmet { peer: id(100), why }));
}
