//! The last step of a login: after the password comes a session, or a challenge for the second factor, which another call
//! finishes.
//!
//! Both are made under the lock of the account, with what it says then: a password that was changed, a suspension, a second
//! factor that was enabled meanwhile count.

use std::net::IpAddr;

use chrono::Duration;
use diesel_async::AsyncConnection;
use sha2::{Digest, Sha256};
use tonic::Request;
use uuid::Uuid;

use super::challenge::Challenge;
use super::model::{Account, RefreshToken, Session};
use super::service::{AuthService, Tokens};
use crate::domains::two_factor::Proof;
use crate::kernel::caller::ClientAddress;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};

/// Longer user agents are cut before they are stored.
const USER_AGENT_CHARS: usize = 256;
/// How long a challenge waits for its code.
const CHALLENGE_LIFETIME: Duration = Duration::minutes(5);

/// Who logs in, as a session remembers it.
pub struct Client {
    user_agent: String,
    address: String,
}

/// What comes after the password.
pub enum Begun {
    /// A session.
    Session(Tokens),
    /// The token of a challenge.
    Challenge(String),
}

impl Client {
    /// The client of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        let user_agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let address = ClientAddress::of(request.extensions()).map(|address| address.to_string()).unwrap_or_default();
        Self { user_agent: user_agent.chars().take(USER_AGENT_CHARS).collect(), address }
    }

    /// What a challenge is bound to: the user agent, and the network (in IPv4 256 addresses, in IPv6 what counts as one
    /// client). A telephone may get another address of its network between password and code; whoever picks up a token
    /// elsewhere has another network.
    fn fingerprint(&self, ipv6_prefix: u8) -> Vec<u8> {
        let network = match self.address.parse().map(|address: IpAddr| address.to_canonical()) {
            Ok(IpAddr::V4(v4)) => u128::from(v4.to_bits() >> 8),
            Ok(IpAddr::V6(v6)) => v6.to_bits().checked_shr(128 - u32::from(ipv6_prefix.min(128))).unwrap_or_default(),
            Err(_) => 0,
        };
        Sha256::new().chain_update(network.to_be_bytes()).chain_update(&self.user_agent).finalize().to_vec()
    }
}

impl AuthService {
    /// Goes on after the password was found to belong to `password_hash`.
    pub(super) async fn begin_login(
        &self,
        account_id: Uuid,
        password_hash: &str,
        client: Client,
    ) -> Result<Begun, Error> {
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            let found = Account::lock(conn, account_id).await?.filter(|(_, current)| current == password_hash);
            let (account, _) = found.ok_or_else(invalid_credentials)?;
            require_active(&account)?;
            if !account.two_factor {
                return self.open_session(conn, &account, client).await.map(Begun::Session);
            }
            let token = self.random_token()?;
            let challenge = Challenge {
                account_id,
                credentials: credentials(&account, password_hash),
                client: client.fingerprint(self.app.config.server.ipv6_prefix),
            };
            challenge.insert(conn, &token, self.app.clock.now() + CHALLENGE_LIFETIME).await?;
            Ok(Begun::Challenge(token))
        })
        .await
    }

    /// Finishes a login with the second factor; returns the account too.
    pub(super) async fn finish_login(
        &self,
        token: &str,
        proof: Proof,
        client: Client,
    ) -> Result<(Uuid, Tokens), Error> {
        let mut conn = self.app.db.get().await?;
        let challenge = Challenge::attempt(&mut conn, token, self.app.clock.now()).await?;
        if challenge.client != client.fingerprint(self.app.config.server.ipv6_prefix) {
            return Err(Challenge::void());
        }
        let confirmation = self.confirmation();
        let attempt = confirmation.count(challenge.account_id).await?;
        let tokens = conn
            .transaction(async |conn| {
                let locked = Account::lock(conn, challenge.account_id).await?;
                let (account, hash) = locked.ok_or_else(Challenge::void)?;
                require_active(&account)?;
                if !account.two_factor || challenge.credentials != credentials(&account, &hash) {
                    return Err(Challenge::void());
                }
                Challenge::delete(conn, token).await?;
                proof.spend(&self.app, conn, account.id).await?;
                self.open_session(conn, &account, client).await
            })
            .await?;
        attempt.succeeded().await;
        Ok((challenge.account_id, tokens))
    }

    async fn open_session(&self, conn: &mut Conn, account: &Account, client: Client) -> Result<Tokens, Error> {
        let now = self.app.clock.now();
        let session = Session {
            id: self.app.rng.id(now)?,
            account_id: account.id,
            created_at: now,
            last_seen_at: now,
            expires_at: now + self.refresh_lifetime(),
            revoked_at: None,
            user_agent: client.user_agent,
            address: client.address,
            reauthenticated_at: Some(now),
        };
        let refresh = self.random_token()?;
        session.insert(conn).await?;
        RefreshToken::insert(conn, &refresh, session.id, now, self.refresh_lifetime()).await?;
        self.tokens(account, session.id, refresh, now)
    }
}

fn require_active(account: &Account) -> Result<(), Error> {
    let refused = || Error::new(Reason::AccountNotActive, "the account is not active");
    if account.is_active() { Ok(()) } else { Err(refused()) }
}

/// The answer for a wrong password and for an account that does not exist.
pub fn invalid_credentials() -> Error {
    Error::new(Reason::InvalidCredentials, "e-mail address or password is wrong")
}

/// What a challenge was made on: when the password or the token version changes, it is void.
fn credentials(account: &Account, password_hash: &str) -> Vec<u8> {
    Sha256::new().chain_update(account.token_version.to_be_bytes()).chain_update(password_hash).finalize().to_vec()
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
