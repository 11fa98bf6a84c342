//! Notes: build-id, the mark of the Go linker, and support of shadow stacks.
//!
//! A note is three 32-bit words (lengths of name and description, type), then name and description,
//! each padded to the alignment of the segment or section (4, or 8 for `.note.gnu.property`).

use super::{Elf, PT_NOTE, Purpose, SHT_NOTE, u32_at};
use crate::limits::NOTE_BYTES;
use crate::source::read_range;
use crate::{BuildId, ImageError, ReadAt};

const NT_GNU_BUILD_ID: u32 = 3;
/// Properties, each a type, a length and data padded to 8 bytes (Linux Extensions to gABI, section 2.1.7).
const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
const GNU_PROPERTY_X86_FEATURE_1_AND: u32 = 0xc000_0002; // System V ABI x86-64, section 12.2
const GNU_PROPERTY_X86_FEATURE_1_SHSTK: u32 = 2;
const GO_BUILD_ID: u32 = 4; // cmd/internal/buildid, elfGoBuildIDTag
const GO_HASH_CHARACTERS: usize = 20; // cmd/internal/buildid/buildid.go, HashToString: 120 bits in base64

/// Contents of the notes of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes {
    /// Description of the first `NT_GNU_BUILD_ID`.
    pub(crate) build_id: Option<BuildId>,
    /// File offset of that description.
    pub(crate) build_id_offset: u64,
    /// True if there is a note of the Go linker.
    pub(crate) go: bool,
    /// The content hash in it, and its file offset.
    pub(crate) go_build_id: Option<(BuildId, u64)>,
    /// x86-64: shadow stacks supported. The C library enables them only if all images support them.
    pub(crate) shadow_stack: bool,
}

/// Reads note segments and note sections: in an image the segments first, because they are mapped;
/// in a debug file the sections first, because its segments still have the image's note offsets.
pub(crate) fn read(elf: &Elf<dyn ReadAt + '_>, purpose: Purpose) -> Result<Notes, ImageError> {
    let segments = elf
        .segments
        .iter()
        .filter(|segment| segment.kind == PT_NOTE)
        .map(|segment| (segment.offset, segment.file_size, segment.align));
    let sections = elf
        .sections()
        .iter()
        .filter(|section| section.kind == SHT_NOTE)
        .map(|section| (section.offset, section.size, section.align));
    let ranges: Vec<_> = match purpose {
        Purpose::Image => segments.chain(sections).collect(),
        Purpose::Symbols => sections.collect(),
    };
    let mut notes = Notes::default();
    for (offset, size, align) in ranges {
        // A note longer than the cap is no build-id; its first bytes still count.
        let bytes = read_range(&elf.source, "note", offset, size.min(NOTE_BYTES), NOTE_BYTES)?;
        scan(&bytes, offset, if align == 8 { 8 } else { 4 }, &mut notes);
    }
    Ok(notes)
}

/// `offset` is the file offset of `bytes`.
fn scan(mut bytes: &[u8], mut offset: u64, align: usize, notes: &mut Notes) {
    while let Some((header, rest)) = bytes.split_first_chunk::<12>() {
        let name_length = u32_at(header, 0) as usize;
        let description_length = u32_at(header, 4) as usize;
        let kind = u32_at(header, 8);
        let Some(name) = rest.get(..name_length) else { return };
        // Padding counts from the start of the note, whose header has 12 bytes.
        let description_at = (12 + name_length).next_multiple_of(align) - 12;
        let Some(description) =
            rest.get(description_at..).and_then(|description| description.get(..description_length))
        else {
            return;
        };
        match (name, kind) {
            (b"GNU\0", NT_GNU_BUILD_ID) if notes.build_id.is_none() => {
                notes.build_id = BuildId::new(description);
                notes.build_id_offset = offset.saturating_add(12 + description_at as u64);
            }
            (b"Go\0\0", GO_BUILD_ID) => {
                notes.go = true;
                notes.go_build_id = content_of(description).and_then(|(at, content)| {
                    let at = 12 + description_at + at;
                    Some((BuildId::new(content)?, offset.saturating_add(at as u64)))
                });
            }
            (b"GNU\0", NT_GNU_PROPERTY_TYPE_0) => notes.shadow_stack |= has_shadow_stack(description),
            _ => {}
        }
        let next = (12 + description_at + description_length).next_multiple_of(align);
        let Some(following) = bytes.get(next..) else { return };
        bytes = following;
        offset = offset.saturating_add(next as u64);
    }
}

/// Returns the content hash in a program's Go build-id, and its place. A build-id is hashes of 20
/// characters with slashes between them, the content's last (cmd/go/internal/work/buildid.go). A
/// reproducible build has a fixed word instead, equal in all programs.
fn content_of(description: &[u8]) -> Option<(usize, &[u8])> {
    let at = description.iter().rposition(|byte| *byte == b'/')? + 1;
    let content = description.get(at..)?;
    let plain = content.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    (content.len() == GO_HASH_CHARACTERS && plain).then_some((at, content))
}

fn has_shadow_stack(mut properties: &[u8]) -> bool {
    while let Some((header, rest)) = properties.split_first_chunk::<8>() {
        let length = u32_at(header, 4) as usize;
        let Some(data) = rest.get(..length) else { return false };
        if let (GNU_PROPERTY_X86_FEATURE_1_AND, Ok(features)) = (u32_at(header, 0), data.try_into()) {
            return u32::from_le_bytes(features) & GNU_PROPERTY_X86_FEATURE_1_SHSTK != 0;
        }
        properties = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, description: &[u8], align: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, description.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes.extend(description);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes_with_either_alignment() {
        for align in [4, 8] {
            let mut bytes = note(b"GNU\0", 5, &[1; 20], align);
            bytes.extend(note(b"stapsdt\0", NT_GNU_BUILD_ID, b"no", align));
            bytes.extend(note(b"GNU\0", NT_GNU_BUILD_ID, &[7; 20], align));
            bytes.extend(note(b"Go\0\0", GO_BUILD_ID, b"abc/def", align));
            let mut notes = Notes::default();
            scan(&bytes, 1000, align, &mut notes);
            assert_eq!(notes.build_id, BuildId::new(&[7; 20]));
            let at = (notes.build_id_offset - 1000) as usize;
            assert_eq!(bytes[at..at + 20], [7; 20]);
            assert!(notes.go);
        }
    }

    #[test]
    fn the_build_id_of_go_is_its_last_hash_and_no_word_that_all_programs_share() {
        let content = b"Zm9vYmFyYmF6cXV4-_01";
        let of = |description: &[u8]| {
            let bytes = note(b"Go\0\0", GO_BUILD_ID, description, 4);
            let mut notes = Notes::default();
            scan(&bytes, 1000, 4, &mut notes);
            assert!(notes.go);
            let (id, offset) = notes.go_build_id?;
            let at = (offset - 1000) as usize;
            assert_eq!(&bytes[at..at + id.bytes().len()], id.bytes());
            Some(id)
        };
        let whole = [&b"aaaaaaaaaaaaaaaaaaaa/bbbbbbbbbbbbbbbbbbbb/"[..], content].concat();
        assert_eq!(of(&whole), BuildId::new(content));
        for word in [&b""[..], b"redacted", b"a/b", b"/", content, b"aa/Zm9vYmFyYmF6cXV4 _01"] {
            assert_eq!(of(word), None, "{word:?}");
        }
    }

    #[test]
    fn a_mark_for_shadow_stacks_is_found_behind_other_properties() {
        let properties = |features: u8| {
            let mut bytes = vec![1, 0, 0, 0xc0, 4, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend([2, 0, 0, 0xc0, 4, 0, 0, 0, features, 0, 0, 0, 0, 0, 0, 0]);
            note(b"GNU\0", NT_GNU_PROPERTY_TYPE_0, &bytes, 8)
        };
        for (features, has) in [(3, true), (2, true), (1, false)] {
            let mut notes = Notes::default();
            scan(&properties(features), 0, 8, &mut notes);
            assert_eq!(notes.shadow_stack, has);
        }
        let whole = properties(3);
        for end in 0..whole.len() {
            scan(&whole[..end], 0, 8, &mut Notes::default());
        }
    }

    #[test]
    fn lengths_that_lead_outside_end_the_search() {
        let whole = note(b"GNU\0", NT_GNU_BUILD_ID, &[7; 20], 4);
        for end in 0..whole.len() {
            let mut notes = Notes::default();
            scan(&whole[..end], 0, 4, &mut notes);
            assert_eq!(notes.build_id, None);
        }
        for field in [0, 4] {
            let mut bytes = whole.clone();
            bytes[field..field + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            let mut notes = Notes::default();
            scan(&bytes, 0, 4, &mut notes);
            assert_eq!(notes.build_id, None);
        }
    }
}
