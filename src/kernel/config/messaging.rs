//! Conversations.

use serde::{Deserialize, Serialize};

/// Conversations.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Messaging {
    /// For how many days messages are kept; 0 for ever. A conversation can keep them for less. What is older is deleted within
    /// a thirtieth of that time, and not shown before.
    pub retention_days: u32,
}

impl Default for Messaging {
    fn default() -> Self {
        Self { retention_days: 30 }
    }
}
