//! The mounts of a container: docker's defaults, the engine's files, the user's.

use std::path::Path;

use corten_types::runtime_spec::Mount as SpecMount;
use corten_types::{Error, ErrorKind, Result};

use super::{INIT, Surroundings};
use crate::container::ContainerConfig;
use crate::namespaces::NamespaceMode;
use crate::request::{Mount, MountSource, NetworkMode, Recursion, TmpfsOptions};

/// Default mounts without those that the user's replace, then the engine's files, then the user's, outer before inner.
pub(super) fn build(config: &ContainerConfig, around: &Surroundings) -> Result<Vec<SpecMount>> {
    let mut own = config.mounts.iter().map(|mount| user(mount, around)).collect::<Result<Vec<_>>>()?;
    own.extend(around.cdi.mounts.iter().cloned());
    own.sort_by_key(|mount| mount.destination.matches('/').count());
    if let Some(twice) = own.windows(2).find(|pair| pair[0].destination == pair[1].destination) {
        return Err(Error::invalid(format!("duplicate mount point `{}`", twice[0].destination)));
    }
    let taken = |mount: &SpecMount| own.iter().any(|other| other.destination == mount.destination);
    let mut mounts = defaults(config, around);
    mounts.extend(files(config, around)?);
    mounts.retain(|mount| !taken(mount));
    mounts.extend(own);
    Ok(mounts)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> SpecMount {
    SpecMount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..SpecMount::default()
    }
}

fn defaults(config: &ContainerConfig, around: &Surroundings) -> Vec<SpecMount> {
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // Group 5 (tty) exists only where more than one id is mapped.
    if !around.rootless || around.many_ids {
        terminals.push("gid=5");
    }
    let mut system = vec!["nosuid", "noexec", "nodev"];
    let mut cgroup = vec!["nosuid", "noexec", "nodev"];
    if !config.privileged {
        system.push("ro");
        cgroup.insert(0, "ro");
    }
    // sysfs belongs to the network namespace: a user namespace may mount it only with one of its own.
    let sys = match around.rootless && config.network == NetworkMode::Host {
        true => mount("/sys", "bind", "/sys", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"]),
        false => mount("/sys", "sysfs", "sysfs", &system),
    };
    // A user namespace may mount proc only with a pid namespace of its own.
    let proc = match around.rootless && config.namespaces.pid == NamespaceMode::Host {
        true => mount("/proc", "bind", "/proc", &["rbind", "rprivate", "nosuid", "noexec", "nodev"]),
        false => mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    };
    let queues = match around.rootless && config.namespaces.ipc.is_shared() {
        true => mount("/dev/mqueue", "bind", "/dev/mqueue", &["bind", "rprivate", "nosuid", "noexec", "nodev"]),
        false => mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    };
    let mut mounts = vec![
        proc,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &terminals),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &cgroup),
        queues,
    ];
    mounts.extend(shared_memory(config, around));
    // An ordinary user has no place of the container's own in a v1 hierarchy that could be shown.
    mounts.retain(|mount| mount.kind != "cgroup" || !around.rootless || around.cgroup2);
    mounts
}

/// /dev/shm: of the container's own, of whom it shares IPC with, or none (`--ipc none`).
fn shared_memory(config: &ContainerConfig, around: &Surroundings) -> Option<SpecMount> {
    let flags = ["nosuid", "noexec", "nodev"];
    if config.namespaces.ipc == NamespaceMode::None {
        return None;
    }
    Some(match &around.joined.shared_memory {
        Some(place) => {
            let mut bound = mount("/dev/shm", "bind", &place.to_string_lossy(), &["rbind", "rprivate"]);
            bound.options.extend(flags.map(str::to_owned));
            bound
        }
        None => {
            let size = format!("size={}", config.shm_size_bytes);
            let mut own = mount("/dev/shm", "tmpfs", "shm", &flags);
            own.options.extend(["mode=1777".to_owned(), size]);
            own
        }
    })
}

/// The files that the engine keeps for the container, and the small pid 1.
fn files(config: &ContainerConfig, around: &Surroundings) -> Result<Vec<SpecMount>> {
    let mut mounts = Vec::new();
    for name in ["resolv.conf", "hostname", "hosts"] {
        let mut bound = bind(&around.directory.join(name), &format!("/etc/{name}"), "rbind", "rprivate")?;
        if config.read_only {
            bound.options.push("ro".to_owned());
        }
        mounts.push(bound);
    }
    if config.init {
        let mut bound = bind(&around.executable, INIT, "bind", "rprivate")?;
        bound.options.push("ro".to_owned());
        mounts.push(bound);
    }
    Ok(mounts)
}

fn bind(source: &Path, destination: &str, kind: &str, propagation: &str) -> Result<SpecMount> {
    let source = source.to_str().ok_or_else(|| Error::invalid(format!("`{}` is not UTF-8", source.display())))?;
    Ok(mount(destination, "bind", source, &[kind, propagation]))
}

fn user(request: &Mount, around: &Surroundings) -> Result<SpecMount> {
    let destination = normalize(&request.destination)?;
    match &request.source {
        MountSource::Bind { path, propagation, recursion, .. } => {
            let kind = if *recursion == Recursion::Disabled { "bind" } else { "rbind" };
            let propagation = propagation.map_or("rprivate", |propagation| propagation.as_str());
            let mut bound = bind(path, &destination, kind, propagation)?;
            if request.read_only {
                bound.options.push("ro".to_owned());
                // Mounts below the source become read-only too, where the kernel can (mount_setattr, 5.12).
                let deep = match recursion {
                    Recursion::Enabled => around.kernel >= (5, 12),
                    Recursion::Readonly => true,
                    Recursion::Disabled | Recursion::Writable => false,
                };
                if deep {
                    bound.options.push("rro".to_owned());
                }
            }
            Ok(bound)
        }
        MountSource::Tmpfs(options) => {
            let mut words = tmpfs(options);
            if request.read_only {
                words.push("ro".to_owned());
            }
            Ok(SpecMount { options: words, ..mount(&destination, "tmpfs", "tmpfs", &[]) })
        }
        MountSource::Volume(name) => Err(Error::new(
            ErrorKind::Unsupported,
            match name {
                Some(name) => format!("volume `{name}` is not supported yet: it comes with volumes"),
                None => format!("an anonymous volume at `{destination}` is not supported yet: it comes with volumes"),
            },
        )
        .hint(format!("bind a directory: `-v /absolute/directory:{destination}`"))),
    }
}

/// Docker's tmpfs options, changed by the user's: the later of two that contradict each other wins.
fn tmpfs(options: &TmpfsOptions) -> Vec<String> {
    let mut words: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    let size = options.size_bytes.map(|bytes| format!("size={bytes}"));
    let mode = options.mode.map(|mode| format!("mode={mode:o}"));
    for word in options.options.iter().cloned().chain(size).chain(mode) {
        let topic = topic(&word).to_owned();
        words.retain(|known| self::topic(known) != topic);
        words.push(word);
    }
    words
}

/// What an option is about: `noexec` and `exec` alike, `size=1` and `size=2` alike.
fn topic(word: &str) -> &str {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    match name {
        "rw" => "ro",
        _ => name.strip_prefix("no").unwrap_or(name),
    }
}

/// The absolute path without `.`, `..` and double slashes; `/` itself is refused.
pub(crate) fn normalize(destination: &str) -> Result<String> {
    if !destination.starts_with('/') || destination.contains('\0') {
        return Err(Error::invalid(format!("mount point `{}` is not an absolute path", destination.escape_debug())));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in destination.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    if parts.is_empty() {
        return Err(Error::invalid("the mount point cannot be `/`"));
    }
    Ok(format!("/{}", parts.join("/")))
}
