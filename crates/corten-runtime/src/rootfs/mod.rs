//! The container's file system: every mount, device and mask of the specification.
//!
//! [`RootfsPlan::build`] decides in the parent everything that input can make fail; [`RootfsPlan::prepare`],
//! [`RootfsPlan::enter`] and [`RootfsPlan::seal`] act in the child. Nothing is reached by a path that the container's
//! files could redirect: places are descriptors opened beneath the rootfs, mounts are made detached and moved onto them.

mod attach;
mod cgroups;
mod copy_up;
mod devices;
mod idmap;
mod mounts;
mod options;
mod place;
mod plan;
mod seal;
mod switch;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_sys::{Call as _, mount as attr};
use corten_types::runtime_spec::{Linux, Spec};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use self::attach::{Change, Mounter, set_detached};
use self::mounts::Made;
use self::options::{Attributes, Propagation, ms};
use self::place::Places;
use self::plan::{Bind, MountStep, What};

/// Where the mounts happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountNamespace {
    /// A new one, made for the container.
    New,
    /// One that the specification names by path; sources are looked up there.
    Joined,
    /// The runtime's own. Mounts stay after the container; see [`unmount_from_host`].
    Host,
}

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The whole document.
    pub spec: &'a Spec,
    /// Absolute bundle directory; relative sources and the relative root start here.
    pub bundle: &'a Path,
    /// Where the mounts happen.
    pub mount_namespace: MountNamespace,
    /// Whether the child is in another user namespace: sources are then opened in the parent where it may, and devices,
    /// which cannot be made there, are bound from the host.
    pub new_user_namespace: bool,
    /// Whether the child has its own cgroup namespace by the time of [`RootfsPlan::prepare`].
    pub new_cgroup_namespace: bool,
    /// The container's cgroup by controller (`cgroup::Cgroup::paths`).
    pub cgroup_paths: &'a BTreeMap<String, String>,
    /// MS_MOVE and chroot in place of pivot_root.
    pub no_pivot: bool,
}

/// The file system of one container, decided and checked.
#[derive(Debug)]
pub struct RootfsPlan {
    rootfs: PathBuf,
    read_only: bool,
    namespace: MountNamespace,
    no_pivot: bool,
    bind_devices: bool,
    propagation: Option<Propagation>,
    mount_label: String,
    mounts: Vec<MountStep>,
    /// `None` where /dev is bound from elsewhere and stays as it is.
    devices: Option<Vec<devices::Node>>,
    masked: Vec<PathBuf>,
    read_only_paths: Vec<PathBuf>,
    warnings: Vec<String>,
    mounter: Mounter,
    places: Option<Places>,
    made: Made,
}

impl RootfsPlan {
    /// Decides everything. In the parent, before the clone; changes nothing (an id-mapped mount starts a short-lived child).
    pub fn build(request: &Request<'_>) -> Result<Self> {
        let none = Linux::default();
        let linux = request.spec.linux.as_ref().unwrap_or(&none);
        let (rootfs, read_only) = root(request)?;
        plan::check_label(&linux.mount_label)?;
        let masked = plan::paths("linux.maskedPaths", &linux.masked_paths)?;
        let read_only_paths = plan::paths("linux.readonlyPaths", &linux.readonly_paths)?;
        if request.mount_namespace == MountNamespace::Host && !(masked.is_empty() && read_only_paths.is_empty()) {
            return Err(Error::invalid("`linux.maskedPaths` and `linux.readonlyPaths` need a mount namespace")
                .hint("add {\"type\": \"mount\"} to `linux.namespaces`"));
        }
        let propagation = plan::root_propagation(Some(linux))?;
        let mut warnings = Vec::new();
        let mounts = plan::mounts(request, linux, &place::clean(&rootfs.to_string_lossy()), &mut warnings)?;
        let dev_is_bound =
            mounts.iter().any(|step| matches!(step.what, What::Bind(_)) && step.destination == Path::new("/dev"));
        let devices = if dev_is_bound { None } else { Some(devices::plan(linux)?) };
        Ok(Self {
            rootfs,
            read_only,
            namespace: request.mount_namespace,
            no_pivot: request.no_pivot,
            bind_devices: request.new_user_namespace,
            propagation,
            mount_label: linux.mount_label.clone(),
            mounts,
            devices,
            masked,
            read_only_paths,
            warnings,
            mounter: Mounter::default(),
            places: None,
            made: Made::default(),
        })
    }

    /// Sentences about what was taken differently than written (deprecated forms); for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Absolute path of the rootfs on the host.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Makes propagation, the rootfs on a mount of its own, all mounts, devices and default symlinks. In the child, in its
    /// namespaces and cgroup, before the createRuntime and createContainer hooks. The umask is zero afterwards, and the
    /// working directory the rootfs.
    pub fn prepare(&mut self) -> Result<()> {
        let nobody =
            |_, _: BorrowedFd<'_>| Err(Error::new(ErrorKind::Internal, "nobody is there to map a mount's ids"));
        self.prepare_with(&nobody)
    }

    /// As [`RootfsPlan::prepare`]; `map_ids` has [`RootfsPlan::map_ids`] called with a mount's number and its tree by a
    /// process outside of the container's user namespace.
    pub fn prepare_with(&mut self, map_ids: &dyn Fn(usize, BorrowedFd<'_>) -> Result<()>) -> Result<()> {
        rustix::process::umask(Mode::empty());
        let mounter = &mut self.mounter;
        let root = switch::attach_root(mounter, &self.rootfs, self.namespace, self.propagation)?;
        let places = Places::new(Root::from_fd(root, &self.rootfs))?;
        for (number, step) in self.mounts.iter().enumerate() {
            let map_ids = |tree: BorrowedFd<'_>| map_ids(number, tree);
            mounts::apply(step, mounter, &places, &self.mount_label, &mut self.made, &map_ids)?;
        }
        if let Some(nodes) = &self.devices {
            devices::make(nodes, &places, mounter, self.bind_devices)?;
            devices::links(&places)?;
        }
        rustix::process::fchdir(&places.root).call(|| "fchdir(<rootfs>)")?;
        self.places = Some(places);
        Ok(())
    }

    /// Gives the detached `tree`, the source of mount `number`, the ids that the mount asks for. In the parent.
    pub fn map_ids(&self, number: usize, tree: BorrowedFd<'_>) -> Result<()> {
        let step = self.mounts.get(number);
        match step.map(|step| (step, &step.what)) {
            Some((step, What::Bind(Bind { idmap: Some((namespace, recursive)), .. }))) => {
                let change = Change {
                    attributes: Attributes { set: attr::IDMAP, clear: 0 },
                    user_namespace: Some(namespace.as_fd()),
                    recursive: *recursive,
                    propagation: 0,
                };
                set_detached(tree, &change).context(|| step.title())
            }
            _ => Err(Error::new(ErrorKind::Internal, format!("mount {number} has no id map"))),
        }
    }

    /// The rootfs, once prepared; the container's `/` once entered.
    pub fn root(&self) -> Result<&Root> {
        Ok(&self.places()?.root)
    }

    /// Makes the rootfs the process's root and leaves the old one; the working directory is `/`. Standard descriptors that
    /// are the host's /dev/null become the container's.
    pub fn enter(&mut self) -> Result<()> {
        let Some(places) = &self.places else { return Err(unprepared()) };
        let root = places.root.as_fd();
        let entered = match (self.namespace, self.no_pivot) {
            (MountNamespace::Host, _) => switch::chroot(root),
            (_, true) => switch::move_root(&mut self.mounter, root, &self.rootfs),
            (_, false) => {
                let may_be_shared = self.propagation.is_some_and(|propagation| !propagation.unshares_all());
                switch::pivot(&mut self.mounter, root, may_be_shared)
            }
        };
        entered.context(|| "cannot enter the rootfs")?;
        if self.devices.is_some() {
            seal::reopen_null(&places.root).context(|| "cannot give the program the container's `/dev/null`")?;
        }
        Ok(())
    }

    /// Mounts the terminal `pty` (its slave side, of the container's devpts) at /dev/console. After [`RootfsPlan::enter`].
    pub fn mount_console(&self, pty: BorrowedFd<'_>) -> Result<()> {
        let mut mounter = self.mounter.try_clone()?;
        seal::mount_console(&mut mounter, self.places()?, pty)
            .context(|| "cannot mount the terminal at `/dev/console`")?;
        self.return_to_root()
    }

    /// Makes what must be read-only so, masks what must be masked, sets the root's final propagation. After
    /// [`RootfsPlan::enter`] and whatever else must still write.
    pub fn seal(&mut self) -> Result<()> {
        let Some(places) = &self.places else { return Err(unprepared()) };
        let mounter = &mut self.mounter;
        let tree = seal::Tree::new(places, &mut self.made);
        seal::make_read_only(mounter, &tree, &self.read_only_paths)?;
        seal::mask(mounter, &tree, &self.masked, &self.mount_label)?;
        seal::finish(mounter, places, &mut self.made, self.read_only)?;
        if let Some(propagation) = self.propagation.filter(|it| [ms::SHARED, ms::UNBINDABLE].contains(&it.kind)) {
            let change =
                Change { propagation: propagation.kind, recursive: propagation.recursive, ..Change::default() };
            mounter.change(places.root.as_fd(), &change).context(|| "cannot set the root's propagation")?;
        }
        self.return_to_root()
    }

    /// mount(2) with descriptors leaves the working directory in the host's procfs.
    fn return_to_root(&self) -> Result<()> {
        if self.mounter.moved_directory() {
            rustix::process::chdir("/").call(|| "chdir(\"/\")")?;
        }
        Ok(())
    }

    fn places(&self) -> Result<&Places> {
        self.places.as_ref().ok_or_else(unprepared)
    }
}

/// Names of every mount option that is understood, sorted; for `features`.
pub fn mount_options() -> Vec<&'static str> {
    options::names()
}

/// Takes the mounts of a container with [`MountNamespace::Host`] away again; their absence is no error. For `delete`.
pub fn unmount_from_host(rootfs: &Path) -> Result<()> {
    match rustix::mount::unmount(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).call(|| format!("umount2({rootfs:?}, MNT_DETACH)")),
    }
}

fn unprepared() -> Error {
    Error::new(ErrorKind::Internal, "the rootfs was not prepared")
}

/// The rootfs's absolute path, checked to be a directory, and whether it is read-only.
fn root(request: &Request<'_>) -> Result<(PathBuf, bool)> {
    let Some(root) = &request.spec.root else {
        return Err(
            Error::invalid("`root` is missing").hint("`config.json` names the container's root file system there")
        );
    };
    if root.path.is_empty() || root.path.contains('\0') {
        return Err(Error::invalid(format!("`root.path` is {:?}", root.path)));
    }
    let path = request.bundle.join(&root.path);
    if !path.is_absolute() {
        return Err(Error::new(ErrorKind::Internal, "the bundle's path is not absolute"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if request.mount_namespace != MountNamespace::Joined {
        rustix::fs::open(&path, flags, Mode::empty())
            .call(|| format!("open({path:?}, O_PATH | O_DIRECTORY)"))
            .context(|| format!("`root.path` (`{}`) is no directory", root.path))?;
    }
    Ok((path, root.readonly))
}
