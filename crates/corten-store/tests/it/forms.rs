//! The forms that images come in: OCI layouts and archives, several images and platforms, compressed layers.

use std::io::Write;

use corten_store::Source;
use corten_types::ErrorKind;
use serde_json::{Value, json};

use crate::support::{Sandbox, dir, docker_archive, file, sha256, tar};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The blobs of an OCI layout, by hash.
#[derive(Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    fn add(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let (hash, size) = (sha256(&bytes), bytes.len());
        self.0.push((hash.clone(), bytes));
        json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": size})
    }

    /// An image with one layer; its descriptor.
    fn image(&mut self, architecture: &str, plain: &[u8], stored: Vec<u8>, suffix: &str) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(plain))]},
        });
        let config = self.add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let layer = self.add(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), stored);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let mut descriptor = self.add(MANIFEST, manifest.to_string().into_bytes());
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    fn archive(&self, manifests: &[Value]) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        let paths: Vec<String> = self.0.iter().map(|(hash, _)| format!("blobs/sha256/{hash}")).collect();
        let mut members =
            vec![file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", index.as_bytes())];
        members.extend(paths.iter().zip(&self.0).map(|(path, (_, bytes))| file(path, bytes)));
        tar(&members)
    }

    fn write(&self, path: &std::path::Path, manifests: &[Value]) {
        let mut unpack = tar::Archive::new(std::io::Cursor::new(self.archive(manifests)));
        unpack.unpack(path).unwrap();
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// This machine in an index.
fn here() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

#[test]
fn compressed_layers_share_one_directory() {
    let sandbox = Sandbox::new();
    let plain = tar(&[dir("d/", 0o755), file("d/f", &vec![b'x'; 400_000])]);
    let mut layout = Layout::default();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let images = [
        named(layout.image(here(), &plain, gzip(&plain), "+gzip"), "localhost/gz:1"),
        named(layout.image(here(), &plain, zstd, "+zstd"), "localhost/zst:1"),
        named(layout.image(here(), &plain, plain.clone(), ""), "localhost/plain:1"),
    ];
    let archive = layout.archive(&images);
    // The whole archive compressed, as `podman save | gzip` makes it.
    for stream in [archive.clone(), gzip(&archive), zstd::encode_all(archive.as_slice(), 1).unwrap()] {
        let loaded = sandbox.store.load(stream.as_slice()).unwrap();
        let names: Vec<_> = loaded.iter().map(|image| image.references[0].familiar()).collect();
        assert_eq!(names, ["localhost/gz:1", "localhost/zst:1", "localhost/plain:1"]);
    }
    assert_eq!(sandbox.names("layers").len(), 1);
    let image = sandbox.store.resolve("localhost/gz:1").unwrap();
    let manifest = sandbox.store.manifest_bytes(&image).unwrap();
    assert_eq!(format!("sha256:{}", sha256(&manifest)), images[0]["digest"], "manifests are kept byte for byte");
}

#[test]
fn the_platform_of_this_machine_is_chosen() {
    let sandbox = Sandbox::new();
    let (ours, theirs) = (tar(&[file("ours", b"x")]), tar(&[file("theirs", b"x")]));
    let mut layout = Layout::default();
    let platforms = [layout.image("s390x", &theirs, theirs.clone(), ""), layout.image(here(), &ours, ours.clone(), "")];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": platforms}).to_string();
    let index = named(layout.add(INDEX, index.into_bytes()), "1.0");
    let path = sandbox.dir.path().join("layout");
    layout.write(&path, &[index]);
    for text in [format!("oci:{}", path.display()), format!("oci:{}:1.0", path.display())] {
        let image = sandbox.store.import(&Source::parse(&text).unwrap().unwrap()).unwrap();
        assert_eq!(image.config.platform.architecture, here());
        assert!(image.repo_tags.is_empty());
    }
    let missing = Source::parse(&format!("oci:{}:2.0", path.display())).unwrap().unwrap();
    let error = sandbox.store.import(&missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hints()[0].contains("1.0"), "{error:?}");

    let mut foreign = Layout::default();
    let only = foreign.image("s390x", &theirs, theirs.clone(), "");
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [only]}).to_string();
    let index = foreign.add(INDEX, index.into_bytes());
    // Kept for whoever copies or pushes it, and not run by accident.
    let loaded = sandbox.store.load(foreign.archive(std::slice::from_ref(&index)).as_slice()).unwrap();
    assert_eq!(loaded[0].target.to_string(), index["digest"]);
    foreign.write(&sandbox.dir.path().join("foreign"), &[index]);
    let text = format!("oci:{}", sandbox.dir.path().join("foreign").display());
    let error = sandbox.store.import(&Source::parse(&text).unwrap().unwrap()).unwrap_err();
    assert!(error.one_line().contains(&format!("no image for linux/{}", here())), "{error:?}");
    assert!(error.hints()[0].contains("linux/s390x"));
}

#[test]
fn layouts_that_lie_are_refused() {
    let plain = tar(&[file("f", b"x")]);
    let load = |change: &dyn Fn(&mut Layout, &mut Value)| {
        let mut layout = Layout::default();
        let mut descriptor = layout.image(here(), &plain, plain.clone(), "");
        change(&mut layout, &mut descriptor);
        let sandbox = Sandbox::new();
        let error = sandbox.store.load(layout.archive(&[descriptor]).as_slice()).unwrap_err();
        assert!(sandbox.names("blobs/sha256").is_empty() && sandbox.store.images().unwrap().is_empty());
        error.one_line()
    };
    // A blob whose content is not its name.
    let said = load(&|layout, _| layout.0[1].1[600] ^= 1);
    assert!(said.contains("expected sha256:"), "{said}");
    let said = load(&|_, descriptor| descriptor["size"] = json!(7));
    assert!(said.contains("where its descriptor says 7"), "{said}");
    let said = load(&|_, descriptor| descriptor["digest"] = json!("sha256:../../../../etc/passwd"));
    assert!(said.contains("lower-case hexadecimal"), "{said}");
    let said = load(&|_, descriptor| descriptor["mediaType"] = json!(INDEX));
    assert!(said.contains("is announced as"), "{said}");
    let said = load(&|layout, _| drop(layout.0.remove(1)));
    assert!(said.contains("is missing"), "{said}");
    // Indexes within indexes without end.
    let said = load(&|layout, descriptor| {
        for _ in 0..6 {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}).to_string();
            *descriptor = layout.add(INDEX, index.into_bytes());
        }
    });
    assert!(said.contains("deeper than 3"), "{said}");
    // An artifact is no image.
    let said = load(&|layout, descriptor| {
        let config = layout.add("application/vnd.oci.empty.v1+json", b"{}".to_vec());
        let blob = layout.add("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"x".to_vec());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [blob]});
        *descriptor = layout.add(MANIFEST, manifest.to_string().into_bytes());
    });
    assert!(said.contains("helm.chart"), "{said}");
}

#[test]
fn docker_archives_of_odd_shapes() {
    let sandbox = Sandbox::new();
    let error = sandbox.store.load(&b"not an archive at all"[..]).unwrap_err();
    assert!(error.one_line().contains("cannot load the archive"), "{error:?}");
    let error = sandbox.store.load(tar(&[file("etc/passwd", b"x")]).as_slice()).unwrap_err();
    assert!(error.one_line().contains("it holds no image"), "{error:?}");
    let escaping = json!([{"Config": "../../etc/passwd", "RepoTags": null, "Layers": []}]).to_string();
    let error = sandbox.store.load(tar(&[file("manifest.json", escaping.as_bytes())]).as_slice()).unwrap_err();
    assert!(error.one_line().contains("is not in the archive"), "{error:?}");
    // An image without a layer has a root nevertheless.
    let loaded = sandbox.store.load(docker_archive("scratch-like", &[]).as_slice()).unwrap();
    let image = sandbox.store.image(&loaded[0].id).unwrap();
    let request = corten_store::PrepareRequest { key: "k", base: corten_store::Base::Image(&image), throwaway: true };
    let snapshot = sandbox.store.prepare(request).unwrap();
    assert!(snapshot.overlay.lower[0].is_dir());
    for key in ["", ".", "..", "a/b", ".hidden", "a\n"] {
        assert!(sandbox.store.prepare(corten_store::PrepareRequest { key, ..request }).is_err(), "{key:?}");
    }
}

#[test]
fn names_move_and_several_archives_live_together() {
    let sandbox = Sandbox::new();
    let one = tar(&[file("one", b"1")]);
    let two = tar(&[file("two", b"2")]);
    let first = sandbox.store.load(docker_archive("app", &[one]).as_slice()).unwrap().remove(0);
    let second = sandbox.store.load(docker_archive("app", &[two]).as_slice()).unwrap().remove(0);
    assert_eq!(sandbox.store.resolve("app").unwrap().id, second.id);
    assert!(sandbox.store.image(&first.id).unwrap().repo_tags.is_empty(), "the name moved");
    let reference = corten_types::Reference::parse("other/name:2").unwrap();
    sandbox.store.tag(&first.id, &reference).unwrap();
    assert_eq!(sandbox.store.resolve("other/name:2").unwrap().id, first.id);
    sandbox.store.tag(&second.id, &reference).unwrap();
    let error = sandbox.store.remove(&second.id.short(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let removed = sandbox.store.remove("other/name:2", false).unwrap();
    assert!(removed.deleted.is_none() && removed.untagged.len() == 1);
    assert!(sandbox.store.remove(&second.id.short(), true).unwrap().deleted.is_some());
    assert_eq!(sandbox.store.resolve("app").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(sandbox.store.images().unwrap().len(), 1);
}

/// Frames that a reader passes over, and a table of contents behind the tar, as zstd:chunked and eStargz have them.
#[test]
fn chunked_layers_are_the_layers_that_they_contain() {
    let content: Vec<u8> = (0..300_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let plain = tar(&[dir("d/", 0o755), file("d/f", &content), file("d/g", b"g")]);
    let skippable = |bytes: &[u8]| {
        let mut frame = vec![0x50, 0x2a, 0x4d, 0x18];
        frame.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        frame.extend(bytes);
        frame
    };
    // A frame a piece, the manifest and its footer in skippable frames at the end.
    let mut chunked = skippable(b"start");
    for piece in plain.chunks(70_000) {
        chunked.extend(zstd::encode_all(piece, 3).unwrap());
    }
    chunked.extend(skippable(b"manifest"));
    chunked.extend(skippable(&[0; 64]));
    // A member a piece; the table of contents is a file of the tar itself, and the footer an empty member.
    let table = br#"{"version":1,"entries":[]}"#;
    let with_table = tar(&[dir("d/", 0o755), file("d/f", &content), file("stargz.index.json", table)]);
    let mut stargz = Vec::new();
    for piece in with_table.chunks(70_000) {
        stargz.extend(gzip(piece));
    }
    stargz.extend(gzip(b""));
    for form in crate::support::forms() {
        let sandbox = Sandbox::of_form(form);
        let mut layout = Layout::default();
        let images = [
            named(layout.image(here(), &plain, chunked.clone(), "+zstd"), "localhost/chunked:1"),
            named(layout.image(here(), &with_table, stargz.clone(), "+gzip"), "localhost/stargz:1"),
        ];
        sandbox.store.load(layout.archive(&images).as_slice()).unwrap();
        let layers = sandbox.names("layers");
        assert_eq!(layers.len(), 2);
        for layer in layers {
            assert_eq!(std::fs::read(sandbox.tree(&layer).join("d/f")).unwrap(), content, "{form:?}");
        }
    }
}
