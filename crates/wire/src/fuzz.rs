//! Bodies of the fuzz targets `wire_*`: what must hold for every sequence of bytes. `tests/fuzz/README.md` says how they
//! are run; the tests below replay what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use peerage_core::{Budget, Class, Command, Layer, Message, PerClass};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    DecodeError, Frame, FrameReader, Limits, Magic, Preamble, Reassembler, RecordDecoder, RecordHeader, RecordKind,
    SealedDecoder, compress, decode_reason,
    limits::{KIND_BYTE, MAX_SEALED_BODY, MESSAGE_OVERHEAD, TAG},
    open_plaintext, payload, varint,
};

#[path = "../../../tests/fuzz/shared/input.rs"]
pub mod input;

use input::Input;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("wire_records", records),
    ("wire_sealed", sealed),
    ("wire_frames", frames),
    ("wire_fragments", fragments),
    ("wire_compress", compressed),
    ("wire_payload", payloads),
];

/// A stream of records in clear, whole and in pieces: the same records, the same error, and each record is what its own
/// content encodes to.
pub fn records(data: &[u8]) {
    let mut input = Input::new(data);
    let step = usize::from(input.byte()) + 1;
    let stream = input.rest();
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut records) = (RecordDecoder::new(Magic::DEV), Vec::new());
        for mut piece in pieces {
            loop {
                match decoder.read(&mut piece) {
                    Ok(Some(record)) => records.push((record.kind, record.raw.to_vec())),
                    Ok(None) => break,
                    Err(error) => return (records, Some(error)),
                }
            }
            assert!(piece.is_empty(), "a decoder that wants more has taken all");
        }
        (records, None)
    };
    let (records, error) = read(&mut [stream].into_iter());
    assert_eq!(read(&mut stream.chunks(step)), (records.clone(), error), "pieces of {step}");
    let mut at = 0;
    for (kind, raw) in records {
        let (header, payload) = raw.split_at(RecordHeader { kind, length: 0 }.encode(Magic::DEV).len());
        assert_eq!(RecordHeader { kind, length: payload.len() as u32 }.encode(Magic::DEV), header);
        assert!(payload.len() <= kind.max_len());
        assert_eq!(&stream[at..at + raw.len()], raw, "nothing is left out, nothing read twice");
        at += raw.len();
        match kind {
            RecordKind::Preamble => {
                if let Ok(preamble) = Preamble::decode(payload) {
                    assert!(preamble.version_min <= preamble.version_max);
                    assert_eq!(preamble.encode(), payload);
                }
            }
            RecordKind::Refuse | RecordKind::Close => {
                assert_eq!(decode_reason(kind, payload).is_ok(), payload.len() == 1)
            }
            RecordKind::Handshake | RecordKind::Data | RecordKind::Retry => {}
        }
    }
}

/// A stream of sealed records whose cipher leaves the plaintext as it is, whole and in pieces.
pub fn sealed(data: &[u8]) {
    let mut input = Input::new(data);
    let step = usize::from(input.byte()) + 1;
    let stream = input.rest();
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut bodies) = (SealedDecoder::new(), Vec::new());
        for mut piece in pieces {
            loop {
                match decoder.read(&mut piece) {
                    Ok(Some(body)) => bodies.push(body.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (bodies, Some(error)),
                }
            }
            assert!(piece.is_empty(), "a decoder that wants more has taken all");
        }
        (bodies, None)
    };
    let (bodies, error) = read(&mut [stream].into_iter());
    assert_eq!(read(&mut stream.chunks(step)), (bodies.clone(), error), "pieces of {step}");
    for body in bodies {
        assert!((KIND_BYTE + TAG..=MAX_SEALED_BODY).contains(&body.len()));
        let plaintext = &body[..body.len() - TAG];
        if let Ok((kind, rest)) = open_plaintext(plaintext) {
            assert!(rest.len() <= kind.max_len());
            assert_eq!((plaintext[0], &plaintext[1..]), ((kind as u8) << 4, rest));
        }
    }
}

/// Frames of one record: each is the only encoding of what it says, and they leave nothing out.
pub fn frames(data: &[u8]) {
    let mut reader = FrameReader::new(data);
    let mut rest = data;
    let mut count = 0;
    while let Some(frame) = reader.next() {
        let Ok(frame) = frame else {
            assert!(reader.next().is_none(), "after an error a reader is exhausted");
            return;
        };
        count += 1;
        let (taken, left) = rest.split_at(rest.len() - reader.rest().len());
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(again, taken, "{frame:?}");
        assert_eq!(frame.encoded_len(), taken.len());
        rest = left;
    }
    assert!(rest.is_empty() && count > 0, "no error, so all is read");
}

/// What a message under way should have become, kept without regard to memory.
struct Expected {
    command: Command,
    head_len: usize,
    /// Of what goes over the wire.
    total: usize,
    /// Of the body, if it is compressed.
    unpacked: Option<usize>,
    bytes: Vec<u8>,
}

/// Frames of a connection, record by record, against a simple model: what is put together is what was sent, memory is
/// paid for before it is taken and given back, and no more is held than twice what arrived.
pub fn fragments(data: &[u8]) {
    const SMALL: Command = Command::new(Layer::Chain, 0, Class::Gossip);
    const LIMIT: usize = 300;
    let mut input = Input::new(data);
    let cap = usize::from(input.byte()) * 64;
    let budget = Budget::new(cap);
    let limits = Arc::new(Limits::new(&[&[(SMALL, LIMIT as u32)]]));
    let mut reassembler = Reassembler::new(Arc::clone(&limits), budget.clone());
    reassembler.unpack_bodies();
    let mut model: PerClass<Option<Expected>> = PerClass::from_fn(|_| None);
    let mut arrived = 0;
    'connection: while !input.is_empty() {
        for frame in FrameReader::new(input.chunk()) {
            let Ok(frame) = frame else { break 'connection };
            let (before, resident) = (reassembler.held(), budget.report().resident);
            let accepted = reassembler.accept(frame);
            let report = budget.report();
            assert!(report.resident <= cap);
            if let Err(DecodeError::OverBudget(_)) = accepted {
                assert_eq!((reassembler.held(), report.resident), (before, resident), "refused, but something changed");
                continue;
            }
            let Ok(complete) = accepted else { break 'connection };
            arrived += frame.content_len();
            let waiting = Class::ALL.into_iter().filter(|class| model[*class].is_some()).count() + 1;
            assert!(reassembler.held() <= 2 * arrived + waiting * MESSAGE_OVERHEAD, "holds more than arrived");
            follow(&mut model, frame, complete.as_ref().map(|complete| &complete.message), &limits);
            if let Some(complete) = &complete {
                assert!(complete.charge.bytes() >= complete.message.len() + MESSAGE_OVERHEAD, "not paid for");
            }
        }
    }
    drop(reassembler);
    assert_eq!(budget.report().resident, 0, "what is dropped is given back");
}

/// One accepted frame, as the model sees it.
fn follow(model: &mut PerClass<Option<Expected>>, frame: Frame<'_>, complete: Option<&Message>, limits: &Limits) {
    let command = frame.command();
    let slot = &mut model[command.class()];
    match frame {
        Frame::Whole { head, body, .. } => {
            assert!(slot.is_none() && frame.content_len() <= limits.of(command));
            let message = complete.expect("a whole message is complete");
            assert_eq!((&message.head[..], message.body.as_deref()), (head, body));
        }
        Frame::First { head_len, body_len, piece, .. } => {
            let total = head_len + body_len.unwrap_or(0);
            assert!(slot.is_none() && complete.is_none() && piece.len() < total && total <= limits.of(command));
            *slot = Some(Expected { command, head_len, total, unpacked: None, bytes: piece.to_vec() });
        }
        Frame::Packed { head, body_len, packed, .. } => {
            assert!(slot.is_none() && head.len() + body_len <= limits.of(command));
            let message = complete.expect("a whole message is complete");
            let body = compress::unpack(packed, body_len).expect("it was unpacked once");
            assert_eq!((&message.head[..], message.body.as_deref()), (head, Some(&body[..])));
        }
        Frame::FirstPacked { head_len, body_len, packed_len, piece, .. } => {
            let total = head_len + packed_len;
            assert!(slot.is_none() && complete.is_none() && piece.len() < total);
            assert!(head_len + body_len <= limits.of(command) && packed_len < body_len);
            *slot = Some(Expected { command, head_len, total, unpacked: Some(body_len), bytes: piece.to_vec() });
        }
        Frame::Next { last, piece, .. } => {
            let begun = slot.as_mut().expect("a first came before");
            assert_eq!(begun.command, command);
            begun.bytes.extend_from_slice(piece);
            assert_eq!(last, begun.bytes.len() == begun.total, "complete exactly when it says so");
            assert_eq!(complete.is_some(), last);
            if let (Some(message), Some(begun)) = (complete, slot.take_if(|_| last)) {
                assert_eq!(begun.bytes[..begun.head_len], message.head[..]);
                let sent = begun.bytes[begun.head_len..].to_vec();
                let body = begun.unpacked.map(|len| compress::unpack(&sent, len).expect("it was unpacked once"));
                assert_eq!(body.unwrap_or(sent), message.body.clone().unwrap_or_default()[..]);
            }
        }
    }
}

/// A compressed body that claims a length, and one that is made of the same bytes: what is unpacked has the length that was
/// announced, whatever it is; what is packed saves a tenth and comes back.
pub fn compressed(data: &[u8]) {
    let mut input = Input::new(data);
    let announced = usize::from(input.byte()) << 8 | usize::from(input.byte());
    let bytes = input.rest();
    let refused = |packed: &[u8], len| assert!(compress::unpack(packed, len).is_err(), "{len} is not its length");
    match compress::unpack(bytes, announced) {
        Ok(body) => {
            assert!(compress::AVAILABLE && body.len() == announced);
            refused(bytes, announced + 1);
            (0..announced).rev().step_by(announced.div_ceil(8).max(1)).for_each(|less| refused(bytes, less));
        }
        Err(DecodeError::Packed { body }) => assert_eq!(body, announced),
        Err(error) => assert!(!compress::AVAILABLE && error == DecodeError::Compressed),
    }
    if let Some(packed) = compress::pack(bytes) {
        assert!(compress::saves(bytes.len() as u64, packed.len() as u64));
        assert_eq!(compress::unpack(&packed, bytes.len()).as_deref(), Ok(bytes));
        refused(&packed, bytes.len() - 1);
        refused(&packed, bytes.len() + 1);
    }
}

/// A payload type with all that postcard knows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Sample {
    Nothing,
    Numbers { small: u8, medium: u32, large: u64, signed: i64 },
    Texts(Vec<String>, Option<char>),
    Sorted(BTreeMap<u16, bool>, BTreeSet<u32>),
    Nested(Vec<Self>),
}

/// Varints and canonical payloads of several types: whatever is accepted is encoded to the same bytes again.
pub fn payloads(data: &[u8]) {
    fn canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        const LIMIT: usize = 2_000;
        if let Ok(value) = payload::from_bytes::<T>(bytes, LIMIT) {
            assert!(bytes.len() <= LIMIT);
            assert_eq!(payload::to_bytes(&value), bytes);
        }
    }
    let mut input = Input::new(data);
    let choice = input.byte();
    let bytes = input.rest();
    match choice % 7 {
        0 => {
            let mut rest = bytes;
            while let Ok(value) = varint::take(&mut rest) {
                let taken = &bytes[bytes.len() - rest.len() - varint::encoded_len(value)..bytes.len() - rest.len()];
                let mut again = Vec::new();
                varint::put(&mut again, value);
                assert_eq!(again, taken);
            }
        }
        1 if nesting(bytes) => canonical::<Sample>(bytes),
        2 => canonical::<Vec<(u64, Option<[u8; 4]>)>>(bytes),
        3 => canonical::<(u128, i16, String)>(bytes),
        4 => canonical::<BTreeMap<String, Vec<u8>>>(bytes),
        5 => canonical::<Vec<Vec<Vec<u16>>>>(bytes),
        _ => canonical::<(bool, char, u32)>(bytes),
    }
}

/// No payload type of ours contains itself; so deep that it overflows the stack is no fault of the codec.
fn nesting(bytes: &[u8]) -> bool {
    bytes.iter().filter(|byte| **byte == 4).count() < 100
}

#[cfg(test)]
#[path = "../../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, Fragmenter, begin_sealed, finish_sealed, put_record};
    use peerage_core::{CloseReason, NetworkId};

    fn clear() -> Vec<u8> {
        let network = NetworkId::from_bytes([7; 32]);
        let preamble = Preamble { version_min: 1, version_max: 2, network, pattern: 1, suite: 1, flags: 0 };
        let mut out = vec![9];
        put_record(&mut out, Magic::DEV, RecordKind::Preamble, |out| out.extend(preamble.encode()));
        put_record(&mut out, Magic::DEV, RecordKind::Handshake, |out| out.extend([0xaa; 48]));
        put_record(&mut out, Magic::DEV, RecordKind::Refuse, |out| out.push(CloseReason::WrongNetwork.code()));
        out
    }

    fn sealed_stream() -> Vec<u8> {
        let mut out = vec![9];
        for (kind, plaintext) in [(RecordKind::Data, &[1, 2, 3, 4][..]), (RecordKind::Close, &[1])] {
            let start = begin_sealed(&mut out, kind);
            out.extend(plaintext);
            finish_sealed(&mut out, start);
            out.extend([0xee; TAG]);
        }
        out
    }

    /// The records of one message: a short one whole, a long one cut at every `room` bytes.
    fn cut(command: Command, envelope: Envelope, room: usize) -> Vec<Vec<u8>> {
        let message = Message::with_body(command, vec![5; 20], vec![6; 60]);
        let mut fragmenter = Fragmenter::new(message, envelope);
        let mut records = Vec::new();
        while !fragmenter.is_done() {
            let mut record = Vec::new();
            fragmenter.fill(room, &mut record);
            records.push(record);
        }
        records
    }

    fn seeds() -> Vec<replay::Seed> {
        let gossip = Command::new(Layer::Chain, 0, Class::Gossip);
        let bulk = Command::new(Layer::Chain, 1, Class::Bulk);
        let whole = cut(gossip, Envelope::Request(300), 200).concat();
        let pieces = cut(bulk, Envelope::Notification, 40);
        let mixed = [&pieces[..1], core::slice::from_ref(&whole), &pieces[1..]].concat();
        let mixed: Vec<&[u8]> = mixed.iter().map(Vec::as_slice).collect();
        // One byte, 1,139 times the same one, five more.
        let block = [0x1f, 7, 1, 0, 255, 255, 255, 255, 100, 0x50, 1, 2, 3, 4, 5];
        let (head, len) = (&[5; 20], 1145_usize);
        let (command, envelope) = (bulk, Envelope::Notification);
        let mut packed = Vec::new();
        Frame::Packed { command, envelope, head, body_len: len, packed: &block }.encode(&mut packed);
        let content = [&head[..], &block].concat();
        let (first, rest) = content.split_at(25);
        let mut cut_packed = [Vec::new(), Vec::new()];
        Frame::FirstPacked { command, envelope, head_len: 20, body_len: len, packed_len: block.len(), piece: first }
            .encode(&mut cut_packed[0]);
        Frame::Next { command, last: true, piece: rest }.encode(&mut cut_packed[1]);
        let cut_packed: Vec<&[u8]> = cut_packed.iter().map(Vec::as_slice).collect();
        let sample = Sample::Nested(vec![
            Sample::Nothing,
            Sample::Numbers { small: 1, medium: 300, large: u64::MAX, signed: -3 },
            Sample::Texts(vec!["é".into()], Some('x')),
            Sample::Sorted([(1, true), (9, false)].into(), [3, 300].into()),
        ]);
        vec![
            ("wire_records", "handshake", clear()),
            ("wire_sealed", "data-and-close", sealed_stream()),
            ("wire_frames", "request", whole),
            ("wire_frames", "first", pieces[0].clone()),
            ("wire_frames", "next", pieces[1].clone()),
            ("wire_fragments", "two-classes", Input::with_chunks(&[255], &mixed)),
            ("wire_fragments", "no-room", Input::with_chunks(&[5], &mixed)),
            ("wire_fragments", "compressed", Input::with_chunks(&[255], &[&cut_packed[..], &[&packed]].concat())),
            ("wire_compress", "block", [&(len as u16).to_be_bytes()[..], &block].concat()),
            ("wire_compress", "body", [&[0, 0][..], &[7; 2000]].concat()),
            ("wire_frames", "compressed", packed),
            ("wire_payload", "varints", vec![0, 0x7f, 0xac, 2, 0x80, 0x80, 1]),
            ("wire_payload", "sample", [vec![1], payload::to_bytes(&sample)].concat()),
            ("wire_payload", "map", [vec![4], payload::to_bytes(&BTreeMap::from([("a", [1, 2])]))].concat()),
        ]
    }

    #[test]
    fn each_target_holds_on_its_seeds_and_on_what_fuzzing_found() {
        replay::replay("wire_", TARGETS, &seeds());
    }
}
