//! `docker version` and `docker info`.

use corten_engine::{Info, Version};

use crate::table::field;
use crate::template::Value;
use crate::units::human_size_binary;

/// Docker's API version whose shapes these are.
const API_VERSION: &str = "1.51";

fn number(value: usize) -> Value {
    Value::from(value)
}

/// The data behind `version --format`: client and engine are one program.
pub fn version(version: &Version) -> Value {
    let client = Value::structure(
        "system.clientVersion",
        vec![
            field("Version", version.version.as_str()),
            field("ApiVersion", API_VERSION),
            field("DefaultAPIVersion", API_VERSION),
            field("Os", version.os.as_str()),
            field("Arch", version.architecture.as_str()),
            field("Context", "default"),
        ],
    );
    let details = Value::map(vec![
        field("Arch", version.architecture.as_str()),
        field("KernelVersion", version.kernel_version.as_str()),
        field("Os", version.os.as_str()),
        field("RuntimeSpec", version.runtime_spec.as_str()),
    ]);
    let component = Value::structure(
        "types.ComponentVersion",
        vec![field("Name", "Engine"), field("Version", version.version.as_str()), field("Details", details)],
    );
    let server = Value::structure(
        "types.Version",
        vec![
            field("Platform", Value::structure("struct", vec![field("Name", "Corten")])),
            field("Components", Value::list([component])),
            field("Version", version.version.as_str()),
            field("ApiVersion", API_VERSION),
            field("Os", version.os.as_str()),
            field("Arch", version.architecture.as_str()),
            field("KernelVersion", version.kernel_version.as_str()),
        ],
    );
    Value::structure("system.versionInfo", vec![field("Client", client), field("Server", server)])
}

/// The text of `version`.
pub fn version_text(version: &Version) -> String {
    format!(
        "Client and engine (one program, no daemon):\n Version:           {}\n OCI runtime spec:  {}\n \
         OS/Arch:           {}/{}\n Kernel Version:    {}\n",
        version.version, version.runtime_spec, version.os, version.architecture, version.kernel_version
    )
}

/// The data behind `info --format`.
pub fn info(info: &Info, version: &Version) -> Value {
    let status = info.storage_status.iter().map(|(name, value)| Value::strings(&[name, value]));
    let client = Value::structure(
        "system.clientInfo",
        vec![
            field("Debug", false),
            field("Version", version.version.as_str()),
            field("Os", version.os.as_str()),
            field("Arch", version.architecture.as_str()),
            field("Context", "default"),
            field("Plugins", Value::list([])),
            field("Warnings", Value::NilList),
        ],
    );
    Value::structure(
        "system.dockerInfo",
        vec![
            field("ID", ""),
            field("Containers", number(info.containers)),
            field("ContainersRunning", number(info.containers_running)),
            field("ContainersPaused", number(info.containers_paused)),
            field("ContainersStopped", number(info.containers_stopped)),
            field("Images", number(info.images)),
            field("Driver", info.storage_driver.as_str()),
            field("DriverStatus", Value::list(status)),
            field("LoggingDriver", "json-file"),
            field("CgroupDriver", info.cgroup_driver.as_str()),
            field("CgroupVersion", info.cgroup_version.as_str()),
            field("KernelVersion", info.kernel_version.as_str()),
            field("OperatingSystem", info.operating_system.as_str()),
            field("OSType", info.os_type.as_str()),
            field("Architecture", info.architecture.as_str()),
            field("NCPU", number(info.cpus)),
            field("MemTotal", Value::Int(info.memory_total_bytes.into())),
            field("DockerRootDir", info.root.display().to_string()),
            field("RunRoot", info.run_root.display().to_string()),
            field("Name", info.name.as_str()),
            field("Labels", Value::list([])),
            field("ExperimentalBuild", false),
            field("ServerVersion", version.version.as_str()),
            field("DefaultRuntime", "corten"),
            field("SecurityOptions", Value::strings(&info.security_options)),
            field("Rootless", info.rootless),
            field("DefaultNetwork", info.default_network.as_str()),
            field("Warnings", Value::strings_or_nil(&info.warnings)),
            field("ClientInfo", client),
        ],
    )
}

/// The text of `info`.
pub fn info_text(info: &Info, version: &Version) -> String {
    let mut lines = vec![
        format!("Containers: {}", info.containers),
        format!(" Running: {}", info.containers_running),
        format!(" Paused: {}", info.containers_paused),
        format!(" Stopped: {}", info.containers_stopped),
        format!("Images: {}", info.images),
        format!("Server Version: {}", version.version),
        format!("Storage Driver: {}", info.storage_driver),
    ];
    lines.extend(info.storage_status.iter().map(|(name, value)| format!(" {name}: {value}")));
    lines.extend([
        "Logging Driver: json-file".to_owned(),
        format!("Cgroup Driver: {}", info.cgroup_driver),
        format!("Cgroup Version: {}", info.cgroup_version),
        "Default Runtime: corten".to_owned(),
        format!("Default Network: {}", info.default_network),
        "Security Options:".to_owned(),
    ]);
    lines.extend(info.security_options.iter().flat_map(|option| security_option(option)));
    lines.extend([
        format!("Kernel Version: {}", info.kernel_version),
        format!("Operating System: {}", info.operating_system),
        format!("OSType: {}", info.os_type),
        format!("Architecture: {}", info.architecture),
        format!("CPUs: {}", info.cpus),
        format!("Total Memory: {}", human_size_binary(info.memory_total_bytes)),
        format!("Name: {}", info.name),
        format!("Root Dir: {}", info.root.display()),
        format!("Run Dir: {}", info.run_root.display()),
        format!("Rootless: {}", info.rootless),
    ]);
    lines.extend(info.warnings.iter().map(|warning| format!("WARNING: {warning}")));
    lines.join("\n") + "\n"
}

/// `name=seccomp,profile=builtin` as two lines.
fn security_option(option: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for part in option.split(',') {
        match part.split_once('=') {
            Some(("name", name)) => lines.push(format!(" {name}")),
            Some((key, value)) => {
                let initial: String = key.chars().take(1).flat_map(char::to_uppercase).collect();
                let rest: String = key.chars().skip(1).collect();
                lines.push(format!("  {initial}{rest}: {value}"));
            }
            None => lines.push(format!(" {part}")),
        }
    }
    lines
}
