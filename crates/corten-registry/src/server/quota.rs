//! Quotas: what a repository holds, and what is on its way there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::auth::matches;
use super::config::Quotas;
use super::failure::{Code, Failure};

/// The quotas, and the bytes that are on their way.
#[derive(Debug)]
pub(crate) struct Ledger {
    quotas: Quotas,
    coming: Mutex<HashMap<String, u64>>,
}

/// Bytes on their way; given back with it.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    repository: String,
    bytes: u64,
    /// What may come at most, beside what is there.
    limits: Room,
}

/// What is there already, where a quota asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) repository: u64,
    pub(crate) total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Room {
    repository: Option<u64>,
    total: Option<u64>,
}

impl Ledger {
    pub(crate) fn new(quotas: &Quotas) -> Self {
        Self { quotas: quotas.clone(), coming: Mutex::default() }
    }

    /// Whether somebody has to look how much is there.
    pub(crate) fn limits(&self, repository: &str) -> bool {
        self.quotas.total.is_some() || self.of(repository).is_some()
    }

    fn of(&self, repository: &str) -> Option<u64> {
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, repository));
        self.quotas.repository.iter().find(|quota| fits(&quota.repositories)).map(|quota| quota.size.0)
    }

    /// Starts to bring something to `repository` (its name without the registry's).
    pub(crate) fn reserve(self: &Arc<Self>, repository: &str, held: Held) -> Reservation {
        let limits = Room {
            repository: self.of(repository).map(|quota| quota.saturating_sub(held.repository)),
            total: self.quotas.total.map(|quota| quota.0.saturating_sub(held.total)),
        };
        Reservation { ledger: Arc::clone(self), repository: repository.to_owned(), bytes: 0, limits }
    }
}

impl Reservation {
    /// Notes that so many more bytes come; refused where they do not fit.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), Failure> {
        let mut coming = self.ledger.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let of_repository = coming.get(&self.repository).copied().unwrap_or(0).saturating_add(bytes);
        let of_all = coming.values().sum::<u64>().saturating_add(bytes);
        if self.limits.repository.is_some_and(|room| of_repository > room) {
            return Err(over("the repository's quota is used up"));
        }
        if self.limits.total.is_some_and(|room| of_all > room) {
            return Err(over("the registry's quota is used up"));
        }
        coming.insert(self.repository.clone(), of_repository);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut coming = self.ledger.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = coming.get_mut(&self.repository) {
            *bytes = bytes.saturating_sub(self.bytes);
            if *bytes == 0 {
                coming.remove(&self.repository);
            }
        }
    }
}

fn over(message: &str) -> Failure {
    Failure::because(Code::Denied, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::{ByteCount, RepositoryQuota};

    #[test]
    fn what_comes_counts_until_it_is_there_or_gone() {
        let quota = RepositoryQuota { repositories: vec!["team/*".to_owned()], size: ByteCount(100) };
        let ledger = Arc::new(Ledger::new(&Quotas { total: Some(ByteCount(150)), repository: vec![quota] }));
        let held = Held { repository: 40, total: 40 };
        let mut one = ledger.reserve("team/a", held);
        let mut two = ledger.reserve("team/a", held);
        let mut other = ledger.reserve("free", held);
        one.grow(30).unwrap();
        two.grow(30).unwrap();
        assert_eq!(two.grow(1).unwrap_err().status, 403);
        other.grow(50).unwrap();
        assert!(other.grow(1).is_err());
        drop(one);
        two.grow(30).unwrap();
        drop((two, other));
        assert!(ledger.coming.lock().unwrap().is_empty());
    }
}
