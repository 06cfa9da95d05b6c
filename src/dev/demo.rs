//! Demo data: three accounts with profiles, and a conversation.

use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::domains::{auth, messaging, users};
use crate::kernel::app::App;
use crate::kernel::rng::Rng;
use crate::proto::rialto::policy::v1::Role;

/// How to log in as a demo account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// E-mail address.
    pub email: String,
    /// Password, freshly generated for this installation.
    pub password: String,
    /// `admin` or `user`.
    pub role: String,
}

/// Addresses below example.com, which nobody has (RFC 2606).
const ACCOUNTS: [(&str, &str, Role); 3] = [
    ("admin@example.com", "Admin", Role::Admin),
    ("alice@example.com", "Alice", Role::User),
    ("bob@example.com", "Bob", Role::User),
];

/// Their handles and what they say of themselves.
const PROFILES: [(&str, &str); 3] = [
    ("keeper", "Keeps this server running."),
    ("alice", "Writes to Bob, and likes numbered messages."),
    ("bob", "Reads what Alice writes."),
];

const LINES: [(usize, &str); 4] = [
    (0, "Hi Bob, this is Rialto."),
    (1, "Hi Alice! Does it remember this when the server restarts?"),
    (0, "It does. Each message has its number, and a client that comes back gets what it missed."),
    (1, "Then try it: watch this conversation and send something."),
];

/// The demo accounts of a data directory, seeded at the first start.
pub async fn load_or_seed(app: &App, data_dir: &Path) -> anyhow::Result<Vec<Account>> {
    let path = data_dir.join("demo-accounts.json");
    let accounts = match std::fs::read_to_string(&path) {
        Ok(saved) => serde_json::from_str(&saved).with_context(|| format!("{} can't be read", path.display()))?,
        Err(_) => {
            // Written first: a seed that is interrupted goes on with these at the next start.
            let accounts = new_accounts()?;
            super::write_private(&path, &serde_json::to_string_pretty(&accounts)?)?;
            accounts
        }
    };
    seed(app, &accounts).await?;
    Ok(accounts)
}

/// Accounts with new passwords.
pub fn new_accounts() -> anyhow::Result<Vec<Account>> {
    let account = |(email, _, role): &(&str, &str, Role)| {
        let password = URL_SAFE_NO_PAD.encode(Rng.bytes::<12>()?);
        let role = if *role == Role::Admin { "admin" } else { "user" };
        anyhow::Ok(Account { email: (*email).into(), password, role: role.into() })
    };
    ACCOUNTS.iter().map(account).collect()
}

/// Creates the accounts and their conversation; false when they exist already.
pub async fn seed(app: &App, accounts: &[Account]) -> anyhow::Result<bool> {
    let seeds: Vec<_> = ACCOUNTS
        .iter()
        .zip(accounts)
        .map(|((email, display_name, role), account)| auth::SeedAccount {
            email,
            display_name,
            role: *role,
            password: account.password.clone(),
        })
        .collect();
    let Some(ids) = auth::seed_accounts(app, &seeds).await? else { return Ok(false) };
    let profiles: Vec<_> = ids.iter().zip(PROFILES).map(|(id, (handle, bio))| (*id, handle, bio)).collect();
    users::seed_profiles(app, &profiles).await?;
    messaging::seed_conversation(app, "Welcome", &ids[1..], &LINES).await?;
    Ok(true)
}
