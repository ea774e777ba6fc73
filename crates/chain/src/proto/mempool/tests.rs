//! The pool: what it takes, in which order it gives, and that its books balance.

use peerage_core::{Budget, Pool as BudgetPool};
use proptest::prelude::*;

use super::*;
use crate::fixtures::{account, put, tx, tx_until};

struct Fixture {
    pool: Pool,
    budget: Budget,
    evicted: Vec<TxId>,
}

impl Fixture {
    fn new(max_bytes: u64) -> Self {
        Self { pool: Pool::new(max_bytes, 64), budget: Budget::default(), evicted: Vec::new() }
    }

    fn insert(&mut self, tx: &Arc<EncodedTransaction>, next: u64, standing: Standing) -> Result<Inserted, Refusal> {
        let charge = self.budget.charge(BudgetPool::Mempool, tx.held_bytes()).expect("room");
        self.pool.insert(Arc::clone(tx), next, standing, charge, &mut self.evicted)
    }

    fn ordinary(&mut self, tx: &Arc<EncodedTransaction>) -> Result<Inserted, Refusal> {
        self.insert(tx, 0, Standing::Ordinary)
    }

    fn charged(&self) -> usize {
        self.budget.report().resident
    }
}

fn simple(number: u8, nonce: u64) -> Arc<EncodedTransaction> {
    tx(number, nonce, vec![put(&format!("{number}/{nonce}"), "value", 0)])
}

fn numbers(txs: &[Arc<EncodedTransaction>]) -> Vec<(Account, u64)> {
    txs.iter().map(|tx| (tx.tx.body.account, tx.tx.body.nonce)).collect()
}

#[test]
fn a_block_takes_each_senders_nonces_in_order_and_senders_as_they_came() {
    let mut f = Fixture::new(1 << 20);
    for (number, nonce) in [(1, 1), (2, 0), (1, 0), (3, 1), (1, 2)] {
        assert_eq!(f.ordinary(&simple(number, nonce)), Ok(Inserted::New));
    }
    let expected = [(account(2), 0), (account(1), 0), (account(1), 1), (account(1), 2)];
    assert_eq!(numbers(&f.pool.candidates(u64::MAX)), expected, "sender 3 waits for its first");
    let two = f.pool.candidates(2 * simple(1, 0).bytes.len() as u64);
    assert_eq!(numbers(&two), expected[..2]);
}

#[test]
fn a_gap_of_sixty_four_waits_and_one_more_does_not() {
    let mut f = Fixture::new(1 << 20);
    assert_eq!(f.ordinary(&simple(1, 64)), Ok(Inserted::New));
    assert_eq!(f.ordinary(&simple(1, 65)), Err(Refusal::NonceTooFar { next: 0, gap: 64 }));
    assert!(!f.pool.has_ready());
    // Counted from what is missing, not from what is committed: whoever sends in order may send as much as fits.
    assert_eq!(f.ordinary(&simple(1, 0)), Ok(Inserted::New));
    assert_eq!(f.ordinary(&simple(1, 65)), Ok(Inserted::New));
    // What was promised before a restart comes back in any case.
    assert_eq!(f.insert(&simple(2, 500), 3, Standing::Promised), Ok(Inserted::New));
}

#[test]
fn a_nonce_is_used_once() {
    let mut f = Fixture::new(1 << 20);
    let first = simple(1, 5);
    assert_eq!(f.insert(&first, 5, Standing::Ordinary), Ok(Inserted::New));
    assert_eq!(f.insert(&first, 5, Standing::Ordinary), Ok(Inserted::Already));
    let rival = tx(1, 5, vec![put("other", "", 0)]);
    assert_eq!(f.insert(&rival, 5, Standing::Ordinary), Err(Refusal::NonceTaken));
    assert_eq!(f.insert(&simple(1, 4), 5, Standing::Ordinary), Err(Refusal::NonceUsed { next: 5 }));
    assert_eq!(f.charged(), first.held_bytes(), "what was refused is not paid for");
}

#[test]
fn a_full_pool_makes_room_for_what_is_ready_by_what_is_not() {
    let size = simple(1, 0).bytes.len() as u64;
    let mut f = Fixture::new(3 * size);
    f.ordinary(&simple(1, 7)).unwrap();
    f.insert(&simple(2, 7), 0, Standing::Local).unwrap();
    f.ordinary(&simple(3, 0)).unwrap();
    assert_eq!(f.ordinary(&simple(4, 1)), Err(Refusal::PoolFull), "it is not ready itself");
    assert_eq!(f.ordinary(&simple(4, 0)), Ok(Inserted::New));
    assert_eq!(f.evicted, [simple(1, 7).id], "not what a user of this node waits for, nor what is ready");
    assert_eq!(f.ordinary(&simple(5, 0)), Err(Refusal::PoolFull));
    assert_eq!(f.pool.bytes() as u64, 3 * size);
}

#[test]
fn blocks_and_time_empty_the_pool() {
    let mut f = Fixture::new(1 << 20);
    let rival = tx(1, 1, vec![put("rival", "", 0)]);
    for tx in [simple(1, 0), rival.clone(), simple(1, 2), tx_until(2, 0, 9, vec![put("a", "", 0)])] {
        f.ordinary(&tx).unwrap();
    }
    let mut gone = Vec::new();
    f.pool.advance(&account(1), 2, &mut gone);
    assert_eq!(gone, [simple(1, 0).id, rival.id]);
    assert_eq!(numbers(&f.pool.candidates(u64::MAX)), [(account(1), 2), (account(2), 0)]);
    assert_eq!(f.pool.expire(8), []);
    assert_eq!(f.pool.expire(9).len(), 1);
    f.pool.advance(&account(1), 3, &mut gone);
    assert_eq!((f.pool.len(), f.pool.bytes(), f.pool.has_ready(), f.charged()), (0, 0, false, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever happens, the counters are what counting gives.
    #[test]
    fn the_books_balance(steps in prop::collection::vec((0u8..4, 0u64..9, 0u8..5), 1..60)) {
        let size = simple(1, 0).bytes.len();
        let mut f = Fixture::new(12 * size as u64);
        for (number, nonce, step) in steps {
            let tx = simple(number, nonce);
            match step {
                0 => f.pool.remove(&tx.id),
                1 => f.pool.advance(&account(number), nonce, &mut Vec::new()),
                _ => drop(f.ordinary(&tx)),
            }
            let all: Vec<_> = f.pool.ids().iter().filter_map(|id| f.pool.get(id).cloned()).collect();
            prop_assert_eq!(all.len(), f.pool.len());
            prop_assert_eq!(all.iter().map(|tx| tx.bytes.len()).sum::<usize>(), f.pool.bytes());
            prop_assert_eq!(all.iter().map(|tx| tx.held_bytes()).sum::<usize>(), f.charged());
            prop_assert!(f.pool.bytes() <= 12 * size);
            let (listed, rest) = f.pool.since(0, usize::MAX, usize::MAX);
            prop_assert_eq!((listed.len(), rest), (all.len(), None));
            let ready = f.pool.candidates(u64::MAX);
            prop_assert_eq!(ready.len(), f.pool.ready);
            for (account, sender) in &f.pool.senders {
                let mine = ready.iter().filter(|tx| tx.tx.body.account == *account).map(|tx| tx.tx.body.nonce);
                prop_assert!(mine.eq(sender.next..sender.next + sender.ready));
                prop_assert!(!sender.txs.contains_key(&(sender.next + sender.ready)));
            }
        }
    }
}
