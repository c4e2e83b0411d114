//! `corten why`: the causal story of a container in sentences.

use std::collections::BTreeMap;

use corten_docker::template::Value;
use corten_docker::units::human_size_binary;
use corten_engine::{State, Step, Story};
use corten_types::Result;
use corten_types::time::rfc3339;

use super::{Context, formatted};
use crate::Failure;
use crate::command_line::Parsed;

/// Tells why a container is as it is.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let story = context.engine()?.why(&parsed.operands[0])?;
    let text = match parsed.last("format").filter(|format| !format.is_empty()) {
        Some(format) => formatted("why", format, &document(&story))?,
        None => text(&story),
    };
    context.print(&text)?;
    Ok(0)
}

fn text(story: &Story) -> String {
    let id = story.id.get(..12).unwrap_or(&story.id);
    let mut text = format!("{} ({id}, image {}): {}\n\n", story.name, story.image, summary(story));
    for step in &story.steps {
        text.push_str(&format!("{}  {}\n", rfc3339(step.time.0, step.time.1), sentence(step)));
    }
    if !story.kernel_log_was_read {
        text.push_str("\nThe kernel's log cannot be read here: what it says of memory and system calls is missing.\n");
    }
    text
}

/// Where it is now, and the last cause known.
fn summary(story: &Story) -> String {
    let Some(container) = &story.container else { return format!("was removed; {}", cause(story)) };
    let life = &container.life;
    match life.state {
        State::Created | State::Starting if !life.error.is_empty() => format!("did not start: {}", life.error),
        State::Created | State::Starting => "was not started".to_owned(),
        State::Running if life.restart_count > 0 => {
            format!("runs, started again {} times; before that it {}", life.restart_count, cause(story))
        }
        State::Running => "runs".to_owned(),
        State::Paused => "is paused".to_owned(),
        State::Restarting => format!("is about to be started again: it {}", cause(story)),
        State::Exited if !life.error.is_empty() => format!("could not be started again: {}", life.error),
        _ => cause(story),
    }
}

/// Why the last run ended.
fn cause(story: &Story) -> String {
    let Some(at) = story.steps.iter().rposition(|step| step.action == "die") else { return "never ran".to_owned() };
    let die = &story.steps[at];
    let began = story.steps[..at].iter().rposition(|step| step.action == "start").unwrap_or(0);
    let run = &story.steps[began..];
    let code = fact(&die.facts, "exitCode");
    let Some(signal) = die.facts.get("signal") else { return format!("ended by itself with exit code {code}") };
    let name = signal_name(signal);
    if run.iter().any(|step| step.action == "oom") {
        return format!("was killed by the kernel for want of memory (exit code {code})");
    }
    if name == "SIGSYS" {
        return format!("was killed by its system call filter (exit code {code})");
    }
    let sent = run.iter().rev().find(|step| step.action == "kill" && fact(&step.facts, "signal") == signal);
    match sent {
        Some(step) => format!("was ended by {name} from {} (exit code {code})", fact(&step.facts, "sender")),
        None => format!(
            "was ended by {name} (exit code {code}), which Corten did not send: a process inside or of the host did, or the \
             kernel for a fault of the program"
        ),
    }
}

fn fact<'a>(facts: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    facts.get(name).map_or("", String::as_str)
}

fn signal_name(number: &str) -> String {
    let name = number.parse().ok().and_then(corten_types::kernel::signal_name);
    name.map_or_else(|| format!("signal {number}"), |name| format!("SIG{name}"))
}

fn sentence(step: &Step) -> String {
    let word = |name: &str| fact(&step.facts, name);
    let bytes = |name: &str| human_size_binary(word(name).parse().unwrap_or(0));
    match step.action.as_str() {
        "create" => "created".to_owned(),
        "start" => match word("restart") {
            "" => format!("started as process {}", word("pid")),
            count => format!("started again by its policy (restart {count}) as process {}", word("pid")),
        },
        "kill" => format!("{} was sent by {}", signal_name(word("signal")), word("sender")),
        "oom" => format!(
            "out of memory: at most {} of {} were in use, the limit was hit {} times, {} processes were killed",
            bytes("memoryPeakBytes"),
            bytes("memoryLimitBytes"),
            word("memoryFailures"),
            word("oomKills"),
        ),
        "die" => {
            let how = match step.facts.get("signal") {
                Some(signal) => format!("ended by {}, exit code {}", signal_name(signal), word("exitCode")),
                None => format!("ended with exit code {}", word("exitCode")),
            };
            let again = match word("restartsInMs") {
                "" => String::new(),
                wait => format!("; its policy starts it again in {wait} ms"),
            };
            match word("execDuration") {
                "" => format!("{how}, together with its supervisor{again}"),
                seconds => format!("{how} after {seconds} s{again}"),
            }
        }
        "kernel" => match word("kind") {
            "seccomp" => {
                format!("the kernel's log: the system call filter met call {}: {}", word("systemCall"), word("text"))
            }
            _ => format!("the kernel's log: {}", word("text")),
        },
        "stop" => "stopped".to_owned(),
        "pause" => "paused".to_owned(),
        "unpause" => "thawed".to_owned(),
        "restart" => "restarted by a command".to_owned(),
        "update" => "changed by `update`".to_owned(),
        "rename" => format!("renamed, before {}", word("oldName")),
        "destroy" => "removed".to_owned(),
        other => match (other.strip_prefix("health_status: "), word("output")) {
            (Some(status), "") => format!("is {status}"),
            (Some(status), output) => {
                format!(
                    "is {status}: the check ended with {} and printed: {}",
                    word("exitCode"),
                    output.trim().escape_debug()
                )
            }
            (None, _) => other.to_owned(),
        },
    }
}

fn document(story: &Story) -> Value {
    let field = |name: &str, value: Value| (name.to_owned(), value);
    let steps = story.steps.iter().map(|step| {
        Value::document(vec![
            field("Time", Value::from(rfc3339(step.time.0, step.time.1))),
            field("Action", Value::from(step.action.as_str())),
            field("Text", Value::from(sentence(step))),
            field("Facts", Value::string_map(&step.facts)),
        ])
    });
    let state = story.container.as_ref().map_or("removed", |container| container.life.state.as_str());
    Value::document(vec![
        field("ID", Value::from(story.id.as_str())),
        field("Name", Value::from(story.name.as_str())),
        field("Image", Value::from(story.image.as_str())),
        field("State", Value::from(state)),
        field("Summary", Value::from(summary(story))),
        field("KernelLogWasRead", Value::Bool(story.kernel_log_was_read)),
        field("Steps", Value::list(steps)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: &str, facts: &[(&str, &str)]) -> Step {
        let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Step { time: (0, 0), action: action.to_owned(), facts }
    }

    fn why(steps: Vec<Step>) -> String {
        cause(&Story { steps, ..Story::default() })
    }

    #[test]
    fn the_nearest_cause_is_named() {
        let start = || step("start", &[("pid", "7")]);
        let killed = || step("die", &[("exitCode", "137"), ("signal", "9")]);
        assert_eq!(why(vec![]), "never ran");
        assert_eq!(why(vec![start(), step("die", &[("exitCode", "3")])]), "ended by itself with exit code 3");
        assert!(why(vec![start(), killed()]).contains("which Corten did not send"));
        assert!(why(vec![start(), step("oom", &[]), killed()]).contains("for want of memory"));
        let sent = step("kill", &[("signal", "9"), ("sender", "`corten kill web` (process 5, user 0)")]);
        assert!(why(vec![start(), sent.clone(), killed()]).contains("SIGKILL from `corten kill web`"));
        // A signal of an earlier run explains nothing.
        assert!(why(vec![start(), sent, start(), killed()]).contains("which Corten did not send"));
        let filtered = step("die", &[("exitCode", "159"), ("signal", "31")]);
        assert!(why(vec![start(), filtered]).contains("system call filter"));
    }

    #[test]
    fn each_step_is_a_sentence() {
        let health = step("health_status: unhealthy", &[("output", "no\nanswer\n"), ("exitCode", "1")]);
        assert_eq!(sentence(&health), "is unhealthy: the check ended with 1 and printed: no\\nanswer");
        let again = step("die", &[("exitCode", "4"), ("execDuration", "2"), ("restartsInMs", "99")]);
        assert_eq!(sentence(&again), "ended with exit code 4 after 2 s; its policy starts it again in 99 ms");
        assert_eq!(
            sentence(&step("die", &[("exitCode", "137")])),
            "ended with exit code 137, together with its supervisor"
        );
    }
}
