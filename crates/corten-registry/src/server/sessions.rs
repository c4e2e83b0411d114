//! Upload sessions: what was received so far lies in the store's `ingest`; here is whose it is.
//!
//! ```text
//! ROOT/uploads/ID      the repository that the session is for; as old as its last chunk
//! ```
//!
//! A session outlives the server: the next one finds the record and goes on where the bytes end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use corten_fs::Root;
use corten_fs::atomic::{Durability, replace};
use corten_store::{PartialIngest, Store};
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use tokio::sync::Mutex as AsyncMutex;

/// Largest record, bytes: a repository's name.
const RECORD_SIZE_BYTES_MAX: u64 = 4096;
/// Bytes of an id before they are written as hexadecimal digits.
const ID_BYTES: usize = 16;
/// How long an idle session keeps its file open and its hash at hand.
const WARM_FOR: Duration = Duration::from_secs(60);
/// How long the end of another request on the same bytes is waited for.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_TRIES: usize = 100;

/// Every session of the server.
#[derive(Debug)]
pub(crate) struct Sessions {
    directory: Root,
    store: Arc<Store>,
    warm: Mutex<HashMap<String, Arc<Session>>>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) repository: String,
    /// Held by the request that writes.
    pub(crate) state: AsyncMutex<State>,
    used: Mutex<Instant>,
}

/// What a session has, for the request that holds it.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The bytes; absent until they are needed, and while a thread writes them.
    pub(crate) partial: Option<PartialIngest>,
    /// It was finished or cancelled while others waited for it.
    pub(crate) is_over: bool,
}

impl Sessions {
    /// Opens the directory of records, making it where it is absent.
    pub(crate) fn open(store: &Arc<Store>) -> Result<Self> {
        let root = Root::open_ambient(store.root())?.beneath();
        let mode = Mode::RWXU;
        match root.create_dir("uploads", mode) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = root.sub_root("uploads")?;
        Ok(Self { directory, store: Arc::clone(store), warm: Mutex::default() })
    }

    /// Starts a session; `None` where there are `count_max` already. Blocks.
    pub(crate) fn start(&self, repository: &str, count_max: usize) -> Result<Option<Arc<Session>>> {
        if self.directory.list(".")?.len() >= count_max {
            return Ok(None);
        }
        let mut bytes = [0u8; ID_BYTES];
        rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).call(|| "getrandom")?;
        let id = uuid(&mut bytes);
        // Lost in a power cut, a session is begun anew; it holds nothing that anybody was promised.
        replace(&self.directory, &id, repository.as_bytes(), 0o600, Durability::Volatile)?;
        Ok(Some(self.keep_warm(&id, repository)))
    }

    /// The session `id` of `repository`; another repository's is as absent as none. Blocks.
    pub(crate) fn find(&self, id: &str, repository: &str) -> Result<Option<Arc<Session>>> {
        if !is_id(id) {
            return Ok(None);
        }
        if let Some(session) = self.lock().get(id) {
            return Ok((session.repository == repository).then(|| Arc::clone(session)));
        }
        let owner = match self.directory.read(id, RECORD_SIZE_BYTES_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        Ok((owner == repository.as_bytes()).then(|| self.keep_warm(id, repository)))
    }

    fn keep_warm(&self, id: &str, repository: &str) -> Arc<Session> {
        let mut warm = self.lock();
        let session = warm.entry(id.to_owned()).or_insert_with(|| {
            Arc::new(Session {
                id: id.to_owned(),
                repository: repository.to_owned(),
                state: AsyncMutex::default(),
                used: Mutex::new(Instant::now()),
            })
        });
        Arc::clone(session)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a session, opened where they are not. Blocks.
    pub(crate) fn open_bytes(&self, session: &Session) -> Result<PartialIngest> {
        for _ in 0..SETTLE_TRIES {
            match self.store.resume_ingest(&key(&session.id)) {
                // A request that was cut off, whose last piece a thread still writes.
                Err(error) if error.kind() == ErrorKind::Conflict => wait(SETTLE)?,
                opened => return opened,
            }
        }
        self.store.resume_ingest(&key(&session.id))
    }

    /// Notes that a session goes on. Blocks.
    pub(crate) fn touch(&self, session: &Session) -> Result<()> {
        *session.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let now = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        utimensat(&self.directory, &*session.id, &now, AtFlags::SYMLINK_NOFOLLOW).call(|| "utimensat(<uploads>)")
    }

    /// Ends a session: nobody finds it any more. Blocks.
    pub(crate) fn end(&self, session: &Session) -> Result<()> {
        self.lock().remove(&session.id);
        match self.directory.remove_file(&session.id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Closes what is idle and removes what nobody continued for `timeout`. Blocks.
    pub(crate) fn sweep(&self, timeout: Duration) -> Result<()> {
        let idle: Vec<Arc<Session>> = {
            let mut warm = self.lock();
            let is_idle =
                |session: &Session| session.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > WARM_FOR;
            // One that a request holds is used, however long ago it said so.
            let ids: Vec<String> = warm
                .values()
                .filter(|session| is_idle(session) && session.state.try_lock().is_ok())
                .map(|session| session.id.clone())
                .collect();
            ids.iter().filter_map(|id| warm.remove(id)).collect()
        };
        drop(idle);
        for entry in self.directory.list(".")? {
            let id = entry.name.to_string_lossy().into_owned();
            let Ok(status) = self.directory.stat_nofollow(&id) else { continue };
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(status.st_mtime).unwrap_or(0));
            // One of the future is young: clocks are set back.
            let is_stale = SystemTime::now().duration_since(modified).is_ok_and(|age| age > timeout);
            if is_stale && !self.lock().contains_key(&id) {
                if let Ok(partial) = self.store.resume_ingest(&key(&id)) {
                    partial.discard();
                }
                self.directory.remove_file(&id)?;
            }
        }
        Ok(())
    }
}

/// The name that the store knows a session's bytes by.
fn key(id: &str) -> String {
    format!("registry upload {id}")
}

/// A random UUID (RFC 9562, version 4).
fn uuid(bytes: &mut [u8; ID_BYTES]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// Waits a moment on a thread that may block.
fn wait(time: Duration) -> Result<()> {
    let (_never, heard) = std::sync::mpsc::channel::<()>();
    match heard.recv_timeout(time) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Ok(()),
        _ => Err(Error::new(ErrorKind::Internal, "a wait ended early")),
    }
}

#[cfg(test)]
mod tests {
    use corten_store::Options;

    use super::*;

    fn sessions(dir: &std::path::Path) -> Sessions {
        let store = Arc::new(Store::open(Options { root: dir.to_owned() }).unwrap());
        Sessions::open(&store).unwrap()
    }

    #[test]
    fn a_session_is_found_after_a_restart_by_its_own_repository_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = sessions(dir.path());
        let session = first.start("localhost/a", 10).unwrap().unwrap();
        let id = session.id.clone();
        first.open_bytes(&session).unwrap().append(b"half").unwrap();
        drop((session, first));
        let second = sessions(dir.path());
        assert!(second.find(&id, "localhost/b").unwrap().is_none());
        assert!(second.find("../../etc/passwd", "localhost/a").unwrap().is_none());
        assert!(second.find(&uuid(&mut [7; ID_BYTES]), "localhost/a").unwrap().is_none());
        let session = second.find(&id, "localhost/a").unwrap().unwrap();
        assert!(second.find(&id, "localhost/b").unwrap().is_none());
        assert_eq!(second.open_bytes(&session).unwrap().size(), 4);
        second.end(&session).unwrap();
        assert!(second.find(&id, "localhost/a").unwrap().is_none());
        assert_eq!(second.directory.list(".").unwrap().len(), 0);
    }

    #[test]
    fn there_are_no_more_sessions_than_allowed_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions(dir.path());
        let session = sessions.start("localhost/a", 1).unwrap().unwrap();
        assert!(sessions.start("localhost/a", 1).unwrap().is_none());
        sessions.touch(&session).unwrap();
        let id = session.id.clone();
        drop(session);
        let old = std::fs::File::options().write(true).open(dir.path().join("uploads").join(&id)).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
        sessions.sweep(Duration::from_secs(50)).unwrap();
        assert_eq!(sessions.directory.list(".").unwrap().len(), 1, "one that is in use stays");
        sessions.lock().clear();
        sessions.sweep(Duration::from_secs(50)).unwrap();
        assert_eq!(sessions.directory.list(".").unwrap().len(), 0);
    }
}
