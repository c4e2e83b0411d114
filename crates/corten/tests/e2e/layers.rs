//! Layers on the disk and on the host: their forms, and images mounted for looking into them.

use corten_testkit::require;
use corten_testkit::skip::is_root;

use crate::sandbox;

#[test]
fn containers_run_from_either_form_and_info_says_which() {
    for form in ["directory", "erofs"] {
        let sandbox = sandbox();
        require!(
            form == "directory" || is_root() && sandbox.corten(["info"]).stdout.contains("Layer Form: erofs"),
            "no EROFS images here"
        );
        sandbox.corten(["--layer-form", form, "info"]).ok().shows(&format!("Layer Form: {form} (asked for)"));
        sandbox.corten(["--layer-form", form, "run", "--rm", "hello"]).ok();
        // What is there is used as it is, whatever form new layers take.
        sandbox.corten(["run", "--rm", "hello"]).ok();
    }
    sandbox().corten(["--layer-form", "squashfs", "info"]).code(1).complains("`squashfs` is no form of a layer");
}

#[test]
fn an_image_is_mounted_to_look_into_it() {
    let mut sandbox = sandbox();
    require!(!sandbox.is_rootless(), "mounting on the host needs root");
    let tiny = sandbox.tiny();
    let place = sandbox.directory("place");
    let path = place.to_str().unwrap();
    sandbox.corten(["image", "mount", &tiny, path]).ok().prints(path);
    assert!(place.join("bin").is_dir() || place.join("usr").is_dir());
    let refused = std::fs::write(place.join("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    sandbox.corten(["image", "mount"]).ok().shows(path);
    sandbox.corten(["image", "mount", &tiny, path]).code(1).complains("is mounted at");
    sandbox.corten(["rmi", &tiny]).code(1).complains("is used");
    sandbox.corten(["image", "unmount", path]).ok().prints(path);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    sandbox.corten(["image", "unmount", path]).code(1).complains("no image is mounted");

    let own = sandbox.corten(["image", "mount", &tiny]).ok().text().to_owned();
    assert!(std::fs::read_dir(own.trim()).unwrap().count() > 0);
    sandbox.corten(["image", "unmount", "--all"]).ok().shows(own.trim());
    sandbox.corten(["image", "mount"]).ok().prints("");
    assert!(!std::path::Path::new(own.trim()).exists());
}
