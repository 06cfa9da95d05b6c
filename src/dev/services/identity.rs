//! As whom the children run.
//!
//! PostgreSQL refuses to be root. Started by root, we drop to the user `postgres` (or the next one there is). That user
//! can't reach a data directory below a closed folder such as `/root`; then the child gets a user namespace of its own, in
//! which our uid 0 is an ordinary uid: not root as far as it can tell, and the owner of its files.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use super::error::{At, ServicesError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// As ourselves.
    Same,
    /// Another user, without supplementary groups.
    User { name: String, uid: u32, gid: u32 },
    /// Ourselves, seen from a user namespace in which we have these ids.
    Namespace { uid: u32, gid: u32 },
}

/// What a child is given besides its arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ties {
    /// What it receives when the thread that spawned it ends, be it because this process was killed.
    pub(super) death_signal: Signal,
    /// A session of its own, so that a terminal's Ctrl-C reaches only us.
    pub(super) own_session: bool,
}

impl Identity {
    /// The first identity under which `program` can be run and `dir` be entered.
    pub(super) fn choose(name: &'static str, program: &Path, dir: &Path) -> Result<Self, ServicesError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Same);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        // One is enough: where it can't go, the others can't either.
        let user = ["postgres", "redis", "nobody"].iter().find_map(|user| find_user(&users, user));
        let namespace = match user {
            // An id that has a name, because `initdb` asks for it.
            Some(Self::User { uid, gid, .. }) => Self::Namespace { uid, gid },
            _ => Self::Namespace { uid: 1000, gid: 1000 },
        };
        let mut reasons = Vec::new();
        for identity in user.into_iter().chain([namespace]) {
            match identity.probe(program, dir) {
                Ok(()) => return Ok(identity),
                Err(error) => reasons.push(format!("{}: {error}", identity.describe())),
            }
        }
        Err(ServicesError::NoIdentity { program: name, dir: dir.to_owned(), reasons: reasons.join("; ") })
    }

    fn describe(&self) -> String {
        match self {
            Self::Same => "as the same user".to_owned(),
            Self::User { name, .. } => format!("as user {name}"),
            Self::Namespace { .. } => "in a user namespace".to_owned(),
        }
    }

    fn probe(&self, program: &Path, dir: &Path) -> io::Result<()> {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command, Ties { death_signal: Signal::KILL, own_session: true }, Some(dir))?;
        match command.status()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("`{} --version` ended with {status}", program.display()))),
        }
    }

    /// Makes `command` start as this identity, tied to this process, in `folder`, which is entered without privileges.
    #[allow(unsafe_code)]
    pub(super) fn apply(&self, command: &mut Command, ties: Ties, folder: Option<&Path>) -> io::Result<()> {
        if let Self::User { uid, gid, .. } = self {
            // The standard library clears the supplementary groups when root sets a uid.
            command.uid(*uid).gid(*gid);
        }
        // Said before the fork, because it allocates.
        let maps = match self {
            Self::Namespace { uid, gid } => Some((format!("{uid} 0 1"), format!("{gid} 0 1"))),
            _ => None,
        };
        let folder = folder.map(|folder| CString::new(folder.as_os_str().as_bytes())).transpose()?;
        let parent = rustix::process::getpid();
        // SAFETY: runs between fork and exec, so it may not allocate or lock. It makes system calls only.
        unsafe {
            command.pre_exec(move || {
                let maps = maps.as_ref().map(|(uid, gid)| (uid.as_bytes(), gid.as_bytes()));
                before_exec(maps, parent, ties, folder.as_deref())
                    .map_err(|errno| io::Error::from_raw_os_error(errno.raw_os_error()))
            });
        }
        Ok(())
    }

    /// Gives `path`, and what it contains, to this identity, unless it has it already.
    pub(super) fn own(&self, path: &Path) -> Result<(), ServicesError> {
        let (uid, gid) = match self {
            Self::User { uid, gid, .. } => (*uid, *gid),
            Self::Same | Self::Namespace { .. } => {
                (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
            }
        };
        let owner = fs::metadata(path).at("look at", path)?.uid();
        if owner == uid {
            return Ok(());
        }
        if !rustix::process::geteuid().is_root() {
            return Err(ServicesError::Foreign { path: path.to_owned(), owner });
        }
        chown_below(path, uid, gid).at("give its user the ownership of", path)?;
        // Last, because it says that all of it is done.
        chown(path, Some(uid), Some(gid)).at("give its user the ownership of", path)
    }
}

fn chown_below(dir: &Path, uid: u32, gid: u32) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            chown_below(&entry.path(), uid, gid)?;
        }
        lchown(entry.path(), Some(uid), Some(gid))?;
    }
    Ok(())
}

/// In the child, before it becomes another program. System calls only.
#[allow(unsafe_code)]
fn before_exec(maps: Option<(&[u8], &[u8])>, parent: Pid, ties: Ties, folder: Option<&CStr>) -> rustix::io::Result<()> {
    if ties.own_session {
        rustix::process::setsid()?;
    }
    if let Some((uid_map, gid_map)) = maps {
        // SAFETY: the child has one thread and shares nothing that a new user namespace would pull away from under it.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER)? };
        write_file(c"/proc/self/setgroups", b"deny")?;
        write_file(c"/proc/self/uid_map", uid_map)?;
        write_file(c"/proc/self/gid_map", gid_map)?;
    }
    if let Some(folder) = folder {
        rustix::process::chdir(folder)?;
    }
    // After the credentials, whose change clears it.
    rustix::process::set_parent_process_death_signal(Some(ties.death_signal))?;
    // The parent may have gone before that line.
    if rustix::process::getppid() != Some(parent) {
        return Err(rustix::io::Errno::SRCH);
    }
    Ok(())
}

fn write_file(path: &CStr, content: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content).map(drop)
}

/// A user of `/etc/passwd`, never root.
pub(super) fn find_user(passwd: &str, name: &str) -> Option<Identity> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let user = fields.next().filter(|user| *user == name)?;
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
        let gid = fields.next()?.parse().ok()?;
        Some(Identity::User { name: user.to_owned(), uid, gid })
    })
}
