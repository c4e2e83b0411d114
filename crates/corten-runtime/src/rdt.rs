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
        let name = if rdt.clos_id.is_empty() { id } else { &rdt.clos_id };
        if rdt.clos_id != "/" && (name.contains('/') || matches!(name, "." | ".." | "info" | "mon_data" | "mon_groups"))
        {
            return Err(Error::invalid(format!("`linux.intelRdt.closID` is not a plain name: `{name}`")));
        }
        let group = if name == "/" { PathBuf::from(ROOT) } else { Path::new(ROOT).join(name) };
        let mut schemata = rdt.schemata.clone();
        schemata
            .extend([&rdt.l3_cache_schema, &rdt.mem_bw_schema].into_iter().filter(|line| !line.is_empty()).cloned());
        if !rdt.clos_id.is_empty() && schemata.is_empty() && !group.exists() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`linux.intelRdt.closID` names no existing class: `{name}`"),
            )
            .hint("give `schemata` to have it made"));
        }
        let monitor = rdt.enable_monitoring.then(|| group.join("mon_groups").join(id));
        Ok(Self { own: rdt.clos_id.is_empty(), group, monitor, schemata })
    }

    /// The directory to remove with the container.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        if self.own { Some(self.group.clone()) } else { self.monitor.clone() }
    }

    pub(crate) fn create(&self) -> Result<()> {
        make(&self.group)?;
        if !self.schemata.is_empty() {
            let path = self.group.join("schemata");
            let lines = format!("{}\n", self.schemata.join("\n"));
            fs::write(&path, &lines).context(|| format!("cannot write `{}` to `{}`", lines.trim(), path.display()))?;
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
