//! Any tree, as the layers of an image, in every form of a layer: the tree that the specification says.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use corten_fs::tar::{Kind, Member, Time};
use corten_store::{Base, Form, PrepareRequest};
use corten_testkit::require;
use proptest::prelude::*;

use crate::support::{Sandbox, docker_archive, forms, sha256, tar};

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What one path is.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    kind: Kind,
    content: Vec<u8>,
    mode: u32,
    uid: u64,
    mtime: Time,
    xattrs: Xattrs,
}

/// A layer: what it makes, what it hides, and directories that hide all below them.
#[derive(Debug, Default)]
struct Layer {
    nodes: BTreeMap<String, Node>,
    whiteouts: BTreeSet<String>,
    opaque: BTreeSet<String>,
}

/// A whole tree, layer upon layer.
type Tree = BTreeMap<String, Node>;

/// What a step of the generator wants: a path, and numbers that decide the rest.
type Step = (Vec<u8>, u8, u32);

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn node(kind: Kind, seed: u32) -> Node {
    let size = match seed % 7 {
        0 => 0,
        1 => 511,
        2 => 512,
        3 => 4096,
        4 => 4097,
        5 => 70_000,
        _ => seed % 3000,
    };
    let byte = seed.to_le_bytes()[0];
    let content = if kind == Kind::File { vec![byte | 1; usize::try_from(size).unwrap()] } else { Vec::new() };
    let mut xattrs = Xattrs::new();
    if matches!(kind, Kind::File | Kind::Directory) {
        for number in 0..(seed >> 8) % 3 {
            xattrs.push((format!("user.{number}").into_bytes(), vec![byte; usize::try_from(seed % 600).unwrap()]));
        }
    }
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { seed >> 3 & 0o7777 };
    // What ext4 can hold.
    let seconds = i64::from(seed) * 3 - (1 << 20);
    Node {
        kind,
        content,
        mode,
        uid: u64::from(seed.rotate_left(5) & 0x7fff_ffff),
        mtime: Time { seconds, nanoseconds: seed % 1_000_000_000 },
        xattrs,
    }
}

impl Layer {
    /// A layer of these steps, on top of `below`.
    fn new(steps: &[Step], below: &Tree) -> Self {
        let mut layer = Self::default();
        let mut implicit: BTreeSet<String> = BTreeSet::new();
        for (names, kind, seed) in steps {
            let path = names.iter().map(|name| format!("n{}", name % 4)).collect::<Vec<_>>().join("/");
            let is_directory = |node: &Node| node.kind == Kind::Directory;
            let in_the_way = ancestors(&path).any(|above| {
                layer.nodes.get(above).is_some_and(|node| !is_directory(node)) || layer.whiteouts.contains(above)
            });
            let mut known = layer.nodes.keys().chain(&implicit).chain(&layer.whiteouts);
            let has_children = known.any(|known| is_below(known, &path));
            let taken = layer.nodes.contains_key(&path) || layer.whiteouts.contains(&path) || implicit.contains(&path);
            if in_the_way || taken {
                continue;
            }
            let kind = match kind % 10 {
                0..=2 => Kind::File,
                3 | 4 => Kind::Directory,
                5 => Kind::Symlink(
                    format!("../n{}", seed % 5).repeat(1 + usize::try_from(seed % 90).unwrap()).into_bytes(),
                ),
                6 => Kind::Fifo,
                7 => Kind::CharDevice { major: 1 + seed % 4000, minor: seed % (1 << 20) },
                8 if has_children => continue,
                8 => Kind::CharDevice { major: 0, minor: 0 },
                _ => {
                    // A second name of a file of this layer.
                    let mut files = layer.nodes.iter().filter(|(_, node)| node.kind == Kind::File);
                    match files.next() {
                        Some((file, _)) => Kind::HardLink(file.clone().into_bytes()),
                        None => Kind::File,
                    }
                }
            };
            if kind != Kind::Directory && has_children {
                continue;
            }
            for above in ancestors(&path) {
                if layer.nodes.contains_key(above) || implicit.contains(above) {
                    continue;
                }
                // A directory that is below may be left out: it looks as it does there.
                if below.get(above).is_some_and(is_directory) && seed % 2 == 0 {
                    implicit.insert(above.to_owned());
                } else {
                    layer.nodes.insert(above.to_owned(), node(Kind::Directory, seed.wrapping_mul(7)));
                }
            }
            if kind == (Kind::CharDevice { major: 0, minor: 0 }) {
                layer.whiteouts.insert(path);
            } else {
                layer.nodes.insert(path, node(kind, *seed));
            }
        }
        for (path, node) in &layer.nodes {
            let hides = node.kind == Kind::Directory && node.mtime.nanoseconds % 3 == 0;
            if hides && !implicit.iter().any(|known| is_below(known, path)) {
                layer.opaque.insert(path.clone());
            }
        }
        layer
    }

    fn archive(&self) -> Vec<u8> {
        let names: Vec<(String, Kind)> = self
            .whiteouts
            .iter()
            .map(|path| match path.rsplit_once('/') {
                Some((parent, name)) => format!("{parent}/.wh.{name}"),
                None => format!(".wh.{path}"),
            })
            .chain(self.opaque.iter().map(|path| format!("{path}/.wh..wh..opq")))
            .map(|path| (path, Kind::File))
            .collect();
        let of_node = |(path, node): (&'_ String, &'_ Node)| (path.clone(), node.clone());
        // A link comes behind what it links to.
        let (links, others): (Vec<_>, Vec<_>) =
            self.nodes.iter().map(of_node).partition(|(_, node)| matches!(node.kind, Kind::HardLink(_)));
        let nodes: Vec<_> = others.into_iter().chain(links).collect();
        let mut members: Vec<(Member<'_>, &[u8])> = Vec::new();
        for (path, node) in &nodes {
            let mut member = Member::new(path.as_bytes(), node.kind.clone(), node.mode, node.content.len() as u64);
            (member.uid, member.gid, member.mtime, member.xattrs) = (node.uid, node.uid / 2, node.mtime, &node.xattrs);
            members.push((member, &node.content));
        }
        for (path, kind) in &names {
            members.push((Member::new(path.as_bytes(), kind.clone(), 0o644, 0), b""));
        }
        tar(&members)
    }

    /// What the specification says of this layer on top of `tree`.
    fn apply(&self, tree: &mut Tree) {
        tree.retain(|path, _| !self.whiteouts.iter().any(|gone| path == gone || is_below(path, gone)));
        tree.retain(|path, _| !self.opaque.iter().any(|directory| is_below(path, directory)));
        for (path, node) in &self.nodes {
            let target = match &node.kind {
                Kind::HardLink(target) => self.nodes[std::str::from_utf8(target).unwrap()].clone(),
                _ => node.clone(),
            };
            if target.kind != Kind::Directory || tree.get(path).is_some_and(|below| below.kind != Kind::Directory) {
                tree.retain(|known, _| !is_below(known, path));
            }
            tree.insert(path.clone(), target);
        }
    }
}

fn line(kind: &str, mode: u32, uid: u64, gid: u64, (seconds, nanoseconds): (i64, i64), xattrs: &Xattrs) -> String {
    let mut xattrs: Vec<String> = xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), &sha256(value)[..8]))
        .collect();
    xattrs.sort();
    format!("{kind} {mode:o} {uid}:{gid} {seconds}.{nanoseconds} {}", xattrs.join(","))
}

fn expected(tree: &Tree) -> BTreeMap<String, String> {
    let line = |node: &Node| {
        let kind = match &node.kind {
            Kind::File => format!("file {} {}", node.content.len(), sha256(&node.content)),
            Kind::Directory => "directory".to_owned(),
            Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            Kind::Fifo => "fifo".to_owned(),
            Kind::CharDevice { major, minor } => format!("device {major}:{minor}"),
            other => format!("{other:?}"),
        };
        let times = (node.mtime.seconds, i64::from(node.mtime.nanoseconds));
        line(&kind, node.mode, node.uid, node.uid / 2, times, &node.xattrs)
    };
    tree.iter().map(|(path, node)| (path.clone(), line(node))).collect()
}

fn found(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            // In a directory of one layer alone, overlay lists a whiteout that hides nothing; there is nothing to open.
            let Ok(stat) = std::fs::symlink_metadata(&path) else { continue };
            let kind = stat.file_type();
            let text = if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_char_device() {
                format!("device {}:{}", rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()))
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else if kind.is_dir() {
                queue.push(path.clone());
                "directory".to_owned()
            } else {
                let content = std::fs::read(&path).unwrap();
                assert_eq!(content.len() as u64, stat.len());
                format!("file {} {}", content.len(), sha256(&content))
            };
            let times = (stat.mtime(), stat.mtime_nsec());
            let (uid, gid) = (u64::from(stat.uid()), u64::from(stat.gid()));
            let text = line(&text, stat.mode() & 0o7777, uid, gid, times, &xattrs(&path));
            lines.insert(path.strip_prefix(root).unwrap().display().to_string(), text);
        }
    }
    lines
}

fn xattrs(path: &Path) -> Xattrs {
    let mut names = vec![0u8; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let mut value = vec![0u8; 64 * 1024];
            let name_text = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name_text, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// The root of an image of these layers, mounted.
fn root(sandbox: &Sandbox, archives: &[Vec<u8>]) -> (PathBuf, OwnedFd) {
    sandbox.store.load(docker_archive("any:1", archives).as_slice()).unwrap();
    let image = sandbox.store.resolve("any:1").unwrap();
    let request = PrepareRequest { key: "root", base: Base::Image(&image), throwaway: true };
    let tree = sandbox.store.prepare(request).unwrap().overlay.create().unwrap();
    (PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd())), tree)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_the_same_in_every_form(
        layers in prop::collection::vec(
            prop::collection::vec((prop::collection::vec(0u8.., 1..4), 0u8.., 0u32..), 0..14),
            1..5,
        ),
    ) {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let mut tree = Tree::new();
        let mut archives = Vec::new();
        for steps in &layers {
            let layer = Layer::new(steps, &tree);
            archives.push(layer.archive());
            layer.apply(&mut tree);
        }
        let expected = expected(&tree);
        for form in forms() {
            let sandbox = Sandbox::of_form(form);
            let (path, _mount) = root(&sandbox, &archives);
            prop_assert_eq!(&found(&path), &expected, "as {:?}", form);
        }
    }
}

#[test]
fn a_store_holds_both_forms_side_by_side() {
    let sandbox = Sandbox::of_form(Form::Directory);
    require!(forms().len() > 1, "EROFS images cannot be mounted here");
    let below = tar(&[crate::support::dir("d/", 0o750), crate::support::file("d/below", b"1")]);
    let above = tar(&[crate::support::file("d/above", b"2")]);
    sandbox.store.load(docker_archive("below:1", std::slice::from_ref(&below)).as_slice()).unwrap();
    let other = Sandbox { store: crate::support::open(&sandbox.root()).with_layer_form(Form::Erofs), dir: sandbox.dir };
    let (path, _mount) = root(&other, &[below, above]);
    let lower = &other.store.snapshot("root").unwrap().overlay.lower;
    assert!(lower[0].ends_with("index.erofs") && lower[1].ends_with("fs"), "{lower:?}");
    assert_eq!(found(&path).keys().collect::<Vec<_>>(), ["d", "d/above", "d/below"]);
    // The upper layer does not describe `d`: it looks as it does below.
    assert_eq!(std::fs::metadata(path.join("d")).unwrap().mode(), 0o40_750);
}
