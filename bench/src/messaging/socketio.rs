//! A client of socket.io, as much of one as is needed: Engine.IO 4 and Socket.IO 5 over a WebSocket.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// A connection.
pub struct Socket {
    socket: WebSocketStream<TcpStream>,
    calls: u64,
}

impl Socket {
    /// Connects, and joins the namespace `/`.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.context("the WebSocket's handshake")?;
        let mut socket = Self { socket, calls: 0 };
        ensure!(socket.next().await?.starts_with('0'), "no Engine.IO");
        socket.send("40".into()).await?;
        ensure!(socket.next().await?.starts_with("40"), "no Socket.IO");
        Ok(socket)
    }

    /// Emits an event, and waits until it is acknowledged. What else comes meanwhile is dropped.
    pub async fn call(&mut self, event: &Value) -> Result<()> {
        self.calls += 1;
        let (request, answer) = (format!("42{}{event}", self.calls), format!("43{}[", self.calls));
        self.send(request.into()).await?;
        loop {
            let packet = self.next().await?;
            if let Some(answer) = packet.strip_prefix(&answer) {
                ensure!(!answer.starts_with("null"), "refused: {answer}");
                return Ok(());
            }
        }
    }

    /// The next packet, past pings, which it answers.
    pub async fn next(&mut self) -> Result<Utf8Bytes> {
        loop {
            match self.socket.next().await.context("the connection ended")?? {
                Message::Text(packet) if packet == "2" => self.send("3".into()).await?,
                Message::Text(packet) => return Ok(packet),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("not a packet: {other:?}"),
            }
        }
    }

    async fn send(&mut self, packet: Utf8Bytes) -> Result<()> {
        Ok(self.socket.send(Message::Text(packet)).await?)
    }
}
