//! Everything that the container's first process will do, decided and checked before the clone.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use corten_types::runtime_spec::{ConsoleSize, Hook, Hooks, NamespaceKind, Spec};
use corten_types::{Error, ErrorKind, Result};

use crate::namespaces::NamespacePlan;
use crate::process::ProcessPlan;
use crate::rootfs::RootfsPlan;
use crate::runtime::ContainerState;
use crate::sysctl::SysctlPlan;

/// Longest host name (`__NEW_UTS_LEN`).
const HOST_NAME_LENGTH_MAX: usize = 64;

/// What the child walks, step by step.
#[derive(Debug)]
pub(crate) struct InitPlan {
    pub(crate) hostname: Option<Vec<u8>>,
    pub(crate) domainname: Option<Vec<u8>>,
    pub(crate) keyring: Option<CString>,
    pub(crate) net_devices: bool,
    pub(crate) runtime_hooks: bool,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<Hook>,
    pub(crate) rootfs: RootfsPlan,
    pub(crate) sysctl: SysctlPlan,
    pub(crate) process: ProcessPlan,
    pub(crate) stdio: Stdio,
    pub(crate) preserve_fds: u32,
    /// For the hooks that run inside.
    pub(crate) state: ContainerState,
}

/// Where the standard descriptors come from.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// The caller's own.
    Inherit,
    /// Three given ones.
    Given([OwnedFd; 3]),
    /// A new terminal of the container.
    Terminal {
        size: Option<ConsoleSize>,
        /// As in [`crate::runtime::CreateRequest`].
        keep_line_feeds: bool,
    },
}

impl Stdio {
    pub(crate) fn new(
        terminal: bool,
        size: Option<ConsoleSize>,
        given: Option<[OwnedFd; 3]>,
        keep_line_feeds: bool,
    ) -> Self {
        match given {
            _ if terminal => Self::Terminal { size, keep_line_feeds },
            Some(list) => Self::Given(list),
            None => Self::Inherit,
        }
    }
}

/// Checks what concerns the document as a whole; the parts check themselves where they are planned.
pub(crate) fn check(spec: &Spec) -> Result<()> {
    check_version(&spec.oci_version)?;
    if spec.root.as_ref().is_none_or(|root| root.path.is_empty()) {
        return Err(Error::invalid("`root.path` is missing in `config.json`"));
    }
    if spec.process.is_none() {
        return Err(Error::invalid("`process` is missing in `config.json`"));
    }
    if let Some(linux) = &spec.linux {
        crate::net_device::check(&linux.net_devices)?;
    }
    crate::hooks::check(spec.hooks.as_ref().unwrap_or(&Hooks::default()))
}

/// A semantic version with major number 1 (config.md, "Specification version").
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(major), Some(_), Some(_)] => Err(Error::new(
            ErrorKind::Unsupported,
            format!("`ociVersion` is {version}: major version {major} is not supported, 1 is"),
        )),
        _ => Err(Error::invalid(format!("`ociVersion` is not a version: `{version}`"))),
    }
}

/// The host name and the domain name, which need a UTS namespace of the container's own.
pub(crate) fn uts_name(field: &str, name: &str, namespaces: &NamespacePlan) -> Result<Option<Vec<u8>>> {
    if name.is_empty() {
        return Ok(None);
    }
    if !namespaces.has(NamespaceKind::Uts) {
        return Err(Error::invalid(format!("`{field}` is set, but `linux.namespaces` has no `uts` namespace")));
    }
    if name.len() > HOST_NAME_LENGTH_MAX || name.contains('\0') {
        return Err(Error::invalid(format!("`{field}` is longer than {HOST_NAME_LENGTH_MAX} bytes or contains NUL")));
    }
    Ok(Some(name.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_major_version_1_is_taken() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.9.9+build"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "1", "1.0", "2.0.0", "0.9.0", "1.x.0", "one"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
