//! Cgroup limits as they are asked for, changed and checked: docker's rules. `spec/resources.rs` makes the runtime's of them.

use std::path::PathBuf;

use corten_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Docker's least memory limit, bytes.
const MEMORY_BYTES_MIN: u64 = 6 * 1024 * 1024;
/// Docker's range of the CFS period, microseconds.
const CPU_PERIOD_US: std::ops::RangeInclusive<u64> = 1000..=1_000_000;
/// Docker's range of block I/O weights.
const WEIGHTS: std::ops::RangeInclusive<u64> = 10..=1000;

/// Cgroup limits; what is `None`, false or empty is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes (`-m`); at least 6 MiB as docker asks.
    pub memory_bytes: Option<u64>,
    /// Memory and swap, bytes; -1 is unlimited swap; `None` with a memory limit is twice that limit.
    pub memory_swap_bytes: Option<i64>,
    /// Soft limit, bytes.
    pub memory_reservation_bytes: Option<u64>,
    /// 0 to 100 (cgroup v1).
    pub memory_swappiness: Option<u64>,
    /// Whoever needs memory waits instead of being killed (cgroup v1).
    pub oom_kill_disable: bool,
    /// Billionths of a CPU (`--cpus 1.5` is 1 500 000 000).
    pub nano_cpus: Option<u64>,
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period_us: Option<u64>,
    /// Microseconds of every period.
    pub cpu_quota_us: Option<i64>,
    /// Microseconds (cgroup v1).
    pub cpu_realtime_period_us: Option<u64>,
    /// Microseconds of every real-time period (cgroup v1).
    pub cpu_realtime_runtime_us: Option<i64>,
    /// CPU list.
    pub cpuset_cpus: Option<String>,
    /// Memory node list.
    pub cpuset_mems: Option<String>,
    /// Most processes; 0 and -1 are unlimited.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    pub block_weight: Option<u16>,
    /// Weights of devices.
    pub block_weight_devices: Vec<DeviceRate>,
    /// Bytes a second.
    pub device_read_bps: Vec<DeviceRate>,
    /// Bytes a second.
    pub device_write_bps: Vec<DeviceRate>,
    /// Operations a second.
    pub device_read_iops: Vec<DeviceRate>,
    /// Operations a second.
    pub device_write_iops: Vec<DeviceRate>,
}

/// What one block device is limited to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// The device's node on the host.
    pub path: PathBuf,
    /// Weight, bytes or operations a second.
    pub rate: u64,
}

impl Resources {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits with every one that `change` sets.
    pub(crate) fn changed(mut self, change: &Self) -> Self {
        // A memory limit that moves takes the default of memory and swap together with it.
        if change.memory_bytes.is_some() && change.memory_swap_bytes.is_none() {
            let doubled = self.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(2));
            if self.memory_swap_bytes == doubled {
                self.memory_swap_bytes = None;
            }
        }
        macro_rules! take {
            ($($field:ident),*) => { $(if change.$field.is_some() { self.$field.clone_from(&change.$field); })* };
        }
        take!(
            memory_bytes,
            memory_swap_bytes,
            memory_reservation_bytes,
            nano_cpus,
            cpu_shares,
            cpu_period_us,
            cpu_quota_us,
            cpu_realtime_period_us,
            cpu_realtime_runtime_us,
            cpuset_cpus,
            cpuset_mems,
            pids_limit,
            block_weight
        );
        self
    }

    /// Checks the limits as docker does and fills in its defaults; `cpus` is how many this machine has.
    pub(crate) fn checked(mut self, cpus: usize, has_cgroup2: bool) -> Result<Self> {
        self.check_memory()?;
        self.check_cpu(cpus)?;
        self.check_block_io()?;
        if has_cgroup2 {
            self.check_for_cgroup2()?;
        }
        self.memory_swap_bytes = self.swap()?;
        if let Some(limit) = self.pids_limit.filter(|limit| *limit < -1) {
            return Err(Error::invalid(format!("a limit of {limit} processes is below zero")));
        }
        Ok(self)
    }

    fn check_memory(&self) -> Result<()> {
        if let Some(bytes) = self.memory_bytes.filter(|bytes| *bytes < MEMORY_BYTES_MIN) {
            return Err(Error::invalid(format!("a memory limit of {bytes} bytes is too small"))
                .hint("the least is 6 MiB: `--memory 6m`"));
        }
        if let Some(bytes) = self.memory_reservation_bytes.filter(|bytes| *bytes < MEMORY_BYTES_MIN) {
            return Err(Error::invalid(format!("a memory reservation of {bytes} bytes is too small"))
                .hint("the least is 6 MiB: `--memory-reservation 6m`"));
        }
        if let (Some(reservation), Some(limit)) = (self.memory_reservation_bytes, self.memory_bytes)
            && reservation > limit
        {
            return Err(Error::invalid("the memory reservation is above the memory limit"));
        }
        match self.memory_swappiness {
            Some(percent) if percent > 100 => {
                Err(Error::invalid(format!("invalid value: {percent}, valid memory swappiness range is 0-100")))
            }
            _ => Ok(()),
        }
    }

    fn check_cpu(&self, cpus: usize) -> Result<()> {
        if let Some(nano) = self.nano_cpus {
            for (name, given) in [("period", self.cpu_period_us.is_some()), ("quota", self.cpu_quota_us.is_some())] {
                if given {
                    return Err(Error::invalid(format!("conflicting options: `--cpus` and `--cpu-{name}`"))
                        .hint("`--cpus` sets both period and quota"));
                }
            }
            let most = u64::try_from(cpus).unwrap_or(u64::MAX).saturating_mul(1_000_000_000);
            if !(10_000_000..=most).contains(&nano) {
                return Err(Error::invalid(format!(
                    "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
                )));
            }
        }
        if self.cpu_period_us.is_some_and(|period| !CPU_PERIOD_US.contains(&period)) {
            return Err(Error::invalid(
                "the CPU period cannot be less than 1ms (1000) or more than 1s (1000000 microseconds)",
            ));
        }
        if self.cpu_quota_us.is_some_and(|quota| (0..1000).contains(&quota)) {
            return Err(Error::invalid("the CPU quota cannot be less than 1ms (1000 microseconds)"));
        }
        if let (Some(runtime), Some(period)) = (self.cpu_realtime_runtime_us, self.cpu_realtime_period_us)
            && u64::try_from(runtime).is_ok_and(|runtime| runtime > period)
        {
            return Err(Error::invalid("the real-time CPU runtime is above its period"));
        }
        Ok(())
    }

    fn check_block_io(&self) -> Result<()> {
        let devices = self.block_weight_devices.iter().map(|device| device.rate);
        let mut weights = self.block_weight.iter().map(|weight| u64::from(*weight)).chain(devices);
        match weights.find(|weight| *weight != 0 && !WEIGHTS.contains(weight)) {
            Some(weight) => {
                Err(Error::invalid(format!("invalid block I/O weight {weight}")).hint("it is from 10 to 1000"))
            }
            None => Ok(()),
        }
    }

    fn check_for_cgroup2(&self) -> Result<()> {
        let unsupported = [
            (self.memory_swappiness.is_some(), "--memory-swappiness", "cgroup v2 has no swappiness of a container"),
            (self.oom_kill_disable, "--oom-kill-disable", "cgroup v2 cannot keep the kernel from killing"),
            (self.cpu_realtime_period_us.is_some(), "--cpu-rt-period", "cgroup v2 has no real-time limits"),
            (self.cpu_realtime_runtime_us.is_some(), "--cpu-rt-runtime", "cgroup v2 has no real-time limits"),
        ];
        match unsupported.iter().find(|(asked, _, _)| *asked) {
            Some((_, flag, why)) => Err(Error::new(ErrorKind::Unsupported, format!("`{flag}` cannot be had here"))
                .caused_by(Error::new(ErrorKind::Unsupported, *why))
                .hint("leave it out")),
            None => Ok(()),
        }
    }

    /// Memory and swap together: twice the memory where nothing was said.
    fn swap(&self) -> Result<Option<i64>> {
        let limit = self.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        match (limit, self.memory_swap_bytes) {
            (_, Some(-1)) => Ok(Some(-1)),
            (None, Some(1..)) => {
                Err(Error::invalid("a limit of memory and swap needs a limit of memory").hint("add `--memory`"))
            }
            (None, _) => Ok(None),
            (Some(limit), None | Some(0)) => Ok(Some(limit.saturating_mul(2))),
            (Some(limit), Some(swap)) if swap < limit => {
                Err(Error::invalid("the limit of memory and swap is below the limit of memory"))
            }
            (Some(_), swap) => Ok(swap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(resources: Resources) -> String {
        resources.checked(4, false).unwrap_err().one_line()
    }

    #[test]
    fn contradictions_and_values_out_of_range_are_refused() {
        let none = Resources::default;
        for (resources, part) in [
            (Resources { memory_bytes: Some(1), ..none() }, "too small"),
            (Resources { memory_reservation_bytes: Some(1), ..none() }, "too small"),
            (Resources { memory_swappiness: Some(101), ..none() }, "0-100"),
            (Resources { nano_cpus: Some(1_000_000_000), cpu_quota_us: Some(5000), ..none() }, "--cpu-quota"),
            (Resources { nano_cpus: Some(5_000_000_000), ..none() }, "only 4 CPUs"),
            (Resources { cpu_period_us: Some(10), ..none() }, "1ms"),
            (Resources { cpu_quota_us: Some(10), ..none() }, "1ms"),
            (Resources { block_weight: Some(5), ..none() }, "weight 5"),
            (Resources { memory_swap_bytes: Some(5), ..none() }, "needs a limit of memory"),
        ] {
            let said = refused(resources.clone());
            assert!(said.contains(part), "{resources:?}: {said}");
        }
        let swappiness = Resources { memory_swappiness: Some(0), ..none() };
        assert!(swappiness.clone().checked(1, false).is_ok());
        assert!(swappiness.checked(1, true).unwrap_err().one_line().contains("--memory-swappiness"));
        assert!(Resources { cpu_quota_us: Some(-1), ..none() }.checked(1, true).is_ok());
    }

    #[test]
    fn a_memory_limit_that_moves_takes_the_default_of_swap_along() {
        let old = Resources { memory_bytes: Some(64 << 20), ..Resources::default() }.checked(1, false).unwrap();
        assert_eq!(old.memory_swap_bytes, Some(128 << 20));
        let change = Resources { memory_bytes: Some(32 << 20), ..Resources::default() };
        let new = old.changed(&change).checked(1, false).unwrap();
        assert_eq!((new.memory_bytes, new.memory_swap_bytes), (Some(32 << 20), Some(64 << 20)));
    }
}
