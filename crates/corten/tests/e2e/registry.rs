//! Images go to registries and come back: docker's commands, words and exit codes.

use corten_testkit::require;
use corten_testkit::{Image, Registry};
use serde_json::Value;

use crate::sandbox;

#[test]
fn an_image_is_pulled_run_pushed_and_pulled_again() {
    let registry = Registry::start();
    let manifest = registry.add_image("team/tiny", "1", &Image::tiny());
    let sandbox = sandbox();
    let name = registry.name("team/tiny:1");
    let pulled = sandbox.corten(["pull", &name]);
    pulled.ok().shows("1: Pulling from team/tiny\n").shows("Download complete").shows("Pull complete");
    pulled.shows(&format!("Digest: {manifest}\nStatus: Downloaded newer image for {name}\n{name}\n"));
    sandbox.corten(["pull", &name]).ok().shows(&format!("Status: Image is up to date for {name}"));
    sandbox.corten(["pull", "-q", &name]).ok().prints(&name);
    sandbox
        .corten(["run", "--rm", "--network", "none", &name, "echo", "from a registry"])
        .ok()
        .prints("from a registry");
    let copy = registry.name("other/tiny:2");
    sandbox.corten(["tag", &name, &copy]).ok();
    let pushed = sandbox.corten(["push", &copy]);
    pushed.ok().shows(&format!("The push refers to repository [{}]", registry.name("other/tiny")));
    pushed.shows(&format!("2: digest: {manifest} size: "));
    assert_eq!(registry.manifest("other/tiny", "2"), registry.manifest("team/tiny", "1"));
    sandbox
        .corten(["push", &registry.name("nothing:1")])
        .code(1)
        .complains("an image does not exist locally with the tag");
}

#[test]
fn run_pulls_what_is_missing_and_says_so_on_standard_error() {
    let registry = Registry::start();
    registry.add_image("tiny", "1", &Image::tiny());
    let sandbox = sandbox();
    let name = registry.name("tiny:1");
    let run = |pull: &str| sandbox.corten(["run", "--rm", "--network", "none", "--pull", pull, &name, "echo", "ran"]);
    run("never").code(125).complains("there is no image");
    let first = run("missing");
    first.ok().prints("ran").complains(&format!("Unable to find image '{name}' locally"));
    first.complains("1: Pulling from tiny").complains("Status: Downloaded newer image");
    let second = run("missing");
    assert_eq!(second.ok().stderr, "");
    run("always").ok().prints("ran").complains("Status: Image is up to date");
    let missing = registry.name("nothing:1");
    sandbox.corten(["run", "--rm", &missing]).code(125).complains("manifest unknown");
}

#[test]
fn every_tag_comes_with_one_command_and_goes_with_one() {
    let (from, to) = (Registry::start(), Registry::start());
    for tag in ["1", "2", "3"] {
        from.add_image("app", tag, &Image::tiny().config("Labels", serde_json::json!({"tag": tag})));
    }
    let sandbox = sandbox();
    sandbox
        .corten(["pull", "--all-tags", &from.name("app")])
        .ok()
        .shows("1: Pulling from app")
        .shows("3: Pulling from app");
    sandbox.corten(["pull", "-a", &from.name("app:1")]).code(1).complains("tag can't be used with --all-tags/-a");
    for tag in ["1", "2"] {
        sandbox.corten(["tag", &from.name(&format!("app:{tag}")), &to.name(&format!("copy:{tag}"))]).ok();
    }
    sandbox.corten(["push", "-a", &to.name("copy")]).ok().shows("1: digest: sha256:").shows("2: digest: sha256:");
    assert!(to.manifest("copy", "2").is_some() && to.manifest("copy", "3").is_none());
}

#[test]
fn programs_read_progress_as_json() {
    let registry = Registry::start();
    registry.add_image("tiny", "1", &Image::tiny());
    let sandbox = sandbox();
    let pulled = sandbox.corten(["pull", "--progress", "json", &registry.name("tiny:1")]);
    let lines: Vec<Value> = pulled.ok().stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.iter().any(|line| line["status"] == "Downloading" && line["progressDetail"]["total"].is_u64()));
    assert!(lines.iter().any(|line| line["status"].as_str().is_some_and(|text| text.starts_with("Digest: sha256:"))));
    sandbox.corten(["pull", "--progress", "loud", "x"]).code(1).complains("invalid progress mode");
}

#[test]
fn a_login_is_kept_used_and_forgotten() {
    let registry = Registry::start();
    registry.add_image("tiny", "1", &Image::tiny());
    registry.hook(|request, _| {
        let known = request.header("authorization") == Some("Basic bWU6c2VjcmV0");
        let refusal = corten_testkit::registry::Reply::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"x\"");
        (!known).then_some(refusal)
    });
    let sandbox = sandbox();
    let (host, name) = (registry.host(), registry.name("tiny:1"));
    sandbox.corten(["pull", &name]).code(1).complains(&format!("`corten login {host}`"));
    let wrong = sandbox.corten(["login", "-u", "me", "-p", "wrong", &host]);
    wrong.code(1).complains("Using --password via the CLI is insecure").complains("incorrect username or password");
    let login = sandbox.corten_with_input(["login", "-u", "me", "--password-stdin", &host], b"secret\n");
    login.ok().prints("Login Succeeded").complains("stored unencrypted in");
    sandbox.corten(["pull", &name]).ok();
    sandbox.corten(["logout", &host]).ok().prints(&format!("Removing login credentials for {host}"));
    sandbox.corten(["logout", &host]).ok().prints(&format!("Not logged in to {host}"));
    sandbox.corten(["pull", &name]).code(1);
    sandbox.corten(["login", "--password-stdin", &host]).code(1).complains("Must provide --username");
}

#[test]
fn fifty_pulls_of_one_layer_at_once_fetch_it_once() {
    require!(std::env::var_os("CORTEN_TEST_SLOW").is_none(), "too slow on an emulated machine");
    let registry = Registry::start();
    registry.add_image("tiny", "1", &Image::tiny());
    let sandbox = sandbox();
    let name = registry.name("tiny:1");
    // Started before any ends: processes of their own, as fifty users would.
    let mut pulls: Vec<_> = (0..50)
        .map(|_| {
            let mut command = sandbox.corten_command(["pull", "-q", &name]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for pull in pulls.drain(..) {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let manifest: Value = serde_json::from_slice(&registry.manifest("tiny", "1").unwrap().1).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(registry.count(&format!("GET /v2/tiny/blobs/{layer}")), 1);
}

#[test]
fn a_pull_that_is_killed_goes_on_where_it_was() {
    let registry = Registry::start();
    registry.add_image("tiny", "1", &Image::tiny());
    let manifest: Value = serde_json::from_slice(&registry.manifest("tiny", "1").unwrap().1).unwrap();
    let (layer, size) =
        (manifest["layers"][0]["digest"].as_str().unwrap().to_owned(), manifest["layers"][0]["size"].as_u64().unwrap());
    let sandbox = sandbox();
    let name = registry.name("tiny:1");
    let (reached, at) = std::sync::mpsc::channel();
    let held = std::sync::Mutex::new(Some(reached));
    let wanted = layer.clone();
    registry.hook(move |request, own| {
        let is_layer = request.method == "GET" && request.path.ends_with(&wanted);
        let reached = held.lock().unwrap().take_if(|_| is_layer)?;
        let reply = own();
        let half = reply.body.len() / 2;
        // Half of it, and then nothing more: the announced length never comes.
        let half = corten_testkit::registry::Reply {
            length: Some(reply.body.len()),
            body: reply.body[..half].to_vec(),
            ..reply
        };
        reached.send(()).ok();
        Some(half)
    });
    let mut pull = sandbox.corten_command(["pull", &name]).stdout(std::process::Stdio::null()).spawn().unwrap();
    at.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    let ingest = sandbox.root().join("store/ingest");
    let has_half = || {
        let entries = std::fs::read_dir(&ingest).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).any(|file| file.len() >= size / 2)
    };
    assert!(corten_testkit::run::eventually(std::time::Duration::from_secs(60), has_half));
    pull.kill().unwrap();
    pull.wait().unwrap();
    registry.unhook();
    registry.forget_requests();
    sandbox.corten(["pull", &name]).ok();
    assert!(registry.blob_bytes_sent() < size / 2 + 20_000, "{} of {size}", registry.blob_bytes_sent());
}

#[test]
fn an_image_is_copied_between_registries_directories_and_the_store_byte_for_byte() {
    let (from, to) = (Registry::start(), Registry::start());
    let manifest = from.add_image("app", "1", &Image::tiny());
    let sandbox = sandbox();
    let docker = |registry: &Registry, name: &str| format!("docker://{}", registry.name(name));
    let steps = [
        (docker(&from, "app:1"), "oci:layout:one".to_owned()),
        ("oci:layout:one".to_owned(), "dir:plain".to_owned()),
        ("dir:plain".to_owned(), format!("store:{}", to.name("kept:1"))),
        (format!("store:{}", to.name("kept:1")), docker(&to, "copy:2")),
        (docker(&to, "copy:2"), docker(&from, "back:3")),
    ];
    for (source, destination) in &steps {
        sandbox.corten(["copy", source, destination]).ok().shows(&format!("Digest: {manifest}"));
    }
    assert_eq!(from.manifest("back", "3"), from.manifest("app", "1"));
    sandbox.corten(["run", "--rm", "--network", "none", &to.name("kept:1"), "echo", "copied"]).ok().prints("copied");
    // Archives, there and back, and what peers read of them.
    let steps = [
        (docker(&from, "app:1"), "oci-archive:app.oci:one".to_owned()),
        ("oci-archive:app.oci:one".to_owned(), docker(&to, "from:oci")),
        (docker(&from, "app:1"), "docker-archive:app.tar:app:one".to_owned()),
        ("docker-archive:app.tar:app:one".to_owned(), docker(&to, "from:docker")),
    ];
    for (source, destination) in &steps {
        sandbox.corten(["copy", source, destination]).ok().shows(&format!("Digest: {manifest}"));
    }
    assert_eq!(to.manifest("from", "oci"), from.manifest("app", "1"));
    assert_eq!(to.manifest("from", "docker"), from.manifest("app", "1"));
    sandbox.corten(["load", "-i", "app.tar"]).ok().shows("Loaded image");
    sandbox.corten(["copy", "--all", "oci:layout:one", "docker-archive:x.tar"]).code(1).complains("one platform");
    assert!(!sandbox.work().join("x.tar").exists());
    assert!(std::fs::read_dir(sandbox.root().join("store/ingest")).unwrap().next().is_none(), "nothing stays behind");
    sandbox.corten(["copy", "app", "dir:x"]).code(1).complains("says not where it is");
    sandbox.corten(["copy", "oci:layout:none", "dir:x"]).code(1).complains("there is no image `none`");
}

#[test]
fn files_are_kept_in_a_registry_and_attached_to_images() {
    let registry = Registry::start();
    let image = registry.add_image("app", "1", &Image::tiny());
    let sandbox = sandbox();
    std::fs::write(sandbox.work().join("notes.txt"), "read me").unwrap();
    let name = registry.name("notes:1");
    sandbox.corten(["artifact", "push", "--artifact-type", "application/x-notes", &name, "notes.txt:text/plain"]).ok();
    sandbox.corten(["artifact", "pull", "-o", "there", &name]).ok().shows("notes.txt");
    assert_eq!(std::fs::read_to_string(sandbox.work().join("there/notes.txt")).unwrap(), "read me");
    sandbox.corten(["artifact", "pull", "-o", "there", &name]).code(1).complains("already").complains("--overwrite");
    for fallback in [false, true] {
        if fallback {
            registry.without_referrers();
        }
        let app = registry.name("app:1");
        let kind = if fallback { "application/x-second" } else { "application/x-first" };
        sandbox.corten(["artifact", "attach", "--artifact-type", kind, &app, "notes.txt"]).ok();
        sandbox.corten(["artifact", "ls", "--artifact-type", kind, &app]).ok().shows(kind).shows("sha256:");
    }
    assert!(registry.manifest("app", &image.replace(':', "-")).is_some(), "the tag that stands in for the list");
    // A name that leads out of the directory is refused.
    let (_, mut manifest) = registry.manifest("notes", "1").unwrap();
    manifest = String::from_utf8(manifest).unwrap().replace("notes.txt", "../evil.txt").into_bytes();
    registry.add_manifest("notes", "2", "application/vnd.oci.image.manifest.v1+json", &manifest);
    let evil = registry.name("notes:2");
    sandbox.corten(["artifact", "pull", "-o", "there", &evil]).code(1).complains("leads out of the directory");
    assert!(!sandbox.work().join("evil.txt").exists());
}

#[test]
fn a_list_of_manifests_is_made_annotated_shown_and_pushed() {
    let registry = Registry::start();
    registry.add_image("one", "1", &Image::tiny());
    registry.add_image("two", "1", &Image::tiny().config("Labels", serde_json::json!({"for": "arm"})));
    let sandbox = sandbox();
    let (list, one, two) = (registry.name("both:1"), registry.name("one:1"), registry.name("two:1"));
    sandbox.corten(["manifest", "create", &list, &one, &two]).ok().prints(&format!("Created manifest list {list}"));
    sandbox.corten(["manifest", "create", &list, &one]).code(1).complains("--amend");
    sandbox.corten(["manifest", "annotate", "--arch", "arm64", "--variant", "v8", &list, &two]).ok();
    let shown: Value = serde_json::from_str(sandbox.corten(["manifest", "inspect", &list]).ok().text()).unwrap();
    assert_eq!(shown["manifests"][1]["platform"]["architecture"], "arm64");
    let digest = sandbox.corten(["manifest", "push", "--purge", &list]);
    assert_eq!(digest.ok().text(), registry.manifest("both", "1").unwrap().0);
    sandbox.corten(["pull", "--platform", "linux/arm64", &list]).ok();
    sandbox.corten(["manifest", "rm", &list]).code(1).complains("No such manifest");
}

#[test]
fn a_search_shows_docker_s_table_or_says_that_there_is_none() {
    let registry = Registry::start();
    let sandbox = sandbox();
    let term = registry.name("app");
    sandbox.corten(["search", &term]).code(1).complains("offers no search");
    registry.hook(|request, _| {
        let results =
            r#"{"results":[{"name":"team/app","description":"It works","star_count":7,"is_official":false}]}"#;
        request.path.starts_with("/v1/search?q=app&n=25").then(|| corten_testkit::registry::Reply::new(200, results))
    });
    sandbox.corten(["search", &term]).ok().shows("NAME").shows("team/app").shows("It works");
}

#[test]
fn an_unsigned_image_is_refused_by_name_where_the_policy_asks() {
    let registry = Registry::start();
    registry.add_image("app", "1", &Image::tiny());
    let sandbox = sandbox();
    let directory = sandbox.path().join("home/.config/corten");
    std::fs::create_dir_all(&directory).unwrap();
    let rule = format!("[[rule]]\nprefix = \"{}\"\nrequire = \"never\"\n", registry.host());
    std::fs::write(directory.join("policy.toml"), rule).unwrap();
    sandbox.corten(["pull", &registry.name("app:1")]).code(1).complains("the policy refuses every image");
    std::fs::write(directory.join("policy.toml"), "[[rule]]\nprefix = 1").unwrap();
    sandbox.corten(["pull", &registry.name("app:1")]).code(1).complains("policy.toml");
}

#[test]
fn a_short_name_means_an_alias_or_the_first_searched_registry_that_has_it() {
    let (first, second) = (Registry::start(), Registry::start());
    second.add_image("tiny", "1", &Image::tiny());
    second.add_image("team/tool", "2", &Image::tiny());
    let sandbox = sandbox();
    let directory = sandbox.path().join("home/.config/corten");
    std::fs::create_dir_all(&directory).unwrap();
    let conf = format!(
        "unqualified-search-registries = [\"{}\", \"{}\"]\n[aliases]\n\"tool\" = \"{}\"\n",
        first.host(),
        second.host(),
        second.name("team/tool")
    );
    std::fs::write(directory.join("registries.conf"), conf).unwrap();
    sandbox.corten(["pull", "-q", "tiny:1"]).ok().prints(&second.name("tiny:1"));
    assert!(first.count("/v2/tiny/manifests/1") > 0, "asked first");
    // `run` goes on under the short name.
    sandbox.corten(["run", "--rm", "--network", "none", "tool:2", "echo", "a tool"]).ok().prints("a tool");
    assert_eq!(first.count("tool"), 0, "an alias is one place");
    sandbox
        .corten(["run", "--rm", "--network", "none", "--pull", "never", "tool:2", "echo", "kept"])
        .ok()
        .prints("kept");
    sandbox.corten(["pull", "nothing:1"]).code(1).complains("manifest unknown");
    // A blocked registry is asked nothing.
    let blocked = format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", second.host());
    std::fs::write(directory.join("registries.conf"), blocked).unwrap();
    second.forget_requests();
    sandbox.corten(["pull", &second.name("tiny:1")]).code(1).complains("is blocked");
    assert!(second.requests().is_empty());
}

#[test]
fn a_push_compresses_what_is_plain_here_and_leaves_the_rest() {
    let registry = Registry::start();
    let sandbox = sandbox();
    let local = sandbox.load(&Image::tiny());
    let name = registry.name("app:plain");
    sandbox.corten(["tag", &local, &name]).ok();
    sandbox.corten(["push", &name]).ok();
    let types = |tag: &str| {
        let (_, manifest) = registry.manifest("app", tag).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["mediaType"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let plain = types("plain");
    assert!(plain.iter().all(|kind| kind == "application/vnd.oci.image.layer.v1.tar"), "{plain:?}");
    for format in ["gzip", "zstd"] {
        let name = registry.name(&format!("app:{format}"));
        sandbox.corten(["tag", &local, &name]).ok();
        sandbox.corten(["push", "--compression-format", format, &name]).ok();
        assert!(types(format).iter().all(|kind| kind.ends_with(&format!("+{format}"))), "{:?}", types(format));
        // What is here stays what it was; what is there is the same image.
        let before = sandbox.corten(["inspect", "-f", "{{.Id}} {{.RootFS.Layers}}", &local]).ok().text().to_owned();
        sandbox.corten(["rmi", &name]).ok();
        sandbox.corten(["pull", "-q", &name]).ok();
        sandbox.corten(["inspect", "-f", "{{.Id}} {{.RootFS.Layers}}", &name]).ok().prints(before.trim());
        sandbox.corten(["run", "--rm", "--network", "none", &name, "echo", "packed"]).ok().prints("packed");
        // Compressed here, it goes as it is, whatever is asked for.
        let again = registry.name(&format!("again:{format}"));
        sandbox.corten(["tag", &name, &again]).ok();
        sandbox.corten(["push", "--compression-format", "gzip", &again]).ok();
        assert_eq!(registry.manifest("again", format), registry.manifest("app", format));
    }
    sandbox.corten(["push", "--compression-format", "lz4", &name]).code(1).complains("`gzip` and `zstd`");
}
