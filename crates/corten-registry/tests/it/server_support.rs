//! A server in a thread, and the plainest of HTTP clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use corten_registry::server::{Address, Config, Options, Server, Stopper};
use corten_store::Store;
use corten_types::Digest;
use corten_types::digest::Algorithm;

/// Longest wait for an answer: a test that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Serves the store in `directory` on a port of the kernel's choice.
    pub(crate) fn start(directory: &Path, config: &str) -> Self {
        let config = Config::parse(&format!("listen = [\"127.0.0.1:0\"]\nname = \"reg.test\"\n{config}")).unwrap();
        let store = corten_store::Options { root: directory.join("store") };
        let server = Server::bind(Options { config, store, log: None }).unwrap();
        let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP address") };
        let stopper = server.stopper();
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { address, stopper, thread: Some(thread) }
    }

    /// Ends it as SIGTERM does, and waits.
    pub(crate) fn stop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request { server: self, method: method.into(), path: path.into(), headers: Vec::new(), body: None }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    /// Pushes a blob in one request; its digest.
    pub(crate) fn push_blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = sha256(content);
        let answer =
            self.request("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}")).body(content).send();
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Pushes an artifact of these blobs; the digest of its manifest.
    pub(crate) fn push_manifest(&self, repository: &str, reference: &str, manifest: &str) -> Answer {
        self.request("PUT", &format!("/v2/{repository}/manifests/{reference}"))
            .header("Content-Type", MANIFEST)
            .body(manifest.as_bytes())
            .send()
    }

    /// Pushes a small artifact with everything that it needs; manifest and layer.
    pub(crate) fn push_artifact(&self, repository: &str, tag: &str, content: &str) -> (String, String) {
        self.push_blob(repository, b"{}");
        let layer = self.push_blob(repository, content.as_bytes());
        let manifest = artifact(&[(&layer, content.len())], None);
        let answer = self.push_manifest(repository, tag, &manifest);
        assert_eq!(answer.status, 201, "{answer:?}");
        (sha256(manifest.as_bytes()), layer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The manifest of an artifact.
pub(crate) fn artifact(layers: &[(&str, usize)], subject: Option<&str>) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| serde_json::json!({"mediaType": "text/plain", "digest": digest, "size": size}))
        .collect();
    let mut manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-test",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
        "layers": layers,
    });
    if let Some(subject) = subject {
        manifest["subject"] = serde_json::json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        manifest["annotations"] = serde_json::json!({"note": "about"});
    }
    manifest.to_string()
}

pub(crate) fn sha256(content: &[u8]) -> String {
    digest(Algorithm::Sha256, content).to_string()
}

pub(crate) fn digest(algorithm: Algorithm, content: &[u8]) -> Digest {
    Store::digest_of(algorithm, content).unwrap()
}

/// A request that is being put together.
pub(crate) struct Request<'r> {
    server: &'r Running,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request<'_> {
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The head, with a length unless the test gives one.
    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: reg.test\r\nConnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let has_length = self.headers.iter().any(|(name, _)| name == "Content-Length" || name == "Transfer-Encoding");
        if let Some(body) = self.body.as_ref().filter(|_| !has_length) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head + "\r\n"
    }

    /// Sends it all and reads the answer.
    pub(crate) fn send(self) -> Answer {
        let mut stream = self.begin();
        // A server that refuses early may close before it has read everything.
        let _cut_off = stream.write_all(self.body.as_deref().unwrap_or_default());
        read(stream, &self.method)
    }

    /// Sends the head alone; the test writes the rest, or does not.
    pub(crate) fn begin(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.write_all(self.head().as_bytes()).unwrap();
        stream
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of the first error.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// Reads an answer to its end.
pub(crate) fn read(stream: TcpStream, method: &str) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no answer to {method}: {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    let length: Option<u64> = answer.header("content-length").map(|length| length.parse().unwrap());
    let has_body = method != "HEAD" && !matches!(status, 204 | 304);
    let mut body = Vec::new();
    if has_body {
        reader.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body).unwrap();
        assert!(length.is_none_or(|length| length == body.len() as u64), "the body is cut off");
    }
    answer.body = body;
    answer
}
