//! Containers on their way: stopped, started again, frozen, renamed, changed.

use std::collections::BTreeMap;

use corten_fs::atomic::{self, Durability};
use corten_fs::{Lock, Root};
use corten_types::runtime_spec::Resources as SpecResources;
use corten_types::shim::{Attach, Event as ShimEvent, Request, RestartPolicy, Update};
use corten_types::{ContainerName, Error, ErrorKind, Result};

use crate::attach::{Awaited, Running};
use crate::container::{Container, ContainerConfig};
use crate::create::{CONFIG, LOCK};
use crate::engine::Engine;
use crate::request::{HealthRequest, StartRequest};
use crate::resources::Resources;
use crate::state::State;

/// Docker's seconds until SIGKILL follows.
const STOP_TIMEOUT_SECONDS: i64 = 10;
const SIGTERM: i32 = 15;
/// Name of the file that stands in a container's directory while its name changes.
pub(crate) const RENAMING: &str = "renaming";
/// Name of the configuration that is about to take the place of the present one.
const NEXT_CONFIG: &str = "config.json.next";

/// What `update` changes; `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateRequest {
    /// Limits: every field that is set.
    pub resources: Resources,
    /// Restart policy.
    pub restart: Option<RestartPolicy>,
    /// Health check: every field that is set.
    pub health: Option<HealthRequest>,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Variables to set.
    pub env: Vec<String>,
}

impl ContainerConfig {
    /// Milliseconds that `stop` waits; `None` is for ever.
    pub(crate) fn stop_timeout_ms(&self) -> Option<u64> {
        timeout_ms(self.stop_timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS))
    }
}

fn timeout_ms(seconds: i64) -> Option<u64> {
    u64::try_from(seconds).ok().map(|seconds| seconds.saturating_mul(1000))
}

impl Engine {
    /// The signal that asks a container to end.
    pub(crate) fn stop_signal(&self, config: &ContainerConfig) -> Result<i32> {
        match config.stop_signal.as_str() {
            "" => Ok(SIGTERM),
            word => corten_types::kernel::signal(word)
                .filter(|number| *number > 0)
                .ok_or_else(|| Error::invalid(format!("invalid signal: {word}"))),
        }
    }

    /// Asks a container to end and kills it after a while; one that does not run is stopped already.
    ///
    /// `timeout_seconds` below zero waits for ever; `None` is the container's own, as is the signal.
    pub fn stop(&self, name: &str, signal: Option<i32>, timeout_seconds: Option<i64>) -> Result<()> {
        let container = self.container(name)?;
        let Some(mut connection) = self.connect(&container)? else {
            return Ok(());
        };
        let signal = signal.map_or_else(|| self.stop_signal(&container.config), Ok)?;
        let timeout_ms = match timeout_seconds {
            Some(seconds) => timeout_ms(seconds),
            None => container.config.stop_timeout_ms(),
        };
        connection.send(&Request::Stop { signal, timeout_ms })?;
        while let Some(event) = connection.wait()? {
            match event {
                ShimEvent::Exited { restarts: false, .. } => break,
                // It ended in this moment.
                ShimEvent::Failed(failure) if failure.kind == ErrorKind::Conflict.as_str() => {}
                ShimEvent::Failed(failure) => return Err(failure.into()),
                _ => {}
            }
        }
        self.tell(&container.config.id, "stop", container.attributes());
        Ok(())
    }

    /// Stops a container, where it runs, and starts it.
    pub fn restart(&self, name: &str, signal: Option<i32>, timeout_seconds: Option<i64>) -> Result<()> {
        let id = self.find(name)?;
        self.stop(&id, signal, timeout_seconds)?;
        self.start(&id, StartRequest::default())?;
        self.tell(&id, "restart", self.container(&id)?.attributes());
        Ok(())
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, name: &str, signal: i32) -> Result<()> {
        let container = self.container(name)?;
        let stopped = || {
            let (name, id) = (&container.config.name, &container.config.id);
            Error::new(ErrorKind::Conflict, format!("cannot kill container: {name}: container {id} is not running"))
                .hint("`corten ps -a` shows its state")
        };
        let Some(mut connection) = self.connect(&container)? else { return Err(stopped()) };
        // As docker: what asks for the end is not answered by another start.
        let ends =
            container.config.stop_signal.is_empty() || signal == 9 || signal == self.stop_signal(&container.config)?;
        connection.ask(&Request::Signal { number: signal, ends })?.ok_or_else(stopped)
    }

    /// Freezes every process of a container.
    pub fn pause(&self, name: &str) -> Result<()> {
        self.ask_living(name, &Request::Pause)
    }

    /// Thaws every process of a container.
    pub fn resume(&self, name: &str) -> Result<()> {
        let container = self.container(name)?;
        if container.life.state == State::Running {
            return Err(Error::new(ErrorKind::Conflict, format!("Container {} is not paused", container.config.id)));
        }
        self.ask_living(name, &Request::Resume)
    }

    fn ask_living(&self, name: &str, request: &Request) -> Result<()> {
        let container = self.container(name)?;
        let stopped = || not_running(&container);
        let Some(mut connection) = self.connect(&container)? else { return Err(stopped()) };
        connection.ask(request)?.ok_or_else(stopped)
    }

    /// Attaches to a running container.
    pub fn attach(&self, name: &str, wanted: Attach) -> Result<Running> {
        let container = self.container(name)?;
        let stopped = || {
            Error::new(ErrorKind::Conflict, "cannot attach to a stopped container, start it first")
                .hint(format!("`corten start -a {}`", container.config.name))
        };
        match container.life.state {
            State::Paused => {
                return Err(Error::new(ErrorKind::Conflict, "cannot attach to a paused container, unpause it first"));
            }
            State::Restarting => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "cannot attach to a restarting container, wait until it is running",
                ));
            }
            _ => {}
        }
        let Some(mut connection) = self.connect(&container)? else { return Err(stopped()) };
        connection.send(&Request::Attach(wanted))?;
        while let Some(event) = connection.wait()? {
            match event {
                ShimEvent::Attached { stdin, stdout, stderr } => {
                    let opened = connection.opened(stdin, stdout, stderr);
                    return Ok(Running {
                        id: container.config.id,
                        pid: container.life.pid,
                        connection,
                        opened,
                        terminal: container.config.terminal,
                        awaited: Awaited::Container,
                    });
                }
                ShimEvent::Failed(failure) => return Err(failure.into()),
                ShimEvent::Exited { .. } => return Err(stopped()),
                _ => {}
            }
        }
        Err(stopped())
    }

    /// Gives a container another name. A kill in between leaves it with two, which the next command puts right.
    pub fn rename(&self, name: &str, new: &str) -> Result<()> {
        let new = ContainerName::parse(new.strip_prefix('/').unwrap_or(new))?;
        let id = self.find(name)?;
        let directory = self.containers.sub_root(&id)?;
        let _lock = Lock::wait(&directory, LOCK)?;
        self.repair(&id)?;
        let container = self.read_container(&id)?;
        let old = container.config.name.clone();
        if old == new.as_str() {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        atomic::replace(&directory, RENAMING, b"", 0o600, Durability::Durable)?;
        if let Err(error) = self.link_name(&directory, new.as_str()) {
            directory.remove_file(RENAMING)?;
            return Err(error);
        }
        let config = ContainerConfig { name: new.as_str().to_owned(), ..container.config.clone() };
        let mut both = self.remove_first(&id, &old);
        both.extend(self.remove_first(&id, &config.name).pop());
        self.update_living(&container, Update { remove_first: Some(both), ..Update::default() })?;
        self.write_config(&directory, &config)?;
        self.finish_rename(&id)?;
        let update = Update {
            remove_first: Some(self.remove_first(&id, &config.name)),
            attributes: Some(config.attributes()),
            ..Update::default()
        };
        self.update_living(&container, update)?;
        let mut attributes = config.attributes();
        attributes.insert("oldName".to_owned(), format!("/{old}"));
        self.tell(&id, "rename", attributes);
        Ok(())
    }

    /// Takes every name but the recorded one away, where a change of name was under way. The caller holds the lock.
    pub(crate) fn finish_rename(&self, id: &str) -> Result<()> {
        if !self.containers.exists(format!("{id}/{RENAMING}"))? {
            return Ok(());
        }
        let name = self.read_container(id)?.config.name;
        for entry in self.names.list(".")? {
            let other = entry.name.to_string_lossy();
            if other != name && self.name_holder(&other)?.as_deref() == Some(id) {
                self.names.remove_file(other.as_ref())?;
            }
        }
        self.containers.remove_file(format!("{id}/{RENAMING}"))
    }

    fn update_living(&self, container: &Container, mut update: Update) -> Result<()> {
        if !container.config.remove_on_exit {
            update.remove_first = None;
        }
        if let Some(mut connection) = self.connect(container)? {
            connection.ask(&Request::Update(Box::new(update)))?;
        }
        Ok(())
    }

    fn write_config(&self, directory: &Root, config: &ContainerConfig) -> Result<()> {
        self.prepare_config(directory, config)?;
        directory.rename(NEXT_CONFIG, CONFIG, rustix::fs::RenameFlags::empty())
    }

    /// Writes the configuration beside the one in force.
    fn prepare_config(&self, directory: &Root, config: &ContainerConfig) -> Result<()> {
        let json = serde_json::to_vec(config)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode the container").caused_by(error))?;
        atomic::replace(directory, NEXT_CONFIG, &json, 0o600, Durability::Durable)
    }

    /// Changes an existing container; what the kernel allows at once, the rest at its next start. Says which waits.
    pub fn update(&self, name: &str, request: UpdateRequest) -> Result<Vec<String>> {
        let id = self.find(name)?;
        let directory = self.containers.sub_root(&id)?;
        let _lock = Lock::wait(&directory, LOCK)?;
        self.repair(&id)?;
        let container = self.read_container(&id)?;
        let mut config = container.config.clone();
        let mut update = Update::default();
        let mut later = Vec::new();
        let resources = config.resources.clone().changed(&request.resources);
        if resources != config.resources {
            config.resources = resources.checked(crate::create::cpus(), crate::spec::kernel_facts().1)?;
            update.resources = Some(Box::new(SpecResources { devices: Vec::new(), ..crate::spec::limits(&config)? }));
        }
        if let Some(restart) = request.restart {
            if config.remove_on_exit && restart != RestartPolicy::No {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            config.restart = restart.clone();
            update.restart = Some(restart);
        }
        if let Some(health) = request.health {
            config.health = crate::health::change(health, config.health.as_ref())?;
            update.health = Some(config.health.clone());
        }
        if !request.labels.is_empty() {
            config.labels.extend(request.labels);
            update.attributes = Some(config.attributes());
        }
        if !request.env.is_empty() {
            crate::create::check_environment(&request.env)?;
            crate::spec::merge_environment(&mut config.env, &request.env);
            if container.life.state.is_alive() {
                later.push("the environment changes at the next start".to_owned());
            }
        }
        // What can fail for want of room comes first, what can be refused next; then nothing is left but a rename.
        self.prepare_config(&directory, &config)?;
        if let Err(error) = self.update_living(&container, update) {
            directory.remove_file(NEXT_CONFIG)?;
            return Err(error);
        }
        directory.rename(NEXT_CONFIG, CONFIG, rustix::fs::RenameFlags::empty())?;
        self.tell(&id, "update", config.attributes());
        Ok(later)
    }

    /// Starts what the policies ask for after the machine's start; names and failures.
    pub fn boot(&self) -> Result<Vec<(String, Result<()>)>> {
        let wants = |container: &Container| match container.config.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !container.life.manually_stopped,
            RestartPolicy::OnFailure(retries) => {
                let has_retries = retries == 0 || container.life.restart_count < retries;
                container.life.exit_code != 0 && !container.life.manually_stopped && has_retries
            }
        };
        let containers = self.containers()?.into_iter().rev();
        let ended = containers.filter(|one| one.life.state == State::Exited && wants(one));
        Ok(ended
            .map(|container| {
                let started = self.start(&container.config.id, StartRequest::default()).map(drop);
                (container.config.name, started)
            })
            .collect())
    }
}

/// Docker's refusal.
pub(crate) fn not_running(container: &Container) -> Error {
    Error::new(ErrorKind::Conflict, format!("container {} is not running", container.config.id))
        .hint(format!("`corten start {}`", container.config.name))
}
