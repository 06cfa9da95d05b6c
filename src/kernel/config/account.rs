//! Settings of the streams of accounts.

use serde::{Deserialize, Serialize};

/// The streams of accounts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    /// How many days events are kept. Who comes back after that is told that something was missed.
    pub event_days: u32,
    /// Streams that an account may have open at the same time, on all nodes together.
    pub max_connections: u32,
    /// How many seconds a client may leave what it is told without reading it. Then its stream ends, and it comes back when it
    /// can.
    pub unread_seconds: u32,
}

impl Default for Account {
    fn default() -> Self {
        Self { event_days: 30, max_connections: 100, unread_seconds: 120 }
    }
}
