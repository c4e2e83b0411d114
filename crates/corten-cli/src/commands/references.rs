//! `corten image log` and `corten image rollback`: where a name pointed, and back.

use corten_docker::table::align;
use corten_docker::units::since;
use corten_types::{Error, ErrorKind, Reference, Result};
use jiff::Timestamp;

use super::{Context, now};
use crate::Failure;
use crate::command_line::Parsed;

/// Shows where a name pointed, newest first.
pub(crate) fn log(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let reference = Reference::parse(&parsed.operands[0])?;
    let engine = context.engine()?;
    let moves = engine.store().history(&reference)?;
    if moves.is_empty() {
        return Err(never(&reference).into());
    }
    let mut text = "MOVE\tTARGET\tMOVED\tCAUSE\tSTATE\n".to_owned();
    for (position, step) in moves.iter().enumerate() {
        let target = match &step.target {
            Some(target) if parsed.is_on("no-trunc") => target.to_string(),
            Some(target) => target.short(),
            None => "<removed>".to_owned(),
        };
        let moved = Timestamp::from_nanosecond(i128::from(step.moved_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
        let state = match &step.target {
            _ if position == 0 => "current",
            Some(target) if engine.store().target(&target.to_string()).is_ok() => "here",
            Some(_) => "gone",
            None => "",
        };
        text.push_str(&format!("{position}\t{target}\t{} ago\t{}\t{state}\n", since(moved, now()), step.cause));
    }
    context.print(&trimmed(&align(&text)))?;
    Ok(0)
}

fn trimmed(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Points a name to what it pointed to before.
pub(crate) fn rollback(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let reference = Reference::parse(&parsed.operands[0])?;
    let steps = match parsed.operands.get(1) {
        None => 1,
        Some(word) => match word.parse::<usize>() {
            Ok(steps) if steps > 0 => steps,
            _ => return Err(Error::invalid(format!("`{word}` is not a number of moves")).into()),
        },
    };
    let engine = context.engine()?;
    let target = engine.store().rollback(&reference, steps)?;
    context.print(&format!("{} {target}\n", reference.familiar()))?;
    Ok(0)
}

fn never(reference: &Reference) -> Error {
    Error::new(ErrorKind::NotFound, format!("`{}` never pointed anywhere", reference.familiar()))
        .hint("`corten images` lists the names there are")
}
