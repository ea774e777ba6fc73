//! The manager alone, on a virtual clock.

mod attack;
mod dialling;
mod eviction;
mod lists;
mod memory;
mod random;
mod restart;
mod why_not;

use peerage_core::{Closed, DialKey, Want};

use super::{
    address::NetGroup,
    book::Place,
    remembering::{LASTING, REMEMBER_AFTER},
    slots::{GUEST_KEEP, GUESTS, TRANSIENT_KEEP},
    *,
};

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn addr(number: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4000 + u16::from(number)))
}

fn known(number: u8) -> KnownPeer {
    KnownPeer { peer: id(number), addrs: vec![addr(number)] }
}

/// A manager, its clock, and what it did.
struct Bench {
    manager: PeerManager,
    now: Now,
    next_link: u64,
    told: Vec<PeerEvent>,
    /// Who may open a stream, as it was told last.
    doors: Doors,
    /// Who was admitted without a seat and has none, and how many seats there are to be.
    guests: BTreeSet<LinkId>,
    seats: usize,
}

impl Bench {
    fn new(change: impl FnOnce(&mut PeerManagerConfig)) -> Self {
        let mut config = PeerManagerConfig { addresses: AddressPolicy::Loopback, ..PeerManagerConfig::new(id(5)) };
        change(&mut config);
        let manager = PeerManager::new(config, &Seed::from_u64(7));
        let now = Now { mono: Timestamp::ZERO, wall: UnixMillis(1_000_000) };
        let (seats, guests) = (manager.config.max_peers, BTreeSet::new());
        Self { manager, now, next_link: 0, told: Vec::new(), doors: Doors::default(), guests, seats }
    }

    /// Lets time pass up to `by` and collects everything done meanwhile.
    fn pass(&mut self, by: Duration) -> Vec<Outlet> {
        let (end, mut done) = (self.now.mono + by, self.drain());
        while let Some(at) = self.manager.next_timeout().filter(|at| *at <= end) {
            self.reach(self.now.mono.max(at));
            self.manager.handle_timeout(self.now);
            done.extend(self.drain());
        }
        self.reach(end);
        done
    }

    /// Both clocks go on.
    fn reach(&mut self, at: Timestamp) {
        self.now = Now { mono: at, wall: self.now.wall + at.since(self.now.mono) };
    }

    /// What the manager did since; what it told goes to `told`, and who has a seat is kept apart from who is admitted.
    fn drain(&mut self) -> Vec<Outlet> {
        let mut outlets = Vec::new();
        while let Some(action) = self.manager.poll_action() {
            match action {
                Action::Link(Outlet::Doors(doors)) => self.doors = doors,
                Action::Link(Outlet::Seats(seats)) => self.seats = seats,
                Action::Link(Outlet::Seat(link)) => assert!(self.guests.remove(&link), "{link:?} is no guest"),
                Action::Link(Outlet::AdmitGuest(link)) => {
                    self.guests.insert(link);
                    outlets.push(Outlet::Admit(link));
                }
                Action::Link(outlet) => outlets.push(outlet),
                Action::Emit(event) => self.told.push(event),
                other => panic!("{other:?}"),
            }
        }
        outlets
    }

    fn up(&mut self, number: u8, outbound: bool) -> (LinkId, Vec<Outlet>) {
        let remote = if outbound { addr(number) } else { SocketAddr::from(([127, 0, 0, 1], 60_000)) };
        self.up_at(number, outbound, remote)
    }

    fn up_with(&mut self, number: u8, outbound: bool, dial_key: Option<DialKey>) -> (LinkId, Vec<Outlet>) {
        let remote = if outbound { addr(number) } else { SocketAddr::from(([127, 0, 0, 1], 60_000)) };
        self.link_up(number, outbound, remote, vec![addr(number)], dial_key)
    }

    /// As `up`, with the address of the other end.
    fn up_at(&mut self, number: u8, outbound: bool, remote: SocketAddr) -> (LinkId, Vec<Outlet>) {
        self.link_up(number, outbound, remote, vec![addr(number)], None)
    }

    /// As `up_at`, with the addresses at which the other end says that it listens.
    fn up_told(
        &mut self,
        number: u8,
        outbound: bool,
        remote: SocketAddr,
        listen: &[SocketAddr],
    ) -> (LinkId, Vec<Outlet>) {
        self.link_up(number, outbound, remote, listen.to_vec(), None)
    }

    fn link_up(
        &mut self,
        number: u8,
        outbound: bool,
        remote: SocketAddr,
        listen: Vec<SocketAddr>,
        dial_key: Option<DialKey>,
    ) -> (LinkId, Vec<Outlet>) {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let info = LinkInfo { peer: id(number), outbound, remote, listen, features: 0, dial_key };
        self.manager.handle_network(self.now, NetworkEvent::LinkUp { link, info });
        (link, self.drain())
    }

    fn order(&mut self, command: PeerCommand) -> Vec<Outlet> {
        self.manager.handle_command(self.now, command);
        self.drain()
    }

    fn down(&mut self, link: LinkId) {
        self.down_as(link, Closed::by_network(CloseReason::StreamEnded));
    }

    fn down_as(&mut self, link: LinkId, closed: Closed) {
        self.manager.handle_network(self.now, NetworkEvent::LinkDown { link, closed });
    }

    fn dial_fails(&mut self, number: u8, reason: CloseReason) {
        let closed = Closed::by_network(reason);
        self.manager.handle_network(
            self.now,
            NetworkEvent::DialFailed { addr: addr(number), expected: Some(id(number)), closed },
        );
    }
}

fn dials(outlets: &[Outlet]) -> Vec<SocketAddr> {
    outlets.iter().filter_map(|o| if let Outlet::Dial { addr, .. } = o { Some(*addr) } else { None }).collect()
}

const TICK: Duration = Duration::from_millis(300);

#[test]
fn a_reserved_peer_is_dialled_at_once_and_again_for_ever_with_growing_patience() {
    let mut bench = Bench::new(|config| config.reserved = vec![known(1)]);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let begin = bench.now.mono;
        while dials(&bench.pass(Duration::from_millis(50))).is_empty() {}
        waits.push(bench.now.mono.since(begin));
        bench.dial_fails(1, CloseReason::DialRefused);
    }
    assert!(waits[0] <= TICK, "the first dial does not wait: {waits:?}");
    assert!(waits[1] < waits[5], "patience grows: {waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(8)), "5 s and jitter at most: {waits:?}");
}

#[test]
fn candidates_are_dialled_only_up_to_the_target() {
    let mut bench = Bench::new(|config| config.target_outbound = 3);
    for number in 10..20 {
        let want = Want::Candidate { peer: id(number), addrs: vec![addr(number)], source: None };
        bench.manager.handle_command(bench.now, PeerCommand::Want(want));
    }
    assert_eq!(dials(&bench.pass(TICK)).len(), 3);
    assert_eq!(dials(&bench.pass(TICK)).len(), 0, "three are under way");
}

#[test]
fn addresses_from_the_network_obey_the_policy_but_configured_ones_do_not_ask() {
    let inside: SocketAddr = "10.0.0.1:4000".parse().expect("an address");
    let mut bench = Bench::new(|config| config.reserved = vec![KnownPeer { peer: id(1), addrs: vec![inside] }]);
    let want = Want::Now { peer: id(2), addrs: vec!["10.0.0.2:4000".parse().expect("an address")] };
    bench.manager.handle_command(bench.now, PeerCommand::Want(want));
    assert_eq!(dials(&bench.pass(TICK)), [inside]);
}

#[test]
fn when_both_sides_dial_both_keep_the_connection_that_the_lower_identity_opened() {
    // We are 5. Peer 9 is higher, so our own dial stays; peer 2 is lower, so its dial stays.
    let mut bench = Bench::new(|_| ());
    let (ours, done) = bench.up(9, true);
    assert_eq!(done, [Outlet::Admit(ours)]);
    let (theirs, done) = bench.up(9, false);
    assert_eq!(done, [Outlet::Close { link: theirs, reason: CloseReason::Duplicate }]);

    let (ours, _) = bench.up(2, true);
    let (theirs, done) = bench.up(2, false);
    let replaced = Outlet::Close { link: ours, reason: CloseReason::Duplicate };
    assert_eq!(done, [replaced, Outlet::Admit(theirs)], "first the old goes, then the new counts");
    // The old one's end, told later, does not touch the new one.
    bench.down(ours);
    assert!(bench.manager.peer(&id(2)).is_some());
}

#[test]
fn a_peer_that_comes_back_replaces_its_stale_connection() {
    let mut bench = Bench::new(|_| ());
    let (stale, _) = bench.up(1, false);
    let (fresh, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Close { link: stale, reason: CloseReason::Duplicate }, Outlet::Admit(fresh)]);
}

#[test]
fn a_full_node_makes_room_for_whoever_comes_and_never_at_the_cost_of_a_reserved_peer() {
    let mut bench = Bench::new(|config| {
        (config.max_peers, config.target_outbound) = (2, 0);
        config.reserved = vec![known(1)];
    });
    let (_, done) = bench.up(1, false);
    assert!(matches!(done[..], [Outlet::Admit(_)]));
    let room = 2 + GUESTS as u8;
    (10..10 + room).for_each(|number| drop(bench.up(number, false)));
    assert_eq!(bench.manager.peers().count(), 1 + 2 + GUESTS);
    for number in 100..200 {
        let (late, done) = bench.up(number, false);
        let [Outlet::Close { reason, .. }, Outlet::Admit(admitted)] = done[..] else { panic!("{done:?}") };
        assert_eq!((reason, admitted), (CloseReason::TooManyPeers, late));
    }
    assert!(bench.manager.peer(&id(1)).is_some(), "the operator's choice is still there");
    assert_eq!(bench.manager.peers().count(), 1 + 2 + GUESTS, "and there are no more than before");
    assert_eq!(bench.told.iter().filter(|event| matches!(event, PeerEvent::Evicted { .. })).count(), 100, "all told");
}

#[test]
fn a_full_node_lets_newcomers_ask_for_others_before_it_turns_them_away() {
    let mut bench = Bench::new(|config| (config.max_peers, config.target_outbound) = (2, 0));
    let stays: Vec<_> = [10, 11].into_iter().map(|number| bench.up(number, false).0).collect();
    let (guest, done) = bench.up(12, false);
    assert_eq!(done, [Outlet::Admit(guest)]);
    assert_eq!(bench.pass(GUEST_KEEP - TICK), []);
    let done = bench.pass(2 * TICK);
    let dismissed = Outlet::Close { link: guest, reason: CloseReason::TooManyPeers };
    assert_eq!(done, [dismissed], "the last to come, since nothing else tells them apart");

    let (guest, _) = bench.up(13, false);
    bench.down(stays[0]);
    let done = bench.pass(2 * GUEST_KEEP);
    assert!(!done.iter().any(|outlet| matches!(outlet, Outlet::Close { .. })), "a place is free: {done:?}");
    assert!(bench.manager.peer(&id(13)).is_some_and(|peer| peer.link == guest));
}

#[test]
fn whoever_fills_all_inbound_places_cannot_take_those_of_our_own_choice() {
    let mut bench = Bench::new(|config| (config.max_peers, config.target_outbound) = (10, 4));
    let admits = |done: &[Outlet]| done.iter().any(|outlet| matches!(outlet, Outlet::Admit(_)));
    let admitted = (20..80).filter(|number| admits(&bench.up(*number, false).1)).count();
    assert_eq!((admitted, bench.manager.peers().count()), (60, 6 + GUESTS), "each makes room for the next");
    for number in 10..14 {
        let (link, done) = bench.up(number, true);
        assert_eq!(done, [Outlet::Admit(link)]);
    }
    bench.pass(GUEST_KEEP + TICK);
    assert_eq!(bench.manager.peers().count(), 10);
    assert_eq!(bench.manager.peers().filter(|peer| peer.info.outbound).count(), 4);
}

#[test]
fn whom_we_reached_comes_before_whoever_only_came_to_us() {
    let mut bench = Bench::new(|config| config.target_outbound = 1);
    let (reached, _) = bench.up(3, true);
    bench.now.wall = bench.now.wall + Duration::from_secs(1000);
    for number in 20..30 {
        let (link, _) = bench.up(number, false);
        bench.down(link);
    }
    bench.down(reached);
    assert_eq!(dials(&bench.pass(Duration::from_millis(1500)))[..1], [addr(3)], "though the others were here later");
}

#[test]
fn whoever_was_here_is_dialled_by_the_key_that_it_had() {
    let mut bench = Bench::new(|_| ());
    let keys_of_dials = |bench: &mut Bench| -> Vec<_> {
        let keys = bench.pass(Duration::from_secs(100)).into_iter().filter_map(|outlet| match outlet {
            Outlet::Dial { dial_key, .. } => Some(dial_key),
            _ => None,
        });
        keys.take(1).collect()
    };
    let want = Want::Candidate { peer: id(3), addrs: vec![addr(3)], source: None };
    bench.manager.handle_command(bench.now, PeerCommand::Want(want));
    assert_eq!(keys_of_dials(&mut bench), [None], "a stranger");
    let [first, second] = [1, 2].map(|byte| Some(DialKey([byte; 32])));
    for (outbound, key) in [(true, first), (false, second)] {
        bench.dial_fails(3, CloseReason::DialRefused);
        let (link, _) = bench.up_with(3, outbound, key);
        bench.down(link);
        assert_eq!(keys_of_dials(&mut bench), [key], "whoever opened the connection; a new key replaces the old one");
        bench.dial_fails(3, CloseReason::DialRefused);
        assert_eq!(keys_of_dials(&mut bench), [key], "a dial that fails proves nothing about it");
        bench.dial_fails(3, CloseReason::BadHandshake);
        assert_eq!(keys_of_dials(&mut bench), [key]);
    }
    bench.dial_fails(3, CloseReason::WrongSuite);
    assert_eq!(keys_of_dials(&mut bench), [None], "it does without");
    let third = Some(DialKey([3; 32]));
    for (key, dialled_by) in [(second, None), (third, third)] {
        let (link, _) = bench.up_with(3, true, key);
        bench.down(link);
        assert_eq!(keys_of_dials(&mut bench), [dialled_by], "and until it proves another key");
    }
}

#[test]
fn whoever_accepts_and_hangs_up_is_dialled_less_and_less() {
    let mut bench = Bench::new(|_| ());
    let want = Want::Candidate { peer: id(3), addrs: vec![addr(3)], source: None };
    bench.manager.handle_command(bench.now, PeerCommand::Want(want));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let begin = bench.now.mono;
        while dials(&bench.pass(Duration::from_millis(50))).is_empty() {}
        waits.push(bench.now.mono.since(begin));
        let (link, _) = bench.up(3, true);
        bench.down(link);
    }
    assert!(waits[7] > 20 * waits[1], "{waits:?}");
}

#[test]
fn a_bad_neighbourhood_does_not_cut_off_an_honest_node_that_we_know() {
    let mut bench = Bench::new(|config| config.addresses = AddressPolicy::Public);
    let (reached, _) = bench.up(9, true);
    bench.pass(LASTING);
    for number in 20..28 {
        let (link, _) = bench.up(number, false);
        bench.down(link);
        let report = PeerCommand::Report { peer: id(number), fault: Fault::InvalidBlock };
        bench.manager.handle_command(bench.now, report);
    }
    bench.drain();
    assert!(bench.manager.peer(&id(9)).is_some(), "nobody is disconnected for its neighbours");
    bench.down(reached);
    let (stranger, done) = bench.up(30, false);
    assert_eq!(done, [Outlet::Close { link: stranger, reason: CloseReason::Banned }]);
    let (known, done) = bench.up(9, false);
    assert_eq!(done, [Outlet::Admit(known)]);
}

#[test]
fn who_was_good_is_remembered_and_comes_first_after_a_restart() {
    let mut bench = Bench::new(|_| ());
    bench.up(3, false);
    bench.now.mono = bench.now.mono + REMEMBER_AFTER;
    bench.manager.handle_timeout(bench.now);
    let told = core::iter::from_fn(|| bench.manager.poll_action());
    let told: Vec<_> =
        told.filter_map(|action| if let Action::Emit(event) = action { Some(event) } else { None }).collect();
    let (heard, stands_by) = (UnixMillis(1_000_000), Some(addr(3)));
    let source = Some([127, 0, 0, 1].into());
    let line = BookLine { tried: false, source, heard, stands_by, ..BookLine::good_once(known(3)) };
    assert_eq!(told, [PeerEvent::Remember(vec![line])], "an inbound peer counts with the address it listens on");

    let mut restarted = Bench::new(|config| {
        config.remembered = vec![BookLine::good_once(known(3))];
        config.target_outbound = 1;
    });
    let want = Want::Candidate { peer: id(8), addrs: vec![addr(8)], source: None };
    restarted.manager.handle_command(restarted.now, PeerCommand::Want(want));
    assert_eq!(dials(&restarted.pass(TICK)), [addr(3)]);
}

#[test]
fn faults_add_up_until_the_peer_is_sent_away_and_stays_away_over_a_restart() {
    let mut bench = Bench::new(|_| ());
    let (link, _) = bench.up(1, false);
    let complain = || PeerCommand::Report { peer: id(1), fault: Fault::InvalidTransaction };
    let told = PeerEvent::Fault { peer: id(1), fault: Fault::InvalidTransaction };
    for _ in 0..4 {
        bench.manager.handle_command(bench.now, complain());
        let actions: Vec<_> = core::iter::from_fn(|| bench.manager.poll_action()).collect();
        assert!(matches!(&actions[..], [Action::Emit(event)] if *event == told), "{actions:?}");
    }
    assert_eq!(bench.manager.points(bench.now, id(1)), 80);
    bench.manager.handle_command(bench.now, complain());
    let actions: Vec<_> = core::iter::from_fn(|| bench.manager.poll_action()).collect();
    let [
        Action::Emit(fault),
        Action::Emit(PeerEvent::Banned { by_hand: false, .. }),
        Action::Link(Outlet::Close { link: closed, reason }),
        Action::Emit(PeerEvent::Bans(bans)),
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!((fault, *closed, *reason), (&told, link, CloseReason::Banned));

    let (again, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Close { link: again, reason: CloseReason::Banned }]);
    let mut restarted = Bench::new(|config| config.bans = bans.clone());
    let (again, done) = restarted.up(1, false);
    assert_eq!(done, [Outlet::Close { link: again, reason: CloseReason::Banned }]);
    let want = Want::Now { peer: id(1), addrs: vec![addr(1)] };
    restarted.manager.handle_command(restarted.now, PeerCommand::Want(want));
    assert_eq!(dials(&restarted.pass(TICK)), [], "nor is it dialled");

    restarted.now.wall = restarted.now.wall + Duration::from_secs(3600);
    let (later, done) = restarted.up(1, false);
    assert_eq!(done, [Outlet::Admit(later)], "a ban expires");
}

#[test]
fn hanging_up_before_the_verdict_is_no_way_out() {
    let mut bench = Bench::new(|config| config.addresses = AddressPolicy::Public);
    for _ in 0..7 {
        let (link, _) = bench.up(1, false);
        bench.down(link);
        // The verdict comes when it is gone already.
        bench.manager.handle_command(bench.now, PeerCommand::Report { peer: id(1), fault: Fault::InvalidBlock });
        bench.now.wall = bench.now.wall + Duration::from_secs(48 * 3600);
    }
    bench.manager.handle_command(bench.now, PeerCommand::Report { peer: id(1), fault: Fault::InvalidBlock });
    let (again, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Close { link: again, reason: CloseReason::Banned }]);
    let (neighbour, done) = bench.up(2, false);
    assert_eq!(done, [Outlet::Close { link: neighbour, reason: CloseReason::Banned }], "its addresses answer for it");
}

#[test]
fn a_reserved_peer_that_misbehaves_is_disconnected_but_never_banned() {
    let mut bench = Bench::new(|config| config.reserved = vec![known(1)]);
    let (link, _) = bench.up(1, false);
    bench.manager.handle_command(bench.now, PeerCommand::Report { peer: id(1), fault: Fault::InvalidBlock });
    assert_eq!(bench.drain(), [Outlet::Close { link, reason: CloseReason::Misbehaviour }]);
    let (again, done) = bench.up(1, false);
    assert_eq!(done, [Outlet::Admit(again)]);
}

#[test]
fn whoever_was_wanted_only_for_a_moment_goes_when_there_are_enough_others() {
    let mut bench = Bench::new(|config| config.target_outbound = 1);
    bench.up(1, true);
    let want = Want::Now { peer: id(2), addrs: vec![addr(2)] };
    bench.manager.handle_command(bench.now, PeerCommand::Want(want));
    assert_eq!(dials(&bench.drain()), [addr(2)]);
    let (passing, _) = bench.up(2, true);
    let done = bench.pass(TRANSIENT_KEEP + TICK);
    assert!(done.contains(&Outlet::Close { link: passing, reason: CloseReason::Surplus }), "{done:?}");
    assert!(bench.manager.peer(&id(1)).is_some());
}

#[test]
fn nobody_is_dialled_twice_at_once_and_a_wrong_answer_forgets_the_address() {
    let mut bench = Bench::new(|_| ());
    let want = || PeerCommand::Want(Want::Now { peer: id(2), addrs: vec![addr(2)] });
    bench.manager.handle_command(bench.now, want());
    bench.manager.handle_command(bench.now, want());
    assert_eq!(dials(&bench.drain()), [addr(2)]);
    bench.dial_fails(2, CloseReason::WrongPeer);
    assert_eq!(dials(&bench.pass(Duration::from_secs(120))), [], "no address is left to dial");
}

#[test]
fn whoever_turns_us_away_after_the_handshake_is_asked_less_and_less_often() {
    for reason in [CloseReason::TooManyPeers, CloseReason::Banned] {
        let mut bench = Bench::new(|config| {
            config.remembered = vec![BookLine::good_once(known(1))];
            config.reserved = vec![known(2)];
        });
        let mut attempts = [0, 0];
        for _ in 0..600 * 4 {
            for addr_of in dials(&bench.pass(Duration::from_millis(250))) {
                let number = if addr_of == addr(1) { 1 } else { 2 };
                attempts[usize::from(number) - 1] += 1;
                let (link, _) = bench.up(number, true);
                bench.down_as(link, Closed::by_them(reason));
            }
        }
        // Ten minutes at 60 s and at 5 s at most, half as long with the luckiest dice, and the first few.
        assert!((5..30).contains(&attempts[0]) && (60..250).contains(&attempts[1]), "{reason}: {attempts:?}");
        // A connection that lasts ends the suspicion.
        let mut next = Vec::new();
        while next.is_empty() {
            next = dials(&bench.pass(TICK)).into_iter().filter(|to| *to == addr(1)).collect();
        }
        let (link, _) = bench.up(1, true);
        bench.pass(LASTING);
        bench.down(link);
        let soon: Vec<_> = (0..4).flat_map(|_| dials(&bench.pass(TICK))).filter(|to| *to == addr(1)).collect();
        assert_eq!(soon.len(), 1, "{reason}");
    }
}
