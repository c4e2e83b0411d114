//! What the engine and a container's supervisor say to each other, as data.
//!
//! A message is a length (four bytes, little-endian) and that many bytes of JSON. Some carry descriptors beside them, so that
//! no byte of a stream ever passes through a message: [`Request::Launch`] the container's liveness lock and the streams that
//! are inherited, [`Request::Exec`] the three streams of its process, [`Event::Started`] and [`Event::Attached`] the streams
//! that were opened for the client, [`Event::ExecStarted`] the terminal's main side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime_spec::{Resources, Spec};
use crate::usage::Usage;
use crate::{Error, ErrorKind, Result};

mod life;
mod policy;

pub use life::{CheckResult, Health, HealthStatus, LifeRecord};
pub use policy::{HealthCheck, LogDriver, LogOptions, RestartPolicy, UnhealthyAction};

/// Largest message, bytes: a specification with a large seccomp profile fits many times.
pub const MESSAGE_SIZE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Name of the supervisor's socket in the container's run directory.
pub const SOCKET: &str = "shim.sock";
/// Name of the liveness lock in the container's run directory.
pub const ALIVE: &str = "alive";
/// Name of the file that says where the container is in its life, in its durable directory.
pub const LIFE: &str = "state.json";
/// Name of the mounted root and of the runtime's configuration in the container's run directory, which is the bundle.
pub const ROOTFS: &str = "rootfs";

/// Everything a supervisor needs to know about its container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The container.
    pub id: String,
    /// Its durable directory.
    pub directory: PathBuf,
    /// Its run directory, which becomes the bundle.
    pub run_directory: PathBuf,
    /// The runtime's root.
    pub runtime_root: PathBuf,
    /// What is mounted as the container's root.
    pub root: RootMount,
    /// The configuration; the supervisor fills in `root.path`, the program's user and HOME, which the root's files decide.
    pub spec: Box<Spec>,
    /// `USER[:GROUP]`; empty is root.
    pub user: String,
    /// Supplementary groups beyond the user's.
    pub groups: Vec<String>,
    /// Where the program's streams go.
    pub streams: Streams,
    /// The program's input stays open (`-i`).
    pub open_stdin: bool,
    /// The program's input ends with the first client that gave it some.
    pub stdin_once: bool,
    /// The client that asks is attached from the first byte on.
    pub attach: Option<Attach>,
    /// What becomes of the output.
    pub log: LogOptions,
    /// Neither image nor user set HOME; the supervisor finds out.
    pub home_is_ours: bool,
    /// What follows the program's end.
    pub restart: RestartPolicy,
    /// First and longest wait before another start, milliseconds; it doubles in between.
    pub restart_delay_ms: (u64, u64),
    /// The signal and the time that an end by itself uses (`--health-on-failure stop`).
    pub stop: (i32, u64),
    /// How its health is told.
    pub health: Option<HealthCheck>,
    /// The file that events are added to.
    pub events: PathBuf,
    /// What every event says of the container: `image`, `name` and its labels.
    pub attributes: BTreeMap<String, String>,
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Whether the engine lives in a user namespace.
    pub rootless: bool,
    /// Mounts travel back to the host (`shared` was asked for).
    pub shared_mounts: bool,
    /// Where the container's /dev/shm is mounted for others to share, and its size in bytes (`--ipc shareable`).
    #[serde(default)]
    pub shared_memory: Option<(PathBuf, u64)>,
    /// With `--rm`, files that go as soon as the container has ended: its name and configuration.
    pub remove_first: Vec<PathBuf>,
    /// With `--rm`, directories that go after the root was unmounted.
    pub remove_last: Vec<PathBuf>,
}

/// What is mounted as the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootMount {
    /// An overlay, as the options of `corten_fs::overlay::Overlay`.
    Overlay(Vec<String>),
    /// A directory as it is.
    Directory(PathBuf),
}

/// Where the program's streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Streams {
    /// The descriptors beside the message: the program holds the caller's own, and nobody else can attach.
    Inherited,
    /// Through the supervisor, to the log and to every client that attached; a terminal where the specification asks for one.
    Kept,
}

/// Which streams a client wants to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// To write to the program's input.
    pub stdin: bool,
    /// To read its output.
    pub stdout: bool,
    /// To read its standard error.
    pub stderr: bool,
}

/// One more process in the container. Its streams are the three descriptors beside the message; with a terminal there are none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// 64 hexadecimal digits, for events.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables above the container's.
    pub env: Vec<String>,
    /// Working directory; `None` is the container's.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`; `None` is the container's.
    pub user: Option<String>,
    /// Capabilities where they differ from the container's (`--privileged`).
    pub capabilities: Option<Vec<String>>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The terminal's first size: rows, columns.
    pub terminal_size: Option<(u16, u16)>,
    /// Nobody waits for it.
    pub detached: bool,
}

/// What changes in a living container; `None` stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Update {
    /// Cgroup limits.
    pub resources: Option<Box<Resources>>,
    /// Restart policy.
    pub restart: Option<RestartPolicy>,
    /// Health check; the inner `None` takes it away.
    pub health: Option<Option<HealthCheck>>,
    /// What goes first at the end, after a new name.
    pub remove_first: Option<Vec<PathBuf>>,
    /// What events say.
    pub attributes: Option<BTreeMap<String, String>>,
}

/// What a client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Start the container: the first message, once.
    Launch(Box<Launch>),
    /// Send a signal to the first process; with `ends` nothing restarts it afterwards.
    Signal {
        /// Number.
        number: i32,
        /// Whether the user wants an end.
        ends: bool,
    },
    /// End it: the signal, then SIGKILL after `timeout_ms` (`None` waits for ever). Nothing restarts it.
    Stop {
        /// Number.
        signal: i32,
        /// Milliseconds.
        timeout_ms: Option<u64>,
    },
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Start one more process.
    Exec(Box<Exec>),
    /// Have the streams from here on.
    Attach(Attach),
    /// Change something.
    Update(Box<Update>),
    /// Say what the running program has used.
    Usage,
}

/// What a supervisor tells every client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The program was executed.
    Started {
        /// The first process.
        pid: i32,
    },
    /// What was asked last failed; a failed launch is the end.
    Failed(Failure),
    /// What was asked last was done.
    Done,
    /// The client is attached; the descriptors it asked for come beside this, in the order input, output, error. With a
    /// terminal, input is the terminal's main side and there is no error.
    Attached {
        /// Whether input came.
        stdin: bool,
        /// Whether output came.
        stdout: bool,
        /// Whether error came.
        stderr: bool,
    },
    /// What the running program has used.
    Usage(Box<Usage>),
    /// The further process runs.
    ExecStarted {
        /// On the host.
        pid: i32,
    },
    /// The further process ended.
    ExecExited {
        /// 0 to 255.
        code: u8,
    },
    /// The program ended. Where nothing restarts it, the connection closes once everything is cleaned up.
    Exited {
        /// 0 to 255.
        code: u8,
        /// Killed for want of memory.
        oom_killed: bool,
        /// Whether its policy starts it again.
        restarts: bool,
    },
}

/// An error as data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// [`ErrorKind::as_str`]
    pub kind: String,
    /// The raw error number.
    pub errno: Option<i32>,
    /// Headline and causes.
    pub chain: Vec<String>,
    /// Hints.
    pub hints: Vec<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().as_str().to_owned(),
            errno: error.errno(),
            chain: error.chain(),
            hints: error.hints().to_vec(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::from_parts(ErrorKind::parse(&failure.kind), failure.errno, failure.chain, failure.hints)
    }
}

/// A message with its length in front.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode a message").caused_by(error))?;
    let length =
        u32::try_from(frame.len() - 4).map_err(|_| Error::new(ErrorKind::Exhausted, "a message is too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Bytes as they arrive, and the messages in them.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` while it is incomplete.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let Some((length, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MESSAGE_SIZE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("a message of {length} bytes is too long")));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = crate::runtime_spec::parse_document(body, "message")?;
        self.buffer.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_being_cut_anywhere() {
        let mut bytes = encode(&Event::Started { pid: 7 }).unwrap();
        bytes.extend(encode(&Event::Exited { code: 3, oom_killed: true, restarts: false }).unwrap());
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            while let Some(event) = decoder.next_message::<Event>().unwrap() {
                seen.push(event);
            }
        }
        assert!(matches!(seen[..], [Event::Started { pid: 7 }, Event::Exited { code: 3, oom_killed: true, .. }]));
    }

    #[test]
    fn a_message_longer_than_the_limit_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(decoder.next_message::<Event>().unwrap_err().kind(), ErrorKind::Exhausted);
    }
}
