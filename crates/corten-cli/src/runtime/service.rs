//! A service manager (systemd) as the caller: its sockets go into the container, the program's readiness comes out.

use std::os::fd::{AsFd, OwnedFd};

use corten_runtime::notify::{NotifySocket, ServiceManager};
use corten_types::{Error, Result};
use rustix::process::Pid;

use super::Context;

/// How many sockets there are from descriptor 3 on, where they are meant for this process (sd_listen_fds(3)).
pub(super) fn listen_fds(context: &Context<'_>) -> Result<u32> {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    if context.environment.text("LISTEN_PID") != Some(own.as_str()) {
        return Ok(0);
    }
    let Some(count) = context.environment.text("LISTEN_FDS") else { return Ok(0) };
    count.parse().map_err(|_| {
        Error::invalid(format!("the variable LISTEN_FDS is `{count}`, not a number of descriptors"))
            .hint("unset LISTEN_PID where no service manager passes sockets")
    })
}

/// Whether somebody wants to know when the program is ready.
pub(super) fn is_managed(context: &Context<'_>) -> bool {
    context.environment.text("NOTIFY_SOCKET").is_some()
}

/// The one who wants to know.
pub(super) fn manager(context: &Context<'_>) -> Result<Option<ServiceManager>> {
    context.environment.path("NOTIFY_SOCKET").map(|address| ServiceManager::connect(&address)).transpose()
}

/// Waits until the program is ready or has ended, and tells the manager; from then on the program's process is the one
/// to watch.
pub(super) fn pass_on_readiness(
    context: &Context<'_>,
    manager: &ServiceManager,
    socket: &NotifySocket,
    pid: Pid,
    pidfd: &OwnedFd,
) -> Result<()> {
    let Some(ready) = socket.wait(pidfd.as_fd())? else { return Ok(()) };
    manager.tell(&ready, pid)?;
    if !manager.wait_until_read()? {
        context.log.warn("the service manager did not confirm readiness within 30 seconds");
    }
    Ok(())
}
