//! Bringing a checkpointed container back.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::Call as _;
use corten_types::runtime_spec::{Hooks, Linux, NamespaceKind, SPEC_SIZE_BYTES_MAX, Spec};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mounts::{self, External};
use super::rpc::{Action, Criu, Launch, Message, Notification};
use super::{
    CriuOptions, DESCRIPTORS, EXTERNAL_NAMESPACES, FILE_SIZE_BYTES_MAX, MOUNTS, Places, common_options, environment,
    explained, joined_path, pair,
};
use crate::cgroup::{self, Cgroup};
use crate::launch::{create, plan};
use crate::record::{Directory, Process, Record};
use crate::runtime::{ContainerState, Runtime, Started, Status};
use crate::{hooks, terminal};

const LOG: &str = "restore.log";

/// What `restore` needs.
#[derive(Debug)]
pub struct RestoreRequest {
    /// Name of the new container.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Common settings.
    pub criu: CriuOptions,
    /// Unix socket that receives the terminal's main side.
    pub console_socket: Option<PathBuf>,
    /// File that receives the pid.
    pub pid_file: Option<PathBuf>,
    /// `TYPE:NAME` of a security module's profile.
    pub lsm_profile: Option<String>,
    /// Context of the mounts.
    pub lsm_mount_context: Option<String>,
}

impl Runtime {
    /// Makes a container from images; its first process is a child of the caller.
    pub fn restore(&self, request: RestoreRequest) -> Result<Started> {
        crate::record::check_id(&request.id)?;
        let bundle = std::path::absolute(&request.bundle).context(|| "cannot find the bundle")?;
        let json = corten_fs::root::read_ambient(&bundle.join("config.json"), SPEC_SIZE_BYTES_MAX)?;
        let spec = Spec::parse(&json)?;
        plan::check(&spec)?;
        let linux = spec.linux.clone().unwrap_or_default();
        let limits = cgroup::Request {
            cgroups_path: &linux.cgroups_path,
            id: &request.id,
            systemd: self.options().systemd_cgroup,
            rootless: self.options().is_rootless(),
            resources: linux.resources.as_ref(),
            devices: &linux.devices,
            annotations: &spec.annotations,
        };
        let console = request.console_socket.as_deref().map(terminal::connect_console).transpose()?;
        let root = spec.root.as_ref().map(|root| bundle.join(&root.path)).unwrap_or_default();
        #[expect(
            clippy::disallowed_methods,
            reason = "the root is the caller's own choice, and criu takes only a path"
        )]
        let rootfs = std::fs::canonicalize(&root).context(|| format!("cannot find the root `{}`", root.display()))?;
        let hooks = spec.hooks.clone().unwrap_or_default();
        let directory = Directory::create(&self.options().root, &request.id)?;
        let record = Record {
            id: request.id.clone(),
            bundle,
            rootfs,
            created: crate::time::now(),
            owner_uid: rustix::process::getuid().as_raw(),
            annotations: spec.annotations.clone(),
            init: None,
            newborn: None,
            cgroup: Some(Cgroup::plan(&limits)?),
            host_mounts: false,
            rdt: None,
            poststart: hooks.poststart.clone(),
            poststop: hooks.poststop.clone(),
        };
        let mut restoring =
            Restoring { directory, record, spec: &spec, linux: &linux, hooks: &hooks, console, terminal: None };
        let started = restoring.directory.write_config(&json).and_then(|()| restoring.run(&request, &limits));
        match started {
            Ok(started) => Ok(started),
            Err(error) => Err(restoring.abort(error).context(format!("cannot restore container `{}`", request.id))),
        }
    }
}

struct Restoring<'a> {
    directory: Directory,
    record: Record,
    spec: &'a Spec,
    linux: &'a Linux,
    hooks: &'a Hooks,
    console: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Restoring<'_> {
    fn run(&mut self, request: &RestoreRequest, limits: &cgroup::Request<'_>) -> Result<Started> {
        self.directory.write(&self.record)?;
        self.cgroup()?.create(limits).context(|| "cannot make the cgroup")?;
        let criu = &request.criu;
        let places = Places::open(criu)?;
        let mut options = common_options(criu, &places, LOG);
        options.switch(6, true);
        options.text(13, self.record.rootfs.as_os_str().as_encoded_bytes());
        options.switch(26, true);
        for (field, value) in [(53, &request.lsm_profile), (63, &request.lsm_mount_context)] {
            if let Some(value) = value {
                options.text(field, value.as_bytes());
            }
        }
        self.add_mounts(&mut options, criu)?;
        add_descriptors(&mut options, criu)?;
        let namespaces = self.add_namespaces(&mut options)?;
        let variables: Vec<CString> = environment(criu)?;
        let rootfs = self.record.rootfs.clone();
        let launch = Launch {
            program: &criu.program,
            environment: &variables,
            root: Some(&rootfs),
            stdio: None,
            inherited: namespaces.iter().map(AsFd::as_fd).collect(),
            directories: places.directories().collect(),
        };
        let process = Criu::start(&launch)?;
        self.enter_cgroup(process.pid, limits, &mut options)?;
        let outcome = process.converse(Action::Restore, &options, |notification| self.attend(notification));
        let pid = outcome.map_err(|error| explained(error, criu, LOG))?;
        let pid = Pid::from_raw(pid).ok_or_else(|| Error::new(ErrorKind::Internal, "criu restored no process"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).call(|| "pidfd_open(<restored process>)")?;
        create::write_pid_file(request.pid_file.as_deref(), pid)?;
        Ok(Started {
            pid,
            pidfd,
            terminal: self.terminal.take(),
            notify: None,
            warnings: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// Tells criu where mounts from outside are now, and makes their mount points.
    fn add_mounts(&self, options: &mut Message, criu: &CriuOptions) -> Result<()> {
        let recorded: Vec<External> = read(criu, MOUNTS)?;
        let root = corten_fs::Root::open_ambient(&self.record.rootfs)?;
        for external in mounts::with_sources_of(recorded, &self.spec.mounts) {
            if self.is_on_root(&external.destination) {
                make_mount_point(&root, &external)?;
            }
            let (place, source) = (external.destination.as_os_str(), external.source.as_os_str());
            options.message(23, &pair(place.as_encoded_bytes(), source.as_encoded_bytes()));
        }
        Ok(())
    }

    /// Whether a mount point lies on the root itself: what lies on another mount comes with it.
    fn is_on_root(&self, place: &Path) -> bool {
        !self.spec.mounts.iter().any(|mount| {
            let above = Path::new(&mount.destination);
            above != place && place.starts_with(above)
        })
    }

    /// Namespaces that exist already: handed over, or joined. The descriptors stay open while criu runs.
    fn add_namespaces(&self, options: &mut Message) -> Result<Vec<OwnedFd>> {
        let mut held = Vec::new();
        for (kind, _, key) in EXTERNAL_NAMESPACES {
            let Some(path) = joined_path(self.linux, kind) else { continue };
            let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("open({path:?})"))?;
            let mut inherited = Message::default();
            inherited.text(1, key.as_bytes());
            inherited.number(2, u64::from(file.as_raw_fd().unsigned_abs()));
            options.message(27, &inherited);
            held.push(file);
        }
        for namespace in self.linux.namespaces.iter().filter(|namespace| !namespace.path.is_empty()) {
            let name = match namespace.kind {
                NamespaceKind::Network | NamespaceKind::Pid => continue,
                NamespaceKind::Mount => "mnt",
                NamespaceKind::Ipc => "ipc",
                NamespaceKind::Uts => "uts",
                NamespaceKind::User => "user",
                NamespaceKind::Time => "time",
                NamespaceKind::Cgroup => {
                    let message = "criu cannot restore into an existing cgroup namespace";
                    return Err(Error::new(ErrorKind::Unsupported, message));
                }
            };
            options.message(39, &pair(name.as_bytes(), namespace.path.as_bytes()));
        }
        Ok(held)
    }

    /// Moves criu, and so what it restores, into the container's cgroup, and tells it the new paths.
    fn enter_cgroup(&mut self, pid: Pid, limits: &cgroup::Request<'_>, options: &mut Message) -> Result<()> {
        let cgroup = self.cgroup()?;
        if cgroup.needs_pid() {
            cgroup.start_scope(pid, limits)?;
        }
        let number = pid.as_raw_nonzero().get().to_string();
        for directory in cgroup.paths().values() {
            let file = Path::new(directory).join("cgroup.procs");
            std::fs::write(&file, &number).context(|| format!("cannot write `{}`", file.display()))?;
        }
        self.directory.write(&self.record)?;
        let table = format!("/proc/{number}/cgroup");
        let lines = corten_fs::root::read_ambient(Path::new(&table), FILE_SIZE_BYTES_MAX)?;
        for line in String::from_utf8_lossy(&lines).lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            for controller in controllers.split(',') {
                options.message(25, &pair(controller.as_bytes(), path.as_bytes()));
            }
        }
        Ok(())
    }

    fn attend(&mut self, notification: Notification<'_>) -> Result<()> {
        match (notification.script, notification.descriptor) {
            ("setup-namespaces", _) => {
                let state = ContainerState { pid: notification.pid, status: Status::Creating, ..self.record.state() };
                hooks::run("prestart", &self.hooks.prestart, &state, None)?;
                hooks::run("createRuntime", &self.hooks.create_runtime, &state, None)
            }
            ("post-restore", _) => {
                self.record.init = Process::find(notification.pid);
                self.directory.write(&self.record)
            }
            ("orphan-pts-master", Some(main)) => match &self.console {
                Some(socket) => terminal::send_descriptor(socket, b"/dev/ptmx", main.as_fd()),
                None => {
                    self.terminal = Some(main);
                    Ok(())
                }
            },
            _ => Ok(()),
        }
    }

    fn cgroup(&mut self) -> Result<&mut Cgroup> {
        self.record.cgroup.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "a container without a cgroup"))
    }

    fn abort(self, error: Error) -> Error {
        if let Some(cgroup) = &self.record.cgroup
            && cgroup.exists()
        {
            let _nobody_left = cgroup.signal_all(9);
        }
        match create::destroy(&self.directory, &self.record) {
            Ok(_) => error,
            Err(left) => error.hint(format!("some of it is left ({}); `delete --force` removes it", left.one_line())),
        }
    }
}

/// A file for a file, a directory for a directory.
fn make_mount_point(root: &corten_fs::Root, external: &External) -> Result<()> {
    let kind = std::fs::metadata(&external.source)
        .context(|| format!("cannot find `{}`, which the container had mounted", external.source.display()))?;
    if kind.is_dir() {
        return root.create_dir_all(&external.destination, Mode::from_raw_mode(0o755)).map(drop);
    }
    if let Some(parent) = external.destination.parent() {
        root.create_dir_all(parent, Mode::from_raw_mode(0o755))?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    root.open_or_create_file(&external.destination, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Pipes that the container had as its standard descriptors are replaced by ours.
fn add_descriptors(options: &mut Message, criu: &CriuOptions) -> Result<()> {
    let links: Vec<String> = read(criu, DESCRIPTORS)?;
    for (number, link) in (0..3).zip(&links) {
        if link.starts_with("pipe:") {
            let mut inherited = Message::default();
            inherited.text(1, link.as_bytes());
            inherited.number(2, number);
            options.message(27, &inherited);
        }
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(criu: &CriuOptions, name: &str) -> Result<T> {
    let path = criu.image_path.join(name);
    let bytes = corten_fs::root::read_ambient(&path, FILE_SIZE_BYTES_MAX)
        .map_err(|error| error.hint("the images must be those of a checkpoint that Corten made"))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("`{}` is damaged: {error}", path.display())))
}
