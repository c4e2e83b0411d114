//! Limits as files of cgroup2; the document's values are those of cgroup v1 and are converted as runc converts them.

use std::collections::BTreeMap;

use corten_types::runtime_spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};
use corten_types::{Error, Result};

use super::{Current, List, device, hugepages, idle, limit, out_of_range, pids, rdma, unsupported, weight};

pub(super) fn add(list: &mut List, resources: &Resources, current: Current<'_>) -> Result<()> {
    if let Some(one) = &resources.memory {
        memory(list, one)?;
    }
    if let Some(one) = &resources.cpu {
        cpu(list, one, current)?;
    }
    pids(list, resources);
    if let Some(one) = &resources.block_io {
        block_io(list, one)?;
    }
    hugepages(list, &resources.hugepage_limits, &["max"])?;
    rdma(list, &resources.rdma)?;
    let network = resources.network.as_ref();
    if network.is_some_and(|network| network.class_id.is_some_and(|id| id != 0) || !network.priorities.is_empty()) {
        return Err(unsupported("network", "cgroup2 has no network classes")
            .hint("mark packets with nftables (`socket cgroupv2`) instead"));
    }
    unified(list, &resources.unified)
}

fn memory(list: &mut List, memory: &Memory) -> Result<()> {
    let (hard, swap) = (limit("memory.limit", memory.limit)?, limit("memory.swap", memory.swap)?);
    if let Some(value) = swap_only(hard, swap)? {
        // Without swap accounting there is none to limit, or to set free.
        list.set("memory.swap", "memory.swap.max", max(value)).optional = value <= 0;
    }
    if let Some(value) = hard {
        list.set("memory.limit", "memory.max", max(value)).optional = value < 0;
    }
    if let Some(value) = limit("memory.reservation", memory.reservation)? {
        list.set("memory.reservation", "memory.low", max(value)).optional = value < 0;
    }
    // `kernel` is obsolete in the specification; cgroup2 counts kernel memory in `memory.max`.
    limit("memory.kernel", memory.kernel)?;
    if limit("memory.kernelTCP", memory.kernel_tcp)?.is_some_and(|value| value > 0) {
        return Err(unsupported("memory.kernelTCP", "cgroup2 counts socket buffers in the memory limit"));
    }
    if memory.swappiness.is_some_and(|value| value != u64::MAX) {
        return Err(unsupported("memory.swappiness", "cgroup2 has no swappiness of a cgroup")
            .hint("limit swap instead: `linux.resources.memory.swap`"));
    }
    if memory.disable_oom_killer == Some(true) {
        return Err(unsupported("memory.disableOOMKiller", "cgroup2 cannot switch it off")
            .hint("leave it out, or set `linux.process.oomScoreAdj`"));
    }
    Ok(())
}

/// The document's swap includes memory, cgroup2's does not.
fn swap_only(memory: Option<i64>, swap: Option<i64>) -> Result<Option<i64>> {
    match (memory, swap) {
        (Some(-1), None) => Ok(Some(-1)),
        (_, None | Some(-1)) | (Some(-1), Some(_)) => Ok(swap),
        (None, Some(swap)) => Err(out_of_range(
            "memory.swap",
            swap,
            "without `linux.resources.memory.limit` the part of swap in it is unknown",
        )),
        (Some(memory), Some(swap)) if swap < memory => {
            Err(out_of_range("memory.swap", swap, &format!("it includes memory, so at least {memory} is expected")))
        }
        (Some(memory), Some(swap)) => Ok(Some(swap - memory)),
    }
}

fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn cpu(list: &mut List, cpu: &Cpu, current: Current<'_>) -> Result<()> {
    if let Some(weight) = cpu.shares.and_then(weight_of_shares) {
        list.set("cpu.shares", "cpu.weight", weight);
    }
    let (quota, period) = (limit("cpu.quota", cpu.quota)?, cpu.period.filter(|period| *period != 0));
    let quota_text = quota.map(max);
    match (quota_text, period) {
        (None, None) => {}
        // One number alone keeps the other.
        (Some(quota), None) => list.set("cpu.quota", "cpu.max", quota).optional = cpu.quota == Some(-1),
        (Some(quota), Some(period)) => drop(list.set("cpu.quota", "cpu.max", format!("{quota} {period}"))),
        (None, Some(period)) => {
            let known = current("cpu", "cpu.max");
            let quota = known.as_deref().and_then(|text| text.split_whitespace().next()).unwrap_or("max");
            list.set("cpu.period", "cpu.max", format!("{quota} {period}"));
        }
    }
    if let Some(value) = cpu.burst {
        list.set("cpu.burst", "cpu.max.burst", value).optional = value == 0;
    }
    for (name, set) in [
        ("cpu.realtimeRuntime", limit("cpu.realtimeRuntime", cpu.realtime_runtime)?.is_some_and(|value| value > 0)),
        ("cpu.realtimePeriod", cpu.realtime_period.is_some_and(|value| value != 0)),
    ] {
        if set {
            return Err(unsupported(name, "cgroup2 has no real-time limits"));
        }
    }
    if let Some(value) = idle(cpu.idle)? {
        list.set("cpu.idle", "cpu.idle", value).optional = value == 0;
    }
    if !cpu.cpus.is_empty() {
        list.set("cpu.cpus", "cpuset.cpus", &cpu.cpus);
    }
    if !cpu.mems.is_empty() {
        list.set("cpu.mems", "cpuset.mems", &cpu.mems);
    }
    Ok(())
}

/// 2 to 262144 with 1024 in the middle onto 1 to 10000 with 100 in the middle, by runc's quadratic fit of the logarithms.
pub(in super::super) fn weight_of_shares(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        shares => {
            #[expect(clippy::cast_precision_loss, reason = "shares below 2^18 are exact")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10000")]
            let weight = 10f64.powf(exponent).ceil() as u64;
            Some(weight)
        }
    }
}

/// 10 to 1000 onto 1 to 10000.
fn weight_of_block_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

fn block_io(list: &mut List, io: &BlockIo) -> Result<()> {
    if weight("blockIO.leafWeight", io.leaf_weight)?.is_some() {
        return Err(unsupported("blockIO.leafWeight", "cgroup2 has no weight of leaves"));
    }
    let choices = |prefix: &str, value: u16| {
        vec![
            ("io.bfq.weight".to_owned(), format!("{prefix}{value}")),
            ("io.weight".to_owned(), format!("{prefix}{}", weight_of_block_weight(value))),
        ]
    };
    if let Some(value) = weight("blockIO.weight", io.weight)? {
        list.choose("blockIO.weight", choices("", value));
    }
    for (index, one) in io.weight_device.iter().enumerate() {
        let field = format!("blockIO.weightDevice[{index}]");
        let device = device(&field, one.major, one.minor)?;
        if weight(&format!("{field}.leafWeight"), one.leaf_weight)?.is_some() {
            return Err(unsupported(&format!("{field}.leafWeight"), "cgroup2 has no weight of leaves"));
        }
        if let Some(value) = weight(&format!("{field}.weight"), one.weight)? {
            list.choose(&format!("{field}.weight"), choices(&format!("{device} "), value));
        }
    }
    let mut throttle = |name: &str, key: &str, limits: &[ThrottleDevice]| -> Result<()> {
        for (index, one) in limits.iter().enumerate() {
            let field = format!("blockIO.{name}[{index}]");
            let device = device(&field, one.major, one.minor)?;
            // 0 sets free on cgroup v1; here it would be refused.
            let rate = if one.rate == 0 { "max".to_owned() } else { one.rate.to_string() };
            list.set(&field, "io.max", format!("{device} {key}={rate}"));
        }
        Ok(())
    };
    throttle("throttleReadBpsDevice", "rbps", &io.throttle_read_bps_device)?;
    throttle("throttleWriteBpsDevice", "wbps", &io.throttle_write_bps_device)?;
    throttle("throttleReadIOPSDevice", "riops", &io.throttle_read_iops_device)?;
    throttle("throttleWriteIOPSDevice", "wiops", &io.throttle_write_iops_device)
}

fn unified(list: &mut List, files: &BTreeMap<String, String>) -> Result<()> {
    /// Files that move or end processes are no limits.
    const ACTIONS: [&str; 5] =
        ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.subtree_control"];
    for (file, value) in files {
        let form =
            |why: &str| Error::invalid(format!("`linux.resources.unified` has `{}`: {why}", file.escape_debug()));
        if file.contains('/') {
            return Err(form("a file name without slashes is expected"));
        }
        if !file.split_once('.').is_some_and(|(controller, name)| !controller.is_empty() && !name.is_empty()) {
            return Err(form("the form CONTROLLER.PARAMETER is expected"));
        }
        if ACTIONS.contains(&file.as_str()) {
            return Err(form("that is not a limit"));
        }
        if value.contains('\0') || value.trim().is_empty() {
            return Err(form("a value is expected"));
        }
        list.set(&format!("unified.{file}"), file, value.trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    fn lines(resources: &str) -> Result<Vec<String>> {
        let resources = Resources::parse(resources.as_bytes())?;
        let settings = settings(&resources, true, &|_, file| (file == "cpu.max").then(|| "5000 100000\n".into()))?;
        Ok(settings.iter().map(|one| format!("{} {}", one.choices[0].0, one.choices[0].1)).collect())
    }

    #[test]
    fn shares_become_weights_as_runc_converts_them() {
        for (shares, weight) in [(0, None), (1, Some(1)), (2, Some(1)), (1024, Some(100)), (262_144, Some(10_000))] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert_eq!([3, 256, 512, 2048, 100_000].map(weight_of_shares), [2, 35, 59, 174, 4340].map(Some));
    }

    #[test]
    fn limits_become_the_files_of_cgroup2() {
        let lines = lines(
            r#"{"memory":{"limit":8192,"swap":16384,"reservation":-1,"disableOOMKiller":false},
                "cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000,"mems":"0","idle":1},
                "pids":{"limit":-1},
                "blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":1000}],
                           "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]},
                "unified":{"memory.high":"4096","io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#,
        );
        assert_eq!(
            lines.unwrap(),
            [
                "memory.swap.max 8192",
                "memory.max 8192",
                "memory.low max",
                "cpu.weight 100",
                "cpu.max 50000 100000",
                "cpu.max.burst 1000",
                "cpu.idle 1",
                "cpuset.mems 0",
                "pids.max max",
                "io.bfq.weight 10",
                "io.bfq.weight 8:0 1000",
                "io.max 8:0 wiops=max",
                "io.max 8:0 rbps=1\n8:16 rbps=2",
                "memory.high 4096",
            ]
        );
        assert_eq!([10, 500, 1000].map(weight_of_block_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn a_period_alone_keeps_the_quota() {
        assert_eq!(lines(r#"{"cpu":{"period":20000}}"#).unwrap(), ["cpu.max 5000 20000"]);
        assert_eq!(lines(r#"{"cpu":{"quota":-1}}"#).unwrap(), ["cpu.max max"]);
    }

    #[test]
    fn swap_is_what_exceeds_memory() {
        assert_eq!(swap_only(Some(5), Some(5)).unwrap(), Some(0));
        assert_eq!(swap_only(Some(5), Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap_only(Some(-1), None).unwrap(), Some(-1));
        assert_eq!(swap_only(Some(-1), Some(9)).unwrap(), Some(9));
        assert!(swap_only(Some(5), Some(4)).is_err() && swap_only(None, Some(4)).is_err());
    }

    #[test]
    fn what_cgroup2_cannot_do_is_refused_by_name() {
        for (document, field) in [
            (r#"{"memory":{"swappiness":10}}"#, "memory.swappiness"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
            (r#"{"memory":{"kernelTCP":1000}}"#, "memory.kernelTCP"),
            (r#"{"cpu":{"realtimeRuntime":1000}}"#, "cpu.realtimeRuntime"),
            (r#"{"blockIO":{"leafWeight":100}}"#, "blockIO.leafWeight"),
            (r#"{"network":{"classID":1}}"#, "network"),
            (r#"{"unified":{"../memory.max":"1"}}"#, "unified"),
            (r#"{"unified":{"memory":"1"}}"#, "unified"),
            (r#"{"unified":{"cgroup.procs":"1"}}"#, "unified"),
        ] {
            let error = lines(document).unwrap_err();
            assert!(error.message().starts_with(&format!("`linux.resources.{field}` ")), "{document}: {error}");
        }
    }
}
