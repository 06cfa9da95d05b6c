//! `rialto.users.v1.UserService`.

use std::sync::Arc;

use diesel_async::AsyncConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::edit::Edit;
use super::handle;
use super::list::List;
use super::model::{Blocked, Profile, Viewer};
use crate::domains::auth::{self, Sessions, StateChange};
use crate::domains::privacy;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::kernel::trail::Target;
use crate::kernel::{pages, wire};
use crate::proto::rialto::users::v1::batch_result::Outcome;
use crate::proto::rialto::users::v1::get_user_request::Key;
use crate::proto::rialto::users::v1::user_service_server::UserService as Contract;
use crate::proto::rialto::users::v1::{
    BatchFailure, BatchResult, BatchReviewUsersRequest, BatchReviewUsersResponse, BatchSuspendUsersRequest,
    BatchSuspendUsersResponse, BlockUserRequest, BlockUserResponse, DeleteMeRequest, DeleteMeResponse,
    DeleteUserRequest, DeleteUserResponse, GetMeRequest, GetMeResponse, GetPublicProfileRequest,
    GetPublicProfileResponse, GetUserRequest, GetUserResponse, ListBlockedRequest, ListBlockedResponse,
    ListUsersRequest, ListUsersResponse, ReviewDecision, UnblockUserRequest, UnblockUserResponse, UpdateMeRequest,
    UpdateMeResponse, UpdateUserRequest, UpdateUserResponse, User,
};

/// The kind of the page tokens of blocks. Those of lists of users are in `list`.
const BLOCKS: u8 = 36;
const READ_PRIVATE: &str = "users:read-private";

/// The service.
pub struct UserService {
    app: App,
    sessions: Arc<Sessions>,
}

impl UserService {
    /// The service on shared sessions.
    pub fn new(app: App, sessions: Arc<Sessions>) -> Self {
        Self { app, sessions }
    }

    async fn update(&self, by: &Caller, id: Uuid, edit: Edit) -> Result<Profile, Error> {
        let now = self.app.clock.now();
        if by.account_id != id {
            by.trail.about(Target::Account(id));
        }
        let hides = edit.visibility.is_some() || edit.presence_to.is_some();
        let mut conn = self.app.db.get().await?;
        let updated = conn.transaction(async |conn| {
            auth::may_act_on(conn, by, id, now).await?;
            Profile::update(conn, id, edit, now).await
        });
        let updated = updated.await?;
        drop(conn);
        if hides {
            self.app.account_events.sight.changed(&[id], &[]).await;
        }
        Ok(updated)
    }

    async fn list(&self, caller: &Caller, request: &ListUsersRequest) -> Result<ListUsersResponse, Error> {
        let list = List::new(request)?;
        if list.is_private() {
            caller.scope(READ_PRIVATE)?;
        }
        let viewer = viewer(caller);
        let mut conn = self.app.db.get().await?;
        let (rows, next_page_token) = list.load(&mut conn, viewer).await?;
        let users = rows.iter().map(|row| shown(row, viewer)).collect();
        Ok(ListUsersResponse { users, next_page_token })
    }

    async fn block(&self, caller: &Caller, id: Uuid) -> Result<(), Error> {
        caller.trail.about(Target::Account(id));
        if id == caller.account_id {
            return Err(Error::invalid_field("user_id", "is the caller"));
        }
        let now = self.app.clock.now();
        Blocked::insert(&mut *self.app.db.get().await?, caller.account_id, id, now).await?;
        self.app.account_events.sight.changed(&[caller.account_id], &[id]).await;
        Ok(())
    }

    async fn unblock(&self, caller: &Caller, id: Uuid) -> Result<(), Error> {
        caller.trail.about(Target::Account(id));
        Blocked::delete(&mut *self.app.db.get().await?, caller.account_id, id).await?;
        self.app.account_events.sight.changed(&[caller.account_id], &[id]).await;
        Ok(())
    }

    async fn blocked(&self, caller: &Caller, request: &ListBlockedRequest) -> Result<ListBlockedResponse, Error> {
        let after = pages::by_time(BLOCKS, &request.page_token)?;
        let size = pages::size(request.page_size);
        let mut conn = self.app.db.get().await?;
        let mut rows = Blocked::list(&mut conn, caller.account_id, after, size + 1).await?;
        let key = |last: &Blocked| pages::time_key(last.created_at, last.id);
        let next_page_token = pages::cut(&mut rows, size, BLOCKS, key);
        Ok(ListBlockedResponse { blocked: rows.iter().map(Into::into).collect(), next_page_token })
    }

    async fn batch(
        &self,
        caller: &Caller,
        user_ids: &[String],
        change: StateChange<'_>,
    ) -> Result<Vec<BatchResult>, Error> {
        let mut ids = Vec::new();
        for (index, id) in user_ids.iter().enumerate() {
            let field = format!("user_ids[{index}]");
            let id = wire::id(&field, id)?;
            if ids.contains(&id) {
                return Err(Error::invalid_field(field, "is named twice"));
            }
            ids.push(id);
        }
        let mut results = Vec::new();
        for id in ids {
            let outcome = match self.change_one(caller, id, change).await {
                Ok(user) => Outcome::User(user),
                Err(error) => {
                    let reason = error.reason.into();
                    // Becoming a status logs a cause, where there is one.
                    let status = Status::from(error);
                    caller.trail.failed(status.code());
                    Outcome::Failure(BatchFailure { reason, message: status.message().to_owned() })
                }
            };
            results.push(BatchResult { user_id: id.to_string(), outcome: Some(outcome) });
        }
        Ok(results)
    }

    async fn change_one(&self, caller: &Caller, id: Uuid, change: StateChange<'_>) -> Result<User, Error> {
        auth::change_state(&self.app, &self.sessions, caller, id, change).await?;
        let mut conn = self.app.db.get().await?;
        // Who was just changed is seen by whoever changed it; what of it, is another question.
        let profile = Profile::by_id(&mut conn, Viewer { account_id: caller.account_id, private: true }, id).await?;
        Ok(shown(&profile, viewer(caller)))
    }
}

fn viewer(caller: &Caller) -> Viewer {
    Viewer { account_id: caller.account_id, private: caller.scope(READ_PRIVATE).is_ok() }
}

/// A profile with as much as the viewer may know.
fn shown(profile: &Profile, viewer: Viewer) -> User {
    profile.to_user(viewer.private || profile.id == viewer.account_id)
}

#[tonic::async_trait]
impl Contract for UserService {
    async fn get_me(&self, request: Request<GetMeRequest>) -> Result<Response<GetMeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let profile = Profile::by_id(&mut conn, viewer(&caller), caller.account_id).await?;
        Ok(Response::new(GetMeResponse { user: Some(profile.to_user(true)) }))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        let viewer = viewer(&Caller::of(request.extensions())?);
        let key = request.into_inner().key.ok_or_else(|| Error::invalid_field("key", "must be set"))?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let profile = match key {
            Key::UserId(id) => Profile::by_id(&mut conn, viewer, wire::id("user_id", &id)?).await?,
            Key::Handle(name) => Profile::by_handle(&mut conn, viewer, &handle::fold(&name)).await?,
        };
        Ok(Response::new(GetUserResponse { user: Some(shown(&profile, viewer)) }))
    }

    async fn get_public_profile(
        &self,
        request: Request<GetPublicProfileRequest>,
    ) -> Result<Response<GetPublicProfileResponse>, Status> {
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let profile = Profile::public(&mut conn, &handle::fold(&request.get_ref().handle)).await?;
        Ok(Response::new(GetPublicProfileResponse { profile: Some(profile.into()) }))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.list(&caller, request.get_ref()).await?))
    }

    async fn update_me(&self, request: Request<UpdateMeRequest>) -> Result<Response<UpdateMeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let UpdateMeRequest { user, update_mask } = request.into_inner();
        let profile =
            self.update(&caller, caller.account_id, Edit::new(user.unwrap_or_default(), update_mask)?).await?;
        Ok(Response::new(UpdateMeResponse { user: Some(profile.to_user(true)) }))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Result<Response<UpdateUserResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let UpdateUserRequest { user_id, user, update_mask } = request.into_inner();
        let profile = self
            .update(&caller, wire::id("user_id", &user_id)?, Edit::new(user.unwrap_or_default(), update_mask)?)
            .await?;
        Ok(Response::new(UpdateUserResponse { user: Some(shown(&profile, viewer(&caller))) }))
    }

    async fn delete_me(&self, request: Request<DeleteMeRequest>) -> Result<Response<DeleteMeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.sessions.require_recent_authentication(&caller).await?;
        let erase_at = privacy::delete_account(&self.app, &self.sessions, &caller, caller.account_id).await?;
        Ok(Response::new(DeleteMeResponse { erase_at: Some(wire::timestamp(erase_at)) }))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<DeleteUserResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("user_id", &request.get_ref().user_id)?;
        // As one's own: an administrator's is among those that can be named.
        self.sessions.require_recent_authentication(&caller).await?;
        let erase_at = privacy::delete_account(&self.app, &self.sessions, &caller, id).await?;
        Ok(Response::new(DeleteUserResponse { erase_at: Some(wire::timestamp(erase_at)) }))
    }

    async fn block_user(&self, request: Request<BlockUserRequest>) -> Result<Response<BlockUserResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.block(&caller, wire::id("user_id", &request.get_ref().user_id)?).await?;
        Ok(Response::new(BlockUserResponse {}))
    }

    async fn unblock_user(
        &self,
        request: Request<UnblockUserRequest>,
    ) -> Result<Response<UnblockUserResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.unblock(&caller, wire::id("user_id", &request.get_ref().user_id)?).await?;
        Ok(Response::new(UnblockUserResponse {}))
    }

    async fn list_blocked(
        &self,
        request: Request<ListBlockedRequest>,
    ) -> Result<Response<ListBlockedResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.blocked(&caller, request.get_ref()).await?))
    }

    async fn batch_review_users(
        &self,
        request: Request<BatchReviewUsersRequest>,
    ) -> Result<Response<BatchReviewUsersResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let change = match request.decision() {
            ReviewDecision::Approve => StateChange::Approve,
            ReviewDecision::Reject => StateChange::reject(&request.reason)?,
            ReviewDecision::Unspecified => {
                return Err(Error::invalid_field("decision", "must be one of the decisions").into());
            }
        };
        let results = self.batch(&caller, &request.user_ids, change).await?;
        Ok(Response::new(BatchReviewUsersResponse { results }))
    }

    async fn batch_suspend_users(
        &self,
        request: Request<BatchSuspendUsersRequest>,
    ) -> Result<Response<BatchSuspendUsersResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let change = if request.reinstate { StateChange::Reinstate } else { StateChange::Suspend };
        let results = self.batch(&caller, &request.user_ids, change).await?;
        Ok(Response::new(BatchSuspendUsersResponse { results }))
    }
}
