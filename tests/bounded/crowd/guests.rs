//! Those who come: most are honest, two of these catch up, some do not read, some talk nonsense, some send too much.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use peerage_core::{Class, Message};
use peerage_transport::{
    driver::Clock,
    proto::{
        connection::credit::{cost, window},
        keypair::Keypair,
    },
};
use peerage_wire::{
    Envelope, Frame, FrameReader, RecordKind, SealedDecoder, decode_reason, encode_frame, limits::MAX_PLAINTEXT,
    open_plaintext,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

use super::desk::{ANSWER, ASK, BULK, ECHO, ITEM, NOTE};
use crate::hand::{Hand, connect, pieces};

/// Where in the addresses and identities of this story each kind of guest begins.
const HONEST: usize = 1_000;
const SYNCING: usize = 1_500;
const DEAF: usize = 2_000;
const MAD: usize = 3_000;
const LOUD: usize = 4_000;

/// Long answers that each asks for who catches up, as many as are worth the credit for them; how many of them wait at a time, more than
/// what any of the deaf has when they share what there is; and how long it takes for one: 1.3 MiB/s.
pub(super) const BLOCKS: usize = 120;
const AHEAD: usize = 16;
const WORK: Duration = Duration::from_millis(25);
/// When nothing came for so long, it asks again.
const AGAIN: Duration = Duration::from_millis(500);
/// Long answers that each asks for who does not read: 14 MiB.
const QUESTIONS: u64 = 448;
/// How long it takes to do all the harm, so that honest peers speak before, between and after.
const ASKING: Duration = Duration::from_millis(2_500);
/// Records that whoever sends all it can sends in that time: four of the longest messages.
const RECORDS: u32 = 492;
/// How often whoever talks nonsense comes again, and how much of it is said each time.
const RETURNS: usize = 16;
const NONSENSE: usize = 64 << 10;

async fn shake(number: usize, addr: SocketAddr) -> io::Result<Hand> {
    let mut seed = [55; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    Hand::shake(connect(number, addr).await?, &Arc::new(Keypair::from_seed(&seed))).await
}

/// Follows all rules.
pub(super) struct Honest {
    hand: Hand,
    decoder: SealedDecoder,
    next: u64,
}

impl Honest {
    pub(super) async fn come(number: usize, addr: SocketAddr) -> Self {
        let hand = shake(HONEST + number, addr).await.expect("an open door");
        Self { hand, decoder: SealedDecoder::new(), next: 0 }
    }

    /// Says a note, asks for an echo and waits for it, so many times with a rest between; how long each echo took.
    pub(super) async fn talk(&mut self, times: usize, rest: Duration, clock: Clock) -> Vec<Duration> {
        let mut took = Vec::new();
        for turn in 0..times {
            let (id, length) = (self.next, 100 + turn * 37 % 900);
            self.next += 1;
            let mut frames = Vec::new();
            encode_frame(&Message::new(NOTE, vec![7; length]), Envelope::Notification, &mut frames);
            encode_frame(&Message::new(ECHO, vec![8; length]), Envelope::Request(id), &mut frames);
            let record = self.hand.keys.seal(&frames);
            let asked = clock.now().mono;
            self.hand.stream.write_all(&record).await.expect("nobody sends an honest peer away");
            self.hear(id, length).await;
            took.push(clock.now().mono.since(asked));
            tokio::time::sleep(rest).await;
        }
        took
    }

    /// Waits for the answer to a request.
    async fn hear(&mut self, asked: u64, length: usize) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = self.hand.stream.read(&mut buffer).await.expect("nobody sends an honest peer away");
            assert!(count > 0, "nobody sends an honest peer away");
            let (mut input, mut heard) = (&buffer[..count], false);
            while let Some(body) = self.decoder.read(&mut input).expect("well-formed") {
                let plaintext = self.hand.keys.open(body);
                let (_, frames) = open_plaintext(plaintext).expect("well-formed");
                for frame in FrameReader::new(frames) {
                    if let Frame::Whole { envelope: Envelope::Response(id), head, .. } = frame.expect("well-formed") {
                        assert_eq!((id, head.len()), (asked, length));
                        heard = true;
                    }
                }
            }
            if heard {
                return;
            }
        }
    }
}

/// A node that catches up: it asks for more than fits its floor, and works through it at its pace.
pub(super) async fn catches_up(number: usize, addr: SocketAddr, mut start: watch::Receiver<bool>) -> usize {
    let mut hand = shake(SYNCING + number, addr).await.expect("an open door");
    // An error would be the end of the story.
    drop(start.wait_for(|start| *start).await);
    let (mut asked, mut told, mut id, mut decoder) = (0, 0, 0, SealedDecoder::new());
    let mut buffer = vec![0; 16 << 10];
    while told < BLOCKS {
        let mut frames = Vec::new();
        while asked < BLOCKS.min(told + AHEAD) {
            encode_frame(&Message::new(ASK, Vec::new()), Envelope::Request(id), &mut frames);
            asked += 1;
            id += 1;
        }
        if !frames.is_empty() {
            let record = hand.keys.seal(&frames);
            hand.stream.write_all(&record).await.expect("nobody sends a peer away that takes what it asked for");
        }
        let Ok(read) = tokio::time::timeout(AGAIN, hand.stream.read(&mut buffer)).await else {
            // What found no room, or was dropped, is asked for again.
            asked = told;
            continue;
        };
        let count = read.expect("nobody sends a peer away that takes what it asked for");
        assert!(count > 0, "nobody sends a peer away that takes what it asked for");
        let (mut input, before) = (&buffer[..count], told);
        while let Some(body) = decoder.read(&mut input).expect("well-formed") {
            let plaintext = hand.keys.open(body);
            let (kind, frames) = open_plaintext(plaintext).expect("well-formed");
            assert_eq!(kind, RecordKind::Data, "after {told} answers: {:?}", decode_reason(kind, frames));
            // An answer takes more than a record, so each has one last piece.
            let ends = |frame: &Frame<'_>| matches!(frame, Frame::Next { last: true, .. });
            told += FrameReader::new(frames).map(|frame| frame.expect("well-formed")).filter(ends).count();
        }
        tokio::time::sleep(WORK * (told - before) as u32).await;
    }
    told
}

/// What one of the others does, until `over`; says how many bytes it offered.
pub(super) struct Abuse {
    pub(super) addr: SocketAddr,
    pub(super) start: watch::Receiver<bool>,
    pub(super) over: watch::Receiver<bool>,
}

impl Abuse {
    async fn meet(&mut self, number: usize, addr: SocketAddr) -> Hand {
        let hand = shake(number, addr).await.expect("an open door");
        // An error would be the end of the story.
        let _started = self.start.wait_for(|start| *start).await;
        hand
    }

    /// Holds what it has until the story is over.
    async fn stay(&mut self, hand: Hand) {
        let _over = self.over.wait_for(|over| *over).await;
        drop(hand);
    }

    /// Asks for long answers and reads none of them.
    pub(super) async fn deaf(mut self, number: usize) -> usize {
        let mut hand = self.meet(DEAF + number, self.addr).await;
        let (mut offered, clock) = (0, Clock::start());
        let begun = clock.now().mono;
        for id in 0..QUESTIONS {
            let due = begun + ASKING * id as u32 / QUESTIONS as u32;
            tokio::time::sleep(due.since(clock.now().mono)).await;
            let mut frames = Vec::new();
            encode_frame(&Message::new(ASK, Vec::new()), Envelope::Request(id), &mut frames);
            let record = hand.keys.seal(&frames);
            // It is offered, whether anybody still listens.
            let _gone = hand.stream.write_all(&record).await;
            offered += cost(ANSWER) + cost(0);
        }
        self.stay(hand).await;
        offered
    }

    /// Says what nobody understands, again and again.
    pub(super) async fn mad(mut self, number: usize) -> usize {
        let mut hand = self.meet(MAD + number, self.addr).await;
        let mut offered = 0;
        for turn in 0..RETURNS {
            let nonsense: Vec<u8> = (0..NONSENSE).map(|at| (at * 31 + turn * 7 + number) as u8).collect();
            let _gone = hand.stream.write_all(&nonsense).await;
            offered += NONSENSE;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Ok(again) = shake(MAD + number, self.addr).await {
                hand = again;
            }
        }
        self.stay(hand).await;
        offered
    }

    /// Sends all that its credit covers, and of each second one no message comes to an end.
    pub(super) async fn loud(mut self, number: usize) -> usize {
        let mut hand = self.meet(LOUD + number, self.addr).await;
        let (mut offered, mut sent, clock) = (0, 0, Clock::start());
        let begun = clock.now().mono;
        let longest = 2_000_000;
        for command in [BULK, ITEM] {
            let mut left = window(command.class());
            while left >= cost(longest) {
                let mut records = pieces(Message::new(command, vec![9; longest]), Envelope::Notification);
                let ends = number.is_multiple_of(2);
                if !ends {
                    records.pop();
                }
                for frames in records {
                    sent += 1;
                    let due = begun + ASKING * sent / RECORDS;
                    tokio::time::sleep(due.since(clock.now().mono)).await;
                    let record = hand.keys.seal(&frames);
                    if hand.stream.write_all(&record).await.is_err() {
                        break;
                    }
                }
                offered += cost(longest);
                left -= cost(longest);
                if !ends {
                    break;
                }
            }
        }
        let small = Message::new(NOTE_FLOOD, Vec::new());
        let mut frames = Vec::new();
        while frames.len() < MAX_PLAINTEXT - 64 {
            encode_frame(&small, Envelope::Notification, &mut frames);
            offered += cost(0);
        }
        for _ in 0..4 {
            let record = hand.keys.seal(&frames);
            let _gone = hand.stream.write_all(&record).await;
        }
        self.stay(hand).await;
        offered
    }
}

/// Small ones, of a class of their own so that they do not count as notes.
const NOTE_FLOOD: peerage_core::Command =
    peerage_core::Command::new(peerage_core::Layer::Application, 7, Class::Consensus);
