//! Whatever happens in whatever order: limits hold, nobody reserved is evicted, the book is in order.

use rand_core::Rng;

use super::*;

const MAX_PEERS: usize = 12;
const TARGET: usize = 4;
const PER_GROUP: usize = 2;
/// Whom the operator names and forgets again in some of the stories.
const FAVOURITES: [u8; 3] = [3, 4, 6];
/// Reserved and trusted.
const PRIVILEGED: [u8; 2] = [1, 2];

/// Reads what the manager did, as the world does: whom it closed, whom it dials.
fn look(
    bench: &mut Bench,
    live: &mut BTreeMap<LinkId, u8>,
    done: Vec<Outlet>,
    dialling: &mut Vec<(u8, SocketAddr, Timestamp)>,
    asked: bool,
    moody: bool,
) {
    for outlet in done {
        match outlet {
            Outlet::Dial { addr, expected, .. } => {
                let number = expected.expect("the manager knows whom it dials").as_bytes()[0];
                assert!(dialling.iter().all(|(_, other, _)| *other != addr), "{addr} twice at once");
                dialling.push((number, addr, bench.now.mono));
            }
            Outlet::Admit(link) => assert!(live.contains_key(&link), "{link:?} is not up"),
            Outlet::Shed { .. } | Outlet::Stop(_) | Outlet::Resume(_) => panic!("there is memory: {outlet:?}"),
            Outlet::Close { link, reason } => {
                let number = live.remove(&link).expect("only what is up is closed");
                let evicted = [CloseReason::TooManyPeers, CloseReason::Surplus, CloseReason::Banned].contains(&reason);
                assert!(asked || !evicted || !PRIVILEGED.contains(&number), "{number} has a privilege: {reason}");
            }
            Outlet::Doors(_) | Outlet::AdmitGuest(_) | Outlet::Seat(_) | Outlet::Seats(_) => {
                unreachable!("the bench keeps them apart")
            }
        }
    }
    let ordinary = bench.manager.peers().filter(|peer| !bench.manager.is_privileged(&peer.info.peer));
    let (inbound, outbound): (Vec<_>, Vec<_>) = ordinary.partition(|peer| !peer.info.outbound);
    // Who has just lost a privilege may be too many for a moment.
    let grace = if moody { FAVOURITES.len() } else { 0 };
    assert!(inbound.len() <= MAX_PEERS - TARGET + GUESTS + grace, "{} inbound", inbound.len());
    assert!(inbound.len() + outbound.len() <= MAX_PEERS + GUESTS + grace, "{} peers", inbound.len() + outbound.len());
    let kept: Vec<_> = outbound.iter().filter(|peer| peer.is_kept()).collect();
    assert!(kept.len() <= TARGET + grace, "{} are kept", kept.len());
    let mut groups = BTreeMap::<NetGroup, usize>::new();
    for peer in kept {
        *groups.entry(NetGroup::of(peer.info.remote, bench.manager.config.addresses)).or_default() += 1;
    }
    assert!(groups.values().all(|members| *members <= PER_GROUP + grace), "{groups:?}");
    let seated = bench.manager.peers().filter(|peer| peer.seated).count();
    assert_eq!(
        bench.seats,
        seated.max(bench.manager.config.max_peers),
        "a seat for each who has one, and each free place"
    );
    let guests = inbound.iter().chain(&outbound).filter(|peer| !peer.seated).count();
    let beyond = (inbound.len() + outbound.len()).saturating_sub(bench.manager.config.max_peers);
    assert!(guests + grace >= beyond, "{guests} guests, and {beyond} more than there are places");
    assert!(dialling.len() <= 16);
    let wishes = bench.manager.dials.values().filter(|dial| dial.purpose == Purpose::Now).count();
    assert!(wishes <= 8, "{wishes} dials for others");
    bench.manager.book.check();
}

/// What the operator says, of all that may be said.
fn some_order(roll: &mut impl FnMut(usize) -> usize) -> PeerCommand {
    let favourite = id(FAVOURITES[roll(FAVOURITES.len())]);
    let range =
        |roll: &mut dyn FnMut(usize) -> usize| -> Rule { format!("30.{}.0.0/16", roll(6)).parse().expect("a rule") };
    match roll(9) {
        0 => PeerCommand::Allow(Vec::new()),
        1 => PeerCommand::Allow(vec![range(roll), Rule::Peer(favourite)]),
        2 => PeerCommand::Deny(Vec::new()),
        3 => PeerCommand::Deny(vec![range(roll), Rule::Peer(id(7))]),
        4 => PeerCommand::Ban { subject: Subject::Peer(id(roll(200) as u8)), lasting: Duration::from_secs(20) },
        5 => PeerCommand::Unban(Subject::Peer(id(roll(200) as u8))),
        6 => PeerCommand::Reserve(KnownPeer { peer: favourite, addrs: vec![] }),
        7 => PeerCommand::Release(favourite),
        _ => PeerCommand::Trust(favourite, roll(2) == 0),
    }
}

/// The operator changes its mind in those of odd numbers.
fn tell(seed: u64) {
    let moody = seed % 2 == 1;
    let addresses = if seed % 4 < 2 { AddressPolicy::Public } else { AddressPolicy::Loopback };
    let at = |number: u8| match addresses {
        AddressPolicy::Public => SocketAddr::from(([30, number % 6, 0, number], 4000)),
        AddressPolicy::Loopback => addr(number),
    };
    let mut dice = Seed::from_u64(seed).stream("random operations");
    let mut roll = |among: usize| dice.next_u32() as usize % among;
    let mut bench = Bench::new(|config| {
        (config.max_peers, config.target_outbound) = (MAX_PEERS, TARGET);
        (config.addresses, config.outbound_per_group) = (addresses, PER_GROUP);
        config.reserved = vec![KnownPeer { peer: id(PRIVILEGED[0]), addrs: vec![at(PRIVILEGED[0])] }];
        config.trusted = vec![id(PRIVILEGED[1])];
    });
    let (mut live, mut dialling) = (BTreeMap::new(), Vec::new());
    for _ in 0..3_000 {
        let number = 1 + roll(200) as u8;
        let number = if number == 5 { 6 } else { number }; // 5 are we
        let some_link = live.keys().nth(roll(live.len().max(1))).copied();
        let mut asked = false;
        // The runner tells how each dial ended, at last that its time is over.
        let over: Vec<_> = dialling.extract_if(.., |(_, _, begun)| bench.now.mono.since(*begun) > TICK * 100).collect();
        for (number, addr, _) in over {
            let closed = Closed::by_network(CloseReason::DialTimeout);
            let failed = NetworkEvent::DialFailed { addr, expected: Some(id(number)), closed };
            bench.manager.handle_network(bench.now, failed);
        }
        let done = match roll(if moody { 13 } else { 12 }) {
            0..=2 => {
                let link = LinkId(bench.next_link + 1);
                live.insert(link, number);
                bench.up_at(number, false, SocketAddr::new(at(number).ip(), 20_000 + roll(30) as u16)).1
            }
            3 | 4 if !dialling.is_empty() => {
                let (number, addr, _) = dialling.swap_remove(roll(dialling.len()));
                live.insert(LinkId(bench.next_link + 1), number);
                bench.up_at(number, true, addr).1
            }
            5 if !dialling.is_empty() => {
                let (number, addr, _) = dialling.swap_remove(roll(dialling.len()));
                let reasons = [CloseReason::DialRefused, CloseReason::WrongPeer];
                let closed = Closed::by_network(reasons[roll(2)]);
                let failed = NetworkEvent::DialFailed { addr, expected: Some(id(number)), closed };
                bench.manager.handle_network(bench.now, failed);
                bench.drain()
            }
            6 => {
                if let Some(link) = some_link {
                    live.remove(&link);
                    bench.down(link);
                }
                bench.drain()
            }
            7 => bench.order(PeerCommand::Want(Want::Now { peer: id(number), addrs: vec![at(number)] })),
            8 => {
                let source = Some(id(1 + roll(200) as u8));
                bench.order(PeerCommand::Want(Want::Candidate { peer: id(number), addrs: vec![at(number)], source }))
            }
            9 => {
                let faults = [Fault::UnansweredRequest, Fault::InvalidItem, Fault::InvalidBlock];
                bench.order(PeerCommand::Report { peer: id(number), fault: faults[roll(3)] })
            }
            10 => {
                let keep = bench.order(PeerCommand::Want(Want::Keep { peer: id(number) }));
                bench.manager.handle_network(
                    bench.now,
                    NetworkEvent::PeerStats { peer: id(number), stats: LinkStats::first(TICK, 0) },
                );
                keep
            }
            12 => bench.order(some_order(&mut roll)),
            _ => {
                asked = roll(50) == 0;
                if asked {
                    bench.order(PeerCommand::Disconnect { peer: id(number), reason: CloseReason::Requested })
                } else {
                    let by = Duration::from_millis(roll(4_000) as u64);
                    bench.pass(by)
                }
            }
        };
        look(&mut bench, &mut live, done, &mut dialling, asked, moody);
    }
}

#[test]
fn whatever_happens_limits_hold_and_whoever_has_a_privilege_stays() {
    for seed in 0..24 {
        println!("seed {seed}");
        tell(seed);
    }
}
