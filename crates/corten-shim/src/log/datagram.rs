//! The journal's and syslog's sockets: one datagram a line.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;

use corten_sys::Call;
use corten_types::shim::{LogDriver, LogOptions};
use corten_types::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use corten_log::{LogStream, Piece};

/// Where systemd's journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog listens.
const SYSLOG: &str = "/dev/log";
/// syslog(3): LOG_DAEMON, with "info" and "err".
const PRIORITIES: (u8, u8) = (3 * 8 + 6, 3 * 8 + 3);
/// Longest wait for a socket that takes nothing, seconds; after that the line is lost, for its reader is.
const WAIT_SECONDS_MAX: i64 = 10;

/// A log that somebody else keeps.
#[derive(Debug)]
pub(super) struct Log {
    socket: OwnedFd,
    journal: bool,
    /// What every datagram begins with.
    header: Vec<u8>,
    tag: String,
    waiting: VecDeque<Vec<u8>>,
    waiting_size_bytes: usize,
    buffer_size_bytes_max: usize,
    /// The socket took nothing for as long as we wait: until it takes something again, nobody waits for it.
    is_stuck: bool,
    drops: u64,
}

impl Log {
    pub(super) fn open(options: &LogOptions, id: &str, attributes: &BTreeMap<String, String>) -> Result<Self> {
        let journal = options.driver == LogDriver::Journald;
        let path = match options.options.get("syslog-address").map(String::as_str) {
            Some(address) if !journal => address.strip_prefix("unixgram://").unwrap_or(address),
            _ if journal => JOURNAL,
            _ => SYSLOG,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).call(|| "socket(AF_UNIX)")?;
        let address = SocketAddrUnix::new(Path::new(path)).call(|| "sockaddr_un")?;
        rustix::net::connect(&socket, &address).call(|| format!("connect({path:?})")).map_err(|error| {
            let driver = options.driver.as_str();
            Error::new(ErrorKind::Unsupported, format!("cannot log to {driver}: nobody listens at `{path}`"))
                .caused_by(error)
                .hint("start the service, or choose another driver: `--log-driver json-file`")
        })?;
        let tag = if options.tag.is_empty() { id.get(..12).unwrap_or(id).to_owned() } else { options.tag.clone() };
        let name = attributes.get("name").map_or("", String::as_str);
        let mut header = Vec::new();
        if journal {
            let short = id.get(..12).unwrap_or(id);
            for (field, value) in [
                ("CONTAINER_ID", short),
                ("CONTAINER_ID_FULL", id),
                ("CONTAINER_NAME", name),
                ("CONTAINER_TAG", &tag),
                ("SYSLOG_IDENTIFIER", &tag),
                ("IMAGE_NAME", attributes.get("image").map_or("", String::as_str)),
            ] {
                journal_field(&mut header, field, value.as_bytes());
            }
            for (field, value) in &options.attributes {
                journal_field(&mut header, &field_name(field), value.as_bytes());
            }
        }
        Ok(Self {
            socket,
            journal,
            header,
            tag,
            waiting: VecDeque::new(),
            waiting_size_bytes: 0,
            buffer_size_bytes_max: options.buffer_size_bytes_max,
            is_stuck: false,
            drops: 0,
        })
    }

    pub(super) fn send(&mut self, piece: Piece<'_>) {
        let datagram = if self.journal { self.journal_entry(piece) } else { self.syslog_line(piece) };
        self.send_waiting();
        if self.waiting.is_empty() && self.try_send(&datagram) {
            return;
        }
        if self.buffer_size_bytes_max == 0 {
            self.is_stuck = self.is_stuck || !self.wait();
            if self.is_stuck || !self.try_send(&datagram) {
                self.drops += 1;
            }
        } else if self.waiting_size_bytes + datagram.len() > self.buffer_size_bytes_max {
            self.drops += 1;
        } else {
            self.waiting_size_bytes += datagram.len();
            self.waiting.push_back(datagram);
        }
    }

    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    pub(super) fn flush(&mut self) {
        while !self.waiting.is_empty() && !self.is_stuck && self.wait() {
            self.send_waiting();
        }
        self.drops += self.waiting.len() as u64;
        self.waiting.clear();
    }

    fn send_waiting(&mut self) {
        while let Some(datagram) = self.waiting.pop_front() {
            if !self.try_send(&datagram) {
                self.waiting.push_front(datagram);
                return;
            }
            self.waiting_size_bytes -= datagram.len();
        }
    }

    /// False where the socket takes nothing now.
    fn try_send(&mut self, datagram: &[u8]) -> bool {
        loop {
            match rustix::net::send(&self.socket, datagram, SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.is_stuck = false;
                    return true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return false,
                // Too long for the socket, or the listener is gone.
                Err(_) => {
                    self.drops += 1;
                    return true;
                }
            }
        }
    }

    fn wait(&self) -> bool {
        let limit = Timespec { tv_sec: WAIT_SECONDS_MAX, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    fn journal_entry(&self, piece: Piece<'_>) -> Vec<u8> {
        let mut entry = self.header.clone();
        let priority = if piece.stream == LogStream::Stderr { b"3" } else { b"6" };
        journal_field(&mut entry, "PRIORITY", priority);
        if !piece.is_whole() {
            journal_field(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        journal_field(&mut entry, "MESSAGE", piece.text());
        entry
    }

    fn syslog_line(&self, piece: Piece<'_>) -> Vec<u8> {
        let priority = if piece.stream == LogStream::Stderr { PRIORITIES.1 } else { PRIORITIES.0 };
        let mut line = format!("<{priority}>{}[{}]: ", self.tag, std::process::id()).into_bytes();
        // A forged record inside a line would begin after a NUL or a line feed.
        line.extend(piece.text().iter().map(|byte| if *byte == 0 { b' ' } else { *byte }));
        line
    }
}

/// One field of the journal's native protocol; always in the form with a length, which takes any bytes.
fn journal_field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// The journal takes capital letters, digits and underscores.
fn field_name(text: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    text.chars().map(letter).collect::<String>().trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(directory: &tempfile::TempDir) -> (OwnedFd, LogOptions) {
        let path = directory.path().join("log");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let address = format!("unixgram://{}", path.display());
        let options = [("syslog-address".to_owned(), address)].into();
        (socket, LogOptions { driver: LogDriver::Syslog, options, tag: "web".into(), ..LogOptions::default() })
    }

    fn piece(bytes: &[u8]) -> Piece<'_> {
        Piece { stream: LogStream::Stderr, bytes, time: (0, 0) }
    }

    #[test]
    fn syslog_gets_a_line_with_its_priority_and_tag() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, options) = listener(&directory);
        let mut log = Log::open(&options, "id", &BTreeMap::new()).unwrap();
        log.send(piece(b"hello\n"));
        let mut buffer = [0; 100];
        let (count, _) = rustix::net::recv(&socket, &mut buffer, rustix::net::RecvFlags::empty()).unwrap();
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(text.starts_with("<27>web[") && text.ends_with("]: hello"), "{text}");
    }

    #[test]
    fn a_slow_reader_costs_counted_lines_where_nobody_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let (_socket, mut options) = listener(&directory);
        options.buffer_size_bytes_max = 4096;
        let mut log = Log::open(&options, "id", &BTreeMap::new()).unwrap();
        for _ in 0..2000 {
            log.send(piece(&[b'x'; 512]));
        }
        assert!(log.drops() > 0 && log.waiting_size_bytes <= 4096, "{} {}", log.drops(), log.waiting_size_bytes);
    }

    #[test]
    fn nobody_to_log_to_is_refused_by_name() {
        let mut options = LogOptions { driver: LogDriver::Syslog, ..LogOptions::default() };
        options.options.insert("syslog-address".into(), "/nonexistent/log".into());
        let error = Log::open(&options, "id", &BTreeMap::new()).unwrap_err();
        assert_eq!(error.message(), "cannot log to syslog: nobody listens at `/nonexistent/log`");
    }

    #[test]
    fn a_field_of_the_journal_takes_any_bytes() {
        let mut entry = Vec::new();
        journal_field(&mut entry, "MESSAGE", b"a\nB=c");
        assert_eq!(entry, b"MESSAGE\n\x05\0\0\0\0\0\0\0a\nB=c\n");
        assert_eq!(field_name("com.example-x"), "COM_EXAMPLE_X");
    }
}
