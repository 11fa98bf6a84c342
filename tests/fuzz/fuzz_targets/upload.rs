//! Answers of a receiver, and the file that keeps the receiver's position. The checksum of the file
//! is corrected first: it stops accidents, and this input is deliberate.
#![no_main]

use std::time::{Duration, SystemTime};

use edgelat_upload::otlp::{MESSAGE_BYTES, response, response_json};
use edgelat_upload::retry::{judge, wait};
use edgelat_upload::{Answer, Cursor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(partial) = response(bytes) {
        // A replacement for invalid UTF-8 has three bytes.
        assert!(partial.message.len() <= 3 * MESSAGE_BYTES);
        assert!(!partial.message.contains(char::is_control), "it is one line");
    }
    let text = String::from_utf8_lossy(bytes);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Some(time) = wait(&text, now) {
        assert!(time <= Duration::from_secs(24 * 3_600));
    }
    for status in [200, 400, 429] {
        for content_type in [None, Some("application/x-protobuf"), Some("application/json"), Some("text/html")] {
            let answer = judge(status, content_type, Some(&text), bytes, now);
            let taken = matches!(answer, Answer::Taken(_));
            assert!(status == 200 || !taken);
            assert!(!taken || bytes.is_empty() || response(bytes).is_ok() || response_json(bytes).is_some());
            assert!(!taken || bytes.is_empty() || content_type != Some("text/html"), "a page is no answer");
        }
        judge(status, Some(&text), None, bytes, now);
    }
    let file = format!("edgelat upload 1\n{text}");
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(file.as_bytes());
    let file = format!("{file}crc32c {sum:08x}\n");
    if let Some(cursor) = Cursor::decode(&file, "http://a") {
        let again = cursor.encode("http://a");
        assert_eq!(Cursor::decode(&again, "http://a"), Some(cursor), "what was read can be written");
    }
});
