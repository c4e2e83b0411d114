//! `corten stop`, `restart`, `kill`, `wait`, `pause`, `unpause`, `rename`: one deed for each container that is named.

use corten_engine::Engine;
use corten_types::{Error, Result};

use super::Context;
use crate::command_line::Parsed;
use crate::run::values::integer;
use crate::{Failure, WRONG_FLAGS};

/// Does `deed` to every container named; one that fails does not keep the others.
fn each(
    context: &mut Context<'_>,
    parsed: &Parsed,
    mut deed: impl FnMut(&Engine, &str) -> Result<String>,
) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let mut code = 0;
    for name in &parsed.operands {
        match deed(&engine, name) {
            Ok(text) => context.print(&format!("{text}\n"))?,
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn signal(parsed: &Parsed) -> Result<Option<i32>, Failure> {
    let word = parsed.last("signal").filter(|word| !word.is_empty());
    let number = |word: &str| {
        corten_types::kernel::signal(word).filter(|number| *number > 0).ok_or_else(|| {
            Error::invalid(format!("invalid signal: {word}")).hint("use a name such as `TERM`, or 1 to 64")
        })
    };
    Ok(word.map(number).transpose()?)
}

fn timeout(parsed: &Parsed) -> Result<Option<i64>, Failure> {
    let name = if parsed.last("timeout").is_some() { "timeout" } else { "time" };
    parsed.read_last(name, integer).map_err(|error| Failure::with_code(error, WRONG_FLAGS))
}

/// `stop`
pub(crate) fn stop(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (signal, timeout) = (signal(parsed)?, timeout(parsed)?);
    each(context, parsed, |engine, name| engine.stop(name, signal, timeout).map(|()| name.to_owned()))
}

/// `restart`
pub(crate) fn restart(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (signal, timeout) = (signal(parsed)?, timeout(parsed)?);
    each(context, parsed, |engine, name| engine.restart(name, signal, timeout).map(|()| name.to_owned()))
}

/// `kill`
pub(crate) fn kill(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let signal = signal(parsed)?.unwrap_or(9);
    each(context, parsed, |engine, name| engine.kill(name, signal).map(|()| name.to_owned()))
}

/// `wait`
pub(crate) fn wait(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    each(context, parsed, |engine, name| engine.wait(name).map(|exit| exit.code.to_string()))
}

/// `pause`
pub(crate) fn pause(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    each(context, parsed, |engine, name| engine.pause(name).map(|()| name.to_owned()))
}

/// `unpause`
pub(crate) fn unpause(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    each(context, parsed, |engine, name| engine.resume(name).map(|()| name.to_owned()))
}

/// `rename`
pub(crate) fn rename(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    context.engine()?.rename(&parsed.operands[0], &parsed.operands[1])?;
    Ok(0)
}

/// `boot`: starts what the restart policies ask for after the machine's start.
pub(crate) fn boot(context: &mut Context<'_>, _parsed: &Parsed) -> Result<u8, Failure> {
    let mut code = 0;
    for (name, started) in context.engine()?.boot()? {
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
