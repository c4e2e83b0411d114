//! `corten generate systemd`: units that start containers with the machine.

use std::fmt::Write as _;

use corten_engine::{ContainerConfig, RestartPolicy};
use corten_types::{Error, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// What a stop may take beyond the container's own time, seconds.
const STOP_SECONDS_MORE: i64 = 15;
/// Docker's time to stop, seconds.
const STOP_SECONDS: i64 = 10;

/// Prints a unit: of all containers' policies, or of one container.
pub(crate) fn systemd(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut words = vec![path(&context.environment.executable)?];
    words.extend(context.settings.words(context.environment)?);
    let corten = words.iter().map(|word| quoted(word)).collect::<Result<Vec<_>>>()?.join(" ");
    let target = if context.environment.uid == 0 { "multi-user.target" } else { "default.target" };
    let text = match parsed.last("name").filter(|name| !name.is_empty()) {
        None => boot_unit(&corten, target),
        Some(name) => container_unit(&corten, target, &context.engine()?.container(name)?.config),
    };
    context.print(&text)?;
    Ok(0)
}

fn path(path: &std::path::Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::invalid(format!("`{}` is not UTF-8", path.display())))
}

/// A word as systemd reads it (systemd.service(5), "Command lines").
fn quoted(word: &str) -> Result<String> {
    if word.contains(char::is_control) {
        return Err(Error::invalid(format!("`{}` cannot stand in a unit", word.escape_debug())));
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = escaped.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.:@+,=%".contains(c));
    Ok(if is_plain && !escaped.is_empty() { escaped } else { format!("\"{escaped}\"") })
}

fn head(description: &str) -> String {
    format!(
        "[Unit]\nDescription={description}\nWants=network-online.target\nAfter=network-online.target local-fs.target\n\n[Service]\n"
    )
}

fn boot_unit(corten: &str, target: &str) -> String {
    let mut text = head("Containers that start with the machine");
    let _infallible = write!(
        text,
        "Type=oneshot\nRemainAfterExit=yes\nExecStart={corten} boot\n# Each container has a supervisor of its own, which outlives this command.\n\
         KillMode=process\n\n[Install]\nWantedBy={target}\n"
    );
    text
}

/// With a policy of its own the container's supervisor starts it again; without, systemd follows its program.
fn container_unit(corten: &str, target: &str, config: &ContainerConfig) -> String {
    let name = &config.name;
    let mut text = head(&format!("Container {name}"));
    let start = match config.restart {
        RestartPolicy::No => format!("Type=exec\nExecStart={corten} start --attach {name}\n"),
        _ => format!("Type=oneshot\nRemainAfterExit=yes\nExecStart={corten} start {name}\n"),
    };
    let seconds = match config.stop_timeout_seconds.unwrap_or(STOP_SECONDS) {
        seconds if seconds < 0 => "infinity".to_owned(),
        seconds => seconds.saturating_add(STOP_SECONDS_MORE).to_string(),
    };
    let _infallible = write!(
        text,
        "{start}ExecStop={corten} stop {name}\nTimeoutStopSec={seconds}\n# How a program ends that was asked to, or killed for not doing so.\n\
         SuccessExitStatus=130 137 143\n# `stop` ends the program; its supervisor cleans up and ends by itself.\nKillMode=process\n\n\
         [Install]\nWantedBy={target}\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_systemd_reads_them() {
        for (word, shown) in [("/usr/bin/corten", "/usr/bin/corten"), ("/a b", "\"/a b\""), ("100%", "100%%")] {
            assert_eq!(quoted(word).unwrap(), shown);
        }
        assert!(quoted("a\nb").is_err());
    }

    #[test]
    fn a_unit_follows_the_program_unless_its_policy_does() {
        let plain = ContainerConfig { name: "web".to_owned(), ..ContainerConfig::default() };
        let unit = container_unit("/bin/corten", "multi-user.target", &plain);
        assert!(
            unit.contains("ExecStart=/bin/corten start --attach web") && unit.contains("TimeoutStopSec=25"),
            "{unit}"
        );
        let always = ContainerConfig { restart: RestartPolicy::Always, stop_timeout_seconds: Some(-1), ..plain };
        let unit = container_unit("/bin/corten", "default.target", &always);
        assert!(unit.contains("RemainAfterExit=yes") && unit.contains("TimeoutStopSec=infinity"), "{unit}");
        assert!(boot_unit("/bin/corten", "multi-user.target").contains("ExecStart=/bin/corten boot\n"));
    }
}
