//! What lies between a client and a server: a proxy that notes what it was asked, and a line that breaks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An HTTP proxy on 127.0.0.1 that knows CONNECT alone. Wherever it is asked to go, it goes to one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one that leads to `target`, or refuses with `refusal` (`407 Proxy Authentication Required`).
    pub fn start(target: &str, refusal: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, target) = (Arc::clone(&heads), target.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, target) = (Arc::clone(&noted), target.clone());
                std::thread::spawn(move || tunnel(stream, &noted, &target, refusal));
            }
        });
        Self { address, heads }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The head of every request so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn tunnel(client: TcpStream, noted: &Mutex<Vec<String>>, target: &str, refusal: Option<&str>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let mut output = &client;
    if let Some(refusal) = refusal {
        return write!(output, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").ok();
    }
    if !head.starts_with("CONNECT ") {
        return output.write_all(b"HTTP/1.1 405 X\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let server = TcpStream::connect(target).ok()?;
    output.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    join(client, server, &AtomicU64::new(u64::MAX), &AtomicU64::new(u64::MAX));
    Some(())
}

/// A line to a server that breaks once, after so many bytes in one direction.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Line {
    /// A line to `target` that does not break yet.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(u64::MAX)));
        let (client_bytes, server_bytes, target) = (Arc::clone(&up), Arc::clone(&down), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let (up, down) = (Arc::clone(&client_bytes), Arc::clone(&server_bytes));
                std::thread::spawn(move || join(client, server, &up, &down));
            }
        });
        Self { address, up, down }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Breaks once clients have sent so many bytes more.
    pub fn break_up_after(&self, bytes: u64) {
        self.up.store(bytes, Ordering::SeqCst);
    }

    /// Breaks once the server has sent so many bytes more.
    pub fn break_down_after(&self, bytes: u64) {
        self.down.store(bytes, Ordering::SeqCst);
    }

    /// Whether it has broken for what clients sent.
    pub fn broke_up(&self) -> bool {
        self.up.load(Ordering::SeqCst) == BROKEN
    }

    /// Whether it has broken for what the server sent.
    pub fn broke_down(&self) -> bool {
        self.down.load(Ordering::SeqCst) == BROKEN
    }
}

/// What is left where the break has been.
const BROKEN: u64 = u64::MAX - 1;

fn join(client: TcpStream, server: TcpStream, up: &AtomicU64, down: &AtomicU64) {
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| copy(&from_client, &server, up));
        copy(&from_server, &client, down);
    });
}

/// Copies until one side ends, or until `left` bytes went: then both sides are cut.
fn copy(from: &TcpStream, to: &TcpStream, left: &AtomicU64) {
    let (mut input, mut output) = (from, to);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = input.read(&mut buffer) {
        if count == 0 || output.write_all(&buffer[..count]).is_err() {
            break;
        }
        let spend = |left: u64| match left {
            0..BROKEN => Some(left.checked_sub(count as u64).filter(|left| *left > 0).unwrap_or(BROKEN)),
            _ => None,
        };
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok() && left.load(Ordering::SeqCst) == BROKEN
        {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
