//! Time-based one-time passwords: RFC 6238 on RFC 4226, with SHA-1, 6 digits and steps of 30 seconds, which is what every
//! authenticator can do. SHA-1's collisions do not touch HMAC (RFC 4226, appendix B.2).

use chrono::{DateTime, Utc};
use totp_rs::{Builder, Totp};

use crate::kernel::config;
use crate::kernel::error::{Error, Reason};
use crate::kernel::policy::BUILT_IN;

/// As RFC 4226, section 4 (R6) recommends.
pub const SECRET_BYTES: usize = 20;

/// The one-time passwords of a secret.
pub struct Codes(Totp);

impl Codes {
    /// Of this secret.
    pub fn new(secret: &[u8], config: &config::TwoFactor) -> Result<Self, Error> {
        Self::build(Builder::new().with_secret(secret.to_vec()).with_skew(config.skew_steps))
    }

    /// Of this secret, for the authenticator of this account.
    pub fn labelled(secret: &[u8], email: &str, config: &config::TwoFactor) -> Result<Self, Error> {
        let builder = Builder::new().with_secret(secret.to_vec()).with_skew(config.skew_steps);
        Self::build(builder.with_issuer(Some(config.issuer.as_str())).with_account_name(email))
    }

    fn build(builder: Builder) -> Result<Self, Error> {
        let codes = builder.build().map_err(|_| Error::new(Reason::Internal, "a TOTP secret can't be used"))?;
        Ok(Self(codes))
    }

    /// The time step that a code belongs to, if it is one of those that count now. Whether it was used is another question.
    pub fn step(&self, code: &str, now: DateTime<Utc>) -> Option<i64> {
        let seconds = u64::try_from(now.timestamp()).ok()?;
        i64::try_from(self.0.check(code, seconds)?).ok()
    }

    /// The secret in base32 (RFC 4648).
    pub fn secret(&self) -> String {
        self.0.secret().to_base32()
    }

    /// The secret and the names of issuer and account, in the URI format that authenticators read.
    pub fn uri(&self) -> Result<String, Error> {
        self.0.to_url().map_err(|_| Error::new(Reason::Internal, "an otpauth URI can't be made"))
    }
}

/// Refuses settings that make codes weak, URIs ambiguous or roles unprotected.
pub fn check_config(config: &config::TwoFactor) -> Result<(), Error> {
    let bad = |what| Err(Error::new(Reason::Internal, what));
    if config.skew_steps > 2 {
        return bad("two_factor.skew_steps must be at most 2");
    }
    if config.issuer.is_empty() || config.issuer.len() > 64 || config.issuer.contains(':') {
        return bad("two_factor.issuer must have 1 to 64 bytes and no colon");
    }
    // A role that is written wrong would protect nobody.
    let known = |role: &String| BUILT_IN.iter().any(|(_, name)| name == role);
    if !config.required_roles.iter().all(known) {
        return bad("two_factor.required_roles must be of user, moderator, support and admin");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn codes(skew_steps: u16) -> Codes {
        let config = config::TwoFactor { skew_steps, ..Default::default() };
        Codes::new(b"12345678901234567890", &config).unwrap()
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        // RFC 6238, appendix B, the last six of its eight digits.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(codes(0).step(code, at(seconds)), Some(seconds / 30), "{seconds}");
        }
        // RFC 4226, appendix D: the counter is the step.
        for (step, code) in
            ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
                .into_iter()
                .enumerate()
        {
            let step = i64::try_from(step).unwrap();
            assert_eq!(codes(0).step(code, at(step * 30)), Some(step));
        }
    }

    #[test]
    fn a_code_counts_for_as_many_steps_around_its_own_as_configured() {
        // "254676" belongs to step 5.
        for skew in 0..=2 {
            for step in 1..10_i64 {
                let counts = codes(skew).step("254676", at(step * 30 + 29));
                assert_eq!(counts, (step.abs_diff(5) <= u64::from(skew)).then_some(5), "{skew} {step}");
            }
        }
    }

    #[test]
    fn what_is_not_six_digits_is_no_code() {
        for text in ["", "25467", "2546760", "+54676", "25467a", "２５４６７６", "254676\0"] {
            assert_eq!(codes(1).step(text, at(150)), None, "{text:?}");
        }
    }

    #[test]
    fn the_uri_names_issuer_account_and_secret() {
        let config = config::TwoFactor { issuer: "My House".into(), ..Default::default() };
        let codes = Codes::labelled(b"12345678901234567890", "ann+1@example.com", &config).unwrap();
        assert_eq!(
            codes.uri().unwrap(),
            "otpauth://totp/My%20House:ann%2B1%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=My%20House"
        );
        assert_eq!(codes.secret(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }
}
