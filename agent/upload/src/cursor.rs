//! Progress of each receiver: a small file, replaced by rename after the receiver has acknowledged.
//!
//! It is readable text and ends with a checksum. A damaged or missing file means that nothing was
//! sent: points are cumulative, and points that are sent again count the same.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use edgelat_spool::record::hexadecimal;
use edgelat_spool::segment::checksum;

const HEAD: &str = "edgelat upload 1";

/// Most bytes read of the file; files written here are shorter.
const FILE_BYTES: u64 = 8 << 10;

/// The last interval that a receiver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its run.
    pub run: [u8; 16],
    /// Number of the interval; of the last one if merged.
    pub last: u64,
    /// The last number of the segment that it was read from. A merged segment covers the numbers of
    /// its parts, so reading can begin with the segment that has this number, whatever became of
    /// the first.
    pub segment: u32,
}

/// Progress, and the results of everything sent since the file was created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last interval that the receiver has.
    pub at: Option<At>,
    /// Points that the receiver accepted.
    pub accepted: u64,
    /// Points that the receiver refused.
    pub refused: u64,
    /// Intervals with an unknown date.
    pub undated: u64,
}

impl Cursor {
    /// Encodes the cursor file of a receiver.
    pub fn encode(&self, endpoint: &str) -> String {
        let mut text = format!("{HEAD}\nendpoint {endpoint}\n");
        if let Some(At { run, last, segment }) = self.at {
            let run = hexadecimal(&run);
            // Writing to a text cannot fail.
            _ = writeln!(text, "run {run}\nlast {last}\nsegment {segment}");
        }
        let Self { accepted, refused, undated, .. } = self;
        _ = writeln!(text, "accepted {accepted}\nrefused {refused}\nundated {undated}");
        let sum = checksum(text.as_bytes(), &[]);
        _ = writeln!(text, "crc32c {sum:08x}");
        text
    }

    /// Decodes it; `None` if it is invalid, or of another receiver.
    pub fn decode(text: &str, endpoint: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
        if u32::from_str_radix(sum, 16).ok()? != checksum(body.as_bytes(), &[]) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEAD || lines.next()?.strip_prefix("endpoint ")? != endpoint {
            return None;
        }
        let (mut cursor, mut run, mut last, mut segment) = (Self::default(), None, None, None);
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            let number = || value.parse::<u64>().ok();
            match name {
                "run" => run = Some(sixteen(value)?),
                "last" => last = Some(number()?),
                "segment" => segment = Some(u32::try_from(number()?).ok()?),
                "accepted" => cursor.accepted = number()?,
                "refused" => cursor.refused = number()?,
                "undated" => cursor.undated = number()?,
                // A key of a later version.
                _ => {}
            }
        }
        cursor.at = match (run, last, segment) {
            (Some(run), Some(last), Some(segment)) => Some(At { run, last, segment }),
            (None, None, None) => None,
            _ => return None,
        };
        Some(cursor)
    }
}

fn sixteen(digits: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, place) in bytes.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&digits[place..place + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Content of the cursor file of a receiver.
#[derive(Debug)]
pub enum Found {
    /// A valid cursor.
    Cursor(Cursor),
    /// No file: nothing was sent yet.
    None,
    /// A file that is no valid cursor.
    Damaged,
}

/// The cursor file of a receiver.
#[derive(Debug)]
pub struct CursorFile {
    path: PathBuf,
    endpoint: String,
}

impl CursorFile {
    /// The file for `endpoint`, in a folder that the first write creates.
    pub fn of(folder: &Path, endpoint: &str) -> Self {
        let name = format!("cursor-{:08x}", checksum(endpoint.as_bytes(), &[]));
        Self { path: folder.join(name), endpoint: endpoint.to_owned() }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&self) -> io::Result<Found> {
        let mut text = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(FILE_BYTES).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            Err(error) => return Err(error),
        };
        let cursor = std::str::from_utf8(&text).ok().and_then(|text| Cursor::decode(text, &self.endpoint));
        Ok(cursor.map_or(Found::Damaged, Found::Cursor))
    }

    /// Writes the file: after a power cut either this version or the one before exists.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&self, cursor: &Cursor) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(cursor.encode(&self.endpoint).as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "http://box:4318/v1/metrics";

    fn cursor() -> Cursor {
        let at = Some(At { run: *b"0123456789abcdef", last: 1 << 40, segment: 17 });
        Cursor { at, accepted: 12, refused: 3, undated: 4 }
    }

    #[test]
    fn what_is_written_is_read_and_only_for_that_receiver() {
        for cursor in [cursor(), Cursor::default()] {
            let text = cursor.encode(ENDPOINT);
            assert_eq!(Cursor::decode(&text, ENDPOINT), Some(cursor));
            assert_eq!(Cursor::decode(&text, "http://box:4318/v1/metric"), None);
        }
    }

    #[test]
    fn a_damaged_byte_or_a_missing_one_is_no_cursor() {
        let text = cursor().encode(ENDPOINT).into_bytes();
        for place in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[place] ^= 1 << bit;
                let read = std::str::from_utf8(&damaged).ok().and_then(|text| Cursor::decode(text, ENDPOINT));
                // The checksum's digits may be in capitals.
                let same = damaged.eq_ignore_ascii_case(&text) && place + 9 >= text.len();
                assert_eq!(read.is_some(), same, "bit {bit} of byte {place}");
            }
            assert_eq!(Cursor::decode(std::str::from_utf8(&text[..place]).unwrap(), ENDPOINT), None);
        }
    }

    #[test]
    fn a_file_for_each_receiver_that_is_there_or_not() {
        let folder = std::env::temp_dir().join(format!("edgelat-cursor-{}", std::process::id()));
        let file = CursorFile::of(&folder, ENDPOINT);
        assert!(matches!(file.read(), Ok(Found::None)));
        file.write(&Cursor::default()).unwrap();
        file.write(&cursor()).unwrap();
        assert!(matches!(file.read(), Ok(Found::Cursor(read)) if read == cursor()));
        let other = CursorFile::of(&folder, "http://other/");
        assert_ne!(file.path(), other.path());
        assert!(matches!(other.read(), Ok(Found::None)));
        fs::write(file.path(), b"\xff").unwrap();
        assert!(matches!(file.read(), Ok(Found::Damaged)));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_dir_all(&folder).unwrap();
    }
}
