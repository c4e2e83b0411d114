//! From a container's configuration to the runtime's: what docker's daemon writes into `config.json`.
//!
//! Everything that the machine decides is in [`Surroundings`], read once; the rest is pure.

mod devices;
mod mounts;
mod resources;

use std::path::PathBuf;

use corten_types::kernel::{ULIMITS, sysctl_namespace};
use corten_types::runtime_spec::{
    self, Capabilities, ConsoleSize, Hooks, Linux, Namespace, NamespaceKind, Process, Rlimit, Root, Spec,
};
use corten_types::{Error, ErrorKind, Result};

use crate::container::ContainerConfig;
use crate::request::{NetworkMode, Seccomp, Ulimit};
use crate::security::{capabilities, paths, seccomp};

pub(crate) use devices::{HostDevices, of_host};
pub(crate) use mounts::normalize;
pub(crate) use resources::limits;

use crate::cdi;
use crate::namespaces::NamespaceMode;

/// Where the small pid 1 of `--init` lies inside (docker's place).
pub(crate) const INIT: &str = "/sbin/docker-init";
/// PATH where neither image nor user sets one.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the machine and the engine decide.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The container's directory, with the files that are bound inside.
    pub(crate) directory: PathBuf,
    /// The `corten` binary.
    pub(crate) executable: PathBuf,
    /// Whether the engine lives in a user namespace.
    pub(crate) rootless: bool,
    /// Whether more than one id is mapped there.
    pub(crate) many_ids: bool,
    /// The kernel's version.
    pub(crate) kernel: (u32, u32),
    /// Capabilities that can be handed on, bit by number.
    pub(crate) capabilities: u64,
    /// Paths of this machine that are hidden.
    pub(crate) masked_paths: Vec<String>,
    /// Whether the machine has cgroup2 alone.
    pub(crate) cgroup2: bool,
    /// Devices of the host that were asked for.
    pub(crate) devices: HostDevices,
    /// What devices by name need.
    pub(crate) cdi: cdi::Edits,
    /// What it shares with other containers.
    pub(crate) joined: Joined,
    /// A user's seccomp profile.
    pub(crate) seccomp_profile: Option<Vec<u8>>,
    /// Rows and columns of the terminal.
    pub(crate) terminal_size: Option<(u16, u16)>,
}

/// Namespaces of other containers, as files, and the place of the shared memory that is not the container's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// `container:NAME` of `--ipc`; empty while that one does not run.
    pub(crate) ipc: String,
    /// Of `--pid`.
    pub(crate) pid: String,
    /// Of `--uts`.
    pub(crate) uts: String,
    /// What becomes /dev/shm.
    pub(crate) shared_memory: Option<PathBuf>,
}

/// The runtime's configuration of a container. User, HOME and root are left to the supervisor.
pub(crate) fn build(config: &ContainerConfig, around: &Surroundings) -> Result<Spec> {
    let capabilities = capabilities::container(
        &config.capabilities_add,
        &config.capabilities_drop,
        config.privileged,
        around.capabilities,
    )?;
    Ok(Spec {
        oci_version: runtime_spec::VERSION.to_owned(),
        process: Some(process(config, around, &capabilities)?),
        root: Some(Root { path: String::new(), readonly: config.read_only }),
        hostname: if has_own_names(config) { config.hostname.clone() } else { String::new() },
        domainname: if has_own_names(config) { config.domainname.clone() } else { String::new() },
        annotations: config.annotations.clone(),
        hooks: (around.cdi.hooks != Hooks::default()).then(|| around.cdi.hooks.clone()),
        mounts: mounts::build(config, around)?,
        linux: Some(linux(config, around, &capabilities)?),
    })
}

/// Whether host and domain name are the container's to set.
fn has_own_names(config: &ContainerConfig) -> bool {
    !config.namespaces.uts.is_shared()
}

fn process(config: &ContainerConfig, around: &Surroundings, capabilities: &[&str]) -> Result<Process> {
    let names: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
    let mut args = config.args();
    if config.init {
        args.splice(..0, [INIT, "init", "--"].map(str::to_owned));
    }
    Ok(Process {
        terminal: config.terminal,
        console_size: around.terminal_size.map(|(height, width)| ConsoleSize { height, width }),
        args,
        env: environment(config, &around.cdi.env),
        cwd: if config.workdir.is_empty() { "/".to_owned() } else { config.workdir.clone() },
        // Neither inheritable nor ambient ones: a program that drops root keeps nothing.
        capabilities: Some(Capabilities {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            ..Capabilities::default()
        }),
        rlimits: config.ulimits.iter().map(rlimit).collect::<Result<_>>()?,
        no_new_privileges: config.security.no_new_privileges,
        apparmor_profile: config.security.apparmor.clone().filter(|name| name != "unconfined").unwrap_or_default(),
        oom_score_adj: Some(config.oom_score_adj).filter(|_| !around.rootless || config.oom_score_adj > 0),
        ..Process::default()
    })
}

/// Docker's own variables, then those of the image and the user, which replace them in place.
fn environment(config: &ContainerConfig, of_devices: &[String]) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", config.hostname)];
    if config.terminal {
        env.push("TERM=xterm".to_owned());
    }
    merge_environment(&mut env, &config.env);
    merge_environment(&mut env, of_devices);
    env
}

/// Sets every `NAME=VALUE`, removes every `NAME`; a variable keeps its first place.
pub(crate) fn merge_environment(env: &mut Vec<String>, changes: &[String]) {
    for change in changes {
        let name = change.split_once('=').map_or(change.as_str(), |(name, _)| name);
        let at = env.iter().position(|entry| entry.split_once('=').is_some_and(|(known, _)| known == name));
        match (at, change.contains('=')) {
            (Some(at), true) => env[at].clone_from(change),
            (None, true) => env.push(change.clone()),
            (Some(at), false) => drop(env.remove(at)),
            (None, false) => {}
        }
    }
}

fn rlimit(ulimit: &Ulimit) -> Result<Rlimit> {
    if !ULIMITS.contains(&ulimit.name.as_str()) {
        return Err(Error::invalid(format!("invalid ulimit `{}`", ulimit.name))
            .hint(format!("known are {}", ULIMITS.join(", "))));
    }
    let value = |number: i64| match number {
        -1 => Ok(u64::MAX),
        _ => u64::try_from(number).map_err(|_| Error::invalid(format!("ulimit `{}` is below zero", ulimit.name))),
    };
    let (soft, hard) = (value(ulimit.soft)?, value(ulimit.hard)?);
    if soft > hard {
        return Err(Error::invalid(format!("ulimit `{}`: the soft limit is above the hard limit", ulimit.name)));
    }
    Ok(Rlimit { kind: format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()), hard, soft })
}

fn linux(config: &ContainerConfig, around: &Surroundings, capabilities: &[&str]) -> Result<Linux> {
    let hides = !config.privileged && !config.security.system_paths_unconfined;
    let masked = around.masked_paths.clone();
    let readonly = paths::READONLY_PATHS.map(str::to_owned).to_vec();
    Ok(Linux {
        sysctl: sysctls(config, around)?,
        resources: Some(resources::build(config, around)?),
        cgroups_path: config.cgroups_path.clone(),
        namespaces: namespaces(config, around),
        devices: around.devices.nodes.iter().chain(&around.cdi.nodes).cloned().collect(),
        seccomp: filter(config, around, capabilities)?,
        masked_paths: if hides { masked } else { Vec::new() },
        rootfs_propagation: rootfs_propagation(config).to_owned(),
        readonly_paths: if hides { readonly } else { Vec::new() },
        ..Linux::default()
    })
}

/// What the widest propagation among the mounts asks of the whole tree; empty is the runtime's default.
fn rootfs_propagation(config: &ContainerConfig) -> &'static str {
    use crate::request::{MountSource, Propagation as P};
    let asked = |wanted: [P; 2]| {
        config.mounts.iter().any(|mount| match mount.source {
            MountSource::Bind { propagation: Some(propagation), .. } => wanted.contains(&propagation),
            _ => false,
        })
    };
    match (asked([P::Shared, P::Rshared]), asked([P::Slave, P::Rslave])) {
        (true, _) => "shared",
        (false, true) => "rslave",
        (false, false) => "",
    }
}

fn namespaces(config: &ContainerConfig, around: &Surroundings) -> Vec<Namespace> {
    let mut all = Vec::new();
    let mut add = |kind, path: &str| all.push(Namespace { kind, path: path.to_owned() });
    let chosen = &config.namespaces;
    add(NamespaceKind::Mount, "");
    if config.network != NetworkMode::Host {
        add(NamespaceKind::Network, "");
    }
    for (kind, mode, joined) in [
        (NamespaceKind::Uts, &chosen.uts, &around.joined.uts),
        (NamespaceKind::Pid, &chosen.pid, &around.joined.pid),
        (NamespaceKind::Ipc, &chosen.ipc, &around.joined.ipc),
    ] {
        match mode {
            NamespaceMode::Host => {}
            NamespaceMode::Container(_) => add(kind, joined),
            _ => add(kind, ""),
        }
    }
    let own_cgroup = match chosen.cgroup {
        NamespaceMode::Private => true,
        NamespaceMode::Host => false,
        _ => around.cgroup2 && !config.privileged,
    };
    if own_cgroup {
        add(NamespaceKind::Cgroup, "");
    }
    all
}

fn filter(
    config: &ContainerConfig,
    around: &Surroundings,
    capabilities: &[&str],
) -> Result<Option<runtime_spec::Seccomp>> {
    match (&config.security.seccomp, &around.seccomp_profile) {
        (Seccomp::Unconfined, _) => Ok(None),
        // A profile that was named is in force even with `--privileged`, as in docker.
        (Seccomp::File(_), Some(json)) => {
            let filter = seccomp::user_profile(json, capabilities, around.kernel)?;
            // A profile that says nothing is none, as docker reads it.
            Ok(Some(filter).filter(|filter| *filter != runtime_spec::Seccomp::default()))
        }
        (Seccomp::File(path), None) => {
            Err(Error::new(ErrorKind::Corrupt, format!("the container's copy of `{}` is gone", path.display())))
        }
        (Seccomp::Builtin, _) if config.privileged => Ok(None),
        (Seccomp::Builtin, _) => Ok(Some(seccomp::default_profile(capabilities, around.kernel))),
    }
}

fn sysctls(config: &ContainerConfig, around: &Surroundings) -> Result<std::collections::BTreeMap<String, String>> {
    let mut all = std::collections::BTreeMap::new();
    if config.network != NetworkMode::Host && !config.privileged {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // A range of ids that are not mapped cannot be written from inside a user namespace.
        if !around.rootless {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    for (name, value) in &config.sysctls {
        check_sysctl(name, value, &config.network, &config.namespaces.ipc)?;
        all.insert(name.replace('/', "."), value.clone());
    }
    Ok(all)
}

/// Refuses parameters that are not the container's own.
pub(crate) fn check_sysctl(name: &str, value: &str, network: &NetworkMode, ipc: &NamespaceMode) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if !name.bytes().all(fits) || value.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("invalid sysctl `{}={}`", name.escape_debug(), value.escape_debug())));
    }
    // A dot may also stand for a slash inside an interface's name; `..` would climb.
    let dotted = name.replace('/', ".");
    if dotted.split('.').any(str::is_empty) {
        return Err(Error::invalid(format!("invalid sysctl `{name}`")));
    }
    if dotted.starts_with("net.") {
        return match network {
            NetworkMode::Host => Err(Error::new(
                ErrorKind::Denied,
                format!("sysctl `{name}` cannot be set: the container shares the host's network"),
            )
            .hint("leave out `--network host`")),
            _ => Ok(()),
        };
    }
    if sysctl_namespace(&dotted) == Some(NamespaceKind::Ipc) {
        if ipc.is_shared() {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("sysctl `{name}` cannot be set: the container's IPC namespace is not its own"),
            )
            .hint("leave out `--ipc`"));
        }
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, format!("sysctl `{name}` is not a container's own: it would change the host"))
        .hint("allowed are `net.*`, `fs.mqueue.*` and the IPC limits `kernel.{msg*,sem,shm*}`"))
}

/// The kernel's version, and whether the machine has cgroup2 alone.
pub(crate) fn kernel_facts() -> ((u32, u32), bool) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // CGROUP2_SUPER_MAGIC
    let cgroup2 = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.f_type == 0x6367_7270);
    (kernel, cgroup2)
}

#[cfg(test)]
mod tests;
