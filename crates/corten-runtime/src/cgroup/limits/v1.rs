//! Limits as files of the cgroup v1 controllers.

use corten_types::runtime_spec::{BlockIo, Cpu, Memory, Network, Resources, ThrottleDevice};
use corten_types::{Error, Result};

use super::{List, device, hugepages, idle, limit, out_of_range, pids, rdma, weight};

pub(super) fn add(list: &mut List, resources: &Resources) -> Result<()> {
    if !resources.unified.is_empty() {
        return Err(Error::invalid("invalid configuration: `linux.resources.unified` cannot be used on cgroup v1")
            .hint("this host mounts cgroup v1 controllers; use `linux.resources.memory`, `cpu`, `pids`, …"));
    }
    if let Some(one) = &resources.memory {
        memory(list, one)?;
    }
    if let Some(one) = &resources.cpu {
        cpu(list, one)?;
    }
    pids(list, resources);
    if let Some(one) = &resources.block_io {
        block_io(list, one)?;
    }
    // On a hybrid host cgroup2 may have the controller.
    hugepages(list, &resources.hugepage_limits, &["limit_in_bytes", "max"])?;
    rdma(list, &resources.rdma)?;
    if let Some(one) = &resources.network {
        network(list, one)?;
    }
    Ok(())
}

fn memory(list: &mut List, memory: &Memory) -> Result<()> {
    let (hard, mut swap) = (limit("memory.limit", memory.limit)?, limit("memory.swap", memory.swap)?);
    if let (Some(hard), Some(swap)) = (hard, swap)
        && hard > 0
        && swap > 0
        && swap < hard
    {
        return Err(out_of_range("memory.swap", swap, &format!("it includes memory, so at least {hard} is expected")));
    }
    // Swap must rise with memory, or unlimited memory is refused.
    let implied = hard == Some(-1) && swap.is_none();
    if implied {
        swap = Some(-1);
    }
    if memory.use_hierarchy == Some(true) {
        list.set("memory.useHierarchy", "memory.use_hierarchy", 1).optional = true;
    }
    if let Some(value) = hard {
        list.set("memory.limit", "memory.limit_in_bytes", value).optional = value < 0;
    }
    if let Some(value) = swap {
        list.set("memory.swap", "memory.memsw.limit_in_bytes", value).optional = implied || value < 0;
    }
    if let Some(value) = limit("memory.reservation", memory.reservation)? {
        list.set("memory.reservation", "memory.soft_limit_in_bytes", value).optional = value < 0;
    }
    // `kernel` is obsolete in the specification and gone from the kernel (5.16): checked for its form alone.
    limit("memory.kernel", memory.kernel)?;
    if let Some(value) = limit("memory.kernelTCP", memory.kernel_tcp)? {
        list.set("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", value).optional = value < 0;
    }
    match memory.swappiness {
        None | Some(u64::MAX) => {}
        Some(value @ 0..=100) => drop(list.set("memory.swappiness", "memory.swappiness", value)),
        Some(value) => return Err(out_of_range("memory.swappiness", value, "0 to 100 is expected")),
    }
    if let Some(disable) = memory.disable_oom_killer {
        // Off is how a cgroup starts; engines always say it.
        list.set("memory.disableOOMKiller", "memory.oom_control", u8::from(disable)).optional = !disable;
    }
    Ok(())
}

fn cpu(list: &mut List, cpu: &Cpu) -> Result<()> {
    match cpu.shares {
        None | Some(0) => {}
        // The kernel would clamp in silence.
        Some(value @ 2..=262_144) => drop(list.set("cpu.shares", "cpu.shares", value)),
        Some(value) => return Err(out_of_range("cpu.shares", value, "2 to 262144 is expected")),
    }
    if let Some(value) = cpu.period.filter(|value| *value != 0) {
        list.set("cpu.period", "cpu.cfs_period_us", value);
    }
    if let Some(value) = limit("cpu.quota", cpu.quota)? {
        list.set("cpu.quota", "cpu.cfs_quota_us", value).optional = value < 0;
    }
    if let Some(value) = cpu.burst {
        list.set("cpu.burst", "cpu.cfs_burst_us", value).optional = value == 0;
    }
    if let Some(value) = cpu.realtime_period.filter(|value| *value != 0) {
        list.set("cpu.realtimePeriod", "cpu.rt_period_us", value);
    }
    if let Some(value) = limit("cpu.realtimeRuntime", cpu.realtime_runtime)? {
        list.set("cpu.realtimeRuntime", "cpu.rt_runtime_us", value);
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

fn block_io(list: &mut List, io: &BlockIo) -> Result<()> {
    let choices = |file: &str, value: String| {
        vec![(format!("blkio.{file}"), value.clone()), (format!("blkio.bfq.{file}"), value)]
    };
    if let Some(value) = weight("blockIO.weight", io.weight)? {
        list.choose("blockIO.weight", choices("weight", value.to_string()));
    }
    if let Some(value) = weight("blockIO.leafWeight", io.leaf_weight)? {
        list.set("blockIO.leafWeight", "blkio.leaf_weight", value);
    }
    for (index, one) in io.weight_device.iter().enumerate() {
        let field = format!("blockIO.weightDevice[{index}]");
        let device = device(&field, one.major, one.minor)?;
        if let Some(value) = weight(&format!("{field}.weight"), one.weight)? {
            list.choose(&format!("{field}.weight"), choices("weight_device", format!("{device} {value}")));
        }
        if let Some(value) = weight(&format!("{field}.leafWeight"), one.leaf_weight)? {
            list.set(&format!("{field}.leafWeight"), "blkio.leaf_weight_device", format!("{device} {value}"));
        }
    }
    let mut throttle = |name: &str, file: &str, limits: &[ThrottleDevice]| -> Result<()> {
        for (index, one) in limits.iter().enumerate() {
            let field = format!("blockIO.{name}[{index}]");
            let device = device(&field, one.major, one.minor)?;
            list.set(&field, &format!("blkio.throttle.{file}"), format!("{device} {}", one.rate));
        }
        Ok(())
    };
    throttle("throttleReadBpsDevice", "read_bps_device", &io.throttle_read_bps_device)?;
    throttle("throttleWriteBpsDevice", "write_bps_device", &io.throttle_write_bps_device)?;
    throttle("throttleReadIOPSDevice", "read_iops_device", &io.throttle_read_iops_device)?;
    throttle("throttleWriteIOPSDevice", "write_iops_device", &io.throttle_write_iops_device)
}

fn network(list: &mut List, network: &Network) -> Result<()> {
    if let Some(value) = network.class_id.filter(|value| *value != 0) {
        list.set("network.classID", "net_cls.classid", value);
    }
    for (index, one) in network.priorities.iter().enumerate() {
        let field = format!("network.priorities[{index}]");
        if one.name.is_empty() || one.name.contains(char::is_whitespace) {
            let name = format!("for `{}`", one.name.escape_debug());
            return Err(out_of_range(&field, name, "an interface is expected"));
        }
        list.set(&field, "net_prio.ifpriomap", format!("{} {}", one.name, one.priority));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    fn lines(resources: &str) -> Result<Vec<String>> {
        let resources = Resources::parse(resources.as_bytes())?;
        let settings = settings(&resources, false, &|_, _| None)?;
        Ok(settings.iter().map(|one| format!("{} {}", one.choices[0].0, one.choices[0].1)).collect())
    }

    #[test]
    fn limits_become_the_controllers_files() {
        let lines = lines(
            r#"{"memory":{"limit":8192,"swap":16384,"swappiness":7,"reservation":4096,"disableOOMKiller":false},
                "cpu":{"shares":512,"quota":50000,"period":100000,"burst":1000,"cpus":"0-1","idle":0},
                "pids":{"limit":0},"blockIO":{"weight":100,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]},
                "network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]},
                "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}}}"#,
        );
        assert_eq!(
            lines.unwrap(),
            [
                "memory.limit_in_bytes 8192",
                "memory.memsw.limit_in_bytes 16384",
                "memory.soft_limit_in_bytes 4096",
                "memory.swappiness 7",
                "memory.oom_control 0",
                "cpu.shares 512",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 50000",
                "cpu.cfs_burst_us 1000",
                "cpu.idle 0",
                "cpuset.cpus 0-1",
                "pids.max 1",
                "blkio.weight 100",
                "blkio.throttle.read_bps_device 8:0 9",
                "rdma.max mlx5_1 hca_handle=3 hca_object=10000",
                "net_cls.classid 1048577",
                "net_prio.ifpriomap eth0 5",
            ]
        );
    }

    #[test]
    fn unlimited_memory_takes_swap_along() {
        let lines = lines(r#"{"memory":{"limit":-1}}"#).unwrap();
        assert_eq!(lines, ["memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes -1"]);
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (document, field) in [
            (r#"{"memory":{"limit":-2}}"#, "memory.limit"),
            (r#"{"memory":{"limit":8192,"swap":4096}}"#, "memory.swap"),
            (r#"{"memory":{"swappiness":101}}"#, "memory.swappiness"),
            (r#"{"memory":{"kernelTCP":-7}}"#, "memory.kernelTCP"),
            (r#"{"cpu":{"shares":1}}"#, "cpu.shares"),
            (r#"{"cpu":{"quota":-9}}"#, "cpu.quota"),
            (r#"{"cpu":{"cpus":"zero"}}"#, "cpu.cpus"),
            (r#"{"cpu":{"idle":2}}"#, "cpu.idle"),
            (r#"{"blockIO":{"weight":9}}"#, "blockIO.weight"),
            (r#"{"blockIO":{"weightDevice":[{"major":-8,"minor":0}]}}"#, "blockIO.weightDevice[0]"),
            (r#"{"network":{"priorities":[{"name":"a b","priority":5}]}}"#, "network.priorities[0]"),
            (r#"{"unified":{"memory.max":"1"}}"#, "unified"),
        ] {
            let error = lines(document).unwrap_err();
            assert!(error.message().contains(&format!("`linux.resources.{field}` ")), "{document}: {error}");
        }
    }
}
