//! As much of D-Bus as asking systemd takes: one connection, calls one after the other, their replies and signals.
//!
//! An own client because the library's starts a thread, and a container's process can only be cloned from a process with
//! one. The wire format is the D-Bus specification's, "Message Protocol".

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use corten_types::{Error, ErrorKind, Result};

/// How long systemd may take for an answer, seconds.
const TIMEOUT_S: u64 = 30;

/// Largest message that is read, bytes; systemd's are a few hundred.
const MESSAGE_SIZE_BYTES_MAX: u32 = 1024 * 1024;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A value of one of the types that systemd's properties have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    /// Of 32 bits, with sign.
    Small(i32),
    /// Of 32 bits.
    Word(u32),
    /// With sign.
    Signed(i64),
    Texts(Vec<String>),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
    Pairs(Vec<(String, String)>),
}

/// A named property.
pub(super) type Property = (&'static str, Value);

/// One argument of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument<'a> {
    Text(&'a str),
    Flag(bool),
    #[cfg(test)]
    Number(u32),
    /// Ours, and what the document asks for by name.
    Properties(&'a [Property], &'a [(String, Value)]),
    /// The empty list of auxiliary units.
    NoUnits,
}

/// What is called: always an object of one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) peer: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

/// A message that came in.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    #[cfg_attr(not(test), expect(dead_code, reason = "a service replies to it, in tests"))]
    serial: u32,
    reply_to: u32,
    error: String,
    sender: String,
    pub(super) path: String,
    pub(super) member: String,
    body: Vec<u8>,
}

/// A connection to a message bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects to the bus at the socket `path` as user `uid` (of the first user namespace).
    pub(super) fn connect(path: &str, uid: u32) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .map_err(|error| Error::from(error).context(format!("cannot connect to the message bus at `{path}`")))?;
        stream.set_read_timeout(Some(Duration::from_secs(TIMEOUT_S)))?;
        stream.set_write_timeout(Some(Duration::from_secs(TIMEOUT_S)))?;
        let mut bus = Self { stream: BufReader::new(stream), serial: 0, signals: VecDeque::new() };
        bus.authenticate(uid)?;
        bus.call(BUS, "Hello", &[])?;
        Ok(bus)
    }

    fn authenticate(&mut self, uid: u32) -> Result<()> {
        let hex: String = uid.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        self.stream.get_mut().write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut answer = String::new();
        Read::by_ref(&mut self.stream).take(512).read_line(&mut answer)?;
        if !answer.starts_with("OK ") {
            let message = format!("the message bus refuses user {uid}: {}", answer.trim_end().escape_debug());
            return Err(Error::new(ErrorKind::Denied, message));
        }
        Ok(self.stream.get_mut().write_all(b"BEGIN\r\n")?)
    }

    /// Asks for the signals that `rule` matches.
    pub(super) fn watch(&mut self, rule: &str) -> Result<()> {
        self.call(BUS, "AddMatch", &[Argument::Text(rule)]).map(drop)
    }

    /// Calls a method and waits for its reply.
    pub(super) fn call(&mut self, target: Target<'_>, member: &str, arguments: &[Argument<'_>]) -> Result<Message> {
        let serial = self.send(METHOD_CALL, target, member, 0, arguments)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN if message.reply_to == serial => return Ok(message),
                ERROR if message.reply_to == serial => return Err(failure(&message, member)),
                SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal; waits for it.
    pub(super) fn signal(&mut self) -> Result<Message> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let message = self.receive()?;
            if message.kind == SIGNAL {
                self.signals.push_back(message);
            }
        }
    }

    fn send(
        &mut self,
        kind: u8,
        target: Target<'_>,
        member: &str,
        reply_to: u32,
        arguments: &[Argument<'_>],
    ) -> Result<u32> {
        self.serial += 1;
        let (mut body, mut signature) = (Writer::default(), String::new());
        for argument in arguments {
            signature.push_str(body.argument(argument)?);
        }
        let mut message = Writer::default();
        message.bytes.extend_from_slice(&[b'l', kind, 0, 1]);
        message.u32(length(&body.bytes)?);
        message.u32(self.serial);
        message.array(8, |fields| {
            for (code, signature, text) in
                [(1, "o", target.path), (2, "s", target.interface), (3, "s", member), (6, "s", target.peer)]
            {
                if !text.is_empty() {
                    fields.field(code, signature);
                    fields.text(text)?;
                }
            }
            if reply_to != 0 {
                fields.field(5, "u");
                fields.u32(reply_to);
            }
            if !signature.is_empty() {
                fields.field(8, "g");
                fields.signature(&signature);
            }
            Ok(())
        })?;
        message.align(8);
        message.bytes.append(&mut body.bytes);
        self.stream.get_mut().write_all(&message.bytes)?;
        Ok(self.serial)
    }

    fn receive(&mut self) -> Result<Message> {
        let mut head = [0; 16];
        self.fill(&mut head)?;
        if head[0] != b'l' {
            return Err(malformed("byte order"));
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, fields) = (word(4), word(12));
        if body > MESSAGE_SIZE_BYTES_MAX || fields > MESSAGE_SIZE_BYTES_MAX {
            return Err(malformed("length"));
        }
        let mut rest = vec![0; (fields.next_multiple_of(8) + body) as usize];
        self.fill(&mut rest)?;
        let mut message = Message { kind: head[1], serial: word(8), ..Message::default() };
        message.body = rest.split_off(fields.next_multiple_of(8) as usize);
        rest.truncate(fields as usize);
        let mut fields = Reader { bytes: &rest, at: 0 };
        while fields.at < rest.len() {
            fields.align(8);
            let code = fields.u8()?;
            match (code, fields.signature()?.as_str()) {
                (1, "o") => message.path = fields.text()?,
                (3, "s") => message.member = fields.text()?,
                (4, "s") => message.error = fields.text()?,
                (5, "u") => message.reply_to = fields.u32()?,
                (7, "s") => message.sender = fields.text()?,
                (_, "s" | "o") => drop(fields.text()?),
                (_, "g") => drop(fields.signature()?),
                (_, "u") => drop(fields.u32()?),
                _ => return Err(malformed("header field")),
            }
        }
        Ok(message)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.stream.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                Error::new(ErrorKind::Exhausted, format!("the message bus did not answer within {TIMEOUT_S} s"))
            }
            _ => Error::from(error).context("the message bus ended the connection"),
        })
    }
}

const BUS: Target<'static> =
    Target { peer: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

impl Message {
    /// Reads the body from its start.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
}

fn failure(message: &Message, member: &str) -> Error {
    let kind = match message.error.as_str() {
        "org.freedesktop.DBus.Error.AccessDenied" | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
            ErrorKind::Denied
        }
        "org.freedesktop.systemd1.UnitExists" => ErrorKind::AlreadyExists,
        "org.freedesktop.systemd1.NoSuchUnit" => ErrorKind::NotFound,
        "org.freedesktop.DBus.Error.ServiceUnknown" => ErrorKind::Unsupported,
        "org.freedesktop.DBus.Error.InvalidArgs" | "org.freedesktop.DBus.Error.PropertyReadOnly" => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    };
    let text = message.reader().text().unwrap_or_default();
    Error::new(kind, format!("{member}()")).caused_by(format!("{}: {text}", message.error))
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the message bus sent a message with a bad {what}"))
}

fn length(bytes: &[u8]) -> Result<u32> {
    u32::try_from(bytes.len())
        .map_err(|_| Error::new(ErrorKind::Exhausted, "a message is too long for the message bus"))
}

/// Builds a message. Alignment counts from its start, which is why a body is built apart.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) -> Result<()> {
        if text.contains('\0') {
            return Err(Error::invalid(format!("`{}` holds a zero byte", text.escape_debug())));
        }
        self.u32(length(text.as_bytes())?);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        Ok(())
    }

    fn signature(&mut self, signature: &str) {
        // Ours are a few letters long.
        self.bytes.push(u8::try_from(signature.len()).unwrap_or(0));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.push(0);
    }

    fn field(&mut self, code: u8, signature: &str) {
        self.align(8);
        self.bytes.push(code);
        self.signature(signature);
    }

    /// An array whose elements are aligned to `alignment`; its length leaves out the padding before the first.
    fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.u32(0);
        let place = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        fill(self)?;
        let length = length(&self.bytes[start..])?;
        self.bytes[place..place + 4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    fn argument(&mut self, argument: &Argument<'_>) -> Result<&'static str> {
        match argument {
            Argument::Text(text) => self.text(text).map(|()| "s"),
            Argument::Flag(flag) => {
                self.u32(u32::from(*flag));
                Ok("b")
            }
            #[cfg(test)]
            Argument::Number(number) => {
                self.u32(*number);
                Ok("u")
            }
            Argument::NoUnits => self.array(8, |_| Ok(())).map(|()| "a(sa(sv))"),
            Argument::Properties(ours, asked) => {
                let ours = ours.iter().map(|(name, value)| (*name, value));
                let asked = asked.iter().map(|(name, value)| (name.as_str(), value));
                self.array(8, |list| {
                    ours.chain(asked).try_for_each(|(name, value)| {
                        list.align(8);
                        list.text(name)?;
                        list.variant(value)
                    })
                })?;
                Ok("a(sv)")
            }
        }
    }

    fn variant(&mut self, value: &Value) -> Result<()> {
        self.signature(match value {
            Value::Text(_) => "s",
            Value::Flag(_) => "b",
            Value::Number(_) => "t",
            Value::Small(_) => "i",
            Value::Word(_) => "u",
            Value::Signed(_) => "x",
            Value::Texts(_) => "as",
            Value::Numbers(_) => "au",
            Value::Bytes(_) => "ay",
            Value::Pairs(_) => "a(ss)",
        });
        match value {
            Value::Text(text) => self.text(text)?,
            Value::Flag(flag) => self.u32(u32::from(*flag)),
            Value::Number(number) => self.u64(*number),
            Value::Small(number) => self.u32(number.cast_unsigned()),
            Value::Word(number) => self.u32(*number),
            Value::Signed(number) => self.u64(number.cast_unsigned()),
            Value::Texts(texts) => self.array(4, |list| texts.iter().try_for_each(|text| list.text(text)))?,
            Value::Numbers(numbers) => self.array(4, |list| {
                numbers.iter().for_each(|number| list.u32(*number));
                Ok(())
            })?,
            Value::Bytes(bytes) => self.array(1, |list| {
                list.bytes.extend_from_slice(bytes);
                Ok(())
            })?,
            Value::Pairs(pairs) => self.array(8, |list| {
                pairs.iter().try_for_each(|(first, second)| {
                    list.align(8);
                    list.text(first)?;
                    list.text(second)
                })
            })?,
        }
        Ok(())
    }
}

/// Takes a message apart.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(|| malformed("length"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| malformed("length"))?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A string or an object path.
    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    pub(super) fn signature(&mut self) -> Result<String> {
        let length = usize::from(self.u8()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
}

/// The other side, for tests: a service on a real bus.
#[cfg(test)]
pub(super) mod service {
    use super::*;

    impl Bus {
        pub(in super::super) fn serve(&mut self, name: &str) {
            self.call(BUS, "RequestName", &[Argument::Text(name), Argument::Number(0)]).unwrap();
        }

        /// The next call: its method, and a reply address.
        pub(in super::super) fn next_call(&mut self) -> Option<Message> {
            loop {
                let message = self.receive().ok()?;
                if message.kind == METHOD_CALL {
                    return Some(message);
                }
            }
        }

        pub(in super::super) fn reply(&mut self, call: &Message, arguments: &[Argument<'_>]) {
            let target = Target { peer: &call.sender, path: "", interface: "" };
            self.send(METHOD_RETURN, target, "", call.serial, arguments).unwrap();
        }

        /// Sends a D-Bus variant holding a string.
        pub(in super::super) fn reply_variant(&mut self, call: &Message, text: &str) {
            let mut body = Writer::default();
            body.variant(&Value::Text(text.to_owned())).unwrap();
            self.raw(METHOD_RETURN, &call.sender, "", call.serial, "v", body);
        }

        pub(in super::super) fn refuse(&mut self, call: &Message, error: &str) {
            let mut body = Writer::default();
            body.text("refused").unwrap();
            self.raw(ERROR, &call.sender, error, call.serial, "s", body);
        }

        fn raw(&mut self, kind: u8, peer: &str, error: &str, reply_to: u32, signature: &str, mut body: Writer) {
            self.serial += 1;
            let mut message = Writer::default();
            message.bytes.extend_from_slice(&[b'l', kind, 0, 1]);
            message.u32(length(&body.bytes).unwrap());
            message.u32(self.serial);
            message
                .array(8, |fields| {
                    if !error.is_empty() {
                        fields.field(4, "s");
                        fields.text(error)?;
                    }
                    fields.field(5, "u");
                    fields.u32(reply_to);
                    fields.field(6, "s");
                    fields.text(peer)?;
                    fields.field(8, "g");
                    fields.signature(signature);
                    Ok(())
                })
                .unwrap();
            message.align(8);
            message.bytes.append(&mut body.bytes);
            self.stream.get_mut().write_all(&message.bytes).unwrap();
        }

        pub(in super::super) fn emit(&mut self, path: &str, interface: &str, member: &str, arguments: &[Argument<'_>]) {
            let target = Target { peer: "", path, interface };
            self.send(SIGNAL, target, member, 0, arguments).unwrap();
        }
    }

    impl Reader<'_> {
        /// A list of properties, each value as text.
        pub(in super::super) fn properties(&mut self) -> Vec<(String, String)> {
            let length = self.u32().unwrap() as usize;
            self.align(8);
            let (end, mut list) = (self.at + length, Vec::new());
            while self.at < end {
                self.align(8);
                let name = self.text().unwrap();
                let signature = self.signature().unwrap();
                let value = match signature.as_str() {
                    "s" => self.text().unwrap(),
                    "b" => (self.u32().unwrap() == 1).to_string(),
                    "t" => {
                        self.align(8);
                        u64::from_le_bytes(self.take(8).unwrap().try_into().unwrap()).to_string()
                    }
                    "au" => {
                        let count = self.u32().unwrap() / 4;
                        format!("{:?}", (0..count).map(|_| self.u32().unwrap()).collect::<Vec<_>>())
                    }
                    "ay" => {
                        let count = self.u32().unwrap() as usize;
                        format!("{:?}", self.take(count).unwrap())
                    }
                    "a(ss)" => {
                        let length = self.u32().unwrap() as usize;
                        self.align(8);
                        let (end, mut pairs) = (self.at + length, Vec::new());
                        while self.at < end {
                            self.align(8);
                            pairs.push(format!("{} {}", self.text().unwrap(), self.text().unwrap()));
                        }
                        pairs.join(", ")
                    }
                    other => panic!("unexpected type {other}"),
                };
                list.push((name, value));
            }
            list
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_specifications_layout() {
        let mut writer = Writer::default();
        let properties = [("A", Value::Number(7))];
        assert_eq!(
            writer.argument(&Argument::Properties(&properties, &[("Bc".to_owned(), Value::Numbers(vec![1]))])).unwrap(),
            "a(sv)"
        );
        let mut expected = vec![44, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([1, 0, 0, 0, b'A', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([2, 0, 0, 0, b'B', b'c', 0, 2, b'a', b'u', 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(writer.bytes, expected);
        assert!(Writer::default().text("a\0b").is_err());
    }

    #[test]
    fn a_short_message_is_an_error() {
        for bytes in [&[][..], &[5, 0, 0, 0, b'a'], &[255, 255, 255, 255, 0]] {
            assert!(Reader { bytes, at: 0 }.text().is_err());
        }
    }
}
