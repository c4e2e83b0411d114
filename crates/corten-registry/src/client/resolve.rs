//! Names to addresses without the C library: /etc/hosts, then the name servers of /etc/resolv.conf over UDP, and over TCP
//! where an answer does not fit. (In a static binary getaddrinfo(3) would load shared libraries of the host.)

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use corten_types::{Error, ErrorKind, Result};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::url::shown;

/// Largest /etc/hosts and /etc/resolv.conf that is read, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most addresses of one name.
const ADDRESSES_MAX: usize = 16;
/// Most aliases that one answer is followed through.
const ALIASES_MAX: usize = 12;
/// Most name servers, search domains: resolv.conf(5)'s limits.
const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    hosts: Vec<(IpAddr, Vec<String>)>,
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    dots: usize,
    wait: Duration,
    attempts: usize,
}

impl Names {
    /// Reads files as /etc/hosts and /etc/resolv.conf are; a missing one is an empty one.
    pub(crate) fn load(hosts: &Path, resolv_conf: &Path) -> Self {
        let read = |path: &Path| {
            let content = corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX).unwrap_or_default();
            String::from_utf8_lossy(&content).into_owned()
        };
        Self::parse(&read(hosts), &read(resolv_conf))
    }

    /// The content of both files.
    pub(crate) fn parse(hosts: &str, resolv: &str) -> Self {
        let mut names = Self {
            hosts: parse_hosts(hosts),
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            wait: Duration::from_secs(5),
            attempts: 2,
        };
        for line in resolv.lines() {
            names.take_line(line.split(['#', ';']).next().unwrap_or_default());
        }
        if names.servers.is_empty() {
            names.servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
        }
        names
    }

    fn take_line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A scope (`%eth0`) says which link; the kernel finds it for global addresses without.
                let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                if let Some(address) = address.filter(|_| self.servers.len() < SERVERS_MAX) {
                    self.servers.push(SocketAddr::new(address, 53));
                }
            }
            Some("search" | "domain") => self.search = words.take(DOMAINS_MAX).map(str::to_owned).collect(),
            Some("options") => {
                for word in words {
                    let number = |name: &str| word.strip_prefix(name).and_then(|digits| digits.parse::<u64>().ok());
                    if let Some(dots) = number("ndots:") {
                        self.dots = usize::try_from(dots.min(15)).unwrap_or(1);
                    } else if let Some(seconds) = number("timeout:") {
                        self.wait = Duration::from_secs(seconds.clamp(1, 30));
                    } else if let Some(times) = number("attempts:") {
                        self.attempts = usize::try_from(times.clamp(1, 5)).unwrap_or(2);
                    }
                }
            }
            _ => {}
        }
    }

    /// The addresses of `host`, which may be an address itself.
    pub(crate) fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let known: Vec<IpAddr> = self.in_hosts(host);
        if !known.is_empty() {
            return Ok(known);
        }
        // RFC 6761: these names never leave the machine.
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
        }
        let mut last = None;
        for name in self.candidates(host) {
            match self.ask(&name) {
                Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        let missing = Error::new(ErrorKind::NotFound, format!("there is no host `{}`", shown(host)));
        Err(last.map_or(missing, |error| {
            Error::new(ErrorKind::Internal, format!("cannot look up host `{}`", shown(host))).caused_by(error)
        }))
    }

    fn in_hosts(&self, host: &str) -> Vec<IpAddr> {
        let has = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case(host));
        let found = self.hosts.iter().filter(|(_, names)| has(names)).map(|(address, _)| *address);
        found.take(ADDRESSES_MAX).collect()
    }

    /// The whole names to ask for, in order, as resolv.conf(5) says.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![format!("{whole}.")];
        }
        let searched = self.search.iter().map(|domain| format!("{host}.{}.", domain.trim_end_matches('.')));
        let mut names: Vec<String> = searched.collect();
        let place = if host.matches('.').count() >= self.dots { 0 } else { names.len() };
        names.insert(place, format!("{host}."));
        names
    }

    /// IPv4 addresses, then IPv6 ones.
    fn ask(&self, name: &str) -> Result<Vec<IpAddr>> {
        let name = Name::from_ascii(name).map_err(|error| Error::invalid(format!("`{}`: {error}", shown(name))))?;
        let (four, six) = std::thread::scope(|scope| {
            let six = scope.spawn(|| self.ask_for(&name, RecordType::AAAA));
            (self.ask_for(&name, RecordType::A), six.join())
        });
        let six = six.unwrap_or_else(|_| Ok(Vec::new()));
        match (four, six) {
            (Err(error), Err(_)) => Err(error),
            (four, six) => {
                let (four, six) = (four.unwrap_or_default(), six.unwrap_or_default());
                Ok(four.into_iter().chain(six).take(ADDRESSES_MAX).collect())
            }
        }
    }

    fn ask_for(&self, name: &Name, kind: RecordType) -> Result<Vec<IpAddr>> {
        let mut last = Error::new(ErrorKind::Internal, "there is no name server in /etc/resolv.conf");
        for _ in 0..self.attempts {
            for server in &self.servers {
                match exchange(*server, name, kind, self.wait) {
                    Ok(answer) => match answer.metadata.response_code {
                        ResponseCode::NoError => return Ok(addresses(&answer, name, kind)),
                        ResponseCode::NXDomain => return Ok(Vec::new()),
                        code => last = refused(*server, &code.to_string()),
                    },
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}

fn refused(server: SocketAddr, why: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("name server {} answered: {why}", server.ip()))
}

fn parse_hosts(text: &str) -> Vec<(IpAddr, Vec<String>)> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        Some((address, words.map(str::to_owned).collect()))
    };
    text.lines().filter_map(line).collect()
}

/// Asks one server; over TCP where the answer was cut.
fn exchange(server: SocketAddr, name: &Name, kind: RecordType, wait: Duration) -> Result<Message> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, format!("name server {} does not answer", server.ip())).caused_by(error)
    };
    let wrong = |why: &dyn std::fmt::Display| refused(server, &format!("what is no answer: {why}"));
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    let packet = query.to_vec().map_err(|error| wrong(&error))?;

    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    // Connected, so that the kernel drops what others send.
    socket.connect(server).map_err(failed)?;
    socket.send(&packet).map_err(failed)?;
    let deadline = Instant::now() + wait;
    let mut buffer = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        let count = socket.recv(&mut buffer).map_err(failed)?;
        match Message::from_vec(&buffer[..count]) {
            Ok(answer) if answers(&answer, &query) => {
                if answer.metadata.truncation {
                    return exchange_over_tcp(server, &query, &packet, wait);
                }
                return Ok(answer);
            }
            // Forged or late: the real one may still come.
            Ok(_) | Err(_) => {}
        }
    }
}

fn answers(answer: &Message, query: &Message) -> bool {
    answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == hickory_proto::op::MessageType::Response
        && answer.queries.first().zip(query.queries.first()).is_some_and(|(theirs, ours)| {
            theirs.name().to_lowercase() == ours.name().to_lowercase() && theirs.query_type() == ours.query_type()
        })
}

fn exchange_over_tcp(server: SocketAddr, query: &Message, packet: &[u8], wait: Duration) -> Result<Message> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, format!("name server {} does not answer over TCP", server.ip()))
            .caused_by(error)
    };
    let mut stream = TcpStream::connect_timeout(&server, wait).map_err(failed)?;
    stream.set_read_timeout(Some(wait)).map_err(failed)?;
    stream.set_write_timeout(Some(wait)).map_err(failed)?;
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    stream.write_all(&length.to_be_bytes()).and_then(|()| stream.write_all(packet)).map_err(failed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(failed)?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buffer).map_err(failed)?;
    let answer = Message::from_vec(&buffer).map_err(|error| refused(server, &error.to_string()))?;
    if answers(&answer, query) { Ok(answer) } else { Err(refused(server, "another question")) }
}

/// The addresses that an answer gives `name`, through its aliases; records of other names count for nothing.
fn addresses(answer: &Message, name: &Name, kind: RecordType) -> Vec<IpAddr> {
    let mut wanted = name.to_lowercase();
    for _ in 0..ALIASES_MAX {
        let mut found = Vec::new();
        let mut alias = None;
        for record in answer.answers.iter().filter(|record| record.name.to_lowercase() == wanted) {
            match &record.data {
                RData::A(address) if kind == RecordType::A => found.push(IpAddr::V4(address.0)),
                RData::AAAA(address) if kind == RecordType::AAAA => found.push(IpAddr::V6(address.0)),
                RData::CNAME(target) => alias = Some(target.0.to_lowercase()),
                _ => {}
            }
        }
        match alias {
            Some(target) if found.is_empty() => wanted = target,
            _ => return found,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    #[test]
    fn files_come_before_servers() {
        let names = Names::parse(
            "10.0.0.1 registry.test reg # x\n::1 reg\nbad line\n",
            "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.test b.test\noptions ndots:2 timeout:1 attempts:9\n",
        );
        assert_eq!(names.resolve("REG").unwrap().len(), 2);
        assert_eq!(names.resolve("[::1]".trim_matches(['[', ']'])).unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(names.resolve("x.localhost").unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(names.candidates("x.y"), ["x.y.a.test.", "x.y.b.test.", "x.y."]);
        assert_eq!(names.candidates("x.y.z"), ["x.y.z.", "x.y.z.a.test.", "x.y.z.b.test."]);
        assert_eq!((names.attempts, names.wait, names.servers.len()), (5, Duration::from_secs(1), 2));
    }

    /// A name server on this machine that answers one question after another by `answer`.
    fn serve(answer: impl Fn(&Message) -> Vec<Message> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                for message in answer(&Message::from_vec(&buffer[..count]).unwrap()) {
                    socket.send_to(&message.to_vec().unwrap(), from).unwrap();
                }
            }
        });
        address
    }

    fn reply(question: &Message, id: u16, records: Vec<Record>) -> Message {
        let mut message = Message::new(id, MessageType::Response, OpCode::Query);
        message.add_queries(question.queries.iter().cloned());
        message.add_answers(records);
        message
    }

    #[test]
    fn a_forged_answer_and_a_stray_record_are_not_believed() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let server = serve(move |question| {
            if question.queries[0].query_type() != RecordType::A {
                return vec![reply(question, question.metadata.id, Vec::new())];
            }
            let record = |name: Name, octet: u8| Record::from_rdata(name, 60, RData::A(A::new(10, 0, 0, octet)));
            let alias = Record::from_rdata(name("r.test."), 60, RData::CNAME(CNAME(name("real.test."))));
            let forged = reply(question, question.metadata.id.wrapping_add(1), vec![record(name("r.test."), 66)]);
            let true_one = vec![alias, record(name("other.test."), 66), record(name("REAL.test."), 7)];
            vec![forged, reply(question, question.metadata.id, true_one)]
        });
        let mut names = Names::parse("", "");
        names.servers = vec![server];
        assert_eq!(names.resolve("r.test").unwrap(), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_name_that_does_not_exist_is_said_to() {
        let server = serve(|question| {
            let mut message = reply(question, question.metadata.id, Vec::new());
            message.metadata.response_code = ResponseCode::NXDomain;
            vec![message]
        });
        let mut names = Names::parse("", "");
        names.servers = vec![server];
        let error = names.resolve("nowhere.test").unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "there is no host `nowhere.test`"));
    }
}
