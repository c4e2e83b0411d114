//! How a process gets into the container's cgroups.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::Cgroup;
use super::directory::{Directory, write_value};
use super::hierarchy::Hierarchy;
use super::layout::{Version, clean, unified_path_of};

/// Open descriptors by which a process joins the cgroup.
#[derive(Debug)]
pub struct Entry {
    /// `tasks` of every v1 hierarchy, and what to call it.
    first: Vec<(OwnedFd, String)>,
    second: Option<Directory>,
    /// Whether a process that may not move stays where it is.
    tolerant: bool,
}

impl Entry {
    /// The cgroup2 directory for CLONE_INTO_CGROUP.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.second.as_ref().map(Directory::fd)
    }

    /// The files by which a process joins v1 hierarchies, to be sent to one that was cloned before they were there.
    pub fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.first.iter().map(|(file, _)| file.as_fd())
    }

    /// The entry of a process that was sent [`Entry::files`] after it was cloned into `born`.
    pub fn of_files(born: &Self, files: Vec<OwnedFd>) -> Result<Self> {
        let first = files.into_iter().map(|file| (file, "tasks".to_owned())).collect();
        let second = born.second.as_ref().map(Directory::try_clone).transpose()?;
        Ok(Self { first, second, tolerant: born.tolerant })
    }

    /// Moves the calling process, which must have one thread, into every hierarchy that it was not born in: `born_inside`
    /// says whether the clone used [`Entry::clone_into`].
    pub fn join_self(&self, born_inside: bool) -> Result<()> {
        match self.join(born_inside) {
            Err(error) if self.tolerant && error.kind() == ErrorKind::Denied => Ok(()),
            result => result,
        }
    }

    fn join(&self, born_inside: bool) -> Result<()> {
        // `tasks` moves one thread at once; `cgroup.procs` waits for every processor (6 to 16 ms).
        for (file, path) in &self.first {
            write_value(file, "0").call(|| format!("write(<{path}>, \"0\")"))?;
        }
        match &self.second {
            Some(directory) if !born_inside => directory.set("cgroup.procs", "0"),
            _ => Ok(()),
        }
    }
}

impl Cgroup {
    /// The descriptors by which the container's first process joins; opened before the clone. None where systemd moves it
    /// ([`Cgroup::needs_pid`]).
    pub fn entry(&self) -> Result<Entry> {
        if self.needs_pid() {
            return Ok(Entry { first: Vec::new(), second: None, tolerant: false });
        }
        Ok(Entry { tolerant: false, ..self.exec_entry(&[], None)? })
    }

    /// As [`Cgroup::entry`], of a cgroup that is not made yet but for [`Cgroup::create_birthplace`].
    pub fn birth_entry(&self) -> Result<Entry> {
        let second = self.hierarchies.iter().find(|one| one.version == Version::V2 && !self.needs_pid());
        let second = second.map(|hierarchy| open_second(hierarchy, "", None)).transpose()?;
        Ok(Entry { first: Vec::new(), second, tolerant: false })
    }

    /// The descriptors by which one more process joins: `runc exec --cgroup` semantics in `sub_cgroups`.
    ///
    /// `init` is the container's first process: where the container has delegated its cgroup2 to children of its own, the
    /// new process joins the cgroup of `init`. A rootless process that may not move there stays where it is, as with runc.
    pub fn exec_entry(&self, sub_cgroups: &[String], init: Option<Pid>) -> Result<Entry> {
        let below = SubCgroups::parse(sub_cgroups)?;
        self.check_names(&below)?;
        let first = Vec::with_capacity(self.hierarchies.len());
        let mut entry = Entry { first, second: None, tolerant: self.rootless && sub_cgroups.is_empty() };
        for hierarchy in &self.hierarchies {
            let sub = below.of(hierarchy)?;
            match hierarchy.version {
                Version::V1 => entry.first.push(open_tasks(hierarchy, &sub)?),
                // Who names the container's own cgroup wants that and no other.
                Version::V2 => {
                    let init = init.filter(|_| sub_cgroups.is_empty());
                    entry.second = Some(open_second(hierarchy, &sub, init)?);
                }
            }
        }
        Ok(entry)
    }

    /// A controller that the container has no cgroup for is an error, as with runc.
    fn check_names(&self, below: &SubCgroups) -> Result<()> {
        let known = |name: &str| {
            self.hierarchies.iter().any(|one| if name.is_empty() { one.version == Version::V2 } else { one.has(name) })
        };
        match below.paths.iter().find(|(name, _)| !name.is_empty() && !known(name)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Error::new(ErrorKind::NotFound, format!("unknown controller `{name}` in `--cgroup`"))
                    .hint("on cgroup2 give the path alone: `--cgroup PATH`"))
            }
        }
    }
}

fn open_tasks(hierarchy: &Hierarchy, sub: &str) -> Result<(OwnedFd, String)> {
    let nested;
    let directory = if sub.is_empty() {
        hierarchy.directory()?
    } else {
        nested = open_below(hierarchy, sub)?;
        &nested
    };
    for name in ["tasks", "cgroup.procs"] {
        match directory.file(name, OFlags::WRONLY) {
            Err(Errno::NOENT) => {}
            result => {
                let path = format!("{}/{name}", directory.path());
                return Ok((result.call(|| format!("open(<{path}>, O_WRONLY)"))?, path));
            }
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("cgroup `{}` is gone", directory.path())))
}

/// A cgroup2 that has handed controllers down takes no process itself: then the first process says where it went.
fn open_second(hierarchy: &Hierarchy, sub: &str, init: Option<Pid>) -> Result<Directory> {
    if !sub.is_empty() {
        return open_below(hierarchy, sub);
    }
    let directory = open_below(hierarchy, "");
    let Some(init) = init else { return directory };
    let delegated = match &directory {
        Ok(directory) => !directory.read("cgroup.subtree_control").unwrap_or_default().trim().is_empty(),
        Err(_) => true,
    };
    if !delegated {
        return directory;
    }
    let Ok(path) = unified_path_of(init.as_raw_nonzero().get()) else { return directory };
    match (path_below(&path, &hierarchy.path), &directory) {
        (Some(sub), _) if !sub.is_empty() => open_below(hierarchy, sub),
        // The container left for another cgroup, and its own was removed.
        (None, Err(error)) if error.kind() == ErrorKind::NotFound => hierarchy.open(path.trim_matches('/')),
        _ => directory,
    }
}

/// What comes after the container's `path` in the path of one of its processes.
fn path_below<'a>(full: &'a str, path: &str) -> Option<&'a str> {
    let at = format!("{full}/").find(&format!("/{path}/"))?;
    full.get(at + 1 + path.len()..).map(|rest| rest.trim_matches('/'))
}

fn open_below(hierarchy: &Hierarchy, sub: &str) -> Result<Directory> {
    let path = if sub.is_empty() { hierarchy.path.clone() } else { format!("{}/{sub}", hierarchy.path) };
    hierarchy.open(&path)
}

/// `--cgroup` of `runc exec`: a path for all (the empty name), or a path by controller.
#[derive(Debug, Default, PartialEq, Eq)]
struct SubCgroups {
    paths: Vec<(String, String)>,
}

impl SubCgroups {
    fn parse(arguments: &[String]) -> Result<Self> {
        let bad = |argument: &str, why: &str| Error::invalid(format!("`--cgroup {argument}`: {why}"));
        let mut paths: Vec<(String, String)> = Vec::new();
        for argument in arguments {
            let Some((controllers, path)) = argument.split_once(':') else {
                if arguments.len() != 1 {
                    return Err(bad(argument, "with several, each names its controllers").hint("`CONTROLLER:PATH`"));
                }
                return Ok(Self { paths: vec![(String::new(), argument.clone())] });
            };
            for controller in controllers.split(',') {
                if controller.is_empty() {
                    return Err(bad(argument, "a controller before the colon is expected"));
                }
                if paths.iter().any(|(known, _)| known == controller) {
                    return Err(bad(argument, &format!("controller `{controller}` is named twice")));
                }
                paths.push((controller.to_owned(), path.to_owned()));
            }
        }
        Ok(Self { paths })
    }

    /// The cleaned path for one hierarchy, relative to the container's cgroup.
    fn of(&self, hierarchy: &Hierarchy) -> Result<String> {
        let named = self.paths.iter().find(|(name, _)| name.is_empty() || hierarchy.has(name));
        Ok(match named {
            None => String::new(),
            Some((_, path)) => {
                let names = clean(path, "--cgroup")?;
                if path.split('/').any(|name| name == "..") {
                    return Err(Error::invalid(format!(
                        "bad sub cgroup path: `--cgroup {path}` leaves the container's cgroup"
                    )));
                }
                names.join("/")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<SubCgroups> {
        SubCgroups::parse(&arguments.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn sub_cgroups_are_read_as_runc_reads_them() {
        assert_eq!(parse(&[]).unwrap(), SubCgroups::default());
        assert_eq!(parse(&["a/b"]).unwrap().paths, [(String::new(), "a/b".to_owned())]);
        let paths = parse(&["cpu,cpuacct:x", "memory:y"]).unwrap().paths;
        assert_eq!(
            paths.iter().map(|(name, path)| format!("{name}={path}")).collect::<Vec<_>>().join(" "),
            "cpu=x cpuacct=x memory=y"
        );
        for bad in [&["a", "b"][..], &[":x"], &["cpu,:x"], &["cpu:x", "cpu:y"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_first_process_is_found_below_its_container() {
        assert_eq!(path_below("/pods/web/init.scope", "pods/web"), Some("init.scope"));
        assert_eq!(path_below("/docker/x/pods/web", "pods/web"), Some(""));
        assert_eq!(path_below("/pods/website", "pods/web"), None);
    }
}
