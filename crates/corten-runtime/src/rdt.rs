//! Cache and memory bandwidth allocation through the resctrl file system (config-linux.md, "IntelRdt").
//!
//! ```text
//! /sys/fs/resctrl/CLOS/{schemata,tasks}            the class of service
//! /sys/fs/resctrl/CLOS/mon_groups/ID/tasks         counters of one container, where monitoring is asked for
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use corten_types::runtime_spec::IntelRdt;
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::process::Pid;

const ROOT: &str = "/sys/fs/resctrl";

/// What the container asks for, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    group: PathBuf,
    /// Made for this container alone, so removed with it.
    own: bool,
    monitor: Option<PathBuf>,
    schemata: Vec<String>,
}

impl Plan {
    pub(crate) fn build(rdt: &IntelRdt, id: &str) -> Result<Self> {
        if !Path::new(ROOT).join("info").exists() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "`linux.intelRdt` is set, but no resctrl file system is mounted",
            )
            .hint(format!("`mount -t resctrl resctrl {ROOT}` on a CPU with RDT")));
        }
        let group = Self::group(Path::new(ROOT), rdt, id)?;
        let mut schemata = rdt.schemata.clone();
        schemata
            .extend([&rdt.l3_cache_schema, &rdt.mem_bw_schema].into_iter().filter(|line| !line.is_empty()).cloned());
        if !rdt.clos_id.is_empty() && schemata.is_empty() && !group.exists() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`linux.intelRdt.closID` names no existing class: `{}`", rdt.clos_id),
            )
            .hint("give `schemata` to have it made"));
        }
        let monitor = rdt.enable_monitoring.then(|| group.join("mon_groups").join(id));
        Ok(Self { own: rdt.clos_id.is_empty(), group, monitor, schemata })
    }

    /// The directory of the class of service.
    fn group(root: &Path, rdt: &IntelRdt, id: &str) -> Result<PathBuf> {
        let name = if rdt.clos_id.is_empty() { id } else { &rdt.clos_id };
        if name == "/" {
            return Ok(root.to_path_buf());
        }
        if name.contains('/') || matches!(name, "." | ".." | "info" | "mon_data" | "mon_groups") {
            return Err(Error::invalid(format!("`linux.intelRdt.closID` is not a plain name: `{name}`")));
        }
        Ok(root.join(name))
    }

    /// The directory to remove with the container.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        if self.own { Some(self.group.clone()) } else { self.monitor.clone() }
    }

    pub(crate) fn create(&self) -> Result<()> {
        make(&self.group)?;
        if !self.schemata.is_empty() {
            write_schemata(&self.group.join("schemata"), &self.schemata)?;
        }
        self.monitor.as_deref().map_or(Ok(()), make)
    }

    /// Puts the container's first process in; its children follow.
    pub(crate) fn add(&self, pid: Pid) -> Result<()> {
        for directory in [Some(&self.group), self.monitor.as_ref()].into_iter().flatten() {
            let path = directory.join("tasks");
            fs::write(&path, pid.as_raw_nonzero().to_string())
                .context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(())
    }
}

/// New schemata of a living container (`update`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Schemata<'a> {
    /// `L3:ID=MASK;…`
    pub l3_cache: Option<&'a str>,
    /// `MB:ID=PERCENT;…`
    pub memory_bandwidth: Option<&'a str>,
}

/// A change of a class's schemata, checked.
#[derive(Debug)]
pub(crate) struct Update {
    file: PathBuf,
    lines: Vec<String>,
}

impl Update {
    /// `None` where nothing is to change. `rdt` is what the container was created with.
    pub(crate) fn build(schemata: &Schemata<'_>, rdt: Option<&IntelRdt>, id: &str) -> Result<Option<Self>> {
        Self::build_at(Path::new(ROOT), schemata, rdt, id)
    }

    fn build_at(root: &Path, schemata: &Schemata<'_>, rdt: Option<&IntelRdt>, id: &str) -> Result<Option<Self>> {
        let mut lines = Vec::new();
        for (value, resource, what) in [
            (schemata.l3_cache, "L3", "Intel RDT/CAT: L3 cache allocation"),
            (schemata.memory_bandwidth, "MB", "Intel RDT/MBA: memory bandwidth allocation"),
        ] {
            let Some(value) = value else { continue };
            // With code and data apart (cdp) the kernel has L3CODE and L3DATA.
            if !["", "CODE"].iter().any(|suffix| root.join("info").join(format!("{resource}{suffix}")).exists()) {
                return Err(Error::new(ErrorKind::Unsupported, format!("{what} is not enabled on this machine"))
                    .hint(format!("`mount -t resctrl resctrl {ROOT}` on a CPU that has it")));
            }
            lines.extend(value.lines().filter(|line| !line.is_empty()).map(str::to_owned));
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let Some(rdt) = rdt else {
            return Err(Error::invalid(format!("container `{id}` was created without `linux.intelRdt`"))
                .hint("set it in config.json when the container is created; `update` changes its schemata alone"));
        };
        let group = Plan::group(root, rdt, id)?;
        Ok(Some(Self { file: group.join("schemata"), lines }))
    }

    /// The kernel changes the lines that are named and keeps the others.
    pub(crate) fn apply(&self) -> Result<()> {
        write_schemata(&self.file, &self.lines)
    }
}

fn write_schemata(path: &Path, lines: &[String]) -> Result<()> {
    let lines = format!("{}\n", lines.join("\n"));
    fs::write(path, &lines).context(|| format!("cannot write `{}` to `{}`", lines.trim(), path.display()))
}

fn make(directory: &Path) -> Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::from(error).context(format!("cannot make `{}`", directory.display())))
        }
        _ => Ok(()),
    }
}

/// Removes what [`Plan::directory`] named; its absence is no error.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::from(error).context(format!("cannot remove `{}`", directory.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemata_of_a_class_change_where_the_machine_has_them() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("info")).unwrap();
        fs::create_dir(root.path().join("info/L3CODE")).unwrap();
        fs::create_dir(root.path().join("box")).unwrap();
        let rdt = IntelRdt::default();
        let cache = Schemata { l3_cache: Some("L3:0=f\n"), memory_bandwidth: None };
        let build = |schemata: &Schemata<'_>, rdt| Update::build_at(root.path(), schemata, rdt, "box");
        build(&cache, Some(&rdt)).unwrap().unwrap().apply().unwrap();
        assert_eq!(fs::read_to_string(root.path().join("box/schemata")).unwrap(), "L3:0=f\n");
        let bandwidth = Schemata { l3_cache: None, memory_bandwidth: Some("MB:0=50") };
        let refused = build(&bandwidth, Some(&rdt)).unwrap_err();
        assert_eq!(refused.message(), "Intel RDT/MBA: memory bandwidth allocation is not enabled on this machine");
        assert!(build(&cache, None).unwrap_err().message().contains("without `linux.intelRdt`"));
        let outside = IntelRdt { clos_id: "../x".to_owned(), ..IntelRdt::default() };
        assert!(build(&cache, Some(&outside)).is_err());
        assert!(build(&Schemata::default(), None).unwrap().is_none());
    }
}
