//! `rialto.messaging.v1.ReceiptService`: how far members are, and who is writing.

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::model::{self, Conversation, DIRECT, Visible};
use super::service::MessagingService;
use super::wire as messaging_wire;
use crate::domains::users;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::wire;
use crate::proto::rialto::messaging::v1::receipt_service_server::ReceiptService as Contract;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;
use crate::proto::rialto::messaging::v1::{
    Receipt, SetTypingRequest, SetTypingResponse, SubscribeResponse, Typing, UpdateReceiptRequest,
    UpdateReceiptResponse,
};

impl MessagingService {
    async fn advance(&self, caller: &Caller, request: &UpdateReceiptRequest) -> Result<UpdateReceiptResponse, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let mut conn = self.app().db.get().await?;
        let (conversation, mut member) = Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        let moved = member.advance(&mut conn, request.delivered_seq, request.read_seq).await?;
        let row = [(conversation, member)];
        let unread_count = model::unread(&mut conn, &row, |row| self.kept_since(row)).await?.iter().sum();
        let [(conversation, member)] = row;
        if moved {
            self.heads().read(&member, unread_count).await;
        }
        if moved && reaches_others(&mut conn, caller, &conversation).await? {
            drop(conn);
            let receipt = Receipt {
                account_id: caller.account_id.to_string(),
                delivered_seq: member.delivered_seq,
                read_seq: member.read_seq,
            };
            self.tell(id, Event::Receipt(receipt)).await;
        }
        Ok(UpdateReceiptResponse { membership: Some(messaging_wire::membership(&member)), unread_count })
    }

    async fn write(&self, caller: &Caller, request: &SetTypingRequest) -> Result<(), Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let mut conn = self.app().db.get().await?;
        let (conversation, member) = Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        let now = self.app().clock.now();
        if let Some(until) = member.silenced_until.filter(|until| *until > now) {
            return Err(model::silenced(until, now));
        }
        if reaches_others(&mut conn, caller, &conversation).await? {
            drop(conn);
            let typing = Typing { account_id: caller.account_id.to_string(), typing: request.typing };
            self.tell(id, Event::Typing(typing)).await;
        }
        Ok(())
    }

    /// Tells the watchers of a conversation a value.
    async fn tell(&self, id: Uuid, value: Event) {
        self.sequences().tell_value(id, SubscribeResponse { seq: 0, event: Some(value) }).await;
    }
}

/// Whether the others in a conversation hear of the caller: not when it is of two, and one blocks the other.
async fn reaches_others(conn: &mut Conn, caller: &Caller, conversation: &Conversation) -> Result<bool, Error> {
    if conversation.kind != DIRECT {
        return Ok(true);
    }
    let members = Conversation::members(conn, &[conversation.id]).await?;
    let others: Vec<_> = members.into_iter().map(|(_, member)| member).filter(|id| *id != caller.account_id).collect();
    Ok(users::blocks_between(conn, caller.account_id, &others).await?.is_empty())
}

#[tonic::async_trait]
impl Contract for MessagingService {
    async fn update_receipt(
        &self,
        request: Request<UpdateReceiptRequest>,
    ) -> Result<Response<UpdateReceiptResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.advance(&caller, request.get_ref()).await?))
    }

    async fn set_typing(&self, request: Request<SetTypingRequest>) -> Result<Response<SetTypingResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.write(&caller, request.get_ref()).await?;
        Ok(Response::new(SetTypingResponse {}))
    }
}
