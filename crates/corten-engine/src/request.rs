//! What a front end asks for, as data. Every field's default is docker's.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use corten_types::image_spec::Platform;
use corten_types::runtime_spec::DeviceRule;
use corten_types::shim::{Attach, LogOptions, RestartPolicy, UnhealthyAction};
use corten_types::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::namespaces::Namespaces;
use crate::resources::Resources;

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSource {
    /// An image of the store: name, name:tag, name@digest, id or id prefix.
    Reference(String),
    /// The image inside the binary.
    Hello,
    /// This machine's own root as a read-only lower layer.
    Host,
    /// An OCI layout directory, with the tag to take: `oci:DIR[:TAG]`.
    OciLayout(PathBuf, Option<String>),
    /// An archive made by `docker save`, with the reference to take: `docker-archive:FILE[:REF]`.
    DockerArchive(PathBuf, Option<String>),
    /// A directory used as it is (`--rootfs DIR`), without a layer above it.
    Rootfs(PathBuf),
}

impl ImageSource {
    /// Reads the word that stands where docker has an image: `hello`, `host`, `oci:…`, `docker-archive:…` or a reference.
    ///
    /// Relative paths are left relative: the caller joins them with its working directory.
    pub fn parse(word: &str) -> Result<Self> {
        if word.is_empty() {
            return Err(Error::invalid("the image's name is empty"));
        }
        if let Some(rest) = word.strip_prefix("oci:") {
            let (path, tag) = path_and_tag(rest);
            return Ok(Self::OciLayout(path, tag));
        }
        if let Some(rest) = word.strip_prefix("docker-archive:") {
            let (path, reference) = path_and_tag(rest);
            return Ok(Self::DockerArchive(path, reference));
        }
        Ok(match word {
            "hello" => Self::Hello,
            "host" => Self::Host,
            _ => Self::Reference(word.to_owned()),
        })
    }
}

/// `./dir:tag`, where everything after the first colon behind the last slash of the path is the tag.
fn path_and_tag(text: &str) -> (PathBuf, Option<String>) {
    match text.split_once(':') {
        Some((path, tag)) if !tag.is_empty() => (PathBuf::from(path), Some(tag.to_owned())),
        Some((path, _)) => (PathBuf::from(path), None),
        None => (PathBuf::from(text), None),
    }
}

/// Everything that decides what a container is.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Image or directory.
    pub source: ImageSource,
    /// Of an image for several machines, the one for this; `None`: the one for this machine.
    pub platform: Option<Platform>,
    /// The image's name as the user wrote it (what `ps` and `inspect` show).
    pub image_name: String,
    /// Unique name; `None` takes a random one.
    pub name: Option<String>,
    /// Words behind the image; empty takes the image's.
    pub command: Vec<String>,
    /// `Some` replaces the image's entry point and drops its command; `Some` of nothing resets it.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=VALUE` sets, `NAME` alone removes what the image sets; later entries win.
    pub env: Vec<String>,
    /// Working directory; `None` is the image's.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, names or numbers; `None` is the image's.
    pub user: Option<String>,
    /// Supplementary groups by name or number (`--group-add`).
    pub groups_add: Vec<String>,
    /// Host name; `None` is the first twelve letters of the id.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Bind mounts, tmpfs and volumes.
    pub mounts: Vec<Mount>,
    /// Whether the root is read-only.
    pub read_only: bool,
    /// Capabilities added, with or without `CAP_`; `ALL` is every one.
    pub capabilities_add: Vec<String>,
    /// Capabilities dropped.
    pub capabilities_drop: Vec<String>,
    /// Every capability and device, no seccomp filter, no masks.
    pub privileged: bool,
    /// `--security-opt`.
    pub security: SecurityOptions,
    /// Devices of the host.
    pub devices: Vec<DeviceRequest>,
    /// Resource limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Whether a small pid 1 reaps and forwards signals.
    pub init: bool,
    /// Cgroup limits.
    pub resources: Resources,
    /// Cgroup below which the container's lies; `None` is the engine's own.
    pub cgroup_parent: Option<String>,
    /// Further rules of the device cgroup.
    pub device_rules: Vec<DeviceRule>,
    /// Devices by their CDI names (`vendor.com/class=name`).
    pub cdi_devices: Vec<String>,
    /// Whose namespaces it has.
    pub namespaces: Namespaces,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Containers whose mounts it has too, as written: `NAME[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Size of /dev/shm, bytes; `None` is 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// OOM score adjustment.
    pub oom_score_adj: Option<i32>,
    /// Network.
    pub network: NetworkMode,
    /// Labels, above the image's.
    pub labels: BTreeMap<String, String>,
    /// Signal that `stop` sends; `None` is the image's, else SIGTERM. Name or number.
    pub stop_signal: Option<String>,
    /// Whether the program has a terminal (`-t`).
    pub terminal: bool,
    /// Whether the program's input stays open (`-i`).
    pub open_stdin: bool,
    /// Whether it ends with the first client that gave some (`run -i` without `-d`).
    pub stdin_once: bool,
    /// What becomes of the output.
    pub log: LogOptions,
    /// What follows the program's end.
    pub restart: RestartPolicy,
    /// First and longest wait before it starts again, milliseconds; `None` is docker's.
    pub restart_delay_ms: Option<(u64, u64)>,
    /// How its health is told; `None` is the image's way.
    pub health: Option<HealthRequest>,
    /// Seconds that `stop` waits; below zero is for ever.
    pub stop_timeout_seconds: Option<i64>,
    /// Whether everything is removed once it has ended (`--rm`).
    pub remove_on_exit: bool,
}

impl CreateRequest {
    /// A request with docker's defaults.
    pub fn new(source: ImageSource, image_name: impl Into<String>) -> Self {
        Self {
            source,
            platform: None,
            image_name: image_name.into(),
            name: None,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            workdir: None,
            user: None,
            groups_add: Vec::new(),
            hostname: None,
            domainname: None,
            mounts: Vec::new(),
            read_only: false,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            privileged: false,
            security: SecurityOptions::default(),
            devices: Vec::new(),
            ulimits: Vec::new(),
            sysctls: BTreeMap::new(),
            init: false,
            resources: Resources::default(),
            cgroup_parent: None,
            device_rules: Vec::new(),
            cdi_devices: Vec::new(),
            namespaces: Namespaces::default(),
            annotations: BTreeMap::new(),
            volumes_from: Vec::new(),
            shm_size_bytes: None,
            oom_score_adj: None,
            network: NetworkMode::Default,
            labels: BTreeMap::new(),
            stop_signal: None,
            terminal: false,
            open_stdin: false,
            stdin_once: false,
            log: LogOptions::default(),
            restart: RestartPolicy::No,
            restart_delay_ms: None,
            health: None,
            stop_timeout_seconds: None,
            remove_on_exit: false,
        }
    }
}

/// What `--health-…` says; what is not said is the image's, then docker's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthRequest {
    /// No checks (`--no-healthcheck`).
    pub disabled: bool,
    /// A line for the shell.
    pub command: Option<String>,
    /// Milliseconds.
    pub interval_ms: Option<u64>,
    /// Milliseconds.
    pub timeout_ms: Option<u64>,
    /// Milliseconds.
    pub start_period_ms: Option<u64>,
    /// Milliseconds.
    pub start_interval_ms: Option<u64>,
    /// Failures in a row.
    pub retries: Option<u32>,
    /// What happens to an unhealthy container.
    pub on_unhealthy: UnhealthyAction,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute place inside the container.
    pub destination: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Which flag asked for it.
    #[serde(default)]
    pub given: Given,
}

/// Which flag asked for a mount; `inspect` shows each in a place of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Given {
    /// `-v`
    #[default]
    Volume,
    /// `--mount`
    Mount,
    /// `--tmpfs`, with its options as written.
    Tmpfs(String),
    /// `--volumes-from`
    Inherited,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// Make a missing directory (`-v` does, `--mount` does not).
        create: bool,
        /// How mounts travel; `None` is `rprivate`.
        propagation: Option<Propagation>,
        /// What becomes of the mounts below the source.
        #[serde(default)]
        recursion: Recursion,
        /// `:z` or `:Z`; refused where SELinux is on and ignored by docker where it is off.
        relabel: Option<Relabel>,
    },
    /// Memory.
    Tmpfs(TmpfsOptions),
    /// A named (or with `None` anonymous) volume: comes with volumes, refused until then.
    Volume(Option<String>),
}

/// What becomes of mounts below a bind's source (`bind-recursive`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recursion {
    /// They come along, and are read-only with the mount where the kernel can (`enabled`).
    #[default]
    Enabled,
    /// They stay out (`disabled`).
    Disabled,
    /// They come along and stay writable under a read-only mount (`writable`).
    Writable,
    /// They come along and are read-only, or the container does not start (`readonly`).
    Readonly,
}

/// SELinux relabelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relabel {
    /// `z`
    Shared,
    /// `Z`
    Private,
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// `private`
    Private,
    /// `rprivate`
    Rprivate,
    /// `slave`
    Slave,
    /// `rslave`
    Rslave,
    /// `shared`
    Shared,
    /// `rshared`
    Rshared,
}

impl Propagation {
    /// The mount option's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Rprivate => "rprivate",
            Self::Slave => "slave",
            Self::Rslave => "rslave",
            Self::Shared => "shared",
            Self::Rshared => "rshared",
        }
    }

    /// The propagation of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Private, Self::Rprivate, Self::Slave, Self::Rslave, Self::Shared, Self::Rshared]
            .into_iter()
            .find(|propagation| propagation.as_str() == word)
    }
}

/// Options of a tmpfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    /// Most bytes.
    pub size_bytes: Option<u64>,
    /// Permission bits of its root.
    pub mode: Option<u32>,
    /// Further options of `--tmpfs DIR:OPTIONS`, one word each (`exec`, `uid=5`, `nr_inodes=1k`, …).
    pub options: Vec<String>,
}

/// `--security-opt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityOptions {
    /// `no-new-privileges[=true]`
    pub no_new_privileges: bool,
    /// `seccomp=…`
    pub seccomp: Seccomp,
    /// `apparmor=PROFILE`; `unconfined` is none.
    pub apparmor: Option<String>,
    /// `label=…`, in order.
    pub labels: Vec<String>,
    /// `systempaths=unconfined`: no masked and no read-only paths.
    pub system_paths_unconfined: bool,
}

/// The choice of a system call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// Docker's default profile.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// A profile's file; read when the container is created.
    File(PathBuf),
}

impl SecurityOptions {
    /// Reads docker's words (`no-new-privileges`, `seccomp=FILE|unconfined|builtin`, `apparmor=…`, `label=…`,
    /// `systempaths=unconfined`; `:` in place of `=` as docker once had it); an unknown one is refused.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            options.add(word)?;
        }
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Result<()> {
        let (key, value) = match word.split_once(['=', ':']) {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        match (key, value) {
            ("no-new-privileges", None | Some("true")) => self.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => self.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => self.seccomp = Seccomp::Unconfined,
            ("seccomp", Some("builtin")) => self.seccomp = Seccomp::Builtin,
            ("seccomp", Some(file)) if !file.is_empty() => self.seccomp = Seccomp::File(PathBuf::from(file)),
            ("apparmor", Some(profile)) if !profile.is_empty() => self.apparmor = Some(profile.to_owned()),
            ("label", Some(label)) if !label.is_empty() => self.labels.push(label.to_owned()),
            ("systempaths", Some("unconfined")) => self.system_paths_unconfined = true,
            _ => {
                return Err(Error::invalid(format!("invalid security option `{word}`")).hint(
                    "known are `no-new-privileges`, `seccomp=FILE|unconfined|builtin`, `apparmor=PROFILE`, `label=…`, \
                     `systempaths=unconfined`",
                ));
            }
        }
        Ok(())
    }
}

/// Access to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `m`
    pub mknod: bool,
}

impl Access {
    /// Everything, docker's default.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };

    /// Reads `rwm` in any order, each letter at most once.
    pub fn parse(letters: &str) -> Result<Self> {
        let mut access = Self { read: false, write: false, mknod: false };
        for letter in letters.chars() {
            let flag = match letter {
                'r' => &mut access.read,
                'w' => &mut access.write,
                'm' => &mut access.mknod,
                _ => {
                    return Err(Error::invalid(format!("invalid device mode `{letters}`")).hint("use letters of `rwm`"));
                }
            };
            if std::mem::replace(flag, true) {
                return Err(Error::invalid(format!("invalid device mode `{letters}`: `{letter}` stands twice")));
            }
        }
        if letters.is_empty() {
            return Err(Error::invalid("the device mode is empty").hint("use letters of `rwm`"));
        }
        Ok(access)
    }

    /// As the runtime specification writes it.
    pub fn letters(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')]
            .iter()
            .filter(|pair| pair.0)
            .map(|pair| pair.1)
            .collect()
    }
}

/// A device of the host shown inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Path on the host; a directory shows every device below it.
    pub host: PathBuf,
    /// Path inside.
    pub container: String,
    /// What is allowed.
    pub access: Access,
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, `core`, … without `RLIMIT_`.
    pub name: String,
    /// Value in force; -1 is unlimited.
    pub soft: i64,
    /// Ceiling; -1 is unlimited.
    pub hard: i64,
}

/// Which network the container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Nothing was asked: until bridge networks exist, the same as `None`.
    #[default]
    Default,
    /// A network namespace with a loopback interface alone.
    None,
    /// The host's.
    Host,
}

impl NetworkMode {
    /// Reads docker's word; what does not exist yet is refused.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "default" | "" => Ok(Self::Default),
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            other => Err(Error::new(
                corten_types::ErrorKind::Unsupported,
                format!("network `{other}` is not supported yet: it comes with networks"),
            )
            .hint("use `--network none` or `--network host`")),
        }
    }

    /// Docker's word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// How a created container is started.
#[derive(Debug, Default)]
pub struct StartRequest {
    /// Where the program's streams go.
    pub stdio: Stdio,
    /// First size of the terminal, where there is one: rows, columns.
    pub terminal_size: Option<(u16, u16)>,
}

/// Where the program's streams go. They always go into the container's log.
#[derive(Debug, Default)]
pub enum Stdio {
    /// Nowhere else. The engine's process may end.
    #[default]
    Detached,
    /// To the caller as well: [`crate::Running::attach`] relays.
    Attached {
        /// Which.
        wanted: Attach,
        /// Standard input, output and error of the caller: without a log and a terminal the program inherits them.
        streams: Option<[OwnedFd; 3]>,
    },
}
