//! How connections end for reasons of certificates: a node of a consortium is dialled, and refuses.

use std::{fs, sync::Arc};

use peerage_core::{CloseReason, Closed, ClosedBy, Now, UnixMillis};
use peerage_transport::driver::{
    Clock, TcpFabric,
    tls::{TlsChannel, TlsFiles},
};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use rustls::AlertDescription;
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{
    authority::{Authority, Issued, Leaf},
    closes::{ONE, TWO, dial, plan},
    hand::ATTACKER,
    stage::in_time,
    stranger::{alert, connect, stranger},
    victim::{Plan, Victim, keypair},
    witness::{Ended, Heard},
};

fn now() -> Now {
    Clock::start().now()
}

/// A node with these certificates, which it looked at then.
async fn start(plan: Plan, files: TlsFiles, then: Now) -> Victim {
    let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    plan.start_over(fabric, |connection| {
        Arc::new(TlsChannel::new(connection, files, then).expect("certificates that counted then"))
    })
}

/// A node with these certificates is dialled by another one, with those, and refuses it.
async fn dialled(ours: TlsFiles, theirs: TlsFiles, then: Now, reason: CloseReason) -> Ended {
    let node = start(plan(ONE), ours, now()).await;
    let other = start(plan(TWO), theirs, then).await;
    dial(&other, node.id, node.addr).await;
    Ended::between(node, ClosedBy::Us, Heard::Nameless, (other, Closed::by_them(reason), Heard::DialFailed))
}

fn members() -> (Authority, TlsFiles, Issued) {
    let authority = Authority::new("of ours");
    let ours = authority.member(keypair(ONE).node_id());
    let theirs = authority.issue(&Leaf::of(keypair(TWO).node_id()));
    (authority, ours, theirs)
}

pub(crate) async fn a_member_of_another_consortium_comes() -> Ended {
    let (authority, ours, _) = members();
    let other = Authority::new("of others");
    let theirs = other.member(keypair(TWO).node_id());
    // It would take us.
    let ca = other.dir().join("both.pem");
    let both = [&authority, &other].map(|authority| fs::read_to_string(authority.root()).expect("a file")).concat();
    fs::write(&ca, both).expect("a file");
    dialled(ours, TlsFiles { ca, ..theirs }, now(), CloseReason::UnknownAuthority).await.keeping((authority, other))
}

pub(crate) async fn a_member_comes_that_was_revoked() -> Ended {
    let (authority, ours, theirs) = members();
    let crl = Some(authority.revoke(&[theirs.serial], 2900));
    let files = authority.files(&theirs);
    dialled(TlsFiles { crl, ..ours }, files, now(), CloseReason::CertificateRevoked).await.keeping(authority)
}

pub(crate) async fn a_member_comes_too_late() -> Ended {
    let (authority, ours, _) = members();
    let short = authority.issue(&Leaf { years: (2000, 2011), ..Leaf::of(keypair(TWO).node_id()) });
    let then = Now { wall: UnixMillis((2005 - 1970) * 365 * 86_400_000), ..now() };
    dialled(ours, authority.files(&short), then, CloseReason::CertificateExpired).await.keeping(authority)
}

/// Somebody dials by hand, with this certificate or none, and reads what it is told.
async fn by_hand(leaf: Option<Leaf>, reason: CloseReason, expected: AlertDescription) -> Ended {
    let (authority, ours, _) = members();
    let node = start(plan(ONE), ours, now()).await;
    let certificate = leaf.map(|leaf| authority.issue(&leaf).der());
    let stream = TcpStream::connect(node.addr).await.expect("it listens");
    let mut stream = connect(stranger(certificate, &["peerage/1"]), stream).await.expect("for TLS 1.3 it is in");
    let told = in_time("an alert", stream.read(&mut [0; 1])).await.expect_err("it is not");
    assert_eq!(alert(&told), expected);
    let peer = keypair(ATTACKER).node_id();
    Ended::by_hand(node, ClosedBy::Us, Heard::Nameless, peer, Some(reason)).keeping(authority)
}

pub(crate) async fn a_certificate_is_for_one_role_alone() -> Ended {
    let leaf = Leaf { uses: vec![ServerAuth], ..Leaf::of(keypair(ATTACKER).node_id()) };
    by_hand(Some(leaf), CloseReason::BadCertificate, AlertDescription::BadCertificate).await
}

pub(crate) async fn somebody_shows_no_certificate() -> Ended {
    by_hand(None, CloseReason::NoCertificate, AlertDescription::CertificateRequired).await
}
