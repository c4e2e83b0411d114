//! What containers used: one sample, and the record that stays when a run has ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the log of runs that have ended, under the engine's root; `usage.log.1` is what was there before.
pub const USAGE: &str = "usage.log";
/// The log is set aside at this size, bytes: some 60,000 runs.
pub const USAGE_SIZE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What one run of a container has used from its start on; what the machine does not count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Whether there is a cgroup that counts.
    pub is_counted: bool,
    /// Nanoseconds of all CPUs.
    pub cpu_ns: u64,
    /// Memory now, without file cache that could go at once.
    pub memory_bytes: u64,
    /// 0 is no limit.
    pub memory_limit_bytes: u64,
    /// Most memory at any time, file cache included.
    pub memory_peak_bytes: u64,
    /// Memory over time: bytes times seconds.
    pub memory_byte_seconds: u64,
    /// How often the memory limit was hit.
    pub memory_failures: u64,
    /// How often the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// 0 is no limit.
    pub pids_limit: u64,
    /// How often the limit of processes was hit.
    pub pids_failures: u64,
    /// From block devices.
    pub read_bytes: u64,
    /// To block devices.
    pub written_bytes: u64,
    /// From the network, where the container has its own.
    pub received_bytes: u64,
    /// To the network.
    pub sent_bytes: u64,
}

/// One run that has ended: a line of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageRecord {
    /// The container.
    pub id: String,
    /// `image`, `name` and its labels.
    pub attributes: BTreeMap<String, String>,
    /// Seconds and nanoseconds since 1970.
    pub started: (i64, u32),
    /// Seconds and nanoseconds since 1970.
    pub ended: (i64, u32),
    /// Of the program.
    pub exit_code: u8,
    /// What it used.
    pub usage: Usage,
}
