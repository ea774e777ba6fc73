//! An authority of a consortium, and certificates good and bad.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use peerage_core::NodeId;
use peerage_transport::driver::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;

/// An authority with its directory of files.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
    serials: AtomicU64,
}

/// What a certificate says; all that a member's should, if nothing else is said.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<String>,
    pub(crate) uses: Vec<ExtendedKeyUsagePurpose>,
    /// From the beginning of one year to that of the other.
    pub(crate) years: (i32, i32),
}

impl Leaf {
    pub(crate) fn of(id: NodeId) -> Self {
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Self { names: vec![format!("peerage:{id}")], uses, years: (2000, 2900) }
    }
}

/// A certificate that was issued.
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) serial: u64,
}

impl Issued {
    /// As rustls wants it.
    pub(crate) fn der(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_file(&self.certificate).expect("a certificate");
        (certificate, PrivateKeyDer::from_pem_file(&self.key).expect("a key"))
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("ring makes keys");
        let root = params.self_signed(&key).expect("a certificate");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ca.pem"), root.pem()).expect("a file");
        Self { issuer: Issuer::new(params, key), dir, serials: AtomicU64::new(1) }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file with the authority's own certificate.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir().join("ca.pem")
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let serial = self.serials.fetch_add(1, Relaxed);
        let mut params = CertificateParams::default();
        let uri = |name: &String| SanType::URI(name.as_str().try_into().expect("ASCII"));
        params.subject_alt_names = leaf.names.iter().map(uri).collect();
        params.extended_key_usages.clone_from(&leaf.uses);
        params.serial_number = Some(serial.into());
        (params.not_before, params.not_after) = (date_time_ymd(leaf.years.0, 1, 1), date_time_ymd(leaf.years.1, 1, 1));
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("ring makes keys");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |kind: &str| self.dir().join(format!("{serial}-{kind}.pem"));
        fs::write(path("certificate"), certificate.pem()).expect("a file");
        write_key(&path("key"), &key.serialize_pem());
        Issued { certificate: path("certificate"), key: path("key"), serial }
    }

    /// Files of a node with a certificate that counts, and a list that revokes nobody of it.
    pub(crate) fn member(&self, id: NodeId) -> TlsFiles {
        self.files(&self.issue(&Leaf::of(id)))
    }

    pub(crate) fn files(&self, issued: &Issued) -> TlsFiles {
        let (certificate, key) = (issued.certificate.clone(), issued.key.clone());
        TlsFiles { ca: self.root(), certificate, key, crl: None }
    }

    /// A list of revocations, due in some year, at a path of its own.
    pub(crate) fn revoke(&self, serials: &[u64], until: i32) -> PathBuf {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(self.serials.fetch_add(1, Relaxed)),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        let path = self.dir().join(format!("crl-{}.pem", self.serials.fetch_add(1, Relaxed)));
        fs::write(&path, list.pem().expect("PEM")).expect("a file");
        path
    }
}

pub(crate) fn write_key(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("a new file");
    file.write_all(text.as_bytes()).expect("room on the disk");
}
