//! Lists and searches of profiles.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::model::{COLUMNS, FROM, Profile, SHOWN, Viewer};
use super::wire;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::pages;
use crate::proto::rialto::users::v1::ListUsersRequest;

/// The orders of a list. Their numbers are the kinds of page tokens, which no other list has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Name = 32,
    NameDescending = 33,
    Created = 34,
    CreatedDescending = 35,
}

/// What is asked for.
#[derive(Debug)]
pub struct List {
    order: Order,
    limit: i64,
    after: After,
    state: Option<String>,
    role: Option<&'static str>,
    email_prefix: Option<String>,
    search: Option<Search>,
}

/// The last row of the page before.
#[derive(Debug, Default)]
struct After {
    name: Option<String>,
    time: Option<DateTime<Utc>>,
    id: Option<Uuid>,
}

/// Patterns of LIKE.
#[derive(Debug, PartialEq)]
struct Search {
    name: Option<String>,
    handle: String,
}

impl List {
    /// Reads a request.
    pub fn new(request: &ListUsersRequest) -> Result<Self, Error> {
        let order = match request.order_by.as_str() {
            "" | "display_name" => Order::Name,
            "display_name desc" => Order::NameDescending,
            "created_at" => Order::Created,
            "created_at desc" => Order::CreatedDescending,
            _ => {
                let known = "must be display_name or created_at, with or without desc";
                return Err(Error::invalid_field("order_by", known));
            }
        };
        let after = match order {
            Order::Name | Order::NameDescending => {
                let (name, id) = pages::by_text(order as u8, &request.page_token)?.unzip();
                After { name, id, time: None }
            }
            Order::Created | Order::CreatedDescending => {
                let (time, id) = pages::by_time(order as u8, &request.page_token)?.unzip();
                After { time, id, name: None }
            }
        };
        let wrong = |field: &'static str| move |description: &str| Error::invalid_field(field, description);
        Ok(Self {
            order,
            limit: pages::size(request.page_size),
            after,
            state: wire::stored_state(request.state).map_err(wrong("state"))?,
            role: wire::stored_role(request.role).map_err(wrong("role"))?,
            email_prefix: Some(request.email_prefix.to_lowercase()).filter(|prefix| !prefix.is_empty()),
            search: Search::new(&request.query),
        })
    }

    /// Whether it asks for what only holders of `users:read-private` may know.
    pub fn is_private(&self) -> bool {
        self.state.is_some() || self.role.is_some() || self.email_prefix.is_some()
    }

    /// The page, and the token of the next one.
    pub async fn load(self, conn: &mut Conn, viewer: Viewer) -> Result<(Vec<Profile>, String), Error> {
        let (name, handle) = self.search.map_or((None, None), |search| (search.name, Some(search.handle)));
        // No address goes on with the last code point of Unicode.
        let email_end = self.email_prefix.as_ref().map(|prefix| format!("{prefix}\u{10ffff}"));
        // diesel does not keep this statement prepared, so it is planned for its values: what is NULL costs nothing.
        let query = diesel::sql_query(sql(self.order, handle.is_some()))
            .bind::<SqlUuid, _>(viewer.account_id)
            .bind::<Bool, _>(viewer.private)
            .bind::<Nullable<Text>, _>(&self.state)
            .bind::<Nullable<Text>, _>(self.role)
            .bind::<Nullable<Text>, _>(&self.email_prefix)
            .bind::<Nullable<Text>, _>(email_end)
            .bind::<Nullable<Text>, _>(name)
            .bind::<Nullable<Text>, _>(handle)
            .bind::<Nullable<Text>, _>(self.after.name)
            .bind::<Nullable<Timestamptz>, _>(self.after.time)
            .bind::<Nullable<SqlUuid>, _>(self.after.id)
            .bind::<BigInt, _>(self.limit + 1);
        let mut rows: Vec<Profile> = query.load(conn).await?;
        let key = |last: &Profile| match self.order {
            Order::Name | Order::NameDescending => pages::text_key(&last.folded_name, last.id),
            Order::Created | Order::CreatedDescending => pages::time_key(last.created_at, last.id).to_vec(),
        };
        let token = pages::cut(&mut rows, self.limit, self.order as u8, key);
        Ok((rows, token))
    }
}

impl Search {
    /// `None` when nothing is looked for.
    fn new(query: &str) -> Option<Self> {
        let query = query.trim();
        if let Some(handle) = query.strip_prefix('@') {
            return Some(Self { name: None, handle: format!("{}%", escape(&handle.to_ascii_lowercase())) });
        }
        // Fewer than three characters are in the index only as a beginning.
        let anywhere = match query.chars().count() {
            0 => return None,
            1 | 2 => "",
            _ => "%",
        };
        let text = escape(query);
        let handle = text.to_ascii_lowercase();
        Some(Self { name: Some(format!("{anywhere}{text}%")), handle: format!("{anywhere}{handle}%") })
    }
}

/// Takes the meaning out of what means something in a pattern.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

fn sql(order: Order, search: bool) -> String {
    let (column, after, than, direction) = match order {
        Order::Name => ("folded_name", "$9", ">", "ASC"),
        Order::NameDescending => ("folded_name", "$9", "<", "DESC"),
        Order::Created => ("created_at", "$10", ">", "ASC"),
        Order::CreatedDescending => ("created_at", "$10", "<", "DESC"),
    };
    let page = |found: &str| {
        format!(
            "(SELECT {COLUMNS} FROM {FROM} WHERE {SHOWN} AND {found} \
             AND ($3::text IS NULL OR a.state = $3) \
             AND ($4::text IS NULL OR a.role = $4) \
             AND ($5::text IS NULL OR (a.email COLLATE \"C\" >= $5 AND a.email COLLATE \"C\" < $6)) \
             AND ($11::uuid IS NULL OR (a.{column}, a.id) {than} ({after}, $11)) \
             ORDER BY a.{column} {direction}, a.id {direction} LIMIT $12)"
        )
    };
    if !search {
        return page("true");
    }
    // A page of those with the name and one of those with the handle. Each has its index; for both at once there is none.
    let (name, handle) = (page("a.folded_name LIKE lower($7)"), page("p.handle LIKE $8"));
    format!("SELECT * FROM ({name} UNION {handle}) f ORDER BY {column} {direction}, id {direction} LIMIT $12")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_queries_look_at_the_beginning_and_what_means_something_to_like_is_escaped() {
        let search = |query| Search::new(query).map(|search| (search.name, search.handle));
        let some = |name: &str, handle: &str| Some((Some(name.to_owned()), handle.to_owned()));
        assert_eq!(search("  "), None);
        assert_eq!(search("Z\u{e4}"), some("Z\u{e4}%", "z\u{e4}%"));
        assert_eq!(search(" Ann "), some("%Ann%", "%ann%"));
        assert_eq!(search("@Ann_"), Some((None, "ann\\_%".into())));
        assert_eq!(search("5%\\"), some("%5\\%\\\\%", "%5\\%\\\\%"));
    }
}
