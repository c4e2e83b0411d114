//! The causal story of a container: what its supervisor and the commands told in the event log, and what the kernel's log
//! says of the same processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use corten_types::event::EventRecord;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};

use crate::container::Container;
use crate::engine::Engine;

/// Most records of the kernel's log that are looked at.
const KERNEL_RECORDS_MAX: usize = 100_000;
/// Longest record of the kernel's log, bytes.
const KERNEL_RECORD_SIZE_BYTES_MAX: usize = 8192;

/// What happened to one container.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// The container, where it still is.
    pub container: Option<Container>,
    /// Its id.
    pub id: String,
    /// Its last known name.
    pub name: String,
    /// Its image as the user wrote it.
    pub image: String,
    /// What happened, oldest first.
    pub steps: Vec<Step>,
    /// Whether the kernel's log could be read.
    pub kernel_log_was_read: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Seconds and nanoseconds since 1970.
    pub time: (i64, u32),
    /// Docker's word for it, or `kernel`.
    pub action: String,
    /// What is known of it: docker's attributes and Corten's details.
    pub facts: BTreeMap<String, String>,
}

/// Actions that belong to the story; others (attach, exec, top) explain nothing.
const ACTIONS: [&str; 12] =
    ["create", "start", "restart", "kill", "stop", "die", "oom", "pause", "unpause", "update", "rename", "destroy"];

impl Engine {
    /// The story of a container by name, id or unique prefix of the id; also of one that was removed, while the event log
    /// still knows it.
    pub fn why(&self, name: &str) -> Result<Story> {
        let events = self.past_events()?;
        let container = match self.container(name) {
            Ok(container) => Some(container),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let id = match &container {
            Some(container) => container.config.id.clone(),
            None => removed(&events, name)?,
        };
        let mut story = Story { id, ..Story::default() };
        for event in events.into_iter().filter(|event| event.id == story.id && event.kind == "container") {
            let word = |name: &str| event.attributes.get(name).cloned().unwrap_or_default();
            (story.name, story.image) = (word("name"), word("image"));
            if ACTIONS.contains(&event.action.as_str()) || event.action.starts_with("health_status") {
                story.steps.push(step(event));
            }
        }
        if let Some(container) = &container {
            (story.name, story.image) = (container.config.name.clone(), container.config.image.clone());
        }
        story.container = container;
        self.add_kernel_log(&mut story);
        Ok(story)
    }

    fn add_kernel_log(&self, story: &mut Story) {
        let pids: BTreeSet<&str> =
            story.steps.iter().filter_map(|step| step.facts.get("pid")).map(String::as_str).collect();
        let Some(records) = kernel_log() else { return };
        let from = story.steps.first().map_or((0, 0), |step| step.time);
        let told = kernel_steps(&records, &story.id, &pids);
        story.kernel_log_was_read = true;
        story.steps.extend(told.into_iter().filter(|step| step.time >= from));
        story.steps.sort_by_key(|step| step.time);
    }
}

/// The container that had this name or id last.
fn removed(events: &[EventRecord], name: &str) -> Result<String> {
    let is_it = |event: &&EventRecord| {
        let named = event.attributes.get("name").is_some_and(|known| known == name.trim_start_matches('/'));
        event.kind == "container" && (named || (name.len() >= 4 && event.id.starts_with(name)))
    };
    let found = events.iter().rev().find(is_it).map(|event| event.id.clone());
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no such container: `{}`", name.escape_debug()))
            .hint("`corten ps -a` lists them; of removed ones the event log knows the last few thousand events")
    })
}

fn step(event: EventRecord) -> Step {
    let mut facts = event.details;
    for name in ["exitCode", "execDuration", "signal", "oldName"] {
        if let Some(value) = event.attributes.get(name) {
            facts.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    }
    // `kill`'s signal is docker's attribute, `die`'s the supervisor's detail: no action has both.
    Step { time: event.time, action: event.action, facts }
}

/// The records of the kernel's log, each with its microseconds since the machine started; `None` where it cannot be read.
fn kernel_log() -> Option<Vec<(u64, String)>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = rustix::fs::open("/dev/kmsg", flags, Mode::empty()).ok()?;
    let mut records = Vec::new();
    let mut buffer = vec![0; KERNEL_RECORD_SIZE_BYTES_MAX];
    while records.len() < KERNEL_RECORDS_MAX {
        match rustix::io::read(&log, &mut buffer) {
            Ok(0) => break,
            Ok(count) => records.extend(kernel_record(&String::from_utf8_lossy(&buffer[..count]))),
            // The oldest one was overwritten in this moment.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(_) => return None,
        }
    }
    Some(records)
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`
fn kernel_record(line: &str) -> Option<(u64, String)> {
    let (head, text) = line.split_once(';')?;
    let microseconds = head.split(',').nth(2)?.parse().ok()?;
    Some((microseconds, text.lines().next().unwrap_or_default().to_owned()))
}

/// What the records say of this container: kills for want of memory in its cgroup, and system calls that its filter denied
/// or logged to its first process.
fn kernel_steps(records: &[(u64, String)], id: &str, pids: &BTreeSet<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut victim = String::new();
    for (microseconds, text) in records {
        let facts = if text.starts_with("oom-kill:") && text.contains(id) {
            victim = word_behind(text, "pid=").unwrap_or_default();
            continue;
        } else if !victim.is_empty() && text.contains(&format!("Killed process {victim} ")) {
            victim.clear();
            BTreeMap::from([("kind".to_owned(), "oom".to_owned())])
        } else if text.contains("type=1326")
            && word_behind(text, " pid=").is_some_and(|pid| pids.contains(pid.as_str()))
        {
            let call = word_behind(text, "syscall=").unwrap_or_default();
            BTreeMap::from([("kind".to_owned(), "seccomp".to_owned()), ("systemCall".to_owned(), call)])
        } else {
            continue;
        };
        let mut facts = facts;
        facts.insert("text".to_owned(), text.clone());
        steps.push(Step { time: moment(*microseconds), action: "kernel".to_owned(), facts });
    }
    steps
}

/// The word behind `name`, up to a comma or white space.
fn word_behind(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(name)?;
    Some(rest.split([',', ' ']).next().unwrap_or_default().to_owned())
}

/// The kernel's log counts from the machine's start.
fn moment(microseconds: u64) -> (i64, u32) {
    let (seconds, nanoseconds) = corten_types::time::now();
    let now = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
    let started = now.saturating_sub(corten_sys::clock::since_start());
    let then = started + Duration::from_micros(microseconds);
    (i64::try_from(then.as_secs()).unwrap_or(0), then.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_records_of_one_container_are_found() {
        let lines = [
            "6,1,100,-;unrelated",
            "4,2,200,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/corten/abc,task_memcg=/corten/abc,task=sh,pid=77,uid=0",
            "3,3,201,-;Memory cgroup out of memory: Killed process 77 (sh) total-vm:9kB",
            "4,4,300,-;oom-kill:oom_memcg=/corten/other,task=x,pid=78,uid=0",
            "3,5,301,-;Memory cgroup out of memory: Killed process 78 (x) total-vm:9kB",
            "5,6,400,-;audit: type=1326 audit(1.2:3): auid=4 uid=0 pid=12 comm=\"x\" sig=31 arch=c000003e syscall=101 compat=0",
            "5,7,401,-;audit: type=1326 audit(1.2:3): uid=0 pid=13 comm=\"x\" sig=31 syscall=101",
        ];
        let records: Vec<_> = lines.iter().filter_map(|line| kernel_record(line)).collect();
        let steps = kernel_steps(&records, "abc", &BTreeSet::from(["12"]));
        let seen: Vec<_> = steps.iter().map(|step| step.facts["kind"].as_str()).collect();
        assert_eq!(seen, ["oom", "seccomp"]);
        assert!(steps[0].facts["text"].contains("Killed process 77"));
        assert_eq!(steps[1].facts["systemCall"], "101");
    }

    #[test]
    fn a_removed_container_is_found_by_its_last_name() {
        let event = |id: &str, name: &str| {
            let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
            EventRecord::container(id, "create", attributes)
        };
        let events = [event("aaaa1", "web"), event("bbbb2", "web"), event("cccc3", "api")];
        assert_eq!(removed(&events, "web").unwrap(), "bbbb2");
        assert_eq!(removed(&events, "cccc").unwrap(), "cccc3");
        assert!(removed(&events, "db").is_err());
    }
}
