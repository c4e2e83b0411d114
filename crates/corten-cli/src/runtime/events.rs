//! `events`: out-of-memory events and usage, one JSON document a line.

use std::time::{Duration, Instant};

use corten_runtime::cgroup::{OomEvent, Stats};
use corten_runtime::runtime::Status;
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::arguments::{Arguments, parse_duration};
use super::{Context, lifecycle, print};

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

/// `events`
pub(super) fn events(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let id = lifecycle::id(arguments)?;
    let interval =
        parse_duration(arguments.text("interval").unwrap_or("5s")).filter(|interval| !interval.is_zero()).ok_or_else(
            || Error::invalid("duration interval must be greater than 0").hint("write it as `5s` or `300ms`"),
        )?;
    if context.runtime.state(id)?.status == Status::Stopped {
        return Err(Error::new(ErrorKind::Conflict, format!("container with id {id} is not running")));
    }
    if arguments.is_set("stats") {
        return show("stats", id, Some(&context.runtime.stats(id)?));
    }
    follow(context, id, interval)
}

fn follow(context: &Context<'_>, id: &str, interval: Duration) -> Result<u8> {
    let mut watch = context.runtime.oom_watch(id)?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            next += interval;
            match context.runtime.stats(id) {
                Ok(stats) if show("stats", id, Some(&stats))? != 0 => return Ok(1),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => return Ok(0),
                Err(error) => context.log.error(&error),
            }
            continue;
        }
        let timeout = Timespec::try_from(left).map_err(|_| Error::invalid("the interval is too long"))?;
        match poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        match watch.read()? {
            OomEvent::OutOfMemory { .. } if show("oom", id, None)? != 0 => return Ok(1),
            OomEvent::Ended => return Ok(0),
            OomEvent::OutOfMemory { .. } | OomEvent::Nothing => {}
        }
    }
}

fn show(kind: &str, id: &str, data: Option<&Stats>) -> Result<u8> {
    let line = serde_json::to_string(&Event { kind, id, data })
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write JSON").caused_by(error))?;
    Ok(print(&(line + "\n")))
}
