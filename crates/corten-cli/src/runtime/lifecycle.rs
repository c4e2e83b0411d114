//! The commands that move a container through its life.

use std::path::PathBuf;

use corten_runtime::runtime::{CreateRequest, Runtime, Started, Status};
use corten_types::{Error, ErrorKind, Result};

use super::arguments::Arguments;
use super::foreground::{self, Foreground};
use super::{Context, foreground::PidfdReceiver, service};

/// `create`
pub(super) fn create(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let receiver = PidfdReceiver::connect(context, arguments, c"standard")?;
    let request = request(context, arguments)?;
    let (id, has_socket) = (request.id.clone(), request.console_socket.is_some());
    let started = context.runtime.create(request)?;
    context.log.started(&started);
    settle_detached(&context.runtime, &id, &started, has_socket, receiver)?;
    Ok(0)
}

/// `run`
pub(super) fn run(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let receiver = PidfdReceiver::connect(context, arguments, c"standard")?;
    let request = request(context, arguments)?;
    let (id, has_socket) = (request.id.clone(), request.console_socket.is_some());
    let manager = service::manager(context)?;
    if arguments.is_set("detach") {
        let started = context.runtime.run(request)?;
        context.log.started(&started);
        settle_detached(&context.runtime, &id, &started, has_socket, receiver)?;
        if let (Some(manager), Some(socket)) = (manager, &started.notify) {
            service::pass_on_readiness(context, &manager, socket, started.pid, &started.pidfd)?;
        }
        return Ok(0);
    }
    foreground::refuse_console_socket(has_socket)?;
    let foreground = Foreground::begin(!arguments.is_set("no-subreaper"), manager)?;
    let (started, held) = context.runtime.run_and_hold(request)?;
    context.log.started(&started);
    let outcome = receiver.deliver(&started.pidfd).and_then(|()| foreground.follow(started));
    if !arguments.is_set("keep") || outcome.is_err() {
        // After a failure it may still run.
        let deleted = if outcome.is_ok() { held.delete() } else { context.runtime.delete(&id, true) };
        match deleted {
            Ok(warnings) => context.log.warn_all(&warnings),
            Err(error) => context.log.warn(&error.context(format!("cannot delete container `{id}`")).one_line()),
        }
    }
    outcome
}

fn request(context: &Context<'_>, arguments: &Arguments) -> Result<CreateRequest> {
    let absolute = |path: Option<PathBuf>| path.map(|path| context.environment.absolute(path));
    let bundle = absolute(arguments.path("bundle")).unwrap_or_else(|| context.environment.working_directory.clone());
    Ok(CreateRequest {
        id: id(arguments)?.to_owned(),
        bundle,
        console_socket: absolute(arguments.path("console-socket")),
        pid_file: absolute(arguments.path("pid-file")),
        preserve_fds: preserve_fds(arguments)?,
        stdio: None,
        // In the foreground the terminal is relayed to ours.
        keep_line_feeds: !arguments.is_set("detach") && arguments.path("console-socket").is_none(),
        no_pivot: arguments.is_set("no-pivot"),
        no_new_keyring: arguments.is_set("no-new-keyring"),
        listen_fds: service::listen_fds(context)?,
        notify: service::is_managed(context),
    })
}

/// The container that the first operand names.
pub(super) fn id(arguments: &Arguments) -> Result<&str> {
    match arguments.operands.first() {
        Some(id) if !id.is_empty() => Ok(id),
        _ => Err(Error::invalid("container id cannot be empty")),
    }
}

/// `--preserve-fds`
pub(super) fn preserve_fds(arguments: &Arguments) -> Result<u32> {
    let count = arguments.number("preserve-fds").unwrap_or(0);
    u32::try_from(count).map_err(|_| Error::invalid(format!("invalid value `{count}` for flag `--preserve-fds`")))
}

/// A terminal without a receiver would leave the program hanging on it: the container is taken back.
fn settle_detached(
    runtime: &Runtime,
    id: &str,
    started: &Started,
    has_socket: bool,
    receiver: PidfdReceiver,
) -> Result<()> {
    let outcome = match foreground::check_detached(started, has_socket) {
        Ok(()) => receiver.deliver(&started.pidfd),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        runtime.delete(id, true)?;
    }
    outcome
}

/// `start`
pub(super) fn start(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let id = id(arguments)?;
    let Some(manager) = service::manager(context)? else {
        context.runtime.start(id)?;
        return Ok(0);
    };
    let socket = context.runtime.notify_socket(id)?;
    let process = context.runtime.first_process(id);
    context.runtime.start(id)?;
    if let (Some(socket), Ok((pid, pidfd))) = (socket, process) {
        service::pass_on_readiness(context, &manager, &socket, pid, &pidfd)?;
    }
    Ok(0)
}

/// `kill`
pub(super) fn kill(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let id = id(arguments)?;
    let word = arguments.operands.get(1).map_or("SIGTERM", String::as_str);
    let signal = parse_signal(word)?;
    let all = arguments.is_set("all");
    match context.runtime.kill(id, signal, all) {
        // Whoever asked for all of them has what was wanted when none is left.
        Err(_) if all && context.runtime.state(id).is_ok_and(|state| state.status == Status::Stopped) => Ok(0),
        outcome => outcome.map(|()| 0),
    }
}

/// `delete`
pub(super) fn delete(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    context.log.warn_all(&context.runtime.delete(id(arguments)?, arguments.is_set("force"))?);
    Ok(0)
}

/// `pause`
pub(super) fn pause(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    context.runtime.pause(id(arguments)?).map_err(blame_cgroups)?;
    Ok(0)
}

/// `resume`
pub(super) fn resume(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    context.runtime.resume(id(arguments)?).map_err(blame_cgroups)?;
    Ok(0)
}

/// Adds what is usually behind a denied cgroup operation.
pub(super) fn blame_cgroups(error: Error) -> Error {
    if error.kind() == ErrorKind::Denied {
        error.hint("full access to the container's cgroup is needed")
    } else {
        error
    }
}

/// A number, or a name with or without `SIG` in any case.
fn parse_signal(word: &str) -> Result<i32> {
    corten_types::kernel::signal(word).ok_or_else(|| {
        Error::invalid(format!("unknown signal \"{word}\"")).hint("use a name such as `TERM`, or 1 to 64")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbers_or_names() {
        for word in ["9", "KILL", "SIGKILL", "sigkill", "kill"] {
            assert_eq!(parse_signal(word).unwrap(), 9);
        }
        assert_eq!(parse_signal("SIGRTMIN+3").unwrap(), 37);
        assert_eq!(parse_signal("RTMAX-1").unwrap(), 63);
        for word in ["", "SIG", "65", "-1", "RTMIN+99", "moon", "99999999999"] {
            assert_eq!(parse_signal(word).unwrap_err().message(), format!("unknown signal \"{word}\""));
        }
    }
}
