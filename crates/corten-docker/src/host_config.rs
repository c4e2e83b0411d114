//! `HostConfig` of `docker inspect`: what was asked when the container was created, fields in docker's order.

use corten_engine::security::paths::{MASKED_PATHS, READONLY_PATHS};
use corten_engine::{Container, DeviceRate, DeviceRule, Given, Mount, MountSource, NamespaceMode, Recursion};

use crate::containers::network;
use crate::inspect::{Host, empty_list, empty_map, number, path};
use crate::table::field;
use crate::template::Value;

/// The document.
pub(crate) fn host_config(container: &Container, host: Host<'_>) -> Value {
    let config = &container.config;
    let resources = &config.resources;
    let optional = |value: Option<i128>| number(value.unwrap_or(0));
    let unconfined = config.privileged || config.security.system_paths_unconfined;
    let paths = |paths: &[&str]| if unconfined { Value::NilList } else { Value::strings(paths) };
    let (policy, retries) = config.restart.words();
    let namespaces = &config.namespaces;
    let or = |mode: &NamespaceMode, default: &str| match mode {
        NamespaceMode::Default => default.to_owned(),
        other => other.word(),
    };
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
        field("VolumesFrom", Value::strings_or_nil(&config.volumes_from)),
        field("ConsoleSize", Value::list([number(0), number(0)])),
    ];
    if !config.annotations.is_empty() {
        fields.push(field("Annotations", Value::string_map(&config.annotations)));
    }
    fields.extend([
        field("CapAdd", capabilities(&config.capabilities_add)),
        field("CapDrop", capabilities(&config.capabilities_drop)),
        field(
            "CgroupnsMode",
            or(&namespaces.cgroup, if config.privileged || !host.has_cgroup2 { "host" } else { "private" }),
        ),
        field("Dns", empty_list()),
        field("DnsOptions", empty_list()),
        field("DnsSearch", empty_list()),
        field("ExtraHosts", Value::NilList),
        field("GroupAdd", Value::strings_or_nil(&config.groups_add)),
        field("IpcMode", or(&namespaces.ipc, "private")),
        field("Cgroup", ""),
        field("Links", Value::NilList),
        field("OomScoreAdj", number(config.oom_score_adj)),
        field("PidMode", namespaces.pid.word()),
        field("Privileged", config.privileged),
        field("PublishAllPorts", false),
        field("ReadonlyRootfs", config.read_only),
        field("SecurityOpt", security_options(container)),
    ]);
    let tmpfs = tmpfs(container);
    if !tmpfs.is_empty() {
        fields.push(field("Tmpfs", Value::map(tmpfs)));
    }
    fields.extend([
        field("UTSMode", namespaces.uts.word()),
        field("UsernsMode", namespaces.user.word()),
        field("ShmSize", number(config.shm_size_bytes)),
    ]);
    if !config.sysctls.is_empty() {
        fields.push(field("Sysctls", Value::string_map(&config.sysctls)));
    }
    fields.extend([
        field("Runtime", "corten"),
        field("Isolation", ""),
        field("CpuShares", optional(resources.cpu_shares.map(Into::into))),
        field("Memory", optional(resources.memory_bytes.map(Into::into))),
        field("NanoCpus", optional(resources.nano_cpus.map(Into::into))),
        field("CgroupParent", config.cgroup_parent.as_str()),
        field("BlkioWeight", number(resources.block_weight.unwrap_or(0))),
        field("BlkioWeightDevice", rates(&resources.block_weight_devices, "Weight")),
        field("BlkioDeviceReadBps", rates(&resources.device_read_bps, "Rate")),
        field("BlkioDeviceWriteBps", rates(&resources.device_write_bps, "Rate")),
        field("BlkioDeviceReadIOps", rates(&resources.device_read_iops, "Rate")),
        field("BlkioDeviceWriteIOps", rates(&resources.device_write_iops, "Rate")),
        field("CpuPeriod", optional(resources.cpu_period_us.map(Into::into))),
        field("CpuQuota", optional(resources.cpu_quota_us.map(Into::into))),
        field("CpuRealtimePeriod", optional(resources.cpu_realtime_period_us.map(Into::into))),
        field("CpuRealtimeRuntime", optional(resources.cpu_realtime_runtime_us.map(Into::into))),
        field("CpusetCpus", resources.cpuset_cpus.as_deref().unwrap_or("")),
        field("CpusetMems", resources.cpuset_mems.as_deref().unwrap_or("")),
        field("Devices", Value::list(config.devices.iter().map(device))),
        field("DeviceCgroupRules", device_rules(container)),
        field("DeviceRequests", device_requests(container)),
        field("MemoryReservation", optional(resources.memory_reservation_bytes.map(Into::into))),
        field("MemorySwap", optional(resources.memory_swap_bytes.map(Into::into))),
        field("MemorySwappiness", resources.memory_swappiness.map_or(Value::Nil, number)),
        field("OomKillDisable", resources.oom_kill_disable),
        field("PidsLimit", resources.pids_limit.map_or(Value::Nil, number)),
        field("Ulimits", Value::list(config.ulimits.iter().map(ulimit))),
        field("CpuCount", number(0)),
        field("CpuPercent", number(0)),
        field("IOMaximumIOps", number(0)),
        field("IOMaximumBandwidth", number(0)),
    ]);
    let asked: Vec<Value> = config.mounts.iter().filter_map(mount_of_flag).collect();
    if !asked.is_empty() {
        fields.push(field("Mounts", Value::list(asked)));
    }
    fields.extend([field("MaskedPaths", paths(&MASKED_PATHS)), field("ReadonlyPaths", paths(&READONLY_PATHS))]);
    if config.init {
        fields.push(field("Init", true));
    }
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
    let given = container.config.mounts.iter().filter(|mount| mount.given == Given::Volume);
    Value::strings_or_nil(&given.filter_map(bind).collect::<Vec<_>>())
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

/// A line of `Mounts`; a tmpfs has none.
pub(crate) fn mount(mount: &corten_engine::Mount) -> Option<Value> {
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
            let text = match &mount.given {
                Given::Tmpfs(text) => text.clone(),
                Given::Mount => continue,
                _ => words.join(","),
            };
            entries.push(field(&mount.destination, text));
        }
    }
    entries
}

/// What `--mount` asked for, in the API's words.
fn mount_of_flag(mount: &Mount) -> Option<Value> {
    if mount.given != Given::Mount {
        return None;
    }
    let (kind, source) = match &mount.source {
        MountSource::Bind { path: source, .. } => ("bind", path(source)),
        MountSource::Volume(name) => ("volume", name.clone().unwrap_or_default()),
        MountSource::Tmpfs(_) => ("tmpfs", String::new()),
    };
    let mut fields = vec![field("Type", kind)];
    if !source.is_empty() {
        fields.push(field("Source", source));
    }
    fields.push(field("Target", mount.destination.as_str()));
    if mount.read_only {
        fields.push(field("ReadOnly", true));
    }
    let mut options = Vec::new();
    match &mount.source {
        MountSource::Bind { propagation, recursion, create, .. } => {
            options.extend(propagation.map(|propagation| field("Propagation", propagation.as_str())));
            match recursion {
                Recursion::Enabled => {}
                Recursion::Disabled => options.push(field("NonRecursive", true)),
                Recursion::Writable => options.push(field("ReadOnlyNonRecursive", true)),
                Recursion::Readonly => options.push(field("ReadOnlyForceRecursive", true)),
            }
            if *create {
                options.push(field("CreateMountpoint", true));
            }
            if !options.is_empty() {
                fields.push(field("BindOptions", Value::document(options)));
            }
        }
        MountSource::Tmpfs(asked) => {
            options.extend(asked.size_bytes.map(|size| field("SizeBytes", number(size))));
            options.extend(asked.mode.map(|mode| field("Mode", number(mode))));
            if !options.is_empty() {
                fields.push(field("TmpfsOptions", Value::document(options)));
            }
        }
        MountSource::Volume(_) => {}
    }
    Some(Value::document(fields))
}

fn rates(rates: &[DeviceRate], name: &str) -> Value {
    Value::list(
        rates.iter().map(|one| Value::document(vec![field("Path", path(&one.path)), field(name, number(one.rate))])),
    )
}

fn device_rules(container: &Container) -> Value {
    let number = |number: Option<i64>| number.map_or("*".to_owned(), |number| number.to_string());
    let rules = &container.config.device_rules;
    let text =
        |rule: &DeviceRule| format!("{} {}:{} {}", rule.kind, number(rule.major), number(rule.minor), rule.access);
    Value::strings_or_nil(&rules.iter().map(text).collect::<Vec<_>>())
}

fn device_requests(container: &Container) -> Value {
    if container.config.cdi_devices.is_empty() {
        return Value::NilList;
    }
    Value::list([document! {
        "Driver": "cdi",
        "Count": number(0),
        "DeviceIDs": Value::strings(&container.config.cdi_devices),
        "Capabilities": Value::NilList,
        "Options": Value::NilMap,
    }])
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
