//! Settings of security monitoring.

use http::Uri;
use lettre::Address;
use serde::{Deserialize, Serialize};

use crate::kernel::error::{Error, Reason};
use crate::kernel::secret::Secret;
use crate::kernel::security::{Kind, kind_name};

/// Security events and alerts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// How many days events, changes of alerts, and alerts that nothing is added to are kept.
    pub event_days: u32,
    /// Rows of events that a node writes in a minute. What is beyond is only counted.
    pub rows_per_minute: usize,
    /// From so many networks an account may be used within `travel_seconds`. One more is an event.
    pub travel_networks: usize,
    /// See `travel_networks`.
    pub travel_seconds: u32,
    /// Who gets mail when an alert is raised or gets worse.
    pub mail_to: Vec<String>,
    /// From which severity on.
    pub mail_severity: Severity,
    /// What gets a call when an alert is raised or gets worse; empty for nothing.
    pub webhook_url: String,
    /// What signs these calls: `whsec_` and 24 to 64 random bytes in base64.
    pub webhook_secret: Secret,
    /// From which severity on.
    pub webhook_severity: Severity,
    /// How many events raise an alert.
    pub thresholds: Thresholds,
}

/// How bad an alert is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low = 1,
    /// Worth a look.
    Medium = 2,
    /// Look now.
    High = 3,
    /// Act now.
    Critical = 4,
}

/// How many events of one kind about one subject raise an alert. 0 never does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Threshold {
    /// Within so many seconds.
    pub seconds: u32,
    /// For this severity.
    pub low: u32,
    /// For this severity.
    pub medium: u32,
    /// For this severity.
    pub high: u32,
    /// For this severity.
    pub critical: u32,
}

/// Thresholds by kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Failed logins to one account or e-mail address.
    pub login_failed: Threshold,
    /// Failed logins from one client address, to whatever accounts.
    pub login_failed_by_address: Threshold,
    /// Wrong passwords of somebody who is logged in.
    pub confirmation_failed: Threshold,
    /// Wrong codes after the right password.
    pub two_factor_failed: Threshold,
    /// Calls of one account without permission.
    pub access_denied: Threshold,
    /// Calls from one client address without good credentials.
    pub unauthenticated: Threshold,
    /// Refresh tokens of one account that were used twice.
    pub refresh_token_reused: Threshold,
    /// How often one account was locked.
    pub account_locked: Threshold,
    /// Changes of what one account may do.
    pub privilege_changed: Threshold,
    /// How often one account was suspended.
    pub account_suspended: Threshold,
    /// How often one account lost its second factor to an administrator.
    pub two_factor_reset: Threshold,
    /// Networks of one account beyond `travel_networks`.
    pub impossible_travel: Threshold,
    /// Passkeys of one account that behave as copies do.
    pub passkey_anomaly: Threshold,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            event_days: 90,
            rows_per_minute: 500,
            travel_networks: 4,
            travel_seconds: 3600,
            mail_to: Vec::new(),
            mail_severity: Severity::High,
            webhook_url: String::new(),
            webhook_secret: Secret::default(),
            webhook_severity: Severity::Low,
            thresholds: Thresholds::default(),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        let within =
            |seconds, [low, medium, high, critical]: [u32; 4]| Threshold { seconds, low, medium, high, critical };
        Self {
            login_failed: within(600, [10, 20, 50, 200]),
            login_failed_by_address: within(600, [20, 50, 200, 1000]),
            confirmation_failed: within(900, [3, 5, 10, 0]),
            two_factor_failed: within(900, [3, 5, 10, 20]),
            access_denied: within(600, [20, 100, 500, 0]),
            unauthenticated: within(600, [200, 1000, 5000, 0]),
            refresh_token_reused: within(86_400, [0, 0, 1, 3]),
            account_locked: within(3600, [0, 1, 5, 20]),
            privilege_changed: within(3600, [1, 10, 50, 0]),
            account_suspended: within(3600, [0, 0, 0, 0]),
            two_factor_reset: within(86_400, [0, 1, 2, 0]),
            impossible_travel: within(86_400, [0, 1, 4, 0]),
            passkey_anomaly: within(86_400, [0, 0, 1, 3]),
        }
    }
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Threshold {
    /// What so many events are.
    pub fn severity(&self, count: i64) -> Option<Severity> {
        let reached = |(threshold, _): &(u32, Severity)| *threshold > 0 && count >= i64::from(*threshold);
        self.steps().into_iter().rev().find(reached).map(|(_, severity)| severity)
    }

    fn steps(&self) -> [(u32, Severity); 4] {
        [
            (self.low, Severity::Low),
            (self.medium, Severity::Medium),
            (self.high, Severity::High),
            (self.critical, Severity::Critical),
        ]
    }

    fn problem(&self) -> Option<&'static str> {
        if !(60..=7 * 86_400).contains(&self.seconds) {
            return Some("seconds is not between a minute and a week");
        }
        let steps = self.steps().map(|(threshold, _)| threshold);
        let set = steps.iter().filter(|threshold| **threshold > 0).collect::<Vec<_>>();
        (!set.is_sorted_by(|one, next| one < next)).then_some("a worse severity does not need more events")
    }
}

impl Thresholds {
    /// Those of a kind; `by_address` for what comes from one client address, to whatever subjects.
    pub fn of(&self, kind: Kind, by_address: bool) -> Threshold {
        match kind {
            Kind::Unspecified => Threshold::default(),
            Kind::LoginFailed if by_address => self.login_failed_by_address,
            Kind::LoginFailed => self.login_failed,
            Kind::ConfirmationFailed => self.confirmation_failed,
            Kind::TwoFactorFailed => self.two_factor_failed,
            Kind::AccessDenied => self.access_denied,
            Kind::Unauthenticated => self.unauthenticated,
            Kind::RefreshTokenReused => self.refresh_token_reused,
            Kind::AccountLocked => self.account_locked,
            Kind::PrivilegeChanged => self.privilege_changed,
            Kind::AccountSuspended => self.account_suspended,
            Kind::TwoFactorReset => self.two_factor_reset,
            Kind::ImpossibleTravel => self.impossible_travel,
            Kind::PasskeyAnomaly => self.passkey_anomaly,
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for number in 1.. {
            let Ok(kind) = Kind::try_from(number) else { break };
            if let Some(problem) = self.of(kind, false).problem() {
                problems.push(format!("security.thresholds.{}: {problem}", kind_name(kind)));
            }
        }
        if let Some(problem) = self.login_failed_by_address.problem() {
            problems.push(format!("security.thresholds.login_failed_by_address: {problem}"));
        }
        problems
    }
}

impl Security {
    /// Refuses what makes no sense. Every server and worker asks this when it starts.
    pub fn check(&self) -> Result<(), Error> {
        match self.problems().as_slice() {
            [] => Ok(()),
            problems => Err(Error::new(Reason::Internal, problems.join("; "))),
        }
    }

    /// What makes no sense.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.thresholds.problems();
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.into());
            }
        };
        require((7..=3650).contains(&self.event_days), "security.event_days is not between 7 and 3650");
        require((10..=2000).contains(&self.rows_per_minute), "security.rows_per_minute is not between 10 and 2000");
        require((1..=100).contains(&self.travel_networks), "security.travel_networks is not between 1 and 100");
        require(
            (60..=86_400).contains(&self.travel_seconds),
            "security.travel_seconds is not between a minute and a day",
        );
        require(self.mail_to.len() <= 20, "security.mail_to has more than 20 addresses");
        let addresses = self.mail_to.iter().all(|address| address.parse::<Address>().is_ok());
        require(addresses, "security.mail_to has something that is no e-mail address");
        if !self.webhook_url.is_empty() {
            require(
                self.webhook().is_some(),
                "security.webhook_url is not http:// or https:// without user and password",
            );
            let fit = self.webhook_key().is_some();
            require(
                fit,
                "security.webhook_secret is not whsec_ and 24 to 64 bytes in base64; make one with \
                 `echo whsec_$(openssl rand -base64 32)`",
            );
        }
        problems
    }

    /// Where webhooks go.
    pub fn webhook(&self) -> Option<Uri> {
        let uri: Uri = self.webhook_url.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        (known && plain).then_some(uri)
    }

    /// The key in `webhook_secret`.
    pub fn webhook_key(&self) -> Option<Vec<u8>> {
        use base64::Engine;
        let encoded = self.webhook_secret.expose().strip_prefix("whsec_")?;
        let key = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        (24..=64).contains(&key.len()).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        Security::default().check().unwrap();
    }

    #[test]
    fn a_count_is_as_bad_as_the_highest_step_that_it_reaches() {
        let threshold = Threshold { seconds: 60, low: 3, medium: 0, high: 5, critical: 9 };
        let at = |count| threshold.severity(count).map(Severity::name);
        assert_eq!(
            [2, 3, 4, 5, 8, 9].map(at),
            [None, Some("low"), Some("low"), Some("high"), Some("high"), Some("critical")]
        );
        assert_eq!(Threshold::default().severity(1_000_000), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        let refused = |name: &str, change: fn(&mut Security)| {
            let mut security = Security::default();
            change(&mut security);
            let error = security.check().unwrap_err().message.into_owned();
            assert!(error.contains(name), "{error}");
        };
        refused("security.event_days", |security| security.event_days = 0);
        refused("security.rows_per_minute", |security| security.rows_per_minute = 1_000_000);
        refused("security.travel_networks", |security| security.travel_networks = 0);
        refused("security.travel_seconds", |security| security.travel_seconds = 1);
        refused("security.mail_to", |security| security.mail_to = vec!["ann".into()]);
        refused("thresholds.access_denied", |security| security.thresholds.access_denied.seconds = 0);
        refused("thresholds.login_failed:", |security| security.thresholds.login_failed.low = 20);
        refused("login_failed_by_address", |security| security.thresholds.login_failed_by_address.high = 1);
        let fit = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for (url, secret, name) in [
            ("https://example.com/hook", "", "webhook_secret"),
            ("https://example.com/hook", "whsec_c2hvcnQ=", "webhook_secret"),
            ("ftp://example.com/hook", fit, "webhook_url"),
            ("/hook", fit, "webhook_url"),
            ("https://ann:secret@example.com/hook", fit, "webhook_url"),
        ] {
            let security =
                Security { webhook_url: url.into(), webhook_secret: Secret::new(secret), ..Security::default() };
            assert!(security.problems().concat().contains(name), "{url}");
        }
    }
}
