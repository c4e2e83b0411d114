//! `docker history`: how an image's layers came to be.

use corten_engine::store::Image;
use corten_types::Result;
use jiff::Timestamp;

use crate::table::{ListFormat, field, header};
use crate::template::Value;
use crate::units::{human_size, moment, since};

const TABLE: &str = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const GO_TYPE: &str = "*formatter.historyContext";
/// Characters of a step that are shown without `--no-trunc`.
const STEP_LENGTH_MAX: usize = 45;

/// How `history` shows its rows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `--format`
    pub format: Option<String>,
    /// `-q`
    pub quiet: bool,
    /// `--no-trunc`
    pub no_trunc: bool,
    /// `-H`: sizes and times for people.
    pub human: bool,
}

/// The text of `history`, newest step first. `sizes` are those of the layers, lowest first.
pub fn list(image: &Image, sizes: &[Option<u64>], view: &View, now: Timestamp) -> Result<String> {
    let format = match view.format.as_deref() {
        None | Some("" | "table") if view.quiet => "{{.ID}}",
        None | Some("" | "table") => TABLE,
        Some(custom) => custom,
    };
    let mut sizes = sizes.iter().zip(&image.layers);
    let mut rows: Vec<Value> = Vec::new();
    let newest = image.config.history.len().saturating_sub(1);
    for (position, step) in image.config.history.iter().enumerate() {
        let id = match position == newest {
            true if view.no_trunc => image.id.to_string(),
            true => image.id.short(),
            false => "<missing>".to_owned(),
        };
        let size = match step.empty_layer {
            true => 0,
            false => sizes.next().map_or(0, |(size, layer)| size.unwrap_or(layer.blob.size)),
        };
        let created = step.created.as_deref().and_then(moment);
        let created_at = created.map(|created| created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let created_since = match (created, view.human) {
            (None, true) => "N/A".to_owned(),
            (Some(created), true) => format!("{} ago", since(created, now)),
            (_, false) => created_at.clone().unwrap_or_default(),
        };
        let created_by = step.created_by.as_deref().unwrap_or_default().replace('\t', " ");
        rows.push(Value::row(
            GO_TYPE,
            vec![
                field("ID", id),
                field("CreatedAt", created_at.unwrap_or_default()),
                field("CreatedSince", created_since),
                field("CreatedBy", if view.no_trunc { created_by } else { shortened(&created_by) }),
                field("Size", if view.human { human_size(size, 3) } else { size.to_string() }),
                field("Comment", step.comment.as_deref().unwrap_or_default()),
            ],
        ));
    }
    rows.reverse();
    ListFormat::parse(format)?.render(&titles(), &rows)
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= STEP_LENGTH_MAX {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(STEP_LENGTH_MAX - 1).collect();
    short.push('…');
    short
}

fn titles() -> Value {
    header(&[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ])
}
