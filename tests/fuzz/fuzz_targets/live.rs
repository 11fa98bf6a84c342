//! Live snapshots, and their metrics. The checksum is corrected first: it stops accidents, and this
//! input is deliberate.
#![no_main]

use edgelat_export::{Bounds, Format, metrics};
use edgelat_spool::live::{self, HEADER_BYTES, Half};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let mut bytes = [&b"EDGELIVE\x01\0\0\0"[..], &(payload.len() as u32).to_le_bytes(), &[7, 0, 0, 0, 0, 0, 0, 0]].concat();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut digest = crc.digest();
    digest.update(&bytes);
    digest.update(payload);
    bytes.extend(digest.finalize().to_le_bytes());
    assert_eq!(bytes.len(), HEADER_BYTES);
    bytes.extend_from_slice(payload);
    let Half::Snapshot(7, mut snapshot) = live::decode(&bytes) else { return };
    let mut again = Vec::new();
    live::encode(&snapshot, &snapshot.rows, 7, &mut again);
    let Half::Snapshot(7, other) = live::decode(&again) else { panic!("what was read can be written") };
    assert_eq!(*other, *snapshot);

    // Shown as a running service with all functions, whatever its times are.
    snapshot.ended = false;
    snapshot.rows.iter_mut().for_each(|row| row.read_ns = snapshot.now.boot_ns);
    let now = metrics::Now { boot: snapshot.agent.boot, boot_ns: snapshot.now.boot_ns };
    let families = metrics::of(Some(&snapshot), now);
    for format in [Format::Classic, Format::OpenMetrics] {
        let text = String::from_utf8(format.write(&families, Bounds::default())).expect("text");
        let mut lines = text.split('\n').collect::<Vec<_>>();
        assert_eq!(lines.pop(), Some(""), "it ends with a line");
        if format == Format::OpenMetrics {
            assert_eq!(lines.pop(), Some("# EOF"));
        }
        for line in lines {
            assert!(line.starts_with("# ") || is_sample(line), "{line:?}");
        }
    }
    Format::Protobuf.write(&families, Bounds::default());
});

/// A name, labels in which every quote and backslash is escaped, and a number.
fn is_sample(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("edgelat_") else { return false };
    let rest = rest.trim_start_matches(|character: char| character.is_ascii_lowercase() || character == '_');
    let Some(mut rest) = rest.strip_prefix('{') else { return is_number(rest) };
    loop {
        let Some((name, value)) = rest.split_once("=\"") else { return false };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return false;
        }
        let mut escaped = false;
        let end = value.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { return false };
        if value[..end].contains('\0') {
            return false;
        }
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.strip_prefix('}').is_some_and(is_number),
        }
    }
}

fn is_number(text: &str) -> bool {
    text.strip_prefix(' ').is_some_and(|number| {
        number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && number.parse::<f64>().is_ok()
    })
}
