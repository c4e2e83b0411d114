//! `corten run`

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_engine::{Created, Engine, ImageSource, Signals, StartRequest, Stdio, Terminal};
use corten_types::{Context as _, Error, Result};

use super::Context;
use crate::Failure;
use crate::command_line::{Parsed, boolean};
use crate::run::create_request;
use crate::terminal::{RawMode, is_terminal, size};

/// Creates a container and starts it; the exit code is its program's.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    start(context, parsed).map_err(|error| {
        let code = error.kind().run_exit_code();
        Failure::with_code(error, code)
    })
}

fn start(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8> {
    let request = create_request(parsed, context.environment)?;
    let (detaches, has_terminal, is_interactive) = (parsed.is_on("detach"), request.terminal, request.open_stdin);
    if !detaches && has_terminal && is_interactive && !is_terminal(rustix::stdio::stdin()) {
        return Err(
            Error::invalid("the input device is not a TTY").hint("leave out `-t` where the input is not a terminal")
        );
    }
    let engine = context.engine()?;
    if let ImageSource::Reference(name) = &request.source {
        super::pull::before_run(context, parsed, engine.store(), name)?;
    }
    let id_file = parsed.last("cidfile").filter(|path| !path.is_empty()).map(|path| IdFile::create(context, path));
    let id_file = id_file.transpose()?;
    let created = engine.create(request)?;
    if let Some(id_file) = id_file {
        id_file.write(&created.id)?;
    }
    for warning in &created.warnings {
        context.warn(&format!("WARNING: {warning}"));
    }
    if detaches {
        engine.start(&created.id, StartRequest { stdio: Stdio::Detached, terminal_size: None })?;
        context.print(&format!("{}\n", created.id))?;
        return Ok(0);
    }
    let proxies_signals = parsed.last("sig-proxy").and_then(boolean).unwrap_or(true);
    attached(&engine, &created, has_terminal, is_interactive, proxies_signals)
}

/// Starts the container on the caller's own descriptors and stays until it has ended.
fn attached(
    engine: &Engine,
    created: &Created,
    has_terminal: bool,
    is_interactive: bool,
    proxies_signals: bool,
) -> Result<u8> {
    // Before the start, so that no signal falls between start and attach.
    let signals = if proxies_signals { Some(Signals::watch()?) } else { None };
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let request = StartRequest {
        stdio: Stdio::Attached(streams(is_interactive)?),
        terminal_size: if has_terminal { size(stdout).or_else(|| size(stdin)) } else { None },
    };
    let running = engine.start(&created.id, request)?;
    let exit = if has_terminal {
        let raw = (is_interactive && is_terminal(stdin)).then(|| RawMode::enter(stdin)).transpose()?;
        let terminal = Terminal { input: is_interactive.then_some(stdin), output: stdout };
        let exit = running.attach(Some(terminal), signals.as_ref());
        drop(raw);
        exit?
    } else {
        running.attach(None, signals.as_ref())?
    };
    Ok(exit.code)
}

/// Descriptors that the program inherits; without `-i` its input is empty.
fn streams(is_interactive: bool) -> Result<[OwnedFd; 3]> {
    let duplicate = |descriptor: std::os::fd::BorrowedFd<'_>| {
        descriptor.try_clone_to_owned().context(|| "cannot duplicate a standard descriptor")
    };
    let input = if is_interactive {
        duplicate(rustix::stdio::stdin())?
    } else {
        File::open("/dev/null").context(|| "cannot open `/dev/null`")?.into()
    };
    Ok([input, duplicate(rustix::stdio::stdout())?, duplicate(rustix::stdio::stderr().as_fd())?])
}

/// The file that receives the container's id; one that was not written to is removed again.
struct IdFile {
    path: PathBuf,
    file: Option<File>,
}

impl IdFile {
    fn create(context: &Context<'_>, path: &str) -> Result<Self> {
        let path = context.environment.absolute(path);
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self { path, file: Some(file) }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(error) => {
                Err(Error::from(error).context(format!("failed to create the container ID file `{}`", path.display())))
            }
        }
    }

    fn write(mut self, id: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.write_all(id.as_bytes())
            .context(|| format!("cannot write the container ID file `{}`", self.path.display()))
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Empty and ours; if it cannot be removed, the next run says that it exists.
            let _removed = std::fs::remove_file(&self.path);
        }
    }
}

fn exists(path: &Path) -> Error {
    let path = path.display();
    Error::new(
        corten_types::ErrorKind::AlreadyExists,
        format!("container ID file found, make sure the other container isn't running or delete {path}"),
    )
}
