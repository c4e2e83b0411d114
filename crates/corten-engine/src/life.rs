//! The true state of containers: records, liveness, and repair of what a killed process left.
//!
//! A supervisor holds the lock `alive` in the container's run directory for as long as it lives, and removes that directory
//! as its last deed. So a run directory whose lock is free means work left undone, whatever the record says.

use std::process::{Command, Stdio};

use corten_fs::atomic::{self, Durability};
use corten_fs::{Lock, Root};
use corten_types::shim::{ALIVE, LIFE, LifeRecord, ROOTFS};
use corten_types::time::rfc3339;
use corten_types::{ContainerId, Error, ErrorKind, Result, runtime_spec};
use rustix::mount::UnmountFlags;

use crate::container::{Container, ContainerConfig, Life};
use crate::create::{CONFIG, LOCK};
use crate::engine::Engine;
use crate::lifecycle::RENAMING;
use crate::namespaces::SHARED_MEMORY;
use crate::state::State;

/// Largest record that is read, bytes.
const RECORD_SIZE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What a container's end is called whose supervisor was killed: as if it had been killed itself.
const KILLED: u8 = 137;

/// What the run directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    /// A supervisor holds the lock.
    Alive,
    /// There is no run directory.
    Gone,
    /// There is one, and nobody holds its lock.
    Abandoned,
}

impl Engine {
    /// Every container, newest first, each in its true state (a dead supervisor is noticed and cleaned up after).
    pub fn containers(&self) -> Result<Vec<Container>> {
        let mut containers = Vec::new();
        for id in ids(&self.containers)? {
            match self.container_by_id(&id) {
                Ok(container) => containers.push(container),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for id in ids(&self.running)? {
            if !self.containers.exists(&id)? {
                self.sweep(&id)?;
            }
        }
        containers.sort_by(|a, b| (&b.config.created, &b.config.id).cmp(&(&a.config.created, &a.config.id)));
        Ok(containers)
    }

    /// One container by name, id or unique prefix of the id.
    pub fn container(&self, name: &str) -> Result<Container> {
        self.container_by_id(&self.find(name)?)
    }

    /// The id that a name, an id or a unique prefix of one means, as docker looks it up.
    pub(crate) fn find(&self, name: &str) -> Result<String> {
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("no such container: `{}`", name.escape_debug()))
                .hint("`corten ps -a` lists them")
        };
        let bare = name.strip_prefix('/').unwrap_or(name);
        if ContainerId::parse(bare).is_ok() && self.containers.exists(bare)? {
            return Ok(bare.to_owned());
        }
        if corten_types::ContainerName::parse(bare).is_ok()
            && let Some(id) = self.name_holder(bare)?
            && self.containers.exists(format!("{id}/{CONFIG}"))?
        {
            return Ok(id);
        }
        if bare.is_empty() || !bare.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(missing());
        }
        let mut matches = ids(&self.containers)?.into_iter().filter(|id| id.starts_with(bare));
        match (matches.next(), matches.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(Error::invalid(format!("several containers have ids that begin with `{bare}`"))),
            _ => Err(missing()),
        }
    }

    /// A container with its record, repaired first where its supervisor is dead.
    fn container_by_id(&self, id: &str) -> Result<Container> {
        if self.liveness(id)? == Liveness::Abandoned || self.is_stale(id)? {
            let directory = self.containers.sub_root(id)?;
            // Somebody who holds the lock is starting or removing it at this moment.
            if let Some(_lock) = Lock::attempt(&directory, LOCK)? {
                self.repair(id)?;
            }
        }
        self.read_container(id)
    }

    /// Whether the record claims life without a run directory (a restart of the machine), or there is no configuration.
    fn is_stale(&self, id: &str) -> Result<bool> {
        if !self.containers.exists(format!("{id}/{CONFIG}"))? {
            return Ok(true);
        }
        if self.containers.exists(format!("{id}/{RENAMING}"))? {
            return Ok(true);
        }
        Ok(state(&self.record(id)?).is_alive() && self.liveness(id)? == Liveness::Gone)
    }

    /// Reads a container as it is recorded; the caller knows that the record is true.
    pub(crate) fn read_container(&self, id: &str) -> Result<Container> {
        let missing = || Error::new(ErrorKind::NotFound, format!("no such container: `{id}`"));
        let json = match self.containers.read(format!("{id}/{CONFIG}"), RECORD_SIZE_BYTES_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            json => json?,
        };
        let config: ContainerConfig = runtime_spec::parse_document(&json, &format!("containers/{id}/{CONFIG}"))
            .map_err(|error| error.with_kind(ErrorKind::Corrupt))?;
        let record = self.record(id)?;
        let directory = self.container_path(id);
        let log_path = config.log.file_name(id).map(|name| directory.join(name)).unwrap_or_default();
        let mut life = life(&record);
        if life.state == State::Created && self.liveness(id)? == Liveness::Alive {
            life.state = State::Starting;
        }
        Ok(Container { config, life, directory, log_path })
    }

    fn record(&self, id: &str) -> Result<LifeRecord> {
        match self.containers.read(format!("{id}/{LIFE}"), RECORD_SIZE_BYTES_MAX) {
            Ok(json) => runtime_spec::parse_document(&json, &format!("containers/{id}/{LIFE}"))
                .map_err(|error| error.with_kind(ErrorKind::Corrupt)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(LifeRecord::default()),
            Err(error) => Err(error),
        }
    }

    fn liveness(&self, id: &str) -> Result<Liveness> {
        let run = match self.running.sub_root(id) {
            Ok(run) => run,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Liveness::Gone),
            Err(error) => return Err(error),
        };
        match Lock::attempt(&run, ALIVE) {
            Ok(None) => Ok(Liveness::Alive),
            Ok(Some(_)) => Ok(Liveness::Abandoned),
            // It went away in this moment.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Liveness::Gone),
            Err(error) => Err(error),
        }
    }

    /// Makes the record true and removes what a dead supervisor left. The caller holds the container's lock.
    pub(crate) fn repair(&self, id: &str) -> Result<()> {
        match self.liveness(id)? {
            Liveness::Alive => return self.finish_rename(id),
            Liveness::Abandoned => self.sweep(id)?,
            Liveness::Gone => {}
        }
        if !self.containers.exists(format!("{id}/{CONFIG}"))? {
            return self.forget(id, "");
        }
        self.finish_rename(id)?;
        let record = self.record(id)?;
        if state(&record).is_alive() {
            let ended = LifeRecord {
                state: State::Exited.as_str().to_owned(),
                pid: 0,
                shim_pid: 0,
                exit_code: KILLED,
                finished_at: Some(corten_types::time::now()),
                ..record
            };
            let json = serde_json::to_vec(&ended)
                .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode a record").caused_by(error))?;
            atomic::replace(self.containers.sub_root(id)?, LIFE, &json, 0o600, Durability::Durable)?;
            let container = self.read_container(id)?;
            let mut attributes = container.attributes();
            attributes.insert("exitCode".to_owned(), KILLED.to_string());
            self.tell(id, "die", attributes);
            if container.config.remove_on_exit {
                return self.forget(id, &container.config.name);
            }
        }
        Ok(())
    }

    /// Kills and removes what runs of a container without a supervisor, then its run directory.
    fn sweep(&self, id: &str) -> Result<()> {
        let run = match self.running.sub_root(id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            run => run?,
        };
        let _alive = match Lock::attempt(&run, ALIVE) {
            Ok(Some(alive)) => alive,
            Ok(None) => return Ok(()),
            // Its supervisor removed it in this moment.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.runtime_root().join(id).exists() {
            self.delete_by_runtime(id)?;
        }
        // Only where mounts are shared with the host was the root mounted in this mount namespace; elsewhere it is gone.
        for name in [ROOTFS, SHARED_MEMORY] {
            let place = self.run_path(id).join(name);
            rustix::mount::unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok();
        }
        if !self.containers.exists(id)? {
            self.store().remove_snapshot(id)?;
        }
        self.running.remove_all(id)
    }

    /// The processes of a running container as the host's `ps` shows them; `options` are its own.
    pub fn top(&self, name: &str, options: &[String]) -> Result<String> {
        let container = self.container(name)?;
        if !container.life.state.is_alive() {
            return Err(crate::lifecycle::not_running(&container));
        }
        let mut command = self.runtime_command();
        command.args(["ps", &container.config.id]).args(options);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        output_of(command, || format!("cannot list the processes of container `{}`", container.config.name))
    }

    /// `corten runtime delete --force`.
    fn delete_by_runtime(&self, id: &str) -> Result<()> {
        let mut command = self.runtime_command();
        command.args(["delete", "--force", id]);
        output_of(command, || format!("cannot clean up after container `{id}`")).map(drop)
    }

    /// `corten runtime …`: the runtime is never linked here.
    fn runtime_command(&self) -> Command {
        let mut command = Command::new(&self.options.executable);
        command.arg("runtime").arg("--root").arg(self.runtime_root());
        if self.options.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        if self.options.rootless.is_some() {
            command.args(["--rootless", "true"]);
        }
        command.env_clear().current_dir("/").stdin(Stdio::null());
        command
    }
}

/// What a command of the runtime printed.
fn output_of(mut command: Command, headline: impl Fn() -> String) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot start `corten runtime`").caused_by(error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Internal, headline()).caused_by(Error::new(ErrorKind::Internal, text)))
}

/// The identifiers that name directories here.
fn ids(root: &Root) -> Result<Vec<String>> {
    let entries = root.list(".")?;
    let names = entries.into_iter().filter_map(|entry| entry.name.into_string().ok());
    Ok(names.filter(|name| ContainerId::parse(name).is_ok()).collect())
}

fn state(record: &LifeRecord) -> State {
    State::ALL.into_iter().find(|state| state.as_str() == record.state).unwrap_or_default()
}

fn life(record: &LifeRecord) -> Life {
    let time = |time: Option<(i64, u32)>| time.map(|(seconds, nanos)| rfc3339(seconds, nanos)).unwrap_or_default();
    Life {
        state: state(record),
        pid: record.pid,
        shim_pid: record.shim_pid,
        exit_code: record.exit_code,
        oom_killed: record.oom_killed,
        error: record.error.clone(),
        started_at: time(record.started_at),
        finished_at: time(record.finished_at),
        restart_count: record.restart_count,
        manually_stopped: record.manually_stopped,
        health: record.health.clone(),
        log_drops: record.log_drops,
    }
}
