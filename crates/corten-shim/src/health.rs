//! Health checks: a command at an interval, its output kept, and what follows when it keeps failing.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use corten_runtime::runtime::Started;
use corten_sys::{Call, signal};
use corten_types::shim::{CheckResult, Exec, Health, HealthCheck, HealthStatus, UnhealthyAction};
use corten_types::{Error, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::AsFd;

use crate::streams::non_blocking;
use crate::supervisor::Supervisor;
use crate::{events, launch};

/// Most output of one check that is kept, bytes (docker's).
const OUTPUT_SIZE_BYTES_MAX: usize = 4096;
/// Checks that are kept (docker's).
const RESULTS_MAX: usize = 5;
const SIGKILL: i32 = 9;

/// The checks of a running container.
pub(crate) struct Checks {
    /// When the grace is over.
    grace_ends: Instant,
    /// When the next one begins; `None` while one runs.
    next: Option<Instant>,
    running: Option<Running>,
}

/// A check under way.
struct Running {
    started: Started,
    output: OwnedFd,
    text: Vec<u8>,
    begun: (i64, u32),
    deadline: Instant,
    timed_out: bool,
}

impl Checks {
    /// When something is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.running {
            Some(running) if !running.timed_out => Some(running.deadline),
            Some(_) => None,
            None => self.next,
        }
    }

    /// Where the running check's output arrives.
    pub(crate) fn output(&self) -> Option<&OwnedFd> {
        self.running.as_ref().map(|running| &running.output)
    }

    /// The running check.
    pub(crate) fn pid(&self) -> Option<rustix::process::Pid> {
        self.running.as_ref().map(|running| running.started.pid)
    }

    /// Reads what the check printed; beyond the limit it is dropped, so that the command never blocks.
    pub(crate) fn read(&mut self) {
        let Some(running) = &mut self.running else { return };
        let mut buffer = [0; OUTPUT_SIZE_BYTES_MAX];
        while let Ok(count @ 1..) = rustix::io::read(&running.output, &mut buffer) {
            let room = OUTPUT_SIZE_BYTES_MAX - running.text.len();
            running.text.extend_from_slice(&buffer[..count.min(room)]);
        }
    }
}

impl Supervisor {
    /// Begins anew, for a program that just started or other checks.
    pub(crate) fn begin_checks(&mut self) {
        self.end_checks();
        let Some(check) = &self.launch.health else {
            self.record.health = None;
            return;
        };
        let now = Instant::now();
        let grace_ends = now + Duration::from_millis(check.start_period_ms);
        let first = interval(check, now < grace_ends);
        self.checks = Some(Checks { grace_ends, next: Some(now + first), running: None });
        self.record.health = Some(Health::default());
    }

    /// No more checks; one under way is killed.
    pub(crate) fn end_checks(&mut self) {
        if let Some(Checks { running: Some(running), .. }) = self.checks.take() {
            signal::pidfd_send_signal(running.started.pidfd.as_fd(), SIGKILL).ok();
        }
    }

    /// Does what is due.
    pub(crate) fn run_checks(&mut self, now: Instant) -> Result<()> {
        let Some(checks) = &mut self.checks else { return Ok(()) };
        if let Some(running) = &mut checks.running {
            if !running.timed_out && running.deadline <= now {
                running.timed_out = true;
                signal::pidfd_send_signal(running.started.pidfd.as_fd(), SIGKILL).ok();
            }
            return Ok(());
        }
        if checks.next.is_none_or(|next| next > now) {
            return Ok(());
        }
        let Some(check) = self.launch.health.clone() else { return Ok(()) };
        // A frozen container answers nothing: docker leaves its checks out too.
        if self.record.state == "paused" {
            self.plan_next(now);
            return Ok(());
        }
        let begun = corten_types::time::now();
        match self.start_check(&check) {
            Ok((started, output)) => {
                let deadline = now + Duration::from_millis(check.timeout_ms);
                let running = Running { started, output, text: Vec::new(), begun, deadline, timed_out: false };
                if let Some(checks) = &mut self.checks {
                    checks.running = Some(running);
                }
                Ok(())
            }
            Err(error) => {
                let end = corten_types::time::now();
                self.take_result(CheckResult { start: begun, end, exit_code: -1, output: error.one_line() })
            }
        }
    }

    fn start_check(&self, check: &HealthCheck) -> Result<(Started, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)")?;
        let args = match check.test.split_first() {
            Some((word, rest)) if word == "CMD" => rest.to_vec(),
            Some((word, rest)) if word == "CMD-SHELL" => {
                ["/bin/sh", "-c"].map(str::to_owned).into_iter().chain(rest.iter().cloned()).collect()
            }
            _ => return Err(Error::invalid("the health check has no command")),
        };
        let exec = Exec {
            id: String::new(),
            args,
            env: Vec::new(),
            cwd: None,
            user: None,
            capabilities: None,
            terminal: false,
            terminal_size: None,
            detached: true,
        };
        let stdio = [launch::null()?, writer.try_clone()?, writer];
        Ok((self.execute(&exec, Some(stdio))?, non_blocking(reader)?))
    }

    /// The check's command has ended.
    pub(crate) fn end_check(&mut self, code: u8) -> Result<()> {
        let Some(checks) = &mut self.checks else { return Ok(()) };
        checks.read();
        let Some(running) = checks.running.take() else { return Ok(()) };
        let mut output = String::from_utf8_lossy(&running.text).into_owned();
        let exit_code = if running.timed_out { -1 } else { i32::from(code) };
        if running.timed_out {
            let limit = self.launch.health.as_ref().map_or(0, |check| check.timeout_ms);
            output = format!("Health check exceeded timeout ({}): {output}", seconds(limit));
        }
        self.take_result(CheckResult { start: running.begun, end: corten_types::time::now(), exit_code, output })
    }

    fn take_result(&mut self, result: CheckResult) -> Result<()> {
        let Some(check) = self.launch.health.clone() else { return Ok(()) };
        let now = Instant::now();
        let in_grace = self.checks.as_ref().is_some_and(|checks| now < checks.grace_ends);
        let health = self.record.health.get_or_insert_default();
        let before = health.status;
        if result.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else if !(in_grace && health.status == HealthStatus::Starting) {
            health.failing_streak += 1;
            if health.failing_streak >= check.retries {
                health.status = HealthStatus::Unhealthy;
            }
        }
        health.log.push(result);
        if health.log.len() > RESULTS_MAX {
            health.log.remove(0);
        }
        let status = health.status;
        self.write_record()?;
        self.plan_next(now);
        if status != before {
            let last = self.record.health.as_ref().and_then(|health| health.log.last());
            let details: Vec<_> = last
                .filter(|_| status == HealthStatus::Unhealthy)
                .map(|result| [("output", result.output.clone()), ("exitCode", result.exit_code.to_string())])
                .into_iter()
                .flatten()
                .collect();
            events::explain(&self.launch, format!("health_status: {}", status.as_str()), &[], &details);
            if status == HealthStatus::Unhealthy {
                self.act(check.on_unhealthy)?;
            }
        }
        Ok(())
    }

    fn plan_next(&mut self, now: Instant) {
        let starting = self.record.health.as_ref().is_some_and(|health| health.status == HealthStatus::Starting);
        if let (Some(check), Some(checks)) = (&self.launch.health, &mut self.checks) {
            checks.next = Some(now + interval(check, starting && now < checks.grace_ends));
        }
    }

    fn act(&mut self, action: UnhealthyAction) -> Result<()> {
        let (stop_signal, timeout_ms) = self.launch.stop;
        self.asker = "its health check failed (`--health-on-failure`)".to_owned();
        match action {
            UnhealthyAction::None => Ok(()),
            UnhealthyAction::Kill => self.signal(SIGKILL, false),
            UnhealthyAction::Stop => self.stop(stop_signal, Some(timeout_ms)),
            UnhealthyAction::Restart => {
                self.restarts_once = true;
                self.kill_at = Some(Instant::now() + Duration::from_millis(timeout_ms));
                self.signal(stop_signal, false)
            }
        }
    }
}

fn interval(check: &HealthCheck, in_grace: bool) -> Duration {
    Duration::from_millis(if in_grace { check.start_interval_ms } else { check.interval_ms })
}

fn seconds(milliseconds: u64) -> String {
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}
