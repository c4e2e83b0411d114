//! The shim at work: one poll loop over its socket, its clients, its children and their terminals.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use corten_sys::namespace::{NEWNS, unshare};
use corten_sys::{Call, signal};
use corten_types::{Error, ErrorKind, Result};
use prost::Message;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use rustix::process::{WaitOptions, WaitStatus};
use rustix::termios::Winsize;

use super::messages::{
    CloseRequest, ConnectResponse, CreateRequest, ExecRequest, KillRequest, PidResponse, PidsResponse, ResizeRequest,
    StatsResponse, TaskCreate, TaskDelete, TaskExec, TaskExit, TaskIo, TaskStart, UpdateRequest, Which,
};
use super::publish::Publisher;
use super::start::{self, Words};
use super::task::Task;
use super::ttrpc::{self, Decoder};
use crate::streams::non_blocking;

const SIGCHLD: i32 = 17;
const READ_SIZE_BYTES: usize = 16 * 1024;
/// Most connections at once; more wait in the socket's queue.
const CONNECTIONS_MAX: usize = 64;
/// Most answers that wait for a client that does not read; one with more is let go of.
const UNREAD_SIZE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A client.
struct Connection {
    id: u64,
    socket: OwnedFd,
    decoder: Decoder,
    /// Answers that it has not taken yet.
    unread: Vec<u8>,
}

/// Who waits for the end of a process.
struct Waiter {
    connection: u64,
    stream: u32,
    id: String,
    exec_id: String,
}

/// What a request is answered with.
enum Answer {
    Now(Vec<u8>),
    /// Once the process has ended.
    AtTheEnd(Which),
}

struct Server {
    words: Words,
    listener: OwnedFd,
    signals: OwnedFd,
    connections: Vec<Connection>,
    last_connection: u64,
    tasks: BTreeMap<String, Task>,
    waiters: Vec<Waiter>,
    publisher: Publisher,
    is_over: bool,
}

/// Serves the socket that is standard input until containerd says that it is over.
pub(super) fn serve(words: Words) -> Result<()> {
    corten_sys::exec::close_range(3, u32::MAX).call(|| "close_range(3, ~0)")?;
    rustix::process::setsid().ok();
    // Started through /proc/self/exe, it would be called `exe`.
    rustix::thread::set_name(c"containerd-shim").ok();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    let signals = signal::block_all_and_watch(&[SIGCHLD]).call(|| "signalfd([SIGCHLD])")?;
    let listener = non_blocking(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let null = crate::launch::null()?;
    rustix::stdio::dup2_stdin(&null).call(|| "dup2(<null>, 0)")?;
    // Roots are mounted here and nowhere else: however the shim ends, nothing stays mounted.
    unshare(NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).call(|| "mount(\"/\", MS_SLAVE | MS_REC)")?;
    rustix::process::chdir("/").call(|| "chdir(\"/\")")?;
    corten_sys::memory::give_back();
    let socket = rustix::net::getsockname(&listener).call(|| "getsockname")?;
    let server = Server {
        publisher: Publisher::new(words.clone()),
        words,
        listener,
        signals,
        connections: Vec::new(),
        last_connection: 0,
        tasks: BTreeMap::new(),
        waiters: Vec::new(),
        is_over: false,
    };
    let served = server.run();
    if let Ok(address) = rustix::net::SocketAddrUnix::try_from(socket)
        && let Some(path) = address.path()
    {
        rustix::fs::unlink(path.as_ref()).ok();
    }
    served
}

impl Server {
    fn run(mut self) -> Result<()> {
        while !self.is_over || self.connections.iter().any(|connection| !connection.unread.is_empty()) {
            self.reap()?;
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let room = if self.connections.len() < CONNECTIONS_MAX { PollFlags::IN } else { PollFlags::empty() };
        polled.push(PollFd::new(&self.listener, room));
        let first = polled.len();
        polled.extend(self.connections.iter().map(|connection| {
            let out = if connection.unread.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            PollFd::new(&connection.socket, PollFlags::IN | out)
        }));
        let behind = polled.len();
        let processes = self.tasks.values().flat_map(|task| std::iter::once(&task.init).chain(task.executed.values()));
        processes.for_each(|process| process.streams.watch(&mut polled));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).call(|| "poll"),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        while signal::read_signal(self.signals.as_fd()).call(|| "read(<signalfd>)")?.is_some() {}
        if ready[behind..].iter().any(|flags| !flags.is_empty()) {
            self.relay();
        }
        for index in (0..behind - first).rev().filter(|index| !ready[first + index].is_empty()) {
            if !self.serve_client(index) {
                let gone = self.connections.remove(index).id;
                self.waiters.retain(|waiter| waiter.connection != gone);
            }
        }
        if !ready[1].is_empty() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            if let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
                self.last_connection += 1;
                let (id, decoder) = (self.last_connection, Decoder::default());
                self.connections.push(Connection { id, socket, decoder, unread: Vec::new() });
            }
        }
        Ok(())
    }

    fn relay(&mut self) {
        for task in self.tasks.values_mut() {
            for process in std::iter::once(&mut task.init).chain(task.executed.values_mut()) {
                process.streams.serve();
            }
        }
    }

    /// Reads and answers; false where the client is gone or speaks another protocol.
    fn serve_client(&mut self, index: usize) -> bool {
        let mut buffer = [0; READ_SIZE_BYTES];
        let connection = &mut self.connections[index];
        match rustix::net::recv(&connection.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return false,
            Ok((count, _)) => connection.decoder.push(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
        loop {
            match self.connections[index].decoder.next_request() {
                Ok(Some((stream, request))) => {
                    let answer = self.answer(&request);
                    let connection = &mut self.connections[index];
                    match answer {
                        Ok(Answer::Now(payload)) => connection.unread.extend(ttrpc::response(stream, Ok(payload))),
                        Ok(Answer::AtTheEnd(Which { id, exec_id })) => {
                            self.waiters.push(Waiter { connection: connection.id, stream, id, exec_id });
                        }
                        Err(error) => connection.unread.extend(ttrpc::response(stream, Err(&error))),
                    }
                }
                Ok(None) => return self.connections[index].flush(),
                Err(_) => return false,
            }
        }
    }

    fn answer(&mut self, request: &ttrpc::Request) -> Result<Answer> {
        if !matches!(request.service.as_str(), "containerd.task.v2.Task" | "containerd.task.v3.Task") {
            return Err(Error::new(ErrorKind::Unsupported, format!("there is no service `{}`", request.service)));
        }
        let bytes = request.payload.as_slice();
        let empty = || Ok(Answer::Now(Vec::new()));
        match request.method.as_str() {
            "Create" => self.create(&decode(bytes)?),
            "Start" => self.start(&decode(bytes)?),
            "Delete" => self.delete(&decode(bytes)?),
            "Exec" => self.exec(&decode(bytes)?),
            "State" => {
                let which: Which = decode(bytes)?;
                now(&self.task(&which.id)?.state(&which.exec_id)?)
            }
            "Wait" => {
                let which: Which = decode(bytes)?;
                match self.task(&which.id)?.process(&which.exec_id)?.wait_response() {
                    Some(response) => now(&response),
                    None => Ok(Answer::AtTheEnd(which)),
                }
            }
            "Kill" => {
                let kill: KillRequest = decode(bytes)?;
                self.task(&kill.id)?.kill(&kill.exec_id, kill.signal, kill.all)?;
                empty()
            }
            "Pause" | "Resume" => {
                let id = decode::<Which>(bytes)?.id;
                let freezes = request.method == "Pause";
                self.task(&id)?.freeze(freezes)?;
                let (topic, name) = if freezes { ("paused", "TaskPaused") } else { ("resumed", "TaskResumed") };
                self.publisher.tell(topic, name, &TaskStart { container_id: id, pid: 0 });
                empty()
            }
            "ResizePty" => {
                let resize: ResizeRequest = decode(bytes)?;
                let process = self.task(&resize.id)?.process(&resize.exec_id)?;
                let side = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
                let size =
                    Winsize { ws_row: side(resize.height), ws_col: side(resize.width), ws_xpixel: 0, ws_ypixel: 0 };
                if let Some(main) = process.streams.relay.as_ref().and_then(|relay| relay.main.as_ref()) {
                    rustix::termios::tcsetwinsize(main, size).call(|| "ioctl(TIOCSWINSZ)")?;
                }
                empty()
            }
            "CloseIO" => {
                let close: CloseRequest = decode(bytes)?;
                if close.stdin {
                    self.task(&close.id)?.process_mut(&close.exec_id)?.streams.close_input();
                }
                empty()
            }
            "Pids" => {
                let pids = self.task(&decode::<Which>(bytes)?.id)?.pids()?;
                let processes = pids.into_iter().map(|pid| PidResponse { pid: pid.unsigned_abs() }).collect();
                now(&PidsResponse { processes })
            }
            "Stats" => {
                let stats = self.task(&decode::<Which>(bytes)?.id)?.stats()?;
                now(&StatsResponse { stats: Some(stats) })
            }
            "Update" => {
                let update: UpdateRequest = decode(bytes)?;
                self.task(&update.id)?.update(update.resources.as_ref())?;
                empty()
            }
            "Connect" => {
                let id = decode::<Which>(bytes)?.id;
                let task_pid = self.tasks.get(&id).map_or(0, |task| task.init.pid);
                now(&ConnectResponse { shim_pid: std::process::id(), task_pid, version: "v2".to_owned() })
            }
            "Shutdown" => {
                // Others of the group live on.
                self.is_over = self.tasks.is_empty();
                empty()
            }
            method => Err(Error::new(ErrorKind::Unsupported, format!("a task cannot `{method}` here"))),
        }
    }

    fn task(&mut self, id: &str) -> Result<&mut Task> {
        self.tasks.get_mut(id).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no task `{id}`")))
    }

    fn create(&mut self, request: &CreateRequest) -> Result<Answer> {
        if self.tasks.contains_key(&request.id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("task `{}` exists already", request.id)));
        }
        let task = Task::create(request, start::state_directory(&self.words.namespace)?)?;
        let pid = task.init.pid;
        self.tasks.insert(request.id.clone(), task);
        let io = TaskIo {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io),
            pid,
        };
        self.publisher.tell("create", "TaskCreate", &event);
        now(&PidResponse { pid })
    }

    fn start(&mut self, which: &Which) -> Result<Answer> {
        let pid = self.task(&which.id)?.start(&which.exec_id)?;
        let container_id = which.id.clone();
        if which.exec_id.is_empty() {
            self.publisher.tell("start", "TaskStart", &TaskStart { container_id, pid });
        } else {
            let event = TaskExec { container_id, exec_id: which.exec_id.clone(), pid };
            self.publisher.tell("exec-started", "TaskExecStarted", &event);
        }
        now(&PidResponse { pid })
    }

    fn exec(&mut self, request: &ExecRequest) -> Result<Answer> {
        self.task(&request.id)?.add(request)?;
        let event = TaskExec { container_id: request.id.clone(), exec_id: request.exec_id.clone(), pid: 0 };
        self.publisher.tell("exec-added", "TaskExecAdded", &event);
        Ok(Answer::Now(Vec::new()))
    }

    fn delete(&mut self, which: &Which) -> Result<Answer> {
        if !which.exec_id.is_empty() {
            return now(&self.task(&which.id)?.delete_process(&which.exec_id)?);
        }
        let response = self.task(&which.id)?.delete()?;
        self.tasks.remove(&which.id);
        let event = TaskDelete {
            container_id: which.id.clone(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
            id: String::new(),
        };
        self.publisher.tell("delete", "TaskDelete", &event);
        now(&response)
    }

    /// Reaps every child that has ended.
    fn reap(&mut self) -> Result<()> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.end(pid.as_raw_nonzero().get().unsigned_abs(), status),
                Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(errno) => return Err(errno).call(|| "waitpid(-1, WNOHANG)"),
            }
        }
    }

    /// Tells everybody of a process's end.
    fn end(&mut self, pid: u32, status: WaitStatus) {
        let found = self.tasks.values().find_map(|task| {
            let process = |process: &super::task::Process| process.pid == pid && process.exit.is_none();
            let executed = || task.executed.iter().find(|(_, one)| process(one)).map(|(name, _)| name.clone());
            let exec_id = if process(&task.init) { Some(String::new()) } else { executed() };
            exec_id.map(|exec_id| Which { id: task.id.clone(), exec_id })
        });
        // A binary that published, or an orphan of a container.
        let Some(which) = found else { return };
        let (exit_status, time) = (u32::from(crate::supervisor::exit_code(status)), corten_types::time::now());
        let Some(task) = self.tasks.get_mut(&which.id) else { return };
        if which.exec_id.is_empty() {
            task.end();
        }
        let Ok(process) = task.process_mut(&which.exec_id) else { return };
        process.exit = Some((exit_status, time));
        process.streams.close_input();
        let response = process.wait_response().map(|response| response.encode_to_vec()).unwrap_or_default();
        let id = if which.exec_id.is_empty() { which.id.clone() } else { which.exec_id.clone() };
        let exited_at = Some(time.into());
        let event = TaskExit { container_id: which.id.clone(), id, pid, exit_status, exited_at };
        // What a terminal still holds comes before the news.
        self.relay();
        self.publisher.tell("exit", "TaskExit", &event);
        let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.id == which.id && waiter.exec_id == which.exec_id);
        self.waiters = waiting;
        for waiter in over {
            if let Some(connection) = self.connections.iter_mut().find(|one| one.id == waiter.connection) {
                connection.unread.extend(ttrpc::response(waiter.stream, Ok(response.clone())));
                // One that is gone is noticed when it is read.
                connection.flush();
            }
        }
    }
}

impl Connection {
    /// Sends what it takes now; false where it is gone or takes nothing for too long.
    fn flush(&mut self) -> bool {
        while !self.unread.is_empty() {
            match rustix::net::send(&self.socket, &self.unread, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.unread.len() <= UNREAD_SIZE_BYTES_MAX,
                Err(_) => {
                    self.unread.clear();
                    return false;
                }
            }
        }
        true
    }
}

fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T> {
    T::decode(bytes).map_err(|error| Error::invalid("a request's message cannot be decoded").caused_by(error))
}

fn now(message: &impl Message) -> Result<Answer> {
    Ok(Answer::Now(message.encode_to_vec()))
}
