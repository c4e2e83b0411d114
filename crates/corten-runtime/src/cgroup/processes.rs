//! The processes of a container as a whole: which they are, freezing, signals.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use corten_sys::{Call, signal};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::Pid;

use super::Cgroup;
use super::directory::{Directory, read_to_end};
use super::hierarchy::pause;
use super::layout::Version;

/// How long freezing may take, milliseconds.
const FREEZE_TIMEOUT_MS: u64 = 10_000;

/// How often the v1 freezer is asked to catch up with new processes before it is thawed for a moment.
const FREEZE_TRIES_PER_ROUND: u32 = 50;

/// How often SIGKILL is sent where processes may appear meanwhile.
const KILL_ROUNDS_MAX: u32 = 64;

const KILL: i32 = 9;

impl Cgroup {
    /// Freezes (and waits until frozen) or thaws every process.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let (directory, version) = self.freezer()?;
        let result = match (version, frozen) {
            (Version::V1, true) => freeze_first(directory),
            (Version::V1, false) => directory.set("freezer.state", "THAWED"),
            (Version::V2, _) => freeze_second(directory, frozen),
        };
        if frozen && result.is_err() {
            let thawed = match version {
                Version::V1 => directory.write("freezer.state", "THAWED"),
                Version::V2 => directory.write("cgroup.freeze", "0"),
            };
            if let Err(errno) = thawed {
                let hint = format!("thawing failed as well ({errno}): processes may hang in `{}`", directory.path());
                return result.map_err(|error| error.hint(hint));
            }
        }
        result.context(|| if frozen { "cannot freeze the container" } else { "cannot thaw the container" })
    }

    /// Whether the processes are frozen by [`Cgroup::freeze`]; a cgroup that is gone is not.
    pub fn is_frozen(&self) -> Result<bool> {
        let freezer = match self.freezer() {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => return Ok(false),
            result => result?,
        };
        let (directory, version) = freezer;
        let (file, set) = match version {
            // What a cgroup above froze is not ours.
            Version::V1 => ("freezer.self_freezing", "1"),
            Version::V2 => ("cgroup.freeze", "1"),
        };
        match directory.read(file) {
            Ok(text) => Ok(text.trim() == set),
            Err(Errno::NOENT | Errno::NODEV) => Ok(false),
            Err(errno) => Err(errno).call(|| format!("read(<{}/{file}>)", directory.path())),
        }
    }

    fn freezer(&self) -> Result<(&Directory, Version)> {
        let hierarchy = self.require("freezer")?;
        Ok((hierarchy.directory()?, hierarchy.version))
    }

    /// The pids of every process in the cgroup and below it; none where it is gone.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self.home()?.directory() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            directory => directory?.all_pids(),
        }
    }

    /// Sends `signal` to every process, atomically where the kernel can. SIGKILL also thaws, or a frozen process of cgroup v1
    /// would not end. A cgroup that is gone has no process.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let killed = signal == KILL && self.kill_second()?;
        if killed && self.unified() || self.pids()?.is_empty() {
            return Ok(());
        }
        if killed {
            // On a hybrid host some may be in the v1 hierarchies alone, and its freezer holds the dying.
            self.signal_each(signal, true)?;
            return if self.is_frozen()? { self.freeze(false) } else { Ok(()) };
        }
        // Nothing can appear while all are frozen. Where they cannot be frozen, SIGKILL is repeated until none is left.
        let was_frozen = self.is_frozen().unwrap_or(false);
        let frozen = was_frozen || self.freezer().is_ok() && self.freeze(true).is_ok();
        let result = self.signal_each(signal, frozen);
        if frozen && (!was_frozen || signal == KILL) {
            self.freeze(false)?;
        }
        result
    }

    /// Whether `cgroup.kill` ended all processes that cgroup2 knows of (Linux 5.14).
    fn kill_second(&self) -> Result<bool> {
        let Some(hierarchy) = self.hierarchies.iter().find(|one| one.version == Version::V2) else { return Ok(false) };
        let directory = match hierarchy.directory() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            result => result?,
        };
        match directory.write("cgroup.kill", "1") {
            Ok(()) | Err(Errno::NODEV) => Ok(true),
            // A threaded cgroup cannot be killed at once.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno).call(|| directory.write_text("cgroup.kill", "1")),
        }
    }

    fn signal_each(&self, signal: i32, frozen: bool) -> Result<()> {
        let rounds = if frozen || signal != KILL { 1 } else { KILL_ROUNDS_MAX };
        for _ in 0..rounds {
            let pids = self.pids()?;
            for pid in &pids {
                let Some(pid) = Pid::from_raw(*pid) else { continue };
                match signal::kill(pid, signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(errno).call(|| format!("kill({}, {signal})", pid.as_raw_nonzero())),
                }
            }
            if pids.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The v1 freezer loses races with processes that appear while it works: it is asked again, and now and then thawed.
fn freeze_first(directory: &Directory) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(FREEZE_TIMEOUT_MS);
    let mut tries = 0;
    loop {
        directory.set("freezer.state", "FROZEN")?;
        match directory.get("freezer.state")?.trim() {
            "FROZEN" => return Ok(()),
            _ if Instant::now() >= deadline => return Err(frozen_too_slowly(directory)),
            _ => {}
        }
        tries += 1;
        if tries % FREEZE_TRIES_PER_ROUND == 0 {
            directory.set("freezer.state", "THAWED")?;
            pause(Duration::from_millis(10));
        } else if tries > 2 {
            // The v1 freezer announces nothing.
            pause(Duration::from_micros(50));
        }
    }
}

/// cgroup2 says in `cgroup.events` when it is done.
fn freeze_second(directory: &Directory, frozen: bool) -> Result<()> {
    directory.set("cgroup.freeze", if frozen { "1" } else { "0" })?;
    if !frozen {
        return Ok(());
    }
    let events = directory
        .file("cgroup.events", OFlags::RDONLY)
        .call(|| format!("open(<{}/cgroup.events>)", directory.path()))?;
    let deadline = Instant::now() + Duration::from_millis(FREEZE_TIMEOUT_MS);
    loop {
        let text = read_to_end(&events).call(|| format!("read(<{}/cgroup.events>)", directory.path()))?;
        if super::directory::keyed(&text, "frozen") == Some(1) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(frozen_too_slowly(directory));
        }
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call(|| "poll(<cgroup.events>)"),
        }
        rustix::fs::seek(&events, SeekFrom::Start(0)).call(|| "lseek(<cgroup.events>)")?;
    }
}

fn frozen_too_slowly(directory: &Directory) -> Error {
    let message = format!("`{}` did not freeze within {} s", directory.path(), FREEZE_TIMEOUT_MS / 1000);
    Error::new(ErrorKind::Exhausted, message)
        .hint("a process may be in a system call that does not end: look for state D in `ps`")
}
