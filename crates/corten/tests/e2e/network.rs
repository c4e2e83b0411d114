//! --network none and host.

use crate::sandbox;

#[test]
fn none_has_the_loopback_alone_and_it_is_up() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let shown = sandbox.corten([
        "run",
        "--rm",
        "--network",
        "none",
        &tiny,
        "sh",
        "-c",
        "ls /sys/class/net; cat /sys/class/net/lo/flags; cat /proc/net/route | wc -l",
    ]);
    shown.ok().prints("lo\n0x9\n1");
}

#[test]
fn host_is_the_callers_network_namespace() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    sandbox
        .corten(["run", "--rm", "--network", "host", &tiny, "readlink", "/proc/self/ns/net"])
        .ok()
        .prints(ours.to_str().unwrap());
}

#[test]
fn every_other_namespace_is_new_by_default() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    let shown = sandbox.corten([
        "run",
        "--rm",
        "--network",
        "none",
        &tiny,
        "sh",
        "-c",
        "for n in pid net mnt ipc uts; do readlink /proc/self/ns/$n; done",
    ]);
    for (name, inside) in ["pid", "net", "mnt", "ipc", "uts"].iter().zip(shown.ok().stdout.lines()) {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_str().unwrap(), inside, "the {name} namespace is the host's");
    }
    assert_eq!(shown.stdout.lines().count(), 5);
}
