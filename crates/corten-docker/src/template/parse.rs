//! Tokens become a tree: lists of text, actions and control structures.

use std::collections::HashMap;

use super::functions;
use super::lex::{Kind, Token, tokens};
use super::value::Value;
use super::{TemplateError, literal};

/// Control structures and parentheses deeper than this are refused.
const DEPTH_MAX: usize = 100;

/// A sequence of nodes.
pub(super) type List = Vec<Node>;

/// A piece of the template that does something.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If { pipeline: Pipeline, then: List, otherwise: List },
    With { pipeline: Pipeline, then: List, otherwise: List },
    Range { pipeline: Pipeline, body: List, otherwise: List },
    Template { position: Position, name: String, pipeline: Option<Pipeline> },
    Break,
    Continue,
}

/// Where a node is: line from 1, column in bytes from 0.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// `$a, $b := command | command`.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// An operand and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) arguments: Vec<Operand>,
}

/// A word of a command and where it is.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) position: Position,
    pub(super) term: Term,
}

/// What a word is.
#[derive(Debug, Clone)]
pub(super) enum Term {
    Dot,
    Nil,
    /// A constant and how it was written.
    Constant(Value, String),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Pipeline(Box<Pipeline>),
    Chain(Box<Operand>, Vec<String>),
}

/// The main tree and every named one.
#[derive(Debug, Clone, Default)]
pub(super) struct Trees {
    pub(super) main: List,
    pub(super) named: HashMap<String, List>,
}

/// Parses a whole template.
pub(super) fn parse(text: &str) -> Result<Trees, TemplateError> {
    let tokens = tokens(text)?;
    let mut parser =
        Parser { text, tokens, at: 0, variables: vec!["$".to_owned()], named: HashMap::new(), depth: 0, loops: 0 };
    let (main, end) = parser.list()?;
    match end {
        Stop::End => Ok(Trees { main, named: parser.named }),
        Stop::Else => parser.fail("unexpected {{else}}"),
        Stop::EndKeyword => parser.fail("unexpected {{end}}"),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    variables: Vec<String>,
    named: HashMap<String, List>,
    depth: usize,
    loops: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Stop {
    End,
    Else,
    EndKeyword,
}

type Parsed<T> = Result<T, TemplateError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek().kind == Kind::Space {
            self.at += 1;
        }
    }

    fn next_word(&mut self) -> Token {
        self.skip_space();
        self.next()
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let line = self.tokens[self.at.saturating_sub(1).min(self.tokens.len() - 1)].line;
        Err(TemplateError::parse(line, message))
    }

    fn unexpected<T>(&self, token: &Token, context: &str) -> Parsed<T> {
        Err(TemplateError::parse(token.line, format!("unexpected {} in {context}", token.quoted())))
    }

    fn position(&self, token: &Token) -> Position {
        let before = &self.text[..token.position];
        let column = before.rfind('\n').map_or(token.position, |newline| token.position - newline - 1);
        Position { line: token.line, column }
    }

    fn deeper(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { self.fail("template is nested too deeply") } else { Ok(()) }
    }

    /// Nodes up to the end of the text, `{{else` or `{{end`; the keyword is consumed.
    fn list(&mut self) -> Parsed<(List, Stop)> {
        self.deeper()?;
        let mut list = List::new();
        let stop = loop {
            let token = self.next();
            match token.kind {
                Kind::End => break Stop::End,
                Kind::Text => list.push(Node::Text(token.text)),
                _ => {
                    self.skip_space();
                    let word = self.peek().clone();
                    match (word.kind, word.text.as_str()) {
                        (Kind::Keyword, "end") => {
                            self.at += 1;
                            self.close("end")?;
                            break Stop::EndKeyword;
                        }
                        (Kind::Keyword, "else") => {
                            self.at += 1;
                            break Stop::Else;
                        }
                        (Kind::Keyword, keyword) => {
                            self.at += 1;
                            list.extend(self.control(keyword)?);
                        }
                        _ => list.push(self.action()?),
                    }
                }
            }
        };
        self.depth -= 1;
        Ok((list, stop))
    }

    fn close(&mut self, context: &str) -> Parsed<()> {
        let token = self.next_word();
        if token.kind == Kind::ActionEnd { Ok(()) } else { self.unexpected(&token, context) }
    }

    fn action(&mut self) -> Parsed<Node> {
        Ok(Node::Action(self.pipeline("command", Kind::ActionEnd)?))
    }

    fn control(&mut self, keyword: &str) -> Parsed<Option<Node>> {
        let node = match keyword {
            "if" | "with" | "range" => self.branch(keyword)?,
            "template" => self.template()?,
            "block" => self.block()?,
            "define" => {
                self.define()?;
                return Ok(None);
            }
            "break" | "continue" if self.loops == 0 => {
                return self.fail(format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
            }
            "break" => {
                self.close("{{break}}")?;
                Node::Break
            }
            _ => {
                self.close("{{continue}}")?;
                Node::Continue
            }
        };
        Ok(Some(node))
    }

    fn branch(&mut self, keyword: &str) -> Parsed<Node> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(keyword, Kind::ActionEnd)?;
        self.loops += usize::from(keyword == "range");
        let (then, stop) = self.list()?;
        self.loops -= usize::from(keyword == "range");
        let otherwise = match stop {
            Stop::End => return self.fail("unexpected EOF"),
            Stop::EndKeyword => List::new(),
            Stop::Else => self.otherwise(keyword)?,
        };
        self.variables.truncate(scope);
        Ok(match keyword {
            "if" => Node::If { pipeline, then, otherwise },
            "with" => Node::With { pipeline, then, otherwise },
            _ => Node::Range { pipeline, body: then, otherwise },
        })
    }

    /// What follows `{{else`: `}}` and a list, or `if`/`with` of a chain, whose one `{{end}}` closes both.
    fn otherwise(&mut self, keyword: &str) -> Parsed<List> {
        self.skip_space();
        let word = self.peek().clone();
        if word.kind == Kind::Keyword && word.text == keyword && keyword != "range" {
            self.at += 1;
            self.deeper()?;
            let nested = self.branch(keyword)?;
            self.depth -= 1;
            return Ok(vec![nested]);
        }
        self.close("else")?;
        let (list, stop) = self.list()?;
        match stop {
            Stop::EndKeyword => Ok(list),
            Stop::End => self.fail("unexpected EOF"),
            Stop::Else => self.fail("expected end; found {{else}}"),
        }
    }

    fn name(&mut self, context: &str) -> Parsed<String> {
        let token = self.next_word();
        match token.kind {
            Kind::String | Kind::RawString => {
                literal::string(&token.text).map_err(|message| TemplateError::parse(token.line, message))
            }
            _ => self.unexpected(&token, context),
        }
    }

    fn template(&mut self) -> Parsed<Node> {
        self.skip_space();
        let position = self.position(&self.peek().clone());
        let name = self.name("template clause")?;
        self.skip_space();
        let pipeline = if self.peek().kind == Kind::ActionEnd {
            self.at += 1;
            None
        } else {
            Some(self.pipeline("template clause", Kind::ActionEnd)?)
        };
        Ok(Node::Template { position, name, pipeline })
    }

    fn block(&mut self) -> Parsed<Node> {
        self.skip_space();
        let position = self.position(&self.peek().clone());
        let name = self.name("block clause")?;
        let pipeline = Some(self.pipeline("block clause", Kind::ActionEnd)?);
        self.definition(name.clone(), "block clause")?;
        Ok(Node::Template { position, name, pipeline })
    }

    fn define(&mut self) -> Parsed<()> {
        let name = self.name("define clause")?;
        self.close("define clause")?;
        self.definition(name, "define clause")
    }

    fn definition(&mut self, name: String, context: &str) -> Parsed<()> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        let (list, stop) = self.list()?;
        self.variables = outer;
        self.loops = loops;
        if stop != Stop::EndKeyword {
            let found = if stop == Stop::End { "EOF".to_owned() } else { format!("{{{{else}}}} in {context}") };
            return self.fail(format!("unexpected {found}"));
        }
        self.named.insert(name, list);
        Ok(())
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Parsed<Pipeline> {
        self.deeper()?;
        self.skip_space();
        let (variables, assigns) = self.declarations(context)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            self.skip_space();
            let token = self.peek().clone();
            if token.kind == end {
                self.at += 1;
                break;
            }
            if !starts_operand(token.kind) {
                self.at += 1;
                return self.unexpected(&token, context);
            }
            commands.push(self.command()?);
        }
        if commands.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        for (index, command) in commands.iter().enumerate().skip(1) {
            if matches!(command.arguments[0].term, Term::Constant(..) | Term::Dot | Term::Nil) {
                return self.fail(format!("non executable command in pipeline stage {}", index + 1));
            }
        }
        self.depth -= 1;
        Ok(Pipeline { variables, assigns, commands })
    }

    /// `$a :=`, `$a =`, and in a range `$a, $b :=`.
    fn declarations(&mut self, context: &str) -> Parsed<(Vec<String>, bool)> {
        let start = self.at;
        let mut variables = Vec::new();
        while self.peek().kind == Kind::Variable {
            let variable = self.next();
            self.skip_space();
            let token = self.peek().clone();
            match token.kind {
                Kind::Declare | Kind::Assign => {
                    self.at += 1;
                    variables.push(variable.text);
                    let assigns = token.kind == Kind::Assign;
                    self.declare(&variables, assigns)?;
                    return Ok((variables, assigns));
                }
                Kind::Comma if context == "range" && variables.is_empty() => {
                    self.at += 1;
                    self.skip_space();
                    variables.push(variable.text);
                }
                Kind::Comma => return self.fail(format!("too many declarations in {context}")),
                _ => break,
            }
        }
        if !variables.is_empty() {
            return self.fail("range can only initialize variables");
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn declare(&mut self, variables: &[String], assigns: bool) -> Parsed<()> {
        for variable in variables {
            if !assigns {
                self.variables.push(variable.clone());
            } else if !self.variables.contains(variable) {
                return self.fail(format!("undefined variable {}", super::format::quote(variable)));
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Parsed<Command> {
        let mut arguments = Vec::new();
        loop {
            self.skip_space();
            if let Some(operand) = self.operand()? {
                arguments.push(operand);
            }
            let token = self.next();
            match token.kind {
                Kind::Space => continue,
                Kind::ActionEnd | Kind::RightParen => {
                    self.at -= 1;
                    break;
                }
                Kind::Pipe => break,
                _ => return self.unexpected(&token, "operand"),
            }
        }
        if arguments.is_empty() { self.fail("empty command") } else { Ok(Command { arguments }) }
    }

    /// A term with the fields that follow it without a space.
    fn operand(&mut self) -> Parsed<Option<Operand>> {
        let Some(mut operand) = self.term()? else { return Ok(None) };
        if self.peek().kind != Kind::Field {
            return Ok(Some(operand));
        }
        let position = self.position(&self.peek().clone());
        let mut chain = Vec::new();
        while self.peek().kind == Kind::Field {
            chain.push(self.next().text[1..].to_owned());
        }
        match &mut operand.term {
            Term::Field(names) | Term::Variable(_, names) => {
                names.extend(chain);
                operand.position = position;
            }
            Term::Constant(_, text) => {
                let message = format!("unexpected . after term {}", super::format::quote(text));
                return self.fail(message);
            }
            Term::Dot => return self.fail("unexpected . after term \".\""),
            Term::Nil => return self.fail("unexpected . after term \"nil\""),
            _ => operand = Operand { position, term: Term::Chain(Box::new(operand), chain) },
        }
        Ok(Some(operand))
    }

    fn term(&mut self) -> Parsed<Option<Operand>> {
        let token = self.peek().clone();
        let position = self.position(&token);
        let bad = |message: String| TemplateError::parse(token.line, message);
        self.at += 1;
        let term = match token.kind {
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Bool => Term::Constant(Value::Bool(token.text == "true"), token.text),
            Kind::Number => Term::Constant(literal::number(&token.text).map_err(bad)?, token.text),
            Kind::Character => Term::Constant(literal::character(&token.text).map_err(bad)?, token.text),
            Kind::String | Kind::RawString => {
                Term::Constant(Value::from(literal::string(&token.text).map_err(bad)?), token.text)
            }
            Kind::Field => Term::Field(vec![token.text[1..].to_owned()]),
            Kind::Variable if self.variables.contains(&token.text) => Term::Variable(token.text, Vec::new()),
            Kind::Variable => return Err(bad(format!("undefined variable {}", super::format::quote(&token.text)))),
            Kind::Identifier if functions::exists(&token.text) => Term::Function(token.text),
            Kind::Identifier => return Err(bad(format!("function {} not defined", super::format::quote(&token.text)))),
            Kind::LeftParen => Term::Pipeline(Box::new(self.pipeline("parenthesized pipeline", Kind::RightParen)?)),
            _ => {
                self.at -= 1;
                return Ok(None);
            }
        };
        Ok(Some(Operand { position, term }))
    }
}

fn starts_operand(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Bool
            | Kind::Character
            | Kind::Dot
            | Kind::Field
            | Kind::Identifier
            | Kind::Number
            | Kind::Nil
            | Kind::RawString
            | Kind::String
            | Kind::Variable
            | Kind::LeftParen
    )
}
