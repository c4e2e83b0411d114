//! The command line as one table: parsing, help, completions, man pages and the reference all read it.
//!
//! Parsing is docker's (Go's pflag): bundled short flags, `--flag=value` also for switches, and flags of `run` end at the
//! image. It is our own because clap has other rules and costs a millisecond to set up; clap renders from the same table.

mod containers;
mod flag;
mod parse;
pub(crate) mod render;
mod rows;
pub(crate) mod tables;

pub(crate) use flag::Flag;
pub(crate) use parse::{Parsed, Stop, boolean, distance, parse};

use corten_types::Result;

use crate::commands::Context;

/// A command: what it is called, what it takes, what it does.
#[derive(Debug)]
pub(crate) struct Command {
    /// The words that reach it: `container`, `ls`.
    pub(crate) path: &'static [&'static str],
    /// Other names in the same place.
    pub(crate) aliases: &'static [&'static str],
    /// One line.
    pub(crate) about: &'static str,
    /// Words after the flags, as help shows them.
    pub(crate) operands: &'static str,
    /// Fewest and most operands.
    pub(crate) arity: (usize, usize),
    /// Whether everything after the first operand belongs to the container's program.
    pub(crate) ends_at_operand: bool,
    /// Its flags.
    pub(crate) flags: &'static [Flag],
    /// Shown after the flags in help.
    pub(crate) notes: &'static str,
    /// Left out of lists of commands.
    pub(crate) hidden: bool,
    /// What it does; the result is the exit code.
    pub(crate) run: fn(&mut Context<'_>, &Parsed) -> Result<u8, crate::Failure>,
}

impl Command {
    /// `corten container ls`
    pub(crate) fn full_name(&self) -> String {
        std::iter::once("corten").chain(self.path.iter().copied()).collect::<Vec<_>>().join(" ")
    }

    /// The flag `--name`, also by an alias of it.
    pub(crate) fn long(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.long == name || flag.aliases.contains(&name))
    }

    /// The flag `-c`.
    pub(crate) fn short(&self, name: char) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.short == Some(name))
    }
}

/// A group of commands: `container`, `image`, `system`.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its word.
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) about: &'static str,
}

/// The command that the words mean, and how many of them name it.
pub(crate) fn find(words: &[String]) -> Option<(&'static Command, usize)> {
    tables::COMMANDS.iter().find_map(|command| {
        let (last, groups) = command.path.split_last()?;
        let leads = words.len() > groups.len() && words.iter().zip(groups).all(|(word, group)| word == group);
        let name = words.get(groups.len())?;
        (leads && (name == last || command.aliases.contains(&name.as_str()))).then_some((command, groups.len() + 1))
    })
}
