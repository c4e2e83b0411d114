//! `corten exec`

use corten_engine::{Attach, DetachKeys, ExecRequest};
use corten_types::{ErrorKind, Result};

use super::Context;
use super::foreground::{Foreground, check_terminal, streams};
use crate::Failure;
use crate::command_line::Parsed;
use crate::run::variables;
use crate::terminal::size;

/// Runs one more program in a running container; the exit code is its own.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    exec(context, parsed).map_err(|error| {
        let code = match error.kind() {
            ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable => error.kind().run_exit_code(),
            _ => 1,
        };
        Failure::with_code(error, code)
    })
}

fn exec(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8> {
    let detached = parsed.is_on("detach");
    let (interactive, terminal) = (parsed.is_on("interactive") && !detached, parsed.is_on("tty"));
    if !detached {
        check_terminal(terminal, interactive)?;
    }
    let text = |name: &str| parsed.last(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let detach_keys = DetachKeys::parse(parsed.last("detach-keys").unwrap_or_default())?;
    let stdout = rustix::stdio::stdout();
    let request = ExecRequest {
        args: parsed.operands[1..].to_vec(),
        env: variables(parsed, context.environment)?,
        workdir: text("workdir"),
        user: text("user"),
        privileged: parsed.is_on("privileged"),
        terminal,
        terminal_size: if terminal && !detached { size(stdout).or_else(|| size(rustix::stdio::stdin())) } else { None },
        streams: if terminal || detached { None } else { Some(streams(interactive)?) },
        detached,
    };
    let engine = context.engine()?;
    let wanted = Attach { stdin: interactive, stdout: true, stderr: true };
    let foreground = Foreground { wanted, proxies_signals: false, detach_keys };
    let signals = if detached { None } else { foreground.signals(terminal)? };
    let running = engine.exec(&parsed.operands[0], request)?;
    if detached {
        return Ok(0);
    }
    foreground.stay(running, signals.as_ref())
}
