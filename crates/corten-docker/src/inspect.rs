//! `docker inspect`: the documents of containers and images, fields in docker's order.

use std::path::Path;

use corten_engine::security::paths::{MASKED_PATHS, READONLY_PATHS};
use corten_engine::store::Image;
use corten_engine::{Container, Health, HealthCheck, MountSource, State};

use crate::containers::{network, state_word};
use crate::table::field;
use crate::template::Value;

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

macro_rules! document {
    ($($name:literal: $value:expr),* $(,)?) => {
        Value::document(vec![$(field($name, $value)),*])
    };
}

fn number(value: impl Into<i128>) -> Value {
    Value::Int(value.into())
}

fn empty_list() -> Value {
    Value::list([])
}

fn empty_map() -> Value {
    Value::map(Vec::new())
}

fn path(path: &Path) -> String {
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

/// The document of a container.
pub fn container(container: &Container, host: Host<'_>) -> Value {
    let config = &container.config;
    let args = config.args();
    let file = |name: &str| path(&container.directory.join(name));
    document! {
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
        "GraphDriver": document! { "Data": Value::NilMap, "Name": host.driver },
        "Mounts": Value::list(config.mounts.iter().filter_map(mount)),
        "Config": container_config(container),
        "NetworkSettings": network_settings(container),
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

fn host_config(container: &Container, host: Host<'_>) -> Value {
    let config = &container.config;
    let resources = &config.resources;
    let optional = |value: Option<i128>| number(value.unwrap_or(0));
    let unconfined = config.privileged || config.security.system_paths_unconfined;
    let paths = |paths: &[&str]| if unconfined { Value::NilList } else { Value::strings(paths) };
    let (policy, retries) = config.restart.words();
    let mut fields = vec![
        field("Binds", binds(container)),
        field("ContainerIDFile", ""),
        field(
            "LogConfig",
            document! { "Type": config.log.driver.as_str(), "Config": Value::string_map(&config.log.options) },
        ),
        field("NetworkMode", network(container)),
        field("PortBindings", empty_map()),
        field("RestartPolicy", document! { "Name": policy, "MaximumRetryCount": number(retries) }),
        field("AutoRemove", config.remove_on_exit),
        field("VolumeDriver", ""),
        field("VolumesFrom", Value::NilList),
        field("ConsoleSize", Value::list([number(0), number(0)])),
        field("CapAdd", capabilities(&config.capabilities_add)),
        field("CapDrop", capabilities(&config.capabilities_drop)),
        field("CgroupnsMode", if config.privileged || !host.has_cgroup2 { "host" } else { "private" }),
        field("Dns", empty_list()),
        field("DnsOptions", empty_list()),
        field("DnsSearch", empty_list()),
        field("ExtraHosts", Value::NilList),
        field("GroupAdd", Value::strings_or_nil(&config.groups_add)),
        field("IpcMode", "private"),
        field("Cgroup", ""),
        field("Links", Value::NilList),
        field("OomScoreAdj", number(config.oom_score_adj)),
        field("PidMode", ""),
        field("Privileged", config.privileged),
        field("PublishAllPorts", false),
        field("ReadonlyRootfs", config.read_only),
        field("SecurityOpt", security_options(container)),
    ];
    let tmpfs = tmpfs(container);
    if !tmpfs.is_empty() {
        fields.push(field("Tmpfs", Value::map(tmpfs)));
    }
    fields.extend([field("UTSMode", ""), field("UsernsMode", ""), field("ShmSize", number(config.shm_size_bytes))]);
    if !config.sysctls.is_empty() {
        fields.push(field("Sysctls", Value::string_map(&config.sysctls)));
    }
    fields.extend([
        field("Runtime", "corten"),
        field("Isolation", ""),
        field("CpuShares", optional(resources.cpu_shares.map(Into::into))),
        field("Memory", optional(resources.memory_bytes.map(Into::into))),
        field("NanoCpus", optional(resources.nano_cpus.map(Into::into))),
        field("CgroupParent", ""),
        field("BlkioWeight", number(0)),
        field("BlkioWeightDevice", empty_list()),
        field("BlkioDeviceReadBps", empty_list()),
        field("BlkioDeviceWriteBps", empty_list()),
        field("BlkioDeviceReadIOps", empty_list()),
        field("BlkioDeviceWriteIOps", empty_list()),
        field("CpuPeriod", number(0)),
        field("CpuQuota", number(0)),
        field("CpuRealtimePeriod", number(0)),
        field("CpuRealtimeRuntime", number(0)),
        field("CpusetCpus", resources.cpuset_cpus.as_deref().unwrap_or("")),
        field("CpusetMems", resources.cpuset_mems.as_deref().unwrap_or("")),
        field("Devices", Value::list(config.devices.iter().map(device))),
        field("DeviceCgroupRules", Value::NilList),
        field("DeviceRequests", Value::NilList),
        field("MemoryReservation", optional(resources.memory_reservation_bytes.map(Into::into))),
        field("MemorySwap", optional(resources.memory_swap_bytes.map(Into::into))),
        field("MemorySwappiness", Value::Nil),
        field("OomKillDisable", false),
        field("PidsLimit", resources.pids_limit.map_or(Value::Nil, number)),
        field("Ulimits", Value::list(config.ulimits.iter().map(ulimit))),
        field("CpuCount", number(0)),
        field("CpuPercent", number(0)),
        field("IOMaximumIOps", number(0)),
        field("IOMaximumBandwidth", number(0)),
        field("MaskedPaths", paths(&MASKED_PATHS)),
        field("ReadonlyPaths", paths(&READONLY_PATHS)),
    ]);
    Value::document(fields)
}

fn capabilities(names: &[String]) -> Value {
    let full = |name: &String| {
        let name = name.to_uppercase();
        if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    Value::strings_or_nil(&names.iter().map(full).collect::<Vec<_>>())
}

fn security_options(container: &Container) -> Value {
    let security = &container.config.security;
    let mut words: Vec<String> = security.labels.iter().map(|label| format!("label={label}")).collect();
    if security.no_new_privileges {
        words.push("no-new-privileges".to_owned());
    }
    match &security.seccomp {
        corten_engine::Seccomp::Builtin => {}
        corten_engine::Seccomp::Unconfined => words.push("seccomp=unconfined".to_owned()),
        corten_engine::Seccomp::File(file) => words.push(format!("seccomp={}", path(file))),
    }
    if let Some(profile) = &security.apparmor {
        words.push(format!("apparmor={profile}"));
    }
    Value::strings_or_nil(&words)
}

fn binds(container: &Container) -> Value {
    let bind = |mount: &corten_engine::Mount| match &mount.source {
        MountSource::Bind { path: source, .. } => {
            let mode = mode(mount);
            let suffix = if mode.is_empty() { String::new() } else { format!(":{mode}") };
            Some(format!("{}:{}{suffix}", path(source), mount.destination))
        }
        MountSource::Volume(name) => Some(format!("{}:{}", name.as_deref().unwrap_or(""), mount.destination)),
        MountSource::Tmpfs(_) => None,
    };
    Value::strings_or_nil(&container.config.mounts.iter().filter_map(bind).collect::<Vec<_>>())
}

fn mode(mount: &corten_engine::Mount) -> String {
    let mut words = Vec::new();
    if mount.read_only {
        words.push("ro");
    }
    if let MountSource::Bind { propagation, relabel, .. } = &mount.source {
        words.extend(propagation.map(corten_engine::Propagation::as_str));
        words.extend(relabel.map(|relabel| match relabel {
            corten_engine::Relabel::Shared => "z",
            corten_engine::Relabel::Private => "Z",
        }));
    }
    words.join(",")
}

fn mount(mount: &corten_engine::Mount) -> Option<Value> {
    let (kind, source, propagation) = match &mount.source {
        MountSource::Bind { path: source, propagation, .. } => {
            ("bind", path(source), propagation.map_or("rprivate", corten_engine::Propagation::as_str))
        }
        MountSource::Volume(name) => ("volume", name.clone().unwrap_or_default(), ""),
        MountSource::Tmpfs(_) => return None,
    };
    Some(document! {
        "Type": kind,
        "Source": source,
        "Destination": mount.destination.as_str(),
        "Mode": mode(mount),
        "RW": !mount.read_only,
        "Propagation": propagation,
    })
}

fn tmpfs(container: &Container) -> Vec<(String, Value)> {
    let mut entries = Vec::new();
    for mount in &container.config.mounts {
        if let MountSource::Tmpfs(options) = &mount.source {
            let mut words = options.options.clone();
            words.extend(options.size_bytes.map(|size| format!("size={size}")));
            words.extend(options.mode.map(|mode| format!("mode={mode:o}")));
            if mount.read_only {
                words.push("ro".to_owned());
            }
            entries.push(field(&mount.destination, words.join(",")));
        }
    }
    entries
}

fn device(device: &corten_engine::DeviceRequest) -> Value {
    document! {
        "PathOnHost": path(&device.host),
        "PathInContainer": device.container.as_str(),
        "CgroupPermissions": device.access.letters(),
    }
}

fn ulimit(limit: &corten_engine::Ulimit) -> Value {
    document! { "Name": limit.name.as_str(), "Hard": number(limit.hard), "Soft": number(limit.soft) }
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
