//! What must not reach production.

use super::{Config, ConfigError, Mail, MailTls, MailTransport, Pepper, SealingKey, SigningKey};
use crate::kernel::mail::Mailer;
use crate::kernel::secret::Secret;

impl Config {
    /// Refuses what must not reach production: missing values, default and weak secrets.
    pub fn require_production(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        if self.database.url.expose().is_empty() {
            problems.push("database.url is not set".into());
        }
        if self.redis.url.expose().is_empty() {
            problems.push("redis.url is not set".into());
        }
        for (name, url) in [("database.url", &self.database.url), ("redis.url", &self.redis.url)] {
            if url_password(url.expose()).is_some_and(|password| is_weak_password(&password)) {
                problems.push(format!("the password in {name} is a default or shorter than 12 characters"));
            }
        }
        if self.auth.signing_keys.is_empty() {
            problems.push("auth.signing_keys is empty; make a seed with `openssl rand -base64 32`".into());
        }
        for key in &self.auth.signing_keys {
            if let Err(problem) = key.seed_bytes() {
                problems.push(format!("auth.signing_keys {:?}: {problem}", key.id));
            }
        }
        if self.secrets.sealing_keys.is_empty() {
            problems.push("secrets.sealing_keys is empty; make a key with `openssl rand -base64 32`".into());
        }
        for key in &self.secrets.sealing_keys {
            if let Err(problem) = key.key_bytes() {
                problems.push(format!("secrets.sealing_keys {:?}: {problem}", key.id));
            }
        }
        self.auth_problems(&mut problems);
        self.mail_problems(&mut problems);
        self.security_problems(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Unfit(problems)) }
    }

    fn auth_problems(&self, problems: &mut Vec<String>) {
        problems.extend(self.auth.throttle.check().err());
        for pepper in &self.auth.peppers {
            if let Err(problem) = pepper.key_bytes() {
                problems.push(format!("auth.peppers {:?}: {problem}", pepper.id));
            }
        }
        if !(8..=64).contains(&self.auth.password_min_chars) {
            problems.push("auth.password_min_chars is not between 8 and 64".into());
        }
        if let Err(problem) = self.relying_party() {
            problems.push(problem);
        }
        if self.auth.leeway_seconds > 60 {
            problems.push("auth.leeway_seconds is more than 60".into());
        }
        if self.auth.require_verified_email && self.mail.transport == Some(MailTransport::None) {
            problems.push("auth.require_verified_email needs mail: set mail.transport to `smtp`".into());
        }
    }

    fn mail_problems(&self, problems: &mut Vec<String>) {
        let mail = &self.mail;
        match mail.transport {
            None => problems.push(
                "mail.transport is not set: `smtp`, with mail.host and mail.from, or `none` if the server is to send no mail"
                    .into(),
            ),
            Some(MailTransport::None) => {}
            Some(MailTransport::Inbox) => problems.push("mail.transport `inbox` is for `rialto dev`: set `smtp`".into()),
            Some(MailTransport::Smtp) => {
                if mail.host.is_empty() {
                    problems.push("mail.host is not set: the name of your SMTP server".into());
                }
                if mail.from == Mail::default().from {
                    problems.push("mail.from is not set: `Name <address>`, of your own domain".into());
                }
                if mail.tls == MailTls::None && !mail.user.is_empty() {
                    problems.push("mail.tls `none` would send mail.password in the clear: set `starttls` or `tls`".into());
                }
                if !self.server.public_url.starts_with("https://") {
                    problems.push("server.public_url is not an https:// address: links in mails begin with it".into());
                }
            }
        }
        if let Err(problem) = Mailer::new(mail) {
            problems.push(format!("mail: {}", problem.report()));
        }
    }

    fn security_problems(&self, problems: &mut Vec<String>) {
        problems.extend(self.security.problems());
        let security = &self.security;
        if !security.webhook_url.is_empty() && !security.webhook_url.starts_with("https://") {
            problems.push("security.webhook_url is not https://: what it is told is nobody else's business".into());
        }
        if !security.mail_to.is_empty() && self.mail.transport == Some(MailTransport::None) {
            problems.push("security.mail_to needs mail: set mail.transport to `smtp`".into());
        }
    }
}

impl SigningKey {
    /// The seed, when it is 32 bytes that look random.
    pub fn seed_bytes(&self) -> Result<[u8; 32], &'static str> {
        random_bytes(&self.seed)
    }
}

impl SealingKey {
    /// The key, when it is 32 bytes that look random.
    pub fn key_bytes(&self) -> Result<[u8; 32], &'static str> {
        random_bytes(&self.key)
    }
}

impl Pepper {
    /// The key, when it is 32 bytes that look random, and its id can be stored with a hash.
    pub fn key_bytes(&self) -> Result<[u8; 32], &'static str> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.id.is_empty() || !self.id.chars().all(is_plain) {
            return Err("the id is not of letters, digits and hyphens");
        }
        random_bytes(&self.key)
    }
}

fn random_bytes(secret: &Secret) -> Result<[u8; 32], &'static str> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(secret.expose()).ok();
    let bytes: [u8; 32] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or("it is not 32 bytes in base64")?;
    // 32 random bytes have fewer than 16 different values once in 10^12.
    let different = bytes.iter().collect::<std::collections::HashSet<_>>().len();
    if different < 16 || bytes.is_ascii() { Err("it is not random; use `openssl rand -base64 32`") } else { Ok(bytes) }
}

/// The password in a URL's authority.
fn url_password(url: &str) -> Option<String> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    let (_, password) = authority.rsplit_once('@')?.0.split_once(':')?;
    Some(password.to_owned())
}

fn is_weak_password(password: &str) -> bool {
    const DEFAULTS: [&str; 4] = ["change", "password", "postgres", "rialto"];
    let lower = password.to_lowercase();
    password.len() < 12 || DEFAULTS.iter().any(|default| lower.contains(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Config {
        let mut config = Config::default();
        config.database.url = Secret::new("postgres://app:ahz5Quoh4oocha3b@db/app");
        config.redis.url = Secret::new("redis://cache:6379");
        let seed = Secret::new("5iEC1h4mHVbGthv6WAjz5WtNW0by4dJu4okz0F1iyAw=");
        config.auth.signing_keys = vec![SigningKey { id: "a".into(), seed }];
        let key = Secret::new("OFrIFmCvHScIk4bMqqmaJ0Tq5VLLWVFTB6Mx0fbKv5I=");
        config.secrets.sealing_keys = vec![SealingKey { id: "a".into(), key }];
        config.server.public_url = "https://app.example.com".into();
        config.mail = Mail {
            transport: Some(MailTransport::Smtp),
            host: "mail.internal".into(),
            from: "App <app@example.com>".into(),
            ..Mail::default()
        };
        config
    }

    #[test]
    fn production_takes_explicit_and_random_secrets() {
        fit().require_production().unwrap();
        let no_mail = Mail { transport: Some(MailTransport::None), ..Mail::default() };
        Config { mail: no_mail, ..fit() }.require_production().unwrap();
    }

    #[test]
    fn production_refuses_missing_default_and_weak_secrets() {
        assert!(Config::default().require_production().is_err());
        let refused = |change: fn(&mut Config)| {
            let mut config = fit();
            change(&mut config);
            assert!(config.require_production().is_err());
        };
        refused(|config| config.database.url = Secret::new("postgres://postgres:postgres@db/app"));
        refused(|config| config.redis.url = Secret::new("redis://:changeme-please@cache"));
        refused(|config| config.auth.signing_keys[0].seed = Secret::new("c2hvcnQ="));
        refused(|config| config.secrets.sealing_keys.clear());
        refused(|config| config.secrets.sealing_keys[0].key = Secret::new("c2hvcnQ="));
        refused(|config| config.auth.password_min_chars = 7);
        refused(|config| config.auth.leeway_seconds = 61);
        refused(|config| config.auth.peppers = vec![Pepper { id: "a".into(), key: Secret::new("short") }]);
        refused(|config| {
            config.auth.require_verified_email = true;
            config.mail.transport = Some(MailTransport::None);
        });
        refused(|config| config.auth.passkeys.origins = vec!["http://app.example.com".into()]);
        refused(|config| config.security.mail_to = vec!["no address".into()]);
        refused(|config| {
            config.security.webhook_url = "http://example.com/hook".into();
            config.security.webhook_secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        });
        refused(|config| config.mail.transport = None);
        refused(|config| config.mail.transport = Some(MailTransport::Inbox));
        refused(|config| config.mail.host = String::new());
        refused(|config| config.mail.from = "no address".into());
        refused(|config| config.server.public_url = "http://app.example.com".into());
        refused(|config| (config.mail.tls, config.mail.user) = (MailTls::None, "app".into()));
        let ascii = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
        assert!(SigningKey { id: "a".into(), seed: Secret::new(ascii) }.seed_bytes().is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        let printed = format!("{:?} {}", fit(), serde_json::to_string(&fit()).unwrap());
        assert!(!printed.contains("ahz5Quoh4oocha3b") && !printed.contains("5iEC1h4m"), "{printed}");
        assert!(!printed.contains("OFrIFmCv"), "{printed}");
    }
}
