//! The program and its surroundings: everything of `process` in `config.json`, checked in the parent, applied in the child.

pub(crate) mod capabilities;
pub(crate) mod identity;
pub(crate) mod limits;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use corten_sys::Call as _;
use corten_sys::launcher::Launcher;
use corten_types::runtime_spec::{Linux, Process};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::hooks::Inside;
use crate::seccomp::{self, Filter};
use capabilities::CapabilityPlan;
use identity::IdentityPlan;
use limits::{AttributePlan, LimitPlan};

/// Most arguments or variables; the kernel's own limit is on bytes.
const STRINGS_MAX: usize = 1 << 20;

/// What the child needs to become the program.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    identity: IdentityPlan,
    capabilities: CapabilityPlan,
    limits: Vec<LimitPlan>,
    attributes: AttributePlan,
    oom_score_adj: Option<i32>,
    no_new_privileges: bool,
    apparmor_profile: Option<String>,
    selinux_label: Option<String>,
    /// The filter, where this process loads it: without `no_new_privs` before the user changes, since it needs
    /// CAP_SYS_ADMIN; with a listener while the parent is there to pass that on. Otherwise the launcher carries it.
    seccomp: Option<Filter>,
    /// Without root, the parent may take the listener's descriptor only from a process that can be looked at (ptrace(2)).
    unprivileged_parent: bool,
    pub(crate) launcher: Launcher,
    /// What was decided, for a debug log.
    pub(crate) notes: Vec<String>,
    /// What happens to be mentioned, not to fail.
    pub(crate) warnings: Vec<String>,
}

impl ProcessPlan {
    /// Checks `process`; `linux` carries what the specification keeps beside it (seccomp, personality, memory policy).
    pub(crate) fn build(process: &Process, linux: &Linux) -> Result<Self> {
        if process.args.is_empty() {
            return Err(Error::invalid("`process.args` is empty").hint("name the program to run, and its arguments"));
        }
        if !process.cwd.starts_with('/') {
            return Err(Error::invalid(format!("`process.cwd` is not an absolute path: `{}`", process.cwd)));
        }
        let mut warnings = Vec::new();
        let mut notes = Vec::new();
        let (seccomp, launcher) = filter_and_launcher(process, linux, &mut notes)?;
        let plan = Self {
            args: strings("process.args", &process.args)?,
            env: environment(&process.env)?,
            cwd: string("process.cwd", &process.cwd)?,
            identity: IdentityPlan::build(&process.user)?,
            capabilities: CapabilityPlan::build(process.capabilities.as_ref(), &mut warnings),
            limits: LimitPlan::build(&process.rlimits)?,
            attributes: AttributePlan {
                scheduler: process.scheduler.as_ref().map(limits::scheduler).transpose()?,
                io_priority: process.io_priority.as_ref().map(limits::io_priority).transpose()?,
                memory_policy: linux.memory_policy.as_ref().map(limits::memory_policy).transpose()?,
                chosen_cpus: linux
                    .resources
                    .as_ref()
                    .and_then(|all| all.cpu.as_ref())
                    .is_some_and(|cpu| !cpu.cpus.is_empty()),
                personality: linux.personality.as_ref().map(limits::personality).transpose()?,
            },
            oom_score_adj: oom_score_adj(process.oom_score_adj)?,
            no_new_privileges: process.no_new_privileges,
            apparmor_profile: security_module("apparmor", "process.apparmorProfile", &process.apparmor_profile)?,
            selinux_label: security_module("selinux", "process.selinuxLabel", &process.selinux_label)?,
            seccomp,
            unprivileged_parent: !rustix::process::geteuid().is_root(),
            launcher,
            notes,
            warnings,
        };
        Ok(plan)
    }

    /// How further programs of the container are run.
    pub(crate) fn inside(&self) -> Inside<'_> {
        Inside { launcher: &self.launcher, environment: &self.env }
    }

    /// The uid of the program, inside.
    pub(crate) fn uid(&self) -> u32 {
        self.identity.uid
    }

    /// The gid of the program, inside.
    pub(crate) fn gid(&self) -> u32 {
        self.identity.gid
    }

    /// Sets the calling process's own out-of-memory score, while it is still dumpable: later its file in /proc is
    /// root's alone. What is denied (lowering, without a right to it) is left to [`ProcessPlan::apply_outside`].
    pub(crate) fn apply_oom_score(&mut self) {
        let Some(score) = self.oom_score_adj else { return };
        if std::fs::write("/proc/self/oom_score_adj", score.to_string()).is_ok() {
            self.oom_score_adj = None;
        }
    }

    /// Sets the calling process's resource limits; false where something is left to [`ProcessPlan::apply_outside`]: a
    /// limit can be raised only outside of a user namespace, and a filter may forbid it all.
    pub(crate) fn apply_limits(&self) -> bool {
        let own = rustix::process::getpid();
        let failures = self.limits.iter().filter(|limit| limit.apply(own).is_err()).count();
        failures == 0 && self.oom_score_adj.is_none()
    }

    /// Sets from outside what `pid` cannot set itself: `limits_set` is what its [`ProcessPlan::apply_limits`] said.
    pub(crate) fn apply_outside(&self, pid: Pid, limits_set: bool) -> Result<()> {
        if limits_set {
            return Ok(());
        }
        for limit in &self.limits {
            limit.apply(pid)?;
        }
        let Some(score) = self.oom_score_adj else { return Ok(()) };
        let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        std::fs::write(&path, score.to_string()).context(|| format!("cannot set `process.oomScoreAdj` to {score}"))
    }

    /// Turns the calling process into one with the program's identity and limits. The last failing step is named.
    ///
    /// A seccomp notify descriptor goes to `hand_over` as soon as it is there: the next system call may wait for its owner.
    pub(crate) fn apply(&mut self, procfs: Option<&OwnedFd>, hand_over: &dyn Fn(OwnedFd) -> Result<()>) -> Result<()> {
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).call(|| "prctl(PR_SET_NO_NEW_PRIVS)")?;
        }
        self.attributes.apply()?;
        self.set_labels(procfs)?;
        self.set_home()?;
        let entered = self.enter_cwd(true)?;
        if entered {
            check_cwd()?;
        }
        if !self.no_new_privileges {
            self.load_filter(hand_over)?;
        }
        self.capabilities.apply_bounding()?;
        self.identity.apply()?;
        if !entered {
            self.enter_cwd(false)?;
            check_cwd()?;
        }
        self.capabilities.apply(&mut self.warnings)?;
        self.load_filter(hand_over)
    }

    /// Loads the filter, unless that is done; a notify descriptor is handed over before anything else is called.
    fn load_filter(&mut self, hand_over: &dyn Fn(OwnedFd) -> Result<()>) -> Result<()> {
        let Some(filter) = self.seccomp.take() else { return Ok(()) };
        let seen = filter.notify && self.unprivileged_parent;
        if seen {
            set_dumpable_behavior(DumpableBehavior::Dumpable).call(|| "prctl(PR_SET_DUMPABLE, 1)")?;
        }
        filter.load()?.map_or(Ok(()), hand_over)?;
        if seen {
            set_dumpable_behavior(DumpableBehavior::NotDumpable).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        }
        Ok(())
    }

    /// Finds the program as execvp(3) would, so that its absence is known before `start`.
    pub(crate) fn find_program(&self) -> Result<CString> {
        let name = &self.args[0];
        let shown = name.to_string_lossy().into_owned();
        if name.as_bytes().contains(&b'/') {
            executable(name).map_err(|errno| {
                let call = if errno == rustix::io::Errno::NOENT { "stat" } else { "exec" };
                unstartable(&shown, errno, &format!("{call} {shown}"))
            })?;
            return Ok(name.clone());
        }
        let search = self.env.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
        let mut denied = None;
        for directory in search.unwrap_or_default().split(|byte| *byte == b':') {
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            let Ok(candidate) = CString::new([directory, b"/", name.as_bytes()].concat()) else { continue };
            match executable(&candidate) {
                Ok(()) if directory[0] == b'/' => return Ok(candidate),
                Err(rustix::io::Errno::ACCESS) => denied = Some(candidate),
                _ => {}
            }
        }
        Err(match denied {
            Some(path) => unstartable(&shown, rustix::io::Errno::ACCESS, &format!("exec {}", path.to_string_lossy())),
            None => {
                Error::new(ErrorKind::CommandNotFound, format!("exec: \"{shown}\": executable file not found in $PATH"))
            }
        })
    }

    /// Becomes the program, through the launcher. Returns only a failure.
    pub(crate) fn execute(&self, program: &CStr) -> Error {
        let errno = self.launcher.execute(program, &self.args, &self.env);
        let shown = program.to_string_lossy();
        unstartable(&shown, errno, &format!("exec {shown}"))
    }

    /// Where the environment has no HOME or an empty one, the container's passwd file names it (runc does the same).
    fn set_home(&mut self) -> Result<()> {
        self.env.retain(|variable| variable.as_bytes() != b"HOME=");
        if !self.env.iter().any(|variable| variable.as_bytes().starts_with(b"HOME=")) {
            let home = identity::home_of(self.identity.uid);
            self.env.push(string("HOME", &format!("HOME={home}"))?);
        }
        Ok(())
    }

    /// Enters the working directory; `early`, as the runtime's user, a denial is left to the second try.
    fn enter_cwd(&self, early: bool) -> Result<bool> {
        match rustix::process::chdir(self.cwd.as_c_str()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) if early => Ok(false),
            Err(errno) => {
                Err(Error::syscall(format!("chdir(\"{}\")", self.cwd.to_string_lossy()), errno.raw_os_error())
                    .context(format!("cannot enter the working directory `{}`", self.cwd.to_string_lossy())))
            }
        }
    }

    fn set_labels(&self, procfs: Option<&OwnedFd>) -> Result<()> {
        let write = |file: &str, value: &str, what: &str| {
            let Some(procfs) = procfs else {
                return Err(Error::new(ErrorKind::Unsupported, format!("{what} needs a fresh procfs")));
            };
            let file = rustix::fs::openat(procfs.as_fd(), file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("openat(<procfs>, \"{file}\")"))?;
            rustix::io::write(&file, value.as_bytes()).call(|| format!("write(<{what}>, \"{value}\")")).map(drop)
        };
        if let Some(profile) = &self.apparmor_profile {
            let value = format!("exec {profile}");
            write("thread-self/attr/apparmor/exec", &value, "process.apparmorProfile")
                .or_else(|_| write("thread-self/attr/exec", &value, "process.apparmorProfile"))?;
        }
        if let Some(label) = &self.selinux_label {
            write("thread-self/attr/exec", label, "process.selinuxLabel")?;
        }
        Ok(())
    }

    /// Whether a fresh procfs is needed by [`ProcessPlan::apply`].
    pub(crate) fn needs_procfs(&self) -> bool {
        self.apparmor_profile.is_some() || self.selinux_label.is_some()
    }
}

/// The working directory must lie inside the root: a descriptor that leaked would make it unreachable (CVE-2024-21626).
fn check_cwd() -> Result<()> {
    let refused = |found: &str| {
        Error::new(ErrorKind::Denied, format!("the working directory lies outside the container's root: {found}"))
    };
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(path) => Err(refused(&path.to_string_lossy())),
        Err(errno) => Err(refused(&errno.to_string())),
    }
}

fn executable(path: &CStr) -> rustix::io::Result<()> {
    let file = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(file.st_mode).is_dir() {
        return Err(rustix::io::Errno::ISDIR);
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // An older filter knows no faccessat2; the identities are the same here, so that access(2) will do.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => rustix::fs::access(path, Access::EXEC_OK),
        result => result,
    }
}

fn unstartable(program: &str, errno: rustix::io::Errno, call: &str) -> Error {
    use rustix::io::Errno;
    let kind = match errno {
        Errno::NOENT => ErrorKind::CommandNotFound,
        Errno::ACCESS | Errno::PERM | Errno::ISDIR | Errno::NOTDIR | Errno::NOEXEC | Errno::LOOP | Errno::LIBBAD => {
            ErrorKind::CommandNotExecutable
        }
        _ => ErrorKind::Internal,
    };
    let reason = match errno {
        Errno::NOENT => "no such file or directory",
        Errno::ACCESS => "permission denied",
        Errno::PERM => "operation not permitted",
        Errno::ISDIR => "is a directory",
        Errno::NOTDIR => "not a directory",
        Errno::NOEXEC => "exec format error",
        _ => "",
    };
    let reason = if reason.is_empty() { errno.to_string() } else { reason.to_owned() };
    // The words of Go's os/exec: docker, containerd and podman find 126 and 127 by them.
    Error::new(kind, format!("exec: \"{program}\": {call}: {reason}"))
}

/// The filter that is loaded before the launcher runs, and the launcher with the one that is loaded after.
fn filter_and_launcher(
    process: &Process,
    linux: &Linux,
    notes: &mut Vec<String>,
) -> Result<(Option<Filter>, Launcher)> {
    let Some(profile) = &linux.seccomp else { return Ok((None, Launcher::new(None)?)) };
    let Some(mut filter) = seccomp::compile(profile)? else { return Ok((None, Launcher::new(None)?)) };
    // runc's words: its users look for them.
    notes.push(format!("seccomp filter flags: {}", filter.all_flags()));
    if process.no_new_privileges && !filter.notify {
        return Ok((None, Launcher::new(Some(filter.carried()))?));
    }
    let launcher = Launcher::new(None)?;
    if !seccomp::allows_execveat(profile) {
        filter.let_execute(launcher.as_fd());
    }
    Ok((Some(filter), launcher))
}

fn oom_score_adj(score: Option<i32>) -> Result<Option<i32>> {
    match score {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Error::invalid(format!("`process.oomScoreAdj` is {score}, not -1000 to 1000")))
        }
        score => Ok(score),
    }
}

fn string(field: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("`{field}` contains a NUL character")))
}

fn strings(field: &str, list: &[String]) -> Result<Vec<CString>> {
    if list.len() > STRINGS_MAX {
        return Err(Error::invalid(format!("`{field}` has {} entries, at most {STRINGS_MAX} are taken", list.len())));
    }
    list.iter().enumerate().map(|(index, text)| string(&format!("{field}[{index}]"), text)).collect()
}

/// Variables in order; of two with one name the last one counts.
fn environment(list: &[String]) -> Result<Vec<CString>> {
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::with_capacity(list.len());
    for (index, variable) in list.iter().enumerate().rev() {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::invalid(format!("`process.env[{index}]` is not NAME=VALUE: `{variable}`")));
        };
        if seen.insert(name) {
            kept.push(string(&format!("process.env[{index}]"), variable)?);
        }
    }
    kept.reverse();
    Ok(kept)
}

/// A label of a security module that this kernel must have.
fn security_module(module: &str, field: &str, label: &str) -> Result<Option<String>> {
    if label.is_empty() || (module == "apparmor" && label == "unconfined" && !has_module(module)) {
        return Ok(None);
    }
    if label.contains(['\0', '\n']) {
        return Err(Error::invalid(format!("`{field}` contains a line break or a NUL character")));
    }
    if has_module(module) {
        return Ok(Some(label.to_owned()));
    }
    Err(Error::new(ErrorKind::Unsupported, format!("`{field}` is set, but this kernel does not run {module}"))
        .hint(format!("remove `{field}`, or boot with `lsm={module}`")))
}

/// Whether the kernel runs the security module (`apparmor`, `selinux`).
pub(crate) fn has_module(module: &str) -> bool {
    match module {
        "selinux" => Path::new("/sys/fs/selinux/enforce").exists(),
        _ => std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|word| word.starts_with('Y')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_variables_with_one_name_the_last_one_counts() {
        let list = ["A=1", "B=2", "A=3"].map(str::to_owned);
        let kept = environment(&list).unwrap();
        assert_eq!(kept, [c"B=2", c"A=3"].map(CStr::to_owned));
        assert!(environment(&["=x".to_owned()]).is_err());
        assert!(environment(&["A=\0".to_owned()]).is_err());
    }
}
