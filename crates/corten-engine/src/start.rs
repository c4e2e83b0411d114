//! Starting a container: its files, the runtime's configuration, a supervisor.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use corten_fs::{Lock, Root, atomic};
use corten_types::event::EVENTS;
use corten_types::shim::{ALIVE, Launch, LogDriver, Streams};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

use crate::attach::{Awaited, Running};
use crate::container::{Container, ContainerConfig};
use crate::create::{CONFIG, LOCK, SECCOMP};
use crate::engine::Engine;
use crate::launch;
use crate::namespaces::{NamespaceMode, SHARED_MEMORY};
use crate::request::{MountSource, NetworkMode, Propagation, StartRequest, Stdio};
use crate::security;
use crate::spec::{self, Surroundings};
use crate::state::{Event, State, next};

/// Largest file of the host that is copied into a container, bytes.
const HOST_FILE_SIZE_BYTES_MAX: u64 = 1024 * 1024;
/// Docker's waits before another start.
const RESTART_DELAY_MS: (u64, u64) = (100, 60_000);
/// Docker's /etc/hosts without an address of the container's own.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

impl Engine {
    /// Starts a created or exited container; returns once its program was executed.
    ///
    /// A failure's kind says 126 or 127 ([`corten_types::ErrorKind::run_exit_code`]); with `remove_on_exit` a container
    /// that failed to start is already gone.
    pub fn start(&self, container: &str, request: StartRequest) -> Result<Running> {
        let id = self.find(container)?;
        let directory = self.containers.sub_root(&id)?;
        let lock = Lock::wait(&directory, LOCK)?;
        let container = self.read_container(&id)?;
        if container.life.state == State::Paused {
            return Err(Error::new(ErrorKind::Conflict, "cannot start a paused container, try unpause instead")
                .hint(format!("`corten unpause {}`", container.config.name)));
        }
        next(container.life.state, Event::Start)
            .map_err(|bad| Error::from(bad).context(format!("cannot start container `{}`", container.config.name)))?;
        let config = &container.config;
        let launched = match self.start_locked(&container, &directory, request) {
            Ok(launched) => launched,
            Err(error) => {
                // The supervisor took everything back already, unless it was killed or never was.
                self.await_clean_up(&id)?;
                if config.remove_on_exit {
                    self.forget(&id, &config.name)?;
                }
                return Err(error.context(format!("cannot start container `{}`", config.name)));
            }
        };
        drop(lock);
        let terminal = config.terminal;
        Ok(Running {
            id,
            pid: launched.pid,
            connection: launched.connection,
            opened: launched.opened,
            terminal,
            awaited: Awaited::Container,
        })
    }

    fn start_locked(&self, container: &Container, directory: &Root, request: StartRequest) -> Result<launch::Launched> {
        let config = &container.config;
        make_sources(config)?;
        write_files(config, directory)?;
        let profile = match directory.exists(SECCOMP)? {
            true => Some(directory.read(SECCOMP, HOST_FILE_SIZE_BYTES_MAX * 8)?),
            false => None,
        };
        let mut around = self.surroundings(config, profile, self.joined(config)?)?;
        around.terminal_size = request.terminal_size;
        let alive = self.take_alive(&config.id)?;
        let mut message = self.launch_message(config, spec::build(config, &around)?)?;
        message.groups.extend(around.cdi.groups.iter().map(u32::to_string));
        let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
        if let Stdio::Attached { wanted, streams } = &request.stdio {
            match streams {
                // Nothing is kept of what the program prints: it may as well have the caller's own streams.
                Some(streams) if config.log.driver == LogDriver::None && !config.terminal => {
                    message.streams = Streams::Inherited;
                    descriptors.extend(streams.iter().map(AsFd::as_fd));
                }
                _ => message.attach = Some(*wanted),
            }
        }
        launch::launch(&self.options.executable, message, &alive, &descriptors)
    }

    fn launch_message(&self, config: &ContainerConfig, spec: corten_types::runtime_spec::Spec) -> Result<Launch> {
        let id = &config.id;
        let (directory, run_directory) = (self.container_path(id), self.run_path(id));
        let shares_memory = config.namespaces.ipc == NamespaceMode::Shareable;
        let root = config
            .root
            .clone()
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("container `{id}` has no root in its record")))?;
        let (mut remove_first, mut remove_last) = (Vec::new(), Vec::new());
        if config.remove_on_exit {
            remove_first = self.remove_first(id, &config.name);
            remove_last = vec![self.snapshot_path(id), directory.clone()];
        }
        Ok(Launch {
            id: id.clone(),
            directory,
            run_directory: run_directory.clone(),
            runtime_root: self.runtime_root(),
            root,
            spec: Box::new(spec),
            user: config.user.clone(),
            groups: config.groups_add.clone(),
            streams: Streams::Kept,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            attach: None,
            log: crate::log_options::complete(config),
            home_is_ours: false,
            restart: config.restart.clone(),
            restart_delay_ms: config.restart_delay_ms.unwrap_or(RESTART_DELAY_MS),
            stop: (self.stop_signal(config)?, config.stop_timeout_ms().unwrap_or(u64::MAX / 2)),
            health: config.health.clone(),
            events: self.options.root.join(EVENTS),
            attributes: config.attributes(),
            systemd_cgroup: self.options.systemd_cgroup,
            rootless: self.options.rootless.is_some(),
            shared_mounts: config.mounts.iter().any(is_shared) || shares_memory,
            shared_memory: shares_memory.then_some((run_directory.join(SHARED_MEMORY), config.shm_size_bytes)),
            remove_first,
            remove_last,
        })
    }

    /// What goes first with `--rm`: the record and the name.
    pub(crate) fn remove_first(&self, id: &str, name: &str) -> Vec<std::path::PathBuf> {
        vec![self.container_path(id).join(CONFIG), self.options.root.join("names").join(name)]
    }

    /// The run directory, and the lock in it by which everybody can tell that the supervisor lives.
    fn take_alive(&self, id: &str) -> Result<Lock> {
        loop {
            let run = match self.running.create_dir(id, Mode::RWXU) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => self.running.sub_root(id),
            };
            // A supervisor that is just cleaning up removes the directory at the very end and holds the lock until then.
            let run = match run {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                run => run?,
            };
            let lock = match Lock::wait(&run, ALIVE) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                lock => lock?,
            };
            if self.running.exists(format!("{id}/{ALIVE}"))? && is_linked(&lock) {
                return Ok(lock);
            }
        }
    }

    /// What the machine decides about a container.
    pub(crate) fn surroundings(
        &self,
        config: &ContainerConfig,
        seccomp_profile: Option<Vec<u8>>,
        joined: spec::Joined,
    ) -> Result<Surroundings> {
        let (kernel, cgroup2) = spec::kernel_facts();
        let rootless = self.options.rootless.as_ref();
        Ok(Surroundings {
            directory: self.container_path(&config.id),
            executable: self.options.executable.clone(),
            rootless: rootless.is_some(),
            many_ids: rootless.is_some_and(|rootless| rootless.many_ids),
            kernel,
            capabilities: security::capabilities::available()?,
            masked_paths: security::paths::masked(),
            cgroup2,
            devices: spec::of_host(&config.devices, config.privileged && rootless.is_none())?,
            cdi: crate::cdi::edits(&config.cdi_devices)?,
            joined,
            seccomp_profile,
            terminal_size: None,
        })
    }
}

/// Whether the file still has a name.
pub(crate) fn is_linked(lock: &Lock) -> bool {
    rustix::fs::fstat(lock).is_ok_and(|stat| stat.st_nlink > 0)
}

fn is_shared(mount: &crate::request::Mount) -> bool {
    matches!(mount.source, MountSource::Bind { propagation: Some(Propagation::Shared | Propagation::Rshared), .. })
}

/// Makes missing directories that `-v` names.
fn make_sources(config: &ContainerConfig) -> Result<()> {
    for mount in &config.mounts {
        let MountSource::Bind { path, create, propagation, .. } = &mount.source else { continue };
        if let Some(propagation) = propagation {
            check_propagation(path, *propagation)?;
        }
        if !path.exists() {
            if !create {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("bind source path does not exist: `{}`", path.display()),
                ));
            }
            Root::open_ambient(Path::new("/"))?
                .create_dir_all(path, Mode::from_raw_mode(0o755))
                .context(|| format!("cannot make the bind source `{}`", path.display()))?;
        }
    }
    Ok(())
}

/// Refuses `shared` for a source whose own mount shares nothing, and `slave` for one that receives nothing, as docker does.
fn check_propagation(path: &Path, propagation: Propagation) -> Result<()> {
    let fields: &[&str] = match propagation {
        Propagation::Private | Propagation::Rprivate => return Ok(()),
        Propagation::Shared | Propagation::Rshared => &["shared:"],
        Propagation::Slave | Propagation::Rslave => &["shared:", "master:"],
    };
    let table = corten_fs::root::read_ambient(Path::new("/proc/self/mountinfo"), 64 * 1024 * 1024)?;
    let (place, travels) = propagation_of(&String::from_utf8_lossy(&table), path);
    if travels.iter().any(|travel| fields.iter().any(|field| travel.starts_with(field))) {
        return Ok(());
    }
    let kind = if fields.len() == 1 { "a shared" } else { "a shared or slave" };
    Err(Error::invalid(format!("path `{}` is mounted on `{place}` but it is not {kind} mount", path.display()))
        .hint(format!("make it one: `mount --make-shared {place}`")))
}

/// The mount point that `path` lies on and its optional fields (proc_pid_mountinfo(5)).
fn propagation_of(table: &str, path: &Path) -> (String, Vec<String>) {
    let mounts = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(4);
        let place = words.next()?;
        let fields = words.skip(1).take_while(|word| *word != "-").map(str::to_owned).collect();
        path.starts_with(place).then(|| (place.to_owned(), fields))
    });
    // Of the same place the last mount is the one on top.
    mounts.max_by_key(|(place, _): &(String, Vec<String>)| Path::new(place).components().count()).unwrap_or_default()
}

/// The files that are bound into the container; what the container changed in them stays.
fn write_files(config: &ContainerConfig, directory: &Root) -> Result<()> {
    let host =
        |path: &str| corten_fs::root::read_ambient(Path::new(path), HOST_FILE_SIZE_BYTES_MAX).unwrap_or_default();
    let write = |name: &str, content: &dyn Fn() -> Vec<u8>| -> Result<()> {
        let file = directory.try_open(
            Path::new(name),
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o644),
        );
        match file {
            Ok(file) => {
                // The umask of the caller is not the container's.
                let readable = rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644));
                let written = atomic::write_all(&file, &content());
                readable.and(written).map_err(|errno| Error::syscall(format!("write(<{name}>)"), errno.raw_os_error()))
            }
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::syscall(format!("openat({name:?}, O_CREAT)"), errno.raw_os_error())),
        }
    };
    write("hostname", &|| format!("{}\n", config.hostname).into_bytes())?;
    write("resolv.conf", &|| host("/etc/resolv.conf"))?;
    write("hosts", &|| match config.network {
        NetworkMode::Host => host("/etc/hosts"),
        NetworkMode::None => HOSTS.as_bytes().to_vec(),
        // Where docker's bridge would give an address, the container's name means itself.
        NetworkMode::Default => format!("{HOSTS}127.0.0.1\t{}\n", config.hostname).into_bytes(),
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_topmost_mount_decides_what_travels() {
        let table = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw\n2 1 8:2 / /a rw master:3 - ext4 /dev/b rw\n\
                     3 2 8:3 / /a rw - tmpfs t rw\n";
        let of = |path: &str| propagation_of(table, Path::new(path));
        assert_eq!(of("/x"), ("/".to_owned(), vec!["shared:1".to_owned()]));
        assert_eq!(of("/a/b"), ("/a".to_owned(), Vec::new()));
        assert_eq!(of("/ab"), ("/".to_owned(), vec!["shared:1".to_owned()]));
    }
}
