//! A container's log read back: across rotation, while it grows and after its end.

mod files;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use corten_log::{Form, Records};
pub use corten_log::{LogEntry, LogStream, Stamp};
use corten_types::shim::{Event as ShimEvent, LogDriver};
use corten_types::{Error, ErrorKind, Result};

use crate::container::Container;
use crate::engine::Engine;
use crate::events::Watch;
use files::Files;

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Not before, seconds and nanoseconds since 1970.
    pub since: Option<(i64, u32)>,
    /// Not after.
    pub until: Option<(i64, u32)>,
    /// The last so many records alone.
    pub tail: Option<usize>,
    /// Goes on until the container has ended.
    pub follows: bool,
}

/// Takes one record.
type Give<'a> = &'a mut dyn FnMut(&LogEntry<'_>) -> Result<()>;

impl Engine {
    /// Gives every record of a container's log, oldest first.
    pub fn logs(
        &self,
        name: &str,
        query: &LogQuery,
        give: Give<'_>,
        flush: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let container = self.container(name)?;
        let form = readable(&container)?;
        let directory = self.containers.sub_root(&container.config.id)?;
        let name = container.config.log.file_name(&container.config.id).unwrap_or_default();
        // Before anything is read: no line and no end falls between.
        let watch = query.follows.then(|| Watch::of(&directory)).transpose()?;
        let mut connection = if query.follows { self.connect(&container)? } else { None };
        let mut files = Files::open(directory, name)?;
        let mut records = Records::new(form);
        let mut skip = match query.tail {
            Some(count) => files.skip_to_tail(form, count)?,
            None => 0,
        };
        loop {
            // Asked before reading: what was written before the end is read after it.
            let over = connection.is_none();
            while files.read_into(&mut records)? {
                while skip > 0 && records.skip() {
                    skip -= 1;
                }
                while let Some(entry) = records.next_entry() {
                    if let Some(entry) = entry.filter(|entry| is_wanted(query, entry)) {
                        give(&entry)?;
                    }
                }
            }
            flush()?;
            let Some(watch) = watch.as_ref().filter(|_| !over) else { return Ok(()) };
            let left = match query.until {
                Some(until) => match left_until(until) {
                    Some(left) => Some(left),
                    None => return Ok(()),
                },
                None => None,
            };
            if let Some(open) = &mut connection
                && watch.wait(&[open.socket()], left)?[0]
            {
                let mut ended = !open.receive()?;
                while let Some(event) = open.next()? {
                    ended |= matches!(event, ShimEvent::Exited { restarts: false, .. });
                }
                if ended {
                    connection = None;
                }
            }
        }
    }
}

fn readable(container: &Container) -> Result<Form> {
    let driver = container.config.log.driver;
    Form::of(driver).ok_or_else(|| {
        let error = Error::new(ErrorKind::Unsupported, "configured logging driver does not support reading");
        match driver {
            LogDriver::Journald => error.hint(format!("`journalctl CONTAINER_NAME={}`", container.config.name)),
            LogDriver::Syslog => error.hint("the system's log has it"),
            _ => error.hint("it was run with `--log-driver none`"),
        }
    })
}

fn is_wanted(query: &LogQuery, entry: &LogEntry<'_>) -> bool {
    if query.since.is_none() && query.until.is_none() {
        return true;
    }
    let Some(time) = entry.stamp.moment() else { return true };
    query.since.is_none_or(|since| time >= since) && query.until.is_none_or(|until| time <= until)
}

fn left_until(until: (i64, u32)) -> Option<Duration> {
    let until = UNIX_EPOCH + Duration::new(u64::try_from(until.0).ok()?, until.1);
    until.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero())
}
