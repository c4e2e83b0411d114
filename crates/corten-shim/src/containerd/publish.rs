//! What happened, told to containerd: through its ttrpc socket or, where there is none, through the binary that it names.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use corten_fs::atomic::write_all;
use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::messages::{Any, Envelope, ForwardRequest};
use super::start::Words;
use super::ttrpc;

/// Longest wait for a containerd that takes nothing; after that the event is lost, and asking tells the same.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// The way to containerd.
#[derive(Debug)]
pub(super) struct Publisher {
    words: Words,
    socket: Option<OwnedFd>,
    last_stream: u32,
}

impl Publisher {
    pub(super) fn new(words: Words) -> Self {
        Self { words, socket: None, last_stream: 0 }
    }

    /// Tells an event: its topic's last word, its message's name and the message.
    pub(super) fn tell(&mut self, topic: &str, name: &str, message: &impl Message) {
        let event = Any { type_url: format!("containerd.events.{name}"), value: message.encode_to_vec() };
        let topic = format!("/tasks/{topic}");
        match self.words.ttrpc_address.is_empty() {
            true => self.tell_by_binary(&topic, &event),
            false => self.tell_by_socket(topic, event),
        }
    }

    fn tell_by_socket(&mut self, topic: String, event: Any) {
        let envelope = Envelope {
            timestamp: Some(corten_types::time::now().into()),
            namespace: self.words.namespace.clone(),
            topic,
            event: Some(event),
        };
        let request = ttrpc::Request {
            service: SERVICE.to_owned(),
            method: "Forward".to_owned(),
            payload: ForwardRequest { envelope: Some(envelope) }.encode_to_vec(),
            ..ttrpc::Request::default()
        };
        // A containerd that was restarted has another socket under the name.
        for _ in 0..2 {
            let Some(socket) = self.socket.take().or_else(|| self.connect()) else { return };
            // Streams of a client have odd numbers.
            self.last_stream = if self.last_stream == 0 { 1 } else { self.last_stream.wrapping_add(2) };
            let frame = ttrpc::request(self.last_stream, &request);
            // Answers say nothing that could be acted on; they must not fill the socket.
            let mut buffer = [0; 4096];
            while rustix::net::recv(&socket, &mut buffer, RecvFlags::DONTWAIT).is_ok_and(|(count, _)| count > 0) {}
            if write_all(socket.as_fd(), &frame).is_ok() {
                self.socket = Some(socket);
                return;
            }
            self.last_stream = 0;
        }
    }

    fn connect(&self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        let path = self.words.ttrpc_address.strip_prefix("unix://").unwrap_or(&self.words.ttrpc_address);
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT)).ok()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
        Some(socket)
    }

    /// The child is reaped as any other.
    fn tell_by_binary(&self, topic: &str, event: &Any) {
        if self.words.publish_binary.is_empty() {
            return;
        }
        let child = Command::new(&self.words.publish_binary)
            .args(["--address", &self.words.address, "publish", "--topic", topic])
            .args(["--namespace", &self.words.namespace])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = child
            && let Some(mut input) = child.stdin.take()
        {
            input.write_all(&event.encode_to_vec()).ok();
        }
    }
}
