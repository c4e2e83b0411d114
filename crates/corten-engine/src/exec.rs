//! One more process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::Call;
use corten_types::shim::{Event as ShimEvent, Exec, Request};
use corten_types::{ContainerId, Error, ErrorKind, Result};
use rustix::fs::OFlags;

use crate::attach::{Awaited, Running};
use crate::engine::Engine;
use crate::launch::Opened;
use crate::lifecycle::not_running;
use crate::security::capabilities;
use crate::state::State;

/// What a further process is.
#[derive(Debug, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables above the container's.
    pub env: Vec<String>,
    /// Working directory; `None` is the container's.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; `None` is the container's.
    pub user: Option<String>,
    /// Every capability.
    pub privileged: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The terminal's first size: rows, columns.
    pub terminal_size: Option<(u16, u16)>,
    /// Its standard input, output and error, where it has no terminal; `None` leads nowhere.
    pub streams: Option<[OwnedFd; 3]>,
    /// Nobody waits for it.
    pub detached: bool,
}

impl Engine {
    /// Starts a process in a running container; it belongs to the container's supervisor, not to the caller.
    pub fn exec(&self, name: &str, request: ExecRequest) -> Result<Running> {
        let container = self.container(name)?;
        match container.life.state {
            State::Running | State::Starting => {}
            State::Paused => {
                let name = &container.config.name;
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("container {name} is paused, unpause the container before exec"),
                )
                .hint(format!("`corten unpause {name}`")));
            }
            State::Restarting => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("Container {} is restarting, wait until the container is running", container.config.id),
                ));
            }
            _ => return Err(not_running(&container)),
        }
        crate::create::check_environment(&request.env)?;
        if request.args.iter().any(|word| word.contains('\0')) {
            return Err(Error::invalid("a word of the command contains a NUL byte"));
        }
        let names = match request.privileged {
            true => Some(capabilities::container(&[], &[], true, capabilities::available()?)?),
            false => None,
        };
        let exec = Exec {
            id: ContainerId::from_random(crate::random::bytes()?).as_str().to_owned(),
            args: request.args,
            env: request.env,
            cwd: request.workdir,
            user: request.user,
            capabilities: names.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            terminal: request.terminal,
            terminal_size: request.terminal_size,
            detached: request.detached,
        };
        let Some(mut connection) = self.connect(&container)? else { return Err(not_running(&container)) };
        let streams: Vec<BorrowedFd<'_>> = request.streams.iter().flatten().map(AsFd::as_fd).collect();
        connection.send_with(&Request::Exec(Box::new(exec)), &streams)?;
        while let Some(event) = connection.wait()? {
            match event {
                ShimEvent::ExecStarted { pid } => {
                    let main = connection.take_beside().filter(|_| request.terminal);
                    let opened = main.map(terminal).transpose()?.unwrap_or_default();
                    let (id, terminal) = (container.config.id, request.terminal);
                    return Ok(Running { id, pid, connection, opened, terminal, awaited: Awaited::Process });
                }
                ShimEvent::Failed(failure) => return Err(failure.into()),
                ShimEvent::Exited { .. } => break,
                _ => {}
            }
        }
        Err(not_running(&container))
    }
}

/// The terminal's main side as both streams.
fn terminal(main: OwnedFd) -> Result<Opened> {
    let flags = rustix::fs::fcntl_getfl(&main).call(|| "fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(&main, flags | OFlags::NONBLOCK).call(|| "fcntl(F_SETFL, O_NONBLOCK)")?;
    Ok(Opened { stdout: Some(main.try_clone()?), stdin: Some(main), stderr: None })
}
