//! The command line: docker's commands and flags over the engine, and runc's over the runtime.

mod command_line;
mod commands;
mod environment;
pub mod hello;
mod output;
mod progress;
mod registries;
mod run;
pub mod runtime;
mod settings;
mod terminal;

use std::ffi::OsString;
use std::io::Write;

use corten_types::{Error, ErrorKind, Result};

pub use command_line::render::{completions, man_pages, reference_pages, stale_reference_pages};
pub use environment::Environment;

use command_line::{Stop, find, parse, render, tables};
use commands::Context;
use settings::Settings;

/// A command that failed: what is reported, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Error,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.kind().exit_code();
        Self { error, code }
    }
}

impl Failure {
    /// A failure with another exit code than its kind's.
    pub(crate) fn with_code(error: impl Into<Error>, code: u8) -> Self {
        Self { error: error.into(), code }
    }
}

/// Exit code of a wrong command line, as docker's.
const WRONG_FLAGS: u8 = 125;

/// Runs one command of docker's command line (`args` without the program's name) and returns the exit code.
pub fn main(args: Vec<OsString>, environment: &Environment) -> u8 {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let outcome = words(args).and_then(|words| dispatch(&words, environment, &mut out, &mut err));
    let outcome = outcome.and_then(|code| match out.flush() {
        Ok(()) => Ok(code),
        Err(error) => Err(Error::from(error).context("cannot write to standard output").into()),
    });
    outcome.unwrap_or_else(|failure| {
        let text = output::report(&failure.error, output::has_colours(environment));
        // Where standard error is gone, the exit code alone speaks.
        let _written = err.write_all(text.as_bytes());
        failure.code
    })
}

fn words(args: Vec<OsString>) -> Result<Vec<String>, Failure> {
    let word = |arg: OsString| {
        arg.into_string().map_err(|arg| {
            let message = format!("the argument `{}` is not UTF-8", arg.to_string_lossy());
            Failure::with_code(Error::invalid(message), WRONG_FLAGS)
        })
    };
    args.into_iter().map(word).collect()
}

fn dispatch(
    words: &[String],
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Failure> {
    let globals = match parse(&tables::PROGRAM, words) {
        Ok(globals) => globals,
        Err(Stop::Help) => return print(out, &render::help_of_program(&[])),
        Err(Stop::Wrong(error)) => return Err(Failure::with_code(error, WRONG_FLAGS)),
    };
    if globals.is_on("version") {
        return print(out, &format!("Corten version {}\n", env!("CARGO_PKG_VERSION")));
    }
    let words = &globals.operands;
    if words.is_empty() {
        return print(out, &render::help_of_program(&[]));
    }
    let Some((command, count)) = find(words) else { return unknown_command(words, out) };
    let parsed = match parse(command, &words[count..]) {
        Ok(parsed) => parsed,
        Err(Stop::Help) => return print(out, &render::help(command)),
        Err(Stop::Wrong(error)) => return Err(misused(command, error)),
    };
    let mut context = Context { environment, settings: Settings::new(&globals), out, err };
    (command.run)(&mut context, &parsed)
}

/// Docker's exit codes: 125 for wrong flags and for `run`, 1 for a wrong number of words.
fn misused(command: &command_line::Command, error: Error) -> Failure {
    let counts_words = error.message().starts_with('\'') && command.path.last() != Some(&"run");
    let code = if counts_words { 1 } else { WRONG_FLAGS };
    let error = if error.hints().is_empty() { error.hint(format!("`{} --help`", command.full_name())) } else { error };
    Failure::with_code(error, code)
}

fn print(out: &mut dyn Write, text: &str) -> Result<u8, Failure> {
    out.write_all(text.as_bytes()).map_err(|error| Error::from(error).context("cannot write to standard output"))?;
    Ok(0)
}

fn unknown_command(words: &[String], out: &mut dyn Write) -> Result<u8, Failure> {
    let name = words[0].as_str();
    if tables::GROUPS.iter().any(|group| group.name == name) {
        return match words.get(1).map(String::as_str) {
            None | Some("--help" | "-h") => print(out, &render::help_of_program(&words[..1])),
            Some(second) => Err(unknown(&format!("{name} {second}"), second, Some(name))),
        };
    }
    Err(unknown(name, name, None))
}

fn unknown(shown: &str, name: &str, group: Option<&str>) -> Failure {
    if tables::LATER.contains(&name) {
        let message = format!("the command `{shown}` is not supported yet");
        return Error::new(ErrorKind::Unsupported, message).hint("`corten --help` lists the commands").into();
    }
    let error = Error::invalid(format!("unknown command: corten {shown}"));
    let places = tables::COMMANDS.iter().filter(|command| command.path.len() == 1 + usize::from(group.is_some()));
    let near = places
        .filter(|command| group.is_none_or(|group| command.path[0] == group))
        .filter_map(|command| command.path.last().map(|word| (command_line::distance(word, name), command)))
        .min_by_key(|(steps, _)| *steps);
    match near {
        Some((steps, command)) if steps <= 2 => error.hint(format!("did you mean `{}`?", command.full_name())).into(),
        _ => error.hint("`corten --help` lists the commands").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code, standard output, and the error's headline.
    fn run(line: &[&str]) -> (u8, String, String) {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let environment = Environment { working_directory: "/".into(), ..Environment::default() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = dispatch(&words, &environment, &mut out, &mut err);
        let (code, message) = match outcome {
            Ok(code) => (code, String::new()),
            Err(failure) => (failure.code, failure.error.message().to_owned()),
        };
        (code, String::from_utf8(out).unwrap(), message)
    }

    #[test]
    fn exit_codes_of_wrong_command_lines_are_docker_s() {
        for (line, code, message) in [
            (&["bogus"][..], 1, "unknown command: corten bogus"),
            (&["container", "bogus"], 1, "unknown command: corten container bogus"),
            (&["commit", "x"], 1, "the command `commit` is not supported yet"),
            (&["container", "commit"], 1, "the command `container commit` is not supported yet"),
            (&["exec", "x"], 1, "'corten exec' requires at least 2 arguments"),
            (&["logs", "-n", "x", "c"], 125, "invalid tail: x"),
            (&["--bogus", "ps"], 125, "unknown flag: --bogus"),
            (&["-H", "tcp://x", "ps"], 125, "the flag `--host` is not supported yet"),
            (&["ps", "--bogus"], 125, "unknown flag: --bogus"),
            (&["ps", "x"], 1, "'corten ps' accepts no arguments"),
            (&["rm"], 1, "'corten rm' requires at least 1 argument"),
            (&["run"], 125, "'corten run' requires at least 1 argument"),
            (&["run", "-m", "5x", "i"], 125, "invalid argument \"5x\" for \"-m, --memory\" flag: invalid suffix: 'x'"),
            (
                &["ps", "-n", "x"],
                125,
                "invalid argument \"x\" for \"-n, --last\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (&["ps", "--filter", "foo=1"], 1, "invalid filter 'foo'"),
            (&["ps", "--format", "{{.ID"], 1, "failed to parse template: template: :1: unclosed action"),
            (
                &["ps", "--format", "{{.Nope}}"],
                1,
                "failed to execute template: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type \
                 *formatter.ContainerContext",
            ),
            (&["version", "-f", "{{"], 64, "template parsing error: template: version:1: unclosed action"),
            (
                &["version", "-f", "{{.Nope}}"],
                1,
                "template: version:1:2: executing \"version\" at <.Nope>: can't evaluate field Nope in type system.versionInfo",
            ),
            (&["inspect", "-f", "{{.A", "x"], 64, "template parsing error: template: :1: unclosed action"),
            (&["completion", "tcsh"], 1, "unknown shell `tcsh`"),
        ] {
            let (got_code, _, got_message) = run(line);
            assert_eq!((got_code, got_message.as_str()), (code, message), "{line:?}");
        }
    }

    #[test]
    fn help_and_version_go_to_standard_output() {
        for line in
            [&[][..], &["--help"], &["help"], &["run", "--help"], &["help", "run"], &["container"], &["image", "-h"]]
        {
            let (code, out, _) = run(line);
            assert!(code == 0 && out.contains("Usage: corten"), "{line:?}: {out}");
        }
        assert!(run(&["--version"]).1.starts_with("Corten version "));
        assert!(run(&["-v"]).1.starts_with("Corten version "));
        let format = "{{.Client.Os}} {{.Server.Os}}";
        assert_eq!(run(&["version", "--format", format]).1, "linux linux\n");
    }
}
