//! mount_setattr(2), which rustix lacks.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use crate::check;

/// What changes on a mount, or with `recursive` on the whole tree below it.
#[derive(Debug, Default)]
pub struct MountAttr<'a> {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE` or 0 to leave it.
    pub propagation: u64,
    /// User namespace of an id-mapped mount; needs `MOUNT_ATTR_IDMAP` in `set`.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// Whether mounts below change too (AT_RECURSIVE).
    pub recursive: bool,
}

/// `MOUNT_ATTR_RDONLY`
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`, the mask of the three access time modes.
pub const ATIME_MASK: u64 = 0x70;
/// `MOUNT_ATTR_RELATIME`
pub const RELATIME: u64 = 0x0;
/// `MOUNT_ATTR_NOATIME`
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_IDMAP`
pub const IDMAP: u64 = 0x0010_0000;
/// `MOUNT_ATTR_NOSYMFOLLOW`
pub const NOSYMFOLLOW: u64 = 0x0020_0000;

/// Changes the mount that `path` beneath `dir` refers to; an empty path means `dir` itself.
pub fn mount_setattr(dir: BorrowedFd<'_>, path: &CStr, attr: &MountAttr<'_>) -> Result<()> {
    let raw = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd: attr.user_namespace.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    let mut flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    if attr.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated; the kernel reads size_of::<mount_attr>() bytes of `raw`, which outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}
