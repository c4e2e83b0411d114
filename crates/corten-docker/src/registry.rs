//! `corten registry ls` and `usage`: rows in docker's manner.

use corten_types::Result;
use jiff::Timestamp;

use crate::table::{ListFormat, field, header};
use crate::template::Value;
use crate::units::{human_size, since};

const GO_TYPE: &str = "*formatter.registryContext";
const REPOSITORIES: &str = "table {{.Repository}}\t{{.Tags}}\t{{.Manifests}}\t{{.PushedSince}}\t{{.Size}}";
const MANIFESTS: &str = "table {{.Tag}}\t{{.Digest}}\t{{.Type}}\t{{.PushedSince}}";
const USAGE: &str = "table {{.Repository}}\t{{.Manifests}}\t{{.Blobs}}\t{{.Size}}";
/// Hexadecimal digits of a digest that is not shown whole.
const DIGITS: usize = 12;

/// A repository.
#[derive(Debug, Clone)]
pub struct RepositoryRow {
    /// `REGISTRY/PATH`
    pub repository: String,
    /// Tags.
    pub tags: usize,
    /// Manifests that were pushed.
    pub manifests: u64,
    /// Blobs that were pushed.
    pub blobs: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// The newest push, nanoseconds since 1970.
    pub pushed_ns: Option<i64>,
}

/// A tag, or a manifest without one.
#[derive(Debug, Clone)]
pub struct ManifestRow {
    /// The tag.
    pub tag: Option<String>,
    /// `sha256:…`
    pub digest: String,
    /// Media type, or kind of artifact.
    pub kind: String,
    /// When it was pushed, nanoseconds since 1970.
    pub pushed_ns: Option<i64>,
}

/// How a list is shown.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `--format`
    pub format: Option<String>,
    /// `-q`
    pub quiet: bool,
    /// `--no-trunc`
    pub no_trunc: bool,
}

impl View {
    fn format(&self, table: &'static str, quiet: &'static str) -> Result<ListFormat> {
        ListFormat::parse(match (self.format.as_deref().unwrap_or("table"), self.quiet) {
            ("table" | "", true) => quiet,
            ("table" | "", false) => table,
            (custom, _) => custom,
        })
    }
}

fn titles() -> Value {
    header(&[
        ("Repository", "REPOSITORY"),
        ("Tags", "TAGS"),
        ("Manifests", "MANIFESTS"),
        ("Blobs", "BLOBS"),
        ("Size", "SIZE"),
        ("PushedSince", "PUSHED"),
        ("PushedAt", "PUSHED AT"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("Type", "TYPE"),
    ])
}

fn pushed(pushed_ns: Option<i64>, now: Timestamp) -> (String, String) {
    let moment = pushed_ns.and_then(|ns| Timestamp::from_nanosecond(i128::from(ns)).ok());
    let words = |moment: Timestamp| (format!("{} ago", since(moment, now)), crate::units::go_time(moment));
    moment.map_or_else(|| ("N/A".to_owned(), "N/A".to_owned()), words)
}

fn repository_row(row: &RepositoryRow, now: Timestamp) -> Value {
    let (ago, at) = pushed(row.pushed_ns, now);
    Value::row(
        GO_TYPE,
        vec![
            field("Repository", row.repository.as_str()),
            field("Tags", row.tags.to_string()),
            field("Manifests", row.manifests.to_string()),
            field("Blobs", row.blobs.to_string()),
            field("Size", human_size(row.bytes, 3)),
            field("PushedSince", ago),
            field("PushedAt", at),
        ],
    )
}

/// The text of `registry ls`.
pub fn repositories(rows: &[RepositoryRow], view: &View, now: Timestamp) -> Result<String> {
    let rows: Vec<Value> = rows.iter().map(|row| repository_row(row, now)).collect();
    view.format(REPOSITORIES, "{{.Repository}}")?.render(&titles(), &rows)
}

/// The text of `registry ls REPOSITORY`.
pub fn manifests(rows: &[ManifestRow], view: &View, now: Timestamp) -> Result<String> {
    let row = |row: &ManifestRow| {
        let (ago, at) = pushed(row.pushed_ns, now);
        let end = row.digest.find(':').map_or(DIGITS, |colon| colon + 1 + DIGITS).min(row.digest.len());
        let digest = if view.no_trunc { row.digest.as_str() } else { &row.digest[..end] };
        Value::row(
            GO_TYPE,
            vec![
                field("Tag", row.tag.as_deref().unwrap_or("<none>")),
                field("Digest", digest),
                field("Type", row.kind.as_str()),
                field("PushedSince", ago),
                field("PushedAt", at),
            ],
        )
    };
    let rows: Vec<Value> = rows.iter().map(row).collect();
    view.format(MANIFESTS, "{{.Tag}}")?.render(&titles(), &rows)
}

/// The text of `registry usage`: the repositories, and what all of them take on the disk.
pub fn usage(rows: &[RepositoryRow], bytes_of_all: u64, view: &View, now: Timestamp) -> Result<String> {
    let all = RepositoryRow {
        repository: "TOTAL".to_owned(),
        tags: rows.iter().map(|row| row.tags).sum(),
        manifests: rows.iter().map(|row| row.manifests).sum(),
        blobs: rows.iter().map(|row| row.blobs).sum(),
        bytes: bytes_of_all,
        pushed_ns: rows.iter().filter_map(|row| row.pushed_ns).max(),
    };
    let rows: Vec<Value> = rows.iter().chain([&all]).map(|row| repository_row(row, now)).collect();
    view.format(USAGE, "{{.Repository}}")?.render(&titles(), &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<RepositoryRow> {
        let row = |repository: &str, bytes, pushed_ns| RepositoryRow {
            repository: repository.to_owned(),
            tags: 2,
            manifests: 3,
            blobs: 4,
            bytes,
            pushed_ns,
        };
        vec![row("localhost/app", 1_500_000, Some(1_000_000_000)), row("localhost/b", 10, None)]
    }

    #[test]
    fn repositories_are_a_table() {
        let now = Timestamp::from_second(121).unwrap();
        assert_eq!(
            repositories(&rows(), &View::default(), now).unwrap(),
            "REPOSITORY      TAGS      MANIFESTS   PUSHED         SIZE\n\
             localhost/app   2         3           2 minutes ago   1.5MB\n\
             localhost/b     2         3           N/A             10B\n"
                .replace("PUSHED         SIZE", "PUSHED          SIZE")
        );
        let quiet = View { quiet: true, ..View::default() };
        assert_eq!(repositories(&rows(), &quiet, now).unwrap(), "localhost/app\nlocalhost/b\n");
        let custom = View { format: Some("{{.Repository}}={{.Size}}".to_owned()), ..View::default() };
        assert_eq!(
            usage(&rows(), 1_500_005, &custom, now).unwrap(),
            "localhost/app=1.5MB\nlocalhost/b=10B\nTOTAL=1.5MB\n"
        );
    }

    #[test]
    fn digests_are_cut_unless_asked_for() {
        let now = Timestamp::from_second(0).unwrap();
        let row = ManifestRow {
            tag: None,
            digest: format!("sha256:{}", "a".repeat(64)),
            kind: "x".to_owned(),
            pushed_ns: None,
        };
        let show = |no_trunc| {
            let view = View { format: Some("{{.Tag}} {{.Digest}}".to_owned()), no_trunc, ..View::default() };
            manifests(std::slice::from_ref(&row), &view, now).unwrap()
        };
        assert_eq!(show(false), "<none> sha256:aaaaaaaaaaaa\n");
        assert_eq!(show(true).len(), "<none> sha256:\n".len() + 64);
    }
}
