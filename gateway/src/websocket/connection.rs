//! An open WebSocket and the call behind it. Each end of the one ends the other.

use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FusedStream, SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::handshake::Protocol;
use super::inbound::Inbound;
use super::life::{Life, Watched};
use super::requests::Requests;
use crate::answer::{json_buffer, unprintable};
use crate::error::{Asker, Failure, Rejection};
use crate::service::Shared;
use crate::upstream::Answer;

/// Whatever is ready goes out in one write, up to about this much.
const BATCH: usize = 32 << 10;
/// What is kept for each connection to read into.
const READ_BUFFER: usize = 4 << 10;
/// How long a client has to take the last messages and to close its side.
const GOODBYE: Duration = Duration::from_secs(2);
/// The most that a close frame can hold as its reason (RFC 6455, section 5.5).
const REASON_BYTES: usize = 123;

type Ws<T> = WebSocketStream<Watched<T>>;

/// A call and its answer.
pub(crate) enum Call {
    Opening(Pin<Box<dyn Future<Output = Result<Answer, Box<Failure>>> + Send>>),
    Open(Box<Answer>),
}

impl Call {
    /// Waits for the head of the answer.
    pub async fn open(&mut self) -> Result<(), Box<Failure>> {
        if let Call::Opening(opening) = self {
            *self = Call::Open(Box::new(opening.await?));
        }
        Ok(())
    }

    async fn message(&mut self) -> Option<Result<Bytes, Box<Failure>>> {
        if let Err(failure) = self.open().await {
            return Some(Err(failure));
        }
        match self {
            Call::Open(answer) => answer.message().await,
            Call::Opening(_) => None,
        }
    }
}

/// How a connection ends.
enum End {
    /// The client closed it, or it broke.
    Gone,
    /// The last message was sent.
    Ok,
    /// With a close code, and what there is to say.
    Failed(CloseCode, Box<Failure>),
}

impl End {
    /// The call failed.
    fn status(failure: Box<Failure>) -> Self {
        let code = u16::try_from(i32::from(failure.status.code())).unwrap_or(2);
        Self::Failed(CloseCode::from(4000 + code), failure)
    }

    /// The client did something that it may not.
    fn refused(code: CloseCode, rejection: Rejection) -> Self {
        Self::Failed(code, rejection.into())
    }
}

pub(crate) struct Connection {
    pub shared: Arc<Shared>,
    pub socket: usize,
    pub protocol: Protocol,
    pub asker: Asker,
}

impl Connection {
    pub async fn serve<T>(self, io: T, inbound: Inbound, requests: Requests, mut call: Call)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let limit = self.shared.limits.request_bytes;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(BATCH)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        let life = Arc::new(Life::new());
        let io = Watched::new(io, life.clone());
        let (mut sink, mut stream) = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
        let end = tokio::select! {
            end = self.send(&mut sink, &mut call) => end,
            end = self.receive(&mut stream, &life, inbound, requests) => end,
        };
        // Whoever waits for the upstream to notice should not wait for the client's goodbye.
        drop(call);
        if let Ok(socket) = stream.reunite(sink) {
            // A client that takes longer is left without.
            let _ = tokio::time::timeout(GOODBYE, self.close(socket, end)).await;
        }
    }

    /// Messages of the upstream to the client. It is asked for more only when the client has taken what there was.
    async fn send<T>(&self, sink: &mut SplitSink<Ws<T>, Message>, call: &mut Call) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let heartbeat = self.shared.limits.heartbeat;
        let mut ping = pin!(sleep(heartbeat));
        loop {
            let mut next = tokio::select! {
                message = call.message() => Some(message),
                () = ping.as_mut() => None,
            };
            if next.is_none() {
                ping.as_mut().reset(Instant::now() + heartbeat);
                if sink.feed(Message::Ping(Bytes::new())).await.is_err() {
                    return End::Gone;
                }
            }
            let (mut batch, mut end) = (0, None);
            while let Some(message) = next {
                next = None;
                match message.map(|message| message.and_then(|message| self.print(message))) {
                    None => end = Some(End::Ok),
                    Some(Err(failure)) => end = Some(End::status(failure)),
                    Some(Ok(frame)) => {
                        batch += frame.len();
                        if sink.feed(frame).await.is_err() {
                            return End::Gone;
                        }
                        if batch < BATCH {
                            next = call.message().now_or_never();
                        }
                    }
                }
            }
            // Also before the end: this half of the socket keeps a frame to itself until then.
            if sink.flush().await.is_err() {
                return End::Gone;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn print(&self, message: Bytes) -> Result<Message, Box<Failure>> {
        let Some(route) = self.shared.plan.sockets.get(self.socket).filter(|_| self.protocol == Protocol::Json) else {
            return Ok(Message::Binary(message));
        };
        let mut json = json_buffer(&message);
        json.extend_from_slice(b"{\"result\":");
        self.shared.print(route, &message, &mut json).map_err(|_| unprintable())?;
        json.push(b'}');
        text(json)
    }

    /// Messages of the client to the upstream. While that takes its time, one more is read and then nothing: a client that
    /// goes should be noticed, and one that sends should wait.
    async fn receive<T>(
        &self,
        stream: &mut SplitStream<Ws<T>>,
        life: &Life,
        mut inbound: Inbound,
        requests: Requests,
    ) -> End
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut silence = pin!(life.silence(self.shared.limits.heartbeat.saturating_mul(2)));
        let (mut requests, mut ahead) = (Some(requests), None);
        loop {
            let message = match ahead.take() {
                Some(message) => Ok(message),
                None => tokio::select! {
                    biased;
                    message = self.data(stream, life) => message,
                    () = silence.as_mut() => Err(End::refused(CloseCode::Away, Rejection::Silence)),
                },
            };
            let message = match message {
                Ok(message) => message,
                Err(end) => return end,
            };
            let mut pass = pin!(self.pass(&message, &mut inbound, &mut requests));
            let passed = loop {
                tokio::select! {
                    biased;
                    passed = pass.as_mut() => break passed,
                    next = self.data(stream, life), if ahead.is_none() => match next {
                        Ok(message) => ahead = Some(message),
                        Err(end) => break Err(end),
                    },
                }
            };
            if let Err(end) = passed {
                return end;
            }
            life.touch();
        }
    }

    /// The next frame that is neither a ping nor a pong.
    async fn data<T>(&self, stream: &mut SplitStream<Ws<T>>, life: &Life) -> Result<Message, End>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            match stream.next().await {
                None | Some(Ok(Message::Close(_))) => return Err(End::Gone),
                Some(Err(error)) => return Err(self.broken(error)),
                Some(Ok(Message::Ping(_))) if !life.may_ping() => {
                    let rejection = Rejection::Frame("pings whose answers are not read");
                    return Err(End::refused(CloseCode::Policy, rejection));
                }
                Some(Ok(message)) if message.is_text() || message.is_binary() => return Ok(message),
                Some(Ok(_)) => {}
            }
        }
    }

    /// One frame of the client. `requests` is `None` once there must be no more messages.
    async fn pass(&self, message: &Message, inbound: &mut Inbound, requests: &mut Option<Requests>) -> Result<(), End> {
        let half_close = Inbound::is_half_close(message);
        let Some(open) = requests else {
            let refused = || End::refused(CloseCode::Policy, Rejection::Frame("no message may follow the half-close"));
            return if half_close { Ok(()) } else { Err(refused()) };
        };
        let message = if half_close { inbound.unsent() } else { inbound.message(message).map(Some) };
        let message = message.map_err(|rejection| match rejection {
            Rejection::Frame(_) => End::refused(CloseCode::Unsupported, rejection),
            Rejection::TooLarge(_) => End::refused(CloseCode::Size, rejection),
            _ => End::refused(CloseCode::Invalid, rejection),
        })?;
        if let Some(message) = message {
            open.send(message).await;
        }
        if (half_close || !inbound.takes_more())
            && let Some(requests) = requests.take()
        {
            requests.end().await;
        }
        Ok(())
    }

    /// Why nothing more can be read.
    fn broken(&self, error: Error) -> End {
        match error {
            Error::Capacity(_) => End::refused(CloseCode::Size, Rejection::TooLarge(self.shared.limits.request_bytes)),
            Error::Utf8(_) => End::refused(CloseCode::Invalid, Rejection::Frame("a text frame is not UTF-8")),
            Error::Protocol(error) if error != ProtocolError::ResetWithoutClosingHandshake => {
                End::refused(CloseCode::Protocol, Rejection::Frame("the frames are not those of RFC 6455"))
            }
            _ => End::Gone,
        }
    }

    /// The closing handshake. The connection must not be dropped while bytes of the client are unread: TCP would take
    /// back what it has not acknowledged.
    async fn close<T>(&self, mut socket: Ws<T>, end: End) -> Result<(), Error>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = socket.is_terminated();
        match end {
            End::Gone => socket.flush().await?,
            End::Ok => socket.send(Message::Close(Some(frame(CloseCode::Normal, "OK")))).await?,
            End::Failed(code, failure) => {
                if let Ok(error) = text(self.shared.error_line(&failure, &self.asker)) {
                    socket.feed(error).await?;
                }
                socket.send(Message::Close(Some(frame(code, failure.status.message())))).await?;
            }
        }
        while let Some(frame) = socket.next().await {
            frame?;
        }
        if broken {
            // What follows can't be read as frames, so the client's close frame would not be found in it.
            let (io, mut rest) = (socket.get_mut(), [0; 1024]);
            io.shutdown().await?;
            while io.read(&mut rest).await? > 0 {}
        }
        Ok(())
    }
}

fn text(json: Vec<u8>) -> Result<Message, Box<Failure>> {
    Utf8Bytes::try_from(json).map(Message::Text).map_err(|_| unprintable())
}

fn frame(code: CloseCode, reason: &str) -> CloseFrame {
    let end = reason.floor_char_boundary(REASON_BYTES);
    CloseFrame { code, reason: reason.get(..end).unwrap_or_default().into() }
}
