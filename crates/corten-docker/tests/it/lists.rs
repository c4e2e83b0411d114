//! `ps` and `images` against what docker 28.5 printed for the same objects.

use std::collections::BTreeMap;

use corten_docker::containers::{self, FILTERS, FILTERS_LATER, Selection};
use corten_docker::filter::Filters;
use corten_docker::images;
use corten_engine::{Container, State};

use crate::{IMAGE_ID, exited, image, now, running};

fn ps(format: Option<&str>, quiet: bool, no_trunc: bool) -> String {
    let view = containers::View { format: format.map(str::to_owned), quiet, no_trunc, ..containers::View::default() };
    containers::list(&[running(), exited()], &view, now()).unwrap()
}

#[test]
fn ps_has_docker_s_columns() {
    assert_eq!(
        ps(None, false, false),
        "\
CONTAINER ID   IMAGE               COMMAND                  CREATED         STATUS                     PORTS     NAMES
1177d430a785   localhost/busybox   \"sleep 1000\"             2 seconds ago   Up 2 seconds                         capt2
0f8cf455ab84   localhost/busybox   \"sh -c 'echo hi; exi…\"   2 seconds ago   Exited (3) 2 seconds ago             capt1
"
    );
    assert_eq!(ps(None, true, false), "1177d430a785\n0f8cf455ab84\n");
    assert!(ps(None, false, true).contains("\"sh -c 'echo hi; exit 3'\""));
}

#[test]
fn ps_takes_docker_s_formats() {
    assert_eq!(
        ps(Some("json"), false, false).lines().last().unwrap().replace("2 seconds", "1 second"),
        "{\"Command\":\"\\\"sh -c 'echo hi; exi…\\\"\",\"CreatedAt\":\"2026-11-21 10:46:32 +0000 UTC\",\"ID\":\"0f8cf455ab84\",\
         \"Image\":\"localhost/busybox\",\"Labels\":\"a=b\",\"LocalVolumes\":\"0\",\"Mounts\":\"/tmp\",\"Names\":\"capt1\",\
         \"Networks\":\"none\",\"Platform\":null,\"Ports\":\"\",\"RunningFor\":\"1 second ago\",\"Size\":\"0B\",\
         \"State\":\"exited\",\"Status\":\"Exited (3) 1 second ago\"}"
    );
    assert_eq!(
        ps(Some("table {{.Names}}\\t{{.Label \"a\"}}\\t{{.Mounts}}\\t{{.CreatedAt}}"), false, false),
        "\
NAMES     a         MOUNTS    CREATED AT
capt2                         2026-11-21 10:46:32 +0000 UTC
capt1     b         /tmp      2026-11-21 10:46:32 +0000 UTC
"
    );
    let view = containers::View { format: Some("{{.Nope}}".to_owned()), ..containers::View::default() };
    let error = containers::list(&[exited()], &view, now()).unwrap_err();
    assert_eq!(
        error.message(),
        "template parsing error: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type \
         *formatter.ContainerContext"
    );
}

fn in_state(state: State, name: &str) -> Container {
    let mut container = exited();
    container.life.state = state;
    container.config.name = name.to_owned();
    container
}

#[test]
fn every_state_has_docker_s_words() {
    let mut never_started = in_state(State::Exited, "x");
    never_started.life.started_at.clear();
    for (container, status) in [
        (running(), "Up 2 seconds"),
        (in_state(State::Paused, "x"), "Up 2 seconds (Paused)"),
        (in_state(State::Restarting, "x"), "Restarting (3) 2 seconds ago"),
        (in_state(State::Created, "x"), "Created"),
        (in_state(State::Starting, "x"), "Created"),
        (in_state(State::Removing, "x"), "Removal In Progress"),
        (in_state(State::Dead, "x"), "Dead"),
        (exited(), "Exited (3) 2 seconds ago"),
        (never_started, "Created"),
    ] {
        assert_eq!(containers::status(&container, now()), status);
    }
}

fn selected(filters: &[&str], all: bool, last: Option<usize>) -> Vec<String> {
    let words: Vec<String> = filters.iter().map(|word| (*word).to_owned()).collect();
    let filters = Filters::parse(&words, &FILTERS, &FILTERS_LATER).unwrap();
    let selection = Selection { all, last, filters };
    let ids = |name: &str| if name == "f58489" { vec![IMAGE_ID.to_owned()] } else { Vec::new() };
    let shown = selection.select(vec![running(), exited()], ids).unwrap();
    shown.into_iter().map(|container| container.config.name).collect()
}

#[test]
fn filters_choose_as_docker_s_do() {
    assert_eq!(selected(&[], false, None), ["capt2"]);
    assert_eq!(selected(&[], true, None), ["capt2", "capt1"]);
    assert_eq!(selected(&[], false, Some(1)), ["capt2"]);
    for (filter, names) in [
        (&["status=exited"][..], &["capt1"][..]),
        (&["status=exited", "status=running"], &["capt2", "capt1"]),
        (&["exited=3"], &["capt1"]),
        (&["exited=0"], &[]),
        (&["name=apt"], &["capt2", "capt1"]),
        (&["name=^/capt1$"], &["capt1"]),
        (&["name=capt1", "name=capt2"], &["capt2", "capt1"]),
        (&["name=capt1", "status=running"], &[]),
        (&["id=0f8c"], &["capt1"]),
        (&["label=a"], &["capt1"]),
        (&["label=a=c"], &[]),
        (&["ancestor=localhost/busybox"], &["capt2", "capt1"]),
        (&["ancestor=localhost/busybox:latest"], &["capt2", "capt1"]),
        (&["ancestor=f58489"], &["capt2", "capt1"]),
        (&["ancestor=other"], &[]),
        (&["before=capt2"], &["capt1"]),
        (&["since=capt1"], &["capt2"]),
        (&["network=none"], &["capt2", "capt1"]),
        (&["volume=/mnt"], &["capt1"]),
        (&["health=none"], &["capt2", "capt1"]),
    ] {
        assert_eq!(selected(filter, true, None), names, "{filter:?}");
    }
    let wrong = Selection {
        filters: Filters::parse(&["status=bogus".to_owned()], &FILTERS, &FILTERS_LATER).unwrap(),
        ..Selection::default()
    };
    assert_eq!(
        wrong.select(vec![exited()], |_| Vec::new()).unwrap_err().message(),
        "invalid filter 'status=bogus': invalid value for state (bogus): must be one of created, running, paused, \
         restarting, removing, exited, dead"
    );
}

fn listed(view: &images::View) -> String {
    let users: BTreeMap<String, usize> = [(IMAGE_ID.to_owned(), 2)].into();
    images::list(&crate::images(), &users, view, now()).unwrap()
}

#[test]
fn images_have_docker_s_columns() {
    assert_eq!(
        listed(&images::View::default()),
        "\
REPOSITORY          TAG       IMAGE ID       CREATED          SIZE
localhost/big       latest    5309aff72f0e   34 minutes ago   609MB
localhost/busybox   latest    f58489862759   34 minutes ago   1.98MB
"
    );
    assert_eq!(
        listed(&images::View { digests: true, ..images::View::default() }),
        "\
REPOSITORY          TAG       DIGEST    IMAGE ID       CREATED          SIZE
localhost/big       latest    <none>    5309aff72f0e   34 minutes ago   609MB
localhost/busybox   latest    <none>    f58489862759   34 minutes ago   1.98MB
"
    );
    assert_eq!(listed(&images::View { quiet: true, ..images::View::default() }), "5309aff72f0e\nf58489862759\n");
    let json = listed(&images::View { format: Some("json".to_owned()), ..images::View::default() });
    assert_eq!(
        json.lines().last().unwrap(),
        "{\"Containers\":\"2\",\"CreatedAt\":\"2026-11-21 10:11:50 +0000 UTC\",\"CreatedSince\":\"34 minutes ago\",\
         \"Digest\":\"\\u003cnone\\u003e\",\"ID\":\"f58489862759\",\"Repository\":\"localhost/busybox\",\"SharedSize\":\"N/A\",\
         \"Size\":\"1.98MB\",\"Tag\":\"latest\",\"UniqueSize\":\"N/A\",\"VirtualSize\":\"1.982MB\"}"
    );
}

#[test]
fn an_image_that_was_brought_in_twice_is_shown_once() {
    let mut all = crate::images();
    let twin = image(None, IMAGE_ID, "2026-11-21T10:11:50Z", 1);
    all.extend([twin.clone(), twin.clone()]);
    assert_eq!(images::select(all, &Filters::default(), jiff::Timestamp::UNIX_EPOCH).unwrap().len(), 2);
    assert_eq!(
        images::select(vec![twin.clone(), twin], &Filters::default(), jiff::Timestamp::UNIX_EPOCH).unwrap().len(),
        1
    );
}

#[test]
fn images_are_chosen_by_name_and_age() {
    let chosen = |word: &str| {
        let filters = Filters::parse(&[word.to_owned()], &images::FILTERS, &[]).unwrap();
        let mut all = crate::images();
        let id = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";
        all.push(image(None, id, "2020-01-01T00:00:00Z", 1));
        let shown = images::select(all, &filters, jiff::Timestamp::UNIX_EPOCH).unwrap();
        shown.iter().map(|image| image.id.short()).collect::<Vec<_>>().join(" ")
    };
    let (big, busybox, dangling) = ("5309aff72f0e", "f58489862759", "000000000000");
    assert_eq!(chosen("reference=localhost/busybox"), busybox);
    assert_eq!(chosen("reference=localhost/b*"), format!("{big} {busybox}"));
    assert_eq!(chosen("reference=localhost/*:latest"), format!("{big} {busybox}"));
    assert_eq!(chosen("reference=busybox"), "");
    assert_eq!(chosen("dangling=true"), dangling);
    assert_eq!(chosen("dangling=false"), format!("{big} {busybox}"));
    assert_eq!(chosen("before=localhost/big"), format!("{busybox} {dangling}"));
    assert_eq!(chosen("since=f5848986"), big);
}
