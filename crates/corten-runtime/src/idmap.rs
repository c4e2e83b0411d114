//! Id maps of a user namespace (user_namespaces(7)): checked, then written directly or by newuidmap and newgidmap.

use std::process::{Command, Stdio};

use corten_types::runtime_spec::{IdMapping, Linux};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::process::Pid;

/// Most lines that the kernel takes for one map.
const LINES_MAX: usize = 340;

/// The maps of a new user namespace; empty where there is none.
#[derive(Debug, Default, Clone)]
pub(crate) struct IdMaps {
    uid: Vec<IdMapping>,
    gid: Vec<IdMapping>,
}

impl IdMaps {
    pub(crate) fn build(linux: &Linux) -> Result<Self> {
        check("linux.uidMappings", &linux.uid_mappings)?;
        check("linux.gidMappings", &linux.gid_mappings)?;
        Ok(Self { uid: linux.uid_mappings.clone(), gid: linux.gid_mappings.clone() })
    }

    /// The host's id of a uid inside.
    pub(crate) fn host_uid(&self, inside: u32) -> Option<u32> {
        host(&self.uid, inside)
    }

    /// The host's id of a gid inside.
    pub(crate) fn host_gid(&self, inside: u32) -> Option<u32> {
        host(&self.gid, inside)
    }

    /// Writes both maps for `pid`, which waits in its new user namespace.
    pub(crate) fn write(&self, pid: Pid) -> Result<()> {
        let process = format!("/proc/{}", pid.as_raw_nonzero());
        let privileged = rustix::process::geteuid().is_root();
        if !privileged && self.is_own_id_alone() {
            // An unprivileged writer of gid_map must give up setgroups first (user_namespaces(7)).
            std::fs::write(format!("{process}/setgroups"), "deny").context(|| "cannot deny setgroups")?;
        }
        self.write_one(&process, "uid_map", &self.uid, "newuidmap", pid)?;
        self.write_one(&process, "gid_map", &self.gid, "newgidmap", pid)
    }

    fn is_own_id_alone(&self) -> bool {
        self.gid.len() == 1 && self.gid[0].size == 1 && self.gid[0].host_id == rustix::process::getegid().as_raw()
    }

    fn write_one(&self, process: &str, file: &str, maps: &[IdMapping], helper: &str, pid: Pid) -> Result<()> {
        let path = format!("{process}/{file}");
        let failure = match std::fs::write(&path, text(maps)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if failure.raw_os_error() != Some(1) {
            return Err(Error::from(failure).context(format!("cannot write `{path}`")));
        }
        run_helper(helper, pid, maps).context(|| format!("cannot write `{path}`: {failure}"))
    }
}

fn run_helper(helper: &str, pid: Pid, maps: &[IdMapping]) -> Result<()> {
    let mut command = Command::new(helper);
    command.arg(pid.as_raw_nonzero().to_string()).stdin(Stdio::null());
    for map in maps {
        command.args([map.container_id, map.host_id, map.size].map(|number| number.to_string()));
    }
    let output = command.output().map_err(|error| {
        Error::new(ErrorKind::Unsupported, format!("cannot run `{helper}`: {error}"))
            .hint("install the package `uidmap`, or map only your own id")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::Denied, format!("`{helper}` failed: {}", said.trim()))
        .hint("the ranges must be yours in /etc/subuid and /etc/subgid"))
}

fn text(maps: &[IdMapping]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.container_id, map.host_id, map.size)).collect()
}

fn host(maps: &[IdMapping], inside: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = inside.checked_sub(map.container_id)?;
        if offset < map.size { map.host_id.checked_add(offset) } else { None }
    })
}

fn check(field: &str, maps: &[IdMapping]) -> Result<()> {
    if maps.len() > LINES_MAX {
        return Err(Error::invalid(format!("`{field}` has {} ranges, the kernel takes {LINES_MAX}", maps.len())));
    }
    for (index, map) in maps.iter().enumerate() {
        let ends = [map.container_id, map.host_id].map(|first| first.checked_add(map.size));
        if map.size == 0 || ends.contains(&None) {
            return Err(Error::invalid(format!("`{field}[{index}]` is empty or runs past the last id")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id, host_id, size }
    }

    #[test]
    fn an_id_inside_has_its_id_outside() {
        let maps = [map(0, 1000, 1), map(1, 100_000, 65536)];
        assert_eq!([0, 1, 65536, 65537].map(|id| host(&maps, id)), [Some(1000), Some(100_000), Some(165_535), None]);
    }

    #[test]
    fn ranges_that_wrap_or_are_empty_are_refused() {
        for bad in [map(0, 0, 0), map(u32::MAX, 0, 2), map(0, u32::MAX, 1)] {
            assert!(check("linux.uidMappings", &[bad]).is_err());
        }
        assert!(check("linux.uidMappings", &[map(0, 0, u32::MAX)]).is_ok());
    }
}
