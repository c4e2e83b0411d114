//! A container as it is stored and shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_types::runtime_spec::DeviceRule;
use corten_types::shim::{Health, HealthCheck, LogOptions, RestartPolicy, RootMount};
use serde::{Deserialize, Serialize};

use crate::namespaces::Namespaces;
use crate::request::{DeviceRequest, Mount, NetworkMode, SecurityOptions, Ulimit};
use crate::resources::Resources;
use crate::state::State;

/// What was asked and decided at creation; never changes afterwards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// The image as the user wrote it.
    pub image: String,
    /// The image's id (`sha256:…`); empty for a bare root directory.
    pub image_id: String,
    /// Entry point in force.
    pub entrypoint: Vec<String>,
    /// Command in force.
    pub command: Vec<String>,
    /// Environment in force, without what the engine adds at start.
    pub env: Vec<String>,
    /// Working directory; empty is `/`.
    pub workdir: String,
    /// User as written; empty is root.
    pub user: String,
    /// Supplementary groups as written.
    pub groups_add: Vec<String>,
    /// Host name inside.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Whether the root is read-only.
    pub read_only: bool,
    /// As asked.
    pub capabilities_add: Vec<String>,
    /// As asked.
    pub capabilities_drop: Vec<String>,
    /// As asked.
    pub privileged: bool,
    /// As asked; a seccomp profile's file was read at creation.
    pub security: SecurityOptions,
    /// Devices.
    pub devices: Vec<DeviceRequest>,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Whether a small pid 1 runs.
    pub init: bool,
    /// Cgroup limits, with docker's defaults filled in.
    pub resources: Resources,
    /// As asked.
    pub cgroup_parent: String,
    /// Further rules of the device cgroup.
    pub device_rules: Vec<DeviceRule>,
    /// Devices by their CDI names.
    pub cdi_devices: Vec<String>,
    /// Whose namespaces it has; other containers by id.
    pub namespaces: Namespaces,
    /// For the runtime.
    pub annotations: BTreeMap<String, String>,
    /// As asked; what came of it is among the mounts.
    pub volumes_from: Vec<String>,
    /// Size of /dev/shm, bytes.
    pub shm_size_bytes: u64,
    /// OOM score adjustment.
    pub oom_score_adj: i32,
    /// Network.
    pub network: NetworkMode,
    /// The image's labels and the user's.
    pub labels: BTreeMap<String, String>,
    /// Signal that `stop` sends, as written; empty is SIGTERM.
    pub stop_signal: String,
    /// `-t`
    pub terminal: bool,
    /// `-i`
    pub open_stdin: bool,
    /// Its input ends with the first client that gave some.
    pub stdin_once: bool,
    /// What becomes of the output.
    pub log: LogOptions,
    /// What follows the program's end.
    pub restart: RestartPolicy,
    /// First and longest wait before it starts again, milliseconds.
    pub restart_delay_ms: Option<(u64, u64)>,
    /// How its health is told.
    pub health: Option<HealthCheck>,
    /// Seconds that `stop` waits; below zero is for ever.
    pub stop_timeout_seconds: Option<i64>,
    /// `--rm`
    pub remove_on_exit: bool,
    /// Cgroup, below the mount points.
    pub cgroups_path: String,
    /// What is mounted as its root; `None` only while it is being made.
    pub root: Option<RootMount>,
}

impl ContainerConfig {
    /// What every event says of it: labels, image, name.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.labels.clone();
        attributes.insert("image".to_owned(), self.image.clone());
        attributes.insert("name".to_owned(), self.name.clone());
        attributes
    }

    /// Program and arguments: entry point, then command.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.command).cloned().collect()
    }
}

/// Where a container is in its life, and what became of its last run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// Where.
    pub state: State,
    /// The first process on the host; 0 while there is none.
    pub pid: i32,
    /// The supervisor; 0 while there is none.
    pub shim_pid: i32,
    /// Exit code of the last run.
    pub exit_code: u8,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Why the last start failed, else empty.
    pub error: String,
    /// RFC 3339, empty if never.
    pub started_at: String,
    /// RFC 3339, empty if never.
    pub finished_at: String,
    /// How often its policy started it again.
    pub restart_count: u32,
    /// The user ended it.
    pub manually_stopped: bool,
    /// What its checks say.
    pub health: Option<Health>,
    /// Pieces of output that the log could not take.
    pub log_drops: u64,
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// What it is.
    pub config: ContainerConfig,
    /// How it is doing.
    pub life: Life,
    /// Its directory under the root.
    pub directory: PathBuf,
    /// Its log, whether or not anything was written; empty where it is not a file.
    pub log_path: PathBuf,
}

impl Container {
    /// What every event says of it.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        self.config.attributes()
    }

    /// The id's first twelve digits.
    pub fn short_id(&self) -> &str {
        self.config.id.get(..12).unwrap_or(&self.config.id)
    }
}
