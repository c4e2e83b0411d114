//! The connections of clients: what they ask and what they are told.

use std::os::fd::{BorrowedFd, OwnedFd};

use corten_sys::{Call, channel, signal};
use corten_types::shim::{Decoder, Event, Exec, Failure, Request, Update, encode};
use corten_types::{Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::events;
use crate::launch;
use crate::supervisor::{Phase, Supervisor};

/// Most clients at once; more wait in the socket's queue.
pub(crate) const CLIENTS_MAX: usize = 256;
/// Bytes read at a time.
const READ_SIZE_BYTES: usize = 16 * 1024;
const SIGKILL: i32 = 9;
/// Most letters of a command line that are told.
const COMMAND_LENGTH_MAX: usize = 200;

/// One connection.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) socket: OwnedFd,
    decoder: Decoder,
    /// Descriptors that came beside what it asks.
    beside: Vec<OwnedFd>,
}

/// What a request is answered with, and descriptors beside it.
type Answer = Result<(Event, Vec<OwnedFd>)>;

impl Client {
    pub(crate) fn new(id: u64, socket: OwnedFd) -> Self {
        Self { id, socket, decoder: Decoder::default(), beside: Vec::new() }
    }

    /// Sends an event; whether the client took it. One that does not read is let go of, never waited for.
    pub(crate) fn tell(&self, event: &Event, beside: &[BorrowedFd<'_>]) -> bool {
        encode(event).is_ok_and(|frame| channel::send(&self.socket, &frame, beside).is_ok())
    }

    /// Reads what it sent; false at the end.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; READ_SIZE_BYTES];
        match channel::receive(&self.socket, &mut buffer) {
            Ok((0, _)) => false,
            Ok((count, beside)) => {
                self.decoder.push(&buffer[..count]);
                self.beside.extend(beside);
                self.beside.len() <= channel::DESCRIPTORS_MAX
            }
            Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
        }
    }
}

/// Who is at the other end: its command line, process and user, as the kernel tells.
fn sender(socket: &OwnedFd) -> String {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(socket) else { return "unknown".to_owned() };
    let (pid, user) = (peer.pid.as_raw_nonzero().get(), peer.uid.as_raw());
    let line = corten_fs::root::read_ambient(Path::new(&format!("/proc/{pid}/cmdline")), 64 * 1024);
    let line = String::from_utf8_lossy(&line.unwrap_or_default()).replace('\0', " ");
    let line: String = line.trim_end().chars().filter(|c| !c.is_control()).take(COMMAND_LENGTH_MAX).collect();
    format!("`{line}` (process {pid}, user {user})")
}

impl Supervisor {
    /// Takes a new client up.
    pub(crate) fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A client that left again is no failure of ours.
        if let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            self.last_client += 1;
            let client = Client::new(self.last_client, socket);
            if client.tell(&Event::Started { pid: self.record.pid }, &[]) {
                self.clients.push(client);
            }
        }
    }

    /// Tells everybody.
    pub(crate) fn tell_all(&mut self, event: &Event) {
        let (told, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.clients).into_iter().partition(|client| client.tell(event, &[]));
        self.clients = told;
        gone.iter().for_each(|client| self.orphan_terminals(client.id));
    }

    /// Reads and answers what client `index` sent.
    pub(crate) fn read_client(&mut self, index: usize) {
        let mut alive = self.clients[index].receive();
        while alive {
            match self.clients[index].decoder.next_message::<Request>() {
                Ok(Some(request)) => alive = self.answer(index, request),
                Ok(None) => return,
                Err(_) => alive = false,
            }
        }
        let gone = self.clients.remove(index);
        self.orphan_terminals(gone.id);
    }

    fn answer(&mut self, index: usize, request: Request) -> bool {
        let beside = std::mem::take(&mut self.clients[index].beside);
        let id = self.clients[index].id;
        if matches!(request, Request::Signal { .. } | Request::Stop { .. }) {
            self.asker = sender(&self.clients[index].socket);
        }
        let done = |result: Result<()>| result.map(|()| (Event::Done, Vec::new()));
        let answer: Answer = match request {
            Request::Launch(_) => Err(Error::new(ErrorKind::Conflict, "this supervisor has a container already")),
            Request::Signal { number, ends } => done(self.signal(number, ends)),
            Request::Stop { signal, timeout_ms } => done(self.stop(signal, timeout_ms)),
            Request::Pause => done(self.pause(true)),
            Request::Resume => done(self.pause(false)),
            Request::Attach(wanted) => self.attach(wanted),
            Request::Update(update) => done(self.update(*update)),
            Request::Usage => Ok((Event::Usage(Box::new(self.meter.sample())), Vec::new())),
            Request::Exec(exec) => self.exec(id, *exec, beside),
        };
        let client = &self.clients[index];
        match answer {
            Ok((event, descriptors)) => client.tell(&event, &descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
            Err(error) => client.tell(&Event::Failed(Failure::from(&error)), &[]),
        }
    }

    pub(crate) fn attach(&mut self, wanted: corten_types::shim::Attach) -> Answer {
        let opened = self.streams.attach(wanted, &self.launch)?;
        let event = Event::Attached {
            stdin: opened.stdin.is_some(),
            stdout: opened.stdout.is_some(),
            stderr: opened.stderr.is_some(),
        };
        events::tell(&self.launch, "attach", &[]);
        Ok((event, [opened.stdin, opened.stdout, opened.stderr].into_iter().flatten().collect()))
    }

    fn exec(&mut self, client: u64, exec: Exec, beside: Vec<OwnedFd>) -> Answer {
        self.start_process(client, exec, beside)
    }

    /// Sends a signal to the first process; one that is to end it reaches also a frozen one.
    pub(crate) fn signal(&mut self, number: i32, ends: bool) -> Result<()> {
        if !(0..=signal::MAX).contains(&number) {
            return Err(Error::invalid(format!("there is no signal {number}")));
        }
        if ends {
            self.record.manually_stopped = true;
            self.ends = true;
        }
        let Phase::Running(started) = &self.phase else {
            return Err(Error::new(ErrorKind::Conflict, "the container is not running"));
        };
        signal::pidfd_send_signal(started.pidfd.as_fd(), number)
            .call(|| format!("pidfd_send_signal(<init>, {number})"))?;
        let asker = [("sender", std::mem::take(&mut self.asker))];
        events::explain(&self.launch, "kill", &[("signal", number.to_string())], &asker);
        if self.record.state == "paused" && (ends || number == SIGKILL) {
            self.pause(false)?;
        }
        Ok(())
    }

    /// Ends the container: the signal, later SIGKILL.
    pub(crate) fn stop(&mut self, number: i32, timeout_ms: Option<u64>) -> Result<()> {
        self.record.manually_stopped = true;
        self.ends = true;
        if let Phase::Waiting(_) = self.phase {
            self.phase = Phase::Over;
            return Ok(());
        }
        if timeout_ms == Some(0) {
            return self.signal(SIGKILL, true);
        }
        self.kill_at = timeout_ms.map(|timeout| Instant::now() + Duration::from_millis(timeout));
        self.signal(number, true)
    }

    /// Freezes or thaws.
    pub(crate) fn pause(&mut self, freezes: bool) -> Result<()> {
        let paused = self.record.state == "paused";
        let name = self.launch.attributes.get("name").cloned().unwrap_or_default();
        let refuse = |text: &str| Err(Error::new(ErrorKind::Conflict, format!("container `{name}` is {text}")));
        match (&self.phase, freezes) {
            (Phase::Running(_), true) if paused => return refuse("already paused"),
            (Phase::Running(_), false) if !paused => return refuse("not paused"),
            (Phase::Running(_), _) => {}
            _ => return refuse("not running"),
        }
        let runtime = launch::runtime(&self.launch);
        if freezes {
            runtime.pause(&self.launch.id)?
        } else {
            runtime.resume(&self.launch.id)?
        }
        self.record.state = if freezes { "paused" } else { "running" }.to_owned();
        events::tell(&self.launch, if freezes { "pause" } else { "unpause" }, &[]);
        self.write_record()
    }

    /// Changes what can change in a living container; the limits first, for they may be refused.
    fn update(&mut self, update: Update) -> Result<()> {
        if let Some(resources) = &update.resources
            && matches!(self.phase, Phase::Running(_))
        {
            launch::runtime(&self.launch).update(
                &self.launch.id,
                resources,
                &corten_runtime::rdt::Schemata::default(),
            )?;
        }
        if let Some(restart) = update.restart {
            self.launch.restart = restart;
        }
        if let Some(health) = update.health {
            self.launch.health = health;
            self.begin_checks();
            self.write_record()?;
        }
        if let Some(paths) = update.remove_first {
            self.launch.remove_first = paths;
        }
        if let Some(attributes) = update.attributes {
            self.launch.attributes = attributes;
        }
        Ok(())
    }
}
