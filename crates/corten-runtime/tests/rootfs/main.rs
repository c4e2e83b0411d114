//! The container's file system, in real namespaces: what a process inside finds, and what the host never sees.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is tests; clippy knows only the usual harness"
)]

mod attacks;
mod fallbacks;
mod layout;
mod options;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use corten_runtime::rootfs::{MountNamespace, Request, RootfsPlan};
use corten_sys::clone::{CloneRequest, Side, SingleThreaded, clone, exit_now};
use corten_sys::namespace::{NEWIPC, NEWNET, NEWNS, NEWPID, NEWUSER};
use corten_sys::seccomp::Instruction;
use corten_types::runtime_spec::Spec;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

/// A test and its name.
type Case = (&'static str, fn());

/// The tests of a module.
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const CASES: &[crate::Case] = &[$((stringify!($name), $name)),+];
    };
}
use cases;

/// Speaks the usual harness's command line, as far as cargo and nextest use it; each test runs in a process of its own.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| {
        words.is_empty() || words.iter().any(|word| if has("--exact") { name == *word } else { name.contains(*word) })
    };
    if !corten_testkit::skip::is_root() {
        corten_testkit::skip::skip("the container's file system: needs root");
    } else if has("--list") {
        // Nothing is ignored here.
        every_case()
            .filter(|(name, _)| !has("--ignored") && wanted(name))
            .for_each(|(name, _)| println!("{name}: test"));
    } else if !has("--ignored") {
        run(every_case().filter(|(name, _)| wanted(name)));
    }
}

fn every_case() -> impl Iterator<Item = (String, fn())> {
    let modules = [
        ("attacks", attacks::CASES),
        ("fallbacks", fallbacks::CASES),
        ("layout", layout::CASES),
        ("options", options::CASES),
    ];
    modules
        .into_iter()
        .flat_map(|(module, cases)| cases.iter().map(move |(name, body)| (format!("{module}::{name}"), *body)))
}

fn run(cases: impl Iterator<Item = (String, fn())>) {
    let (mut passed, mut failed) = (0, 0);
    for (name, body) in cases {
        let fine = alone(body);
        println!("test {name} ... {}", if fine { "ok" } else { "FAILED" });
        *(if fine { &mut passed } else { &mut failed }) += 1;
    }
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {outcome}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    assert_eq!(failed, 0);
}

/// Runs `body` in a child, so that what it changes of itself is gone with it.
fn alone(body: fn()) -> bool {
    let single = SingleThreaded::check().expect("this program has one thread");
    match clone(&single, &CloneRequest::default()).unwrap() {
        Side::Child => exit_now(if catch_unwind(body).is_ok() { 0 } else { 2 }),
        Side::Parent { pidfd, .. } => wait(&pidfd) == 0,
    }
}

/// A bundle in a temporary directory: a small rootfs, and beside it what must not change.
struct Bundle {
    directory: tempfile::TempDir,
    spec: Value,
    namespaces: u64,
    cgroup_paths: BTreeMap<String, String>,
    cgroup_namespace: bool,
    no_pivot: bool,
    /// System calls that fail with ENOSYS in the child.
    missing: Vec<u32>,
}

impl Bundle {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        for name in ["etc", "usr", "dev", "proc", "sys", "tmp"] {
            fs::DirBuilder::new().recursive(true).create(rootfs.join(name)).unwrap();
        }
        fs::write(rootfs.join("etc/hosts"), "image").unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/canary"), "alive").unwrap();
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "mounts": [],
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        Self {
            directory,
            spec,
            namespaces: NEWNS | NEWPID | NEWIPC | NEWNET,
            cgroup_paths: BTreeMap::new(),
            cgroup_namespace: false,
            no_pivot: false,
            missing: Vec::new(),
        }
    }

    /// With the mounts that every engine asks for.
    fn typical() -> Self {
        Self::new()
            .mount(json!({"destination": "/proc", "type": "proc", "source": "proc"}))
            .mount(json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}))
            .mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}))
            .mount(json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}))
            .mount(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"]}))
            .mount(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]}))
            .linux(
                "maskedPaths",
                json!([
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/timer_list",
                    "/proc/acpi",
                    "/sys/firmware",
                    "/proc/absent",
                    "/proc/keys/absent"
                ]),
            )
            .linux("readonlyPaths", json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]))
    }

    fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    fn linux(mut self, key: &str, value: Value) -> Self {
        self.spec["linux"][key] = value;
        self
    }

    fn read_only(mut self) -> Self {
        self.spec["root"]["readonly"] = json!(true);
        self
    }

    /// In a user namespace whose root is the host's 100000, which owns the rootfs.
    fn in_user_namespace(mut self) -> Self {
        self.namespaces |= NEWUSER;
        for entry in walk(&self.rootfs()) {
            std::os::unix::fs::lchown(&entry, Some(100_000), Some(100_000)).unwrap();
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.directory.path(), mode).unwrap();
        self
    }

    fn missing(mut self, calls: &[u32]) -> Self {
        self.missing = calls.to_vec();
        self
    }

    fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// Makes a file or directory of the rootfs a symlink.
    fn link(self, path: &str, target: &str) -> Self {
        let path = self.rootfs().join(path);
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).unwrap();
        }
        symlink(target, path).unwrap();
        self
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    /// Fails where anything beside the rootfs changed.
    fn assert_outside_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["canary"]);
        assert_eq!(fs::read_to_string(self.outside().join("canary")).unwrap(), "alive");
        assert_eq!(fs::metadata(self.outside().join("canary")).unwrap().nlink(), 1);
    }

    fn plan(&self) -> Result<RootfsPlan, String> {
        let spec = Spec::parse(self.spec.to_string().as_bytes()).unwrap();
        RootfsPlan::build(&Request {
            spec: &spec,
            bundle: self.directory.path(),
            mount_namespace: if self.namespaces & NEWNS == 0 { MountNamespace::Host } else { MountNamespace::New },
            new_user_namespace: self.namespaces & NEWUSER != 0,
            new_cgroup_namespace: self.cgroup_namespace,
            cgroup_paths: &self.cgroup_paths,
            no_pivot: self.no_pivot,
        })
        .map_err(|error| error.report())
    }

    /// Starts a container whose program is `inside`; an error of the runtime's is returned, a panic inside is the test's.
    fn run(&self, inside: impl FnOnce()) -> Result<(), String> {
        self.run_with(
            |plan| {
                plan.prepare()?;
                plan.enter()?;
                plan.seal()
            },
            inside,
        )
    }

    fn run_with(
        &self,
        steps: impl FnOnce(&mut RootfsPlan) -> corten_types::Result<()>,
        inside: impl FnOnce(),
    ) -> Result<(), String> {
        let mut plan = self.plan()?;
        let single = SingleThreaded::check().expect("this program has one thread");
        let (mut report, report_child) = std::io::pipe().unwrap();
        let (go_child, mut go) = std::io::pipe().unwrap();
        let request = CloneRequest { flags: self.namespaces, cgroup: None };
        let (pid, pidfd) = match clone(&single, &request).unwrap() {
            Side::Child => {
                drop((report, go));
                child(self, go_child, report_child, || steps(&mut plan), inside)
            }
            Side::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((report_child, go_child));
        if self.namespaces & NEWUSER != 0 {
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{}/{map}", pid.as_raw_nonzero()), "0 100000 65536").unwrap();
            }
        }
        go.write_all(b"g").unwrap();
        let mut text = String::new();
        report.read_to_string(&mut text).unwrap();
        let status = wait(&pidfd);
        if !text.is_empty() {
            return Err(text);
        }
        assert_eq!(status, 0, "the check inside failed");
        Ok(())
    }

    /// As [`Bundle::run`]: must start.
    fn check(&self, inside: impl FnOnce()) {
        if let Err(report) = self.run(inside) {
            panic!("{report}");
        }
        self.assert_outside_untouched();
    }

    /// Must not start; the report.
    fn refused(&self) -> String {
        let report = self.run(|| {}).expect_err("it was refused");
        self.assert_outside_untouched();
        report
    }
}

fn child(
    bundle: &Bundle,
    mut go: impl Read,
    mut report: impl Write,
    steps: impl FnOnce() -> corten_types::Result<()>,
    inside: impl FnOnce(),
) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        go.read_exact(&mut [0]).unwrap();
        if bundle.namespaces & NEWUSER != 0 {
            rustix::thread::set_thread_gid(rustix::fs::Gid::ROOT).unwrap();
            rustix::thread::set_thread_uid(rustix::fs::Uid::ROOT).unwrap();
        }
        if !bundle.missing.is_empty() {
            corten_sys::seccomp::load(&without(&bundle.missing), 0).unwrap();
        }
        if let Err(error) = steps() {
            report.write_all(error.report().as_bytes()).unwrap();
            exit_now(1);
        }
        inside();
    }));
    exit_now(if outcome.is_ok() { 0 } else { 2 })
}

fn wait(pidfd: &OwnedFd) -> i32 {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or(-1)
}

/// A filter under which `calls` do not exist.
fn without(calls: &[u32]) -> Vec<Instruction> {
    let mut program = vec![Instruction { code: 0x20, jt: 0, jf: 0, k: 0 }];
    for call in calls {
        program.push(Instruction { code: 0x15, jt: 0, jf: 1, k: *call });
        program.push(Instruction { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | 38 });
    }
    program.push(Instruction { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 });
    program
}

/// One line of mountinfo.
#[derive(Debug)]
struct MountLine {
    root: String,
    options: Vec<String>,
    propagation: String,
    kind: String,
    data: String,
}

impl MountLine {
    fn has(&self, options: &[&str]) -> bool {
        options.iter().all(|option| self.options.iter().any(|have| have == option))
    }
}

/// What is mounted at `path` inside, topmost.
fn mounted(path: &str) -> MountLine {
    find_mount(path).unwrap_or_else(|| panic!("nothing is mounted at {path}:\n{}", mountinfo()))
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn find_mount(path: &str) -> Option<MountLine> {
    let text = mountinfo();
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(path))?;
    let (front, back) = line.split_once(" - ").unwrap();
    let front: Vec<&str> = front.split(' ').collect();
    let back: Vec<&str> = back.split(' ').collect();
    Some(MountLine {
        root: front[3].to_owned(),
        options: front[5].split(',').map(str::to_owned).collect(),
        propagation: front[6..].join(" "),
        kind: back[0].to_owned(),
        data: back[2].to_owned(),
    })
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}
