//! `update`: limits of a living container, from a document or from flags.

use std::io::Read;

use corten_runtime::rdt::Schemata;
use corten_types::runtime_spec::{BlockIo, Cpu, Memory, Pids, Resources};
use corten_types::{Error, Result};

use super::arguments::{Arguments, Flag, parse_bytes};
use super::{Context, lifecycle};

/// The flags of `update`.
pub(super) static FLAGS: &[Flag] = &[
    Flag::text("resources", "file with a resources document, or `-` for standard input; other flags are then ignored")
        .short('r'),
    Flag::number("blkio-weight", "block I/O weight, 10 to 1000"),
    Flag::text("cpu-period", "CPU period in microseconds; 0 is the system's default"),
    Flag::text("cpu-quota", "CPU time in microseconds of each period"),
    Flag::text("cpu-burst", "CPU time in microseconds that may be saved up"),
    Flag::text("cpu-share", "CPU shares against other containers"),
    Flag::text("cpu-rt-period", "real-time period in microseconds; 0 is the system's default"),
    Flag::text("cpu-rt-runtime", "real-time CPU time in microseconds of each period"),
    Flag::text("cpuset-cpus", "CPUs to use"),
    Flag::text("cpuset-mems", "memory nodes to use"),
    Flag::text("kernel-memory", ""),
    Flag::text("kernel-memory-tcp", ""),
    Flag::text("memory", "memory limit in bytes"),
    Flag::text("cpu-idle", "1 runs the container only when the CPU is idle, 0 as usual"),
    Flag::text("memory-reservation", "memory reservation in bytes"),
    Flag::text("memory-swap", "memory and swap in bytes; -1 is unlimited"),
    Flag::number("pids-limit", "most processes and threads"),
    Flag::text("l3-cache-schema", "Intel RDT L3 cache schema"),
    Flag::text("mem-bw-schema", "Intel RDT memory bandwidth schema"),
];

/// Largest resources document, bytes.
const DOCUMENT_SIZE_BYTES_MAX: u64 = 1 << 20;

/// `update`
pub(super) fn update(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let id = lifecycle::id(arguments)?;
    let given = |flag| arguments.text(flag).filter(|text| !text.is_empty());
    let schemata = Schemata { l3_cache: given("l3-cache-schema"), memory_bandwidth: given("mem-bw-schema") };
    let mut resources = match arguments.text("resources") {
        Some(path) => read_document(context, path)?,
        None => from_flags(arguments)?,
    };
    settle(&mut resources);
    if resources.memory.as_ref().is_some_and(|memory| memory.kernel.is_some() || memory.kernel_tcp.is_some()) {
        context.log.warn("Kernel memory settings are ignored and will be removed");
    }
    if let Some(memory) = &mut resources.memory {
        (memory.kernel, memory.kernel_tcp) = (None, None);
    }
    context.runtime.update(id, &resources, &schemata).map_err(lifecycle::blame_cgroups)?;
    Ok(0)
}

fn read_document(context: &Context<'_>, path: &str) -> Result<Resources> {
    let mut json = Vec::new();
    let read = match path {
        "-" => std::io::stdin().lock().take(DOCUMENT_SIZE_BYTES_MAX + 1).read_to_end(&mut json),
        path => std::fs::File::open(context.environment.absolute(path))
            .and_then(|file| file.take(DOCUMENT_SIZE_BYTES_MAX + 1).read_to_end(&mut json)),
    };
    read.map_err(|error| Error::from(error).context(format!("cannot read resources from `{path}`")))?;
    if json.len() as u64 > DOCUMENT_SIZE_BYTES_MAX {
        return Err(Error::invalid(format!("resources in `{path}` are larger than {DOCUMENT_SIZE_BYTES_MAX} bytes")));
    }
    Resources::parse(&json)
}

fn from_flags(arguments: &Arguments) -> Result<Resources> {
    let cpu = Cpu {
        shares: number(arguments, "cpu-share")?,
        quota: number(arguments, "cpu-quota")?,
        burst: number(arguments, "cpu-burst")?,
        period: number(arguments, "cpu-period")?,
        realtime_runtime: number(arguments, "cpu-rt-runtime")?,
        realtime_period: number(arguments, "cpu-rt-period")?,
        cpus: arguments.text("cpuset-cpus").unwrap_or_default().to_owned(),
        mems: arguments.text("cpuset-mems").unwrap_or_default().to_owned(),
        idle: number(arguments, "cpu-idle")?,
    };
    let memory = Memory {
        limit: bytes(arguments, "memory")?,
        reservation: bytes(arguments, "memory-reservation")?,
        swap: bytes(arguments, "memory-swap")?,
        kernel: bytes(arguments, "kernel-memory")?,
        kernel_tcp: bytes(arguments, "kernel-memory-tcp")?,
        ..Memory::default()
    };
    let weight = match arguments.number("blkio-weight") {
        None | Some(0) => None,
        Some(weight) => Some(u16::try_from(weight).map_err(|_| wrong("blkio-weight", &weight.to_string()))?),
    };
    let block_io = BlockIo { weight, ..BlockIo::default() };
    let pids = Pids { limit: arguments.number("pids-limit") };
    Ok(Resources {
        cpu: some(cpu),
        memory: some(memory),
        block_io: some(block_io),
        pids: some(pids),
        ..Resources::default()
    })
}

fn some<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// Values that cannot be set alone bring the ones that they need.
fn settle(resources: &mut Resources) {
    if let Some(memory) = &mut resources.memory
        && memory.limit == Some(-1)
        && memory.swap.is_none()
    {
        memory.swap = Some(-1);
    }
}

fn number<T: std::str::FromStr>(arguments: &Arguments, name: &str) -> Result<Option<T>> {
    arguments.text(name).map(|text| text.parse().map_err(|_| wrong(name, text))).transpose()
}

fn bytes(arguments: &Arguments, name: &str) -> Result<Option<i64>> {
    let Some(text) = arguments.text(name) else { return Ok(None) };
    if text == "-1" {
        return Ok(Some(-1));
    }
    parse_bytes(text).map(Some).ok_or_else(|| wrong(name, text).hint("use bytes, or a number with k, m, g or t"))
}

fn wrong(name: &str, text: &str) -> Error {
    Error::invalid(format!("invalid value for {name}: `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::arguments::Order;

    fn resources(words: &[&str]) -> Result<Resources> {
        let words: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
        let mut resources = from_flags(&Arguments::read(&mut words.into_iter(), &[FLAGS], Order::Mixed)?)?;
        settle(&mut resources);
        Ok(resources)
    }

    #[test]
    fn flags_become_the_document() {
        let words = ["--memory", "64m", "--pids-limit", "-1", "--cpu-quota", "-1", "--cpuset-cpus", "0", "id"];
        let got = resources(&words).unwrap();
        assert_eq!(got.memory.unwrap().limit, Some(64 << 20));
        assert_eq!(got.pids.unwrap().limit, Some(-1));
        assert_eq!(got.cpu.unwrap(), Cpu { quota: Some(-1), cpus: "0".to_owned(), ..Cpu::default() });
        assert_eq!(got.block_io, None);
    }

    #[test]
    fn unlimited_memory_takes_the_swap_limit_along() {
        assert_eq!(resources(&["--memory", "-1", "id"]).unwrap().memory.unwrap().swap, Some(-1));
    }

    #[test]
    fn wrong_values_are_named() {
        assert_eq!(resources(&["--cpu-share", "x"]).unwrap_err().message(), "invalid value for cpu-share: `x`");
        assert_eq!(resources(&["--memory", "1x"]).unwrap_err().message(), "invalid value for memory: `1x`");
        assert!(resources(&["--blkio-weight", "70000"]).is_err());
    }
}
