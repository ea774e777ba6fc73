//! The pool: what it takes, in which order it gives, and that its books balance.

use peerage_core::{Budget, Pool as BudgetPool, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::fixtures::{account, put, tx, tx_until};

struct Fixture {
    pool: Pool,
    budget: Budget,
    evicted: Vec<TxId>,
    now: Timestamp,
}

impl Fixture {
    fn new(max_bytes: usize) -> Self {
        Self { pool: Pool::new(max_bytes, 64), budget: Budget::default(), evicted: Vec::new(), now: Timestamp::ZERO }
    }

    fn insert(&mut self, tx: &Arc<EncodedTransaction>, next: u64, standing: Standing) -> Result<Inserted, Refusal> {
        let charge = self.budget.charge(BudgetPool::Mempool, tx.held_bytes()).expect("room");
        self.pool.insert(self.now, Arc::clone(tx), next, standing, charge, &mut self.evicted)
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
fn the_first_free_nonce_is_the_one_that_fills_the_first_gap() {
    let mut f = Fixture::new(1 << 20);
    assert_eq!(f.pool.first_free(&account(1), 5), 5, "of an account without transactions");
    f.insert(&simple(1, 6), 5, Standing::Ordinary).unwrap();
    assert_eq!(f.pool.first_free(&account(1), 5), 5, "one waits, but not in this place");
    f.insert(&simple(1, 5), 5, Standing::Ordinary).unwrap();
    f.insert(&simple(1, 8), 5, Standing::Ordinary).unwrap();
    assert_eq!(f.pool.first_free(&account(1), 5), 7);
    // The chain may be further than the pool has heard.
    assert_eq!(f.pool.first_free(&account(1), 6), 7);
    assert_eq!(f.pool.first_free(&account(1), 8), 9);
    assert_eq!(f.pool.first_free(&account(1), 20), 20);
    f.pool.remove(f.now, &simple(1, 5).id);
    assert_eq!(f.pool.first_free(&account(1), 5), 5, "a nonce that was dropped is free again");
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
    assert_eq!(f.charged(), first.pooled_bytes(), "what was refused is not paid for");
}

#[test]
fn a_full_pool_makes_room_for_what_is_ready_by_what_is_not() {
    let size = simple(1, 0).pooled_bytes();
    let mut f = Fixture::new(4 * size);
    f.ordinary(&simple(1, 7)).unwrap();
    f.insert(&simple(2, 7), 0, Standing::Local).unwrap();
    f.ordinary(&simple(3, 0)).unwrap();
    assert_eq!(f.ordinary(&simple(4, 1)), Err(Refusal::PoolFull), "those that wait have a quarter");
    assert_eq!(f.ordinary(&simple(4, 0)), Ok(Inserted::New));
    assert_eq!(f.ordinary(&simple(4, 2)), Err(Refusal::PoolFull), "it is not ready itself");
    assert_eq!(f.evicted, []);
    assert_eq!(f.ordinary(&simple(5, 0)), Ok(Inserted::New));
    assert_eq!(f.evicted, [simple(1, 7).id], "not what a user of this node waits for, nor what is ready");
    assert_eq!(f.ordinary(&simple(6, 0)), Err(Refusal::PoolFull));
    assert_eq!(f.charged(), 4 * size);
}

#[test]
fn nobody_is_driven_out_for_nothing_and_whoever_waits_longest_goes_first() {
    let size = simple(1, 0).pooled_bytes();
    // Names of two digits make some a little larger: no room for another one all the same.
    let mut f = Fixture::new(17 * size);
    let at = |seconds| Timestamp::ZERO + Duration::from_secs(seconds);
    for (number, second) in [(3, 1), (1, 2), (2, 3)] {
        f.now = at(second);
        f.ordinary(&simple(number, 5)).unwrap();
    }
    for number in 10..23 {
        f.ordinary(&simple(number, 0)).unwrap();
    }
    let large = |units: usize| tx(9, 0, vec![put("k", &"v".repeat(units * size / 2), 0)]);
    assert_eq!(f.ordinary(&large(5)), Err(Refusal::PoolFull));
    assert_eq!(f.evicted, [], "three would not have been enough");
    assert!(!f.pool.make_room(f.now, 4 * size, &mut Vec::new()));
    f.ordinary(&simple(8, 0)).unwrap();
    assert_eq!(f.evicted, [simple(3, 5).id]);
    // Whoever fills the gap of his own does not drive out what stands behind it.
    f.ordinary(&simple(1, 0)).unwrap();
    assert_eq!(f.evicted, [simple(3, 5).id, simple(2, 5).id]);
    // A user of this node asks for what waits: it is safe from now on, and from time too.
    assert!(f.pool.keep(&simple(1, 5).id).is_some());
    assert!(!f.pool.make_room(f.now, 1, &mut Vec::new()));
    assert_eq!((f.pool.next_expiry(), f.pool.expire_waiting(at(10_000))), (None, vec![]));
}

#[test]
fn waiting_ends_after_a_while_and_begins_anew_when_a_gap_opens() {
    let mut f = Fixture::new(1 << 20);
    let at = |seconds| Timestamp::ZERO + Duration::from_secs(seconds);
    for nonce in [0, 1, 2, 4] {
        f.ordinary(&simple(1, nonce)).unwrap();
    }
    assert_eq!(f.pool.next_expiry(), Some(at(600)), "nonce 4 waits for 3");
    f.now = at(100);
    f.pool.remove(f.now, &simple(1, 1).id);
    assert_eq!(f.pool.expire_waiting(at(599)), []);
    assert_eq!(f.pool.expire_waiting(at(600)), [simple(1, 4).id]);
    assert_eq!(f.pool.expire_waiting(at(700)), [simple(1, 2).id], "it was ready once");
    assert_eq!((f.pool.len(), f.pool.next_expiry()), (1, None));
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
    assert_eq!(f.pool.expire(f.now, 8), []);
    assert_eq!(f.pool.expire(f.now, 9).len(), 1);
    f.pool.advance(&account(1), 3, &mut gone);
    assert_eq!((f.pool.len(), f.pool.bytes(), f.pool.has_ready(), f.charged()), (0, 0, false, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever happens, the counters are what counting gives.
    #[test]
    fn the_books_balance(steps in prop::collection::vec((0u8..4, 0u64..9, 0u8..5), 1..60)) {
        let size = simple(1, 0).pooled_bytes();
        let mut f = Fixture::new(12 * size);
        for (number, nonce, step) in steps {
            let tx = simple(number, nonce);
            match step {
                0 => f.pool.remove(f.now, &tx.id),
                1 => f.pool.advance(&account(number), nonce, &mut Vec::new()),
                _ => drop(f.ordinary(&tx)),
            }
            let all: Vec<_> = f.pool.ids().iter().filter_map(|id| f.pool.get(id).cloned()).collect();
            prop_assert_eq!(all.len(), f.pool.len());
            prop_assert_eq!(all.iter().map(|tx| tx.bytes.len()).sum::<usize>(), f.pool.bytes());
            prop_assert_eq!(all.iter().map(|tx| tx.pooled_bytes()).sum::<usize>(), f.charged());
            prop_assert!(f.charged() <= 12 * size && f.charged() == f.pool.held);
            let waiting: Vec<_> = f.pool.senders.values().flat_map(|sender| {
                sender.txs.iter().filter(|(nonce, pooled)| !pooled.local && !sender.is_ready(**nonce))
            }).collect();
            prop_assert_eq!(waiting.len(), f.pool.waiting.index.len());
            prop_assert_eq!(waiting.iter().map(|(_, p)| p.tx.pooled_bytes()).sum::<usize>(), f.pool.waiting.bytes);
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
