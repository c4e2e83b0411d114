//! A procfs of our own: mounted fresh, attached nowhere, so that nothing in a container's tree can pose as it.

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call as _;
use corten_types::{Error, ErrorKind, Result};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// `PROC_SUPER_MAGIC`
const PROC_MAGIC: i64 = 0x9fa0;

/// A detached procfs of the caller's pid namespace.
pub(crate) fn mount() -> Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).call(|| "fsopen(\"proc\")")?;
    fsconfig_create(context.as_fd()).call(|| "fsconfig(<proc>, FSCONFIG_CMD_CREATE)")?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let procfs = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).call(|| "fsmount(<proc>)")?;
    verify(procfs)
}

/// A fresh procfs, or where that is not allowed (a user namespace whose host masks parts of /proc) the one at /proc,
/// checked to be a procfs.
pub(crate) fn mount_or_verify() -> Result<OwnedFd> {
    mount().or_else(|_| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        verify(rustix::fs::open("/proc", flags, rustix::fs::Mode::empty()).call(|| "open(\"/proc\")")?)
    })
}

/// The file, checked to lie in a procfs.
pub(crate) fn verify(procfs: OwnedFd) -> Result<OwnedFd> {
    let found = rustix::fs::fstatfs(&procfs).call(|| "fstatfs(<proc>)")?;
    if found.f_type as i64 != PROC_MAGIC {
        return Err(Error::new(ErrorKind::Denied, "what is mounted at or below /proc is not a procfs"));
    }
    Ok(procfs)
}

/// The processes in the pid namespace of process `pid`, itself among them; none where it has ended.
pub(crate) fn of_pid_namespace(pid: i32) -> Vec<i32> {
    let namespace = |pid: i32| rustix::fs::readlink(format!("/proc/{pid}/ns/pid"), Vec::new()).ok();
    let Some(wanted) = namespace(pid) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| namespace(*pid).as_ref() == Some(&wanted)).collect()
}
