//! How each connection ends that ends for a reason.

use std::{net::SocketAddr, time::Duration};

use peerage_core::*;
use peerage_transport::{
    driver::{Fabric, TcpFabric},
    proto::{
        connection::commands::{Beat, PING},
        peer_manager::{BookLine, KnownPeer, PeerCommand, PeerLimits, Rule, Subject},
    },
};
use peerage_wire::{Envelope, Frame, Magic, RecordKind, limits::MAX_SEALED_BODY, payload};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::{
    hand::{ATTACKER, FRIEND, Hand, Initiator, PREAMBLE_VALUE, Raw, Responder, claim, hello, preamble, refusal},
    stage::in_time,
    victim::{BULK, Do, ITEM, NOTE, Plan, Saw, Victim, keypair},
    witness::{Ended, Heard, Other},
};

/// What a story waits for that has to wait, instead of seconds: long enough for a loaded machine to get going.
const SHORT: Duration = Duration::from_millis(400);
const HOUR: Duration = Duration::from_secs(3600);

/// The story of a reason; `None` if no story over a socket can bring it about. A new reason begins with its arm here.
pub(crate) async fn story(reason: CloseReason) -> Option<Ended> {
    Some(match reason {
        CloseReason::Shutdown => a_node_stops().await,
        CloseReason::Requested => the_operator_disconnects_a_peer().await,
        CloseReason::Surplus => fewer_connections_are_wanted().await,
        CloseReason::Duplicate => a_peer_comes_a_second_time().await,
        CloseReason::TooManyPeers => somebody_makes_room_for_a_crowd().await,
        CloseReason::Banned => whoever_is_banned_comes().await,
        CloseReason::Misbehaviour => somebody_trusted_breaks_the_rules().await,
        CloseReason::HeartbeatTimeout => a_peer_falls_silent().await,
        CloseReason::HandshakeTimeout => whoever_is_dialled_says_nothing().await,
        CloseReason::WrongMagic => dialled_by_another(|plan| plan.connection.magic = Magic::TEST, reason).await,
        CloseReason::WrongVersion => dialled_by_another(|plan| plan.connection.versions = (2, 9), reason).await,
        CloseReason::WrongNetwork => {
            dialled_by_another(|plan| plan.connection.network = NetworkId::from_bytes([2; 32]), reason).await
        }
        CloseReason::WrongSuite => an_unknown_suite_is_asked_for().await,
        CloseReason::WrongPeer => somebody_else_answers().await,
        CloseReason::SelfConnection => a_node_reaches_itself().await,
        CloseReason::BadProof => whoever_answers_cannot_prove_its_name().await,
        CloseReason::BadHandshake => the_answer_to_a_dial_is_garbage().await,
        CloseReason::BadRecord => a_hand_sends(|_| vec![0, 16]).await,
        CloseReason::RecordTooLong => {
            a_hand_sends(|_| u16::try_from(MAX_SEALED_BODY + 1).expect("two bytes").to_be_bytes().to_vec()).await
        }
        CloseReason::UnexpectedRecord => a_hand_sends(|hand| hand.sealed(RecordKind::Preamble, &[0; 37])).await,
        CloseReason::MalformedMessage => a_hand_sends(|hand| hand.sealed(RecordKind::Data, &[])).await,
        CloseReason::BadFragment => {
            a_hand_sends_frame(Frame::Next { command: ITEM, last: true, piece: &[7; 100] }).await
        }
        CloseReason::MessageTooLong => a_hand_sends_frame(first(NOTE, (32 << 10) + 1)).await,
        CloseReason::CreditExceeded => a_hand_pings_without_end().await,
        CloseReason::SlowPeer => a_peer_reads_nothing().await,
        CloseReason::OverBudget => there_is_no_memory_for_a_message().await,
        CloseReason::StreamEnded => a_peer_hangs_up_without_a_word().await,
        CloseReason::StreamError => the_stream_of_a_peer_breaks().await,
        CloseReason::DialRefused => nobody_listens().await,
        CloseReason::DialTimeout => nobody_accepts().await,
        CloseReason::Unknown => a_peer_gives_a_reason_of_a_later_version().await,
        // 2^60 records under one key, at the protocol's hard stop, which no configuration lowers. The machine alone shows it:
        // `a_key_at_its_end_seals_and_opens_nothing_and_the_connection_ends_for_that` beside `Sealer`.
        CloseReason::KeyExhausted => return None,
        CloseReason::AddressLimit => second_from_one_address(|admission| admission.per_ip = 1, true).await,
        CloseReason::HalfOpenLimit => second_from_one_address(|admission| admission.half_open_per_ip = 1, false).await,
        CloseReason::TooFast => {
            let once = |admission: &mut peerage_transport::proto::admission::AdmissionConfig| {
                (admission.burst_per_ip, admission.refill_per_ip) = (1, HOUR);
            };
            second_from_one_address(once, true).await
        }
        CloseReason::TooSlow => a_message_is_begun_and_not_gone_on_with().await,
        CloseReason::Denied => whoever_is_on_the_list_comes().await,
        CloseReason::OtherSecurity => tls_is_spoken_to_a_node_of_noise().await,
        #[cfg(feature = "tls")]
        CloseReason::BadCertificate => crate::certificates::a_certificate_is_for_one_role_alone().await,
        #[cfg(feature = "tls")]
        CloseReason::UnknownAuthority => crate::certificates::a_member_of_another_consortium_comes().await,
        #[cfg(feature = "tls")]
        CloseReason::NoCertificate => crate::certificates::somebody_shows_no_certificate().await,
        #[cfg(feature = "tls")]
        CloseReason::CertificateRevoked => crate::certificates::a_member_comes_that_was_revoked().await,
        #[cfg(feature = "tls")]
        CloseReason::CertificateExpired => crate::certificates::a_member_comes_too_late().await,
        // Only who shows certificates can be told these.
        #[cfg(not(feature = "tls"))]
        CloseReason::BadCertificate
        | CloseReason::UnknownAuthority
        | CloseReason::NoCertificate
        | CloseReason::CertificateRevoked
        | CloseReason::CertificateExpired => return None,
        CloseReason::Hoarding => a_peer_holds_what_others_need().await,
    })
}

/// A node that dials nobody by itself.
pub(crate) fn plan(number: u8) -> Plan {
    let mut plan = Plan::of(number);
    plan.peers.target_outbound = 0;
    plan
}

/// The identities of the two nodes of a story.
pub(crate) const ONE: u8 = 200;
pub(crate) const TWO: u8 = 201;

pub(crate) async fn dial(node: &Victim, peer: NodeId, addr: SocketAddr) {
    node.order_peers(PeerCommand::Want(Want::Now { peer, addrs: vec![addr] })).await;
}

/// Two nodes, of which the second dialled the first, and both have seen it.
async fn pair(one: Plan, two: Plan) -> (Victim, Victim) {
    let (mut one, mut two) = (one.start().await, two.start().await);
    dial(&two, one.id, one.addr).await;
    meet(&mut one, &mut two).await;
    (one, two)
}

/// Both have seen each other.
async fn meet(one: &mut Victim, two: &mut Victim) {
    let (of_one, of_two) = (Saw::Up(two.id), Saw::Up(one.id));
    one.see("the second", |saw| *saw == of_one).await;
    two.see("the first", |saw| *saw == of_two).await;
}

async fn a_node_stops() -> Ended {
    let (one, two) = pair(plan(ONE), plan(TWO)).await;
    one.handle.shutdown().await;
    let (peer, gone) = (one.id, Other::Gone(Closed::by_us(CloseReason::Shutdown)));
    Ended { node: two, by: ClosedBy::Them, heard: Heard::Down, peer, other: gone, kept: Box::new(()) }
}

/// The first of two nodes ends their connection, and the second hears why.
fn one_ends_it(one: Victim, two: Victim, reason: CloseReason) -> Ended {
    Ended::between(one, ClosedBy::Us, Heard::Down, (two, Closed::by_them(reason), Heard::Down))
}

async fn the_operator_disconnects_a_peer() -> Ended {
    let (one, two) = pair(plan(ONE), plan(TWO)).await;
    let reason = CloseReason::Requested;
    one.order_peers(PeerCommand::Disconnect { peer: two.id, reason }).await;
    one_ends_it(one, two, reason)
}

async fn fewer_connections_are_wanted() -> Ended {
    let mut two = plan(TWO).start().await;
    let mut one = plan(ONE);
    one.peers.target_outbound = 1;
    one.peers.remembered = vec![BookLine::good_once(KnownPeer { peer: two.id, addrs: vec![two.addr] })];
    let mut one = one.start().await;
    meet(&mut one, &mut two).await;
    let limits = PeerLimits { target_outbound: 0, max_peers: 64, ..PeerLimits::default() };
    one.order_peers(PeerCommand::Limits(limits)).await;
    one_ends_it(one, two, CloseReason::Surplus)
}

async fn a_peer_comes_a_second_time() -> Ended {
    let node = plan(ONE).start().await;
    let mut first = Hand::shake(node.addr, FRIEND).await;
    first.is_served().await;
    let mut second = Hand::shake(node.addr, FRIEND).await;
    second.is_served().await;
    let told = first.told_why().await;
    Ended::by_hand(node, ClosedBy::Us, Heard::Down, first.id, told).keeping(second)
}

/// With no place for whoever comes, sixteen are guests for a moment; the next one pushes somebody out at once.
async fn somebody_makes_room_for_a_crowd() -> Ended {
    let mut one = plan(ONE);
    one.peers.max_peers = 0;
    let mut node = one.start().await;
    let mut crowd = Vec::new();
    for number in 0..17 {
        let mut hand = Hand::shake(node.addr, number).await;
        hand.is_served().await;
        crowd.push(hand);
    }
    let gone = node.see("somebody who goes", |saw| matches!(saw, Saw::Down(..))).await;
    let Saw::Down(gone, closed) = gone else { unreachable!("{gone:?}") };
    node.again(Saw::Down(gone, closed));
    let place = crowd.iter().position(|hand| hand.id == gone).expect("one of them");
    let told = crowd.remove(place).told_why().await;
    Ended::by_hand(node, ClosedBy::Us, Heard::Down, gone, told).keeping(crowd)
}

/// Somebody comes whom the node turns away although it proved itself.
async fn turned_away(one: Victim, reason: CloseReason) -> Ended {
    let mut hand = Hand::shake(one.addr, FRIEND).await;
    let told = hand.told_why().await;
    assert_eq!(told, Some(reason));
    Ended::by_hand(one, ClosedBy::Us, Heard::Refused, hand.id, told)
}

async fn whoever_is_banned_comes() -> Ended {
    let node = plan(ONE).start().await;
    let subject = Subject::Peer(keypair(FRIEND).node_id());
    node.order_peers(PeerCommand::Ban { subject, lasting: HOUR }).await;
    node.flight(node.id).await; // by now it is banned
    turned_away(node, CloseReason::Banned).await
}

async fn whoever_is_on_the_list_comes() -> Ended {
    let mut one = plan(ONE);
    one.peers.deny = vec![Rule::Peer(keypair(FRIEND).node_id())];
    turned_away(one.start().await, CloseReason::Denied).await
}

/// Whom the operator trusts is not banned, but sent away.
async fn somebody_trusted_breaks_the_rules() -> Ended {
    let mut one = plan(ONE);
    one.peers.trusted = vec![keypair(TWO).node_id()];
    let (one, two) = pair(one, plan(TWO)).await;
    one.order_peers(PeerCommand::Report { peer: two.id, fault: Fault::InvalidBlock }).await;
    one_ends_it(one, two, CloseReason::Misbehaviour)
}

/// A hand under keys that is a peer.
async fn served(node: &Victim) -> Hand {
    let mut hand = Hand::shake(node.addr, ATTACKER).await;
    hand.is_served().await;
    hand
}

/// The node ends the connection, and tells why.
async fn us_to_hand(node: Victim, mut hand: Hand) -> Ended {
    let told = hand.told_why().await;
    Ended::by_hand(node, ClosedBy::Us, Heard::Down, hand.id, told)
}

async fn a_peer_falls_silent() -> Ended {
    let mut one = plan(ONE);
    (one.connection.heartbeat_interval, one.connection.dead_after) = (SHORT / 2, SHORT);
    let node = one.start().await;
    let hand = served(&node).await;
    us_to_hand(node, hand).await
}

async fn whoever_is_dialled_says_nothing() -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut one = plan(ONE);
    one.connection.handshake_deadline = SHORT;
    let node = one.start().await;
    let peer = keypair(FRIEND).node_id();
    dial(&node, peer, listener.local_addr().expect("bound")).await;
    let mut responder = Responder::accept(&listener).await;
    let reason = CloseReason::HandshakeTimeout;
    assert_eq!(responder.raw.told().await, refusal(reason), "whom it dialled is one of its kind");
    Ended::by_hand(node, ClosedBy::Us, Heard::DialFailed, peer, Some(reason))
}

/// A node is dialled by one that has something else in its preamble, and refuses it: in clear, so that the other one has a
/// reason, unless not even the magic is the same.
async fn dialled_by_another(change: impl FnOnce(&mut Plan), reason: CloseReason) -> Ended {
    let node = plan(ONE).start().await;
    let mut other = plan(TWO);
    change(&mut other);
    let other = other.start().await;
    dial(&other, node.id, node.addr).await;
    let closed = match reason {
        CloseReason::WrongMagic => Closed::by_network(CloseReason::StreamEnded),
        _ => Closed::by_them(reason),
    };
    Ended::between(node, ClosedBy::Us, Heard::Nameless, (other, closed, Heard::DialFailed))
}

async fn an_unknown_suite_is_asked_for() -> Ended {
    let node = plan(ONE).start().await;
    let mut raw = Raw::connect(node.addr).await;
    raw.send(&preamble(&peerage_wire::Preamble { suite: 9, ..PREAMBLE_VALUE })).await;
    let told = raw.told().await;
    assert_eq!(told, refusal(CloseReason::WrongSuite));
    let peer = keypair(ATTACKER).node_id();
    Ended::by_hand(node, ClosedBy::Us, Heard::Nameless, peer, Some(CloseReason::WrongSuite))
}

async fn tls_is_spoken_to_a_node_of_noise() -> Ended {
    let node = plan(ONE).start().await;
    let mut raw = Raw::connect(node.addr).await;
    raw.send(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]).await;
    assert_eq!(raw.told().await, refusal(CloseReason::OtherSecurity));
    let peer = keypair(ATTACKER).node_id();
    Ended::by_hand(node, ClosedBy::Us, Heard::Nameless, peer, Some(CloseReason::OtherSecurity))
}

async fn somebody_else_answers() -> Ended {
    let (node, other) = (plan(ONE).start().await, plan(TWO).start().await);
    let absent = keypair(FRIEND).node_id();
    dial(&node, absent, other.addr).await;
    let told = (other, Closed::by_them(CloseReason::WrongPeer), Heard::Nameless);
    Ended { peer: absent, ..Ended::between(node, ClosedBy::Us, Heard::DialFailed, told) }
}

/// Somebody told it that a friend listens at what is its own address. Its other end is told in clear.
async fn a_node_reaches_itself() -> Ended {
    let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let own = fabric.local_addr();
    let node = plan(ONE).start_on(fabric);
    let peer = keypair(FRIEND).node_id();
    dial(&node, peer, own).await;
    let other = Other::Gone(Closed::by_them(CloseReason::SelfConnection));
    Ended { node, by: ClosedBy::Us, heard: Heard::DialFailed, peer, other, kept: Box::new(()) }
}

/// A node dials a friend, and somebody answers by hand; with what `second` sends, it is refused in clear.
async fn a_dial_is_answered(reason: CloseReason, second: impl AsyncFnOnce(&mut Responder)) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let node = plan(ONE).start().await;
    let peer = keypair(FRIEND).node_id();
    dial(&node, peer, listener.local_addr().expect("bound")).await;
    let mut responder = Responder::accept(&listener).await;
    second(&mut responder).await;
    assert_eq!(responder.raw.told().await, refusal(reason));
    Ended::by_hand(node, ClosedBy::Us, Heard::DialFailed, peer, Some(reason))
}

async fn whoever_answers_cannot_prove_its_name() -> Ended {
    a_dial_is_answered(CloseReason::BadProof, async |responder| {
        // The name of the friend over the signature of somebody else.
        let mut forged = peerage_transport::proto::noise::identity::seal_payload(
            &keypair(ATTACKER),
            &claim(&responder.noise),
            &hello(),
        );
        forged[2..34].copy_from_slice(keypair(FRIEND).node_id().as_bytes());
        responder.second(&forged).await;
    })
    .await
}

async fn the_answer_to_a_dial_is_garbage() -> Ended {
    a_dial_is_answered(CloseReason::BadHandshake, async |responder| {
        responder.raw.send(&crate::hand::record(RecordKind::Handshake, &[0; 352])).await;
    })
    .await
}

/// A peer sends such bytes, and is told what is wrong with them.
async fn a_hand_sends(bytes: impl FnOnce(&mut Hand) -> Vec<u8>) -> Ended {
    let node = plan(ONE).start().await;
    let mut hand = served(&node).await;
    let bytes = bytes(&mut hand);
    hand.raw.send(&bytes).await;
    us_to_hand(node, hand).await
}

const fn first(command: Command, total: usize) -> Frame<'static> {
    Frame::First { command, envelope: Envelope::Notification, head_len: total, body_len: None, piece: &[7; 100] }
}

async fn a_hand_sends_frame(frame: Frame<'_>) -> Ended {
    let mut plaintext = Vec::new();
    frame.encode(&mut plaintext);
    a_hand_sends(|hand| hand.sealed(RecordKind::Data, &plaintext)).await
}

async fn a_hand_pings_without_end() -> Ended {
    let beat = payload::to_bytes(&Beat { nonce: 1, data: vec![] });
    let mut plaintext = Vec::new();
    // All of a burst, and as many as come back within the time that a slow machine takes to read them.
    for _ in 0..200 {
        peerage_wire::encode_frame(&Message::new(PING, beat.clone()), Envelope::Notification, &mut plaintext);
    }
    a_hand_sends(|hand| hand.sealed(RecordKind::Data, &plaintext)).await
}

/// It is told nothing, for there is no room for a word.
async fn a_peer_reads_nothing() -> Ended {
    let mut one = plan(ONE);
    one.driver.write_patience = SHORT;
    let node = one.start().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
    let raw = Raw(in_time("a connection", socket.connect(node.addr)).await.expect("somebody listens"));
    let mut hand = Hand::shake_on(raw, ATTACKER).await;
    hand.is_served().await;
    // As much as there is credit for: the systems in between take some, the rest stays with us.
    for _ in 0..40 {
        node.order(Do::Send(hand.id, Message::new(BULK, vec![7; 100_000]))).await;
    }
    Ended::by_hand(node, ClosedBy::Us, Heard::Down, hand.id, None).keeping(hand)
}

async fn there_is_no_memory_for_a_message() -> Ended {
    let budget = Budget::new(100_000);
    let mut one = plan(ONE);
    one.driver.budget = budget.clone();
    one.connection.budget = budget.clone();
    one.connection.budget_patience = SHORT;
    let node = one.start().await;
    let mut hand = served(&node).await;
    let taken = budget.charge(Pool::Table, 90_000).expect("the ledger is empty");
    hand.notify(&Message::new(ITEM, vec![7; 15_000])).await;
    us_to_hand(node, hand).await.keeping(taken)
}

async fn a_peer_hangs_up_without_a_word() -> Ended {
    let node = plan(ONE).start().await;
    let mut hand = served(&node).await;
    in_time("the end of what we say", hand.raw.0.shutdown()).await.expect("a stream");
    Ended::by_hand(node, ClosedBy::Network, Heard::Down, hand.id, None).keeping(hand)
}

async fn the_stream_of_a_peer_breaks() -> Ended {
    let node = plan(ONE).start().await;
    let hand = served(&node).await;
    socket2::SockRef::from(&hand.raw.0).set_linger(Some(Duration::ZERO)).expect("a socket");
    let id = hand.id;
    drop(hand); // which makes the system send a reset
    Ended { other: Other::Nobody, ..Ended::by_hand(node, ClosedBy::Network, Heard::Down, id, None) }
}

/// A dial that never becomes a stream.
async fn a_dial_in_vain(one: Plan, addr: SocketAddr) -> Ended {
    let node = one.start().await;
    let peer = keypair(FRIEND).node_id();
    dial(&node, peer, addr).await;
    Ended { node, by: ClosedBy::Network, heard: Heard::DialFailed, peer, other: Other::Nobody, kept: Box::new(()) }
}

async fn nobody_listens() -> Ended {
    let addr = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    a_dial_in_vain(plan(ONE), addr).await
}

/// Somebody listens and accepts nobody, until the system has no place for those who wait.
async fn nobody_accepts() -> Ended {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let listener = socket.listen(1).expect("listening");
    let addr = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(addr)).await {
        waiting.push(stream.expect("a place in the queue"));
        assert!(waiting.len() < 100, "a queue without an end");
    }
    let mut one = plan(ONE);
    one.driver.dial_timeout = SHORT;
    a_dial_in_vain(one, addr).await.keeping((listener, waiting))
}

async fn a_peer_gives_a_reason_of_a_later_version() -> Ended {
    let node = plan(ONE).start().await;
    let mut hand = served(&node).await;
    hand.send(RecordKind::Close, &[250]).await;
    Ended::by_hand(node, ClosedBy::Them, Heard::Down, hand.id, None).keeping(hand)
}

/// Somebody came from this address already, who `shook` hands or did not; who comes next is not let in.
async fn second_from_one_address(
    limit: impl FnOnce(&mut peerage_transport::proto::admission::AdmissionConfig),
    shook: bool,
) -> Ended {
    let mut one = Plan::open_port(limit);
    one.peers.target_outbound = 0;
    let node = one.start().await;
    let first = Raw::connect(node.addr).await;
    let kept: Box<dyn std::any::Any + Send> = if shook {
        let mut hand = Hand::shake_on(first, FRIEND).await;
        hand.is_served().await;
        Box::new(hand)
    } else {
        Box::new(Initiator::begin(first, keypair(FRIEND)).await)
    };
    let mut second = Raw::connect(node.addr).await;
    assert_eq!(second.told().await, [0; 0], "unread and without a word");
    let peer = keypair(ATTACKER).node_id();
    Ended::by_hand(node, ClosedBy::Us, Heard::Nameless, peer, None).keeping(kept)
}

async fn a_message_is_begun_and_not_gone_on_with() -> Ended {
    let mut one = plan(ONE);
    one.connection.stall_window = SHORT;
    let node = one.start().await;
    let mut hand = served(&node).await;
    hand.send_frames(&[first(BULK, 1 << 20)]).await;
    us_to_hand(node, hand).await
}

/// A peer goes on with nothing and has begun so much that another has to wait.
async fn a_peer_holds_what_others_need() -> Ended {
    let mut one = plan(ONE);
    one.driver.budget = Budget::with_floors(8 << 20, 8);
    one.connection.budget = one.driver.budget.clone();
    let node = one.start().await;
    let mut hand = served(&node).await;
    hand.say(Message::new(BULK, vec![7; 700_000]), false).await;
    let mut friend = Hand::shake(node.addr, FRIEND).await;
    friend.is_served().await;
    friend.say(Message::new(BULK, vec![8; 300_000]), true).await;
    us_to_hand(node, hand).await.keeping(friend)
}
