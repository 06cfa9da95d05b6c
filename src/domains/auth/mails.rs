//! What the mails of accounts say.

use super::jobs::{Notice, Place};
use super::model::Account;
use super::model::registration::Registration;
use crate::kernel::config::Server;
use crate::kernel::mail::{Link, Mail};

/// Proves that whoever registered an address reads its mail.
pub fn verification(server: &Server, registration: &Registration, token: &str, seconds: u32) -> Mail {
    Mail {
        to: registration.email.clone(),
        subject: "Verify your e-mail address".into(),
        paragraphs: vec![
            // Not by name: whoever registered chose that, and may not know whose address it is.
            "Hello,".into(),
            format!("somebody, hopefully you, has registered with this address. Verify it within {}.", span(seconds)),
            "If it was not you, ignore this mail: without the link there will be no account.".into(),
        ],
        link: Some(link(server, "Verify the address", &format!("/verify-email?token={token}"))),
    }
}

/// Tells an address that somebody tried to register it a second time.
pub fn address_taken(server: &Server, email: &str) -> Mail {
    Mail {
        to: email.into(),
        subject: "You have an account already".into(),
        paragraphs: vec![
            "Hello,".into(),
            "somebody, perhaps you, has tried to register with this address. It has an account already: log in, or reset \
             the password if you have forgotten it."
                .into(),
            "If it was not you, ignore this mail. Nothing was changed, and whoever tried has not learned of the account."
                .into(),
        ],
        link: Some(link(server, "Log in", "/login")),
    }
}

/// Lets in whoever has forgotten the password.
pub fn reset_password(server: &Server, account: &Account, token: &str, seconds: u32) -> Mail {
    Mail {
        to: account.email.clone(),
        subject: "Reset your password".into(),
        paragraphs: vec![
            hello(account),
            format!("somebody, hopefully you, has asked to reset your password. You can within {}.", span(seconds)),
            "If it was not you, ignore this mail: your password stays as it is.".into(),
        ],
        link: Some(link(server, "Set a new password", &format!("/reset-password?token={token}"))),
    }
}

/// Proves that the owner of an account reads mail to another address.
pub fn confirm_email(server: &Server, account: &Account, email: &str, token: &str, seconds: u32) -> Mail {
    Mail {
        to: email.into(),
        subject: "Confirm your new e-mail address".into(),
        paragraphs: vec![
            hello(account),
            format!("this is to be the address of your account. Confirm it within {}.", span(seconds)),
            "If it was not you who asked for this, ignore this mail: nothing will change.".into(),
        ],
        link: Some(link(server, "Confirm the address", &format!("/confirm-email-change?token={token}"))),
    }
}

/// Tells an address that its account is to get another one, and how to take it back.
pub fn undo_email(server: &Server, account: &Account, email: &str, token: &str, until: &str) -> Mail {
    Mail {
        to: email.into(),
        subject: "Your e-mail address is to change".into(),
        paragraphs: vec![
            hello(account),
            "somebody who has logged in to your account has asked to give it another e-mail address. If it was you, there is \
             nothing to do here."
                .into(),
            format!(
                "If it was not you, take your account back by this link until {until}: it gets this address again, every \
                 session ends, and you set a new password."
            ),
        ],
        link: Some(link(server, "It was not me", &format!("/undo-email-change?token={token}"))),
    }
}

/// Tells the owner of an account something.
pub fn notice(server: &Server, account: &Account, notice: &Notice, reason: Option<String>) -> Mail {
    let was_it_you = "If it was not you, reset your password now: that ends every session.";
    let (subject, paragraphs, link) = match notice {
        Notice::PasswordChanged => (
            "Your password was changed",
            vec!["your password was changed, and other sessions were ended.".into(), was_it_you.into()],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
        Notice::Approved => (
            "Your account was approved",
            vec!["your account was approved. You can log in now.".into()],
            Some(link(server, "Log in", "/login")),
        ),
        Notice::Rejected => (
            "Your account was not approved",
            vec!["your account was not approved, for this reason:".into(), reason.unwrap_or_default()],
            None,
        ),
        Notice::NewDevice { device, address, at } => (
            "New login to your account",
            vec![
                format!(
                    "somebody has logged in to your account from a device that is new to it: {device}, address {address}, {}.",
                    at.format("%Y-%m-%d %H:%M UTC")
                ),
                was_it_you.into(),
            ],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
        Notice::PasskeyAdded(place) => (
            "A passkey was added to your account",
            vec![
                format!("a passkey was added to your account, {}. It can log in without your password.", from(place)),
                "If it was not you, reset your password now, and delete the passkey.".into(),
            ],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
        Notice::PasskeyRemoved(place) => (
            "A passkey of your account was deleted",
            vec![format!("a passkey of your account was deleted, {}.", from(place)), was_it_you.into()],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
        Notice::TwoFactorEnabled => (
            "Two-factor authentication is on",
            vec![
                "two-factor authentication was enabled for your account, and other sessions were ended. From now on a login \
                 needs a code, too."
                    .into(),
                "If it was not you, somebody knows your password: ask an administrator to take the second factor away, and \
                 reset your password."
                    .into(),
            ],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
        Notice::TwoFactorDisabled => (
            "Two-factor authentication is off",
            vec![
                "two-factor authentication was disabled for your account, and other sessions were ended.".into(),
                was_it_you.into(),
            ],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
        Notice::TwoFactorReset => (
            "Two-factor authentication was reset",
            vec![
                "an administrator has taken two-factor authentication away from your account, and every session was ended. \
                 Log in with your password, and set it up again."
                    .into(),
                "If you did not ask for it, reset your password now, and tell an administrator.".into(),
            ],
            Some(link(server, "Log in", "/login")),
        ),
        Notice::BackupCodesReplaced => (
            "Your backup codes were replaced",
            vec!["new backup codes were made for your account. Those from before no longer work.".into(), was_it_you.into()],
            Some(link(server, "Reset the password", "/forgot-password")),
        ),
    };
    let paragraphs = std::iter::once(hello(account)).chain(paragraphs).collect();
    Mail { to: account.email.clone(), subject: subject.into(), paragraphs, link }
}

fn from(place: &Place) -> String {
    format!("from {}, address {}, {}", place.device, place.address, place.at.format("%Y-%m-%d %H:%M UTC"))
}

/// How a mail begins.
pub fn hello(account: &Account) -> String {
    format!("Hello {},", account.display_name)
}

/// A page of the product. The pages call the methods of the same names.
pub fn link(server: &Server, label: &str, path: &str) -> Link {
    Link { label: label.into(), url: format!("{}{path}", server.public_url()) }
}

fn span(seconds: u32) -> String {
    match seconds / 60 {
        minutes if minutes >= 120 => format!("{} hours", minutes / 60),
        minutes => format!("{} minutes", minutes.max(1)),
    }
}
