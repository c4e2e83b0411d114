//! Cgroup limits of `run` and `update` in docker's notations.

use std::path::PathBuf;

use corten_engine::{DeviceRate, Resources};
use corten_types::Result;

use super::values::{bytes, bytes_or_unlimited, integer, nano_cpus};
use crate::command_line::Parsed;

/// What the limits' flags ask for; `update` has fewer of them than `run`.
pub(crate) fn resources(parsed: &Parsed) -> Result<Resources> {
    let text = |name: &str| parsed.last(name).filter(|value| !value.is_empty()).map(str::to_owned);
    // Docker reads 0 as "no limit" everywhere.
    let set = |value: Option<u64>| value.filter(|value| *value != 0);
    let signed =
        |name: &str| Ok::<_, corten_types::Error>(parsed.read_last(name, integer)?.filter(|value| *value != 0));
    let mut resources = Resources {
        memory_bytes: set(parsed.read_last("memory", bytes)?),
        memory_swap_bytes: parsed.read_last("memory-swap", bytes_or_unlimited)?.filter(|value| *value != 0),
        memory_reservation_bytes: set(parsed.read_last("memory-reservation", bytes)?),
        nano_cpus: set(parsed.read_last("cpus", nano_cpus)?),
        cpu_shares: set(parsed.read_last("cpu-shares", natural)?),
        cpu_period_us: set(parsed.read_last("cpu-period", natural)?),
        cpu_quota_us: signed("cpu-quota")?,
        cpu_realtime_period_us: set(parsed.read_last("cpu-rt-period", natural)?),
        cpu_realtime_runtime_us: signed("cpu-rt-runtime")?,
        cpuset_cpus: text("cpuset-cpus"),
        cpuset_mems: text("cpuset-mems"),
        pids_limit: signed("pids-limit")?,
        block_weight: parsed.read_last("blkio-weight", block_weight)?.filter(|weight| *weight != 0),
        ..Resources::default()
    };
    if parsed.command.long("device-read-bps").is_some() {
        // -1 is docker's "as the machine has it".
        let swappiness = parsed.read_last("memory-swappiness", integer)?.filter(|percent| *percent != -1);
        resources.memory_swappiness = swappiness.map(|percent| u64::try_from(percent).unwrap_or(u64::MAX));
        resources.oom_kill_disable = parsed.is_on("oom-kill-disable");
        resources.block_weight_devices = parsed.read("blkio-weight-device", weight_of_device)?;
        resources.device_read_bps = parsed.read("device-read-bps", |text| rate(text, true))?;
        resources.device_write_bps = parsed.read("device-write-bps", |text| rate(text, true))?;
        resources.device_read_iops = parsed.read("device-read-iops", |text| rate(text, false))?;
        resources.device_write_iops = parsed.read("device-write-iops", |text| rate(text, false))?;
    }
    Ok(resources)
}

fn natural(text: &str) -> Result<u64, String> {
    let number = integer(text)?;
    u64::try_from(number).map_err(|_| format!("{number} is below zero"))
}

fn block_weight(text: &str) -> Result<u16, String> {
    let number = integer(text)?;
    u16::try_from(number).map_err(|_| format!("{number} is out of range: 10 to 1000"))
}

/// The node and the value of `/dev/sda:VALUE`.
fn device_and_value(text: &str) -> Result<(PathBuf, &str), String> {
    let (path, value) =
        text.split_once(':').filter(|(path, _)| !path.is_empty()).ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((PathBuf::from(path), value))
}

fn weight_of_device(text: &str) -> Result<DeviceRate, String> {
    let (path, value) = device_and_value(text)?;
    let weight = value.parse().ok().filter(|weight| *weight == 0 || (10..=1000).contains(weight));
    weight.map(|rate| DeviceRate { path, rate }).ok_or_else(|| format!("invalid weight for device: {text}"))
}

/// A rate in bytes with a unit, or a plain number.
fn rate(text: &str, has_unit: bool) -> Result<DeviceRate, String> {
    let (path, value) = device_and_value(text)?;
    let rate = if has_unit { bytes(value).ok() } else { value.parse().ok() };
    rate.map(|rate| DeviceRate { path, rate }).ok_or_else(|| {
        let (form, unit) = match has_unit {
            true => ("[<unit>]", ". Unit is optional and can be kb, mb, or gb"),
            false => ("", ""),
        };
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>{form}. Number must be a \
             positive integer{unit}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_name_a_device_and_a_number() {
        let of = |path: &str, rate| Ok(DeviceRate { path: path.into(), rate });
        assert_eq!(rate("/dev/sda:1mb", true), of("/dev/sda", 1 << 20));
        assert_eq!(rate("/dev/sda:7", false), of("/dev/sda", 7));
        assert_eq!(weight_of_device("/dev/sda:500"), of("/dev/sda", 500));
        for (text, part) in [
            ("/dev/sda", "bad format: "),
            ("sda:5", "bad format for device path"),
            ("/dev/sda:x", "invalid rate for device"),
            ("/dev/sda:-1", "invalid rate for device"),
        ] {
            assert!(rate(text, true).unwrap_err().starts_with(part), "{text}");
        }
        assert!(rate("/dev/sda:1mb", false).is_err());
        assert!(weight_of_device("/dev/sda:5").unwrap_err().contains("invalid weight"));
    }
}
