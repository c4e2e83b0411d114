//! Programs that the configuration has run at points of the container's life (config.md, "POSIX-platform Hooks").

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use corten_sys::Call as _;
use corten_sys::launcher::{Launcher, c_strings};
use corten_types::runtime_spec::{Hook, Hooks};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::runtime::ContainerState;

/// Most bytes of a failed hook's output that its error shows.
const OUTPUT_SIZE_BYTES_MAX: u64 = 2048;

/// How programs of the container itself are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside<'a> {
    pub(crate) launcher: &'a Launcher,
    /// The environment of the container's program.
    pub(crate) environment: &'a [CString],
}

/// Checks every hook before anything is made.
pub(crate) fn check(hooks: &Hooks) -> Result<()> {
    let kinds = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (kind, list) in kinds {
        for (index, hook) in list.iter().enumerate() {
            let field = format!("hooks.{kind}[{index}]");
            if !hook.path.starts_with('/') {
                return Err(Error::invalid(format!("`{field}.path` is not absolute: `{}`", hook.path)));
            }
            if std::iter::once(&hook.path).chain(&hook.args).chain(&hook.env).any(|text| text.contains('\0')) {
                return Err(Error::invalid(format!("`{field}` contains NUL")));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(Error::invalid(format!("`{field}.timeout` must be greater than zero")));
            }
            if let Some(bad) = hook.env.iter().find(|variable| !variable.contains('=')) {
                return Err(Error::invalid(format!("`{field}.env` has an entry that is not NAME=VALUE: `{bad}`")));
            }
        }
    }
    Ok(())
}

/// Runs hooks in order; the first failure ends the list. Programs of the container itself are executed by the launcher, and
/// have the container's environment where the hook names none, as with runc.
pub(crate) fn run(kind: &str, list: &[Hook], state: &ContainerState, inside: Option<Inside<'_>>) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
    for (index, hook) in list.iter().enumerate() {
        run_one(hook, &state, inside).context(|| format!("error running {kind} hook #{index}: `{}`", hook.path))?;
    }
    Ok(())
}

/// Runs every hook in spite of failures, which are returned as warnings.
pub(crate) fn run_all(kind: &str, list: &[Hook], state: &ContainerState) -> Vec<String> {
    list.iter()
        .filter_map(|hook| run(kind, std::slice::from_ref(hook), state, None).err())
        .map(|error| error.one_line())
        .collect()
}

fn run_one(hook: &Hook, state: &[u8], inside: Option<Inside<'_>>) -> Result<()> {
    let mut output = memory_file("hook-output")?;
    let mut command = command(hook, state, &output)?;
    if let Some(inside) = inside {
        carry(hook, &mut command, inside)?;
    }
    let mut child = command.spawn().context(|| format!("cannot run `{}`", hook.path))?;
    let timeout = hook.timeout.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    if !wait(&child, timeout)? {
        let _already_gone = child.kill();
        let _reaped = child.wait();
        return Err(Error::new(
            ErrorKind::Exhausted,
            format!("no end after {} seconds, so it was killed", timeout.unwrap_or_default().as_secs()),
        ));
    }
    let status = child.wait().context(|| "cannot wait for the hook")?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {}", signal_name(signal)),
        (None, None) => "it ended".to_owned(),
    };
    Err(Error::new(ErrorKind::Internal, format!("{how}{}", said(&mut output))))
}

/// The environment is the hook's own alone: never the runtime's, never the container's.
fn command(hook: &Hook, state: &[u8], output: &File) -> Result<Command> {
    let mut input = memory_file("hook-state")?;
    input.write_all(state).context(|| "cannot write the hook's state")?;
    input.rewind().context(|| "cannot rewind the hook's state")?;
    let duplicate = || output.try_clone().context(|| "cannot duplicate the hook's output");
    let mut command = Command::new(&hook.path);
    command.env_clear().stdin(input).stdout(duplicate()?).stderr(Stdio::from(duplicate()?));
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    command.envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    Ok(command)
}

fn carry(hook: &Hook, command: &mut Command, inside: Inside<'_>) -> Result<()> {
    let text = |list: &[String]| c_strings(list.iter().map(String::as_str));
    let path = c_strings([hook.path.as_str()])?.remove(0);
    let args = if hook.args.is_empty() { vec![path.clone()] } else { text(&hook.args)? };
    let environment = if hook.env.is_empty() { inside.environment.to_vec() } else { text(&hook.env)? };
    inside.launcher.carry(command, path, args, environment)
}

/// In the words of Go's os package, which engines show.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Waits for the end; false when the time is over.
fn wait(child: &Child, timeout: Option<Duration>) -> Result<bool> {
    let Some(timeout) = timeout else { return Ok(true) };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::new(ErrorKind::Internal, "a hook without a pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).call(|| "pidfd_open(<hook>)")?;
    let timeout = Timespec::try_from(timeout).ok();
    let mut list = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut list, timeout.as_ref())).call(|| "poll(<hook>)")?;
    Ok(ready > 0)
}

fn said(output: &mut File) -> String {
    let mut text = Vec::new();
    let read = output.rewind().and_then(|()| output.take(OUTPUT_SIZE_BYTES_MAX).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    match read {
        Ok(length) if length > 0 => format!(", it said: {}", text.trim()),
        _ => String::new(),
    }
}

fn memory_file(name: &str) -> Result<File> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).call(|| format!("memfd_create(\"{name}\")"))?;
    Ok(File::from(file))
}
