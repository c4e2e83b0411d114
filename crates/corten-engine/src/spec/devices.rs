//! Devices of the host that are shown inside.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_types::runtime_spec::{Device, DeviceRule};
use corten_types::{Context, Error, Result};
use rustix::fs::{FileType, major, minor};

use crate::request::{Access, DeviceRequest};

/// Deepest directory below a device directory that is looked at.
const DEPTH_MAX: usize = 8;

/// Nodes to make and the access that they need.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct HostDevices {
    /// Nodes.
    pub(crate) nodes: Vec<Device>,
    /// Rules of the device cgroup.
    pub(crate) rules: Vec<DeviceRule>,
}

/// Looks the requested devices up; with `all` (`--privileged`) those of all of /dev come first.
pub(crate) fn of_host(requests: &[DeviceRequest], all: bool) -> Result<HostDevices> {
    let mut devices = HostDevices::default();
    if all {
        walk(Path::new("/dev"), "/dev", Access::ALL, 0, &mut devices)?;
        // Every device may be used; the single rules would say the same.
        devices.rules = vec![DeviceRule { allow: true, access: "rwm".to_owned(), ..DeviceRule::default() }];
    }
    for request in requests {
        let place = super::normalize(&request.container)?;
        let stat = rustix::fs::stat(&request.host)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot use device `{}`", request.host.display()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            walk(&request.host, &place, request.access, 0, &mut devices)?;
        } else {
            let device = node(&stat, &place)
                .ok_or_else(|| Error::invalid(format!("`{}` is not a device node", request.host.display())))?;
            add(&mut devices, device, request.access);
        }
    }
    Ok(devices)
}

fn walk(host: &Path, place: &str, access: Access, depth: usize, devices: &mut HostDevices) -> Result<()> {
    let root = corten_fs::Root::open_ambient(host)?.beneath();
    let mut entries = root.list(".")?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let name = std::ffi::OsStr::from_bytes(entry.name.as_bytes());
        let (Some(text), path) = (name.to_str(), PathBuf::from(name)) else { continue };
        // The container has its own terminals, shared memory and queues.
        if depth == 0 && place == "/dev" && ["pts", "shm", "fd", "mqueue", "console", ".lxc"].contains(&text) {
            continue;
        }
        let place = format!("{place}/{text}");
        match entry.kind {
            FileType::Directory if depth < DEPTH_MAX => walk(&host.join(path), &place, access, depth + 1, devices)?,
            FileType::CharacterDevice | FileType::BlockDevice => {
                // A device that just went away is none.
                if let Some(device) = root.stat_nofollow(&path).ok().and_then(|stat| node(&stat, &place)) {
                    add(devices, device, access);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn node(stat: &rustix::fs::Stat, place: &str) -> Option<Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        _ => return None,
    };
    Some(Device {
        path: place.to_owned(),
        kind: kind.to_owned(),
        major: i64::from(major(stat.st_rdev)),
        minor: i64::from(minor(stat.st_rdev)),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    })
}

fn add(devices: &mut HostDevices, device: Device, access: Access) {
    devices.rules.push(DeviceRule {
        allow: true,
        kind: device.kind.clone(),
        major: Some(device.major),
        minor: Some(device.minor),
        access: access.letters(),
    });
    devices.nodes.retain(|known| known.path != device.path);
    devices.nodes.push(device);
}
