//! Listening, TLS, and the life of a connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use corten_types::{Context as _, Error, ErrorKind, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::config::{Address, Limits, Tls};
use super::reply::Reply;

/// Longest time of a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Wait after a failed accept: too many open files, most likely, and another try at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a connection's buffer.
const BUFFER_SIZE: usize = 128 * 1024;
/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// Mode of a socket in the file system: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Removed),
}

/// A socket's name, removed with it.
#[derive(Debug)]
pub(crate) struct Removed {
    path: PathBuf,
    inode: Option<u64>,
}

impl Drop for Removed {
    fn drop(&mut self) {
        // A name that another server took over stays its.
        let status = std::fs::symlink_metadata(&self.path);
        if status.is_ok_and(|status| Some(status.ino()) == self.inode) {
            std::fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

impl Listener {
    /// Starts to listen. Called within the runtime.
    pub(crate) async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(address) => {
                let bound = TcpListener::bind(address).await.map_err(|error| in_use(error, *address))?;
                Ok(Self::Tcp(bound))
            }
            Address::Unix(path) => {
                let named = || format!("cannot listen on `unix:{}`", path.display());
                remove_stale(path).context(named)?;
                let bound = UnixListener::bind(path).context(named)?;
                let removed = Removed {
                    path: path.clone(),
                    inode: std::fs::symlink_metadata(path).ok().map(|status| status.ino()),
                };
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).context(named)?;
                Ok(Self::Unix(bound, removed))
            }
        }
    }

    /// Where it listens, the port as the kernel chose it.
    pub(crate) fn address(&self) -> Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Self::Unix(_, removed) => Address::Unix(removed.path.clone()),
        })
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), peer.to_string()))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().map(|peer| peer.uid().to_string());
                Ok((Box::new(stream), format!("uid={}", user.unwrap_or_else(|_| "?".to_owned()))))
            }
        }
    }
}

fn in_use(error: io::Error, address: SocketAddr) -> Error {
    let taken = error.kind() == io::ErrorKind::AddrInUse;
    let error = Error::from(error).context(format!("cannot listen on `{address}`"));
    if taken { error.with_kind(ErrorKind::Conflict).hint("choose another address with `--listen`") } else { error }
}

/// Removes a socket that nobody listens on any more; anything else stays.
fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(status) if status.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(Error::new(ErrorKind::Conflict, "another program listens there"));
            }
            std::fs::remove_file(path)?;
            Ok(())
        }
        Ok(_) => Err(Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How often the files of certificate and key are looked at for a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Certificate and key, read again where their files change: they are renewed while the server runs.
#[derive(Debug)]
pub(crate) struct Certificate {
    config: Tls,
    state: Mutex<Read>,
}

struct Read {
    acceptor: TlsAcceptor,
    modified: Vec<Option<SystemTime>>,
    looked: Instant,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").field("modified", &self.modified).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads them.
    pub(crate) fn load(config: &Tls) -> Result<Self> {
        let modified = modified(config);
        let read = Read { acceptor: acceptor(config)?, modified, looked: Instant::now() };
        Ok(Self { config: config.clone(), state: Mutex::new(read) })
    }

    /// As the files are now. Where they cannot be read, or do not belong together while one of them is being replaced, what
    /// was read before goes on, and they are looked at again.
    fn acceptor(&self) -> TlsAcceptor {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            let modified = modified(&self.config);
            if modified != state.modified
                && let Ok(acceptor) = acceptor(&self.config)
            {
                (state.acceptor, state.modified) = (acceptor, modified);
            }
        }
        state.acceptor.clone()
    }
}

fn modified(config: &Tls) -> Vec<Option<SystemTime>> {
    let files = [Some(&config.certificate), Some(&config.key), config.client_ca.as_ref()];
    let time = |path: &PathBuf| std::fs::metadata(path).and_then(|status| status.modified()).ok();
    files.into_iter().flatten().map(time).collect()
}

fn acceptor(config: &Tls) -> Result<TlsAcceptor> {
    let certificates = certificates(&config.certificate)?;
    let named = || format!("cannot read the key `{}`", config.key.display());
    let key =
        PrivateKeyDer::from_pem_file(&config.key).map_err(|error| Error::invalid(error.to_string())).context(named)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Internal, "there is no TLS").caused_by(error))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path)? {
                roots.add(certificate).map_err(|error| {
                    Error::invalid(format!("`{}` has a certificate that is none", path.display())).caused_by(error)
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| {
                Error::invalid(format!("`{}` cannot verify clients", path.display())).caused_by(error)
            })?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| Error::invalid("certificate and key do not belong together").caused_by(error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let named = || format!("cannot read the certificate `{}`", path.display());
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| Error::invalid(error.to_string())).context(named)?;
    if certificates.is_empty() {
        return Err(Error::invalid("it has none")).context(named);
    }
    Ok(certificates)
}

/// What answers requests.
pub(crate) trait Answer: Send + Sync + 'static {
    /// Answers one request of `peer`.
    fn answer(self: Arc<Self>, peer: Arc<str>, request: Request<Incoming>) -> impl Future<Output = Reply> + Send;
    /// A connection began; what is returned lives as long as it.
    fn connected(&self) -> Box<dyn Send>;
}

/// Accepts until `stop` says so, then waits for what runs, at most `limit`.
pub(crate) async fn serve<A: Answer>(
    listeners: Vec<(Listener, Arc<A>, Option<Arc<Certificate>>)>,
    limits: &Limits,
    stop: watch::Receiver<bool>,
    limit: Duration,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max.max(1)));
    let mut accepting = JoinSet::new();
    for (listener, answer, tls) in listeners {
        let (places, limits, stop) = (Arc::clone(&places), limits.clone(), stop.clone());
        accepting.spawn(accept(listener, answer, tls, places, limits, stop, limit));
    }
    while accepting.join_next().await.is_some() {}
}

async fn accept<A: Answer>(
    listener: Listener,
    answer: Arc<A>,
    tls: Option<Arc<Certificate>>,
    places: Arc<Semaphore>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
    limit: Duration,
) {
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // A socket in the file system is this machine's own.
        let tls = tls.as_ref().filter(|_| matches!(listener, Listener::Tcp(_))).map(|tls| tls.acceptor());
        let (answer, limits, stop) = (Arc::clone(&answer), limits.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            let _connected = answer.connected();
            match tls {
                None => converse(stream, peer, answer, &limits, stop).await,
                Some(tls) => {
                    let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        converse(Box::new(stream), peer, answer, &limits, stop).await;
                    }
                }
            }
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    // What is not over then is cut off: upload sessions keep what they have.
    if tokio::time::timeout(limit, finished).await.is_err() {
        connections.shutdown().await;
    }
}

async fn converse<A: Answer>(
    stream: Box<dyn Stream>,
    peer: String,
    answer: Arc<A>,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) {
    let peer: Arc<str> = peer.into();
    let service = service_fn(move |request| {
        let (answer, peer) = (Arc::clone(&answer), Arc::clone(&peer));
        async move { Ok::<_, std::convert::Infallible>(answer.answer(peer, request).await) }
    });
    let stream = Impatient { stream, limit: limits.idle_timeout.0, stalled: None };
    let header_size_max = usize::try_from(limits.header_size_max.0).unwrap_or(usize::MAX).max(8192);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout.0)
        .max_headers(HEADERS_MAX)
        .max_header_size(header_size_max)
        .max_buf_size(BUFFER_SIZE.max(header_size_max))
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // An error here is the client's: it went, was silent, or spoke no HTTP.
    tokio::select! {
        _over = connection.as_mut() => return,
        _stop = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _over = connection.await;
}

/// A connection's two directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream whose reader must not stand still while there is something to send.
struct Impatient {
    stream: Box<dyn Stream>,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn patience<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream).poll_write(cx, bytes);
        self.patience(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream).poll_write_vectored(cx, slices);
        self.patience(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut *self.stream).poll_flush(cx);
        self.patience(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut *self.stream).poll_shutdown(cx);
        self.patience(cx, polled)
    }
}
