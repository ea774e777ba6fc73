//! LZ4: what compressed bodies save on a real block, and what that costs beside sealing and opening the same bytes.

use std::time::Duration;

use peerage_core::SecretRng;
use peerage_transport::proto::noise::{CipherState, DhKeypair, HandshakeState, Role};
use peerage_wire::{
    compress,
    limits::{MAX_PLAINTEXT, TAG},
};

use super::Plan;
use crate::{
    measure::each,
    report::{Figure, Goal, PROVIDER, Printer},
};

/// How long each is repeated in a round.
const SPAN: Duration = Duration::from_millis(500);
/// Bodies as short as a usual block of a quiet network.
const SMALL: usize = 64 << 10;
const MIB: f64 = (1 << 20) as f64;

pub(crate) fn run(plan: &Plan, printer: Printer) {
    let block = bitcoin_test_data::blocks::mainnet_702861();
    let figure = |what: &str, unit, ours, peer, peer_name: &str| {
        let (what, peer_name) = (what.to_owned(), peer_name.to_owned());
        printer.figure(&Figure { row: "LZ4", what, unit, ours, peer, peer_name, goal: Goal::None });
    };
    let sent = |body: &[u8]| compress::pack(body).map_or(body.len(), |packed| packed.len()) as f64;
    let len = block.len() as f64;
    figure("Bitcoin's block 702861 in one body, sent", "B", vec![sent(block)], vec![len], "as it is");
    let pieces = vec![block.chunks(SMALL).map(sent).sum()];
    figure("the same in bodies of 64 KiB, sent", "B", pieces, vec![len], "as it is");

    let packed = compress::pack(block).expect("it saves more than a tenth");
    let mut sealing = Sealing::new();
    let per_mib = |nanos: f64, bytes: usize| nanos / 1e3 / (bytes as f64 / MIB);
    let (mut pack, mut unpack, mut seal, mut both) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let hostile = [smallest_sequences(), one_overlap(3), one_overlap(1)];
    let mut worst = hostile.each_ref().map(|_| Vec::new());
    let noise: Vec<u8> =
        (0..1_u64 << 20).map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2]).collect();
    let mut vain = Vec::new();
    for _ in 0..plan.runs {
        pack.push(per_mib(each(SPAN, || drop(compress::pack(block))), block.len()));
        unpack.push(per_mib(each(SPAN, || drop(compress::unpack(&packed, block.len()))), block.len()));
        vain.push(per_mib(each(SPAN, || assert!(compress::pack(&noise).is_none())), noise.len()));
        seal.push(per_mib(each(SPAN, || sealing.seal(block)), block.len()));
        both.push(per_mib(each(SPAN, || sealing.seal_and_open(block)), block.len()));
        for ((packed, len), nanos) in hostile.iter().zip(&mut worst) {
            let unpacked = || assert!(compress::unpack(packed, *len).is_ok());
            nanos.push(per_mib(each(SPAN, unpacked), *len));
        }
    }
    let open: Vec<f64> = both.iter().zip(&seal).map(|(both, seal)| both - seal).collect();
    let (seal_name, open_name) = (format!("sealing it, {PROVIDER}"), format!("opening it, {PROVIDER}"));
    figure("CPU to pack the block", "us/MiB", pack, seal.clone(), &seal_name);
    figure("CPU to unpack it", "us/MiB", unpack, open.clone(), &open_name);
    figure("CPU to find that nothing is saved", "us/MiB", vain, seal, &seal_name);
    let stories = ["sequences of four bytes", "one match that repeats three bytes", "one match that repeats a byte"];
    for (story, nanos) in stories.into_iter().zip(worst) {
        figure(&format!("CPU to unpack {story}"), "us/MiB", nanos, open.clone(), &open_name);
    }
}

/// Two megabytes in as many sequences as that can be made of: no literal, four bytes copied.
fn smallest_sequences() -> (Vec<u8>, usize) {
    let (mut packed, mut len) = (vec![0x80, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0], 12);
    while len < (2 << 20) - 100 {
        packed.extend([0, 3, 0]);
        len += 4;
    }
    packed.extend([0x50, 1, 2, 3, 4, 5]);
    (packed, len + 5)
}

/// Two megabytes in one match.
fn one_overlap(offset: u8) -> (Vec<u8>, usize) {
    let mut packed = vec![0x3f, 1, 2, 3, offset, 0];
    packed.extend([255; 8_000]);
    packed.extend([0, 0x50, 1, 2, 3, 4, 5]);
    (packed, 3 + 19 + 8_000 * 255 + 5)
}

/// Records under a key, sealed and opened in lockstep.
struct Sealing {
    seals: CipherState,
    opens: CipherState,
    alone: CipherState,
    record: Vec<u8>,
}

impl Sealing {
    fn new() -> Self {
        let mut rng = SecretRng::from_os();
        let [mut a, mut b] = [Role::Initiator, Role::Responder].map(|role| {
            let key = DhKeypair::generate(&mut rng);
            HandshakeState::xx(role, &[], key, &mut rng)
        });
        for turn in 0..3 {
            let (from, to) = if turn % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let mut message = Vec::new();
            from.write_message(&[], &mut message).expect("its turn");
            to.read_message(&message).expect("an honest peer");
        }
        let (a, b) = (a.split().expect("complete"), b.split().expect("complete"));
        Self { seals: a.send, opens: b.receive, alone: b.send, record: Vec::with_capacity(MAX_PLAINTEXT + TAG) }
    }

    fn seal(&mut self, body: &[u8]) {
        for piece in body.chunks(MAX_PLAINTEXT) {
            self.record.clear();
            self.record.extend_from_slice(piece);
            self.alone.encrypt_with_ad(&[], &mut self.record).expect("a fresh key");
        }
    }

    fn seal_and_open(&mut self, body: &[u8]) {
        for piece in body.chunks(MAX_PLAINTEXT) {
            self.record.clear();
            self.record.extend_from_slice(piece);
            let tag = self.seals.encrypt_with_ad(&[], &mut self.record).expect("a fresh key");
            self.record.extend_from_slice(&tag);
            self.opens.decrypt_with_ad(&[], &mut self.record).expect("sealed just now");
        }
    }
}
