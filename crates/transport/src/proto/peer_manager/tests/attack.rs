//! What one host, or one group of addresses, can get for itself: nothing beyond its share.

use super::*;

fn pub_addr(a: u8, b: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([a, b, 1, 1], port))
}

/// The `n`-th identity.
fn pid(n: u32) -> NodeId {
    let mut bytes = [0xAA; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(bytes)
}

impl Bench {
    fn raw_up(
        &mut self,
        peer: NodeId,
        outbound: bool,
        remote: SocketAddr,
        listen: Vec<SocketAddr>,
    ) -> (LinkId, Vec<Outlet>) {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let info = LinkInfo { peer, outbound, remote, listen, features: 0, dial_key: None };
        self.manager.handle_network(self.now, NetworkEvent::LinkUp { link, info });
        (link, self.drain())
    }
    fn now_want(&mut self, peer: NodeId, at: SocketAddr) -> Vec<Outlet> {
        self.order(PeerCommand::Want(Want::Now { peer, addrs: vec![at] }))
    }
}

/// A peer in the `b`-th of the honest groups that was good before.
fn good(n: u32, b: u8) -> BookLine {
    BookLine::good_once(KnownPeer { peer: pid(n), addrs: vec![pub_addr(30, b, 4000)] })
}

#[test]
fn a_host_whose_identities_lookups_want_gets_no_place_among_those_to_keep() {
    // 100 honest peers in as many /16, all in tried.
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = (0..100).map(|n| good(n, n as u8)).collect();
    });
    let first = dials(&bench.pass(TICK));
    assert_eq!(first.len(), 8);
    let mut honest = Vec::new();
    for at in first {
        let SocketAddr::V4(v4) = at else { panic!("{at}") };
        let n = u32::from(v4.ip().octets()[1]);
        honest.push(bench.raw_up(pid(n), true, at, vec![]).0);
    }
    bench.pass(Duration::from_secs(120));
    // The attacker: one host. A lookup wants one of its identities every while; an honest peer leaves every hour.
    let mut kept_dials = Vec::new();
    for (turn, link) in honest.into_iter().enumerate() {
        let (who, at) = (pid(1000 + turn as u32), pub_addr(66, 66, 5000 + turn as u16));
        assert_eq!(dials(&bench.now_want(who, at)), [at]);
        bench.raw_up(who, true, at, vec![]);
        bench.down(link); // within 10 s of it
        kept_dials.extend(dials(&bench.pass(Duration::from_secs(30))));
    }
    let outbound: Vec<_> = bench.manager.peers().filter(|p| p.info.outbound).map(|p| p.info.remote.ip()).collect();
    println!("outbound: {outbound:?}; dials to keep meanwhile: {kept_dials:?}");
    let later = dials(&bench.pass(Duration::from_secs(6 * 3600)));
    let to_keep: Vec<_> = later.iter().collect();
    println!("dials in six hours: {} {:?}", to_keep.len(), &to_keep[..to_keep.len().min(5)]);
    let outbound: Vec<_> = bench.manager.peers().filter(|p| p.info.outbound).map(|p| p.info.remote.ip()).collect();
    assert!(outbound.iter().filter(|ip| **ip == pub_addr(66, 66, 1).ip()).count() <= 1, "one /16 has {outbound:?}");
}

#[test]
fn however_many_lookups_are_led_into_nothing_the_operators_choice_and_the_book_are_dialled() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = (0..100).map(|n| good(n, n as u8)).collect();
        c.reserved = vec![KnownPeer { peer: pid(5000), addrs: vec![pub_addr(40, 1, 4000)] }];
    });
    for n in 0..16u32 {
        bench.now_want(pid(1000 + n), pub_addr(66, 66, 5000 + n as u16));
    }
    let done = dials(&bench.pass(Duration::from_secs(3)));
    println!("dials while sixteen lookups' dials hang: {done:?}");
    assert!(!done.is_empty(), "neither the reserved peer nor anybody of the book is dialled");
}

#[test]
fn dials_that_somebody_wants_do_not_count_as_places_being_filled() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = (0..100).map(|n| good(n, n as u8)).collect();
    });
    for n in 0..8u32 {
        bench.now_want(pid(1000 + n), pub_addr(66, 66, 5000 + n as u16));
    }
    let done = dials(&bench.pass(Duration::from_secs(3)));
    assert!(!done.is_empty(), "nobody of the book is dialled while eight lookups' dials hang");
}

#[test]
fn what_we_end_ourselves_is_no_failure_of_the_peer() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.target_outbound = 1;
    });
    bench.raw_up(pid(1), true, pub_addr(31, 1, 4000), vec![]);
    let at = pub_addr(30, 7, 4000);
    for _ in 0..3 {
        assert_eq!(dials(&bench.now_want(pid(7), at)), [at]);
        let (_, done) = bench.raw_up(pid(7), true, at, vec![pub_addr(30, 8, 4000)]);
        assert!(matches!(done[..], [Outlet::Admit(_)]));
        bench.pass(Duration::from_secs(30)); // we end it as surplus
        assert!(bench.manager.peer(&pid(7)).is_none());
    }
    let entry = bench.manager.book.get(&pid(7)).expect("it is known");
    println!("failures {} addrs {:?} next {:?}", entry.failures, entry.addrs, entry.next_addr(|_| true));
    assert_eq!((entry.failures, entry.next_addr(|_| true)), (0, Some(at)));
}

#[test]
fn a_refusal_in_clear_deletes_no_address() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = (0..8).map(|n| good(n, n as u8)).collect();
    });
    for at in dials(&bench.pass(TICK)) {
        let closed = Closed::by_them(CloseReason::WrongPeer); // REFUSE wrong_peer by whoever is on the path
        bench.manager.handle_network(bench.now, NetworkEvent::DialFailed { addr: at, expected: None, closed });
    }
    let later = dials(&bench.pass(Duration::from_secs(24 * 3600)));
    assert!(!later.is_empty(), "one forged word for each, and nobody of the book is dialled any more");
}

#[test]
fn anchors_are_written_however_many_were_reached_since() {
    let mut bench = Bench::new(|c| c.addresses = AddressPolicy::Public);
    for n in 0..2u32 {
        bench.raw_up(pid(n), true, pub_addr(31, n as u8, 4000), vec![]);
    }
    bench.pass(Duration::from_secs(3600));
    // Feelers and lookups reach many others since.
    let wall = bench.now.wall;
    for n in 0..6000u32 {
        let at = pub_addr(40 + (n % 40) as u8, (n / 40) as u8, 4000);
        bench.manager.book.hear(wall, pid(10_000 + n), [at], Some(at.ip()));
        bench.manager.book.reached(wall, pid(10_000 + n), at);
    }
    bench.raw_up(pid(99), false, pub_addr(33, 1, 50000), vec![]);
    bench.pass(Duration::from_secs(70));
    let lines = bench
        .told
        .iter()
        .rev()
        .find_map(|e| if let PeerEvent::Remember(l) = e { Some(l) } else { None })
        .expect("it was told");
    let anchors = lines.iter().filter(|l| l.anchor).count();
    println!("lines {}, anchors {anchors}, sizes {:?}", lines.len(), bench.manager.book_sizes());
    assert_eq!(anchors, 2);
}

#[test]
fn an_anchor_with_old_failures_is_still_first() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = vec![good(1, 1)];
    });
    let at = pub_addr(30, 1, 4000);
    // It was not there for a while, then for days.
    for _ in 0..3 {
        while dials(&bench.pass(Duration::from_millis(250))).is_empty() {}
        let closed = Closed::by_network(CloseReason::DialRefused);
        bench.manager.handle_network(bench.now, NetworkEvent::DialFailed { addr: at, expected: Some(pid(1)), closed });
    }
    while dials(&bench.pass(Duration::from_millis(250))).is_empty() {}
    bench.raw_up(pid(1), true, at, vec![]);
    bench.pass(Duration::from_secs(86_400));
    bench.raw_up(pid(99), false, pub_addr(33, 1, 50000), vec![]);
    bench.pass(Duration::from_secs(70));
    let lines = bench
        .told
        .iter()
        .rev()
        .find_map(|e| if let PeerEvent::Remember(l) = e { Some(l.clone()) } else { None })
        .expect("it was told");
    println!("{lines:?}");
    let mut again = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.target_outbound = 1;
        c.remembered = lines;
    });
    let hearsay = pub_addr(66, 66, 5000);
    again.order(PeerCommand::Want(Want::Candidate { peer: pid(1000), addrs: vec![hearsay], source: None }));
    assert_eq!(dials(&again.pass(TICK)), [at], "the anchor first");
}

#[test]
fn one_group_fills_a_sixteenth_of_the_book_by_whatever_way() {
    let mut bench = Bench::new(|c| c.addresses = AddressPolicy::Public);
    let teller = pub_addr(66, 66, 50_000);
    bench.raw_up(pid(1), false, teller, vec![]);
    for n in 0..60_000u32 {
        let at = pub_addr(11 + (n % 200) as u8, ((n / 200) % 250) as u8, 4000);
        bench.manager.want(bench.now, Want::Candidate { peer: pid(10_000 + n), addrs: vec![at], source: Some(pid(1)) });
        bench.manager.want(bench.now, Want::Now { peer: pid(10_000 + n), addrs: vec![at] });
        while bench.manager.poll_action().is_some() {}
        bench.manager.dials.clear();
        bench.manager.waiting.clear();
    }
    let (new, _) = bench.manager.book_sizes();
    assert!(new <= 256, "{new} of 4096");
}

#[test]
fn many_identities_of_a_group_are_drawn_no_more_often_than_one() {
    // 40 honest peers of 40 groups; the attacker has 8 hosts in 8 groups with many identities each.
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = (0..40).map(|n| good(n, n as u8)).collect();
    });
    let wall = bench.now.wall;
    for n in 0..2000u32 {
        let at = pub_addr(66, (n % 8) as u8, 5000 + (n / 8) as u16);
        bench.manager.book.hear(wall, pid(10_000 + n), [at], Some(at.ip()));
        bench.manager.book.reached(wall, pid(10_000 + n), at);
    }
    let per_group = |tried: bool| {
        bench
            .manager
            .book
            .iter()
            .filter(|(_, e)| {
                (if tried { matches!(e.place, Place::Tried(_)) } else { e.is_tried() })
                    && e.addrs[0].ip().to_string().starts_with("66.")
            })
            .count()
    };
    println!("attacker's entries in tried: {}, that count as tried: {}", per_group(true), per_group(false));
    let first = dials(&bench.pass(TICK));
    let bad = first.iter().filter(|a| a.ip().to_string().starts_with("66.")).count();
    println!("{bad} of {} first dials", first.len());
    assert!(bad <= 4, "{bad} of the eight go to 8 of 48 groups");
}

#[test]
fn whoever_answers_lookups_from_one_host_takes_no_trials_from_others() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.target_outbound = 1;
    });
    bench.raw_up(pid(1), true, pub_addr(31, 1, 4000), vec![]);
    for n in 0..30u32 {
        let at = pub_addr(32, n as u8, 4000);
        bench.order(PeerCommand::Want(Want::Candidate { peer: pid(100 + n), addrs: vec![at], source: None }));
    }
    // The attacker: one host. Its identities are wanted by lookups and answer.
    let mut next = 0u32;
    let mut honest = 0;
    let mut own = 0;
    for _ in 0..24 * 60 {
        for _ in 0..6 {
            let (who, at) = (pid(10_000 + next), pub_addr(66, 66, 5000 + (next % 50_000) as u16));
            next += 1;
            if dials(&bench.now_want(who, at)) == [at] {
                bench.raw_up(who, true, at, vec![]);
            }
        }
        for at in dials(&bench.pass(Duration::from_secs(60))) {
            let bad = at.ip().to_string().starts_with("66.");
            if bad {
                own += 1;
            } else {
                honest += 1;
            }
            let peer = bench.manager.dials.get(&at).map(|d| d.peer).expect("it was begun");
            bench.raw_up(peer, true, at, vec![]);
        }
    }
    println!("a day: {honest} feelers to honest hearsay, {own} to the attacker's own");
    assert!(honest >= 30, "{honest} of 30 honest hearsay were tried out in a day; the attacker's own {own} times");
}

#[test]
fn whoever_has_hosts_all_over_the_world_for_an_hour_keeps_no_places_there() {
    let mut bench = Bench::new(|c| c.addresses = AddressPolicy::Public);
    let wall = UnixMillis(1_000_000_000);
    let book = &mut bench.manager.book;
    for n in 0..20_000u32 {
        let at = pub_addr(40 + (n % 64) as u8, (n / 64 % 250) as u8, 4000); // rented for an hour
        book.hear(wall, pid(n), [at], Some(at.ip()));
        book.reached(wall, pid(n), at);
        let home = pub_addr(66, 66, 1024 + (n % 60_000) as u16); // then all at home
        book.reached(wall, pid(n), home);
    }
    let home = book
        .iter()
        .filter(|(_, e)| matches!(e.place, Place::Tried(_)) && e.addrs[0].ip() == pub_addr(66, 66, 1).ip())
        .count();
    assert!(home <= 32, "one address has {home} of 1024 places in tried");
}

#[test]
fn whoever_was_wanted_by_a_lookup_is_not_exempt_from_the_ban_of_its_group() {
    let mut bench = Bench::new(|c| c.addresses = AddressPolicy::Public);
    for n in 0..200u32 {
        let at = pub_addr(66, 66, 5000 + n as u16);
        bench.now_want(pid(n), at);
        let (link, _) = bench.raw_up(pid(n), true, at, vec![]);
        bench.down(link);
        bench.manager.dials.clear();
    }
    bench.order(PeerCommand::Ban {
        subject: Subject::Group(Group::of(pub_addr(66, 66, 1).ip())),
        lasting: Duration::from_secs(3600),
    });
    let mut let_in = 0;
    for n in 0..200u32 {
        let (_, done) = bench.raw_up(pid(n), false, pub_addr(66, 66, 50_000), vec![]);
        let_in += usize::from(done.iter().any(|o| matches!(o, Outlet::Admit(_))));
    }
    bench.pass(Duration::from_secs(100));
    let dialled = dials(&bench.now_want(pid(999), pub_addr(66, 66, 4999))).len();
    assert_eq!((let_in, dialled), (0, 0), "of a banned group");
}

#[test]
fn a_source_that_names_many_who_are_not_there_has_few_of_them_dialled_and_takes_nothing_from_others() {
    let mut bench = Bench::new(|c| {
        c.addresses = AddressPolicy::Public;
        c.remembered = (0..4).map(|n| good(n, n as u8)).collect(); // not enough, so that hearsay is dialled to be kept
    });
    for (n, teller) in [(1, pub_addr(66, 66, 50_000)), (2, pub_addr(31, 1, 50_000))] {
        bench.raw_up(pid(n), false, teller, vec![]);
    }
    let (mut hostile, mut honest) = (0, 0);
    let minutes = 10;
    for second in 0..60 * minutes {
        // In answer after answer the attacker names hosts of strangers, all over the world, at which nobody answers.
        for n in 0..16u32 {
            let n = 16 * second + n;
            let (peer, at) = (pid(10_000 + n), pub_addr(70 + (n % 100) as u8, (n / 100 % 250) as u8, 4000));
            let (addrs, source) = (vec![at], Some(pid(1)));
            bench.order(PeerCommand::Want(Want::Candidate { peer, addrs, source }));
            let begun = bench.now_want(peer, at);
            hostile += refuse(&mut bench, &dials(&begun));
        }
        let begun = dials(&bench.pass(Duration::from_secs(1)));
        hostile += refuse(&mut bench, &begun);
        if second % 10 == 0 {
            let (peer, at) = (pid(1_000_000 + second), pub_addr(32, (second / 10) as u8, 4000));
            let (addrs, source) = (vec![at], Some(pid(2)));
            bench.order(PeerCommand::Want(Want::Candidate { peer, addrs, source }));
            honest += usize::from(dials(&bench.now_want(peer, at)) == [at]);
            bench.raw_up(peer, true, at, vec![]);
        }
    }
    println!("dials to whom the attacker named: {hostile} of {}; to whom another did: {honest}", 960 * minutes);
    assert!(hostile <= 32 + 60 * minutes as usize, "{hostile}: 32 at once and one a second");
    assert_eq!(honest, 6 * minutes as usize, "the other's were all there, and all were dialled");
    let why = bench.told.iter().any(|told| matches!(told, PeerEvent::Unmet { why: Unmet::Rationed, .. }));
    assert!(why, "a lookup hears why");
}

/// Nobody answers at any of these, which are the attacker's; how many that are.
fn refuse(bench: &mut Bench, begun: &[SocketAddr]) -> usize {
    let closed = Closed::by_network(CloseReason::DialRefused);
    for addr in begun {
        bench.manager.handle_network(bench.now, NetworkEvent::DialFailed { addr: *addr, expected: None, closed });
    }
    bench.drain();
    begun
        .iter()
        .filter(|addr| addr.ip().to_string().as_str() >= "70." || addr.ip().to_string().starts_with('1'))
        .count()
}

#[test]
fn whom_the_operator_named_is_dialled_before_the_next_wish_for_somebody_else_at_its_address() {
    let home = pub_addr(40, 1, 4000);
    let mut bench = Bench::new(|c| c.addresses = AddressPolicy::Public);
    assert_eq!(dials(&bench.now_want(pid(1000), home)), [home]);
    bench.order(PeerCommand::Reserve(KnownPeer { peer: pid(1), addrs: vec![home] }));
    assert_eq!(dials(&bench.pass(Duration::from_secs(1))), [], "somebody else is being dialled there");
    let closed = Closed::by_us(CloseReason::WrongPeer);
    bench.manager.handle_network(bench.now, NetworkEvent::DialFailed { addr: home, expected: None, closed });
    assert_eq!(dials(&bench.now_want(pid(1001), home)), [], "first whom the operator named");
    assert_eq!(dials(&bench.pass(Duration::from_millis(250))), [home]);
    assert_eq!(bench.manager.dials[&home].peer, pid(1));
}

#[test]
fn whom_a_source_without_tokens_named_first_is_dialled_when_another_tells_of_it() {
    let mut bench = Bench::new(|c| c.addresses = AddressPolicy::Public);
    for (n, teller) in [(1, pub_addr(66, 66, 50_000)), (2, pub_addr(31, 1, 50_000))] {
        bench.raw_up(pid(n), false, teller, vec![]);
    }
    let told_by = |n, peer, at| PeerCommand::Want(Want::Candidate { peer, addrs: vec![at], source: Some(pid(n)) });
    // The attacker names an honest node first, at its true address, and then very many who are not there.
    let (honest, home) = (pid(1_000_000), pub_addr(32, 1, 4000));
    bench.order(told_by(1, honest, home));
    for n in 0..100u32 {
        let (peer, at) = (pid(10_000 + n), pub_addr(70 + n as u8, 1, 4000));
        bench.order(told_by(1, peer, at));
        let begun = dials(&bench.now_want(peer, at));
        refuse(&mut bench, &begun);
    }
    assert_eq!(dials(&bench.now_want(honest, home)), [], "there are no tokens left");
    assert!(bench.told.contains(&PeerEvent::Unmet { peer: honest, why: Unmet::Rationed }));
    bench.order(told_by(1, honest, home));
    assert_eq!(dials(&bench.now_want(honest, home)), [], "nor by telling again");
    bench.order(told_by(2, honest, home));
    assert_eq!(dials(&bench.now_want(honest, home)), [home]);
}
