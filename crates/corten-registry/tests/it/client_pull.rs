//! Pulls from a well-behaved registry.

use corten_registry::client::{Client, Options, Platforms, Registries, Split};
use corten_testkit::registry::Reply;
use corten_testkit::tar::Entry;
use corten_testkit::{Image, Registry};
use corten_types::{ErrorKind, Reference};

use crate::support::{client, image, open, options, pull, pull_with, size, store, text};

#[test]
fn an_image_comes_whole_and_the_second_pull_fetches_nothing() {
    let registry = Registry::start();
    let manifest = registry.add_image("team/app", "1", &image(1 << 20));
    let (_directory, store) = store();
    let name = registry.name("team/app:1");
    let pulled = pull(&client(), &store, &name).unwrap();
    assert!(!pulled.up_to_date && pulled.digest.to_string() == manifest);
    let stored = store.resolve(&name).unwrap();
    assert_eq!((stored.layers.len(), stored.manifest.to_string()), (2, manifest.clone()));
    assert_eq!(stored.repo_digests[0].to_string(), format!("{}@{manifest}", registry.name("team/app")));
    registry.forget_requests();
    assert!(pull(&client(), &store, &name).unwrap().up_to_date);
    assert_eq!((registry.blob_bytes_sent(), registry.count("GET /v2/team/app/")), (0, 0), "a HEAD is enough");
    // By digest, too.
    let by_digest = format!("{}@{manifest}", registry.name("team/app"));
    assert!(pull(&client(), &store, &by_digest).unwrap().up_to_date);
}

#[test]
fn a_moved_tag_moves_here_and_shared_layers_are_not_fetched_again() {
    let registry = Registry::start();
    let first = image(1 << 20);
    registry.add_image("app", "1", &first);
    let (_directory, store) = store();
    pull(&client(), &store, &registry.name("app:1")).unwrap();
    registry.forget_requests();
    let second = first.layer(vec![Entry::file("more", 0o644, "more")]);
    let moved = registry.add_image("app", "1", &second);
    assert_eq!(pull(&client(), &store, &registry.name("app:1")).unwrap().digest.to_string(), moved);
    assert!(registry.blob_bytes_sent() < 10_000, "{}", registry.blob_bytes_sent());
    assert_eq!(store.resolve(&registry.name("app:1")).unwrap().layers.len(), 3);
}

#[test]
fn of_an_index_the_image_for_this_machine_comes_or_the_one_asked_for_or_all() {
    let registry = Registry::start();
    let one = |word: &str| Image::new("app:1", vec![Entry::file("for", 0o644, word)]);
    let here = corten_store::import::platform::this_machine();
    let here = format!("linux/{here}");
    let index = registry.add_index("app", "1", &[("linux/riscv64", &one("riscv")), (&here, &one("here"))]);
    let (_directory, store) = store();
    let name = registry.name("app:1");
    assert_eq!(pull(&client(), &store, &name).unwrap().digest.to_string(), index);
    assert_eq!(store.target(&name).unwrap().digest.to_string(), index);
    assert_eq!(store.images_of(&store.target(&name).unwrap().digest).unwrap().len(), 1);
    let all = pull_with(&client(), &store, &name, &Platforms::All).unwrap();
    assert!(!all.up_to_date);
    assert_eq!(store.images_of(&all.digest).unwrap().len(), 2);
    assert!(pull_with(&client(), &store, &name, &Platforms::All).unwrap().up_to_date);
    let wanted = corten_store::import::platform::parse("linux/s390x").unwrap();
    let error = pull_with(&client(), &store, &name, &Platforms::One(wanted)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(text(&error).contains("no matching manifest for linux/s390x"), "{error:?}");
    assert!(text(&error).contains("linux/riscv64"), "{error:?}");
}

#[test]
fn what_is_not_there_is_named() {
    let registry = Registry::start();
    let (_directory, store) = store();
    let error = pull(&client(), &store, &registry.name("nothing:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(text(&error).contains("nothing:1") && text(&error).contains("manifest unknown"), "{error:?}");
}

#[test]
fn schema_1_is_refused_in_words() {
    let registry = Registry::start();
    let old = r#"{"schemaVersion":1,"name":"app","tag":"1","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}"#;
    registry.add_manifest("app", "1", "application/vnd.docker.distribution.manifest.v1+prettyjws", old.as_bytes());
    let (_directory, store) = store();
    let error = pull(&client(), &store, &registry.name("app:1")).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && text(&error).contains("schema 1"), "{error:?}");
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped_in_another_run() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(4 << 20));
    registry.hook(|request, own| {
        // The connection is cut after 3 MiB, and then for good.
        if request.header("range").is_some() {
            return Some(Reply::new(403, ""));
        }
        let reply = own();
        (request.path.contains("/blobs/") && reply.body.len() > 1 << 20)
            .then_some(Reply { cut_after: Some(3 << 20), ..reply })
    });
    let (directory, first) = store();
    let name = registry.name("app:1");
    assert!(pull(&client(), &first, &name).is_err());
    drop(first);
    registry.unhook();
    registry.forget_requests();
    let second = open(directory.path());
    pull(&client(), &second, &name).unwrap();
    assert!(registry.blob_bytes_sent() <= size(&registry, "app", "1") - (3 << 20), "{}", registry.blob_bytes_sent());
    assert_eq!(second.resolve(&name).unwrap().layers.len(), 2);
}

#[test]
fn a_slow_large_layer_comes_in_ranges_beside_each_other() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(8 << 20));
    let split = Split { from_bytes: 1 << 20, range_bytes: 1 << 20, fast_bytes_per_second: u64::MAX };
    let (_directory, store) = store();
    pull(&Client::new(Options { split, ..options() }), &store, &registry.name("app:1")).unwrap();
    assert!(registry.requests().iter().filter(|request| request.header("range").is_some()).count() >= 8);
    assert!(registry.blob_bytes_sent() <= size(&registry, "app", "1"), "{}", registry.blob_bytes_sent());
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_where_it_fails() {
    let (registry, mirror) = (Registry::start(), Registry::start());
    registry.add_image("app", "1", &image(1000));
    let mut registries = Registries::default();
    let conf = format!(
        "[[registry]]\nlocation='{}'\n[[registry.mirror]]\nlocation='{}/cache'",
        registry.host(),
        mirror.host()
    );
    registries.add(&conf, "registries.conf", true).unwrap();
    let client = Client::new(Options { registries, ..options() });
    let name = registry.name("app:1");
    let (_directory, first) = store();
    pull(&client, &first, &name).unwrap();
    assert!(mirror.count("/v2/cache/app/") > 0, "the mirror was asked");
    mirror.add_image("cache/app", "1", &image(1000));
    registry.forget_requests();
    let (_directory, second) = store();
    pull(&client, &second, &name).unwrap();
    assert_eq!(registry.requests().len(), 0, "the mirror has it all");
    assert!(second.resolve(&name).unwrap().repo_tags[0] == Reference::parse(&name).unwrap());
}

#[test]
fn many_pulls_at_once_fetch_a_layer_once() {
    let registry = Registry::start();
    registry.add_image("app", "1", &image(2 << 20));
    let (_directory, store) = store();
    let name = registry.name("app:1");
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| pull(&client(), &store, &name).unwrap());
        }
    });
    let large: usize = registry.requests().iter().filter(|r| r.method == "GET" && r.path.contains("/blobs/")).count();
    assert!(
        registry.blob_bytes_sent() < size(&registry, "app", "1") + 100_000,
        "{} in {large} requests",
        registry.blob_bytes_sent()
    );
    assert_eq!(store.images().unwrap().len(), 1);
}
