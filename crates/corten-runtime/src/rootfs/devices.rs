//! Device nodes and the symlinks that every /dev has.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_sys::Call as _;
use corten_types::runtime_spec::{Device, Linux};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::attach::{Mounter, Source};
use super::place::{Place, Places, clean};

/// The devices of every container (config-linux.md, "Default Devices"), all of major 1 but the last.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// One node to make.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    path: PathBuf,
    kind: FileType,
    mode: u32,
    uid: u32,
    gid: u32,
    number: Dev,
}

/// The container's nodes: those of the specification's list, then the defaults that it does not name.
pub(super) fn plan(linux: &Linux) -> Result<Vec<Node>> {
    let mut nodes = Vec::with_capacity(linux.devices.len() + DEFAULT.len());
    for (index, device) in linux.devices.iter().enumerate() {
        let node = node(device).context(|| format!("`linux.devices[{index}]` (`{}`) is wrong", device.path))?;
        // The devpts mount brings its own; see `links`.
        if node.path != Path::new("/dev/ptmx") {
            nodes.push(node);
        }
    }
    for (name, major, minor) in DEFAULT {
        let path = Path::new("/dev").join(name);
        if !nodes.iter().any(|node: &Node| node.path == path) {
            let number = rustix::fs::makedev(major, minor);
            nodes.push(Node { path, kind: FileType::CharacterDevice, mode: 0o666, uid: 0, gid: 0, number });
        }
    }
    Ok(nodes)
}

fn node(device: &Device) -> Result<Node> {
    if !device.path.starts_with('/') || device.path.contains('\0') {
        return Err(Error::invalid("`path` is not an absolute path"));
    }
    let path = clean(&device.path);
    if path.parent().is_none() || path.starts_with("/proc") || path.starts_with("/sys") {
        return Err(Error::invalid("`path` is no place for a device"));
    }
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::invalid(format!("`type` is `{other}`")).hint("it is one of c, u, b, p")),
    };
    let number = |field: &str, value: i64, bits: u32| {
        u32::try_from(value)
            .ok()
            .filter(|number| u64::from(*number) < 1 << bits)
            .ok_or_else(|| Error::invalid(format!("`{field}` is {value}, which is no device number")))
    };
    let number = match kind {
        FileType::Fifo => 0,
        // The kernel's dev_t: 12 bits and 20.
        _ => rustix::fs::makedev(number("major", device.major, 12)?, number("minor", device.minor, 20)?),
    };
    Ok(Node {
        path,
        kind,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        number,
    })
}

/// Makes the nodes beneath the rootfs. With `bind` they are the host's, bound: a user namespace cannot make devices.
pub(super) fn make(nodes: &[Node], places: &Places, mounter: &mut Mounter, bind: bool) -> Result<()> {
    let mut directories: HashMap<&Path, OwnedFd> = HashMap::new();
    for node in nodes {
        let parent = node.path.parent().unwrap_or(Path::new("/"));
        let made = || -> Result<()> {
            if !directories.contains_key(parent) {
                let directory = places.root.create_dir_all(parent, Mode::from_raw_mode(0o755))?;
                directories.insert(parent, directory);
            }
            let directory = &directories[parent];
            if !(bind && node.kind != FileType::Fifo) && make_one(node, directory)? {
                return Ok(());
            }
            bind_one(node, directory, places, mounter)
        };
        made_context(made, node)?;
    }
    Ok(())
}

fn made_context(made: impl FnOnce() -> Result<()>, node: &Node) -> Result<()> {
    made().context(|| format!("cannot make the device `{}`", node.path.display()))
}

/// False where this process may not make devices.
fn make_one(node: &Node, directory: &OwnedFd) -> Result<bool> {
    let name = name(node)?;
    match rustix::fs::mknodat(directory, &name, node.kind, Mode::from_raw_mode(node.mode), node.number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            check_existing(node, directory, &name)?;
            return Ok(true);
        }
        Err(Errno::PERM) => return Ok(false),
        Err(errno) => return Err(errno).call(|| format!("mknodat({name:?}, {:#o})", node.mode)),
    }
    if node.uid != 0 || node.gid != 0 {
        let (uid, gid) = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
        rustix::fs::chownat(directory, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .call(|| format!("fchownat({name:?}, {}, {})", node.uid, node.gid))?;
    }
    Ok(true)
}

fn check_existing(node: &Node, directory: &OwnedFd, name: &CString) -> Result<()> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).call(|| format!("fstatat({name:?})"))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == node.kind && (kind == FileType::Fifo || stat.st_rdev == node.number) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::AlreadyExists, format!("another file ({kind:?}) is there already"))
        .hint("remove it from the rootfs, or mount a tmpfs at /dev"))
}

fn bind_one(node: &Node, directory: &OwnedFd, places: &Places, mounter: &mut Mounter) -> Result<()> {
    let host = rustix::fs::openat(CWD, &node.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({:?}, O_PATH)", node.path))
        .context(|| "the host has no such device to bind")?;
    let stat = rustix::fs::fstat(&host).call(|| "fstat")?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind || stat.st_rdev != node.number {
        let path = node.path.display();
        return Err(Error::new(ErrorKind::Denied, format!("the host's `{path}` is another device")));
    }
    let name = name(node)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).call(|| format!("openat({name:?}, O_CREAT | O_EXCL)")),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, &name, flags, Mode::empty()).call(|| format!("openat({name:?}, O_PATH)"))?;
    let there = rustix::fs::fstat(&fd).call(|| "fstat")?;
    if FileType::from_raw_mode(there.st_mode) == node.kind && there.st_rdev == node.number {
        return Ok(());
    }
    if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::AlreadyExists, "another file is there already"));
    }
    let place = Place::made(fd, node.path.clone());
    mounter.bind(Source::Place(host.as_fd()), false, &[], places, &place).map(drop)
}

fn name(node: &Node) -> Result<CString> {
    let name = node.path.file_name().map_or(&b""[..], OsStr::as_bytes);
    CString::new(name).map_err(|_| Error::invalid("its name contains a NUL byte"))
}

/// The symlinks of every /dev. What the image has in their place stays, but for ptmx: the container's own is meant.
pub(super) fn links(places: &Places) -> Result<()> {
    let directory = places
        .root
        .create_dir_all("/dev", Mode::from_raw_mode(0o755))
        .context(|| "cannot make the symlinks of `/dev`")?;
    let mut links = vec![("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout")];
    links.push(("/proc/self/fd/2", "stderr"));
    if rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        links.push(("/proc/kcore", "core"));
    }
    let link = |target: &str, name: &str| {
        rustix::fs::symlinkat(target, &directory, name)
            .call(|| format!("symlinkat({target:?}, {name:?})"))
            .context(|| format!("cannot make the symlink `/dev/{name}`"))
    };
    for (target, name) in links {
        match link(target, name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    match link("pts/ptmx", "ptmx") {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            rustix::fs::unlinkat(&directory, "ptmx", AtFlags::empty())
                .call(|| "unlinkat(\"ptmx\")")
                .context(|| "cannot replace `/dev/ptmx`")?;
            link("pts/ptmx", "ptmx")
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, kind: &str, major: i64, minor: i64) -> Device {
        Device { path: path.to_owned(), kind: kind.to_owned(), major, minor, ..Device::default() }
    }

    #[test]
    fn the_default_devices_are_added_unless_named() {
        let linux =
            Linux { devices: vec![device("/dev/null", "c", 1, 3), device("/dev/x", "b", 7, 0)], ..Linux::default() };
        let nodes = plan(&linux).unwrap();
        let paths: Vec<_> = nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/dev/null", "/dev/x", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]);
    }

    #[test]
    fn wrong_devices_are_refused_by_name() {
        for wrong in [
            device("dev/x", "c", 1, 3),
            device("/", "c", 1, 3),
            device("/proc/x", "c", 1, 3),
            device("/dev/x", "q", 1, 3),
            device("/dev/x", "c", -1, 3),
            device("/dev/x", "c", 1 << 12, 3),
            device("/dev/x", "b", 1, 1 << 20),
        ] {
            let linux = Linux { devices: vec![wrong], ..Linux::default() };
            assert!(plan(&linux).unwrap_err().message().contains("`linux.devices[0]`"));
        }
        let fifo = Linux { devices: vec![device("/dev/p", "p", -1, -1)], ..Linux::default() };
        assert_eq!(plan(&fifo).unwrap()[0].number, 0);
    }
}
