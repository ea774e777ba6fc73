//! `peerage run`: the node of a data directory, until it is told to stop.

use std::io::{self, Read};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::CliError;
use crate::{
    cli::RunArgs,
    config::{Layer, NodeConfig},
    data_dir::DataDir,
    logs, runtime,
};

/// Does what `peerage run` says.
///
/// # Errors
/// [`CliError`]: why the node did not start or had to stop.
pub async fn execute(args: RunArgs) -> Result<(), CliError> {
    let dir = DataDir::open(&args.dir)?;
    let config = NodeConfig::load(dir.path(), std::env::vars(), Layer::from(args.settings))?;
    // Logging starts once in a process; a second start would only mean that a caller had its own.
    drop(logs::start(config.log()));
    let lock = dir.lock()?;
    let stop = stop_signal(args.exit_with_stdin)?;
    Ok(runtime::run(config, lock, stop).await?)
}

/// Resolves at SIGTERM, at SIGINT, or, if asked for, when standard input ends.
fn stop_signal(with_stdin: bool) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent_gone = if with_stdin { Some(stdin_ends()?) } else { None };
    Ok(async move {
        let parent_gone = async {
            match parent_gone {
                // A watcher that ended without a word watched the end of standard input.
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = parent_gone => {}
        }
    })
}

/// Watches standard input on a thread of its own, which nobody waits for: reading it cannot be cancelled.
fn stdin_ends() -> io::Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("peerage-stdin".into()).spawn(move || {
        let mut ignored = [0; 64];
        let mut stdin = io::stdin().lock();
        while matches!(stdin.read(&mut ignored), Ok(1..)) {}
        // The node may be stopping for another reason already.
        let _unheard = sender.send(());
    })?;
    Ok(receiver)
}
