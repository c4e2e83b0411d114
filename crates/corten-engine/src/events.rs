//! The event log, read from its beginning and followed.

use std::os::fd::OwnedFd;

use corten_fs::Root;
use corten_sys::Call;
use corten_types::event::{EVENTS, EventRecord};
use corten_types::{ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags};

use crate::engine::Engine;

/// What is read at a time, bytes.
const READ_SIZE_BYTES: usize = 64 * 1024;
/// Longest line, bytes: more is not ours.
const LINE_SIZE_BYTES_MAX: usize = 1024 * 1024;

/// Which events are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventFilter {
    /// Not before, seconds and nanoseconds since 1970.
    pub since: Option<(i64, u32)>,
    /// Not after.
    pub until: Option<(i64, u32)>,
}

/// The log as one process follows it.
#[derive(Debug)]
pub struct Followed {
    root: Root,
    filter: EventFilter,
    watch: Watch,
    file: Option<OwnedFd>,
    pending: Vec<u8>,
}

impl Engine {
    /// The events from `filter.since` on (without it: from now on), to be followed.
    pub fn events(&self, filter: EventFilter) -> Result<Followed> {
        let root = self.root.try_clone()?;
        // Before the file is opened: nothing falls between.
        let watch = Watch::of(&root)?;
        let mut followed = Followed { root, filter, watch, file: None, pending: Vec::new() };
        followed.begin(filter.since.is_some())?;
        Ok(followed)
    }

    /// Every event that is still known, oldest first.
    pub fn past_events(&self) -> Result<Vec<EventRecord>> {
        let mut followed = self.events(EventFilter { since: Some((0, 0)), until: None })?;
        let mut all = Vec::new();
        loop {
            let some = followed.take()?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
        }
    }
}

impl Followed {
    fn begin(&mut self, from_the_start: bool) -> Result<()> {
        let open = |name: &str| match self.root.open(name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        if from_the_start {
            self.file = match open(&format!("{EVENTS}.1"))? {
                Some(file) => Some(file),
                None => open(EVENTS)?,
            };
        } else {
            self.file = open(EVENTS)?;
            if let Some(file) = &self.file {
                rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).call(|| "lseek(<events>, SEEK_END)")?;
            }
        }
        Ok(())
    }

    /// What can be read now; nothing where there is no more.
    pub fn take(&mut self) -> Result<Vec<EventRecord>> {
        let mut records = Vec::new();
        let mut buffer = vec![0; READ_SIZE_BYTES];
        loop {
            let count = match &self.file {
                Some(file) => {
                    rustix::io::retry_on_intr(|| rustix::io::read(file, &mut buffer)).call(|| "read(<events>)")?
                }
                None => 0,
            };
            if count == 0 {
                if !self.advance()? {
                    return Ok(records);
                }
                continue;
            }
            self.pending.extend_from_slice(&buffer[..count]);
            self.cut(&mut records);
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// Waits for more, for so long at most; a descriptor of the caller's ends the wait too.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> Result<()> {
        self.watch.wait(&[], timeout).map(drop)
    }

    /// At a file's end: the next file, if this one was set aside; whether there is one.
    fn advance(&mut self) -> Result<bool> {
        let current = match self.root.open(EVENTS, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let same = match &self.file {
            Some(file) => {
                let (held, named) = (stat(file)?, stat(&current)?);
                (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
            }
            None => false,
        };
        if !same {
            self.file = Some(current);
        }
        Ok(!same)
    }

    fn cut(&mut self, records: &mut Vec<EventRecord>) {
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            // A line that a crash cut short is nobody's.
            if let Ok(record) = serde_json::from_slice::<EventRecord>(&self.pending[..end])
                && self.filter.since.is_none_or(|since| record.time >= since)
                && self.filter.until.is_none_or(|until| record.time <= until)
            {
                records.push(record);
            }
            self.pending.drain(..=end);
        }
        if self.pending.len() > LINE_SIZE_BYTES_MAX {
            self.pending.clear();
        }
    }
}

fn stat(file: &OwnedFd) -> Result<rustix::fs::Stat> {
    rustix::fs::fstat(file).call(|| "fstat(<events>)")
}

/// Something changes in a directory (inotify(7)).
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn of(directory: &Root) -> Result<Self> {
        use std::os::fd::AsRawFd;
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = inotify::init(flags).call(|| "inotify_init1")?;
        let open = directory.open(".", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let wanted = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let path = format!("/proc/self/fd/{}", open.as_raw_fd());
        inotify::add_watch(&watch, path.as_str(), wanted).call(|| "inotify_add_watch")?;
        Ok(Self(watch))
    }

    /// Waits for a change, for one of `others` or for the time; which of the others is ready.
    pub(crate) fn wait(&self, others: &[&OwnedFd], timeout: Option<std::time::Duration>) -> Result<Vec<bool>> {
        let mut polled = vec![PollFd::new(&self.0, PollFlags::IN)];
        polled.extend(others.iter().map(|other| PollFd::new(*other, PollFlags::IN)));
        let timeout = timeout.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 }));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|count| count > 0) {}
        Ok(polled[1..].iter().map(|one| !one.revents().is_empty()).collect())
    }
}
