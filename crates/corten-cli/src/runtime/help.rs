//! The help texts, rendered from the table.

use std::fmt::Write;

use super::arguments::{Flag, Takes};
use super::table::{COMMANDS, Command, GLOBALS};

/// What `--version` shows; engines read the first line and those with `commit:` and `spec:`.
pub(super) fn version(program: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let specification = corten_types::runtime_spec::VERSION;
    format!("{program} version {version}\ncommit: v{version}\nspec: {specification}\n")
}

/// What `--help` shows.
pub(super) fn program(program: &str) -> String {
    let mut text = format!(
        "NAME:\n   {program} - Open Container Initiative runtime of Corten\n\n\
         USAGE:\n   {program} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:\n",
        env!("CARGO_PKG_VERSION")
    );
    let rows = COMMANDS.iter().map(|command| (command.name.to_owned(), command.summary.to_owned()));
    columns(&mut text, rows.chain([("help, h".to_owned(), "show the commands, or help for one".to_owned())]));
    text.push_str("\nGLOBAL OPTIONS:\n");
    options(&mut text, GLOBALS);
    text
}

/// What `COMMAND --help` shows.
pub(super) fn command(program: &str, command: &Command) -> String {
    let name = command.name;
    let mut text = format!("NAME:\n   {program} {name} - {}\n\nUSAGE:\n   {program} {name}", command.summary);
    if !command.flags.is_empty() {
        text.push_str(" [command options]");
    }
    if !command.operands.is_empty() {
        text.push(' ');
        text.push_str(command.operands);
    }
    text.push('\n');
    if !command.details.is_empty() {
        let _infallible = write!(text, "\nDESCRIPTION:\n   {}\n", command.details);
    }
    if !command.flags.is_empty() {
        text.push_str("\nOPTIONS:\n");
        options(&mut text, command.flags);
    }
    text
}

fn options(text: &mut String, flags: &[Flag]) {
    let shown = flags.iter().filter(|flag| !flag.help.is_empty());
    columns(text, shown.map(|flag| (spelling(flag), explanation(flag))));
}

fn spelling(flag: &Flag) -> String {
    let value = if flag.takes == Takes::Nothing { "" } else { " value" };
    match flag.short {
        Some(letter) => format!("--{}{value}, -{letter}{value}", flag.long),
        None => format!("--{}{value}", flag.long),
    }
}

fn explanation(flag: &Flag) -> String {
    match (flag.takes, flag.default) {
        (_, "") => flag.help.to_owned(),
        (Takes::Number, default) => format!("{} (default: {default})", flag.help),
        (_, default) => format!("{} (default: \"{default}\")", flag.help),
    }
}

fn columns(text: &mut String, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    for (left, right) in rows {
        let _infallible = writeln!(text, "   {left:width$}  {right}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_rendered_from_the_table() {
        insta::assert_snapshot!(command("corten-runtime", super::super::table::find("delete".as_ref()).unwrap()), @r"
        NAME:
           corten-runtime delete - delete a container and everything it holds

        USAGE:
           corten-runtime delete [command options] <container-id>

        OPTIONS:
           --force, -f  kill it first where it runs; no error where it does not exist
        ");
        for row in COMMANDS {
            assert!(program("runc").contains(row.summary), "{}", row.name);
            assert!(command("runc", row).contains(row.name));
        }
    }
}
