//! Notes of the kernel's out-of-memory killer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use corten_sys::Call;
use corten_types::{ErrorKind, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;

use super::Cgroup;
use super::directory::{keyed, read_to_end};
use super::hierarchy::Hierarchy;
use super::layout::Version;

/// What [`OomWatch::read`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomEvent {
    /// The container reached its memory limit and the killer was called.
    OutOfMemory {
        /// How many processes it has taken in all.
        kills: u64,
    },
    /// The cgroup is gone or empty: there will be no more events.
    Ended,
    /// Woken for another reason.
    Nothing,
}

/// A descriptor that becomes readable on an out-of-memory event.
#[derive(Debug)]
pub struct OomWatch {
    /// v1: an eventfd; cgroup2: an inotify descriptor.
    events: OwnedFd,
    version: Version,
    hierarchy: Hierarchy,
    kills: u64,
}

impl OomWatch {
    /// Poll it for POLLIN.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Consumes what is pending; never blocks.
    pub fn read(&mut self) -> Result<OomEvent> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.events, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(OomEvent::Nothing),
            result => result.call(|| "read(<out-of-memory events>)")?,
        };
        // The end of the cgroup is an event too. The path is opened afresh: a descriptor outlives the directory.
        let Some((kills, populated)) = counts(&self.hierarchy)? else { return Ok(OomEvent::Ended) };
        let before = std::mem::replace(&mut self.kills, kills);
        Ok(match self.version {
            Version::V1 => OomEvent::OutOfMemory { kills },
            Version::V2 if kills > before => OomEvent::OutOfMemory { kills },
            Version::V2 if !populated => OomEvent::Ended,
            Version::V2 => OomEvent::Nothing,
        })
    }
}

impl Cgroup {
    /// Watches for the kernel's out-of-memory killer.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let hierarchy = self.require("memory")?;
        let directory = hierarchy.directory()?;
        let events = match hierarchy.version {
            Version::V1 => {
                let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call(|| "eventfd()")?;
                let control = directory
                    .file("memory.oom_control", OFlags::RDONLY)
                    .call(|| format!("open(<{}/memory.oom_control>)", directory.path()))?;
                directory.set("cgroup.event_control", &format!("{} {}", events.as_raw_fd(), control.as_raw_fd()))?;
                events
            }
            Version::V2 => {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let events = inotify::init(flags).call(|| "inotify_init()")?;
                for file in ["memory.events", "cgroup.events"] {
                    // inotify takes paths alone; this one leads through our own descriptor.
                    let path = format!("/proc/self/fd/{}/{file}", directory.fd().as_raw_fd());
                    inotify::add_watch(&events, path, inotify::WatchFlags::MODIFY)
                        .call(|| format!("inotify_add_watch(<{}/{file}>)", directory.path()))?;
                }
                events
            }
        };
        let kills = self.oom_kill_count()?;
        let hierarchy = hierarchy.again();
        Ok(OomWatch { events, version: hierarchy.version, hierarchy, kills })
    }

    /// How many processes of the container the out-of-memory killer took; 0 where the cgroup is gone.
    pub fn oom_kill_count(&self) -> Result<u64> {
        Ok(counts(self.require("memory")?)?.map_or(0, |(kills, _)| kills))
    }
}

/// The kills so far, and whether there are processes (said on cgroup2 only); `None` where the cgroup is gone.
fn counts(hierarchy: &Hierarchy) -> Result<Option<(u64, bool)>> {
    let hierarchy = hierarchy.again();
    let directory = match hierarchy.directory() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let file = match hierarchy.version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    let read = |file: &str| directory.file(file, OFlags::RDONLY).and_then(|file| read_to_end(&file));
    let text = match read(file) {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
        result => result.call(|| format!("read(<{}/{file}>)", directory.path()))?,
    };
    let populated = hierarchy.version == Version::V1
        || read("cgroup.events").is_ok_and(|events| keyed(&events, "populated") == Some(1));
    Ok(Some((keyed(&text, "oom_kill").unwrap_or(0), populated)))
}
