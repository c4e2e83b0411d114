//! From the specification's document to decided steps. Everything that input can make fail fails here.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::Call as _;
use corten_sys::mount as attr;
use corten_types::runtime_spec::{Linux, Mount};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::attach::{Change, Filesystem};
use super::cgroups::CgroupMount;
use super::options::{Attributes, Options, Propagation, ms};
use super::place::{PROC_MAGIC, Shows, clean, file_system};
use super::{MountNamespace, Request, idmap};

/// Most mounts of one container.
const MOUNTS_MAX: usize = 10_000;
/// File systems whose read-only is the mount's alone: others share the instance, or must be written first.
const VIRTUAL: [&str; 8] = ["cgroup", "cgroup2", "devpts", "mqueue", "proc", "sysfs", "tmpfs", "devtmpfs"];
/// `SELINUX_MAGIC`
const SELINUX_MAGIC: u32 = 0xf97c_ff8c;

/// One mount of the container.
#[derive(Debug)]
pub(super) struct MountStep {
    /// Absolute and clean.
    pub(super) destination: PathBuf,
    pub(super) what: What,
    pub(super) options: Options,
}

/// What is mounted.
#[derive(Debug)]
pub(super) enum What {
    Filesystem(Filesystem),
    Bind(Bind),
    Cgroup(CgroupMount),
    /// Nothing new: what is mounted there changes its flags.
    Remount,
}

/// A bind mount.
#[derive(Debug)]
pub(super) struct Bind {
    /// Absolute.
    pub(super) source: PathBuf,
    /// Opened already, where the child cannot or must not.
    pub(super) tree: Option<OwnedFd>,
    /// The source's place beneath the rootfs, where it lies there.
    pub(super) inside: Option<PathBuf>,
    /// User namespace of an id map that the child applies, and whether it is for the mounts below too.
    pub(super) idmap: Option<(OwnedFd, bool)>,
    /// `None` where only the child can tell.
    pub(super) is_directory: Option<bool>,
    pub(super) recursive: bool,
    pub(super) shows: Shows,
    /// The host's flags that a user namespace could not take away stay unless named.
    pub(super) keeps_locked: bool,
}

impl MountStep {
    /// The step's name in errors.
    pub(super) fn title(&self) -> String {
        let destination = self.destination.display();
        match &self.what {
            What::Filesystem(fs) => format!("cannot mount `{}` at `{destination}`", fs.kind),
            What::Bind(bind) => format!("cannot bind `{}` at `{destination}`", bind.source.display()),
            What::Cgroup(_) => format!("cannot mount `cgroup` at `{destination}`"),
            What::Remount => format!("cannot remount `{destination}`"),
        }
    }
}

pub(super) fn mounts(
    request: &Request<'_>,
    linux: &Linux,
    rootfs: &Path,
    warnings: &mut Vec<String>,
) -> Result<Vec<MountStep>> {
    let mounts = &request.spec.mounts;
    if mounts.len() > MOUNTS_MAX {
        return Err(Error::invalid(format!("`mounts` has {} entries, {MOUNTS_MAX} are allowed", mounts.len())));
    }
    let mut steps = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let step = step(request, linux, rootfs, mount, warnings)
            .context(|| format!("`mounts[{index}]` (`{}`) cannot be mounted", mount.destination))?;
        steps.push(step);
    }
    Ok(steps)
}

fn step(
    request: &Request<'_>,
    linux: &Linux,
    rootfs: &Path,
    mount: &Mount,
    warnings: &mut Vec<String>,
) -> Result<MountStep> {
    for (field, text) in [("destination", &mount.destination), ("source", &mount.source), ("type", &mount.kind)] {
        if text.contains('\0') {
            return Err(Error::invalid(format!("`{field}` contains a NUL byte")));
        }
    }
    if mount.destination.is_empty() {
        return Err(Error::invalid("`destination` is empty"));
    }
    if !mount.destination.starts_with('/') {
        let destination = &mount.destination;
        warnings.push(format!("mount destination `{destination}` is relative, which is deprecated; taken from `/`"));
    }
    let destination = strip_root(clean(&mount.destination), rootfs);
    if destination == Path::new("/") {
        return Err(Error::invalid("`destination` is the root itself").hint("change `root.path` instead"));
    }
    let options = Options::parse(&mount.options)?;
    let is_bind = options.bind.is_some() || mount.kind == "bind";
    check_mappings(mount, &options, is_bind)?;
    let what = if options.remount {
        What::Remount
    } else if is_bind {
        if !options.data.is_empty() {
            let data = options.data.join(",");
            warnings.push(format!("bind mount `{}` has options of a file system: `{data}`", mount.destination));
        }
        What::Bind(bind(request, linux, rootfs, mount, &options)?)
    } else if mount.kind == "cgroup" {
        What::Cgroup(CgroupMount::build(request)?)
    } else if mount.kind.is_empty() {
        return Err(Error::invalid("it has neither a `type` nor the option `bind`"));
    } else {
        What::Filesystem(filesystem(linux, mount, &options)?)
    };
    if options.tmpcopyup && !matches!(&what, What::Filesystem(fs) if fs.kind == "tmpfs") {
        return Err(Error::invalid("`tmpcopyup` is for `tmpfs` alone"));
    }
    Ok(MountStep { destination, what, options })
}

fn check_mappings(mount: &Mount, options: &Options, is_bind: bool) -> Result<()> {
    let given = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return Err(Error::invalid("`uidMappings` and `gidMappings` must be given together"));
    }
    if (given || options.idmap.is_some()) && (!is_bind || options.remount) {
        return Err(Error::new(ErrorKind::Unsupported, "only bind mounts can be id-mapped"));
    }
    Ok(())
}

fn filesystem(linux: &Linux, mount: &Mount, options: &Options) -> Result<Filesystem> {
    let mut super_flags = options.super_flags.clone();
    if options.is_read_only() && !VIRTUAL.contains(&mount.kind.as_str()) {
        super_flags.push("ro");
    }
    let mut data = options.data.clone();
    if !linux.mount_label.is_empty() && !["proc", "sysfs", "mqueue"].contains(&mount.kind.as_str()) {
        data.push(format!("context={}", linux.mount_label));
    }
    Ok(Filesystem {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        super_flags,
        classic_flags: options.classic_flags,
        data,
    })
}

/// Other runtimes take a destination that spells the rootfs's path on the host as beneath it.
fn strip_root(destination: PathBuf, rootfs: &Path) -> PathBuf {
    match destination.strip_prefix(rootfs) {
        Ok(rest) if rootfs != Path::new("/") => Path::new("/").join(rest),
        _ => destination,
    }
}

fn bind(request: &Request<'_>, linux: &Linux, rootfs: &Path, mount: &Mount, options: &Options) -> Result<Bind> {
    if mount.source.is_empty() {
        return Err(Error::invalid("a bind mount needs a `source`"));
    }
    let source = request.bundle.join(&mount.source);
    let recursive = options.bind == Some(true);
    let idmapped = options.idmap.is_some() || !mount.uid_mappings.is_empty();
    // A source in the rootfs may be what an earlier mount puts there: only the child sees it. The image's links lead inside.
    let inside = source
        .to_str()
        .and_then(|text| clean(text).strip_prefix(rootfs).ok().map(|rest| Path::new("/").join(rest)))
        .filter(|_| rootfs != Path::new("/"));
    let mut bind = Bind {
        source,
        tree: None,
        inside,
        idmap: None,
        is_directory: None,
        recursive,
        shows: Shows::Other,
        keeps_locked: request.new_user_namespace,
    };
    if bind.inside.is_some() || request.mount_namespace == MountNamespace::Joined {
        if idmapped {
            bind.idmap = Some((idmap::user_namespace(linux, mount)?, options.idmap == Some(true)));
        }
        return Ok(bind);
    }
    let source = &bind.source;
    let file = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({source:?}, O_PATH)"))?;
    let stat = rustix::fs::fstat(&file).call(|| format!("fstat({source:?})"))?;
    bind.is_directory = Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if mount.destination.contains("proc") && file_system(file.as_fd())? == PROC_MAGIC {
        bind.shows = Shows::Procfs;
    }
    if idmapped {
        let tree = open_tree(source, recursive)?;
        let recursive = options.idmap == Some(true);
        let namespace = idmap::user_namespace(linux, mount)?;
        let change = Change {
            attributes: Attributes { set: attr::IDMAP, clear: 0 },
            user_namespace: Some(namespace.as_fd()),
            recursive,
            propagation: 0,
        };
        super::attach::set_detached(tree.as_fd(), &change)?;
        bind.tree = Some(tree);
    } else if request.new_user_namespace {
        bind.tree = match open_tree(source, recursive) {
            Err(error) if [Errno::PERM, Errno::NOSYS].iter().any(|no| error.errno() == Some(no.raw_os_error())) => None,
            result => Some(result?),
        };
    }
    if let Some(tree) = &bind.tree {
        leave_peers(tree, request.spec.linux.as_ref())?;
    }
    Ok(bind)
}

/// What `make-rslave` on the new namespace's root does to trees cloned there is done here to one cloned before.
fn leave_peers(tree: &OwnedFd, linux: Option<&Linux>) -> Result<()> {
    let kind = root_propagation(linux)?.map_or(ms::SLAVE, |propagation| propagation.kind);
    if kind == ms::SHARED {
        return Ok(());
    }
    let kind = if kind == ms::UNBINDABLE { ms::PRIVATE } else { kind };
    super::attach::set_detached(tree.as_fd(), &Change { propagation: kind, recursive: true, ..Change::default() })
}

fn open_tree(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(CWD, source, flags)
        .call(|| format!("open_tree([{}], {source:?}, {flags:?})", CWD.as_raw_fd()))
}

/// `linux.rootfsPropagation`; `None` where it is not given.
pub(super) fn root_propagation(linux: Option<&Linux>) -> Result<Option<Propagation>> {
    let word = linux.map_or("", |linux| linux.rootfs_propagation.as_str());
    if word.is_empty() {
        return Ok(None);
    }
    Propagation::parse(word).map(Some).ok_or_else(|| {
        Error::invalid(format!("`linux.rootfsPropagation` is `{word}`"))
            .hint("it is one of shared, slave, private, unbindable, rshared, rslave, rprivate, runbindable")
    })
}

/// Refuses a label that this kernel would not understand.
pub(super) fn check_label(label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mounted = rustix::fs::open("/sys/fs/selinux", flags, Mode::empty())
        .is_ok_and(|fd| file_system(fd.as_fd()).is_ok_and(|magic| magic == SELINUX_MAGIC));
    if mounted && !label.contains('\0') {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("`linux.mountLabel` is `{label}`, but SELinux is not enabled here"))
        .hint("remove `linux.mountLabel`, or boot a kernel with SELinux"))
}

/// Absolute, clean paths, each once.
pub(super) fn paths(field: &str, given: &[String]) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = Vec::with_capacity(given.len());
    for (index, text) in given.iter().enumerate() {
        if !text.starts_with('/') || text.contains('\0') {
            return Err(Error::invalid(format!("`{field}[{index}]` is {text:?}, not an absolute path")));
        }
        let path = clean(text);
        if path == Path::new("/") {
            return Err(Error::invalid(format!("`{field}[{index}]` is the root itself")));
        }
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}
