//! This machine's programs and the libraries they need: what tiny images are made of, so that nothing is downloaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tar::Entry;

/// Programs that the tests' scripts call; those that the machine lacks are left out.
const PROGRAMS: &[&str] = &[
    "sh", "cat", "chmod", "chown", "cp", "date", "dd", "df", "echo", "env", "expr", "false", "grep", "head",
    "hostname", "id", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "nproc", "od", "printenv", "ps", "pwd",
    "readlink", "rm", "sed", "seq", "sleep", "sort", "stat", "tail", "test", "touch", "tr", "true", "tty", "umount",
    "uname", "wc", "whoami", "yes",
];

/// A root file system of this machine's own programs: a static busybox if there is one, else the shell and coreutils
/// with the libraries that the loader names.
pub fn root_entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> =
        ["bin", "dev", "etc", "proc", "sys", "root", "home", "var"].map(|name| Entry::directory(name, 0o755)).into();
    entries.push(Entry::directory("tmp", 0o1777));
    entries.push(Entry::file(
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
    ));
    entries.push(Entry::file("etc/group", 0o644, "root:x:0:\nstaff:x:50:alice\nalice:x:1000:\n"));
    entries.push(Entry::directory("home/alice", 0o755).owned_by(1000, 1000));
    match static_busybox() {
        Some(busybox) => entries.extend(busybox_entries(&busybox)),
        None => entries.extend(dynamic_entries()),
    }
    entries
}

fn static_busybox() -> Option<PathBuf> {
    let busybox = crate::skip::program("busybox")?;
    libraries(&busybox).is_empty().then_some(busybox)
}

fn busybox_entries(busybox: &Path) -> Vec<Entry> {
    let listed = Command::new(busybox).arg("--list").output().unwrap();
    let mut entries = vec![Entry::file("bin/busybox", 0o755, std::fs::read(busybox).unwrap())];
    let applets = String::from_utf8(listed.stdout).unwrap();
    let applets = applets.lines().filter(|applet| *applet != "busybox");
    entries.extend(applets.map(|applet| Entry::symlink(&format!("bin/{applet}"), "busybox")));
    entries
}

fn dynamic_entries() -> Vec<Entry> {
    let mut wanted = BTreeSet::new();
    let mut entries = Vec::new();
    for (name, path) in PROGRAMS.iter().filter_map(|name| Some((name, crate::skip::program(name)?))) {
        wanted.extend(libraries(&path));
        entries.push(Entry::file(&format!("bin/{name}"), 0o755, std::fs::read(&path).unwrap()));
    }
    let mut folders = BTreeSet::new();
    for library in &wanted {
        let parents = library.ancestors().skip(1).filter_map(|parent| parent.strip_prefix("/").ok());
        folders.extend(parents.filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_path_buf));
    }
    // A sorted set has every parent before its children.
    entries.extend(folders.iter().map(|folder| Entry::directory(folder.to_str().unwrap(), 0o755)));
    for library in &wanted {
        let inside = library.strip_prefix("/").unwrap().to_str().unwrap();
        entries.push(Entry::file(inside, 0o755, std::fs::read(library).unwrap()));
    }
    entries
}

/// Absolute paths of the loader and the shared libraries of `program`; none for a static one.
pub fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let Ok(listed) = Command::new("ldd").arg(program).output() else { return BTreeSet::new() };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(|word| PathBuf::from(word.trim_end_matches(':'))).filter(|path| path != program).collect()
}

/// Writes entries as a directory tree, as the calling user.
pub fn unpack(entries: &[Entry], root: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--no-same-owner", "-xpf", "-", "-C"]).arg(root);
    if crate::skip::is_root() {
        tar.args(["--same-owner", "--numeric-owner"]);
    }
    let bytes = crate::tar::archive(entries);
    crate::run::finish(tar, Some(&bytes), std::time::Duration::from_secs(60)).ok();
}
