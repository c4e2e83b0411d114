//! `list` and `state`: containers as data.

use corten_runtime::runtime::ContainerState;
use corten_types::{Error, Result};

use super::arguments::Arguments;
use super::{Context, lifecycle, print};

/// `state`
pub(super) fn state(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let state = context.runtime.state(lifecycle::id(arguments)?)?;
    Ok(print(&to_json_pretty(&state, b"  ")?))
}

/// `list`
pub(super) fn list(context: &Context<'_>, arguments: &Arguments) -> Result<u8> {
    let format = arguments.text("format").unwrap_or("table");
    if format != "table" && format != "json" {
        return Err(invalid_format(format));
    }
    // A default root that nobody used yet holds no containers; a chosen one that is missing is a mistake.
    if context.root_is_chosen
        && let Err(error) = std::fs::metadata(&context.root)
    {
        return Err(Error::from(error).context(format!("cannot list containers in {:?}", context.root)));
    }
    let containers = context.runtime.list()?;
    Ok(print(&match (arguments.is_set("quiet"), format) {
        (true, _) => containers.iter().map(|container| format!("{}\n", container.id)).collect(),
        (false, "json") => json(&containers)?,
        (false, _) => table(&containers),
    }))
}

/// The complaint about `--format`.
pub(super) fn invalid_format(format: &str) -> Error {
    Error::invalid("invalid format option")
        .caused_by(format!("`{format}` is not a format"))
        .hint("use `table` or `json`")
}

fn json(containers: &[ContainerState]) -> Result<String> {
    // runc's encoder writes an empty list so, and its readers expect it.
    if containers.is_empty() {
        return Ok("null\n".to_owned());
    }
    let text =
        serde_json::to_string(containers).map_err(|error| Error::invalid("cannot write JSON").caused_by(error))?;
    Ok(text + "\n")
}

/// JSON in lines, indented by `indent`, without a last newline.
pub(super) fn to_json_pretty(value: &impl serde::Serialize, indent: &[u8]) -> Result<String> {
    let mut bytes = Vec::with_capacity(1024);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .map_err(|error| Error::invalid("cannot write JSON").caused_by(error))?;
    String::from_utf8(bytes).map_err(|error| Error::invalid("cannot write JSON").caused_by(error))
}

fn table(containers: &[ContainerState]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = containers.iter().map(|container| {
        [
            container.id.clone(),
            container.pid.to_string(),
            format!("{:?}", container.status).to_lowercase(),
            container.bundle.display().to_string(),
            container.created.clone(),
            container.owner.clone(),
        ]
    });
    align(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Columns of at least twelve characters, three apart, as Go's tabwriter lays runc's table out.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < N {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use corten_runtime::runtime::Status;

    fn container() -> ContainerState {
        ContainerState {
            oci_version: "1.3.0".to_owned(),
            id: "web".to_owned(),
            pid: 7,
            status: Status::Running,
            bundle: "/bundles/web".into(),
            rootfs: "/bundles/web/rootfs".into(),
            created: "2026-11-21T10:00:00Z".to_owned(),
            owner: "root".to_owned(),
            annotations: Default::default(),
        }
    }

    #[test]
    fn the_table_is_laid_out_as_runcs() {
        assert_eq!(
            table(&[container()]),
            "ID          PID         STATUS      BUNDLE         CREATED                OWNER\n\
             web         7           running     /bundles/web   2026-11-21T10:00:00Z   root\n"
        );
    }

    #[test]
    fn no_container_is_null_in_json() {
        assert_eq!(json(&[]).unwrap(), "null\n");
        assert!(
            json(&[container()])
                .unwrap()
                .starts_with(r#"[{"ociVersion":"1.3.0","id":"web","pid":7,"status":"running""#)
        );
    }
}
