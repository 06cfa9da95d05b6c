//! The two ways to send: a call for each message, or a command for each on a two-way stream.

use anyhow::Result;
use rialto::proto::rialto::messaging::v1::connect_request::Command;
use rialto::proto::rialto::messaging::v1::connect_response::Response;
use rialto::proto::rialto::messaging::v1::messaging_service_client::MessagingServiceClient;
use rialto::proto::rialto::messaging::v1::{
    ConnectRequest, ConnectResponse, Message, SendMessageRequest, SendMessageResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::cable::Cable;
use crate::world::{Account, World, endpoint};

/// How somebody sends.
pub enum Outbox {
    /// On a connection to each node, which is made again when it ends.
    Calls(Vec<Channel>),
    /// On one stream at a time.
    Commands(Option<Box<Commands>>),
}

/// A two-way stream to a node.
pub struct Commands {
    node: usize,
    requests: mpsc::Sender<ConnectRequest>,
    responses: Streaming<ConnectResponse>,
    last: i64,
}

impl Outbox {
    /// One that makes calls.
    pub fn calls(world: &World) -> Result<Self> {
        let channels = world.cables.iter().map(|cable| Ok(endpoint(cable)?.connect_lazy()));
        Ok(Self::Calls(channels.collect::<Result<_>>()?))
    }

    /// Sends a message to a node, and waits until it is acknowledged.
    pub async fn send(
        &mut self,
        world: &World,
        account: &Account,
        node: usize,
        request: SendMessageRequest,
    ) -> Result<Message, Status> {
        let response = match self {
            Self::Calls(channels) => {
                let mut client = MessagingServiceClient::new(channels[node].clone());
                client.send_message(account.request(request)).await?.into_inner()
            }
            Self::Commands(open) => {
                // One that failed, was not waited for, or leads elsewhere is not used again.
                let mut commands = match open.take().filter(|commands| commands.node == node) {
                    Some(commands) => commands,
                    None => Box::new(Commands::open(&world.cables[node], account, node).await?),
                };
                let response = commands.send(request).await?;
                *open = Some(commands);
                response
            }
        };
        response.message.ok_or_else(|| Status::data_loss("acknowledged without a message"))
    }
}

impl Commands {
    async fn open(cable: &Cable, account: &Account, node: usize) -> Result<Self, Status> {
        let endpoint = endpoint(cable).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (requests, waiting) = mpsc::channel(1);
        let request = account.request(ReceiverStream::new(waiting));
        let responses = MessagingServiceClient::new(channel).connect(request).await?.into_inner();
        Ok(Self { node, requests, responses, last: 0 })
    }

    async fn send(&mut self, request: SendMessageRequest) -> Result<SendMessageResponse, Status> {
        self.last += 1;
        let command = ConnectRequest { command_id: self.last, command: Some(Command::Send(request)) };
        let ended = || Status::unavailable("the stream ended");
        self.requests.send(command).await.map_err(|_| ended())?;
        let ConnectResponse { command_id, response } = self.responses.message().await?.ok_or_else(ended)?;
        match response {
            Some(Response::Sent(sent)) if command_id == self.last => Ok(sent),
            Some(Response::Failed(failed)) if command_id == self.last => {
                Err(Status::new(failed.reason().info().grpc_code.into(), failed.message))
            }
            other => Err(Status::data_loss(format!("the answer to command {}: {command_id}, {other:?}", self.last))),
        }
    }
}
