//! Telling the owner of an account by mail that somebody guesses.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domains::auth::mails::{hello, link};
use crate::domains::auth::model::Account;
use crate::kernel::app::App;
use crate::kernel::config::Server;
use crate::kernel::error::Error;
use crate::kernel::jobs::{Failure, Handlers, Job, NewJob};
use crate::kernel::mail::Mail;

const LOCKED: &str = "auth.locked";

/// What is guessed. Each is counted for itself.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum Guessed {
    /// The password, at a login.
    Password,
    /// The second factor, at a login.
    Code,
    /// Password or second factor, in a session.
    Confirmation,
}

impl Guessed {
    /// Its name in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Code => "code",
            Self::Confirmation => "confirmation",
        }
    }
}

/// Whose account.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Owner {
    /// Whoever has this e-mail address, if anybody does.
    Email(String),
    /// This account.
    Account(Uuid),
}

/// A delay or lock that the owner of an account is told of.
#[derive(Debug, Deserialize, Serialize)]
pub struct Locked {
    /// Whom to tell.
    pub owner: Owner,
    /// What was guessed.
    pub guessed: Guessed,
    /// By clients that the account does not know, not by a known device or in a session.
    pub by_strangers: bool,
    /// When the next attempt may be made.
    pub until: DateTime<Utc>,
}

impl Locked {
    /// The job that tells them.
    pub fn job(&self, app: &App) -> Result<NewJob, Error> {
        NewJob::new(app, LOCKED, self)
    }
}

/// Adds the handler of this job.
pub fn handlers(handlers: Handlers) -> Handlers {
    handlers.handle(LOCKED, |app, job: Job<Locked>| async move { send(&app, job).await })
}

async fn send(app: &App, Job { id, payload: locked, .. }: Job<Locked>) -> Result<(), Failure> {
    let account = {
        let mut conn = app.db.get().await?;
        match &locked.owner {
            Owner::Email(email) => Account::by_email(&mut conn, email).await?.map(|(account, _)| account),
            Owner::Account(account_id) => Account::by_id(&mut conn, *account_id).await?,
        }
    };
    let Some(account) = account else { return Ok(()) };
    app.mail.send(id, app.clock.now(), &mail(&app.config.server, &account, &locked)).await
}

fn mail(server: &Server, account: &Account, locked: &Locked) -> Mail {
    let until = locked.until.format("%Y-%m-%d %H:%M UTC");
    let tried = match locked.guessed {
        Guessed::Password => "somebody has tried several wrong passwords for your account.",
        Guessed::Code => "somebody who knows your password has tried several wrong codes of your second factor.",
        Guessed::Confirmation => {
            "in one of your sessions somebody has tried several wrong passwords or codes, to change your account."
        }
    };
    let refused = match (locked.guessed, locked.by_strangers) {
        (Guessed::Confirmation, _) => format!("That session can't confirm changes before {until}."),
        (_, true) => format!(
            "Devices that your account does not know can't log in before {until}. Those that you have logged in from go on."
        ),
        (_, false) => format!("It was on a device that you have logged in from. It can't log in before {until}."),
    };
    let reset = match locked.guessed {
        Guessed::Password => {
            "If you can't log in, or if you want to be sure, reset your password: that lifts every lock."
        }
        Guessed::Code | Guessed::Confirmation => {
            "If it was not you, reset your password now: that ends every session, and lifts every lock."
        }
    };
    Mail {
        to: account.email.clone(),
        subject: "Somebody may be guessing their way into your account".into(),
        paragraphs: vec![hello(account), tried.into(), refused, reset.into()],
        link: Some(link(server, "Reset the password", "/forgot-password")),
    }
}
