//! `linux.resources` as properties of a systemd unit (systemd.resource-control(5)): what systemd must know so that it does
//! not set the limits back when it reloads. What it has no property for is written to the cgroup alone.

use std::collections::BTreeMap;

use corten_types::runtime_spec::{Cpu, Memory, Resources};
use corten_types::{Error, Result};

use super::super::devices::{Controller, Policy};
use super::super::limits::{parse_list, weight_of_shares};
use super::bus::{Property, Value};

/// systemd's word for no limit.
const INFINITY: u64 = u64::MAX;

/// Versions of systemd that brought properties.
const CPU_QUOTA_PERIOD: u32 = 242;
const ALLOWED_CPUS: u32 = 244;
const CPU_IDLE: u32 = 252;

/// The properties of `resources` on cgroup2 (`unified`) or v1, as systemd `version` knows them.
pub(super) fn of(resources: &Resources, unified: bool, version: u32) -> Result<Vec<Property>> {
    let mut list = Vec::new();
    if let Some(one) = &resources.memory {
        memory(&mut list, one, unified);
    }
    if let Some(one) = &resources.cpu {
        cpu(&mut list, one, unified, version)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        // systemd takes no 0.
        list.push(("TasksMax", Value::Number(u64::try_from(limit).map_or(INFINITY, |limit| limit.max(1)))));
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|io| io.weight).filter(|weight| *weight != 0 && !unified)
    {
        list.push(("BlockIOWeight", Value::Number(u64::from(weight))));
    }
    files(&mut list, &resources.unified, version)?;
    Ok(list)
}

fn bytes(value: Option<i64>) -> Option<u64> {
    value.filter(|value| *value != 0).map(|value| u64::try_from(value).unwrap_or(INFINITY))
}

fn memory(list: &mut Vec<Property>, memory: &Memory, unified: bool) {
    let hard = bytes(memory.limit);
    if let Some(value) = hard {
        list.push((if unified { "MemoryMax" } else { "MemoryLimit" }, Value::Number(value)));
    }
    if !unified {
        return;
    }
    if let Some(value) = bytes(memory.reservation) {
        list.push(("MemoryLow", Value::Number(value)));
    }
    // The document's swap includes memory.
    let swap = match (hard, bytes(memory.swap)) {
        (Some(INFINITY), None) => Some(INFINITY),
        (Some(hard), Some(swap)) if hard != INFINITY && swap != INFINITY => swap.checked_sub(hard),
        (_, swap) => swap,
    };
    if let Some(value) = swap {
        list.push(("MemorySwapMax", Value::Number(value)));
    }
}

fn cpu(list: &mut Vec<Property>, cpu: &Cpu, unified: bool, version: u32) -> Result<()> {
    let shares = cpu.shares.filter(|shares| *shares != 0);
    if unified && cpu.idle == Some(1) && version >= CPU_IDLE {
        list.push(("CPUWeight", Value::Number(0)));
    } else if let Some(weight) = shares.and_then(weight_of_shares).filter(|_| unified) {
        list.push(("CPUWeight", Value::Number(weight)));
    } else if let Some(shares) = shares.filter(|_| !unified) {
        list.push(("CPUShares", Value::Number(shares)));
    }
    quota(list, cpu.quota, cpu.period.filter(|period| *period != 0), version);
    for (name, field, text) in [("AllowedCPUs", "cpus", &cpu.cpus), ("AllowedMemoryNodes", "mems", &cpu.mems)] {
        if !text.is_empty() && version >= ALLOWED_CPUS {
            list.push((name, Value::Bytes(bits(&format!("linux.resources.cpu.{field}"), text)?)));
        }
    }
    Ok(())
}

fn quota(list: &mut Vec<Property>, quota: Option<i64>, period: Option<u64>, version: u32) {
    let quota = quota.filter(|quota| *quota != 0);
    if quota.is_none() && period.is_none() {
        return;
    }
    if let Some(period) = period.filter(|_| version >= CPU_QUOTA_PERIOD) {
        list.push(("CPUQuotaPeriodUSec", Value::Number(period)));
    }
    let per_second = match quota.map(u64::try_from) {
        // systemd keeps whole percents of a processor: rounded up, so that the cgroup may have what was asked for.
        Some(Ok(quota)) => {
            (quota.saturating_mul(1_000_000) / period.unwrap_or(100_000)).div_ceil(10_000).saturating_mul(10_000)
        }
        _ => INFINITY,
    };
    list.push(("CPUQuotaPerSecUSec", Value::Number(per_second)));
}

/// A list of processors as a bit mask, lowest first.
fn bits(field: &str, list: &str) -> Result<Vec<u8>> {
    let numbers = parse_list(list).ok_or_else(|| Error::invalid(format!("`{field}` is `{}`", list.escape_debug())))?;
    let mut bits = Vec::new();
    for number in numbers {
        let at = (number / 8) as usize;
        if bits.len() <= at {
            bits.resize(at + 1, 0u8);
        }
        bits[at] |= 1 << (number % 8);
    }
    Ok(bits)
}

fn files(list: &mut Vec<Property>, files: &BTreeMap<String, String>, version: u32) -> Result<()> {
    for (file, value) in files {
        let bad = || Error::invalid(format!("`linux.resources.unified.{file}` is `{}`", value.escape_debug()));
        let number = || match value.trim() {
            "max" => Ok(INFINITY),
            text => text.parse().map_err(|_| bad()),
        };
        let name = match file.as_str() {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let first = match words.next() {
                    Some("max") => -1,
                    word => word.and_then(|word| word.parse().ok()).ok_or_else(bad)?,
                };
                let period = words.next().map(|word| word.parse().map_err(|_| bad())).transpose()?;
                quota(list, Some(first), period, version);
                continue;
            }
            "cpuset.cpus" | "cpuset.mems" if version >= ALLOWED_CPUS => {
                let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                list.push((name, Value::Bytes(bits(&format!("linux.resources.unified.{file}"), value)?)));
                continue;
            }
            _ => continue,
        };
        list.push((name, Value::Number(number()?)));
    }
    Ok(())
}

/// The device rules, as far as systemd can say them: a list of what is allowed. Otherwise it is told to stay out of it, and
/// the cgroup's own rules decide alone.
pub(super) fn devices(policy: &Policy) -> Vec<Property> {
    let list = Controller::of(policy).ok().and_then(|controller| controller.allowed()).and_then(|allowed| {
        allowed
            .iter()
            .map(|(devices, access)| {
                let kind = if devices.block { "block" } else { "char" };
                let path = match (devices.major, devices.minor) {
                    (None, None) => format!("{kind}-*"),
                    (Some(major), None) => format!("{kind}-{major}"),
                    (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                    (None, Some(_)) => return None,
                };
                Some((path, access.clone()))
            })
            .collect::<Option<Vec<_>>>()
    });
    // The empty list first: what a unit has is added to.
    let mut properties = vec![("DeviceAllow", Value::Pairs(Vec::new()))];
    match list {
        Some(list) => {
            properties.push(("DevicePolicy", Value::Text("strict".to_owned())));
            properties.push(("DeviceAllow", Value::Pairs(list)));
        }
        None => properties.push(("DevicePolicy", Value::Text("auto".to_owned()))),
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(document: &str, unified: bool, version: u32) -> Vec<String> {
        let resources = Resources::parse(document.as_bytes()).unwrap();
        let line = |(name, value): &Property| match value {
            Value::Number(INFINITY) => format!("{name}=infinity"),
            Value::Number(number) => format!("{name}={number}"),
            Value::Bytes(bytes) => format!("{name}={bytes:?}"),
            other => format!("{name}={other:?}"),
        };
        of(&resources, unified, version).unwrap().iter().map(line).collect()
    }

    #[test]
    fn limits_become_properties() {
        let document = r#"{"memory":{"limit":8192,"swap":16384,"reservation":-1},
            "cpu":{"shares":1024,"quota":25500,"period":50000,"cpus":"0-1,9"},"pids":{"limit":0}}"#;
        assert_eq!(
            lines(document, true, 252),
            [
                "MemoryMax=8192",
                "MemoryLow=infinity",
                "MemorySwapMax=8192",
                "CPUWeight=100",
                "CPUQuotaPeriodUSec=50000",
                "CPUQuotaPerSecUSec=510000",
                "AllowedCPUs=[3, 2]",
                "TasksMax=1",
            ]
        );
        assert_eq!(
            lines(document, false, 239),
            ["MemoryLimit=8192", "CPUShares=1024", "CPUQuotaPerSecUSec=510000", "TasksMax=1"]
        );
        assert_eq!(lines(r#"{"cpu":{"idle":1,"shares":5}}"#, true, 252), ["CPUWeight=0"]);
        assert_eq!(lines(r#"{"cpu":{"quota":-1}}"#, true, 252), ["CPUQuotaPerSecUSec=infinity"]);
        assert_eq!(lines(r#"{"cpu":{"quota":12345}}"#, true, 252), ["CPUQuotaPerSecUSec=130000"]);
    }

    #[test]
    fn files_become_properties_where_there_is_one() {
        let document =
            r#"{"unified":{"memory.high":"max","cpu.max":"max 20000","cpuset.mems":"0","io.max":"8:0 rbps=1"}}"#;
        assert_eq!(
            lines(document, true, 252),
            [
                "CPUQuotaPeriodUSec=20000",
                "CPUQuotaPerSecUSec=infinity",
                "AllowedMemoryNodes=[1]",
                "MemoryHigh=infinity"
            ]
        );
        let wrong = Resources::parse(br#"{"unified":{"memory.high":"much"}}"#).unwrap();
        assert!(of(&wrong, true, 252).unwrap_err().message().contains("unified.memory.high"));
    }

    #[test]
    fn devices_are_listed_where_systemd_can_say_them() {
        let properties = devices(&Policy::new(&[], &[]).unwrap());
        let Value::Pairs(list) = &properties[2].1 else { panic!("{properties:?}") };
        let has = |path: &str, access: &str| list.contains(&(path.to_owned(), access.to_owned()));
        assert!(has("/dev/char/1:3", "rwm") && has("char-136", "rwm") && has("block-*", "m"), "{list:?}");
        let all = corten_types::runtime_spec::DeviceRule { allow: true, ..Default::default() };
        let properties = devices(&Policy::new(&[all], &[]).unwrap());
        assert_eq!(properties[1], ("DevicePolicy", Value::Text("auto".to_owned())));
    }
}
