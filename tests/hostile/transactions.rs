//! Transactions that no pool should take: each is refused for its own reason, and only what can never have been valid
//! anywhere is held against whoever brought it.

use bytes::Bytes;
use peerage::control::{Request, Response};
use peerage_chain::proto::{
    TRANSACTIONS, TRANSACTIONS_TOPIC,
    id::{Account, Signature},
    transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
};
use peerage_core::{CloseReason, Closed, Message};
use peerage_gossip::{ITEM, Topic};
use peerage_wire::payload;

use crate::{
    attacker::Attacker,
    victim::{Victim, keypair},
};

/// An item of gossip.
pub(crate) fn item(topic: Topic, bytes: Bytes) -> Message {
    Message::with_body(ITEM, payload::to_bytes(&topic), bytes)
}

/// A transaction of one of the cast, changed before it is signed.
pub(crate) fn transaction(number: u8, nonce: u64, change: impl FnOnce(&mut TransactionBody)) -> EncodedTransaction {
    let keypair = keypair(number);
    let op = Op::Put { key: vec![number, nonce as u8], value: vec![1; 100], expected_version: 0 };
    let account = Account(*keypair.node_id().as_bytes());
    let mut body = TransactionBody { chain_id: 7, account, nonce, valid_until: 1_000_000, ops: vec![op] };
    change(&mut body);
    // By hand, as `Transaction::sign` signs nothing that could never be valid.
    let domain = b"peerage-chain-tx-v1";
    let signed = [&[domain.len() as u8], domain.as_slice(), &payload::to_bytes(&body)].concat();
    let signature = Signature::from_bytes(keypair.sign(&signed));
    Transaction { body, signature }.encode().expect("small enough for a message")
}

/// The same under a signature of somebody else's.
fn forged(number: u8, nonce: u64) -> Bytes {
    let mut tx = transaction(number, nonce, |_| ()).tx;
    tx.signature = transaction(number.wrapping_add(1), nonce, |_| ()).tx.signature;
    tx.encode().expect("small").bytes
}

/// A push of transactions.
pub(crate) fn push(txs: &[Bytes]) -> Message {
    let lengths: Vec<u32> = txs.iter().map(|tx| tx.len() as u32).collect();
    Message::with_body(TRANSACTIONS, payload::to_bytes(&lengths), txs.concat())
}

/// Ways in which a transaction comes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Gossip,
    Push,
}

impl Way {
    fn message(self, tx: Bytes) -> Message {
        match self {
            Self::Gossip => item(TRANSACTIONS_TOPIC, tx),
            Self::Push => push(&[tx]),
        }
    }

    /// How the fault of bringing an impossible one is counted.
    const fn fault(self) -> &'static str {
        match self {
            Self::Gossip => "peerage_faults_total{fault=invalid_item}",
            Self::Push => "peerage_faults_total{fault=invalid_transaction}",
        }
    }
}

fn refused(reason: &str) -> String {
    format!("peerage_transactions_refused_total{{reason={reason}}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_never_be_valid_is_refused_by_its_reason_and_held_against_the_sender() {
    let mut victim = Victim::start().await;
    let changed = |at: usize| {
        let mut bytes = transaction(1, 0, |_| ()).bytes.to_vec();
        bytes[at] |= 0x80;
        Bytes::from(bytes)
    };
    let longer = |more: usize| Bytes::from([&*transaction(1, 0, |_| ()).bytes, &vec![0; more]].concat());
    let long_key = Op::Put { key: vec![1; 257], value: vec![], expected_version: 0 };
    let cases = [
        ("bad_signature", forged(1, 0)),
        ("malformed", longer(1)),
        ("malformed", Bytes::from_static(b"no transaction")),
        ("malformed", changed(0)), // another encoding of the chain's number
        ("too_large", longer(256 << 10)),
        ("wrong_chain", transaction(1, 0, |body| body.chain_id = 8).bytes),
        ("op_count", transaction(1, 0, |body| body.ops.clear()).bytes),
        ("key_length", transaction(1, 0, |body| body.ops.push(long_key)).bytes),
    ];
    let mut number = 10;
    for way in [Way::Gossip, Way::Push] {
        for (reason, tx) in &cases {
            number += 1;
            let mut attacker = Attacker::connect(&victim, number).await;
            victim.stage.again();
            if matches!(way, Way::Push) && *reason == "too_large" {
                // Longer than a push may be, so that the connection itself refuses it; see there.
                continue;
            }
            attacker.says(way.message(tx.clone())).await;
            victim.counts(&[(&refused(reason), 1), (way.fault(), 1)]).await;
            attacker.is_served().await;
            attacker.leaves().await;
        }
    }
    let state = victim.until("nothing is kept", |state| state.mempool_txs == 0).await;
    assert_eq!((state.height, state.mempool_bytes), (0, 0));
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_valid_elsewhere_is_refused_by_its_reason_and_held_against_nobody() {
    let mut victim = Victim::producing().await;
    let mut attacker = Attacker::connect(&victim, 10).await;
    let first = transaction(1, 0, |_| ());
    attacker.says(push(&[first.bytes.clone(), transaction(3, 5, |_| ()).bytes])).await;
    victim.until("a block with the first, and the second waits", |now| now.height == 1 && now.mempool_txs == 1).await;
    let op = first.tx.body.ops[0].clone();
    let other = Op::Delete { key: vec![7], expected_version: 0 };
    let cases = [
        ("stale_version", transaction(2, 0, |body| body.ops = vec![op.clone()])),
        ("nonce_used", transaction(1, 0, |body| body.ops = vec![other])),
        ("nonce_too_far", transaction(2, 65, |_| ())),
        ("nonce_taken", transaction(3, 5, |body| body.valid_until = 77)),
        ("expired", transaction(2, 0, |body| body.valid_until = 1)),
    ];
    for way in [Way::Gossip, Way::Push] {
        for (reason, tx) in &cases {
            victim.stage.again();
            attacker.says(way.message(tx.bytes.clone())).await;
            victim.counts(&[(&refused(reason), 1)]).await;
        }
    }
    attacker.is_served().await;
    let state = victim.until("the second waits as before", |now| now.mempool_txs == 1).await;
    assert_eq!(state.height, 1);
    attacker.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_with_it_is_banned_and_told_so_while_others_are_served() {
    let victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    let mut attacker = Attacker::connect(&victim, 66).await;
    for nonce in 0..5 {
        attacker.says(item(TRANSACTIONS_TOPIC, forged(1, nonce))).await;
    }
    assert_eq!(attacker.is_told().await, Closed::by_them(CloseReason::Banned));
    attacker.leaves().await;
    assert_eq!(Attacker::is_refused(&victim, 66).await, Closed::by_them(CloseReason::Banned));
    // The operator who asks why is told all of it, long after the connection.
    let Response::Why(story) = victim.ask(Request::Why { peer: keypair(66).node_id() }).await else { panic!() };
    let told: Vec<_> = story.happenings.iter().map(|it| (it.what.as_str(), it.reason.as_deref(), it.times)).collect();
    let expected = [
        ("admitted", None, 1),
        ("faulted", Some("invalid_item"), 5),
        ("banned", None, 1),
        ("ended", Some("banned"), 1),
        ("refused", Some("banned"), 1),
    ];
    assert_eq!(told, expected);
    assert_eq!(story.happenings[1].words, "did wrong: An item that validation rejected. (invalid_item)");
    friend.is_served().await;
    friend.says(item(TRANSACTIONS_TOPIC, transaction(1, 0, |_| ()).bytes)).await;
    victim.until("an honest transaction is taken", |now| now.mempool_txs == 1).await;
    victim.counts(&[(&refused("bad_signature"), 5), (Way::Gossip.fault(), 5)]).await;
    friend.leaves().await;
    victim.stops_well().await;
}
