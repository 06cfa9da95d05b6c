//! What the mails of privacy say.

use chrono::{DateTime, Utc};

use super::model::{Erasure, Export};
use crate::kernel::config::Server;
use crate::kernel::mail::{Link, Mail};

/// Address and name.
type Recipient = (String, String);

/// An archive can be downloaded. Without a token: downloading it needs the password.
pub fn export_ready(server: &Server, to: Recipient, export: &Export) -> Mail {
    let until = day(export.expires_at);
    mail(
        to,
        "Your data is ready",
        vec![
            format!("the archive of your data that was asked for is ready. It can be downloaded until {until}."),
            "If it was not you who asked, reset your password now: that ends every session.".into(),
        ],
        Some(Link { label: "Download it".into(), url: format!("{}/privacy", server.public_url()) }),
    )
}

/// The account was deleted. Who has a token may cancel that.
pub fn deleted(server: &Server, to: Recipient, erasure: &Erasure, token: Option<&str>) -> Mail {
    let erase_at = day(erasure.erase_at);
    let gone = format!("On {erase_at} it will be erased for good: your profile, your messages, everything.");
    let (what, then) = match token {
        Some(_) => (
            "your account was deleted, as you have asked. Nobody can use it any more.",
            "If you change your mind, or if it was not you, keep it by this link until then.",
        ),
        None => {
            ("your account was deleted by an administrator. Nobody can use it any more.", "Ask them if you object.")
        }
    };
    let link = token.map(|token| Link {
        label: "Keep my account".into(),
        url: format!("{}/cancel-erasure?token={token}", server.public_url()),
    });
    mail(to, "Your account was deleted", vec![what.into(), gone, then.into()], link)
}

/// The account is kept.
pub fn restored(server: &Server, to: Recipient) -> Mail {
    mail(
        to,
        "Your account is kept",
        vec![
            "your account will not be erased. Log in to use it again.".into(),
            "If it was not you who had deleted it, reset your password now.".into(),
        ],
        Some(Link { label: "Log in".into(), url: format!("{}/login", server.public_url()) }),
    )
}

fn mail((to, name): Recipient, subject: &str, paragraphs: Vec<String>, link: Option<Link>) -> Mail {
    let paragraphs = std::iter::once(format!("Hello {name},")).chain(paragraphs).collect();
    Mail { to, subject: subject.into(), paragraphs, link }
}

fn day(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}
