//! OCI bundles: a root file system and a `config.json` like the one that the reference runtime's `spec` command writes.

use std::path::{Path, PathBuf};

use corten_types::runtime_spec::{Linux, Mount, NamespaceKind, Process, Resources, Spec};

use crate::Image;

/// A bundle directory; change [`Bundle::spec`], then [`Bundle::write`].
#[derive(Debug)]
pub struct Bundle {
    /// The bundle directory.
    pub directory: PathBuf,
    /// What `config.json` will hold.
    pub spec: Spec,
}

impl Bundle {
    /// A bundle at `directory` whose root is [`Image::tiny`] and whose program is `args`; written already.
    pub fn new<S: Into<String>>(directory: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Image::tiny().unpack(&directory.join("rootfs"));
        let mut bundle = Self { directory: directory.to_path_buf(), spec: default_spec() };
        bundle.process().args = args.into_iter().map(Into::into).collect();
        bundle.write();
        bundle
    }

    /// The program's part of the document.
    pub fn process(&mut self) -> &mut Process {
        self.spec.process.get_or_insert_default()
    }

    /// Linux's part of the document.
    pub fn linux(&mut self) -> &mut Linux {
        self.spec.linux.get_or_insert_default()
    }

    /// The limits.
    pub fn resources(&mut self) -> &mut Resources {
        self.linux().resources.get_or_insert_default()
    }

    /// Runs the container in a user namespace where `uid` and `gid` of the host are root, without a network namespace
    /// or cgroup settings of its own: what the reference runtime's `spec --rootless` writes.
    pub fn make_rootless(&mut self, uid: u32, gid: u32) {
        self.spec.make_rootless(uid, gid);
        self.spec.mounts.retain(|mount| mount.kind != "cgroup");
    }

    /// Removes a namespace, so that the host's is shared.
    pub fn share(&mut self, kind: NamespaceKind) {
        self.linux().namespaces.retain(|namespace| namespace.kind != kind);
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        self.spec.mounts.push(mount(destination, kind, source, options));
    }

    /// The root directory.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// Writes `config.json`.
    pub fn write(&self) {
        let json = serde_json::to_vec_pretty(&self.spec).unwrap();
        self.write_raw(&json);
    }

    /// Writes these bytes as `config.json`, for malformed input.
    pub fn write_raw(&self, bytes: &[u8]) {
        std::fs::write(self.directory.join("config.json"), bytes).unwrap();
    }
}

/// The document that the reference runtime's `spec` writes, without a terminal.
pub fn default_spec() -> Spec {
    let mut spec = Spec::example(true);
    // Runtimes of Debian 12 refuse a newer one.
    spec.oci_version = "1.0.2".into();
    spec.process.get_or_insert_default().terminal = false;
    spec
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}
