//! Pushes: nothing is sent that is there, what broke off goes on, and what arrives is what left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corten_registry::client::Platforms;
use corten_testkit::Registry;
use corten_testkit::registry::Reply;

use crate::support::{client, image, pull, pull_with, push, store, text};

#[test]
fn what_was_pulled_is_pushed_byte_for_byte_and_only_once() {
    let (from, to) = (Registry::start(), Registry::start());
    let manifest = from.add_image("app", "1", &image(1 << 20));
    let (_directory, store) = store();
    let name = from.name("app:1");
    pull(&client(), &store, &name).unwrap();
    let pushed = push(&client(), &store, &name, &to.name("team/app:2")).unwrap();
    assert_eq!(pushed.digest.to_string(), manifest);
    assert_eq!(to.manifest("team/app", "2").unwrap(), from.manifest("app", "1").unwrap());
    to.forget_requests();
    push(&client(), &store, &name, &to.name("team/app:3")).unwrap();
    assert_eq!((to.count("POST"), to.count("PUT")), (0, 1), "the manifest alone");
}

#[test]
fn blobs_of_another_repository_of_the_registry_are_mounted() {
    let registry = Registry::start();
    registry.add_image("first", "1", &image(1 << 20));
    let (_directory, store) = store();
    let name = registry.name("first:1");
    pull(&client(), &store, &name).unwrap();
    // A registry that knows blobs by repository: the second has none.
    registry.hook(|request, _| {
        (request.method == "HEAD" && request.path.contains("/second/blobs/")).then(|| Reply::new(404, ""))
    });
    push(&client(), &store, &name, &registry.name("second:1")).unwrap();
    assert_eq!(registry.count("mount=sha256%3A"), 3);
    assert_eq!(registry.count("from=first"), 3);
    assert_eq!(registry.count("PUT /v2/second/blobs"), 0);
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_the_registry_has_it() {
    let (from, to) = (Registry::start(), Registry::start());
    from.add_image("app", "1", &image(3 << 20));
    let (_directory, store) = store();
    let name = from.name("app:1");
    pull(&client(), &store, &name).unwrap();
    let broken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&broken);
    to.hook(move |request, own| {
        // The first large body is taken in part, and then the registry says that it could not.
        if request.method == "PUT" && request.body.len() > 1 << 20 && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            own();
            return Some(Reply::new(503, ""));
        }
        None
    });
    push(&client(), &store, &name, &to.name("app:1")).unwrap();
    assert_eq!(to.manifest("app", "1").unwrap(), from.manifest("app", "1").unwrap());
    assert!(broken.load(Ordering::SeqCst) >= 1);
}

#[test]
fn an_upload_whose_line_breaks_is_continued_in_a_chunk() {
    let (from, to) = (Registry::start(), Registry::start());
    from.add_image("app", "1", &image(4 << 20));
    let (_directory, store) = store();
    let name = from.name("app:1");
    pull(&client(), &store, &name).unwrap();
    let line = corten_testkit::wire::Line::to(&to.host());
    line.break_up_after(2 << 20);
    // The registry notices the break when it comes to read on; until then it would say that it has nothing.
    let noticed = std::sync::atomic::AtomicBool::new(false);
    to.hook(move |request, own| {
        if request.header("content-length").is_some_and(|length| length.parse() != Ok(request.body.len())) {
            let reply = own();
            noticed.store(true, Ordering::SeqCst);
            return Some(reply);
        }
        while request.method == "GET" && request.path.contains("/uploads/") && !noticed.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        None
    });
    push(&client(), &store, &name, &format!("{}/app:1", line.host())).unwrap();
    assert!(line.broke_up());
    assert_eq!(to.manifest("app", "1"), from.manifest("app", "1"));
    let chunks: Vec<_> = to.requests().into_iter().filter(|request| request.method == "PATCH").collect();
    let start = |range: &str| range.split('-').next().unwrap().parse::<usize>().unwrap();
    assert!(chunks.iter().any(|chunk| start(chunk.header("content-range").unwrap()) > 1 << 20), "went on: {chunks:?}");
}

#[test]
fn a_busy_registry_is_given_the_time_that_it_asks_for_in_the_middle_of_an_upload() {
    let (from, to) = (Registry::start(), Registry::start());
    from.add_image("app", "1", &image(1 << 20));
    let (_directory, store) = store();
    pull(&client(), &store, &from.name("app:1")).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    to.hook(move |request, _| {
        let busy =
            request.method == "PUT" && request.path.contains("/uploads/") && counted.fetch_add(1, Ordering::SeqCst) < 2;
        busy.then(|| Reply::new(429, "").header("Retry-After", "0"))
    });
    push(&client(), &store, &from.name("app:1"), &to.name("app:1")).unwrap();
    assert!(asked.load(Ordering::SeqCst) > 2);
    assert_eq!(to.manifest("app", "1"), from.manifest("app", "1"));
}

#[test]
fn an_index_goes_whole_or_the_one_image_that_is_here() {
    let (from, to) = (Registry::start(), Registry::start());
    let here = format!("linux/{}", corten_store::import::platform::this_machine());
    let one = |size| image(size);
    let index = from.add_index("app", "1", &[(&here, &one(1000)), ("linux/riscv64", &one(2000))]);
    let (_directory, store) = store();
    let name = from.name("app:1");
    pull(&client(), &store, &name).unwrap();
    let pushed = push(&client(), &store, &name, &to.name("part:1")).unwrap();
    let (whole, manifest) = pushed.reduced.unwrap();
    assert_eq!((whole.to_string(), manifest), (index.clone(), pushed.digest));
    pull_with(&client(), &store, &name, &Platforms::All).unwrap();
    let pushed = push(&client(), &store, &name, &to.name("whole:1")).unwrap();
    assert!(pushed.reduced.is_none() && pushed.digest.to_string() == index);
    assert_eq!(to.manifest("whole", "1").unwrap(), from.manifest("app", "1").unwrap());
}

#[test]
fn a_registry_that_stores_something_else_is_caught() {
    let (from, to) = (Registry::start(), Registry::start());
    from.add_image("app", "1", &image(1000));
    let (_directory, store) = store();
    pull(&client(), &store, &from.name("app:1")).unwrap();
    to.hook(|request, own| {
        let wrong = format!("sha256:{}", "0".repeat(64));
        (request.method == "PUT" && request.path.contains("/manifests/")).then(|| {
            own();
            Reply::new(201, "").header("Docker-Content-Digest", wrong)
        })
    });
    let error = push(&client(), &store, &from.name("app:1"), &to.name("app:1")).unwrap_err();
    assert!(text(&error).contains("the registry stored sha256:000"), "{error:?}");
}
