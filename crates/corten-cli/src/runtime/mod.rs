//! The role `corten runtime`: runc's command line over `corten-runtime`.
//!
//! `state` and `start` last about a millisecond, so only the table row that was asked for is looked at.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use corten_runtime::runtime::{Options, Runtime};
use corten_types::{Error, Result};

use crate::Environment;

mod arguments;
mod checkpoint;
mod events;
mod exec;
mod features;
mod foreground;
mod help;
mod lifecycle;
mod list;
mod log;
mod ps;
mod service;
mod spec;
mod table;
mod update;

use arguments::Arguments;
use log::Log;
use table::Command;

/// What a command needs beside its own arguments.
struct Context<'a> {
    environment: &'a Environment,
    runtime: Runtime,
    root: PathBuf,
    /// `--root` was given.
    root_is_chosen: bool,
    globals: Arguments,
    log: &'a Log,
}

/// Runs one command of runc's command line and returns the exit code. `program` is the name in messages and help, which is
/// not among `args`.
pub fn main(program: &str, args: Vec<OsString>, environment: &Environment) -> u8 {
    let mut words = args.clone().into_iter();
    let globals = match Arguments::read_leading(&mut words, table::GLOBALS) {
        Ok(globals) => globals,
        Err(error) => return misused(program, &error, None, &Log::standard()),
    };
    if globals.is_set("version") {
        return print(&help::version(program));
    }
    let name = words.next().unwrap_or_default();
    if globals.is_set("help") || name.is_empty() {
        return print(&help::program(program));
    }
    let log = match Log::open(&globals, environment) {
        Ok(log) => log,
        Err(error) => {
            Log::standard().error(&error);
            return 1;
        }
    };
    if name == "help" || name == "h" {
        return match words.next().map(|topic| table::find(&topic)) {
            None => print(&help::program(program)),
            Some(Some(command)) => print(&help::command(program, command)),
            Some(None) => no_topic(program, &log, "that command"),
        };
    }
    let Some(command) = table::find(&name) else {
        return no_topic(program, &log, &name.to_string_lossy());
    };
    dispatch(program, command, words, globals, environment, &log)
}

fn dispatch(
    program: &str,
    command: &'static Command,
    mut words: std::vec::IntoIter<OsString>,
    globals: Arguments,
    environment: &Environment,
    log: &Log,
) -> u8 {
    let arguments =
        match Arguments::read(&mut words, &[command.flags, table::COMMAND_HELP, table::GLOBALS], command.order) {
            Ok(arguments) => arguments,
            Err(error) => return misused(program, &error, Some(command), log),
        };
    if arguments.is_set("help") {
        return print(&help::command(program, command));
    }
    if let Err(error) = command.check_count(program, arguments.operands.len()) {
        return misused(program, &error, Some(command), log);
    }
    log.debug(|| format!("{} {:?}", command.name, arguments.operands));
    let outcome =
        context(globals, &arguments, environment, log).and_then(|context| (command.run)(&context, &arguments));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let error = if command.name == "exec" { error.context("exec failed") } else { error };
            log.error(&error);
            command.failure
        }
    }
}

fn context<'a>(
    globals: Arguments,
    arguments: &Arguments,
    environment: &'a Environment,
    log: &'a Log,
) -> Result<Context<'a>> {
    // As in runc, a global flag may also follow the command.
    let text = |name| arguments.text(name).or_else(|| globals.text(name));
    let chosen = [arguments, &globals].iter().any(|place| place.is_given("root"));
    let root = match text("root") {
        Some(root) => environment.absolute(root),
        None if chosen => environment.working_directory.clone(),
        None => default_root(environment)?,
    };
    let root = lexically_clean(&root);
    if root == Path::new("/") {
        return Err(Error::invalid("option `--root` must not be `/`"));
    }
    let systemd_cgroup = match text("cgroup-manager") {
        None => arguments.is_set("systemd-cgroup") || globals.is_set("systemd-cgroup"),
        Some("systemd") => true,
        Some("cgroupfs") => false,
        Some("disabled") => {
            return Err(Error::new(corten_types::ErrorKind::Unsupported, "cgroup manager `disabled` is not supported")
                .hint("use `--cgroup-manager cgroupfs` or `--cgroup-manager systemd`"));
        }
        Some(other) => {
            return Err(Error::invalid(format!("unknown cgroup manager `{other}`")).hint("use `cgroupfs` or `systemd`"));
        }
    };
    let rootless = match text("rootless") {
        None | Some("auto") => None,
        Some(word) => Some(arguments::parse_bool(word).ok_or_else(|| {
            Error::invalid(format!("invalid value `{word}` for `--rootless`")).hint("use `true`, `false` or `auto`")
        })?),
    };
    let options = Options { root: root.clone(), systemd_cgroup, rootless };
    Ok(Context { environment, runtime: Runtime::new(options), root, root_is_chosen: chosen, globals, log })
}

/// `/run/corten/runtime`, or its like below `XDG_RUNTIME_DIR` for everybody who is not the host's root.
fn default_root(environment: &Environment) -> Result<PathBuf> {
    let system = PathBuf::from("/run/corten/runtime");
    let Some(user) = environment.path("XDG_RUNTIME_DIR") else { return Ok(system) };
    if environment.uid == 0 && (environment.text("USER") == Some("root") || !in_user_namespace()) {
        return Ok(system);
    }
    let root = user.join("corten/runtime");
    // The sticky bit keeps clean-up programs away, as the XDG specification asks.
    for (directory, mode) in [(user.join("corten"), 0o700), (root.clone(), 0o1700)] {
        match rustix::fs::mkdir(&directory, rustix::fs::Mode::from_raw_mode(mode)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => {
                return Err(Error::syscall(format!("mkdir({directory:?})"), errno.raw_os_error())
                    .hint("the directory in $XDG_RUNTIME_DIR must be writable; choose another with `--root`"));
            }
        }
    }
    Ok(root)
}

fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// `.` and `..` resolved by name alone, as Go's `filepath.Clean`.
fn lexically_clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// The usage, then the error, as runc shows a command line it cannot read.
fn misused(program: &str, error: &Error, command: Option<&'static Command>, log: &Log) -> u8 {
    let usage = command.map_or_else(|| help::program(program), |command| help::command(program, command));
    print(&format!("Incorrect Usage.\n\n{usage}"));
    log.error(error);
    command.map_or(1, |command| command.failure.min(1))
}

fn no_topic(program: &str, log: &Log, name: &str) -> u8 {
    log.error(
        &Error::invalid(format!("No help topic for '{name}'")).hint(format!("`{program} --help` lists the commands")),
    );
    3
}

/// Writes to standard output; a reader that went away is a failure.
fn print(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    u8::from(out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_by_name() {
        assert_eq!(lexically_clean(Path::new("/a/./b/../../..")), Path::new("/"));
        assert_eq!(lexically_clean(Path::new("/run/x/../y")), Path::new("/run/y"));
    }
}
