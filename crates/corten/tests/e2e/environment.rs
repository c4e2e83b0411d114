//! -e, --env-file, -w, -h, --entrypoint, --label, and what the image says itself.

use corten_testkit::Image;
use serde_json::json;

use crate::sandbox;

#[test]
fn variables_come_from_image_command_line_and_file() {
    let mut sandbox = sandbox();
    let image = Image::tiny().config("Env", json!(["PATH=/usr/bin:/bin", "FROM_IMAGE=1", "BOTH=image"]));
    let tiny = sandbox.load(&image);
    let file = sandbox.work().join("env");
    std::fs::write(&file, "# a comment\nFROM_FILE=two words\n\nBOTH=file\n").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let shown = sandbox.corten([
        "run",
        "--rm",
        "--env-file",
        &file,
        "-e",
        "FROM_LINE=3",
        "-e",
        "EMPTY=",
        "-e",
        "UNSET_HERE",
        &tiny,
        "env",
    ]);
    let lines: Vec<&str> = shown.ok().stdout.lines().collect();
    for expected in ["FROM_IMAGE=1", "FROM_FILE=two words", "FROM_LINE=3", "BOTH=file", "EMPTY=", "HOME=/root"] {
        assert!(lines.contains(&expected), "no {expected}\n{}", shown.transcript());
    }
    assert!(lines.iter().any(|line| line.starts_with("HOSTNAME=")), "{}", shown.transcript());
    assert!(
        !shown.stdout.contains("UNSET_HERE") && !shown.stdout.contains("CORTEN_TEST_SANDBOX"),
        "the host leaked in"
    );
    sandbox.tiny();
}

#[test]
fn working_directory_and_host_name() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--rm", "-w", "/tmp", &tiny, "pwd"]).ok().prints("/tmp");
    // docker makes a working directory that the image lacks.
    sandbox.corten(["run", "--rm", "-w", "/new/folder", &tiny, "pwd"]).ok().prints("/new/folder");
    sandbox
        .corten(["run", "--rm", "-h", "box", &tiny, "sh", "-c", "hostname; cat /etc/hostname"])
        .ok()
        .prints("box\nbox");
    sandbox.corten(["run", "--rm", "-h", "box", &tiny, "cat", "/etc/hosts"]).ok().shows("127.0.0.1\tlocalhost");
}

#[test]
fn entry_point_and_command_follow_dockers_rules() {
    let mut sandbox = sandbox();
    let image = Image::tiny().config("Entrypoint", json!(["echo", "entry"])).config("Cmd", json!(["cmd"]));
    let tiny = sandbox.load(&image);
    sandbox.corten(["run", "--rm", &tiny]).ok().prints("entry cmd");
    sandbox.corten(["run", "--rm", &tiny, "other"]).ok().prints("entry other");
    sandbox.corten(["run", "--rm", "--entrypoint", "cat", &tiny, "/etc/group"]).ok().shows("staff:x:50:alice");
    sandbox.corten(["run", "--rm", "--entrypoint", "", &tiny, "echo", "plain"]).ok().prints("plain");
    sandbox.tiny();
}

#[test]
fn labels_are_the_images_and_the_users() {
    let sandbox = sandbox();
    let tiny = sandbox.load(&Image::tiny().config("Labels", json!({"a": "image", "b": "image"})));
    sandbox.corten(["run", "--name", "labelled", "--label", "b=user", "-l", "c", &tiny, "true"]).ok();
    let labels = sandbox.corten(["inspect", "--format", "{{json .Config.Labels}}", "labelled"]);
    let labels: serde_json::Value = serde_json::from_str(labels.ok().text()).unwrap();
    assert_eq!(labels, json!({"a": "image", "b": "user", "c": ""}));
    sandbox.corten(["rm", "labelled"]).ok();
}
