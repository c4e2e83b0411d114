//! Passwords as `htpasswd -B` writes them.
//!
//! A check costs tens of milliseconds by design, so that what strangers can make the server do is bounded: few checks run
//! at once, few wait, the rest is told to come back; a user who proved to know the password is believed for a while.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use corten_types::{Context, Error, Result};
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::super::failure::Failure;

/// Largest password file, bytes.
const FILE_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Highest cost that is accepted: 2^15 rounds, some two seconds.
const COST_MAX: u32 = 15;
/// bcrypt looks at no more bytes; longer passwords are refused rather than cut.
const PASSWORD_LENGTH_MAX: usize = 72;
/// Checks that may wait for their turn.
const WAITING_MAX: usize = 64;
/// How long a proven password is believed.
const BELIEVED_FOR: Duration = Duration::from_mins(5);
/// Most proven passwords that are remembered.
const BELIEVED_MAX: usize = 4096;
/// How often the file is looked at for a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What an unknown user's password is checked against, so that the answer takes as long as a known one's.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuuDVlfMTeKrYGe5lQZmeXb5uDF1BIcXSe";

/// A password file.
#[derive(Debug)]
pub(super) struct Passwords {
    path: PathBuf,
    /// Proven passwords are remembered as a keyed hash, not as themselves.
    key: hmac::Key,
    state: Mutex<State>,
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct State {
    users: HashMap<String, String>,
    modified: Option<SystemTime>,
    looked: Instant,
    believed: HashMap<[u8; 32], Instant>,
}

impl Passwords {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let (users, modified) = read(path)?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Error::new(corten_types::ErrorKind::Internal, "there is no randomness"))?;
        let state = State { users, modified, looked: Instant::now(), believed: HashMap::new() };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            path: path.to_owned(),
            key,
            state: Mutex::new(state),
            running: Arc::new(Semaphore::new(cores)),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Whether `user` has this password.
    pub(super) async fn verify(&self, user: &str, password: &str) -> Result<bool, Failure> {
        if password.len() > PASSWORD_LENGTH_MAX || password.contains('\0') {
            return Ok(false);
        }
        let hash = self.hash_of(user);
        let proof = self.proof(user, password, hash.as_deref().unwrap_or(NOBODY));
        if hash.is_some() && self.is_believed(&proof) {
            return Ok(true);
        }
        let _waiting = Waiting::enter(&self.waiting).ok_or_else(|| Failure::busy("too many logins at once"))?;
        let _running = self.running.acquire().await.map_err(|_| Failure::busy("the registry stops"))?;
        let known = hash.is_some();
        let (hash, password) = (hash.unwrap_or_else(|| NOBODY.to_owned()), password.to_owned());
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        let right = matches!(checked, Ok(Ok(true))) && known;
        if right {
            self.believe(proof);
        }
        Ok(right)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user's hash, from the file as it is now.
    fn hash_of(&self, user: &str) -> Option<String> {
        let mut state = self.state();
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            let modified = std::fs::metadata(&self.path).and_then(|status| status.modified()).ok();
            // A file that is gone or wrong (half-written, say) changes nothing; it is read again when it changes again.
            if modified != state.modified
                && let Ok((users, modified)) = read(&self.path)
            {
                (state.users, state.modified) = (users, modified);
                state.believed.clear();
            }
        }
        state.users.get(user).cloned()
    }

    fn proof(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user, password, hash] {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut proof = [0; 32];
        proof.copy_from_slice(context.sign().as_ref());
        proof
    }

    fn is_believed(&self, proof: &[u8; 32]) -> bool {
        self.state().believed.get(proof).is_some_and(|since| since.elapsed() < BELIEVED_FOR)
    }

    fn believe(&self, proof: [u8; 32]) {
        let mut state = self.state();
        if state.believed.len() >= BELIEVED_MAX {
            state.believed.retain(|_, since| since.elapsed() < BELIEVED_FOR);
        }
        if state.believed.len() < BELIEVED_MAX {
            state.believed.insert(proof, Instant::now());
        }
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let place = Self(count);
        (before < WAITING_MAX).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn read(path: &Path) -> Result<(HashMap<String, String>, Option<SystemTime>)> {
    let named = || format!("cannot read the password file `{}`", path.display());
    let modified = std::fs::metadata(path).and_then(|status| status.modified()).ok();
    let bytes = corten_fs::root::read_ambient(path, FILE_SIZE_BYTES_MAX).context(named)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid("it is not UTF-8")).context(named)?;
    Ok((parse(&text).context(named)?, modified))
}

/// `USER:HASH`, a line each; other hashes than bcrypt's are refused.
fn parse(text: &str) -> Result<HashMap<String, String>> {
    let mut users = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (user, hash) = line
            .split_once(':')
            .filter(|(user, _)| !user.is_empty())
            .ok_or_else(|| Error::invalid(format!("line {number} is not `USER:HASH`")))?;
        let cost = cost(hash).ok_or_else(|| {
            Error::invalid(format!("the password of line {number} is not hashed with bcrypt"))
                .hint("`htpasswd -B FILE USER` writes it")
        })?;
        if cost > COST_MAX {
            return Err(Error::invalid(format!("the password of line {number} has cost {cost}, more than {COST_MAX}")));
        }
        users.insert(user.to_owned(), hash.to_owned());
    }
    Ok(users)
}

/// The cost of a bcrypt hash: `$2y$10$` and 53 characters.
fn cost(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix))?;
    let (cost, salt_and_hash) = rest.split_once('$')?;
    let fits = salt_and_hash.len() == 53
        && salt_and_hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'));
    cost.parse().ok().filter(|cost| fits && *cost >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn only_the_right_password_of_a_known_user_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let hash = bcrypt::hash("secret", 4).unwrap();
        std::fs::write(&path, format!("# people\nalice:{hash}\n\n")).unwrap();
        let passwords = Passwords::load(&path).unwrap();
        run(async {
            for _ in 0..2 {
                assert!(passwords.verify("alice", "secret").await.unwrap());
                assert!(!passwords.verify("alice", "Secret").await.unwrap());
                assert!(!passwords.verify("alice", "").await.unwrap());
                assert!(!passwords.verify("bob", "secret").await.unwrap());
            }
            assert!(!passwords.verify("alice", &"a".repeat(73)).await.unwrap());
            assert!(!passwords.verify("alice", "secret\0x").await.unwrap());
        });
        assert_eq!(passwords.state().believed.len(), 1);
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
        // The password of nobody is nobody's.
        assert_eq!(cost(NOBODY), Some(10));
    }

    #[test]
    fn a_removed_user_is_out_when_the_file_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
        let passwords = Passwords::load(&path).unwrap();
        assert!(run(passwords.verify("alice", "secret")).unwrap());
        std::fs::write(&path, "").unwrap();
        {
            let mut state = passwords.state();
            state.looked = Instant::now().checked_sub(LOOK_EVERY * 2).unwrap();
            state.modified = None;
        }
        assert!(!run(passwords.verify("alice", "secret")).unwrap());
    }

    #[test]
    fn files_that_are_none_are_refused_by_line() {
        for (text, why) in [
            ("alice", "line 1 is not"),
            (":x", "line 1 is not"),
            ("# x\nalice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "line 2 is not hashed with bcrypt"),
            ("alice:$2y$10$short", "not hashed with bcrypt"),
            (&format!("alice:{}", NOBODY.replace("$10$", "$31$")), "cost 31"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message().contains(why), "{text}: {}", error.message());
        }
    }
}
