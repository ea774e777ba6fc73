//! Bodies of the fuzz targets `transport_*`: what must hold whatever a stranger, somebody on the path, or a peer with
//! keys of its own sends. `tests/fuzz/README.md` says how they are run; the tests below replay what was found.

use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{
    Budget, Class, CloseReason, Command, Connection, ConnectionEvent, DialKey, Layer, LinkInfo, Message, NetworkId,
    NodeId, Now, SecretRng, Seed,
};
use peerage_wire::{Limits, Magic};
use serde::{Deserialize, Serialize};

use crate::{
    key_file,
    proto::{
        connection::{self, ConnectionConfig, SecureConnection, Session},
        keypair::Keypair,
        noise::{
            Role,
            identity::{Claim, MAX_EARLY, open_first_payload, open_payload, seal_first_payload, seal_payload},
        },
        signed::{SIGNED_OVERHEAD, Signable, Signed, SignedError},
    },
};

#[path = "../../../tests/fuzz/shared/input.rs"]
pub mod input;

use input::Input;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("transport_handshake", handshake),
    ("transport_certified", certified),
    ("transport_identity", identity),
    ("transport_connection", open_connection),
    ("transport_signed", signed),
    ("transport_key_file", key_text),
];

const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

/// What may be asked with the first words, and is by whoever knows a key.
const EARLY: Command = Command::new(Layer::Application, 0, Class::Signal);

fn question() -> Message {
    Message::new(EARLY, vec![8; 40])
}

/// A connection that stands, and a peer that holds its keys and says what it likes.
pub fn open_connection(data: &[u8]) {
    connection::fuzz::open(data);
}

/// One end of a handshake, with what it said of its outcome.
struct End {
    own_key: DialKey,
    connection: SecureConnection,
    established: Option<LinkInfo>,
    closed: Option<CloseReason>,
    /// Every byte that it sent and received so far.
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl End {
    /// The dialler knows this key of whom it dials.
    fn new(number: u8, outbound: bool, dial_key: Option<DialKey>) -> Self {
        Self::with(number, |config, remote, rng| {
            if outbound {
                SecureConnection::ask(config, remote, None, dial_key, Some(question()), Now::default(), rng)
            } else {
                SecureConnection::new(config, false, remote, None, Now::default(), rng)
            }
        })
    }

    /// On a stream that TLS has secured, whose certificates name the dialler 1 and the listener 2.
    fn certified(number: u8, exporter: [u8; 32]) -> Self {
        let other = 3 - number;
        let session = Session {
            exporter,
            own_certificate: [number; 32],
            remote_certificate: [other; 32],
            certified: keypair(other).node_id(),
        };
        let dialled = (number == 1).then_some(None);
        Self::with(number, |config, remote, rng| {
            SecureConnection::certified(config, remote, session, dialled, Now::default(), rng)
        })
    }

    fn with(
        number: u8,
        connection: impl FnOnce(Arc<ConnectionConfig>, core::net::SocketAddr, SecretRng) -> SecureConnection,
    ) -> Self {
        let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(number.into()));
        let keypair = Arc::new(keypair(number));
        let limits = Arc::new(Limits::default());
        let mut config = ConnectionConfig::new(keypair, NETWORK, Magic::DEV, limits, Budget::default(), &mut rng);
        config.listen = vec![([10, 0, 0, number], 4000).into()];
        config.early = vec![EARLY];
        let remote = ([10, 0, 0, 9], 9).into();
        let config = Arc::new(config);
        let own_key = DialKey(*config.static_key.public());
        Self {
            own_key,
            connection: connection(config, remote, rng),
            established: None,
            closed: None,
            sent: Vec::new(),
            received: Vec::new(),
        }
    }

    fn transmit(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.connection.poll_transmit(Now::default(), &mut out, 1 << 16);
        self.sent.extend(&out);
        out
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
        self.connection.handle_bytes(Now::default(), bytes);
        while let Some(event) = self.connection.poll_event() {
            assert!(self.closed.is_none(), "nothing follows the end: {event:?}");
            match event {
                ConnectionEvent::Established(info) => assert!(self.established.replace(info).is_none()),
                ConnectionEvent::Closed(closed) => self.closed = Some(closed.reason),
                ConnectionEvent::Early { claims, message, .. } => {
                    assert!(self.established.is_none());
                    assert_eq!((claims, message), (keypair(1).node_id(), question()), "nobody else made any");
                }
                _ => assert!(self.established.is_some(), "no message before keys: {event:?}"),
            }
        }
    }
}

/// Bytes of the records that a handshake consists of: preamble, and messages with their headers.
const PREAMBLE: usize = 12 + 37;
const MESSAGE_1: usize = 12 + 32;
const MESSAGE_2: usize = 12 + 32 + 48 + 256 + 16;
const MESSAGE_3: usize = 12 + 48 + 256 + 16;
const MESSAGE_1_OF_IK: usize = 12 + 32 + 48 + 256 + 16;
const MESSAGE_2_OF_IK: usize = 12 + 32 + 256 + 16;
const RETRY: usize = 12;
/// The same of a proof on a stream that TLS has secured.
const PROOF: usize = 12 + 256;

/// What the dialler knows of the listener's key.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    Current,
    Old,
}

impl Known {
    /// By the first two bits of an input.
    const fn of(choice: u8) -> Self {
        match choice >> 6 {
            0 | 3 => Self::Nothing,
            1 => Self::Current,
            _ => Self::Old,
        }
    }

    fn ends(self) -> (End, End) {
        let listener = End::new(2, false, None);
        let dial_key = match self {
            Self::Nothing => None,
            Self::Current => Some(listener.own_key),
            Self::Old => Some(DialKey([9; 32])),
        };
        (End::new(1, true, dial_key), listener)
    }

    /// How much the dialler has said, and the listener, when this end comes to stand. What follows are sealed records.
    const fn covered(self, outbound: bool) -> (usize, usize) {
        let (first, second, third) = match self {
            Self::Nothing => (PREAMBLE + MESSAGE_1, MESSAGE_2, MESSAGE_3),
            Self::Current => (PREAMBLE + MESSAGE_1_OF_IK, MESSAGE_2_OF_IK, 0),
            Self::Old => (PREAMBLE + MESSAGE_1_OF_IK + MESSAGE_1, RETRY + MESSAGE_2, MESSAGE_3),
        };
        if outbound { (first, second) } else { (first + third, second) }
    }
}

/// Two honest ends and somebody on the path, who changes, inserts, drops and cuts bytes: whoever comes to stand has
/// received exactly what was sent, and knows who sent it.
pub fn handshake(data: &[u8]) {
    let known = Known::of(data.first().copied().unwrap_or_default());
    let mut input = Input::new(data);
    let (mut dialler, mut listener) = known.ends();
    meddle(&mut input, &mut dialler, &mut listener);
    for (end, other) in [(&dialler, &listener), (&listener, &dialler)] {
        let Some(info) = &end.established else { continue };
        assert_eq!(info.dial_key, Some(other.own_key));
        met(end, other, known.covered(info.outbound));
    }
}

/// Two members of a consortium, one of whom says other things than it should, in the proof and in the records in clear that follow:
/// whoever comes to stand got the whole proof of whom the certificate names, and that proof is worth nothing in another session.
pub fn certified(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut dialler, mut listener) = (End::certified(1, [5; 32]), End::certified(2, [5; 32]));
    meddle(&mut input, &mut dialler, &mut listener);
    for (end, other) in [(&dialler, &listener), (&listener, &dialler)] {
        let Some(info) = &end.established else { continue };
        assert_eq!(info.dial_key, None);
        met(end, other, (PREAMBLE + PROOF, PROOF));
        let mut elsewhere = End::certified(if info.outbound { 1 } else { 2 }, [6; 32]);
        elsewhere.receive(&end.received);
        assert!(elsewhere.established.is_none() && elsewhere.closed.is_some(), "a proof for another session");
    }
}

/// Lets both ends talk, and changes, inserts, drops and cuts what they say.
fn meddle(input: &mut Input<'_>, dialler: &mut End, listener: &mut End) {
    for turn in 0..6 {
        let (from, to) = if turn % 2 == 0 { (&mut *dialler, &mut *listener) } else { (&mut *listener, &mut *dialler) };
        let mut bytes = from.transmit();
        for _ in 0..input.byte() % 4 {
            let (choice, at) = (input.byte(), usize::from(input.number()) % (bytes.len() + 1));
            match choice % 4 {
                0 if at < bytes.len() => bytes[at] ^= input.byte(),
                1 => bytes = [&bytes[..at], input.chunk(), &bytes[at..]].concat(),
                2 => drop(bytes.drain(at..(at + usize::from(input.byte())).min(bytes.len()))),
                _ => bytes = input.chunk().to_vec(),
            }
        }
        let step = usize::from(input.byte()) + 1;
        for piece in bytes.chunks(step) {
            to.receive(piece);
        }
    }
}

/// An end that stands knows who the other one is, and heard what that one said: so many bytes of the dialler's and the
/// listener's.
fn met(end: &End, other: &End, (dialled, listened): (usize, usize)) {
    let info = end.established.as_ref().expect("it stands");
    let number = if info.outbound { 2 } else { 1 };
    assert_eq!(info.peer, keypair(number).node_id());
    assert_eq!(info.listen, [([10, 0, 0, number], 4000).into()]);
    let (said, heard) = if info.outbound { (dialled, listened) } else { (listened, dialled) };
    assert!(end.received.len() >= heard);
    assert_eq!(end.received.get(..heard), other.sent.get(..heard), "what it heard");
    if info.dial_key.is_some() {
        assert!(end.sent.len() >= said);
        assert_eq!(end.sent.get(..said), other.received.get(..said), "what it said");
    }
}

/// The payload that proves an identity: as it comes, and around a signature that holds, by somebody who has a key. What
/// is accepted is the one encoding of what was read.
pub fn identity(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let role = if choice & 1 == 0 { Role::Initiator } else { Role::Responder };
    let claim = Claim { role, handshake_hash: [3; 32], static_key: [4; 32] };
    let (theirs, own) = (keypair(1), keypair(2).node_id());
    let payload = if choice & 2 == 0 {
        input.rest().to_vec()
    } else {
        let honest = seal_payload(&theirs, &claim, &Default::default());
        let said = input.chunk(); // features and addresses
        let len = (96 + said.len() as u16).wrapping_add_signed(i16::from(input.byte() as i8));
        let zeros = vec![0; usize::from(input.number() % 1_100)];
        let padding = if choice & 4 == 0 { &zeros } else { input.rest() };
        [&len.to_be_bytes(), &honest[2..98], said, padding].concat()
    };
    if let Ok(remote) = open_payload(&payload, &claim, own) {
        assert_eq!(remote.node_id, theirs.node_id(), "nobody else signed anything");
        assert_eq!(seal_payload(&theirs, &claim, &remote.hello), payload);
        let elsewhere = Claim { handshake_hash: [5; 32], ..claim };
        assert!(open_payload(&payload, &elsewhere, own).is_err(), "good for one handshake only");
    }
    match open_first_payload(&payload, &claim, own) {
        Ok((remote, early)) => {
            assert_eq!(remote.node_id, theirs.node_id(), "nobody else signed anything");
            assert!(early.len() <= MAX_EARLY);
            assert_eq!(seal_first_payload(&theirs, &claim, &remote.hello, early), payload);
            assert_eq!(open_payload(&payload, &claim, own).is_ok(), early.is_empty(), "only message 1 of IK has words");
        }
        Err(_) => assert!(open_payload(&payload, &claim, own).is_err()),
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    number: u64,
    list: Vec<u16>,
    text: Option<String>,
}

impl Signable for Sample {
    const DOMAIN: &'static str = "peerage-fuzz";
    const VERSION: u16 = 1;
}

/// A signed value: as it comes, and signed by somebody who has a key and signs anything.
pub fn signed(data: &[u8]) {
    const MAX: usize = 400;
    let mut input = Input::new(data);
    let author = keypair(1);
    let encoded: Bytes = if input.byte().is_multiple_of(2) {
        Bytes::copy_from_slice(input.rest())
    } else {
        let (version, body) = (input.number().to_be_bytes(), input.rest());
        let domain = Sample::DOMAIN.as_bytes();
        let said = [&[domain.len() as u8], domain, NETWORK.as_bytes(), &version, body].concat();
        [author.node_id().as_bytes(), &author.sign(&said)[..], &version, body].concat().into()
    };
    let read = |network| Signed::<Sample>::decode_and_verify(encoded.clone(), network, MAX);
    match read(NETWORK) {
        Ok(signed) => {
            assert!(encoded.len() <= MAX && encoded.len() > SIGNED_OVERHEAD);
            assert_eq!(signed.signer(), author.node_id(), "nobody else signed anything");
            let again = Signed::sign(&author, NETWORK, signed.into_value());
            assert_eq!(again.encoded(), &encoded, "one value, one encoding, one signature");
        }
        Err(SignedError::UnknownVersion(version)) => assert_ne!(version, Sample::VERSION),
        Err(_) => {}
    }
    assert!(read(NetworkId::from_bytes([2; 32])).is_err(), "void in every other network");
}

/// The text of a key file: what is read is written the same way, but for the case of its digits.
pub fn key_text(data: &[u8]) {
    if let Some((kind, seed)) = key_file::decode(data) {
        let keypair = Keypair::from_seed(&seed);
        let again = key_file::encode(kind, &keypair);
        assert!(again.eq_ignore_ascii_case(data));
        assert_eq!(again.split(|byte| *byte == b'\n').next(), data.split(|byte| *byte == b'\n').next());
    }
    if let Ok(text) = core::str::from_utf8(data)
        && let Ok(id) = text.parse::<NodeId>()
    {
        assert!(id.to_string().eq_ignore_ascii_case(text));
    }
}

#[cfg(test)]
#[path = "../../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::noise::identity::Hello;

    fn seeds() -> Vec<replay::Seed> {
        let claim = |role| Claim { role, handshake_hash: [3; 32], static_key: [4; 32] };
        let hello = Hello::new(7, vec![([8, 8, 8, 8], 4000).into(), ([9; 8], 1).into()]).expect("two addresses");
        let whole = seal_payload(&keypair(1), &claim(Role::Initiator), &hello);
        let body = usize::from(u16::from_be_bytes([whole[0], whole[1]]));
        let (said, padding) = whole[98..].split_at(body - 96);
        let by_key = |choice| Input::with_chunks(&[choice], &[said]);
        let zeros = u16::try_from(padding.len()).expect("a block").to_be_bytes();
        let sample = Sample { number: 300, list: vec![1, 300], text: Some("é".into()) };
        let signed = Signed::sign(&keypair(1), NETWORK, sample);
        let key = key_file::encode(key_file::KeyKind::Producer, &keypair(1));
        let mut seeds = connection::fuzz::seeds();
        seeds.extend([
            ("transport_handshake", "untouched", vec![0, 255, 0, 255, 0, 255, 0, 255]),
            ("transport_handshake", "in-pieces", vec![0, 0, 0, 6, 0, 100, 0, 1]),
            ("transport_handshake", "one-bit", vec![1, 0, 0, 70, 1, 9, 0, 9, 1, 2, 0, 9, 5, 200]),
            ("transport_handshake", "known-key", vec![64, 255, 0, 255, 0, 255, 0, 255]),
            ("transport_handshake", "old-key", vec![128, 6, 0, 100, 0, 1, 0, 255, 0, 9, 0, 255]),
            ("transport_handshake", "one-bit-of-ik", vec![65, 0, 0, 90, 1, 9, 0, 9, 1, 2, 0, 9, 5, 200]),
            ("transport_certified", "untouched", vec![0, 255, 0, 255, 0, 255, 0, 255]),
            ("transport_certified", "in-pieces", vec![0, 6, 0, 100, 0, 1, 0, 9]),
            ("transport_certified", "one-bit", vec![1, 0, 0, 90, 1, 9, 0, 9, 1, 2, 0, 9, 5, 200]),
            ("transport_identity", "as-it-comes", [&[0], &whole[..]].concat()),
            ("transport_identity", "by-a-key", [&by_key(2), &[0][..], &zeros].concat()),
            ("transport_identity", "with-words", [&by_key(6), &[0, 0, 0, 0, 3, 1, 2, 3][..], &padding[5..]].concat()),
            ("transport_identity", "padded-by-hand", [&by_key(6), &[0, 0, 0][..], padding].concat()),
            ("transport_signed", "as-it-comes", [&[0], &signed.encoded()[..]].concat()),
            ("transport_signed", "by-a-key", [&[1, 0, 1], &signed.encoded()[SIGNED_OVERHEAD..]].concat()),
            ("transport_key_file", "producer", key.to_vec()),
            ("transport_key_file", "identity", NETWORK.to_string().into_bytes()),
        ]);
        seeds
    }

    #[test]
    fn each_target_holds_on_its_seeds_and_on_what_fuzzing_found() {
        replay::replay("transport_", TARGETS, &seeds());
    }

    /// As below, of the handshake within TLS.
    #[test]
    fn an_untouched_handshake_of_members_comes_to_stand() {
        let (mut dialler, mut listener) = (End::certified(1, [5; 32]), End::certified(2, [5; 32]));
        listener.receive(&dialler.transmit());
        dialler.receive(&listener.transmit());
        assert!(dialler.established.is_some() && listener.established.is_some());
        met(&dialler, &listener, (PREAMBLE + PROOF, PROOF));
        met(&listener, &dialler, (PREAMBLE + PROOF, PROOF));
        assert_eq!(dialler.sent.len(), PREAMBLE + PROOF, "nothing but its proof before the listener's");
    }

    /// A target that fails on everything finds nothing.
    #[test]
    fn an_untouched_handshake_comes_to_stand_within_the_bytes_it_covers() {
        for known in [Known::Nothing, Known::Current, Known::Old] {
            let (mut dialler, mut listener) = known.ends();
            for _ in 0..3 {
                let bytes = dialler.transmit();
                listener.receive(&bytes);
                let bytes = listener.transmit();
                dialler.receive(&bytes);
            }
            assert!(dialler.established.is_some() && listener.established.is_some());
            let (dialled, listened) = known.covered(false);
            assert!(dialler.sent.len() > dialled && listener.sent.len() > listened, "the first pings follow");
        }
    }
}
