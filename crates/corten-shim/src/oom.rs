//! Whether the kernel killed for want of memory, asked of the memory cgroup of the first process.

use std::path::{Path, PathBuf};

/// Where the count of kills is read.
#[derive(Debug)]
pub(crate) struct Counter(PathBuf);

impl Counter {
    /// The counter of the cgroup that process `pid` is in, by the usual mount points; `None` where there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let membership = corten_fs::root::read_ambient(Path::new(&format!("/proc/{pid}/cgroup")), 64 * 1024).ok()?;
        candidates(&String::from_utf8_lossy(&membership)).into_iter().find(|path| path.exists()).map(Self)
    }

    /// Whether it killed anything since the cgroup was made.
    pub(crate) fn has_killed(&self) -> bool {
        corten_fs::root::read_ambient(&self.0, 4096).is_ok_and(|content| kills(&String::from_utf8_lossy(&content)) > 0)
    }
}

fn candidates(membership: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let beneath = path.trim_start_matches('/');
        // The root's own counter is the machine's, not the container's.
        if beneath.is_empty() || beneath.starts_with("..") {
            continue;
        }
        if controllers.split(',').any(|name| name == "memory") {
            paths.push(Path::new("/sys/fs/cgroup/memory").join(beneath).join("memory.oom_control"));
        } else if controllers.is_empty() {
            paths.push(Path::new("/sys/fs/cgroup").join(beneath).join("memory.events"));
            paths.push(Path::new("/sys/fs/cgroup/unified").join(beneath).join("memory.events"));
        }
    }
    paths
}

fn kills(content: &str) -> u64 {
    content
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == "oom_kill")
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_lies_in_the_memory_cgroup() {
        let paths = candidates("5:memory:/corten/a\n1:name=systemd:/corten/a\n0::/corten/a\n2:cpu:/\n");
        let text: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            text,
            [
                "/sys/fs/cgroup/memory/corten/a/memory.oom_control",
                "/sys/fs/cgroup/corten/a/memory.events",
                "/sys/fs/cgroup/unified/corten/a/memory.events"
            ]
        );
        assert!(candidates("0::/\n").is_empty());
    }

    #[test]
    fn both_versions_name_the_count_alike() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(kills("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(kills(""), 0);
    }
}
