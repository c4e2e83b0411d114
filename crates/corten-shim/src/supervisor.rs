//! The supervisor at work: one poll loop over the program, its streams, the clients and the clock.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use corten_fs::Lock;
use corten_fs::atomic::Durability;
use corten_runtime::runtime::Started;
use corten_sys::{Call, channel, signal};
use corten_types::Result;
use corten_types::shim::{Event, Launch, LifeRecord, RestartPolicy, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use crate::clients::{CLIENTS_MAX, Client};
use crate::health::Checks;
use crate::launch::{self, Place};
use crate::processes::Executed;
use crate::streams::{Streams, has_terminal, non_blocking};
use crate::usage::Meter;
use crate::{events, life};

const SIGKILL: i32 = 9;
/// A run as long as this makes the next wait the first one again (docker's).
const GOOD_RUN: Duration = Duration::from_secs(10);
/// A stream that gave nothing for so long is quiet.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What a launch made.
pub(crate) struct Parts {
    pub(crate) place: Place,
    pub(crate) signals: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) streams: Streams,
    pub(crate) started: Started,
}

/// Where the program is.
pub(crate) enum Phase {
    /// It runs.
    Running(Started),
    /// It has ended and is started again at this moment.
    Waiting(Instant),
    /// It has ended for good.
    Over,
}

/// How the program ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    code: u8,
    oom_killed: bool,
    /// The signal that ended it.
    signal: Option<i32>,
}

/// The state of the poll loop.
pub(crate) struct Supervisor {
    pub(crate) launch: Box<Launch>,
    place: Place,
    signals: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) clients: Vec<Client>,
    pub(crate) last_client: u64,
    pub(crate) streams: Streams,
    pub(crate) record: LifeRecord,
    pub(crate) phase: Phase,
    pub(crate) executed: Vec<Executed>,
    pub(crate) checks: Option<Checks>,
    pub(crate) meter: Meter,
    /// Who asked for what is being done.
    pub(crate) asker: String,
    /// When SIGKILL follows a signal that asked for the end.
    pub(crate) kill_at: Option<Instant>,
    /// The user wants an end: no policy starts it again.
    pub(crate) ends: bool,
    /// It starts again whatever its policy.
    pub(crate) restarts_once: bool,
    run_began: Instant,
    delay_ms: u64,
    /// Neither image nor user set HOME.
    pub(crate) home_is_ours: bool,
    pub(crate) home: String,
}

impl Supervisor {
    pub(crate) fn new(mut launch: Box<Launch>, parts: Parts, socket: OwnedFd) -> Result<Self> {
        let Parts { place, signals, listener, mut streams, started } = parts;
        let pid = started.pid.as_raw_nonzero().get();
        let record = LifeRecord {
            state: "running".to_owned(),
            pid,
            shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
            started_at: Some(corten_types::time::now()),
            ..LifeRecord::default()
        };
        let opened = match launch.attach.take() {
            Some(wanted) => streams.attach(wanted, &launch)?,
            None => crate::streams::Opened::default(),
        };
        let terminal = has_terminal(&launch);
        let home = crate::launch::home(&launch);
        let home_is_ours = launch.home_is_ours;
        // From here on config.json in the run directory is the only copy: it is large, and every container has one.
        launch.spec = Box::default();
        launch.spec.process = Some(corten_types::runtime_spec::Process { terminal, ..Default::default() });
        let (delay_ms, id) = (launch.restart_delay_ms.0, launch.id.clone());
        let mut supervisor = Self {
            launch,
            place,
            signals,
            listener,
            clients: Vec::new(),
            last_client: 0,
            streams,
            record,
            phase: Phase::Running(started),
            executed: Vec::new(),
            checks: None,
            meter: Meter::of(pid, &id),
            asker: String::new(),
            kill_at: None,
            ends: false,
            restarts_once: false,
            run_began: Instant::now(),
            delay_ms,
            home_is_ours,
            home,
        };
        supervisor.begin_checks();
        supervisor.write_record()?;
        let mut frame = encode(&Event::Attached {
            stdin: opened.stdin.is_some(),
            stdout: opened.stdout.is_some(),
            stderr: opened.stderr.is_some(),
        })?;
        frame.extend(encode(&Event::Started { pid })?);
        events::explain(&supervisor.launch, "start", &[], &[("pid", pid.to_string())]);
        // A launcher that is gone already does not stop the container.
        channel::send(&socket, &frame, &opened.descriptors()).ok();
        drop(opened);
        let_go_of_streams()?;
        supervisor.clients.push(Client::new(0, non_blocking(socket)?));
        // The launch took more than waiting does.
        corten_sys::memory::give_back();
        Ok(supervisor)
    }

    /// Until the program has ended for good and everything is cleaned up.
    pub(crate) fn run(mut self, alive: Lock) -> Result<()> {
        loop {
            if let Some(ended) = self.reap()? {
                self.end_run(ended)?;
            }
            self.keep_time()?;
            if matches!(self.phase, Phase::Over) {
                break;
            }
            self.wait(self.next_moment())?;
        }
        self.finish(alive)
    }

    /// Writes where the container is in its life.
    pub(crate) fn write_record(&mut self) -> Result<()> {
        self.record.log_drops = self.streams.log().drops();
        life::write(&self.place.directory, &self.record, Durability::Volatile)
    }

    /// Reaps every child that has ended; the program's end, if it is among them.
    fn reap(&mut self) -> Result<Option<Ended>> {
        let mut ended = None;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = exit_code(status);
                    if matches!(&self.phase, Phase::Running(started) if started.pid == pid) {
                        let oom_killed = self.meter.has_killed();
                        ended = Some(Ended { code, oom_killed, signal: status.terminating_signal() });
                    } else if self.checks.as_ref().and_then(Checks::pid) == Some(pid) {
                        self.end_check(code)?;
                    } else {
                        self.end_process(pid, code);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(ended),
                Err(errno) => return Err(errno).call(|| "waitpid(-1, WNOHANG)"),
            }
        }
    }

    /// The program has ended: the record, the clients, and what its policy wants.
    fn end_run(&mut self, ended: Ended) -> Result<()> {
        self.end_checks();
        self.streams.end();
        self.kill_at = None;
        if self.run_began.elapsed() >= GOOD_RUN {
            self.delay_ms = self.launch.restart_delay_ms.0;
        }
        let restarts = !self.ends && (std::mem::take(&mut self.restarts_once) || self.wants_restart(ended.code));
        self.record.pid = 0;
        self.record.exit_code = ended.code;
        self.record.oom_killed = ended.oom_killed;
        self.record.finished_at = Some(corten_types::time::now());
        if restarts {
            self.record.state = "restarting".to_owned();
            self.phase = Phase::Waiting(Instant::now() + Duration::from_millis(self.delay_ms));
            self.delay_ms = (self.delay_ms * 2).min(self.launch.restart_delay_ms.1);
            self.write_record()?;
        } else {
            self.record.state = "exited".to_owned();
            self.record.shim_pid = 0;
            self.phase = Phase::Over;
            match self.launch.remove_first.is_empty() {
                true => self.write_record()?,
                false => launch::remove_files(&self.launch),
            }
        }
        let (code, oom_killed) = (ended.code, ended.oom_killed);
        self.tell_end(ended, restarts);
        self.tell_all(&Event::Exited { code, oom_killed, restarts });
        self.keep_usage(code);
        if restarts {
            // Clients of the run that ended have all they get.
            launch::runtime(&self.launch).delete(&self.launch.id, true)?;
        }
        Ok(())
    }

    /// The end, and what led to it, for everybody who follows.
    fn tell_end(&mut self, ended: Ended, restarts: bool) {
        if ended.oom_killed {
            let usage = self.meter.sample();
            let numbers = [
                ("memoryLimitBytes", usage.memory_limit_bytes.to_string()),
                ("memoryPeakBytes", usage.memory_peak_bytes.to_string()),
                ("memoryFailures", usage.memory_failures.to_string()),
                ("oomKills", usage.oom_kills.to_string()),
            ];
            events::explain(&self.launch, "oom", &[], &numbers);
        }
        let seconds = self.run_began.elapsed().as_secs().to_string();
        let mut details = Vec::new();
        details.extend(ended.signal.map(|signal| ("signal", signal.to_string())));
        if restarts && let Phase::Waiting(moment) = self.phase {
            let left = moment.saturating_duration_since(Instant::now());
            details.push(("restartsInMs", left.as_millis().to_string()));
        }
        let more = [("exitCode", ended.code.to_string()), ("execDuration", seconds)];
        events::explain(&self.launch, "die", &more, &details);
    }

    fn wants_restart(&self, code: u8) -> bool {
        match self.launch.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure(most) => code != 0 && (most == 0 || self.record.restart_count < most),
        }
    }

    /// Does what is due by the clock, which is one that nobody sets.
    fn keep_time(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.kill_at.is_some_and(|moment| moment <= now) {
            self.kill_at = None;
            self.asker = "the time that it had to end in ran out".to_owned();
            // It may end in this moment.
            self.signal(SIGKILL, self.ends).ok();
        }
        if matches!(self.phase, Phase::Waiting(moment) if moment <= now) {
            self.start_again()?;
        }
        if matches!(self.phase, Phase::Running(_)) {
            self.run_checks(now)?;
            self.meter.keep_time(now);
        }
        Ok(())
    }

    fn next_moment(&self) -> Option<Instant> {
        let waiting = match self.phase {
            Phase::Waiting(moment) => Some(moment),
            _ => None,
        };
        let checks = self.checks.as_ref().and_then(Checks::due);
        let sample = if waiting.is_none() { self.meter.due() } else { None };
        [waiting, self.kill_at, checks, sample].into_iter().flatten().min()
    }

    fn start_again(&mut self) -> Result<()> {
        let started = self.streams.renew(&self.launch).and_then(|stdio| {
            let mut started = launch::start(&self.launch, stdio)?;
            self.streams.take_terminal(started.terminal.take(), &self.launch)?;
            Ok(started)
        });
        match started {
            Ok(started) => {
                let pid = started.pid.as_raw_nonzero().get();
                self.meter = Meter::of(pid, &self.launch.id);
                self.record.state = "running".to_owned();
                self.record.pid = pid;
                self.record.restart_count += 1;
                self.record.error.clear();
                self.record.oom_killed = false;
                self.record.started_at = Some(corten_types::time::now());
                self.phase = Phase::Running(started);
                self.run_began = Instant::now();
                self.begin_checks();
                self.write_record()?;
                let restarted = [("pid", pid.to_string()), ("restart", self.record.restart_count.to_string())];
                events::explain(&self.launch, "start", &[], &restarted);
                self.tell_all(&Event::Started { pid });
            }
            Err(error) => {
                // As a run that ended at once: the policy says whether there is another.
                let code = error.kind().run_exit_code();
                self.record.error = error.one_line();
                self.record.restart_count += 1;
                self.run_began = Instant::now();
                self.end_run(Ended { code, oom_killed: false, signal: None })?;
            }
        }
        Ok(())
    }

    /// Waits for something to happen, until `moment` at the latest, and deals with it.
    fn wait(&mut self, moment: Option<Instant>) -> Result<()> {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let room = if self.clients.len() < CLIENTS_MAX { PollFlags::IN } else { PollFlags::empty() };
        polled.push(PollFd::new(&self.listener, room));
        let first_client = polled.len();
        polled.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)));
        let first_stream = polled.len();
        polled.extend(self.streams.watched().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let check_at = polled.len();
        polled.extend(self.checks.as_ref().and_then(Checks::output).map(|output| PollFd::new(output, PollFlags::IN)));
        let left = moment.map(|moment| moment.saturating_duration_since(Instant::now()));
        // A burst's memory is held for a while only.
        let left =
            if self.streams.is_busy() { Some(left.map_or(REST_AFTER, |left| left.min(REST_AFTER))) } else { left };
        let timeout = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 }));
        let first_terminal = polled.len();
        let executed = self.executed.iter().enumerate();
        let (orphans, terminals): (Vec<usize>, Vec<&OwnedFd>) =
            executed.filter_map(|(index, one)| one.unread().map(|terminal| (index, terminal))).unzip();
        polled.extend(terminals.into_iter().map(|terminal| PollFd::new(terminal, PollFlags::IN)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) => {
                drop(polled);
                self.streams.rest();
                corten_sys::memory::give_back();
                return Ok(());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        while signal::read_signal(self.signals.as_fd()).call(|| "read(<signalfd>)")?.is_some() {}
        self.streams.serve(&ready[first_stream..check_at]);
        if let Some(checks) = &mut self.checks
            && ready[check_at..first_terminal].iter().any(|flags| !flags.is_empty())
        {
            checks.read();
        }
        for (index, flags) in orphans.into_iter().zip(&ready[first_terminal..]) {
            if !flags.is_empty() {
                self.executed[index].drop_output();
            }
        }
        for index in (first_client..first_stream).rev().filter(|index| !ready[*index].is_empty()) {
            self.read_client(index - first_client);
        }
        if !ready[1].is_empty() {
            self.accept();
        }
        Ok(())
    }

    /// Cleans up. What clients have not read yet is kept for them, but nobody else waits for that.
    fn finish(mut self, alive: Lock) -> Result<()> {
        let keep = self.launch.remove_first.is_empty();
        let recorded = match keep {
            true => life::write(&self.place.directory, &self.record, Durability::Durable),
            false => Ok(()),
        };
        let cleaned = launch::clean_up(&self.launch);
        if !keep {
            events::tell(&self.launch, "destroy", &[]);
        }
        drop(alive);
        self.clients.clear();
        while self.streams.owes() {
            let mut polled: Vec<_> =
                self.streams.watched().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call(|| "poll"),
            }
            let ready: Vec<_> = polled.iter().map(PollFd::revents).collect();
            drop(polled);
            self.streams.serve(&ready);
        }
        recorded.and(cleaned)
    }
}

pub(crate) fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

/// The supervisor's own standard descriptors lead nowhere from here on: they were the launcher's.
fn let_go_of_streams() -> Result<()> {
    let null = launch::null()?;
    rustix::stdio::dup2_stdin(&null).call(|| "dup2(<null>, 0)")?;
    rustix::stdio::dup2_stdout(&null).call(|| "dup2(<null>, 1)")?;
    rustix::stdio::dup2_stderr(&null).call(|| "dup2(<null>, 2)")
}
