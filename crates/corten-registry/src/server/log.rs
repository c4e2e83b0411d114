//! The access log: a line for each request, in the combined format and its duration; written by a thread of its own, so
//! that a log that does not take lines holds up no request.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that wait to be written; more are counted and left out.
const WAITING_MAX: usize = 4096;

/// One request, over.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) peer: String,
    pub(crate) user: Option<String>,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) agent: String,
    pub(crate) took: Duration,
    /// What the client was not told.
    pub(crate) cause: Option<String>,
}

/// The log, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessLog {
    sender: Option<SyncSender<String>>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the thread that writes.
    pub(crate) fn to(mut writer: Box<dyn Write + Send>) -> Self {
        let (sender, lines) = sync_channel::<String>(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        std::thread::spawn(move || {
            for mut line in lines {
                let lost = count.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    line.push_str(&format!("{lost} lines were left out: the log takes no more\n"));
                }
                if writer.write_all(line.as_bytes()).and_then(|()| writer.flush()).is_err() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { sender: Some(sender), lost }
    }

    pub(crate) fn write(&self, line: &Line) {
        let (seconds, nanoseconds) = corten_types::time::now();
        self.send(line.render(&corten_types::time::rfc3339(seconds, nanoseconds)));
    }

    /// A message of the server's own.
    pub(crate) fn note(&self, message: &str) {
        let (seconds, nanoseconds) = corten_types::time::now();
        let time = corten_types::time::rfc3339(seconds, nanoseconds);
        self.send(format!("- - - [{time}] {}\n", plain(message)));
    }

    fn send(&self, line: String) {
        let Some(sender) = &self.sender else { return };
        if let Err(TrySendError::Full(_)) = sender.try_send(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Line {
    fn render(&self, time: &str) -> String {
        let mut text = format!(
            "{} - {} [{time}] \"{} {}\" {} {} \"{}\" in={} ms={}",
            plain(&self.peer),
            self.user.as_deref().map_or_else(|| "-".to_owned(), plain),
            plain(&self.method),
            plain(&self.target),
            self.status,
            self.sent,
            plain(&self.agent),
            self.received,
            self.took.as_millis()
        );
        if let Some(cause) = &self.cause {
            text.push_str(&format!(" error=\"{}\"", plain(cause)));
        }
        text.push('\n');
        text
    }
}

/// One word or sentence that can forge no second one.
fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars().take(2048) {
        match character {
            '"' => shown.push('\''),
            ' ' => shown.push(' '),
            character if character.is_ascii_graphic() => shown.push(character),
            character => shown.extend(character.escape_default()),
        }
    }
    if shown.is_empty() { "-".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_whatever_it_holds() {
        let line = Line {
            peer: "127.0.0.1:1".to_owned(),
            user: Some("a\nb".to_owned()),
            method: "GET".to_owned(),
            target: "/v2/\" 200 \x1b[2J".to_owned(),
            status: 404,
            received: 0,
            sent: 12,
            agent: String::new(),
            took: Duration::from_millis(7),
            cause: None,
        };
        assert_eq!(
            line.render("NOW"),
            "127.0.0.1:1 - a\\nb [NOW] \"GET /v2/' 200 \\u{1b}[2J\" 404 12 \"-\" in=0 ms=7\n"
        );
    }

    #[test]
    fn a_log_that_takes_nothing_holds_up_nobody() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
                self.0.recv().ok();
                Ok(buffer.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, wait) = std::sync::mpsc::channel();
        let log = AccessLog::to(Box::new(Stuck(wait)));
        for _ in 0..WAITING_MAX * 2 {
            log.note("x");
        }
        assert!(log.lost.load(Ordering::Relaxed) > 0);
        drop(release);
    }
}
