//! Help, completions, man pages and the reference, made by clap from the table.

use clap::{Arg, ArgAction, ValueHint};
use corten_types::{Error, Result};

use super::flag::{Flag, Status, Takes};
use super::{Command, tables};

/// Help of one command.
pub(crate) fn help(command: &'static Command) -> String {
    to_clap(command).bin_name(command.full_name()).render_help().to_string() + "\n"
}

/// Help of the program, or of the group that `words` name.
pub(crate) fn help_of_program(words: &[String]) -> String {
    let mut tree = tree();
    let mut name = "corten".to_owned();
    for word in words {
        let Some(next) = tree.find_subcommand(word) else { break };
        tree = next.clone();
        name = format!("{name} {word}");
    }
    tree.bin_name(name).render_help().to_string() + "\n"
}

/// The completion script of a shell.
pub(crate) fn completion(shell: &str) -> Result<String> {
    use clap_complete::Shell;
    let shell = match shell {
        "bash" => Shell::Bash,
        "elvish" => Shell::Elvish,
        "fish" => Shell::Fish,
        "powershell" => Shell::PowerShell,
        "zsh" => Shell::Zsh,
        other => {
            return Err(Error::invalid(format!("unknown shell `{other}`"))
                .hint("use `bash`, `elvish`, `fish`, `powershell` or `zsh`"));
        }
    };
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut tree(), "corten", &mut bytes);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The completions of every shell: each file's name and its text.
pub fn completions() -> Result<Vec<(String, String)>> {
    const FILES: [(&str, &str); 5] = [
        ("bash", "corten.bash"),
        ("elvish", "corten.elv"),
        ("fish", "corten.fish"),
        ("powershell", "corten.ps1"),
        ("zsh", "_corten"),
    ];
    FILES.iter().map(|(shell, file)| Ok(((*file).to_owned(), completion(shell)?))).collect()
}

/// Every man page: its file's name and its text.
pub fn man_pages() -> Result<Vec<(String, String)>> {
    let mut pages = vec![("corten.1".to_owned(), tree())];
    for command in shown() {
        let name = command.full_name().replace(' ', "-");
        pages.push((format!("{name}.1"), to_clap(command).display_name(name)));
    }
    let render = |(file, command): (String, clap::Command)| {
        let mut bytes = Vec::new();
        clap_mangen::Man::new(command).render(&mut bytes)?;
        Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
    };
    pages.into_iter().map(render).collect()
}

fn shown() -> impl Iterator<Item = &'static Command> {
    tables::COMMANDS.iter().filter(|command| !command.hidden)
}

/// The whole command line.
fn tree() -> clap::Command {
    let mut tree = base(&tables::PROGRAM)
        .name("corten")
        .about("The container stack as one program: docker's commands without a daemon")
        .after_help("`corten COMMAND --help` shows a command's flags. `corten runtime --help` shows the OCI runtime's command line.")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args(tables::GLOBALS.iter().filter(|flag| flag.is_here()).map(argument));
    for command in shown().filter(|command| command.path.len() == 1) {
        tree = tree.subcommand(to_clap(command));
    }
    for group in &tables::GROUPS {
        let mut branch = clap::Command::new(group.name).about(group.about).disable_help_subcommand(true);
        for command in shown().filter(|command| command.path.len() == 2 && command.path[0] == group.name) {
            branch = branch.subcommand(to_clap(command));
        }
        tree = tree.subcommand(branch);
    }
    tree
}

fn base(command: &'static Command) -> clap::Command {
    clap::Command::new(command.path.last().copied().unwrap_or("corten"))
        .about(command.about)
        .visible_aliases(command.aliases.iter().copied())
}

fn to_clap(command: &'static Command) -> clap::Command {
    fill(base(command), command)
}

fn fill(base: clap::Command, command: &'static Command) -> clap::Command {
    let usage = format!("{} [OPTIONS] {}", command.full_name(), command.operands);
    let help = Arg::new("help").long("help").help("Print help").action(ArgAction::Help);
    let help = if command.short('h').is_some() { help } else { help.short('h') };
    let mut filled = base
        .override_usage(usage.trim_end().to_owned())
        .disable_help_flag(true)
        .args(command.flags.iter().filter(|flag| flag.is_here()).map(argument))
        .arg(help);
    if command.arity.1 > 0 {
        let operands = Arg::new("operands").value_name(command.operands).num_args(0..).hide(true);
        filled = filled.arg(if command.ends_at_operand { operands.trailing_var_arg(true) } else { operands });
    }
    if !command.notes.is_empty() {
        filled = filled.after_help(command.notes);
    }
    filled
}

fn argument(flag: &Flag) -> Arg {
    let mut argument = Arg::new(flag.long).long(flag.long).help(flag.help);
    if let Some(letter) = flag.short {
        argument = argument.short(letter);
    }
    match flag.takes {
        Takes::Nothing => argument.action(ArgAction::SetTrue),
        Takes::One(value) => argument.value_name(value).action(ArgAction::Set).value_hint(hint(value)),
        Takes::Many(value) => argument.value_name(value).action(ArgAction::Append).value_hint(hint(value)),
    }
}

fn hint(value: &str) -> ValueHint {
    match value {
        "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        "PROGRAM" => ValueHint::CommandName,
        _ => ValueHint::Other,
    }
}

/// The reference: one page a command, `docs/reference/NAME.md` and its text, and a table of contents.
pub fn reference_pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    let mut contents =
        "# Commands\n\nMade from the program's own table by `cargo xtask docs`; do not edit.\n\n| command | |\n|---|---|\n"
            .to_owned();
    for command in shown() {
        let name = command.full_name();
        let file = format!("{}.md", name.replace(' ', "-"));
        contents.push_str(&format!("| [`{name}`]({file}) | {} |\n", command.about));
        pages.push((file, page(command)));
    }
    contents.push_str("\n## Flags before the command\n\n");
    contents.push_str(&flags(tables::GLOBALS));
    pages.insert(0, ("README.md".to_owned(), contents));
    pages
}

/// Names of the files below `directory` that are not what [`reference_pages`] makes, or are missing.
pub fn stale_reference_pages(directory: &std::path::Path) -> std::io::Result<Vec<String>> {
    let pages = reference_pages();
    let mut stale = Vec::new();
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if pages.iter().all(|(page, _)| *page != name) {
                    stale.push(name);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for (name, text) in pages {
        if std::fs::read_to_string(directory.join(&name)).ok().as_ref() != Some(&text) {
            stale.push(name);
        }
    }
    Ok(stale)
}

fn page(command: &Command) -> String {
    let name = command.full_name();
    let usage = format!("{name} [OPTIONS] {}", command.operands);
    let mut text = format!("# {name}\n\n{}\n\n```\n{}\n```\n", command.about, usage.trim_end());
    if !command.aliases.is_empty() {
        let aliases: Vec<_> = command.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        text.push_str(&format!("\nAlso called {}.\n", aliases.join(", ")));
    }
    if command.flags.iter().any(Flag::is_here) {
        text.push_str("\n## Flags\n\n");
        text.push_str(&flags(command.flags));
    }
    if !command.notes.is_empty() {
        text.push_str(&format!("\n## Notes\n\n```\n{}\n```\n", command.notes));
    }
    let refused = command.flags.iter().filter_map(|flag| match flag.status {
        Status::Refused { reason, harmless, .. } => Some((flag, reason, harmless)),
        Status::Here => None,
    });
    let rows: Vec<_> = refused.map(|(flag, reason, harmless)| refused_row(flag, reason, harmless)).collect();
    if !rows.is_empty() {
        text.push_str(
            "\n## Refused\n\nDocker's flags that are refused by name:\n\n| flag | why, or what to do |\n|---|---|\n",
        );
        text.push_str(&rows.concat());
    }
    text
}

fn refused_row(flag: &Flag, reason: &str, harmless: &[&str]) -> String {
    let shown: Vec<_> = harmless.iter().filter(|value| !value.is_empty()).map(|value| format!("`{value}`")).collect();
    let unless = if shown.is_empty() { String::new() } else { format!(" (taken: {})", shown.join(", ")) };
    format!("| `{}` | {}{unless} |\n", flag.display(), reason.replace('|', "\\|"))
}

fn flags(flags: &[Flag]) -> String {
    let mut table = "| flag | value | |\n|---|---|---|\n".to_owned();
    for flag in flags.iter().filter(|flag| flag.is_here()) {
        let value = match flag.takes {
            Takes::Nothing => String::new(),
            Takes::One(value) => format!("`{}`", value.replace('|', "\\|")),
            Takes::Many(value) => format!("`{}`, repeatable", value.replace('|', "\\|")),
        };
        table.push_str(&format!("| `{}` | {value} | {} |\n", flag.display(), flag.help.replace('|', "\\|")));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        assert_eq!(stale_reference_pages(&directory).unwrap(), Vec::<String>::new(), "run `cargo xtask docs`");
    }

    #[test]
    fn every_shell_and_every_page_can_be_made() {
        tree().debug_assert();
        assert!(completions().unwrap().iter().all(|(_, text)| text.contains("cap-add")));
        assert!(man_pages().unwrap().iter().any(|(name, text)| name == "corten-run.1" && text.contains("cap\\-add")));
        assert!(completion("tcsh").is_err());
    }

    #[test]
    fn help_names_the_command_and_its_flags() {
        let (command, _) = super::super::find(&["container".to_owned(), "ls".to_owned()]).unwrap();
        let text = help(command);
        assert!(text.contains("corten container ls [OPTIONS]"), "{text}");
        assert!(text.contains("-a, --all"), "{text}");
        assert!(help_of_program(&[]).contains("Commands:"));
        assert!(help_of_program(&["image".to_owned()]).contains("Manage images"));
    }
}
