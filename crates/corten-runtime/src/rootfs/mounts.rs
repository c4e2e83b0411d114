//! Applying the steps of a plan in the child: one function a kind of mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::Call as _;
use corten_sys::mount as attr;
use corten_types::{Context as _, Error, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::FsPickFlags;

use super::attach::{Change, Filesystem, Mounter, Source, clone_tree, detached, move_onto};
use super::copy_up;
use super::options::{Attributes, Options};
use super::place::{PROC_MAGIC, Place, Places, Shape, Shows, file_system, file_type};
use super::plan::{Bind, MountStep, What};

/// What prepare leaves for seal, and what later steps build on.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The container's /proc, where it is a fresh one.
    pub(super) proc: Option<OwnedFd>,
    /// The container's /sys, where it is a fresh one.
    pub(super) sys: Option<OwnedFd>,
    /// Mounts that become read-only last, with their destinations.
    pub(super) read_only_last: Vec<(OwnedFd, String)>,
}

/// Gives a detached tree the id map of its mount; for a process that has no right to that itself.
pub(super) type MapIds<'a> = &'a dyn Fn(BorrowedFd<'_>) -> Result<()>;

pub(super) fn apply(
    step: &MountStep,
    mounter: &mut Mounter,
    places: &Places,
    mount_label: &str,
    made: &mut Made,
    map_ids: MapIds<'_>,
) -> Result<()> {
    let (destination, options) = (step.destination.as_path(), &step.options);
    let applied = match &step.what {
        What::Cgroup(cgroup) => cgroup.mount(mounter, places, destination, options),
        What::Bind(bind) => apply_bind(bind, mounter, places, destination, options, map_ids),
        What::Remount => apply_remount(mounter, places, destination, options),
        What::Filesystem(fs) => apply_filesystem(fs, step, mounter, places, mount_label, made),
    };
    applied.context(|| step.title())
}

fn apply_filesystem(
    fs: &Filesystem,
    step: &MountStep,
    mounter: &mut Mounter,
    places: &Places,
    mount_label: &str,
    made: &mut Made,
) -> Result<()> {
    let (destination, options) = (step.destination.as_path(), &step.options);
    let place = match fs.kind.as_str() {
        "proc" => places.open_ordinary(destination, Shows::Procfs)?,
        "sysfs" => places.open_ordinary(destination, Shows::Other)?,
        _ => places.open(destination, Shape::Directory, Shows::Other)?,
    };
    let mut attributes = options.attributes.set;
    // These are still written to: devices, copied files, mount points.
    let last = options.is_read_only() && (fs.kind == "tmpfs" || destination == Path::new("/dev"));
    if last {
        attributes &= !attr::RDONLY;
    }
    let mount = match fs.kind.as_str() {
        "tmpfs" => mount_tmpfs(fs, attributes, mounter, places, &place, options.tmpcopyup)?,
        _ => match mounter.mount(fs, attributes, places, &place) {
            Err(error) => bind_instead(error, fs, attributes, mounter, places, &place)?,
            result => result?,
        },
    };
    if !options.recursive.is_empty() {
        mounter
            .change(mount.as_fd(), &Change { attributes: options.recursive, recursive: true, ..Change::default() })?;
    }
    propagate(mounter, mount.as_fd(), options)?;
    match (fs.kind.as_str(), destination.to_str()) {
        ("proc", Some("/proc")) => made.proc = Some(mount),
        ("sysfs", Some("/sys")) => made.sys = Some(mount),
        ("mqueue", _) if !mount_label.is_empty() => label(mount.as_fd(), mount_label)?,
        _ if last => made.read_only_last.push((mount, destination.display().to_string())),
        _ => {}
    }
    Ok(())
}

/// In a user namespace some file systems need a namespace of their own beside it; the host's instance is shown instead.
fn bind_instead(
    error: Error,
    fs: &Filesystem,
    attributes: u64,
    mounter: &mut Mounter,
    places: &Places,
    place: &Place,
) -> Result<OwnedFd> {
    let host = match fs.kind.as_str() {
        "sysfs" => Path::new("/sys"),
        "mqueue" => Path::new("/dev/mqueue"),
        _ => return Err(error),
    };
    if error.errno() != Some(Errno::PERM.raw_os_error()) {
        return Err(error);
    }
    let attributes = Attributes { set: attributes, clear: 0 };
    let change = Change { attributes, recursive: true, ..Change::default() };
    mounter.bind(Source::Path(host), true, &[change], places, place).map_err(|_| error)
}

fn mount_tmpfs(
    fs: &Filesystem,
    attributes: u64,
    mounter: &mut Mounter,
    places: &Places,
    place: &Place,
    copy: bool,
) -> Result<OwnedFd> {
    let mut fs = fs.clone();
    if place.existed && !fs.data.iter().any(|option| option.starts_with("mode=")) {
        // What the image says of the directory holds for its cover.
        let mode = rustix::fs::fstat(&place.fd).call(|| "fstat")?.st_mode & 0o7777;
        fs.data.push(format!("mode={mode:o}"));
    }
    if !copy {
        return mounter.mount(&fs, attributes, places, place);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let original = rustix::fs::openat(&place.fd, c".", flags, Mode::empty()).call(|| "openat(<mount point>, \".\")")?;
    let filled = |mount: BorrowedFd<'_>| {
        let copy = rustix::fs::openat(mount, c".", flags, Mode::empty()).call(|| "openat(<tmpfs>, \".\")")?;
        copy_up::copy_directory(original.as_fd(), copy.as_fd()).context(|| "cannot copy what the mount covers")
    };
    if let Some(mount) = detached(&fs, attributes)? {
        filled(mount.as_fd())?;
        if move_onto(mount.as_fd(), place.fd.as_fd())? {
            return Ok(mount);
        }
    }
    let mount = mounter.mount(&fs, attributes, places, place)?;
    filled(mount.as_fd())?;
    Ok(mount)
}

fn apply_bind(
    bind: &Bind,
    mounter: &mut Mounter,
    places: &Places,
    destination: &Path,
    options: &Options,
    map_ids: MapIds<'_>,
) -> Result<()> {
    let inside = bind.inside.as_ref().map(|path| places.root.open_path(path)).transpose()?;
    let (is_directory, shows) = match (bind.is_directory, &inside) {
        (Some(is_directory), _) => (is_directory, bind.shows),
        (None, Some(inside)) => inspect(inside.as_fd())?,
        (None, None) => {
            let file = rustix::fs::open(&bind.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("open({:?}, O_PATH)", bind.source))?;
            inspect(file.as_fd())?
        }
    };
    let shape = if is_directory { Shape::Directory } else { Shape::File };
    let place = places.open(destination, shape, shows)?;
    let source = match (&bind.tree, &inside) {
        (Some(tree), _) => Source::Tree(tree.as_fd(), &bind.source),
        (None, Some(inside)) => Source::Place(inside.as_fd()),
        (None, None) => Source::Path(&bind.source),
    };
    // In a user namespace the right to map ids is missing: the tree is cloned here, and mapped outside.
    let mapped = match (&bind.idmap, source) {
        (Some(_), Source::Place(inside)) if bind.keeps_locked => clone_tree(inside, Path::new(""), bind.recursive)?,
        _ => None,
    };
    if let Some(tree) = &mapped {
        map_ids(tree.as_fd())?;
    }
    let source = mapped.as_ref().map_or(source, |tree| Source::Tree(tree.as_fd(), &bind.source));
    let mut bound = |keeps_locked| {
        let mut changes = Vec::with_capacity(3);
        if let Some((namespace, recursive)) = bind.idmap.as_ref().filter(|_| mapped.is_none()) {
            let attributes = Attributes { set: attr::IDMAP, clear: 0 };
            let user_namespace = Some(namespace.as_fd());
            changes.push(Change { attributes, user_namespace, recursive: *recursive, propagation: 0 });
        }
        let attributes = options.bind_attributes(keeps_locked);
        if !attributes.is_empty() {
            changes.push(Change { attributes, ..Change::default() });
        }
        if !options.recursive.is_empty() {
            changes.push(Change { attributes: options.recursive, recursive: true, ..Change::default() });
        }
        mounter.bind(source, bind.recursive, &changes, places, &place)
    };
    let mount = match bound(bind.keeps_locked) {
        // The runtime itself is in a user namespace, below which the host's flags are locked.
        Err(error) if error.errno() == Some(Errno::PERM.raw_os_error()) && !bind.keeps_locked => bound(true)?,
        result => result?,
    };
    propagate(mounter, mount.as_fd(), options)
}

/// Whether the source is a directory, and whether it is of a procfs, asked where the parent could not.
fn inspect(file: BorrowedFd<'_>) -> Result<(bool, Shows)> {
    let is_directory = file_type(file)? == FileType::Directory;
    let shows = if file_system(file)? == PROC_MAGIC { Shows::Procfs } else { Shows::Other };
    Ok((is_directory, shows))
}

/// Changes what is mounted at `destination`: the mount's flags, and with options of its own the file system's.
fn apply_remount(mounter: &mut Mounter, places: &Places, destination: &Path, options: &Options) -> Result<()> {
    let mount = places.root.open_path(destination)?;
    let fd = mount.as_fd();
    if options.bind.is_none() && !(options.data.is_empty() && options.super_flags.is_empty()) {
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        let context = rustix::mount::fspick(fd, c"", flags).call(|| format!("fspick({destination:?})"))?;
        for name in &options.super_flags {
            rustix::mount::fsconfig_set_flag(&context, *name).call(|| format!("fsconfig({name:?})"))?;
        }
        for option in &options.data {
            match option.split_once('=') {
                Some((key, value)) => rustix::mount::fsconfig_set_string(&context, key, value),
                None => rustix::mount::fsconfig_set_flag(&context, option.as_str()),
            }
            .call(|| format!("fsconfig({option:?})"))?;
        }
        rustix::mount::fsconfig_reconfigure(&context).call(|| "fsconfig(FSCONFIG_CMD_RECONFIGURE)")?;
    }
    if !options.attributes.is_empty() {
        mounter.change(fd, &Change { attributes: options.attributes, ..Change::default() })?;
    }
    if !options.recursive.is_empty() {
        mounter.change(fd, &Change { attributes: options.recursive, recursive: true, ..Change::default() })?;
    }
    propagate(mounter, fd, options)
}

/// Sets the propagation that the options ask for, after attaching: a shared parent would share the mount again.
pub(super) fn propagate(mounter: &mut Mounter, mount: BorrowedFd<'_>, options: &Options) -> Result<()> {
    for propagation in &options.propagation {
        let change = Change { propagation: propagation.kind, recursive: propagation.recursive, ..Change::default() };
        mounter.change(mount, &change)?;
    }
    Ok(())
}

fn label(mount: BorrowedFd<'_>, label: &str) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(mount, c".", flags, Mode::empty()).call(|| "openat(<mqueue>, \".\")")?;
    rustix::fs::fsetxattr(&directory, c"security.selinux", label.as_bytes(), rustix::fs::XattrFlags::empty())
        .call(|| format!("fsetxattr(<mqueue>, \"security.selinux\", {label:?})"))
}
