//! The life of a container as one table.

use std::fmt;

use corten_types::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Made, never started.
    #[default]
    Created,
    /// A shim works on it; the program does not run yet.
    Starting,
    /// The program runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended, and will be started again by its policy.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed.
    Removing,
    /// Removal failed half-way; only removal can follow.
    Dead,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A shim takes it up.
    Start,
    /// The program was executed.
    Started,
    /// The program could not be executed.
    StartFailed,
    /// Frozen.
    Pause,
    /// Thawed.
    Resume,
    /// The program ended, and nothing restarts it.
    Exit,
    /// The program ended, and its policy restarts it.
    ExitToRestart,
    /// Removal begins.
    Remove,
    /// Removal failed.
    RemoveFailed,
}

impl State {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Exited,
        Self::Removing,
        Self::Dead,
    ];

    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// Whether a shim holds it.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused | Self::Restarting)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTransition {
    /// The state.
    pub from: State,
    /// The event.
    pub event: Event,
}

impl From<BadTransition> for Error {
    fn from(bad: BadTransition) -> Self {
        let word = match bad.event {
            Event::Start => "be started",
            Event::Started => "begin to run",
            Event::StartFailed => "fail to start",
            Event::Pause => "be paused",
            Event::Resume => "be resumed",
            Event::Exit | Event::ExitToRestart => "exit",
            Event::Remove => "be removed",
            Event::RemoveFailed => "fail to be removed",
        };
        Error::new(ErrorKind::Conflict, format!("a container that is {} cannot {word}", bad.from))
    }
}

/// The state after `event`.
pub fn next(from: State, event: Event) -> Result<State, BadTransition> {
    use Event as E;
    use State as S;
    match (from, event) {
        (S::Created | S::Exited | S::Restarting, E::Start) => Ok(S::Starting),
        (S::Starting, E::Started) => Ok(S::Running),
        (S::Starting, E::StartFailed) => Ok(S::Created),
        (S::Running, E::Pause) => Ok(S::Paused),
        (S::Paused, E::Resume) => Ok(S::Running),
        (S::Starting | S::Running | S::Paused | S::Restarting, E::Exit) => Ok(S::Exited),
        (S::Running | S::Paused, E::ExitToRestart) => Ok(S::Restarting),
        (S::Created | S::Exited | S::Dead | S::Removing, E::Remove) => Ok(S::Removing),
        (S::Removing, E::RemoveFailed) => Ok(S::Dead),
        _ => Err(BadTransition { from, event }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line an event, one letter a state in the order of `State::ALL`; `.` is refused.
    const TABLE: [(Event, &str); 9] = [
        (Event::Start, "S...SS.."),
        (Event::Started, ".R......"),
        (Event::StartFailed, ".C......"),
        (Event::Pause, "..P....."),
        (Event::Resume, "...R...."),
        (Event::Exit, ".EEEE..."),
        (Event::ExitToRestart, "..AA...."),
        (Event::Remove, "M....MMM"),
        (Event::RemoveFailed, "......D."),
    ];

    #[test]
    fn every_pair_of_state_and_event_is_decided() {
        let letter = |state: State| match state {
            State::Created => 'C',
            State::Starting => 'S',
            State::Running => 'R',
            State::Paused => 'P',
            State::Restarting => 'A',
            State::Exited => 'E',
            State::Removing => 'M',
            State::Dead => 'D',
        };
        for (event, row) in TABLE {
            for (from, expected) in State::ALL.into_iter().zip(row.chars()) {
                let got = next(from, event).map_or('.', letter);
                assert_eq!(got, expected, "{from} on {event:?}");
            }
        }
    }
}
