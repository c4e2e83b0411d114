//! The promise of the fuzz target for documents, references and digests (`fuzz/bodies`), held against mutated ones.

#[path = "../../../../fuzz/bodies/image_manifest.rs"]
mod image_manifest;

use corten_testkit::mutate;

#[test]
fn mutated_documents_are_one_document_or_errors_in_words() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let descriptor = |kind: &str| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{digest}","size":7,"annotations":{{"a":"b"}},
            "platform":{{"architecture":"arm64","os":"linux","variant":"v8"}}}}"#
        )
    };
    let (config, layer) = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        descriptor(config),
        descriptor(layer)
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        descriptor("application/vnd.oci.image.manifest.v1+json")
    );
    let image = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z",
        "config":{{"Env":["A=1"],"Cmd":["x"],"ExposedPorts":{{"80/tcp":{{}}}},"Volumes":{{"/v":{{}}}},"User":"1:2",
        "Healthcheck":{{"Test":["CMD","x"],"Interval":1}}}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},
        "history":[{{"created_by":"x","empty_layer":true}}]}}"#
    );
    let reference = format!("registry.example.org:5000/team/app:1.2@{digest}");
    let good = [manifest, index, image, reference, digest];
    mutate::each(&good.each_ref().map(String::as_bytes), 3000, image_manifest::check);
}
