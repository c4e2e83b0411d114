//! Lines into records.

use std::collections::BTreeMap;

use corten_types::shim::LogOptions;
use corten_types::time::rfc3339;

use crate::{Form, LogStream, Piece, json, kubernetes, local};

/// Writes records of one form.
#[derive(Debug)]
pub struct Encoder {
    form: Form,
    /// The words of a JSON record between stream and time.
    attributes: String,
}

/// What every record of one read of one stream has in common.
#[derive(Debug)]
pub struct Common(String);

impl Encoder {
    /// The encoder of a log that is kept in files; `None` for any other.
    pub fn of(options: &LogOptions) -> Option<Self> {
        Some(Self { form: Form::of(options.driver)?, attributes: json_attributes(&options.attributes) })
    }

    /// Put together once for every read.
    pub fn common(&self, stream: LogStream, time: (i64, u32)) -> Common {
        Common(match self.form {
            Form::Json => {
                let (word, attributes) = (stream.as_str(), &self.attributes);
                format!("\",\"stream\":\"{word}\"{attributes},\"time\":\"{}\"}}\n", json::go_time(time))
            }
            Form::Kubernetes => format!("{} {} ", rfc3339(time.0, time.1), stream.as_str()),
            Form::Local => String::new(),
        })
    }

    /// Appends one record.
    pub fn encode(&self, records: &mut Vec<u8>, common: &Common, piece: Piece<'_>) {
        match self.form {
            Form::Json => json::encode(records, common.0.as_bytes(), piece.bytes),
            Form::Kubernetes => kubernetes::encode(records, common.0.as_bytes(), piece),
            Form::Local => local::encode(records, piece),
        }
    }
}

/// `,"attrs":{…}`, or nothing.
fn json_attributes(attributes: &BTreeMap<String, String>) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    serde_json::to_string(attributes).map(|json| format!(",\"attrs\":{json}")).unwrap_or_default()
}
