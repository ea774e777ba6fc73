//! Each rule of the codec, broken once.

use peerage_core::{Budget, Class, CloseReason, Command, Layer, NetworkId, OverBudget, Pool};
use peerage_wire::{
    DecodeError, Envelope, Frame, FrameReader, Incoming, Limits, Magic, Preamble, Reassembler, RecordDecoder,
    RecordHeader, RecordKind, SealedDecoder, decode_reason,
    limits::{MAX_CONTENT, MAX_PLAINTEXT, MAX_SEALED_BODY, MESSAGE_OVERHEAD, class_default},
    open_plaintext, varint,
};
use std::sync::Arc;

const ITEM: Command = Command::new(Layer::Gossip, 1, Class::Gossip);
const OTHER_ITEM: Command = Command::new(Layer::Gossip, 2, Class::Gossip);
const SMALL: Command = Command::new(Layer::Gossip, 3, Class::Signal);

fn header(kind: RecordKind, length: u32) -> Vec<u8> {
    RecordHeader { kind, length }.encode(Magic::TEST).to_vec()
}

/// The error of a stream of records in clear, which must not depend on what follows, and its close reason.
fn clear_error(bytes: &[u8]) -> (DecodeError, CloseReason) {
    let mut decoder = RecordDecoder::new(Magic::TEST);
    let error = decoder.read(&mut &*bytes).expect_err("a broken rule");
    assert_eq!(decoder.read(&mut &[0; 99][..]), Err(error), "an error lasts");
    (error, error.close_reason())
}

#[test]
fn a_header_in_clear() {
    let good = header(RecordKind::Data, 3);
    let with = |index: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[index] = byte;
        clear_error(&bytes)
    };
    let http = u32::from_be_bytes([b'G', 0, 0, 0]);
    assert_eq!(clear_error(b"GET / HTTP/1.1"), (DecodeError::WrongMagic { found: http }, CloseReason::WrongMagic));
    assert_eq!(clear_error(b"G").0, DecodeError::WrongMagic { found: http }, "at the first byte");
    let main = DecodeError::WrongMagic { found: Magic::MAIN.0 };
    assert_eq!(with(3, b'M'), (main, CloseReason::WrongMagic), "another network");
    assert_eq!(with(4, 9), (DecodeError::WrongVersion { found: 9 }, CloseReason::WrongVersion));
    assert_eq!(with(5, 1), (DecodeError::RecordFlags { found: 1 }, CloseReason::UnexpectedRecord));
    assert_eq!(with(6, 1), (DecodeError::UnknownKind { found: 0x104 }, CloseReason::UnexpectedRecord));
    assert_eq!(with(7, 0), (DecodeError::UnknownKind { found: 0 }, CloseReason::UnexpectedRecord));
    for kind in RecordKind::ALL {
        let limit = kind.max_len() as u32;
        let expected = DecodeError::RecordTooLong { length: limit + 1, limit };
        assert_eq!(clear_error(&header(kind, limit + 1)), (expected, CloseReason::RecordTooLong));
        let whole = RecordDecoder::new(Magic::TEST).read(&mut &*header(kind, limit)).map(|record| record.is_some());
        assert_eq!(whole, Ok(kind == RecordKind::Retry), "which has no payload");
        assert_eq!(RecordKind::from_number(kind as u16), Ok(kind));
    }
}

#[test]
fn a_record_of_fixed_layout() {
    let preamble =
        Preamble { version_min: 2, version_max: 2, network: NetworkId::default(), pattern: 0, suite: 0, flags: 0 };
    let mut bytes = preamble.encode();
    assert_eq!(Preamble::decode(&bytes), Ok(preamble));
    let short = Preamble::decode(&bytes[1..]).expect_err("a byte is missing");
    assert_eq!(short, DecodeError::RecordLength { kind: RecordKind::Preamble, found: 36, expected: 37 });
    assert_eq!(short.close_reason(), CloseReason::BadHandshake);
    bytes[0] = 3;
    let reversed = Preamble::decode(&bytes).expect_err("3 to 2");
    assert_eq!(reversed, DecodeError::VersionRange { min: 3, max: 2 });
    assert_eq!(reversed.close_reason(), CloseReason::BadHandshake);

    let nothing = decode_reason(RecordKind::Close, &[]).expect_err("no reason");
    assert_eq!(nothing, DecodeError::RecordLength { kind: RecordKind::Close, found: 0, expected: 1 });
    assert_eq!(nothing.close_reason(), CloseReason::MalformedMessage);
    assert_eq!(decode_reason(RecordKind::Refuse, &[250]), Ok(CloseReason::Unknown), "a reason of a later version");
}

#[test]
fn a_sealed_record() {
    let error = |length: u16| {
        let mut decoder = SealedDecoder::new();
        let error = decoder.read(&mut &length.to_be_bytes()[..]).expect_err("a broken rule");
        assert_eq!(decoder.read(&mut &[0; 99][..]), Err(error), "an error lasts");
        (error, error.close_reason())
    };
    assert_eq!(error(16), (DecodeError::RecordTooShort { length: 16 }, CloseReason::BadRecord));
    let (length, limit) = (MAX_SEALED_BODY as u32 + 1, MAX_SEALED_BODY as u32);
    assert_eq!(error(length as u16), (DecodeError::RecordTooLong { length, limit }, CloseReason::RecordTooLong));

    assert_eq!(open_plaintext(&[0x40, 1, 2]), Ok((RecordKind::Data, &[1, 2][..])));
    assert_eq!(open_plaintext(&[]), Err(DecodeError::RecordTooShort { length: 0 }));
    assert_eq!(open_plaintext(&[0xf0]), Err(DecodeError::UnknownKind { found: 15 }));
    assert_eq!(open_plaintext(&[0x41]), Err(DecodeError::RecordFlags { found: 1 }));
    assert_eq!(open_plaintext(&[0x50, 1, 2]), Err(DecodeError::RecordTooLong { length: 2, limit: 1 }));
    let long = [vec![0x40], vec![0; MAX_PLAINTEXT]].concat();
    assert_eq!(open_plaintext(&long), Ok((RecordKind::Data, &long[1..])));
}

/// A frame with these flags and then these bytes.
fn frame(flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::put(&mut bytes, ITEM.number().into());
    bytes.push(flags);
    bytes.extend(rest);
    bytes
}

#[test]
fn the_syntax_of_a_frame() {
    let error = |bytes: &[u8]| {
        let mut reader = FrameReader::new(bytes);
        let error = reader.next().expect("not at its end").expect_err("a broken rule");
        assert_eq!(reader.next(), None, "exhausted");
        (error, error.close_reason())
    };
    let malformed = |error: DecodeError| (error, CloseReason::MalformedMessage);
    let whole = frame(0b1100, &[2, 7, 8]);
    assert_eq!(FrameReader::new(&whole).filter_map(Result::ok).count(), 1, "the good one");
    assert_eq!(error(&[]), malformed(DecodeError::EmptyRecord));
    for end in 1..whole.len() {
        assert_eq!(error(&whole[..end]), malformed(DecodeError::Truncated), "{end}");
    }
    assert_eq!(error(&[0x81, 0]), malformed(DecodeError::VarintNotMinimal));
    assert_eq!(error(&[0xff; 11]), malformed(DecodeError::VarintTooLong));
    assert_eq!(error(&[7]), malformed(DecodeError::BadCommand { found: 7 }), "no such class");
    assert_eq!(error(&[0x80, 0x80, 4]), malformed(DecodeError::BadCommand { found: 65_536 }));
    for flags in [0b1111, 0b1_1100, 0b100_1100, 0b1000_1100] {
        assert_eq!(error(&frame(flags, &[2, 7, 8])), malformed(DecodeError::FrameFlags { found: flags }), "reserved");
    }
    for flags in [0b1001, 0b0010, 0b1_0000, 0b10_0000] {
        assert_eq!(error(&frame(flags, &[1, 7])), malformed(DecodeError::FrameFlags { found: flags }), "no beginning");
    }
    let mut lengths = Vec::new();
    varint::put(&mut lengths, u64::MAX);
    lengths.push(1);
    let too_long = DecodeError::MessageTooLong { command: ITEM, len: u64::MAX, limit: MAX_CONTENT };
    assert_eq!(error(&frame(0b10_1100, &lengths)), (too_long, CloseReason::MessageTooLong), "the sum saturates");
    assert_eq!(error(&frame(0b0100, &[9, 0])), (DecodeError::EmptyFragment, CloseReason::BadFragment));
    assert_eq!(error(&frame(0b1000, &[0])), (DecodeError::EmptyFragment, CloseReason::BadFragment));
    assert_eq!(error(&frame(0b1000, &lengths[..10])), malformed(DecodeError::Truncated));
}

#[test]
fn the_syntax_of_a_compressed_body() {
    let packed = |command: Command, head: u64, body: u64, packed: u64, content: usize| {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, command.number().into());
        bytes.push(0b11_1100);
        [head, body, packed].into_iter().for_each(|number| varint::put(&mut bytes, number));
        bytes.extend(std::iter::repeat_n(7, content));
        bytes
    };
    let read =
        |bytes: &[u8]| FrameReader::new(bytes).next().expect("not at its end").map(|frame| frame.announced_len());
    let malformed = |error: DecodeError| {
        assert_eq!(error.close_reason(), CloseReason::MalformedMessage);
        Err(error)
    };
    assert_eq!(read(&packed(ITEM, 2, 2000, 1800, 1802)), Ok(Some(2002)), "the good one");
    assert_eq!(read(&packed(ITEM, 2, 2000, 1800, 1801)), malformed(DecodeError::Truncated));
    for (body, short) in [(2000, 1801), (1024, 10), (0, 0), (2000, u64::MAX)] {
        let wrong = DecodeError::NotSaved { body, packed: short };
        assert_eq!(read(&packed(ITEM, 2, body, short, 2000)), malformed(wrong), "nothing is saved");
    }
    let long = MAX_CONTENT as u64 + 1;
    let too_long = DecodeError::MessageTooLong { command: ITEM, len: long, limit: MAX_CONTENT };
    assert_eq!(read(&packed(ITEM, 0, long, 100, 100)), Err(too_long), "its own length counts, not what is sent for it");
    let ping = Command::new(Layer::Transport, 0, Class::Control);
    assert_eq!(read(&packed(ping, 2, 2000, 100, 102)), malformed(DecodeError::NotPublic { command: ping }));
}

fn reassembler(budget: &Budget) -> Reassembler {
    Reassembler::new(Arc::new(Limits::new(&[&[(ITEM, 1000)]])), budget.clone())
}

fn whole(command: Command, head: &[u8]) -> Frame<'_> {
    Frame::Whole { command, envelope: Envelope::Notification, head, body: None }
}

fn first(command: Command, head_len: usize, body_len: Option<usize>, piece: &[u8]) -> Frame<'_> {
    Frame::First { command, envelope: Envelope::Notification, head_len, body_len, piece }
}

fn next(command: Command, last: bool, piece: &[u8]) -> Frame<'_> {
    Frame::Next { command, last, piece }
}

/// The error of the last of these frames; those before are accepted.
fn frames_error(frames: &[Frame<'_>]) -> (DecodeError, CloseReason) {
    let mut reassembler = reassembler(&Budget::default());
    let (last, before) = frames.split_last().expect("some frames");
    before.iter().for_each(|frame| assert!(reassembler.accept(*frame).is_ok(), "{frame:?}"));
    let error = reassembler.accept(*last).expect_err("a broken rule");
    (error, error.close_reason())
}

#[test]
fn a_message_longer_than_its_command_allows() {
    let limit = class_default(Class::Signal);
    let long = vec![0; limit + 1];
    let too_long = |command, limit| {
        let error = DecodeError::MessageTooLong { command, len: limit as u64 + 1, limit };
        (error, CloseReason::MessageTooLong)
    };
    assert_eq!(frames_error(&[whole(SMALL, &long)]), too_long(SMALL, limit));
    assert_eq!(frames_error(&[whole(ITEM, &long[..1001])]), too_long(ITEM, 1000));
    assert_eq!(frames_error(&[first(ITEM, 1, Some(1000), &[0])]), too_long(ITEM, 1000), "by its first fragment");
}

#[test]
fn fragments_that_do_not_make_up_a_message() {
    let bad = |error: DecodeError| (error, CloseReason::BadFragment);
    let begin = first(ITEM, 2, Some(4), &[1, 2, 3]);
    assert_eq!(
        frames_error(&[next(ITEM, true, &[1])]),
        bad(DecodeError::FragmentWithoutFirst { command: ITEM }),
        "nothing is begun"
    );
    assert_eq!(
        frames_error(&[begin, next(ITEM, true, &[4, 5, 6]), next(ITEM, true, &[7])]),
        bad(DecodeError::FragmentWithoutFirst { command: ITEM }),
        "nothing is begun any more"
    );
    assert_eq!(frames_error(&[begin, begin]), bad(DecodeError::Interleaved { command: ITEM, begun: ITEM }));
    for second in [whole(OTHER_ITEM, &[]), first(OTHER_ITEM, 2, None, &[1]), next(OTHER_ITEM, false, &[4])] {
        let interleaved = DecodeError::Interleaved { command: OTHER_ITEM, begun: ITEM };
        assert_eq!(frames_error(&[begin, second]), bad(interleaved), "the same class");
        let elsewhere = [begin, whole(SMALL, &[]), first(SMALL, 2, None, &[1]), second];
        assert_eq!(frames_error(&elsewhere), bad(interleaved), "another class is no hindrance");
    }
    assert_eq!(frames_error(&[begin, next(ITEM, true, &[4; 5])]), bad(DecodeError::PastTotal { excess: 2 }));
    assert_eq!(frames_error(&[first(ITEM, 1, None, &[1, 2])]), bad(DecodeError::PastTotal { excess: 1 }));
    assert_eq!(frames_error(&[begin, next(ITEM, true, &[4])]), bad(DecodeError::EndsEarly { missing: 2 }));
    assert_eq!(frames_error(&[begin, next(ITEM, false, &[4; 3])]), bad(DecodeError::NotEnded));
    assert_eq!(frames_error(&[first(ITEM, 1, None, &[1])]), bad(DecodeError::NotEnded));
}

#[test]
fn a_full_budget_changes_nothing_and_the_frame_may_come_again() {
    let budget = Budget::new(2 * MESSAGE_OVERHEAD);
    let mut reassembler = reassembler(&budget);
    let retry = |reassembler: &mut Reassembler, frame: Frame<'_>, room: usize| -> Option<Incoming> {
        let before = (budget.report().resident, reassembler.held());
        let free = 2 * MESSAGE_OVERHEAD - before.0;
        let others = budget.charge(Pool::Table, free - (room - 1)).expect("fits");
        let error = reassembler.accept(frame).expect_err("a byte is missing");
        assert!(matches!(error, DecodeError::OverBudget(OverBudget { .. })), "{error}");
        assert_eq!(error.close_reason(), CloseReason::OverBudget);
        drop(others);
        assert_eq!((budget.report().resident, reassembler.held()), before, "nothing was taken");
        let _others = budget.charge(Pool::Table, free - room).expect("fits");
        reassembler.accept(frame).expect("there is room now")
    };
    let alone = retry(&mut reassembler, whole(ITEM, &[7; 9]), MESSAGE_OVERHEAD + 9).expect("whole");
    assert_eq!((&alone.message.head[..], alone.charge.bytes()), (&[7; 9][..], MESSAGE_OVERHEAD + 9));
    drop(alone);

    assert!(retry(&mut reassembler, first(ITEM, 2, Some(9), &[1; 4]), MESSAGE_OVERHEAD + 4).is_none());
    assert_eq!(reassembler.held(), MESSAGE_OVERHEAD + 4);
    // The body's buffer doubles from 2 to 4 bytes, though only 3 are needed.
    assert!(retry(&mut reassembler, next(ITEM, false, &[2; 1]), 2).is_none());
    let message = retry(&mut reassembler, next(ITEM, true, &[3; 6]), 5).expect("complete");
    assert_eq!(message.message.head[..], [1, 1]);
    assert_eq!(message.message.body.as_deref(), Some(&[1, 1, 2, 3, 3, 3, 3, 3, 3][..]));
    assert_eq!((message.charge.bytes(), reassembler.held()), (MESSAGE_OVERHEAD + 11, 0));
    assert_eq!(budget.report().pools[Pool::Inbox as usize].1, MESSAGE_OVERHEAD + 11, "it waits in the inbox now");
    drop(message);
    assert_eq!(budget.report().resident, 0);
}
