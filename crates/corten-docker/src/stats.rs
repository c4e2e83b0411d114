//! `docker stats`, and `corten usage` in the same manner.

use corten_engine::{Usage, UsageTotal};
use corten_types::Result;

use crate::table::{ListFormat, field, header};
use crate::template::Value;
use crate::units::{human_size, human_size_binary};

const TABLE: &str =
    "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
const GO_TYPE: &str = "*formatter.statsContext";
const USAGE_TABLE: &str =
    "table {{.Name}}\t{{.Runs}}\t{{.CPU}}\t{{.MemPeak}}\t{{.GBHours}}\t{{.BlockIO}}\t{{.NetIO}}\t{{.Failures}}";
const USAGE_TYPE: &str = "*corten.usageContext";

/// One container at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// As the user named it.
    pub container: String,
    /// Whole.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Hundredths of one CPU since the sample before.
    pub cpu_percent: f64,
    /// Its counters; all 0 where it does not run.
    pub usage: Usage,
    /// What an unlimited container may have: the machine's memory.
    pub memory_total_bytes: u64,
    /// It runs, and nothing counts what it uses.
    pub is_uncounted: bool,
}

/// How `stats` shows its rows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `--format`
    pub format: Option<String>,
    /// `--no-trunc`
    pub no_trunc: bool,
}

/// The text of `stats`.
pub fn stats(samples: &[Sample], view: &View) -> Result<String> {
    let format = match view.format.as_deref() {
        None | Some("" | "table") => TABLE,
        Some(custom) => custom,
    };
    let rows: Vec<Value> = samples.iter().map(|sample| row(sample, view.no_trunc)).collect();
    ListFormat::parse(format)?.render(&titles(), &rows)
}

fn titles() -> Value {
    header(&[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "a share for people has few digits")]
fn row(sample: &Sample, no_trunc: bool) -> Value {
    let usage = &sample.usage;
    let limit = match usage.memory_limit_bytes {
        0 if usage.is_counted => sample.memory_total_bytes,
        limit => limit.min(sample.memory_total_bytes),
    };
    let share = if limit == 0 { 0.0 } else { usage.memory_bytes as f64 / limit as f64 * 100.0 };
    let unknown = |text: String| if sample.is_uncounted { "--".to_owned() } else { text };
    let id = if no_trunc { sample.id.as_str() } else { sample.id.get(..12).unwrap_or(&sample.id) };
    let pair = |one: u64, other: u64| format!("{} / {}", human_size(one, 3), human_size(other, 3));
    let memory = format!("{} / {}", human_size_binary(usage.memory_bytes), human_size_binary(limit));
    Value::row(
        GO_TYPE,
        vec![
            field("Container", sample.container.as_str()),
            field("ID", id),
            field("Name", sample.name.as_str()),
            field("CPUPerc", unknown(format!("{:.2}%", sample.cpu_percent))),
            field("MemUsage", if sample.is_uncounted { "-- / --".to_owned() } else { memory }),
            field("MemPerc", unknown(format!("{share:.2}%"))),
            field("NetIO", pair(usage.received_bytes, usage.sent_bytes)),
            field("BlockIO", unknown(pair(usage.read_bytes, usage.written_bytes))),
            field("PIDs", unknown(usage.pids.to_string())),
        ],
    )
}

/// The text of `corten usage`; JSON has the numbers as they are.
pub fn usage(totals: &[UsageTotal], format: Option<&str>) -> Result<String> {
    let titles = header(&[
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Runs", "RUNS"),
        ("CPU", "CPU SECONDS"),
        ("MemPeak", "MEM PEAK"),
        ("GBHours", "GB-HOURS"),
        ("BlockIO", "BLOCK I/O"),
        ("NetIO", "NET I/O"),
        ("Failures", "FAILURES"),
        ("Status", "STATUS"),
    ]);
    let (format, rows): (_, Vec<Value>) = match format {
        Some("json") => ("json", totals.iter().map(numbers).collect()),
        None | Some("" | "table") => (USAGE_TABLE, totals.iter().map(words).collect()),
        Some(custom) => (custom, totals.iter().map(words).collect()),
    };
    ListFormat::parse(format)?.render(&titles, &rows)
}

fn status(total: &UsageTotal) -> &'static str {
    match (total.is_running, total.exists) {
        (true, _) => "running",
        (false, true) => "ended",
        (false, false) => "removed",
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds and gigabyte hours for people have few digits")]
fn seconds_and_hours(usage: &Usage) -> (f64, f64) {
    (usage.cpu_ns as f64 / 1e9, usage.memory_byte_seconds as f64 / 1e9 / 3600.0)
}

fn words(total: &UsageTotal) -> Value {
    let usage = &total.usage;
    let (seconds, hours) = seconds_and_hours(usage);
    let pair = |one: u64, other: u64| format!("{} / {}", human_size(one, 3), human_size(other, 3));
    let failures =
        [(usage.memory_failures, "memory"), (usage.oom_kills, "killed for memory"), (usage.pids_failures, "processes")];
    let failures: Vec<_> =
        failures.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    Value::row(
        USAGE_TYPE,
        vec![
            field("ID", total.id.get(..12).unwrap_or(&total.id)),
            field("Name", total.name.as_str()),
            field("Image", total.image.as_str()),
            field("Runs", total.runs.to_string()),
            field("CPU", format!("{seconds:.3}")),
            field("MemPeak", human_size_binary(usage.memory_peak_bytes)),
            field("GBHours", format!("{hours:.6}")),
            field("BlockIO", pair(usage.read_bytes, usage.written_bytes)),
            field("NetIO", pair(usage.received_bytes, usage.sent_bytes)),
            field("Failures", if failures.is_empty() { "none".to_owned() } else { failures.join(", ") }),
            field("Status", status(total)),
        ],
    )
}

fn numbers(total: &UsageTotal) -> Value {
    let usage = &total.usage;
    let (seconds, hours) = seconds_and_hours(usage);
    let number = |value: u64| Value::Int(value.into());
    document! {
        "ID": total.id.as_str(),
        "Name": total.name.as_str(),
        "Image": total.image.as_str(),
        "Labels": Value::string_map(&total.labels),
        "Status": status(total),
        "Runs": number(total.runs),
        "CPUSeconds": Value::Float(seconds),
        "MemoryPeakBytes": number(usage.memory_peak_bytes),
        "GBHours": Value::Float(hours),
        "ReadBytes": number(usage.read_bytes),
        "WrittenBytes": number(usage.written_bytes),
        "ReceivedBytes": number(usage.received_bytes),
        "SentBytes": number(usage.sent_bytes),
        "MemoryFailures": number(usage.memory_failures),
        "OOMKills": number(usage.oom_kills),
        "ProcessFailures": number(usage.pids_failures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        let usage = Usage {
            is_counted: true,
            memory_bytes: 3 << 20,
            memory_limit_bytes: 64 << 20,
            read_bytes: 1_500_000,
            pids: 2,
            ..Usage::default()
        };
        let (container, name) = ("web".to_owned(), "web".to_owned());
        Sample {
            container,
            id: "ab".repeat(32),
            name,
            cpu_percent: 12.345,
            usage,
            memory_total_bytes: 1 << 30,
            is_uncounted: false,
        }
    }

    #[test]
    fn stats_have_docker_s_columns() {
        let text = stats(&[sample()], &View::default()).unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(lines[0], "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS");
        assert_eq!(lines[1], "abababababab web 12.35% 3MiB / 64MiB 4.69% 0B / 0B 1.5MB / 0B 2");
        let uncounted = Sample { is_uncounted: true, ..sample() };
        assert!(stats(&[uncounted], &View::default()).unwrap().contains("-- / --"));
        let view = View { format: Some("{{.Container}} {{.PIDs}}".to_owned()), no_trunc: true };
        assert_eq!(stats(&[sample()], &view).unwrap(), "web 2\n");
    }

    #[test]
    fn usage_says_how_often_limits_were_hit() {
        let usage_of = Usage { cpu_ns: 1_500_000_000, memory_failures: 3, oom_kills: 1, ..Usage::default() };
        let total = UsageTotal { name: "web".to_owned(), runs: 2, usage: usage_of, ..UsageTotal::default() };
        let text = usage(std::slice::from_ref(&total), None).unwrap();
        assert!(text.contains("1.500") && text.contains("3 memory, 1 killed for memory"), "{text}");
        let json = usage(&[total], Some("json")).unwrap();
        assert!(json.contains("\"CPUSeconds\":1.5") && json.contains("\"Status\":\"removed\""), "{json}");
    }
}
