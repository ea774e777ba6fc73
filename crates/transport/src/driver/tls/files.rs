//! Certificates, keys and revocations at rest, read together and used together.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use peerage_core::{CloseReason, NodeId, UnixMillis};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use zeroize::Zeroizing;

use super::verify::{SCHEME, Stale, Trust, Verifier};

/// The protocol within TLS (RFC 7301).
pub(super) const ALPN: &[u8] = b"peerage/1";

/// No file is read beyond this (our guess: a list that revokes twenty thousand certificates).
const MAX_FILE: u64 = 1 << 20;

/// Permission bits that nobody but the owner of a key may have.
const OTHERS: u32 = 0o077;

/// Where the certificates of a node are. All files are PEM (RFC 7468).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that say who is a member, one or more.
    pub ca: PathBuf,
    /// The node's own certificate, then those between it and an authority, if any.
    pub certificate: PathBuf,
    /// Its private key (PKCS #8), of mode 0600: for TLS alone, not that of the node's identity.
    pub key: PathBuf,
    /// What the authorities have revoked, if they have said so: one list of each at most.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// What tells whether any of the files was replaced or written to.
    pub(super) fn stamps(&self) -> Vec<Option<(u64, u64, i64, i64)>> {
        let files = [&self.ca, &self.certificate, &self.key].into_iter().chain(&self.crl);
        let stamp = |file: &PathBuf| fs::metadata(file).ok();
        files.map(|file| stamp(file).map(|data| (data.ino(), data.len(), data.mtime(), data.mtime_nsec()))).collect()
    }
}

/// Certificates that a node cannot use. The operator's to mend; each says how.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The operating system refused.
    #[error("cannot read {}: {reason}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Others than the owner may read or write the key.
    #[error(
        "{path} has mode {mode:04o}, so its key may be known to others: run `chmod 600 {path}`, or have a new one issued",
        path = .path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Longer than any such file.
    #[error("{} is longer than {MAX_FILE} bytes: give the path of the right file", .0.display())]
    TooLong(PathBuf),
    /// It does not hold what it should.
    #[error("{} holds no {what} in PEM that can be read: give the path of the right file", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// Of two lists of one authority only one would be looked at, perhaps the older one.
    #[error("{} holds two lists of revocations of one authority: leave the newest one of each in it", .0.display())]
    TwoLists(PathBuf),
    /// The key is not that of the certificate.
    #[error(
        "the key in {key} is not that of the certificate in {certificate}: give both as they were issued together",
        key = .key.display(), certificate = .certificate.display()
    )]
    KeyMismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The certificate is somebody else's.
    #[error(
        "the certificate in {path} is that of node {named}, and this is node {own}: have one issued for `{SCHEME}{own}`",
        path = .path.display()
    )]
    WrongNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        named: NodeId,
        /// Who we are.
        own: NodeId,
    },
    /// The node's own certificate would be refused by whoever trusts the same authorities.
    #[error(
        "the certificate in {path} does not count ({reason}: {words}): have another one issued by an authority in {ca}",
        path = .path.display(), ca = .ca.display(), words = .reason.explain()
    )]
    Refused {
        /// The file with the certificate.
        path: PathBuf,
        /// The file with the authorities.
        ca: PathBuf,
        /// Why.
        reason: CloseReason,
    },
}

/// The time by which certificates are judged: that of the driver, at the last look.
#[derive(Debug, Default)]
pub(super) struct Wall(AtomicU64);

impl Wall {
    pub(super) fn set(&self, wall: UnixMillis) {
        self.0.store(wall.0, Relaxed);
    }

    pub(super) fn time(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(self.0.load(Relaxed)))
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.time())
    }
}

/// What the files say, ready for use.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) trust: Arc<Trust>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    /// SHA-256 of our own certificate.
    pub(super) fingerprint: [u8; 32],
    chain: Vec<CertificateDer<'static>>,
}

impl Material {
    /// Reads the files, and sees that the own certificate is `own`'s, and one by the authorities.
    pub(super) fn load(files: &TlsFiles, own: NodeId, wall: &Arc<Wall>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let trust = Arc::new(load_trust(files, &provider)?);
        let (chain, key) = load_own(files, &provider)?;
        let refused = |reason| TlsError::Refused { path: files.certificate.clone(), ca: files.ca.clone(), reason };
        // A moment at which it is valid is not known here, so only what never changes is judged; see `standing`.
        let named = match trust.check_at(&chain, wall.time(), None) {
            Err(CloseReason::CertificateExpired) => None,
            judged => Some(judged.map_err(refused)?),
        };
        if let Some(named) = named.filter(|named| *named != own) {
            return Err(TlsError::WrongNode { path: files.certificate.clone(), named, own });
        }
        let fingerprint = Sha256::digest(&chain[0]).into();
        let (client, server) = configure(&provider, &trust, key, wall);
        Ok(Self { trust, client, server, fingerprint, chain })
    }

    /// Whether the own certificate counts now.
    pub(super) fn standing(&self, time: UnixTime) -> Result<(), CloseReason> {
        self.trust.check(&self.chain, time).map(drop)
    }

    /// Whether the list of revocations of our authority should have been replaced by now.
    pub(super) fn is_stale(&self, time: UnixTime) -> bool {
        self.standing(time).is_ok() && self.trust.check_at(&self.chain, time, Some(Stale::Fails)).is_err()
    }
}

fn load_trust(files: &TlsFiles, provider: &CryptoProvider) -> Result<Trust, TlsError> {
    let malformed = |path: &Path, what| TlsError::Malformed { path: path.to_owned(), what };
    let authorities: Vec<CertificateDer<'static>> = read_pem(&files.ca, "certificate")?;
    let anchors = authorities
        .iter()
        .map(|certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| malformed(&files.ca, "certificate of an authority"))?;
    let (mut crls, mut issuers) = (Vec::new(), BTreeSet::new());
    if let Some(path) = &files.crl {
        for der in read_pem::<CertificateRevocationListDer<'static>>(path, "list of revocations")? {
            let list = OwnedCertRevocationList::from_der(&der).map_err(|_| malformed(path, "list of revocations"))?;
            let list = CertRevocationList::from(list);
            if !issuers.insert(list.issuer().to_vec()) {
                return Err(TlsError::TwoLists(path.clone()));
            }
            crls.push(list);
        }
    }
    Ok(Trust { anchors, crls, algorithms: provider.signature_verification_algorithms })
}

type Own = (Vec<CertificateDer<'static>>, CertifiedKey);

fn load_own(files: &TlsFiles, provider: &CryptoProvider) -> Result<Own, TlsError> {
    let chain: Vec<CertificateDer<'static>> = read_pem(&files.certificate, "certificate")?;
    let malformed = || TlsError::Malformed { path: files.key.clone(), what: "private key" };
    let text = read(&files.key, true)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| malformed())?;
    let certified = CertifiedKey::from_der(chain.clone(), key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::KeyMismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        _ => malformed(),
    })?;
    Ok((chain, certified))
}

/// TLS 1.3 alone, a certificate from both sides, and nothing that outlives a session.
fn configure(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    key: CertifiedKey,
    wall: &Arc<Wall>,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let key = Arc::new(SingleCertAndKey::from(key));
    let verifier = Arc::new(Verifier(Arc::clone(trust)));
    let time: Arc<dyn TimeProvider> = Arc::<Wall>::clone(wall);
    let mut client = ClientConfig::builder_with_details(Arc::clone(provider), Arc::clone(&time))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Verifier>::clone(&verifier))
        .with_client_cert_resolver(Arc::<SingleCertAndKey>::clone(&key));
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    client.enable_early_data = false;
    let mut server = ServerConfig::builder_with_details(Arc::clone(provider), time)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(key);
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    (Arc::new(client), Arc::new(server))
}

/// All values of a kind in a PEM file; at least one.
fn read_pem<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, TlsError> {
    let text = read(path, false)?;
    let values = T::pem_slice_iter(&text).collect::<Result<Vec<T>, pem::Error>>();
    match values {
        Ok(values) if !values.is_empty() => Ok(values),
        _ => Err(TlsError::Malformed { path: path.to_owned(), what }),
    }
}

fn read(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |reason| TlsError::Io { path: path.to_owned(), reason };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, not of the path, which might name another one by now.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if secret && mode & OTHERS != 0 {
        return Err(TlsError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE { Err(TlsError::TooLong(path.to_owned())) } else { Ok(text) }
}
