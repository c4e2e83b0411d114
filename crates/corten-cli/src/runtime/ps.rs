//! `ps`: the container's processes, as this machine's `ps` shows them.

use std::process::Command;

use corten_types::{Error, Result};

use super::arguments::Arguments;
use super::{Context, lifecycle, list, print};

/// `ps`
pub(super) fn ps(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let id = lifecycle::id(arguments)?;
    let pids = context.runtime.processes(id).map_err(lifecycle::blame_cgroups)?;
    match arguments.text("format").unwrap_or("table") {
        "table" => {}
        "json" => {
            let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
            return Ok(print(&format!("[{}]\n", pids.join(","))));
        }
        other => return Err(list::invalid_format(other)),
    }
    let options = &arguments.operands[1..];
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    }
    let output = command.args(options).output().map_err(|error| {
        Error::from(error).context("cannot run `ps`").hint(format!("`ps --format json {id}` needs no other program"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::invalid(format!("`ps` failed, {}", output.status)).caused_by(said.trim().to_owned()));
    }
    Ok(print(&rows_of(&String::from_utf8_lossy(&output.stdout), &pids)?))
}

/// The head and those lines whose PID column holds one of `pids`.
fn rows_of(output: &str, pids: &[i32]) -> Result<String> {
    let mut lines = output.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Error::invalid("cannot find the PID column in the output of `ps`"))?;
    let mut text = format!("{head}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|cell| cell.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_kept() {
        let output = "UID   PID CMD\nroot    1 init\nroot   12 sh\nroot  112 x 12\n";
        assert_eq!(rows_of(output, &[12]).unwrap(), "UID   PID CMD\nroot   12 sh\n");
        assert!(rows_of("CMD\nsh\n", &[12]).is_err());
    }
}
