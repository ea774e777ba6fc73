//! Stories of an operator at the command line, with a node played by hand where one is needed.

use super::*;
use crate::{
    cli::{Cli, Command},
    config::{Layer, NodeConfig},
    control::{
        AccountState, ControlCall, ControlServer, DropCause, ErrorCode, Event, Inclusion, Outcome, Refusal, Request,
        Response, TxState, Value,
    },
    data_dir::DataDir,
    genesis::load_genesis,
};
use bytes::Bytes;
use clap::Parser;
use peerage_chain::proto::{
    id::TxId,
    transaction::{EncodedTransaction, MAX_TX_BYTES, Op},
};
use std::{fs, path::Path};
use tokio::sync::broadcast;

async fn peerage(line: &str) -> Result<String, CliError> {
    let Command::Client(command) = Cli::try_parse_from(line.split(' ')).expect(line).command else {
        panic!("{line} is no client command")
    };
    let mut out = Vec::new();
    execute(command, &mut out).await?;
    Ok(String::from_utf8(out).expect("text"))
}

fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[tokio::test]
async fn init_makes_all_that_a_node_needs_and_keeps_what_is_there() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let (first, second) = (parent.path().join("a"), parent.path().join("b"));
    let said = peerage(&format!("peerage init --dir {} --network town", show(&first))).await.expect("made");
    assert!(said.contains("network         town (") && said.contains("peerage run --dir"), "{said}");
    assert_eq!(peerage(&format!("peerage init --dir {}", show(&first))).await.expect("kept"), said);
    NodeConfig::load(&first, [], Layer::default()).expect("the configuration is valid");
    let dir = DataDir::open(&first).expect("closed to others");
    let genesis = load_genesis(&dir.genesis()).expect("valid");
    let producer = peerage(&format!("peerage key show {}", show(&dir.producer_key()))).await;
    assert_eq!(genesis.producers()[0].to_string(), producer.expect("a key").trim());

    let join = format!("peerage init --dir {} --genesis {}", show(&second), show(&dir.genesis()));
    let joined = peerage(&join).await.expect("made");
    assert!(joined.contains(&genesis.network_id().to_string()) && !joined.contains("producer"), "{joined}");
    let third = parent.path().join("c");
    peerage(&format!("peerage init --dir {}", show(&third))).await.expect("another network");
    let error = peerage(&format!("peerage init --dir {} --genesis {}", show(&third), show(&dir.genesis()))).await;
    let error = error.expect_err("two networks in one directory");
    assert!(matches!(error, CliError::OtherGenesis(_)) && error.code() == 78, "{error}");
}

#[tokio::test]
async fn failures_have_codes_and_say_what_to_do() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = parent.path().join("d");
    let at = show(&dir);
    let fail = async |line: &str| {
        let error = peerage(line).await.expect_err(line);
        (error.code(), error.to_string())
    };
    let (code, text) = fail(&format!("peerage status --dir {at}")).await;
    assert!(code == 78 && text.contains("peerage init --dir"), "{text}");
    let (code, text) = fail(&format!("peerage init --dir {at} --genesis {at}/none")).await;
    assert!(code == 78 && text.contains("there is no genesis"), "{text}");
    assert!(!dir.exists(), "nothing was made");
    peerage(&format!("peerage init --dir {at}")).await.expect("made");
    let (code, text) = fail(&format!("peerage status --dir {at}")).await;
    assert!(code == 1 && text.contains("peerage run --dir"), "{text}");
    let (code, text) = fail(&format!("peerage key new {at}/identity.key --kind identity")).await;
    assert!(code == 2 && text.contains("exists already"), "{text}");
    let put = format!("peerage tx put --dir {at} --key-file {at}/identity.key k v");
    let (code, text) = fail(&put).await;
    assert!(code == 78 && text.contains("kind"), "{text}");
    let (code, text) = fail(&format!("peerage key show {at}/none")).await;
    assert!(code == 74, "{text}");
    let (code, text) = fail(&format!("peerage get --dir {at} --hex xyz")).await;
    assert!(code == 2 && text.contains("hexadecimal"), "{text}");
    let lock = DataDir::open(&dir).expect("there").lock().expect("free");
    let (code, text) = fail(&format!("peerage init --dir {at}")).await;
    assert!(code == 1 && text.contains("in use"), "{text}");
    drop(lock);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("ours");
    let (code, text) = fail(&format!("peerage peers --dir {at}")).await;
    assert!(code == 77 && text.contains("chmod 700"), "{text}");
}

/// What becomes of a transaction: it is in a block, or it was dropped, and whether that event reaches the watcher.
type Fate = Result<Outcome, Option<DropCause>>;

/// A node that knows one key, takes any transaction and lets it meet its fate at once.
async fn play(mut calls: tokio::sync::mpsc::Receiver<ControlCall>, events: broadcast::Sender<Event>, fate: Fate) {
    while let Some(ControlCall { request, reply }) = calls.recv().await {
        let answer = match request {
            Request::Account { .. } => Ok(Response::Account(AccountState { chain_id: 5, next_nonce: 3, height: 10 })),
            Request::Get { key } => {
                let value = (key == b"known").then(|| b"old".to_vec());
                let version = if value.is_some() { 7 } else { 0 };
                Ok(Response::Value(Value { value, version, height: 10, proof: None }))
            }
            Request::SubmitTx { tx } => {
                let tx = EncodedTransaction::decode(Bytes::from(tx), MAX_TX_BYTES).expect("canonical");
                tx.tx.verify_signature().expect("signed by the account");
                let body = &tx.tx.body;
                assert_eq!((body.chain_id, body.nonce, body.valid_until), (5, 3, 610));
                let [Op::Put { key, value, expected_version }] = &body.ops[..] else { panic!("{body:?}") };
                assert_eq!((&key[..], &value[..], *expected_version), (&b"known"[..], &b"new"[..], 7));
                // Nobody may be watching.
                let _ = events.send(Event::Committed { height: 11, ids: vec![TxId::default()], unix_nanos: 1 });
                let _ = events.send(Event::Dropped { id: TxId::default(), cause: DropCause::Expired });
                let _ = events.send(match fate {
                    Ok(_) => Event::Committed { height: 12, ids: vec![tx.id], unix_nanos: 2 },
                    Err(Some(cause)) => Event::Dropped { id: tx.id, cause },
                    Err(None) => Event::Missed { events: 3 },
                });
                Ok(Response::Submitted { id: tx.id })
            }
            Request::TxStatus { .. } => {
                Ok(Response::TxStatus(fate.map_or(TxState::Unknown, |outcome| {
                    TxState::Committed(Inclusion { height: 12, index: 0, outcome })
                })))
            }
            other => Err(Refusal::new(ErrorCode::Internal, format!("{other:?} is not in this story"))),
        };
        reply.send(answer).expect("somebody waits");
    }
}

#[tokio::test]
async fn a_transaction_is_signed_here_sent_waited_for_and_its_fate_reported() {
    let fates = [
        Ok(Outcome::Applied),
        Ok(Outcome::StaleVersion { op: 0, actual: 9 }),
        Err(Some(DropCause::Superseded)),
        Err(None),
    ];
    for fate in fates {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::create(&parent.path().join("d")).expect("created");
        let (at, key) = (show(dir.path()).to_string(), parent.path().join("account.key"));
        let key = show(&key);
        peerage(&format!("peerage key new {key} --kind account")).await.expect("made");
        let events = broadcast::channel(16).0;
        let lock = dir.lock().expect("free");
        let (server, calls) = ControlServer::bind(&lock, events.clone()).expect("bound");
        let tasks = [tokio::spawn(server.run()), tokio::spawn(play(calls, events, fate))];

        assert_eq!(peerage(&format!("peerage get --dir {at} known")).await.expect("a value"), "old\n");
        let json = peerage(&format!("peerage get --dir {at} --json known")).await.expect("a value");
        assert!(json.contains("\"value\": \"6f6c64\"") && json.contains("\"version\": 7"), "{json}");
        let absent = peerage(&format!("peerage get --dir {at} other")).await.expect_err("absent");
        assert!(matches!(absent, CliError::Absent) && absent.code() == 1, "{absent}");

        let put = format!("peerage tx put --dir {at} --key-file {key}");
        let id: TxId = peerage(&format!("{put} known new")).await.expect("sent").trim().parse().expect("an id");
        let waited = peerage(&format!("{put} --wait --expected-version 7 known new")).await;
        let words = match fate {
            Ok(Outcome::Applied) => {
                assert_eq!(waited.expect("applied").trim(), id.to_string());
                continue;
            }
            Ok(Outcome::StaleVersion { .. }) => "version 9",
            Err(Some(_)) => "same nonce",
            Err(None) => "the node's log says why",
        };
        let error = waited.expect_err("without effect");
        assert!(error.code() == 1 && error.to_string().contains(words), "{error}");
        for task in tasks {
            assert!(!task.is_finished(), "the node played to the end");
            task.abort();
        }
    }
}
