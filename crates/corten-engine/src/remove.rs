//! The end of containers: signals, waiting, removal.

use std::time::{Duration, Instant};

use corten_fs::{Lock, Root};
use corten_types::shim::{ALIVE, Event as ShimEvent, Request};
use corten_types::{Error, ErrorKind, Result};

use crate::attach::Exit;
use crate::container::Container;
use crate::create::{CONFIG, LOCK};
use crate::engine::Engine;
use crate::launch::{Connection, Waited};
use crate::lifecycle::RENAMING;
use crate::start::is_linked;
use crate::state::{Event, next};

const SIGKILL: i32 = 9;
/// A supervisor that was told to kill its container and says nothing for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(20);

impl Engine {
    /// Waits until the container has ended and says how; one that never ran has ended already.
    pub fn wait(&self, container: &str) -> Result<Exit> {
        let id = self.find(container)?;
        let container = self.container(&id)?;
        if let Some(mut connection) = self.connect(&container)? {
            while let Some(event) = connection.wait()? {
                if let ShimEvent::Exited { code, oom_killed, restarts: false } = event {
                    return Ok(Exit { code, oom_killed });
                }
            }
        }
        let life = self.container(&id)?.life;
        Ok(Exit { code: life.exit_code, oom_killed: life.oom_killed })
    }

    /// Removes a container and everything that belongs to it; with `force` also a running one.
    pub fn remove(&self, container: &str, force: bool) -> Result<()> {
        let id = self.find(container)?;
        let directory = match self.containers.sub_root(&id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            directory => directory?,
        };
        let lock = Lock::wait(&directory, LOCK)?;
        if !is_linked(&lock) {
            return Err(Error::new(ErrorKind::NotFound, format!("no such container: `{container}`")));
        }
        self.repair(&id)?;
        let container = match self.read_container(&id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return self.forget(&id, ""),
            // A record that cannot be read must not keep its container for ever.
            Err(error) if error.kind() == ErrorKind::Corrupt && force => return self.forget(&id, ""),
            container => container?,
        };
        if container.life.state.is_alive() {
            if !force {
                return Err(refusal(&container));
            }
            self.end(&container)?;
        } else {
            next(container.life.state, Event::Remove)?;
        }
        self.await_clean_up(&id)?;
        self.forget(&id, &container.config.name)?;
        self.tell(&id, "destroy", container.attributes());
        Ok(())
    }

    /// Kills the container through its supervisor and waits for the end. A supervisor that says nothing for long is killed
    /// too, and what it would have done is done in its place.
    fn end(&self, container: &Container) -> Result<()> {
        if let Some(mut connection) = self.connect(container)? {
            connection.send(&Request::Stop { signal: SIGKILL, timeout_ms: Some(0) })?;
            loop {
                match connection.wait_until(Instant::now() + SILENCE_MAX)? {
                    Waited::Event(ShimEvent::Failed(failure)) => return Err(failure.into()),
                    Waited::Event(_) => {}
                    Waited::Gone => break,
                    Waited::Nothing => {
                        connection.kill_supervisor()?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the supervisor's last deed, and does it in its place where it was killed.
    pub(crate) fn await_clean_up(&self, id: &str) -> Result<()> {
        match self.running.sub_root(id).and_then(|run: Root| Lock::wait(&run, ALIVE)) {
            Ok(alive) => drop(alive),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.repair(id)
    }

    /// Removes the files of a container of which nothing runs. First the configuration: from then on it is nobody's.
    pub(crate) fn forget(&self, id: &str, name: &str) -> Result<()> {
        let gone = |result: Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        };
        let renaming = self.containers.exists(format!("{id}/{RENAMING}"))?;
        gone(self.containers.remove_file(format!("{id}/{CONFIG}")))?;
        match name {
            _ if renaming => self.release_names(id)?,
            "" => self.release_names(id)?,
            name if self.name_holder(name)?.is_none_or(|holder| holder == id) => gone(self.names.remove_file(name))?,
            _ => {}
        }
        self.store().remove_snapshot(id)?;
        self.containers.remove_all(id)?;
        self.store().empty_trash()
    }

    /// Gives every name of `id` back, where the record that would say which it is was never written or is gone.
    fn release_names(&self, id: &str) -> Result<()> {
        for entry in self.names.list(".")? {
            let name = entry.name.to_string_lossy();
            if self.name_holder(&name)?.as_deref() == Some(id) {
                self.names.remove_file(name.as_ref())?;
            }
        }
        Ok(())
    }

    pub(crate) fn connect(&self, container: &Container) -> Result<Option<Connection>> {
        if !container.life.state.is_alive() {
            return Ok(None);
        }
        match self.running.sub_root(&container.config.id) {
            Ok(run) => Connection::open(&run),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn refusal(container: &Container) -> Error {
    let (name, state) = (&container.config.name, container.life.state);
    Error::new(ErrorKind::Conflict, format!("cannot remove container `{name}`: container is {state}"))
        .hint(format!("stop the container before removing or force remove: `corten rm -f {name}`"))
}
