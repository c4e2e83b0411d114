//! The supervisor's life: one launch, then one poll loop until the program has ended and everything is cleaned up.

use std::os::fd::{AsFd, OwnedFd};

use corten_fs::Lock;
use corten_fs::atomic::Durability;
use corten_runtime::runtime::Started;
use corten_sys::{Call, channel, signal};
use corten_types::shim::{Decoder, Event, Failure, Launch, LifeRecord, Request, Streams, encode};
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, WaitStatus};

use crate::launch::{self, Place};
use crate::life;
use crate::log::{Lines, Log, Stream};
use crate::oom::Counter;

const SIGCHLD: i32 = 17;
/// Most clients at once; more wait in the socket's queue.
const CLIENTS_MAX: usize = 64;
/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 32 * 1024;

/// One connection.
struct Client {
    socket: OwnedFd,
    decoder: Decoder,
    /// Whether it asked for the launch: it relays the terminal.
    launcher: bool,
}

/// One stream that goes into the log.
struct Output {
    source: OwnedFd,
    lines: Lines,
}

/// How the program ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    code: u8,
    oom_killed: bool,
}

/// The state of the poll loop.
struct Supervisor {
    launch: Box<Launch>,
    place: Place,
    signals: OwnedFd,
    listener: OwnedFd,
    clients: Vec<Client>,
    outputs: Vec<Output>,
    log: Option<Log>,
    /// The terminal's main side while the launcher relays it: kept so that the terminal outlives the launcher.
    terminal: Option<OwnedFd>,
    record: LifeRecord,
    started: Started,
    memory: Option<Counter>,
}

/// The role's whole life; an error means that nobody was there to hear of it, or that cleaning up failed.
pub(crate) fn serve() -> Result<()> {
    corten_sys::exec::close_range(3, u32::MAX).call(|| "close_range(3, ~0)")?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (mut launch, mut descriptors) = receive_launch(&socket)?;
    if descriptors.is_empty() {
        return Err(Error::invalid("no liveness lock came beside the launch"));
    }
    // Held until the process ends, however it ends: that is what tells everybody else.
    let _alive = Lock::from_fd(descriptors.remove(0));
    let result = begin(&mut launch, descriptors);
    match result {
        Ok(parts) => Supervisor::new(launch, parts, socket)?.run(),
        Err(error) => fail(&launch, &socket, &error),
    }
}

fn receive_launch(socket: &OwnedFd) -> Result<(Box<Launch>, Vec<OwnedFd>)> {
    let (mut decoder, mut descriptors) = (Decoder::default(), Vec::new());
    let mut buffer = vec![0; READ_SIZE_BYTES];
    loop {
        let (count, beside) = channel::receive(socket, &mut buffer).call(|| "recvmsg(<engine>)")?;
        descriptors.extend(beside);
        decoder.push(&buffer[..count]);
        match decoder.next_message()? {
            Some(Request::Launch(launch)) => return Ok((launch, descriptors)),
            Some(Request::Signal(_)) => return Err(Error::invalid("a signal came before the launch")),
            None if count == 0 => return Err(Error::invalid("the engine went away before the launch")),
            None => {}
        }
    }
}

/// What [`begin`] made.
struct Parts {
    place: Place,
    signals: OwnedFd,
    listener: OwnedFd,
    outputs: Vec<Output>,
    started: Started,
}

/// From a launch to a running program.
fn begin(launch: &mut Launch, descriptors: Vec<OwnedFd>) -> Result<Parts> {
    // It fails where the process leads a group already, which serves as well.
    rustix::process::setsid().ok();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    let signals = signal::block_all_and_watch(&[SIGCHLD]).call(|| "signalfd([SIGCHLD])")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::chdir("/").call(|| "chdir(\"/\")")?;
    launch::leave_mount_namespace(launch)?;
    let place = Place::open(launch)?;
    let listener = launch::listen(&place)?;
    let terminal = launch.spec.process.as_ref().is_some_and(|process| process.terminal);
    let (stdio, outputs) = match launch.streams {
        _ if terminal => (None, Vec::new()),
        Streams::Inherited => (Some(inherited(descriptors)?), Vec::new()),
        Streams::Log => logged()?,
    };
    let started = launch::launch(launch, &place, stdio)?;
    Ok(Parts { place, signals, listener, outputs, started })
}

fn inherited(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; 3]> {
    descriptors.try_into().map_err(|_| Error::invalid("three streams must come beside a launch that inherits them"))
}

fn logged() -> Result<(Option<[OwnedFd; 3]>, Vec<Output>)> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)");
    let ((out_source, out), (error_source, error)) = (pipe()?, pipe()?);
    let outputs = vec![
        Output { source: non_blocking(out_source)?, lines: Lines::of(Stream::Stdout) },
        Output { source: non_blocking(error_source)?, lines: Lines::of(Stream::Stderr) },
    ];
    Ok((Some([launch::null()?, out, error]), outputs))
}

fn non_blocking(descriptor: OwnedFd) -> Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&descriptor).call(|| "fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).call(|| "fcntl(F_SETFL, O_NONBLOCK)")?;
    Ok(descriptor)
}

/// Records and reports a launch that failed, after everything was taken back.
fn fail(launch: &Launch, socket: &OwnedFd, error: &Error) -> Result<()> {
    let record = LifeRecord {
        state: "created".to_owned(),
        exit_code: error.kind().run_exit_code(),
        error: error.one_line(),
        ..LifeRecord::default()
    };
    remove_files(launch);
    let recorded = match Place::open(launch) {
        Ok(place) if launch.remove_first.is_empty() => life::write(&place.directory, &record, Durability::Volatile),
        _ => Ok(()),
    };
    let cleaned = launch::clean_up(launch);
    let frame = encode(&Event::Failed(Failure::from(error)))?;
    channel::send(socket, &frame, &[]).call(|| "sendmsg(<engine>)")?;
    recorded.and(cleaned)
}

/// The first step of `--rm`: from here on nobody finds the container.
fn remove_files(launch: &Launch) {
    for path in &launch.remove_first {
        // What is gone is gone; what cannot be removed is noticed by the engine, which finds the run directory.
        drop(std::fs::remove_file(path));
    }
}

impl Supervisor {
    fn new(launch: Box<Launch>, parts: Parts, socket: OwnedFd) -> Result<Self> {
        let Parts { place, signals, listener, mut outputs, mut started } = parts;
        let pid = started.pid.as_raw_nonzero().get();
        let terminal = started.terminal.take().map(non_blocking_copy).transpose()?;
        let (terminal, given) = match (terminal, launch.streams) {
            (Some((ours, theirs)), Streams::Inherited) => (Some(ours), Some(theirs)),
            (Some((ours, _)), Streams::Log) => {
                outputs.push(Output { source: ours, lines: Lines::of(Stream::Stdout) });
                (None, None)
            }
            (None, _) => (None, None),
        };
        let log = if outputs.is_empty() { None } else { Some(open_log(&launch, &place)?) };
        let record = LifeRecord {
            state: "running".to_owned(),
            pid,
            shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
            started_at: Some(corten_types::time::now()),
            ..LifeRecord::default()
        };
        life::write(&place.directory, &record, Durability::Volatile)?;
        let frame = encode(&Event::Started { pid })?;
        let beside: Vec<_> = given.iter().map(AsFd::as_fd).collect();
        // A launcher that is gone already does not stop the container.
        channel::send(&socket, &frame, &beside).ok();
        let_go_of_streams()?;
        let memory = Counter::of(pid);
        let launcher = Client { socket: non_blocking(socket)?, decoder: Decoder::default(), launcher: true };
        let clients = vec![launcher];
        Ok(Self { launch, place, signals, listener, clients, outputs, log, terminal, record, started, memory })
    }

    fn run(mut self) -> Result<()> {
        let ended = loop {
            if let Some(ended) = self.reap()? {
                break ended;
            }
            self.wait()?;
        };
        self.finish(ended)
    }

    /// Reaps every child that has ended; the program's end, if it is among them.
    fn reap(&mut self) -> Result<Option<Ended>> {
        let mut ended = None;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.started.pid => {
                    let code = exit_code(status);
                    let oom_killed = self.memory.as_ref().is_some_and(Counter::has_killed);
                    ended = Some(Ended { code, oom_killed });
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(ended),
                Err(errno) => return Err(errno).call(|| "waitpid(-1, WNOHANG)"),
            }
        }
    }

    /// Waits for something to happen and deals with it.
    fn wait(&mut self) -> Result<()> {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if self.clients.len() < CLIENTS_MAX {
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let first_client = polled.len();
        polled.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)));
        let first_output = polled.len();
        polled.extend(self.outputs.iter().map(|output| PollFd::new(&output.source, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        drop(polled);
        while signal::read_signal(self.signals.as_fd()).call(|| "read(<signalfd>)")?.is_some() {}
        for index in (first_output..ready.len()).rev().filter(|index| ready[*index]) {
            self.read_output(index - first_output);
        }
        for index in (first_client..first_output).rev().filter(|index| ready[*index]) {
            self.read_client(index - first_client)?;
        }
        if first_client == 2 && ready[1] {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A client that left again is no failure of ours.
        if let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let mut client = Client { socket, decoder: Decoder::default(), launcher: false };
            if client.tell(&Event::Started { pid: self.record.pid }) {
                self.clients.push(client);
            }
        }
    }

    fn read_output(&mut self, index: usize) {
        let Some(log) = &self.log else { return };
        let mut buffer = [0; READ_SIZE_BYTES];
        let output = &mut self.outputs[index];
        match rustix::io::read(&output.source, &mut buffer) {
            Ok(count) if count > 0 => output.lines.push(&buffer[..count], log, corten_types::time::now()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The end: no bytes from a pipe, EIO from a terminal.
            Ok(_) | Err(_) => {
                output.lines.finish(log, corten_types::time::now());
                self.outputs.remove(index);
            }
        }
    }

    fn read_client(&mut self, index: usize) -> Result<()> {
        let mut buffer = [0; 4096];
        let client = &mut self.clients[index];
        let alive = match rustix::io::read(&client.socket, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                client.decoder.push(&buffer[..count]);
                client.serve(&self.started)
            }
            Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
        };
        if !alive {
            let gone = self.clients.remove(index);
            if gone.launcher {
                self.take_terminal_back()?;
            }
        }
        Ok(())
    }

    /// The launcher is gone: what the terminal shows goes into the log, so that the program never blocks on it.
    fn take_terminal_back(&mut self) -> Result<()> {
        if let Some(source) = self.terminal.take() {
            self.log = Some(open_log(&self.launch, &self.place)?);
            self.outputs.push(Output { source, lines: Lines::of(Stream::Stdout) });
        }
        Ok(())
    }

    /// Records and reports the end, then cleans up.
    fn finish(mut self, ended: Ended) -> Result<()> {
        self.drain();
        self.record = LifeRecord {
            state: "exited".to_owned(),
            pid: 0,
            shim_pid: 0,
            exit_code: ended.code,
            oom_killed: ended.oom_killed,
            finished_at: Some(corten_types::time::now()),
            ..self.record
        };
        let keep = self.launch.remove_first.is_empty();
        let recorded = match keep {
            true => life::write(&self.place.directory, &self.record, Durability::Volatile),
            false => {
                remove_files(&self.launch);
                Ok(())
            }
        };
        for client in &mut self.clients {
            client.tell(&Event::Exited { code: ended.code, oom_killed: ended.oom_killed });
        }
        if keep {
            life::write(&self.place.directory, &self.record, Durability::Durable)?;
        }
        launch::clean_up(&self.launch)?;
        recorded
    }

    /// Takes what the streams still hold. They may stay open in a process outside: what is there now is all.
    fn drain(&mut self) {
        let mut buffer = vec![0; READ_SIZE_BYTES];
        let Some(log) = &self.log else { return };
        for output in &mut self.outputs {
            while let Ok(count @ 1..) = rustix::io::read(&output.source, &mut buffer) {
                output.lines.push(&buffer[..count], log, corten_types::time::now());
            }
            output.lines.finish(log, corten_types::time::now());
        }
    }
}

impl Client {
    /// Answers every whole request; whether the client lives on.
    fn serve(&mut self, started: &Started) -> bool {
        loop {
            let answer = match self.decoder.next_message() {
                Ok(Some(Request::Signal(number))) => send_signal(started, number),
                Ok(Some(Request::Launch(_))) => {
                    Err(Error::new(ErrorKind::Conflict, "this supervisor has a container already"))
                }
                Ok(None) => return true,
                Err(_) => return false,
            };
            let event = answer.map_or_else(|error| Event::Failed(Failure::from(&error)), |()| Event::Signalled);
            if !self.tell(&event) {
                return false;
            }
        }
    }

    /// Sends an event; whether the client took it. One that does not read is let go of, never waited for.
    fn tell(&mut self, event: &Event) -> bool {
        encode(event).is_ok_and(|frame| channel::send(&self.socket, &frame, &[]).is_ok())
    }
}

fn send_signal(started: &Started, number: i32) -> Result<()> {
    if !(0..=signal::MAX).contains(&number) {
        return Err(Error::invalid(format!("there is no signal {number}")));
    }
    signal::pidfd_send_signal(started.pidfd.as_fd(), number).call(|| format!("pidfd_send_signal(<init>, {number})"))
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

fn open_log(launch: &Launch, place: &Place) -> Result<Log> {
    Log::open(&place.directory, &format!("{}-json.log", launch.id))
}

/// Our descriptor and the launcher's. Both share one description, so the launcher's reads are non-blocking too; it polls.
fn non_blocking_copy(terminal: OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    let theirs = terminal.try_clone()?;
    Ok((non_blocking(terminal)?, theirs))
}

/// The supervisor's own standard descriptors lead nowhere from here on: they were the launcher's.
fn let_go_of_streams() -> Result<()> {
    let null = launch::null()?;
    rustix::stdio::dup2_stdin(&null).call(|| "dup2(<null>, 0)")?;
    rustix::stdio::dup2_stdout(&null).call(|| "dup2(<null>, 1)")?;
    rustix::stdio::dup2_stderr(&null).call(|| "dup2(<null>, 2)")
}
