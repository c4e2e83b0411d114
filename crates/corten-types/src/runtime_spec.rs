//! `config.json` of the OCI runtime specification 1.3, as data.
//!
//! Field for field the specification's document (config.md, config-linux.md); names are its names in Rust's spelling, with
//! `type` written `kind`. Unknown properties are ignored, as the specification asks; `null` is an absent value, as Go's
//! encoder writes it. [`Spec::parse`] says which field is wrong. Meaning is checked by the runtime, not here.

mod example;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result};

/// Largest `config.json` that is read, bytes.
pub const SPEC_SIZE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Version of the specification that is implemented.
pub const VERSION: &str = "1.3.0";

impl Spec {
    /// Parses `config.json`; an error names the field and what was expected there.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse_document(json, "config.json")
    }
}

impl Process {
    /// Parses the `process.json` of an exec.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse_document(json, "process.json")
    }
}

impl Resources {
    /// Parses the resources document of an update.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse_document(json, "resources")
    }
}

/// Parses any of the specifications' JSON documents; `name` is what an error calls it.
///
/// The fast path knows no field names; only a document that fails is read again to name the field.
pub fn parse_document<'a, T: Deserialize<'a>>(json: &'a [u8], name: &str) -> Result<T> {
    // Otherwise a list would be read as the fields in their order.
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::invalid(format!("`{name}` is not a valid document: a list in place of an object")));
    }
    parse_any(json, name)
}

/// As [`parse_document`], for a document that is a list.
pub fn parse_list<'a, T: Deserialize<'a>>(json: &'a [u8], name: &str) -> Result<Vec<T>> {
    parse_any(json, name)
}

fn parse_any<'a, T: Deserialize<'a>>(json: &'a [u8], name: &str) -> Result<T> {
    // Checked as a whole, the text need not be checked string by string; what is no text fails at its place.
    let read = match std::str::from_utf8(json) {
        Ok(text) => serde_json::from_str::<T>(text),
        Err(_) => serde_json::from_slice::<T>(json),
    };
    let plain = match read {
        Ok(document) => return Ok(document),
        Err(error) => error,
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) if error.path().iter().next().is_some() => {
            Error::invalid(format!("`{}` in `{name}`: {}", error.path(), error.inner()))
        }
        _ => Error::invalid(format!("`{name}` is not a valid document")).caused_by(plain),
    };
    Err(error)
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The kinds of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// Process ids.
    #[default]
    Pid,
    /// Network stack.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// User and group ids.
    User,
    /// Cgroup root.
    Cgroup,
    /// Monotonic and boot-time clocks.
    Time,
}

/// The whole of `config.json` (config.md).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Version of the specification the document is written to.
    #[serde(rename = "ociVersion", default)]
    pub oci_version: String,
    /// The program to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The container's root file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Host name inside the UTS namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// NIS domain name inside the UTS namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Mounts beyond the root, in order.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs run at points of the life cycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Arbitrary metadata.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Linux-specific settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// The program and its surroundings (config.md, "Process").
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Whether a terminal is attached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub terminal: bool,
    /// Terminal size in characters.
    #[serde(rename = "consoleSize", default, skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Identity of the program.
    #[serde(default)]
    pub user: User,
    /// Program and arguments.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment, `NAME=VALUE`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Absolute working directory inside the container.
    #[serde(default)]
    pub cwd: String,
    /// The five capability sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Sets `no_new_privs` (prctl(2)).
    #[serde(rename = "noNewPrivileges", default, skip_serializing_if = "is_default")]
    pub no_new_privileges: bool,
    /// AppArmor profile for the program.
    #[serde(rename = "apparmorProfile", default, skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// Value for /proc/self/oom_score_adj.
    #[serde(rename = "oomScoreAdj", default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Scheduling policy (sched_setattr(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// SELinux label for the program.
    #[serde(rename = "selinuxLabel", default, skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// I/O priority (ioprio_set(2)).
    #[serde(rename = "ioPriority", default, skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// CPUs of an exec'ed program before and after joining the cgroup.
    #[serde(rename = "execCPUAffinity", default, skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Terminal size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Rows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub height: u16,
    /// Columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub width: u16,
}

/// Identity of the program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// User id inside the container.
    #[serde(default)]
    pub uid: u32,
    /// Group id inside the container.
    #[serde(default)]
    pub gid: u32,
    /// File mode creation mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(rename = "additionalGids", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    /// Only for Windows; kept so that it round-trips.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
}

/// Capability sets by name (capabilities(7)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding set.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    /// Effective set.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    /// Inheritable set.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// Permitted set.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    /// Ambient set.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// One resource limit (getrlimit(2)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name, `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Ceiling; all ones is unlimited.
    pub hard: u64,
    /// Value in force.
    pub soft: u64,
}

/// Scheduling attributes (sched_setattr(2)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_OTHER` and so on.
    pub policy: String,
    /// Nice value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nice: i32,
    /// Static priority of real-time policies.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// `SCHED_FLAG_…`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Nanoseconds, deadline policy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: u64,
    /// Nanoseconds, deadline policy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deadline: u64,
    /// Nanoseconds, deadline policy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub period: u64,
}

/// I/O priority (ioprio_set(2)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `_BE` or `_IDLE`.
    pub class: String,
    /// 0 (highest) to 7.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
}

/// CPU lists such as `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuAffinity {
    /// In force while the cgroup is joined.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub initial: String,
    /// In force when the program starts.
    #[serde(rename = "final", default, skip_serializing_if = "String::is_empty")]
    pub last: String,
}

/// The container's root file system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// Directory, absolute or relative to the bundle.
    pub path: String,
    /// Whether it is remounted read-only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub readonly: bool,
}

/// One mount (config.md, "Mounts").
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Place inside the container.
    pub destination: String,
    /// File system type; `bind` and `none` mean a bind mount when an option says so.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Device, directory or name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Mount options as in fstab(5) and the specification's table.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// User ids of an id-mapped mount.
    #[serde(rename = "uidMappings", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of an id-mapped mount.
    #[serde(rename = "gidMappings", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs run at points of the life cycle (config.md, "POSIX-platform Hooks").
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hooks {
    /// Runtime namespace, after create's namespaces exist (deprecated).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// Runtime namespace, before pivot_root.
    #[serde(rename = "createRuntime", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// Container namespace, before pivot_root.
    #[serde(rename = "createContainer", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// Container namespace, before the program is executed.
    #[serde(rename = "startContainer", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// Runtime namespace, after the program was started.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// Runtime namespace, after the container was deleted.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// One hook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// Arguments, the program's name first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment, whole.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds until it is killed; must be above zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// Linux-specific settings (config-linux.md).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Linux {
    /// User ids of the user namespace.
    #[serde(rename = "uidMappings", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of the user namespace.
    #[serde(rename = "gidMappings", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters set inside the namespaces.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Cgroup limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Path of the cgroup, or `slice:prefix:name` for systemd.
    #[serde(rename = "cgroupsPath", default, skip_serializing_if = "String::is_empty")]
    pub cgroups_path: String,
    /// Namespaces to make or join.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// Device nodes to make.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Host interfaces to move in, by host name.
    #[serde(rename = "netDevices", default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub net_devices: BTreeMap<String, NetDevice>,
    /// System call filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// `shared`, `slave`, `private`, `unbindable` and their `r` forms.
    #[serde(rename = "rootfsPropagation", default, skip_serializing_if = "String::is_empty")]
    pub rootfs_propagation: String,
    /// Paths that become unreadable.
    #[serde(rename = "maskedPaths", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// Paths that become read-only.
    #[serde(rename = "readonlyPaths", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
    /// SELinux context of the mounts.
    #[serde(rename = "mountLabel", default, skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
    /// Cache and memory bandwidth allocation.
    #[serde(rename = "intelRdt", default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// NUMA policy (set_mempolicy(2)).
    #[serde(rename = "memoryPolicy", default, skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy>,
    /// Execution domain (personality(2)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<Personality>,
    /// Clock offsets of the time namespace, by clock.
    #[serde(
        rename = "timeOffsets",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub time_offsets: BTreeMap<String, TimeOffset>,
}

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// Namespace file to join; empty for a new one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// One range of user_namespaces(7).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// Offset of one clock (time_namespaces(7)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secs: i64,
    /// Nanoseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nanosecs: u32,
}

/// A device node (mknod(1)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Place inside the container.
    pub path: String,
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub major: i64,
    /// Minor number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub minor: i64,
    /// Permission bits.
    #[serde(rename = "fileMode", default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A network interface moved into the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetDevice {
    /// Its name inside; empty keeps the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// Cgroup limits (config-linux.md, "Control groups").
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Device access rules, in order.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRule>,
    /// Memory limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// CPU limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Process count limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// Block I/O limits.
    #[serde(rename = "blockIO", default, skip_serializing_if = "Option::is_none")]
    pub block_io: Option<BlockIo>,
    /// Huge page limits.
    #[serde(rename = "hugepageLimits", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Network class and priorities (cgroup v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// RDMA limits by device.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub rdma: BTreeMap<String, Rdma>,
    /// cgroup v2 files and their values.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
}

/// One device access rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Whether access is allowed.
    pub allow: bool,
    /// `a`, `c` or `b`; empty is `a`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Major number; absent or -1 is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Minor number; absent or -1 is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Some of `rwm`; empty is all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub access: String,
}

/// Memory limits, bytes; -1 is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Hard limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Soft limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<i64>,
    /// Memory plus swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
    /// Kernel memory (obsolete).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<i64>,
    /// TCP buffers (cgroup v1).
    #[serde(rename = "kernelTCP", default, skip_serializing_if = "Option::is_none")]
    pub kernel_tcp: Option<i64>,
    /// 0 to 100 (cgroup v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swappiness: Option<u64>,
    /// Whether the OOM killer is off (cgroup v1).
    #[serde(rename = "disableOOMKiller", default, skip_serializing_if = "Option::is_none")]
    pub disable_oom_killer: Option<bool>,
    /// Hierarchical accounting (cgroup v1).
    #[serde(rename = "useHierarchy", default, skip_serializing_if = "Option::is_none")]
    pub use_hierarchy: Option<bool>,
    /// Refuse a limit below current usage.
    #[serde(rename = "checkBeforeUpdate", default, skip_serializing_if = "Option::is_none")]
    pub check_before_update: Option<bool>,
}

/// CPU limits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Relative weight, 2 to 262144.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// Microseconds per period; -1 is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
    /// Microseconds that may be accumulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// Microseconds of real-time scheduling.
    #[serde(rename = "realtimeRuntime", default, skip_serializing_if = "Option::is_none")]
    pub realtime_runtime: Option<i64>,
    /// Microseconds.
    #[serde(rename = "realtimePeriod", default, skip_serializing_if = "Option::is_none")]
    pub realtime_period: Option<u64>,
    /// CPU list, `0-3,7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpus: String,
    /// Memory node list.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mems: String,
    /// 1 makes the cgroup SCHED_IDLE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<i64>,
}

/// Process count limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pids {
    /// Most processes and threads; 0 or below is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// Block I/O limits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockIo {
    /// 10 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// 10 to 1000 (cgroup v1).
    #[serde(rename = "leafWeight", default, skip_serializing_if = "Option::is_none")]
    pub leaf_weight: Option<u16>,
    /// Weights by device.
    #[serde(rename = "weightDevice", default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read a second.
    #[serde(
        rename = "throttleReadBpsDevice",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub throttle_read_bps_device: Vec<ThrottleDevice>,
    /// Bytes written a second.
    #[serde(
        rename = "throttleWriteBpsDevice",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub throttle_write_bps_device: Vec<ThrottleDevice>,
    /// Reads a second.
    #[serde(
        rename = "throttleReadIOPSDevice",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub throttle_read_iops_device: Vec<ThrottleDevice>,
    /// Writes a second.
    #[serde(
        rename = "throttleWriteIOPSDevice",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub throttle_write_iops_device: Vec<ThrottleDevice>,
}

/// Weight of one block device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// 10 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// 10 to 1000 (cgroup v1).
    #[serde(rename = "leafWeight", default, skip_serializing_if = "Option::is_none")]
    pub leaf_weight: Option<u16>,
}

/// Rate limit of one block device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// Limit for one huge page size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, ….
    #[serde(rename = "pageSize")]
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// Network class and priorities (cgroup v1).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Class of the packets.
    #[serde(rename = "classID", default, skip_serializing_if = "Option::is_none")]
    pub class_id: Option<u32>,
    /// Priorities by interface.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<InterfacePriority>,
}

/// Priority of traffic on one interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfacePriority {
    /// Interface.
    pub name: String,
    /// Priority.
    pub priority: u32,
}

/// RDMA limits of one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rdma {
    /// Most handles.
    #[serde(rename = "hcaHandles", default, skip_serializing_if = "Option::is_none")]
    pub hca_handles: Option<u32>,
    /// Most objects.
    #[serde(rename = "hcaObjects", default, skip_serializing_if = "Option::is_none")]
    pub hca_objects: Option<u32>,
}

/// System call filter (seccomp(2)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seccomp {
    /// Action when no rule matches.
    #[serde(rename = "defaultAction", default)]
    pub default_action: String,
    /// Error number of a default `SCMP_ACT_ERRNO` or `_TRACE`.
    #[serde(rename = "defaultErrnoRet", default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_…` beside the native one.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_…`; absent is not the same as empty (runc then sets SPEC_ALLOW).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// Unix socket that receives the notify descriptor.
    #[serde(rename = "listenerPath", default, skip_serializing_if = "String::is_empty")]
    pub listener_path: String,
    /// Opaque data sent along.
    #[serde(rename = "listenerMetadata", default, skip_serializing_if = "String::is_empty")]
    pub listener_metadata: String,
    /// Rules.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<SeccompRule>,
}

/// One seccomp rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeccompRule {
    /// System calls.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// `SCMP_ACT_…`.
    pub action: String,
    /// Error number or trace data.
    #[serde(rename = "errnoRet", default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<SeccompArg>,
}

/// One condition on an argument.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeccompArg {
    /// Argument, 0 to 5.
    pub index: u32,
    /// Operand.
    pub value: u64,
    /// Second operand of `SCMP_CMP_MASKED_EQ`.
    #[serde(rename = "valueTwo", default, skip_serializing_if = "is_default")]
    pub value_two: u64,
    /// `SCMP_CMP_…`.
    pub op: String,
}

/// Intel RDT (config-linux.md, "IntelRdt").
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IntelRdt {
    /// Class of service.
    #[serde(rename = "closID", default, skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    /// Lines for `schemata`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// L3 line.
    #[serde(rename = "l3CacheSchema", default, skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Memory bandwidth line.
    #[serde(rename = "memBwSchema", default, skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// Whether a monitoring group is made.
    #[serde(rename = "enableMonitoring", default, skip_serializing_if = "is_default")]
    pub enable_monitoring: bool,
}

/// NUMA policy (set_mempolicy(2)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_…`.
    #[serde(default)]
    pub mode: String,
    /// Node list.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    /// `MPOL_F_…`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// Execution domain (personality(2)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None is defined.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_named_by_its_field() {
        let error = Spec::parse(br#"{"ociVersion":"1.0.2","process":{"user":{"uid":"root"}}}"#).unwrap_err();
        assert!(error.message().starts_with("`process.user.uid` in `config.json`: invalid type: string"), "{error}");
        let error = Spec::parse(br#"{"linux":{"namespaces":[{"type":"moon"}]}}"#).unwrap_err();
        assert!(
            error.message().starts_with("`linux.namespaces[0].type` in `config.json`: unknown variant `moon`"),
            "{error}"
        );
    }

    #[test]
    fn null_is_an_absent_value_and_unknown_properties_are_ignored() {
        let spec = Spec::parse(br#"{"ociVersion":"1.0.2","mounts":null,"future":1,"linux":{"sysctl":null}}"#).unwrap();
        assert_eq!((spec.mounts.len(), spec.linux.unwrap().sysctl.len()), (0, 0));
    }
}
