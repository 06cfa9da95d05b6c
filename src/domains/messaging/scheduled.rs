//! `rialto.messaging.v1.ScheduledMessageService`: messages that are sent later.
//!
//! A job sends each when it is due, in the transaction that deletes it, so that it is sent once, however often the job runs.

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection;
use prost::Message as _;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::heads;
use super::model::{self, Content, NewMessage, ScheduledMessage, Visible, partitions};
use super::service::MessagingService;
use super::wire as messaging_wire;
use crate::domains::auth;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::jobs::{self, Failure, Handlers, Job, NewJob};
use crate::kernel::pages;
use crate::kernel::sequence;
use crate::kernel::wire::{self, timestamp};
use crate::proto::rialto::messaging::v1::scheduled_message_service_server::ScheduledMessageService as Contract;
use crate::proto::rialto::messaging::v1::{
    self as contract, CancelScheduledMessageRequest, CancelScheduledMessageResponse, ListScheduledMessagesRequest,
    ListScheduledMessagesResponse, MessageDetails, ScheduleMessageRequest, ScheduleMessageResponse, SubscribeResponse,
    UpdateScheduledMessageRequest, UpdateScheduledMessageResponse,
};

const JOB: &str = "messaging.scheduled";
/// The kind of page tokens.
const SCHEDULED: u8 = 6;
/// Messages of an account that wait.
const WAITING: i64 = 100;
/// How far ahead a message is scheduled.
const AHEAD: TimeDelta = TimeDelta::days(365);
/// How long it is shown that a message was refused.
const REFUSED_KEPT: TimeDelta = TimeDelta::days(30);

/// Adds the handler of the job that sends a message.
pub fn handlers(handlers: Handlers) -> Handlers {
    handlers.handle(JOB, |app, job: Job<Uuid>| async move { Ok::<_, Failure>(send(&app, job.payload).await?) })
}

/// Forgets messages that were refused long ago; returns how many.
pub async fn delete_refused(app: &App) -> Result<usize, Error> {
    ScheduledMessage::delete_refused(&mut *app.db.get().await?, app.clock.now() - REFUSED_KEPT).await
}

/// Sends a message that is due, or notes why it can't be sent.
async fn send(app: &App, id: Uuid) -> Result<(), Error> {
    let (now, rng) = (app.clock.now(), app.rng);
    let mut conn = app.db.get().await?;
    partitions::create(&mut conn, now, partitions::days(app.config.messaging.retention_days)).await?;
    let sent = conn
        .transaction(async |conn| {
            // It was sent, cancelled, refused or put off.
            let Some(due) = ScheduledMessage::lock(conn, id).await? else { return Ok(None) };
            if due.send_at > now || due.refused_at.is_some() {
                return Ok(None);
            }
            if !auth::role_of(conn, due.account_id).await?.is_some_and(|(_, active)| active) {
                return due.refuse(conn, Reason::AccountNotActive, now).await.map(|()| None);
            }
            let encrypted =
                model::Conversation::by_id(conn, due.conversation_id).await?.is_some_and(|row| row.encrypted);
            if encrypted {
                return due.refuse(conn, Reason::ResourceConflict, now).await.map(|()| None);
            }
            let new = NewMessage {
                id: rng.id(now)?,
                conversation_id: due.conversation_id,
                sender_id: due.account_id,
                client_message_id: format!("scheduled:{id}"),
                content: Content::Text(due.text.clone()),
                details: due.details.clone(),
            };
            let answers = NewMessage::insert_batch(conn, std::slice::from_ref(&new), now).await?;
            match answers.into_iter().next() {
                Some(Ok(message)) => {
                    ScheduledMessage::delete(conn, id, due.account_id).await?;
                    Ok(Some(message))
                }
                Some(Err(refusal)) => due.refuse(conn, refusal.reason, now).await.map(|()| None),
                None => Err(Error::new(Reason::Internal, "a batch of one message has no answer")),
            }
        })
        .await?;
    drop(conn);
    if let Some(message) = sent {
        let event = SubscribeResponse::from(&message);
        sequence::tell_servers(&app.bus, message.conversation_id, &event).await;
        heads::tell_servers(&app.bus, [(message.conversation_id, message.seq)]).await;
    }
    Ok(())
}

impl MessagingService {
    /// A time at which something can be sent.
    fn send_at(&self, at: Option<prost_types::Timestamp>) -> Result<DateTime<Utc>, Error> {
        let now = self.app().clock.now();
        let at = at.and_then(|at| DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?));
        at.filter(|at| *at > now && *at <= now + AHEAD)
            .and_then(|at| DateTime::from_timestamp_micros(at.timestamp_micros()))
            .ok_or_else(|| Error::invalid_field("send_at", "must be later than now, and at most 365 days later"))
    }

    async fn schedule(
        &self,
        caller: &Caller,
        request: ScheduleMessageRequest,
    ) -> Result<contract::ScheduledMessage, Error> {
        let (app, now) = (self.app(), self.app().clock.now());
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let mut conn = app.db.get().await?;
        let (conversation, _) = model::Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        if conversation.encrypted {
            return Err(Error::new(Reason::ResourceConflict, "an encrypted conversation takes ciphertext alone"));
        }
        let details = request.details.map(messaging_wire::sent_details).transpose()?;
        let details = details.map(|details| details.encode_to_vec());
        let row = ScheduledMessage {
            id: app.rng.id(now)?,
            account_id: caller.account_id,
            conversation_id: id,
            text: request.text,
            details: details.filter(|details| !details.is_empty()),
            send_at: self.send_at(request.send_at)?,
            created_at: now,
            refused_reason: None,
            refused_at: None,
        };
        conn.transaction(async |conn| {
            require_room(conn, caller.account_id).await?;
            row.insert(conn).await?;
            job(app, &row)?.enqueue(conn).await
        })
        .await?;
        Ok((&row).into())
    }

    async fn update_scheduled(
        &self,
        caller: &Caller,
        request: UpdateScheduledMessageRequest,
    ) -> Result<contract::ScheduledMessage, Error> {
        let id = wire::id("scheduled_message_id", &request.scheduled_message_id)?;
        let send_at = request.send_at.map(|at| self.send_at(Some(at))).transpose()?;
        let app = self.app();
        let mut conn = app.db.get().await?;
        let row = conn
            .transaction(async |conn| {
                let row = ScheduledMessage::lock(conn, id).await?;
                let mut row = row.filter(|row| row.account_id == caller.account_id).ok_or_else(no_message)?;
                row.text = request.text.unwrap_or(row.text);
                if let Some(at) = send_at {
                    if row.refused_at.is_some() {
                        require_room(conn, caller.account_id).await?;
                    }
                    (row.send_at, row.refused_reason, row.refused_at) = (at, None, None);
                    // If that runs already, it waits for this, and finds that the message is not due.
                    jobs::cancel(conn, JOB, &row.id.to_string()).await?;
                    job(app, &row)?.enqueue(conn).await?;
                }
                row.store(conn).await?;
                Ok::<_, Error>(row)
            })
            .await?;
        Ok((&row).into())
    }

    async fn list_scheduled(
        &self,
        caller: &Caller,
        request: &ListScheduledMessagesRequest,
    ) -> Result<ListScheduledMessagesResponse, Error> {
        let after = pages::by_time(SCHEDULED, &request.page_token)?;
        let size = pages::size(request.page_size);
        let mut conn = self.app().db.get().await?;
        let mut rows = ScheduledMessage::list(&mut conn, caller.account_id, after, size + 1).await?;
        let next_page_token = pages::cut(&mut rows, size, SCHEDULED, |last| pages::time_key(last.send_at, last.id));
        let scheduled_messages = rows.iter().map(contract::ScheduledMessage::from).collect();
        Ok(ListScheduledMessagesResponse { scheduled_messages, next_page_token })
    }
}

/// What sends a message when it is due.
fn job(app: &App, row: &ScheduledMessage) -> Result<NewJob, Error> {
    Ok(NewJob::new(app, JOB, &row.id)?.at(row.send_at).unique(row.id.to_string()))
}

/// Refuses one more message that waits than an account may have.
async fn require_room(conn: &mut crate::kernel::db::Conn, account_id: Uuid) -> Result<(), Error> {
    if ScheduledMessage::count_waiting(conn, account_id).await? < WAITING {
        return Ok(());
    }
    let message = format!("{WAITING} messages wait already; cancel one, or wait until one was sent");
    Err(Error::new(Reason::ScheduleLimitReached, message))
}

fn no_message() -> Error {
    Error::not_found("scheduled message")
}

impl From<&ScheduledMessage> for contract::ScheduledMessage {
    fn from(row: &ScheduledMessage) -> Self {
        Self {
            id: row.id.to_string(),
            conversation_id: row.conversation_id.to_string(),
            text: row.text.clone(),
            // Written by this server; what it can't read it does not show.
            details: row.details.as_deref().and_then(|details| MessageDetails::decode(details).ok()),
            send_at: Some(timestamp(row.send_at)),
            created_at: Some(timestamp(row.created_at)),
            refused_reason: row.refused_reason.unwrap_or_default(),
            refused_at: row.refused_at.map(timestamp),
        }
    }
}

#[tonic::async_trait]
impl Contract for MessagingService {
    async fn schedule_message(
        &self,
        request: Request<ScheduleMessageRequest>,
    ) -> Result<Response<ScheduleMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let scheduled = self.schedule(&caller, request.into_inner()).await?;
        Ok(Response::new(ScheduleMessageResponse { scheduled_message: Some(scheduled) }))
    }

    async fn list_scheduled_messages(
        &self,
        request: Request<ListScheduledMessagesRequest>,
    ) -> Result<Response<ListScheduledMessagesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.list_scheduled(&caller, request.get_ref()).await?))
    }

    async fn update_scheduled_message(
        &self,
        request: Request<UpdateScheduledMessageRequest>,
    ) -> Result<Response<UpdateScheduledMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let scheduled = self.update_scheduled(&caller, request.into_inner()).await?;
        Ok(Response::new(UpdateScheduledMessageResponse { scheduled_message: Some(scheduled) }))
    }

    async fn cancel_scheduled_message(
        &self,
        request: Request<CancelScheduledMessageRequest>,
    ) -> Result<Response<CancelScheduledMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("scheduled_message_id", &request.get_ref().scheduled_message_id)?;
        let mut conn = self.app().db.get().await.map_err(Status::from)?;
        let cancelled = conn.transaction(async |conn| {
            if !ScheduledMessage::delete(conn, id, caller.account_id).await? {
                return Err(no_message());
            }
            jobs::cancel(conn, JOB, &id.to_string()).await
        });
        cancelled.await?;
        Ok(Response::new(CancelScheduledMessageResponse {}))
    }
}
