//! End-to-end encryption.

use serde::{Deserialize, Serialize};

/// End-to-end encryption.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// A device that was not seen for so many days is removed: pages whose storage was cleared leave theirs behind.
    pub device_days: u32,
}

impl Default for Keys {
    fn default() -> Self {
        Self { device_days: 180 }
    }
}
