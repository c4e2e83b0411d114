//! Devices by name (Container Device Interface, `vendor.com/class=name`): what the specifications of this machine say that
//! a container needs to use one.
//!
//! ```text
//! /etc/cdi/*.json, /etc/cdi/*.yaml           the administrator's
//! /var/run/cdi/*.json, /var/run/cdi/*.yaml   the vendors'; of two that name one device these win
//! ```

use std::path::Path;

use corten_fs::Root;
use corten_types::runtime_spec::{Device, DeviceRule, Hook, Hooks, Mount};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{FileType, major, minor};
use serde::Deserialize;

use crate::request::Access;

/// Later ones win.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Largest specification that is read, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most files of a directory that are read.
const FILES_MAX: usize = 1024;

/// What named devices add to a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edits {
    pub(crate) env: Vec<String>,
    pub(crate) nodes: Vec<Device>,
    pub(crate) rules: Vec<DeviceRule>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Hooks,
    pub(crate) groups: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Specification {
    kind: String,
    devices: Vec<NamedDevice>,
    container_edits: RawEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NamedDevice {
    name: String,
    container_edits: RawEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawEdits {
    env: Vec<String>,
    device_nodes: Vec<RawNode>,
    mounts: Vec<RawMount>,
    hooks: Vec<RawHook>,
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
    net_devices: Vec<serde::de::IgnoredAny>,
    intel_rdt: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawNode {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawMount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawHook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Whether a word is a device's name in this sense: `vendor.com/class=name`.
pub fn is_name(word: &str) -> bool {
    let fits = |part: &str, more: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let Some((kind, name)) = word.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    fits(vendor, "._-") && fits(class, "_-") && fits(name, "._:-")
}

/// What the devices `names` need, as this machine's specifications say.
pub(crate) fn edits(names: &[String]) -> Result<Edits> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    edits_of(names, &specifications(&DIRECTORIES)?)
}

fn edits_of(names: &[String], specifications: &[Specification]) -> Result<Edits> {
    let mut edits = Edits::default();
    let mut used: Vec<*const Specification> = Vec::new();
    for name in names {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let found = specifications.iter().rev().filter(|one| one.kind == kind).find_map(|one| {
            let device = one.devices.iter().find(|known| known.name == device)?;
            Some((one, device))
        });
        let Some((specification, device)) = found else {
            return Err(Error::new(ErrorKind::NotFound, format!("unresolvable CDI device `{name}`"))
                .hint(format!("a file in {} would have to name it", DIRECTORIES.join(" or "))));
        };
        let context = || format!("cannot use CDI device `{name}`");
        edits.add(&device.container_edits).context(context)?;
        if !used.contains(&std::ptr::from_ref(specification)) {
            used.push(specification);
            edits.add(&specification.container_edits).context(context)?;
        }
    }
    Ok(edits)
}

fn specifications(directories: &[&str]) -> Result<Vec<Specification>> {
    let mut all = Vec::new();
    for directory in directories {
        let root = match Root::open_ambient(Path::new(directory)) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            root => root?.beneath(),
        };
        let mut entries = root.list(".")?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries.iter().take(FILES_MAX) {
            let name = entry.name.to_string_lossy();
            if !name.ends_with(".json") && !name.ends_with(".yaml") && !name.ends_with(".yml") {
                continue;
            }
            let read = root.read(name.as_ref(), FILE_SIZE_BYTES_MAX).and_then(|bytes| parse(&name, &bytes));
            all.push(read.context(|| format!("cannot read the CDI specification `{directory}/{name}`"))?);
        }
    }
    Ok(all)
}

fn parse(name: &str, bytes: &[u8]) -> Result<Specification> {
    if name.ends_with(".json") {
        return serde_json::from_slice(bytes).map_err(|error| Error::invalid("it is not valid").caused_by(error));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| Error::invalid("it is not UTF-8").caused_by(error))?;
    serde_saphyr::from_str(text).map_err(|error| Error::invalid("it is not valid").caused_by(error.to_string()))
}

impl Edits {
    fn add(&mut self, raw: &RawEdits) -> Result<()> {
        if !raw.net_devices.is_empty() || raw.intel_rdt.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "network devices and Intel RDT of CDI are not supported yet",
            ));
        }
        self.env.extend(raw.env.iter().cloned());
        self.groups.extend(raw.additional_gids.iter().filter(|gid| **gid != 0));
        for node in &raw.device_nodes {
            self.add_node(node)?;
        }
        for mount in &raw.mounts {
            let bind = mount.kind.is_empty() || mount.kind == "bind";
            let mut options = mount.options.clone();
            if bind && !options.iter().any(|word| word == "bind" || word == "rbind") {
                options.push("rbind".to_owned());
            }
            self.mounts.push(Mount {
                destination: crate::spec::normalize(&mount.container_path)?,
                kind: if bind { "bind".to_owned() } else { mount.kind.clone() },
                source: mount.host_path.clone(),
                options,
                ..Mount::default()
            });
        }
        for hook in &raw.hooks {
            let place = match hook.hook_name.as_str() {
                "prestart" => &mut self.hooks.prestart,
                "createRuntime" => &mut self.hooks.create_runtime,
                "createContainer" => &mut self.hooks.create_container,
                "startContainer" => &mut self.hooks.start_container,
                "poststart" => &mut self.hooks.poststart,
                "poststop" => &mut self.hooks.poststop,
                other => return Err(Error::invalid(format!("there is no hook `{other}`"))),
            };
            let (path, args, env) = (hook.path.clone(), hook.args.clone(), hook.env.clone());
            place.push(Hook { path, args, env, timeout: hook.timeout });
        }
        Ok(())
    }

    fn add_node(&mut self, node: &RawNode) -> Result<()> {
        let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        let (kind, numbers) = match (node.kind.as_str(), node.major, node.minor) {
            (kind @ ("b" | "c" | "u" | "p"), Some(major), Some(minor)) => (kind.to_owned(), (major, minor)),
            _ => {
                let stat = rustix::fs::stat(host.as_str())
                    .map_err(std::io::Error::from)
                    .context(|| format!("cannot look at `{host}`"))?;
                let kind = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::CharacterDevice => "c",
                    FileType::BlockDevice => "b",
                    _ => return Err(Error::invalid(format!("`{host}` is not a device node"))),
                };
                (kind.to_owned(), (i64::from(major(stat.st_rdev)), i64::from(minor(stat.st_rdev))))
            }
        };
        let access = if node.permissions.is_empty() { "rwm".to_owned() } else { node.permissions.clone() };
        self.rules.push(DeviceRule {
            allow: true,
            kind: kind.clone(),
            major: Some(numbers.0),
            minor: Some(numbers.1),
            access: Access::parse(&access)?.letters(),
        });
        self.nodes.push(Device {
            path: crate::spec::normalize(&node.path)?,
            kind,
            major: numbers.0,
            minor: numbers.1,
            file_mode: node.file_mode,
            uid: node.uid,
            gid: node.gid,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"cdiVersion":"0.6.0","kind":"vendor.com/net",
        "devices":[{"name":"one","containerEdits":{"deviceNodes":[{"path":"/dev/one","hostPath":"/dev/null"}],
            "env":["ONE=1"],"mounts":[{"hostPath":"/lib","containerPath":"/vendor/lib","options":["ro"]}]}}],
        "containerEdits":{"env":["ALL=1"],"hooks":[{"hookName":"poststop","path":"/bin/true"}]}}"#;

    #[test]
    fn a_name_has_vendor_class_and_device() {
        for (word, is) in [
            ("vendor.com/class=name", true),
            ("nvidia.com/gpu=GPU-1:0", true),
            ("/dev/fuse", false),
            ("vendor.com/class", false),
            ("vendor=name", false),
            ("vendor/=name", false),
        ] {
            assert_eq!(is_name(word), is, "{word}");
        }
    }

    #[test]
    fn a_device_brings_its_own_edits_and_those_of_its_file_once() {
        let all = vec![parse("a.json", JSON.as_bytes()).unwrap()];
        let name = "vendor.com/net=one".to_owned();
        let edits = edits_of(&[name.clone(), name], &all).unwrap();
        assert_eq!(edits.env, ["ONE=1", "ALL=1", "ONE=1"]);
        assert_eq!((edits.nodes[0].path.as_str(), edits.nodes[0].major, edits.nodes[0].minor), ("/dev/one", 1, 3));
        assert_eq!((edits.mounts[0].kind.as_str(), edits.mounts[0].options.len()), ("bind", 2));
        assert_eq!(edits.hooks.poststop.len(), 1);
        let missing = edits_of(&["vendor.com/net=two".to_owned()], &all).unwrap_err();
        assert!(missing.one_line().contains("unresolvable CDI device"));
    }

    #[test]
    fn a_specification_may_be_yaml() {
        let text = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n  - name: all\n    containerEdits:\n      env:\n        - A=b\n";
        let all = vec![parse("nvidia.yaml", text.as_bytes()).unwrap()];
        assert_eq!(edits_of(&["nvidia.com/gpu=all".to_owned()], &all).unwrap().env, ["A=b"]);
    }
}
