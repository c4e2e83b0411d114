//! Stores, clients and images of the tests.

use std::path::Path;
use std::time::Duration;

use corten_registry::client::credentials::{Credentials, Login};
use corten_registry::client::{Client, Options, Platforms, Policy, PullRequest, Pulled, PushRequest, Pushed, Secret};
use corten_store::Store;
use corten_testkit::Image;
use corten_testkit::tar::Entry;
use corten_types::{Error, Reference, Result};

/// A store in a directory of its own.
pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    (directory, store)
}

pub(crate) fn open(directory: &Path) -> Store {
    Store::open(corten_store::Options { root: directory.join("store") }).unwrap()
}

/// What a test's client is made of: short waits.
pub(crate) fn options() -> Options {
    Options { retry_wait: Duration::from_millis(2), retries: 3, ..Options::default() }
}

/// The same with a table of hosts of its own, in `directory`: `names` are this machine, and nobody else is asked.
pub(crate) fn hosts(directory: &Path, names: &[&str]) -> Options {
    let path = directory.join("hosts");
    std::fs::write(&path, names.iter().map(|name| format!("127.0.0.1 {name}\n")).collect::<String>()).unwrap();
    let resolv_conf = directory.join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    Options { hosts: path, resolv_conf, ..options() }
}

pub(crate) fn client() -> Client {
    Client::new(options())
}

/// A client that is logged in at `host`, and the directory of its logins.
pub(crate) fn logged_in(host: &str, user: &str, password: &str) -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials { files: vec![directory.path().join("config.json")], ..Credentials::default() };
    let login = Login::Password { user: user.into(), password: Secret::new(password.into()) };
    credentials.keep(host, &login).unwrap();
    (directory, Client::new(Options { credentials, ..options() }))
}

pub(crate) fn pull_with(client: &Client, store: &Store, name: &str, platforms: &Platforms) -> Result<Pulled> {
    let reference = Reference::parse(name).unwrap();
    let request = PullRequest { reference: &reference, platforms, policy: &Policy::default(), watch: &|_, _| {} };
    client.pull(store, &request)
}

pub(crate) fn pull(client: &Client, store: &Store, name: &str) -> Result<Pulled> {
    pull_with(client, store, name, &Platforms::ThisMachine)
}

pub(crate) fn push(client: &Client, store: &Store, source: &str, name: &str) -> Result<Pushed> {
    let reference = Reference::parse(name).unwrap();
    client
        .push(store, &PushRequest { source, reference: &reference, platform: None, compress: None, watch: &|_, _| {} })
}

/// Bytes that do not compress.
pub(crate) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// An image of two layers, the upper one of `size` bytes.
pub(crate) fn image(size: usize) -> Image {
    Image::new("app:1", vec![Entry::file("hello", 0o644, "hello")]).layer(vec![Entry::file(
        "noise",
        0o644,
        noise(size, 7),
    )])
}

/// An error's whole text.
pub(crate) fn text(error: &Error) -> String {
    error.report()
}

/// Bytes of all blobs of an image in a registry.
pub(crate) fn size(registry: &corten_testkit::Registry, repository: &str, tag: &str) -> u64 {
    let manifest = registry.manifest(repository, tag).unwrap().1;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap());
    layers.sum::<u64>() + manifest["config"]["size"].as_u64().unwrap()
}
