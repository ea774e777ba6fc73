//! What holds for every sequence of messages, every split of a stream and every sequence of bytes.

use peerage_core::{Budget, Class, Command, Layer, Message, PerClass};
use peerage_wire::{
    DecodeError, Envelope, Fragmenter, Frame, FrameReader, Incoming, Limits, Magic, Reassembler, RecordDecoder,
    RecordKind, SealedDecoder, begin_sealed, finish_sealed,
    limits::{MAX_CONTENT, MAX_MESSAGE, MAX_PLAINTEXT, MESSAGE_OVERHEAD, TAG},
    open_plaintext, put_record,
};
use proptest::{collection::vec, option, prelude::*, sample::Index};
use std::{collections::VecDeque, sync::Arc};

fn command() -> impl Strategy<Value = Command> {
    (0..3u8, 0..5u8)
        .prop_map(|(index, class)| Command::new(Layer::Chain, index, Class::from_u8(class).expect("five classes")))
}

fn envelope() -> impl Strategy<Value = Envelope> {
    prop_oneof![
        Just(Envelope::Notification),
        any::<u64>().prop_map(Envelope::Request),
        any::<u64>().prop_map(Envelope::Response)
    ]
}

/// Messages of all classes, some longer than a record, none longer than its class allows.
fn message() -> impl Strategy<Value = (Message, Envelope)> {
    let len = prop_oneof![4 => 0..40usize, 1 => 0..500usize, 1 => 16_000..40_000usize];
    (command(), envelope(), len.clone(), option::of(len), any::<u8>()).prop_map(
        |(command, envelope, head, body, seed)| {
            let cut = if command.class() == Class::Control { 500 } else { 30_000 };
            let bytes = |len: usize| (0..len.min(cut)).map(|i| (i * 31) as u8 ^ seed).collect::<Vec<_>>();
            let message = Message { command, head: bytes(head).into(), body: body.map(|len| bytes(len).into()) };
            (message, envelope)
        },
    )
}

/// Pieces of `bytes`, cut at these places.
fn split<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let starts = [0].into_iter().chain(ends.clone());
    starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect()
}

/// The records in clear of a stream that arrives in pieces, and the error that ends it.
fn clear_records(pieces: &[&[u8]]) -> (Vec<(RecordKind, Vec<u8>)>, Option<DecodeError>) {
    let (mut decoder, mut records) = (RecordDecoder::new(Magic::DEV), Vec::new());
    for mut piece in pieces.iter().copied() {
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
}

/// The bodies of the sealed records of a stream that arrives in pieces, and the error that ends it.
fn sealed_records(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<DecodeError>) {
    let (mut decoder, mut records) = (SealedDecoder::new(), Vec::new());
    for mut piece in pieces.iter().copied() {
        loop {
            match decoder.read(&mut piece) {
                Ok(Some(body)) => records.push(body.to_vec()),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, None)
}

/// Sends the messages, each class in order, switching classes and leaving records half full as `dice` say.
fn transmit(messages: &[(Message, Envelope)], sealed: bool, dice: &[u16]) -> Vec<u8> {
    let mut queues: PerClass<VecDeque<Fragmenter>> = PerClass::default();
    for (message, envelope) in messages {
        queues[message.command.class()].push_back(Fragmenter::new(message.clone(), *envelope));
    }
    let mut dice = dice.iter().copied().cycle();
    let mut roll = move |sides: usize| usize::from(dice.next().expect("endless")) % sides;
    let mut plaintext = |out: &mut Vec<u8>| {
        let start = out.len();
        for _ in 0..=roll(4) {
            let busy: Vec<Class> = Class::ALL.into_iter().filter(|class| !queues[*class].is_empty()).collect();
            if busy.is_empty() {
                break;
            }
            let queue = &mut queues[busy[roll(busy.len())]];
            let left = MAX_PLAINTEXT - (out.len() - start);
            let room = if roll(3) == 0 { left.min(32 + roll(2000)) } else { left };
            let written = queue[0].fill(room, out);
            assert!(written <= room && (written > 0 || room < 32), "{written} of {room}");
            if queue[0].is_done() {
                queue.pop_front();
            }
        }
        out.len() > start
    };
    let mut stream = Vec::new();
    loop {
        let before = stream.len();
        let more = if sealed {
            let start = begin_sealed(&mut stream, RecordKind::Data);
            let more = plaintext(&mut stream);
            finish_sealed(&mut stream, start);
            stream.extend([0; TAG]);
            more
        } else {
            let mut more = false;
            put_record(&mut stream, Magic::DEV, RecordKind::Data, |out| more = plaintext(out));
            more
        };
        if !more {
            stream.truncate(before);
            return stream;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_arrive_as_they_were_sent_however_the_stream_is_cut(
        messages in vec(message(), 0..12),
        sealed: bool,
        dice in vec(any::<u16>(), 1..40),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let stream = transmit(&messages, sealed, &dice);
        let pieces = split(&stream, &cuts);
        let plaintexts: Vec<Vec<u8>> = if sealed {
            let (records, error) = sealed_records(&pieces);
            prop_assert_eq!(error, None);
            let open = |body: &Vec<u8>| open_plaintext(&body[..body.len() - TAG]).expect("valid").1.to_vec();
            records.iter().map(open).collect()
        } else {
            let (records, error) = clear_records(&pieces);
            prop_assert_eq!(error, None);
            records.into_iter().map(|(_, raw)| raw[12..].to_vec()).collect()
        };

        let budget = Budget::default();
        let mut reassembler = Reassembler::new(Arc::new(Limits::default()), budget.clone());
        let mut received: Vec<Incoming> = Vec::new();
        for frame in plaintexts.iter().flat_map(|plaintext| FrameReader::new(plaintext)) {
            received.extend(reassembler.accept(frame.expect("valid")).expect("valid"));
        }
        for class in Class::ALL {
            let sent = messages.iter().filter(|(message, _)| message.command.class() == class).cloned();
            let got = received.iter().map(|got| (got.message.clone(), got.envelope));
            let got = got.filter(|(message, _)| message.command.class() == class);
            prop_assert_eq!(got.collect::<Vec<_>>(), sent.collect::<Vec<_>>());
        }
        let bytes: usize = messages.iter().map(|(message, _)| message.len() + MESSAGE_OVERHEAD).sum();
        prop_assert_eq!((budget.report().resident, reassembler.held()), (bytes, 0));
        drop(received);
        prop_assert_eq!(budget.report().resident, 0);
    }
}

/// A frame that is well formed, whatever it means.
fn frame() -> impl Strategy<Value = (Command, u8, Envelope, Vec<u8>, Option<Vec<u8>>, usize)> {
    let bytes = vec(any::<u8>(), 1..60);
    let announced = prop_oneof![2 => 0..100usize, 1 => Just(MAX_CONTENT - 60)];
    (command(), 0..4u8, envelope(), bytes.clone(), option::of(bytes), announced)
}

proptest! {
    #[test]
    fn any_frame_comes_back_and_none_makes_the_receiver_hold_more_than_twice_what_arrived(
        frames in vec(frame(), 1..40),
    ) {
        let frames: Vec<Frame<'_>> = frames
            .iter()
            .map(|(command, kind, envelope, piece, body, announced)| {
                let (command, envelope) = (*command, *envelope);
                match kind {
                    0 => Frame::Whole { command, envelope, head: piece, body: body.as_deref() },
                    1 => {
                        let body_len = body.as_ref().map(Vec::len);
                        Frame::First { command, envelope, head_len: *announced, body_len, piece }
                    }
                    kind => Frame::Next { command, last: *kind == 3, piece },
                }
            })
            .collect();
        let mut plaintext = Vec::new();
        for frame in &frames {
            let before = plaintext.len();
            frame.encode(&mut plaintext);
            prop_assert_eq!(plaintext.len() - before, frame.encoded_len());
        }
        let read: Result<Vec<_>, _> = FrameReader::new(&plaintext).collect();
        prop_assert_eq!(read.as_ref(), Ok(&frames));

        let budget = Budget::default();
        let mut reassembler = Reassembler::new(Arc::new(Limits::default()), budget.clone());
        let (mut kept, mut arrived) = (Vec::new(), 0);
        for frame in frames {
            arrived += 2 * frame.content_len() + MESSAGE_OVERHEAD;
            // An error would end the connection; going on regardless must not break the reassembler either.
            kept.extend(reassembler.accept(frame));
            prop_assert!(budget.report().peak <= arrived, "{} > {arrived}", budget.report().peak);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_read_of_them_is_what_would_be_written(
        bytes in vec(prop_oneof![3 => 0..16u8, 1 => any::<u8>()], 0..200),
    ) {
        let mut reader = FrameReader::new(&bytes);
        let mut reassembler = Reassembler::new(Arc::new(Limits::default()), Budget::new(1 << 20));
        loop {
            let before = reader.rest();
            let Some(Ok(frame)) = reader.next() else { break };
            let mut again = Vec::new();
            frame.encode(&mut again);
            prop_assert_eq!(again.as_slice(), &before[..before.len() - reader.rest().len()]);
            let _either = reassembler.accept(frame);
        }
    }

    #[test]
    fn arbitrary_streams_give_the_same_records_and_the_same_error_however_they_are_cut(
        records in vec((0..7u16, 0..80u32, 0..40u8), 0..6),
        noise in vec(any::<u8>(), 0..40),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut stream = Vec::new();
        for (kind, length, flaw) in records {
            let kind = if flaw < 30 { RecordKind::Data as u16 } else { kind };
            stream.extend(Magic::DEV.0.to_be_bytes());
            stream.extend([1, u8::from(flaw == 39)]);
            stream.extend(kind.to_be_bytes());
            stream.extend((if flaw == 38 { length << 12 } else { length }).to_be_bytes());
            stream.extend((0..length).map(|i| i as u8));
        }
        stream.extend(&noise);
        prop_assert_eq!(clear_records(&split(&stream, &cuts)), clear_records(&[&stream]));
        prop_assert_eq!(clear_records(&split(&noise, &cuts)), clear_records(&[&noise]));

        let mut sealed = vec![0, 20];
        sealed.extend([7; 20]);
        sealed.extend(&noise);
        prop_assert_eq!(sealed_records(&split(&sealed, &cuts)), sealed_records(&[&sealed]));
    }

    #[test]
    fn a_frame_fills_its_room_as_far_as_it_can((message, envelope) in message(), room in 0..20_000usize) {
        let mut sender = Fragmenter::new(message.clone(), envelope);
        let mut out = Vec::new();
        while !sender.is_done() {
            let written = sender.fill(room, &mut out);
            prop_assert!(written <= room);
            if written == 0 {
                prop_assert!(room < 32, "32 bytes always hold something");
                break;
            }
            // One byte may stay free where a longer piece would need a longer length.
            prop_assert!(sender.is_done() || written + 1 >= room, "{} of {}", written, room);
        }
    }
}

#[test]
fn the_longest_message_stays_below_the_maximum_with_all_its_framing() {
    let command = Command::new(Layer::Application, 31, Class::Bulk);
    let message = Message::with_body(command, vec![1; 70_000], vec![2; MAX_CONTENT - 70_000]);
    let mut sender = Fragmenter::new(message, Envelope::Request(u64::MAX));
    let (mut out, mut records) = (Vec::new(), 0);
    while !sender.is_done() {
        sender.fill(MAX_PLAINTEXT, &mut out);
        records += 1;
    }
    assert!(out.len() <= MAX_MESSAGE && records <= 129, "{} bytes, {records} records", out.len());
}
