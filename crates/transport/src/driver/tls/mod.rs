//! Mutual TLS 1.3 with the authorities of a consortium: the other [`SecureChannel`].
//!
//! ```text
//!  link task ── Certified (the connection machine, records in clear) ── Watched ── rustls ── Tapped ── socket
//!                   ▲                                                     │
//!                   └───────────────────── Fate ◄──────────── TlsChannel ─┘  files, judged again
//! ```
//! rustls does the handshake and seals the stream; who is a member `verify.rs` decides, from what `files.rs` reads. What a
//! certificate names is then proved in records (`proto/connection/handshake/certified.rs`), above which everything is as over
//! Noise. A certificate that stops to count while its connection lives ends it, at the next look.

mod connection;
mod files;
mod session;
mod stream;
mod verify;

pub use files::{TlsError, TlsFiles};

use core::{net::SocketAddr, time::Duration};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use peerage_core::{CloseReason, Closed, Connection, DropReason, Message, Now, SecretRng};
use peerage_wire::{DecodeError, RecordDecoder, RecordKind, decode_reason};
use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{BoxedStream, Clock, SecureChannel, Target};
use crate::proto::connection::{ConnectionConfig, SecureConnection, Session};
use connection::Certified;
use files::{ALPN, Material, Wall};
use session::TlsStream;
use stream::{Fate, Tapped, Watched};
use verify::closed_by;

/// The label under which both sides export a value from the session (RFC 8446, 7.5; RFC 5705, 4, has labels begin so).
const EXPORTER: &[u8] = b"EXPORTER-peerage-v1";

/// The first byte of TLS (RFC 8446, 5.1: a record with a handshake message). Our magic begins otherwise.
const TLS: u8 = 0x16;

/// How often the files are looked at, and all certificates in use judged again (our guess: soon beside the hours that it takes
/// to revoke one, rare beside what a judgement costs, about 0.2 ms).
const EVERY: Duration = Duration::from_secs(10);

/// Mutual TLS 1.3.
pub struct TlsChannel {
    config: Arc<ConnectionConfig>,
    files: TlsFiles,
    wall: Arc<Wall>,
    state: Mutex<State>,
}

struct State {
    material: Arc<Material>,
    /// What the files were like just before the material was read from them.
    stamps: Vec<Option<(u64, u64, i64, i64)>>,
    live: Vec<Weak<Fate>>,
}

/// A stream to go on with, and what speaks on it.
type Opened = (BoxedStream, Box<dyn Connection + Send>);

impl TlsChannel {
    /// Reads the certificates. All connections of a node share one configuration, and its identity must be the one that the
    /// certificate names.
    ///
    /// # Errors
    /// Of the operator: files that cannot be read, or a certificate with which nobody would be let in.
    pub fn new(config: Arc<ConnectionConfig>, files: TlsFiles, now: Now) -> Result<Self, TlsError> {
        let wall = Arc::new(Wall::default());
        wall.set(now.wall);
        let stamps = files.stamps();
        let material = Arc::new(Material::load(&files, config.keypair.node_id(), &wall)?);
        material.standing(wall.time()).map_err(|reason| TlsError::Refused {
            path: files.certificate.clone(),
            ca: files.ca.clone(),
            reason,
        })?;
        let state = Mutex::new(State { material, stamps, live: Vec::new() });
        Ok(Self { config, files, wall, state })
    }

    /// Reads the files again, uses what they say from now on, and ends the connections whose certificates count no more. The
    /// own certificate may have been revoked or have expired: that is the others' to act upon, and is only logged. How many
    /// connections it ended.
    ///
    /// # Errors
    /// As of [`new`](Self::new); all stays as it was then, and the watch tries again at each look.
    pub fn reload(&self, now: Now) -> Result<usize, TlsError> {
        self.wall.set(now.wall);
        let stamps = self.files.stamps();
        let material = Arc::new(Material::load(&self.files, self.config.keypair.node_id(), &self.wall)?);
        // Only with what was read: not all that is wrong with a file shows in its stamp once it is mended (a mode, a directory
        // that could not be reached), and a revocation must not be missed for that.
        let mut state = self.state();
        (state.material, state.stamps) = (material, stamps);
        drop(state);
        Ok(self.judge(now))
    }

    /// Judges all certificates in use again, and ends the connections of those that count no more: how many.
    pub fn judge(&self, now: Now) -> usize {
        self.wall.set(now.wall);
        let (material, live) = {
            let mut state = self.state();
            state.live.retain(|fate| fate.strong_count() > 0);
            (Arc::clone(&state.material), state.live.clone())
        };
        let time = self.wall.time();
        if let Err(reason) = material.standing(time) {
            tracing::warn!(%reason, "our own certificate does not count any more: others will refuse it");
        } else if material.is_stale(time) {
            tracing::warn!("the list of revocations should have been replaced by now; it still counts");
        }
        let mut ended = 0;
        for fate in live.iter().filter_map(Weak::upgrade).filter(|fate| fate.ended().is_none()) {
            if let Err(reason) = material.trust.check(&fate.chain, time) {
                fate.end(Closed::by_us(reason));
                ended += 1;
            }
        }
        ended
    }

    /// Looks at the files now: reloads if they changed, and judges what is in use in any case.
    fn look(&self, now: Now) {
        if self.files.stamps() == self.state().stamps {
            self.judge(now);
            return;
        }
        match self.reload(now) {
            Ok(ended) => tracing::info!(ended, "certificates were read again"),
            Err(error) => {
                tracing::error!(%error, "changed certificates are of no use; the old ones stay");
                self.judge(now);
            }
        }
    }

    /// Looks every 10 s from now on whether files changed, and whether certificates in use still count, as long as the channel
    /// lives. Must be called within a tokio runtime.
    pub fn keep_watch(self: &Arc<Self>, clock: Clock) {
        let channel = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                let Some(channel) = channel.upgrade() else { break };
                // Files are read, so not on a thread that connections need.
                match tokio::task::spawn_blocking(move || channel.look(clock.now())).await {
                    Ok(()) => {}
                    // A fault of ours; who is revoked tomorrow must be noticed all the same.
                    Err(error) if error.is_panic() => tracing::error!(%error, "looking at certificates failed"),
                    Err(_) => break, // the runtime ends
                }
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave a state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream on which there will be no connection: `tell` in clear, or nothing more.
    fn refuse(&self, outbound: bool, stream: BoxedStream, remote: SocketAddr, closed: Closed, tell: bool) -> Opened {
        let config = Arc::clone(&self.config);
        let refused = SecureConnection::refused(config, outbound, remote, closed, tell, SecretRng::from_os());
        (stream, Box::new(refused))
    }

    async fn accept(&self, mut stream: BoxedStream, remote: SocketAddr, now: Now) -> Result<Opened, Closed> {
        let first = stream.read_u8().await.map_err(|error| closed_by(&error))?;
        if first != TLS {
            let (closed, tell) = self.other_than_tls(&mut stream, first).await?;
            return Ok(self.refuse(false, stream, remote, closed, tell));
        }
        let material = Arc::clone(&self.state().material);
        let session = ServerConnection::new(Arc::clone(&material.server)).map_err(|error| unusable(&error))?;
        match TlsStream::open(session.into(), Tapped::new(stream, vec![first])).await {
            Ok(stream) => Ok(self.certified(stream, &material, remote, None, now)),
            // The alert was sent; who waits for it must not have it destroyed by what it sent meanwhile.
            Err((error, tapped)) => Ok(self.refuse(false, tapped.stream, remote, closed_by(&error), false)),
        }
    }

    /// Whoever sends a whole preamble of ours is told; everybody else hears nothing.
    async fn other_than_tls(&self, stream: &mut BoxedStream, first: u8) -> Result<(Closed, bool), Closed> {
        let record = read_record(stream, RecordDecoder::new(self.config.magic), vec![first]).await?;
        Ok(match record {
            Ok((RecordKind::Preamble, _)) => (Closed::by_us(CloseReason::OtherSecurity), true),
            Ok((RecordKind::Refuse, reason)) => (Closed::by_them(reason), false),
            Ok(_) => (Closed::by_us(CloseReason::UnexpectedRecord), false),
            Err(error) => (Closed::by_us(error.close_reason()), false),
        })
    }

    async fn dial(&self, stream: BoxedStream, remote: SocketAddr, target: Target, now: Now) -> Result<Opened, Closed> {
        let material = Arc::clone(&self.state().material);
        // No name is sent and none is looked at; rustls wants one all the same.
        let name = ServerName::from(remote.ip());
        let session = ClientConnection::new(Arc::clone(&material.client), name).map_err(|error| unusable(&error))?;
        match TlsStream::open(session.into(), Tapped::new(stream, Vec::new())).await {
            Ok(stream) => Ok(self.certified(stream, &material, remote, Some(target), now)),
            Err((error, tapped)) => {
                let Tapped { mut stream, first, .. } = tapped;
                let closed = match self.refusal(&mut stream, first).await {
                    Some(reason) => Closed::by_them(reason),
                    None => closed_by(&error),
                };
                Ok(self.refuse(true, stream, remote, closed, false))
            }
        }
    }

    /// What a REFUSE record in clear says, if that is what came in place of TLS.
    async fn refusal(&self, stream: &mut BoxedStream, first: Vec<u8>) -> Option<CloseReason> {
        if first.first() != self.config.magic.0.to_be_bytes().first() {
            return None;
        }
        match read_record(stream, RecordDecoder::new(self.config.magic), first).await {
            Ok(Ok((RecordKind::Refuse, reason))) => Some(reason),
            _ => None,
        }
    }

    /// TLS stands: the connection above it, in its handshake.
    fn certified(
        &self,
        stream: TlsStream,
        material: &Arc<Material>,
        remote: SocketAddr,
        target: Option<Target>,
        now: Now,
    ) -> Opened {
        let tls = &stream.session;
        let alpn = tls.alpn_protocol() == Some(ALPN);
        let exporter = tls.export_keying_material([0; 32], EXPORTER, None);
        let chain = tls.peer_certificates().unwrap_or_default().to_vec();
        let fate = Arc::new(Fate::new(chain));
        let outbound = target.is_some();
        // rustls has checked it; the identity that it names is asked for again.
        let certified = material.trust.check(&fate.chain, self.wall.time());
        let (certified, exporter) = match (certified, exporter) {
            (Ok(certified), Ok(exporter)) if alpn => (certified, exporter),
            (Err(reason), _) => return self.refuse_within(stream, fate, outbound, remote, reason),
            _ => return self.refuse_within(stream, fate, outbound, remote, CloseReason::WrongSuite),
        };
        let session = Session {
            exporter,
            own_certificate: material.fingerprint,
            remote_certificate: Sha256::digest(&fate.chain[0]).into(),
            certified,
        };
        self.watch(&fate, material);
        let (config, rng) = (Arc::clone(&self.config), SecretRng::from_os());
        let dialled = target.map(|target| target.expected);
        let connection = SecureConnection::certified(config, remote, session, dialled, now, rng);
        let connection = Certified { connection, fate: Arc::clone(&fate) };
        (Box::new(Watched::new(stream, fate)), Box::new(connection))
    }

    fn refuse_within(
        &self,
        stream: TlsStream,
        fate: Arc<Fate>,
        outbound: bool,
        remote: SocketAddr,
        reason: CloseReason,
    ) -> Opened {
        self.refuse(outbound, Box::new(Watched::new(stream, fate)), remote, Closed::by_us(reason), true)
    }

    /// From now on the certificate is judged with all others; and at once, if the files were read again meanwhile.
    fn watch(&self, fate: &Arc<Fate>, judged_by: &Arc<Material>) {
        let mut state = self.state();
        state.live.retain(|fate| fate.strong_count() > 0);
        state.live.push(Arc::downgrade(fate));
        if Arc::ptr_eq(&state.material, judged_by) {
            return;
        }
        let material = Arc::clone(&state.material);
        drop(state);
        if let Err(reason) = material.trust.check(&fate.chain, self.wall.time()) {
            fate.end(Closed::by_us(reason));
        }
    }
}

/// rustls takes no session from our own configuration.
fn unusable(error: &rustls::Error) -> Closed {
    tracing::error!(%error, "TLS cannot begin");
    Closed::by_us(CloseReason::WrongSuite)
}

/// The next record in clear, `before` having been read already: its kind, and its reason if it is one that has one. What comes
/// behind it is of no interest.
async fn read_record(
    stream: &mut (impl AsyncRead + Unpin),
    mut decoder: RecordDecoder,
    before: Vec<u8>,
) -> Result<Result<(RecordKind, CloseReason), DecodeError>, Closed> {
    let mut bytes = before;
    loop {
        match decoder.read(&mut bytes.as_slice()) {
            Ok(Some(record)) => {
                let reason = decode_reason(record.kind, record.payload()).unwrap_or(CloseReason::Unknown);
                return Ok(Ok((record.kind, reason)));
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        let mut more = [0; 64];
        let count = stream.read(&mut more).await.map_err(|error| closed_by(&error))?;
        if count == 0 {
            return Err(Closed::by_network(CloseReason::StreamEnded));
        }
        bytes.clear();
        bytes.extend_from_slice(&more[..count]);
    }
}

#[async_trait]
impl SecureChannel for TlsChannel {
    async fn open(
        &self,
        stream: BoxedStream,
        remote: SocketAddr,
        target: Option<Target>,
        now: Now,
    ) -> Result<Opened, Closed> {
        self.wall.set(now.wall);
        match target {
            Some(target) => self.dial(stream, remote, target, now).await,
            None => self.accept(stream, remote, now).await,
        }
    }

    fn allows(&self, message: &Message) -> Result<(), DropReason> {
        self.config.permits(message)
    }
}
