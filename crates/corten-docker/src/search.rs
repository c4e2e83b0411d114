//! `docker search`: rows and filters.

use corten_types::{Error, Result};

use crate::filter::{Filters, boolean};
use crate::table::{ListFormat, field, header};
use crate::template::Value;

/// Filters of `search`.
pub const FILTERS: [&str; 3] = ["is-automated", "is-official", "stars"];

const TABLE: &str = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
/// Longest description that is shown whole, characters.
const DESCRIPTION_MAX: usize = 45;

/// One repository.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many like it.
    pub stars: u64,
    /// Docker's own choice.
    pub official: bool,
    /// Built by the registry (no more).
    pub automated: bool,
}

/// How the list is shown.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `--format`
    pub format: Option<String>,
    /// `--no-trunc`
    pub no_trunc: bool,
}

/// The list as text.
pub fn list(rows: Vec<Row>, filters: &Filters, view: &View) -> Result<String> {
    let flag = |name: &str| filters.values(name).map(|value| boolean(name, value)).collect::<Result<Vec<_>>>();
    let (official, automated) = (flag("is-official")?, flag("is-automated")?);
    let mut least = 0;
    for value in filters.values("stars") {
        least = value.parse().map_err(|_| Error::invalid(format!("invalid filter 'stars={value}'")))?;
    }
    let fits = |row: &Row| {
        (official.is_empty() || official.contains(&row.official))
            && (automated.is_empty() || automated.contains(&row.automated))
            && row.stars >= least
    };
    let rows: Vec<Value> = rows.into_iter().filter(fits).map(|row| value(row, view.no_trunc)).collect();
    let titles = header(&[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ]);
    let format = match view.format.as_deref() {
        None | Some("table") => TABLE,
        Some(format) => format,
    };
    ListFormat::parse(format)?.render(&titles, &rows)
}

fn value(row: Row, whole: bool) -> Value {
    let mut description = row.description.replace(['\n', '\r', '\t'], " ");
    if !whole && description.chars().count() > DESCRIPTION_MAX {
        description = description.chars().take(DESCRIPTION_MAX - 1).collect::<String>() + "…";
    }
    let mark = |on: bool| if on { "[OK]" } else { "" };
    Value::map(vec![
        field("Name", row.name),
        field("Description", description),
        field("StarCount", row.stars.to_string()),
        field("IsOfficial", mark(row.official)),
        field("IsAutomated", mark(row.automated)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_docker_s() {
        let row = |name: &str, stars, official| Row {
            name: name.into(),
            description: "a very long description of what this is and what it is good for".into(),
            stars,
            official,
            automated: false,
        };
        let rows = vec![row("app", 10, true), row("other/app", 2, false)];
        let all = list(rows.clone(), &Filters::default(), &View::default()).unwrap();
        assert!(all.starts_with("NAME"), "{all}");
        assert!(all.contains("a very long description of what this is and …   10        [OK]\n"), "{all}");
        let filters = Filters::parse(&["stars=3".to_owned()], &FILTERS, &[]).unwrap();
        let view = View { format: Some("{{.Name}}".into()), no_trunc: false };
        assert_eq!(list(rows, &filters, &view).unwrap(), "app\n");
    }
}
