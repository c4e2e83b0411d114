//! Usage of a container: the document that `runc events --stats` prints under `data`.

mod v1;
mod v2;

use std::collections::BTreeMap;

use corten_types::Result;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::layout::Version;
use super::{Cgroup, limits};

/// Usage of a container (runc's `types.Stats`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Processors and memory nodes.
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block I/O.
    pub blkio: Blkio,
    /// Huge pages by size.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Intel RDT; an empty object where it is not used.
    pub intel_rdt: BTreeMap<String, serde_json::Value>,
    /// Always absent: runc fills it for its own kind of network only.
    pub network_interfaces: Option<Vec<serde_json::Value>>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Processor time, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Time used.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: CpuUsage,
    /// Time withheld by the quota.
    #[serde(skip_serializing_if = "is_default")]
    pub throttling: Throttling,
    /// Pressure (cgroup2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Processor time used, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// In all.
    #[serde(skip_serializing_if = "is_default")]
    pub total: u64,
    /// By processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// By processor, in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// By processor, in programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// What the quota withheld.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that passed.
    #[serde(skip_serializing_if = "is_default")]
    pub periods: u64,
    /// Periods in which the quota was used up.
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_periods: u64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_time: u64,
}

/// Pressure stall information.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Some task waited.
    #[serde(skip_serializing_if = "is_default")]
    pub some: PressureData,
    /// All tasks waited.
    #[serde(skip_serializing_if = "is_default")]
    pub full: PressureData,
}

/// Shares of time in percent, and the total in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PressureData {
    /// Of the last 10 seconds.
    pub avg10: f64,
    /// Of the last minute.
    pub avg60: f64,
    /// Of the last five minutes.
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

/// Processors and memory nodes (cgroup v1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuSet {
    /// Processors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// `cpuset.cpu_exclusive`
    pub cpu_exclusive: u64,
    /// Memory nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u32>,
    /// `cpuset.mem_hardwall`
    pub mem_hardwall: u64,
    /// `cpuset.mem_exclusive`
    pub mem_exclusive: u64,
    /// `cpuset.memory_migrate`
    pub memory_migrate: u64,
    /// `cpuset.memory_spread_page`
    pub memory_spread_page: u64,
    /// `cpuset.memory_spread_slab`
    pub memory_spread_slab: u64,
    /// `cpuset.memory_pressure`
    pub memory_pressure: u64,
    /// `cpuset.sched_load_balance`
    pub sched_load_balance: u64,
    /// `cpuset.sched_relax_domain_level`
    pub sched_relax_domain_level: i64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: u64,
    /// Memory.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: MemoryEntry,
    /// Memory and swap.
    #[serde(skip_serializing_if = "is_default")]
    pub swap: MemoryEntry,
    /// The kernel's (cgroup v1).
    #[serde(skip_serializing_if = "is_default")]
    pub kernel: MemoryEntry,
    /// TCP buffers (cgroup v1).
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_default")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure (cgroup2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryEntry {
    /// Limit; all ones is none.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    /// Most that was in use.
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "is_default")]
    pub current: u64,
    /// At most; 0 is no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// Block I/O by device and operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Waiting operations.
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    /// Nanoseconds of service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Nanoseconds of waiting.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Merged requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Milliseconds of disk time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Pressure (cgroup2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One number of block I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Device.
    #[serde(skip_serializing_if = "is_default")]
    pub major: u64,
    /// Device.
    #[serde(skip_serializing_if = "is_default")]
    pub minor: u64,
    /// `Read`, `Write`, …
    #[serde(skip_serializing_if = "is_default")]
    pub op: String,
    /// Bytes, operations or time.
    #[serde(skip_serializing_if = "is_default")]
    pub value: u64,
}

/// Huge pages of one size, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    /// Most that was in use.
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

impl Cgroup {
    /// Usage as `runc events --stats` shows it under `data`. What this host does not count is 0.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        self.home()?.directory()?;
        for hierarchy in &self.hierarchies {
            let directory = hierarchy.directory()?;
            match hierarchy.version {
                Version::V1 => v1::add(&mut stats, directory, &hierarchy.controllers)?,
                Version::V2 if self.unified() => v2::add(&mut stats, directory)?,
                // On a hybrid host cgroup2 may have the huge pages.
                Version::V2 if !self.hierarchies.iter().any(|one| one.has("hugetlb")) => {
                    v2::hugetlb(&mut stats, directory)?;
                }
                Version::V2 => {}
            }
        }
        Ok(stats)
    }
}

/// The content of a file, `None` where this kernel or cgroup does not have it.
fn read(directory: &Directory, file: &str) -> Result<Option<String>> {
    match directory.read(file) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => Ok(None),
        Err(errno) => {
            let call = format!("read(<{}/{file}>)", directory.path());
            Err(corten_types::Error::syscall(call, errno.raw_os_error()))
        }
    }
}

/// The number in a file: `max` is all ones, and nothing 0.
fn number(directory: &Directory, file: &str) -> Result<u64> {
    Ok(read(directory, file)?.map_or(0, |text| parse(&text)))
}

fn parse(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        // Older kernels write an unlimited value as a negative one.
        text if text.starts_with('-') => 0,
        text => text.parse().unwrap_or(0),
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key, parse(value)))
}

fn pids(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let limit = number(directory, "pids.max")?;
    stats.pids = Pids { current: number(directory, "pids.current")?, limit: if limit == u64::MAX { 0 } else { limit } };
    Ok(())
}

fn page_sizes() -> Vec<String> {
    limits::page_sizes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_usage_looks_like_runcs() {
        let json = serde_json::to_string(&Stats::default()).unwrap();
        assert_eq!(
            json,
            r#"{"cpu":{},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},"memory":{},"pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}"#
        );
        assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), Stats::default());
    }

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(["max\n", "12\n", "-1", ""].map(parse), [u64::MAX, 12, 0, 0]);
        assert_eq!(pairs("cache 1\nrss 2\n").collect::<Vec<_>>(), [("cache", 1), ("rss", 2)]);
    }
}
