//! Writes the OCI bundles that bench/oci-run.sh runs: `std`, `docker`, and both with a program that stays.
#![expect(clippy::disallowed_methods, reason = "a developer's tool that writes where it is told")]

use std::path::Path;

use corten_engine::security::{capabilities, seccomp};
use corten_testkit::Image;
use corten_testkit::bundle::default_spec;
use corten_types::runtime_spec::{Capabilities, Cpu, Memory, NamespaceKind, Pids, Spec};

/// `bundles DIRECTORY`: the four bundles and one root file system.
fn main() -> std::io::Result<()> {
    let directory = std::path::absolute(std::env::args_os().nth(1).unwrap_or_else(|| "bundles".into()))?;
    let rootfs = directory.join("rootfs");
    Image::tiny().unpack(&rootfs);
    let mut std = default_spec();
    std.root.get_or_insert_default().path = rootfs.to_string_lossy().into_owned();
    let linux = std.linux.get_or_insert_default();
    // Replaced by a path for each peer.
    linux.cgroups_path = "/corten-bench/NAME".to_owned();
    linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Cgroup);
    let mut docker = std.clone();
    as_docker(&mut docker);
    for (name, spec) in [("std", std), ("docker", docker)] {
        let program = |args: &[&str]| {
            let mut spec = spec.clone();
            spec.process.get_or_insert_default().args = args.iter().map(|arg| (*arg).to_owned()).collect();
            spec
        };
        write(&directory.join(name), &program(&["/bin/true"]))?;
        write(&directory.join(format!("sleep-{name}")), &program(&["/bin/sleep", "1000"]))?;
    }
    Ok(())
}

/// What an ordinary container of docker's has beyond the default document.
fn as_docker(spec: &mut Spec) {
    let names = || capabilities::DEFAULT.map(str::to_owned).to_vec();
    let process = spec.process.get_or_insert_default();
    process.capabilities =
        Some(Capabilities { bounding: names(), effective: names(), permitted: names(), ..Capabilities::default() });
    let linux = spec.linux.get_or_insert_default();
    linux.seccomp = Some(seccomp::default_profile(&capabilities::DEFAULT, (6, 0)));
    let resources = linux.resources.get_or_insert_default();
    resources.memory = Some(Memory { limit: Some(256 << 20), ..Memory::default() });
    resources.cpu = Some(Cpu { shares: Some(1024), quota: Some(100_000), period: Some(100_000), ..Cpu::default() });
    resources.pids = Some(Pids { limit: Some(100) });
}

fn write(directory: &Path, spec: &Spec) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("config.json"), serde_json::to_vec_pretty(spec)?)
}
