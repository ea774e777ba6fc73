//! Stories between client and server over real sockets in a temporary directory.

use super::*;
use crate::data_dir::{DataDir, DataDirLock};
use peerage_chain::proto::id::TxId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{broadcast, mpsc},
    task::JoinHandle,
};

struct Node {
    _parent: tempfile::TempDir,
    lock: DataDirLock,
    events: broadcast::Sender<Event>,
    calls: mpsc::Receiver<ControlCall>,
    server: JoinHandle<()>,
}

fn node(name: &str) -> Node {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = DataDir::create(&parent.path().join(name)).expect("created");
    let lock = dir.lock().expect("free");
    let events = broadcast::channel(4).0;
    let (server, calls) = ControlServer::bind(&lock, events.clone()).expect("bound");
    Node { _parent: parent, lock, events, calls, server: tokio::spawn(server.run()) }
}

impl Node {
    fn dir(&self) -> &DataDir {
        self.lock.dir()
    }

    async fn answer(&mut self, result: Result<Response, Refusal>) -> Request {
        let ControlCall { request, reply } = self.calls.recv().await.expect("a call");
        reply.send(result).expect("somebody waits");
        request
    }
}

#[tokio::test]
async fn a_request_crosses_the_socket_and_its_answer_comes_back() {
    use std::os::unix::fs::PermissionsExt;
    let mut node = node("d");
    let mode = std::fs::metadata(node.dir().control()).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let mut client = ControlClient::connect(node.dir()).await.expect("listening");
    let value = Value { value: Some(b"v".to_vec()), version: 1, height: 9, proof: None };
    let (request, response) = (Request::Get { key: b"k".to_vec() }, Response::Value(value));
    let (asked, answered) = tokio::join!(node.answer(Ok(response.clone())), client.call(request.clone()));
    assert_eq!((asked, answered.expect("answered")), (request, response));
    let refusal = Refusal::new(ErrorCode::TxRejected, "no");
    let submit = Request::SubmitTx { tx: vec![1, 2] };
    let (asked, answered) = tokio::join!(node.answer(Err(refusal.clone())), client.call(submit.clone()));
    assert_eq!(asked, submit);
    assert!(matches!(answered, Err(ClientError::Refused(said)) if said == refusal));
    let (asked, answered) = tokio::join!(node.answer(Ok(Response::Peers(vec![]))), client.call(Request::Peers));
    assert_eq!((asked, answered.expect("a refusal ends nothing")), (Request::Peers, Response::Peers(vec![])));
}

#[tokio::test]
async fn a_watcher_hears_all_from_the_answer_on_and_is_told_what_it_missed() {
    let node = node(&"long".repeat(60));
    let client = ControlClient::connect(node.dir()).await.expect("listening, whatever the length of the path");
    let mut stream = client.watch().await.expect("watching");
    let id = TxId([3; 32]);
    let story = [
        Event::Accepted { id, unix_nanos: u64::MAX },
        Event::Acked { id, unix_nanos: 1 },
        Event::Committed { height: 5, ids: vec![id], unix_nanos: 2 },
        Event::Dropped { id, cause: DropCause::Superseded },
    ];
    let tell = |event: &Event| assert_eq!(node.events.send(event.clone()).ok(), Some(1), "one watches");
    story.iter().for_each(tell);
    for event in story {
        assert_eq!(stream.next().await.expect("an event"), Some(event));
    }
    // Six at once, without a pause in which the server could read: the channel holds four.
    let accepted = |unix_nanos| Event::Accepted { id, unix_nanos };
    (0..6).for_each(|time| tell(&accepted(time)));
    assert_eq!(stream.next().await.expect("an event"), Some(Event::Missed { events: 2 }));
    assert_eq!(stream.next().await.expect("an event"), Some(accepted(2)));
}

#[tokio::test]
async fn nonsense_is_refused_in_words_and_an_endless_line_ends_the_connection() {
    let mut node = node("d");
    let mut stream = UnixStream::connect(node.dir().control()).await.expect("listening");
    stream.write_all(b"{\"id\":1,\"method\":\"dance\"}\n").await.expect("written");
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).await.expect("answered");
    let answer: Answer = serde_json::from_slice(&buffer[..read]).expect("an answer");
    let Said::Error(refusal) = answer.said else { panic!("not refused") };
    assert!(refusal.code == ErrorCode::BadRequest && refusal.message.contains("dance"), "{refusal}");
    stream.write_all(b"{\"id\":7,\"method\":\"status\"}\n").await.expect("the connection stands");
    node.answer(Err(Refusal::new(ErrorCode::Busy, "later"))).await;
    let read = stream.read(&mut buffer).await.expect("answered");
    assert_eq!(&buffer[..read], b"{\"id\":7,\"error\":{\"code\":\"busy\",\"message\":\"later\"}}\n");
    let endless = vec![b' '; MAX_REQUEST_BYTES + 1];
    stream.write_all(&endless).await.expect("written");
    let mut rest = String::new();
    // The server may reset the connection, for it leaves bytes unread; its words come first.
    let _ = stream.read_to_string(&mut rest).await;
    assert!(rest.contains("too_long"), "{rest}");
}

#[tokio::test]
async fn a_node_that_stops_says_so_and_one_that_is_gone_is_known_to_be() {
    let mut node = node("d");
    let mut client = ControlClient::connect(node.dir()).await.expect("listening");
    node.calls.close();
    let answer = client.call(Request::Status).await;
    assert!(matches!(&answer, Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::Stopping), "{answer:?}");
    node.server.abort();
    assert!((&mut node.server).await.expect_err("stopped").is_cancelled());
    assert!(!node.dir().control().exists(), "the socket goes with the server");
    let error = ControlClient::connect(node.dir()).await.expect_err("gone");
    assert!(matches!(&error, ClientError::NotRunning(_)) && error.to_string().contains("peerage run"), "{error}");
    // A socket left behind by a crash is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(node.dir().control()).expect("bound"));
    assert!(matches!(ControlClient::connect(node.dir()).await, Err(ClientError::NotRunning(_))));
    ControlServer::bind(&node.lock, node.events.clone()).expect("replaced");
}
