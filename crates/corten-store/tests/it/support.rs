//! A store in a directory of its own, and images made for it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_fs::tar::{Builder, Kind, Member};
use corten_store::{Form, Options, Store};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// A store that goes with the test.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        Self { dir, store }
    }

    /// A store whose layers take this form.
    pub(crate) fn of_form(form: Form) -> Self {
        let sandbox = Self::new();
        Self { store: sandbox.store.with_layer_form(form), dir: sandbox.dir }
    }

    /// A layer's tree, whatever its form.
    pub(crate) fn tree(&self, key: &str) -> Tree {
        let layer = self.root().join("layers").join(key);
        let (index, tar) = (layer.join("index.erofs"), layer.join("tar"));
        if !index.exists() {
            return Tree { root: layer.join("fs"), _mount: None };
        }
        let mount = corten_fs::erofs::mount(&index, &tar).unwrap();
        Tree { root: PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())), _mount: Some(mount) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Names in a part of the store.
    pub(crate) fn names(&self, part: &str) -> Vec<String> {
        names(&self.root().join(part))
    }
}

/// A layer's tree; mounted while it is held, where it is an image.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    _mount: Option<OwnedFd>,
}

impl Tree {
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// The forms that this process can use.
pub(crate) fn forms() -> Vec<Form> {
    let dir = tempfile::tempdir().unwrap();
    let mut forms = vec![Form::Directory];
    if rustix::process::geteuid().is_root() && corten_fs::erofs::is_supported(dir.path()).is_ok() {
        forms.push(Form::Erofs);
    }
    forms
}

pub(crate) fn open(root: &Path) -> Store {
    Store::open(Options { root: root.to_owned() }).unwrap()
}

pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A tar of `members`, each with its content.
pub(crate) fn tar(members: &[(Member<'_>, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (member, content) in members {
        builder.append(member, *content).unwrap();
    }
    builder.finish().unwrap()
}

pub(crate) fn file<'a>(path: &'a str, content: &'a [u8]) -> (Member<'a>, &'a [u8]) {
    (Member::new(path.as_bytes(), Kind::File, 0o644, content.len() as u64), content)
}

pub(crate) fn dir(path: &str, mode: u32) -> (Member<'_>, &[u8]) {
    (Member::new(path.as_bytes(), Kind::Directory, mode, 0), b"")
}

pub(crate) fn of_kind(path: &str, kind: Kind) -> (Member<'_>, &[u8]) {
    (Member::new(path.as_bytes(), kind, 0o644, 0), b"")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A docker-archive of one image with these layers, lowest first.
pub(crate) fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    docker_archive_with(name, layers, &diff_ids)
}

/// The same with diff ids that the caller chose.
pub(crate) fn docker_archive_with(name: &str, layers: &[Vec<u8>], diff_ids: &[String]) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let names: Vec<String> = (0..layers.len()).map(|position| format!("{position}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": names}]).to_string();
    let mut members: Vec<_> = names.iter().zip(layers).map(|(name, layer)| file(name, layer)).collect();
    members.push(file(&config_name, config.as_bytes()));
    members.push(file("manifest.json", manifest.as_bytes()));
    tar(&members)
}

/// The trees of the unpacked layers, by relative path: kind, mode, owner, size or link.
pub(crate) fn tree(path: &Path) -> Vec<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut lines = Vec::new();
    let mut queue = vec![path.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let stat = std::fs::symlink_metadata(entry.path()).unwrap();
            let kind = stat.file_type();
            let detail = if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(entry.path()).unwrap().display())
            } else if kind.is_char_device() || kind.is_block_device() {
                format!("device {:x}", stat.rdev())
            } else if kind.is_file() {
                format!(
                    "{} bytes, {} links, {}",
                    stat.len(),
                    stat.nlink(),
                    sha256(&std::fs::read(entry.path()).unwrap())
                )
            } else {
                String::new()
            };
            lines.push(format!(
                "{} {:o} {}:{} {}.{} {detail}",
                entry.path().strip_prefix(path).unwrap().display(),
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.mtime_nsec(),
            ));
            if kind.is_dir() {
                queue.push(entry.path());
            }
        }
    }
    lines.sort();
    lines
}
