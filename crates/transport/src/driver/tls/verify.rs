//! Which certificates count, and what it is called if they do not.
//!
//! No host names: a certificate is worth the one identity that it names, as a URI `peerage:<64 hexadecimal digits>`.

use core::{cell::Cell, str::FromStr};
use std::{io, sync::Arc};

use peerage_core::{CloseReason, Closed, NodeId};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
};

/// What comes before the identity in the name of a certificate.
pub(super) const SCHEME: &str = "peerage:";

/// Bytes of all certificates of one side together. A leaf has about 500 and an authority as many; it is kept as long as its
/// connection, to be judged again (our guess: enough for three between leaf and root with keys of RSA).
pub(super) const MAX_CHAIN: usize = 8 << 10;

/// Certificates of one side: a leaf and those between it and an authority. Each of these may cost a check of a signature, and
/// strangers may show what they like (our guess, as above: three between leaf and root).
pub(super) const MAX_CERTIFICATES: usize = 4;

/// Whether a list of revocations that should have been replaced by now still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// It does: what it revokes stays revoked, and nobody is cut off because an operator is late.
    Counts,
    /// It does not: to find out that it is stale.
    Fails,
}

/// Whom this node trusts to say who is a member.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) crls: Vec<CertRevocationList<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// The identity that a certificate makes a member, or why it makes none.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], time: UnixTime) -> Result<NodeId, CloseReason> {
        self.check_at(chain, time, Some(Stale::Counts))
    }

    /// The same; `None` does not look at revocations.
    pub(super) fn check_at(
        &self,
        chain: &[CertificateDer<'_>],
        time: UnixTime,
        revocations: Option<Stale>,
    ) -> Result<NodeId, CloseReason> {
        let (leaf, others) = chain.split_first().ok_or(CloseReason::NoCertificate)?;
        let bytes = chain.iter().map(|certificate| certificate.len()).sum::<usize>();
        if chain.len() > MAX_CERTIFICATES || bytes > MAX_CHAIN {
            return Err(CloseReason::BadCertificate);
        }
        let named = |error: webpki::Error| {
            tracing::debug!(%error, "a certificate does not count");
            reason_of(&error)
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(named)?;
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = revocations.and_then(|stale| options(&crls, stale));
        leaf.verify_for_usage(self.algorithms.all, &self.anchors, others, time, Uses::default(), revocation, None)
            .map_err(named)?;
        identity(&leaf).ok_or(CloseReason::BadCertificate)
    }
}

/// `None` if there are no lists. An authority without one has revoked nobody.
fn options<'a>(crls: &'a [&'a CertRevocationList<'a>], stale: Stale) -> Option<RevocationOptions<'a>> {
    let expiration = match stale {
        Stale::Counts => ExpirationPolicy::Ignore,
        Stale::Fails => ExpirationPolicy::Enforce,
    };
    let options = RevocationOptionsBuilder::new(crls).ok()?;
    Some(options.with_status_policy(UnknownStatusPolicy::Allow).with_expiration_policy(expiration).build())
}

/// The one identity that a leaf names, in the one form in which identities are written.
fn identity(leaf: &EndEntityCert<'_>) -> Option<NodeId> {
    let mut names = leaf.valid_uri_names().filter_map(|name| name.strip_prefix(SCHEME));
    let (name, None) = (names.next()?, names.next()) else { return None };
    NodeId::from_str(name).ok().filter(|id| id.to_string() == name)
}

/// A leaf must be for servers and for clients, in so many words: every node is both. An authority that names uses must
/// name both too.
#[derive(Debug, Default)]
struct Uses {
    /// The leaf is looked at first.
    after_leaf: Cell<bool>,
}

impl ExtendedKeyUsageValidator for Uses {
    fn validate(&self, uses: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut none, mut server, mut client) = (true, false, false);
        for usage in uses {
            let oid = usage?.to_decoded_oid();
            none = false;
            server |= oid == KeyUsage::SERVER_AUTH_REPR;
            client |= oid == KeyUsage::CLIENT_AUTH_REPR;
        }
        let authority = self.after_leaf.replace(true);
        if server && client || authority && none { Ok(()) } else { Err(webpki::Error::ExtensionValueInvalid) }
    }
}

const fn reason_of(error: &webpki::Error) -> CloseReason {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } | Error::InvalidCertValidity => {
            CloseReason::CertificateExpired
        }
        Error::CertRevoked => CloseReason::CertificateRevoked,
        // An authority of the same name and another key is another authority, and so is one whose list is not its own.
        Error::UnknownIssuer
        | Error::InvalidSignatureForPublicKey
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::CrlExpired { .. }
        | Error::UnknownRevocationStatus => CloseReason::UnknownAuthority,
        _ => CloseReason::BadCertificate,
    }
}

/// What makes rustls send the alert from which the other side reads this reason again ([`closed_by`]).
fn refusal(reason: CloseReason) -> rustls::Error {
    match reason {
        CloseReason::CertificateExpired => CertificateError::Expired.into(),
        CloseReason::CertificateRevoked => CertificateError::Revoked.into(),
        CloseReason::UnknownAuthority => CertificateError::UnknownIssuer.into(),
        _ => CertificateError::BadEncoding.into(),
    }
}

/// How a stream ended according to an error of it: by a verdict of ours, by an alert of the other side's, or by nobody's will.
pub(super) fn closed_by(error: &io::Error) -> Closed {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Closed::by_network(match error.kind() {
            io::ErrorKind::UnexpectedEof => CloseReason::StreamEnded,
            _ => CloseReason::StreamError,
        });
    };
    tracing::debug!(error = %tls, "TLS ended");
    match tls {
        rustls::Error::AlertReceived(alert) => Closed::by_them(told(*alert)),
        rustls::Error::NoCertificatesPresented => Closed::by_us(CloseReason::NoCertificate),
        rustls::Error::InvalidCertificate(error) => Closed::by_us(match error {
            CertificateError::Expired => CloseReason::CertificateExpired,
            CertificateError::Revoked => CloseReason::CertificateRevoked,
            CertificateError::UnknownIssuer => CloseReason::UnknownAuthority,
            // Of a message of the handshake: whoever showed the certificate does not have its key.
            CertificateError::BadSignature => CloseReason::BadHandshake,
            _ => CloseReason::BadCertificate,
        }),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
            Closed::by_us(CloseReason::WrongSuite)
        }
        rustls::Error::DecryptError => Closed::by_us(CloseReason::BadRecord),
        _ => Closed::by_us(CloseReason::BadHandshake),
    }
}

/// What an alert (RFC 8446, 6) says in our words.
const fn told(alert: AlertDescription) -> CloseReason {
    match alert {
        AlertDescription::CertificateExpired => CloseReason::CertificateExpired,
        AlertDescription::CertificateRevoked => CloseReason::CertificateRevoked,
        AlertDescription::UnknownCA => CloseReason::UnknownAuthority,
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => CloseReason::NoCertificate,
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => CloseReason::BadCertificate,
        AlertDescription::NoApplicationProtocol
        | AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity => CloseReason::WrongSuite,
        AlertDescription::BadRecordMac => CloseReason::BadRecord,
        _ => CloseReason::BadHandshake,
    }
}

/// [`Trust`] as rustls asks it, in both roles.
#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<Trust>);

impl Verifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<_> = core::iter::once(leaf).chain(others).cloned().collect();
        self.0.check(&chain, now).map(drop).map_err(refusal)
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.algorithms)
    }
}

/// TLS 1.2 is not offered, so nobody signs in its way.
const fn not_offered() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

/// What both of rustls' traits ask of signatures, in the same words.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(not_offered())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.verify_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, others, now).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    /// None: strangers are not told whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(leaf, others, now).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}
