//! Watching alerts: what was missed, then what happens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use uuid::Uuid;

use super::model::Changes;
use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason};
use crate::kernel::hub::{Hub, Ready, Topic};
use crate::proto::rialto::security::v1::WatchAlertsResponse;

/// There is one sequence.
const ALERTS: Uuid = Uuid::nil();
/// Changes that a reader takes at a time.
const BATCH: usize = 100;
/// How often the last number is read from Postgres while somebody watches, without and with the bus.
const HEAD_ALONE: Duration = Duration::from_millis(500);
const HEAD: Duration = Duration::from_secs(2);

/// The changes of alerts on this node.
#[derive(Clone)]
pub struct Live {
    app: App,
    hub: Arc<Hub<WatchAlertsResponse>>,
}

/// One reader.
pub struct Reader {
    app: App,
    topic: Arc<Topic<WatchAlertsResponse>>,
    head: watch::Receiver<i64>,
    /// The last number that the reader has.
    seq: i64,
}

impl Live {
    /// Starts following what other nodes commit.
    pub fn start(app: &App) -> Self {
        let hub = Hub::new(Arc::clone(&app.bus), "alerts", |payload| {
            let change = WatchAlertsResponse::decode(payload).ok()?;
            Some((change.seq, change))
        });
        tokio::spawn(follow_head(app.clone(), Arc::clone(&hub)));
        Self { app: app.clone(), hub }
    }

    /// Hands committed changes to this node's readers and the other nodes.
    pub async fn publish(&self, changes: Vec<WatchAlertsResponse>) {
        if changes.is_empty() {
            return;
        }
        let channel = self.hub.channel(ALERTS);
        let messages: Vec<_> =
            changes.iter().map(|change| (channel.clone(), Bytes::from(change.encode_to_vec()))).collect();
        for change in changes {
            self.hub.publish(ALERTS, change.seq, change);
        }
        // They look at the last number by themselves.
        if let Err(error) = self.app.bus.publish(messages).await {
            tracing::debug!(%error, "the other nodes were not told of changes of alerts");
        }
    }

    /// A reader that begins after `after_seq`, or with what happens from now on.
    pub async fn reader(&self, after_seq: Option<i64>) -> Result<Reader, Error> {
        let topic = self.hub.topic(ALERTS).await;
        // Read after the topic listens, so that nothing falls in between.
        let (last, oldest) = Changes::range(&mut *self.app.db.get().await?).await?;
        topic.advance(last);
        let seq = after_seq.unwrap_or(last);
        if seq > last {
            return Err(Error::invalid_field("after_seq", format!("is beyond the newest change, {last}")));
        }
        // Before the oldest there is what was forgotten. 0 asks for whatever there is.
        if seq > 0 && seq < last && oldest.is_none_or(|oldest| seq + 1 < oldest) {
            return Err(Error::new(Reason::ChangesForgotten, "the changes after after_seq are no longer kept"));
        }
        Ok(Reader { app: self.app.clone(), head: topic.head(), topic, seq })
    }
}

impl Reader {
    /// The next changes, at least one, when there are some.
    pub async fn next(&mut self) -> Result<Vec<WatchAlertsResponse>, Error> {
        loop {
            self.head.borrow_and_update();
            let changes = match self.topic.after(self.seq, BATCH) {
                Ready::Events(changes) => changes,
                Ready::InDatabase => {
                    let mut conn = self.app.db.get().await?;
                    Changes::after(&mut conn, self.seq, i64::try_from(BATCH).unwrap_or(i64::MAX)).await?
                }
                Ready::Nothing => Vec::new(),
            };
            if let Some(last) = changes.last() {
                self.seq = last.seq;
                return Ok(changes);
            }
            // The topic lives as long as this reader, and its sender with it.
            let _ = self.head.changed().await;
        }
    }
}

/// Finds by itself what the bus did not tell: often while it is down, at once when it comes back, and now and then.
async fn follow_head(app: App, hub: Arc<Hub<WatchAlertsResponse>>) {
    let mut link = app.bus.link();
    loop {
        let pause = if link.borrow_and_update().up { HEAD } else { HEAD_ALONE };
        tokio::select! {
            () = app.stopping.cancelled() => return,
            Ok(()) = link.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        if hub.active().is_empty() {
            continue;
        }
        let last = async { Changes::last(&mut *app.db.get().await?).await };
        match last.await {
            Ok(last) => hub.advance(ALERTS, last),
            Err(error) => tracing::warn!(%error, "the last change of alerts can't be read"),
        }
    }
}
