//! Columns as Go's text/tabwriter aligns them, and what docker does with `--format`.

use corten_types::{Error, Result};

use crate::template::{Template, Value};

/// Narrowest column, in characters, the gap included.
const WIDTH_MIN: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;

/// Aligns cells that end in a tab: a column is as wide as the widest cell of the lines that follow one another in it.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len().saturating_sub(1)]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut first = 0;
        while first < lines.len() {
            let end = first + lines[first..].iter().take_while(|cells| cells.len() > column + 1).count();
            let widest = lines[first..end].iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
            // A column of empty cells alone takes no room.
            let width = if widest == 0 { WIDTH_MIN } else { (widest + PADDING).max(WIDTH_MIN) };
            for line in &mut widths[first..end] {
                line[column] = width;
            }
            first = end.max(first + 1);
        }
    }
    let mut out = String::new();
    for (index, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            out.push_str(&" ".repeat(width.saturating_sub(cell.chars().count())));
        }
        out.push_str(cells.last().copied().unwrap_or_default());
    }
    out
}

/// A list command's format: a template, with or without the header of a table.
#[derive(Debug, Clone)]
pub struct ListFormat {
    template: Template,
    has_header: bool,
}

impl ListFormat {
    /// Reads docker's `--format`: `json`, `table TEMPLATE` or a template; `\t` and `\n` stand for tab and line feed.
    pub fn parse(format: &str) -> Result<Self> {
        let (has_header, body) = match (format, format.strip_prefix("table")) {
            ("json", _) => (false, "{{json .}}"),
            (_, Some(rest)) => (true, rest),
            (other, None) => (false, other),
        };
        let body = body.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
        Ok(Self { template: Template::parse("", &body)?, has_header })
    }

    /// One line a row, below a header where the format asks for one.
    pub fn render(&self, header: &Value, rows: &[Value]) -> Result<String> {
        let mut body = String::new();
        for row in rows {
            body.push_str(&self.template.render(row)?);
            body.push('\n');
        }
        if !self.has_header {
            return Ok(body);
        }
        let head = self.template.render_header(header).map_err(Error::from)?;
        Ok(align(&format!("{head}\n{body}")))
    }
}

/// The header of a table: what each name of a row is called, and `Label` by its own name.
pub(crate) fn header(names: &[(&str, &str)]) -> Value {
    let mut fields: Vec<_> = names.iter().map(|(name, title)| ((*name).to_owned(), Value::from(*title))).collect();
    let label = Value::method(|arguments| match arguments {
        [Value::String(name)] => {
            let last = name.rsplit('.').next().unwrap_or_default();
            Ok(Value::from(last.replace(['-', '_'], " ")))
        }
        _ => Err("wrong number of args for Label: want 1".to_owned()),
    });
    fields.push(("Label".to_owned(), label));
    Value::map(fields)
}

/// A field of a row or document.
pub(crate) fn field(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            align("NAME\tIMAGE\tX\na\tlocalhost/busybox\ty\n"),
            "NAME      IMAGE               X\na         localhost/busybox   y\n"
        );
    }

    #[test]
    fn a_line_without_the_column_ends_its_block() {
        assert_eq!(align("aaaaaaaaaaaa\tb\nc\nd\te"), "aaaaaaaaaaaa   b\nc\nd         e");
    }

    #[test]
    fn a_table_has_its_header_and_a_plain_template_has_not() {
        let header = header(&[("Name", "NAME")]);
        let rows = [Value::map(vec![field("Name", "web"), field("Id", "1")])];
        let render = |format: &str| ListFormat::parse(format).unwrap().render(&header, &rows).unwrap();
        assert_eq!(render("table {{.Name}}\\t{{upper .Id}}"), "NAME      <no value>\nweb       1\n");
        assert_eq!(render("{{.Name}}"), "web\n");
        assert_eq!(render("json"), "{\"Id\":\"1\",\"Name\":\"web\"}\n");
    }
}
