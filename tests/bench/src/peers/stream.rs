//! What an application does by hand on a peer's byte stream: frames, buffers, flushes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};

use crate::measure::{Spent, Watch};

/// What the buffers before and behind a stream hold.
const BUFFER: usize = 32 << 10;

/// When to flush what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// After each message, as an application must that does not know whether another follows.
    Each,
    /// When the buffer is full or nothing else is to be done: batching by hand.
    ByHand,
}

/// Moves `total` bytes one way in writes of `chunk`.
pub(crate) async fn bulk<W, R>(mut writer: W, mut reader: R, total: usize, chunk: usize) -> Spent
where
    W: AsyncWrite + Unpin + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let watch = Watch::start();
    let sending = tokio::spawn(async move {
        let bytes = vec![7; chunk];
        for _ in 0..total / chunk {
            writer.write_all(&bytes).await.expect("loopback");
        }
        writer.flush().await.expect("loopback");
        writer
    });
    let receiving = tokio::spawn(async move {
        let (mut bytes, mut left) = (vec![0; chunk], total);
        while left > 0 {
            let count = reader.read(&mut bytes).await.expect("loopback");
            assert!(count > 0, "the stream ended early");
            left -= count;
        }
        reader
    });
    let kept = (sending.await.expect("no panic"), receiving.await.expect("no panic"));
    let spent = watch.read();
    drop(kept);
    spent
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut BufWriter<W>, message: &[u8]) -> std::io::Result<()> {
    writer.write_u32(message.len() as u32).await?;
    writer.write_all(message).await
}

async fn read<R: AsyncRead + Unpin>(reader: &mut BufReader<R>, into: &mut [u8]) -> std::io::Result<usize> {
    let len = reader.read_u32().await? as usize;
    reader.read_exact(&mut into[..len]).await?;
    Ok(len)
}

/// Sends `count` messages of `len` bytes one way.
pub(crate) async fn one_way<W, R>(writer: W, reader: R, len: usize, count: usize, flush: Flush) -> Spent
where
    W: AsyncWrite + Unpin + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let watch = Watch::start();
    let sending = tokio::spawn(async move {
        let (mut writer, message) = (BufWriter::with_capacity(BUFFER, writer), vec![9; len]);
        for _ in 0..count {
            write(&mut writer, &message).await.expect("loopback");
            if flush == Flush::Each {
                writer.flush().await.expect("loopback");
            }
        }
        writer.flush().await.expect("loopback");
        writer
    });
    let receiving = tokio::spawn(async move {
        let (mut reader, mut bytes) = (BufReader::with_capacity(BUFFER, reader), vec![0; len]);
        for _ in 0..count {
            read(&mut reader, &mut bytes).await.expect("loopback");
        }
        reader
    });
    let reader = receiving.await.expect("no panic");
    let spent = watch.read();
    drop((sending.await.expect("no panic"), reader));
    spent
}

/// Answers each message with itself, until the stream ends.
pub(crate) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S, flush: Flush) {
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (BufReader::with_capacity(BUFFER, reader), BufWriter::with_capacity(BUFFER, writer));
    let mut bytes = vec![0; 4096];
    while let Ok(len) = read(&mut reader, &mut bytes).await {
        write(&mut writer, &bytes[..len]).await.expect("loopback");
        if (flush == Flush::Each || reader.buffer().is_empty()) && writer.flush().await.is_err() {
            return;
        }
    }
}

/// Makes `count` requests of `len` bytes, `in_flight` of them at once: how long each took, in seconds, and what all took.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    len: usize,
    in_flight: usize,
    count: usize,
    flush: Flush,
) -> (Vec<f64>, Spent) {
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (BufReader::with_capacity(BUFFER, reader), BufWriter::with_capacity(BUFFER, writer));
    let (message, mut bytes) = (vec![3; len], vec![0; len]);
    let (mut times, mut sent) = (Vec::with_capacity(count), VecDeque::new());
    let watch = Watch::start();
    for _ in 0..in_flight {
        write(&mut writer, &message).await.expect("loopback");
        sent.push_back(Instant::now());
    }
    writer.flush().await.expect("loopback");
    let mut left = count - in_flight;
    while let Some(at) = sent.pop_front() {
        read(&mut reader, &mut bytes).await.expect("loopback");
        times.push(at.elapsed().as_secs_f64());
        if left > 0 {
            left -= 1;
            write(&mut writer, &message).await.expect("loopback");
            sent.push_back(Instant::now());
        }
        if flush == Flush::Each || reader.buffer().is_empty() {
            writer.flush().await.expect("loopback");
        }
    }
    (times, watch.read())
}

/// Sends a message of `len` bytes that begins with the time of its sending; [`read_stamped`] is the other end.
pub(crate) async fn send_stamped<W: AsyncWrite + Unpin>(writer: &mut W, len: usize, now: u64) {
    let mut message = vec![5; len];
    message[..8].copy_from_slice(&now.to_be_bytes());
    writer.write_all(&message).await.expect("loopback");
    writer.flush().await.expect("loopback");
}

/// Reads such messages and tells how many nanoseconds each took.
pub(crate) async fn read_stamped<R: AsyncRead + Unpin>(
    mut reader: R,
    len: usize,
    now: impl Fn() -> u64,
    tell: tokio::sync::mpsc::UnboundedSender<u64>,
) {
    let mut message = vec![0; len];
    while reader.read_exact(&mut message).await.is_ok() {
        let sent = u64::from_be_bytes(*message.first_chunk().expect("longer than that"));
        if tell.send(now() - sent).is_err() {
            return;
        }
    }
}

/// Writes chunks until the stream or its task ends.
pub(crate) async fn flood<W: AsyncWrite + Unpin>(mut writer: W, chunk: usize) {
    let bytes = vec![7; chunk];
    while writer.write_all(&bytes).await.is_ok() {}
}

/// Reads whatever comes, and counts it.
pub(crate) async fn drain<R: AsyncRead + Unpin>(mut reader: R, chunk: usize, count: Arc<AtomicU64>) {
    let mut bytes = vec![0; chunk];
    while let Ok(read @ 1..) = reader.read(&mut bytes).await {
        count.fetch_add(read as u64, Relaxed);
    }
}
