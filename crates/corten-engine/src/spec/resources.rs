//! Cgroup limits as the runtime takes them.

use corten_types::runtime_spec::{
    BlockIo, Cpu, DeviceRule, Memory, Pids, Resources as SpecResources, ThrottleDevice, WeightDevice,
};
use corten_types::{Context, Error, Result};
use rustix::fs::{FileType, major, minor};

use super::Surroundings;
use crate::container::ContainerConfig;
use crate::resources::{DeviceRate, Resources};

/// Docker's period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;

pub(super) fn build(config: &ContainerConfig, around: &Surroundings) -> Result<SpecResources> {
    Ok(SpecResources { devices: device_rules(config, around), ..limits(config)? })
}

/// The limits alone, which can change while the container lives.
pub(crate) fn limits(config: &ContainerConfig) -> Result<SpecResources> {
    let asked = &config.resources;
    Ok(SpecResources {
        memory: memory(asked),
        cpu: cpu(asked),
        pids: asked.pids_limit.filter(|limit| *limit > 0).map(|limit| Pids { limit: Some(limit) }),
        block_io: block_io(asked)?,
        ..SpecResources::default()
    })
}

/// Nothing but docker's list: no rule would mean every device.
fn device_rules(config: &ContainerConfig, around: &Surroundings) -> Vec<DeviceRule> {
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
    rules.extend(around.cdi.rules.iter().cloned());
    rules.extend(config.device_rules.iter().cloned());
    rules
}

fn memory(asked: &Resources) -> Option<Memory> {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = Memory {
        limit: asked.memory_bytes.map(signed),
        reservation: asked.memory_reservation_bytes.map(signed),
        swap: asked.memory_swap_bytes,
        swappiness: asked.memory_swappiness,
        disable_oom_killer: asked.oom_kill_disable.then_some(true),
        ..Memory::default()
    };
    (memory != Memory::default()).then_some(memory)
}

fn cpu(asked: &Resources) -> Option<Cpu> {
    let quota = asked.nano_cpus.map(|nano| {
        // Billionths of a CPU to microseconds of a period.
        i64::try_from(u128::from(nano) * u128::from(CPU_PERIOD_US) / 1_000_000_000).unwrap_or(i64::MAX)
    });
    let cpu = Cpu {
        shares: asked.cpu_shares,
        quota: quota.or(asked.cpu_quota_us),
        period: quota.map(|_| CPU_PERIOD_US).or(asked.cpu_period_us),
        realtime_period: asked.cpu_realtime_period_us,
        realtime_runtime: asked.cpu_realtime_runtime_us,
        cpus: asked.cpuset_cpus.clone().unwrap_or_default(),
        mems: asked.cpuset_mems.clone().unwrap_or_default(),
        ..Cpu::default()
    };
    (cpu != Cpu::default()).then_some(cpu)
}

/// The one part that looks at the machine: devices are named by their nodes, and the kernel wants their numbers.
fn block_io(asked: &Resources) -> Result<Option<BlockIo>> {
    let throttles = |rates: &[DeviceRate]| -> Result<Vec<ThrottleDevice>> {
        let throttle = |one: &DeviceRate| {
            let (major, minor) = block_device(one)?;
            Ok(ThrottleDevice { major, minor, rate: one.rate })
        };
        rates.iter().map(throttle).collect()
    };
    let weight = |one: &DeviceRate| -> Result<WeightDevice> {
        let (major, minor) = block_device(one)?;
        Ok(WeightDevice { major, minor, weight: u16::try_from(one.rate).ok(), leaf_weight: None })
    };
    let block_io = BlockIo {
        weight: asked.block_weight,
        weight_device: asked.block_weight_devices.iter().map(weight).collect::<Result<_>>()?,
        throttle_read_bps_device: throttles(&asked.device_read_bps)?,
        throttle_write_bps_device: throttles(&asked.device_write_bps)?,
        throttle_read_iops_device: throttles(&asked.device_read_iops)?,
        throttle_write_iops_device: throttles(&asked.device_write_iops)?,
        ..BlockIo::default()
    };
    Ok((block_io != BlockIo::default()).then_some(block_io))
}

fn block_device(rate: &DeviceRate) -> Result<(i64, i64)> {
    let path = rate.path.display();
    let stat = rustix::fs::stat(&rate.path)
        .map_err(std::io::Error::from)
        .context(|| format!("cannot limit device `{path}`"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok((i64::from(major(stat.st_rdev)), i64::from(minor(stat.st_rdev)))),
        _ => Err(Error::invalid(format!("`{path}` is not a block device"))),
    }
}
