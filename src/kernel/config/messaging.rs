//! Conversations.

use serde::{Deserialize, Serialize};

use crate::kernel::error::{Error, Reason};

/// The languages that every supported Postgres can reduce words of.
const LANGUAGES: [&str; 28] = [
    "arabic",
    "armenian",
    "basque",
    "catalan",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "nepali",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "serbian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "yiddish",
];
/// More would make what is stored for each message too large.
const MOST_LANGUAGES: usize = 5;

/// Conversations.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Messaging {
    /// For how many days messages are kept; 0 for ever. A conversation can keep them for less. What is older is deleted within
    /// a thirtieth of that time, and not shown before.
    pub retention_days: u32,
    /// The languages whose forms of words search knows, at most five, by Postgres's names: with `english`, who looks for
    /// "meeting" finds "meet". Words as they are written are always found. What was written before this changed is found as
    /// it was until it is edited.
    pub search_languages: Vec<String>,
}

impl Messaging {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |problem: String| Err(Error::new(Reason::Internal, problem));
        if self.search_languages.len() > MOST_LANGUAGES {
            return refuse(format!("messaging.search_languages has more than {MOST_LANGUAGES} languages"));
        }
        match self.search_languages.iter().find(|name| !LANGUAGES.contains(&name.as_str())) {
            Some(unknown) => refuse(format!("messaging.search_languages: Postgres has no language {unknown:?}")),
            None => Ok(()),
        }
    }
}

impl Default for Messaging {
    fn default() -> Self {
        Self { retention_days: 30, search_languages: vec!["english".into()] }
    }
}
