//! User namespaces that exist only to carry the maps of id-mapped mounts.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call as _;
use corten_sys::clone::{CloneRequest, Side, SingleThreaded, clone, exit_now};
use corten_sys::{namespace, signal};
use corten_types::runtime_spec::{IdMapping, Linux, Mount, NamespaceKind};
use corten_types::{Context as _, Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// The user namespace whose maps `mount` asks for: its own, or else the container's.
pub(super) fn user_namespace(linux: &Linux, mount: &Mount) -> Result<OwnedFd> {
    if !mount.uid_mappings.is_empty() {
        return with_maps(&mount.uid_mappings, &mount.gid_mappings);
    }
    let container = linux.namespaces.iter().find(|namespace| namespace.kind == NamespaceKind::User);
    match container {
        Some(user) if !user.path.is_empty() => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(&user.path, flags, Mode::empty()).call(|| format!("open({:?})", user.path))
        }
        Some(_) if !linux.uid_mappings.is_empty() => with_maps(&linux.uid_mappings, &linux.gid_mappings),
        _ => Err(Error::invalid("`idmap` without `uidMappings` and `gidMappings` needs a user namespace")
            .hint("give the mount its own mappings, or the container a user namespace")),
    }
}

fn with_maps(uid: &[IdMapping], gid: &[IdMapping]) -> Result<OwnedFd> {
    let alone = SingleThreaded::check()
        .call(|| "unshare(CLONE_VM)")
        .context(|| "an id-mapped mount can be prepared by a single-threaded process only")?;
    let request = CloneRequest { flags: namespace::NEWUSER, cgroup: None };
    let parent = rustix::process::getpid();
    let (pid, pidfd) = match clone(&alone, &request).call(|| "clone3(CLONE_NEWUSER)")? {
        Side::Child => wait_for_the_end(parent),
        Side::Parent { pid, pidfd } => (pid, pidfd),
    };
    let namespace = write_maps(pid, uid, gid);
    let killed = signal::pidfd_send_signal(pidfd.as_fd(), 9);
    let reaped = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    let namespace = namespace?;
    killed.call(|| "pidfd_send_signal")?;
    reaped.call(|| "waitid(P_PIDFD)")?;
    Ok(namespace)
}

/// The child's whole life: it holds the namespace until it is killed, or its parent dies.
fn wait_for_the_end(parent: Pid) -> ! {
    let dies_with_parent = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if dies_with_parent.is_ok() && rustix::process::getppid() == Some(parent) {
        loop {
            rustix::event::pause();
        }
    }
    exit_now(1)
}

fn write_maps(pid: Pid, uid: &[IdMapping], gid: &[IdMapping]) -> Result<OwnedFd> {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    for (file, maps) in [("uid_map", uid), ("gid_map", gid)] {
        let mut text = String::new();
        for IdMapping { container_id, host_id, size } in maps {
            writeln!(text, "{container_id} {host_id} {size}").map_err(|_| Error::invalid("mapping"))?;
        }
        std::fs::write(format!("{process}/{file}"), text)
            .context(|| format!("cannot write the mount's mappings to `{file}`"))?;
    }
    let path = format!("{process}/ns/user");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open({path:?})"))
}
