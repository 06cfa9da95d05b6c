//! How guessing of passwords and codes is slowed down. `docs/throttling.md` has the tables that the defaults make.

use serde::{Deserialize, Serialize};

/// No account may take this many wrong guesses in a row: NIST SP 800-63B-4, section 3.2.2, draws the line at 100.
const MOST_FAILURES: u32 = 90;

/// After so many free failures each one delays the next attempt, for `first_delay_seconds` and twice as long each time.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// Failures without a delay on an account, from all clients that it does not know together.
    pub account_free_failures: u32,
    /// The same from one client address.
    pub pair_free_failures: u32,
    /// The same from a device that the account knows, or in one session.
    pub device_free_failures: u32,
    /// The same from one client address, for all accounts together.
    pub address_free_failures: u32,
    /// The first delay.
    pub first_delay_seconds: u32,
    /// The longest delay, before the lock.
    pub max_delay_seconds: u32,
    /// The longest delay of an address.
    pub address_max_delay_seconds: u32,
    /// After so many failures an account is locked for clients that it does not know: 2 to 90.
    pub account_max_failures: u32,
    /// After so many failures a known device, or a session, is locked: 2 to 90.
    pub device_max_failures: u32,
    /// How long the first lock lasts. Each failure after it locks for twice as long.
    pub lock_seconds: u32,
    /// When nobody fails for so long after a delay, one failure is forgotten, and then another one.
    pub forget_seconds: u32,
    /// The same for addresses.
    pub address_forget_seconds: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            account_free_failures: 10,
            pair_free_failures: 3,
            device_free_failures: 5,
            address_free_failures: 20,
            first_delay_seconds: 30,
            max_delay_seconds: 3600,
            address_max_delay_seconds: 15 * 60,
            account_max_failures: 40,
            device_max_failures: 20,
            lock_seconds: 30 * 24 * 3600,
            forget_seconds: 7 * 24 * 3600,
            address_forget_seconds: 15 * 60,
        }
    }
}

impl Throttle {
    /// What makes these settings unsafe, if anything does. Names the setting.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("auth.throttle.{name} is not between {least} and {most}"))
            }
        };
        const HOUR: u32 = 3600;
        const YEAR: u32 = 365 * 24 * HOUR;
        within("account_max_failures", self.account_max_failures, 2, MOST_FAILURES)?;
        within("device_max_failures", self.device_max_failures, 2, MOST_FAILURES)?;
        within("account_free_failures", self.account_free_failures, 1, self.account_max_failures - 1)?;
        within("pair_free_failures", self.pair_free_failures, 1, self.account_free_failures)?;
        within("device_free_failures", self.device_free_failures, 1, self.device_max_failures - 1)?;
        within("address_free_failures", self.address_free_failures, 1, 1_000_000)?;
        within("first_delay_seconds", self.first_delay_seconds, 1, HOUR)?;
        within("max_delay_seconds", self.max_delay_seconds, self.first_delay_seconds, 24 * HOUR)?;
        within("address_max_delay_seconds", self.address_max_delay_seconds, self.first_delay_seconds, 24 * HOUR)?;
        within("lock_seconds", self.lock_seconds, self.max_delay_seconds, YEAR)?;
        within("forget_seconds", self.forget_seconds, 24 * HOUR, YEAR)?;
        within("address_forget_seconds", self.address_forget_seconds, 60, YEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_let_too_many_guesses_through_are_refused_by_name() {
        assert_eq!(Throttle::default().check(), Ok(()));
        let refused = |change: fn(&mut Throttle), name: &str| {
            let mut throttle = Throttle::default();
            change(&mut throttle);
            let problem = throttle.check().unwrap_err();
            assert!(problem.starts_with(&format!("auth.throttle.{name} is not between ")), "{problem}");
        };
        refused(|throttle| throttle.account_max_failures = 100, "account_max_failures");
        refused(|throttle| throttle.device_max_failures = 1, "device_max_failures");
        refused(|throttle| throttle.account_free_failures = 40, "account_free_failures");
        refused(|throttle| throttle.pair_free_failures = 0, "pair_free_failures");
        refused(|throttle| throttle.pair_free_failures = 11, "pair_free_failures");
        refused(|throttle| throttle.first_delay_seconds = 0, "first_delay_seconds");
        refused(|throttle| throttle.max_delay_seconds = 29, "max_delay_seconds");
        refused(|throttle| throttle.lock_seconds = 60, "lock_seconds");
        refused(|throttle| throttle.forget_seconds = 60, "forget_seconds");
        refused(|throttle| throttle.address_forget_seconds = 0, "address_forget_seconds");
    }
}
