//! Making a container: image, defaults, name, writable layer, stored configuration. Nothing runs.
//!
//! The container's directory is locked while it is being made. Whoever finds one without `config.json` and without a
//! holder of the lock may remove it: its maker was killed.

use std::fs::File;
use std::os::fd::AsFd;

use corten_fs::atomic::{self, Durability};
use corten_fs::{Lock, Root};
use corten_store::{Base, Image, PrepareRequest, Source};
use corten_sys::Call;
use corten_types::image_spec::{ContainerConfig as ImageDefaults, Platform};
use corten_types::shim::RootMount;
use corten_types::{ContainerId, ContainerName, Context, Error, ErrorKind, Reference, Result};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::container::ContainerConfig;
use crate::engine::{Created, Engine};
use crate::namespaces::NamespaceMode;
use crate::request::{
    CreateRequest, Given, ImageSource, Mount, MountSource, NetworkMode, Relabel, Seccomp, SecurityOptions,
};
use crate::spec::{self, check_sysctl, merge_environment, normalize};

/// Name of the file with everything that was decided.
pub(crate) const CONFIG: &str = "config.json";
/// Name of the file that names are links to.
const ID: &str = "id";
/// Name of the lock that orders changes of one container.
pub(crate) const LOCK: &str = "lock";
/// Name of the copy of a user's seccomp profile.
pub(crate) const SECCOMP: &str = "seccomp.json";
/// Largest file that is read for a request, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Docker's /dev/shm, bytes.
const SHM_SIZE_BYTES: u64 = 64 * 1024 * 1024;

/// What lies below the container's writable layer.
enum Origin {
    Image(Box<Image>),
    Host,
    Directory(std::path::PathBuf),
}

impl Engine {
    /// Makes a container: image, name, writable layer, configuration. Nothing runs.
    pub fn create(&self, request: CreateRequest) -> Result<Created> {
        let name = request.name.as_deref().map(ContainerName::parse).transpose()?;
        let profile = seccomp_profile(&request.security)?;
        let origin = self.origin(&request.source, request.platform.as_ref())?;
        let id = ContainerId::from_random(crate::random::bytes()?);
        let (mut config, warnings) = self.decide(request, &id, &origin)?;
        self.try_spec(&config, profile.as_deref())?;
        // From here on something is made, which a failure takes back.
        self.containers.create_dir(id.as_str(), Mode::RWXU)?;
        let result = self.make(&id, name, &origin, profile.as_deref(), &mut config);
        if let Err(error) = result {
            self.forget(id.as_str(), &config.name)?;
            return Err(error);
        }
        self.tell(id.as_str(), "create", config.attributes());
        Ok(Created { id: id.as_str().to_owned(), name: config.name, warnings })
    }

    fn make(
        &self,
        id: &ContainerId,
        name: Option<ContainerName>,
        origin: &Origin,
        profile: Option<&[u8]>,
        config: &mut ContainerConfig,
    ) -> Result<()> {
        let directory = self.containers.sub_root(id.as_str())?;
        let _lock = Lock::wait(&directory, LOCK)?;
        config.name = self.take_name(id.as_str(), &directory, name)?;
        config.root = Some(self.root_mount(id.as_str(), origin, config.remove_on_exit)?);
        if let Some(profile) = profile {
            atomic::replace(&directory, SECCOMP, profile, 0o600, Durability::Volatile)?;
        }
        let json = serde_json::to_vec(config)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode the container").caused_by(error))?;
        let durability = if config.remove_on_exit { Durability::Volatile } else { Durability::Durable };
        atomic::replace(&directory, CONFIG, &json, 0o600, durability)
    }

    fn origin(&self, source: &ImageSource, platform: Option<&Platform>) -> Result<Origin> {
        let store = self.store();
        let image = match source {
            ImageSource::Reference(name) => store.resolve_platform(name, platform)?,
            ImageSource::Hello => {
                let binary = File::open(&self.options.executable).context(|| "cannot read the image `hello`")?;
                store.hello(&binary)?
            }
            ImageSource::OciLayout(dir, tag) => {
                store.import(&Source::OciLayout { dir: dir.clone(), tag: tag.clone() })?
            }
            ImageSource::DockerArchive(file, reference) => {
                let reference = reference.as_deref().map(Reference::parse).transpose()?;
                store.import(&Source::DockerArchive { file: file.clone(), reference })?
            }
            ImageSource::Host => return Ok(Origin::Host),
            ImageSource::Rootfs(directory) => {
                if !directory.is_absolute() {
                    return Err(Error::invalid(format!("`{}` is not an absolute path", directory.display())));
                }
                Root::open_ambient(directory).context(|| format!("cannot use `{}` as a root", directory.display()))?;
                return Ok(Origin::Directory(directory.clone()));
            }
        };
        Ok(Origin::Image(Box::new(image)))
    }

    /// The writable layer over what the container starts from.
    fn root_mount(&self, id: &str, origin: &Origin, throwaway: bool) -> Result<RootMount> {
        let base = match origin {
            Origin::Directory(directory) => return Ok(RootMount::Directory(directory.clone())),
            Origin::Image(image) => Base::Image(image),
            Origin::Host => Base::Host,
        };
        let snapshot = self.store().prepare(PrepareRequest { key: id, base, throwaway })?;
        Ok(RootMount::Overlay(snapshot.overlay.options()))
    }

    /// The image's defaults, docker's and the user's wishes as one configuration.
    fn decide(
        &self,
        request: CreateRequest,
        id: &ContainerId,
        origin: &Origin,
    ) -> Result<(ContainerConfig, Vec<String>)> {
        let mut warnings = Vec::new();
        let (image_id, defaults) = match origin {
            Origin::Image(image) => (image.id.to_string(), image.config.config.clone()),
            Origin::Host => (String::new(), host_defaults()),
            Origin::Directory(_) => (String::new(), ImageDefaults::default()),
        };
        let (entrypoint, command) = program(&request, &defaults)?;
        check_environment(&request.env)?;
        let mut env = defaults.env.clone();
        merge_environment(&mut env, &request.env);
        for (name, value) in &request.sysctls {
            check_sysctl(name, value, &request.network, &request.namespaces.ipc)?;
        }
        warnings.extend(defaults.volumes.keys().filter(|path| !has_mount(&request.mounts, path)).map(|path| {
            format!("the image asks for a volume at {path}: it stays in the container's own layer until volumes come")
        }));
        let mut mounts = request.mounts;
        mounts.extend(self.inherited_mounts(&request.volumes_from, &mounts)?);
        check_mounts(&mounts, &mut warnings)?;
        check_security(&request.security)?;
        if request.remove_on_exit && request.restart != corten_types::shim::RestartPolicy::No {
            return Err(Error::invalid("conflicting options: cannot specify both --restart and --rm"));
        }
        let stop_timeout = defaults.stop_timeout;
        let mut labels = defaults.labels;
        labels.extend(request.labels);
        let has_cgroup2 = spec::kernel_facts().1;
        let resources = request.resources.checked(cpus(), has_cgroup2)?;
        if resources.oom_kill_disable && resources.memory_bytes.is_none() {
            warnings.push("without a memory limit the whole machine can run out of memory".to_owned());
        }
        let namespaces = self.resolve_namespaces(request.namespaces, has_cgroup2)?;
        if namespaces.uts.is_shared() && request.hostname.is_some() {
            return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
        }
        let workdir = request.workdir.unwrap_or(defaults.working_dir);
        let config = ContainerConfig {
            id: id.as_str().to_owned(),
            name: String::new(),
            created: now(),
            image: request.image_name,
            image_id,
            entrypoint,
            command,
            env,
            workdir: working_directory(&workdir)?,
            user: request.user.unwrap_or(defaults.user),
            groups_add: request.groups_add,
            hostname: hostname(
                request.hostname,
                id,
                request.network == NetworkMode::Host || namespaces.uts == NamespaceMode::Host,
            )?,
            domainname: request.domainname.unwrap_or_default(),
            mounts,
            read_only: request.read_only,
            capabilities_add: request.capabilities_add,
            capabilities_drop: request.capabilities_drop,
            privileged: request.privileged,
            security: request.security,
            devices: request.devices,
            ulimits: request.ulimits,
            sysctls: request.sysctls,
            init: request.init,
            resources,
            cgroup_parent: request.cgroup_parent.clone().unwrap_or_default(),
            device_rules: request.device_rules,
            cdi_devices: request.cdi_devices,
            namespaces,
            annotations: request.annotations,
            volumes_from: request.volumes_from,
            shm_size_bytes: request.shm_size_bytes.unwrap_or(SHM_SIZE_BYTES),
            oom_score_adj: request.oom_score_adj.unwrap_or(0),
            network: request.network,
            labels,
            stop_signal: request.stop_signal.or(defaults.stop_signal).unwrap_or_default(),
            terminal: request.terminal,
            open_stdin: request.open_stdin,
            stdin_once: request.stdin_once,
            log: request.log,
            restart: request.restart,
            restart_delay_ms: request.restart_delay_ms,
            health: crate::health::decide(request.health, defaults.healthcheck.as_ref())?,
            stop_timeout_seconds: request.stop_timeout_seconds.or(stop_timeout),
            remove_on_exit: request.remove_on_exit,
            cgroups_path: self.cgroups_path(id, request.cgroup_parent.as_deref())?,
            root: None,
        };
        Ok((config, warnings))
    }

    /// Rootless, the runtime finds the place that was delegated; where there is none, an empty path lets it do without.
    fn cgroups_path(&self, id: &ContainerId, parent: Option<&str>) -> Result<String> {
        let parent = parent.filter(|parent| !parent.is_empty());
        let rootless = self.options.rootless.is_some();
        if self.options.systemd_cgroup {
            let slice = parent.unwrap_or(if rootless { "user.slice" } else { "system.slice" });
            if !slice.ends_with(".slice") || slice.contains('/') {
                return Err(Error::invalid(
                    "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"",
                ));
            }
            return Ok(format!("{slice}:corten:{id}"));
        }
        match (rootless, parent) {
            (false, parent) => {
                let parent = normalize(&format!("/{}", parent.unwrap_or("corten")))
                    .context(|| "cannot use the cgroup of `--cgroup-parent`")?;
                Ok(format!("{parent}/{id}"))
            }
            (true, None) => Ok(String::new()),
            (true, Some(_)) => {
                Err(Error::new(ErrorKind::Unsupported, "`--cgroup-parent` needs root, or systemd for an ordinary user")
                    .hint("add `--systemd-cgroup` before the command, and name a slice"))
            }
        }
    }

    /// The binds of other containers (`--volumes-from`), but where this one has a mount of its own.
    fn inherited_mounts(&self, words: &[String], own: &[Mount]) -> Result<Vec<Mount>> {
        let mut inherited: Vec<Mount> = Vec::new();
        for word in words {
            let (name, mode) = word.split_once(':').unwrap_or((word, "rw"));
            let read_only = match mode {
                "rw" | "z" | "Z" => false,
                "ro" => true,
                _ => return Err(Error::invalid(format!("invalid mode: {mode}")).hint("`--volumes-from NAME[:ro|rw]`")),
            };
            let donor = self.container(name)?;
            for mount in donor.config.mounts {
                if matches!(mount.source, MountSource::Tmpfs(_)) || has_mount(own, &mount.destination) {
                    continue;
                }
                inherited.retain(|earlier| earlier.destination != mount.destination);
                let read_only = mount.read_only || read_only;
                inherited.push(Mount { read_only, given: Given::Inherited, ..mount });
            }
        }
        Ok(inherited)
    }

    /// What would fail at start for the request's own sake fails at creation.
    fn try_spec(&self, config: &ContainerConfig, profile: Option<&[u8]>) -> Result<()> {
        let around = self.surroundings(config, profile.map(<[u8]>::to_vec), spec::Joined::default())?;
        spec::build(config, &around).map(drop)
    }

    /// Takes a name for `id`: the file appears whole or not at all, and for one container only. It is a link to one in the
    /// container's directory, so that a kill leaves nothing among the names.
    fn take_name(&self, id: &str, directory: &Root, wanted: Option<ContainerName>) -> Result<String> {
        atomic::replace(directory, ID, id.as_bytes(), 0o600, Durability::Volatile)?;
        match wanted {
            Some(name) => self.link_name(directory, name.as_str()).map(|()| name.as_str().to_owned()),
            None => self.link_random_name(directory),
        }
    }

    fn link_random_name(&self, directory: &Root) -> Result<String> {
        let mut attempt = 0;
        loop {
            let name = crate::names::random(attempt)?;
            match self.link_name(directory, &name) {
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < 100 => attempt += 1,
                result => return result.map(|()| name),
            }
        }
    }

    pub(crate) fn link_name(&self, directory: &Root, name: &str) -> Result<()> {
        loop {
            match rustix::fs::linkat(directory, ID, &self.names, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).call(|| format!("linkat({name:?})")),
            }
            let holder = self.name_holder(name)?;
            let Some(holder) = holder.filter(|holder| !self.is_abandoned(holder).unwrap_or(false)) else {
                // Its maker or remover was killed half-way.
                match self.names.remove_file(name) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => continue,
                }
            };
            let short = holder.get(..12).unwrap_or(&holder);
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the container name `{name}` is already in use by container `{short}`"),
            )
            .hint(format!("choose another with `--name`, or remove it: `corten rm -f {name}`")));
        }
    }

    /// The id that a name stands for.
    pub(crate) fn name_holder(&self, name: &str) -> Result<Option<String>> {
        match self.names.read(name, 256) {
            Ok(content) => Ok(String::from_utf8(content).ok().filter(|id| ContainerId::parse(id).is_ok())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a container's directory is missing, or has no configuration and nobody who is about to write one.
    pub(crate) fn is_abandoned(&self, id: &str) -> Result<bool> {
        if self.containers.exists(format!("{id}/{CONFIG}"))? {
            return Ok(false);
        }
        let directory = match self.containers.sub_root(id) {
            Ok(directory) => directory,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let lock = Lock::attempt(directory.as_fd(), LOCK)?;
        Ok(lock.is_some() && !directory.exists(CONFIG)?)
    }
}

/// Entry point and command as docker merges them.
fn program(request: &CreateRequest, defaults: &ImageDefaults) -> Result<(Vec<String>, Vec<String>)> {
    let mut command = request.command.clone();
    if command.is_empty() && request.entrypoint.is_none() {
        command = defaults.cmd.clone().unwrap_or_default();
    }
    let mut entrypoint = match &request.entrypoint {
        Some(words) => words.clone(),
        None => defaults.entrypoint.clone().unwrap_or_default(),
    };
    if entrypoint.len() == 1 && entrypoint[0].is_empty() {
        entrypoint.clear();
    }
    if entrypoint.is_empty() && command.is_empty() {
        return Err(Error::invalid("no command specified: neither the image nor the command line names a program")
            .hint(format!("name one: `corten run {} PROGRAM`", request.image_name)));
    }
    if entrypoint.iter().chain(&command).any(|word| word.contains('\0')) {
        return Err(Error::invalid("a word of the command contains a NUL byte"));
    }
    Ok((entrypoint, command))
}

/// What a container of this machine's own root starts with.
fn host_defaults() -> ImageDefaults {
    ImageDefaults { cmd: Some(vec!["/bin/sh".to_owned()]), ..ImageDefaults::default() }
}

pub(crate) fn check_environment(env: &[String]) -> Result<()> {
    match env.iter().find(|entry| entry.is_empty() || entry.starts_with('=') || entry.contains('\0')) {
        Some(entry) => Err(Error::invalid(format!("invalid environment variable `{}`", entry.escape_debug()))),
        None => Ok(()),
    }
}

fn has_mount(mounts: &[Mount], path: &str) -> bool {
    let same = |mount: &Mount| normalize(&mount.destination).ok() == normalize(path).ok();
    mounts.iter().any(same)
}

fn check_mounts(mounts: &[Mount], warnings: &mut Vec<String>) -> Result<()> {
    for mount in mounts {
        let MountSource::Bind { path, create, relabel, .. } = &mount.source else { continue };
        if !path.is_absolute() {
            return Err(Error::invalid(format!("bind source `{}` is not an absolute path", path.display())));
        }
        if !create && !path.exists() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("bind source path does not exist: `{}`", path.display()),
            )
            .hint("make it first, or use `-v`, which makes a missing directory"));
        }
        if let Some(relabel) = relabel
            && std::path::Path::new("/sys/fs/selinux/enforce").exists()
        {
            let letter = if *relabel == Relabel::Shared { "z" } else { "Z" };
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("relabelling `{}` for SELinux (`:{letter}`) is not supported yet", path.display()),
            )
            .hint(format!("relabel it yourself: `chcon -Rt container_file_t {}`", path.display())));
        }
        if path == std::path::Path::new("/proc") {
            warnings.push("the host's /proc inside a container shows every process of the host".to_owned());
        }
    }
    Ok(())
}

fn check_security(security: &SecurityOptions) -> Result<()> {
    let exists = |path: &str| std::path::Path::new(path).exists();
    if security.apparmor.as_deref().is_some_and(|profile| profile != "unconfined")
        && !exists("/sys/kernel/security/apparmor")
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "an AppArmor profile was named, but this kernel has no AppArmor",
        )
        .hint("leave out `--security-opt apparmor=…`"));
    }
    let asks = security.labels.iter().any(|label| label != "disable");
    if asks {
        return Err(Error::new(ErrorKind::Unsupported, "SELinux labels of containers are not supported yet")
            .hint("use `--security-opt label=disable`, or leave it out"));
    }
    Ok(())
}

fn seccomp_profile(security: &SecurityOptions) -> Result<Option<Vec<u8>>> {
    match &security.seccomp {
        Seccomp::File(path) => corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX)
            .map(Some)
            .context(|| format!("opening seccomp profile `{}` failed", path.display())),
        Seccomp::Builtin | Seccomp::Unconfined => Ok(None),
    }
}

fn working_directory(workdir: &str) -> Result<String> {
    match workdir {
        "" | "/" => Ok("/".to_owned()),
        _ if !workdir.starts_with('/') => Err(Error::invalid(format!(
            "the working directory `{}` is invalid, it needs to be an absolute path",
            workdir.escape_debug()
        ))),
        // `/proc/self/fd/N` would be a way out of the root; the runtime checks the place itself once more.
        _ => Ok(normalize(workdir).unwrap_or_else(|_| "/".to_owned())),
    }
}

fn hostname(wanted: Option<String>, id: &ContainerId, is_hosts: bool) -> Result<String> {
    let name = match wanted {
        Some(name) if !name.is_empty() => name,
        _ if is_hosts => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        _ => id.short().to_owned(),
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.len() > 64 || !name.bytes().all(fits) {
        return Err(Error::invalid(format!("invalid hostname `{}`", name.escape_debug()))
            .hint("use at most 64 letters, digits, `-` and `.`"));
    }
    Ok(name)
}

/// CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn now() -> String {
    let (seconds, nanoseconds) = corten_types::time::now();
    corten_types::time::rfc3339(seconds, nanoseconds)
}
