//! `corten run`: its flags read into what the engine is asked for.

mod gpus;
pub(crate) mod key_values;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod supervision;
pub(crate) mod time;
pub(crate) mod values;

use corten_engine::store::import::platform;
use corten_engine::{
    CreateRequest, ImageSource, NamespaceChoice, NamespaceMode, Namespaces, NetworkMode, Seccomp, SecurityOptions,
    is_cdi_name,
};
use corten_types::image_spec::Platform;
use corten_types::{Error, ErrorKind, Reference, Result};

use crate::Environment;
use crate::command_line::Parsed;

/// The container that the flags and operands ask for.
pub(crate) fn create_request(parsed: &Parsed, environment: &Environment) -> Result<CreateRequest> {
    let (image, command) = parsed.operands.split_first().ok_or_else(|| Error::invalid("no image is named"))?;
    check_pull(parsed)?;
    let owned = |name: &str| parsed.last(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let is_rootfs = parsed.is_on("rootfs");
    let mut request = CreateRequest::new(
        source(image, is_rootfs, environment)?,
        if is_rootfs { String::new() } else { image.clone() },
    );
    request.platform = platform(parsed, &request.source)?;
    request.command = command.to_vec();
    request.name = owned("name");
    request.entrypoint = parsed.last("entrypoint").map(|program| match program {
        "" => Vec::new(),
        program => vec![program.to_owned()],
    });
    request.env = variables(parsed, environment)?;
    request.labels = key_values::map(&labels(parsed, environment)?);
    request.workdir = working_directory(parsed)?;
    request.user = owned("user");
    request.groups_add = parsed.list("group-add");
    request.hostname = owned("hostname");
    request.domainname = owned("domainname");
    request.mounts = mounts(parsed, environment)?;
    request.read_only = parsed.is_on("read-only");
    request.capabilities_add = parsed.list("cap-add");
    request.capabilities_drop = parsed.list("cap-drop");
    request.privileged = parsed.is_on("privileged");
    request.security = security(parsed, environment)?;
    (request.cdi_devices, request.devices) = devices(parsed)?;
    request.device_rules = parsed.read("device-cgroup-rule", values::device_rule)?;
    request.ulimits = parsed.read("ulimit", values::ulimit)?;
    request.sysctls = parsed.read("sysctl", values::sysctl)?.into_iter().collect();
    request.init = parsed.is_on("init");
    request.resources = limits::resources(parsed)?;
    request.cgroup_parent = owned("cgroup-parent");
    request.namespaces = namespaces(parsed)?;
    request.annotations = key_values::map(&parsed.read("annotation", annotation)?);
    request.volumes_from = parsed.list("volumes-from");
    request.shm_size_bytes = parsed.read_last("shm-size", values::bytes)?;
    request.oom_score_adj = parsed.read_last("oom-score-adj", oom_score_adjustment)?;
    request.network = network(parsed)?;
    request.stop_signal = stop_signal(parsed)?;
    request.terminal = parsed.is_on("tty");
    request.open_stdin = parsed.is_on("interactive");
    request.remove_on_exit = parsed.is_on("rm");
    request.log = supervision::log(parsed)?;
    request.restart = supervision::restart(parsed)?.unwrap_or_default();
    request.restart_delay_ms = supervision::restart_delay(parsed)?;
    request.health = supervision::health(parsed)?;
    request.stop_timeout_seconds = parsed.read_last("stop-timeout", values::integer)?;
    Ok(request)
}

fn source(image: &str, is_rootfs: bool, environment: &Environment) -> Result<ImageSource> {
    if is_rootfs {
        return Ok(ImageSource::Rootfs(environment.absolute(image)));
    }
    Ok(match ImageSource::parse(image)? {
        ImageSource::OciLayout(path, tag) => ImageSource::OciLayout(environment.absolute(path), tag),
        ImageSource::DockerArchive(path, name) => ImageSource::DockerArchive(environment.absolute(path), name),
        ImageSource::Reference(name) => {
            let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_id {
                Reference::parse(&name).map_err(|error| error.context("invalid reference format"))?;
            }
            ImageSource::Reference(name)
        }
        other => other,
    })
}

fn check_pull(parsed: &Parsed) -> Result<()> {
    match parsed.last("pull") {
        None | Some("always" | "missing" | "never") => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        ))),
    }
}

/// Which image of several; what is no image of the store is of this machine alone.
fn platform(parsed: &Parsed, source: &ImageSource) -> Result<Option<Platform>> {
    let Some(word) = parsed.last("platform").filter(|word| !word.is_empty()) else { return Ok(None) };
    let wanted = platform::parse(word)?;
    let here = platform::this_machine();
    if !matches!(source, ImageSource::Reference(_)) && (wanted.os != "linux" || wanted.architecture != here) {
        let message = format!("platform `{word}` cannot run here");
        let hint = format!("this machine runs `linux/{here}`");
        return Err(Error::new(ErrorKind::Unsupported, message).hint(hint));
    }
    Ok(Some(wanted))
}

/// `--env-file` and `--env`, in that order.
pub(crate) fn variables(parsed: &Parsed, environment: &Environment) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for file in parsed.all("env-file") {
        words.extend(key_values::variables_of(file, environment)?);
    }
    words.extend(parsed.read("env", |word| key_values::variable(word, environment))?);
    Ok(words)
}

/// `--label-file` and `--label`, in that order.
pub(crate) fn labels(parsed: &Parsed, environment: &Environment) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for file in parsed.all("label-file") {
        words.extend(key_values::labels_of(file, environment)?);
    }
    words.extend(parsed.read("label", values::label)?);
    Ok(words)
}

fn working_directory(parsed: &Parsed) -> Result<Option<String>> {
    match parsed.last("workdir") {
        None | Some("") => Ok(None),
        Some(path) if path.starts_with('/') => Ok(Some(path.to_owned())),
        Some(path) => {
            Err(Error::invalid(format!("the working directory '{path}' is invalid, it needs to be an absolute path")))
        }
    }
}

fn mounts(parsed: &Parsed, environment: &Environment) -> Result<Vec<corten_engine::Mount>> {
    let here = &environment.working_directory;
    let mut mounts = parsed.read("volume", |text| mounts::volume(text, here))?;
    mounts.extend(parsed.read("mount", |text| mounts::mount(text, here))?);
    mounts.extend(parsed.read("tmpfs", mounts::tmpfs)?);
    for (index, mount) in mounts.iter().enumerate() {
        let place = |mount: &corten_engine::Mount| mount.destination.trim_end_matches('/').to_owned();
        if mounts[..index].iter().any(|earlier| place(earlier) == place(mount)) {
            return Err(Error::invalid(format!("Duplicate mount point: {}", mount.destination)));
        }
    }
    Ok(mounts)
}

fn security(parsed: &Parsed, environment: &Environment) -> Result<SecurityOptions> {
    let mut options = SecurityOptions::parse(&parsed.list("security-opt"))?;
    if let Seccomp::File(path) = &options.seccomp {
        options.seccomp = Seccomp::File(environment.absolute(path));
    }
    Ok(options)
}

/// Devices by their CDI names, and by their nodes.
fn devices(parsed: &Parsed) -> Result<(Vec<String>, Vec<corten_engine::DeviceRequest>)> {
    let mut named = parsed.read_last("gpus", gpus::names)?.unwrap_or_default();
    named.extend(parsed.all("device").filter(|word| is_cdi_name(word)).map(str::to_owned));
    let read = |text: &str| if is_cdi_name(text) { Ok(None) } else { values::device(text).map(Some) };
    Ok((named, parsed.read("device", read)?.into_iter().flatten().collect()))
}

fn namespaces(parsed: &Parsed) -> Result<Namespaces> {
    let mode = |name: &str, choice| NamespaceMode::parse(choice, parsed.last(name).unwrap_or_default());
    Ok(Namespaces {
        cgroup: mode("cgroupns", NamespaceChoice::Cgroup)?,
        ipc: mode("ipc", NamespaceChoice::Ipc)?,
        pid: mode("pid", NamespaceChoice::Pid)?,
        user: mode("userns", NamespaceChoice::User)?,
        uts: mode("uts", NamespaceChoice::Uts)?,
    })
}

fn annotation(word: &str) -> Result<String, String> {
    match word.split_once('=') {
        Some(("", _)) => Err(format!("invalid annotation '{word}': empty name")),
        _ if word.is_empty() => Err("invalid annotation '': empty name".to_owned()),
        _ => Ok(word.to_owned()),
    }
}

fn oom_score_adjustment(text: &str) -> Result<i32, String> {
    let number = values::integer(text)?;
    i32::try_from(number)
        .ok()
        .filter(|number| (-1000..=1000).contains(number))
        .ok_or_else(|| format!("Invalid value {number}, range for oom score adj is [-1000, 1000]"))
}

fn stop_signal(parsed: &Parsed) -> Result<Option<String>> {
    let Some(word) = parsed.last("stop-signal").filter(|word| !word.is_empty()) else { return Ok(None) };
    match corten_types::kernel::signal(word) {
        Some(number) if number > 0 => Ok(Some(word.to_owned())),
        _ => Err(Error::invalid(format!("invalid signal: {word}")).hint("use a name such as `TERM`, or 1 to 64")),
    }
}

fn network(parsed: &Parsed) -> Result<NetworkMode> {
    let mut chosen = None;
    for word in parsed.all("network") {
        let mode = NetworkMode::parse(word)?;
        if chosen.as_ref().is_some_and(|earlier| *earlier != mode) {
            return Err(Error::invalid("conflicting options: `--network` is given twice with different values"));
        }
        chosen = Some(mode);
    }
    Ok(chosen.unwrap_or_default())
}

#[cfg(test)]
mod tests;
