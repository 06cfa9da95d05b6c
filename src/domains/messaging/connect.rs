//! The two-way stream: commands in, answers and events out.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::committer::answer;
use super::live::Reader;
use super::service::MessagingService;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates::{Rate, Subject};
use crate::kernel::{policy, wire};
use crate::proto::rialto::messaging::v1::connect_request::Command;
use crate::proto::rialto::messaging::v1::connect_response::Response;
use crate::proto::rialto::messaging::v1::{
    CommandFailed, ConnectRequest, ConnectResponse, ConversationEvent, SendMessageRequest, SendMessageResponse,
    SubscribeRequest, Subscribed, Unsubscribe, Unsubscribed,
};

/// Conversations that one stream may watch.
const WATCHED: usize = 200;
/// Messages that one stream may have on their way to the database.
const UNANSWERED: usize = 64;

type Out = mpsc::Sender<Result<ConnectResponse, Status>>;

struct Connection {
    service: MessagingService,
    caller: Caller,
    out: Out,
    watched: HashMap<Uuid, AbortOnDropHandle<()>>,
    unanswered: Arc<Semaphore>,
    /// Answers that are due. Dropped with the stream, like the readers.
    tasks: JoinSet<()>,
}

/// Serves one stream until the client goes away.
pub async fn run(service: MessagingService, caller: Caller, mut commands: Streaming<ConnectRequest>, out: Out) {
    let unanswered = Arc::new(Semaphore::new(UNANSWERED));
    let tasks = JoinSet::new();
    let mut connection = Connection { service, caller, out, watched: HashMap::new(), unanswered, tasks };
    loop {
        tokio::select! {
            () = connection.out.closed() => return,
            // Takes finished tasks out of the set.
            Some(_) = connection.tasks.join_next() => {}
            command = commands.message() => match command {
                Ok(Some(command)) => connection.command(command).await,
                Ok(None) => break,
                Err(status) => {
                    let _ = connection.out.send(Err(status)).await;
                    return;
                }
            },
        }
    }
    // The client has said all it wanted. Answers are still due, and events of what it watches.
    let Connection { out, watched, mut tasks, .. } = connection;
    let answers = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = out.closed() => return,
        () = answers => {}
    }
    let readers = async {
        for reader in watched.into_values() {
            // It ends when the caller is no longer a member.
            let _ = reader.await;
        }
    };
    tokio::select! {
        () = out.closed() => {}
        () = readers => {}
    }
}

impl Connection {
    async fn command(&mut self, request: ConnectRequest) {
        let id = request.command_id;
        let result = match request.command {
            Some(Command::Subscribe(subscribe)) => self.subscribe(id, subscribe).await,
            Some(Command::Unsubscribe(unsubscribe)) => self.unsubscribe(id, unsubscribe).await,
            Some(Command::Send(send)) => self.send(id, send).await,
            None => Err(Error::invalid_field("command", "one of its fields must be set")),
        };
        if let Err(error) = result {
            respond(&self.out, id, failed(error)).await;
        }
    }

    async fn subscribe(&mut self, command_id: i64, request: SubscribeRequest) -> Result<(), Error> {
        let subject = Subject::Account(self.caller.account_id);
        self.service.app().rates.check(Rate::Default, subject).await?;
        let id = wire::id("conversation_id", &request.conversation_id)?;
        // Those that the caller is no longer a member of.
        self.watched.retain(|_, reader| !reader.is_finished());
        if self.watched.len() >= WATCHED && !self.watched.contains_key(&id) {
            let message = format!("a stream watches at most {WATCHED} conversations");
            return Err(Error::new(Reason::InvalidInput, message).at_field("conversation_id"));
        }
        let reader = self.service.reader(&self.caller, &request).await?;
        // Watching again from another place ends the first reader.
        self.stop_watching(id).await;
        let subscribed = Subscribed { conversation_id: id.to_string(), after_seq: reader.seq() };
        respond(&self.out, command_id, Response::Subscribed(subscribed)).await;
        let forward = tokio::spawn(forward(reader, id.to_string(), self.out.clone()));
        self.watched.insert(id, AbortOnDropHandle::new(forward));
        Ok(())
    }

    async fn unsubscribe(&mut self, command_id: i64, request: Unsubscribe) -> Result<(), Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        self.stop_watching(id).await;
        let unsubscribed = Unsubscribed { conversation_id: id.to_string() };
        respond(&self.out, command_id, Response::Unsubscribed(unsubscribed)).await;
        Ok(())
    }

    /// After this, no event of the conversation follows.
    async fn stop_watching(&mut self, id: Uuid) {
        if let Some(reader) = self.watched.remove(&id) {
            reader.abort();
            // It was aborted, or had ended by itself.
            let _ = reader.await;
        }
    }

    async fn send(&mut self, command_id: i64, request: SendMessageRequest) -> Result<(), Error> {
        policy::require(&self.caller, "messages:send")?;
        let subject = Subject::Account(self.caller.account_id);
        self.service.app().rates.check(Rate::Message, subject).await?;
        let new = self.service.new_message(&self.caller, request)?;
        let stopped = |_| Error::new(Reason::ServiceUnavailable, "the server stops");
        let permit = Arc::clone(&self.unanswered).acquire_owned().await.map_err(stopped)?;
        let answered = self.service.committer().submit(new)?;
        let out = self.out.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            let response = match answer(answered).await {
                Ok(message) => Response::Sent(SendMessageResponse { message: Some(message) }),
                Err(error) => failed(error),
            };
            respond(&out, command_id, response).await;
        });
        Ok(())
    }
}

/// Hands a conversation's events to the stream.
async fn forward(mut reader: Reader, conversation_id: String, out: Out) {
    loop {
        let events = match reader.next().await {
            Ok(events) => events,
            // It is no longer a member: the other conversations go on.
            Err(error) if error.reason == Reason::ResourceNotFound => {
                respond(&out, 0, Response::Unsubscribed(Unsubscribed { conversation_id })).await;
                return;
            }
            Err(error) => {
                let _ = out.send(Err(error.into())).await;
                return;
            }
        };
        for event in events {
            let event =
                ConversationEvent { conversation_id: conversation_id.clone(), event: Some(event.into_message()) };
            respond(&out, 0, Response::Event(event)).await;
        }
    }
}

/// Sends unless the client has gone, which the main loop notices.
async fn respond(out: &Out, command_id: i64, response: Response) {
    let _ = out.send(Ok(ConnectResponse { command_id, response: Some(response) })).await;
}

fn failed(error: Error) -> Response {
    let retry_after_ms = error.retry_after.map_or(0, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
    Response::Failed(CommandFailed {
        reason: error.reason.into(),
        message: error.message.to_string(),
        field: error.violations.first().map(|violation| violation.field.clone()).unwrap_or_default(),
        retry_after_ms,
        metadata: error.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    })
}
