//! The published vectors of `Noise_XX_25519_ChaChaPoly_SHA256` and `Noise_IK_25519_ChaChaPoly_SHA256`: one of each by
//! cacophony, one by snow. Every ciphertext of the handshake and of the transport messages behind it must come out byte for byte, and decrypt on the other side.
//!
//! They are read where they were published, in the package of the dev-dependency `snow`, and not copied here.

use std::{path::PathBuf, process::Command};

use peerage_transport::proto::noise::{CipherState, DhKeypair, HandshakeState, Role};
use rand_core::{Infallible, TryCryptoRng, TryRng};
use serde_json::Value;

const XX: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const IK: &str = "Noise_IK_25519_ChaChaPoly_SHA256";

#[test]
fn cacophonys_vectors_come_out_byte_for_byte() {
    for suite in [XX, IK] {
        check(&vector("cacophony.txt", suite));
    }
}

#[test]
fn snows_vectors_come_out_byte_for_byte() {
    for suite in [XX, IK] {
        check(&vector("snow.txt", suite));
    }
}

/// Plays a vector with both sides ours.
fn check(vector: &Value) {
    let mut sides = [Role::Initiator, Role::Responder].map(|role| side(vector, role));
    let messages = vector["messages"].as_array().unwrap();
    let (handshake, transport) = messages.split_at(if vector["protocol_name"] == XX { 3 } else { 2 });
    assert!(!transport.is_empty(), "a vector without transport messages would leave Split() unchecked");

    for (turn, message) in handshake.iter().enumerate() {
        let (payload, expected) = (hex(&message["payload"]), hex(&message["ciphertext"]));
        let [writer, reader] = in_turn(&mut sides, turn);
        let mut written = Vec::new();
        writer.write_message(&payload, &mut written).unwrap();
        assert_eq!(written, expected, "handshake message {}", turn + 1);
        assert_eq!(reader.read_message(&written).unwrap(), payload, "payload {}", turn + 1);
        assert_eq!(writer.handshake_hash(), reader.handshake_hash(), "h after message {}", turn + 1);
    }

    let public = sides.each_ref().map(|side| *side.local_static());
    let mut sides = sides.map(|side| side.split().unwrap());
    assert_eq!(sides.each_ref().map(|side| side.remote_static), [public[1], public[0]], "each knows the other");
    assert_eq!(sides[0].handshake_hash, sides[1].handshake_hash);
    if let Some(hash) = vector.get("handshake_hash") {
        assert_eq!(sides[0].handshake_hash.as_slice(), hex(hash), "handshake hash");
    }

    for (turn, message) in transport.iter().enumerate() {
        // Turns go on where the handshake left off: after three messages the responder is the next to write.
        let [writer, reader] = in_turn(&mut sides, handshake.len() + turn);
        let payload = hex(&message["payload"]);
        let mut written = seal(&mut writer.send, &payload);
        assert_eq!(written, hex(&message["ciphertext"]), "transport message {}", turn + 1);
        assert_eq!(reader.receive.decrypt_with_ad(b"", &mut written).unwrap(), payload);
    }
}

#[test]
fn cacophonys_vectors_state_the_handshake_hash() {
    let stated = |suite| vector("cacophony.txt", suite).get("handshake_hash").is_some();
    assert!(stated(XX) && stated(IK), "else nothing published checks our hash");
}

/// The initiator writes the even turns.
fn in_turn<T>(sides: &mut [T; 2], turn: usize) -> [&mut T; 2] {
    let [initiator, responder] = sides;
    if turn.is_multiple_of(2) { [initiator, responder] } else { [responder, initiator] }
}

fn seal(cipher: &mut CipherState, payload: &[u8]) -> Vec<u8> {
    let mut text = payload.to_vec();
    let tag = cipher.encrypt_with_ad(b"", &mut text).unwrap();
    text.extend_from_slice(&tag);
    text
}

/// One side of the vector, with the vector's keys for dice.
fn side(vector: &Value, role: Role) -> HandshakeState {
    let of = if role == Role::Initiator { "init" } else { "resp" };
    let field = |name: &str| hex(&vector[format!("{of}_{name}")]);
    let s = DhKeypair::generate(&mut Fixed(field("static")));
    let (prologue, mut ephemeral) = (field("prologue"), Fixed(field("ephemeral")));
    match (vector["protocol_name"] == XX, role) {
        (true, _) => HandshakeState::xx(role, &prologue, s, &mut ephemeral),
        (false, Role::Initiator) => {
            let rs = field("remote_static").try_into().expect("32 bytes");
            HandshakeState::ik_initiator(&prologue, s, rs, &mut ephemeral)
        }
        (false, Role::Responder) => HandshakeState::ik_responder(&prologue, s, &mut ephemeral),
    }
}

/// Dice that fall as the vector says: exactly its 32 bytes, once.
struct Fixed(Vec<u8>);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("keys are drawn as bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("keys are drawn as bytes")
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        dst.copy_from_slice(&std::mem::take(&mut self.0));
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

/// The only vector of this suite in `file`.
fn vector(file: &str, suite: &str) -> Value {
    let text = std::fs::read_to_string(snow_vectors().join(file)).unwrap();
    let parsed: Value = serde_json::from_str(&text).unwrap();
    let mut ours = parsed["vectors"].as_array().unwrap().iter().filter(|vector| vector["protocol_name"] == suite);
    let vector = ours.next().expect("the file has the suite").clone();
    assert!(ours.next().is_none(), "{file} has a second vector of {suite}, which nobody checks");
    vector
}

/// Where cargo unpacked the package `snow`. Offline and for this machine only: the build has already fetched that much.
fn snow_vectors() -> PathBuf {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let metadata =
        cargo(&["metadata", "--format-version=1", "--offline", "--filter-platform", host, "--manifest-path", manifest]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let snow = packages.iter().find(|package| package["name"] == "snow").expect("snow is a dev-dependency");
    PathBuf::from(snow["manifest_path"].as_str().unwrap()).with_file_name("tests").join("vectors")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}
