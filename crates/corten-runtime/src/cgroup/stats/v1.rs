//! Usage from cgroup v1 controllers.

use corten_types::Result;

use super::super::directory::Directory;
use super::super::limits::parse_list;
use super::{BlkioEntry, Hugetlb, MemoryEntry, Stats, number, page_sizes, pairs, pids, read};

/// Nanoseconds of a tick in `cpuacct.stat` (USER_HZ is 100 everywhere).
const TICK_NS: u64 = 10_000_000;

pub(super) fn add(stats: &mut Stats, directory: &Directory, controllers: &[String]) -> Result<()> {
    for controller in controllers {
        match controller.as_str() {
            "cpu" => cpu(stats, directory)?,
            "cpuacct" => usage(stats, directory)?,
            "cpuset" => cpuset(stats, directory)?,
            "memory" => memory(stats, directory)?,
            "pids" => pids(stats, directory)?,
            "blkio" => blkio(stats, directory)?,
            "hugetlb" => hugetlb(stats, directory)?,
            _ => {}
        }
    }
    Ok(())
}

fn cpu(stats: &mut Stats, directory: &Directory) -> Result<()> {
    for (key, value) in pairs(&read(directory, "cpu.stat")?.unwrap_or_default()) {
        match key {
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_time" => stats.cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
    Ok(())
}

fn usage(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let usage = &mut stats.cpu.usage;
    usage.total = number(directory, "cpuacct.usage")?;
    for (key, value) in pairs(&read(directory, "cpuacct.stat")?.unwrap_or_default()) {
        match key {
            "user" => usage.user = value.saturating_mul(TICK_NS),
            "system" => usage.kernel = value.saturating_mul(TICK_NS),
            _ => {}
        }
    }
    let each = read(directory, "cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = each.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // A header, then lines of: cpu user system.
    for line in read(directory, "cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [_, user, kernel, ..] = words[..] {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
    Ok(())
}

fn cpuset(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let list = |file| {
        Ok::<_, corten_types::Error>(parse_list(&read(directory, file)?.unwrap_or_default()).unwrap_or_default())
    };
    let set = &mut stats.cpuset;
    set.cpus = list("cpuset.cpus")?;
    set.mems = list("cpuset.mems")?;
    set.cpu_exclusive = number(directory, "cpuset.cpu_exclusive")?;
    set.mem_hardwall = number(directory, "cpuset.mem_hardwall")?;
    set.mem_exclusive = number(directory, "cpuset.mem_exclusive")?;
    set.memory_migrate = number(directory, "cpuset.memory_migrate")?;
    set.memory_spread_page = number(directory, "cpuset.memory_spread_page")?;
    set.memory_spread_slab = number(directory, "cpuset.memory_spread_slab")?;
    set.memory_pressure = number(directory, "cpuset.memory_pressure")?;
    set.sched_load_balance = number(directory, "cpuset.sched_load_balance")?;
    let level = read(directory, "cpuset.sched_relax_domain_level")?;
    set.sched_relax_domain_level = level.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Ok(())
}

fn memory(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let raw = read(directory, "memory.stat")?.unwrap_or_default();
    let memory = &mut stats.memory;
    memory.raw = pairs(&raw).map(|(key, value)| (key.to_owned(), value)).collect();
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    let entry = |name: &str| {
        Ok::<_, corten_types::Error>(MemoryEntry {
            limit: number(directory, &format!("{name}.limit_in_bytes"))?,
            usage: number(directory, &format!("{name}.usage_in_bytes"))?,
            max: number(directory, &format!("{name}.max_usage_in_bytes"))?,
            failcnt: number(directory, &format!("{name}.failcnt"))?,
        })
    };
    memory.usage = entry("memory")?;
    memory.swap = entry("memory.memsw")?;
    memory.kernel = entry("memory.kmem")?;
    memory.kernel_tcp = entry("memory.kmem.tcp")?;
    Ok(())
}

/// The first family of files that this kernel has is taken: BFQ with debugging, CFQ, and what every scheduler counts.
fn blkio(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let entries = |file: String| read(directory, &file).map(|text| text.map(|text| lines(&text)));
    let blkio = &mut stats.blkio;
    for prefix in ["blkio.bfq", "blkio"] {
        let Some(sectors) = entries(format!("{prefix}.sectors_recursive"))? else { continue };
        blkio.sectors_recursive = sectors;
        for (name, place) in [
            ("io_service_time", &mut blkio.io_service_time_recursive),
            ("io_wait_time", &mut blkio.io_wait_time_recursive),
            ("io_merged", &mut blkio.io_merged_recursive),
            ("io_queued", &mut blkio.io_queued_recursive),
            ("time", &mut blkio.io_time_recursive),
        ] {
            *place = entries(format!("{prefix}.{name}_recursive"))?.unwrap_or_default();
        }
        break;
    }
    for (prefix, suffix) in
        [("blkio.bfq", "_recursive"), ("blkio", "_recursive"), ("blkio.throttle", "_recursive"), ("blkio.throttle", "")]
    {
        let Some(serviced) = entries(format!("{prefix}.io_serviced{suffix}"))? else { continue };
        blkio.io_serviced_recursive = serviced;
        blkio.io_service_bytes_recursive = entries(format!("{prefix}.io_service_bytes{suffix}"))?.unwrap_or_default();
        break;
    }
    Ok(())
}

/// `8:0 Read 4096`, or without an operation; the lines of totals are left out.
fn lines(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut words: Vec<&str> = line.split([' ', ':']).collect();
        let value = words.pop()?.parse().ok()?;
        let (major, minor) = (words.first()?.parse().ok()?, words.get(1)?.parse().ok()?);
        let op = words.get(2).copied().unwrap_or_default().to_owned();
        Some(BlkioEntry { major, minor, op, value })
    };
    text.lines().filter_map(entry).collect()
}

fn hugetlb(stats: &mut Stats, directory: &Directory) -> Result<()> {
    for size in page_sizes() {
        let mut prefix = format!("hugetlb.{size}.rsvd");
        if read(directory, &format!("{prefix}.usage_in_bytes"))?.is_none() {
            prefix = format!("hugetlb.{size}");
        }
        let entry = Hugetlb {
            usage: number(directory, &format!("{prefix}.usage_in_bytes"))?,
            max: number(directory, &format!("{prefix}.max_usage_in_bytes"))?,
            failcnt: number(directory, &format!("{prefix}.failcnt"))?,
        };
        stats.hugetlb.insert(size, entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_lines_are_read_without_totals() {
        let entries = lines("8:0 Read 1282048\n8:16 Total 5\n8:0 12\nTotal 3477504\n");
        let seen: Vec<_> = entries.iter().map(|one| (one.major, one.minor, one.op.as_str(), one.value)).collect();
        assert_eq!(seen, [(8, 0, "Read", 1_282_048), (8, 16, "Total", 5), (8, 0, "", 12)]);
    }
}
