//! For every command above connections: bytes that are no encoding of it, a second encoding, a body where none belongs or none
//! where one does, and the command where it has no meaning. Each is a typed fault, and enough of them are a ban.

use bytes::Bytes;
use peerage_chain::proto::{BLOCKS, BLOCKS_TOPIC, BlocksRequest, HEAD, TRANSACTIONS, TRANSACTIONS_TOPIC};
use peerage_core::{CloseReason, Closed, Command, Message};
use peerage_discovery::{FIND, NODES, RECORD};
use peerage_gossip::{ITEM, SUBSCRIBE, Topic};
use peerage_wire::payload;

use crate::{
    attacker::Attacker,
    blocks::head,
    records::record,
    transactions::{item, transaction},
    victim::Victim,
};

const UNDECODABLE: &str = "undecodable_payload";
const UNEXPECTED: &str = "unexpected_command";

/// What is said, and as what.
#[derive(Clone, Debug)]
enum Said {
    Notified(Message),
    Asked(Message),
}

use Said::{Asked, Notified};

impl Said {
    async fn by(self, attacker: &mut Attacker) {
        match self {
            Notified(message) => attacker.says(message).await,
            Asked(message) => {
                attacker.demands(message).await;
            }
        }
    }
}

/// With a byte behind the head.
fn longer(message: &Message) -> Message {
    Message { head: [&*message.head, b"!"].concat().into(), ..message.clone() }
}

/// Without the last byte of the head.
fn cut(message: &Message) -> Message {
    Message { head: message.head.slice(..message.head.len() - 1), ..message.clone() }
}

/// The same value, with the number at the beginning of the head in two bytes instead of one.
fn again(message: &Message) -> Message {
    assert!(message.head[0] < 0x80, "a number of one byte");
    Message { head: [&[message.head[0] | 0x80, 0], &message.head[1..]].concat().into(), ..message.clone() }
}

/// With another body, or none.
fn body(message: &Message, body: Option<&'static [u8]>) -> Message {
    Message { body: body.map(Bytes::from_static), ..message.clone() }
}

/// A batch whose head names these lengths.
fn batch(lengths: &[u32], body: Option<&'static [u8]>) -> Message {
    self::body(&Message::new(TRANSACTIONS, payload::to_bytes(lengths)), body)
}

fn discovery(record: Bytes) -> Vec<(Said, &'static str)> {
    let (record, find) = (Message::new(RECORD, record), Message::new(FIND, vec![7; 32]));
    let nodes = Message::new(NODES, [0].as_slice());
    // Bytes behind a record, and second encodings of one, are in the stories of records.
    vec![
        (Notified(body(&record, Some(b""))), UNDECODABLE),
        (Notified(body(&record, Some(b"!"))), UNDECODABLE),
        (Asked(record), UNEXPECTED),
        (Asked(cut(&find)), UNDECODABLE),
        (Asked(body(&find, Some(b""))), UNDECODABLE),
        (Asked(body(&cut(&find), Some(b"!"))), UNDECODABLE),
        (Notified(find), UNEXPECTED),
        (Notified(nodes.clone()), UNEXPECTED),
        (Asked(nodes), UNEXPECTED),
    ]
}

fn gossip(tx: Bytes) -> Vec<(Said, &'static str)> {
    let item = item(TRANSACTIONS_TOPIC, tx);
    let unknown = Topic::from_static("nobody/asked");
    let topics = |topics: &[&str]| Message::new(SUBSCRIBE, payload::to_bytes(topics));
    let names: Vec<String> = (0..65).map(|number| format!("{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let subscribe = topics(&[BLOCKS_TOPIC.as_str(), TRANSACTIONS_TOPIC.as_str()]);
    vec![
        (Notified(longer(&item)), UNDECODABLE),
        (Notified(cut(&item)), UNDECODABLE),
        (Notified(again(&item)), UNDECODABLE),
        (Notified(body(&item, None)), UNDECODABLE),
        (Notified(Message { head: payload::to_bytes("").into(), ..item.clone() }), UNDECODABLE),
        (Notified(Message { head: payload::to_bytes("no topic").into(), ..item.clone() }), UNDECODABLE),
        (Notified(Message { head: payload::to_bytes(unknown.as_str()).into(), ..item.clone() }), UNEXPECTED),
        (Asked(item), UNEXPECTED),
        (Notified(longer(&subscribe)), UNDECODABLE),
        (Notified(cut(&subscribe)), UNDECODABLE),
        (Notified(again(&subscribe)), UNDECODABLE),
        (Notified(body(&subscribe, Some(b""))), UNDECODABLE),
        (Notified(topics(&["b", "a"])), UNDECODABLE),
        (Notified(topics(&["a", "a"])), UNDECODABLE),
        (Notified(topics(&["no topic"])), UNDECODABLE),
        (Notified(topics(&names)), UNDECODABLE),
        (Asked(subscribe), UNEXPECTED),
    ]
}

fn chain() -> Vec<(Said, &'static str)> {
    let (head, wish) = (head(0), Message::new(BLOCKS, payload::to_bytes(&BlocksRequest { from: 1, max_bytes: 9 })));
    let two = batch(&[1, 2], Some(b"abc"));
    vec![
        (Notified(longer(&head)), UNDECODABLE),
        (Notified(cut(&head)), UNDECODABLE),
        (Notified(again(&head)), UNDECODABLE),
        (Notified(body(&head, Some(b""))), UNDECODABLE),
        (Asked(head), UNEXPECTED),
        (Notified(longer(&two)), UNDECODABLE),
        (Notified(cut(&two)), UNDECODABLE),
        (Notified(again(&two)), UNDECODABLE),
        (Notified(batch(&[1, 2], Some(b"abcd"))), UNDECODABLE),
        (Notified(batch(&[1, 2], Some(b"ab"))), UNDECODABLE),
        (Notified(batch(&[u32::MAX, u32::MAX, 5], Some(b"abc"))), UNDECODABLE),
        (Notified(batch(&[1, 2], None)), UNDECODABLE),
        (Notified(batch(&[], Some(b""))), UNDECODABLE),
        (Notified(batch(&[0; 4_097], Some(b""))), UNDECODABLE),
        (Asked(two), UNEXPECTED),
        (Asked(longer(&wish)), UNDECODABLE),
        (Asked(cut(&wish)), UNDECODABLE),
        (Asked(again(&wish)), UNDECODABLE),
        (Asked(body(&wish, Some(b""))), UNDECODABLE),
        (Notified(wish), UNEXPECTED),
    ]
}

fn counter(fault: &str) -> String {
    format!("peerage_faults_total{{fault={fault}}}")
}

/// Each by somebody new, who stays and is served.
async fn each_is_a_fault(victim: &mut Victim, cases: Vec<(Said, &'static str)>) {
    for ((said, fault), number) in cases.into_iter().zip(10..) {
        let mut attacker = Attacker::connect(victim, number).await;
        victim.stage.again();
        let what = format!("{said:?}");
        said.by(&mut attacker).await;
        println!("{what}: {fault}"); // shown if it fails
        victim.counts(&[(&counter(fault), 1)]).await;
        attacker.is_served().await;
        attacker.leaves().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_of_discovery_has_one_form_and_one_place() {
    let mut victim = Victim::start().await;
    let record = record(&victim, 10);
    each_is_a_fault(&mut victim, discovery(record)).await;
    // Longer than any question: this is seen before the message is read.
    let mut attacker = Attacker::connect(&victim, 9).await;
    attacker.demands(longer(&Message::new(FIND, vec![7; 32]))).await;
    assert_eq!(attacker.is_told().await, Closed::by_them(CloseReason::MessageTooLong));
    attacker.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_of_gossip_has_one_form_and_one_place() {
    let mut victim = Victim::start().await;
    each_is_a_fault(&mut victim, gossip(transaction(1, 0, |_| ()).bytes)).await;
    let state = victim.until("nothing was taken", |now| now.mempool_txs == 0).await;
    assert_eq!(state.mempool_bytes, 0);
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_of_the_chain_has_one_form_and_one_place() {
    let mut victim = Victim::start().await;
    each_is_a_fault(&mut victim, chain()).await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_with_what_cannot_be_read_or_has_no_meaning_is_banned_and_told_so() {
    let mut victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    let meaningless: Vec<Command> = vec![NODES; 10];
    let meaningless = meaningless.into_iter().map(|command| Notified(Message::new(command, [0].as_slice()))).collect();
    let unreadable = [HEAD, SUBSCRIBE, TRANSACTIONS, ITEM, HEAD];
    let unreadable = unreadable.map(|command| Notified(Message::new(command, [0xff; 9].as_slice()))).to_vec();
    for ((sayings, fault), number) in [(unreadable, UNDECODABLE), (meaningless, UNEXPECTED)].into_iter().zip(10..) {
        let sayings: Vec<Said> = sayings;
        let mut attacker = Attacker::connect(&victim, number).await;
        victim.stage.again();
        let times = sayings.len() as u64;
        for said in sayings {
            said.by(&mut attacker).await;
        }
        assert_eq!(attacker.is_told().await, Closed::by_them(CloseReason::Banned));
        attacker.leaves().await;
        assert_eq!(Attacker::is_refused(&victim, number).await, Closed::by_them(CloseReason::Banned));
        victim.counts(&[(&counter(fault), times)]).await;
        friend.is_served().await;
    }
    friend.leaves().await;
    victim.stops_well().await;
}
