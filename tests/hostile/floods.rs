//! Floods of each kind of message, by one peer with a valid key: it is stopped or slowed down where the documents say so, and
//! meanwhile others are served, their transactions are taken and the memory budget holds.

use bytes::Bytes;
use peerage::control::{Request, Response, Status};
use peerage_chain::proto::{BLOCKS, BLOCKS_TOPIC, BlocksRequest, TRANSACTIONS_TOPIC};
use peerage_core::{CloseReason, Closed, Message};
use peerage_discovery::{FIND, RECORD};
use peerage_gossip::{SUBSCRIBE, Topic};
use peerage_wire::payload;

use crate::{
    attacker::Attacker,
    blocks::{first_block, head},
    records::record,
    stage::eventually,
    transactions::{item, push, transaction},
    victim::{Victim, keypair},
};

/// The number of messages of a flood: more than any count of a layer allows.
const MANY: u32 = 2_000;
/// Bytes of the large ones.
const LARGE: usize = 64 << 10;

/// How the node's state is, as its user sees it, which it must be able to tell at any time.
async fn status(victim: &Victim) -> Status {
    match victim.ask(Request::Status).await {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// What a flood consists of.
enum Kind {
    Said,
    Asked,
}

/// What it is called, and its messages by their number.
type Flood<'a> = (&'a str, Kind, Box<dyn Fn(u32) -> Message + 'a>);

/// One of the cast floods the victim, while a friend asks, and brings its next transaction.
async fn flood(
    victim: &Victim,
    attacker: &mut Attacker,
    friend: &mut Attacker,
    kind: Kind,
    message: impl Fn(u32) -> Message,
) {
    let before = status(victim).await;
    let flooding = async {
        for n in 0..MANY {
            match kind {
                Kind::Said => attacker.says(message(n)).await,
                Kind::Asked => {
                    attacker.demands(message(n)).await;
                }
            }
        }
    };
    let living = async {
        friend.is_served().await;
        let nonce = before.mempool_txs as u64;
        friend.says(item(TRANSACTIONS_TOPIC, transaction(3, nonce, |_| ()).bytes)).await;
        let meanwhile = victim.until("the friend's is taken", |now| now.mempool_txs > before.mempool_txs).await;
        assert!(meanwhile.resident_bytes <= meanwhile.budget_bytes, "{meanwhile:?}");
        friend.is_served().await;
    };
    tokio::join!(flooding, living);
    let after = status(victim).await;
    assert!(after.resident_bytes <= after.budget_bytes, "{after:?}");
    assert_eq!(after.mempool_txs, before.mempool_txs + 1, "the friend's, and nothing of the flood");
}

/// What was counted of a fault since the story began.
fn faults(victim: &Victim, fault: &str) -> u64 {
    let faults = victim.counted(&["peerage_faults_total"]);
    let name = format!("peerage_faults_total{{fault={fault}}}");
    assert!(faults.keys().all(|counted| *counted == name), "{faults:?}");
    faults.get(&name).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_floods_with_what_is_counted_is_banned_and_told_so() {
    let mut victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    friend.says(item(BLOCKS_TOPIC, first_block(&victim.genesis))).await;
    victim.until("there is a block to ask for", |now| now.height == 1).await;
    let own = record(&victim, 10);
    let wish = payload::to_bytes(&BlocksRequest { from: 1, max_bytes: 1 << 20 });
    let (unasked, large) = (Topic::from_static("nobody/asked"), Bytes::from(vec![7; LARGE]));
    let junk = |n: u32| Bytes::from(vec![n as u8; 100]);
    let floods: [Flood<'_>; 7] = [
        ("excess", Kind::Said, Box::new(|_| Message::new(RECORD, own.clone()))),
        ("excess", Kind::Asked, Box::new(|n| Message::new(FIND, vec![n as u8; 32]))),
        ("excess", Kind::Asked, Box::new(|_| Message::new(BLOCKS, wish.clone()))),
        ("invalid_transaction", Kind::Said, Box::new(|n| push(&[junk(n)]))),
        ("invalid_item", Kind::Said, Box::new(|n| item(TRANSACTIONS_TOPIC, junk(n)))),
        ("invalid_item", Kind::Said, Box::new(|n| item(BLOCKS_TOPIC, junk(n)))),
        ("unexpected_command", Kind::Said, Box::new(|_| item(unasked, large.clone()))),
    ];
    for ((fault, kind, message), number) in floods.into_iter().zip(10..) {
        let mut attacker = Attacker::connect(&victim, number).await;
        victim.stage.again();
        flood(&victim, &mut attacker, &mut friend, kind, message).await;
        assert_eq!(attacker.is_told().await, Closed::by_them(CloseReason::Banned), "{fault}");
        let (counted, least) = (faults(&victim, fault), if fault.starts_with("invalid") { 5 } else { 10 });
        assert!(counted >= least, "{counted} times {fault}: as many as a ban takes, and what was on its way");
        // What was on its way is the same offence: it makes the ban no longer.
        let Response::Why(story) = victim.ask(Request::Why { peer: keypair(number).node_id() }).await else { panic!() };
        let bans: Vec<_> =
            story.happenings.iter().filter(|it| it.what == "banned").map(|it| (it.words.as_str(), it.times)).collect();
        assert_eq!(bans, [("banned for 60 minutes", 1)], "{fault}");
        attacker.leaves().await;
    }
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_heads_is_one_fault_and_then_nobody_listens() {
    let victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    let mut attacker = Attacker::connect(&victim, 10).await;
    flood(&victim, &mut attacker, &mut friend, Kind::Said, |_| head(0)).await;
    attacker.is_served().await;
    victim.counts(&[("peerage_faults_total{fault=excess}", 1)]).await;
    attacker.leaves().await;
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_what_a_correct_peer_may_say_is_no_fault_and_costs_nobody_else_anything() {
    let mut victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    let block = item(BLOCKS_TOPIC, first_block(&victim.genesis));
    friend.says(block.clone()).await;
    victim.until("there is a block to send again", |now| now.height == 1).await;
    let known = item(TRANSACTIONS_TOPIC, transaction(2, 0, |_| ()).bytes);
    friend.says(known.clone()).await;
    victim.until("there is a transaction to send again", |now| now.mempool_txs == 1).await;
    let early = transaction(4, 65, |_| ()).bytes;
    let wish = payload::to_bytes(&BlocksRequest { from: 2, max_bytes: 1 << 20 });
    let before = status(&victim).await.resident_bytes;

    let topics = |n: u32| payload::to_bytes(&[format!("topic/{n}").as_str()].as_slice());
    let floods: [Flood<'_>; 6] = [
        ("subscriptions", Kind::Said, Box::new(move |n| Message::new(SUBSCRIBE, topics(n)))),
        ("a known block", Kind::Said, Box::new(move |_| block.clone())),
        ("a known transaction", Kind::Said, Box::new(move |_| known.clone())),
        ("one too early, by gossip", Kind::Said, Box::new(|_| item(TRANSACTIONS_TOPIC, early.clone()))),
        ("one too early, pushed", Kind::Said, Box::new(|_| push(&[early.clone(), early.clone()]))),
        ("questions for blocks that do not exist", Kind::Asked, Box::new(|_| Message::new(BLOCKS, wish.clone()))),
    ];
    for ((what, kind, message), number) in floods.into_iter().zip(10..) {
        let mut attacker = Attacker::connect(&victim, number).await;
        victim.stage.again();
        flood(&victim, &mut attacker, &mut friend, kind, message).await;
        attacker.is_served().await;
        assert!(attacker.asks(Message::new(BLOCKS, wish.clone())).await.is_ok(), "{what}");
        let refused = || -> u64 { victim.counted(&["peerage_transactions_refused_total"]).into_values().sum() };
        match what {
            // A copy of one that waits for its verdict is not looked at.
            "one too early, by gossip" => eventually("some are looked at", || refused() > 0).await,
            "one too early, pushed" => eventually("each has its reason", || refused() == 2 * u64::from(MANY)).await,
            _ => assert_eq!(refused(), 0, "{what}"),
        }
        assert_eq!(victim.counted(&["peerage_faults_total", "peerage_messages_dropped_total"]), [].into(), "{what}");
        attacker.leaves().await;
    }
    victim.until("the memory is given back", |now| now.resident_bytes < before + LARGE).await;
    friend.leaves().await;
    victim.stops_well().await;
}
