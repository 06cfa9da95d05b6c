//! `rialto.roles.v1.RoleService`.

use std::sync::Arc;

use diesel_async::AsyncConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::change::{Change, live, require_custom, require_etag};
use super::directory::Roles;
use super::events;
use super::graph::{built_in, built_in_id};
use super::model::{self, Assignment, Contents, Role, Visible};
use super::{casl, wire as roles_wire};
use crate::domains::auth::{self, Sessions};
use crate::kernel::abilities::Abilities;
use crate::kernel::app::App;
use crate::kernel::caller::{Caller, lacking};
use crate::kernel::error::{Error, Reason};
use crate::kernel::security::{Event, Kind};
use crate::kernel::trail::Target;
use crate::kernel::{jobs, pages, wire};
use crate::proto::rialto::policy::v1::Role as BuiltIn;
use crate::proto::rialto::roles::v1::role_service_server::RoleService as Contract;
use crate::proto::rialto::roles::v1::{
    self as proto, AssignRoleRequest, AssignRoleResponse, CheckPermissionsRequest, CheckPermissionsResponse,
    CreateRoleRequest, CreateRoleResponse, DeleteRoleRequest, DeleteRoleResponse, GetMyAbilitiesRequest,
    GetMyAbilitiesResponse, GetRoleRequest, GetRoleResponse, ListAccountRolesRequest, ListAccountRolesResponse,
    ListRolesRequest, ListRolesResponse, UnassignRoleRequest, UnassignRoleResponse, UpdateRoleRequest,
    UpdateRoleResponse,
};

/// The kind of page tokens.
const ROLES: u8 = 24;
/// Roles that an account may have besides its built-in one.
const MAX_ASSIGNED: usize = 50;

/// The service.
#[derive(Clone)]
pub struct RoleService {
    app: App,
    roles: Arc<Roles>,
    sessions: Arc<Sessions>,
}

impl RoleService {
    /// The service on shared roles and sessions.
    pub fn new(app: App, roles: Arc<Roles>, sessions: Arc<Sessions>) -> Self {
        Self { app, roles, sessions }
    }

    async fn create(&self, caller: &Caller, request: CreateRoleRequest) -> Result<proto::Role, Error> {
        let contents = Contents {
            grants: roles_wire::grants("grants", request.grants)?,
            parents: roles_wire::parents("parent_ids", &request.parent_ids)?,
        };
        let now = self.app.clock.now();
        let role = Role {
            id: self.app.rng.id(now)?,
            name: request.name,
            description: request.description,
            built_in: false,
            created_by: Some(caller.account_id),
            created_at: now,
            updated_at: now,
            version: 1,
        };
        caller.trail.about(Target::Role(role.id));
        let mut conn = self.app.db.get().await?;
        let change = conn.transaction(async |conn| {
            let change = Change::begin(conn, &self.app, caller).await?;
            change.visible("roles:create")?;
            change.check("", &role, &contents)?;
            role.insert(conn, &contents).await?;
            Ok::<_, Error>(change)
        });
        let version = change.await?.version;
        drop(conn);
        caller.trail.changed(None, Some(role.noted(&contents)));
        self.roles.changed(version, None).await;
        Ok(roles_wire::role(&role, &contents))
    }

    async fn update(&self, caller: &Caller, request: UpdateRoleRequest) -> Result<proto::Role, Error> {
        let id = wire::id("role_id", &request.role_id)?;
        let new = request.role.unwrap_or_default();
        let mask = mask(request.update_mask)?;
        let masked = |field: &str| mask.as_ref().is_none_or(|mask| mask.iter().any(|path| path == field));
        let grants = roles_wire::grants("role.grants", new.grants)?;
        let parents = roles_wire::parents("role.parent_ids", &new.parent_ids)?;

        caller.trail.about(Target::Role(id));
        let mut conn = self.app.db.get().await?;
        let changed = conn.transaction(async |conn| {
            let change = Change::begin(conn, &self.app, caller).await?;
            let mut role = Role::find(conn, id, change.visible("roles:update")?).await?;
            require_custom(&role)?;
            require_etag(&role, &new.etag)?;
            change.require_roles(&[id])?;
            let mut contents = Role::contents(conn, std::slice::from_ref(&role)).await?.pop().unwrap_or_default();
            let before = role.noted(&contents);
            if masked("name") {
                role.name.clone_from(&new.name);
            }
            if masked("description") {
                role.description.clone_from(&new.description);
            }
            if masked("grants") {
                contents.grants.clone_from(&grants);
            }
            if masked("parent_ids") {
                contents.parents.clone_from(&parents);
            }
            change.check("role.", &role, &contents)?;
            role.version += 1;
            role.updated_at = change.now;
            role.update(conn, &contents).await?;
            events::enqueue_changed(&self.app, conn, &change.graph, id).await?;
            let noted = (Some(before), Some(role.noted(&contents)));
            Ok::<_, Error>((change.version, roles_wire::role(&role, &contents), noted))
        });
        let (version, role, (before, after)) = changed.await?;
        drop(conn);
        caller.trail.changed(before, after);
        self.app.security.record(Event::about(Kind::PrivilegeChanged, caller.account_id).detail("role updated"));
        self.roles.changed(version, None).await;
        jobs::wake(&self.app).await;
        Ok(role)
    }

    async fn delete(&self, caller: &Caller, request: DeleteRoleRequest) -> Result<(), Error> {
        let id = wire::id("role_id", &request.role_id)?;
        caller.trail.about(Target::Role(id));
        let mut conn = self.app.db.get().await?;
        let changed = conn.transaction(async |conn| {
            let change = Change::begin(conn, &self.app, caller).await?;
            let role = Role::find(conn, id, change.visible("roles:delete")?).await?;
            require_custom(&role)?;
            require_etag(&role, &request.etag)?;
            change.require_roles(&[id])?;
            let contents = Role::contents(conn, std::slice::from_ref(&role)).await?.pop().unwrap_or_default();
            events::enqueue_changed(&self.app, conn, &change.graph, id).await?;
            let told = events::deleted(conn, &role, change.now).await?;
            Role::delete(conn, id).await?;
            Ok::<_, Error>((change.version, role.noted(&contents), told))
        });
        let (version, before, told) = changed.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        caller.trail.changed(Some(before), None);
        self.app.security.record(Event::about(Kind::PrivilegeChanged, caller.account_id).detail("role deleted"));
        self.roles.changed(version, None).await;
        jobs::wake(&self.app).await;
        Ok(())
    }

    async fn get(&self, caller: &Caller, request: &GetRoleRequest) -> Result<proto::Role, Error> {
        let id = wire::id("role_id", &request.role_id)?;
        let mut conn = self.app.db.get().await?;
        let role = Role::find(&mut conn, id, readable(caller)?).await?;
        let contents = Role::contents(&mut conn, std::slice::from_ref(&role)).await?.pop().unwrap_or_default();
        Ok(roles_wire::role(&role, &contents))
    }

    async fn list(&self, caller: &Caller, request: &ListRolesRequest) -> Result<ListRolesResponse, Error> {
        let after = pages::key::<16>(ROLES, &request.page_token)?.map(Uuid::from_bytes);
        let size = pages::size(request.page_size);
        let mut conn = self.app.db.get().await?;
        let mut rows = Role::list(&mut conn, readable(caller)?, after, size + 1).await?;
        let next_page_token = pages::cut(&mut rows, size, ROLES, |last| *last.id.as_bytes());
        let contents = Role::contents(&mut conn, &rows).await?;
        let roles = rows.iter().zip(&contents).map(|(role, contents)| roles_wire::role(role, contents)).collect();
        Ok(ListRolesResponse { roles, next_page_token })
    }

    async fn assign(&self, caller: &Caller, request: AssignRoleRequest) -> Result<proto::Assignment, Error> {
        let account_id = wire::id("account_id", &request.account_id)?;
        let role_id = wire::id("role_id", &request.role_id)?;
        let expires_at = request.expires_at.map(|at| wire::time("expires_at", at)).transpose()?;
        caller.trail.about(Target::Account(account_id));
        let mut conn = self.app.db.get().await?;
        let changed = conn.transaction(async |conn| {
            let change = Change::begin(conn, &self.app, caller).await?;
            let role = Role::find(conn, role_id, change.visible("roles:assign")?).await?;
            change.require_roles(&[role_id])?;
            if expires_at.is_some_and(|at| at <= change.now) {
                return Err(Error::invalid_field("expires_at", "must be in the future"));
            }
            let current = auth::role_of(conn, account_id).await?.ok_or_else(|| Error::not_found("account"))?.0;
            let assignments = Assignment::of(conn, account_id).await?;
            let others = live(&assignments, change.now);
            if let Some(new) = built_in(role_id) {
                if expires_at.is_some() {
                    return Err(Error::invalid_field("expires_at", "a built-in role can't expire"));
                }
                // The one that the account loses.
                change.require_roles(&[built_in_id(current)])?;
                change.require_reach(account_id, current, &others)?;
                auth::set_role(conn, account_id, new, change.now).await?;
                let noted = (Some(model::noted_built_in(current)), Some(model::noted_built_in(new)));
                let told = events::assigned(conn, account_id, &role, None, change.now).await?;
                // A trigger has counted this change of the account too.
                let version = model::version(conn).await?;
                return Ok((version, roles_wire::built_in_assignment(account_id, new), noted, told));
            }
            change.require_reach(account_id, current, &others)?;
            if others.iter().filter(|other| **other != role_id).count() >= MAX_ASSIGNED {
                return Err(Error::new(Reason::InvalidInput, format!("an account has at most {MAX_ASSIGNED} roles")));
            }
            let assigned_by = Some(caller.account_id);
            let assignment = Assignment { account_id, role_id, assigned_by, assigned_at: change.now, expires_at };
            assignment.store(conn).await?;
            let before = assignments.iter().find(|before| before.role_id == role_id);
            let noted = (before.map(|before| before.noted(&role)), Some(assignment.noted(&role)));
            let told = events::assigned(conn, account_id, &role, expires_at, change.now).await?;
            Ok((change.version, proto::Assignment::from((&assignment, role.name.as_str())), noted, told))
        });
        let (version, assignment, (before, after), told) = changed.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        caller.trail.changed(before, after);
        self.tell(caller, version, account_id, role_id, "role assigned").await;
        Ok(assignment)
    }

    async fn unassign(&self, caller: &Caller, request: &UnassignRoleRequest) -> Result<(), Error> {
        let account_id = wire::id("account_id", &request.account_id)?;
        let role_id = wire::id("role_id", &request.role_id)?;
        caller.trail.about(Target::Account(account_id));
        let mut conn = self.app.db.get().await?;
        let changed = conn.transaction(async |conn| {
            let change = Change::begin(conn, &self.app, caller).await?;
            let role = Role::find(conn, role_id, change.visible("roles:assign")?).await?;
            change.require_roles(&[role_id])?;
            let has_none = || Error::not_found("assignment");
            let current = auth::role_of(conn, account_id).await?.ok_or_else(has_none)?.0;
            let assignments = Assignment::of(conn, account_id).await?;
            change.require_reach(account_id, current, &live(&assignments, change.now))?;
            let noted = match built_in(role_id) {
                Some(BuiltIn::User) => {
                    return Err(Error::new(Reason::RoleBuiltIn, "an account is a user at least"));
                }
                Some(lost) => {
                    if current != lost {
                        return Err(has_none());
                    }
                    auth::set_role(conn, account_id, BuiltIn::User, change.now).await?;
                    (Some(model::noted_built_in(lost)), Some(model::noted_built_in(BuiltIn::User)))
                }
                None => {
                    let lost = assignments.iter().find(|assignment| assignment.role_id == role_id);
                    let noted = (Some(lost.ok_or_else(has_none)?.noted(&role)), None);
                    Assignment::delete(conn, account_id, role_id).await?;
                    noted
                }
            };
            let told = events::unassigned(conn, account_id, &role, change.now).await?;
            Ok((model::version(conn).await?, noted, told))
        });
        let (version, (before, after), told) = changed.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        caller.trail.changed(before, after);
        self.tell(caller, version, account_id, role_id, "role unassigned").await;
        Ok(())
    }

    /// Tells every node that an account has or lost a role.
    async fn tell(&self, caller: &Caller, version: i64, account_id: Uuid, role_id: Uuid, what: &'static str) {
        let event = Event::about(Kind::PrivilegeChanged, account_id);
        self.app.security.record(event.by(caller.account_id).detail(what));
        self.roles.changed(version, Some(account_id)).await;
        if built_in(role_id).is_some() {
            // That one is part of what a session knows of its account.
            self.sessions.changed(account_id).await;
        }
    }

    async fn of_account(
        &self,
        caller: &Caller,
        request: &ListAccountRolesRequest,
    ) -> Result<Vec<proto::Assignment>, Error> {
        let account_id = wire::id("account_id", &request.account_id)?;
        let mut conn = self.app.db.get().await?;
        let (role, _) = auth::role_of(&mut conn, account_id).await?.ok_or_else(|| Error::not_found("account"))?;
        let now = self.app.clock.now();
        let mut others = Assignment::of(&mut conn, account_id).await?;
        others.retain(|assignment| assignment.is_live(now));
        let ids: Vec<_> = others.iter().map(|other| other.role_id).chain([built_in_id(role)]).collect();
        let visible = Role::among(&mut conn, &ids, readable(caller)?).await?;
        let assignment = |row: &Role| {
            let other = others.iter().find(|other| other.role_id == row.id);
            other.map_or_else(
                || roles_wire::built_in_assignment(account_id, role),
                |other| proto::Assignment::from((other, row.name.as_str())),
            )
        };
        Ok(visible.iter().map(assignment).collect())
    }

    async fn check(&self, caller: &Caller, account_id: Option<&str>) -> Result<Arc<Abilities>, Error> {
        let account_id = account_id.map(|id| wire::id("account_id", id)).transpose()?;
        let Some(account_id) = account_id.filter(|id| *id != caller.account_id) else {
            return Ok(Arc::clone(&caller.abilities));
        };
        // Abilities are made of roles that somebody else may have created: `own` does not go so far.
        if !caller.scope("roles:read")?.is_all() {
            return Err(lacking("roles:read"));
        }
        let role = auth::role_of(&mut *self.app.db.get().await?, account_id).await?;
        match role {
            Some((role, true)) => self.roles.abilities(account_id, role).await,
            _ => Ok(Abilities::built_in(BuiltIn::Unspecified)),
        }
    }
}

/// The roles that a caller may see.
fn readable(caller: &Caller) -> Result<Visible<'_>, Error> {
    Ok(Visible { caller_id: caller.account_id, scope: caller.scope("roles:read")? })
}

/// The fields that a mask names. What the server sets may be named too, and is not changed: a client that sends a role
/// back as it got it means no harm.
fn mask(mask: Option<prost_types::FieldMask>) -> Result<Option<Vec<String>>, Error> {
    const OURS: [&str; 4] = ["name", "description", "grants", "parent_ids"];
    const SERVERS: [&str; 6] = ["id", "built_in", "created_by", "created_at", "updated_at", "etag"];
    let unknown = |path: &&String| !OURS.contains(&path.as_str()) && !SERVERS.contains(&path.as_str());
    match mask.as_ref().and_then(|mask| mask.paths.iter().find(unknown)) {
        Some(unknown) => Err(Error::invalid_field("update_mask", format!("{unknown:?} is no field of a role"))),
        None => Ok(mask.map(|mask| mask.paths)),
    }
}

#[tonic::async_trait]
impl Contract for RoleService {
    async fn create_role(&self, request: Request<CreateRoleRequest>) -> Result<Response<CreateRoleResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let role = self.create(&caller, request.into_inner()).await?;
        Ok(Response::new(CreateRoleResponse { role: Some(role) }))
    }

    async fn get_role(&self, request: Request<GetRoleRequest>) -> Result<Response<GetRoleResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let role = self.get(&caller, request.get_ref()).await?;
        Ok(Response::new(GetRoleResponse { role: Some(role) }))
    }

    async fn update_role(&self, request: Request<UpdateRoleRequest>) -> Result<Response<UpdateRoleResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let role = self.update(&caller, request.into_inner()).await?;
        Ok(Response::new(UpdateRoleResponse { role: Some(role) }))
    }

    async fn delete_role(&self, request: Request<DeleteRoleRequest>) -> Result<Response<DeleteRoleResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.delete(&caller, request.into_inner()).await?;
        Ok(Response::new(DeleteRoleResponse {}))
    }

    async fn list_roles(&self, request: Request<ListRolesRequest>) -> Result<Response<ListRolesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.list(&caller, request.get_ref()).await?))
    }

    async fn assign_role(&self, request: Request<AssignRoleRequest>) -> Result<Response<AssignRoleResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let assignment = self.assign(&caller, request.into_inner()).await?;
        Ok(Response::new(AssignRoleResponse { assignment: Some(assignment) }))
    }

    async fn unassign_role(
        &self,
        request: Request<UnassignRoleRequest>,
    ) -> Result<Response<UnassignRoleResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.unassign(&caller, request.get_ref()).await?;
        Ok(Response::new(UnassignRoleResponse {}))
    }

    async fn list_account_roles(
        &self,
        request: Request<ListAccountRolesRequest>,
    ) -> Result<Response<ListAccountRolesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let assignments = self.of_account(&caller, request.get_ref()).await?;
        Ok(Response::new(ListAccountRolesResponse { assignments }))
    }

    async fn get_my_abilities(
        &self,
        request: Request<GetMyAbilitiesRequest>,
    ) -> Result<Response<GetMyAbilitiesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let rules = casl::pack(&caller.abilities, caller.account_id);
        Ok(Response::new(GetMyAbilitiesResponse { rules }))
    }

    async fn check_permissions(
        &self,
        request: Request<CheckPermissionsRequest>,
    ) -> Result<Response<CheckPermissionsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let abilities = self.check(&caller, request.account_id.as_deref()).await?;
        let checks = roles_wire::checks(&abilities, request.permissions);
        Ok(Response::new(CheckPermissionsResponse { checks }))
    }
}
