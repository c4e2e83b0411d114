//! `docker images`: rows and filters.

use std::collections::BTreeMap;

use corten_engine::store::Image;
use corten_types::{Digest, Error, ErrorKind, Reference, Result};
use jiff::Timestamp;

use crate::filter::{Filters, boolean, glob, until};
use crate::table::{ListFormat, field, header};
use crate::template::Value;
use crate::units::{go_time, human_size, moment, since};

/// Filters of `images`.
pub const FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

const TABLE: &str =
    "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}";
const TABLE_DIGESTS: &str = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t\
    {{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}";
const RAW: &str = "repository: {{ .Repository }}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\n\
    virtual_size: {{.Size}}\n";
const RAW_DIGESTS: &str = "repository: {{ .Repository }}\ntag: {{.Tag}}\ndigest: {{.Digest}}\nimage_id: {{.ID}}\n\
    created_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n";
const GO_TYPE: &str = "*formatter.imageContext";

/// The images of `images` that the filters accept. A nameless image that another one has the configuration of (the same
/// image from another archive) is that other one to docker.
pub fn select(mut images: Vec<Image>, filters: &Filters, now: Timestamp) -> Result<Vec<Image>> {
    let is_nameless = |image: &Image| names(image).next().is_none();
    let mut shown: Vec<Digest> = images.iter().filter(|image| !is_nameless(image)).map(|image| image.id).collect();
    images.retain(|image| {
        let is_new = !shown.contains(&image.id);
        shown.push(image.id);
        is_new || !is_nameless(image)
    });
    let dangling = filters.values("dangling").map(|value| boolean("dangling", value)).collect::<Result<Vec<_>>>()?;
    let before = created_of(filters, "before", &images)?;
    let since = created_of(filters, "since", &images)?;
    let until = filters.values("until").map(|value| until(value, now)).collect::<Result<Vec<_>>>()?;
    let accepts = |image: &Image| {
        let is_dangling = image.repo_tags.is_empty();
        let created = created(image);
        (dangling.is_empty() || dangling.contains(&is_dangling))
            && before.is_none_or(|before| created < before)
            && since.is_none_or(|since| created > since)
            && until.iter().all(|until| created.is_some_and(|created| created < *until))
            && filters.match_labels(&image.config.config.labels)
            && filters.any("reference", |pattern| names(image).any(|name| matches_reference(pattern, name)))
    };
    Ok(images.iter().filter(|image| accepts(image)).cloned().collect())
}

fn names(image: &Image) -> impl Iterator<Item = &Reference> {
    image.repo_tags.iter().chain(&image.repo_digests)
}

fn matches_reference(pattern: &str, name: &Reference) -> bool {
    glob(pattern, &name.familiar()) || glob(pattern, &name.familiar_repository())
}

fn created(image: &Image) -> Option<Timestamp> {
    image.config.created.as_deref().and_then(moment)
}

fn created_of(filters: &Filters, name: &str, images: &[Image]) -> Result<Option<Option<Timestamp>>> {
    let Some(wanted) = filters.values(name).last() else { return Ok(None) };
    let reference = Reference::parse(wanted).ok();
    let found = images.iter().find(|image| {
        names(image).any(|known| Some(known) == reference.as_ref())
            || (!wanted.is_empty() && image.id.hex().starts_with(wanted.trim_start_matches("sha256:")))
    });
    match found {
        Some(image) => Ok(Some(created(image))),
        None => Err(Error::new(ErrorKind::NotFound, format!("No such image: {wanted}"))),
    }
}

/// How `images` shows its rows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `--format`
    pub format: Option<String>,
    /// `-q`
    pub quiet: bool,
    /// `--no-trunc`
    pub no_trunc: bool,
    /// `--digests`
    pub digests: bool,
}

/// The text of `images`. `containers` counts those that use an image, by its id.
pub fn list(images: &[Image], containers: &BTreeMap<String, usize>, view: &View, now: Timestamp) -> Result<String> {
    let mut format = match (view.format.as_deref().unwrap_or("table"), view.quiet, view.digests) {
        ("table" | "", true, _) => "{{.ID}}",
        ("table" | "", false, true) => TABLE_DIGESTS,
        ("table" | "", false, false) => TABLE,
        ("raw", true, _) => "image_id: {{.ID}}",
        ("raw", false, true) => RAW_DIGESTS,
        ("raw", false, false) => RAW,
        (custom, _, _) => custom,
    }
    .to_owned();
    if view.format.is_some() && view.digests && format.starts_with("table") && !format.contains("{{.Digest}}") {
        format.push_str("\t{{.Digest}}");
    }
    let mut rows = Vec::new();
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by_key(|image| std::cmp::Reverse(created(image)));
    for image in images {
        let users = containers.get(&image.id.to_string()).copied().unwrap_or(0);
        for name in row_names(image, view.digests || format.contains("{{.Digest}}"), view.digests) {
            rows.push(row(image, &name, users, view, now));
        }
    }
    ListFormat::parse(&format)?.render(&titles(), &rows)
}

fn titles() -> Value {
    header(&[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ])
}

/// Repository, tag, digest of one row.
type RowName = (String, String, String);

/// One row a tag, a further one for each digest that has no tag of its repository.
fn row_names(image: &Image, shows_digests: bool, rows_by_digest: bool) -> Vec<RowName> {
    const NONE: &str = "<none>";
    if image.repo_tags.is_empty() && image.repo_digests.is_empty() {
        return vec![(NONE.to_owned(), NONE.to_owned(), NONE.to_owned())];
    }
    let digest_of = |reference: &Reference| reference.digest().map(ToString::to_string).unwrap_or_default();
    let mut rows = Vec::new();
    for tagged in &image.repo_tags {
        let repository = tagged.familiar_repository();
        let tag = tagged.tag().unwrap_or(NONE).to_owned();
        let mut digests: Vec<_> = image
            .repo_digests
            .iter()
            .filter(|digested| shows_digests && digested.repository() == tagged.repository())
            .map(digest_of)
            .collect();
        if digests.is_empty() {
            digests.push(NONE.to_owned());
        }
        rows.extend(digests.into_iter().map(|digest| (repository.clone(), tag.clone(), digest)));
    }
    let untagged =
        |digested: &&Reference| !image.repo_tags.iter().any(|tagged| tagged.repository() == digested.repository());
    for digested in image.repo_digests.iter().filter(untagged) {
        let digest = if rows_by_digest { digest_of(digested) } else { String::new() };
        let row = (digested.familiar_repository(), NONE.to_owned(), digest);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}

fn row(image: &Image, name: &RowName, containers: usize, view: &View, now: Timestamp) -> Value {
    let created = created(image);
    let id = if view.no_trunc { image.id.to_string() } else { image.id.short() };
    Value::row(
        GO_TYPE,
        vec![
            field("ID", id),
            field("Repository", name.0.as_str()),
            field("Tag", name.1.as_str()),
            field("Digest", name.2.as_str()),
            field("CreatedSince", created.map(|created| format!("{} ago", since(created, now))).unwrap_or_default()),
            field("CreatedAt", created.map(go_time).unwrap_or_default()),
            field("Size", human_size(image.size, 3)),
            field("VirtualSize", human_size(image.size, 4)),
            field("Containers", containers.to_string()),
            field("SharedSize", "N/A"),
            field("UniqueSize", "N/A"),
        ],
    )
}

/// An image of one platform, in `images --tree`.
#[derive(Debug, Clone)]
pub struct TreeRow {
    /// Its names; none for a platform below them.
    pub names: Vec<String>,
    /// Its platforms below it.
    pub platforms: Vec<TreeRow>,
    /// Its identifier, or its platform's text.
    pub id: String,
    /// Bytes of its layers, unpacked.
    pub disk: u64,
    /// Bytes of its blobs.
    pub content: u64,
    /// Whether a container uses it.
    pub in_use: bool,
}

/// The text of `images --tree`.
pub fn tree(rows: &[TreeRow]) -> String {
    let mut text = "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tEXTRA\n".to_owned();
    let mut line = |name: &str, row: &TreeRow| {
        let (disk, content) = (human_size(row.disk, 3), human_size(row.content, 3));
        let extra = if row.in_use { "U" } else { "" };
        text.push_str(&format!("{name}\t{}\t{disk}\t{content}\t{extra}\n", row.id));
    };
    for row in rows {
        let none = ["<untagged>".to_owned()];
        for name in if row.names.is_empty() { &none[..] } else { &row.names } {
            line(name, row);
        }
        for (position, platform) in row.platforms.iter().enumerate() {
            let corner = if position + 1 == row.platforms.len() { '└' } else { '├' };
            line(&format!("{corner}─ {}", platform.names.join(", ")), platform);
        }
    }
    crate::table::align(&text).lines().map(str::trim_end).map(|line| format!("{line}\n")).collect()
}
