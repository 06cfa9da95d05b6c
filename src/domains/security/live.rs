//! Watching alerts: what was missed, then what happens.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::model::Changes;
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::hub::Place;
use crate::kernel::sequence::{Event, Reader, Sequences};
use crate::proto::rialto::security::v1::WatchAlertsResponse;

/// There is one sequence.
const ALERTS: Uuid = Uuid::nil();

/// The changes of alerts on this node.
#[derive(Clone)]
pub struct Live {
    app: App,
    sequences: Sequences<WatchAlertsResponse>,
}

impl Live {
    /// Starts following what other nodes commit.
    pub fn start(app: &App) -> Self {
        Self { app: app.clone(), sequences: Sequences::start(&app.db, &app.bus, &app.stopping) }
    }

    /// Hands committed changes to this node's readers and the other nodes.
    pub async fn publish(&self, changes: Vec<WatchAlertsResponse>) {
        self.sequences.announce(changes.into_iter().map(|change| (ALERTS, change)).collect()).await;
    }

    /// A reader that begins after `after_seq`, or with what happens from now on.
    pub async fn reader(&self, after_seq: Option<i64>) -> Result<Reader<WatchAlertsResponse>, Error> {
        if after_seq != Some(0) {
            return self.sequences.reader(ALERTS, after_seq, DateTime::UNIX_EPOCH).await;
        }
        // 0 asks for whatever there is.
        let (last, oldest) = Changes::range(&mut *self.app.db.get().await?).await?;
        self.sequences.reader(ALERTS, Some(oldest.map_or(last, |oldest| oldest - 1)), DateTime::UNIX_EPOCH).await
    }
}

impl Event for WatchAlertsResponse {
    const CHANNEL: &'static str = "alerts";
    const FORGOTTEN: Reason = Reason::ChangesForgotten;

    fn place(&self) -> Place {
        Place::Numbered(self.seq)
    }

    async fn heads(conn: &mut Conn, _: &[Uuid]) -> Result<Vec<(Uuid, i64)>, Error> {
        Ok(vec![(ALERTS, Changes::last(conn).await?)])
    }

    async fn first_after(conn: &mut Conn, _: Uuid, seq: i64, _: DateTime<Utc>) -> Result<Option<i64>, Error> {
        let (last, oldest) = Changes::range(conn).await?;
        // Numbers have no hole.
        Ok(oldest.map(|oldest| oldest.max(seq + 1)).filter(|first| *first <= last))
    }

    async fn after(conn: &mut Conn, _: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        Changes::after(conn, seq, limit).await
    }
}
