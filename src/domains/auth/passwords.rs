//! Passwords: Argon2id (RFC 9106), away from the threads that serve requests, a bounded number at a time.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};
use tokio::sync::Semaphore;

use crate::kernel::config;
use crate::kernel::error::{Error, Reason};

/// Hashes and verifies.
#[derive(Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    argon2: Argon2<'static>,
    /// Stands in for the hash of an account that does not exist, so that its answer takes as long.
    nobody: Arc<str>,
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
        let nobody = hash(&argon2, "nobody has this password")?.into();
        Ok(Self { permits: Arc::new(Semaphore::new(permits)), argon2, nobody })
    }

    /// The hash of a password, as a PHC string with a random salt.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.work(move |argon2| hash(argon2, &password)).await?
    }

    /// Whether the password belongs to the hash. Without a hash the answer is no, after the same work.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Error> {
        let nobody = Arc::clone(&self.nobody);
        self.work(move |argon2| {
            let stored = hash.as_deref().unwrap_or(&nobody);
            let parsed = PasswordHash::new(stored).map_err(|error| Error::internal("a stored hash", error))?;
            let matches = argon2.verify_password(password.as_bytes(), &parsed).is_ok();
            Ok(matches && hash.is_some())
        })
        .await?
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&Argon2) -> T + Send + 'static) -> Result<T, Error> {
        let stopped = |_| Error::new(Reason::ServiceUnavailable, "the server stops");
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(stopped)?;
        let argon2 = self.argon2.clone();
        tokio::task::spawn_blocking(move || {
            // The permit is held until the work ends, also when the caller has gone.
            let _permit = permit;
            work(&argon2)
        })
        .await
        .map_err(|error| Error::internal("hashing a password", error))
    }
}

fn hash(argon2: &Argon2, password: &str) -> Result<String, Error> {
    let hash =
        argon2.hash_password(password.as_bytes()).map_err(|error| Error::internal("hashing a password", error))?;
    Ok(hash.to_string())
}
