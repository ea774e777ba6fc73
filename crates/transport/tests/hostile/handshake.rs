//! Handshake messages that were heard elsewhere, changed on their way, or signed by somebody else.

use std::{collections::BTreeMap, sync::Arc};

use peerage_core::*;
use peerage_transport::{
    driver::{Clock, TcpFabric},
    proto::{
        connection::SecureConnection,
        noise::identity::{MAX_LISTEN_ADDRESSES, seal_payload},
    },
};
use peerage_wire::{RecordKind, limits::RECORD_HEADER};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use crate::{
    hand::{ATTACKER, FRIEND, Hand, Initiator, Raw, Responder, claim, hello, record, refusal},
    stage::{Stage, by_them, by_us, in_time},
    victim::{Plan, VICTIM, Victim, configuration, keypair},
};

/// The record with which a CLOSE under fresh keys arrives, opened.
async fn told_under_keys(initiator: Initiator) -> Option<CloseReason> {
    initiator.keys().told_why().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_handshake_is_worth_nothing_the_second_time() {
    let stage = Stage::set().await;
    let mut victim = Victim::start().await;
    let mut honest = Initiator::begin(Raw::connect(victim.addr).await, keypair(FRIEND)).await;
    honest.answered().await;
    let proof = honest.proof();
    let third = honest.third(&proof);
    honest.raw.send(&third).await;
    let first = honest.first.clone();
    let mut friend = honest.keys();
    friend.is_served().await;

    // Message 1 carries nothing, so it may be repeated; message 2 is another one each time, and message 3 fits the first.
    let mut raw = Raw::connect(victim.addr).await;
    raw.send(&first).await;
    assert_eq!(raw.record().await.0, RecordKind::Handshake);
    raw.send(&third).await;
    assert_eq!(raw.told().await, refusal(CloseReason::BadHandshake), "in clear: there are no keys");

    // Nor does message 1 do in the place of message 3.
    let mut again = Initiator::begin(Raw::connect(victim.addr).await, keypair(ATTACKER)).await;
    again.answered().await;
    let message = again.first[RECORD_HEADER + 37..].to_vec();
    again.raw.send(&message).await;
    assert_eq!(again.raw.told().await, refusal(CloseReason::BadHandshake));

    stage.ended(CloseReason::BadHandshake, 2).await;
    friend.is_served().await;
    assert_eq!(victim.rest().len(), 1, "the friend came once");
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_heard_in_another_handshake_does_not_serve_whoever_heard_it() {
    let stage = Stage::set().await;
    // Somebody honest dials the attacker, who thereby learns a proof in which everything is true.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let there = listener.local_addr().expect("bound");
    let honest = Plan::dialling(keypair(ATTACKER).node_id(), there).start().await;
    let mut ear = Responder::accept(&listener).await;
    let own = seal_payload(&keypair(ATTACKER), &claim(&ear.noise), &hello());
    ear.second(&own).await;
    let (proof, who) = ear.third().await;
    assert_eq!(who, honest.id);
    honest.handle.shutdown().await;

    let mut plan = Plan::new();
    plan.connection = configuration(keypair(VICTIM + 1), plan.driver.budget.clone());
    let mut victim = plan.start().await;
    let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(ATTACKER)).await;
    // The victim here is not the usual one, so message 2 is read without a look at who that is.
    let (_, second) = initiator.raw.record().await;
    initiator.noise.read_message(&second).expect("message 2");
    let third = initiator.third(&proof);
    initiator.raw.send(&third).await;
    assert_eq!(told_under_keys(initiator).await, Some(CloseReason::BadProof));
    // The honest one took leave of the attacker when it stopped.
    stage.counts([by_us(CloseReason::BadProof, 1), by_us(CloseReason::Shutdown, 1)]).await;
    assert_eq!(victim.rest(), []);
    victim.ends_clean([]).await;
}

/// An honest payload in which another identity stands than the one that signed it.
fn in_the_name_of(payload: &[u8], name: NodeId) -> Vec<u8> {
    let mut payload = payload.to_vec();
    payload[2..34].copy_from_slice(name.as_bytes());
    payload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_signature_proves_nobody_whoever_dialled() {
    let stage = Stage::set().await;
    let mut victim = Victim::start().await;
    let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(ATTACKER)).await;
    initiator.answered().await;
    let forged = in_the_name_of(&initiator.proof(), keypair(FRIEND).node_id());
    let third = initiator.third(&forged);
    initiator.raw.send(&third).await;
    assert_eq!(told_under_keys(initiator).await, Some(CloseReason::BadProof));
    stage.ended(CloseReason::BadProof, 1).await;
    assert_eq!(victim.rest(), []);
    victim.ends_clean([]).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let name = keypair(FRIEND).node_id();
    let mut victim = Plan::dialling(name, listener.local_addr().expect("bound")).start().await;
    let mut responder = Responder::accept(&listener).await;
    let own = seal_payload(&keypair(ATTACKER), &claim(&responder.noise), &hello());
    responder.second(&in_the_name_of(&own, name)).await;
    assert_eq!(responder.raw.told().await, refusal(CloseReason::BadProof));
    assert_eq!(victim.see_dial_failed().await, Closed::by_us(CloseReason::BadProof));
    drop(listener); // or it would be dialled again
    victim.handle.shutdown().await;
    assert_eq!(stage.counted().get(&by_us(CloseReason::BadProof, 2).0), Some(&2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_is_not_laid_out_as_it_must_be_is_refused_under_keys() {
    let payload = |initiator: &Initiator, change: &dyn Fn(&mut Vec<u8>)| {
        let mut payload = initiator.proof();
        change(&mut payload);
        payload
    };
    type Change = Box<dyn Fn(&mut Vec<u8>)>;
    let cases: [(&str, Change); 5] = [
        ("padding that is not zero", Box::new(|payload| *payload.last_mut().expect("long") = 1)),
        ("a block too many", Box::new(|payload| payload.resize(512, 0))),
        ("no payload", Box::new(Vec::clear)),
        ("a length beyond the payload", Box::new(|payload| payload[..2].copy_from_slice(&[0xff, 0xff]))),
        ("an address too many", Box::new(|payload| payload[2 + 32 + 64 + 9] = MAX_LISTEN_ADDRESSES as u8 + 1)),
    ];
    for (story, change) in cases {
        let stage = Stage::set().await;
        let mut victim = Victim::start().await;
        let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(ATTACKER)).await;
        initiator.answered().await;
        let payload = payload(&initiator, &*change);
        let third = initiator.third(&payload);
        initiator.raw.send(&third).await;
        assert_eq!(told_under_keys(initiator).await, Some(CloseReason::BadHandshake), "{story}");
        stage.ended(CloseReason::BadHandshake, 1).await;
        assert_eq!(victim.rest(), [], "{story}");
        victim.ends_clean([]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_in_place_of_the_one_who_was_dialled_is_refused() {
    let stage = Stage::set().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let there = listener.local_addr().expect("bound");
    let mut victim = Plan::dialling(keypair(FRIEND).node_id(), there).start().await;
    let mut responder = Responder::accept(&listener).await;
    let own = seal_payload(&keypair(ATTACKER), &claim(&responder.noise), &hello());
    responder.second(&own).await;
    assert_eq!(responder.raw.told().await, refusal(CloseReason::WrongPeer), "and nothing of who dialled");
    assert_eq!(victim.see_dial_failed().await, Closed::by_us(CloseReason::WrongPeer));
    assert!(stage.counted().contains_key(&by_us(CloseReason::WrongPeer, 1).0));
    drop(listener);
    victim.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_itself_notices_and_so_does_one_whose_key_was_stolen() {
    let stage = Stage::set().await;
    let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let own = peerage_transport::driver::Fabric::local_addr(&fabric);
    // Somebody told it that a friend listens at what is its own address.
    let mut victim = Plan::dialling(keypair(FRIEND).node_id(), own).start_on(fabric);
    assert_eq!(victim.see_dial_failed().await, Closed::by_us(CloseReason::SelfConnection));
    // Its other end is told in clear, and counts that.
    let (us, them) = (by_us(CloseReason::SelfConnection, 1).0, by_them(CloseReason::SelfConnection, 1).0);
    crate::stage::eventually("both ends count", || {
        let counted = stage.counted();
        counted.contains_key(&us) && counted.contains_key(&them) && counted.len() == 2
    })
    .await;
    victim.ends_clean([]).await;
    drop(stage);

    let stage = Stage::set().await;
    let mut victim = Victim::start().await;
    let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(VICTIM)).await;
    let (_, second) = initiator.raw.record().await;
    initiator.noise.read_message(&second).expect("message 2");
    let proof = initiator.proof();
    let third = initiator.third(&proof);
    initiator.raw.send(&third).await;
    assert_eq!(told_under_keys(initiator).await, Some(CloseReason::SelfConnection));
    stage.ended(CloseReason::SelfConnection, 1).await;
    assert_eq!(victim.rest(), []);
    victim.ends_clean([]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_confirmed_before_anybody_counts_and_a_version_that_was_not_agreed_is_refused() {
    let stage = Stage::set().await;
    let mut victim = Victim::start().await;
    let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(ATTACKER)).await;
    initiator.answered().await;
    let hello = peerage_transport::proto::noise::identity::Hello::new(7 << 56, Vec::new()).expect("no address");
    let payload = seal_payload(&initiator.keypair, &claim(&initiator.noise), &hello);
    let third = initiator.third(&payload);
    initiator.raw.send(&third).await;
    assert_eq!(told_under_keys(initiator).await, Some(CloseReason::BadHandshake));
    stage.ended(CloseReason::BadHandshake, 1).await;
    assert_eq!(victim.rest(), []);
    victim.ends_clean([]).await;
}

/// What became of a handshake in which one byte was changed on its way: how the honest initiator's end of it ended.
async fn with_one_byte_changed(addr: std::net::SocketAddr, flight: usize, at: usize) -> Closed {
    let mut config = configuration(keypair(FRIEND), Budget::default());
    config.handshake_deadline = DEADLINE;
    let clock = Clock::start();
    let now = || clock.now();
    let mut machine = SecureConnection::new(Arc::new(config), true, addr, None, now(), SecretRng::from_os());
    let mut stream = Raw::connect(addr).await.0;
    let change = |bytes: &mut Vec<u8>| bytes[at] ^= 1;
    let mut buffer = vec![0; 64 << 10];
    let mut incoming = Vec::new();
    let mut sent = 0;
    loop {
        let mut bytes = Vec::new();
        machine.poll_transmit(now(), &mut bytes, 0);
        if !bytes.is_empty() {
            // Flight 0 and flight 2 are ours; what follows message 3 in its flight is not looked at here.
            if (sent, flight) == (0, 0) || (sent, flight) == (1, 2) {
                change(&mut bytes);
            }
            sent += 1;
            let _gone = stream.write_all(&bytes).await;
        }
        while let Some(event) = machine.poll_event() {
            if let ConnectionEvent::Closed(closed) = event {
                let mut last = Vec::new();
                machine.poll_transmit(now(), &mut last, 0);
                let _gone = stream.write_all(&last).await;
                return closed;
            }
        }
        let wake = clock.sleep_until(machine.next_timeout());
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(count @ 1..) if flight == 1 && incoming.len() < SECOND => {
                    incoming.extend_from_slice(&buffer[..count]);
                    // A refusal instead of message 2 would be shorter; there is none before message 3.
                    if incoming.len() >= SECOND {
                        change(&mut incoming);
                        machine.handle_bytes(now(), &incoming);
                    }
                }
                Ok(count @ 1..) => machine.handle_bytes(now(), &buffer[..count]),
                Ok(0) | Err(_) => machine.handle_stream_end(now(), CloseReason::StreamEnded),
            },
            () = wake => machine.handle_timeout(now()),
        }
    }
}

/// Long enough for a handshake on a loaded machine, short enough for the few that wait for bytes that never come.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(2);
/// Bytes of the three flights, headers included: preamble and message 1, message 2, message 3.
const FIRST: usize = RECORD_HEADER + 37 + RECORD_HEADER + 32;
const SECOND: usize = RECORD_HEADER + 32 + 48 + 256 + 16;
const THIRD: usize = RECORD_HEADER + 48 + 256 + 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_the_handshake_can_be_changed_on_its_way() {
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.connection.handshake_deadline = DEADLINE;
    let mut victim = plan.start().await;
    let addr = victim.addr;
    let all =
        [FIRST, SECOND, THIRD].into_iter().enumerate().flat_map(|(flight, len)| (0..len).map(move |at| (flight, at)));
    let mut running = JoinSet::new();
    let mut ends: BTreeMap<(usize, Closed2), usize> = BTreeMap::new();
    let mut done = |(flight, at, closed): (usize, usize, Closed)| {
        // The byte of a length that grew makes its reader wait for ever; whoever waits first says so.
        let waited = closed.reason == CloseReason::HandshakeTimeout;
        let header = match flight {
            0 => at < RECORD_HEADER || (RECORD_HEADER + 37..2 * RECORD_HEADER + 37).contains(&at),
            _ => at < RECORD_HEADER,
        };
        assert!(!waited || header, "flight {flight}, byte {at}: {closed}");
        *ends.entry((flight, Closed2(closed.by, closed.reason))).or_default() += 1;
    };
    for (flight, at) in all {
        running.spawn(async move { (flight, at, in_time("its end", with_one_byte_changed(addr, flight, at)).await) });
        if running.len() == 32 {
            done(running.join_next().await.expect("some run").expect("no panic"));
        }
    }
    while let Some(end) = running.join_next().await {
        done(end.expect("no panic"));
    }
    let count = |flight: usize, by: ClosedBy, reason| ends.get(&(flight, Closed2(by, reason))).copied().unwrap_or(0);
    // Message 3 is answered in clear, since the victim has no keys; message 2 is refused by who reads it. One byte more
    // than they have: the one of their length that makes them shorter.
    assert_eq!(count(2, ClosedBy::Them, CloseReason::BadHandshake), THIRD - RECORD_HEADER + 1, "{ends:?}");
    assert_eq!(count(1, ClosedBy::Us, CloseReason::BadHandshake), SECOND - RECORD_HEADER + 1, "{ends:?}");
    // The network's id is told; the versions are, where they are none any more; the rest shows in message 2.
    assert_eq!(count(0, ClosedBy::Them, CloseReason::WrongNetwork), 32, "{ends:?}");
    // One of each lost pair is counted by the victim, whoever saw it first, and nobody was ever a peer.
    let total = (FIRST + SECOND + THIRD) as u64;
    crate::stage::eventually("all ends are counted", || stage.counted().values().sum::<u64>() == total).await;
    let allowed = [
        CloseReason::WrongMagic,
        CloseReason::WrongVersion,
        CloseReason::WrongNetwork,
        CloseReason::WrongSuite,
        CloseReason::BadHandshake,
        CloseReason::UnexpectedRecord,
        CloseReason::RecordTooLong,
        CloseReason::HandshakeTimeout,
        CloseReason::StreamEnded,
        CloseReason::StreamError,
    ];
    let known = |name: &String| allowed.iter().any(|reason| name.ends_with(&format!("reason={}}}", reason.label())));
    assert!(stage.counted().keys().all(known), "{:?}", stage.counted());
    assert_eq!(victim.rest(), [], "nobody was ever a peer");
    let mut friend = Hand::shake(addr, FRIEND).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

/// [`Closed`] in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Closed2(ClosedBy, CloseReason);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialled_stranger_that_answers_with_garbage_is_given_up() {
    use CloseReason::{BadHandshake, RecordTooLong, UnexpectedRecord, WrongMagic};
    let mut long = record(RecordKind::Handshake, &[]);
    long[8] = 1;
    let cases = [
        ("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), WrongMagic, false),
        ("a preamble", crate::hand::preamble(&crate::hand::PREAMBLE_VALUE), UnexpectedRecord, true),
        ("a long record", long, RecordTooLong, true),
        ("a message 2 of zeros", record(RecordKind::Handshake, &[0; 352]), BadHandshake, true),
    ];
    for (story, bytes, reason, answered) in cases {
        let stage = Stage::set().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let there = listener.local_addr().expect("bound");
        let mut victim = Plan::dialling(keypair(FRIEND).node_id(), there).start().await;
        let mut responder = Responder::accept(&listener).await;
        responder.raw.send(&bytes).await;
        let expected = if answered { refusal(reason) } else { Vec::new() };
        assert_eq!(responder.raw.told().await, expected, "{story}");
        assert_eq!(victim.see_dial_failed().await, Closed::by_us(reason), "{story}");
        assert!(stage.counted().contains_key(&by_us(reason, 1).0), "{story}: {:?}", stage.counted());
        drop(listener);
        victim.handle.shutdown().await;
    }
}
