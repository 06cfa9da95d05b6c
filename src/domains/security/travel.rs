//! Impossible travel, without a map: an account that logs in or renews sessions from more networks within an hour than a
//! person gets around. docs/security-monitoring.md says what that sees and what it does not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::model::Network;
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;

/// Notes from where accounts were used, and finds those that have just come to one network too many: how many too many each,
/// and when.
pub async fn find(
    app: &App,
    conn: &mut Conn,
    sightings: &HashMap<(Uuid, IpAddr), DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Vec<(Uuid, i64, DateTime<Utc>)>, Error> {
    if sightings.is_empty() {
        return Ok(Vec::new());
    }
    let config = &app.config.security;
    // In order, so that it does not depend on the order of a map.
    let mut seen: BTreeMap<Uuid, Vec<(String, DateTime<Utc>)>> = BTreeMap::new();
    for ((account_id, network), at) in sightings {
        seen.entry(*account_id).or_default().push((network.to_string(), *at));
    }
    let accounts: Vec<_> = seen.keys().copied().collect();
    let since = now - TimeDelta::seconds(i64::from(config.travel_seconds));
    let mut known: HashMap<Uuid, HashSet<String>> = HashMap::new();
    for recent in Network::since(conn, &accounts, since).await? {
        known.entry(recent.account_id).or_default().insert(recent.network);
    }
    let mut found = Vec::new();
    for (account_id, networks) in &seen {
        let known = known.entry(*account_id).or_default();
        let before = known.len();
        let mut at = now;
        for (network, seen_at) in networks {
            // What waited in this node for longer than the window is the past.
            if *seen_at > since && known.insert(network.clone()) {
                at = *seen_at;
            }
        }
        let beyond = known.len().saturating_sub(before.max(config.travel_networks));
        if beyond > 0 {
            found.push((*account_id, i64::try_from(beyond).unwrap_or(i64::MAX), at));
        }
    }
    let rows = seen.into_iter().flat_map(|(account_id, networks)| {
        networks.into_iter().map(move |(network, seen_at)| Network { account_id, network, seen_at })
    });
    Network::note(conn, &rows.collect::<Vec<_>>()).await?;
    Ok(found)
}
