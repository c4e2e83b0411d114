//! Mounting an image from its file.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use corten_sys::Call;
use corten_types::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

/// Mounts the image `index`, whose files' content is in `tar`: read-only, attached nowhere, as a descriptor of its root.
/// The mount lasts as long as the descriptor and what was made of it.
pub fn mount(index: &Path, tar: &Path) -> Result<OwnedFd> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).call(|| "fsopen(\"erofs\")")?;
    let mut handles = Vec::new();
    let result = (|| {
        for (name, path) in [("source", index), ("device", tar)] {
            let value = short_name(path, &mut handles)?;
            fsconfig_set_string(context.as_fd(), name, &value)
                .call(|| format!("fsconfig(<erofs>, FSCONFIG_SET_STRING, {name:?}, {value:?})"))?;
        }
        fsconfig_set_flag(context.as_fd(), "ro").call(|| "fsconfig(<erofs>, FSCONFIG_SET_FLAG, \"ro\")")?;
        fsconfig_create(context.as_fd()).call(|| "fsconfig(<erofs>, FSCONFIG_CMD_CREATE)")?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).call(|| "fsmount(<erofs>)")
    })();
    result.map_err(|error: Error| {
        let messages = crate::overlay::messages(context.as_fd());
        let error = if messages.is_empty() {
            error
        } else {
            error.context(format!("the kernel says: {}", messages.join("; ")))
        };
        error.context(format!("cannot mount the layer `{}`", index.display()))
    })
}

/// A name that fsconfig(2) takes, valid while `handles` is.
fn short_name(path: &Path, handles: &mut Vec<OwnedFd>) -> Result<CString> {
    let bytes = if path.as_os_str().len() < 256 {
        path.as_os_str().as_bytes().to_vec()
    } else {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({path:?}, O_PATH)"))?;
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        handles.push(file);
        name.into_bytes()
    };
    CString::new(bytes).map_err(|_| Error::invalid("a path contains NUL"))
}

/// Whether this kernel has the file system at all; asked once.
pub fn is_known() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).is_ok())
}

/// Whether this kernel mounts such images for this process: tried with an empty one in `directory`.
pub fn is_supported(directory: &Path) -> Result<()> {
    let file = |name: &str| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)
            .map(std::fs::File::from)
            .call(|| format!("open(<{name}>, O_TMPFILE)"))
    };
    let (index, tar) = (file("index")?, file("tar")?);
    tar.set_len(1024)?;
    let tree = super::Tree::new(&super::Budget::new(1 << 20));
    tree.write(&index, &tar, 1024, [0; 16])?;
    let path = |file: &std::fs::File| format!("/proc/self/fd/{}", file.as_raw_fd());
    mount(Path::new(&path(&index)), Path::new(&path(&tar))).map(drop)
}
