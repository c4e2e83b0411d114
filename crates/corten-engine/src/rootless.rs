//! An ordinary user's engine: a user namespace entered before anything else.
//!
//! All of a user's containers share one user namespace while any of them lives: a later command joins it, which makes it
//! as mighty over the containers' files and processes as the command that started them. Where nothing lives, a new one
//! with the same map does as well.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_fs::Root;
use corten_fs::root::read_ambient;
use corten_sys::clone::{CloneRequest, Side, SingleThreaded, clone, exit_now};
use corten_sys::namespace::{NEWUSER, setns, unshare};
use corten_sys::{Call, namespace};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::launch::Connection;

/// Largest of /etc/passwd, /etc/subuid, /etc/subgid that is read, bytes.
const DATABASE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Where the set-user-id helpers lie; never searched for, for they are run with the caller's rights and more.
const HELPERS: [&str; 2] = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"];

/// How an ordinary user became root of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rootless {
    /// The user outside.
    pub uid: u32,
    /// The group outside.
    pub gid: u32,
    /// Whether more than one id is mapped (newuidmap and /etc/subuid).
    pub many_ids: bool,
}

/// A range of subuid(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

/// Enters the user namespace of this user's engine: that of a live supervisor under `run_root`, else a new one.
///
/// To be called by a front end before any thread exists and before [`crate::Engine::open`], where the effective uid is
/// not 0.
pub fn enter(run_root: &Path) -> Result<Rootless> {
    let single = SingleThreaded::check().call(|| "unshare(CLONE_VM)")?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if !join_living(run_root, uid)? {
        make(&single, uid, gid)?;
    }
    let many_ids = read_ambient(Path::new("/proc/self/uid_map"), 64 * 1024)?.split(|byte| *byte == b'\n').count() > 2;
    Ok(Rootless { uid, gid, many_ids })
}

/// Joins the user namespace of any supervisor that lives; false where none does.
fn join_living(run_root: &Path, uid: u32) -> Result<bool> {
    let Ok(containers) = Root::open_ambient(&run_root.join("containers")) else { return Ok(false) };
    let stat = rustix::fs::fstat(&containers).call(|| "fstat(<containers>)")?;
    if stat.st_uid != uid || stat.st_mode & 0o022 != 0 {
        return Err(Error::new(ErrorKind::Denied, format!("`{}` is not yours alone", run_root.display()))
            .hint("name another directory with `--run-root`"));
    }
    let containers = containers.beneath();
    let entries = containers.list(".")?;
    for entry in &entries {
        let name = entry.name.to_string_lossy().into_owned();
        // Whatever is wrong with one container, another may serve; a new namespace always does.
        let connection = containers.sub_root(&name).and_then(|run| Connection::open(&run));
        if let Ok(Some(connection)) = connection
            && let Ok(peer) = rustix::net::sockopt::socket_peercred(connection.socket())
            && join(peer.pid).is_ok()
        {
            return Ok(true);
        }
    }
    // Processes that outlived their supervisor can only be killed from inside their own namespace.
    Ok(entries.iter().any(|entry| join_orphan(run_root, &entry.name.to_string_lossy(), uid).is_some()))
}

/// Joins the user namespace of a container's first process, which the runtime knows.
fn join_orphan(run_root: &Path, id: &str, uid: u32) -> Option<()> {
    let mut runtime = Command::new("/proc/self/exe");
    runtime
        .args(["runtime", "--root"])
        .arg(run_root.join("runtime"))
        .args(["state", id])
        .env_clear()
        .stdin(Stdio::null());
    let state: serde_json::Value = serde_json::from_slice(&runtime.output().ok()?.stdout).ok()?;
    let pid = i32::try_from(state.get("pid")?.as_i64()?).ok()?;
    // Only a namespace in which this user is root will do.
    let map = read_ambient(Path::new(&format!("/proc/{pid}/uid_map")), 64 * 1024).ok()?;
    let map = String::from_utf8_lossy(&map).into_owned();
    let root: Vec<&str> = map.lines().next()?.split_whitespace().collect();
    (root == ["0", &uid.to_string(), "1"]).then_some(())?;
    join(rustix::process::Pid::from_raw(pid)?).ok()
}

fn join(pid: rustix::process::Pid) -> Result<()> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).call(|| "pidfd_open(<shim>)")?;
    setns(pidfd.as_fd(), NEWUSER).call(|| "setns(<shim>, CLONE_NEWUSER)")
}

/// Makes a user namespace in which this user is root.
fn make(single: &SingleThreaded, uid: u32, gid: u32) -> Result<()> {
    let ranges = ranges(uid);
    let Some((users, groups)) = ranges else {
        unshare(NEWUSER).call(|| "unshare(CLONE_NEWUSER)").map_err(explain)?;
        return write_own_maps(uid, gid);
    };
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)")?;
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let pidfd = match clone(single, &CloneRequest::default()).call(|| "clone3()")? {
        Side::Child => {
            drop(writer);
            exit_now(map_from_outside(&reader, parent, [(uid, users), (gid, groups)]));
        }
        Side::Parent { pidfd, .. } => pidfd,
    };
    drop(reader);
    let left = namespace::unshare(NEWUSER).call(|| "unshare(CLONE_NEWUSER)").map_err(explain);
    // A byte says that the namespace is there, the end alone that it is not.
    let told = left.and_then(|()| rustix::io::write(&writer, b"!").map(drop).call(|| "write(<helper>)"));
    drop(writer);
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).call(|| "waitid(<helper>)")?;
    told?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        // The helpers refused: one id is better than none.
        _ => write_own_maps(uid, gid),
    }
}

/// In a child that stayed outside: asks the set-user-id helpers to write both maps.
fn map_from_outside(reader: &OwnedFd, parent: i32, maps: [(u32, Range); 2]) -> i32 {
    if !matches!(rustix::io::read(reader, &mut [0; 1]), Ok(1)) {
        return 1;
    }
    for (helper, (id, range)) in HELPERS.iter().zip(maps) {
        let words = [parent.to_string(), "0".into(), id.to_string(), "1".into(), "1".into()];
        let status = Command::new(helper)
            .args(words)
            .args([range.first.to_string(), range.count.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return 1;
        }
    }
    0
}

/// Maps the caller alone, which needs no privilege; setgroups(2) must be given up first.
fn write_own_maps(uid: u32, gid: u32) -> Result<()> {
    let write = |name: &str, content: &str| {
        let path = PathBuf::from(format!("/proc/self/{name}"));
        std::fs::write(&path, content).context(|| format!("cannot write `{content}` to `{}`", path.display()))
    };
    write("setgroups", "deny")?;
    write("uid_map", &format!("0 {uid} 1"))?;
    write("gid_map", &format!("0 {gid} 1"))
}

fn explain(error: Error) -> Error {
    error
        .context("cannot enter a user namespace, which an ordinary user's containers need")
        .hint("`sysctl kernel.unprivileged_userns_clone user.max_user_namespaces` and AppArmor's restriction decide it")
        .hint("or run as root")
}

/// The user's ranges, where the helpers are installed and both databases name one.
fn ranges(uid: u32) -> Option<(Range, Range)> {
    if !HELPERS.iter().all(|helper| Path::new(helper).exists()) {
        return None;
    }
    let read = |path: &str| {
        let content = read_ambient(Path::new(path), DATABASE_SIZE_BYTES_MAX).unwrap_or_default();
        String::from_utf8_lossy(&content).into_owned()
    };
    let name = user_name(&read("/etc/passwd"), uid);
    let range = |path: &str| range(&read(path), name.as_deref(), uid);
    Some((range("/etc/subuid")?, range("/etc/subgid")?))
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| fields.next().filter(|_| fields.nth(1) == Some(uid.as_str())).map(str::to_owned))
}

/// The first range of a user by name or number.
fn range(database: &str, name: Option<&str>, uid: u32) -> Option<Range> {
    let uid = uid.to_string();
    database.lines().find_map(|line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let range = Range { first: fields.next()?.parse().ok()?, count: fields.next()?.trim().parse().ok()? };
        (Some(who) == name || who == uid).then_some(range).filter(|range| range.count > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0::/root:\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(user_name(passwd, 5), None);
        let subuid = "bob:100000:65536\nann:x:y\nann:165536:65536\n7:9:10\n";
        assert_eq!(range(subuid, Some("ann"), 1000), Some(Range { first: 165_536, count: 65_536 }));
        assert_eq!(range(subuid, None, 7), Some(Range { first: 9, count: 10 }));
        assert_eq!(range(subuid, None, 8), None);
    }
}
