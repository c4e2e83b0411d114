//! `corten registry serve`: the engine's own images served, a push that can be run, a server killed in the middle.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use corten_testkit::{Image, Sandbox};

use crate::sandbox;

/// A server process; killed with the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, &[])
    }

    fn start_with(sandbox: &Sandbox, further: &[&str]) -> Self {
        let words = ["registry", "serve", "--listen", "127.0.0.1:0", "--name", "reg.test"];
        let mut child = sandbox.corten_command(words.iter().chain(further)).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("Registry reg.test listens on ").unwrap_or_else(|| panic!("{line:?}"));
        Self { child, address: address.to_owned() }
    }

    /// Status, headers and body of one request.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.send(method, path, body, body.len());
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    /// Sends a request that announces `length` bytes and brings `body`.
    fn send(&self, method: &str, path: &str, body: &[u8], length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
            .unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    fn start_upload(&self) -> String {
        let (status, head, _) = self.ask("POST", "/v2/app/blobs/uploads/", b"");
        assert_eq!(status, 202, "{head}");
        header(&head, "location").unwrap()
    }

    fn end(&mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// `sha256:…` of bytes, by the tool that every machine has.
fn sha256(sandbox: &Sandbox, content: &[u8]) -> String {
    let path = sandbox.work().join("content");
    std::fs::write(&path, content).unwrap();
    let out = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
    format!("sha256:{}", String::from_utf8(out.stdout).unwrap().split(' ').next().unwrap())
}

#[test]
fn what_was_loaded_is_served_and_a_tag_publishes_it() {
    let sandbox = sandbox();
    let name = sandbox.load(&Image::tiny());
    let mut server = Server::start(&sandbox);
    sandbox.corten(["tag", &name, "reg.test/team/app:1"]).ok();
    let (status, head, manifest) = server.ask("GET", "/v2/team/app/manifests/1", b"");
    assert_eq!(status, 200, "{head}");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let (status, _, body) =
            server.ask("GET", &format!("/v2/team/app/blobs/{}", blob["digest"].as_str().unwrap()), b"");
        assert_eq!((status, body.len() as u64), (200, blob["size"].as_u64().unwrap()));
    }
    let listed = sandbox.corten(["registry", "ls", "team/app", "--format", "{{.Tag}}"]);
    assert_eq!((listed.code, listed.stdout.as_str()), (0, "1\n"));
    assert_eq!(server.end("-TERM"), Some(0), "a signal ends it well");
    sandbox.corten(["rmi", "reg.test/team/app:1"]).ok();
}

#[test]
fn a_server_that_is_killed_loses_nothing_that_it_acknowledged() {
    let sandbox = sandbox();
    let mut server = Server::start(&sandbox);
    let content: Vec<u8> =
        (0..3_000_000u32).map(|index| u8::try_from(index.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let digest = sha256(&sandbox, &content);
    // One blob whole; one session with a part that was acknowledged, and a part that was not.
    let (status, _, _) = server.ask("POST", &format!("/v2/app/blobs/uploads/?digest={digest}"), &content);
    assert_eq!(status, 201);
    let other: Vec<u8> = content.iter().rev().copied().collect();
    let other_digest = sha256(&sandbox, &other);
    let place = server.start_upload();
    assert_eq!(server.ask("PATCH", &place, &other[..1_000_000]).0, 202);
    let unfinished = server.send("PATCH", &place, &other[1_000_000..1_500_000], 2_000_000);
    server.end("-KILL");
    drop(unfinished);
    let mut server = Server::start(&sandbox);
    assert_eq!(server.ask("GET", &format!("/v2/app/blobs/{digest}"), b"").2, content);
    let (status, head, _) = server.ask("GET", &place, b"");
    assert_eq!(status, 204, "{head}");
    let last: usize = header(&head, "range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
    assert!((999_999..1_500_000).contains(&last), "{last}");
    assert_eq!(server.ask("PATCH", &place, &other[last + 1..]).0, 202);
    assert_eq!(server.ask("PUT", &format!("{place}?digest={other_digest}"), b"").0, 201);
    assert_eq!(server.ask("GET", &format!("/v2/app/blobs/{other_digest}"), b"").2, other);
    assert_eq!(server.end("-TERM"), Some(0));
    sandbox.corten(["registry", "gc", "--grace", "0s"]).ok();
}

#[test]
fn two_hundred_uploads_at_once_are_held_in_bounded_memory() {
    const UPLOADS: usize = 200;
    const SIZE: usize = 1 << 20;
    // 256 KiB being written and as much being gathered for each, and what a debug build is by itself.
    const MEMORY_KIB_MAX: u64 = 192 * 1024;
    let sandbox = sandbox();
    let server = Server::start(&sandbox);
    let content = vec![7u8; SIZE];
    let places: Vec<String> = (0..UPLOADS).map(|_| server.start_upload()).collect();
    // Every one of them half sent before any of them ends.
    let mut streams: Vec<TcpStream> =
        places.iter().map(|place| server.send("PATCH", place, &content[..SIZE / 2], SIZE)).collect();
    for stream in &mut streams {
        stream.write_all(&content[SIZE / 2..]).unwrap();
    }
    for stream in &mut streams {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 202"), "{line}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak <= MEMORY_KIB_MAX, "{peak} KiB");
    for place in &places {
        assert_eq!(server.ask("DELETE", place, b"").0, 204);
    }
}

#[test]
fn clients_that_go_away_do_not_end_the_server() {
    let sandbox = sandbox();
    let server = Server::start(&sandbox);
    // Requests behind each other whose answers nobody reads: closed with bytes unread, the connection is reset.
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let requests = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
        stream.write_all(requests.as_bytes()).unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
    }
    assert_eq!(server.ask("GET", "/v2/", b"").0, 200);
    // SIGPIPE, 13, is caught.
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    assert_eq!(u64::from_str_radix(caught.trim(), 16).unwrap() >> 12 & 1, 1, "{caught}");
}

#[test]
fn metrics_have_an_address_of_their_own_without_a_password() {
    let sandbox = sandbox();
    std::fs::write(sandbox.work().join("users"), "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n")
        .unwrap();
    let socket = sandbox.work().join("metrics.sock");
    let metrics = format!("unix:{}", socket.display());
    let server = Server::start_with(&sandbox, &["--htpasswd", "users", "--metrics-listen", &metrics]);
    assert_eq!(server.ask("GET", "/metrics", b"").0, 401, "the registry's own address asks for a password");
    let ask = |path: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let page = ask("/metrics");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("corten_registry_requests_total"), "{page}");
    assert!(ask("/v2/").starts_with("HTTP/1.1 404"), "and nothing else is there");
}

#[test]
fn serving_other_machines_is_said_in_so_many_words() {
    let sandbox = sandbox();
    for (words, why) in [
        (&["--listen", "0.0.0.0:0"][..], "nothing says who may"),
        (&["--listen", "0.0.0.0:0", "--allow-anonymous"], "there is no TLS"),
        (&["--listen", "127.0.0.1:0", "--tls-cert", "x"], "belong together"),
        (&["--listen", "nonsense"], "is not an address"),
        (&["--config", "absent.toml"], "cannot read the registry's configuration"),
    ] {
        let refused = sandbox.corten(["registry", "serve"].iter().chain(words));
        assert_eq!(refused.code, 1, "{words:?}");
        assert!(refused.stderr.contains(why), "{words:?}: {}", refused.stderr);
    }
}
