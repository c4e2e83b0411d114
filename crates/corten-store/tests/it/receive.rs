//! Images that come in piece by piece: what a pull does, without a network.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use corten_store::{Base, Kind, NewImageRequest, PrepareRequest, RawDocument, Store, Turn, Unpack};
use corten_types::digest::Algorithm;
use corten_types::image_spec::{Descriptor, Platform};
use corten_types::{Digest, ErrorKind, Reference, Result};
use serde_json::json;

use crate::support::{Sandbox, dir, file, open, sha256, tar};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest = Digest::parse(&format!("sha256:{}", sha256(bytes))).unwrap();
    serde_json::from_value(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})).unwrap()
}

/// An image of one layer as a registry has it.
struct Remote {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Remote {
    fn new(architecture: &str, content: &[u8]) -> Self {
        let plain = tar(&[dir("d/", 0o755), file("d/f", content)]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        let layer = encoder.finish().unwrap();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&plain))]},
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
        })
        .to_string()
        .into_bytes();
        Self { manifest, config, layer }
    }

    fn raw(&self) -> RawDocument<'_> {
        RawDocument { bytes: &self.manifest, media_type: MANIFEST, algorithm: Algorithm::Sha256 }
    }

    /// Brings the parts in; how many bytes of the layer were transferred.
    fn fetch(&self, receiver: &corten_store::Receiver<'_>) -> Result<usize> {
        let config = descriptor(CONFIG, &self.config);
        receiver.put(&config.digest, &self.config)?;
        let Turn::Fetch(mut incoming) = receiver.layer(&descriptor(LAYER, &self.layer))? else { return Ok(0) };
        let rest = &self.layer[usize::try_from(incoming.offset()).unwrap()..];
        for chunk in rest.chunks(10_000) {
            incoming.append(chunk)?;
        }
        incoming.finish()?;
        Ok(rest.len())
    }
}

fn request<'a>(target: RawDocument<'a>, references: &'a [Reference]) -> NewImageRequest<'a> {
    NewImageRequest { target, members: &[], references, unpack: Unpack::Now, attached: false, cause: "pull" }
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn a_layer_is_unpacked_while_it_arrives_and_once_for_many() {
    let sandbox = Sandbox::new();
    let remote = Remote::new("amd64", &noise(3_000_000));
    let fetched = AtomicUsize::new(0);
    let reference = [Reference::parse("registry.example/app:1").unwrap()];
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let store = open(&sandbox.root());
                let pulled = store.receive("pull", |receiver| {
                    fetched.fetch_add(remote.fetch(receiver)?, Ordering::SeqCst);
                    receiver.commit(&request(remote.raw(), &reference))
                });
                assert_eq!(pulled.unwrap().kind, Kind::Image);
            });
        }
    });
    assert_eq!(fetched.load(Ordering::SeqCst), remote.layer.len(), "one transfer for all");
    assert_eq!(sandbox.names("layers").len(), 1);
    for part in ["ingest", "locks", "leases"] {
        assert!(sandbox.names(part).is_empty(), "{part}");
    }
    let image = sandbox.store.resolve("registry.example/app:1").unwrap();
    assert_eq!(image.size, 3_000_000);
    assert_eq!(sandbox.store.manifest_bytes(&image).unwrap(), remote.manifest);
}

#[test]
fn a_transfer_that_broke_off_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    let remote = Remote::new("amd64", &noise(200_000));
    let layer = descriptor(LAYER, &remote.layer);
    let broken = sandbox.store.receive("pull", |receiver| {
        let Turn::Fetch(mut incoming) = receiver.layer(&layer)? else { panic!("nothing is here") };
        incoming.append(&remote.layer[..150_000])?;
        Err::<(), _>(corten_types::Error::new(ErrorKind::Internal, "the line is dead"))
    });
    assert!(broken.is_err());
    assert_eq!(sandbox.names("ingest").len(), 1, "the part stays");
    let store = open(&sandbox.root());
    let transferred = store.receive("pull", |receiver| {
        let transferred = remote.fetch(receiver)?;
        receiver.commit(&request(remote.raw(), &[Reference::parse("app")?]))?;
        Ok(transferred)
    });
    assert_eq!(transferred.unwrap(), remote.layer.len() - 150_000);
    assert!(sandbox.names("ingest").is_empty());
    assert!(store.resolve("app").is_ok());
}

#[test]
fn bytes_that_are_not_what_was_announced_leave_nothing() {
    let sandbox = Sandbox::new();
    let remote = Remote::new("amd64", &noise(200_000));
    let layer = descriptor(LAYER, &remote.layer);
    let mut wrong = remote.layer.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let result = sandbox.store.receive("pull", |receiver| {
        let Turn::Fetch(mut incoming) = receiver.layer(&layer)? else { panic!("nothing is here") };
        incoming.append(&wrong)?;
        assert_eq!(incoming.append(b"more").unwrap_err().kind(), ErrorKind::Corrupt);
        incoming.finish()
    });
    let error = result.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.one_line().contains("expected sha256:"), "{error:?}");
    for part in ["ingest", "locks", "leases", "layers", "blobs/sha256"] {
        assert!(sandbox.names(part).is_empty(), "{part}");
    }
    // The next try succeeds.
    let again = sandbox.store.receive("pull", |receiver| {
        remote.fetch(receiver)?;
        receiver.commit(&request(remote.raw(), &[]))
    });
    assert!(again.is_ok());
}

#[test]
fn an_index_is_what_its_name_points_to() {
    let sandbox = Sandbox::new();
    let (amd, arm) = (Remote::new("amd64", b"amd"), Remote::new("arm64", b"arm"));
    let entry = |remote: &Remote, architecture: &str| {
        let mut entry = serde_json::to_value(descriptor(MANIFEST, &remote.manifest)).unwrap();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let absent = json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 3,
                        "platform": {"os": "linux", "architecture": "s390x"}});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
                       "manifests": [entry(&amd, "amd64"), entry(&arm, "arm64"), absent]})
    .to_string()
    .into_bytes();
    let target = RawDocument { bytes: &index, media_type: INDEX, algorithm: Algorithm::Sha256 };
    let digest = Store::digest_of(Algorithm::Sha256, &index).unwrap();
    let name = Reference::parse("registry.example/app:1").unwrap();
    let references = [name.clone(), name.with_digest(digest)];
    let store = &sandbox.store;
    store
        .receive("pull", |receiver| {
            amd.fetch(receiver)?;
            arm.fetch(receiver)?;
            let members = [amd.raw(), arm.raw()];
            receiver.commit(&NewImageRequest { members: &members, ..request(target, &references) })
        })
        .unwrap();
    let of = |architecture: &str| {
        let platform = Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() };
        store.resolve_platform("registry.example/app:1", Some(&platform))
    };
    let image = of("arm64").unwrap();
    assert_eq!((image.config.platform.architecture.as_str(), image.target), ("arm64", digest));
    assert_eq!(image.repo_digests, [name.with_digest(digest)]);
    let error = of("s390x").unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.hints()[0].contains("linux/arm64"), "{error:?}");
    assert_eq!(store.images().unwrap().len(), 1, "one name, one row");
    assert_eq!(store.images_of(&digest).unwrap().len(), 2);
    // A name of one member alone keeps it when the index goes.
    store.tag(&of("amd64").unwrap().manifest, &Reference::parse("only:amd").unwrap()).unwrap();
    // The last tag takes the repository's digests along.
    let removed = store.remove("registry.example/app:1", true);
    assert!(removed.unwrap().untagged.contains(&name));
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.resolve("only:amd").unwrap().config.platform.architecture, "amd64");
    assert_eq!(sandbox.names("blobs/sha256").len(), 3);
    let request = PrepareRequest { key: "k", base: Base::Image(&store.resolve("only:amd").unwrap()), throwaway: true };
    store.prepare(request).unwrap();
}

#[test]
fn artifacts_are_kept_and_listed_by_their_subject_and_never_run() {
    let sandbox = Sandbox::new();
    let remote = Remote::new("amd64", b"content");
    let store = &sandbox.store;
    let subject = store
        .receive("pull", |receiver| {
            remote.fetch(receiver)?;
            receiver.commit(&request(remote.raw(), &[Reference::parse("app:1")?]))
        })
        .unwrap();
    let (empty, payload) = (b"{}".as_slice(), b"signed".as_slice());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-signature",
        "config": descriptor("application/vnd.oci.empty.v1+json", empty),
        "layers": [descriptor("text/plain", payload)],
        "subject": descriptor(MANIFEST, &remote.manifest), "annotations": {"by": "me"},
    })
    .to_string()
    .into_bytes();
    let raw = RawDocument { bytes: &manifest, media_type: MANIFEST, algorithm: Algorithm::Sha256 };
    let add = |attached| {
        store.receive("attach", |receiver| {
            for blob in [empty, payload] {
                receiver.put(&descriptor("", blob).digest, blob)?;
            }
            receiver.commit(&NewImageRequest { attached, ..request(raw, &[]) })
        })
    };
    let artifact = add(true).unwrap();
    assert_eq!((artifact.kind, artifact.artifact_type.as_deref()), (Kind::Artifact, Some("application/x-signature")));
    let referrers = store.referrers(&subject.digest).unwrap();
    assert_eq!(referrers.len(), 1);
    assert_eq!(referrers[0].artifact_type.as_deref(), Some("application/x-signature"));
    assert_eq!(referrers[0].annotations["by"], "me");
    let error = store.resolve(&artifact.digest.to_string()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.one_line().contains("artifact"), "{error:?}");
    assert_eq!(store.images().unwrap().len(), 1);
    store.remove("app:1", false).unwrap();
    assert!(sandbox.names("blobs/sha256").is_empty(), "what was attached goes with its subject");
}

#[test]
fn collection_goes_on_beside_leases_and_keeps_pins() {
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let put = |lease: &corten_store::Lease, text: &[u8]| {
        let digest = Store::digest_of(Algorithm::Sha256, text).unwrap();
        store.put_blob(lease, &digest, text).unwrap();
        digest
    };
    let (held, gone) = (store.lease("held").unwrap(), store.lease("gone").unwrap());
    let (kept, lost, pinned) = (put(&held, b"kept"), put(&gone, b"lost"), put(&gone, b"pinned"));
    store.pin("registry", &[pinned]).unwrap();
    drop(gone);
    let collected = open(&sandbox.root()).collect_garbage().unwrap();
    assert_eq!(collected.blobs, [lost]);
    assert!(store.has_blob(&kept).unwrap() && store.has_blob(&pinned).unwrap());
    store.unpin_all("registry").unwrap();
    drop(held);
    assert_eq!(store.collect_garbage().unwrap().blobs.len(), 2);
    assert!(sandbox.names("leases").is_empty());
}
