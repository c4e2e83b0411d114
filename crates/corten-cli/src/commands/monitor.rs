//! `corten top` without a name: every running container in a terminal, its CPU, memory, I/O and network as sparklines;
//! logs and a shell are a key away.

use std::collections::{BTreeMap, VecDeque};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corten_docker::stats::Sample;
use corten_docker::units::{human_size, human_size_binary};
use corten_types::{Context as _, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Context;
use super::stats::Before;
use crate::terminal::{RawMode, is_terminal, size};

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Samples that a sparkline shows.
const HISTORY: usize = 16;
/// The other screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One container's last moments.
#[derive(Debug, Clone, Default)]
struct Track {
    sample: Sample,
    cpu: VecDeque<f64>,
    memory: VecDeque<f64>,
    block: VecDeque<f64>,
    network: VecDeque<f64>,
    totals: (u64, u64),
}

/// What is on the screen.
#[derive(Debug, Default)]
struct Screen {
    tracks: BTreeMap<String, Track>,
    selected: usize,
    /// The container whose log is shown.
    log_of: Option<(String, String)>,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Quit,
    Up,
    Down,
    Log,
    Shell,
    Other,
}

/// Shows containers until `q` is typed.
pub(crate) fn run(context: &mut Context<'_>) -> Result<u8> {
    if !is_terminal(rustix::stdio::stdin()) || !is_terminal(rustix::stdio::stdout()) {
        return Err(Error::invalid("`corten top` without a container needs a terminal")
            .hint("name a container, or use `corten stats --no-stream`"));
    }
    context.print(ENTER)?;
    let outcome = watch(context);
    context.print(LEAVE)?;
    outcome.map(|()| 0)
}

fn watch(context: &mut Context<'_>) -> Result<()> {
    let engine = context.engine()?;
    let (mut before, mut screen) = (Before::default(), Screen::default());
    let mut raw = Some(RawMode::enter(rustix::stdio::stdin())?);
    let mut next = Instant::now();
    loop {
        if next <= Instant::now() {
            screen.take(before.samples(&engine, &[], false)?);
            if let Some((name, text)) = &mut screen.log_of {
                *text = log(context, name);
            }
            next = Instant::now() + INTERVAL;
        }
        let frame = screen.frame(size(rustix::stdio::stdout()).unwrap_or((24, 80)));
        context.print(&frame)?;
        for key in keys(next.saturating_duration_since(Instant::now()))? {
            let chosen = screen.chosen();
            match key {
                Key::Quit if screen.log_of.take().is_none() => return Ok(()),
                Key::Up => screen.selected = screen.selected.saturating_sub(1),
                Key::Down => screen.selected += 1,
                Key::Log => screen.log_of = chosen.map(|name| (name.clone(), log(context, &name))),
                Key::Shell => {
                    if let Some(name) = chosen {
                        drop(raw.take());
                        shell(context, &name)?;
                        raw = Some(RawMode::enter(rustix::stdio::stdin())?);
                    }
                }
                Key::Quit | Key::Other => {}
            }
        }
    }
}

/// What is typed in this time.
fn keys(time: Duration) -> Result<Vec<Key>> {
    let stdin = rustix::stdio::stdin();
    let time = Timespec::try_from(time).map_err(|_| Error::invalid("the interval is too long"))?;
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut polled, Some(&time)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(errno) => return Err(Error::syscall("poll(<stdin>)", errno.raw_os_error())),
    }
    let mut buffer = [0; 64];
    let count = rustix::io::read(stdin, &mut buffer)
        .map_err(std::io::Error::from)
        .context(|| "cannot read from the terminal")?;
    Ok(meaning(&buffer[..count]))
}

/// Keys may arrive together; an arrow is three bytes, Escape alone is one.
fn meaning(typed: &[u8]) -> Vec<Key> {
    let (mut keys, mut rest) = (Vec::new(), typed);
    if typed.is_empty() {
        // The terminal is gone.
        keys.push(Key::Quit);
    }
    while let Some((first, after)) = rest.split_first() {
        let (key, length) = match (first, after) {
            (27, []) => (Key::Quit, 1),
            (27, [b'[' | b'O', b'A', ..]) => (Key::Up, 3),
            (27, [b'[' | b'O', b'B', ..]) => (Key::Down, 3),
            (27, _) => (Key::Other, rest.len()),
            // Ctrl-C and Ctrl-D.
            (b'q' | b'Q' | 3 | 4, _) => (Key::Quit, 1),
            (b'k', _) => (Key::Up, 1),
            (b'j', _) => (Key::Down, 1),
            (b'l', _) => (Key::Log, 1),
            (b's', _) => (Key::Shell, 1),
            _ => (Key::Other, 1),
        };
        keys.push(key);
        rest = &rest[length..];
    }
    keys
}

/// This program with the same places.
fn corten(context: &Context<'_>, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(&context.environment.executable);
    command.args(context.settings.words(context.environment)?).args(words);
    Ok(command)
}

fn log(context: &Context<'_>, name: &str) -> String {
    let output = corten(context, &["logs", "-n", "200", name])
        .and_then(|mut command| Ok(command.stdin(Stdio::null()).stderr(Stdio::null()).output()?));
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => error.one_line(),
    }
}

fn shell(context: &mut Context<'_>, name: &str) -> Result<()> {
    context.print(&format!("{LEAVE}A shell in {name}; `exit` comes back.\r\n"))?;
    let ended = corten(context, &["exec", "-it", name, "sh"])?.status().context(|| "cannot start a shell");
    let _flushed = context.out.flush();
    context.print(ENTER)?;
    ended.map(drop)
}

impl Screen {
    fn take(&mut self, samples: Vec<Sample>) {
        let ids: Vec<String> = samples.iter().map(|sample| sample.id.clone()).collect();
        self.tracks.retain(|id, _| ids.contains(id));
        for sample in samples {
            self.tracks.entry(sample.id.clone()).or_default().take(sample);
        }
    }

    fn chosen(&self) -> Option<String> {
        self.tracks.values().nth(self.index()).map(|track| track.sample.name.clone())
    }

    fn index(&self) -> usize {
        self.selected.min(self.tracks.len().saturating_sub(1))
    }

    /// The whole screen, rows times columns.
    fn frame(&mut self, (rows, columns): (u16, u16)) -> String {
        let (rows, columns) = (usize::from(rows), usize::from(columns));
        self.selected = self.index();
        let mut lines = match &self.log_of {
            Some((name, text)) => log_lines(name, text, rows),
            None => self.table(),
        };
        lines.truncate(rows.saturating_sub(1));
        let mut frame = HOME.to_owned();
        for line in lines {
            frame.extend(line.chars().take(columns));
            frame.push_str(&format!("{CLEAR_LINE}\r\n"));
        }
        frame.push_str(CLEAR_BELOW);
        let help = if self.log_of.is_some() { "q back" } else { "q quit   j k choose   l log   s shell" };
        frame.extend(help.chars().take(columns));
        frame
    }

    fn table(&self) -> Vec<String> {
        let bars = |name: &str| format!("{name:<width$}", width = HISTORY + 1);
        let mut lines = vec![format!(
            "  {:<20} {:>8} {}{:>9} {}{:>9} {}{:>9} {}",
            "NAME",
            "CPU",
            bars(""),
            "MEMORY",
            bars(""),
            "I/O /s",
            bars(""),
            "NET /s",
            bars("")
        )];
        for (index, track) in self.tracks.values().enumerate() {
            let mark = if index == self.selected { '>' } else { ' ' };
            let rate = |history: &VecDeque<f64>| human_size(whole(history.back().copied().unwrap_or(0.0)), 3);
            let name: String = track.sample.name.chars().take(20).collect();
            lines.push(format!(
                "{mark} {name:<20} {:>7.1}% {} {:>9} {} {:>9} {} {:>9} {}",
                track.sample.cpu_percent,
                sparkline(&track.cpu),
                human_size_binary(track.sample.usage.memory_bytes),
                sparkline(&track.memory),
                rate(&track.block),
                sparkline(&track.block),
                rate(&track.network),
                sparkline(&track.network),
            ));
        }
        if self.tracks.is_empty() {
            lines.push("  no container runs".to_owned());
        }
        lines
    }
}

/// The end of a log; what a program printed moves no cursor and changes no colour.
fn log_lines(name: &str, text: &str, rows: usize) -> Vec<String> {
    let all: Vec<String> =
        text.lines().map(|line| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()).collect();
    let from = all.len().saturating_sub(rows.saturating_sub(3));
    std::iter::once(format!("the log of {name}")).chain(all.into_iter().skip(from)).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people; saturates")]
fn whole(number: f64) -> u64 {
    number as u64
}

impl Track {
    #[expect(clippy::cast_precision_loss, reason = "rates for people have few digits")]
    fn take(&mut self, sample: Sample) {
        let usage = &sample.usage;
        let totals = (usage.read_bytes + usage.written_bytes, usage.received_bytes + usage.sent_bytes);
        let is_first = self.cpu.is_empty();
        let rate = |now: u64, then: u64| {
            if is_first { 0.0 } else { now.saturating_sub(then) as f64 / INTERVAL.as_secs_f64() }
        };
        let rates = (rate(totals.0, self.totals.0), rate(totals.1, self.totals.1));
        for (history, value) in [
            (&mut self.cpu, sample.cpu_percent),
            (&mut self.memory, usage.memory_bytes as f64),
            (&mut self.block, rates.0),
            (&mut self.network, rates.1),
        ] {
            history.push_back(value);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        self.totals = totals;
        self.sample = sample;
    }
}

/// The numbers as bars of eight heights, the highest one whole.
fn sparkline(history: &VecDeque<f64>) -> String {
    let most = history.iter().copied().fold(0.0_f64, f64::max);
    let bar = |value: &f64| {
        let share = if most > 0.0 { value / most * 7.0 } else { 0.0 };
        BARS.get(usize::try_from(whole(share.round())).unwrap_or(7)).copied().unwrap_or('█')
    };
    let bars: String = history.iter().map(bar).collect();
    format!("{bars:<HISTORY$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, cpu_percent: f64) -> Sample {
        Sample { id: name.to_owned(), name: name.to_owned(), cpu_percent, ..Sample::default() }
    }

    #[test]
    fn bars_grow_with_the_numbers() {
        let shown = sparkline(&VecDeque::from([0.0, 50.0, 100.0]));
        assert_eq!(shown.trim_end(), "▁▅█");
        assert_eq!(shown.chars().count(), HISTORY);
        assert_eq!(sparkline(&VecDeque::from([0.0])).trim_end(), "▁");
    }

    #[test]
    fn keys_mean_what_the_last_line_says() {
        for (typed, key) in [
            (&b"q"[..], Key::Quit),
            (b"\x03", Key::Quit),
            (b"\x1b[A", Key::Up),
            (b"j", Key::Down),
            (b"l", Key::Log),
            (b"s", Key::Shell),
            (b"x", Key::Other),
        ] {
            assert_eq!(meaning(typed), [key], "{typed:?}");
        }
        assert_eq!(meaning(b"j\x1b[Aqq"), [Key::Down, Key::Up, Key::Quit, Key::Quit]);
        assert_eq!(meaning(b""), [Key::Quit]);
    }

    #[test]
    fn a_frame_fits_the_terminal_and_marks_the_chosen_one() {
        let mut screen = Screen::default();
        screen.take(vec![sample("api", 5.0), sample("web", 50.0)]);
        screen.selected = 9;
        let frame = screen.frame((10, 40));
        assert!(frame.contains("> web") && frame.contains("  api") && frame.contains("q quit"), "{frame}");
        assert_eq!(screen.chosen().as_deref(), Some("web"));
        screen.take(vec![sample("api", 5.0)]);
        assert_eq!(screen.chosen().as_deref(), Some("api"));
        screen.log_of = Some(("api".to_owned(), "one\n\x1b[31mtwo\n".to_owned()));
        let frame = screen.frame((10, 40));
        assert!(
            frame.contains("the log of api") && frame.contains(" [31mtwo") && !frame.contains("\x1b[31m"),
            "{frame}"
        );
    }
}
