//! What a test left behind. A [`Snapshot`] before and one after are compared; whatever is new is a leak.
//!
//! A snapshot takes what belongs to one sandbox ([`Scope::Sandbox`]), so that tests may run beside each other, or all of
//! the machine ([`Scope::Machine`]), for a serial run. nft rules are read through the `nft` program: without it they are
//! not counted, and [`Snapshot::left_out`] says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long processes and cgroups may take to go after the command that ended them.
const SETTLE: Duration = Duration::from_secs(5);

/// What counts.
#[derive(Debug, Clone)]
pub enum Scope {
    /// What names the sandbox's directory or carries its mark in the environment.
    Sandbox {
        /// The sandbox's directory; its last component is unique on the machine.
        directory: PathBuf,
        /// Directories whose files count.
        roots: Vec<PathBuf>,
        /// Paths below a root whose content is kept on purpose and does not count.
        kept: &'static [&'static str],
    },
    /// Everything but kernel threads and the caller's own ancestors and children.
    Machine,
}

/// Everything counted at one moment, as lines.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    things: BTreeSet<(&'static str, String)>,
    /// What could not be counted here, and why.
    pub left_out: Vec<String>,
}

impl Snapshot {
    /// Counts now.
    pub fn take(scope: &Scope) -> Self {
        let mut snapshot = Self::default();
        snapshot.add("mount", mounts(scope));
        snapshot.add("cgroup", cgroups(scope));
        snapshot.add("interface", names_in(Path::new("/sys/class/net")));
        snapshot.add("process", processes(scope));
        snapshot.add("descriptor", descriptors(scope));
        if let Scope::Sandbox { roots, kept, .. } = scope {
            roots.iter().for_each(|root| snapshot.add("file", files(root, kept)));
        }
        match nft_rules() {
            Some(rules) => snapshot.add("nft rule", rules),
            None => snapshot.left_out.push("nft rules: `nft` is not installed or not permitted".into()),
        }
        snapshot
    }

    fn add(&mut self, kind: &'static str, names: impl IntoIterator<Item = String>) {
        self.things.extend(names.into_iter().map(|name| (kind, name)));
    }

    /// Host pids of the processes among `leaks`.
    pub(crate) fn pids(leaks: &str) -> Vec<&str> {
        let lines = leaks.lines().filter_map(|line| line.trim_start().strip_prefix("process: "));
        lines.filter_map(|line| line.split(' ').next()).collect()
    }

    /// What `after` has and this snapshot has not.
    pub fn leaks(&self, after: &Self) -> Vec<String> {
        after.things.difference(&self.things).map(|(kind, name)| format!("{kind}: {name}")).collect()
    }

    /// Looks again and again until nothing is left, or names what stays. `tolerated` decides what is no leak.
    pub fn settle(&self, scope: &Scope, tolerated: impl Fn(&str) -> bool) -> Result<(), String> {
        let mut leaks = Vec::new();
        let clean = crate::run::eventually(SETTLE, || {
            leaks = self.leaks(&Self::take(scope));
            leaks.retain(|leak| !tolerated(leak));
            leaks.is_empty()
        });
        if clean {
            return Ok(());
        }
        let mut text = format!("{} left behind:", leaks.len());
        leaks.iter().for_each(|leak| write!(text, "\n  {leak}").unwrap());
        Err(text)
    }
}

impl Scope {
    fn names(&self, text: &[u8]) -> bool {
        match self {
            Self::Machine => true,
            Self::Sandbox { directory, .. } => {
                let mark = directory.file_name().unwrap().as_bytes();
                text.windows(mark.len()).any(|window| window == mark)
            }
        }
    }
}

fn mounts(scope: &Scope) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Without the ids, which a remount of something else changes.
    let line = |line: &str| line.split(' ').skip(3).collect::<Vec<_>>().join(" ");
    table.lines().filter(|text| scope.names(text.as_bytes())).map(line).collect()
}

/// Cgroup directories of every hierarchy that nobody is in and nobody is below; a test that runs beside this one has
/// processes in its own. A sandbox counts its own and everything of Corten's: a container's id does not tell whose it is.
fn cgroups(scope: &Scope) -> Vec<String> {
    let counts = |folder: &Path| {
        let name = folder.to_string_lossy();
        let of_another_sandbox = name.contains("corten-test-") && !scope.names(name.as_bytes());
        matches!(scope, Scope::Machine) || (name.contains("corten") && !of_another_sandbox)
    };
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        let mut folders = vec![hierarchy];
        while let Some(folder) = folders.pop() {
            let below = folders_in(&folder);
            let populated = std::fs::read(folder.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty());
            if below.is_empty() && !populated && counts(&folder) {
                found.push(folder.display().to_string());
            }
            folders.extend(below);
        }
    }
    found
}

/// Mount points of every cgroup hierarchy.
pub(crate) fn hierarchies() -> BTreeSet<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = table.lines().filter(|line| line.contains(" - cgroup"));
    lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Mount points below `directory` in the caller's mount namespace, innermost last.
pub(crate) fn mount_points_below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries.map(|entry| entry.path()).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Living processes that belong to the scope: the sandbox's mark in command line, environment, program or cgroup, or its
/// directory among the mounts of a mount namespace of their own.
fn processes(scope: &Scope) -> Vec<String> {
    let own = std::fs::read_link("/proc/self/ns/mnt").ok();
    let mut found = Vec::new();
    for pid in names_in(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let read = |name: &str| std::fs::read(at(name)).unwrap_or_default();
        let command = read("cmdline");
        // A zombie and a kernel thread have no command line; a zombie of ours is found by its parent's wait.
        if command.is_empty() || pid == std::process::id().to_string() {
            continue;
        }
        let elsewhere = std::fs::read_link(at("ns/mnt")).ok().filter(|namespace| Some(namespace) != own.as_ref());
        let belongs = [&command, &read("environ"), &read("cgroup")].iter().any(|text| scope.names(text))
            || std::fs::read_link(at("exe")).is_ok_and(|exe| scope.names(exe.as_os_str().as_bytes()))
            || (elsewhere.is_some() && scope.names(&read("mountinfo")));
        if belongs && !is_relative(&pid) {
            let words = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("{pid} {}", words.trim_end()));
        }
    }
    found
}

/// Whether the process is an ancestor of the caller's.
fn is_relative(pid: &str) -> bool {
    let parent = |pid: &str| -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned())
    };
    let mut next = Some("self".to_owned());
    while let Some(current) = next {
        if current == pid {
            return true;
        }
        next = parent(&current).filter(|parent| parent != "0");
    }
    false
}

/// Files that the calling process holds open beneath the sandbox.
fn descriptors(scope: &Scope) -> Vec<String> {
    if matches!(scope, Scope::Machine) {
        return Vec::new();
    }
    let links = folders_links(Path::new("/proc/self/fd"));
    links
        .into_iter()
        .filter(|link| scope.names(link.as_os_str().as_bytes()))
        .map(|link| link.display().to_string())
        .collect()
}

fn folders_links(folder: &Path) -> Vec<PathBuf> {
    names_in(folder).iter().filter_map(|name| std::fs::read_link(folder.join(name)).ok()).collect()
}

/// Every path below `root` but for those that are `kept` and all below them.
fn files(root: &Path, kept: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if kept.iter().any(|path| entry.path() == root.join(path)) {
                continue;
            }
            found.push(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

fn nft_rules() -> Option<Vec<String>> {
    let nft = crate::skip::program("nft")?;
    let listed = Command::new(nft).args(["--stateless", "list", "ruleset"]).output().ok()?;
    let text = String::from_utf8(listed.stdout).ok()?;
    listed.status.success().then(|| text.lines().map(|line| line.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_carries_the_mark_and_a_file_are_seen_and_gone_again() {
        let directory = tempfile::tempdir().unwrap();
        let roots = vec![directory.path().to_path_buf()];
        let scope = Scope::Sandbox { directory: directory.path().to_path_buf(), roots, kept: &[] };
        let before = Snapshot::take(&scope);
        std::fs::write(directory.path().join("left"), "").unwrap();
        let mut sleeper = Command::new("sleep").arg("60").env("MARK", directory.path()).spawn().unwrap();
        let mut leaks = Vec::new();
        // A process has its command line a moment after `spawn` returns: execve(2) lets the parent go on before it is laid.
        let seen = crate::run::eventually(SETTLE, || {
            leaks = before.leaks(&Snapshot::take(&scope));
            leaks.iter().any(|leak| leak.starts_with("process: ") && leak.ends_with("sleep 60"))
        });
        assert!(seen, "{leaks:?}");
        assert!(leaks.iter().any(|leak| leak.starts_with("file: ") && leak.ends_with("/left")), "{leaks:?}");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        std::fs::remove_file(directory.path().join("left")).unwrap();
        before.settle(&scope, |leak| leak.starts_with("cgroup: ")).unwrap();
    }
}
