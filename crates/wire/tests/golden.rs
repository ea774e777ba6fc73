//! The bytes on the wire, frozen. Each value is compared with a file of `tests/golden`, and the file is read back.
//!
//! A difference means another wire format, which is a decision with a new version number. Only then are the files
//! written anew, with `BLESS=1`.

use peerage_core::{Class, CloseReason, Command, Layer, Message, NetworkId};
use peerage_wire::{
    Envelope, Fragmenter, Frame, FrameReader, Magic, Preamble, RecordDecoder, RecordKind, SealedDecoder, begin_sealed,
    decode_reason, encode_frame, finish_sealed, open_plaintext, payload, put_record,
};
use std::{collections::BTreeMap, env, fs, path::Path};

const VOTE: Command = Command::new(Layer::Chain, 2, Class::Consensus);
const LOOKUP: Command = Command::new(Layer::Discovery, 1, Class::Signal);
const BLOCK: Command = Command::new(Layer::Application, 31, Class::Bulk);

/// Compares `bytes` with a frozen file, 32 bytes a line in hexadecimal, and returns what stands there.
fn frozen(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("hex");
    if env::var_os("BLESS").is_some() {
        let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        fs::write(&path, bytes.chunks(32).map(line).collect::<String>()).expect("the golden files are writable");
    }
    let text = fs::read_to_string(&path).expect("the golden file exists");
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let golden: Vec<u8> = digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
    assert_eq!(bytes, golden, "{name} is not what was frozen");
    golden
}

#[test]
fn the_records_before_keys_stand() {
    let preamble = Preamble {
        version_min: 1,
        version_max: 3,
        network: NetworkId::from_bytes(core::array::from_fn(|i| i as u8)),
        pattern: 1,
        suite: 2,
        flags: 0x80,
    };
    let mut stream = Vec::new();
    put_record(&mut stream, Magic::MAIN, RecordKind::Preamble, |out| out.extend(preamble.encode()));
    put_record(&mut stream, Magic::MAIN, RecordKind::Handshake, |out| out.extend([0xaa; 48]));
    put_record(&mut stream, Magic::MAIN, RecordKind::Refuse, |out| out.push(CloseReason::WrongNetwork.code()));
    put_record(&mut stream, Magic::MAIN, RecordKind::Close, |out| out.push(CloseReason::Shutdown.code()));

    let golden = frozen("clear_records", &stream);
    let (mut decoder, mut input) = (RecordDecoder::new(Magic::MAIN), golden.as_slice());
    let first = decoder.read(&mut input).expect("valid").expect("complete");
    assert_eq!((first.kind, first.raw), (RecordKind::Preamble, &golden[..12 + 37]));
    assert_eq!(Preamble::decode(first.payload()), Ok(preamble));
    let handshake = decoder.read(&mut input).expect("valid").expect("complete");
    assert_eq!((handshake.kind, handshake.payload()), (RecordKind::Handshake, &[0xaa; 48][..]));
    for (kind, reason) in [(RecordKind::Refuse, CloseReason::WrongNetwork), (RecordKind::Close, CloseReason::Shutdown)]
    {
        let record = decoder.read(&mut input).expect("valid").expect("complete");
        assert_eq!((record.kind, decode_reason(kind, record.payload())), (kind, Ok(reason)));
    }
    assert_eq!((decoder.read(&mut input), input), (Ok(None), &[][..]));
}

#[test]
fn the_networks_have_different_magics() {
    let golden = frozen("magics", &[Magic::MAIN, Magic::TEST, Magic::DEV].map(|magic| magic.0.to_be_bytes()).concat());
    assert_eq!(golden.len(), 12);
}

#[test]
fn whole_messages_share_a_sealed_record() {
    let messages = [
        (Message::new(VOTE, "yes"), Envelope::Notification),
        (Message::new(LOOKUP, ""), Envelope::Request(300)),
        (Message::with_body(BLOCK, "h", "the body"), Envelope::Response(u64::MAX)),
        (Message::with_body(BLOCK, "", ""), Envelope::Notification),
    ];
    let mut stream = Vec::new();
    let start = begin_sealed(&mut stream, RecordKind::Data);
    messages.iter().for_each(|(message, envelope)| encode_frame(message, *envelope, &mut stream));
    let body = finish_sealed(&mut stream, start);
    assert_eq!((start, body), (0, 2));
    stream.extend([0xee; 16]); // where the tag will be

    let golden = frozen("sealed_messages", &stream);
    let (mut decoder, mut input) = (SealedDecoder::new(), golden.as_slice());
    let body = decoder.read(&mut input).expect("valid").expect("complete");
    let (kind, plaintext) = open_plaintext(body.split_last_chunk::<16>().expect("has a tag").0).expect("valid");
    assert_eq!(kind, RecordKind::Data);
    let read: Vec<_> = FrameReader::new(plaintext).map(|frame| frame.expect("valid")).collect();
    let expected: Vec<_> = messages
        .iter()
        .map(|(message, envelope)| Frame::Whole {
            command: message.command,
            envelope: *envelope,
            head: &message.head,
            body: message.body.as_deref(),
        })
        .collect();
    assert_eq!(read, expected);
}

#[test]
fn a_message_in_three_fragments() {
    let message = Message::with_body(BLOCK, vec![0x11; 20], vec![0x22; 50]);
    let (mut sender, mut plaintext) = (Fragmenter::new(message, Envelope::Request(5)), Vec::new());
    while !sender.is_done() {
        assert_ne!(sender.fill(40, &mut plaintext), 0, "40 bytes always hold a piece");
    }

    let golden = frozen("fragments", &plaintext);
    let read: Vec<_> = FrameReader::new(&golden).map(|frame| frame.expect("valid")).collect();
    let [
        Frame::First { command, envelope, head_len: 20, body_len: Some(50), piece: first },
        Frame::Next { last: false, piece: second, .. },
        Frame::Next { last: true, piece: third, .. },
    ] = read[..]
    else {
        panic!("three fragments: {read:?}")
    };
    assert_eq!((command, envelope), (BLOCK, Envelope::Request(5)));
    assert_eq!([first, second, third].concat(), [vec![0x11; 20], vec![0x22; 50]].concat());
}

#[test]
fn a_payload() {
    type Payload = (u64, Option<i32>, String, Vec<u16>, BTreeMap<u8, bool>);
    let value: Payload = (300, Some(-2), "é".into(), vec![1, 0x8000], [(2, true), (1, false)].into());
    let golden = frozen("payload", &payload::to_bytes(&value));
    assert_eq!(payload::from_bytes::<Payload>(&golden, 64), Ok(value));
}
