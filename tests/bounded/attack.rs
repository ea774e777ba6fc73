//! Floods, and those who send them. They run in the process of the test, so that their own memory does not count.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use peerage_chain::proto::{
    BLOCKS, BLOCKS_TOPIC, BlocksRequest, TRANSACTIONS, TRANSACTIONS_TOPIC,
    block::{Certificate, Header},
    id::{Account, BlockId, Producer, Root},
    transaction::{Op, Transaction, TransactionBody},
};
use peerage_core::{Class, Command, Layer, Message, UnixMillis};
use peerage_discovery::proto::record::{NodeRecord, RecordBody};
use peerage_gossip::{MAX_ITEM_BYTES, Topic, proto::ITEM};
use peerage_transport::proto::{connection::credit::cost, keypair::Keypair};
use peerage_wire::{Envelope, Limits, encode_frame, limits::MAX_PLAINTEXT, payload};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    bound,
    hand::{Hand, connect, pieces},
    victim,
};

/// Identities that attack at once. Each offers some 4 MiB: together more than ten times the budget.
pub(crate) const ATTACKERS: usize = 96;
/// Of those that ask much: each offers four times as much.
const QUESTIONERS: usize = 24;
/// What each of them asks at a time, well within its credit, and how often.
const QUESTIONS: u64 = 6_000;
const ROUNDS: u64 = 5;

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Handshakes that stop half-way.
    HalfOpen,
    /// The longest messages of each class but for their last piece.
    Fragments,
    /// The longest messages.
    Large,
    /// Messages of no byte.
    Small,
    /// Valid transactions, each of another account, which wait for an earlier one that never comes.
    Transactions,
    /// Gossip items that are no blocks, but would be large ones.
    Items,
    /// Node records.
    Records,
    /// Questions whose answers are long and never read.
    Answers,
    /// Questions whose answers are of hardly a byte, read but never given credit for.
    Questions,
    /// Each of these, by turns.
    All,
}

/// What one attacker sends.
struct Script {
    /// What all of it would be charged, and the answers that it asks for.
    offers: usize,
    /// Plaintexts of records.
    records: Box<dyn Iterator<Item = Vec<u8>> + Send>,
    reads: bool,
}

impl Script {
    fn of(messages: Vec<(Message, Envelope)>) -> Self {
        let offers = messages.iter().map(|(message, _)| cost(message.len())).sum();
        let records = messages.into_iter().flat_map(|(message, envelope)| pieces(message, envelope));
        Self { offers, records: Box::new(records), reads: true }
    }

    fn notifications(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::of(messages.into_iter().map(|message| (message, Envelope::Notification)).collect())
    }

    /// The same without the last piece of any message.
    fn incomplete(messages: impl IntoIterator<Item = Message>) -> Self {
        let messages: Vec<Message> = messages.into_iter().collect();
        let offers = messages.iter().map(|message| cost(message.len())).sum();
        let records = messages.into_iter().flat_map(|message| {
            let mut records = pieces(message, Envelope::Notification);
            records.pop();
            records
        });
        Self { offers, records: Box::new(records), reads: true }
    }
}

fn item(topic: Topic, bytes: Vec<u8>) -> Message {
    Message::with_body(ITEM, payload::to_bytes(&topic), bytes)
}

fn limits() -> Limits {
    Limits::new(&[peerage_discovery::LIMITS, peerage_gossip::proto::LIMITS, peerage_chain::proto::LIMITS])
}

/// A message of its greatest length.
fn longest(command: Command) -> Message {
    let limit = limits().of(command);
    Message::with_body(command, vec![7; 100], vec![7; limit - 100])
}

/// What would be a block if its producer had signed it: transactions of many operations of the smallest kind, whose decoded
/// form is thirteen times their encoding.
fn bomb(number: u64) -> Vec<u8> {
    let (root, signature) = (Root([7; 32]), victim::honest_tx(0).tx.signature);
    let header = Header {
        height: 1 + number,
        parent: BlockId([7; 32]),
        time: UnixMillis(1),
        tx_root: root,
        receipts_root: root,
        state_root: root,
        producer: Producer([7; 32]),
    };
    let ops = vec![Op::Delete { key: Vec::new(), expected_version: 0 }; 64];
    let body = TransactionBody { chain_id: 1, account: Account([7; 32]), nonce: 0, valid_until: 1, ops };
    let transaction = payload::to_bytes(&Transaction { body, signature });
    let transactions = 1_900_000 / transaction.len();
    // As `Block` is encoded, but faster.
    [
        payload::to_bytes(&header),
        payload::to_bytes(&transactions),
        transaction.repeat(transactions),
        payload::to_bytes(&Certificate::Solo(signature)),
    ]
    .concat()
}

fn script(flood: Flood, number: usize, keypair: &Keypair, own: SocketAddr) -> Script {
    match flood {
        Flood::HalfOpen | Flood::All => unreachable!("no flood of messages"),
        Flood::Fragments => {
            let unheard_of = |class| Command::new(Layer::Application, 30, class);
            Script::incomplete([
                longest(ITEM),
                longest(BLOCKS),
                longest(unheard_of(Class::Consensus)),
                longest(unheard_of(Class::Signal)),
            ])
        }
        Flood::Large => {
            let junk = |first: u8| {
                let mut bytes = vec![first; MAX_ITEM_BYTES];
                bytes[..8].copy_from_slice(&number.to_be_bytes());
                item(TRANSACTIONS_TOPIC, bytes)
            };
            Script::notifications([junk(1), junk(2)])
        }
        Flood::Small => {
            let empty = Message::new(TRANSACTIONS, payload::to_bytes(&Vec::<u32>::new()));
            let mut frame = Vec::new();
            encode_frame(&empty, Envelope::Notification, &mut frame);
            let messages = (4 << 20) / cost(empty.len());
            let in_record = MAX_PLAINTEXT / frame.len();
            let full = frame.repeat(in_record);
            let records = (0..messages / in_record).map(move |_| full.clone());
            Script { offers: messages * cost(empty.len()), records: Box::new(records), reads: true }
        }
        Flood::Transactions => {
            let sizes = [200; 200].into_iter().chain([230_000; 8]);
            // Each costs what its bytes do while it waits for a verdict, and twice that in the pool.
            let offers = sizes.clone().map(|bytes| 2 * cost(bytes)).sum();
            let number = number as u64;
            let records = sizes.zip(0u64..).flat_map(move |(bytes, index)| {
                let mut seed = [66; 32];
                seed[..16].copy_from_slice(&(u128::from(number) << 64 | u128::from(index)).to_be_bytes());
                let tx = victim::tx(&Keypair::from_seed(&seed), 9, bytes);
                pieces(item(TRANSACTIONS_TOPIC, tx.bytes.to_vec()), Envelope::Notification)
            });
            Script { offers, records: Box::new(records), reads: true }
        }
        Flood::Items => {
            let (first, second) = (bomb(2 * number as u64), bomb(2 * number as u64 + 1));
            Script::notifications([item(BLOCKS_TOPIC, first), item(BLOCKS_TOPIC, second)])
        }
        Flood::Records => {
            let body = RecordBody { seq: 1, addrs: vec![own], features: 0, issued_at: now() };
            let signed = NodeRecord::sign(keypair, victim::network(), body);
            let message = Message::new(peerage_discovery::proto::messages::RECORD, signed.encoded().clone());
            let times = (4 << 20) / cost(message.len());
            let mut frame = Vec::new();
            encode_frame(&message, Envelope::Notification, &mut frame);
            let records = (0..times).map(move |_| frame.clone());
            Script { offers: times * cost(message.len()), records: Box::new(records), reads: true }
        }
        Flood::Answers => {
            let wishes = [1, 1].into_iter().chain(std::iter::repeat_n(u64::MAX, 2_000));
            let mut offers = 2 * victim::FIRST_BLOCK;
            let mut records = vec![Vec::new()];
            for (from, id) in wishes.zip(0..) {
                let (mut frame, message) = (Vec::new(), ask(from));
                offers += cost(message.len());
                encode_frame(&message, Envelope::Request(id), &mut frame);
                if records.last().is_none_or(|record: &Vec<u8>| record.len() + frame.len() > MAX_PLAINTEXT) {
                    records.push(Vec::new());
                }
                records.last_mut().expect("never empty").append(&mut frame);
            }
            Script { offers, records: Box::new(records.into_iter()), reads: false }
        }
        Flood::Questions => {
            let offers = (ROUNDS * QUESTIONS) as usize * (cost(ask(u64::MAX).len()) + cost(1));
            let records = (0..ROUNDS).flat_map(|round| {
                let mut records = vec![Vec::new()];
                for id in round * QUESTIONS..(round + 1) * QUESTIONS {
                    let last = records.last_mut().expect("never empty");
                    encode_frame(&ask(u64::MAX), Envelope::Request(id), last);
                    if last.len() > MAX_PLAINTEXT - 64 {
                        records.push(Vec::new());
                    }
                }
                // Their credit comes back meanwhile.
                records.push(PAUSE.to_vec());
                records
            });
            Script { offers, records: Box::new(records), reads: true }
        }
    }
}

fn ask(from: u64) -> Message {
    Message::new(BLOCKS, payload::to_bytes(&BlocksRequest { from, max_bytes: 1 << 20 }))
}

fn now() -> UnixMillis {
    peerage_transport::driver::Clock::start().now().wall
}

/// What the attackers did so far.
#[derive(Default)]
struct Tally {
    /// Whose handshake is over, however it ended.
    met: AtomicUsize,
    /// What they had to offer, as the ledger would count it, on connections that stood.
    offered: AtomicUsize,
    /// Bytes that their sockets took.
    written: AtomicU64,
    /// How many are done, or have been sent away.
    done: AtomicUsize,
}

/// Attackers at work. Dropped, they are gone.
pub(crate) struct Attack {
    flood: Flood,
    addr: SocketAddr,
    tally: Arc<Tally>,
    /// Who would be heard out must not talk all at once.
    turns: Arc<Semaphore>,
    attackers: JoinSet<()>,
    start: watch::Sender<bool>,
    all: usize,
}

/// Attackers that send at a time, where what they send is to be understood: long messages that arrive all at once leave each
/// other no room to end.
const TURNS: usize = 2;
/// In place of a record: time to breathe.
const PAUSE: &[u8] = &[];
/// Without a byte written for so long an attack has come to a stand.
const STANDSTILL: Duration = Duration::from_millis(700);
/// Connections of which each begins a handshake that it does not end, one after the other.
const DOORSTEPS: usize = 100;
/// How often each does.
const KNOCKS: usize = 14;

impl Attack {
    /// All shake hands with the victim and wait.
    pub(crate) async fn prepare(flood: Flood, addr: SocketAddr) -> Self {
        let all = match flood {
            Flood::HalfOpen => DOORSTEPS,
            Flood::Questions => QUESTIONERS,
            _ => ATTACKERS,
        };
        let (start, _) = watch::channel(false);
        let mut attack = Self {
            flood,
            addr,
            tally: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
            attackers: JoinSet::new(),
            start,
            all,
        };
        if flood != Flood::HalfOpen {
            for number in 0..all {
                let attacker = Attacker {
                    tally: Arc::clone(&attack.tally),
                    turns: Arc::clone(&attack.turns),
                    start: attack.start.subscribe(),
                    flood: flood_of(flood, number),
                };
                attack.attackers.spawn(attacker.join_in(number, addr));
            }
            while attack.tally.met.load(Relaxed) < all {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        attack
    }

    /// They send until all have sent what they had, or nobody gets on.
    pub(crate) async fn run(&mut self) {
        if self.flood == Flood::HalfOpen && self.attackers.is_empty() {
            for doorstep in 0..self.all {
                self.attackers.spawn(knock(Arc::clone(&self.tally), doorstep, self.addr));
            }
        }
        self.start.send_replace(true);
        let mut written = u64::MAX;
        while self.tally.done.load(Relaxed) < self.all && self.tally.written.load(Relaxed) != written {
            written = self.tally.written.load(Relaxed);
            tokio::time::sleep(STANDSTILL).await;
        }
    }

    /// What they had to offer, in bytes.
    pub(crate) fn offered(&self) -> usize {
        self.tally.offered.load(Relaxed)
    }

    /// All hang up.
    pub(crate) async fn leave(mut self) {
        self.attackers.shutdown().await;
    }
}

/// Which flood an attacker takes part in when all of them come at once.
fn flood_of(flood: Flood, number: usize) -> Flood {
    const ALL: [Flood; 8] = [
        Flood::Fragments,
        Flood::Large,
        Flood::Small,
        Flood::Transactions,
        Flood::Items,
        Flood::Records,
        Flood::Answers,
        Flood::Questions,
    ];
    if flood == Flood::All { ALL[number % ALL.len()] } else { flood }
}

fn keypair(number: usize) -> Arc<Keypair> {
    let mut seed = [77; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    Arc::new(Keypair::from_seed(&seed))
}

struct Attacker {
    tally: Arc<Tally>,
    turns: Arc<Semaphore>,
    start: watch::Receiver<bool>,
    flood: Flood,
}

impl Attacker {
    async fn join_in(mut self, number: usize, addr: SocketAddr) {
        let keypair = keypair(number);
        let stood = async {
            let stream = connect(number, addr).await?;
            let own = stream.local_addr()?;
            io::Result::Ok((Hand::shake(stream, &keypair).await?, own))
        };
        let stood = stood.await;
        self.tally.met.fetch_add(1, Relaxed);
        if let Ok((hand, own)) = stood {
            if self.start.wait_for(|start| *start).await.is_ok() {
                let script = script(self.flood, number, &keypair, own);
                self.tally.offered.fetch_add(script.offers, Relaxed);
                self.send(hand, script).await;
            }
        } else {
            self.tally.done.fetch_add(1, Relaxed);
        }
    }

    async fn send(&self, hand: Hand, script: Script) {
        let Hand { stream, mut keys } = hand;
        let (mut reader, mut writer) = stream.into_split();
        let sending = async {
            let turn = match self.flood {
                Flood::Items => self.turns.acquire().await.ok(),
                _ => None,
            };
            for frames in script.records {
                if frames == PAUSE {
                    tokio::time::sleep(STANDSTILL / 2).await;
                    continue;
                }
                let record = keys.seal(&frames);
                if writer.write_all(&record).await.is_err() {
                    break;
                }
                self.tally.written.fetch_add(record.len() as u64, Relaxed);
            }
            drop(turn);
            self.tally.done.fetch_add(1, Relaxed);
            // The stream stays open until the attack is over.
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut buffer = vec![0; 64 << 10];
            while script.reads && reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            std::future::pending::<()>().await;
        };
        tokio::join!(sending, reading);
    }
}

/// Handshakes that are not ended, one after the other from addresses of their own. Each offers what a connection may cost.
async fn knock(tally: Arc<Tally>, doorstep: usize, addr: SocketAddr) {
    let mut held = VecDeque::new();
    for number in (0..KNOCKS).map(|knock| doorstep + knock * DOORSTEPS) {
        let half = async { Hand::half(connect(number, addr).await?, &keypair(number)).await };
        if let Ok(stream) = half.await {
            tally.offered.fetch_add(bound::PER_LINK, Relaxed);
            held.push_back(stream);
            held.drain(..held.len().saturating_sub(2));
        }
        tally.written.fetch_add(1, Relaxed);
    }
    tally.done.fetch_add(1, Relaxed);
    std::future::pending::<()>().await;
}
