use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::identity::{Identity, find_user};
use super::layout::DataDir;
use super::redis::Redis;
use super::{Options, PrivatePostgres, PrivateRedis, Services, ServicesError};
use super::{binaries, postgres};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rialto-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o711).create(&path).unwrap();
        Self(path)
    }

    fn volatile(&self) -> Options {
        Options { data_dir: self.0.join("data"), durable: false }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn start(options: Options) -> Services {
    Services::start(options, |_| {}).unwrap()
}

/// The folder with PostgreSQL's socket, from its URL.
fn socket_folder(url: &str) -> PathBuf {
    let host = url.split(['@', '/']).nth(3).unwrap();
    PathBuf::from(host.replace("%2F", "/"))
}

/// The first column of each row that `sql` answers.
fn query(url: &str, sql: &str) -> Vec<String> {
    let mut stream = UnixStream::connect(socket_folder(url).join(".s.PGSQL.5432")).unwrap();
    assert!(matches!(postgres::login(&mut stream).unwrap(), postgres::Answer::Ready));
    stream.write_all(b"Q").unwrap();
    stream.write_all(&u32::try_from(sql.len() + 5).unwrap().to_be_bytes()).unwrap();
    stream.write_all(format!("{sql}\0").as_bytes()).unwrap();
    let mut rows = Vec::new();
    loop {
        let (kind, body) = postgres::read_message(&mut stream).unwrap();
        match kind {
            b'D' => rows.push(String::from_utf8_lossy(&body[6..]).into_owned()),
            b'E' => panic!("{sql}: {}", String::from_utf8_lossy(&body)),
            b'Z' => return rows,
            _ => {}
        }
    }
}

#[test]
fn reads_the_version_of_postgres() {
    let version = |text| binaries::major_version(text);
    assert_eq!(version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
    assert_eq!(version("postgres (PostgreSQL) 19beta1\n"), Some(19));
    assert_eq!(version("something else"), None);
}

#[test]
fn names_the_install_command_of_the_distribution() {
    let command = binaries::install_command_for;
    assert_eq!(command("ID=debian"), "sudo apt-get install -y postgresql redis-server");
    assert_eq!(command("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), command("ID=debian"));
    assert_eq!(
        command("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\""),
        "sudo dnf install -y postgresql-server redis"
    );
    assert_eq!(command("ID=fedora\nVERSION_ID=43"), "sudo dnf install -y postgresql-server valkey");
    assert!(command("").contains("package manager"));
}

#[test]
fn never_drops_to_root() {
    let users = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:admin:/var/lib:/bin/sh\n";
    let postgres = Identity::User { name: "postgres".to_owned(), uid: 101, gid: 104 };
    assert_eq!(find_user(users, "postgres"), Some(postgres));
    assert_eq!(find_user(users, "root"), None);
    assert_eq!(find_user(users, "nobody"), None);
}

#[test]
fn a_second_start_is_refused_and_data_survives_a_restart() {
    let folder = Folder::new();
    let services = start(folder.volatile());
    assert!(services.created());
    query(services.database_url(), "CREATE TABLE kept AS SELECT 'yes' AS answer");

    let refused = Services::start(folder.volatile(), |_| {}).unwrap_err();
    let us = std::process::id();
    assert!(matches!(refused, ServicesError::Locked { pid: Some(pid), .. } if pid == us));

    services.stop().unwrap();
    // As after a crash, with the number of the server that was now somebody else's.
    let other = DataDir::open(&folder.0.join("other")).unwrap();
    let other = Redis::spawn(&other, mpsc::unbounded_channel().0, |_| {}).unwrap();
    let pid = other.pid().unwrap().as_raw_nonzero();
    let cluster = folder.0.join("data/postgres/data");
    let stale = format!("{pid}\n{}\n1\n5432\n", cluster.display());
    fs::write(cluster.join("postmaster.pid"), stale).unwrap();

    let services = start(Options { durable: true, ..folder.volatile() });
    assert!(!services.created());
    assert_eq!(query(services.database_url(), "SELECT answer FROM kept"), ["yes"]);
    assert_eq!(query(services.database_url(), "SHOW fsync"), ["on"]);
}

#[tokio::test]
async fn a_child_that_dies_is_reported() {
    let folder = Folder::new();
    let mut services = start(folder.volatile());
    rustix::process::kill_process(services.redis.pid().unwrap(), Signal::KILL).unwrap();
    let failure = tokio::time::timeout(Duration::from_secs(5), services.failed()).await.unwrap();
    assert_eq!(failure.service, "Redis");
    assert!(failure.status.contains("SIGKILL"), "{failure}");
    assert!(!failure.tail.is_empty());

    rustix::process::kill_process(services.postgres.pid().unwrap(), Signal::QUIT).unwrap();
    let failure = tokio::time::timeout(Duration::from_secs(5), services.failed()).await.unwrap();
    assert_eq!(failure.service, "PostgreSQL");
}

/// Asks something of a server that is paused, which answers only when it goes on.
fn assert_paused(mut session: UnixStream, question: &[u8], pause: impl Fn(bool)) {
    use std::io::Read;
    pause(true);
    session.write_all(question).unwrap();
    session.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silence = session.read(&mut [0; 1]).unwrap_err();
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock);
    pause(false);
    session.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(session.read(&mut [0; 1]).unwrap(), 1);
}

#[test]
fn a_paused_server_says_nothing_until_it_goes_on() {
    let folder = Folder::new();
    let redis = PrivateRedis::start(&folder.0.join("redis")).unwrap();
    let socket = redis.url().strip_prefix("redis+unix://").unwrap().to_owned();
    assert_paused(UnixStream::connect(socket).unwrap(), b"PING\r\n", |paused| redis.pause(paused));

    let postgres = PrivatePostgres::start(&folder.0.join("postgres"), false).unwrap();
    // Its session is served by a process of its own.
    let mut session = UnixStream::connect(socket_folder(postgres.url()).join(".s.PGSQL.5432")).unwrap();
    assert!(matches!(postgres::login(&mut session).unwrap(), postgres::Answer::Ready));
    assert_paused(session, b"Q\0\0\0\x0dSELECT 1\0", |paused| postgres.pause(paused));
}

#[test]
fn a_killed_server_comes_back_at_the_same_address() {
    let folder = Folder::new();
    let mut redis = PrivateRedis::start(&folder.0.join("redis")).unwrap();
    let socket = PathBuf::from(redis.url().strip_prefix("redis+unix://").unwrap());
    redis.kill();
    assert!(UnixStream::connect(&socket).is_err());
    redis.start_again().unwrap();
    assert!(UnixStream::connect(&socket).is_ok());
    redis.kill();
    redis.stop().unwrap();
    PrivateRedis::start(&folder.0.join("redis")).unwrap().stop().unwrap();

    let mut postgres = PrivatePostgres::start(&folder.0.join("postgres"), false).unwrap();
    query(postgres.url(), "CREATE TABLE kept AS SELECT 1 AS answer");
    let session = UnixStream::connect(socket_folder(postgres.url()).join(".s.PGSQL.5432"));
    postgres.kill();
    postgres.start_again().unwrap();
    drop(session);
    assert_eq!(query(postgres.url(), "SELECT answer FROM kept"), ["1"]);
    postgres.stop().unwrap();
}

#[test]
fn sockets_of_a_long_path_are_elsewhere() {
    let folder = Folder::new();
    let long = folder.0.join("long".repeat(30));
    let redis = PrivateRedis::start(&long).unwrap();
    let socket = PathBuf::from(redis.url().strip_prefix("redis+unix://").unwrap());
    assert!(!socket.starts_with(&long), "{}", socket.display());
    assert!(UnixStream::connect(&socket).is_ok());
    redis.stop().unwrap();
    assert!(!Path::new(&socket).exists());
    fs::remove_dir(socket.parent().unwrap()).unwrap();
}
