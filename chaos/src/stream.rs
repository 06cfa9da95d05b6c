//! The three ways to watch a conversation: `Subscribe`, `Connect`, and server-sent events.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rialto::proto::rialto::messaging::v1::connect_request::Command;
use rialto::proto::rialto::messaging::v1::connect_response::Response;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{
    ConnectRequest, ConnectResponse, Message, SubscribeRequest, SubscribeResponse, message as contract,
    subscribe_response,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::cable::Cable;
use crate::client::SILENCE;
use crate::world::{Account, endpoint};

/// A stream of events that says so long nothing is given up: the server says every 15 seconds that it is there.
const SILENT_EVENTS: Duration = Duration::from_secs(20);

/// How somebody watches.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// gRPC, one conversation.
    Subscribe,
    /// gRPC, the two-way stream.
    Connect,
    /// HTTP/1.1.
    Events,
}

/// An open stream.
pub enum Stream {
    /// gRPC, one conversation.
    Subscribe(Streaming<SubscribeResponse>),
    /// gRPC, the two-way stream, and what keeps it open for more commands.
    Connect(
        Streaming<ConnectResponse>,
        #[expect(dead_code, reason = "dropped with the stream")] mpsc::Sender<ConnectRequest>,
    ),
    /// HTTP/1.1, and what was read of the next event.
    Events(reqwest::Response, Vec<u8>),
}

impl Stream {
    /// Opens one that begins after `seq`, on a connection of its own.
    pub async fn open(way: Way, cable: &Cable, account: &Account, id: &str, seq: i64) -> Result<Self> {
        let subscribe = SubscribeRequest { conversation_id: id.to_owned(), after_seq: Some(seq), ..Default::default() };
        if let Way::Events = way {
            return Self::open_events(cable, account, id, seq).await;
        }
        let mut client = MessagingServiceClient::new(endpoint(cable)?.connect().await?);
        if let Way::Subscribe = way {
            return Ok(Self::Subscribe(client.subscribe(account.request(subscribe)).await?.into_inner()));
        }
        let (commands, requests) = mpsc::channel(1);
        commands.send(ConnectRequest { command_id: 1, command: Some(Command::Subscribe(subscribe)) }).await?;
        let request = account.request(ReceiverStream::new(requests));
        Ok(Self::Connect(client.connect(request).await?.into_inner(), commands))
    }

    async fn open_events(cable: &Cable, account: &Account, id: &str, seq: i64) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().connect_timeout(SILENCE).build()?;
        let url = format!("http://{}/v1/conversations/{id}/events?after_seq=0", cable.address);
        let request = client.get(url).header("accept", "text/event-stream").header("last-event-id", seq);
        let response = request.header("authorization", account.authorization.to_str()?).send().await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(refused(status, &response.text().await?));
        }
        Ok(Self::Events(response, Vec::new()))
    }

    /// The next message. Can't be taken up again when dropped.
    pub async fn next(&mut self) -> Result<Message> {
        match self {
            Self::Subscribe(stream) => message(stream.message().await?),
            Self::Connect(stream, _) => loop {
                match stream.message().await?.context("the stream ended")?.response {
                    Some(Response::Event(event)) => return message(event.event),
                    Some(Response::Subscribed(_)) => {}
                    Some(Response::Failed(failed)) => {
                        return Err(refused(failed.reason().info().http_status, &failed.message));
                    }
                    other => return Err(wrong(format!("nobody asked for {other:?}"))),
                }
            },
            Self::Events(response, buffer) => loop {
                if let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\n\n") {
                    let event: Vec<_> = buffer.drain(..end + 2).collect();
                    match event_message(std::str::from_utf8(&event)?)? {
                        Some(message) => return Ok(message),
                        None => continue,
                    }
                }
                let chunk = timeout(SILENT_EVENTS, response.chunk()).await??;
                buffer.extend_from_slice(&chunk.context("the stream ended")?);
            },
        }
    }
}

fn message(response: Option<SubscribeResponse>) -> Result<Message> {
    let response = response.context("the stream ended")?;
    match response.event {
        Some(subscribe_response::Event::Message(message)) if message.seq == response.seq => Ok(message),
        event => Err(wrong(format!("event {} is {event:?}", response.seq))),
    }
}

/// The message of an event; none if it has no data. One that ends the stream is an error.
fn event_message(event: &str) -> Result<Option<Message>> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let Some(data) = field("data:") else { return Ok(None) };
    let value: Value = serde_json::from_str(data)?;
    match field("event:") {
        Some("message") => {}
        Some("error") => {
            let status = value["error"]["code"].as_u64().and_then(|status| status.try_into().ok());
            return Err(refused(status.unwrap_or(0), data));
        }
        _ => bail!("the stream ended: {event}"),
    }
    let message = &value["message"];
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    if field("id:") != message["seq"].as_str() {
        return Err(wrong(format!("an event whose id is not its number: {event}")));
    }
    Ok(Some(Message {
        id: text("id"),
        conversation_id: text("conversationId"),
        seq: text("seq").parse()?,
        sender_id: text("senderId"),
        client_message_id: text("clientMessageId"),
        content: Some(contract::Content::Text(text("text"))),
        ..Message::default()
    }))
}

/// An answer that no server may give: never worth another try.
pub fn wrong(what: String) -> anyhow::Error {
    Status::data_loss(what).into()
}

/// A refusal by an HTTP status. Those that are the client's fault are judged as their gRPC statuses are.
fn refused(status: u16, what: &str) -> anyhow::Error {
    match status {
        429 | 500.. => anyhow!("{status}: {what}"),
        _ => Status::failed_precondition(format!("{status}: {what}")).into(),
    }
}
