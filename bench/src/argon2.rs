//! The reference for logins: nothing but the verification of a password, by as many threads as the server has permits.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Sample, Subjects};

const PASSWORD: &[u8] = b"correct horse battery staple";

/// What the stored hash of an account begins with that was made as [`serve`] makes its own.
pub const PARAMETERS: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

/// Serves until the process ends. Whoever connects says for how many milliseconds, and reads how many microseconds that
/// took and each verification did, a number a line.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        // The one that only tries whether somebody listens says nothing.
        let Ok(millis) = stream.read_u64().await else { continue };
        let numbers = tokio::task::spawn_blocking(move || verify(Duration::from_millis(millis))).await??;
        let lines: String = numbers.iter().map(|time| format!("{}\n", time.as_micros())).collect();
        stream.write_all(lines.as_bytes()).await?;
    }
}

/// How long it took in the end, and each verification.
fn verify(wall: Duration) -> Result<Vec<Duration>> {
    // As many as the server has unless it is told otherwise (`auth.password_hash_permits`).
    let permits = thread::available_parallelism()?.get();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19_456, 2, 1, None)?);
    let hash = argon2.hash_password(PASSWORD)?.to_string();
    ensure!(hash.starts_with(PARAMETERS), "{hash}");
    let started = Instant::now();
    let work = || {
        let mut times = Vec::new();
        while started.elapsed() < wall {
            let begun = Instant::now();
            let parsed = PasswordHash::new(&hash)?;
            argon2.verify_password(PASSWORD, &parsed)?;
            times.push(begun.elapsed());
        }
        anyhow::Ok(times)
    };
    let times: Result<Vec<Vec<Duration>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..permits).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked"))).collect()
    });
    Ok([vec![started.elapsed()], times?.concat()].concat())
}

/// Lets such a server verify for so long, and measures.
pub async fn run(address: SocketAddr, wall: Duration, subjects: Subjects) -> Result<Sample> {
    let verifications = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_u64(u64::try_from(wall.as_millis())?).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let numbers = text.lines().map(|line| Ok(Duration::from_micros(line.parse()?))).collect::<Result<Vec<_>>>()?;
        let (wall, latencies) = numbers.split_first().context("no verification")?;
        Ok((latencies.to_vec(), *wall))
    };
    subjects.measure(verifications).await
}
