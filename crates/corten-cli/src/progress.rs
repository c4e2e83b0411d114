//! What a pull or a push shows while it goes: bars on a terminal, docker's lines elsewhere, JSON for programs.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use corten_registry::client::Step;
use corten_types::{Digest, Error, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::command_line::{Parsed, boolean};
use crate::terminal::is_terminal;

/// How often a program hears of bytes.
const EVERY: Duration = Duration::from_millis(100);

/// Where a transfer's steps are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Standard output.
    Out,
    /// Standard error: standard output belongs to a container.
    Err,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Quiet,
    Plain,
    Bars,
    Json,
}

/// Shows steps, from several threads.
pub(crate) struct Progress {
    form: Form,
    output: Output,
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bars: HashMap<Digest, ProgressBar>,
    /// The last word of each, and when a program last heard of its bytes.
    said: HashMap<Digest, (&'static str, Instant)>,
}

impl Progress {
    /// As `--quiet` and `--progress` say.
    pub(crate) fn new(parsed: &Parsed, output: Output) -> Result<Self> {
        let terminal = match output {
            Output::Out => is_terminal(rustix::stdio::stdout().as_fd()),
            Output::Err => is_terminal(rustix::stdio::stderr().as_fd()),
        };
        let form = match parsed.optional("progress").unwrap_or("auto") {
            _ if parsed.optional("quiet").and_then(boolean) == Some(true) => Form::Quiet,
            "auto" | "tty" if terminal => Form::Bars,
            "auto" | "plain" => Form::Plain,
            "json" => Form::Json,
            "tty" => return Err(Error::invalid("`--progress tty` needs a terminal")),
            other => {
                return Err(Error::invalid(format!(
                    "invalid progress mode: '{other}': must be one of \"auto\", \"plain\" or \"json\""
                )));
            }
        };
        Ok(Self::with(form, output))
    }

    /// As a terminal or its absence says.
    pub(crate) fn quiet() -> Self {
        Self::with(Form::Quiet, Output::Err)
    }

    fn with(form: Form, output: Output) -> Self {
        let target = match (form, output) {
            (Form::Bars, Output::Out) => ProgressDrawTarget::stdout(),
            (Form::Bars, Output::Err) => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        Self { form, output, bars: MultiProgress::with_draw_target(target), state: Mutex::default() }
    }

    /// Whether nothing is shown but the result.
    pub(crate) fn is_quiet(&self) -> bool {
        self.form == Form::Quiet
    }

    /// A line of its own.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        match self.form {
            Form::Quiet => Ok(()),
            Form::Plain | Form::Bars => self.write(&format!("{text}\n")),
            Form::Json => self.write(&format!("{}\n", serde_json::json!({"status": text}))),
        }
    }

    /// A line that concerns one thing: docker's `TAG: Pulling from NAME`.
    pub(crate) fn line_of(&self, id: &str, text: &str) -> Result<()> {
        match self.form {
            Form::Json => self.write(&format!("{}\n", serde_json::json!({"status": text, "id": id}))),
            _ => self.line(&format!("{id}: {text}")),
        }
    }

    /// The bars stay as they are.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bars.drain().for_each(|(_, bar)| bar.abandon());
        state.said.clear();
    }

    fn write(&self, text: &str) -> Result<()> {
        let written = match self.output {
            Output::Out => std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()),
            Output::Err => std::io::stderr().write_all(text.as_bytes()),
        };
        written.map_err(|error| Error::from(error).context("cannot write to standard output"))
    }

    /// A step of a blob.
    pub(crate) fn step(&self, digest: &Digest, step: Step) {
        let (word, place, of) = words(&step);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.form {
            Form::Quiet => {}
            Form::Bars => self.bar(&mut state, digest, &word, place, of),
            Form::Plain => {
                // Bytes are no news where nothing can be drawn over.
                let moves = matches!(step, Step::Downloading { .. } | Step::Pushing { .. });
                if !moves && state.is_new(digest, kind(&step)) {
                    // A reader that has gone ends the command at its next line.
                    let _written = self.write(&format!("{}: {word}\n", digest.short()));
                }
            }
            Form::Json => {
                let last = place == of;
                if state.is_new(digest, kind(&step)) || last || state.is_due(digest) {
                    let mut line = serde_json::json!({"status": word, "id": digest.short()});
                    if let Some(current) = place {
                        line["progressDetail"] = serde_json::json!({"current": current, "total": of});
                    }
                    let _written = self.write(&format!("{line}\n"));
                }
            }
        }
    }

    fn bar(&self, state: &mut State, digest: &Digest, word: &str, place: Option<u64>, of: Option<u64>) {
        let bar = state.bars.entry(*digest).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            bar.set_style(style("{prefix}: {msg}"));
            bar.set_prefix(digest.short());
            bar
        });
        if let (Some(current), Some(total)) = (place, of) {
            if bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style("{prefix}: {msg} [{bar:50}] {bytes}/{total_bytes}").progress_chars("=> "));
            }
            bar.set_position(current);
        } else {
            bar.set_style(style("{prefix}: {msg}"));
        }
        if bar.message() != word {
            bar.set_message(word.to_owned());
        }
    }
}

impl State {
    fn is_new(&mut self, digest: &Digest, kind: &'static str) -> bool {
        let before = self.said.insert(*digest, (kind, Instant::now()));
        match before {
            Some((said, when)) if said == kind => {
                self.said.insert(*digest, (kind, when));
                false
            }
            _ => true,
        }
    }

    fn is_due(&mut self, digest: &Digest) -> bool {
        match self.said.get_mut(digest) {
            Some((_, when)) if when.elapsed() >= EVERY => {
                *when = Instant::now();
                true
            }
            _ => false,
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn kind(step: &Step) -> &'static str {
    match step {
        Step::Waiting => "waiting",
        Step::Exists => "exists",
        Step::Downloading { .. } => "downloading",
        Step::Downloaded => "downloaded",
        Step::Complete => "complete",
        Step::Preparing => "preparing",
        Step::Pushing { .. } => "pushing",
        Step::Pushed => "pushed",
        Step::There => "there",
        Step::Mounted { .. } => "mounted",
        Step::Skipped => "skipped",
    }
}

/// Docker's words.
fn words(step: &Step) -> (String, Option<u64>, Option<u64>) {
    let plain = |word: &str| (word.to_owned(), None, None);
    match step {
        Step::Waiting => plain("Pulling fs layer"),
        Step::Exists => plain("Already exists"),
        Step::Downloading { current, total } => ("Downloading".into(), Some(*current), Some(*total)),
        Step::Downloaded => plain("Download complete"),
        Step::Complete => plain("Pull complete"),
        Step::Preparing => plain("Preparing"),
        Step::Pushing { current, total } => ("Pushing".into(), Some(*current), Some(*total)),
        Step::Pushed => plain("Pushed"),
        Step::There => plain("Layer already exists"),
        Step::Mounted { from } => (format!("Mounted from {from}"), None, None),
        Step::Skipped => plain("Skipped foreign layer"),
    }
}
