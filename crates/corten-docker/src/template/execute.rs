//! Walks the tree with a value and writes text, within bounds of steps, depth and output.

use super::format::printed;
use super::functions::{self, Mode};
use super::parse::{Command, List, Node, Operand, Pipeline, Position, Term, Trees};
use super::value::{ObjectKind, Value};
use super::{TemplateError, display};

const STEPS_MAX: usize = 200_000;
/// Of the output and of every text made on the way to it.
const TEXT_BYTES_MAX: usize = 16 << 20;
const CALLS_MAX: usize = 100;
/// Lists within lists, over all calls: each takes a piece of the stack.
const NESTING_MAX: usize = 500;

type Done<T> = Result<T, TemplateError>;

/// Executes `trees` with `dot`.
pub(super) fn execute(name: &str, trees: &Trees, dot: &Value, mode: Mode) -> Done<String> {
    let mut state = State {
        trees,
        mode,
        name: name.to_owned(),
        variables: vec![("$".to_owned(), dot.clone())],
        out: String::new(),
        steps: 0,
        text_bytes: 0,
        calls: 0,
        nesting: 0,
    };
    state.list(&trees.main, dot)?;
    Ok(state.out)
}

struct State<'a> {
    trees: &'a Trees,
    mode: Mode,
    name: String,
    variables: Vec<(String, Value)>,
    out: String,
    steps: usize,
    text_bytes: usize,
    calls: usize,
    nesting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl State<'_> {
    fn fail<T>(&self, position: Position, node: &str, message: impl AsRef<str>) -> Done<T> {
        Err(TemplateError::execute(format!(
            "template: {}:{}:{}: executing {} at <{node}>: {}",
            self.name,
            position.line,
            position.column,
            super::format::quote(&self.name),
            message.as_ref()
        )))
    }

    fn step(&mut self) -> Done<()> {
        self.steps += 1;
        if self.steps > STEPS_MAX || self.out.len() + self.text_bytes > TEXT_BYTES_MAX {
            return Err(TemplateError::execute(format!(
                "template: {}: executing {}: exceeded the limit of {STEPS_MAX} steps or {TEXT_BYTES_MAX} bytes",
                self.name,
                super::format::quote(&self.name)
            )));
        }
        Ok(())
    }

    fn list(&mut self, list: &List, dot: &Value) -> Done<Flow> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(TemplateError::execute(format!("template: exceeded maximum template depth ({NESTING_MAX})")));
        }
        for node in list {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                self.nesting -= 1;
                return Ok(flow);
            }
        }
        self.nesting -= 1;
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Done<Flow> {
        self.step()?;
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.print(pipeline, &value)?;
                }
            }
            Node::If { pipeline, then, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = self.list(if value.is_true() { then } else { otherwise }, dot)?;
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::With { pipeline, then, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = if value.is_true() { self.list(then, &value) } else { self.list(otherwise, dot) }?;
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range { pipeline, body, otherwise } => return self.range(pipeline, body, otherwise, dot),
            Node::Template { position, name, pipeline } => self.template(*position, name, pipeline.as_ref(), dot)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn print(&mut self, pipeline: &Pipeline, value: &Value) -> Done<()> {
        if let Value::Method(_) = value {
            let (position, text) = (first_position(pipeline), display::pipeline(pipeline));
            return self.fail(position, &text, "can't print a method that needs arguments");
        }
        self.out.push_str(&printed(value));
        Ok(())
    }

    fn template(&mut self, position: Position, name: &str, pipeline: Option<&Pipeline>, dot: &Value) -> Done<()> {
        let trees = self.trees;
        let quoted = super::format::quote(name);
        let text = match pipeline {
            Some(pipeline) => format!("{{{{template {quoted} {}}}}}", display::pipeline(pipeline)),
            None => format!("{{{{template {quoted}}}}}"),
        };
        let Some(list) = trees.named.get(name) else {
            return self.fail(position, &text, format!("template {quoted} not defined"));
        };
        if self.calls == CALLS_MAX {
            return self.fail(position, &text, format!("exceeded maximum template depth ({CALLS_MAX})"));
        }
        let value = match pipeline {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Value::Missing,
        };
        let outer_name = std::mem::replace(&mut self.name, name.to_owned());
        let outer_variables = std::mem::replace(&mut self.variables, vec![("$".to_owned(), value.clone())]);
        self.calls += 1;
        self.list(list, &value)?;
        self.calls -= 1;
        self.variables = outer_variables;
        self.name = outer_name;
        Ok(())
    }

    fn range(&mut self, pipeline: &Pipeline, body: &List, otherwise: &List, dot: &Value) -> Done<Flow> {
        let scope = self.variables.len();
        let value = self.pipeline(pipeline, dot)?;
        let mut empty = true;
        let text = display::commands(pipeline);
        let position = first_position(pipeline);
        match &value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    empty = false;
                    if self.turn(pipeline, scope, body, Value::from(index), item.clone())? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Object(object) if matches!(object.kind, ObjectKind::Map | ObjectKind::Document) => {
                for (name, item) in object.sorted() {
                    empty = false;
                    if self.turn(pipeline, scope, body, Value::from(name.as_str()), item.clone())? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Int(_) if pipeline.variables.len() > 1 => {
                let message = format!("can't use {} to iterate over more than one variable", printed(&value));
                return self.fail(position, &text, message);
            }
            Value::Int(count) => {
                let mut number = 0;
                while number < *count {
                    empty = false;
                    if self.turn(pipeline, scope, body, Value::Int(number), Value::Int(number))? == Flow::Break {
                        break;
                    }
                    number += 1;
                }
            }
            Value::Missing | Value::Nil | Value::NilList | Value::NilMap => {}
            other => return self.fail(position, &text, format!("range can't iterate over {}", printed(other))),
        }
        let flow = if empty { self.list(otherwise, dot)? } else { Flow::On };
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn turn(&mut self, pipeline: &Pipeline, scope: usize, body: &List, key: Value, item: Value) -> Done<Flow> {
        self.step()?;
        let given = match pipeline.variables.as_slice() {
            [] => vec![],
            [only] => vec![(only, item.clone())],
            [first, second, ..] => vec![(first, key), (second, item.clone())],
        };
        if pipeline.assigns {
            for (name, value) in given {
                self.assign(name, value);
            }
        } else {
            self.variables.truncate(scope);
            self.variables.extend(given.into_iter().map(|(name, value)| (name.clone(), value)));
        }
        let inner = self.variables.len();
        let flow = self.list(body, &item)?;
        self.variables.truncate(inner);
        Ok(flow)
    }

    fn assign(&mut self, name: &str, value: Value) {
        if let Some(slot) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            slot.1 = value;
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Done<Value> {
        self.step()?;
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        let value = last.unwrap_or(Value::Missing);
        // A range sets its variables turn by turn.
        for variable in &pipeline.variables {
            if pipeline.assigns {
                self.assign(variable, value.clone());
            } else {
                self.variables.push((variable.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Value, last: Option<Value>) -> Done<Value> {
        let first = &command.arguments[0];
        match &first.term {
            Term::Function(name) => return self.function(first, name, command, dot, last),
            Term::Field(names) => return self.chain(first, dot.clone(), names, Some(command), dot, last),
            Term::Variable(name, names) if !names.is_empty() => {
                let base = self.variable(name);
                return self.chain(first, base, names, Some(command), dot, last);
            }
            Term::Chain(base, names) => {
                let base = self.operand(base, dot)?;
                return self.chain(first, base, names, Some(command), dot, last);
            }
            _ => {}
        }
        if command.arguments.len() > 1 || last.is_some() {
            let text = display::operand(first);
            return self.fail(first.position, &text, format!("can't give argument to non-function {text}"));
        }
        if matches!(first.term, Term::Nil) {
            return self.fail(first.position, "nil", "nil is not a command");
        }
        self.operand(first, dot)
    }

    fn variable(&self, name: &str) -> Value {
        self.variables.iter().rev().find(|(known, _)| known == name).map_or(Value::Missing, |(_, value)| value.clone())
    }

    /// The value of a word that takes no arguments.
    fn operand(&mut self, operand: &Operand, dot: &Value) -> Done<Value> {
        self.step()?;
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => Ok(Value::Nil),
            Term::Constant(Value::Int(number), text) if *number > i128::from(i64::MAX) => {
                self.fail(operand.position, text, format!("{text} overflows int"))
            }
            Term::Constant(value, _) => Ok(value.clone()),
            Term::Field(names) => self.chain(operand, dot.clone(), names, None, dot, None),
            Term::Variable(name, names) => {
                let base = self.variable(name);
                self.chain(operand, base, names, None, dot, None)
            }
            Term::Function(name) => {
                let command = Command { arguments: vec![operand.clone()] };
                self.function(operand, name, &command, dot, None)
            }
            Term::Pipeline(pipeline) => self.pipeline(pipeline, dot),
            Term::Chain(base, names) => {
                let base = self.operand(base, dot)?;
                self.chain(operand, base, names, None, dot, None)
            }
        }
    }

    fn arguments(&mut self, command: &Command, dot: &Value, last: Option<Value>) -> Done<Vec<Value>> {
        let mut values = Vec::with_capacity(command.arguments.len());
        for argument in &command.arguments[1..] {
            values.push(self.operand(argument, dot)?);
        }
        values.extend(last);
        Ok(values)
    }

    fn function(
        &mut self,
        at: &Operand,
        name: &str,
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Done<Value> {
        if name == "and" || name == "or" {
            return self.junction(at, name, command, dot, last);
        }
        let arguments = self.arguments(command, dot, last)?;
        let outcome = functions::call(name, self.mode, &arguments);
        if let Ok(Value::String(text)) = &outcome {
            self.text_bytes += text.len();
            self.step()?;
        }
        outcome.or_else(|message| {
            if let Some((constant, message)) = mistyped_constant(command, &message) {
                return self.fail(constant.position, &display::operand(constant), message);
            }
            // Go refuses wrong counts and types before the call.
            let before_call =
                ["wrong number", "wrong type", "invalid value;"].iter().any(|start| message.starts_with(start));
            let message = if before_call { message } else { format!("error calling {name}: {message}") };
            let text = if before_call { name.to_owned() } else { display::command(command) };
            self.fail(at.position, &text, message)
        })
    }

    /// `and` and `or` evaluate only as many arguments as decide.
    fn junction(
        &mut self,
        at: &Operand,
        name: &str,
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Done<Value> {
        let mut value = None;
        for argument in &command.arguments[1..] {
            let next = self.operand(argument, dot)?;
            let decides = next.is_true() == (name == "or");
            value = Some(next);
            if decides {
                return Ok(value.unwrap_or(Value::Missing));
            }
        }
        match last.or(value) {
            Some(value) => Ok(value),
            None => self.fail(at.position, name, format!("wrong number of args for {name}: want at least 1 got 0")),
        }
    }

    /// Fields one after the other; the last may be a method that takes the command's arguments.
    fn chain(
        &mut self,
        at: &Operand,
        base: Value,
        names: &[String],
        command: Option<&Command>,
        dot: &Value,
        last: Option<Value>,
    ) -> Done<Value> {
        let mut value = base;
        for name in names {
            value = self.field(at, &value, name)?;
        }
        let takes = command.is_some_and(|command| command.arguments.len() > 1) || last.is_some();
        match (&value, command) {
            (Value::Method(method), _) => {
                let arguments = match command {
                    Some(command) => self.arguments(command, dot, last)?,
                    None => Vec::new(),
                };
                (method.0)(&arguments).or_else(|message| self.fail(at.position, &display::operand(at), message))
            }
            _ if takes => {
                let name = names.last().map_or("", String::as_str);
                self.fail(
                    at.position,
                    &display::operand(at),
                    format!("{name} has arguments but cannot be invoked as function"),
                )
            }
            _ => Ok(value),
        }
    }

    fn field(&self, at: &Operand, value: &Value, name: &str) -> Done<Value> {
        let fail = |message: String| self.fail(at.position, &display::operand(at), message);
        match value {
            Value::Object(object) => match (object.get(name), object.kind) {
                (Some(found), _) => Ok(found.clone()),
                (None, ObjectKind::Map) => Ok(Value::Missing),
                (None, ObjectKind::Document) => {
                    let name = super::format::quote(name);
                    fail(format!("map has no entry for key {name}"))
                }
                (None, ObjectKind::Struct(kind) | ObjectKind::Row(kind)) => {
                    fail(format!("can't evaluate field {name} in type {kind}"))
                }
            },
            Value::Missing | Value::NilMap => Ok(Value::Missing),
            Value::Nil => fail(format!("nil pointer evaluating interface {{}}.{name}")),
            other => {
                let kind = if matches!(other, Value::NilList) { "[]interface {}" } else { other.type_name() };
                fail(format!("can't evaluate field {name} in type {kind}"))
            }
        }
    }
}

/// Go checks constants by themselves: the argument that is not of the wanted type, and what to say of it.
fn mistyped_constant<'a>(command: &'a Command, message: &str) -> Option<(&'a Operand, String)> {
    let wanted = message.strip_prefix("wrong type for value; expected ")?.split(';').next()?;
    let mistyped = |operand: &&Operand| match &operand.term {
        Term::Constant(value, _) => value.type_name() != wanted,
        _ => false,
    };
    let constant = command.arguments[1..].iter().find(mistyped)?;
    let kind = if wanted == "int" { "integer" } else { wanted };
    Some((constant, format!("expected {kind}; found {}", display::operand(constant))))
}

fn first_position(pipeline: &Pipeline) -> Position {
    pipeline
        .commands
        .first()
        .and_then(|command| command.arguments.first())
        .map_or(Position::default(), |operand| operand.position)
}
