//! Between rows and the contract.

use uuid::Uuid;

use super::model;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::auth::v1::{Account, AccountState, Session};

impl From<&model::Account> for Account {
    fn from(account: &model::Account) -> Self {
        Self {
            id: account.id.to_string(),
            email: account.email.clone(),
            display_name: account.display_name.clone(),
            role: account.role().into(),
            created_at: Some(timestamp(account.created_at)),
            state: account.state().into(),
        }
    }
}

/// A session as its account sees it; `current` is the caller's own.
pub fn session(session: &model::Session, current: Uuid) -> Session {
    Session {
        id: session.id.to_string(),
        device: device(&session.user_agent),
        user_agent: session.user_agent.clone(),
        address: session.address.clone(),
        created_at: Some(timestamp(session.created_at)),
        last_seen_at: Some(timestamp(session.last_seen_at)),
        expires_at: Some(timestamp(session.expires_at)),
        current: session.id == current,
    }
}

/// The name of a state, in the database and in the metadata of errors: `pending`.
pub fn state_name(state: AccountState) -> String {
    state.as_str_name().trim_start_matches("ACCOUNT_STATE_").to_lowercase()
}

/// What a user agent tells of its device, for people: a browser and a system, or the program's own name.
pub fn device(user_agent: &str) -> String {
    // Browsers name each other: the first of these that is there is the one that it is.
    const BROWSERS: [(&str, &str); 7] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 7] = [
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ];
    let find = |known: &[(&str, &'static str)]| {
        known.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    match (find(&BROWSERS), find(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        _ => match user_agent.split(['/', ' ']).next() {
            Some(program) if !program.is_empty() => program.to_owned(),
            _ => "unknown".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_that_people_know() {
        let mozilla = |rest: &str| device(&format!("Mozilla/5.0 {rest}"));
        assert_eq!(mozilla("(X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"), "Firefox on Linux");
        let chrome = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
        assert_eq!(mozilla(&format!("(Windows NT 10.0; Win64; x64) {chrome}")), "Chrome on Windows");
        assert_eq!(mozilla(&format!("(Windows NT 10.0; Win64; x64) {chrome} Edg/140.0.0.0")), "Edge on Windows");
        let safari = "(iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1";
        assert_eq!(mozilla(safari), "Safari on iPhone");
        assert_eq!(device("grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"), "grpc-python");
        assert_eq!((device("curl/8.0").as_str(), device("").as_str()), ("curl", "unknown"));
    }

    #[test]
    fn states_have_short_names() {
        assert_eq!(state_name(AccountState::Pending), "pending");
    }
}
