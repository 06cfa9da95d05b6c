//! The mails that `rialto dev` keeps in memory instead of sending them, and their pages.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use askama::Template;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Mail, unwritten};
use crate::kernel::error::Error;

/// Older ones are forgotten.
const KEPT: usize = 200;

/// The newest mails.
#[derive(Default)]
pub struct Inbox(Mutex<VecDeque<Received>>);

/// A mail that stayed here.
#[derive(Clone, Debug, Serialize)]
pub struct Received {
    /// Of the job that sent it.
    pub id: Uuid,
    /// When it was sent.
    pub at: DateTime<Utc>,
    /// To whom.
    pub to: String,
    /// About what.
    pub subject: String,
    /// What the reader is to open.
    pub link: Option<String>,
    /// Its text form.
    pub text: String,
    /// Its HTML form.
    pub html: String,
}

impl Received {
    pub(super) fn new(id: Uuid, at: DateTime<Utc>, mail: &Mail, text: String, html: String) -> Self {
        let link = mail.link_url().map(str::to_owned);
        Self { id, at, to: mail.to.clone(), subject: mail.subject.clone(), link, text, html }
    }
}

#[derive(Template)]
#[template(path = "inbox_list.html", config = "src/kernel/mail/askama.toml")]
struct ListPage {
    mails: Vec<Received>,
}

#[derive(Template)]
#[template(path = "inbox_mail.html", config = "src/kernel/mail/askama.toml")]
struct MailPage {
    mail: Received,
}

impl Inbox {
    pub(super) fn keep(&self, mail: Received) {
        let mut mails = self.mails();
        mails.push_front(mail);
        mails.truncate(KEPT);
    }

    /// All, the newest first.
    pub fn all(&self) -> Vec<Received> {
        self.mails().iter().cloned().collect()
    }

    /// One.
    pub fn get(&self, id: Uuid) -> Option<Received> {
        self.mails().iter().find(|mail| mail.id == id).cloned()
    }

    /// The list as a page.
    pub fn page(&self) -> Result<String, Error> {
        ListPage { mails: self.all() }.render().map_err(unwritten)
    }

    fn mails(&self) -> MutexGuard<'_, VecDeque<Received>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    /// The mail as a page.
    pub fn page(&self) -> Result<String, Error> {
        MailPage { mail: self.clone() }.render().map_err(unwritten)
    }
}
