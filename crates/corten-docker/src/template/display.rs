//! Nodes written back as text, for messages that say where a template failed.

use super::parse::{Command, Operand, Pipeline, Term};

pub(super) fn pipeline(pipeline: &Pipeline) -> String {
    let commands = commands(pipeline);
    if pipeline.variables.is_empty() {
        return commands;
    }
    format!("{} {} {commands}", pipeline.variables.join(", "), if pipeline.assigns { "=" } else { ":=" })
}

pub(super) fn commands(pipeline: &Pipeline) -> String {
    pipeline.commands.iter().map(command).collect::<Vec<_>>().join(" | ")
}

pub(super) fn command(command: &Command) -> String {
    command.arguments.iter().map(operand).collect::<Vec<_>>().join(" ")
}

pub(super) fn operand(node: &Operand) -> String {
    let dotted = |names: &[String]| names.iter().map(|name| format!(".{name}")).collect::<String>();
    match &node.term {
        Term::Dot => ".".to_owned(),
        Term::Nil => "nil".to_owned(),
        Term::Constant(_, text) => text.clone(),
        Term::Field(names) => dotted(names),
        Term::Variable(name, names) => format!("{name}{}", dotted(names)),
        Term::Function(name) => name.clone(),
        Term::Pipeline(inner) => format!("({})", pipeline(inner)),
        Term::Chain(base, names) => format!("{}{}", operand(base), dotted(names)),
    }
}
