//! What this runtime implements, as the document of the runtime specification's features.md.

use std::collections::BTreeMap;

use corten_types::{capability, runtime_spec};
use serde::Serialize;

use crate::seccomp;

/// The document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Oldest version of the specification that is understood.
    pub oci_version_min: &'static str,
    /// Newest version of the specification that is understood.
    pub oci_version_max: &'static str,
    /// Kinds of hooks.
    pub hooks: [&'static str; 6],
    /// Mount options that the runtime itself interprets.
    pub mount_options: Vec<&'static str>,
    /// What is specific to Linux.
    pub linux: Linux,
    /// What the specification has no field for.
    pub annotations: BTreeMap<&'static str, &'static str>,
    /// Annotations of config.json that change the host when honoured; this runtime honours none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub potentially_unsafe_config_annotations: Vec<&'static str>,
}

/// What is specific to Linux.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// Kinds of namespaces.
    pub namespaces: [&'static str; 8],
    /// Capabilities by name.
    pub capabilities: Vec<String>,
    /// Control groups.
    pub cgroup: Cgroup,
    /// System call filters.
    pub seccomp: Seccomp,
    /// AppArmor profiles.
    pub apparmor: Enabled,
    /// SELinux labels.
    pub selinux: Enabled,
    /// Intel RDT.
    pub intel_rdt: IntelRdt,
    /// NUMA policies.
    pub memory_policy: MemoryPolicy,
    /// Extensions of mounts.
    pub mount_extensions: MountExtensions,
    /// Network interfaces that are moved in.
    pub net_devices: Enabled,
}

/// Whether something is implemented.
#[derive(Debug, Serialize)]
pub struct Enabled {
    /// Whether it is.
    pub enabled: bool,
}

/// Control groups.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Scopes made by systemd.
    pub systemd: bool,
    /// Scopes made by a user's systemd.
    pub systemd_user: bool,
    /// The rdma controller.
    pub rdma: bool,
}

/// System call filters.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// Whether filters are implemented.
    pub enabled: bool,
    /// `SCMP_ACT_…`
    pub actions: &'static [&'static str],
    /// `SCMP_CMP_…`
    pub operators: &'static [&'static str],
    /// `SCMP_ARCH_…`
    pub archs: &'static [&'static str],
    /// `SECCOMP_FILTER_FLAG_…`
    pub known_flags: &'static [&'static str],
    /// Those that this kernel has.
    pub supported_flags: Vec<&'static str>,
}

/// Intel RDT.
#[derive(Debug, Serialize)]
pub struct IntelRdt {
    /// Whether `linux.intelRdt` is implemented.
    pub enabled: bool,
    /// Whether `linux.intelRdt.schemata` is.
    pub schemata: bool,
    /// Whether `linux.intelRdt.enableMonitoring` is.
    pub monitoring: bool,
}

/// NUMA policies.
#[derive(Debug, Serialize)]
pub struct MemoryPolicy {
    /// `MPOL_…`
    pub modes: Vec<&'static str>,
    /// `MPOL_F_…`
    pub flags: Vec<&'static str>,
}

fn memory_policy() -> MemoryPolicy {
    let (modes, flags) = crate::process::limits::memory_policy_names();
    MemoryPolicy { modes, flags }
}

/// Extensions of mounts.
#[derive(Debug, Serialize)]
pub struct MountExtensions {
    /// Id-mapped mounts.
    pub idmap: Enabled,
}

/// What this runtime implements.
pub fn features() -> Features {
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: runtime_spec::VERSION,
        hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: crate::rootfs::mount_options(),
        linux: Linux {
            namespaces: ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            capabilities: capability::NAMES.iter().map(|name| format!("CAP_{name}")).collect(),
            cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: Seccomp {
                enabled: true,
                actions: seccomp::known_actions(),
                operators: seccomp::known_operators(),
                archs: seccomp::known_architectures(),
                known_flags: seccomp::known_flags(),
                supported_flags: seccomp::supported_flags(),
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdt { enabled: true, schemata: true, monitoring: true },
            memory_policy: memory_policy(),
            mount_extensions: MountExtensions { idmap: Enabled { enabled: true } },
            net_devices: Enabled { enabled: true },
        },
        annotations: BTreeMap::new(),
        potentially_unsafe_config_annotations: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_specifications_names() {
        let json = serde_json::to_value(features()).unwrap();
        for path in [
            "/ociVersionMax",
            "/mountOptions/0",
            "/linux/cgroup/systemdUser",
            "/linux/seccomp/knownFlags",
            "/linux/intelRdt/monitoring",
            "/linux/memoryPolicy/modes/0",
            "/linux/mountExtensions/idmap/enabled",
            "/linux/netDevices/enabled",
        ] {
            assert!(json.pointer(path).is_some(), "{path}");
        }
    }
}
