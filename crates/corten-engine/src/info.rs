//! What `info` and `version` show.

use std::path::Path;

use corten_fs::root::read_ambient;
use corten_types::{Result, runtime_spec};

use crate::engine::Engine;
use crate::state::State;

/// The engine and its machine.
#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Containers in all.
    pub containers: usize,
    /// Running.
    pub containers_running: usize,
    /// Paused.
    pub containers_paused: usize,
    /// Created and exited.
    pub containers_stopped: usize,
    /// Images.
    pub images: usize,
    /// How layers are put together: `overlay` with the file system below.
    pub storage_driver: String,
    /// Facts about it, name and value.
    pub storage_status: Vec<(String, String)>,
    /// `cgroupfs`, `systemd` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// `seccomp`, `apparmor`, `selinux`, `rootless`, `cgroupns`, each with its profile.
    pub security_options: Vec<String>,
    /// `uname -r`
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: String,
    /// `linux`
    pub os_type: String,
    /// `uname -m`
    pub architecture: String,
    /// CPUs.
    pub cpus: usize,
    /// Bytes.
    pub memory_total_bytes: u64,
    /// Host name.
    pub name: String,
    /// Durable state.
    pub root: std::path::PathBuf,
    /// Run state.
    pub run_root: std::path::PathBuf,
    /// Whether an ordinary user's.
    pub rootless: bool,
    /// The network a container gets when none is named.
    pub default_network: String,
    /// What cannot be had here, one sentence each.
    pub warnings: Vec<String>,
}

/// Version data.
#[derive(Debug, Clone, Default)]
pub struct Version {
    /// Of Corten.
    pub version: String,
    /// Of the OCI runtime specification.
    pub runtime_spec: String,
    /// `linux`
    pub os: String,
    /// Go's word for the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// `uname -r`
    pub kernel_version: String,
}

impl Version {
    /// Of this program; needs no engine.
    pub fn current() -> Self {
        let uname = rustix::system::uname();
        let machine = uname.machine().to_string_lossy().into_owned();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_spec: runtime_spec::VERSION.to_owned(),
            os: "linux".to_owned(),
            architecture: match machine.as_str() {
                "x86_64" => "amd64".to_owned(),
                "aarch64" => "arm64".to_owned(),
                _ => machine,
            },
            kernel_version: uname.release().to_string_lossy().into_owned(),
        }
    }
}

impl Engine {
    /// What this machine and this engine are.
    pub fn info(&self) -> Result<Info> {
        let containers = self.containers()?;
        let count = |states: &[State]| containers.iter().filter(|one| states.contains(&one.life.state)).count();
        let running = count(&[State::Running, State::Starting, State::Restarting]);
        let paused = count(&[State::Paused]);
        let uname = rustix::system::uname();
        let version = cgroup_version();
        let rootless = self.options().rootless.is_some();
        let (form, why) = self.store().layer_form()?;
        Ok(Info {
            containers: containers.len(),
            containers_running: running,
            containers_paused: paused,
            containers_stopped: containers.len() - running - paused,
            images: self.store().images()?.len(),
            storage_driver: "overlay".to_owned(),
            storage_status: vec![
                ("Backing Filesystem".to_owned(), file_system(&self.options().root)),
                ("Layer Form".to_owned(), format!("{} ({why})", form.as_str())),
            ],
            cgroup_driver: if self.options().systemd_cgroup { "systemd" } else { "cgroupfs" }.to_owned(),
            cgroup_version: version.to_owned(),
            security_options: security_options(rootless, version),
            kernel_version: uname.release().to_string_lossy().into_owned(),
            operating_system: operating_system(),
            os_type: "linux".to_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpus: crate::create::cpus(),
            memory_total_bytes: memory_total(),
            name: uname.nodename().to_string_lossy().into_owned(),
            root: self.options().root.clone(),
            run_root: self.options().run_root.clone(),
            rootless,
            default_network: "none".to_owned(),
            warnings: self.warnings(),
        })
    }

    /// Version data.
    pub fn version(&self) -> Version {
        Version::current()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![
            "bridge networks are not there yet: a container has a loopback interface alone, or the host's network"
                .to_owned(),
        ];
        if self.options().rootless.as_ref().is_some_and(|rootless| !rootless.many_ids) {
            warnings.push(
                "only one user id is mapped: install newuidmap and newgidmap and add ranges to /etc/subuid and /etc/subgid"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// `2` where cgroup2 is alone, else `1`.
fn cgroup_version() -> &'static str {
    if crate::spec::kernel_facts().1 { "2" } else { "1" }
}

fn security_options(rootless: bool, cgroup_version: &str) -> Vec<String> {
    let mut options = Vec::new();
    if Path::new("/sys/kernel/security/apparmor").exists() {
        options.push("name=apparmor".to_owned());
    }
    if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        options.push("name=seccomp,profile=builtin".to_owned());
    }
    if rootless {
        options.push("name=rootless".to_owned());
    }
    if cgroup_version == "2" {
        options.push("name=cgroupns".to_owned());
    }
    options
}

fn operating_system() -> String {
    let content = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| read_ambient(Path::new(path), 64 * 1024).ok())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&content).into_owned();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

fn memory_total() -> u64 {
    let content = read_ambient(Path::new("/proc/meminfo"), 64 * 1024).unwrap_or_default();
    let text = String::from_utf8_lossy(&content).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|number| number.trim().parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024)
}

/// The file system's name, of those that overlay is used on.
fn file_system(path: &Path) -> String {
    let name = rustix::fs::statfs(path).map_or("unknown", |stat| match stat.f_type {
        0xEF53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0x2FC1_2FC1 => "zfs",
        0x794C_7630 => "overlayfs",
        0xF2F5_2010 => "f2fs",
        _ => "unknown",
    });
    name.to_owned()
}
