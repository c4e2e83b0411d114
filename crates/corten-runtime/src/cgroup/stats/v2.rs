//! Usage from cgroup2, in the shape of cgroup v1 as runc shows it.

use corten_types::Result;

use super::super::directory::Directory;
use super::{BlkioEntry, Hugetlb, MemoryEntry, Pressure, PressureData, Stats, number, page_sizes, pairs, pids, read};

pub(super) fn add(stats: &mut Stats, directory: &Directory) -> Result<()> {
    pids(stats, directory)?;
    if stats.pids.current == 0 {
        // Without the controller the list of processes says it.
        stats.pids.current = u64::try_from(directory.pids()?.len()).unwrap_or(0);
    }
    memory(stats, directory)?;
    io(stats, directory)?;
    cpu(stats, directory)?;
    stats.memory.psi = pressure(directory, "memory.pressure")?;
    stats.blkio.psi = pressure(directory, "io.pressure")?;
    stats.cpu.psi = pressure(directory, "cpu.pressure")?;
    hugetlb(stats, directory)
}

fn cpu(stats: &mut Stats, directory: &Directory) -> Result<()> {
    for (key, value) in pairs(&read(directory, "cpu.stat")?.unwrap_or_default()) {
        let nanoseconds = value.saturating_mul(1000);
        match key {
            "usage_usec" => stats.cpu.usage.total = nanoseconds,
            "user_usec" => stats.cpu.usage.user = nanoseconds,
            "system_usec" => stats.cpu.usage.kernel = nanoseconds,
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_usec" => stats.cpu.throttling.throttled_time = nanoseconds,
            _ => {}
        }
    }
    Ok(())
}

fn memory(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let Some(raw) = read(directory, "memory.stat")? else { return Ok(()) };
    let memory = &mut stats.memory;
    memory.raw = pairs(&raw).map(|(key, value)| (key.to_owned(), value)).collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    let entry = |name: &str| {
        Ok::<_, corten_types::Error>(MemoryEntry {
            limit: number(directory, &format!("{name}.max"))?,
            usage: number(directory, &format!("{name}.current"))?,
            max: number(directory, &format!("{name}.peak"))?,
            failcnt: 0,
        })
    };
    memory.usage = entry("memory")?;
    // cgroup v1 counts swap together with memory; the most that was in use of both is not known.
    let swap = entry("memory.swap")?;
    memory.swap = MemoryEntry {
        limit: swap.limit.saturating_add(if swap.limit == u64::MAX { 0 } else { memory.usage.limit }),
        usage: swap.usage.saturating_add(memory.usage.usage),
        max: 0,
        failcnt: 0,
    };
    Ok(())
}

fn io(stats: &mut Stats, directory: &Directory) -> Result<()> {
    let text = read(directory, "io.stat")?.unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (place, op) = match key {
                "rbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut stats.blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            place.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    Ok(())
}

fn pressure(directory: &Directory, file: &str) -> Result<Option<Pressure>> {
    Ok(read(directory, file)?.map(|text| parse_pressure(&text)))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let place = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        let mut data = PressureData::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        *place = data;
    }
    pressure
}

pub(super) fn hugetlb(stats: &mut Stats, directory: &Directory) -> Result<()> {
    for size in page_sizes() {
        let usage = match read(directory, &format!("hugetlb.{size}.rsvd.current"))? {
            Some(text) => super::parse(&text),
            None => match read(directory, &format!("hugetlb.{size}.current"))? {
                Some(text) => super::parse(&text),
                None => continue,
            },
        };
        let failcnt = directory.keyed(&format!("hugetlb.{size}.events"), "max").ok().flatten().unwrap_or(0);
        stats.hugetlb.insert(size, Hugetlb { usage, max: 0, failcnt });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_for_some_and_full() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text);
        assert_eq!((pressure.some.avg10, pressure.some.total, pressure.full.total), (1.5, 42, 7));
    }
}
