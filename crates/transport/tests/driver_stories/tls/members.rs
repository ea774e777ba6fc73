//! Members of one consortium: who they are to each other, and what a certificate alone is worth.

use std::sync::Arc;

use peerage_core::*;
use peerage_transport::proto::connection::{SecureConnection, Session};
use rustls::{AlertDescription, HandshakeKind, client::Resumption};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::stage::{Link, channel, end, ends, meet, now, over, streams};
use crate::{
    authority::{Authority, Leaf},
    harness::{Net, Plan, in_time, pair},
    probe::{Do, ECHO, NOTE},
    stranger::{alert, connect, stranger},
};

const LONG: core::time::Duration = crate::harness::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_meet_and_talk_as_over_noise() {
    let net = Net::Tls(Arc::new(Authority::new("of ours")));
    let (mut a, mut b) = pair(&net, Plan::new(1), Plan::new(2)).await;
    a.send(&b, Message::new(NOTE, "hello")).await;
    assert_eq!(b.see_message(a.id, NOTE).await, Message::new(NOTE, "hello"));
    b.order(Do::Request(a.id, 1, Message::new(ECHO, "and"), LONG)).await;
    assert_eq!(b.see_response(1).await, Ok(Message::new(ECHO, "and")));
    b.handle.shutdown().await;
    assert_eq!(a.see_down(b.id).await, Closed::by_them(CloseReason::Shutdown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_learn_who_the_other_is() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let [of_a, of_b] = [&a, &b].map(|plan| channel(plan, authority.member(plan.id())));
    let [(_, at_a), (_, at_b)] = meet(&of_a, &of_b).await;
    assert_eq!((at_a.peer, at_a.outbound, at_a.dial_key), (b.id(), true, None));
    assert_eq!((at_b.peer, at_b.outbound, at_b.dial_key), (a.id(), false, None));
    assert_eq!(at_a.listen.len(), 1, "what a node says of itself comes with its proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_itself_over_tls_hears_it_on_both_ends() {
    let authority = Authority::new("of ours");
    let a = Plan::new(1);
    let of_a = channel(&a, authority.member(a.id()));
    let reason = CloseReason::SelfConnection;
    assert_eq!(ends(&of_a, &of_a).await.map(|closed| closed.reason), [reason; 2]);
}

/// A side that does TLS with a certificate of member `certified`, and has the session's values in its hands.
async fn by_hand(
    authority: &Authority,
    certified: &Plan,
    stream: peerage_transport::driver::BoxedStream,
    peer: NodeId,
) -> (tokio_rustls::client::TlsStream<peerage_transport::driver::BoxedStream>, Session) {
    let (certificate, key) = authority.issue(&Leaf::of(certified.id())).der();
    let own_certificate = Sha256::digest(&certificate).into();
    let stream = connect(stranger(Some((certificate, key)), &["peerage/1"]), stream).await.expect("TLS");
    let tls = stream.get_ref().1;
    let exporter = tls.export_keying_material([0; 32], b"EXPORTER-peerage-v1", None).expect("TLS stands");
    let remote_certificate = Sha256::digest(&tls.peer_certificates().expect("one")[0]).into();
    (stream, Session { exporter, own_certificate, remote_certificate, certified: peer })
}

/// What comes of a side that proves identity `who` with `change`d values of its session: at its end, and at ours.
async fn proving(who: &Plan, certified: &Plan, change: impl FnOnce(&mut Session)) -> [Result<NodeId, Closed>; 2] {
    let authority = Authority::new("of ours");
    let a = Plan::new(1);
    let honest = channel(&a, authority.member(a.id()));
    let [(stream, remote), accepted] = streams().await;
    let dials = async {
        let (stream, mut session) = by_hand(&authority, certified, stream, a.id()).await;
        change(&mut session);
        let config = who.security(crate::harness::anywhere());
        let connection = SecureConnection::certified(config, remote, session, Some(None), now(), SecretRng::from_os());
        let mut link = over(Box::new(stream), connection);
        outcome(&mut link).await
    };
    let accepts = async {
        let opened = peerage_transport::driver::SecureChannel::open(&honest, accepted.0, accepted.1, None, now()).await;
        let (stream, connection) = opened.expect("TLS stands");
        outcome(&mut Link::new(stream, connection)).await
    };
    let (theirs, ours) = tokio::join!(dials, accepts);
    [theirs, ours]
}

async fn outcome(link: &mut Link) -> Result<NodeId, Closed> {
    match link.first().await {
        ConnectionEvent::Established(info) => Ok(info.peer),
        _ => Err(link.goodbye().await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_worth_nothing_without_the_key_of_the_identity_that_it_names() {
    let [a, b, c] = [Plan::new(1), Plan::new(2), Plan::new(3)];
    // First that the hand does it right.
    assert_eq!(proving(&b, &b, |_| {}).await, [Ok(a.id()), Ok(b.id())]);
    // A member that uses the certificate of another one.
    let reason = CloseReason::BadCertificate;
    assert_eq!(proving(&c, &b, |_| {}).await, [Err(Closed::by_them(reason)), Err(Closed::by_us(reason))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_holds_for_its_session_and_its_certificate_alone() {
    let b = Plan::new(2);
    let reason = CloseReason::BadProof;
    let refused = [Err(Closed::by_them(reason)), Err(Closed::by_us(reason))];
    // Made in another session, and passed on by whoever sits between the two.
    assert_eq!(proving(&b, &b, |session| session.exporter = [7; 32]).await, refused);
    // Made for another certificate of the same member.
    assert_eq!(proving(&b, &b, |session| session.own_certificate = [7; 32]).await, refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_tickets_to_resume_a_session_with() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let honest = channel(&a, authority.member(a.id()));
    let mut config = stranger(Some(authority.issue(&Leaf::of(b.id())).der()), &["peerage/1"]);
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    for _ in 0..2 {
        let [(stream, _), accepted] = streams().await;
        let dials = async {
            let mut stream = connect(config.clone(), stream).await.expect("TLS");
            // It hangs up without a word; whatever there was to read has been read then.
            use tokio::io::AsyncWriteExt;
            stream.shutdown().await.expect("a stream");
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
            let tls = stream.get_ref().1;
            (tls.tls13_tickets_received(), tls.handshake_kind(), tls.is_early_data_accepted())
        };
        let (seen, closed) = tokio::join!(dials, end(&honest, accepted, false, now()));
        assert_eq!(seen, (0, Some(HandshakeKind::Full), false));
        assert_eq!(closed, Closed::by_network(CloseReason::StreamEnded));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_speaks_another_protocol_within_tls_is_told() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let honest = channel(&a, authority.member(a.id()));
    let certificate = || Some(authority.issue(&Leaf::of(b.id())).der());
    let closed = Closed::by_us(CloseReason::WrongSuite);

    let [(stream, _), accepted] = streams().await;
    let dials =
        async { alert(&connect(stranger(certificate(), &["h2"]), stream).await.err().expect("not our protocol")) };
    let both = tokio::join!(dials, end(&honest, accepted, false, now()));
    assert_eq!(both, (AlertDescription::NoApplicationProtocol, closed));

    // Whoever names none is let through by TLS, and told in a record.
    let [(stream, _), accepted] = streams().await;
    let dials = async {
        let mut stream = connect(stranger(certificate(), &[]), stream).await.expect("TLS");
        let mut said = Vec::new();
        in_time("a refusal", stream.read_to_end(&mut said)).await.expect("a clean end");
        said
    };
    let (said, ended) = tokio::join!(dials, end(&honest, accepted, false, now()));
    assert_eq!((said.last(), ended), (Some(&CloseReason::WrongSuite.code()), closed));
}
