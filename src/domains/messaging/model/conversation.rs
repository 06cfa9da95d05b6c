//! Conversations and their members as they are stored.

use chrono::{DateTime, Utc};
use diesel::helper_types::InnerJoinQuerySource;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::reading::Advance;
use crate::kernel::abilities::{Condition, Predicate, Scope};
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::{conversation_members, conversations, direct_conversations};

/// A conversation.
#[derive(Clone, Debug, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = conversations, check_for_backend(Pg), treat_none_as_default_value = false)]
pub struct Conversation {
    pub id: Uuid,
    pub title: String,
    /// `None` when that account was erased.
    pub created_by: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub active_at: DateTime<Utc>,
    pub last_seq: i64,
    pub kind: String,
    pub avatar_url: String,
    pub encrypted: bool,
    pub disappear_seconds: Option<i32>,
    pub retention_days: Option<i32>,
    pub message_count: i64,
    pub last_message_seq: i64,
    pub last_message_at: Option<DateTime<Utc>>,
}

/// A member, or somebody who was one.
#[derive(Clone, Debug, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = conversation_members, check_for_backend(Pg), treat_none_as_default_value = false)]
pub struct Member {
    pub conversation_id: Uuid,
    pub account_id: Uuid,
    pub joined_at: DateTime<Utc>,
    pub role: String,
    pub left_at: Option<DateTime<Utc>>,
    pub silenced_until: Option<DateTime<Utc>>,
    pub muted_until: Option<DateTime<Utc>>,
    pub archived: bool,
    pub pinned_at: Option<DateTime<Utc>>,
    pub delivered_seq: i64,
    pub read_seq: i64,
    pub read_count: i64,
}

/// What `conversations.kind` holds.
pub const DIRECT: &str = "direct";
pub const GROUP: &str = "group";

/// What `conversation_members.role` holds.
pub const OWNER: &str = "owner";
pub const ADMIN: &str = "admin";
pub const MEMBER: &str = "member";

impl Member {
    /// One who has just come.
    pub fn new(conversation_id: Uuid, account_id: Uuid, role: &str, now: DateTime<Utc>) -> Self {
        Self {
            conversation_id,
            account_id,
            joined_at: now,
            role: role.to_owned(),
            left_at: None,
            silenced_until: None,
            muted_until: None,
            archived: false,
            pinned_at: None,
            delivered_seq: 0,
            read_seq: 0,
            read_count: 0,
        }
    }

    /// The members of a conversation, in the order in which they came.
    pub async fn all(conn: &mut Conn, id: Uuid) -> Result<Vec<Self>, Error> {
        let members = conversation_members::table
            .filter(conversation_members::conversation_id.eq(id))
            .filter(conversation_members::left_at.is_null())
            .order((conversation_members::joined_at, conversation_members::account_id))
            .select(Self::as_select());
        Ok(members.load(conn).await?)
    }

    /// One of the members.
    pub async fn of(conn: &mut Conn, id: Uuid, account_id: Uuid) -> Result<Option<Self>, Error> {
        let member = conversation_members::table
            .find((id, account_id))
            .filter(conversation_members::left_at.is_null())
            .select(Self::as_select());
        Ok(member.first(conn).await.optional()?)
    }

    /// Adds members to a conversation that is locked, also those who have left it; what was said before they came counts as
    /// read. Who was silenced still is: leaving and coming back is no way around it. They must not be members.
    pub async fn add(
        conn: &mut Conn,
        conversation: &Conversation,
        accounts: &[Uuid],
        now: DateTime<Utc>,
    ) -> Result<Vec<Self>, Error> {
        let mut added = Vec::new();
        for account in accounts {
            let again = diesel::delete(conversation_members::table.find((conversation.id, *account)));
            let silence: Option<Option<DateTime<Utc>>> =
                again.returning(conversation_members::silenced_until).get_result(conn).await.optional()?;
            let member = Self {
                silenced_until: silence.flatten(),
                delivered_seq: conversation.last_seq,
                read_seq: conversation.last_seq,
                read_count: conversation.message_count,
                ..Self::new(conversation.id, *account, MEMBER, now)
            };
            diesel::insert_into(conversation_members::table).values(&member).execute(conn).await?;
            added.push(member);
        }
        Ok(added)
    }

    /// Ends the membership.
    pub async fn leave(&self, conn: &mut Conn, now: DateTime<Utc>) -> Result<(), Error> {
        let row = conversation_members::table.find((self.conversation_id, self.account_id));
        let left = (conversation_members::left_at.eq(now), conversation_members::role.eq(MEMBER));
        diesel::update(row).set(left).execute(conn).await?;
        Ok(())
    }

    /// Stores role and silence.
    pub async fn store(&self, conn: &mut Conn) -> Result<(), Error> {
        let row = conversation_members::table.find((self.conversation_id, self.account_id));
        let changed =
            (conversation_members::role.eq(&self.role), conversation_members::silenced_until.eq(self.silenced_until));
        diesel::update(row).set(changed).execute(conn).await?;
        Ok(())
    }

    /// Stores the settings of the member's own.
    pub async fn store_settings(&self, conn: &mut Conn) -> Result<(), Error> {
        let row = conversation_members::table.find((self.conversation_id, self.account_id));
        let settings = (
            conversation_members::muted_until.eq(self.muted_until),
            conversation_members::archived.eq(self.archived),
            conversation_members::pinned_at.eq(self.pinned_at),
        );
        diesel::update(row).set(settings).execute(conn).await?;
        Ok(())
    }

    /// Moves its watermarks forward to these numbers, as far as the conversation has got; reading implies receiving. Returns
    /// whether anything moved.
    pub async fn advance(&mut self, conn: &mut Conn, delivered_seq: i64, read_seq: i64) -> Result<bool, Error> {
        let (conversation_id, account_id) = (self.conversation_id, self.account_id);
        let advance = Advance { conversation_id, account_id, delivered_seq, read_seq };
        let Some(to) = advance.get_result(conn).await.optional()? else { return Ok(false) };
        (self.delivered_seq, self.read_seq, self.read_count) = to;
        Ok(true)
    }

    /// Whether somebody else owns the conversation.
    pub async fn has_other_owner(conn: &mut Conn, id: Uuid, account_id: Uuid) -> Result<bool, Error> {
        let others = conversation_members::table
            .filter(conversation_members::conversation_id.eq(id))
            .filter(conversation_members::account_id.ne(account_id))
            .filter(conversation_members::role.eq(OWNER))
            .filter(conversation_members::left_at.is_null());
        Ok(diesel::select(diesel::dsl::exists(others)).get_result(conn).await?)
    }

    /// Makes sure that somebody owns the conversation, if there is anybody: the administrator who was there first, else the
    /// member who was. Returns who has become it.
    pub async fn make_owner(conn: &mut Conn, id: Uuid) -> Result<Option<Self>, Error> {
        let members = Self::all(conn, id).await?;
        if members.iter().any(|member| member.role == OWNER) {
            return Ok(None);
        }
        let admin = members.iter().find(|member| member.role == ADMIN);
        let first = admin.or_else(|| members.as_slice().first()).cloned();
        let Some(mut heir) = first else { return Ok(None) };
        heir.role = OWNER.to_owned();
        heir.store(conn).await?;
        Ok(Some(heir))
    }
}

/// A conversation's place in the list of its member.
#[derive(Clone, Copy)]
pub struct Place {
    pub pinned: bool,
    pub active_at: DateTime<Utc>,
    pub id: Uuid,
}

/// Whose conversations a query may see: those that the account is a member of and its scope names.
#[derive(Clone, Copy)]
pub struct Visible<'a> {
    account_id: Uuid,
    scope: &'a Scope,
}

impl<'a> Visible<'a> {
    /// To somebody who reads. An error if that is nothing at all.
    pub fn to(caller: &'a Caller) -> Result<Self, Error> {
        Ok(Self { account_id: caller.account_id, scope: caller.scope("conversations:read")? })
    }

    /// What the scope adds to membership, if anything.
    fn predicate(&self) -> Option<Predicate<InnerJoinQuerySource<conversations::table, conversation_members::table>>> {
        let account_id = self.account_id;
        let predicate = || {
            self.scope.predicate(|condition| match condition {
                Condition::Own => Box::new(conversations::created_by.is_not_distinct_from(Some(account_id))),
                Condition::Member => Box::new(conversation_members::account_id.eq(account_id)),
                // The contract names no other field.
                Condition::Equals { value, .. } => Box::new(conversations::title.eq(value.to_string())),
            })
        };
        (!self.scope.is_all()).then(predicate)
    }
}

impl Conversation {
    /// One without messages.
    pub fn new(id: Uuid, kind: &str, title: &str, created_by: Uuid, now: DateTime<Utc>) -> Self {
        Self {
            id,
            title: title.to_owned(),
            created_by: Some(created_by),
            created_at: now,
            active_at: now,
            last_seq: 0,
            kind: kind.to_owned(),
            avatar_url: String::new(),
            encrypted: false,
            disappear_seconds: None,
            retention_days: None,
            message_count: 0,
            last_message_seq: 0,
            last_message_at: None,
        }
    }

    /// Inserts it with its members, of whom its creator owns a group.
    pub async fn insert(&self, conn: &mut Conn, members: &[Uuid]) -> Result<(), Error> {
        diesel::insert_into(conversations::table).values(self).execute(conn).await?;
        let role = |account: Uuid| if self.kind == GROUP && self.created_by == Some(account) { OWNER } else { MEMBER };
        let rows: Vec<_> =
            members.iter().map(|account| Member::new(self.id, *account, role(*account), self.created_at)).collect();
        diesel::insert_into(conversation_members::table).values(rows).execute(conn).await?;
        Ok(())
    }

    /// The conversation of two accounts, encrypted as `self` is, and made of it if there is none; to be called in a
    /// transaction. Of several who make it at once one does, and the others get that one.
    pub async fn insert_direct(&self, conn: &mut Conn, members: [Uuid; 2]) -> Result<Uuid, Error> {
        let (low, high) = (members[0].min(members[1]), members[0].max(members[1]));
        // First itself: the pair refers to it.
        diesel::insert_into(conversations::table).values(self).execute(conn).await?;
        let pair = (
            direct_conversations::low.eq(low),
            direct_conversations::high.eq(high),
            direct_conversations::conversation_id.eq(self.id),
            direct_conversations::encrypted.eq(self.encrypted),
        );
        let inserted = diesel::insert_into(direct_conversations::table)
            .values(pair)
            .on_conflict_do_nothing()
            .execute(conn)
            .await?;
        if inserted == 0 {
            diesel::delete(conversations::table.find(self.id)).execute(conn).await?;
            let pair = direct_conversations::table.find((low, high, self.encrypted));
            return Ok(pair.select(direct_conversations::conversation_id).first(conn).await?);
        }
        let rows = members.map(|account| Member::new(self.id, account, MEMBER, self.created_at));
        diesel::insert_into(conversation_members::table).values(rows.to_vec()).execute(conn).await?;
        Ok(self.id)
    }

    /// By its id.
    pub async fn by_id(conn: &mut Conn, id: Uuid) -> Result<Option<Self>, Error> {
        Ok(conversations::table.find(id).select(Self::as_select()).first(conn).await.optional()?)
    }

    /// Stores title, picture, and how long messages stay.
    pub async fn store_settings(&self, conn: &mut Conn) -> Result<(), Error> {
        let settings = (
            conversations::title.eq(&self.title),
            conversations::avatar_url.eq(&self.avatar_url),
            conversations::disappear_seconds.eq(self.disappear_seconds),
            conversations::retention_days.eq(self.retention_days),
        );
        diesel::update(conversations::table.find(self.id)).set(settings).execute(conn).await?;
        Ok(())
    }

    /// Locks its row until the transaction ends; whoever numbers something in it does.
    pub async fn lock(conn: &mut Conn, id: Uuid) -> Result<(), Error> {
        let row = conversations::table.find(id).select(conversations::id).for_no_key_update();
        row.first::<Uuid>(conn).await.optional()?;
        Ok(())
    }

    /// The conversation of two accounts, encrypted or not, if there is one.
    pub async fn direct(conn: &mut Conn, one: Uuid, other: Uuid, encrypted: bool) -> Result<Option<Uuid>, Error> {
        let pair = direct_conversations::table.find((one.min(other), one.max(other), encrypted));
        Ok(pair.select(direct_conversations::conversation_id).first(conn).await.optional()?)
    }

    /// The conversation and the reader's membership, if the reader may see it.
    pub async fn of_member(conn: &mut Conn, id: Uuid, reader: Visible<'_>) -> Result<(Self, Member), Error> {
        let mut query = conversations::table
            .inner_join(conversation_members::table)
            .filter(conversations::id.eq(id))
            .filter(conversation_members::account_id.eq(reader.account_id))
            .filter(conversation_members::left_at.is_null())
            .select((Self::as_select(), Member::as_select()))
            .into_boxed();
        if let Some(predicate) = reader.predicate() {
            query = query.filter(predicate);
        }
        query.first(conn).await.optional()?.ok_or_else(|| Error::not_found("conversation"))
    }

    /// The conversations whose messages the reader may read as text, each with for how many days of its own it keeps them;
    /// or one of them.
    pub async fn readable(
        conn: &mut Conn,
        reader: Visible<'_>,
        only: Option<Uuid>,
    ) -> Result<Vec<(Uuid, Option<i32>)>, Error> {
        let mut query = conversations::table
            .inner_join(conversation_members::table)
            .filter(conversation_members::account_id.eq(reader.account_id))
            .filter(conversation_members::left_at.is_null())
            .filter(conversations::encrypted.eq(false))
            .select((conversations::id, conversations::retention_days))
            .into_boxed();
        if let Some(id) = only {
            query = query.filter(conversations::id.eq(id));
        }
        if let Some(predicate) = reader.predicate() {
            query = query.filter(predicate);
        }
        Ok(query.load(conn).await?)
    }

    /// The conversations that the reader may see with its memberships: the pinned ones first, then the most recently active;
    /// after one of that place.
    pub async fn list(
        conn: &mut Conn,
        reader: Visible<'_>,
        archived: bool,
        after: Option<Place>,
        limit: i64,
    ) -> Result<Vec<(Self, Member)>, Error> {
        let pinned = conversation_members::pinned_at.is_not_null();
        let mut query = conversations::table
            .inner_join(conversation_members::table)
            .filter(conversation_members::account_id.eq(reader.account_id))
            .filter(conversation_members::left_at.is_null())
            .filter(conversation_members::archived.eq(archived))
            .order((pinned.desc(), conversations::active_at.desc(), conversations::id.desc()))
            .limit(limit)
            .select((Self::as_select(), Member::as_select()))
            .into_boxed();
        if let Some(Place { pinned: was_pinned, active_at, id }) = after {
            let same_time = conversations::active_at.eq(active_at).and(conversations::id.lt(id));
            let later = pinned.eq(was_pinned).and(conversations::active_at.lt(active_at).or(same_time));
            query = query.filter(later.or(pinned.lt(was_pinned)));
        }
        if let Some(predicate) = reader.predicate() {
            query = query.filter(predicate);
        }
        Ok(query.load(conn).await?)
    }

    /// The members of these conversations, as pairs of conversation and account.
    pub async fn members(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>, Error> {
        let members = conversation_members::table
            .filter(conversation_members::conversation_id.eq_any(ids))
            .filter(conversation_members::left_at.is_null())
            .order((conversation_members::conversation_id, conversation_members::account_id))
            .select((conversation_members::conversation_id, conversation_members::account_id));
        Ok(members.load(conn).await?)
    }

    /// Those of these accounts that are in a conversation with this one.
    pub async fn contacts(conn: &mut Conn, account_id: Uuid, among: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let (mine, theirs) = diesel::alias!(conversation_members as mine, conversation_members as theirs);
        let shared = mine
            .filter(mine.field(conversation_members::account_id).eq(account_id))
            .filter(mine.field(conversation_members::left_at).is_null())
            .filter(
                mine.field(conversation_members::conversation_id)
                    .eq(theirs.field(conversation_members::conversation_id)),
            );
        let contacts = theirs
            .filter(theirs.field(conversation_members::account_id).eq_any(among))
            .filter(theirs.field(conversation_members::left_at).is_null())
            .filter(diesel::dsl::exists(shared))
            .select(theirs.field(conversation_members::account_id))
            .distinct();
        Ok(contacts.load(conn).await?)
    }

    /// The conversations that an account is in, with the number of the newest that happened in each.
    pub async fn heads_of(conn: &mut Conn, account_id: Uuid) -> Result<Vec<(Uuid, i64)>, Error> {
        let heads = conversations::table
            .inner_join(conversation_members::table)
            .filter(conversation_members::account_id.eq(account_id))
            .filter(conversation_members::left_at.is_null());
        Ok(heads.select((conversations::id, conversations::last_seq)).load(conn).await?)
    }

    /// The number of the newest that happened in each of these conversations.
    pub async fn heads(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Uuid, i64)>, Error> {
        let heads = conversations::table.filter(conversations::id.eq_any(ids));
        Ok(heads.select((conversations::id, conversations::last_seq)).load(conn).await?)
    }
}
