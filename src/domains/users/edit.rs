//! What an update changes: a message and a field mask, made into values that may be stored.

use prost_types::FieldMask;

use super::{handle, wire};
use crate::domains::auth;
use crate::kernel::error::{Error, Violation};
use crate::proto::rialto::users::v1::{PrivacySettings, User};

/// What can be changed.
const EDITABLE: [&str; 9] = [
    "handle",
    "display_name",
    "bio",
    "avatar_url",
    "locale",
    "time_zone",
    "privacy.profile_visibility",
    "privacy.messages_from",
    "privacy.presence_to",
];
/// What a client that sends back what it read may name, to no effect (AIP-203).
const OUTPUT_ONLY: [&str; 6] = ["id", "created_at", "email", "role", "state", "etag"];

/// New values; `None` leaves the old one.
#[derive(Debug, Default, PartialEq)]
pub struct Edit {
    /// The etag that the profile must still have.
    pub etag: Option<String>,
    pub display_name: Option<String>,
    /// `Some(None)` gives the handle up.
    pub handle: Option<Option<String>>,
    pub bio: Option<String>,
    pub avatar_url: Option<String>,
    pub locale: Option<String>,
    pub time_zone: Option<String>,
    pub visibility: Option<&'static str>,
    pub messages_from: Option<&'static str>,
    pub presence_to: Option<&'static str>,
}

impl Edit {
    /// Reads the fields that the mask names; without a mask, or with `*`, all of them.
    pub fn new(user: User, mask: Option<FieldMask>) -> Result<Self, Error> {
        let paths = match &mask {
            None => EDITABLE.to_vec(),
            Some(mask) => expand(&mask.paths)?,
        };
        let mut edit = Self { etag: Some(user.etag.clone()).filter(|etag| !etag.is_empty()), ..Self::default() };
        let mut violations = Vec::new();
        for field in EDITABLE.into_iter().filter(|field| paths.contains(field)) {
            if let Err(description) = edit.take(field, &user) {
                violations.push(Violation { field: format!("user.{field}"), description: description.into() });
            }
        }
        if violations.is_empty() { Ok(edit) } else { Err(Error::invalid(violations)) }
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self { etag: self.etag.clone(), ..Self::default() }
    }

    fn take(&mut self, field: &str, user: &User) -> Result<(), &'static str> {
        let privacy = user.privacy.unwrap_or_default();
        let PrivacySettings { profile_visibility, messages_from, presence_to } = privacy;
        match field {
            "handle" if user.handle.is_empty() => self.handle = Some(None),
            "handle" => self.handle = Some(Some(handle::parse(&user.handle)?)),
            "display_name" => self.display_name = Some(auth::display_name(&user.display_name)?),
            "bio" => self.bio = Some(bio(&user.bio)?),
            "avatar_url" => self.avatar_url = Some(avatar_url(&user.avatar_url)?),
            "locale" => self.locale = Some(locale(&user.locale)?),
            "time_zone" => self.time_zone = Some(time_zone(&user.time_zone)?),
            "privacy.profile_visibility" => self.visibility = Some(wire::stored_visibility(profile_visibility)?),
            "privacy.messages_from" => self.messages_from = Some(wire::stored_audience(messages_from)?),
            _ => self.presence_to = Some(wire::stored_audience(presence_to)?),
        }
        Ok(())
    }
}

/// The editable fields that a mask names.
fn expand(paths: &[String]) -> Result<Vec<&'static str>, Error> {
    let mut expanded = Vec::new();
    for path in paths {
        match path.as_str() {
            "*" => return Ok(EDITABLE.to_vec()),
            path if OUTPUT_ONLY.contains(&path) => {}
            path => {
                let within = |field: &&str| *field == path || (path == "privacy" && field.starts_with("privacy."));
                let mut named = EDITABLE.into_iter().filter(within).peekable();
                if named.peek().is_none() {
                    return Err(Error::invalid_field("update_mask", "names a field that there is not"));
                }
                let new: Vec<_> = named.filter(|field| !expanded.contains(field)).collect();
                expanded.extend(new);
            }
        }
    }
    Ok(expanded)
}

fn bio(text: &str) -> Result<String, &'static str> {
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err("must not contain control characters");
    }
    Ok(text.to_owned())
}

/// Only a shape is checked: the server does not fetch the picture.
pub fn avatar_url(text: &str) -> Result<String, &'static str> {
    let uri: Option<http::Uri> = text.parse().ok();
    let good = uri.is_some_and(|uri| {
        uri.scheme() == Some(&http::uri::Scheme::HTTPS)
            && uri.authority().is_some_and(|authority| {
                // No name and password before the host, which would make another host look like the real one.
                !authority.host().is_empty() && !authority.as_str().contains('@')
            })
    });
    if text.is_empty() || good { Ok(text.to_owned()) } else { Err("must be an https URL") }
}

/// Whether it has the shape of a language tag (RFC 5646, section 2.1).
fn locale(text: &str) -> Result<String, &'static str> {
    let mut subtags = text.split('-');
    let language = subtags.next().unwrap_or_default();
    let good = (2..=8).contains(&language.len())
        && language.bytes().all(|byte| byte.is_ascii_alphabetic())
        && subtags.all(|tag| (1..=8).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if text.is_empty() || good { Ok(text.to_owned()) } else { Err("must be a language tag such as de-CH") }
}

fn time_zone(text: &str) -> Result<String, &'static str> {
    let good = text.is_empty() || text.parse::<chrono_tz::Tz>().is_ok();
    if good { Ok(text.to_owned()) } else { Err("must be the name of a time zone such as Europe/Zurich") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Option<FieldMask> {
        Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
    }

    fn faults(user: User, paths: &[&str]) -> Vec<String> {
        let error = Edit::new(user, mask(paths)).unwrap_err();
        error.violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn only_what_the_mask_names_is_taken() {
        let user = || User { display_name: " Ann ".into(), bio: "x".into(), etag: "e".into(), ..Default::default() };
        let edit = Edit::new(user(), mask(&["display_name", "id", "email", "etag"])).unwrap();
        let expected = Edit { display_name: Some("Ann".into()), etag: Some("e".into()), ..Default::default() };
        assert_eq!(edit, expected);
        assert!(Edit::new(user(), mask(&[])).unwrap().is_empty());

        let privacy = Edit::new(user(), mask(&["privacy"])).unwrap();
        let default = (Some("members"), Some("everyone"), Some("everyone"));
        assert_eq!((privacy.visibility, privacy.messages_from, privacy.presence_to), default);
        for all in [None, mask(&["*"])] {
            let edit = Edit::new(user(), all).unwrap();
            assert_eq!((edit.handle, edit.locale.as_deref(), edit.visibility), (Some(None), Some(""), Some("members")));
        }
    }

    #[test]
    fn every_fault_is_named_and_fields_outside_the_mask_are_not_looked_at() {
        let user = || User {
            handle: "a b".into(),
            display_name: " \t".into(),
            bio: "\u{7}".into(),
            avatar_url: "http://example.com/a.png".into(),
            locale: "x_y".into(),
            time_zone: "Europe/Atlantis".into(),
            privacy: Some(PrivacySettings { profile_visibility: 9, messages_from: -1, presence_to: 4 }),
            ..Default::default()
        };
        let all: Vec<_> = EDITABLE.iter().map(|field| format!("user.{field}")).collect();
        assert_eq!(faults(user(), &["*"]), all);
        assert_eq!(faults(user(), &["bio"]), ["user.bio"]);
        assert_eq!(faults(user(), &["bio", "nonsense"]), ["update_mask"]);
        assert_eq!(faults(user(), &["privacy.nonsense"]), ["update_mask"]);
    }

    #[test]
    fn urls_locales_and_zones_are_checked() {
        for good in ["", "https://example.com", "https://example.com:8443/a/b.png?c=d%20e"] {
            assert!(avatar_url(good).is_ok(), "{good}");
        }
        for bad in ["x", "//example.com/a", "javascript:alert(1)", "https://", "https://a@b.example/", "https://b/ä b"]
        {
            assert!(avatar_url(bad).is_err(), "{bad}");
        }
        for good in ["", "de", "de-CH", "zh-Hant-TW", "sl-rozaj-biske-1994"] {
            assert!(locale(good).is_ok(), "{good}");
        }
        for bad in ["d", "de_CH", "de-", "-", "12", "de-ü"] {
            assert!(locale(bad).is_err(), "{bad}");
        }
        assert!(time_zone("Europe/Zurich").is_ok() && time_zone("UTC").is_ok() && time_zone("CET-1").is_err());
    }
}
