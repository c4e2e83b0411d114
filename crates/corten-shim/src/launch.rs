//! From a [`Launch`] to a running program, and back to nothing.
//!
//! ```text
//! RUN/containers/ID/config.json   the bundle's configuration
//! RUN/containers/ID/rootfs        where the root is mounted, in this process's mount namespace
//! RUN/containers/ID/shim.sock     where clients come
//! ```

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::atomic::{self, Durability};
use corten_fs::overlay::{Kept, Overlay};
use corten_runtime::runtime::{CreateRequest, Options, Runtime, Started};
use corten_sys::Call;
use corten_sys::namespace::{NEWNS, unshare};
use corten_types::runtime_spec::{Process, Spec};
use corten_types::shim::{Launch, ROOTFS, RootMount, SOCKET};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{host, identity};

/// A container's directories, held open.
#[derive(Debug)]
pub(crate) struct Place {
    /// Durable.
    pub(crate) directory: Root,
    /// Run state; the bundle.
    pub(crate) run: Root,
    /// What other supervisors share of the mounted root.
    kept: RefCell<Kept>,
}

impl Place {
    pub(crate) fn open(launch: &Launch) -> Result<Self> {
        Ok(Self {
            directory: Root::open_ambient(&launch.directory)?.beneath(),
            run: Root::open_ambient(&launch.run_directory)?.beneath(),
            kept: RefCell::default(),
        })
    }
}

/// Leaves the host's mount namespace for one of its own, where the host's mounts still arrive.
///
/// Before anything is opened: a descriptor keeps to the namespace that it was opened in, and nothing can be mounted there.
pub(crate) fn leave_mount_namespace(launch: &Launch) -> Result<()> {
    if launch.shared_mounts {
        return Ok(());
    }
    unshare(NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).call(|| "mount(\"/\", MS_SLAVE | MS_REC)")
}

/// The runtime that the container lives in.
pub(crate) fn runtime(launch: &Launch) -> Runtime {
    Runtime::new(Options {
        root: launch.runtime_root.clone(),
        systemd_cgroup: launch.systemd_cgroup,
        rootless: Some(launch.rootless),
    })
}

/// The socket where clients come; its path may be longer than an address holds, so it is named through its directory.
pub(crate) fn listen(place: &Place) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).call(|| "socket(AF_UNIX)")?;
    let directory = place.run.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    drop(place.run.remove_file(SOCKET));
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let address = SocketAddrUnix::new(path.as_str()).call(|| "sockaddr_un")?;
    rustix::net::bind(&socket, &address).call(|| format!("bind({path:?})"))?;
    rustix::net::listen(&socket, 16).call(|| format!("listen({path:?})"))?;
    Ok(socket)
}

/// Mounts the root and writes the bundle.
pub(crate) fn prepare(launch: &mut Launch, place: &Place) -> Result<()> {
    let rootfs = mount_root(launch, place)?;
    mount_shared_memory(launch)?;
    let sets_home =
        |spec: &Spec| spec.process.iter().flat_map(|process| &process.env).any(|one| one.starts_with("HOME="));
    launch.home_is_ours = !sets_home(&launch.spec);
    complete(&mut launch.spec, &rootfs, &launch.user, &launch.groups)?;
    launch.spec.root.get_or_insert_default().path = path_text(&root_path(launch))?;
    let json = serde_json::to_vec(&launch.spec)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode `config.json`").caused_by(error))?;
    atomic::replace(&place.run, "config.json", &json, 0o600, Durability::Volatile)
}

/// HOME of the program.
pub(crate) fn home(launch: &Launch) -> String {
    let env = launch.spec.process.iter().flat_map(|process| &process.env);
    env.filter_map(|entry| entry.strip_prefix("HOME=")).next_back().unwrap_or("/").to_owned()
}

/// Starts the program.
pub(crate) fn start(launch: &Launch, stdio: Option<[OwnedFd; 3]>) -> Result<Started> {
    runtime(launch).run(CreateRequest {
        id: launch.id.clone(),
        bundle: launch.run_directory.clone(),
        stdio,
        ..CreateRequest::default()
    })
}

/// Where the root is seen from here.
pub(crate) fn root_path(launch: &Launch) -> PathBuf {
    match &launch.root {
        RootMount::Overlay(_) => launch.run_directory.join(ROOTFS),
        RootMount::Directory(directory) => directory.clone(),
    }
}

/// The first step of `--rm`: from here on nobody finds the container.
pub(crate) fn remove_files(launch: &Launch) {
    for path in &launch.remove_first {
        // What is gone is gone; what cannot be removed is noticed by the engine, which finds the run directory.
        drop(std::fs::remove_file(path));
    }
}

/// Takes away what [`prepare`] and [`start`] made; every step is tried. The run directory goes last: while it exists, there is work left.
pub(crate) fn clean_up(launch: &Launch) -> Result<()> {
    let deleted = runtime(launch).delete(&launch.id, true);
    let unmounted = match &launch.root {
        RootMount::Overlay(_) => unmount(&launch.run_directory.join(ROOTFS)),
        RootMount::Directory(_) => Ok(()),
    };
    let memory = launch.shared_memory.as_ref().map_or(Ok(()), |(place, _)| unmount(place));
    for directory in &launch.remove_last {
        remove_tree(directory)?;
    }
    deleted?;
    unmounted?;
    memory?;
    remove_tree(&launch.run_directory)
}

/// Removes a directory and everything beneath it; its absence is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("`{}` has no parent", path.display())));
    };
    match Root::open_ambient(parent) {
        Ok(parent) => parent.beneath().remove_all(name),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The /dev/shm that other containers may bind too; removed with the run directory.
fn mount_shared_memory(launch: &Launch) -> Result<()> {
    let Some((place, size_bytes)) = &launch.shared_memory else { return Ok(()) };
    std::fs::DirBuilder::new().create(place).or_else(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = std::ffi::CString::new(format!("mode=1777,size={size_bytes}")).unwrap_or_default();
    rustix::mount::mount("shm", place, "tmpfs", flags, Some(options.as_c_str()))
        .call(|| format!("mount(\"tmpfs\", {place:?})"))
        .context(|| "cannot mount the shared memory of `--ipc shareable`")
}

fn mount_root(launch: &Launch, place: &Place) -> Result<Root> {
    match &launch.root {
        RootMount::Directory(directory) => Root::open_ambient(directory),
        RootMount::Overlay(options) => {
            let overlay = Overlay::parse(options)?;
            let target = place.run.create_dir_all(ROOTFS, Mode::from_raw_mode(0o755))?;
            let (layers, rootfs) = (overlay.lower.len(), launch.run_directory.join(ROOTFS));
            match launch.rootless && host::is_host(&overlay) {
                true => host::mount_tree(&overlay, &rootfs)?,
                false => {
                    let mounted = overlay.mount(target.as_fd());
                    *place.kept.borrow_mut() =
                        mounted.context(|| format!("cannot mount the container's {layers} layers"))?;
                }
            }
            // Opened again: the descriptor from before is of the directory below the mount.
            Root::open_ambient(&rootfs)
        }
    }
}

/// What the files of the root decide: identity, home, working directory.
fn complete(spec: &mut Spec, rootfs: &Root, user: &str, groups: &[String]) -> Result<()> {
    let mut identity = identity::resolve(rootfs, user, groups)?;
    // In a namespace that maps the caller alone nobody may choose groups; only those that were asked for are an error.
    if groups.is_empty() && !may_set_groups() {
        identity.user.additional_gids.clear();
    }
    check_mapped("user", identity.user.uid, "/proc/self/uid_map")?;
    check_mapped("group", identity.user.gid, "/proc/self/gid_map")?;
    let process = spec.process.get_or_insert_with(Process::default);
    process.user = identity.user;
    if !process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        process.env.push(format!("HOME={}", identity.home));
    }
    if !spec.mounts.iter().any(|mount| Path::new(&process.cwd).starts_with(&mount.destination)) {
        rootfs
            .create_dir_all(process.cwd.as_str(), Mode::from_raw_mode(0o755))
            .context(|| format!("cannot make the working directory `{}`", process.cwd))?;
    }
    Ok(())
}

/// Refuses an id that this process's user namespace does not know, before the kernel does so without a word.
pub(crate) fn check_mapped(what: &str, id: u32, map: &str) -> Result<()> {
    let map = corten_fs::root::read_ambient(Path::new(map), 64 * 1024)?;
    if is_mapped(&String::from_utf8_lossy(&map), id) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, format!("{what} {id} is not mapped for an ordinary user's containers"))
        .hint("install the package `uidmap` and give yourself ranges in /etc/subuid and /etc/subgid, or run as root"))
}

fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        matches!((first, count), (Some(first), Some(count)) if id.checked_sub(first).is_some_and(|offset| offset < count))
    })
}

pub(crate) fn may_set_groups() -> bool {
    corten_fs::root::read_ambient(Path::new("/proc/self/setgroups"), 64).is_ok_and(|word| word.starts_with(b"allow"))
}

fn unmount(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).call(|| format!("umount2({path:?}, MNT_DETACH)")),
    }
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::invalid(format!("`{}` is not UTF-8", path.display())))
}

/// /dev/null, for streams that lead nowhere.
pub(crate) fn null() -> Result<OwnedFd> {
    rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).call(|| "open(\"/dev/null\")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        remove_tree(&directory.path().join("a/b")).unwrap();
        remove_tree(&directory.path().join("a")).unwrap();
        assert!(remove_tree(Path::new("/")).is_err());
    }

    #[test]
    fn only_mapped_ids_can_run_programs() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(is_mapped(map, 0) && is_mapped(map, 65536) && !is_mapped(map, 65537));
        assert!(is_mapped("0 0 4294967295", 4_294_967_294));
    }

    #[test]
    fn the_root_decides_who_runs_and_where() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open_ambient(directory.path()).unwrap();
        let mut spec =
            Spec { process: Some(Process { cwd: "/a/b".to_owned(), ..Process::default() }), ..Spec::default() };
        complete(&mut spec, &root, "5:6", &[]).unwrap();
        let process = spec.process.unwrap();
        assert_eq!((process.user.uid, process.user.gid, process.env), (5, 6, vec!["HOME=/".to_owned()]));
        assert!(root.exists("a/b").unwrap());
    }
}
