//! What one side sends, as it should be, by hand: classes, credit, records of one message after the other, in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use peerage_core::{Class, CloseReason, Command, DropReason, Message, PerClass, Timestamp};
use peerage_transport::proto::connection::{
    commands::{Answer, Beat, CREDIT, Grant, PING, PONG},
    credit::{cost, window},
};
use peerage_wire::{
    Envelope, Frame, FrameReader, RecordKind, compress, decode_reason, frame_len, limits::MAX_PLAINTEXT, payload,
};

use super::eyes::{Eyes, Seen};
use crate::harness::PUBLIC;

/// Room in a record that need not be filled with a piece (parameters, 1.2).
const SPARE: usize = 64;

/// A message that waits, or of which a part is on the wire.
pub(super) struct Queued {
    pub(super) message: Message,
    pub(super) envelope: Envelope,
    /// Bytes of head and body on the wire, once something is.
    sent: Option<usize>,
    /// The packed form of its body, if it may go so. Without memory for that it goes as it is.
    packed: Option<Vec<u8>>,
    /// Whether it began so.
    goes_packed: bool,
    /// A request whose time was over before anything of it was sent: forgotten when its turn comes.
    dead: bool,
}

impl Queued {
    /// Bytes of its body on the wire.
    fn body(&self) -> &[u8] {
        let packed = self.packed.as_deref().filter(|_| self.goes_packed);
        packed.or(self.message.body.as_deref()).unwrap_or_default()
    }

    /// What it takes as a single frame, in each form that it may have.
    fn wholes(&self) -> Vec<usize> {
        let Message { command, head, body } = &self.message;
        let frame = |packed| Frame::Packed {
            command: *command,
            envelope: self.envelope,
            head,
            body_len: body.as_ref().map_or(0, Bytes::len),
            packed,
        };
        let packed = self.packed.as_ref().map(|packed| frame(packed).encoded_len());
        [frame_len(&self.message, self.envelope)].into_iter().chain(packed).collect()
    }
}

/// What the other side is due to find, in this order.
#[derive(Debug)]
pub(super) enum Due {
    /// More of a message that is not complete.
    Piece(Class, usize),
    Message(Message, Envelope),
    Beat(Bytes),
    Grant(Grant),
    Close(CloseReason),
}

/// A request of this side that has no end.
pub(super) struct Asked {
    pub(super) id: u64,
    pub(super) deadline: Timestamp,
}

pub(super) struct Half {
    eyes: Eyes,
    /// In each class what was sent first goes first.
    queues: PerClass<VecDeque<Queued>>,
    /// Credit that is there for certain, and credit that may be there: the other side's grants are read late while the
    /// budget of this one has no room. What is spent of the latter alone makes the former negative for a while.
    sure: PerClass<isize>,
    perhaps: PerClass<isize>,
    /// With the end of the record that completes it.
    pub(super) due: VecDeque<(u64, Due)>,
    /// Bytes under way, and when they arrive.
    pub(super) pipe: VecDeque<(Timestamp, Vec<u8>)>,
    /// Bytes that the other side was handed.
    pub(super) read: u64,
    /// Requests without an end, by the runner's name.
    pub(super) open: BTreeMap<u64, Asked>,
    /// Names by the ids on the wire, of all that there ever were.
    pub(super) names: BTreeMap<u64, u64>,
    next_id: u64,
    /// The next record may be the greeting of IK, which is not filled.
    greets: bool,
    compresses: bool,
}

impl Half {
    pub(super) fn new(eyes: Eyes, greets: bool, compresses: bool) -> Self {
        Self {
            eyes,
            queues: PerClass::from_fn(|_| VecDeque::new()),
            sure: PerClass::from_fn(|class| window(class) as isize),
            perhaps: PerClass::from_fn(|class| window(class) as isize),
            due: VecDeque::new(),
            pipe: VecDeque::new(),
            read: 0,
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            next_id: 0,
            greets,
            compresses,
        }
    }

    pub(super) fn push(&mut self, message: Message, envelope: Envelope) {
        let body = message.body.as_ref().filter(|_| self.compresses && PUBLIC.contains(&message.command));
        let packed = body.and_then(|body| compress::pack(body));
        let queued = Queued { message, envelope, sent: None, packed, goes_packed: false, dead: false };
        self.queues[queued.message.command.class()].push_back(queued);
    }

    /// Bytes of packed forms that may be kept beside what waits.
    pub(super) fn beside(&self) -> usize {
        let room = |queued: &Queued| queued.packed.as_ref().map_or(0, Vec::len);
        self.queues.0.iter().flatten().map(room).sum()
    }

    /// A request begins; ids count up.
    pub(super) fn ask(&mut self, name: u64, message: Message, deadline: Timestamp) {
        let id = self.next_id;
        self.next_id += 1;
        self.names.insert(id, name);
        self.open.insert(name, Asked { id, deadline });
        self.push(message, Envelope::Request(id));
    }

    /// A request ends; what is not begun of it is never sent.
    pub(super) fn end(&mut self, name: u64) -> Asked {
        let asked = self.open.remove(&name).unwrap_or_else(|| panic!("request {name} ends twice"));
        for queued in self.queues.0.iter_mut().flatten() {
            queued.dead |= queued.envelope == Envelope::Request(asked.id) && queued.sent.is_none();
        }
        asked
    }

    /// Bytes that wait, dead requests among them, and what is paid for them.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let lengths = || self.queues.0.iter().flatten().map(|queued| queued.message.len());
        (lengths().sum(), lengths().map(cost).sum())
    }

    /// The side says that messages will never be sent.
    pub(super) fn unsent(&mut self, command: Command, reason: DropReason, count: u64) {
        let queue = &mut self.queues[command.class()];
        let before = queue.len();
        match reason {
            // Nothing alive may stand before them.
            DropReason::Superseded => {
                for _ in 0..count {
                    let dead =
                        queue.iter().take_while(|queued| queued.dead).position(|it| it.message.command == command);
                    queue.remove(dead.expect("its time was over and its turn came"));
                }
            }
            DropReason::ConnectionLost => queue
                .retain(|queued| matches!(queued.envelope, Envelope::Request(_)) || queued.message.command != command),
            other => panic!("{count} of {command:?}: {other}"),
        }
        assert_eq!(before - queue.len(), count as usize, "{reason}: {command:?}");
    }

    /// What must go so that `bytes` are free: the lowest class first, of a class the newest, and nothing that is begun. How
    /// many messages of which kind that are no requests, and the ids of requests that somebody waits for.
    pub(super) fn shed(&mut self, bytes: usize) -> (BTreeMap<Command, u64>, Vec<u64>) {
        let (mut messages, mut requests, mut freed) = (BTreeMap::new(), Vec::new(), 0);
        for class in Class::ALL.into_iter().rev() {
            // The newest go, and are told in the order in which they came.
            let told = requests.len();
            while freed < bytes
                && let Some(queued) = self.queues[class].pop_back_if(|queued| queued.sent.is_none())
            {
                freed += cost(queued.message.len());
                match queued.envelope {
                    Envelope::Request(id) if !queued.dead => requests.insert(told, id),
                    Envelope::Request(_) => {}
                    Envelope::Notification | Envelope::Response(_) => {
                        *messages.entry(queued.message.command).or_default() += 1;
                    }
                }
            }
        }
        (messages, requests)
    }

    /// The connection is over: nothing waits any more, and of all but requests that was told.
    pub(super) fn forget(&mut self) {
        let untold = self.queues.0.iter().flatten().find(|queued| !matches!(queued.envelope, Envelope::Request(_)));
        assert!(untold.is_none(), "{:?} is lost without a word", untold.map(|queued| &queued.message));
        self.queues = PerClass::from_fn(|_| VecDeque::new());
    }

    /// The highest class of which something could be sent.
    fn first(&self, credit: &PerClass<isize>) -> Option<(Class, &Queued)> {
        self.queues.iter().find_map(|(class, queue)| {
            let front = queue.iter().find(|queued| !queued.dead)?;
            (front.sent.is_some() || cost(front.message.len()) as isize <= credit[class]).then_some((class, front))
        })
    }

    /// Credit came back, to be seen when the record is read.
    pub(super) fn may_earn(&mut self, grant: Grant) {
        let class = Class::from_u8(grant.class).expect("a class");
        self.perhaps[class] += grant.bytes as isize;
    }

    pub(super) fn earn(&mut self, grant: Grant) {
        let class = Class::from_u8(grant.class).expect("a class");
        self.sure[class] += grant.bytes as isize;
        assert!(self.sure[class] <= window(class) as isize, "{class:?}: more came back than was spent");
    }

    /// Whether all credit came back but for less than is worth a message: a quarter of the window.
    pub(super) fn is_full(&self) -> bool {
        self.sure.iter().all(|(class, credit)| window(class) as isize - credit <= window(class) as isize / 4)
    }

    /// This side wrote bytes when asked for `limit` beyond a record; what is in them goes into `due`.
    pub(super) fn wrote(&mut self, bytes: &[u8], limit: usize, arrives: Timestamp, closed: bool) {
        for Seen { kind, plaintext, end } in self.eyes.see(bytes) {
            match kind {
                RecordKind::Data => self.record(&plaintext, end),
                RecordKind::Close => {
                    assert!(closed, "the last words come last");
                    self.due.push_back((end, Due::Close(decode_reason(kind, &plaintext).expect("a reason"))));
                }
                other => panic!("{other:?} under keys"),
            }
        }
        if !closed && bytes.len() < limit {
            let left = self.first(&self.sure).map(|(class, queued)| (class, queued.message.len()));
            assert_eq!(left, None, "could be sent and was not, after {} bytes", bytes.len());
        }
        if !bytes.is_empty() {
            let arrives = self.pipe.back().map_or(arrives, |(last, _)| arrives.max(*last));
            self.pipe.push_back((arrives, bytes.to_vec()));
        }
    }

    fn record(&mut self, plaintext: &[u8], end: u64) {
        assert!(plaintext.len() <= MAX_PLAINTEXT);
        let mut others = 0;
        for frame in FrameReader::new(plaintext) {
            let frame = frame.expect("a frame");
            if frame.command().class() == Class::Control {
                assert_eq!(others, 0, "control goes first");
                self.control(frame, end);
            } else {
                others += 1;
                self.frame(frame, end);
            }
        }
        if core::mem::take(&mut self.greets) {
            return assert_eq!(others, 0, "the greeting holds control messages alone");
        }
        // The record ended here although more could have gone: because it would not have fitted.
        let left = MAX_PLAINTEXT - plaintext.len();
        if let Some((class, queued)) = self.first(&self.sure) {
            let fits_so = |whole: usize| whole <= left || (whole > MAX_PLAINTEXT && left >= SPARE);
            let fits = match queued.sent {
                None => queued.wholes().into_iter().all(fits_so),
                Some(_) => left >= SPARE,
            };
            assert!(!fits, "{class:?} waits although {left} bytes of the record are empty");
        }
    }

    fn control(&mut self, frame: Frame<'_>, end: u64) {
        let Frame::Whole { command, head, .. } = frame else { panic!("control in pieces") };
        let due = match command {
            CREDIT => Due::Grant(payload::from_bytes(head, head.len()).expect("a grant")),
            PING => Due::Beat(payload::from_bytes::<Beat>(head, head.len()).expect("a ping").data.into()),
            PONG => Due::Beat(payload::from_bytes::<Answer>(head, head.len()).expect("a pong").data.into()),
            other => panic!("{other:?}"),
        };
        self.due.push_back((end, due));
    }

    fn frame(&mut self, frame: Frame<'_>, end: u64) {
        let class = frame.command().class();
        if let Some((first, queued)) = self.first(&self.sure) {
            assert!(first >= class, "{:?} waits behind {class:?}", queued.message);
        }
        let Some(at) = self.queues[class].iter().position(|queued| !queued.dead) else {
            panic!("{frame:?} out of nothing")
        };
        let queued = &mut self.queues[class][at];
        if let Some((_, packed_len)) = frame.packed_lens() {
            assert_eq!(queued.packed.as_ref().map(Vec::len), Some(packed_len), "it may go packed, and so");
            queued.goes_packed = true;
        }
        let (message, sent) = (&queued.message, queued.sent);
        let all: Vec<u8> = [&message.head[..], queued.body()].concat();
        let (body_len, whole) = (message.body.as_ref().map(Bytes::len), frame_len(message, queued.envelope));
        assert_eq!(frame.command(), message.command);
        let piece = match frame {
            Frame::Whole { envelope, head, body, .. } => {
                let same = envelope == queued.envelope && head == message.head && body == message.body.as_deref();
                assert!(sent.is_none() && same, "{message:?} is not what was sent, or was begun before");
                all.len()
            }
            Frame::Packed { envelope, head, body_len: body, packed, .. } => {
                let same = envelope == queued.envelope && head == message.head && packed == queued.body();
                assert!(sent.is_none() && same && body_len == Some(body), "{message:?} is not what was sent");
                all.len()
            }
            Frame::FirstPacked { envelope, head_len, body_len: body, piece, .. } => {
                assert!(sent.is_none() && queued.wholes()[1] > MAX_PLAINTEXT, "{message:?} is cut needlessly");
                assert_eq!((envelope, head_len, Some(body)), (queued.envelope, message.head.len(), body_len));
                assert!(all.starts_with(piece) && piece.len() < all.len());
                piece.len()
            }
            Frame::First { envelope, head_len, body_len: body, piece, .. } => {
                assert!(sent.is_none() && whole > MAX_PLAINTEXT, "{message:?} is cut needlessly");
                assert_eq!((envelope, head_len, body), (queued.envelope, message.head.len(), body_len));
                assert!(all.starts_with(piece) && piece.len() < all.len());
                piece.len()
            }
            Frame::Next { last, piece, .. } => {
                let from = sent.expect("a later fragment follows a first");
                assert!(all[from..].starts_with(piece) && last == (from + piece.len() == all.len()));
                piece.len()
            }
        };
        if sent.is_none() {
            let price = cost(message.len()) as isize;
            self.perhaps[class] -= price;
            self.sure[class] -= price;
            assert!(self.perhaps[class] >= 0, "{class:?}: more is sent than there is credit for");
        }
        let done = sent.unwrap_or(0) + piece;
        if done == all.len() {
            let Queued { message, envelope, .. } = self.queues[class].remove(at).expect("it is there");
            self.due.push_back((end, Due::Message(message, envelope)));
        } else {
            queued.sent = Some(done);
            self.due.push_back((end, Due::Piece(class, piece)));
        }
    }
}
