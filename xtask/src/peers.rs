//! The engines and runtimes that the tests hold Corten against, from Debian's packages.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use corten_testkit::skip::{is_root, program};

/// Program and the Debian package that has it.
const PEERS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("strace", "strace"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("newuidmap", "uidmap"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("conmon", "conmon"),
    ("criu", "criu"),
    ("podman", "podman"),
    ("containerd", "containerd"),
    ("dockerd", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("buildah", "buildah"),
];

/// Installs what is missing where the machine is Debian's and the caller is root; the names of what stays away, each with
/// the reason.
pub(crate) fn install() -> Vec<String> {
    let missing = || PEERS.iter().filter(|(name, _)| program(name).is_none());
    if missing().next().is_none() {
        return Vec::new();
    }
    let reason = if !is_root() {
        "not root, so nothing was installed"
    } else if program("apt-get").is_none() {
        "no apt-get on this machine"
    } else {
        let packages: Vec<&str> = missing().map(|(_, package)| *package).collect();
        println!("installing from Debian: {}", packages.join(" "));
        apt_get_install(&packages);
        "apt-get could not install it"
    };
    missing().map(|(name, package)| format!("`{name}` (package {package}): {reason}")).collect()
}

/// Installs without starting any service: the tests start their own daemons in a world of their own.
fn apt_get_install(packages: &[&str]) {
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists()
        && std::fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok()
        && std::fs::set_permissions(policy, Permissions::from_mode(0o755)).is_ok();
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(args);
        command.status().is_ok_and(|status| status.success())
    };
    apt(&["update"]);
    if !apt(&[&["install", "-y", "--no-install-recommends"], packages].concat()) {
        // One package that cannot be had must not keep the others away.
        for package in packages {
            apt(&["install", "-y", "--no-install-recommends", package]);
        }
    }
    if ours {
        std::fs::remove_file(policy).ok();
    }
}
