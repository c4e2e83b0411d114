//! What a policy lets through: an image with a good signature of a named key, over this image and this repository.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use corten_registry::client::{Platforms, Policy, PullRequest};
use corten_testkit::Registry;
use corten_testkit::registry::Reply;
use corten_types::{Error, ErrorKind, Reference};
use rcgen::{KeyPair, PublicKeyData};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::support::{client, image, store, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Who signs.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn sign(&self, content: &[u8]) -> String {
        let random = ring::rand::SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.0.serialize_der(), &random).unwrap();
        BASE64_STANDARD.encode(key.sign(&random, content).unwrap())
    }

    fn write(&self, path: &Path) {
        let body = BASE64_STANDARD.encode(self.0.subject_public_key_info());
        std::fs::write(path, format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")).unwrap();
    }
}

/// A registry with an image, and a policy that wants it signed.
struct Scene {
    registry: Registry,
    digest: String,
    signer: Signer,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let registry = Registry::start();
        let digest = registry.add_image("team/app", "1", &image(1000));
        let (signer, directory) = (Signer::new(), tempfile::tempdir().unwrap());
        signer.write(&directory.path().join("team.pub"));
        Self { registry, digest, signer, directory }
    }

    fn policy(&self) -> Policy {
        let host = self.registry.host();
        let rule = format!("[[rule]]\nprefix = \"{host}/team\"\nrequire = \"signed\"\nkeys = [\"team.pub\"]\n");
        Policy::parse(&rule, "policy.toml", self.directory.path()).unwrap()
    }

    fn payload(&self, digest: &str, repository: &str) -> Vec<u8> {
        let critical = json!({
            "identity": {"docker-reference": format!("{}/{repository}", self.registry.host())},
            "image": {"docker-manifest-digest": digest}, "type": "cosign container image signature",
        });
        json!({"critical": critical, "optional": null}).to_string().into_bytes()
    }

    /// Puts signatures where cosign puts them; what is signed may differ from what is kept.
    fn attach(&self, signatures: &[(Vec<u8>, String)], subject: bool) {
        let config = self.registry.add_blob(b"{}");
        let layers: Vec<_> = signatures
            .iter()
            .map(|(payload, signature)| {
                json!({"mediaType": PAYLOAD, "digest": self.registry.add_blob(payload), "size": payload.len(),
                    "annotations": {"dev.cosignproject.cosign/signature": signature}})
            })
            .collect();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2}});
        let tag = if subject {
            manifest["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json".into();
            manifest["subject"] = json!({"mediaType": MANIFEST, "digest": self.digest, "size": 1});
            "unrelated".to_owned()
        } else {
            format!("{}.sig", self.digest.replace(':', "-"))
        };
        self.registry.add_manifest("team/app", &tag, MANIFEST, manifest.to_string().as_bytes());
    }

    fn signed(&self, payload: &[u8]) -> (Vec<u8>, String) {
        (payload.to_vec(), self.signer.sign(payload))
    }

    fn pull(&self) -> Result<(), Error> {
        let (_directory, store) = store();
        let reference = Reference::parse(&self.registry.name("team/app:1")).unwrap();
        let request = PullRequest {
            reference: &reference,
            platforms: &Platforms::ThisMachine,
            policy: &self.policy(),
            watch: &|_, _| {},
        };
        let pulled = client().pull(&store, &request).map(drop);
        assert_eq!(store.images().unwrap().is_empty(), pulled.is_err(), "refused is nothing stored");
        pulled
    }

    /// What is refused, by name and with the reason.
    fn refuses(&self, why: &str) {
        self.registry.forget_requests();
        let error = self.pull().unwrap_err();
        let said = text(&error);
        assert_eq!(error.kind(), ErrorKind::Denied, "{said}");
        assert!(said.contains(&self.registry.name("team/app:1")) && said.contains(why), "{why}: {said}");
        assert!(said.contains("team.pub"), "who should have signed: {said}");
        let manifest: serde_json::Value =
            serde_json::from_slice(&self.registry.manifest("team/app", "1").unwrap().1).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        assert_eq!(self.registry.count(layer), 0, "no layer was fetched");
    }
}

#[test]
fn a_signed_image_comes_whether_the_signature_is_under_a_tag_or_a_referrer() {
    for subject in [false, true] {
        let scene = Scene::new();
        let payload = scene.payload(&scene.digest, "team/app");
        // One that is somebody else's beside it does no harm.
        let other = (payload.clone(), Signer::new().sign(&payload));
        scene.attach(&[other, scene.signed(&payload)], subject);
        scene.pull().unwrap();
    }
    // Elsewhere nothing is wanted.
    let scene = Scene::new();
    scene.registry.add_image("free/app", "1", &image(1000));
    let (_directory, store) = store();
    let reference = Reference::parse(&scene.registry.name("free/app:1")).unwrap();
    let platforms = Platforms::ThisMachine;
    let policy = scene.policy();
    let request = PullRequest { reference: &reference, platforms: &platforms, policy: &policy, watch: &|_, _| {} };
    client().pull(&store, &request).unwrap();
}

#[test]
fn no_signature_or_a_wrong_one_is_refused_by_name() {
    let scene = Scene::new();
    scene.refuses("is not signed");
    let other_image = format!("sha256:{}", "1".repeat(64));
    // Another key; no signature at all.
    let anothers: fn(&[u8]) -> String = |payload| Signer::new().sign(payload);
    let junk: fn(&[u8]) -> String = |_| BASE64_STANDARD.encode(b"short");
    for (sign, why) in
        [(anothers, "no key of the policy"), (junk, "no key of the policy"), (|_: &[u8]| "!!!".into(), "is not base64")]
    {
        for subject in [false, true] {
            let scene = Scene::new();
            let payload = scene.payload(&scene.digest, "team/app");
            scene.attach(&[(payload.clone(), sign(&payload))], subject);
            scene.refuses(why);
        }
    }
    let scene = Scene::new();
    // Right key, wrong words: the payload was changed after it was signed.
    let (_, signature) = scene.signed(&scene.payload(&other_image, "team/app"));
    scene.attach(&[(scene.payload(&scene.digest, "team/app"), signature)], false);
    scene.refuses("no key of the policy made the signature");
    // Right key, right words, of another image.
    let scene = Scene::new();
    scene.attach(&[scene.signed(&scene.payload(&other_image, "team/app"))], false);
    scene.refuses("the signature is of another image");
    // A signature of this image, for another repository.
    let scene = Scene::new();
    scene.attach(&[scene.signed(&scene.payload(&scene.digest, "else/app"))], false);
    scene.refuses("the signature is for");
    // Something else that the key signed.
    let scene = Scene::new();
    scene.attach(&[scene.signed(b"{\"hello\": 1}")], false);
    scene.refuses("the signed payload is not cosign's");
    // A payload that is not what its digest says.
    let scene = Scene::new();
    let payload = scene.payload(&scene.digest, "team/app");
    scene.attach(&[scene.signed(&payload)], false);
    scene.registry.replace_blob(&corten_testkit::registry::digest(&payload), &vec![b'x'; payload.len()]);
    scene.refuses("does not match its digest");
}

#[test]
fn an_image_that_is_here_already_is_asked_for_its_signature_again() {
    let scene = Scene::new();
    let payload = scene.payload(&scene.digest, "team/app");
    scene.attach(&[scene.signed(&payload)], false);
    let (_directory, store) = store();
    let reference = Reference::parse(&scene.registry.name("team/app:1")).unwrap();
    let (platforms, policy) = (Platforms::ThisMachine, scene.policy());
    let request = PullRequest { reference: &reference, platforms: &platforms, policy: &policy, watch: &|_, _| {} };
    client().pull(&store, &request).unwrap();
    scene.registry.hook(|request, _| request.path.ends_with(".sig").then(|| Reply::new(404, "{}")));
    let error = client().pull(&store, &request).unwrap_err();
    assert!(text(&error).contains("is not signed"), "{error:?}");
    // A registry that cannot be asked is no proof of anything.
    scene.registry.hook(|request, _| request.path.ends_with(".sig").then(|| Reply::new(403, "{}")));
    let error = client().pull(&store, &request).unwrap_err();
    assert!(text(&error).contains("cannot look for signatures"), "{error:?}");
}
