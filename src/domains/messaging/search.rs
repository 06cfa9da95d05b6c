//! `rialto.messaging.v1.SearchService`: messages by their words.
//!
//! Nothing is done for it while messages are sent. [`index`] follows the conversations' events, and whoever asks is at most a
//! moment ahead of it.

use chrono::TimeDelta;
use tonic::{Request, Response, Status};

use super::model::search::{self, Found, Search};
use super::model::{self, Visible, partitions};
use super::service::MessagingService;
use super::wire as messaging_wire;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::kernel::{pages, wire};
use crate::proto::rialto::messaging::v1::search_service_server::SearchService as Contract;
use crate::proto::rialto::messaging::v1::{FoundMessage, SearchMessagesRequest, SearchMessagesResponse};

/// The kind of page tokens.
const FOUND: u8 = 5;
/// Messages of a page: finding the passages of a long one takes milliseconds.
const PAGE: i64 = 50;
/// How long a conversation stays marked after the last event.
const SETTLED: TimeDelta = TimeDelta::seconds(60);

/// Reads what has happened since the last time.
pub async fn index(app: &App) -> Result<(), Error> {
    let mut conn = app.db.get().await?;
    while search::index_some(&mut conn, &app.config.messaging.search_languages, app.clock.now()).await? > 0 {}
    search::settle(&mut conn, app.clock.now() - SETTLED).await
}

impl MessagingService {
    async fn search(&self, caller: &Caller, request: &SearchMessagesRequest) -> Result<SearchMessagesResponse, Error> {
        let only = request.conversation_id.as_deref().map(|id| wire::id("conversation_id", id)).transpose()?;
        let (size, now) = (pages::size(request.page_size).min(PAGE), self.app().clock.now());
        let after = pages::key::<32>(FOUND, &request.page_token)?.map(place).transpose()?;
        let mut conn = self.app().db.get().await?;
        let readable = model::Conversation::readable(&mut conn, Visible::to(caller)?, only).await?;
        if only.is_some() && readable.is_empty() {
            return Err(Error::not_found("conversation"));
        }
        if !Search::has_word(&mut conn, &request.query).await? {
            return Err(Error::invalid_field("query", "must have a word to look for"));
        }
        let messaging = &self.app().config.messaging;
        let kept = |(id, days)| (id, partitions::kept_since(now, messaging.retention_days, days));
        let search = Search {
            reader: caller.account_id,
            query: &request.query,
            languages: &messaging.search_languages,
            conversations: &readable.into_iter().map(kept).collect::<Vec<_>>(),
            after,
            limit: size + 1,
            now,
        };
        let mut hits = search.run(&mut conn).await?;
        let next_page_token = pages::cut(&mut hits, size, FOUND, |last| {
            let last = &last.message;
            [pages::time_key(last.created_at, last.conversation_id).as_slice(), &last.seq.to_be_bytes()].concat()
        });
        let found = hits.iter().map(|hit| FoundMessage {
            message: Some((&hit.message).into()),
            passages: messaging_wire::passages(&hit.passages),
        });
        Ok(SearchMessagesResponse { found: found.collect(), next_page_token })
    }
}

/// The place in a token.
fn place(key: [u8; 32]) -> Result<Found, Error> {
    let (time_and_id, seq) = key.split_at(24);
    let (created_at, conversation_id) = pages::time(time_and_id)?;
    let seq = seq.first_chunk().map_or(0, |seq| i64::from_be_bytes(*seq));
    Ok(Found { created_at, conversation_id, seq })
}

#[tonic::async_trait]
impl Contract for MessagingService {
    async fn search_messages(
        &self,
        request: Request<SearchMessagesRequest>,
    ) -> Result<Response<SearchMessagesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.search(&caller, request.get_ref()).await?))
    }
}
