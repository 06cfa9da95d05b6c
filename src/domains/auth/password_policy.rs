//! Which new passwords are good enough (NIST SP 800-63B-4, section 3.1.1.2): long enough, not among the most common, not
//! easy to guess. They are taken as they are, and no mixture of characters is asked for.

use std::collections::HashSet;
use std::sync::LazyLock;

use zxcvbn::Score;

use crate::kernel::error::Error;

/// The file says where it is from.
static COMMON: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("common-passwords.txt").lines().filter(|line| !line.starts_with("#!")).collect());

/// Refuses a password, naming the field. `known` is what an attacker would try first: e-mail address and name.
pub fn check(field: &'static str, password: &str, known: &[String], min_chars: usize) -> Result<(), Error> {
    // The contract has seen to the 8 to 256 characters that every server wants.
    if password.chars().take(min_chars).count() < min_chars {
        return Err(Error::invalid_field(field, format!("must have at least {min_chars} characters")));
    }
    let lower = password.to_lowercase();
    if COMMON.contains(lower.as_str()) {
        return Err(Error::invalid_field(field, "is one of the most common passwords"));
    }
    let is_part_of_known = known.iter().any(|known| known.to_lowercase().contains(&lower));
    let mut inputs: Vec<&str> = known.iter().map(String::as_str).collect();
    // What comes before the @, and each word.
    inputs.extend(known.iter().filter_map(|known| known.split('@').next()));
    inputs.extend(known.iter().flat_map(|known| known.split(|c: char| !c.is_alphanumeric())));
    // 10^8 guesses and more: safe from guessing online, also by many.
    if is_part_of_known || zxcvbn::zxcvbn(password, &inputs).score() < Score::Three {
        return Err(Error::invalid_field(field, "is too easy to guess"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(password: &str, min_chars: usize) -> Option<String> {
        let known = ["marianne.fischer@example.com".to_owned(), "Marianne Fischer".to_owned()];
        let error = check("new_password", password, &known, min_chars).err()?;
        assert_eq!(error.violations[0].field, "new_password");
        Some(error.violations[0].description.clone())
    }

    #[test]
    fn the_list_has_ten_thousand() {
        assert_eq!(COMMON.len(), 10_000);
    }

    #[test]
    fn common_short_and_guessable_passwords_are_refused() {
        for common in ["password", "PASSWORD", "trustno1", "qwertyuiop"] {
            assert_eq!(refusal(common, 8).as_deref(), Some("is one of the most common passwords"), "{common}");
        }
        for guessable in
            ["aaaaaaaaaaaa", "Marianne.Fischer", "marianne.fischer1", "Marianne2024", "fischer@example", "abcdefghijkl"]
        {
            assert_eq!(refusal(guessable, 8).as_deref(), Some("is too easy to guess"), "{guessable}");
        }
        assert_eq!(refusal("h7-Kq.92z", 15).as_deref(), Some("must have at least 15 characters"));
        for good in ["correct horse battery", "passwörd with ünicode", "h7-Kq.92z!mZ"] {
            assert_eq!(refusal(good, 8), None, "{good}");
        }
    }
}
