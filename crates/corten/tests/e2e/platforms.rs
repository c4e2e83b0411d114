//! Images of several platforms: the one asked for is pulled, made a container of, and runs where the machine can.

use corten_testkit::tar::Entry;
use corten_testkit::{Image, Registry};

use crate::sandbox;

/// A program of another machine: an ELF header alone.
fn foreign() -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    header.resize(16, 0);
    // A program for s390x, whose byte order no machine of ours has.
    header.extend([2, 0, 22, 0, 1, 0, 0, 0]);
    header.resize(120, 0);
    header
}

/// This machine's platform, and a name that means both.
fn registry() -> (Registry, String) {
    let registry = Registry::start();
    let here = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => panic!("tests know no platform for {other}"),
    };
    let elsewhere = Image::new("app:1", vec![Entry::file("prog", 0o755, foreign())])
        .architecture("s390x")
        .config("Cmd", serde_json::json!(["/prog"]))
        .config("Labels", serde_json::json!({"for": "s390x"}));
    registry.add_index("app", "1", &[(here, &Image::tiny()), ("linux/s390x", &elsewhere)]);
    let name = registry.name("app:1");
    (registry, name)
}

#[test]
fn run_and_create_take_the_platform_that_is_asked_for() {
    let (registry, name) = registry();
    let sandbox = sandbox();
    // Nothing is here: the one for this machine comes.
    sandbox.corten(["run", "--rm", "--network", "none", &name, "echo", "here"]).ok().prints("here");
    // The other comes when it is asked for, though the name is known already.
    let created = sandbox.corten(["create", "--network", "none", "--platform", "linux/s390x", &name]);
    let created = created.ok().complains("Unable to find image").text().to_owned();
    let started = sandbox.corten(["start", "-a", &created]);
    assert_ne!(started.code, 0);
    started.complains("exec format error");
    let ran = sandbox.corten(["run", "--rm", "--network", "none", "--platform", "linux/s390x", &name]);
    assert!(ran.code != 0 && !ran.stderr.contains("Unable to find image"), "{}", ran.transcript());
    ran.complains("exec format error");
    sandbox.corten(["run", "--rm", "--platform", "linux/riscv64", &name]).code(125).complains("no matching manifest");
    sandbox.corten(["run", "--rm", "--platform", "nonsense/x/y/z", &name]).code(125);
    // Without a word it is this machine's, still.
    sandbox.corten(["run", "--rm", "--network", "none", "--pull", "never", &name, "echo", "here"]).ok().prints("here");
    assert!(registry.count("GET /v2/app/manifests/") > 0);
}

#[test]
fn one_platform_or_all_are_pulled() {
    let (registry, name) = registry();
    let sandbox = sandbox();
    sandbox.corten(["pull", "--platform", "linux/s390x", &name]).ok();
    let inspect = |platform: &str| {
        sandbox.corten(["image", "inspect", "--platform", platform, "--format", "{{.Architecture}}", &name])
    };
    inspect("linux/s390x").ok().prints("s390x");
    sandbox.corten(["pull", "--all-platforms", &name]).ok();
    inspect("linux/s390x").ok().prints("s390x");
    sandbox.corten(["images", "--tree"]).ok().shows("linux/s390x");
    sandbox
        .corten(["pull", "--platform", "linux/s390x", "--all-platforms", &name])
        .code(1)
        .complains("exclude each other");
    // All of it goes on as one.
    let copy = registry.name("copy:1");
    sandbox.corten(["tag", &name, &copy]).ok();
    sandbox.corten(["push", &copy]).ok();
    assert_eq!(registry.manifest("copy", "1"), registry.manifest("app", "1"));
}
