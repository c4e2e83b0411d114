//! Which cgroup hierarchies this host has, where they are mounted, and where in them this process is.

use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Where hierarchies are mounted by convention; a mount elsewhere is taken only where there is none here.
const CONVENTION: &str = "/sys/fs/cgroup";

/// Largest part of `/proc/self/mountinfo` that is searched, bytes.
const MOUNTINFO_SIZE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest path of a cgroup, bytes.
const PATH_BYTES_MAX: usize = 4000;

/// Deepest path of a cgroup: every level costs time at every switch of processes.
const PATH_DEPTH_MAX: usize = 64;

/// The two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) version: Version,
    /// v1: controllers or `name=NAME`; empty for cgroup2.
    pub(super) controllers: Vec<String>,
    /// Mount point.
    pub(super) mount: String,
    /// The cgroup of this process beneath the mount point, without slashes around.
    pub(super) own: String,
}

/// Every hierarchy that a container joins: v1 ones in the kernel's order, then cgroup2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) hierarchies: Vec<Mounted>,
}

impl Layout {
    /// Asks the kernel. The mount table is read only as far as needed: it is long where many containers run.
    pub(super) fn read() -> Result<Self> {
        let members = read_whole("/proc/self/cgroup")?;
        let mut search = Search::new(&members);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, "/proc/self/mountinfo", flags, Mode::empty())
            .call(|| "open(\"/proc/self/mountinfo\")")?;
        let (mut buffer, mut text, mut total) = (vec![0; 8 * 1024], Vec::new(), 0);
        while !search.complete() && total < MOUNTINFO_SIZE_BYTES_MAX {
            let count = match rustix::io::read(&file, &mut buffer[..]) {
                Ok(0) => break,
                Err(Errno::INTR) => continue,
                result => result.call(|| "read(\"/proc/self/mountinfo\")")?,
            };
            total += count;
            text.extend_from_slice(&buffer[..count]);
            let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            search.lines(&String::from_utf8_lossy(&text[..end]));
            text.drain(..end);
        }
        search.finish()
    }

    /// Whether cgroup2 is all there is.
    pub(super) fn unified(&self) -> bool {
        self.hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2)
    }
}

/// A line of /proc/self/cgroup and the mount that was found for it.
struct Member {
    controllers: Vec<String>,
    path: String,
    mount: Option<Mount>,
}

struct Mount {
    root: String,
    point: String,
}

/// The search for a mount of every hierarchy.
struct Search {
    members: Vec<Member>,
    unified: bool,
}

impl Search {
    fn new(members: &str) -> Self {
        let members = members
            .lines()
            .filter_map(|line| {
                let mut words = line.splitn(3, ':');
                let (_, controllers, path) = (words.next()?, words.next()?, words.next()?);
                let controllers = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                Some(Member { controllers, path: path.to_owned(), mount: None })
            })
            .collect();
        Self { members, unified: false }
    }

    fn complete(&self) -> bool {
        let conventional = |mount: &Mount| within(&mount.point, CONVENTION).is_some();
        self.unified || self.members.iter().all(|member| member.mount.as_ref().is_some_and(conventional))
    }

    fn lines(&mut self, text: &str) {
        for line in text.lines() {
            // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELDS…] - TYPE SOURCE SUPER_OPTIONS
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            if kind != "cgroup" && kind != "cgroup2" {
                continue;
            }
            let options: Vec<&str> = right.nth(1).unwrap_or_default().split(',').collect();
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
            let mount = Mount { root: unescape(root), point: unescape(point) };
            self.mount(kind == "cgroup2", &options, mount);
        }
    }

    fn mount(&mut self, second: bool, options: &[&str], mount: Mount) {
        // cgroup2 right at the conventional place: whatever v1 hierarchies are mounted elsewhere are not the host's.
        self.unified |= second && mount.point == CONVENTION;
        let member = self.members.iter_mut().find(|member| match second {
            true => member.controllers.is_empty(),
            false => {
                !member.controllers.is_empty() && member.controllers.iter().all(|name| options.contains(&name.as_str()))
            }
        });
        let Some(member) = member else { return };
        let conventional = within(&mount.point, CONVENTION).is_some();
        let better = match &member.mount {
            None => true,
            Some(known) => conventional && within(&known.point, CONVENTION).is_none() || mount.point == CONVENTION,
        };
        if better {
            member.mount = Some(mount);
        }
    }

    fn finish(self) -> Result<Layout> {
        let unified = self.unified;
        let (mut hierarchies, mut second) = (Vec::new(), Vec::new());
        for member in self.members {
            let Some(mount) = member.mount else { continue };
            // Without a cgroup namespace a container sees the host's path, but a mount of its own part only.
            let own = within(&member.path, &mount.root).unwrap_or_default();
            let own = if own.split('/').any(|name| name == "..") { "" } else { own };
            let version = if member.controllers.is_empty() { Version::V2 } else { Version::V1 };
            let place = if version == Version::V2 { &mut second } else { &mut hierarchies };
            place.push(Mounted { version, own: own.to_owned(), controllers: member.controllers, mount: mount.point });
        }
        if unified {
            hierarchies.clear();
        }
        hierarchies.append(&mut second);
        if hierarchies.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "no cgroup file system is mounted")
                .hint("`mount -t cgroup2 cgroup2 /sys/fs/cgroup`"));
        }
        Ok(Layout { hierarchies })
    }
}

/// The cgroup2 path of process `pid`, as /proc writes it.
pub(super) fn unified_path_of(pid: i32) -> Result<String> {
    let members = read_whole(&format!("/proc/{pid}/cgroup"))?;
    let path = members.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("process {pid} is in no cgroup2")))
}

/// `path` relative to `base` (no slashes around), if it is `base` or beneath.
fn within<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(base.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
}

/// mountinfo writes space, tab, newline and backslash as `\OOO`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_whole(path: &str) -> Result<String> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open(\"{path}\")"))?;
    super::directory::read_to_end(&file).call(|| format!("read(\"{path}\")"))
}

/// The components of a cgroup path from a document: `.`, `..` and doubled slashes resolved, never above the root.
pub(super) fn clean<'a>(path: &'a str, field: &str) -> Result<Vec<&'a str>> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name if name.len() > 255 || name.contains(['\0', '\n']) => {
                return Err(Error::invalid(format!(
                    "`{field}` has a component that cannot name a cgroup: {}",
                    name.chars().take(64).collect::<String>().escape_debug()
                )));
            }
            name => names.push(name),
        }
    }
    if path.len() > PATH_BYTES_MAX || names.len() > PATH_DEPTH_MAX {
        let (bytes, depth) = (path.len(), names.len());
        let most = format!("{PATH_BYTES_MAX} bytes and {PATH_DEPTH_MAX} components are the most");
        return Err(Error::invalid(format!("`{field}` has {bytes} bytes in {depth} components; {most}")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(members: &str, mounts: &str) -> Layout {
        let mut search = Search::new(members);
        search.lines(mounts);
        search.finish().unwrap()
    }

    #[test]
    fn a_hybrid_host_has_v1_hierarchies_and_cgroup2_last() {
        let layout = layout(
            "9:name=systemd:/\n4:memory:/api/x\n2:cpu,cpuacct:/\n0::/mine\n",
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /srv/cgroup/memory rw - cgroup cgroup rw,memory\n\
             36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/sys\\040temd rw - cgroup cgroup rw,xattr,name=systemd\n",
        );
        let seen: Vec<_> = layout.hierarchies.iter().map(|one| (one.mount.as_str(), one.own.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("/sys/fs/cgroup/sys temd", ""),
                ("/sys/fs/cgroup/memory", "api/x"),
                ("/sys/fs/cgroup/cpu,cpuacct", ""),
                ("/sys/fs/cgroup/unified", "mine"),
            ]
        );
        assert!(!layout.unified());
    }

    #[test]
    fn cgroup2_at_the_conventional_place_is_the_whole_host() {
        let layout = layout(
            "3:net_cls:/\n0::/user.slice/a.scope\n",
            "50 31 0:50 / /sys/fs/cgroup/net_cls rw - cgroup net_cls rw,net_cls\n\
             41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert!(layout.unified());
        assert_eq!(layout.hierarchies[0].own, "user.slice/a.scope");
    }

    #[test]
    fn a_mount_of_a_part_is_the_root_of_what_is_seen() {
        let mounts = "41 31 0:38 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(layout("0::/docker/x/init\n", mounts).hierarchies[0].own, "init");
        assert_eq!(layout("0::/docker/xy\n", mounts).hierarchies[0].own, "");
        assert_eq!(layout("0::/../outside\n", "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n").hierarchies[0].own, "");
    }

    #[test]
    fn hostile_paths_stay_beneath_the_mount() {
        let clean = |path: &str| clean(path, "linux.cgroupsPath").map(|names| names.join("/"));
        assert_eq!(clean("/../../a//./b/../c/").unwrap(), "a/c");
        assert_eq!(clean("../../etc").unwrap(), "etc");
        assert_eq!(clean("/").unwrap(), "");
        assert!(clean("/a\nb").unwrap_err().message().contains("linux.cgroupsPath"));
        assert!(clean(&"a".repeat(256)).is_err());
        assert!(clean(&"a/".repeat(3000)).is_err() && clean(&"a/".repeat(65)).is_err());
        assert!(clean(&"a/".repeat(64)).is_ok());
    }

    #[test]
    fn the_layout_of_this_host_is_found() {
        assert!(!Layout::read().unwrap().hierarchies.is_empty());
    }
}
