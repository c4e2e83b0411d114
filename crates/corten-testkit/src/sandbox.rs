//! A corten of its own: roots below a temporary directory, an identity, captured output, time limits. Dropping it removes
//! its containers and counts what was left behind.
//!
//! ```text
//! /tmp/corten-test-XXXXXX/
//!   root/       --root
//!   run/        --run-root
//!   home/       HOME and XDG_* of an ordinary user
//!   corten      the program, where the identity could not reach it in the build directory
//!   work/       files of the test
//! ```

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::leak::{Scope, Snapshot};
use crate::run::{Finished, finish};
use crate::{Bundle, Image};

/// An ordinary user id that has no line in /etc/passwd.
pub const ORDINARY_UID: u32 = 61_017;

/// Longest time of one command; `CORTEN_TEST_SLOW` multiplies it, for an emulated machine.
fn limit() -> Duration {
    let factor = std::env::var("CORTEN_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    Duration::from_secs(60 * factor)
}

/// Who runs corten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Whoever runs the tests.
    Caller,
    /// [`ORDINARY_UID`], without a line in /etc/passwd, capabilities or groups.
    User,
    /// [`ORDINARY_UID`] with lines in /etc/passwd, /etc/subuid and /etc/subgid (in a mount namespace of its own, so that
    /// the machine's files stay as they are); needs `newuidmap`.
    UserWithSubordinateIds,
}

/// A corten of its own.
#[derive(Debug)]
pub struct Sandbox {
    directory: tempfile::TempDir,
    binary: PathBuf,
    identity: Identity,
    before: Snapshot,
    unchecked: bool,
}

impl Sandbox {
    /// A sandbox for the caller, or for an ordinary user where `CORTEN_TEST_AS_USER` is set and the caller is root.
    pub fn new(binary: impl AsRef<Path>) -> Self {
        let as_user = std::env::var_os("CORTEN_TEST_AS_USER").is_some() && crate::skip::is_root();
        Self::with_identity(binary, if as_user { Identity::User } else { Identity::Caller })
    }

    /// A sandbox for somebody else; the caller must be root.
    pub fn with_identity(binary: impl AsRef<Path>, identity: Identity) -> Self {
        let directory = tempfile::Builder::new().prefix("corten-test-").tempdir().unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        let mut binary = binary.as_ref().to_path_buf();
        for folder in ["root", "run", "home", "work"] {
            std::fs::create_dir(path.join(folder)).unwrap();
            if identity != Identity::Caller {
                chown(path.join(folder), Some(ORDINARY_UID), Some(ORDINARY_UID)).unwrap();
            }
        }
        if identity != Identity::Caller {
            let reachable = path.join("corten");
            std::fs::hard_link(&binary, &reachable).or_else(|_| std::fs::copy(&binary, &reachable).map(drop)).unwrap();
            binary = reachable;
        }
        let mut sandbox = Self { directory, binary, identity, before: Snapshot::default(), unchecked: false };
        sandbox.before = Snapshot::take(&sandbox.scope());
        sandbox
    }

    /// Whether corten runs without root's rights here.
    pub fn is_rootless(&self) -> bool {
        self.identity != Identity::Caller || !crate::skip::is_root()
    }

    /// User id that corten runs as.
    pub fn uid(&self) -> u32 {
        if self.identity == Identity::Caller { rustix::process::geteuid().as_raw() } else { ORDINARY_UID }
    }

    /// The sandbox's directory; its last component is on every process of the sandbox.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A directory for the test's own files, writable by the identity.
    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    /// A directory below [`Sandbox::work`] that belongs to the identity.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.work().join(name);
        std::fs::create_dir(&path).unwrap();
        self.give(&path);
        path
    }

    /// A socket below [`Sandbox::work`] that the identity may connect to.
    pub fn listen(&self, name: &str) -> (PathBuf, UnixListener) {
        let path = self.work().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        self.give(&path);
        (path, listener)
    }

    /// Makes the identity the owner of all at `path`.
    pub fn give(&self, path: &Path) {
        if self.identity != Identity::Caller {
            let mut chown = Command::new("chown");
            chown.args(["-R", "-h", &format!("{ORDINARY_UID}:{ORDINARY_UID}")]).arg(path);
            finish(chown, None, limit()).ok();
        }
    }

    /// `--root`.
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// `--run-root`.
    pub fn run_root(&self) -> PathBuf {
        self.path().join("run")
    }

    /// `corten --root … --run-root … ARGS`, to its end.
    pub fn corten<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        finish(self.corten_command(args), None, limit())
    }

    /// As [`Sandbox::corten`], with something on standard input.
    pub fn corten_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Finished {
        finish(self.corten_command(args), Some(input), limit())
    }

    /// The command line of [`Sandbox::corten`], not yet started.
    pub fn corten_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(&self.binary);
        command.arg("--root").arg(self.root()).arg("--run-root").arg(self.run_root()).args(args);
        command
    }

    /// The OCI runtime over a state directory of the sandbox: `corten runtime --root … ARGS`, to its end.
    pub fn runtime<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        finish(self.runtime_command(args), None, limit())
    }

    /// The command line of [`Sandbox::runtime`], not yet started.
    pub fn runtime_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = match other_runtime() {
            Some(other) => self.command(other),
            None => self.command(&self.binary),
        };
        if other_runtime().is_none() {
            command.arg("runtime");
        }
        command.arg("--root").arg(self.run_root().join("runtime")).args(args);
        command
    }

    /// Any program as the sandbox's identity, with an environment of its own that carries the sandbox's mark.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.identity {
            Identity::Caller => Command::new(program),
            Identity::User => {
                let mut command = Command::new(program);
                // The standard library drops the supplementary groups of a root that changes its uid.
                command.uid(ORDINARY_UID).gid(ORDINARY_UID);
                command
            }
            Identity::UserWithSubordinateIds => self.command_with_subordinate_ids(program.as_ref()),
        };
        let home = self.path().join("home");
        command.env_clear().current_dir(self.work());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("CORTEN_TEST_SANDBOX", self.path()).env("HOME", &home).env("LANG", "C.UTF-8");
        command.env("XDG_DATA_HOME", home.join("data")).env("XDG_RUNTIME_DIR", self.run_root());
        command
    }

    fn command_with_subordinate_ids(&self, program: &OsStr) -> Command {
        let etc = self.path().join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        let lines = [
            ("passwd", format!("tester:x:{ORDINARY_UID}:{ORDINARY_UID}::/nonexistent:/bin/sh")),
            ("group", format!("tester:x:{ORDINARY_UID}:")),
            ("subuid", "tester:300000:65536".to_owned()),
            ("subgid", "tester:300000:65536".to_owned()),
        ];
        for (name, line) in lines {
            let host = std::fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
            std::fs::write(etc.join(name), format!("{host}{line}\n")).unwrap();
        }
        let script = format!(
            "for f in passwd group subuid subgid; do [ -e /etc/$f ] || : >/etc/$f; mount --bind {}/$f /etc/$f || exit 99; done\n\
             exec setpriv --reuid={ORDINARY_UID} --regid={ORDINARY_UID} --clear-groups \"$@\"",
            etc.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(program);
        command
    }

    /// Makes an image known to this corten by `load`; what to name it by.
    pub fn load(&self, image: &Image) -> String {
        let file = image.write_docker_archive(&self.path().join("image.tar"));
        self.corten([OsStr::new("load"), OsStr::new("-i"), file.as_os_str()]).ok();
        std::fs::remove_file(file).unwrap();
        image.reference.clone()
    }

    /// Loads [`Image::tiny`] and takes it as the state to return to; what to name it by.
    pub fn tiny(&mut self) -> String {
        let reference = self.load(&Image::tiny());
        self.before = Snapshot::take(&self.scope());
        reference
    }

    /// A bundle whose program is `args`, fit for the sandbox's identity.
    pub fn bundle<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Bundle {
        let directory = tempfile::Builder::new().prefix("bundle-").tempdir_in(self.work()).unwrap().keep();
        let mut bundle = Bundle::new(&directory, args);
        bundle.linux().cgroups_path = format!("{}/box", self.cgroup());
        if self.is_rootless() {
            let uid = self.uid();
            bundle.make_rootless(uid, rootless_gid(self));
            bundle.linux().cgroups_path = String::new();
            self.give(&directory);
        }
        bundle.write();
        bundle
    }

    /// The sandbox is broken on purpose: nothing is counted when it is dropped.
    pub fn expect_leaks(&mut self) {
        self.unchecked = true;
    }

    /// Removes every container, then demands that nothing is left of what was not there before.
    pub fn check(&self) -> Result<(), String> {
        self.remove_cgroup();
        // A test of the runtime alone never made an engine.
        if self.root().join("containers").exists() {
            let listed = self.corten(["ps", "-aq", "--no-trunc"]);
            let ids: Vec<&str> = listed.stdout.split_whitespace().collect();
            if !ids.is_empty() {
                self.corten(["rm", "-f"].into_iter().chain(ids)).ok();
            }
        }
        self.before.settle(&self.scope(), is_kept)
    }

    fn scope(&self) -> Scope {
        Scope::Sandbox { directory: self.path().to_path_buf(), roots: vec![self.root(), self.run_root()], kept: KEPT }
    }
}

/// A runtime to run the runtime's tests with in place of ours (`CORTEN_TEST_RUNTIME=/usr/sbin/runc`): whether a test that
/// fails asks for what the reference does.
pub fn other_runtime() -> Option<PathBuf> {
    std::env::var_os("CORTEN_TEST_RUNTIME").map(PathBuf::from)
}

/// What a store keeps on purpose: images, their layers, the database.
const KEPT: &[&str] = &[
    "store/blobs",
    "store/db.sqlite",
    "store/db.sqlite-shm",
    "store/db.sqlite-wal",
    "store/ingest",
    "store/layers",
    "store/leases",
    "store/locks",
    "store/names",
    "store/reserve",
    "store/reserve/0",
    "store/reserve/1",
    "store/reserve/2",
    "store/reserve/3",
    "store/trash",
];

/// Directories of the engine's own, and locks, stay once its first command has run.
///
/// So does the cgroup that is the parent of all containers, as docker's does.
fn is_kept(leak: &str) -> bool {
    if leak.starts_with("cgroup: ") {
        return leak.ends_with("/corten");
    }
    let Some(path) = leak.strip_prefix("file: ") else { return false };
    path.ends_with("lock")
        || path.contains("/root/events.log")
        || path.contains("/root/usage.log")
        || path.ends_with("/store")
        || is_empty_directory(path)
}

fn is_empty_directory(path: &str) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn rootless_gid(sandbox: &Sandbox) -> u32 {
    if sandbox.identity == Identity::Caller { rustix::process::getegid().as_raw() } else { ORDINARY_UID }
}

impl Sandbox {
    /// The cgroup below which a test may put what another program makes; gone with the sandbox.
    pub fn cgroup(&self) -> String {
        format!("/corten-test/{}", self.path().file_name().unwrap().to_str().unwrap())
    }

    /// Removes the test's own parents of cgroups; a container's below them keeps them, and is counted.
    fn remove_cgroup(&self) {
        for hierarchy in crate::leak::hierarchies() {
            let own = hierarchy.join(self.cgroup().trim_start_matches('/'));
            for folder in [own.join("conmon"), own, hierarchy.join("corten-test")] {
                std::fs::remove_dir(folder).ok();
            }
        }
    }

    /// After a failure: ends what is still running and detaches what is still mounted, since the directory is about to be
    /// removed with all that can be seen below it.
    fn clean_up(&mut self, leaks: &str) {
        for pid in Snapshot::pids(leaks) {
            Command::new("kill").args(["-KILL", pid]).status().ok();
        }
        for point in crate::leak::mount_points_below(self.path()).iter().rev() {
            Command::new("umount").arg("-l").arg(point).status().ok();
        }
        for hierarchy in crate::leak::hierarchies() {
            let own = hierarchy.join(self.cgroup().trim_start_matches('/'));
            Command::new("find").arg(own).args(["-depth", "-type", "d", "-delete"]).stderr(Stdio::null()).status().ok();
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let leaks = if self.unchecked { Ok(()) } else { self.check() };
        self.clean_up(leaks.as_ref().err().map_or("", String::as_str));
        if !crate::leak::mount_points_below(self.path()).is_empty() {
            self.directory.disable_cleanup(true);
        }
        if let Err(leaks) = leaks {
            if std::thread::panicking() {
                eprintln!("sandbox {}: {leaks}", self.path().display());
            } else {
                panic!("sandbox {}: {leaks}", self.path().display());
            }
        }
    }
}
