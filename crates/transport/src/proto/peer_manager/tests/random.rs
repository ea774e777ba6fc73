//! Whatever happens in whatever order: limits hold, nobody reserved is evicted, the book is in order.

use rand_core::Rng;

use super::*;

const MAX_PEERS: usize = 12;
const TARGET: usize = 4;
/// Reserved and trusted.
const PRIVILEGED: [u8; 2] = [1, 2];

/// Reads what the manager did, as the world does: whom it closed, whom it dials.
fn look(
    bench: &mut Bench,
    live: &mut BTreeMap<LinkId, u8>,
    done: Vec<Outlet>,
    dialling: &mut Vec<(u8, SocketAddr)>,
    asked: bool,
) {
    for outlet in done {
        match outlet {
            Outlet::Dial { addr, expected, .. } => {
                let number = expected.expect("the manager knows whom it dials").as_bytes()[0];
                assert!(dialling.iter().all(|(_, other)| *other != addr), "{addr} twice at once");
                dialling.push((number, addr));
            }
            Outlet::Admit(link) => assert!(live.contains_key(&link), "{link:?} is not up"),
            Outlet::Shed { .. } | Outlet::Stop(_) | Outlet::Resume(_) => panic!("there is memory: {outlet:?}"),
            Outlet::Close { link, reason } => {
                let number = live.remove(&link).expect("only what is up is closed");
                let evicted = [CloseReason::TooManyPeers, CloseReason::Surplus, CloseReason::Banned].contains(&reason);
                assert!(asked || !evicted || !PRIVILEGED.contains(&number), "{number} has a privilege: {reason}");
            }
            Outlet::Doors(_) => unreachable!("the bench keeps them apart"),
        }
    }
    let ordinary = bench.manager.peers().filter(|peer| !PRIVILEGED.contains(&peer.info.peer.as_bytes()[0]));
    let (inbound, outbound): (Vec<_>, Vec<_>) = ordinary.partition(|peer| !peer.info.outbound);
    assert!(inbound.len() <= MAX_PEERS - TARGET + GUESTS, "{} inbound", inbound.len());
    assert!(inbound.len() + outbound.len() <= MAX_PEERS + GUESTS, "{} peers", inbound.len() + outbound.len());
    assert!(dialling.len() <= 16);
    bench.manager.book.check();
}

fn tell(seed: u64) {
    let mut dice = Seed::from_u64(seed).stream("random operations");
    let mut roll = |among: usize| dice.next_u32() as usize % among;
    let mut bench = Bench::new(|config| {
        (config.max_peers, config.target_outbound) = (MAX_PEERS, TARGET);
        config.reserved = vec![known(PRIVILEGED[0])];
        config.trusted = vec![id(PRIVILEGED[1])];
    });
    let (mut live, mut dialling) = (BTreeMap::new(), Vec::new());
    for _ in 0..3_000 {
        let number = 1 + roll(200) as u8;
        let number = if number == 5 { 6 } else { number }; // 5 are we
        let some_link = live.keys().nth(roll(live.len().max(1))).copied();
        let mut asked = false;
        let done = match roll(12) {
            0..=2 => {
                let link = LinkId(bench.next_link + 1);
                live.insert(link, number);
                bench.up_at(number, false, SocketAddr::from(([127, 0, 0, 1], 20_000 + roll(30) as u16))).1
            }
            3 | 4 if !dialling.is_empty() => {
                let (number, addr) = dialling.swap_remove(roll(dialling.len()));
                live.insert(LinkId(bench.next_link + 1), number);
                bench.up_at(number, true, addr).1
            }
            5 if !dialling.is_empty() => {
                let (number, addr) = dialling.swap_remove(roll(dialling.len()));
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
            7 => bench.order(PeerCommand::Want(Want::Now { peer: id(number), addrs: vec![addr(number)] })),
            8 => {
                let source = Some(id(1 + roll(200) as u8));
                bench.order(PeerCommand::Want(Want::Candidate { peer: id(number), addrs: vec![addr(number)], source }))
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
        look(&mut bench, &mut live, done, &mut dialling, asked);
    }
}

#[test]
fn whatever_happens_limits_hold_and_whoever_has_a_privilege_stays() {
    for seed in 0..24 {
        println!("seed {seed}");
        tell(seed);
    }
}
