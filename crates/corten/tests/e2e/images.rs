//! tag, rmi, history, save, load, import, export, prune, log, rollback, squash: images as docker's command line has them.

use corten_testkit::image::Image;
use corten_testkit::tar::Entry;
use serde_json::Value;

use crate::sandbox;

fn image(name: &str, text: &str) -> Image {
    Image::new(name, vec![Entry::directory("etc", 0o755), Entry::file("etc/text", 0o644, text)])
        .layer(vec![Entry::file("etc/more", 0o600, "more")])
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_saved_image_comes_back_byte_for_byte() {
    let sandbox = sandbox();
    let name = sandbox.load(&image("app:1", "one"));
    let file = sandbox.work().join("app.tar");
    let path = file.to_str().unwrap();
    let digests = || {
        let shown = sandbox.corten(["inspect", "-f", "{{.Id}}", &name]);
        shown.ok().text().to_owned()
    };
    let before = digests();
    sandbox.corten(["tag", &name, "other/app:2"]).ok();
    sandbox.corten(["save", "-o", path, &name, "other/app:2"]).ok().prints("");
    let list = |file: &str| {
        let output = std::process::Command::new("tar").args(["-tf", file]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for member in ["oci-layout", "index.json", "manifest.json", "repositories", "blobs/sha256/"] {
        assert!(list(path).lines().any(|line| line == member), "{member} in {}", list(path));
    }
    sandbox.corten(["rmi", "-f", &name, "other/app:2"]).ok();
    sandbox.corten(["images", "-q"]).ok().prints("");
    sandbox.corten(["load", "-q", "-i", path]).ok().shows("Loaded image: app:1").shows("Loaded image: other/app:2");
    assert_eq!(digests(), before);
    // The same archive again, byte for byte: nothing in it depends on when and where.
    let again = sandbox.work().join("again.tar");
    sandbox.corten(["save", "-o", again.to_str().unwrap(), &name, "other/app:2"]).ok();
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap());
    sandbox.corten(["save", "nothing:here"]).code(1).complains("nothing:here");
    assert_eq!(std::fs::read_dir(sandbox.work()).unwrap().count(), 2, "no half archive stays");
}

#[test]
fn history_shows_steps_newest_first() {
    let sandbox = sandbox();
    let history = serde_json::json!([
        {"created": "2026-01-02T03:04:05Z", "created_by": format!("COPY {} /", "x".repeat(60)), "comment": "note"},
        {"created": "2026-01-02T03:04:06Z", "created_by": "RUN more"},
        {"created": "2026-01-02T03:04:07Z", "created_by": "CMD [\"sh\"]", "empty_layer": true},
    ]);
    let mut image = image("app:1", "one");
    image = image.history(history);
    let name = sandbox.load(&image);
    let id = sandbox.corten(["inspect", "-f", "{{.Id}}", &name]).ok().text().trim().to_owned();
    let format = "{{.ID}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}|{{.CreatedAt}}";
    sandbox.corten(["history", "--format", format, &name]).ok().prints(&format!(
        "{}|CMD [\"sh\"]|0B||2026-01-02T03:04:07Z\n<missing>|RUN more|4B||2026-01-02T03:04:06Z\n\
         <missing>|COPY {}…|3B|note|2026-01-02T03:04:05Z",
        &id[7..19],
        "x".repeat(39)
    ));
    sandbox.corten(["history", "-q", "--no-trunc", &name]).ok().shows(&id);
    sandbox.corten(["history", "-H=false", &name]).ok().shows("2026-01-02T03:04:06Z").shows("CREATED BY");
    let row = json(sandbox.corten(["image", "history", "--format", "json", &name]).ok().text().lines().next().unwrap());
    assert_eq!(row["CreatedBy"], "CMD [\"sh\"]");
}

#[test]
fn a_name_goes_back_to_what_it_was() {
    let sandbox = sandbox();
    let id = |name: &str| sandbox.corten(["inspect", "-f", "{{.Id}}", name]).ok().text().to_owned();
    let name = sandbox.load(&image("app:1", "one"));
    let first = id(&name);
    sandbox.load(&image("app:1", "two"));
    assert_ne!(id(&name), first);
    sandbox.corten(["image", "log", &name]).ok().shows("current").shows("here").shows("load");
    sandbox.corten(["image", "rollback", &name]).ok().shows("app:1 sha256:");
    assert_eq!(id(&name), first);
    sandbox.corten(["image", "rollback", &name, "9"]).code(1).complains("moved");
    sandbox.corten(["image", "log", "never:was"]).code(1).complains("never pointed anywhere");
    // The one that was left has no name: prune removes it, and there is no way back then.
    sandbox.corten_with_input(["image", "prune"], b"n\n").code(1).complains("has been cancelled");
    sandbox.corten_with_input(["image", "prune"], b"y\n").ok().shows("WARNING!").shows("Total reclaimed space:");
    sandbox.corten(["image", "rollback", &name]).code(1).complains("is gone");
    assert_eq!(id(&name), first);
    sandbox.corten(["image", "prune", "-a", "-f", "--filter", "label=none"]).ok().prints("Total reclaimed space: 0B");
    sandbox.corten(["image", "prune", "-a", "-f"]).ok().shows("untagged: app:1").shows("deleted: sha256:");
    sandbox.corten(["images", "-q"]).ok().prints("");
}

#[test]
fn what_a_container_wrote_is_exported_and_imported() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--name", "box", &tiny, "sh", "-c", "echo new >/new; ln /new /link; mkdir -m 700 /d"]).ok();
    let file = sandbox.work().join("root.tar");
    let path = file.to_str().unwrap();
    sandbox.corten(["export", "-o", path, "box"]).ok();
    let listed = std::process::Command::new("tar").args(["-tvf", path]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for part in ["new link to link\n", "drwx------", "bin/sh"] {
        assert!(listed.contains(part), "{part:?} in {listed}");
    }
    let made = sandbox.corten([
        "import",
        "-c",
        "CMD [\"cat\", \"/link\"]",
        "-c",
        "ENV A=b",
        "-m",
        "from a box",
        path,
        "back:1",
    ]);
    assert!(made.ok().text().starts_with("sha256:"), "{}", made.transcript());
    sandbox.corten(["run", "--rm", "back:1"]).ok().prints("new");
    sandbox.corten(["history", "--format", "{{.Comment}}", "back:1"]).ok().prints("from a box");
    // The same archive from the web; a server that sends to itself and then nowhere; nothing but an answer of 200.
    let server = corten_testkit::Registry::start();
    let content = std::fs::read(&file).unwrap();
    server.hook(move |request, _| match request.path.as_str() {
        "/root.tar" => Some(corten_testkit::registry::Reply::new(200, content.clone())),
        "/moved.tar" => Some(corten_testkit::registry::Reply::new(302, "").header("Location", "/root.tar")),
        _ => None,
    });
    let url = |path: &str| format!("http://{}/{path}", server.host());
    sandbox.corten(["import", "-c", "CMD cat /link", &url("moved.tar"), "web:1"]).ok().shows("sha256:");
    sandbox.corten(["run", "--rm", "web:1"]).ok().prints("new");
    sandbox.corten(["import", &url("none.tar")]).code(1).complains("no such file");
    sandbox.corten(["import", "-c", "RUN x", path]).code(1).complains("RUN");
    sandbox.corten(["rmi", &tiny]).code(1).complains("`box`");
    sandbox.corten(["rm", "box"]).ok();
}

#[test]
fn a_squashed_image_has_one_layer_and_the_same_root() {
    let mut sandbox = sandbox();
    let name = sandbox.tiny();
    sandbox.corten(["image", "squash", "-t", "flat:1", &name]).ok().shows("sha256:");
    sandbox.corten(["inspect", "-f", "{{len .RootFS.Layers}}", "flat:1"]).ok().prints("1");
    sandbox.corten(["run", "--rm", "flat:1", "sh", "-c", "echo works"]).ok().prints("works");
    // Corten's own layers are compressed where that is asked for; the tree is the same.
    let plain = sandbox.corten(["inspect", "-f", "{{.RootFS.Layers}}", "flat:1"]).ok().text().to_owned();
    for (format, level) in [("gzip", "1"), ("zstd", "19")] {
        let tag = format!("flat:{format}");
        let flags = ["--compression-format", format, "--compression-level", level, "-t", &tag, &name];
        sandbox.corten(["image", "squash"].iter().chain(&flags)).ok().shows("sha256:");
        sandbox.corten(["inspect", "-f", "{{.RootFS.Layers}}", &tag]).ok().prints(plain.trim());
    }
    let wrong = ["image", "squash", "--compression-format", "gzip", "--compression-level", "12", &name];
    sandbox.corten(wrong).code(1).complains("1 to 9");
    sandbox.corten(["image", "squash", "--compression-level", "3", &name]).code(1).complains("--compression-format");
}

#[test]
fn an_archive_in_any_of_docker_s_compressions_is_loaded_and_imported() {
    let sandbox = sandbox();
    let archive = sandbox.work().join("app.tar");
    image("app:1", "one").write_docker_archive(&archive);
    for (program, suffix) in [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")] {
        if std::process::Command::new(program).arg("--version").output().is_err() {
            eprintln!("skipped: `{program}` is not installed");
            continue;
        }
        let packed = sandbox.work().join(format!("app.tar.{suffix}"));
        let out = std::fs::File::options().write(true).create_new(true).open(&packed).unwrap();
        let done = std::process::Command::new(program).args(["-c".as_ref(), archive.as_os_str()]).stdout(out).status();
        assert!(done.unwrap().success());
        let path = packed.to_str().unwrap();
        sandbox.corten(["load", "-i", path]).ok().shows("Loaded image: app:1");
        sandbox.corten(["rmi", "app:1"]).ok();
        let id = sandbox.corten(["import", path]).ok().text().trim().to_owned();
        sandbox.corten(["rmi", &id]).ok();
        // One that is cut short is an error and leaves nothing.
        let whole = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &whole[..whole.len() / 2]).unwrap();
        sandbox.corten(["load", "-i", path]).code(1).complains("cannot load");
        sandbox.corten(["images", "-aq"]).ok().prints("");
    }
}

#[test]
fn what_an_image_consisted_of_stays_where_it_is_asked_for() {
    let sandbox = sandbox();
    let name = sandbox.load(&image("app:1", "one"));
    let blobs = || std::fs::read_dir(sandbox.root().join("store/blobs/sha256")).unwrap().count();
    let before = blobs();
    sandbox.corten(["rmi", "--no-prune", &name]).ok().shows("Untagged: app:1").shows("Deleted: sha256:");
    sandbox.corten(["images", "-q"]).ok().prints("");
    assert_eq!(blobs(), before);
    sandbox.corten(["image", "prune", "-f"]).ok();
    assert_eq!(blobs(), 0);
}

#[test]
fn names_go_one_by_one_and_the_image_with_the_last() {
    let sandbox = sandbox();
    let name = sandbox.load(&image("app:1", "one"));
    sandbox.corten(["tag", &name, "app:2"]).ok();
    sandbox.corten(["tag", &name, "Wrong"]).code(1).complains("invalid reference format");
    sandbox.corten(["rmi", "app:1"]).ok().prints("Untagged: app:1");
    sandbox.corten(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().prints("app:2");
    sandbox.corten(["images", "--filter", "until=2000-01-01", "-q"]).ok().prints("");
    sandbox.corten(["images", "--tree"]).ok().shows("DISK USAGE").shows("app:2").shows("└─ linux/");
    sandbox.corten(["rmi", "app:1"]).code(1).complains("there is no image `app:1`");
    sandbox.corten(["rmi", "app:2"]).ok().shows("Untagged: app:2").shows("Deleted: sha256:");
}

#[test]
fn a_short_name_finds_the_image_that_podman_saved() {
    let sandbox = sandbox();
    let id = |name: &str| sandbox.corten(["inspect", "-f", "{{.Id}}", name]).ok().text().to_owned();
    sandbox.load(&image("localhost/app:latest", "one"));
    let local = id("app");
    assert_eq!(local, id("localhost/app:latest"));
    let file = sandbox.work().join("app.tar");
    sandbox.corten(["save", "-o", file.to_str().unwrap(), "app"]).ok();
    sandbox.corten(["rmi", "app"]).ok().shows("Untagged: localhost/app:latest").shows("Deleted: sha256:");
    sandbox.corten(["load", "-q", "-i", file.to_str().unwrap()]).ok().prints("Loaded image: localhost/app:latest");
    assert_eq!(id("app"), local);
    // What docker reads in the name goes first.
    sandbox.load(&image("app:latest", "another"));
    assert_ne!(id("app"), local);
}

#[test]
fn what_differs_between_two_images_is_listed() {
    let sandbox = sandbox();
    let first = sandbox.load(&image("app:1", "one"));
    let second =
        image("app:2", "two").layer(vec![Entry::file("etc/.wh.more", 0o644, ""), Entry::file("new", 0o644, "x")]);
    let second = sandbox.load(&second.config("User", serde_json::json!("nobody")));
    let shown = sandbox.corten(["image", "diff", &first, &second]);
    shown.ok().prints("D /etc/more\nC /etc/text (content)\nA /new\nconfig User: null -> \"nobody\"");
    sandbox.corten(["image", "diff", &first, &first]).ok().prints("");
}

#[test]
fn a_check_of_the_store_names_what_is_hurt() {
    let sandbox = sandbox();
    let name = sandbox.load(&image("app:1", "one"));
    sandbox.corten(["image", "verify", &name]).ok().shows("no damage");
    sandbox.corten(["image", "fsck"]).ok().shows("4 blobs").shows("2 layers checked, no damage");
    let layer = sandbox.corten(["inspect", "-f", "{{index .RootFS.Layers 1}}", &name]).ok().text().trim().to_owned();
    std::fs::write(sandbox.root().join("store/blobs/sha256").join(&layer[7..]), "damaged").unwrap();
    sandbox.corten(["image", "verify", &name]).code(1).shows("damaged: blob").shows("needed by app:1");
    sandbox.corten(["image", "fsck"]).code(1).shows("quarantined: blob").shows("needed by app:1");
    sandbox.corten(["save", "-o", "/dev/null", &name]).code(1).complains("is missing");
    sandbox.load(&image("app:1", "one"));
    sandbox.corten(["image", "fsck"]).ok().shows("no damage");
    // What is in quarantine is the user's to look at and to remove.
    let quarantine = sandbox.root().join("store/quarantine");
    for entry in std::fs::read_dir(&quarantine).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    std::fs::remove_dir(&quarantine).unwrap();
}

#[test]
fn what_is_on_the_disk_is_shown_and_given_back() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    sandbox.corten(["run", "--name", "done", &tiny, "sh", "-c", "echo x >/x"]).ok();
    let format = "{{.Type}} {{.TotalCount}} {{.Active}}";
    let rows = sandbox.corten(["system", "df", "--format", format]);
    rows.ok().prints("Images 1 1\nContainers 1 0\nLocal Volumes 0 0\nBuild Cache 0 0");
    sandbox.corten(["system", "df"]).ok().shows("RECLAIMABLE");
    sandbox.corten(["system", "df", "-v"]).ok().shows("SHARED SIZE").shows("tiny").shows("done");
    sandbox.corten(["system", "prune", "-f", "-a"]).ok().shows("Deleted Containers:").shows("untagged: tiny:latest");
    sandbox.corten(["ps", "-aq"]).ok().prints("");
    let trash = sandbox.root().join("store/trash");
    let limit = std::time::Duration::from_secs(20);
    let is_empty = || std::fs::read_dir(&trash).unwrap().next().is_none();
    assert!(corten_testkit::run::eventually(limit, is_empty), "what was removed is deleted in the background");
}
