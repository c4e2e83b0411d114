//! What the engine and a container's supervisor say to each other, as data.
//!
//! A message is a length (four bytes, little-endian) and that many bytes of JSON. The first message carries descriptors
//! beside it: the container's liveness lock, then the program's standard input, output and error where they are inherited;
//! [`Event::Started`] carries the terminal's main side where there is one and the client attached.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime_spec::Spec;
use crate::{Error, ErrorKind, Result};

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
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Whether the engine lives in a user namespace.
    pub rootless: bool,
    /// Mounts travel back to the host (`shared` was asked for).
    pub shared_mounts: bool,
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

/// Where the program's streams go. With a terminal the streams are the terminal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Streams {
    /// The descriptors beside the message.
    Inherited,
    /// The container's log; input is empty.
    Log,
}

/// What a client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Start the container: the first message, once.
    Launch(Box<Launch>),
    /// Send a signal to the first process.
    Signal(i32),
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
    /// The signal was sent.
    Signalled,
    /// The program ended; the connection closes once everything is cleaned up.
    Exited {
        /// 0 to 255.
        code: u8,
        /// Killed for want of memory.
        oom_killed: bool,
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

/// Where a container is in its life, and what became of its last run: the content of [`LIFE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifeRecord {
    /// The state's word.
    pub state: String,
    /// The first process on the host; 0 while there is none.
    pub pid: i32,
    /// The supervisor; 0 while there is none.
    pub shim_pid: i32,
    /// Exit code of the last run.
    pub exit_code: u8,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Why the last start failed, else empty.
    pub error: String,
    /// Seconds and nanoseconds since 1970; `None` if never.
    pub started_at: Option<(i64, u32)>,
    /// Seconds and nanoseconds since 1970; `None` if never.
    pub finished_at: Option<(i64, u32)>,
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
        bytes.extend(encode(&Event::Exited { code: 3, oom_killed: true }).unwrap());
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            while let Some(event) = decoder.next_message::<Event>().unwrap() {
                seen.push(event);
            }
        }
        assert!(matches!(seen[..], [Event::Started { pid: 7 }, Event::Exited { code: 3, oom_killed: true }]));
    }

    #[test]
    fn a_message_longer_than_the_limit_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(decoder.next_message::<Event>().unwrap_err().kind(), ErrorKind::Exhausted);
    }
}
