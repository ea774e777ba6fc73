//! Node records and answers to lookups that no correct peer gives: what nobody signs by accident is held against whoever says
//! it, what may be old or newer than this version is passed over, and nothing of it makes the node dial where it should not.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use peerage_core::{CloseReason, Closed, Message, NetworkId};
use peerage_discovery::{DhtKey, FIND, NODES, NodeRecord, RECORD, RecordBody};
use peerage_transport::{
    driver::Clock,
    proto::signed::{SIGNED_OVERHEAD, Signed},
};
use peerage_wire::payload;

use crate::{
    attacker::{Attacker, a_while, answer},
    stage::{self, eventually},
    victim::{Victim, keypair},
};

/// Where a node of a network on one machine may be: the last port, which no system gives to whoever wants any.
const SOMEWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 65_535);

/// What a node says about itself, as of now.
fn body(seq: u64, addrs: &[SocketAddr]) -> RecordBody {
    let issued_at = Clock::start().now().wall;
    RecordBody { seq, addrs: addrs.to_vec(), features: 0, issued_at }
}

/// The same, changed and then signed by one of the cast.
fn changed(victim: &Victim, number: u8, change: impl FnOnce(&mut RecordBody)) -> Bytes {
    let mut body = body(10, &[SOMEWHERE.into()]);
    change(&mut body);
    Signed::sign(&keypair(number), victim.genesis.network_id(), body).encoded().clone()
}

/// A correct record of one of the cast.
pub(crate) fn record(victim: &Victim, number: u8) -> Bytes {
    changed(victim, number, |_| ())
}

/// Signed by one of the cast, whatever it is.
fn signed(victim: &Victim, number: u8, version: u16, body: &[u8]) -> Bytes {
    let (domain, version) = (b"peerage-node-record", version.to_be_bytes());
    let network = victim.genesis.network_id();
    let signed = [&[domain.len() as u8], domain.as_slice(), network.as_bytes(), &version, body].concat();
    let keypair = keypair(number);
    [keypair.node_id().as_bytes().as_slice(), &keypair.sign(&signed), &version, body].concat().into()
}

/// The same with a body that is encoded in a second way: the number 10 in two bytes.
fn second_encoding(victim: &Victim, number: u8) -> Bytes {
    let body = &record(victim, number)[SIGNED_OVERHEAD..];
    signed(victim, number, 1, &[&[0x8a, 0], &body[1..]].concat())
}

/// Records that no correct node tells, signed or passed on by this one of the cast.
fn no_records(victim: &Victim, number: u8) -> Vec<(&'static str, Bytes)> {
    let good = record(victim, number);
    let mut foreign = good.to_vec();
    foreign[32..96].copy_from_slice(&record(victim, number.wrapping_add(1))[32..96]);
    let elsewhere = Signed::sign(&keypair(number), NetworkId::from_bytes([9; 32]), body(10, &[SOMEWHERE.into()]));
    vec![
        ("under a foreign signature", foreign.into()),
        ("of another network", elsewhere.encoded().clone()),
        ("with five addresses", changed(victim, number, |body| body.addrs = vec![SOMEWHERE.into(); 5])),
        ("with a byte behind it", [&*good, b"!"].concat().into()),
        ("with a byte behind it that is signed too", {
            signed(victim, number, 1, &[&good[SIGNED_OVERHEAD..], b"!"].concat())
        }),
        ("in a second encoding", second_encoding(victim, number)),
        ("cut", good.slice(..good.len() - 1)),
        ("without a body", good.slice(..SIGNED_OVERHEAD)),
        ("of a few bytes", Bytes::from_static(b"no record")),
        ("of no bytes", Bytes::new()),
    ]
}

fn fault(fault: &str) -> String {
    format!("peerage_faults_total{{fault={fault}}}")
}

/// The records in an answer, as they travel.
fn nodes(records: &[Bytes]) -> Message {
    let records: Vec<&[u8]> = records.iter().map(|record| &**record).collect();
    Message::new(NODES, payload::to_bytes(&records))
}

/// Whom the victim names when asked.
async fn named(asker: &mut Attacker, victim: &Victim) -> Vec<NodeRecord> {
    let answer = asker.asks(Message::new(FIND, vec![7; 32])).await.expect("an answer");
    let records: Vec<Vec<u8>> = payload::from_bytes(&answer.head, 10_000).expect("a list of records");
    let network = victim.genesis.network_id();
    records.into_iter().map(|bytes| NodeRecord::verify(bytes.into(), network).expect("a true record")).collect()
}

/// An attacker that gives this to whoever asks it for nodes close to a key.
async fn with_nodes(
    victim: &Victim,
    number: u8,
    mut give: impl FnMut(DhtKey) -> Option<Message> + Send + 'static,
) -> Attacker {
    let answers = move |request: &Message| match (request.command, request.head.first_chunk()) {
        (FIND, Some(target)) => give(DhtKey::from_bytes(*target)),
        _ => answer(request),
    };
    Attacker::connect_answering(victim, number, answers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_record_is_held_against_whoever_tells_it_and_told_to_nobody() {
    let mut victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    let kinds = no_records(&victim, 10).len() + 1;
    for (kind, number) in (0..kinds).zip(10..) {
        // Each by somebody new.
        let somebody_else = ("of somebody else", record(&victim, 99));
        let (what, record) = no_records(&victim, number).into_iter().chain([somebody_else]).nth(kind).expect("counted");
        let mut attacker = Attacker::connect(&victim, number).await;
        victim.stage.again();
        attacker.says(Message::new(RECORD, record)).await;
        victim.counts(&[(&fault("invalid_record"), 1)]).await;
        attacker.is_served().await;
        assert_eq!(named(&mut friend, &victim).await, [], "{what}");
        attacker.leaves().await;
    }
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_hundred_addresses_is_refused_by_its_length_alone() {
    let victim = Victim::start().await;
    let mut attacker = Attacker::connect(&victim, 10).await;
    let hundred = changed(&victim, 10, |body| body.addrs = vec![SOMEWHERE.into(); 100]);
    attacker.says(Message::new(RECORD, hundred)).await;
    assert_eq!(attacker.is_told().await, Closed::by_them(CloseReason::MessageTooLong));
    let (length, times) = stage::by_us(CloseReason::MessageTooLong, 1);
    let closed = || victim.counted(&["peerage_connections_closed_total{by=us"]);
    eventually("the end is counted", || closed() == [(length.clone(), times)].into()).await;
    attacker.leaves().await;
    victim.counts(&[]).await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_old_expired_or_of_a_later_version_is_passed_over() {
    let victim = Victim::start().await;
    let mut friend = Attacker::connect(&victim, 3).await;
    let mut attacker = Attacker::connect(&victim, 10).await;
    let hour = 3_600_000;
    let newest = record(&victim, 10);
    let passed_over = [
        changed(&victim, 10, |body| body.seq = 9),
        newest.clone(),
        changed(&victim, 10, |body| (body.seq, body.issued_at.0) = (11, body.issued_at.0 - 49 * hour)),
        changed(&victim, 10, |body| (body.seq, body.issued_at.0) = (12, body.issued_at.0 + hour)),
        signed(&victim, 10, 2, b"whatever that may be"),
    ];
    for record in [newest.clone()].into_iter().chain(passed_over) {
        attacker.says(Message::new(RECORD, record)).await;
    }
    attacker.is_served().await;
    let named = named(&mut friend, &victim).await;
    assert_eq!(named.iter().map(|record| record.encoded().clone()).collect::<Vec<_>>(), [newest]);
    victim.counts(&[]).await;
    attacker.leaves().await;
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_records_of_one_number_are_held_against_their_author_whoever_passed_the_second_on() {
    let mut victim = Victim::start().await;
    let reformed = Arc::new(AtomicBool::new(false));
    let is_reformed = Arc::clone(&reformed);
    let mut liar = with_nodes(&victim, 10, move |_| {
        let truth = is_reformed.load(Ordering::Relaxed);
        Some(if truth { nodes(&[]) } else { nodes(&[Bytes::from_static(b"no record")]) })
    })
    .await;
    victim.counts(&[(&fault("bad_lookup_answer"), 1)]).await;
    let one = record(&victim, 10);
    liar.says(Message::new(RECORD, one.clone())).await;
    liar.is_served().await;
    let two = changed(&victim, 10, |body| body.features = 1);
    victim.stage.again();
    liar.says(Message::new(RECORD, two.clone())).await;
    victim.counts(&[(&fault("invalid_record"), 1)]).await;

    // Nothing was learned from the liar's answer, so that the next who comes is asked.
    reformed.store(true, Ordering::Relaxed);
    victim.stage.again();
    let mut two = Some(two);
    let mut messenger = with_nodes(&victim, 11, move |_| Some(nodes(two.take().as_slice()))).await;
    victim.counts(&[(&fault("invalid_record"), 1)]).await;
    let named = named(&mut messenger, &victim).await;
    assert_eq!(named.iter().map(|record| record.encoded().clone()).collect::<Vec<_>>(), [one], "the first is kept");
    liar.is_served().await;
    liar.leaves().await;
    messenger.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_no_correct_peer_gives_is_a_fault_and_nothing_in_it_is_believed() {
    let mut victim = Victim::start().await;
    // Somebody to be heard of, who would be dialled there.
    let listener = listener();
    let addr = listener.local_addr().expect("bound");
    let lure = changed(&victim, 70, |body| body.addrs = vec![addr]);
    let mut cases: Vec<(&'static str, Message)> = vec![
        ("garbage", Message::new(NODES, b"garbage".as_slice())),
        ("nothing at all", Message::new(NODES, Bytes::new())),
        ("a byte behind it", Message::new(NODES, [&*nodes(std::slice::from_ref(&lure)).head, b"!"].concat())),
        ("another encoding of one", {
            Message::new(NODES, [&[0x81, 0], &nodes(std::slice::from_ref(&lure)).head[1..]].concat())
        }),
        ("a body", Message::with_body(NODES, nodes(std::slice::from_ref(&lure)).head, b"!".as_slice())),
        ("another command", Message::new(RECORD, lure.clone())),
        ("one twice", nodes(&[lure.clone(), lure.clone()])),
        ("a hundred addresses", nodes(&[lure.clone(), changed(&victim, 71, |body| body.addrs = vec![addr; 100])])),
    ];
    cases.extend(no_records(&victim, 71).into_iter().map(|(what, bad)| (what, nodes(&[lure.clone(), bad]))));
    for ((what, given), number) in cases.into_iter().zip(10..) {
        victim.stage.again();
        let mut attacker = with_nodes(&victim, number, move |_| Some(given.clone())).await;
        victim.counts(&[(&fault("bad_lookup_answer"), 1)]).await;
        assert_eq!(named(&mut attacker, &victim).await, [], "{what}");
        attacker.leaves().await;
    }
    // Those that are wrong only for the key that was asked for, or for whoever answers.
    let network = victim.genesis.network_id();
    let sorted = move |numbers: std::ops::Range<u8>, target: DhtKey| {
        let mut records: Vec<_> =
            numbers.map(|number| NodeRecord::sign(&keypair(number), network, body(10, &[addr]))).collect();
        records.sort_by_key(|record| record.key().distance(&target));
        records.iter().map(|record| record.encoded().clone()).collect::<Vec<_>>()
    };
    type Give = Box<dyn FnMut(DhtKey) -> Option<Message> + Send>;
    let own = record(&victim, 53);
    let gives: [(&str, Give); 3] = [
        ("seventeen records", Box::new(move |target| Some(nodes(&sorted(100..117, target))))),
        (
            "the farthest first",
            Box::new(move |target| {
                let mut records = sorted(100..116, target);
                records.reverse();
                Some(nodes(&records))
            }),
        ),
        ("oneself", Box::new(move |_| Some(nodes(std::slice::from_ref(&own))))),
    ];
    for ((what, give), number) in gives.into_iter().zip(51..) {
        victim.stage.again();
        let mut attacker = with_nodes(&victim, number, give).await;
        victim.counts(&[(&fault("bad_lookup_answer"), 1)]).await;
        assert_eq!(named(&mut attacker, &victim).await, [], "{what}");
        attacker.leaves().await;
    }
    a_while().await;
    assert!(nobody_knocked(&listener), "nobody who was named in such an answer is dialled");
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_is_never_answered_is_a_fault() {
    let victim = Victim::start().await;
    let mut attacker = with_nodes(&victim, 10, |_| None).await;
    attacker.hears(FIND).await;
    victim.counts(&[(&fault("unanswered_request"), 1)]).await;
    attacker.is_served().await;
    attacker.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_records_that_are_old_or_of_a_later_version_is_no_fault() {
    let victim = Victim::start().await;
    let old = changed(&victim, 70, |body| body.issued_at.0 -= 49 * 3_600_000);
    let given = nodes(&[signed(&victim, 71, 2, b"whatever that may be"), old]);
    let mut attacker = with_nodes(&victim, 10, move |_| Some(given.clone())).await;
    attacker.hears(FIND).await;
    attacker.is_served().await;
    victim.counts(&[]).await;
    attacker.leaves().await;
    victim.stops_well().await;
}

/// Where the story waits for whoever knocks.
fn listener() -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

fn nobody_knocked(listener: &TcpListener) -> bool {
    listener.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_open_network_no_private_address_is_dialled_or_passed_on() {
    // The same words, first where they are as good as any: there somebody does knock.
    for (network, allowed) in [("dev", true), ("open", false)] {
        let victim = Victim::of_network(network, false).await;
        let listener = listener();
        let addr = listener.local_addr().expect("bound");
        let private = ["10.0.0.1:4000", "192.168.1.1:4000", "169.254.1.1:4000", "[fd00::1]:4000", "[::1]:4000"];
        let private = private.map(|addr| addr.parse::<SocketAddr>().expect("an address"));
        let lure = changed(&victim, 70, |body| body.addrs = vec![private[0], private[3], addr]);
        let told = changed(&victim, 10, |body| body.addrs = vec![private[1], private[4], addr]);
        let given = nodes(&[lure]);
        let mut attacker = with_nodes(&victim, 10, move |_| Some(given.clone())).await;
        attacker.says(Message::new(RECORD, told.clone())).await;
        attacker.hears(FIND).await;
        attacker.is_served().await;
        if allowed {
            eventually("somebody knocks", || !nobody_knocked(&listener)).await;
        } else {
            a_while().await;
            assert!(nobody_knocked(&listener));
        }
        let mut friend = Attacker::connect(&victim, 3).await;
        let named: Vec<_> = named(&mut friend, &victim).await.iter().map(|record| record.encoded().clone()).collect();
        assert_eq!(named, if allowed { vec![told] } else { vec![] }, "only whoever is connected is named at all");
        victim.counts(&[]).await;
        friend.leaves().await;
        attacker.leaves().await;
        victim.stops_well().await;
    }
}
