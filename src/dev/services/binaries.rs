//! Finding `postgres`, `initdb` and `redis-server`, and saying how to get them.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::ServicesError;

/// The oldest PostgreSQL that the migrations are written for.
pub(super) const OLDEST_POSTGRES: u32 = 14;

/// One installed PostgreSQL.
#[derive(Debug, Clone)]
pub(super) struct PostgresBinaries {
    pub(super) postgres: PathBuf,
    pub(super) initdb: PathBuf,
    pub(super) major: u32,
}

/// The PostgreSQL for a cluster of version `cluster`, or the preferred one for a cluster that is yet to be made.
pub(super) fn postgres(data: &Path, cluster: Option<u32>) -> Result<PostgresBinaries, ServicesError> {
    let mut newest: Option<PostgresBinaries> = None;
    for folder in postgres_folders() {
        let Some(found) = postgres_in(&folder) else {
            continue;
        };
        let wanted = cluster.map_or(found.major >= OLDEST_POSTGRES, |major| found.major == major);
        if wanted && found.major >= OLDEST_POSTGRES {
            return Ok(found);
        }
        if newest.as_ref().is_none_or(|newest| newest.major < found.major) {
            newest = Some(found);
        }
    }
    let Some(newest) = newest else {
        return Err(ServicesError::Missing { what: "PostgreSQL", install: install_command() });
    };
    Err(match cluster {
        Some(cluster) if newest.major >= OLDEST_POSTGRES => {
            ServicesError::WrongVersion { dir: data.to_owned(), cluster, installed: newest.major }
        }
        _ => ServicesError::TooOld {
            path: newest.postgres,
            found: newest.major,
            needed: OLDEST_POSTGRES,
            install: install_command(),
        },
    })
}

/// `redis-server`, or Valkey, which is the same for our purposes.
pub(super) fn redis() -> Result<PathBuf, ServicesError> {
    let folders: Vec<PathBuf> = path_folders().chain(system_folders()).collect();
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| is_program(path))
        .ok_or_else(|| ServicesError::Missing { what: "Redis", install: install_command() })
}

/// A command with an environment of its own: variables such as `PGDATA` must not reach it.
pub(super) fn command(program: &Path) -> Command {
    let kept = ["PATH", "LD_LIBRARY_PATH"];
    let mut command = Command::new(program);
    command.env_clear();
    command.envs(kept.iter().filter_map(|name| Some((name, env::var_os(name)?))));
    command
}

fn postgres_in(folder: &Path) -> Option<PostgresBinaries> {
    // A link on PATH leads to the folder where the version's other programs are.
    let postgres = fs::canonicalize(folder.join("postgres")).ok().filter(|path| is_program(path))?;
    let initdb =
        [postgres.with_file_name("initdb"), folder.join("initdb")].into_iter().find(|path| is_program(path))?;
    let output = Command::new(&postgres).arg("--version").stdin(Stdio::null()).output().ok()?;
    let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(PostgresBinaries { postgres, initdb, major })
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`, `postgres (PostgreSQL) 17beta1`.
pub(super) fn major_version(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    version[..version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len())].parse().ok()
}

fn postgres_folders() -> impl Iterator<Item = PathBuf> {
    let versioned = newest_first("/usr/lib/postgresql", "")
        .chain(newest_first("/usr", "pgsql-"))
        .chain(newest_first("/usr/lib", "postgresql"))
        .chain(newest_first("/usr/local", "pgsql-"));
    let plain = ["/usr/local/pgsql", "/opt/postgresql", "/usr/libexec/postgresql"].map(PathBuf::from);
    path_folders().chain(versioned.chain(plain).map(|folder| folder.join("bin"))).chain(system_folders())
}

/// The folders `<parent>/<prefix><number>`, the greatest number first.
fn newest_first(parent: &str, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path)
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).filter(|folder| folder.is_absolute()).collect::<Vec<_>>().into_iter()
}

fn system_folders() -> impl Iterator<Item = PathBuf> {
    ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/opt/redis/bin", "/opt/valkey/bin"]
        .into_iter()
        .map(PathBuf::from)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn install_command() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let command = install_command_for(&release);
    match command.strip_prefix("sudo ") {
        Some(bare) if rustix::process::geteuid().is_root() => bare.to_owned(),
        _ => command.to_owned(),
    }
}

/// The one command that installs both, for the distribution that this `os-release` describes.
pub(super) fn install_command_for(release: &str) -> &'static str {
    let fields: HashMap<&str, &str> = release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
        .collect();
    let field = |key| fields.get(key).copied().unwrap_or_default();
    let version: u32 = field("VERSION_ID").split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    let names = [field("ID"), field("ID_LIKE")].join(" ");
    for name in names.split_whitespace() {
        return match name {
            "debian" | "ubuntu" => "sudo apt-get install -y postgresql redis-server",
            "fedora" if field("ID") == "fedora" => "sudo dnf install -y postgresql-server valkey",
            "rhel" | "centos" | "fedora" if version >= 10 => "sudo dnf install -y postgresql-server valkey",
            "rhel" | "centos" | "fedora" => "sudo dnf install -y postgresql-server redis",
            "alpine" => "sudo apk add postgresql redis",
            "arch" => "sudo pacman -S --needed postgresql valkey",
            "suse" | "opensuse" => "sudo zypper install -y postgresql-server redis",
            _ => continue,
        };
    }
    "your package manager: PostgreSQL (14 or newer, server) and Redis (or Valkey)"
}
