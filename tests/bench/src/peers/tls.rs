//! tokio-rustls: TLS 1.3 alone, X25519, ChaCha20-Poly1305 from ring, both sides with Ed25519 certificates of one authority.

use std::sync::Arc;

use futures::future::join;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::rustls::{
    CipherSuite, ClientConfig, NamedGroup, RootCertStore, ServerConfig, client::Resumption, crypto::ring,
    server::NoServerSessionStorage, server::WebPkiClientVerifier, version::TLS13,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, client, rustls::pki_types::PrivateKeyDer, rustls::pki_types::ServerName, server,
};

pub(crate) const NAME: &str = "tokio-rustls (ring, ChaCha20)";

/// Both sides' configurations.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
        let provider = Arc::new(provider);
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("the system gives entropy");
        let authority_key = key();
        let mut authority = CertificateParams::new(Vec::new()).expect("no name is wrong");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(authority, authority_key);
        let leaf = |name: &str| {
            let key = key();
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("a root");
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let (certificate, secret) = leaf("localhost");
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("roots"))
            .with_single_cert(vec![certificate], secret)
            .expect("key and certificate fit");
        // A session that is resumed skips what is measured.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let (certificate, secret) = leaf("client");
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], secret)
            .expect("key and certificate fit");
        client.resumption = Resumption::disabled();
        Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() }
    }

    /// A handshake of both sides over any stream.
    pub(crate) async fn over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        ours: S,
        theirs: S,
    ) -> (client::TlsStream<S>, server::TlsStream<S>) {
        let name = ServerName::try_from("localhost").expect("a name");
        let (client, server) = join(self.connector.connect(name, ours), self.acceptor.accept(theirs)).await;
        (client.expect("a handshake"), server.expect("a handshake"))
    }

    /// The same over loopback.
    pub(crate) async fn pair(&self) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
        let (ours, theirs) = tcp_pair().await;
        self.over(ours, theirs).await
    }
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let (client, server) = join(TcpStream::connect(addr), listener.accept()).await;
    let (client, (server, _)) = (client.expect("loopback"), server.expect("loopback"));
    client.set_nodelay(true).expect("a TCP stream");
    server.set_nodelay(true).expect("a TCP stream");
    (client, server)
}
