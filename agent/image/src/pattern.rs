//! Function patterns on the command line: `[IMAGE:]NAME`.
//!
//! | form | chooses |
//! | --- | --- |
//! | `do_work` | the function of that name; C++ and Rust names with or without their parameter list |
//! | `work_*`, `ns::Queue::p?p`, `step_[0-9]` | all functions that the [glob](crate::glob) matches |
//! | `do_work@V_1.0`, `do_work@@V_2.0` | the same in that version; `@@` is the one that the name means to a linker, `do_work` alone all of them |
//! | `libfoo.so:do_work` | the same in the image with that file name (`libfoo.so` is also `libfoo.so.1.2`) |
//! | `/opt/vendor/libfoo.so:do_work` | the same in the image of that path |
//! | `+0x1139@6a3b08c1` | the function that begins at that ELF virtual address, in the build with that build-id |
//! | `libfoo.so:0x2139@6a3b08c1` | the function that begins at that file offset, in the build with that build-id |
//!
//! A name is taken literally first, then as a glob (`operator*`, `f(char*)`). A Go receiver's star,
//! as in `main.(*Server).*`, is literal. The last single colon divides; `::` belongs to the name.

use std::fmt;
use std::path::Path;

use thiserror::Error;

use crate::demangle::may_be_abbreviated;
use crate::functions::unnamed::UNNAMED;
use crate::glob::Glob;
use crate::limits::{BUILD_ID_BYTES, BUILD_ID_DIGITS, PATTERN_BYTES};
use crate::linkage;

/// A parsed pattern. `Display` gives the original text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    image: Option<String>,
    wanted: Wanted,
}

/// Function request of a pattern within its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Functions by name or glob.
    Name(NamePattern),
    /// The function that begins at an ELF virtual address.
    Address {
        /// The address.
        address: u64,
        /// The first hexadecimal digits of the build-id, at least [`BUILD_ID_DIGITS`].
        build_id: String,
    },
    /// The function that begins at a file offset.
    Offset {
        /// The offset in bytes from the start of the file.
        offset: u64,
        /// The first hexadecimal digits of the build-id, at least [`BUILD_ID_DIGITS`].
        build_id: String,
    },
}

/// A name or glob, ready to be compared with many names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
    /// Bytes of the text before its version.
    base: usize,
    /// The text without spaces: demanglers and people place them differently.
    squeezed: String,
    glob: Option<Glob>,
    squeezed_glob: Option<Glob>,
}

/// Reasons why a pattern is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The text is empty.
    #[error("the function name is empty; write NAME, IMAGE:NAME, or a glob such as 'work_*'")]
    Empty,
    /// More than [`PATTERN_BYTES`] bytes.
    #[error("the function name has {bytes} bytes, more than the {PATTERN_BYTES} that are read; use a glob")]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// The part before the colon is empty.
    #[error("'{text}' has no image before its colon; write IMAGE:NAME, or NAME alone for the executable")]
    EmptyImage {
        /// The pattern text.
        text: String,
    },
    /// The part after the colon is empty.
    #[error("'{text}' has no function after its colon; write IMAGE:NAME, or 'IMAGE:*' for all functions")]
    EmptyName {
        /// The pattern text.
        text: String,
    },
    /// An address without `@BUILDID`.
    #[error(
        "'{text}' is an address without a build-id; an address means something in one build only: write {text}@BUILDID \
         with at least {BUILD_ID_DIGITS} digits of what `readelf -n IMAGE` shows as Build ID"
    )]
    NoBuildId {
        /// The pattern text.
        text: String,
    },
    /// A build-id that is too short, too long or not hexadecimal.
    #[error(
        "'{build_id}' in '{text}' is not a build-id; write {BUILD_ID_DIGITS} or more hexadecimal digits of what \
         `readelf -n IMAGE` shows as Build ID"
    )]
    BadBuildId {
        /// The pattern text.
        text: String,
        /// The part after the `@`.
        build_id: String,
    },
    /// An address that is not a hexadecimal number of 64 bits.
    #[error(
        "'{text}' is not an address; write +0xADDRESS@BUILDID or IMAGE:0xOFFSET@BUILDID in hexadecimal digits"
    )]
    BadAddress {
        /// The pattern text.
        text: String,
    },
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// A [`PatternError`] that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES {
            return Err(PatternError::TooLong { bytes: text.len() });
        }
        let (image, name) = match dividing_colon(text) {
            Some(colon) => (Some(&text[..colon]), &text[colon + 1..]),
            None => (None, text),
        };
        if image == Some("") {
            return Err(PatternError::EmptyImage { text: text.to_owned() });
        }
        if name.is_empty() {
            return Err(PatternError::EmptyName { text: text.to_owned() });
        }
        let wanted = match (name.strip_prefix('+'), strip_hex_prefix(name)) {
            (Some(address), _) => {
                let digits = strip_hex_prefix(address)
                    .ok_or_else(|| PatternError::BadAddress { text: text.to_owned() })?;
                let (address, build_id) = address_and_build_id(text, digits)?;
                Wanted::Address { address, build_id }
            }
            (None, Some(digits)) => {
                let (offset, build_id) = address_and_build_id(text, digits)?;
                Wanted::Offset { offset, build_id }
            }
            (None, None) => Wanted::Name(NamePattern::new(name)),
        };
        Ok(Self { text: text.to_owned(), image: image.map(str::to_owned), wanted })
    }

    /// Returns the text before the dividing colon.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Returns the function request within the image.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Returns the name or glob; `None` for an address.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.wanted {
            Wanted::Name(name) => Some(&name.text),
            Wanted::Address { .. } | Wanted::Offset { .. } => None,
        }
    }

    /// Returns true if the pattern means functions that have no name but their address.
    #[must_use]
    pub fn wants_unnamed(&self) -> bool {
        self.name().is_some_and(|name| name.starts_with(UNNAMED))
    }

    /// Returns true if the pattern means the image of this path. A pattern without an image means
    /// any image; a caller that then wants the executable only checks [`image`](Self::image) first.
    ///
    /// An image with a `/` is a path and must be equal. Otherwise it is compared with the file
    /// name: equal, a matching glob, or equal up to a version (`.1`, `.1.2`).
    #[must_use]
    pub fn matches_image(&self, path: &Path) -> bool {
        let Some(image) = self.image() else { return true };
        if image.contains('/') {
            return path == Path::new(image);
        }
        let Some(file) = path.file_name().map(|name| name.to_string_lossy()) else { return false };
        let version = |rest: &str| {
            rest.strip_prefix('.').is_some_and(|rest| {
                rest.split('.')
                    .all(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
            })
        };
        file.strip_prefix(image).is_some_and(|rest| rest.is_empty() || version(rest))
            || Glob::is_glob(image) && Glob::new(image).matches(file.chars())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl NamePattern {
    fn new(text: &str) -> Self {
        let with_version = cfg!(feature = "versions");
        let base = if with_version { linkage::without_version(text.as_bytes()).len() } else { text.len() };
        let name = text.get(..base).unwrap_or(text);
        let squeezed: String = squeeze(name).collect();
        // The brackets of an ABI tag, as in f[abi:cxx11], hold no set.
        let glob = |text: &str| {
            let text = text.replace(TAG, "\\[abi:");
            Glob::is_glob(&text).then(|| Glob::new(&text))
        };
        Self {
            glob: glob(name),
            squeezed_glob: glob(&squeezed),
            squeezed,
            base: name.len(),
            text: text.to_owned(),
        }
    }

    /// Returns the original text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the text without a version.
    pub(crate) fn base(&self) -> &str {
        &self.text[..self.base]
    }

    /// Returns true if it can match names other than itself.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        self.glob.is_some()
    }

    /// Returns true if the pattern requests this version, given with its `@` signs. One sign
    /// requests any version of that name, two signs request the default version.
    pub(crate) fn is_version(&self, version: &str) -> bool {
        if cfg!(not(feature = "versions")) {
            return true;
        }
        let asked = &self.text[self.base..];
        let any = version.strip_prefix('@').filter(|_| !asked.starts_with("@@"));
        asked.is_empty()
            || [Some(version), any].into_iter().flatten().any(|version| {
                version == asked || Glob::is_glob(asked) && Glob::new(asked).matches(version.chars())
            })
    }

    /// Returns true if a linkage name is the text itself.
    pub(crate) fn is(&self, linkage: &[u8]) -> bool {
        self.base().as_bytes() == linkage
    }

    /// Returns true if a demangled name is the text itself, ignoring spaces.
    pub(crate) fn is_demangled(&self, name: &str) -> bool {
        squeeze(name).eq(self.squeezed.chars())
            || name.contains(TAG)
                && !self.base().contains(TAG)
                && squeeze(&without_tags(name)).eq(self.squeezed.chars())
    }

    /// Returns true if the pattern is a glob that matches a linkage name.
    pub(crate) fn matches(&self, linkage: &[u8]) -> bool {
        self.glob.as_ref().is_some_and(|glob| match std::str::from_utf8(linkage) {
            Ok(name) => glob.matches(name.chars()),
            Err(_) => glob.matches(String::from_utf8_lossy(linkage).chars()),
        })
    }

    /// Returns true if the pattern is a glob that matches a demangled name, ignoring spaces.
    pub(crate) fn matches_demangled(&self, name: &str) -> bool {
        self.squeezed_glob.as_ref().is_some_and(|glob| glob.matches(squeeze(name)))
    }

    /// Returns the longest word in all mangled names whose demangled form matches; may be empty.
    pub(crate) fn word_of_mangled(&self) -> String {
        let words = match &self.glob {
            Some(glob) => glob.words(),
            None => self
                .base()
                .split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
                .map(str::to_owned)
                .collect(),
        };
        let literal = words.into_iter().filter(|word| !may_be_abbreviated(word));
        literal.max_by_key(String::len).unwrap_or_default()
    }
}

/// Prefix of an ABI tag: `f[abi:cxx11]` is a function `f` for another C++ library.
const TAG: &str = "[abi:";

/// Returns a demangled name as its source has it.
fn without_tags(name: &str) -> String {
    let mut parts = name.split(TAG);
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| part.split_once(']').map_or(part, |(_, after)| after));
    std::iter::once(first).chain(rest).collect()
}

fn squeeze(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|&character| character != ' ')
}

/// Returns the position of the last single colon, or of the first of three (`IMAGE:::global`).
fn dividing_colon(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut end = bytes.len();
    while let Some(last) = bytes[..end].iter().rposition(|&byte| byte == b':') {
        let start = bytes[..last].iter().rposition(|&byte| byte != b':').map_or(0, |before| before + 1);
        // Pairs belong to the name, and so does the colon of an ABI tag; a single colon divides.
        if (last + 1 - start) % 2 == 1 && !bytes[..start].ends_with(b"[abi") {
            return Some(start);
        }
        end = start;
    }
    None
}

fn strip_hex_prefix(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

fn address_and_build_id(text: &str, digits: &str) -> Result<(u64, String), PatternError> {
    let text = || text.to_owned();
    let (address, build_id) = match digits.split_once('@') {
        Some((address, build_id)) => (address, Some(build_id)),
        None => (digits, None),
    };
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    // from_str_radix would accept a sign.
    let number = hexadecimal(address)
        .then(|| u64::from_str_radix(address, 16).ok())
        .flatten()
        .ok_or_else(|| PatternError::BadAddress { text: text() })?;
    let build_id = build_id.ok_or_else(|| PatternError::NoBuildId { text: text() })?;
    let length = build_id.len();
    if !(BUILD_ID_DIGITS..=BUILD_ID_BYTES * 2).contains(&length) || !hexadecimal(build_id) {
        return Err(PatternError::BadBuildId { text: text(), build_id: build_id.to_owned() });
    }
    Ok((number, build_id.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (Option<String>, Option<String>) {
        let pattern = Pattern::parse(text).unwrap();
        assert_eq!(pattern.to_string(), text);
        (pattern.image().map(str::to_owned), pattern.name().map(str::to_owned))
    }

    #[test]
    fn the_colon_of_an_image_is_told_from_those_of_scopes() {
        for (text, image, name) in [
            ("do_work", None, "do_work"),
            ("a::b", None, "a::b"),
            ("a::b::c(std::string const&)", None, "a::b::c(std::string const&)"),
            ("::a", None, "::a"),
            ("libfoo.so:do_work", Some("libfoo.so"), "do_work"),
            ("libfoo.so:a::b", Some("libfoo.so"), "a::b"),
            ("libfoo.so:::a", Some("libfoo.so"), "::a"),
            ("/opt/a:b/libfoo.so:work_*", Some("/opt/a:b/libfoo.so"), "work_*"),
            ("<a::B as c::D>::e", None, "<a::B as c::D>::e"),
            ("libfoo.so:*", Some("libfoo.so"), "*"),
            ("a::f[abi:cxx11]", None, "a::f[abi:cxx11]"),
            ("libfoo.so:f[abi:cxx11]()", Some("libfoo.so"), "f[abi:cxx11]()"),
        ] {
            assert_eq!(parts(text), (image.map(str::to_owned), Some(name.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert!(matches!(Pattern::parse(":foo"), Err(PatternError::EmptyImage { .. })));
        assert!(matches!(Pattern::parse("libfoo.so:"), Err(PatternError::EmptyName { .. })));
        assert!(matches!(Pattern::parse(&"a".repeat(1025)), Err(PatternError::TooLong { bytes: 1025 })));
        assert!(Pattern::parse(&"a".repeat(1024)).is_ok());
    }

    #[test]
    fn addresses_and_offsets_carry_a_build_id() {
        let address = Pattern::parse("+0x1139@6A3b08c1").unwrap();
        assert_eq!(address.wanted(), &Wanted::Address { address: 0x1139, build_id: "6a3b08c1".to_owned() });
        assert_eq!((address.image(), address.name()), (None, None));
        let offset = Pattern::parse("/opt/libfoo.so:0xFF@0123456789abcdef").unwrap();
        assert_eq!(
            offset.wanted(),
            &Wanted::Offset { offset: 0xff, build_id: "0123456789abcdef".to_owned() }
        );
        assert_eq!(offset.image(), Some("/opt/libfoo.so"));
        assert!(Pattern::parse("libfoo.so:+0x10@01234567").is_ok());
    }

    #[test]
    fn an_address_without_a_usable_build_id_is_refused_with_what_to_write() {
        let error = Pattern::parse("+0x1139").unwrap_err();
        assert!(error.to_string().contains("build-id"), "{error}");
        assert!(error.to_string().contains("+0x1139@BUILDID"), "{error}");
        assert!(matches!(error, PatternError::NoBuildId { .. }));
        for build_id in ["", "1234567", "1234567g", &"a".repeat(129)] {
            let text = format!("libfoo.so:0x10@{build_id}");
            assert!(matches!(Pattern::parse(&text), Err(PatternError::BadBuildId { .. })), "{text}");
        }
        for text in ["+0x@12345678", "+1139@12345678", "+0x+1@12345678", "0x11112222333344445@12345678", "+"]
        {
            assert!(matches!(Pattern::parse(text), Err(PatternError::BadAddress { .. })), "{text}");
        }
    }

    #[test]
    fn an_image_matches_its_file_name_with_or_without_version_or_its_path() {
        for (image, path, matches) in [
            ("libfoo.so", "/usr/lib/libfoo.so", true),
            ("libfoo.so", "/usr/lib/libfoo.so.1", true),
            ("libfoo.so", "/usr/lib/libfoo.so.1.2", true),
            ("libfoo.so.1", "/usr/lib/libfoo.so.1.2", true),
            ("libfoo.so.1", "/usr/lib/libfoo.so.12", false),
            ("libfoo.so.1", "/usr/lib/libfoo.so", false),
            ("libfoo.so", "/usr/lib/libfoo.so.debug", false),
            ("libfoo.so", "/usr/lib/libfoo.so.1.", false),
            ("libfoo.so", "/usr/lib/xlibfoo.so", false),
            ("libfoo*", "/usr/lib/libfoobar.so.3", true),
            ("target", "/opt/target", true),
            ("/opt/target", "/opt/target", true),
            ("/opt/target", "/srv/opt/target", false),
            ("./target", "/opt/target", false),
            ("target", "/", false),
        ] {
            let pattern = Pattern::parse(&format!("{image}:f")).unwrap();
            assert_eq!(pattern.matches_image(Path::new(path)), matches, "{image} {path}");
        }
        assert!(Pattern::parse("f").unwrap().matches_image(Path::new("/any")));
    }

    #[test]
    fn spaces_do_not_matter_in_demangled_names() {
        let Wanted::Name(name) = Pattern::parse("f(int,char const *)").unwrap().wanted else { panic!() };
        assert!(name.is_demangled("f(int, char const*)"));
        assert!(!name.is_demangled("f(int)"));
        assert!(name.is_glob());
        assert!(name.matches_demangled("f(int, char const volatile*)"));
    }

    #[test]
    fn a_version_is_no_part_of_the_name() {
        for (text, base, same, others) in [
            ("f", "f", &["", "@V_1", "@@V_2"][..], &[][..]),
            ("f@V_1", "f", &["@V_1", "@@V_1"], &["", "@V_10", "@@V_2"]),
            ("f@@V_1", "f", &["@@V_1"], &["", "@V_1"]),
            ("f@V_*", "f", &["@V_1", "@@V_2"], &["", "@W_1"]),
            ("f@@*", "f", &["@@V_2"], &["", "@V_1"]),
            ("@f", "@f", &[""], &[]),
        ] {
            let Wanted::Name(name) = Pattern::parse(text).unwrap().wanted else { panic!() };
            assert!(name.is(base.as_bytes()) && name.is_demangled(base) && name.text() == text, "{text}");
            assert!(same.iter().all(|version| name.is_version(version)), "{text}");
            assert!(others.iter().all(|version| !name.is_version(version)), "{text}");
        }
    }

    #[test]
    fn random_text_never_panics_and_shows_itself() {
        let mut random = crate::testing::Random::new(3);
        for _ in 0..20_000 {
            let length = random.below(24);
            let text: String =
                (0..length).map(|_| *b":+0x@aZ1*[]\\(, ".get(random.below(15)).unwrap() as char).collect();
            if let Ok(pattern) = Pattern::parse(&text) {
                assert_eq!(pattern.to_string(), text);
                let _ = pattern.matches_image(Path::new("/usr/lib/a.1"));
            }
        }
    }
}
