//! -u: who the program is.

use corten_testkit::{Image, require};
use serde_json::json;

use crate::sandbox;

#[test]
fn users_and_groups_by_name_and_number() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "one id alone without subordinate ids");
    let tiny = sandbox.tiny();
    let id =
        |user: &str| sandbox.corten(["run", "--rm", "-u", user, &tiny, "sh", "-c", "id -u; id -g; id -G; echo $HOME"]);
    id("alice").ok().prints("1000\n1000\n1000 50\n/home/alice");
    id("1000:0").ok().prints("1000\n0\n0\n/home/alice");
    id("alice:staff").ok().prints("1000\n50\n50\n/home/alice");
    id("12345").ok().prints("12345\n0\n0\n/");
    id("12345:54321").ok().prints("12345\n54321\n54321\n/");
}

#[test]
fn hostile_user_words_never_become_root() {
    let mut sandbox = sandbox();
    let tiny = sandbox.tiny();
    for user in ["-1", "4294967295", "4294967296", "4294967296:0", "18446744073709551616", "0x0", "1000:", "a\nb"] {
        let finished = sandbox.corten(["run", "--rm", "--user", user, &tiny, "id", "-u"]);
        assert!(finished.code == 125 || finished.text() == "1000", "{user:?}\n{}", finished.transcript());
    }
}

#[test]
fn the_images_user_holds_and_the_bounding_set_is_dockers() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "one id alone without subordinate ids");
    let image = sandbox.load(&Image::tiny().config("User", json!("alice")).config("WorkingDir", json!("/home/alice")));
    let shown = sandbox.corten(["run", "--rm", &image, "sh", "-c", "id -u; pwd; grep Cap /proc/self/status"]);
    shown.ok().shows("1000\n/home/alice\n");
    // An ordinary user has none in force, and nothing to inherit.
    shown.shows("CapInh:\t0000000000000000").shows("CapEff:\t0000000000000000").shows("CapBnd:\t00000000a80425fb");
    shown.shows("CapAmb:\t0000000000000000");
    sandbox.tiny();
}
