//! `checkpoint` and `restore`: a container's processes as files, and back.

use std::path::PathBuf;

use corten_runtime::checkpoint::{CgroupsMode, CheckpointRequest, CriuOptions, RestoreRequest};
use corten_types::{Error, ErrorKind, Result};

use super::Context;
use super::arguments::{Arguments, Flag};
use super::foreground::{self, Foreground};
use super::lifecycle;

const TCP_ESTABLISHED: Flag = Flag::switch("tcp-established", "take open TCP connections along");
const EXT_UNIX_SK: Flag = Flag::switch("ext-unix-sk", "take unix sockets to the outside along");
const SHELL_JOB: Flag = Flag::switch("shell-job", "the session may be a shell's");
const FILE_LOCKS: Flag = Flag::switch("file-locks", "take file locks along");
const MANAGE_CGROUPS: Flag = Flag::text("manage-cgroups-mode", "`soft`, `full`, `strict` or `ignore`");
const EMPTY_NS: Flag = Flag::list("empty-ns", "make a namespace without what was in it; only `network`");
const AUTO_DEDUP: Flag = Flag::switch("auto-dedup", "remove pages that an incremental image repeats");
const LAZY_PAGES: Flag = Flag::switch("lazy-pages", "bring memory on demand (userfaultfd)");
const WORK_PATH: Flag = Flag::text("work-path", "directory for logs");

/// The flags of `checkpoint`.
pub(super) static DUMP_FLAGS: &[Flag] = &[
    Flag::text("image-path", "directory for the images (default: `checkpoint`)"),
    WORK_PATH,
    Flag::text("parent-path", "images of an earlier pre-dump, relative to the images' directory"),
    Flag::switch("leave-running", "let the container go on"),
    TCP_ESTABLISHED,
    Flag::switch("tcp-skip-in-flight", "leave connections out that are not established yet"),
    Flag::switch("link-remap", "allow removed files to be linked back"),
    EXT_UNIX_SK,
    SHELL_JOB,
    LAZY_PAGES,
    Flag::number("status-fd", "descriptor that receives a zero byte once lazy pages are served").default("-1"),
    Flag::text("page-server", "ADDRESS:PORT of a server that memory is sent to"),
    FILE_LOCKS,
    Flag::switch("pre-dump", "save memory only, and let the container go on"),
    MANAGE_CGROUPS,
    EMPTY_NS,
    AUTO_DEDUP,
];

/// The flags of `restore`.
pub(super) static RESTORE_FLAGS: &[Flag] = &[
    Flag::text("console-socket", "unix socket that receives the terminal's main side"),
    Flag::text("image-path", "directory of the images (default: `checkpoint`)"),
    WORK_PATH,
    TCP_ESTABLISHED,
    EXT_UNIX_SK,
    SHELL_JOB,
    FILE_LOCKS,
    MANAGE_CGROUPS,
    Flag::text("bundle", "bundle directory (default: the working directory)").short('b'),
    Flag::switch("detach", "do not wait for the process").short('d'),
    Flag::text("pid-file", "file that receives the process id"),
    Flag::switch("no-subreaper", "do not adopt orphans of the container"),
    Flag::switch("no-pivot", "refused: criu enters the root in its own way"),
    EMPTY_NS,
    AUTO_DEDUP,
    LAZY_PAGES,
    Flag::text("lsm-profile", "security profile to restore with, TYPE:NAME"),
    Flag::text("lsm-mount-context", "security context of the restored mounts"),
];

/// `checkpoint`
pub(super) fn checkpoint(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    warn_rootless(context, "checkpoint");
    let criu = criu_options(context, arguments)?;
    let parent_path = arguments.path("parent-path");
    if let Some(parent) = &parent_path {
        if parent.is_absolute() {
            return Err(Error::invalid("--parent-path must be relative"));
        }
        let place = criu.image_path.join(parent);
        if !place.is_dir() {
            return Err(Error::invalid(format!("invalid --parent-path: {place:?} is not a directory")));
        }
    }
    let status = match arguments.number("status-fd") {
        None | Some(-1) => None,
        Some(number) => {
            let file = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{number}"));
            Some(file.map_err(|error| Error::from(error).context(format!("invalid --status-fd argument {number}")))?)
        }
    };
    let warnings = context.runtime.checkpoint(CheckpointRequest {
        id: lifecycle::id(arguments)?.to_owned(),
        criu,
        parent_path,
        leave_running: arguments.is_set("leave-running"),
        tcp_skip_in_flight: arguments.is_set("tcp-skip-in-flight"),
        link_remap: arguments.is_set("link-remap"),
        pre_dump: arguments.is_set("pre-dump"),
        status,
        page_server: arguments.text("page-server").map(parse_page_server).transpose()?,
    })?;
    context.log.warn_all(&warnings);
    Ok(0)
}

/// `restore`
pub(super) fn restore(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    warn_rootless(context, "restore");
    if arguments.is_set("no-pivot") {
        return Err(Error::new(ErrorKind::Unsupported, "`--no-pivot` is not supported by restore")
            .hint("leave it out: criu enters the root in its own way"));
    }
    let absolute = |name| arguments.path(name).map(|path| context.environment.absolute(path));
    let detach = arguments.is_set("detach");
    let console_socket = absolute("console-socket");
    foreground::refuse_console_socket(console_socket.is_some() && !detach)?;
    let has_socket = console_socket.is_some();
    let id = lifecycle::id(arguments)?.to_owned();
    let request = RestoreRequest {
        id: id.clone(),
        bundle: absolute("bundle").unwrap_or_else(|| context.environment.working_directory.clone()),
        criu: criu_options(context, arguments)?,
        console_socket,
        pid_file: absolute("pid-file"),
        lsm_profile: arguments.text("lsm-profile").map(str::to_owned),
        lsm_mount_context: arguments.text("lsm-mount-context").map(str::to_owned),
    };
    if detach {
        let started = context.runtime.restore(request)?;
        if let Err(error) = foreground::check_detached(&started, has_socket) {
            context.runtime.delete(&id, true)?;
            return Err(error);
        }
        return Ok(0);
    }
    let foreground = Foreground::begin(!arguments.is_set("no-subreaper"), None)?;
    let started = context.runtime.restore(request)?;
    let outcome = foreground.follow(started);
    context.log.warn_all(&context.runtime.delete(&id, true)?);
    outcome
}

fn warn_rootless(context: &Context<'_>, what: &str) {
    if context.environment.uid != 0 {
        context.log.warn(&format!("{what} is untested with rootless containers"));
    }
}

fn criu_options(context: &Context<'_>, arguments: &Arguments) -> Result<CriuOptions> {
    for kind in arguments.list("empty-ns") {
        if kind != "network" {
            return Err(Error::invalid(format!("namespace \"{kind}\" is not supported by `--empty-ns`")));
        }
    }
    let cgroups_mode = match arguments.text("manage-cgroups-mode") {
        None => CgroupsMode::Default,
        Some("soft") => CgroupsMode::Soft,
        Some("full") => CgroupsMode::Full,
        Some("strict") => CgroupsMode::Strict,
        Some("ignore") => CgroupsMode::Ignore,
        Some(other) => {
            return Err(Error::invalid(format!("invalid manage-cgroups-mode value: `{other}`"))
                .hint("use `soft`, `full`, `strict` or `ignore`"));
        }
    };
    let image_path = arguments.path("image-path").unwrap_or_else(|| PathBuf::from("checkpoint"));
    Ok(CriuOptions {
        program: find_criu(context)?,
        environment: context.environment.variables.clone(),
        image_path: context.environment.absolute(image_path),
        work_path: arguments.path("work-path").map(|path| context.environment.absolute(path)),
        tcp_established: arguments.is_set("tcp-established"),
        external_unix_sockets: arguments.is_set("ext-unix-sk"),
        shell_job: arguments.is_set("shell-job"),
        file_locks: arguments.is_set("file-locks"),
        auto_dedup: arguments.is_set("auto-dedup"),
        lazy_pages: arguments.is_set("lazy-pages"),
        cgroups_mode,
    })
}

/// The program by `--criu`, or by PATH and the administrator's directories.
fn find_criu(context: &Context<'_>) -> Result<PathBuf> {
    let name = context.globals.text("criu").unwrap_or("criu");
    if name.contains('/') {
        return Ok(context.environment.absolute(name));
    }
    let path = context.environment.text("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin", "/sbin"]).filter(|folder| !folder.is_empty());
    folders.map(|folder| context.environment.absolute(folder).join(name)).find(|file| file.is_file()).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("the checkpoint program `{name}` is not installed"))
            .hint("install criu, or name it with `--criu PATH`")
    })
}

fn parse_page_server(text: &str) -> Result<(String, u16)> {
    let parts = text.rsplit_once(':').filter(|(address, port)| !address.is_empty() && !port.is_empty());
    let (address, port) =
        parts.ok_or_else(|| Error::invalid("Use --page-server ADDRESS:PORT to specify page server"))?;
    let port = port.parse().map_err(|_| Error::invalid(format!("invalid port number `{port}`")))?;
    Ok((address.trim_matches(['[', ']']).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        assert_eq!(parse_page_server("[::1]:9").unwrap(), ("::1".to_owned(), 9));
        for bad in ["", "host", "host:", ":9", "host:x"] {
            assert!(parse_page_server(bad).is_err(), "{bad}");
        }
    }
}
