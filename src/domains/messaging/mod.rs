//! Conversations and messages.
//!
//! Promises: a message is acknowledged after it was committed, and is then never lost, doubled or reordered; the numbers
//! of a conversation have no hole; whoever comes back with the last number it saw gets exactly what it missed; only
//! members see anything, and others are told that there is nothing; an encrypted conversation holds nothing that the server
//! could read, and takes a message only for exactly the devices that its members have.
//!
//! Others may call: [`contacts`] (`keys`: who may see whose devices) and [`seed_conversation`] (demo data).

mod changes;
mod committer;
mod connect;
mod encryption;
mod forward;
mod groups;
mod heads;
mod live;
mod messages;
mod model;
mod personal_data;
mod receipts;
mod retention;
mod scheduled;
mod search;
mod service;
mod subscribe;
mod wire;

pub mod jobs;

use diesel_async::AsyncConnection;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;

pub use heads::Heads;
pub use model::retention::Kept;
pub use personal_data::PERSONAL_DATA;
pub use service::MessagingService;
pub use subscribe::serve as serve_subscribe;

/// Those of these accounts that are in a conversation with this one.
pub async fn contacts(conn: &mut Conn, account_id: Uuid, among: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    model::Conversation::contacts(conn, account_id, among).await
}

/// Creates a conversation of the demo data and says its lines, each by the member of that index; returns its id.
pub async fn seed_conversation(
    app: &App,
    title: &str,
    members: &[Uuid],
    lines: &[(usize, &str)],
) -> Result<Uuid, Error> {
    let now = app.clock.now();
    let creator = members.first().copied().ok_or_else(|| Error::not_found("member"))?;
    let conversation = model::Conversation::new(app.rng.id(now)?, model::GROUP, title, creator, now);
    let mut batch = Vec::new();
    for (index, (member, text)) in lines.iter().enumerate() {
        batch.push(model::NewMessage {
            id: app.rng.id(now)?,
            conversation_id: conversation.id,
            sender_id: members.get(*member).copied().unwrap_or(creator),
            client_message_id: format!("demo-{index}"),
            content: model::Content::Text((*text).to_owned()),
            details: None,
        });
    }
    let mut conn = app.db.get().await?;
    model::partitions::Partitions::default().ensure(&mut conn, now, app.config.messaging.retention_days).await?;
    conn.transaction(async |conn| {
        conversation.insert(conn, members).await?;
        model::NewMessage::insert_batch(conn, &batch, now).await
    })
    .await?;
    Ok(conversation.id)
}
