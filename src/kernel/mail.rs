//! Mail: a text and an HTML form of the same words, by SMTP. Only jobs send it: an SMTP server may take its time, or be
//! away for hours.
//!
//! Nothing that somebody typed gets into a header except the address, which is parsed; the HTML form escapes everything.

mod inbox;

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use uuid::Uuid;

use crate::kernel::config::{self, MailTls, MailTransport};
use crate::kernel::error::{Error, Reason};
use crate::kernel::jobs::Failure;

pub use inbox::{Inbox, Received};

/// A mail to be sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The address.
    pub to: String,
    /// What it is about. Fixed words: nothing that somebody typed.
    pub subject: String,
    /// What it says.
    pub paragraphs: Vec<String>,
    /// What the reader is to open.
    pub link: Option<Link>,
}

/// A link of a mail.
#[derive(Clone, Debug)]
pub struct Link {
    /// What it does.
    pub label: String,
    /// Where it leads. May hold a token: never logged, except by `rialto dev`.
    pub url: String,
}

#[derive(Template)]
#[template(path = "mail.txt", config = "src/kernel/mail/askama.toml")]
struct TextForm<'a> {
    mail: &'a Mail,
    sender: &'a str,
}

#[derive(Template)]
#[template(path = "mail.html", config = "src/kernel/mail/askama.toml")]
struct HtmlForm<'a> {
    mail: &'a Mail,
    sender: &'a str,
}

/// Sends mail, as configured.
pub struct Mailer {
    from: Mailbox,
    transport: Transport,
}

enum Transport {
    None,
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Inbox(Inbox),
}

impl Mailer {
    /// Connects when it first sends.
    pub fn new(config: &config::Mail) -> Result<Self, Error> {
        let from = config.from.parse().map_err(|error| Error::internal("mail.from is not `Name <address>`", error))?;
        let transport = match config.transport {
            None | Some(MailTransport::None) => Transport::None,
            Some(MailTransport::Smtp) => Transport::Smtp(Box::new(smtp(config)?)),
            Some(MailTransport::Inbox) => Transport::Inbox(Inbox::default()),
        };
        Ok(Self { from, transport })
    }

    /// The mails that stayed here, if that is how mail leaves.
    pub fn inbox(&self) -> Option<&Inbox> {
        match &self.transport {
            Transport::Inbox(inbox) => Some(inbox),
            _ => None,
        }
    }

    /// Sends a mail. `id` is the job's: a mail that is sent twice has the same Message-ID, by which receivers may tell.
    pub async fn send(&self, id: Uuid, now: DateTime<Utc>, mail: &Mail) -> Result<(), Failure> {
        match &self.transport {
            Transport::None => {
                tracing::debug!(subject = mail.subject, "a mail is not sent: mail.transport is none");
                Ok(())
            }
            Transport::Inbox(inbox) => {
                tracing::info!(to = mail.to, subject = mail.subject, link = mail.link_url(), "mail");
                inbox.keep(Received::new(id, now, mail, self.text(mail)?, self.html(mail)?));
                Ok(())
            }
            Transport::Smtp(smtp) => {
                let message = self.message(id, now, mail)?;
                let sent = tokio::time::timeout(PATIENCE, smtp.send(message)).await;
                let late = |_| Error::new(Reason::Timeout, "the SMTP server takes too long");
                sent.map_err(late)?.map(drop).map_err(refused)
            }
        }
    }

    /// Whether the SMTP server takes connections, and our password; `None` when there is none to ask.
    pub async fn check(&self) -> Option<Result<(), Error>> {
        let Transport::Smtp(smtp) = &self.transport else { return None };
        Some(match tokio::time::timeout(PATIENCE, smtp.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Error::new(Reason::UpstreamError, "the SMTP server refuses")),
            Ok(Err(error)) => Err(upstream(error)),
            Err(_) => Err(Error::new(Reason::Timeout, "the SMTP server takes too long")),
        })
    }

    fn message(&self, id: Uuid, now: DateTime<Utc>, mail: &Mail) -> Result<Message, Failure> {
        let address: Address = mail.to.parse().map_err(|error| {
            Failure::Never(Error::internal("the address of a mail is not an e-mail address", error))
        })?;
        // No line ends: whatever comes after one would be a header.
        let subject: String = mail.subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(subject)
            .date(now.into())
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(AutoSubmitted)
            .multipart(MultiPart::alternative_plain_html(self.text(mail)?, self.html(mail)?));
        message.map_err(|error| Failure::Never(Error::internal("a mail can't be written", error)))
    }

    fn text(&self, mail: &Mail) -> Result<String, Error> {
        TextForm { mail, sender: &self.sender() }.render().map_err(unwritten)
    }

    fn html(&self, mail: &Mail) -> Result<String, Error> {
        HtmlForm { mail, sender: &self.sender() }.render().map_err(unwritten)
    }

    fn sender(&self) -> String {
        self.from.name.clone().unwrap_or_else(|| self.from.email.domain().to_owned())
    }
}

impl Mail {
    fn link_url(&self) -> Option<&str> {
        self.link.as_ref().map(|link| link.url.as_str())
    }
}

/// The longest that the whole exchange with the SMTP server may take; less than a job's time.
const PATIENCE: Duration = Duration::from_secs(40);

fn smtp(config: &config::Mail) -> Result<AsyncSmtpTransport<Tokio1Executor>, Error> {
    type Smtp = AsyncSmtpTransport<Tokio1Executor>;
    let failed = |error| Error::internal("TLS for mail.host", error);
    let builder = match config.tls {
        MailTls::None => Smtp::builder_dangerous(&config.host),
        MailTls::Starttls => Smtp::starttls_relay(&config.host).map_err(failed)?,
        MailTls::Tls => Smtp::relay(&config.host).map_err(failed)?,
    };
    let mut builder = builder.timeout(Some(Duration::from_secs(config.timeout_seconds)));
    if config.port != 0 {
        builder = builder.port(config.port);
    }
    if !config.user.is_empty() {
        builder = builder.credentials(Credentials::new(config.user.clone(), config.password.expose().to_owned()));
    }
    Ok(builder.build())
}

/// `Auto-Submitted: auto-generated` (RFC 3834, section 5): nobody's holiday notice answers it.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".into())
    }
}

fn upstream(error: lettre::transport::smtp::Error) -> Error {
    Error::new(Reason::UpstreamError, "the SMTP server did not take the mail").caused_by(error)
}

/// A refusal of the mail itself (RFC 5321, section 4.2.1: 55x) will not change; everything else may, a password that is
/// mended among it.
fn refused(error: lettre::transport::smtp::Error) -> Failure {
    let code = error.status().map(u16::from).unwrap_or_default();
    if (550..=559).contains(&code) { Failure::Never(upstream(error)) } else { Failure::Retry(upstream(error)) }
}

fn unwritten(error: askama::Error) -> Error {
    Error::internal("the template of a mail", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Mail {
        Mail {
            to: "ann@example.com".into(),
            subject: "Hello\r\nBcc: eve@example.com".into(),
            paragraphs: vec!["Hello <b>Ann</b> & co,".into(), ".\r\nRCPT TO:<eve@example.com>".into()],
            link: Some(Link { label: "Open".into(), url: "https://app.example.com/x?token=a&b=\"c\"".into() }),
        }
    }

    fn mailer() -> Mailer {
        Mailer::new(&config::Mail { from: "App <app@example.com>".into(), ..Default::default() }).unwrap()
    }

    #[test]
    fn what_somebody_typed_is_no_header_and_no_html() {
        let message = mailer().message(Uuid::nil(), DateTime::UNIX_EPOCH, &mail()).unwrap();
        let formatted = String::from_utf8(message.formatted()).unwrap();
        let (headers, _) = formatted.split_once("\r\n\r\n").unwrap();
        assert!(!headers.lines().any(|line| line.to_lowercase().starts_with("bcc")), "{headers}");
        assert!(headers.contains("Auto-Submitted: auto-generated"), "{headers}");
        assert_eq!(message.envelope().to().len(), 1);

        let html = mailer().html(&mail()).unwrap();
        assert!(!html.contains("<b>") && html.contains("&#60;b&#62;Ann"), "{html}");
        assert!(!html.contains("\"c\""), "{html}");
        let text = mailer().text(&mail()).unwrap();
        assert!(text.contains("Hello <b>Ann</b> & co,") && text.contains("?token=a&b=\"c\""), "{text}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_for_good() {
        for to in ["", "ann", "ann@example.com\r\nRCPT TO:<eve@example.com>", "<ann@example.com>, eve@example.com"] {
            let mail = Mail { to: to.into(), ..mail() };
            let refused = mailer().message(Uuid::nil(), DateTime::UNIX_EPOCH, &mail);
            assert!(matches!(refused, Err(Failure::Never(_))), "{to:?}");
        }
    }
}
