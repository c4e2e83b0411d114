//! `corten start` and `corten attach`

use corten_engine::{Attach, DetachKeys, StartRequest, Stdio};
use corten_types::{Error, Result};

use super::Context;
use super::foreground::{Foreground, check_terminal, streams};
use crate::Failure;
use crate::command_line::{Parsed, boolean};
use crate::terminal::size;

/// Starts containers; with `-a` or `-i` one, and stays with it.
pub(crate) fn start(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (attaches, interactive) = (parsed.is_on("attach"), parsed.is_on("interactive"));
    if attaches || interactive {
        if parsed.operands.len() > 1 {
            return Err(Error::invalid("you cannot start and attach multiple containers at once").into());
        }
        return start_attached(context, parsed, interactive);
    }
    let engine = context.engine()?;
    let mut code = 0;
    for name in &parsed.operands {
        let started = engine.container(name).and_then(|container| match container.life.state.is_alive() {
            // As docker: what runs is started already.
            true if container.life.state != corten_engine::State::Paused => Ok(()),
            _ => engine.start(name, StartRequest::default()).map(drop),
        });
        match started {
            Ok(()) => context.print(&format!("{name}\n"))?,
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn start_attached(context: &mut Context<'_>, parsed: &Parsed, interactive: bool) -> Result<u8, Failure> {
    let name = &parsed.operands[0];
    let engine = context.engine()?;
    let config = engine.container(name)?.config;
    let wanted = Attach { stdin: interactive && config.open_stdin, stdout: true, stderr: true };
    let detach_keys = DetachKeys::parse(parsed.last("detach-keys").unwrap_or_default())?;
    let proxies_signals = parsed.last("sig-proxy").and_then(boolean).unwrap_or(true) && !config.terminal;
    let foreground = Foreground { wanted, proxies_signals, detach_keys };
    let signals = foreground.signals(config.terminal)?;
    let request = StartRequest {
        stdio: Stdio::Attached { wanted, streams: Some(streams(wanted.stdin)?) },
        terminal_size: if config.terminal { size(rustix::stdio::stdout()) } else { None },
    };
    let running = engine.start(name, request)?;
    Ok(foreground.stay(running, signals.as_ref())?)
}

/// Attaches to a running container; the exit code is its program's.
pub(crate) fn attach(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let name = &parsed.operands[0];
    let engine = context.engine()?;
    let config = engine.container(name)?.config;
    let wanted = Attach { stdin: config.open_stdin && !parsed.is_on("no-stdin"), stdout: true, stderr: true };
    check_terminal(config.terminal, wanted.stdin)?;
    let detach_keys = DetachKeys::parse(parsed.last("detach-keys").unwrap_or_default())?;
    let proxies_signals = parsed.last("sig-proxy").and_then(boolean).unwrap_or(true) && !config.terminal;
    let foreground = Foreground { wanted, proxies_signals, detach_keys };
    let signals = foreground.signals(config.terminal)?;
    let running = engine.attach(name, wanted)?;
    Ok(foreground.stay(running, signals.as_ref())?)
}
