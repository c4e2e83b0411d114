//! A registry of the tests' own on loopback: well-behaved by default, hostile where a test says so. It keeps everything in
//! memory and notes every request.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Image;

/// What a client sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Everything, as one text: what a test looks for a secret in.
    pub fn whole(&self) -> String {
        format!("{} {}\n{:?}\n{}", self.method, self.path, self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// What the registry answers.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The connection is cut after this many bytes of the body.
    pub cut_after: Option<usize>,
    /// The body goes in pieces of this many bytes.
    pub piece: Option<usize>,
    /// `Content-Length` says this instead of the truth.
    pub length: Option<usize>,
}

impl Reply {
    /// A status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// Answers before the registry does, where it has an answer; it may also change the registry's own.
pub type Hook = Arc<dyn Fn(&Request, &mut dyn FnMut() -> Reply) -> Option<Reply> + Send + Sync>;

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
    /// (repository, tag or digest) to (media type, digest).
    manifests: BTreeMap<(String, String), (String, String)>,
    uploads: HashMap<String, Vec<u8>>,
    requests: Vec<Request>,
    hook: Option<Hook>,
    blob_bytes_sent: u64,
    referrers_api: bool,
}

/// A registry on 127.0.0.1. Its threads end with the test.
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("address", &self.address).finish_non_exhaustive()
    }
}

fn held(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one that speaks TLS.
    pub fn start_tls(config: Arc<ServerConfig>) -> Self {
        Self::start_with(Some(config))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { referrers_api: true, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &shared),
                    Some(config) => serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &shared),
                });
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1:PORT/REST`
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Answers first from now on.
    pub fn hook(&self, hook: impl Fn(&Request, &mut dyn FnMut() -> Reply) -> Option<Reply> + Send + Sync + 'static) {
        held(&self.state).hook = Some(Arc::new(hook));
    }

    /// Answers for itself again.
    pub fn unhook(&self) {
        held(&self.state).hook = None;
    }

    /// Without the referrers API, as older registries.
    pub fn without_referrers(&self) {
        held(&self.state).referrers_api = false;
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        held(&self.state).requests.clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        let mut state = held(&self.state);
        state.requests.clear();
        state.blob_bytes_sent = 0;
    }

    /// Requests whose `METHOD PATH` contains `part`.
    pub fn count(&self, part: &str) -> usize {
        held(&self.state).requests.iter().filter(|r| format!("{} {}", r.method, r.path).contains(part)).count()
    }

    /// Bytes of blobs that went out.
    pub fn blob_bytes_sent(&self) -> u64 {
        held(&self.state).blob_bytes_sent
    }

    /// Adds a blob; its digest.
    pub fn add_blob(&self, content: &[u8]) -> String {
        let digest = digest(content);
        held(&self.state).blobs.insert(digest.clone(), Arc::new(content.to_vec()));
        digest
    }

    /// Puts other bytes where a blob's should be.
    pub fn replace_blob(&self, digest: &str, content: &[u8]) {
        held(&self.state).blobs.insert(digest.to_owned(), Arc::new(content.to_vec()));
    }

    /// A blob's bytes.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        held(&self.state).blobs.get(digest).map(|content| content.to_vec())
    }

    /// Adds a manifest under a tag; its digest.
    pub fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, content: &[u8]) -> String {
        put_manifest(&mut held(&self.state), repository, tag, media_type, content)
    }

    /// The digest and the bytes of a manifest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        let state = held(&self.state);
        let (_, digest) = state.manifests.get(&(repository.to_owned(), name.to_owned()))?;
        Some((digest.clone(), state.blobs.get(digest)?.to_vec()))
    }

    /// Adds an image with everything that it needs; its manifest's digest.
    pub fn add_image(&self, repository: &str, tag: &str, image: &Image) -> String {
        let directory = tempfile::tempdir().unwrap();
        image.write_layout(directory.path());
        self.add_layout(repository, tag, directory.path())
    }

    /// Adds an index of images for platforms (`linux/arm64`); its digest.
    pub fn add_index(&self, repository: &str, tag: &str, images: &[(&str, &Image)]) -> String {
        let mut manifests = Vec::new();
        for (platform, image) in images {
            let digest = self.add_image(repository, &format!("{tag}-{}", platform.replace('/', "-")), image);
            let size = self.blob(&digest).unwrap().len();
            let (os, architecture) = platform.split_once('/').unwrap();
            manifests.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": {"os": os, "architecture": architecture}
            }));
        }
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        self.add_manifest(repository, tag, kind, index.to_string().as_bytes())
    }

    fn add_layout(&self, repository: &str, tag: &str, layout: &Path) -> String {
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            self.add_blob(&std::fs::read(entry.unwrap().path()).unwrap());
        }
        let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let kind = index["manifests"][0]["mediaType"].as_str().unwrap();
        let manifest = self.blob(digest).unwrap();
        self.add_manifest(repository, tag, kind, &manifest)
    }
}

/// `sha256:HEX`
pub fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn put_manifest(state: &mut State, repository: &str, name: &str, media_type: &str, content: &[u8]) -> String {
    let digest = digest(content);
    state.blobs.insert(digest.clone(), Arc::new(content.to_vec()));
    for name in [name, &digest] {
        state.manifests.insert((repository.to_owned(), name.to_owned()), (media_type.to_owned(), digest.clone()));
    }
    digest
}

fn serve(stream: impl Read + Write, state: &Mutex<State>) {
    let mut input = BufReader::new(stream);
    // A TLS handshake: what speaks plain HTTP answers as it would answer anything else.
    if input.fill_buf().is_ok_and(|bytes| bytes.first() == Some(&0x16)) {
        input.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").ok();
        return;
    }
    while let Some(request) = read_request(&mut input) {
        let hook = {
            let mut state = held(state);
            state.requests.push(request.clone());
            state.hook.clone()
        };
        let mut own = || answer(&request, state);
        let reply = hook.and_then(|hook| hook(&request, &mut own)).unwrap_or_else(|| answer(&request, state));
        if write_reply(input.get_mut(), &request, &reply, state).is_err() || reply.cut_after.is_some() {
            return;
        }
    }
}

fn read_request(input: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            input.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().ok()?, 0);
        let mut read = 0;
        // What came before a cut counts as the body.
        while read < body.len() {
            match input.read(&mut body[read..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => read += count,
            }
        }
        body.truncate(read);
    }
    Some(Request { method, path, headers, body })
}

fn write_reply(output: &mut impl Write, request: &Request, reply: &Reply, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    let has_length = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !has_length {
        head.push_str(&format!("Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len())));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    output.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &reply.body[..reply.cut_after.unwrap_or(usize::MAX).min(reply.body.len())];
    for piece in body.chunks(reply.piece.unwrap_or(usize::MAX).max(1)) {
        output.write_all(piece)?;
        if request.path.contains("/blobs/sha256") {
            held(state).blob_bytes_sent += piece.len() as u64;
        }
    }
    output.flush()
}

fn not_found(code: &str) -> Reply {
    let body = json!({"errors": [{"code": code, "message": "it is not here"}]});
    Reply::new(404, body.to_string()).header("Content-Type", "application/json")
}

/// The registry itself.
fn answer(request: &Request, state: &Mutex<State>) -> Reply {
    let mut state = held(state);
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parameter = |name: &str| {
        let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        found.map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
    };
    if matches!(path, "/v2/" | "/v2") {
        return Reply::new(200, "{}").header("Content-Type", "application/json");
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return not_found("UNSUPPORTED") };
    for kind in ["/blobs/uploads/", "/manifests/", "/blobs/", "/tags/", "/referrers/"] {
        if let Some((repository, name)) = rest.rsplit_once(kind) {
            let method = request.method.as_str();
            return match kind {
                "/manifests/" => manifest(&mut state, request, method, repository, name),
                "/blobs/" => blob(&mut state, request, method, name),
                "/tags/" => tags(&state, repository, &parameter),
                "/referrers/" if state.referrers_api => referrers(&state, repository, name, &parameter),
                "/blobs/uploads/" => upload(&mut state, request, repository, name, &parameter),
                _ => not_found("UNSUPPORTED"),
            };
        }
    }
    not_found("UNSUPPORTED")
}

fn manifest(state: &mut State, request: &Request, method: &str, repository: &str, name: &str) -> Reply {
    let key = (repository.to_owned(), name.to_owned());
    match method {
        "PUT" => {
            let kind = request.header("content-type").unwrap_or_default().to_owned();
            let digest = put_manifest(state, repository, name, &kind, &request.body);
            let reply = Reply::new(201, "").header("Docker-Content-Digest", digest);
            let subject = serde_json::from_slice::<Value>(&request.body).ok();
            match subject.as_ref().and_then(|value| value["subject"]["digest"].as_str()) {
                Some(subject) if state.referrers_api => reply.header("OCI-Subject", subject),
                _ => reply,
            }
        }
        "DELETE" => match state.manifests.remove(&key) {
            Some(_) => Reply::new(202, ""),
            None => not_found("MANIFEST_UNKNOWN"),
        },
        _ => match state.manifests.get(&key) {
            Some((kind, digest)) => Reply::new(200, state.blobs[digest].to_vec())
                .header("Content-Type", kind)
                .header("Docker-Content-Digest", digest),
            None => not_found("MANIFEST_UNKNOWN"),
        },
    }
}

fn blob(state: &mut State, request: &Request, method: &str, digest: &str) -> Reply {
    let Some(content) = state.blobs.get(digest).cloned() else { return not_found("BLOB_UNKNOWN") };
    if method == "DELETE" {
        state.blobs.remove(digest);
        return Reply::new(202, "");
    }
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let reply = match range {
        Some((start, end)) => {
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(content.len(), |end: usize| (end + 1).min(content.len()));
            if start >= content.len() {
                return Reply::new(416, "");
            }
            let total = content.len();
            Reply::new(206, &content[start..end]).header("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
        }
        None => Reply::new(200, content.to_vec()),
    };
    reply.header("Docker-Content-Digest", digest).header("Content-Type", "application/octet-stream")
}

fn tags(state: &State, repository: &str, parameter: &dyn Fn(&str) -> Option<String>) -> Reply {
    let names = state.manifests.keys().filter(|(of, name)| of == repository && !name.contains(':'));
    let last = parameter("last").unwrap_or_default();
    let count = parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let all: Vec<&String> = names.map(|(_, name)| name).filter(|name| **name > last).collect();
    let page: Vec<&String> = all.iter().take(count).copied().collect();
    let reply = Reply::new(200, json!({"name": repository, "tags": page}).to_string());
    match page.last() {
        Some(last) if page.len() < all.len() => {
            reply.header("Link", format!("</v2/{repository}/tags/list?n={count}&last={last}>; rel=\"next\""))
        }
        _ => reply,
    }
}

fn referrers(state: &State, repository: &str, subject: &str, parameter: &dyn Fn(&str) -> Option<String>) -> Reply {
    let mut found = Vec::new();
    for ((of, name), (kind, digest)) in &state.manifests {
        if of != repository || name != digest {
            continue;
        }
        let content = &state.blobs[digest];
        let Ok(value) = serde_json::from_slice::<Value>(content) else { continue };
        if value["subject"]["digest"] != subject {
            continue;
        }
        let artifact = value["artifactType"].as_str().or(value["config"]["mediaType"].as_str()).unwrap_or_default();
        if parameter("artifactType").is_none_or(|wanted| wanted == artifact) {
            found.push(json!({"mediaType": kind, "digest": digest, "size": content.len(), "artifactType": artifact}));
        }
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": found});
    Reply::new(200, index.to_string()).header("Content-Type", kind)
}

fn upload(
    state: &mut State,
    request: &Request,
    repository: &str,
    id: &str,
    parameter: &dyn Fn(&str) -> Option<String>,
) -> Reply {
    let place = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
    let range = |size: usize| format!("0-{}", size.saturating_sub(1));
    match request.method.as_str() {
        "POST" => {
            if let Some(mounted) = parameter("mount").filter(|digest| state.blobs.contains_key(digest)) {
                return Reply::new(201, "").header("Docker-Content-Digest", mounted);
            }
            let id = format!("upload-{}", state.requests.len());
            state.uploads.insert(id.clone(), Vec::new());
            Reply::new(202, "").header("Location", place(&id)).header("Range", "0-0")
        }
        "GET" => match state.uploads.get(id) {
            Some(content) => Reply::new(204, "").header("Location", place(id)).header("Range", range(content.len())),
            None => not_found("BLOB_UPLOAD_UNKNOWN"),
        },
        "PATCH" => {
            let Some(content) = state.uploads.get_mut(id) else { return not_found("BLOB_UPLOAD_UNKNOWN") };
            let start = request.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
            if start.is_some_and(|start: usize| start != content.len()) {
                return Reply::new(416, "").header("Location", place(id)).header("Range", range(content.len()));
            }
            content.extend_from_slice(&request.body);
            Reply::new(202, "").header("Location", place(id)).header("Range", range(content.len()))
        }
        "PUT" => {
            let Some(mut content) = state.uploads.remove(id) else { return not_found("BLOB_UPLOAD_UNKNOWN") };
            content.extend_from_slice(&request.body);
            // A body that was cut is kept, as a real registry keeps it.
            let announced = request.header("content-length").and_then(|length| length.parse().ok());
            if announced.is_some_and(|length: usize| length > request.body.len()) {
                state.uploads.insert(id.to_owned(), content);
                return Reply::new(499, "");
            }
            let found = digest(&content);
            if parameter("digest").as_deref() != Some(&found) {
                return Reply::new(400, json!({"errors": [{"code": "DIGEST_INVALID", "message": ""}]}).to_string());
            }
            state.blobs.insert(found.clone(), Arc::new(content));
            Reply::new(201, "").header("Docker-Content-Digest", found)
        }
        _ => Reply::new(405, ""),
    }
}
