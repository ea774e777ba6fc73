#![allow(clippy::disallowed_methods)]
use std::{sync::Arc, time::Instant};
use peerage_chain::{proto::{genesis::*, id::*, state::*, transaction::*, block::*}, store::*};
use peerage_core::UnixMillis;
use peerage_transport::proto::keypair::Keypair;
fn main() {
    let producer = Keypair::from_seed(&[1; 32]);
    let genesis = Arc::new(Genesis::new(&GenesisFile { chain_id: 7, network: "e".into(), producers: vec![producer.node_id().to_string()], time: 0, block_interval_ms: 500, limits: Limits::default() }).unwrap());
    let dir = std::env::args().nth(1).unwrap();
    let a = Store::open(std::path::Path::new(&format!("{dir}/a.redb")), genesis.clone(), DEFAULT_CACHE_BYTES).unwrap();
    let b = Store::open(std::path::Path::new(&format!("{dir}/b.redb")), genesis.clone(), DEFAULT_CACHE_BYTES).unwrap();
    let users: Vec<Keypair> = (0..50u8).map(|n| Keypair::from_seed(&[n; 32])).collect();
    let n: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let per = 5000u64;
    let mut nonces = vec![0u64; 50];
    for block in 0..n / per {
        let txs: Vec<_> = (0..per).map(|i| { let u = (i % 50) as usize; let nonce = nonces[u]; nonces[u] += 1;
            Arc::new(Transaction::sign(TransactionBody { chain_id: 7, account: Account(*users[u].node_id().as_bytes()), nonce, valid_until: u64::MAX, ops: vec![Op::Put { key: format!("{block}/{i}").into_bytes(), value: vec![5; 100], expected_version: 0 }] }, &users[u]).unwrap().encode().unwrap()) }).collect();
        let t = Instant::now();
        let built = a.build(txs, UnixMillis(1), &producer).unwrap().block.unwrap();
        let tb = t.elapsed();
        assert_eq!(built.receipts.len() as u64, per);
        let t = Instant::now();
        let checked = CheckedBlock::check(&genesis, built.block.bytes().clone(), &[]).unwrap();
        let tc = t.elapsed();
        let t = Instant::now();
        assert!(matches!(b.apply(checked).unwrap(), ApplyOutcome::Applied(_)));
        let ta = t.elapsed();
        if block % 20 == 19 { println!("block {block}: {} B, build {tb:?} check {tc:?} apply {ta:?}", built.block.bytes().len()); }
    }
    let r = b.get(b"3/77").unwrap();
    let t = Instant::now();
    for _ in 0..1000 { r.proof.verify(r.head.state_root, &key_hash(b"3/77"), r.entry.as_ref().map(|e| (e.version, value_hash(&e.value)))).unwrap(); }
    println!("proof {} siblings, verify {:?}", r.proof.siblings.len(), t.elapsed() / 1000);
    drop(b);
    let t = Instant::now();
    let b = Store::open(std::path::Path::new(&format!("{dir}/b.redb")), genesis.clone(), DEFAULT_CACHE_BYTES).unwrap();
    println!("reopen+load {:?}", { b.load().unwrap(); t.elapsed() });
    let t = Instant::now();
    let rep = b.verify().unwrap();
    println!("verify {:?} problems {}", t.elapsed(), rep.problems.len());
}
