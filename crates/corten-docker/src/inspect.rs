//! `docker inspect`: the documents of containers and images, fields in docker's order.

use std::path::Path;

use corten_engine::store::Image;
use corten_engine::{Container, Health, HealthCheck, RootMount, State};

use crate::containers::{network, state_word};
use crate::host_config::{host_config, mount};
use crate::table::field;
use crate::template::Value;

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

pub(crate) fn number(value: impl Into<i128>) -> Value {
    Value::Int(value.into())
}

pub(crate) fn empty_list() -> Value {
    Value::list([])
}

pub(crate) fn empty_map() -> Value {
    Value::map(Vec::new())
}

pub(crate) fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Facts of the machine that a document tells.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// How layers are put together.
    pub driver: &'a str,
    /// Whether cgroups are of version 2, where a container has a cgroup namespace of its own.
    pub has_cgroup2: bool,
}

/// The document of a container; `sizes` (`-s`) are the bytes that it wrote and the bytes of its root.
pub fn container(container: &Container, host: Host<'_>, sizes: Option<(u64, u64)>) -> Value {
    let config = &container.config;
    let args = config.args();
    let file = |name: &str| path(&container.directory.join(name));
    let value = document! {
        "Id": config.id.as_str(),
        "Created": config.created.as_str(),
        "Path": args.first().map_or("", String::as_str),
        "Args": Value::strings(args.get(1..).unwrap_or_default()),
        "State": state(container),
        "Image": config.image_id.as_str(),
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": path(&container.log_path),
        "Name": format!("/{}", config.name),
        "RestartCount": number(container.life.restart_count),
        "Driver": host.driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": config.security.apparmor.as_deref().unwrap_or(""),
        "ExecIDs": Value::NilList,
        "HostConfig": host_config(container, host),
        "GraphDriver": document! { "Data": layers(container), "Name": host.driver },
        "Mounts": Value::list(config.mounts.iter().filter_map(mount)),
        "Config": container_config(container),
        "NetworkSettings": network_settings(container),
    };
    let (Some((written, whole)), Value::Object(object)) = (sizes, &value) else { return value };
    let mut fields = object.fields.clone();
    let at = fields.iter().position(|(name, _)| name == "Mounts").unwrap_or(fields.len());
    fields.splice(at..at, [field("SizeRw", number(written)), field("SizeRootFs", number(whole))]);
    Value::document(fields)
}

/// The directories that make the root, in docker's names; the root itself is mounted for its supervisor alone.
fn layers(container: &Container) -> Value {
    let Some(RootMount::Overlay(options)) = &container.config.root else { return Value::NilMap };
    let value = |name: &str| {
        let found = options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    document! {
        "ID": container.config.id.as_str(),
        "LowerDir": value("lowerdir"),
        "UpperDir": value("upperdir"),
        "WorkDir": value("workdir"),
    }
}

fn state(container: &Container) -> Value {
    let life = &container.life;
    let time = |text: &str| if text.is_empty() { ZERO_TIME.to_owned() } else { text.to_owned() };
    let mut fields = vec![
        field("Status", state_word(life.state)),
        field("Running", matches!(life.state, State::Running | State::Paused | State::Restarting)),
        field("Paused", life.state == State::Paused),
        field("Restarting", life.state == State::Restarting),
        field("OOMKilled", life.oom_killed),
        field("Dead", life.state == State::Dead),
        field("Pid", number(life.pid)),
        field("ExitCode", number(life.exit_code)),
        field("Error", life.error.as_str()),
        field("StartedAt", time(&life.started_at)),
        field("FinishedAt", time(&life.finished_at)),
    ];
    fields.extend(life.health.as_ref().map(|health| field("Health", health_document(health))));
    Value::document(fields)
}

fn health_document(health: &Health) -> Value {
    let moment = |time: (i64, u32)| corten_types::time::rfc3339(time.0, time.1);
    let results = health.log.iter().map(|result| {
        document! {
            "Start": moment(result.start),
            "End": moment(result.end),
            "ExitCode": number(result.exit_code),
            "Output": result.output.as_str(),
        }
    });
    document! {
        "Status": health.status.as_str(),
        "FailingStreak": number(health.failing_streak),
        "Log": Value::list(results),
    }
}

/// Docker's form: nanoseconds, and only what is set.
fn healthcheck(check: &HealthCheck) -> Value {
    let nanoseconds = |time: u64| number(i128::from(time) * 1_000_000);
    let mut fields = vec![field("Test", Value::strings(&check.test))];
    for (name, time) in [
        ("Interval", check.interval_ms),
        ("Timeout", check.timeout_ms),
        ("StartPeriod", check.start_period_ms),
        ("StartInterval", check.start_interval_ms),
    ] {
        if time > 0 {
            fields.push(field(name, nanoseconds(time)));
        }
    }
    fields.push(field("Retries", number(check.retries)));
    Value::document(fields)
}

fn container_config(container: &Container) -> Value {
    let config = &container.config;
    let mut fields = vec![
        field("Hostname", config.hostname.as_str()),
        field("Domainname", config.domainname.as_str()),
        field("User", config.user.as_str()),
        field("AttachStdin", config.open_stdin),
        field("AttachStdout", true),
        field("AttachStderr", true),
        field("Tty", config.terminal),
        field("OpenStdin", config.open_stdin),
        field("StdinOnce", config.stdin_once),
        field("Env", Value::strings(&config.env)),
        field("Cmd", Value::strings_or_nil(&config.command)),
        field("Image", config.image.as_str()),
        field("Volumes", Value::NilMap),
        field("WorkingDir", config.workdir.as_str()),
        field("Entrypoint", Value::strings_or_nil(&config.entrypoint)),
        field("OnBuild", Value::NilList),
        field("Labels", Value::string_map(&config.labels)),
    ];
    if !config.stop_signal.is_empty() {
        fields.push(field("StopSignal", config.stop_signal.as_str()));
    }
    fields.extend(config.stop_timeout_seconds.map(|seconds| field("StopTimeout", number(seconds))));
    fields.extend(config.health.as_ref().map(|check| field("Healthcheck", healthcheck(check))));
    Value::document(fields)
}

fn network_settings(container: &Container) -> Value {
    let endpoint = document! {
        "IPAMConfig": Value::Nil,
        "Links": Value::NilList,
        "Aliases": Value::NilList,
        "MacAddress": "",
        "DriverOpts": Value::NilMap,
        "GwPriority": number(0),
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": number(0),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": number(0),
        "DNSNames": Value::NilList,
    };
    document! {
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": empty_map(),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": number(0),
        "SecondaryIPAddresses": Value::NilList,
        "SecondaryIPv6Addresses": Value::NilList,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": number(0),
        "IPAddress": "",
        "IPPrefixLen": number(0),
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": Value::map(vec![field(network(container), endpoint)]),
    }
}

/// The document of an image.
pub fn image(image: &Image, host: Host<'_>) -> Value {
    let config = &image.config;
    let mut fields = vec![
        field("Id", image.id.to_string()),
        field("RepoTags", Value::list(image.repo_tags.iter().map(|name| Value::from(name.familiar())))),
        field("RepoDigests", Value::list(image.repo_digests.iter().map(|name| Value::from(name.familiar())))),
        field("Parent", ""),
        field("Comment", config.history.last().and_then(|step| step.comment.as_deref()).unwrap_or("")),
        field("Created", config.created.as_deref().unwrap_or("")),
        field("DockerVersion", ""),
        field("Author", config.author.as_deref().unwrap_or("")),
        field("Architecture", config.platform.architecture.as_str()),
    ];
    if let Some(variant) = config.platform.variant.as_deref().filter(|variant| !variant.is_empty()) {
        fields.push(field("Variant", variant));
    }
    let layers = config.rootfs.diff_ids.iter().map(|digest| Value::from(digest.to_string()));
    fields.extend([
        field("Os", config.platform.os.as_str()),
        field("Size", number(image.size)),
        field("GraphDriver", document! { "Data": Value::NilMap, "Name": host.driver }),
        field("RootFS", document! { "Type": "layers", "Layers": Value::list(layers) }),
        field("Metadata", document! { "LastTagTime": ZERO_TIME }),
        field("Config", image_config(image)),
    ]);
    Value::document(fields)
}

fn image_config(image: &Image) -> Value {
    let config = &image.config.config;
    let optional = |words: &Option<Vec<String>>| words.as_ref().map_or(Value::NilList, |words| Value::strings(words));
    let keys = |map: &std::collections::BTreeMap<String, corten_types::image_spec::Empty>| {
        if map.is_empty() {
            return Value::NilMap;
        }
        Value::map(map.keys().map(|key| field(key, Value::document(Vec::new()))).collect())
    };
    let labels = if config.labels.is_empty() { Value::NilMap } else { Value::string_map(&config.labels) };
    let mut fields = vec![
        field("Cmd", optional(&config.cmd)),
        field("Entrypoint", optional(&config.entrypoint)),
        field("Env", Value::strings_or_nil(&config.env)),
    ];
    if !config.exposed_ports.is_empty() {
        fields.push(field("ExposedPorts", keys(&config.exposed_ports)));
    }
    fields.extend([
        field("Labels", labels),
        field("OnBuild", Value::strings_or_nil(&config.on_build)),
        field("User", config.user.as_str()),
        field("Volumes", keys(&config.volumes)),
        field("WorkingDir", config.working_dir.as_str()),
    ]);
    fields.extend(config.shell.as_ref().map(|shell| field("Shell", Value::strings(shell))));
    fields.extend(config.stop_signal.as_deref().map(|signal| field("StopSignal", signal)));
    Value::document(fields)
}
