//! `rialto.messaging.v1.GroupService`: who is in a conversation, and what it is called.

use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncConnection;
use prost_types::FieldMask;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::changes::{Locked, News};
use super::model::{ADMIN, Conversation, DIRECT, JoinLink, MEMBER, Member, OWNER, Visible};
use super::service::MessagingService;
use super::wire as messaging_wire;
use crate::domains::users;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason, Violation};
use crate::kernel::trail::Target;
use crate::kernel::wire::{self, timestamp};
use crate::proto::rialto::messaging::v1::group_service_server::GroupService as Contract;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;
use crate::proto::rialto::messaging::v1::{
    self as contract, AddMembersRequest, AddMembersResponse, CreateJoinLinkRequest, CreateJoinLinkResponse,
    DeleteJoinLinkRequest, DeleteJoinLinkResponse, JoinConversationRequest, JoinConversationResponse,
    LeaveConversationRequest, LeaveConversationResponse, ListMembersRequest, ListMembersResponse, MemberRole,
    MembersChanged, Membership, RemoveMemberRequest, RemoveMemberResponse, UpdateConversationRequest,
    UpdateConversationResponse, UpdateMemberRequest, UpdateMemberResponse, UpdateMembershipRequest,
    UpdateMembershipResponse,
};

/// Members of a group.
pub const MEMBERS: usize = 256;
/// How long a link is good unless it is said.
const LINK_LIFETIME: i32 = 7 * 24 * 3600;
const SHORTEST_LINK: i32 = 60;
/// The shortest time after which messages disappear.
const SHORTEST_STAY: i32 = 5;

/// How much a role may do.
fn rank(role: &str) -> u8 {
    match role {
        OWNER => 2,
        ADMIN => 1,
        _ => 0,
    }
}

impl Locked {
    /// Refuses conversations of two, and members who may not manage the group.
    fn require_manager(&self) -> Result<(), Error> {
        if self.conversation.kind == DIRECT {
            return Err(Error::new(Reason::ResourceConflict, "the members of a conversation of two stay"));
        }
        if self.member.role == MEMBER {
            let message = "this needs to be an owner or administrator of the group";
            return Err(Error::new(Reason::InsufficientPermissions, message));
        }
        Ok(())
    }

    /// Refuses who is not more than somebody.
    fn require_above(&self, other: &Member) -> Result<(), Error> {
        if rank(&self.member.role) > rank(&other.role) {
            return Ok(());
        }
        Err(Error::new(Reason::InsufficientPermissions, "this needs a higher role in the group than the member has"))
    }
}

fn no_member() -> Error {
    Error::not_found("member")
}

/// A change that the caller has made.
fn changed(caller: &Caller, change: MembersChanged) -> Event {
    Event::Members(MembersChanged { changed_by: caller.account_id.to_string(), ..change })
}

/// The accounts that come.
fn joined(members: &[Member]) -> MembersChanged {
    MembersChanged { joined: members.iter().map(messaging_wire::member).collect(), ..Default::default() }
}

/// The fields that a mask names out of these; without a mask, or with `*`, all. Those that only the server sets may be named,
/// so that what was read can be sent back, and are left out.
fn named<'a>(mask: Option<&FieldMask>, fields: &[&'a str], output_only: &[&str]) -> Result<Vec<&'a str>, Error> {
    let Some(mask) = mask.filter(|mask| !mask.paths.iter().any(|path| path == "*")) else { return Ok(fields.to_vec()) };
    let find = |path: &String| fields.iter().copied().find(|field| field == path);
    let unknown = || Error::invalid_field("update_mask", "names a field that there is not");
    let theirs = mask.paths.iter().filter(|path| !output_only.contains(&path.as_str()));
    theirs.map(|path| find(path).ok_or_else(unknown)).collect()
}

impl MessagingService {
    async fn update(
        &self,
        caller: &Caller,
        request: UpdateConversationRequest,
    ) -> Result<contract::Conversation, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let mut new = request.conversation.unwrap_or_default();
        let fields = ["title", "avatar_url", "disappear_after_seconds", "retention_days"];
        let fields = named(request.update_mask.as_ref(), &fields, &[])?;
        if fields.contains(&"title") {
            new.title = messaging_wire::title("conversation.title", &new.title)?;
        }
        if fields.contains(&"avatar_url") {
            users::avatar_url(&new.avatar_url).map_err(|what| Error::invalid_field("conversation.avatar_url", what))?;
        }
        if fields.contains(&"disappear_after_seconds") && (1..SHORTEST_STAY).contains(&new.disappear_after_seconds) {
            let description = format!("must be 0 or at least {SHORTEST_STAY}");
            return Err(Error::invalid_field("conversation.disappear_after_seconds", description));
        }
        let now = self.app().clock.now();
        self.change(caller, id, async |conn, locked: Locked| {
            let group_alone = fields.iter().any(|field| matches!(*field, "title" | "avatar_url"));
            if group_alone || locked.conversation.kind != DIRECT {
                locked.require_manager()?;
            } else {
                locked.require_may_write(conn, now).await?;
            }
            let mut row = locked.conversation.clone();
            for field in &fields {
                match *field {
                    "title" => row.title.clone_from(&new.title),
                    "avatar_url" => row.avatar_url.clone_from(&new.avatar_url),
                    "retention_days" => row.retention_days = Some(new.retention_days).filter(|days| *days > 0),
                    _ => row.disappear_seconds = Some(new.disappear_after_seconds).filter(|seconds| *seconds > 0),
                }
            }
            if row == locked.conversation {
                return Ok(((), None));
            }
            row.store_settings(conn).await?;
            let members = Conversation::members(conn, &[id]).await?.into_iter().map(|(_, member)| member);
            Ok(((), Some(Event::Conversation(messaging_wire::conversation(&row, members)))))
        })
        .await?;
        self.one(&mut *self.app().db.get().await?, caller, id).await
    }

    async fn add(&self, caller: &Caller, request: AddMembersRequest) -> Result<Vec<Member>, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let accounts = wire::ids("account_ids", &request.account_ids)?;
        let now = self.app().clock.now();
        self.change(caller, id, async |conn, locked: Locked| {
            locked.require_manager()?;
            let contacts = Conversation::contacts(conn, caller.account_id, &accounts).await?;
            let allowed = users::may_message(conn, caller.account_id, &accounts, &contacts).await?;
            let there: Vec<_> = Member::all(conn, id).await?;
            let is_there = |account: &Uuid| there.iter().any(|member| member.account_id == *account);
            let refused = accounts.iter().enumerate().filter(|(index, account)| !allowed[*index] && !is_there(account));
            let violation = |(index, _)| Violation {
                field: format!("account_ids[{index}]"),
                description: "there is no such account, or it takes no messages from you".into(),
            };
            let refused: Vec<_> = refused.map(violation).collect();
            if !refused.is_empty() {
                return Err(Error::invalid(refused));
            }
            let mut new: Vec<_> = accounts.iter().copied().filter(|account| !is_there(account)).collect();
            new.sort_unstable();
            new.dedup();
            if there.len() + new.len() > MEMBERS {
                return Err(full());
            }
            let added = Member::add(conn, &locked.conversation, &new, now).await?;
            let event = (!added.is_empty()).then(|| changed(caller, joined(&added)));
            let named = there.into_iter().chain(added).filter(|member| accounts.contains(&member.account_id));
            Ok((named.collect(), event))
        })
        .await
    }

    async fn change_member(&self, caller: &Caller, request: UpdateMemberRequest) -> Result<Member, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let account = wire::id("account_id", &request.account_id)?;
        let silenced_until = request.silenced_until.map(|at| wire::time("silenced_until", at)).transpose()?;
        caller.trail.about(Target::Account(account));
        self.change(caller, id, async |conn, locked: Locked| {
            locked.require_manager()?;
            let before = Member::of(conn, id, account).await?.ok_or_else(no_member)?;
            let mut after = before.clone();
            if let Some(until) = silenced_until {
                locked.require_above(&before)?;
                after.silenced_until = Some(until);
            }
            let role = match request.role() {
                MemberRole::Unspecified => before.role.as_str(),
                MemberRole::Member => MEMBER,
                MemberRole::Admin => ADMIN,
                MemberRole::Owner => OWNER,
            };
            if role != before.role {
                if locked.member.role != OWNER {
                    return Err(Error::new(Reason::InsufficientPermissions, "roles are given by owners of the group"));
                }
                if before.role == OWNER && !Member::has_other_owner(conn, id, account).await? {
                    return Err(Error::new(Reason::ResourceConflict, "a group has one owner at least"));
                }
                after.role = role.to_owned();
            }
            if after == before {
                return Ok((before, None));
            }
            after.store(conn).await?;
            let change = MembersChanged { changed: vec![messaging_wire::member(&after)], ..Default::default() };
            Ok((after, Some(changed(caller, change))))
        })
        .await
    }

    async fn remove(&self, caller: &Caller, request: RemoveMemberRequest) -> Result<(), Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let account = wire::id("account_id", &request.account_id)?;
        caller.trail.about(Target::Account(account));
        if account == caller.account_id {
            return self.leave(caller, id).await;
        }
        let now = self.app().clock.now();
        self.change(caller, id, async |conn, locked: Locked| {
            locked.require_manager()?;
            // Removing once more changes nothing.
            let Some(member) = Member::of(conn, id, account).await? else { return Ok(((), None)) };
            locked.require_above(&member)?;
            member.leave(conn, now).await?;
            let change = MembersChanged { left: vec![account.to_string()], ..Default::default() };
            Ok(((), Some(changed(caller, change))))
        })
        .await
    }

    async fn leave(&self, caller: &Caller, id: Uuid) -> Result<(), Error> {
        let now = self.app().clock.now();
        self.change(caller, id, async |conn, locked: Locked| {
            if locked.conversation.kind == DIRECT {
                return Err(Error::new(Reason::ResourceConflict, "the members of a conversation of two stay"));
            }
            locked.member.leave(conn, now).await?;
            let heir = if locked.member.role == OWNER { Member::make_owner(conn, id).await? } else { None };
            let change = MembersChanged {
                changed: heir.iter().map(messaging_wire::member).collect(),
                left: vec![caller.account_id.to_string()],
                ..Default::default()
            };
            Ok(((), Some(changed(caller, change))))
        })
        .await
    }

    async fn create_link(
        &self,
        caller: &Caller,
        request: CreateJoinLinkRequest,
    ) -> Result<(String, DateTime<Utc>), Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let seconds = if request.valid_seconds == 0 { LINK_LIFETIME } else { request.valid_seconds };
        if seconds < SHORTEST_LINK {
            return Err(Error::invalid_field("valid_seconds", format!("must be 0 or at least {SHORTEST_LINK}")));
        }
        let token = self.app().rng.token()?;
        let expires_at = self.app().clock.now() + Duration::seconds(i64::from(seconds));
        let uses = Some(request.max_uses).filter(|uses| *uses > 0);
        self.change(caller, id, async |conn, locked: Locked| {
            locked.require_manager()?;
            JoinLink::replace(conn, id, &token, expires_at, uses).await?;
            Ok(((), None))
        })
        .await?;
        Ok((token, expires_at))
    }

    async fn join(&self, caller: &Caller, token: &str) -> Result<contract::Conversation, Error> {
        let now = self.app().clock.now();
        let mut conn = self.writer(now).await?;
        let void = || Error::not_found("join link");
        let id = JoinLink::conversation(&mut conn, token, now).await?.ok_or_else(void)?;
        let news = conn
            .transaction(async |conn| {
                Conversation::lock(conn, id).await?;
                let conversation = Conversation::by_id(conn, id).await?.ok_or_else(void)?;
                let there = Member::all(conn, id).await?;
                if there.iter().any(|member| member.account_id == caller.account_id) {
                    return Ok(None);
                }
                // Whoever comes is no owner, and nobody is left who could make one.
                if there.is_empty() {
                    return Err(void());
                }
                let owners: Vec<_> =
                    there.iter().filter(|member| member.role == OWNER).map(|it| it.account_id).collect();
                let blocked = users::blocks_between(conn, caller.account_id, &owners).await?;
                if !blocked.is_empty() || !JoinLink::spend(conn, id, token, now).await? {
                    return Err(void());
                }
                if there.len() >= MEMBERS {
                    return Err(full());
                }
                let added = Member::add(conn, &conversation, &[caller.account_id], now).await?;
                News::append(conn, id, changed(caller, joined(&added)), now).await.map(Some)
            })
            .await?;
        if let Some(news) = news {
            self.announce(news).await;
        }
        self.one(&mut conn, caller, id).await
    }

    async fn change_membership(&self, caller: &Caller, request: UpdateMembershipRequest) -> Result<Membership, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let output_only = ["role", "delivered_seq", "read_seq"];
        let fields = named(request.update_mask.as_ref(), &["muted_until", "archived", "pinned"], &output_only)?;
        let now = self.app().clock.now();
        let mut conn = self.app().db.get().await?;
        let (_, mut member) = Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        let new = request.membership.unwrap_or_default();
        for field in fields {
            match field {
                "muted_until" => {
                    member.muted_until =
                        new.muted_until.map(|at| wire::time("membership.muted_until", at)).transpose()?;
                }
                "archived" => member.archived = new.archived,
                _ => member.pinned_at = new.pinned.then(|| member.pinned_at.unwrap_or(now)),
            }
        }
        member.store_settings(&mut conn).await?;
        Ok(messaging_wire::membership(&member))
    }

    async fn members_of(&self, caller: &Caller, id: Uuid) -> Result<Vec<Member>, Error> {
        let mut conn = self.app().db.get().await?;
        Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        Member::all(&mut conn, id).await
    }
}

fn full() -> Error {
    Error::new(Reason::ResourceConflict, format!("a group has at most {MEMBERS} members"))
}

#[tonic::async_trait]
impl Contract for MessagingService {
    async fn update_conversation(
        &self,
        request: Request<UpdateConversationRequest>,
    ) -> Result<Response<UpdateConversationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let conversation = self.update(&caller, request.into_inner()).await?;
        Ok(Response::new(UpdateConversationResponse { conversation: Some(conversation) }))
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("conversation_id", &request.get_ref().conversation_id)?;
        let members = self.members_of(&caller, id).await?;
        Ok(Response::new(ListMembersResponse { members: members.iter().map(messaging_wire::member).collect() }))
    }

    async fn add_members(&self, request: Request<AddMembersRequest>) -> Result<Response<AddMembersResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let members = self.add(&caller, request.into_inner()).await?;
        Ok(Response::new(AddMembersResponse { members: members.iter().map(messaging_wire::member).collect() }))
    }

    async fn update_member(
        &self,
        request: Request<UpdateMemberRequest>,
    ) -> Result<Response<UpdateMemberResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let member = self.change_member(&caller, request.into_inner()).await?;
        Ok(Response::new(UpdateMemberResponse { member: Some(messaging_wire::member(&member)) }))
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.remove(&caller, request.into_inner()).await?;
        Ok(Response::new(RemoveMemberResponse {}))
    }

    async fn leave_conversation(
        &self,
        request: Request<LeaveConversationRequest>,
    ) -> Result<Response<LeaveConversationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.leave(&caller, wire::id("conversation_id", &request.get_ref().conversation_id)?).await?;
        Ok(Response::new(LeaveConversationResponse {}))
    }

    async fn create_join_link(
        &self,
        request: Request<CreateJoinLinkRequest>,
    ) -> Result<Response<CreateJoinLinkResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let (token, expires_at) = self.create_link(&caller, request.into_inner()).await?;
        Ok(Response::new(CreateJoinLinkResponse { token, expires_at: Some(timestamp(expires_at)) }))
    }

    async fn delete_join_link(
        &self,
        request: Request<DeleteJoinLinkRequest>,
    ) -> Result<Response<DeleteJoinLinkResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("conversation_id", &request.get_ref().conversation_id)?;
        self.change(&caller, id, async |conn, locked: Locked| {
            locked.require_manager()?;
            JoinLink::delete(conn, id).await?;
            Ok(((), None))
        })
        .await?;
        Ok(Response::new(DeleteJoinLinkResponse {}))
    }

    async fn join_conversation(
        &self,
        request: Request<JoinConversationRequest>,
    ) -> Result<Response<JoinConversationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let conversation = self.join(&caller, &request.get_ref().token).await?;
        Ok(Response::new(JoinConversationResponse { conversation: Some(conversation) }))
    }

    async fn update_membership(
        &self,
        request: Request<UpdateMembershipRequest>,
    ) -> Result<Response<UpdateMembershipResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let membership = self.change_membership(&caller, request.into_inner()).await?;
        Ok(Response::new(UpdateMembershipResponse { membership: Some(membership) }))
    }
}
