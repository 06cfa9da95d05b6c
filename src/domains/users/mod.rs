//! Profiles, privacy, blocks, and the administration of many accounts.
//!
//! Promises: who may see a profile is a condition of the query, so that whoever is deleted, hidden, or on either side of a
//! block looks like an id that does not exist; a handle has one owner, also when two ask at once; an update that names a
//! stale etag changes nothing; a list neither repeats nor leaves out anybody while accounts come and go.
//!
//! The account itself, with its name and state, belongs to `auth`, which this domain calls to change it.
//!
//! Others may call: [`may_message`] (who starts conversations), [`whose_presence`] and [`who_sees_presence`] (`account`),
//! [`blocks_between`] (`messaging`, `keys`), [`avatar_url`] (what the address of a picture is) and [`seed_profiles`] (demo
//! data).

mod edit;
mod handle;
mod list;
mod model;
mod personal_data;
mod service;
mod wire;

use diesel_async::AsyncConnection;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;

use self::model::{Setting, Side};

pub use edit::avatar_url;
pub use personal_data::PERSONAL_DATA;
pub use service::UserService;

/// To which of these accounts, in their order, `from` may write. `contacts` are those that it shares a conversation with.
///
/// Not to those who are not active or on either side of a block; to the others as their `messages_from` says. Somebody
/// with a hidden profile can be written to by contacts only: others must not find out that there is such an account.
pub async fn may_message(conn: &mut Conn, from: Uuid, to: &[Uuid], contacts: &[Uuid]) -> Result<Vec<bool>, Error> {
    let reached = model::reached(conn, Setting::MessagesFrom, (from, Side::From), to, contacts).await?;
    Ok(to.iter().map(|id| reached.contains(id)).collect())
}

/// Those of these accounts whose presence `viewer` may see, by the rule of [`may_message`] and their `presence_to`.
/// `contacts` are those that it shares a conversation with.
pub async fn whose_presence(
    conn: &mut Conn,
    viewer: Uuid,
    among: &[Uuid],
    contacts: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    model::reached(conn, Setting::PresenceTo, (viewer, Side::From), among, contacts).await
}

/// Those of these viewers that may see an account's presence, by the same rule.
pub async fn who_sees_presence(
    conn: &mut Conn,
    of: Uuid,
    viewers: &[Uuid],
    contacts: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    model::reached(conn, Setting::PresenceTo, (of, Side::To), viewers, contacts).await
}

/// Those of these accounts that `account_id` blocks, or that block it.
pub async fn blocks_between(conn: &mut Conn, account_id: Uuid, among: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    model::Blocked::between(conn, account_id, among).await
}

/// Gives accounts of the demo data a handle and a few words.
pub async fn seed_profiles(app: &App, profiles: &[(Uuid, &str, &str)]) -> Result<(), Error> {
    let mut conn = app.db.get().await?;
    conn.transaction(async |conn| {
        for (id, handle, bio) in profiles {
            let edit = edit::Edit {
                handle: Some(Some((*handle).to_owned())),
                bio: Some((*bio).to_owned()),
                ..Default::default()
            };
            model::Profile::update(conn, *id, edit, app.clock.now()).await?;
        }
        Ok(())
    })
    .await
}
