//! Bodies of the fuzz targets `chain_*`: what must hold for whatever is said about the ledger, and for whatever stands on
//! disk. `tests/fuzz/README.md` says how they are run; the tests below replay what was found.

mod machine;
mod state;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use peerage_core::{Message, UnixMillis};
use peerage_transport::proto::keypair::Keypair;
use peerage_wire::payload;

use crate::{
    proto::{
        BLOCKS, BlocksRequest, Summary,
        block::{Block, BlockError, CertifiedBlock, CheckedBlock, Header, tx_root},
        genesis::{Genesis, GenesisFile, MAX_BLOCK_BYTES, MAX_NAME_BYTES, MAX_PRODUCERS},
        id::{Account, Producer, Signature},
        transaction::{EncodedTransaction, MAX_KEY_BYTES, MAX_OPS, Op, Transaction, TransactionBody},
        wire::{batch, unbatch},
    },
    store::{Head, TxLocation, tables},
};

#[path = "../../../../tests/fuzz/shared/input.rs"]
pub mod input;

use input::Input;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("chain_transaction", transaction),
    ("chain_block", block),
    ("chain_genesis", genesis_file),
    ("chain_payload", payloads),
    ("chain_rows", rows),
    ("chain_proof", proof),
    ("chain_messages", messages),
];

/// Number of the chain.
const CHAIN: u64 = 7;
/// Number of the producer's key.
const PRODUCER: u8 = 200;

/// Made once: they cost more than most inputs.
static KEYPAIRS: LazyLock<Vec<Keypair>> =
    LazyLock::new(|| (0..=255).map(|number| Keypair::from_seed(&[number; 32])).collect());

fn keypair(number: u8) -> &'static Keypair {
    &KEYPAIRS[usize::from(number)]
}

fn account(number: u8) -> Account {
    Account(*keypair(number).node_id().as_bytes())
}

fn genesis() -> Arc<Genesis> {
    let producer = Producer(*keypair(PRODUCER).node_id().as_bytes());
    let file = GenesisFile::solo(CHAIN, "fuzz", producer, UnixMillis(1_700_000_000_000));
    Arc::new(Genesis::new(&file).expect("a valid genesis"))
}

fn put(number: u8, nonce: u64, key: &[u8], expected_version: u64) -> Arc<EncodedTransaction> {
    let ops = vec![Op::Put { key: key.to_vec(), value: vec![1; 8], expected_version }];
    let body = TransactionBody { chain_id: CHAIN, account: account(number), nonce, valid_until: 1_000, ops };
    let signature = Signature::from_bytes(keypair(number).sign(&to_be_signed(&payload::to_bytes(&body))));
    // Not `Transaction::sign`, which refuses what nobody should sign.
    Arc::new(Transaction { body, signature }.encode().expect("small"))
}

/// What an account signs, written down from the protocol a second time.
fn to_be_signed(body: &[u8]) -> Vec<u8> {
    const DOMAIN: &[u8] = b"peerage-chain-tx-v1";
    [&[DOMAIN.len() as u8], DOMAIN, body].concat()
}

/// Proofs and the tree; see [`state`].
pub fn proof(data: &[u8]) {
    state::proof(data);
}

/// The machine; see [`machine`].
pub fn messages(data: &[u8]) {
    machine::messages(data);
}

/// A transaction: as it comes, and signed by an account that signs anything.
pub fn transaction(data: &[u8]) {
    const MAX: usize = 2_000;
    let mut input = Input::new(data);
    let by_key = !input.byte().is_multiple_of(2);
    let bytes: Bytes = if by_key {
        let body = input.rest();
        let signature = keypair(1).sign(&to_be_signed(body));
        [body, &signature].concat().into()
    } else {
        Bytes::copy_from_slice(input.rest())
    };
    let Ok(read) = EncodedTransaction::decode(bytes.clone(), MAX) else { return };
    assert!(bytes.len() <= MAX && read.bytes == bytes);
    assert!(read.held_bytes() >= 2 * bytes.len());
    let again = read.tx.clone().encode().expect("as small as before");
    assert_eq!((again.bytes, again.id), (read.bytes, read.id), "one transaction, one encoding, one id");
    let signed = read.tx.verify_signature().is_ok();
    if signed {
        assert_eq!(read.tx.body.account, account(1), "nobody else signed anything");
    }
    if by_key && read.tx.body.account == account(1) {
        assert!(signed, "the signature covers the body as it was read");
    }
    if read.tx.check(CHAIN).is_ok() {
        let ops = &read.tx.body.ops;
        assert!(read.tx.body.chain_id == CHAIN && (1..=MAX_OPS).contains(&ops.len()));
        assert!(ops.iter().all(|op| (1..=MAX_KEY_BYTES).contains(&op.key().len())));
    }
}

/// A block: as it comes; with a certificate around any content, since a producer may sign anything; and one whose roots
/// fit, of any transactions.
pub fn block(data: &[u8]) {
    let (mut input, genesis) = (Input::new(data), genesis());
    let choice = input.byte();
    let bytes: Bytes = match choice % 3 {
        0 => Bytes::copy_from_slice(input.rest()),
        1 => {
            let Ok(header) = payload::from_bytes::<Header>(input.chunk(), 400) else { return };
            let empty = CheckedBlock::make(&genesis, header, vec![], keypair(PRODUCER)).expect("small");
            // The list of transactions, its length alone so far, stands before the certificate of 65 bytes.
            let (front, certificate) = empty.bytes().split_at(empty.bytes().len() - 65);
            [&front[..front.len() - 1], input.rest(), certificate].concat().into()
        }
        _ => {
            let (height, time) = (input.number().into(), UnixMillis(input.number().into()));
            let mut transactions = Vec::new();
            while !input.is_empty() {
                let tx = match input.byte() {
                    0 => EncodedTransaction::decode(Bytes::copy_from_slice(input.chunk()), 4_000).map(Arc::new),
                    number => Ok(put(number, input.byte().into(), input.chunk(), input.byte().into())),
                };
                transactions.extend(tx);
            }
            made(&genesis, height, time, transactions)
        }
    };
    let checked = CheckedBlock::check(&genesis, bytes.clone(), &[]);
    if let Ok(block) = &checked {
        let read: Block = payload::from_bytes(&bytes, MAX_BLOCK_BYTES).expect("it was read before");
        assert_eq!((block.bytes(), block.header(), block.id()), (&bytes, &read.header, read.header.id()));
        assert_eq!(payload::to_bytes(&read), bytes, "one block, one encoding");
        assert_eq!(read.certificate.verify(&genesis, &read.header), Ok(()));
        assert_eq!(tx_root(block.transactions()), read.header.tx_root);
        assert!(!read.transactions.is_empty());
        for (one, whole) in read.transactions.iter().zip(block.transactions()) {
            assert_eq!((one, Ok(())), (&whole.tx, one.check(CHAIN).and_then(|()| one.verify_signature())));
        }
    }
    // In two steps, as gossip does it: the same verdict.
    let above = u64::from(choice / 3);
    match CertifiedBlock::check_above(&genesis, bytes, above) {
        Ok(Some(block)) => assert_eq!(block.verify(&[]).map(|block| block.id()), checked.map(|block| block.id())),
        Ok(None) => assert!(checked.is_err() || checked.is_ok_and(|block| block.header().height <= above)),
        Err(error) => assert_eq!(checked.map(|block| block.id()), Err(error)),
    }
}

/// A block of these transactions whose certificate and root of transactions hold.
fn made(genesis: &Genesis, height: u64, time: UnixMillis, transactions: Vec<Arc<EncodedTransaction>>) -> Bytes {
    let header = Header {
        height,
        parent: genesis.block_id(),
        time,
        tx_root: tx_root(&transactions),
        receipts_root: Default::default(),
        state_root: Default::default(),
        producer: genesis.solo_producer(),
    };
    let made = CheckedBlock::make(genesis, header, transactions.clone(), keypair(PRODUCER)).expect("small");
    let expected = if transactions.is_empty() {
        Err(BlockError::Empty)
    } else {
        let check = |tx: &Transaction| tx.check(CHAIN).and_then(|()| tx.verify_signature());
        transactions.iter().try_for_each(|tx| check(&tx.tx)).map_err(|_| BlockError::Malformed)
    };
    let found = CheckedBlock::check(genesis, made.bytes().clone(), &[]);
    assert_eq!(found.is_ok(), expected.is_ok(), "{found:?}, and {expected:?} was expected");
    made.bytes().clone()
}

/// A genesis whose fields are anything: what is accepted keeps every limit, and is one network however it is spelt.
pub fn genesis_file(data: &[u8]) {
    let Ok(file) = payload::from_bytes::<GenesisFile>(data, 20_000) else { return };
    let Ok(genesis) = Genesis::new(&file) else { return };
    assert!((1..=MAX_NAME_BYTES).contains(&genesis.network().len()));
    assert!((1..=MAX_PRODUCERS).contains(&genesis.producers().len()));
    let limits = genesis.limits();
    assert!(limits.max_tx_bytes > 0 && limits.max_tx_bytes < limits.max_block_bytes);
    assert!(limits.max_block_bytes <= MAX_BLOCK_BYTES as u64 && limits.mempool_bytes >= limits.max_tx_bytes);
    let shouted =
        GenesisFile { producers: file.producers.iter().map(|key| key.to_uppercase()).collect(), ..file.clone() };
    assert_eq!(Genesis::new(&shouted).map(|other| other.network_id()), Ok(genesis.network_id()));
    let another = GenesisFile { chain_id: file.chain_id ^ 1, ..file };
    assert_ne!(Genesis::new(&another).map(|other| other.network_id()), Ok(genesis.network_id()));
}

/// The payloads of the three messages: what is accepted is the one encoding of what was read.
pub fn payloads(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    match choice % 3 {
        0 => {
            let bytes = input.rest();
            if let Ok(summary) = Summary::decode(bytes) {
                assert_eq!(summary.encode(), bytes);
            }
        }
        1 => {
            let body = (choice & 64 != 0).then(|| Bytes::copy_from_slice(input.chunk()));
            let message = Message { command: BLOCKS, head: Bytes::copy_from_slice(input.rest()), body };
            if let Ok(request) = BlocksRequest::decode(&message) {
                assert_eq!(request.message(), message);
            }
        }
        _ => {
            let head = Bytes::copy_from_slice(input.chunk());
            let body = (choice & 64 == 0).then(|| Bytes::copy_from_slice(input.rest()));
            let message = Message { command: BLOCKS, head, body };
            if let Ok(items) = unbatch(&message) {
                assert_eq!(batch(BLOCKS, &items), message);
            }
        }
    }
}

/// Rows of the store, which a disk may have damaged: what is read is written the same way.
pub fn rows(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let row = input.rest();
    match choice % 4 {
        0 => {
            if let Ok(head) = tables::decode_row::<Head>(row, "head") {
                assert_eq!(tables::encode_row(&head), row);
            }
        }
        1 => {
            if let Ok(location) = tables::decode_row::<TxLocation>(row, "location") {
                assert_eq!(tables::encode_row(&location), row);
            }
        }
        2 => match tables::decode_entry(row) {
            Ok(entry) => assert_eq!(tables::encode_entry(&entry), row),
            Err(_) => assert!(row.len() < 8),
        },
        _ => {
            if let Ok(node) = tables::decode_node(row) {
                assert_eq!(tables::encode_node(&node), row);
            }
        }
    }
}

#[cfg(test)]
#[path = "../../../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests;
