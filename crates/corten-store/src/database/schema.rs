//! The tables, as the steps that make each version from the one before.

/// Version of the tables, kept in `user_version`: as many steps as there are.
pub(super) const VERSION: usize = STEPS.len();

/// What a reference points to is a `document`: an image's manifest, an index of several, or an artifact's manifest. One
/// that is `top` stays until it is removed; another stays as long as an index that has it as a `member`, or the document
/// that is its `subject`. `image` says more of those that can be run; its `size` is -1 until every layer was unpacked.
/// `repository_…` is what was pushed to a registry over this store, by repository (`REGISTRY/PATH`).
pub(super) const STEPS: [&str; 4] = [
    "
CREATE TABLE image (
    manifest TEXT PRIMARY KEY, config TEXT NOT NULL, media_type TEXT NOT NULL,
    size INTEGER NOT NULL, added_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX image_by_config ON image (config);
CREATE TABLE image_blob (
    manifest TEXT NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (manifest, blob)
) WITHOUT ROWID;
CREATE TABLE image_layer (
    manifest TEXT NOT NULL, position INTEGER NOT NULL, diff_id TEXT NOT NULL, chain_id TEXT NOT NULL,
    PRIMARY KEY (manifest, position)
) WITHOUT ROWID;
CREATE TABLE reference (name TEXT PRIMARY KEY, manifest TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX reference_by_manifest ON reference (manifest);
CREATE TABLE reference_history (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, manifest TEXT, moved_ns INTEGER NOT NULL, cause TEXT NOT NULL
);
CREATE INDEX reference_history_by_name ON reference_history (name, id);
CREATE TABLE layer (
    key TEXT PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL, entries INTEGER NOT NULL,
    has_root INTEGER NOT NULL, opaque_root INTEGER NOT NULL, squashed INTEGER NOT NULL,
    devices_skipped INTEGER NOT NULL, boot TEXT NOT NULL, synced INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE layer_blob (blob TEXT PRIMARY KEY, diff_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE builtin (name TEXT PRIMARY KEY, identity TEXT NOT NULL, manifest TEXT NOT NULL) WITHOUT ROWID;
",
    "
ALTER TABLE reference RENAME COLUMN manifest TO target;
ALTER TABLE reference_history RENAME COLUMN manifest TO target;
CREATE TABLE document (
    digest TEXT PRIMARY KEY, kind TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    artifact_type TEXT, subject TEXT, top INTEGER NOT NULL, added_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX document_by_subject ON document (subject) WHERE subject IS NOT NULL;
INSERT INTO document SELECT manifest, 'image', media_type, 0, NULL, NULL, 1, added_ns FROM image;
CREATE TABLE member (parent TEXT NOT NULL, child TEXT NOT NULL, PRIMARY KEY (parent, child)) WITHOUT ROWID;
CREATE INDEX member_by_child ON member (child);
CREATE TABLE pin (owner TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (owner, digest)) WITHOUT ROWID;
CREATE INDEX pin_by_digest ON pin (digest);
ALTER TABLE layer ADD COLUMN form TEXT NOT NULL DEFAULT 'directory';
ALTER TABLE layer ADD COLUMN disk_size INTEGER;
",
    "
ALTER TABLE layer ADD COLUMN index_digest TEXT;
",
    "
CREATE TABLE repository_blob (
    repository TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, seen_ns INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX repository_blob_by_digest ON repository_blob (digest);
CREATE TABLE repository_manifest (
    repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    artifact_type TEXT, subject TEXT, annotations TEXT, pushed_ns INTEGER NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX repository_manifest_by_digest ON repository_manifest (digest);
CREATE INDEX repository_manifest_by_subject ON repository_manifest (repository, subject) WHERE subject IS NOT NULL;
CREATE TABLE repository_need (
    repository TEXT NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, manifest, digest)
) WITHOUT ROWID;
CREATE INDEX repository_need_by_digest ON repository_need (repository, digest);
CREATE TABLE repository_copied_tag (
    repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, asked_ns INTEGER NOT NULL,
    PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
",
];
