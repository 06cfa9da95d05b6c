//! Passwords: Argon2id (RFC 9106), away from the threads that serve requests, a bounded number at a time.
//!
//! A stored hash is a PHC string. With a pepper, the password goes through HMAC-SHA-256 under a key of the configuration
//! first, and the hash begins with `pepper:` and the key's id.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Semaphore;

use super::password_policy;
use crate::kernel::config;
use crate::kernel::error::{Error, Reason};

/// Hashes and verifies.
#[derive(Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    hasher: Arc<Hasher>,
    min_chars: usize,
}

/// A password that belongs to its hash.
pub struct Match {
    /// The hash to store in place of the old one, which was made with other parameters or another pepper.
    pub rehashed: Option<String>,
}

struct Hasher {
    argon2: Argon2<'static>,
    /// The first is used, all verify.
    peppers: Vec<(String, hmac::Key)>,
    /// Stands in for the hash of an account that does not exist, so that its answer takes as long.
    nobody: String,
}

impl Passwords {
    /// With OWASP's parameters: 19 MiB, two passes, one lane.
    pub fn new(config: &config::Auth) -> Result<Self, Error> {
        let params = Params::new(19_456, 2, 1, None).map_err(|error| Error::internal("argon2 parameters", error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let permits = match config.password_hash_permits {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            permits => permits,
        };
        let mut peppers = Vec::new();
        for pepper in &config.peppers {
            let problem = |problem| Error::new(Reason::Internal, format!("auth.peppers {:?}: {problem}", pepper.id));
            let key = pepper.key_bytes().map_err(problem)?;
            peppers.push((pepper.id.clone(), hmac::Key::new(hmac::HMAC_SHA256, &key)));
        }
        let mut hasher = Hasher { argon2, peppers, nobody: String::new() };
        hasher.nobody = hasher.hash("nobody has this password")?;
        let min_chars = config.password_min_chars;
        Ok(Self { permits: Arc::new(Semaphore::new(permits)), hasher: Arc::new(hasher), min_chars })
    }

    /// The hash of a password that nobody chose.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.work(move |hasher| hasher.hash(&password)).await?
    }

    /// The hash of a new password, if it is good enough for somebody of whom this much is known. `field` is the request's.
    pub async fn hash_new(&self, field: &'static str, password: String, known: [String; 2]) -> Result<String, Error> {
        let min_chars = self.min_chars;
        let hash = move |hasher: &Hasher| {
            password_policy::check(field, &password, &known, min_chars)?;
            hasher.hash(&password)
        };
        self.work(hash).await?
    }

    /// Whether the password belongs to the hash. Without a hash the answer is no, after the same work.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<Option<Match>, Error> {
        self.work(move |hasher| {
            let matches = hasher.matches(&password, hash.as_deref().unwrap_or(&hasher.nobody))?;
            let Some(hash) = hash.filter(|_| matches) else { return Ok(None) };
            let outdated = parameters(&hash) != parameters(&hasher.nobody);
            let rehashed = if outdated { Some(hasher.hash(&password)?) } else { None };
            Ok(Some(Match { rehashed }))
        })
        .await?
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&Hasher) -> T + Send + 'static) -> Result<T, Error> {
        let stopped = |_| Error::new(Reason::ServiceUnavailable, "the server stops");
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(stopped)?;
        let hasher = Arc::clone(&self.hasher);
        tokio::task::spawn_blocking(move || {
            // The permit is held until the work ends, also when the caller has gone.
            let _permit = permit;
            work(&hasher)
        })
        .await
        .map_err(|error| Error::internal("hashing a password", error))
    }
}

impl Hasher {
    fn hash(&self, password: &str) -> Result<String, Error> {
        let (prefix, input) = match self.peppers.first() {
            Some((id, key)) => (format!("pepper:{id}"), peppered(key, password)),
            None => (String::new(), password.to_owned()),
        };
        let hash = self
            .argon2
            .hash_password(input.as_bytes())
            .map_err(|error| Error::internal("hashing a password", error))?;
        Ok(prefix + &hash.to_string())
    }

    fn matches(&self, password: &str, stored: &str) -> Result<bool, Error> {
        let (prefix, phc) = stored.split_at(stored.find('$').unwrap_or_default());
        let input = match prefix.strip_prefix("pepper:") {
            None => password.to_owned(),
            Some(id) => match self.peppers.iter().find(|(known, _)| known == id) {
                Some((_, key)) => peppered(key, password),
                None => {
                    tracing::error!(pepper = id, "a password hash needs a pepper that auth.peppers lacks");
                    return Ok(false);
                }
            },
        };
        let parsed = PasswordHash::new(phc).map_err(|error| Error::internal("a stored hash", error))?;
        Ok(self.argon2.verify_password(input.as_bytes(), &parsed).is_ok())
    }
}

fn peppered(key: &hmac::Key, password: &str) -> String {
    STANDARD_NO_PAD.encode(hmac::sign(key, password.as_bytes()))
}

/// What a hash was made with: all of it before salt and digest.
fn parameters(hash: &str) -> Option<&str> {
    hash.rsplitn(3, '$').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::config::Pepper;
    use crate::kernel::secret::Secret;

    const KEYS: [&str; 2] =
        ["5iEC1h4mHVbGthv6WAjz5WtNW0by4dJu4okz0F1iyAw=", "OFrIFmCvHScIk4bMqqmaJ0Tq5VLLWVFTB6Mx0fbKv5I="];

    /// With the peppers of these numbers.
    fn passwords(peppers: &[usize]) -> Passwords {
        let pepper = |index: &usize| Pepper { id: index.to_string(), key: Secret::new(KEYS[*index]) };
        let peppers = peppers.iter().map(pepper).collect();
        Passwords::new(&config::Auth { peppers, ..Default::default() }).unwrap()
    }

    #[tokio::test]
    async fn a_hash_moves_to_the_newest_pepper_and_parameters_when_its_password_comes_by() {
        let plain = passwords(&[]).hash("secret".into()).await.unwrap();
        assert!(plain.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{plain}");
        let verify = async |peppers: &[usize], hash: &str| {
            passwords(peppers).verify("secret".into(), Some(hash.into())).await.unwrap()
        };
        assert!(verify(&[], &plain).await.unwrap().rehashed.is_none());

        let first = verify(&[0], &plain).await.unwrap().rehashed.unwrap();
        assert!(first.starts_with("pepper:0$argon2id$"), "{first}");
        assert!(verify(&[0], &first).await.unwrap().rehashed.is_none());
        // Without its pepper the hash is worth nothing.
        assert!(verify(&[], &first).await.is_none() && verify(&[1], &first).await.is_none());

        let second = verify(&[1, 0], &first).await.unwrap().rehashed.unwrap();
        assert!(second.starts_with("pepper:1$argon2id$"), "{second}");
        let other = passwords(&[1]).verify("another".into(), Some(second)).await.unwrap();
        assert!(other.is_none());

        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let weak = weak.hash_password(b"secret").unwrap().to_string();
        let rehashed = verify(&[], &weak).await.unwrap().rehashed.unwrap();
        assert_eq!(parameters(&rehashed), parameters(&plain));
    }

    #[tokio::test]
    async fn nobody_has_a_password() {
        let passwords = passwords(&[]);
        assert!(passwords.verify("nobody has this password".into(), None).await.unwrap().is_none());
    }
}
