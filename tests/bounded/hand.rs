//! Somebody who shakes hands like a correct node and then seals whatever it wants.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use peerage_core::{Budget, Message, SecretRng};
use peerage_transport::proto::{
    connection::ConnectionConfig,
    keypair::Keypair,
    noise::{
        HandshakeState, Role, Split,
        identity::{Claim, Hello, read_proof, seal_payload},
    },
};
use peerage_wire::{
    Envelope, Fragmenter, Magic, Preamble, RecordDecoder, RecordKind, begin_sealed, finish_sealed,
    limits::{MAX_HANDSHAKE, MAX_PLAINTEXT, RECORD_HEADER},
    put_record,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::victim;

/// A record in clear.
pub(crate) fn record(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_record(&mut bytes, Magic::DEV, kind, |out| out.extend_from_slice(payload));
    bytes
}

/// What a correct initiator says first.
pub(crate) fn preamble() -> Vec<u8> {
    let value = Preamble { version_min: 1, version_max: 1, network: victim::network(), pattern: 1, suite: 1, flags: 0 };
    record(RecordKind::Preamble, &value.encode())
}

/// What the system may hold for whoever does not read, or nearly: or all answers would end there.
const SMALL_BUFFER: u32 = 4 << 10;

/// A stream from an address of one's own choice in 127.0.0.0/8, each number from a /24 of its own.
pub(crate) async fn connect(number: usize, addr: SocketAddr) -> io::Result<TcpStream> {
    let [.., high, low] = number.to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SMALL_BUFFER)?;
    socket.set_send_buffer_size(16 * SMALL_BUFFER)?;
    socket.bind((Ipv4Addr::new(127, 1 + high, low, 1), 0).into())?;
    let stream = socket.connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Under keys.
pub(crate) struct Hand {
    pub(crate) stream: TcpStream,
    pub(crate) keys: Keys,
}

/// Seals what one side says.
pub(crate) struct Keys(Split);

fn other<E: std::fmt::Debug>(error: E) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

impl Hand {
    pub(crate) async fn shake(mut stream: TcpStream, keypair: &Arc<Keypair>) -> io::Result<Self> {
        let mut rng = SecretRng::from_os();
        let config = configuration(keypair, &mut rng);
        let mut noise = begin(&mut stream, &config, &mut rng).await?;
        let second = read_record(&mut stream).await?;
        read_proof(&mut noise, &second, keypair.node_id()).map_err(other)?;
        let claim =
            Claim { role: noise.role(), handshake_hash: *noise.handshake_hash(), static_key: *noise.local_static() };
        let hello = Hello::new(1 << 56, Vec::new()).expect("no address");
        let mut third = Vec::new();
        noise.write_message(&seal_payload(keypair, &claim, &hello), &mut third).expect("it is our turn");
        stream.write_all(&record(RecordKind::Handshake, &third)).await?;
        Ok(Self { stream, keys: Keys(noise.split().map_err(other)?) })
    }

    /// Goes half of the way: what follows is the beginning of a last message, which never ends.
    pub(crate) async fn half(mut stream: TcpStream, keypair: &Arc<Keypair>) -> io::Result<TcpStream> {
        let mut rng = SecretRng::from_os();
        begin(&mut stream, &configuration(keypair, &mut rng), &mut rng).await?;
        read_record(&mut stream).await?;
        let third = record(RecordKind::Handshake, &[7; MAX_HANDSHAKE]);
        stream.write_all(&third[..third.len() - 1]).await?;
        Ok(stream)
    }
}

fn configuration(keypair: &Arc<Keypair>, rng: &mut SecretRng) -> ConnectionConfig {
    ConnectionConfig::new(Arc::clone(keypair), victim::network(), Magic::DEV, Arc::default(), Budget::default(), rng)
}

/// The preamble and message 1.
async fn begin(stream: &mut TcpStream, config: &ConnectionConfig, rng: &mut SecretRng) -> io::Result<HandshakeState> {
    let mut first = preamble();
    let prologue = [b"peerage-v1", &*first].concat();
    let mut noise = HandshakeState::xx(Role::Initiator, &prologue, config.static_key.clone(), rng);
    put_record(&mut first, Magic::DEV, RecordKind::Handshake, |out| noise.write_message(&[], out).expect("first"));
    stream.write_all(&first).await?;
    Ok(noise)
}

impl Keys {
    /// What the other side sealed.
    pub(crate) fn open<'a>(&mut self, body: &'a mut [u8]) -> &'a mut [u8] {
        self.0.receive.decrypt_with_ad(&[], body).expect("authentic")
    }

    /// One sealed record of frames.
    pub(crate) fn seal(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(frames.len() + 64);
        let start = begin_sealed(&mut record, RecordKind::Data);
        record.extend_from_slice(frames);
        let body = finish_sealed(&mut record, start);
        let tag = self.0.send.encrypt_with_ad(&[], &mut record[body..]).expect("a fresh key");
        record.extend_from_slice(&tag);
        record
    }
}

async fn read_record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut decoder = RecordDecoder::new(Magic::DEV);
    let mut bytes = vec![0; RECORD_HEADER];
    stream.read_exact(&mut bytes).await?;
    loop {
        if let Some(record) = decoder.read(&mut &bytes[..]).map_err(other)? {
            return match record.kind {
                RecordKind::Handshake => Ok(record.payload().to_vec()),
                kind => Err(other(kind)),
            };
        }
        bytes.resize(1, 0);
        stream.read_exact(&mut bytes).await?;
    }
}

/// What one record holds: a message that fits, or a piece of one that does not. Nothing is cut that fits.
pub(crate) fn pieces(message: Message, envelope: Envelope) -> Vec<Vec<u8>> {
    let mut fragments = Fragmenter::new(message, envelope);
    let mut records = Vec::new();
    while !fragments.is_done() {
        let mut frames = Vec::new();
        fragments.fill(MAX_PLAINTEXT, &mut frames);
        records.push(frames);
    }
    records
}
