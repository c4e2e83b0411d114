//! One program with a time limit, its output captured.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long output may stay open after the program has ended, before it counts as held open by somebody else.
const DRAIN_MS_MAX: u64 = 500;

/// What a program did.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 128 + n for signal n, as a shell shows it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output or error was still open in another process after the program had ended.
    pub held_open: bool,
    /// The time limit was reached and the program killed.
    pub timed_out: bool,
    /// From start to exit.
    pub elapsed: Duration,
}

impl Finished {
    /// Demands an exit code.
    #[track_caller]
    pub fn code(&self, expected: i32) -> &Self {
        assert!(self.code == expected && !self.timed_out, "expected exit code {expected}\n{}", self.transcript());
        self
    }

    /// Demands exit code 0.
    #[track_caller]
    pub fn ok(&self) -> &Self {
        self.code(0)
    }

    /// Demands a standard output, whole, apart from white space at its end.
    #[track_caller]
    pub fn prints(&self, expected: &str) -> &Self {
        assert!(self.stdout.trim_end() == expected.trim_end(), "expected stdout {expected:?}\n{}", self.transcript());
        self
    }

    /// Demands a text inside standard output.
    #[track_caller]
    pub fn shows(&self, part: &str) -> &Self {
        assert!(self.stdout.contains(part), "expected {part:?} in stdout\n{}", self.transcript());
        self
    }

    /// Demands a text inside standard error.
    #[track_caller]
    pub fn complains(&self, part: &str) -> &Self {
        assert!(self.stderr.contains(part), "expected {part:?} in stderr\n{}", self.transcript());
        self
    }

    /// Standard output without the white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Everything, for the message of a failed test.
    pub fn transcript(&self) -> String {
        format!(
            "$ {}\nexit code {}{} after {} ms\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.command,
            self.code,
            if self.timed_out { " (killed at the time limit)" } else { "" },
            self.elapsed.as_millis(),
            self.stdout,
            self.stderr
        )
    }
}

/// The command line as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./:=,@%+".contains(c));
        if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Runs `command` to its end or to the time limit, then kills it (not its descendants: the leak counter names those).
#[track_caller]
pub fn finish(mut command: Command, stdin: Option<&[u8]>, limit: Duration) -> Finished {
    let line = shown(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
    let writer = child.stdin.take().zip(stdin).map(|(mut pipe, bytes)| {
        let bytes = bytes.to_vec();
        // A program that does not read its input closes the pipe early: no failure of the test.
        std::thread::spawn(move || drop(pipe.write_all(&bytes)))
    });
    let mut finished = collect(&mut child, start, limit);
    if let Some(writer) = writer {
        writer.join().ok();
    }
    finished.command = line;
    finished
}

fn collect(child: &mut Child, start: Instant, limit: Duration) -> Finished {
    let pidfd = pidfd_of(child);
    let mut pipes: [(Option<OwnedFd>, Vec<u8>); 2] =
        [(child.stdout.take().map(OwnedFd::from), Vec::new()), (child.stderr.take().map(OwnedFd::from), Vec::new())];
    let mut deadline = start + limit;
    let mut ended: Option<(ExitStatus, Duration)> = None;
    let mut timed_out = false;
    while ended.is_none() || pipes.iter().any(|(pipe, _)| pipe.is_some()) {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            if ended.is_some() {
                break;
            }
            timed_out = true;
            pidfd_send_signal(&pidfd, Signal::KILL).ok();
            deadline = Instant::now() + Duration::from_secs(5);
            continue;
        };
        wait_readable(ended.is_none().then_some(&pidfd), &pipes, left);
        for (pipe, bytes) in &mut pipes {
            read_available(pipe, bytes);
        }
        if ended.is_none()
            && let Some(status) = child.try_wait().unwrap()
        {
            ended = Some((status, start.elapsed()));
            deadline = Instant::now() + Duration::from_millis(DRAIN_MS_MAX);
        }
    }
    let held_open = pipes.iter().any(|(pipe, _)| pipe.is_some());
    let [stdout, stderr] = pipes.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned());
    let (code, elapsed) = ended.map_or((-1, start.elapsed()), |(status, elapsed)| (code_of(status), elapsed));
    Finished { command: String::new(), code, stdout, stderr, held_open, timed_out, elapsed }
}

fn pidfd_of(child: &Child) -> OwnedFd {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

fn wait_readable(pidfd: Option<&OwnedFd>, pipes: &[(Option<OwnedFd>, Vec<u8>); 2], left: Duration) {
    let open = pipes.iter().filter_map(|(pipe, _)| pipe.as_ref());
    let mut polled: Vec<PollFd<'_>> =
        pidfd.into_iter().chain(open).map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    let left = Timespec::try_from(left).unwrap();
    poll(&mut polled, Some(&left)).ok();
}

/// Reads what is there; a pipe at its end becomes `None`.
fn read_available(pipe: &mut Option<OwnedFd>, bytes: &mut Vec<u8>) {
    while let Some(fd) = pipe {
        let mut ready = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        let now = Timespec::default();
        if poll(&mut ready, Some(&now)) != Ok(1) {
            return;
        }
        let mut chunk = [0; 65536];
        match rustix::io::read(&*fd, &mut chunk) {
            Ok(0) | Err(_) => *pipe = None,
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

/// The exit code as a shell shows it.
pub fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Waits, looking every few milliseconds, until `done`; false at the time limit.
pub fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How often an attack or a cycle is tried: `CORTEN_TEST_ROUNDS`, or else `few`; a tenth on an emulated machine.
pub fn rounds(few: usize) -> usize {
    let wanted = std::env::var("CORTEN_TEST_ROUNDS").ok().and_then(|count| count.parse().ok());
    let few = if std::env::var_os("CORTEN_TEST_SLOW").is_some() { few.div_ceil(10) } else { few };
    wanted.unwrap_or(few)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit_ms: u64) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        finish(command, Some(b"in\n"), Duration::from_millis(limit_ms))
    }

    #[test]
    fn output_and_code_are_captured() {
        let finished = sh("cat; echo err >&2; exit 3", 10_000);
        assert_eq!((finished.code, finished.text(), finished.stderr.trim()), (3, "in", "err"));
        assert_eq!(sh("kill -TERM $$", 10_000).code, 143);
    }

    #[test]
    fn a_program_beyond_its_time_is_killed() {
        let finished = sh("exec sleep 60", 50);
        assert!(finished.timed_out && finished.elapsed < Duration::from_secs(30));
    }

    #[test]
    fn an_output_held_open_by_a_background_process_is_seen() {
        assert!(sh("sleep 2 & exit 0", 10_000).held_open);
    }
}
