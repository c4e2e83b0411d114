//! Where an image may come from: `load`, `oci:`, `docker-archive:`, `host`.

use corten_testkit::Image;
use corten_testkit::tar::Entry;

use crate::sandbox;

#[test]
fn an_oci_layout_runs_without_being_loaded() {
    let sandbox = sandbox();
    for gzip in [true, false] {
        let mut image = Image::tiny().layer(vec![Entry::file("etc/second", 0o644, "layer\n")]);
        image.gzip = gzip;
        let source = image.write_layout(&sandbox.work().join(format!("layout-{gzip}")));
        sandbox.corten(["run", "--rm", &source, "cat", "/etc/second"]).ok().prints("layer");
        // One image in the layout needs no tag.
        let bare = source.rsplit_once(':').unwrap().0;
        sandbox.corten(["run", "--rm", bare, "cat", "/etc/second"]).ok().prints("layer");
        sandbox.corten(["run", "--rm", &format!("{bare}:no-such-tag"), "true"]).code(125).complains("no-such-tag");
    }
}

#[test]
fn an_archive_runs_without_being_loaded() {
    let sandbox = sandbox();
    let file = Image::tiny().write_docker_archive(&sandbox.work().join("tiny.tar"));
    sandbox.corten(["run", "--rm", &format!("docker-archive:{}", file.display()), "echo", "hi"]).ok().prints("hi");
}

#[test]
fn the_hosts_own_root_is_a_throw_away_copy() {
    let sandbox = sandbox();
    let here = std::fs::read_to_string("/etc/os-release").unwrap();
    sandbox.corten(["run", "--rm", "host", "cat", "/etc/os-release"]).ok().prints(&here);
    let script = "echo gone >/etc/corten-test-mark && cat /etc/corten-test-mark; echo $$; ls /proc | grep -c '^[0-9]'";
    let shown = sandbox.corten(["run", "--rm", "host", "sh", "-c", script]);
    shown.ok().shows("gone\n1\n");
    assert!(!std::path::Path::new("/etc/corten-test-mark").exists(), "the host's root was written to");
}

#[test]
fn load_reads_files_and_standard_input_and_says_what_came() {
    let sandbox = sandbox();
    let archive = Image::tiny().docker_archive();
    sandbox.corten_with_input(["load"], &archive).ok().prints("Loaded image: tiny:latest");
    let mut image = Image::tiny();
    image.reference = "example.org/team/app:2".into();
    let file = image.write_docker_archive(&sandbox.work().join("app.tar"));
    sandbox.corten(["load", "-q", "-i", file.to_str().unwrap()]).ok().prints("Loaded image: example.org/team/app:2");
    sandbox.corten(["run", "--rm", "example.org/team/app:2", "true"]).ok();
    sandbox
        .corten(["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok()
        .shows("tiny:latest")
        .shows("example.org/team/app:2");
}

#[test]
fn whiteouts_hide_what_lower_layers_have() {
    let sandbox = sandbox();
    let image = Image::tiny()
        .layer(vec![
            Entry::directory("d", 0o755),
            Entry::file("d/a", 0o644, "a"),
            Entry::file("d/b", 0o644, "b"),
            Entry::directory("o", 0o755),
            Entry::file("o/old", 0o644, ""),
        ])
        .layer(vec![
            Entry::file("d/.wh.a", 0o644, ""),
            Entry::directory("o", 0o755),
            Entry::file("o/.wh..wh..opq", 0o644, ""),
            Entry::file("o/new", 0o644, ""),
        ]);
    let source = image.write_layout(&sandbox.work().join("layout"));
    sandbox.corten(["run", "--rm", &source, "sh", "-c", "ls /d /o"]).ok().prints("/d:\nb\n\n/o:\nnew");
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_refused() {
    let sandbox = sandbox();
    let layout = sandbox.work().join("layout");
    let source = Image::tiny().write_layout(&layout);
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&layer, bytes).unwrap();
    sandbox.corten(["run", "--rm", &source, "true"]).code(125).complains("expected sha256:");
}
