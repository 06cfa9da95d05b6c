//! One supervised child process: spawned by, and waited for in, a thread of its own.
//!
//! The thread matters: the parent-death signal is tied to the thread that spawned the child, not to the process.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::identity::{Identity, Ties};

#[derive(Debug)]
pub(super) struct Child {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Somebody asked it to go, so its exit is no failure.
    expected: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Running(Pid),
    Exited(ExitStatus),
}

impl Child {
    /// Starts `command`; `on_exit` is called from the child's thread if it ends before anybody asked it to.
    pub(super) fn spawn(
        mut command: Command,
        identity: &Identity,
        ties: Ties,
        folder: Option<&Path>,
        on_exit: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<Self> {
        identity.apply(&mut command, ties, folder)?;
        let (report, started) = mpsc::sync_channel(1);
        thread::Builder::new().name("child".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(report.send(Err(error))),
            };
            let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
                return;
            };
            let shared = Arc::new(Shared {
                state: Mutex::new(State::Running(pid)),
                changed: Condvar::new(),
                expected: AtomicBool::new(false),
            });
            if report.send(Ok(Arc::clone(&shared))).is_err() {
                return;
            }
            // Wait without reaping: until the state says that it is gone, its pid must stay its own.
            let wait = || rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while wait().is_err_and(|error| error == rustix::io::Errno::INTR) {}
            let mut state = shared.lock();
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
            *state = State::Exited(status);
            drop(state);
            shared.changed.notify_all();
            if !shared.expected.load(Ordering::SeqCst) {
                on_exit(status);
            }
        })?;
        let shared = started.recv().map_err(|_| io::Error::other("the child's thread ended"))??;
        Ok(Self { shared })
    }

    pub(super) fn exited(&self) -> Option<ExitStatus> {
        self.wait(Duration::ZERO)
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<Pid> {
        match *self.shared.lock() {
            State::Running(pid) => Some(pid),
            State::Exited(_) => None,
        }
    }

    /// Waits for its end, at most this long.
    pub(super) fn wait(&self, at_most: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + at_most;
        let mut state = self.shared.lock();
        loop {
            match *state {
                State::Exited(status) => return Some(status),
                State::Running(_) => {
                    let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
                    let waited = self.shared.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Sends a signal, if it still runs.
    pub(super) fn signal(&self, signal: Signal) {
        if let State::Running(pid) = *self.shared.lock() {
            // It may be a zombie already: then there is nobody to tell.
            rustix::process::kill_process(pid, signal).ok();
        }
    }

    /// Sends a signal to it and then to its children, if it still runs.
    pub(super) fn signal_family(&self, signal: Signal) {
        if let State::Running(pid) = *self.shared.lock() {
            rustix::process::kill_process(pid, signal).ok();
            // One that is stopped makes no more of them.
            for child in children_of(pid) {
                rustix::process::kill_process(child, signal).ok();
            }
        }
    }

    /// From here on its exit is no failure.
    pub(super) fn expect_exit(&self) {
        self.shared.expected.store(true, Ordering::SeqCst);
    }

    /// Waits for an exit that was asked for; after each wait that was in vain, a stronger signal. Says whether it went by
    /// itself, that is without SIGKILL.
    pub(super) fn see_off(&self, steps: &[(Duration, Signal)]) -> bool {
        for (patience, signal) in steps {
            if self.wait(*patience).is_some() {
                return true;
            }
            self.signal(*signal);
        }
        // After SIGKILL it goes as soon as the kernel lets it.
        self.wait(Duration::from_secs(5));
        false
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes that have this parent.
fn children_of(parent: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        // The name of the program, in parentheses, may contain anything. The state and the parent follow.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        fields.split_whitespace().nth(1) == Some(&parent.as_raw_nonzero().to_string())
    })
    .collect()
}
