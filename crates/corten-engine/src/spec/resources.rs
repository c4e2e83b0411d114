//! Cgroup limits as the runtime takes them.

use corten_types::runtime_spec::{Cpu, DeviceRule, Memory, Pids, Resources as SpecResources};
use corten_types::{Error, Result};

use super::Surroundings;
use crate::container::ContainerConfig;
use crate::request::Resources;

/// Docker's period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Docker's least memory limit, bytes.
const MEMORY_BYTES_MIN: u64 = 6 * 1024 * 1024;

pub(super) fn build(config: &ContainerConfig, around: &Surroundings) -> SpecResources {
    SpecResources { devices: device_rules(around), ..limits(config) }
}

/// The limits alone, which can change while the container lives.
pub(crate) fn limits(config: &ContainerConfig) -> SpecResources {
    let asked = &config.resources;
    SpecResources {
        memory: memory(asked),
        cpu: cpu(asked),
        pids: asked.pids_limit.filter(|limit| *limit > 0).map(|limit| Pids { limit: Some(limit) }),
        ..SpecResources::default()
    }
}

/// Nothing but docker's list: no rule would mean every device.
fn device_rules(around: &Surroundings) -> Vec<DeviceRule> {
    let rule = |allow, kind: &str, major, minor, access: &str| DeviceRule {
        allow,
        kind: kind.to_owned(),
        major,
        minor,
        access: access.to_owned(),
    };
    let mut rules = vec![
        rule(false, "", None, None, "rwm"),
        rule(true, "c", None, None, "m"),
        rule(true, "b", None, None, "m"),
        rule(true, "c", Some(136), None, "rwm"),
    ];
    // null, zero, full, random, urandom, tty, ptmx
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(true, "c", Some(major), Some(minor), "rwm"));
    }
    rules.extend(around.devices.rules.iter().cloned());
    rules
}

fn memory(asked: &Resources) -> Option<Memory> {
    if asked.memory_bytes.is_none() && asked.memory_reservation_bytes.is_none() && asked.memory_swap_bytes.is_none() {
        return None;
    }
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    Some(Memory {
        limit: asked.memory_bytes.map(signed),
        reservation: asked.memory_reservation_bytes.map(signed),
        swap: asked.memory_swap_bytes,
        ..Memory::default()
    })
}

fn cpu(asked: &Resources) -> Option<Cpu> {
    let quota = asked.nano_cpus.map(|nano| {
        // Billionths of a CPU to microseconds of a period.
        i64::try_from(u128::from(nano) * u128::from(CPU_PERIOD_US) / 1_000_000_000).unwrap_or(i64::MAX)
    });
    let cpu = Cpu {
        shares: asked.cpu_shares,
        quota,
        period: quota.map(|_| CPU_PERIOD_US),
        cpus: asked.cpuset_cpus.clone().unwrap_or_default(),
        mems: asked.cpuset_mems.clone().unwrap_or_default(),
        ..Cpu::default()
    };
    (cpu != Cpu::default()).then_some(cpu)
}

impl Resources {
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
            cpuset_cpus,
            cpuset_mems,
            pids_limit
        );
        self
    }

    /// Checks the limits as docker does and fills in its defaults; `cpus` is how many this machine has.
    pub(crate) fn checked(mut self, cpus: usize) -> Result<Self> {
        if let Some(bytes) = self.memory_bytes.filter(|bytes| *bytes < MEMORY_BYTES_MIN) {
            return Err(Error::invalid(format!("a memory limit of {bytes} bytes is too small"))
                .hint("the least is 6 MiB: `--memory 6m`"));
        }
        self.memory_swap_bytes = self.swap()?;
        if let (Some(reservation), Some(limit)) = (self.memory_reservation_bytes, self.memory_bytes)
            && reservation > limit
        {
            return Err(Error::invalid("the memory reservation is above the memory limit"));
        }
        if let Some(nano) = self.nano_cpus {
            let most = u64::try_from(cpus).unwrap_or(u64::MAX).saturating_mul(1_000_000_000);
            if !(10_000_000..=most).contains(&nano) {
                return Err(Error::invalid(format!(
                    "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
                )));
            }
        }
        if let Some(limit) = self.pids_limit.filter(|limit| *limit < -1) {
            return Err(Error::invalid(format!("a limit of {limit} processes is below zero")));
        }
        Ok(self)
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
