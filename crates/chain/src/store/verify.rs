//! The offline check: is this store, by itself, an honest chain from genesis to head, and do several stores agree?
//!
//! It trusts nothing but the genesis: blocks are read in order, each is checked like one from a stranger and executed
//! over a state that starts empty; what the tables say is then compared with what came out.

use core::fmt;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::{OpenError, Store, StoreError, expecting_damage, tables, tables::TxLocation, zero};
use crate::proto::{
    block::{CheckedBlock, Receipt, receipts_root},
    execute::{Exclusion, Executor},
    genesis::Genesis,
    id::{BlockId, Root, TxId},
    state::{EMPTY_ROOT, MemoryNodes, MemoryState, NodePath, update},
};

/// What was checked when a problem was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A height below the last stored block has no block.
    MissingBlock,
    /// A block does not stand at the height it names.
    Height,
    /// A block by itself: encoding, producer, certificate, transaction root, signatures.
    Block,
    /// Each block names the one before.
    Parent,
    /// Block times never run backwards.
    Time,
    /// Each transaction may stand where it stands: its nonce is the next, and it is not expired.
    Execution,
    /// Execution gives the receipts that the header commits to.
    ReceiptsRoot,
    /// Execution gives the state that the header commits to.
    StateRoot,
    /// Each transaction stands in the chain once.
    DuplicateTransaction,
    /// The index leads to each transaction and its receipt, and to nothing else.
    TxIndex,
    /// The recorded head is the last block.
    Head,
    /// The table of entries is what execution gives.
    StateTable,
    /// The table of nonces is what execution gives.
    NonceTable,
    /// The table of tree nodes is what execution gives.
    NodeTable,
    /// The outbox holds nothing that is in the chain already.
    Outbox,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The height it belongs to; the store's last for tables.
    pub height: u64,
    /// What was checked.
    pub check: Check,
    /// What was found, for a person.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "height {}: {:?}: {}", self.height, self.check, self.detail)
    }
}

/// One block of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLine {
    /// Its height.
    pub height: u64,
    /// Its id.
    pub id: BlockId,
    /// The state after it, as its header says.
    pub state_root: Root,
}

/// The result of checking one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Height of the last stored block; 0 if there is none.
    pub height: u64,
    /// Id of the last stored block.
    pub head: BlockId,
    /// The state that execution from genesis gives.
    pub state_root: Root,
    /// All readable blocks, in order.
    pub blocks: Vec<BlockLine>,
    /// Ids of all transactions, in the order of the chain, with their heights.
    pub transactions: Vec<(u64, TxId)>,
    /// Everything that is wrong, in the order found.
    pub problems: Vec<Problem>,
}

/// Checks the store at `path`, which must exist and which nobody else has open.
///
/// # Errors
/// [`OpenError`] if it cannot be read at all. Whatever is wrong with its contents is in the report.
pub fn verify_file(path: &Path, genesis: Arc<Genesis>) -> Result<Report, OpenError> {
    Ok(Store::open_existing(path, genesis, super::DEFAULT_CACHE_BYTES)?.verify()?)
}

impl Store {
    /// Checks everything in this store. Takes as long as executing the whole chain and holds the whole state in memory.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn verify(&self) -> Result<Report, StoreError> {
        let walk = || {
            let txn = self.db.begin_read()?;
            let mut walk = Walk::new(&self.genesis);
            for row in txn.open_table(tables::BLOCKS)?.iter()? {
                let (height, bytes) = row?;
                walk.block(height.value(), Bytes::copy_from_slice(bytes.value()));
            }
            walk.tables(&txn)?;
            Ok(walk.report)
        };
        expecting_damage(walk, StoreError::Corrupt("the database"))
    }
}

struct Walk<'a> {
    genesis: &'a Genesis,
    report: Report,
    time: peerage_core::UnixMillis,
    state: MemoryState,
    nodes: MemoryNodes,
    seen: BTreeMap<TxId, TxLocation>,
    /// From here on execution lacks something, so that every later root would differ too; only the first is reported.
    diverged: bool,
}

impl<'a> Walk<'a> {
    fn new(genesis: &'a Genesis) -> Self {
        let zero = zero(genesis);
        let report = Report {
            height: 0,
            head: zero.id,
            state_root: EMPTY_ROOT,
            blocks: Vec::new(),
            transactions: Vec::new(),
            problems: Vec::new(),
        };
        let (state, nodes, seen) = (MemoryState::default(), MemoryNodes::default(), BTreeMap::new());
        Self { genesis, report, time: zero.time, state, nodes, seen, diverged: false }
    }

    fn problem(&mut self, height: u64, check: Check, detail: impl fmt::Display) {
        self.report.problems.push(Problem { height, check, detail: detail.to_string() });
    }

    fn block(&mut self, height: u64, bytes: Bytes) {
        let expected = self.report.height.saturating_add(1);
        let mut linked = true;
        if height != expected {
            let detail = format!("no block from height {expected} to the one at {height}");
            self.problem(expected, Check::MissingBlock, detail);
            (linked, self.diverged) = (false, true);
        }
        self.report.height = height;
        let block = match CheckedBlock::check(self.genesis, bytes, &[]) {
            Ok(block) => block,
            Err(error) => {
                self.problem(height, Check::Block, error);
                self.diverged = true;
                // What follows cannot be compared with this one: an id nobody has makes the next link fail too.
                self.report.head = BlockId::default();
                return;
            }
        };
        let header = block.header().clone();
        if header.height != height {
            self.problem(height, Check::Height, format!("the block here names height {}", header.height));
        }
        if linked && header.parent != self.report.head {
            let detail = format!("parent {}, the block before is {}", header.parent, self.report.head);
            self.problem(height, Check::Parent, detail);
        }
        if header.time < self.time {
            self.problem(height, Check::Time, format!("{:?} after {:?}", header.time, self.time));
        }
        (self.time, self.report.head) = (header.time, block.id());
        self.report.blocks.push(BlockLine { height, id: block.id(), state_root: header.state_root });

        let receipts = self.execute(height, &block);
        for ((tx, receipt), index) in block.transactions().iter().zip(&receipts).zip(0..) {
            self.report.transactions.push((height, tx.id));
            let location = TxLocation { height, index, receipt: *receipt };
            if let Some(before) = self.seen.insert(tx.id, location) {
                let detail = format!("{} stands at height {} already", tx.id, before.height);
                self.problem(height, Check::DuplicateTransaction, detail);
            }
        }
        if !self.diverged && receipts_root(&receipts) != header.receipts_root {
            self.problem(height, Check::ReceiptsRoot, "execution leads to other receipts");
        }
        if !self.diverged && self.report.state_root != header.state_root {
            let detail = format!("{} by execution, {} in the header", self.report.state_root, header.state_root);
            self.problem(height, Check::StateRoot, detail);
            self.diverged = true;
        }
    }

    /// Executes as much of a block as can be, so that one wrong transaction does not hide what follows.
    fn execute(&mut self, height: u64, block: &CheckedBlock) -> Vec<Receipt> {
        let mut excluded: Vec<(TxId, Exclusion)> = Vec::new();
        let mut executor = Executor::new(&self.state, height);
        let receipts = block.transactions().iter().map(|tx| {
            let Ok(result) = executor.apply(&tx.tx.body);
            result.unwrap_or_else(|reason| {
                excluded.push((tx.id, reason));
                Receipt::Applied // stands in for none, so that places keep their numbers
            })
        });
        let receipts = receipts.collect();
        let overlay = executor.finish();
        let Ok(root) = update(&mut self.nodes, &overlay.changes());
        self.report.state_root = root;
        self.state.commit(overlay);
        if !self.diverged {
            for (id, reason) in &excluded {
                self.problem(height, Check::Execution, format!("{id}: {reason}"));
            }
        }
        self.diverged |= !excluded.is_empty();
        receipts
    }

    fn tables(&mut self, txn: &ReadTransaction) -> Result<(), StoreError> {
        let height = self.report.height;
        let meta = txn.open_table(tables::META)?;
        let head = meta.get(tables::META_HEAD)?.map(|row| tables::decode_row(row.value(), "the head")).transpose();
        match head {
            Ok(Some(tables::Head { height: h, id, state_root, .. })) => {
                let last = self.report.blocks.last().map_or(EMPTY_ROOT, |block| block.state_root);
                if (h, id, state_root) != (height, self.report.head, last) {
                    let detail = format!("recorded as {id} at {h}, the last block is {} at {height}", self.report.head);
                    self.problem(height, Check::Head, detail);
                }
            }
            Ok(None) | Err(_) => self.problem(height, Check::Head, "unreadable"),
        }

        let mut wrong = BTreeSet::new();
        let index = txn.open_table(tables::TX_INDEX)?;
        for row in index.iter()? {
            let (id, location) = row?;
            let id = TxId(*id.value());
            let location = tables::decode_row::<TxLocation>(location.value(), "an index row").ok();
            if location.is_none() || self.seen.get(&id) != location.as_ref() {
                wrong.insert(id);
            }
        }
        for id in self.seen.keys() {
            if index.get(id.as_bytes())?.is_none() {
                wrong.insert(*id);
            }
        }
        for id in wrong {
            let place = self.seen.get(&id).map_or(height, |location| location.height);
            self.problem(place, Check::TxIndex, format!("the row of {id} is missing, superfluous or wrong"));
        }

        let entries = txn.open_table(tables::STATE)?;
        let mut same = 0;
        for row in entries.iter()? {
            let (key, entry) = row?;
            let entry = tables::decode_entry(entry.value()).ok();
            if entry.is_some() && entry.as_ref() == self.state.entries.get(key.value()) {
                same += 1;
            } else {
                self.problem(height, Check::StateTable, format!("key {:?} is superfluous or wrong", key.value()));
            }
        }
        self.count(Check::StateTable, same, self.state.entries.len());

        let mut same = 0;
        for row in txn.open_table(tables::NONCES)?.iter()? {
            let (account, nonce) = row?;
            let account = crate::proto::id::Account(*account.value());
            if self.state.nonces.get(&account) == Some(&nonce.value()) {
                same += 1;
            } else {
                self.problem(height, Check::NonceTable, format!("account {account}: {}", nonce.value()));
            }
        }
        self.count(Check::NonceTable, same, self.state.nonces.len());

        let nodes = txn.open_table(tables::NODES)?;
        let expected: BTreeMap<[u8; 34], Vec<u8>> =
            self.nodes.0.iter().map(|(path, node)| (NodePath::to_bytes(*path), tables::encode_node(node))).collect();
        let mut same = 0;
        for row in nodes.iter()? {
            let (path, node) = row?;
            same += usize::from(expected.get(path.value()).is_some_and(|expected| expected == node.value()));
        }
        self.count(Check::NodeTable, same, expected.len());
        self.count(Check::NodeTable, usize::try_from(nodes.len()?).unwrap_or(usize::MAX), expected.len());

        for row in txn.open_table(tables::OUTBOX)?.iter()? {
            let id = TxId(*row?.0.value());
            if let Some(location) = self.seen.get(&id) {
                let at = location.height;
                self.problem(at, Check::Outbox, format!("{id} waits for a block, and stands in one"));
            }
        }
        Ok(())
    }

    fn count(&mut self, check: Check, found: usize, expected: usize) {
        if found != expected {
            let detail = format!("{found} rows as they should be, execution gives {expected}");
            self.problem(self.report.height, check, detail);
        }
    }
}

/// What was compared between stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrossCheck {
    /// The store by itself has a problem; see its report.
    OwnReport(Check),
    /// The store ends here; others go on.
    CutOff,
    /// The block differs from the one that most stores have at this height (of two stores, from the other's: which one is
    /// right, two cannot tell). A state that differs under the same block is the store's own [`Check::StateRoot`].
    OtherBlock,
    /// An acknowledged transaction stands nowhere in this store.
    AcknowledgedMissing(TxId),
    /// A transaction stands more than once in this store.
    Repeated(TxId),
}

/// A difference between stores, or between a store and what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The store, as the caller named it.
    pub node: String,
    /// The first height at which it shows; the store's last for what is missing.
    pub height: u64,
    /// What was compared.
    pub check: CrossCheck,
}

/// Compares the reports of several nodes with each other and with `journal`: ids of transactions that were acknowledged
/// and must therefore be in the chain, exactly once, on every node. Empty if all is well.
pub fn compare(reports: &[(String, Report)], journal: &[TxId]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let longest = reports.iter().map(|(_, report)| report.height).max().unwrap_or(0);
    // By height: how many stores have which block.
    let mut votes: BTreeMap<u64, BTreeMap<BlockId, usize>> = BTreeMap::new();
    for block in reports.iter().flat_map(|(_, report)| &report.blocks) {
        *votes.entry(block.height).or_default().entry(block.id).or_default() += 1;
    }
    let majority: BTreeMap<u64, BlockId> = votes
        .into_iter()
        .filter_map(|(height, ids)| ids.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| (height, id)))
        .collect();
    for (node, report) in reports {
        let mut find = |height, check| findings.push(Finding { node: node.clone(), height, check });
        for problem in &report.problems {
            find(problem.height, CrossCheck::OwnReport(problem.check));
        }
        if report.height < longest {
            find(report.height, CrossCheck::CutOff);
        }
        if let Some(block) = report.blocks.iter().find(|block| majority.get(&block.height) != Some(&block.id)) {
            find(block.height, CrossCheck::OtherBlock);
        }
        let mut places: BTreeMap<TxId, Vec<u64>> = BTreeMap::new();
        for (height, id) in &report.transactions {
            places.entry(*id).or_default().push(*height);
        }
        for (id, heights) in &places {
            if let Some(second) = heights.get(1) {
                find(*second, CrossCheck::Repeated(*id));
            }
        }
        for id in journal {
            if !places.contains_key(id) {
                find(report.height, CrossCheck::AcknowledgedMissing(*id));
            }
        }
    }
    findings
}
