//! `corten stats`, `corten usage`, `corten port`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use corten_docker::filter::Filters;
use corten_docker::stats::{self, Sample, View};
use corten_engine::{Container, Engine};
use corten_types::{Error, ErrorKind, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::terminal::is_terminal;

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// The screen emptied, and the cursor at its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// CPU time as it was at a moment, by container.
#[derive(Debug, Default)]
pub(crate) struct Before(BTreeMap<String, (Instant, u64)>);

/// `stats`
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let view = View {
        format: parsed.last("format").filter(|format| !format.is_empty()).map(str::to_owned),
        no_trunc: parsed.is_on("no-trunc"),
    };
    // A wrong format is an error also where there is nothing to show.
    stats::stats(&[Sample::default()], &view)?;
    let engine = context.engine()?;
    let (all, once) = (parsed.is_on("all"), parsed.is_on("no-stream"));
    let clears = !once && is_terminal(rustix::stdio::stdout());
    let mut before = Before::default();
    // Shares of time need two moments.
    before.samples(&engine, &parsed.operands, all)?;
    loop {
        pause(INTERVAL)?;
        let samples = before.samples(&engine, &parsed.operands, all)?;
        let text = stats::stats(&samples, &view)?;
        context.print(&if clears { format!("{CLEAR}{text}") } else { text })?;
        if once {
            return Ok(0);
        }
    }
}

fn pause(time: Duration) -> Result<()> {
    let time = rustix::event::Timespec::try_from(time).map_err(|_| Error::invalid("the interval is too long"))?;
    match rustix::event::poll(&mut [], Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::syscall("poll", errno.raw_os_error())),
    }
}

impl Before {
    /// What the named containers use, or every running one.
    pub(crate) fn samples(&mut self, engine: &Engine, names: &[String], all: bool) -> Result<Vec<Sample>> {
        let containers: Vec<(String, Container)> = match names {
            [] => {
                let all_of = engine.containers()?.into_iter().filter(|one| all || one.life.state.is_alive());
                all_of.map(|one| (one.config.id.clone(), one)).collect()
            }
            names => {
                names.iter().map(|name| Ok((name.clone(), engine.container(name)?))).collect::<Result<Vec<_>>>()?
            }
        };
        let memory_total_bytes = memory_total();
        containers
            .into_iter()
            .map(|(word, container)| self.sample(engine, word, &container, memory_total_bytes))
            .collect()
    }

    fn sample(
        &mut self,
        engine: &Engine,
        word: String,
        container: &Container,
        memory_total_bytes: u64,
    ) -> Result<Sample> {
        let live = engine.live_usage(container)?;
        let is_uncounted = live.as_ref().is_some_and(|usage| !usage.is_counted);
        let usage = live.unwrap_or_default();
        let id = container.config.id.clone();
        let now = Instant::now();
        let cpu_percent = match self.0.insert(id.clone(), (now, usage.cpu_ns)) {
            Some((then, cpu_ns)) if now > then => {
                let used = Duration::from_nanos(usage.cpu_ns.saturating_sub(cpu_ns));
                used.as_secs_f64() / (now - then).as_secs_f64() * 100.0
            }
            _ => 0.0,
        };
        let name = container.config.name.clone();
        Ok(Sample { container: word, id, name, cpu_percent, usage, memory_total_bytes, is_uncounted })
    }
}

/// The machine's memory, bytes.
fn memory_total() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// `usage`
pub(crate) fn usage(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut filters = Filters::parse(&[], &[], &[])?;
    parsed.all("label").for_each(|label| filters.push("label", label));
    let totals = context.engine()?.usage()?;
    let mut shown = Vec::new();
    let names = &parsed.operands;
    for name in names {
        let is_it = |id: &str, known: &str| known == name || (name.len() >= 4 && id.starts_with(name.as_str()));
        let found: Vec<_> = totals.iter().filter(|total| is_it(&total.id, &total.name)).cloned().collect();
        if found.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("nothing is known of a container `{name}`"))
                .hint("`corten usage` lists all that are known")
                .into());
        }
        shown.extend(found);
    }
    if names.is_empty() {
        shown = totals;
    }
    shown.retain(|total| filters.match_labels(&total.labels));
    let text = stats::usage(&shown, parsed.last("format"))?;
    context.print(&text)?;
    Ok(0)
}

/// `port`: no port of a container is published until there are networks.
pub(crate) fn port(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let container = context.engine()?.container(&parsed.operands[0])?;
    let Some(port) = parsed.operands.get(1) else { return Ok(0) };
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    if number.parse::<u16>().is_err() || !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(Error::invalid(format!("invalid port: {port}")).hint("it reads `80` or `53/udp`").into());
    }
    let message = format!("no public port '{number}/{protocol}' published for {}", container.config.name);
    Err(Error::new(ErrorKind::NotFound, message).into())
}
