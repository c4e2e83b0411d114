//! Template text cut into tokens, by the rules of Go's text/template.

use super::TemplateError;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    ActionStart,
    ActionEnd,
    Space,
    Identifier,
    Keyword,
    Field,
    Variable,
    Dot,
    Bool,
    Nil,
    Number,
    Character,
    String,
    RawString,
    Pipe,
    Declare,
    Assign,
    Comma,
    LeftParen,
    RightParen,
    /// Any other printable ASCII character; no rule takes it.
    Other,
    End,
}

/// A piece of the template with the byte and the line at which it starts.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) position: usize,
    pub(super) line: usize,
}

impl Token {
    /// As Go's messages quote a token.
    pub(super) fn quoted(&self) -> String {
        match self.kind {
            Kind::End => "EOF".to_owned(),
            Kind::Keyword | Kind::Dot | Kind::Nil => format!("<{}>", self.text),
            _ if self.text.len() > 10 => format!("{}...", super::format::quote(&prefix(&self.text, 10))),
            _ => super::format::quote(&self.text),
        }
    }
}

fn prefix(text: &str, count: usize) -> String {
    text.chars().take(count).collect()
}

const KEYWORDS: [&str; 10] = ["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

/// Cuts `text` into tokens, the last of them [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut lexer = Lexer { text, at: 0, start: 0, parens: 0, counted: 0, line: 1, tokens: Vec::new() };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    start: usize,
    parens: usize,
    /// Line feeds before this byte were counted.
    counted: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn run(&mut self) -> Result<(), TemplateError> {
        let mut trim_left = false;
        while let Some(found) = self.rest().find("{{") {
            let open = self.at + found;
            let body = &self.text[open + 2..];
            let trims = starts_trim_marker(body);
            self.push_text(open, trim_left, trims);
            self.at = open + 2 + if trims { 2 } else { 0 };
            trim_left = if self.rest().starts_with("/*") { self.comment()? } else { self.action(open)? };
        }
        self.push_text(self.text.len(), trim_left, false);
        self.start = self.text.len();
        self.push(Kind::End, String::new());
        Ok(())
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The line of `position`, which never goes back.
    fn line_of(&mut self, position: usize) -> usize {
        let passed = self.text.as_bytes().get(self.counted..position).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.counted = self.counted.max(position);
        self.line
    }

    fn push(&mut self, kind: Kind, text: String) {
        let line = self.line_of(self.start);
        self.tokens.push(Token { kind, text, position: self.start, line });
    }

    fn fail<T>(&mut self, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::parse(self.line_of(self.at.min(self.text.len())), message))
    }

    fn push_text(&mut self, end: usize, trim_left: bool, trim_right: bool) {
        let mut piece = &self.text[self.at..end];
        if trim_left {
            piece = piece.trim_start_matches(is_space);
        }
        if trim_right {
            piece = piece.trim_end_matches(is_space);
        }
        if !piece.is_empty() {
            self.start = self.at;
            let piece = piece.to_owned();
            self.push(Kind::Text, piece);
        }
        self.at = end;
    }

    /// Skips `/* … */}}`; whether the text after it is trimmed.
    fn comment(&mut self) -> Result<bool, TemplateError> {
        let Some(end) = self.rest().find("*/") else { return self.fail("unclosed comment") };
        self.at += end + 2;
        for (close, trims) in [("}}", false), (" -}}", true), ("\t-}}", true), ("\n-}}", true), ("\r-}}", true)] {
            if self.rest().starts_with(close) {
                self.at += close.len();
                return Ok(trims);
            }
        }
        self.fail("comment ends before closing delimiter")
    }

    /// Cuts one action up to and with `}}`; whether the text after it is trimmed.
    fn action(&mut self, open: usize) -> Result<bool, TemplateError> {
        self.start = open;
        self.push(Kind::ActionStart, "{{".to_owned());
        self.parens = 0;
        loop {
            self.start = self.at;
            let rest = self.rest();
            let trims = rest.starts_with(is_space) && rest[1..].starts_with("-}}");
            if trims || rest.starts_with("}}") {
                if self.parens > 0 {
                    return self.fail("unclosed left paren");
                }
                self.at += if trims { 4 } else { 2 };
                self.push(Kind::ActionEnd, "}}".to_owned());
                return Ok(trims);
            }
            self.token()?;
        }
    }

    fn take(&mut self, kind: Kind, length: usize) {
        let text = self.text[self.at..self.at + length].to_owned();
        self.at += length;
        self.push(kind, text);
    }

    fn token(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return self.fail("unclosed action") };
        let run = |accept: fn(char) -> bool| rest.find(|c| !accept(c)).unwrap_or(rest.len());
        match first {
            _ if is_space(first) => {
                let mut length = run(is_space);
                // The last space belongs to a trim marker.
                if rest[length..].starts_with("-}}") {
                    length -= 1;
                }
                self.take(Kind::Space, length);
            }
            ':' if rest.starts_with(":=") => self.take(Kind::Declare, 2),
            ':' => return self.fail("expected :="),
            '=' => self.take(Kind::Assign, 1),
            '|' => self.take(Kind::Pipe, 1),
            ',' => self.take(Kind::Comma, 1),
            '(' => {
                self.parens += 1;
                self.take(Kind::LeftParen, 1);
            }
            ')' => {
                self.parens = match self.parens.checked_sub(1) {
                    Some(parens) => parens,
                    None => return self.fail("unexpected right paren"),
                };
                self.take(Kind::RightParen, 1);
            }
            '"' => self.quoted(Kind::String, '"', "unterminated quoted string")?,
            '\'' => self.quoted(Kind::Character, '\'', "unterminated character constant")?,
            '`' => match rest[1..].find('`') {
                Some(end) => self.take(Kind::RawString, end + 2),
                None => return self.fail("unterminated raw quoted string"),
            },
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let length = 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1);
                self.word(if length == 1 { Kind::Dot } else { Kind::Field }, length)?;
            }
            '$' => {
                let length = 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1);
                self.word(Kind::Variable, length)?;
            }
            '+' | '-' | '.' | '0'..='9' => self.number()?,
            _ if is_word(first) => {
                let length = run(is_word);
                let kind = match &rest[..length] {
                    "true" | "false" => Kind::Bool,
                    "nil" => Kind::Nil,
                    word if KEYWORDS.contains(&word) => Kind::Keyword,
                    _ => Kind::Identifier,
                };
                self.word(kind, length)?;
            }
            '!'..='~' => self.take(Kind::Other, 1),
            other => {
                return self.fail(format!("unrecognized character in action: U+{:04X} '{other}'", u32::from(other)));
            }
        }
        Ok(())
    }

    fn word(&mut self, kind: Kind, length: usize) -> Result<(), TemplateError> {
        let after = &self.rest()[length..];
        let ends =
            after.is_empty() || after.starts_with(|c| is_space(c) || ".,|:=()".contains(c)) || after.starts_with("}}");
        if let (false, Some(next)) = (ends, after.chars().next()) {
            return self.fail(format!("bad character U+{:04X} '{next}'", u32::from(next)));
        }
        self.take(kind, length);
        Ok(())
    }

    fn quoted(&mut self, kind: Kind, quote: char, unterminated: &str) -> Result<(), TemplateError> {
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find_map(|(index, c)| {
            let stop = (!escaped && c == quote) || c == '\n';
            escaped = !escaped && c == '\\';
            stop.then_some((index, c))
        });
        match end {
            Some((index, c)) if c == quote => self.take(kind, index + 1),
            _ => return self.fail(unterminated),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let mut length = usize::from(rest.starts_with(['+', '-']));
        let bytes = rest.as_bytes();
        while let Some(byte) = bytes.get(length) {
            let exponent_sign = matches!(byte, b'+' | b'-') && matches!(bytes[length - 1], b'e' | b'E' | b'p' | b'P');
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.') || exponent_sign) {
                break;
            }
            length += 1;
        }
        self.take(Kind::Number, length);
        Ok(())
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn starts_trim_marker(body: &str) -> bool {
    body.starts_with('-') && body[1..].starts_with(is_space)
}
