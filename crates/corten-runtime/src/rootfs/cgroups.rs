//! What a mount of type `cgroup` shows: on cgroup v1 a directory of hierarchies, each at the container's own cgroup; on
//! cgroup2 the one hierarchy.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use corten_sys::Call as _;
use corten_sys::mount as attr;
use corten_types::{Context as _, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::attach::{Change, Filesystem, Mounter, Source};
use super::options::{Attributes, Options};
use super::place::{Place, Places, Shape, Shows, file_system};
use super::{Request, mounts};

/// `CGROUP2_SUPER_MAGIC`
const CGROUP2_MAGIC: u32 = 0x6367_7270;
/// Where every host has its hierarchies.
const HOST: &str = "/sys/fs/cgroup";

/// A mount of type `cgroup`, decided.
#[derive(Debug)]
pub(super) struct CgroupMount {
    /// Whether the process sees its cgroup as the root.
    namespace: bool,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// The container's cgroup, where it is known.
    Unified(Option<PathBuf>),
    Hierarchies(Vec<Hierarchy>),
}

/// One hierarchy of cgroup v1 (or cgroup2 beside them).
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Directory name: `cpu,cpuacct`, `systemd`, `unified`.
    name: String,
    /// The container's cgroup in it.
    path: PathBuf,
    /// Options of a real mount; empty for cgroup2.
    data: Vec<String>,
    /// Further names of the directory.
    aliases: Vec<String>,
}

impl CgroupMount {
    pub(super) fn build(request: &Request<'_>) -> Result<Self> {
        let paths = request.cgroup_paths;
        let unified = if paths.is_empty() { host_is_unified()? } else { paths.keys().all(String::is_empty) };
        let layout = if unified {
            Layout::Unified(paths.get("").map(PathBuf::from))
        } else {
            Layout::Hierarchies(hierarchies(paths))
        };
        Ok(Self { namespace: request.new_cgroup_namespace, layout })
    }

    /// In the child. Writable unless `ro` was asked for, as for every mount: what the container is to see read-only, whoever
    /// writes its configuration says so, as docker does.
    pub(super) fn mount(
        &self,
        mounter: &mut Mounter,
        places: &Places,
        destination: &Path,
        options: &Options,
    ) -> Result<()> {
        let attributes = options.attributes;
        match &self.layout {
            Layout::Unified(path) => {
                self.mount_unified(mounter, places, destination, options, attributes, path.as_deref())
            }
            Layout::Hierarchies(list) => self.mount_all(mounter, places, destination, options, attributes, list),
        }
    }

    fn mount_unified(
        &self,
        mounter: &mut Mounter,
        places: &Places,
        destination: &Path,
        options: &Options,
        attributes: Attributes,
        path: Option<&Path>,
    ) -> Result<()> {
        let place = places.open(destination, Shape::Directory, Shows::Other)?;
        let fs = Filesystem {
            kind: "cgroup2".into(),
            source: "cgroup".into(),
            data: options.data.clone(),
            ..Filesystem::default()
        };
        let mount = match mounter.mount(&fs, attributes.set, places, &place) {
            // In a user namespace without a cgroup namespace of its own.
            Err(error) if is(&error, &[Errno::PERM, Errno::BUSY]) => {
                let source = path.filter(|_| self.namespace).unwrap_or(Path::new(HOST));
                let change = Change { attributes, ..Change::default() };
                match mounter.bind(Source::Path(source), false, &[change], places, &place) {
                    // Without root the container has no cgroup of its own: an empty directory then.
                    Err(error) if is(&error, &[Errno::NOENT]) => {
                        mounter.mount(&empty_directory("755"), attr::RDONLY, places, &place)?
                    }
                    result => result?,
                }
            }
            result => result?,
        };
        mounts::propagate(mounter, mount.as_fd(), options)
    }

    fn mount_all(
        &self,
        mounter: &mut Mounter,
        places: &Places,
        destination: &Path,
        options: &Options,
        attributes: Attributes,
        hierarchies: &[Hierarchy],
    ) -> Result<()> {
        let place = places.open(destination, Shape::Directory, Shows::Other)?;
        let safe = attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let directory = mounter.mount(&empty_directory("755"), safe, places, &place)?;
        // A tmpfs that nobody else has written: its names are ours.
        let inside = Places::new(corten_fs::Root::from_fd(directory.try_clone()?, destination))?;
        for hierarchy in hierarchies {
            self.mount_hierarchy(mounter, &inside, hierarchy, attributes)
                .context(|| format!("cannot mount the cgroup hierarchy `{}`", hierarchy.name))?;
        }
        if attributes.set & attr::RDONLY != 0 {
            let attributes = Attributes { set: attr::RDONLY, clear: 0 };
            mounter.change(directory.as_fd(), &Change { attributes, ..Change::default() })?;
        }
        mounts::propagate(mounter, directory.as_fd(), options)
    }

    fn mount_hierarchy(
        &self,
        mounter: &mut Mounter,
        inside: &Places,
        hierarchy: &Hierarchy,
        attributes: Attributes,
    ) -> Result<()> {
        let name = hierarchy.name.as_str();
        rustix::fs::mkdirat(&inside.plain, name, Mode::from_raw_mode(0o755)).call(|| format!("mkdirat({name:?})"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&inside.plain, name, flags, Mode::empty()).call(|| format!("openat({name:?})"))?;
        let place = Place::made(fd, Path::new("/").join(name));
        match self.mount_real(mounter, inside, &place, hierarchy, attributes) {
            // Without root the container has no cgroup of its own: an empty directory then.
            Err(error) if is(&error, &[Errno::NOENT]) => {}
            result => result?,
        }
        for alias in &hierarchy.aliases {
            rustix::fs::symlinkat(name, &inside.plain, alias.as_str())
                .call(|| format!("symlinkat({name:?}, {alias:?})"))?;
        }
        Ok(())
    }

    fn mount_real(
        &self,
        mounter: &mut Mounter,
        inside: &Places,
        place: &Place,
        hierarchy: &Hierarchy,
        attributes: Attributes,
    ) -> Result<()> {
        if self.namespace {
            let kind = if hierarchy.data.is_empty() { "cgroup2" } else { "cgroup" };
            let fs = Filesystem {
                kind: kind.into(),
                source: "cgroup".into(),
                data: hierarchy.data.clone(),
                ..Filesystem::default()
            };
            match mounter.mount(&fs, attributes.set, inside, place) {
                Err(error) if is(&error, &[Errno::PERM, Errno::BUSY]) => {}
                result => return result.map(drop),
            }
        }
        let change = Change { attributes, ..Change::default() };
        mounter.bind(Source::Path(&hierarchy.path), false, &[change], inside, place).map(drop)
    }
}

/// A small tmpfs.
pub(super) fn empty_directory(mode: &str) -> Filesystem {
    Filesystem {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        data: vec![format!("mode={mode}")],
        ..Filesystem::default()
    }
}

fn is(error: &corten_types::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.errno() == Some(errno.raw_os_error()))
}

fn host_is_unified() -> Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, HOST, flags, Mode::empty()) {
        Ok(host) => Ok(file_system(host.as_fd())? == CGROUP2_MAGIC),
        // A host without cgroups: an empty directory.
        Err(_) => Ok(false),
    }
}

/// The container's directories by hierarchy: controllers that share one are one.
fn hierarchies(paths: &BTreeMap<String, String>) -> Vec<Hierarchy> {
    let mut list: Vec<Hierarchy> = Vec::new();
    for (controller, path) in paths {
        let name = directory_name(controller, path);
        let data = match controller.as_str() {
            "" => Vec::new(),
            named if named.starts_with("name=") => vec!["none".to_owned(), named.to_owned()],
            controller => vec![controller.to_owned()],
        };
        let alias =
            (!controller.is_empty() && !controller.contains('=') && *controller != name).then(|| controller.clone());
        match list.iter_mut().find(|hierarchy| hierarchy.name == name) {
            Some(hierarchy) => {
                hierarchy.data.extend(data);
                hierarchy.aliases.extend(alias);
            }
            None => {
                let aliases = alias.into_iter().collect();
                list.push(Hierarchy { name, path: PathBuf::from(path), data, aliases });
            }
        }
    }
    list
}

/// Where the hierarchy is mounted below /sys/fs/cgroup, else the controller's own name.
fn directory_name(controller: &str, path: &str) -> String {
    let below = path.strip_prefix(HOST).and_then(|rest| rest.strip_prefix('/'));
    let name = below.and_then(|rest| rest.split('/').next()).filter(|name| !name.is_empty() && *name != "..");
    match name {
        Some(name) => name.to_owned(),
        None if controller.is_empty() => "unified".to_owned(),
        None => controller.trim_start_matches("name=").replace('/', "_"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_share_a_directory_are_one_hierarchy_with_links() {
        let paths = [
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct/a/b"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a/b"),
            ("name=systemd", "/sys/fs/cgroup/systemd/a/b"),
            ("", "/sys/fs/cgroup/unified/a/b"),
            ("net_cls", "/elsewhere/a"),
        ];
        let paths = paths.into_iter().map(|(controller, path)| (controller.to_owned(), path.to_owned())).collect();
        let list = hierarchies(&paths);
        let shown: Vec<_> = list.iter().map(|h| format!("{} {:?} {:?}", h.name, h.data, h.aliases)).collect();
        assert_eq!(
            shown,
            [
                "unified [] []",
                r#"cpu,cpuacct ["cpu", "cpuacct"] ["cpu", "cpuacct"]"#,
                r#"systemd ["none", "name=systemd"] []"#,
                r#"net_cls ["net_cls"] []"#,
            ]
        );
    }
}
