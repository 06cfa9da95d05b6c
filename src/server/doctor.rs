//! `rialto doctor`: checks what the server needs, and says what to do about each failure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Integer, Timestamptz};
use diesel_async::RunQueryDsl;

use crate::domains::auth::Keys;
use crate::kernel::clock::Clock;
use crate::kernel::config::Config;
use crate::kernel::db::{self, Db};
use crate::kernel::jobs::Backlog;
use crate::kernel::mail::Mailer;

/// The clocks of servers and database may differ by so much.
const MAX_SKEW: chrono::TimeDelta = chrono::TimeDelta::seconds(2);
/// A job that is due waits so long only when nobody does jobs.
const MAX_DELAY: chrono::TimeDelta = chrono::TimeDelta::minutes(10);
const MIN_FREE_BYTES: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a check found: how things are, or what is wrong and what to do.
type Finding = Result<String, (String, &'static str)>;

/// Checks everything; returns the report, and whether all is well.
pub async fn examine(config: &Config) -> (String, bool) {
    let findings = [
        ("configuration", configuration(config)),
        ("signing keys", keys(config)),
        ("database", database(config).await),
        ("migrations", migrations(config).await),
        ("clock", clock(config).await),
        ("jobs", jobs(config).await),
        ("mail", mail(config).await),
        ("redis", redis(config).await),
        ("disk", disk()),
    ];
    let mut report = String::new();
    for (name, finding) in &findings {
        report += &match finding {
            Ok(how) => format!("ok    {name}: {how}\n"),
            Err((problem, advice)) => format!("FAIL  {name}: {problem}\n      {advice}\n"),
        };
    }
    (report, findings.iter().all(|(_, finding)| finding.is_ok()))
}

fn configuration(config: &Config) -> Finding {
    config.require_production().map_err(|error| (error.to_string(), "see rialto.example.toml"))?;
    Ok("fit for production".into())
}

fn keys(config: &Config) -> Finding {
    let advice = "set auth.signing_keys; make a seed with `openssl rand -base64 32`";
    Keys::new(&config.auth).map_err(|error| (error.to_string(), advice))?;
    Ok(format!("{}", config.auth.signing_keys.len()))
}

#[derive(QueryableByName)]
struct ServerState {
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

async fn ask(config: &Config) -> Result<ServerState, (String, &'static str)> {
    let advice = "check database.url, and that Postgres runs and takes connections from here";
    let ask = async {
        let db = Db::new(&config.database);
        let mut conn = db.get().await?;
        let query = "SELECT current_setting('server_version_num')::integer AS version, clock_timestamp() AS now";
        let state = diesel::sql_query(query).get_result(&mut *conn).await?;
        Ok::<ServerState, crate::kernel::error::Error>(state)
    };
    match tokio::time::timeout(PATIENCE + Duration::from_secs(config.database.connect_timeout_seconds), ask).await {
        Ok(Ok(state)) => Ok(state),
        Ok(Err(error)) => Err((error.to_string(), advice)),
        Err(_) => Err(("no answer in time".into(), advice)),
    }
}

async fn database(config: &Config) -> Finding {
    let state = ask(config).await?;
    let (major, minor) = (state.version / 10_000, state.version % 10_000);
    if major < 14 {
        return Err((format!("PostgreSQL {major}.{minor}"), "Rialto needs PostgreSQL 14 or newer"));
    }
    Ok(format!("PostgreSQL {major}.{minor}"))
}

async fn migrations(config: &Config) -> Finding {
    let url = config.database.url.expose();
    let status = db::migration_status(url).await.map_err(|error| (error.to_string(), "see the database check"))?;
    if !status.pending.is_empty() {
        return Err((format!("{} are pending", status.pending.len()), "run `rialto migrate up`"));
    }
    Ok(format!("all {} applied", status.applied.len()))
}

async fn clock(config: &Config) -> Finding {
    let before = Clock::default().now();
    let state = ask(config).await?;
    // The connection takes a while; the database's time lies somewhere between.
    let after = Clock::default().now();
    let skew = if state.now < before { before - state.now } else { (state.now - after).max(chrono::TimeDelta::zero()) };
    if skew > MAX_SKEW {
        return Err((format!("differs from the database's by {skew}"), "synchronise both machines, by NTP for one"));
    }
    Ok("agrees with the database's".into())
}

async fn jobs(config: &Config) -> Finding {
    let read = async {
        let db = Db::new(&config.database);
        let mut conn = db.get().await?;
        Backlog::read(&mut conn, Clock::default().now()).await
    };
    let backlog = read.await.map_err(|error| (error.to_string(), "see the checks of database and migrations"))?;
    if backlog.dead > 0 {
        let advice = "look at `SELECT kind, last_error FROM jobs WHERE state = 'dead'`, mend the cause, and let them run again: \
                      `UPDATE jobs SET state = 'ready', attempts = 0, run_at = now() WHERE state = 'dead'`";
        return Err((format!("{} are dead", backlog.dead), advice));
    }
    match backlog.due_since {
        Some(since) if Clock::default().now() - since > MAX_DELAY => {
            Err((format!("one waits since {since}"), "run `rialto worker`, and more of them if one is not enough"))
        }
        _ => Ok("none are dead, none wait".into()),
    }
}

async fn mail(config: &Config) -> Finding {
    let mailer = Mailer::new(&config.mail).map_err(|error| (error.report(), "see mail in rialto.example.toml"))?;
    match mailer.check().await {
        None => Ok("none is sent (mail.transport)".into()),
        Some(Ok(())) => Ok(format!("{} takes it", config.mail.host)),
        Some(Err(error)) => Err((error.report(), "check mail.host, port, tls, user and password")),
    }
}

async fn redis(config: &Config) -> Finding {
    let advice = "check redis.url, and that Redis runs and takes connections from here";
    let ping = async {
        let client = redis::Client::open(config.redis.url.expose())?;
        let mut conn = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<String>(&mut conn).await
    };
    match tokio::time::timeout(PATIENCE, ping).await {
        Ok(Ok(_)) => Ok("answers".into()),
        Ok(Err(error)) => Err((error.to_string(), advice)),
        Err(_) => Err(("no answer in time".into(), advice)),
    }
}

fn disk() -> Finding {
    let stat = rustix::fs::statvfs(".").map_err(|error| (error.to_string(), "check the working directory"))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let gigabytes = free as f64 / f64::from(1 << 30);
    if free < MIN_FREE_BYTES {
        return Err((format!("{gigabytes:.1} GiB free"), "make room; logs and uploads need at least 1 GiB"));
    }
    Ok(format!("{gigabytes:.1} GiB free"))
}
