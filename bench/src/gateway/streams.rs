//! Many event streams on which nothing happens, and then one event for all of them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::caller::Caller;
use super::orders::contract::PublishResponse;
use super::{Bench, peers};
use crate::client::Http2;
use crate::process::raise_open_files;
use crate::report::{Section, Spread};

/// Files that a process needs besides its streams.
const SPARE_FILES: u64 = 200;
/// How many streams open at once. The gateway holds the head of each back for a moment.
const OPENING: usize = 500;
/// Streams that are opened and closed before anything is counted, so that what is there once is there.
const FIRST: usize = 100;
const QUIET: Duration = Duration::from_secs(1);
/// Events that go to all streams, one after the other.
const EVENTS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(30);

impl Bench {
    pub(super) async fn streams(&self) -> Result<Section> {
        let files = usize::try_from(raise_open_files()?.saturating_sub(SPARE_FILES))?;
        let count = self.flags.streams.min(files);
        ensure!(count > 0, "the limit of open files leaves no room for streams");
        let (mut memory, mut cpu) = (Vec::new(), Vec::new());
        for round in 1..=self.flags.rounds {
            let (bytes, delivery) =
                tokio::time::timeout(PATIENCE * 4, self.streams_once(count)).await.context("too slow")??;
            eprintln!(
                "round {round}/{}: {bytes:.0} bytes a stream, {delivery:.1} µs CPU a delivery",
                self.flags.rounds
            );
            memory.push(bytes / 1024.0);
            cpu.push(delivery);
        }
        let [memory, cpu] = [memory, cpu].map(|figures| Spread::of(&figures));
        let fewer = match self.flags.streams - count {
            0 => String::new(),
            missing => format!(" {missing} fewer than wanted: the limit of open files leaves room for {files}."),
        };
        let text = format!(
            "{count} streams over HTTP/1.1, each on a connection of its own.{fewer}\n\n\
             | idle streams | resident KiB a stream, median of rounds (min–max) | CPU µs a delivery, one event at a time |\n\
             |---:|---:|---:|\n\
             | {count} | {:.1} ({:.1}–{:.1}) | {:.1} ({:.1}–{:.1}) |\n",
            memory.median, memory.min, memory.max, cpu.median, cpu.min, cpu.max,
        );
        Ok(Section { text, versions: Vec::new() })
    }

    /// A server of its own, because memory that was in use once may stay. Returns bytes a stream and microseconds a delivery.
    async fn streams_once(&self, count: usize) -> Result<(f64, f64)> {
        let server = self.cores.on_server(peers::start_orders)?;
        drop(open(server.address, FIRST.min(count)).await?);
        let request = ("/bench.v1.OrderService/Publish", bytes::Bytes::new());
        let mut publisher = Caller::grpc(&Http2::connect(server.address).await?, request);
        // An event tells the server that the first streams are gone.
        publisher.call().await?;
        tokio::time::sleep(QUIET).await;
        let before = server.pid().resident()?;
        let mut streams = open(server.address, count).await?;
        tokio::time::sleep(QUIET).await;
        let bytes = server.pid().resident()?.saturating_sub(before) as f64 / count as f64;

        let before = server.pid().cpu()?;
        for _ in 0..EVENTS {
            let answer = PublishResponse::decode(publisher.call().await?)?;
            ensure!(answer.watchers == i64::try_from(count)?, "{} of {count} streams are open", answer.watchers);
            try_join_all(streams.iter_mut().map(|stream| read_event(stream, b"data: "))).await?;
        }
        let cpu = (server.pid().cpu()?.saturating_sub(before) / EVENTS).as_secs_f64() * 1e6 / count as f64;
        Ok((bytes, cpu))
    }
}

async fn open(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    stream::iter(0..count).map(|_| open_one(address)).buffer_unordered(OPENING).try_collect().await
}

async fn open_one(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /v1/orders:watch HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // This begins every stream.
    read_event(&mut stream, b"retry: ").await?;
    Ok(stream)
}

/// Reads to the end of the event that has such a field, past comments that keep the stream alive.
async fn read_event(stream: &mut TcpStream, field: &[u8]) -> Result<()> {
    let mut read = Vec::with_capacity(1024);
    // An empty line ends the event, another line break the chunk.
    while !(read.ends_with(b"\n\n\r\n") && read.windows(field.len()).any(|bytes| bytes == field)) {
        let bytes = tokio::time::timeout(PATIENCE, stream.read_buf(&mut read)).await.context("silence")??;
        if bytes == 0 {
            bail!("a stream ended: {}", String::from_utf8_lossy(&read));
        }
    }
    Ok(())
}
