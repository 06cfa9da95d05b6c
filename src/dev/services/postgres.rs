//! The private PostgreSQL: made once, started, asked whether it is ready, stopped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedSender;

use super::binaries::{self, PostgresBinaries};
use super::child::Child;
use super::error::{At, ServiceFailure, ServicesError};
use super::identity::{Identity, Ties};
use super::layout::{self, DataDir, LogPlace, url_encode};
use super::{POLL, RECOVERY_DEADLINE, START_DEADLINE};

const NAME: &str = "PostgreSQL";
const ROLE: &str = "rialto";
const DATABASE: &str = "rialto";
const SOCKET: &str = ".s.PGSQL.5432";
const SOCKET_LOCK: &str = ".s.PGSQL.5432.lock";
const PROCESSES: [&str; 3] = ["postgres", "postmaster", "initdb"];

const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "max_connections=200",
    "shared_buffers=128MB",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_checkpoints=off",
];

/// What is committed survives the death of the server's processes, but not that of the machine. `synchronous_commit` stays on
/// for the former: without `fsync` it costs next to nothing.
const VOLATILE_SETTINGS: [&str; 6] = [
    "fsync=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=2GB",
    "checkpoint_timeout=30min",
];

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Postgres {
    child: Child,
    log: LogPlace,
    sockets: PathBuf,
    url: String,
    created: bool,
}

impl Postgres {
    /// Makes the cluster if there is none, starts the server and returns when it answers.
    pub(super) fn start(
        data: &DataDir,
        durable: bool,
        failures: UnboundedSender<ServiceFailure>,
        progress: impl Fn(&str),
    ) -> Result<Self, ServicesError> {
        let cluster = Cluster::open(data, durable, &progress)?;
        let created = cluster.ensure(&progress)?;
        let sockets = data.socket_folder("postgres", &cluster.identity)?;
        // Its process has gone, see `disown_stale_pid`.
        fs::remove_file(sockets.join(SOCKET_LOCK)).or_else(absent_is_fine).at("remove the lock in", &sockets)?;
        let log = data.log("postgres")?;
        let place = log.place();
        let mut command = binaries::command(&cluster.binaries.postgres);
        command.arg("-D").arg(cluster.data()).arg("-k").arg(&sockets);
        for setting in SETTINGS.iter().chain(cluster.durability()) {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.handle()?).stderr(log.handle()?);
        let on_exit = {
            let place = place.clone();
            move |status: std::process::ExitStatus| drop(failures.send(failure(&place, &status.to_string())))
        };
        // An interrupt is PostgreSQL's fast shutdown: it ends sessions and writes a checkpoint.
        let ties = Ties { death_signal: Signal::INT, own_session: true };
        let child = Child::spawn(command, &cluster.identity, ties, Some(&cluster.folder), on_exit)
            .at("start", &cluster.binaries.postgres)?;
        let url = url(&sockets, DATABASE);
        let server = Self { child, log: place, sockets, url, created };
        server.wait_ready(&progress)?;
        Ok(server)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn url_for(&self, database: &str) -> String {
        url(&self.sockets, database)
    }

    pub(super) fn created(&self) -> bool {
        self.created
    }

    pub(super) fn begin_stop(&self) {
        self.child.expect_exit();
        self.child.signal(Signal::INT);
    }

    pub(super) fn stop(&self) -> Result<(), ServicesError> {
        self.begin_stop();
        // A last checkpoint may have much to write.
        let steps = [(Duration::from_secs(30), Signal::QUIT), (Duration::from_secs(5), Signal::KILL)];
        match self.child.see_off(&steps) {
            true => Ok(()),
            false => Err(ServicesError::Killed { service: NAME }),
        }
    }

    /// As if the machine had failed.
    pub(super) fn kill(&self) {
        self.child.expect_exit();
        self.child.signal(Signal::KILL);
        self.child.wait(Duration::from_secs(5));
    }

    /// Stops its processes where they are, or lets them go on.
    pub(super) fn pause(&self, paused: bool) {
        self.child.signal_family(if paused { Signal::STOP } else { Signal::CONT });
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<rustix::process::Pid> {
        self.child.pid()
    }

    fn wait_ready(&self, progress: impl Fn(&str)) -> Result<(), ServicesError> {
        let started = Instant::now();
        let mut recovering = false;
        loop {
            if let Some(status) = self.child.exited() {
                return Err(failure(&self.log, &status.to_string()).into());
            }
            let last = match self.answer() {
                Ok(Answer::Ready) => return Ok(()),
                Ok(Answer::Starting(message)) => {
                    if !recovering && started.elapsed() > Duration::from_secs(1) {
                        progress("PostgreSQL is recovering from an unclean stop…");
                        recovering = true;
                    }
                    message
                }
                Ok(Answer::Refused(message)) => message,
                Err(error) => error.to_string(),
            };
            let patience = if recovering { RECOVERY_DEADLINE } else { START_DEADLINE };
            if started.elapsed() > patience {
                let (log, seconds) = (self.log.path.clone(), patience.as_secs());
                return Err(ServicesError::NotReady { service: NAME, seconds, last, log });
            }
            thread::sleep(POLL);
        }
    }

    /// Logs in, over the wire protocol; that needs no client to be installed.
    fn answer(&self) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(self.sockets.join(SOCKET))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        login(&mut stream)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // There is nobody to tell.
        self.stop().ok();
    }
}

pub(super) enum Answer {
    Ready,
    /// It says that it is coming up (or recovering).
    Starting(String),
    Refused(String),
}

pub(super) fn login(stream: &mut UnixStream) -> io::Result<Answer> {
    const PROTOCOL: i32 = 196_608;
    let parameters = format!("user\0{ROLE}\0database\0{DATABASE}\0\0");
    let length = i32::try_from(parameters.len() + 8).map_err(io::Error::other)?;
    let mut packet = Vec::from(length.to_be_bytes());
    packet.extend(PROTOCOL.to_be_bytes());
    packet.extend(parameters.as_bytes());
    stream.write_all(&packet)?;
    loop {
        let (kind, body) = read_message(stream)?;
        match kind {
            b'Z' => return Ok(Answer::Ready),
            b'E' => {
                let text = String::from_utf8_lossy(&body);
                let field =
                    |code: char| text.split('\0').find_map(|field| field.strip_prefix(code)).unwrap_or_default();
                let message = field('M').to_owned();
                // cannot_connect_now
                return Ok(if field('C') == "57P03" { Answer::Starting(message) } else { Answer::Refused(message) });
            }
            _ => {}
        }
    }
}

/// One message of the wire protocol: its kind and its body.
pub(super) fn read_message(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = usize::try_from(i32::from_be_bytes(length)).ok().and_then(|length| length.checked_sub(4));
    let mut body = vec![0; length.filter(|length| *length < 1 << 20).ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

/// The folder with the cluster, and what is needed to work on it.
struct Cluster {
    folder: PathBuf,
    binaries: PostgresBinaries,
    identity: Identity,
    durable: bool,
}

impl Cluster {
    fn open(data: &DataDir, durable: bool, progress: impl Fn(&str)) -> Result<Self, ServicesError> {
        let path = data.root.join("postgres");
        let major = fs::read_to_string(path.join("data/PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
        let binaries = binaries::postgres(&path.join("data"), major)?;
        let identity = Identity::choose("PostgreSQL", &binaries.postgres, &data.root)?;
        let steps = [
            (Duration::from_secs(5), Signal::INT),
            (Duration::from_secs(20), Signal::QUIT),
            (Duration::from_secs(5), Signal::KILL),
        ];
        layout::see_off_leftovers(NAME, &PROCESSES, &[&path.join("data"), &path], &steps, progress)?;
        let folder = data.folder("postgres", &identity)?;
        Ok(Self { folder, binaries, identity, durable })
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn durability(&self) -> &'static [&'static str] {
        if self.durable { &[] } else { &VOLATILE_SETTINGS }
    }

    /// Makes the cluster unless there is one, and prepares it for a start. Says whether it was made.
    fn ensure(&self, progress: impl Fn(&str)) -> Result<bool, ServicesError> {
        let created = !self.data().join("PG_VERSION").exists();
        if created {
            progress("creating the database cluster…");
            self.create()?;
        } else {
            self.disown_stale_pid()?;
        }
        self.note_durability()?;
        Ok(created)
    }

    /// Under another name first, so that an interrupted start leaves nothing that looks like a cluster.
    fn create(&self) -> Result<(), ServicesError> {
        let draft = self.folder.join("data.new");
        if draft.exists() {
            fs::remove_dir_all(&draft).at("remove the unfinished", &draft)?;
        }
        // Characters are classified by Unicode and ordered by code point, alike on every machine that has this locale.
        if self.initdb(&draft, "C.UTF-8").is_err() {
            self.initdb(&draft, "C")?;
        }
        let mut single = binaries::command(&self.binaries.postgres);
        single.args(["--single", "-F", "-D"]).arg(&draft).arg("postgres");
        let output = self.run("postgres --single", single, &format!("CREATE DATABASE {DATABASE}\n"))?;
        if output.contains("ERROR:") {
            return Err(ServicesError::Program { program: "postgres --single", status: "an error".to_owned(), output });
        }
        if self.durable {
            self.sync(&draft)?;
        }
        fs::rename(&draft, self.data()).at("rename", &draft)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).at("write", &self.folder)
    }

    fn initdb(&self, draft: &Path, locale: &str) -> Result<(), ServicesError> {
        let mut command = binaries::command(&self.binaries.initdb);
        command.args(["-U", ROLE, "-E", "UTF8", "--auth=trust", "--no-sync", "--no-instructions"]);
        command.arg(format!("--locale={locale}")).arg("-D").arg(draft);
        self.run("initdb", command, "").map(drop)
    }

    /// Brings to disk what was written without `fsync`.
    fn sync(&self, cluster: &Path) -> Result<(), ServicesError> {
        let mut command = binaries::command(&self.binaries.initdb);
        command.arg("--sync-only").arg("-D").arg(cluster);
        self.run("initdb --sync-only", command, "").map(drop)
    }

    fn run(&self, program: &'static str, mut command: Command, input: &str) -> Result<String, ServicesError> {
        // Its output ends up in an error or nowhere.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let path = PathBuf::from(command.get_program());
        let ties = Ties { death_signal: Signal::TERM, own_session: true };
        self.identity.apply(&mut command, ties, Some(&self.folder)).at("run", &path)?;
        let mut child = command.spawn().at("run", &path)?;
        if let Some(mut stdin) = child.stdin.take() {
            // If it has gone already, its status says more than a broken pipe.
            stdin.write_all(input.as_bytes()).ok();
        }
        let output = child.wait_with_output().at("run", &path)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(ServicesError::Program { program, status: output.status.to_string(), output: text })
    }

    /// A `postmaster.pid` keeps PostgreSQL from starting while its number belongs to any process: another one that has got it since
    /// (in containers they are small) or one that nobody has waited for. Nothing works on the cluster any more, that was
    /// waited for. The file can't just go, because it says which shared memory is left over; but PostgreSQL knows that a file
    /// with its parent's number is stale, and the parent is us.
    fn disown_stale_pid(&self) -> Result<(), ServicesError> {
        let path = self.data().join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(());
        };
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        fs::write(&path, format!("{}\n{rest}", std::process::id())).at("write", &path)
    }

    /// A cluster that ran without `fsync` is brought to disk before it counts as durable.
    fn note_durability(&self) -> Result<(), ServicesError> {
        let marker = self.folder.join("unsynced");
        match (self.durable, marker.exists()) {
            (false, false) => fs::write(&marker, "").at("write", &marker),
            (true, true) => {
                self.sync(&self.data())?;
                fs::remove_file(&marker).at("remove", &marker)
            }
            _ => Ok(()),
        }
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn failure(log: &LogPlace, status: &str) -> ServiceFailure {
    ServiceFailure { service: NAME, status: status.to_owned(), log: log.path.clone(), tail: log.tail() }
}

/// `postgres://rialto@%2Fpath%2Fto%2Fsockets/database`
fn url(sockets: &Path, database: &str) -> String {
    let (host, database) = (url_encode(sockets, b""), url_encode(Path::new(database), b""));
    format!("postgres://{ROLE}@{host}/{database}")
}
