//! Telling people and programs that an alert was raised or got worse.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::alerts::severity_name;
use super::model::Alert;
use crate::kernel::app::App;
use crate::kernel::config::{Server, Severity};
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::jobs::{Handlers, Job, NewJob};
use crate::kernel::mail::{Link, Mail};
use crate::kernel::security::{Kind, kind_by_name};

const MAIL: &str = "security.mail";
const WEBHOOK: &str = "security.webhook";

/// What one address is told.
#[derive(Deserialize, Serialize)]
struct Notice {
    to: String,
    alert_id: Uuid,
    kind: String,
    subject: String,
    severity: String,
    count: i64,
    first_seen_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
}

/// Leaves it to jobs to tell, in the transaction that raises the alert: one for each address, so that one that can't be
/// reached does not make the others hear twice.
pub async fn enqueue(app: &App, conn: &mut Conn, severity: Severity, new: bool, alert: &Alert) -> Result<(), Error> {
    let config = &app.config.security;
    if severity >= config.mail_severity {
        for to in &config.mail_to {
            NewJob::new(app, MAIL, &notice(to, alert))?.enqueue(conn).await?;
        }
    }
    if severity >= config.webhook_severity && !config.webhook_url.is_empty() {
        // As it will be sent, and at each attempt the same.
        NewJob::new(app, WEBHOOK, &body(new, alert, app.clock.now()))?.enqueue(conn).await?;
    }
    Ok(())
}

/// Adds the handlers of these jobs.
pub fn handlers(handlers: Handlers) -> Handlers {
    handlers
        .handle(MAIL, |app, job: Job<Notice>| async move {
            app.mail.send(job.id, app.clock.now(), &mail(&app.config.server, &job.payload)).await
        })
        .handle(
            WEBHOOK,
            |app, job: Job<String>| async move { super::webhook::deliver(&app, job.id, job.payload).await },
        )
}

fn notice(to: &str, alert: &Alert) -> Notice {
    Notice {
        to: to.into(),
        alert_id: alert.id,
        kind: alert.kind.clone(),
        subject: alert.subject.clone(),
        severity: severity_name(alert).into(),
        count: alert.count,
        first_seen_at: alert.first_seen_at,
        last_seen_at: alert.last_seen_at,
    }
}

/// The body of a webhook.
fn body(new: bool, alert: &Alert, now: DateTime<Utc>) -> String {
    let happened = if new { "security.alert.raised" } else { "security.alert.escalated" };
    let data = json!({
        "id": alert.id,
        "kind": alert.kind,
        "subject": alert.subject,
        "severity": severity_name(alert),
        "count": alert.count,
        "firstSeenAt": alert.first_seen_at,
        "lastSeenAt": alert.last_seen_at,
    });
    json!({ "type": happened, "timestamp": now, "data": data }).to_string()
}

fn mail(server: &Server, notice: &Notice) -> Mail {
    let time = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S UTC");
    let words = words(kind_by_name(&notice.kind));
    let label = "Look at the alert".into();
    let url = format!("{}/security/alerts/{}", server.public_url(), notice.alert_id);
    Mail {
        to: notice.to.clone(),
        subject: format!("Security alert ({}): {words}", notice.severity),
        paragraphs: vec![
            format!("{words}: {} so far, about {}.", notice.count, notice.subject),
            format!("The first was at {}, the last at {}.", time(notice.first_seen_at), time(notice.last_seen_at)),
        ],
        link: Some(Link { label, url }),
    }
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::LoginFailed => "failed logins",
        Kind::ConfirmationFailed => "wrong passwords in a session",
        Kind::TwoFactorFailed => "wrong second factors",
        Kind::AccessDenied => "denied calls",
        Kind::Unauthenticated => "calls without credentials",
        Kind::RefreshTokenReused => "refresh tokens used twice",
        Kind::AccountLocked => "locked accounts",
        Kind::PrivilegeChanged => "changes of privileges",
        Kind::AccountSuspended => "suspended accounts",
        Kind::TwoFactorReset => "resets of two-factor authentication",
        Kind::ImpossibleTravel => "use from many networks",
        Kind::PasskeyAnomaly => "passkeys that may be copies",
        Kind::Unspecified => "security events",
    }
}
