//! `corten run` and `corten create`

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use corten_engine::{Attach, Created, DetachKeys, Engine, ImageSource, StartRequest, Stdio};
use corten_types::{Context as _, Error, Result};

use super::Context;
use super::foreground::{Foreground, check_terminal, streams};
use crate::Failure;
use crate::command_line::{Parsed, boolean};
use crate::run::create_request;
use crate::terminal::size;

/// Creates a container and starts it; the exit code is its program's.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    start(context, parsed).map_err(|error| {
        let code = error.kind().run_exit_code();
        Failure::with_code(error, code)
    })
}

/// Creates a container.
pub(crate) fn create(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let mut request = create_request(parsed, context.environment)?;
    request.stdin_once = request.open_stdin;
    let engine = context.engine()?;
    let created = make(context, parsed, &engine, request)?;
    context.print(&format!("{}\n", created.id))?;
    Ok(0)
}

fn make(
    context: &mut Context<'_>,
    parsed: &Parsed,
    engine: &Engine,
    request: corten_engine::CreateRequest,
) -> Result<Created> {
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
    Ok(created)
}

fn start(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8> {
    let mut request = create_request(parsed, context.environment)?;
    let detaches = parsed.is_on("detach");
    let wanted = wanted(parsed, request.open_stdin)?;
    let detach_keys = DetachKeys::parse(parsed.last("detach-keys").unwrap_or_default())?;
    if detaches && parsed.all("attach").next().is_some() {
        return Err(Error::invalid("conflicting options: cannot specify both --attach and --detach"));
    }
    request.stdin_once = request.open_stdin && !detaches;
    let has_terminal = request.terminal;
    if !detaches {
        check_terminal(has_terminal, wanted.stdin)?;
    }
    let engine = context.engine()?;
    let created = make(context, parsed, &engine, request)?;
    if detaches {
        engine.start(&created.id, StartRequest::default())?;
        context.print(&format!("{}\n", created.id))?;
        return Ok(0);
    }
    let proxies_signals = parsed.last("sig-proxy").and_then(boolean).unwrap_or(true);
    let foreground = Foreground { wanted, proxies_signals, detach_keys };
    let signals = foreground.signals(has_terminal)?;
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let request = StartRequest {
        stdio: Stdio::Attached { wanted, streams: all(wanted).then(|| streams(wanted.stdin)).transpose()? },
        terminal_size: if has_terminal { size(stdout).or_else(|| size(stdin)) } else { None },
    };
    let running = engine.start(&created.id, request)?;
    foreground.stay(running, signals.as_ref())
}

/// Whether the program may as well have both outputs of the caller.
fn all(wanted: Attach) -> bool {
    wanted.stdout && wanted.stderr
}

/// Which streams `-a` and `-i` ask for.
fn wanted(parsed: &Parsed, open_stdin: bool) -> Result<Attach> {
    let mut wanted = Attach::default();
    let mut given = false;
    for stream in parsed.all("attach") {
        given = true;
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => wanted.stdin = true,
            "stdout" => wanted.stdout = true,
            "stderr" => wanted.stderr = true,
            other => {
                return Err(Error::invalid(format!(
                    "invalid argument \"{other}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                )));
            }
        }
    }
    if !given {
        return Ok(Attach { stdin: open_stdin, stdout: true, stderr: true });
    }
    wanted.stdin &= open_stdin;
    Ok(wanted)
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
