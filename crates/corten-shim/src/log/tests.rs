//! What programs of other makers read, and what `logs` reads back.

use super::*;
use corten_fs::Root;
use corten_log::{LogStream, PIECE_SIZE_BYTES_MAX};
use corten_types::shim::LogOptions;

fn log(options: &LogOptions, directory: &std::path::Path) -> Log {
    let root = Root::open_ambient(directory).unwrap();
    let name = options.file_name("id").unwrap();
    let file = file::Log::open(&root, directory, name, options).unwrap();
    Log { target: Target::File(Box::new(file), Encoder::of(options).unwrap()), records: Vec::new() }
}

fn logged(pieces: &[&[u8]]) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let mut log = log(&LogOptions::default(), directory.path());
    let mut lines = Lines::of(LogStream::Stderr);
    for piece in pieces {
        log.push(&mut lines, piece, (0, 7));
    }
    log.finish(&mut lines, (0, 7));
    let content = std::fs::read_to_string(directory.path().join("id-json.log")).unwrap();
    let record = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["stream"], "stderr");
        (value["log"].as_str().unwrap().to_owned(), value["time"].as_str().unwrap().to_owned())
    };
    content.lines().map(record).collect()
}

#[test]
fn every_line_is_a_record_however_it_arrives() {
    let records = logged(&[b"on", b"e\ntwo\n\n", b"thr\"ee\xff\x01<\xe2\x80\xa8"]);
    let texts: Vec<&str> = records.iter().map(|record| record.0.as_str()).collect();
    assert_eq!(texts, ["one\n", "two\n", "\n", "thr\"ee\u{fffd}\u{1}<\u{2028}"]);
    assert_eq!(records[0].1, "1970-01-01T00:00:00.000000007Z");
}

#[test]
fn a_long_line_comes_in_pieces_that_cut_no_letter() {
    let mut line = vec![b'x'; PIECE_SIZE_BYTES_MAX - 1];
    line.extend("é".as_bytes());
    line.extend(b"end\n");
    for cut in [1, 100, PIECE_SIZE_BYTES_MAX - 1, PIECE_SIZE_BYTES_MAX, line.len()] {
        let records = logged(&[&line[..cut], &line[cut..]]);
        let lengths: Vec<_> = records.iter().map(|record| record.0.len()).collect();
        assert_eq!(lengths, [PIECE_SIZE_BYTES_MAX - 1, 6], "cut at {cut}");
        assert_eq!(records[1].0, "éend\n");
    }
}

#[test]
fn a_full_file_is_set_aside_and_the_oldest_goes() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { driver: LogDriver::K8sFile, size_bytes_max: 1, files_max: 3, ..LogOptions::default() };
    let mut log = log(&options, directory.path());
    let mut lines = Lines::of(LogStream::Stdout);
    for text in ["one\n", "two\n", "three\n", "four\n", "part"] {
        log.push(&mut lines, text.as_bytes(), (0, 0));
    }
    log.finish(&mut lines, (0, 0));
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(read("ctr.log"), "");
    assert_eq!(read("ctr.log.1"), "1970-01-01T00:00:00.000000000Z stdout P part\n");
    assert_eq!(read("ctr.log.2"), "1970-01-01T00:00:00.000000000Z stdout F four\n");
    assert!(!directory.path().join("ctr.log.3").exists());
}

#[test]
fn what_was_set_aside_can_be_compressed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.1");
    std::fs::write(&path, "text".repeat(1000)).unwrap();
    compress(&path).unwrap();
    let mut text = String::new();
    let file = std::fs::File::open(directory.path().join("log.1.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    assert!(text == "text".repeat(1000) && !path.exists());
}
