//! What several tests of the documents share.

use std::sync::Arc;

use peerage_chain::{
    proto::{
        Chain,
        genesis::{Genesis, GenesisFile},
        id::{Account, Producer},
        transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
    },
    store::Store,
};
use peerage_core::{
    Action, Budget, Done, Fault, Job, LinkInfo, Message, NetworkEvent, NodeId, Now, Protocol, RequestId, Timestamp,
    UnixMillis,
};
use peerage_transport::proto::keypair::Keypair;

/// The key pair whose secret seed is this byte 32 times.
pub(crate) fn keypair(byte: u8) -> Keypair {
    Keypair::from_seed(&[byte; 32])
}

pub(crate) fn id(byte: u8) -> NodeId {
    keypair(byte).node_id()
}

/// The moment of all tests.
pub(crate) const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

pub(crate) fn now() -> Now {
    Now { mono: Timestamp::ZERO, wall: WALL }
}

/// A peer connects, at an address of its own that is public.
pub(crate) fn up(number: u8) -> NetworkEvent {
    let remote = ([203, 0, 113, number], 4_000).into();
    let info = LinkInfo { peer: id(number), outbound: true, remote, listen: vec![], features: 0, dial_key: None };
    NetworkEvent::PeerUp { peer: id(number), info }
}

pub(crate) fn notified(number: u8, message: Message) -> NetworkEvent {
    NetworkEvent::Message { peer: id(number), message, charge: Budget::default().nothing() }
}

pub(crate) fn asked(number: u8, request: u64, message: Message) -> NetworkEvent {
    NetworkEvent::Request { peer: id(number), id: RequestId(request), message, charge: Budget::default().nothing() }
}

/// Number of the producer's key.
pub(crate) const PRODUCER: u8 = 3;

pub(crate) fn producer() -> Producer {
    Producer(*id(PRODUCER).as_bytes())
}

pub(crate) fn account(number: u8) -> Account {
    Account(*id(number).as_bytes())
}

pub(crate) fn genesis_file() -> GenesisFile {
    GenesisFile::solo(7, "example", producer(), WALL)
}

pub(crate) fn genesis() -> Arc<Genesis> {
    Arc::new(Genesis::new(&genesis_file()).expect("valid"))
}

pub(crate) fn put(key: &str, value: &str, expected_version: u64) -> Op {
    Op::Put { key: key.into(), value: value.into(), expected_version }
}

pub(crate) fn tx(number: u8, nonce: u64, ops: Vec<Op>) -> Arc<EncodedTransaction> {
    let body = TransactionBody { chain_id: 7, account: account(number), nonce, valid_until: 100, ops };
    Arc::new(Transaction::sign(body, &keypair(number)).expect("valid").encode().expect("small"))
}

/// What a machine said while it settled.
#[derive(Default)]
pub(crate) struct Said {
    /// Everything sent, in order.
    pub(crate) messages: Vec<Message>,
    /// To whom the notifications among them went.
    pub(crate) told: Vec<(NodeId, Message)>,
    /// The open requests of ours among them.
    pub(crate) requests: Vec<(NodeId, RequestId)>,
    pub(crate) faults: Vec<(NodeId, Fault)>,
    pub(crate) gossip: Vec<peerage_gossip::Command>,
    pub(crate) heartbeat: Option<bytes::Bytes>,
}

/// Does what the machine wants of its store and its checks until it wants nothing more.
pub(crate) fn settle(chain: &mut Chain, store: &mut Store) -> Said {
    let mut said = Said::default();
    while let Some(action) = chain.poll_action() {
        match action {
            Action::Store(id, job) => chain.handle_done(now(), id, Done::Stored(job.run(store))),
            Action::Compute(id, job) => chain.handle_done(now(), id, Done::Computed(job.run(&mut ()))),
            Action::Send { to, message } => {
                said.told.extend(to.into_iter().map(|to| (to, message.clone())));
                said.messages.push(message);
            }
            Action::Respond { message, .. } => said.messages.push(message),
            Action::Request { to, id, message, .. } => {
                said.messages.push(message);
                said.requests.push((to, id));
            }
            Action::Report { peer, fault } => said.faults.push((peer, fault)),
            Action::Heartbeat(data) => said.heartbeat = Some(data),
            Action::Emit(peerage_chain::proto::Event::Gossip(command)) => said.gossip.push(command),
            _ => {}
        }
    }
    said
}
