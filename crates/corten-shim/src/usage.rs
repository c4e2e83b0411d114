//! What the container uses, read from its cgroup: now and then while it runs, and once more when it has ended.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_fs::{Root, append};
use corten_types::shim::Launch;
use corten_types::usage::{USAGE, USAGE_SIZE_BYTES_MAX, Usage, UsageRecord};

use crate::supervisor::Supervisor;

/// Memory over time is summed from samples: the first after this time, each later one after twice the time before.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time between two samples.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// Largest file of a cgroup that is read, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 256 * 1024;

/// Where a container's cgroups are, by the usual mount points.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Places {
    /// cgroup v2: one directory for all.
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    block: Option<PathBuf>,
}

/// The counters of one run.
#[derive(Debug)]
pub(crate) struct Meter {
    places: Places,
    pid: i32,
    began: (i64, u32),
    next: Instant,
    interval: Duration,
    last: (Instant, u64),
    byte_seconds: u64,
    network: (u64, u64),
    has_own_network: Option<bool>,
}

impl Meter {
    /// The counters of process `pid`, the first of container `id`.
    pub(crate) fn of(pid: i32, id: &str) -> Self {
        let membership = read(Path::new(&format!("/proc/{pid}/cgroup")));
        let now = Instant::now();
        Self {
            places: places(&membership, id),
            pid,
            began: corten_types::time::now(),
            next: now + FIRST_INTERVAL,
            interval: FIRST_INTERVAL,
            last: (now, 0),
            byte_seconds: 0,
            network: (0, 0),
            has_own_network: None,
        }
    }

    /// When the next sample is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.places.is_known().then_some(self.next)
    }

    /// Takes the sample that is due.
    pub(crate) fn keep_time(&mut self, now: Instant) {
        if self.next > now || !self.places.is_known() {
            return;
        }
        self.interval = (self.interval * 2).min(LONGEST_INTERVAL);
        self.next = now + self.interval;
        self.add_memory(now);
        self.look_at_network();
    }

    /// Whether the kernel killed for want of memory since the cgroup was made.
    pub(crate) fn has_killed(&self) -> bool {
        self.places.oom_kills() > 0
    }

    /// Everything, at this moment.
    pub(crate) fn sample(&mut self) -> Usage {
        self.add_memory(Instant::now());
        self.look_at_network();
        let mut usage = self.places.usage();
        usage.memory_byte_seconds = self.byte_seconds;
        (usage.received_bytes, usage.sent_bytes) = self.network;
        usage
    }

    fn add_memory(&mut self, now: Instant) {
        let bytes = self.places.memory_bytes();
        let (then, before) = self.last;
        // The mean of both ends of the time between; whole milliseconds, for short runs count too.
        let milliseconds = now.saturating_duration_since(then).as_millis();
        let mean = u128::from(before / 2 + bytes / 2);
        let grown = u64::try_from(mean * milliseconds / 1000).unwrap_or(u64::MAX);
        self.byte_seconds = self.byte_seconds.saturating_add(grown);
        self.last = (now, bytes);
    }

    /// Only a network of its own is the container's; what the process saw last is kept, since it ends with it.
    fn look_at_network(&mut self) {
        let link = |path: String| rustix::fs::readlink(path, Vec::new()).ok();
        let pid = self.pid;
        let own = *self.has_own_network.get_or_insert_with(|| {
            let theirs = link(format!("/proc/{pid}/ns/net"));
            theirs.is_some() && theirs != link("/proc/self/ns/net".to_owned())
        });
        if own && let Some(counted) = network(&read(Path::new(&format!("/proc/{pid}/net/dev")))) {
            self.network = counted;
        }
    }
}

impl Supervisor {
    /// Adds the run that has just ended to the log of all. A disk that is full costs the line, never the container.
    pub(crate) fn keep_usage(&mut self, exit_code: u8) {
        let usage = self.meter.sample();
        let record = UsageRecord {
            id: self.launch.id.clone(),
            attributes: self.launch.attributes.clone(),
            started: self.meter.began,
            ended: corten_types::time::now(),
            exit_code,
            usage,
        };
        keep(&self.launch, &record);
    }
}

fn keep(launch: &Launch, record: &UsageRecord) {
    let (Some(root), Ok(json)) = (launch.events.parent(), serde_json::to_vec(record)) else { return };
    Root::open_ambient(root).and_then(|root| append::line(&root, USAGE, &json, USAGE_SIZE_BYTES_MAX)).ok();
}

impl Places {
    fn is_known(&self) -> bool {
        *self != Self::default()
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage { is_counted: self.is_known(), ..Usage::default() };
        match &self.unified {
            Some(directory) => second(&mut usage, directory),
            None => self.first(&mut usage),
        }
        usage.memory_bytes = self.memory_bytes();
        usage.oom_kills = self.oom_kills();
        usage
    }

    fn memory_bytes(&self) -> u64 {
        let (directory, file, name) = match (&self.unified, &self.memory) {
            (Some(directory), _) => (directory, "memory.current", "inactive_file"),
            (None, Some(directory)) => (directory, "memory.usage_in_bytes", "total_inactive_file"),
            (None, None) => return 0,
        };
        number(directory, file).saturating_sub(pair(&read(&directory.join("memory.stat")), name))
    }

    fn oom_kills(&self) -> u64 {
        match (&self.unified, &self.memory) {
            (Some(directory), _) => pair(&read(&directory.join("memory.events")), "oom_kill"),
            (None, Some(directory)) => pair(&read(&directory.join("memory.oom_control")), "oom_kill"),
            (None, None) => 0,
        }
    }

    /// cgroup v1.
    fn first(&self, usage: &mut Usage) {
        if let Some(directory) = &self.cpu {
            usage.cpu_ns = number(directory, "cpuacct.usage");
        }
        if let Some(directory) = &self.memory {
            // "No limit" is a number near the largest one.
            let limit = number(directory, "memory.limit_in_bytes");
            usage.memory_limit_bytes = if limit > u64::MAX / 4 { 0 } else { limit };
            usage.memory_peak_bytes = number(directory, "memory.max_usage_in_bytes");
            usage.memory_failures = number(directory, "memory.failcnt");
        }
        if let Some(directory) = &self.pids {
            pids(usage, directory);
        }
        if let Some(directory) = &self.block {
            let text = read(&directory.join("blkio.throttle.io_service_bytes_recursive"));
            for line in text.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [_, operation, bytes] = words[..] else { continue };
                let bytes: u64 = bytes.parse().unwrap_or(0);
                match operation {
                    "Read" => usage.read_bytes += bytes,
                    "Write" => usage.written_bytes += bytes,
                    _ => {}
                }
            }
        }
    }
}

/// cgroup v2.
fn second(usage: &mut Usage, directory: &Path) {
    usage.cpu_ns = pair(&read(&directory.join("cpu.stat")), "usage_usec").saturating_mul(1000);
    usage.memory_limit_bytes = number(directory, "memory.max");
    usage.memory_peak_bytes = number(directory, "memory.peak");
    usage.memory_failures = pair(&read(&directory.join("memory.events")), "max");
    pids(usage, directory);
    for word in read(&directory.join("io.stat")).split_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", bytes)) => usage.read_bytes += bytes.parse().unwrap_or(0),
            Some(("wbytes", bytes)) => usage.written_bytes += bytes.parse().unwrap_or(0),
            _ => {}
        }
    }
}

fn pids(usage: &mut Usage, directory: &Path) {
    usage.pids = number(directory, "pids.current");
    usage.pids_limit = number(directory, "pids.max");
    usage.pids_failures = pair(&read(&directory.join("pids.events")), "max");
}

/// The directories of the lines of /proc/PID/cgroup that are the container's own, which its id tells.
fn places(membership: &str, id: &str) -> Places {
    let mut places = Places::default();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let beneath = path.trim_start_matches('/');
        if beneath.starts_with("..") || !beneath.rsplit('/').next().is_some_and(|last| last.contains(id)) {
            continue;
        }
        for controller in controllers.split(',') {
            let directory = || Some(Path::new("/sys/fs/cgroup").join(controller).join(beneath));
            match controller {
                "memory" => places.memory = directory(),
                "cpuacct" => places.cpu = directory(),
                "pids" => places.pids = directory(),
                "blkio" => places.block = directory(),
                "" => {
                    let directory = Path::new("/sys/fs/cgroup").join(beneath);
                    // On a hybrid host cgroup v2 counts nothing.
                    places.unified = directory.join("cgroup.controllers").exists().then_some(directory);
                }
                _ => {}
            }
        }
    }
    places
}

fn read(path: &Path) -> String {
    let bytes = corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number in a file; `max`, and a file that is not there, are 0.
fn number(directory: &Path, file: &str) -> u64 {
    read(&directory.join(file)).trim().parse().unwrap_or(0)
}

/// The number behind a name.
fn pair(text: &str, name: &str) -> u64 {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

/// Bytes received and sent by every interface but the loopback (proc_pid_net(5)); `None` where nothing can be read.
fn network(text: &str) -> Option<(u64, u64)> {
    let mut sums = None;
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let sum = sums.get_or_insert((0, 0));
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [received, _, _, _, _, _, _, _, sent, ..] = numbers[..] {
            sum.0 += received;
            sum.1 += sent;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cgroups_of_the_container_s_own_count() {
        let text = "5:memory:/corten/abc\n4:cpu,cpuacct:/corten/abc\n3:pids:/user.slice\n1:name=systemd:/corten/abc\n";
        let found = places(text, "abc");
        assert_eq!(found.memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/corten/abc")));
        assert_eq!(found.cpu.as_deref(), Some(Path::new("/sys/fs/cgroup/cpuacct/corten/abc")));
        assert_eq!((found.pids, found.block), (None, None));
        assert!(!places("5:memory:/\n0::/user.slice/abcd.scope/x\n", "abc").is_known());
        assert!(places("5:memory:/system.slice/corten-abc.scope\n", "abc").is_known());
    }

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        assert_eq!(pair("low 0\nmax 9\noom_kill 1\n", "oom_kill"), 1);
        assert_eq!(pair("", "oom_kill"), 0);
        let text = "Inter-|   Receive  |\n face |bytes\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 7 1 0 0 0 0 0 0 9 1 0\n";
        assert_eq!(network(text), Some((7, 9)));
        assert_eq!(network(""), None);
    }

    #[test]
    fn a_directory_of_version_2_counts_everything() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.stat", "usage_usec 5\n"),
            ("memory.current", "100\n"),
            ("memory.stat", "anon 1\ninactive_file 30\n"),
            ("memory.max", "max\n"),
            ("memory.events", "max 3\noom_kill 2\n"),
            ("pids.current", "4\n"),
            ("pids.events", "max 6\n"),
            ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n"),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let places = Places { unified: Some(directory.path().to_path_buf()), ..Places::default() };
        let usage = places.usage();
        assert_eq!((usage.cpu_ns, usage.memory_bytes, usage.memory_limit_bytes), (5000, 70, 0));
        assert_eq!((usage.memory_failures, usage.oom_kills, usage.pids, usage.pids_failures), (3, 2, 4, 6));
        assert_eq!((usage.read_bytes, usage.written_bytes), (11, 22));
    }
}
