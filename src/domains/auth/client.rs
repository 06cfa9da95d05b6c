//! The client's end of a login.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tonic::Request;

use super::jobs::{Notice, Place};
use super::wire::device;
use crate::kernel::caller::ClientAddress;

/// Longer user agents are cut before they are stored.
const USER_AGENT_CHARS: usize = 256;

/// The client's end, as a session remembers it.
pub struct Client {
    pub user_agent: String,
    pub address: String,
}

impl Client {
    /// Who sent a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        let user_agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let address = ClientAddress::of(request.extensions()).map(|address| address.to_string()).unwrap_or_default();
        Self { user_agent: user_agent.chars().take(USER_AGENT_CHARS).collect(), address }
    }

    /// Tells from where something was done to an account.
    pub fn notice(&self, what: fn(Place) -> Notice, at: DateTime<Utc>) -> Notice {
        what(Place { device: device(&self.user_agent), address: self.address.clone(), at })
    }

    /// What a challenge is bound to: the user agent, and the network (in IPv4 256 addresses, in IPv6 what counts as one
    /// client). A telephone may get another address of its network between password and code; whoever picks up a token
    /// elsewhere has another network.
    pub fn fingerprint(&self, ipv6_prefix: u8) -> Vec<u8> {
        let network = match self.address.parse().map(|address: IpAddr| address.to_canonical()) {
            Ok(IpAddr::V4(v4)) => u128::from(v4.to_bits() >> 8),
            Ok(IpAddr::V6(v6)) => v6.to_bits().checked_shr(128 - u32::from(ipv6_prefix.min(128))).unwrap_or_default(),
            Err(_) => 0,
        };
        Sha256::new().chain_update(network.to_be_bytes()).chain_update(&self.user_agent).finalize().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_user_agent_and_its_network() {
        let client = |user_agent: &str, address: &str| {
            Client { user_agent: user_agent.into(), address: address.into() }.fingerprint(64)
        };
        assert_eq!(client("a", "192.0.2.1"), client("a", "192.0.2.254"));
        assert_eq!(client("a", "192.0.2.1"), client("a", "::ffff:192.0.2.1"));
        assert_eq!(client("a", "2001:db8::1"), client("a", "2001:db8::2:3:4"));
        assert_ne!(client("a", "192.0.2.1"), client("a", "192.0.3.1"));
        assert_ne!(client("a", "2001:db8::1"), client("a", "2001:db8:0:1::1"));
        assert_ne!(client("a", "192.0.2.1"), client("b", "192.0.2.1"));
    }
}
