//! What containers use and used: asked of their supervisors while they run, read from the log of ended runs afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use corten_fs::Root;
use corten_sys::Call;
use corten_types::shim::{Event as ShimEvent, Request};
use corten_types::usage::{USAGE, Usage, UsageRecord};
use corten_types::{ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::container::Container;
use crate::engine::Engine;

/// How long a supervisor may take to answer: a stuck one keeps nobody from seeing the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest line of the log, bytes: more is not ours.
const LINE_SIZE_BYTES_MAX: u64 = 1024 * 1024;

/// All that is known of one container's use, its ended runs and the present one together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageTotal {
    /// The container.
    pub id: String,
    /// Its name, the last one known.
    pub name: String,
    /// Its image as the user wrote it.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How often its program ran.
    pub runs: u64,
    /// Whether it runs now.
    pub is_running: bool,
    /// Whether there still is such a container.
    pub exists: bool,
    /// Sums; memory's peak is the highest, what is in use and the limits are those of now.
    pub usage: Usage,
}

impl Engine {
    /// What a living container uses; `None` where it does not run or its supervisor does not answer.
    pub fn live_usage(&self, container: &Container) -> Result<Option<Usage>> {
        let Some(mut connection) = self.connect(container)? else { return Ok(None) };
        set_socket_timeout(connection.socket(), Timeout::Recv, Some(ANSWER_TIMEOUT))
            .call(|| "setsockopt(SO_RCVTIMEO)")?;
        connection.send(&Request::Usage)?;
        loop {
            match connection.wait() {
                Ok(Some(ShimEvent::Usage(usage))) => return Ok(Some(*usage)),
                Ok(Some(ShimEvent::Exited { restarts: false, .. }) | None) => return Ok(None),
                Ok(Some(_)) => {}
                Err(error) if error.errno() == Some(rustix::io::Errno::AGAIN.raw_os_error()) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The use of every container that is or was, the one that ran last first.
    pub fn usage(&self) -> Result<Vec<UsageTotal>> {
        let mut totals: BTreeMap<String, (UsageTotal, (i64, u32))> = BTreeMap::new();
        for name in [format!("{USAGE}.1"), USAGE.to_owned()] {
            each_record(&self.root, &name, |record| {
                let (total, last) = totals.entry(record.id.clone()).or_default();
                *last = record.ended;
                describe(total, &record.id, record.attributes);
                total.runs += 1;
                add(&mut total.usage, &record.usage);
            })?;
        }
        for container in self.containers()? {
            let (total, last) = totals.entry(container.config.id.clone()).or_default();
            describe(total, &container.config.id, container.attributes());
            total.exists = true;
            if let Some(usage) = self.live_usage(&container)? {
                total.is_running = true;
                total.runs += 1;
                *last = corten_types::time::now();
                add(&mut total.usage, &usage);
            }
        }
        let mut totals: Vec<_> = totals.into_values().collect();
        totals.sort_by(|(_, one), (_, other)| other.cmp(one));
        Ok(totals.into_iter().map(|(total, _)| total).collect())
    }

    /// Bytes that a container wrote into its own layer: files, not the directories that hold them.
    pub fn written_bytes(&self, container: &Container) -> Result<u64> {
        let Some(crate::RootMount::Overlay(options)) = &container.config.root else { return Ok(0) };
        let Some(upper) = options.iter().find_map(|option| option.strip_prefix("upperdir=")) else { return Ok(0) };
        match Root::open_ambient(std::path::Path::new(upper)) {
            Ok(root) => files_below(&root.beneath()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Bytes of the image that a container began with; 0 where it is gone or there was none.
    pub fn image_bytes(&self, container: &Container) -> u64 {
        let id = &container.config.image_id;
        if id.is_empty() { 0 } else { self.store().resolve(id).map_or(0, |image| image.size) }
    }
}

fn files_below(root: &Root) -> Result<u64> {
    let (mut total, mut seen) = (0, std::collections::HashSet::new());
    let mut directories = vec![std::path::PathBuf::from(".")];
    while let Some(directory) = directories.pop() {
        let entries = match root.list(&directory) {
            // It went meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = directory.join(std::ffi::OsStr::from_bytes(entry.name.as_bytes()));
            let Ok(stat) = root.stat_nofollow(&path) else { continue };
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
                directories.push(path);
            } else if stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)) {
                total += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
    }
    Ok(total)
}

fn describe(total: &mut UsageTotal, id: &str, mut attributes: BTreeMap<String, String>) {
    total.id = id.to_owned();
    total.name = attributes.remove("name").unwrap_or_default();
    total.image = attributes.remove("image").unwrap_or_default();
    total.labels = attributes;
}

fn add(sum: &mut Usage, more: &Usage) {
    sum.is_counted |= more.is_counted;
    for (sum, more) in [
        (&mut sum.cpu_ns, more.cpu_ns),
        (&mut sum.memory_byte_seconds, more.memory_byte_seconds),
        (&mut sum.memory_failures, more.memory_failures),
        (&mut sum.oom_kills, more.oom_kills),
        (&mut sum.pids_failures, more.pids_failures),
        (&mut sum.read_bytes, more.read_bytes),
        (&mut sum.written_bytes, more.written_bytes),
        (&mut sum.received_bytes, more.received_bytes),
        (&mut sum.sent_bytes, more.sent_bytes),
    ] {
        *sum = sum.saturating_add(more);
    }
    sum.memory_peak_bytes = sum.memory_peak_bytes.max(more.memory_peak_bytes);
    (sum.memory_bytes, sum.pids) = (more.memory_bytes, more.pids);
    (sum.memory_limit_bytes, sum.pids_limit) = (more.memory_limit_bytes, more.pids_limit);
}

/// Reads a log line by line; one that a crash cut short is nobody's.
fn each_record(root: &Root, name: &str, mut take: impl FnMut(UsageRecord)) -> Result<()> {
    let file: OwnedFd = match root.open(name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut reader = BufReader::new(std::fs::File::from(file));
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = std::io::Read::take(&mut reader, LINE_SIZE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        if let Ok(record) = serde_json::from_slice(&line) {
            take(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_and_torn_lines_are_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let line = |cpu_ns: u64, peak: u64| {
            let usage = Usage { cpu_ns, memory_peak_bytes: peak, ..Usage::default() };
            serde_json::to_string(&UsageRecord { id: "a".to_owned(), usage, ..UsageRecord::default() }).unwrap()
        };
        let text = format!("{}\n{{\"id\":\"a\",\"usa\n{}\n{{\"id\"", line(5, 70), line(6, 30));
        std::fs::write(directory.path().join(USAGE), text).unwrap();
        let root = Root::open_ambient(directory.path()).unwrap();
        let mut sum = Usage::default();
        let mut runs = 0;
        each_record(&root, USAGE, |record| {
            runs += 1;
            add(&mut sum, &record.usage);
        })
        .unwrap();
        assert_eq!((runs, sum.cpu_ns, sum.memory_peak_bytes), (2, 11, 70));
    }

    #[test]
    fn a_layer_is_as_large_as_its_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("a/b"), "12345").unwrap();
        std::fs::hard_link(directory.path().join("a/b"), directory.path().join("c")).unwrap();
        let root = Root::open_ambient(directory.path()).unwrap().beneath();
        assert_eq!(files_below(&root).unwrap(), 5);
    }
}
