//! Mangled C++ names that the demangler rejects, rewritten as accepted names, and back.
//!
//! | mangled | given to the demangler | shown |
//! | --- | --- | --- |
//! | `7größe`: letters beyond ASCII | `19gr$u0000f6$u0000dfe` | `größe` |
//! | `li3_km`: a literal operator | `5$l_km` | `operator""_km` |
//!
//! Itanium C++ ABI 5.1.3 (`<operator-name>`, `<source-name>`).

use std::fmt::Write;
use std::ops::Range;

/// Placeholder for a letter beyond ASCII; six hexadecimal digits follow.
const LETTER: &str = "$u";
/// Placeholder for `operator""`.
const LITERAL: &str = "$l";
/// Numbers before a letter that may be its identifier's length. Each costs a read of that length.
const LENGTHS: usize = 8;

/// Returns the name for the demangler; `None` if it accepts the original, or rejects this one too.
pub(super) fn transcribe(base: &[u8]) -> Option<String> {
    let literal = literal_operator(base);
    if literal.is_none() && base.is_ascii() {
        return None;
    }
    let text = std::str::from_utf8(base).ok()?;
    if text.contains(LETTER) || text.contains(LITERAL) {
        return None;
    }
    let Some(at) = literal else { return in_ascii(text) };
    let (before, operator) = text.split_at(at);
    let (suffix, rest) = super::plain_part(operator.get(2..)?.as_bytes())?;
    let rest = std::str::from_utf8(rest).ok()?;
    in_ascii(&format!("{before}{}{LITERAL}{suffix}{rest}", LITERAL.len() + suffix.len()))
}

/// Returns the demangled name as its source has it.
pub(super) fn original(demangled: &str) -> String {
    let demangled = demangled.replace(LITERAL, "operator\"\"");
    let mut parts = demangled.split(LETTER);
    let mut original = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let letter = part.get(..6).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match letter.and_then(char::from_u32) {
            Some(letter) => {
                original.push(letter);
                original.push_str(&part[6..]);
            }
            None => {
                original.push_str(LETTER);
                original.push_str(part);
            }
        }
    }
    original
}

/// Returns the place of a literal operator's `li`: at a name, not in parameters (`l`, `i`).
fn literal_operator(base: &[u8]) -> Option<usize> {
    let mut rest = base.strip_prefix(b"_Z")?;
    // Names in functions begin with the function's name.
    while let [b'Z', after @ ..] = rest {
        rest = after;
    }
    let nested = matches!(rest, [b'N', ..]);
    if nested {
        rest = &rest[1..];
        while let [b'K' | b'V' | b'r', after @ ..] = rest {
            rest = after;
        }
    }
    loop {
        rest = match rest {
            [b'l', b'i', b'0'..=b'9', ..] => return Some(base.len() - rest.len()),
            [b'S', b't', after @ ..] => after,
            _ if nested => super::plain_part(rest)?.1,
            _ => return None,
        };
    }
}

/// Returns the name with its identifiers in ASCII.
fn in_ascii(name: &str) -> Option<String> {
    let mut ascii = String::with_capacity(name.len() * 2);
    let mut rest = name;
    while let Some(letter) = rest.find(|letter: char| !letter.is_ascii()) {
        let (number, identifier) = identifier_around(rest, letter)?;
        let (before, behind) = (rest.get(..number)?, rest.get(identifier.end..)?);
        let identifier = rest.get(identifier)?;
        let mut written = String::with_capacity(identifier.len() * 2);
        for letter in identifier.chars() {
            match letter.is_ascii() {
                true => written.push(letter),
                false => write!(written, "{LETTER}{:06x}", u32::from(letter)).ok()?,
            }
        }
        write!(ascii, "{before}{}{written}", written.len()).ok()?;
        rest = behind;
    }
    ascii.push_str(rest);
    Some(ascii)
}

/// Returns the place of the length in bytes of the identifier around a letter, the nearest
/// possible, and the place of the identifier.
fn identifier_around(name: &str, letter: usize) -> Option<(usize, Range<usize>)> {
    let bytes = name.as_bytes();
    let mut before = letter;
    for _ in 0..LENGTHS {
        let last = bytes.get(..before)?.iter().rposition(u8::is_ascii_digit)?;
        let first = bytes[..last].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |at| at + 1);
        before = first;
        let length = name.get(first..=last)?.parse::<usize>().ok();
        let Some(end) = length.and_then(|length| (last + 1).checked_add(length)) else { continue };
        let is_part = |part: char| !part.is_ascii() || part.is_ascii_alphanumeric() || "_$.".contains(part);
        let Some(identifier) = name.get(last + 1..end) else { continue };
        if end > letter && identifier.chars().all(is_part) {
            return Some((first, last + 1..end));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        for (name, transcribed, shown) in [
            ("_ZNK5Ünit7größeEl", "_ZNK11$u0000dcnit19gr$u0000f6$u0000dfeEl", "Ünit größe"),
            ("_Z9x1_ü_2äi", "_Z21x1_$u0000fc_2$u0000e4i", "x1_ü_2ä"),
            ("_Zli3_kmy", "_Z5$l_kmy", "operator\"\"_km"),
            ("_ZN2nsli5_bitsIJLc49EEEElv", "_ZN2ns7$l_bitsIJLc49EEEElv", "operator\"\"_bits"),
            ("_ZZli3_kmyENKUlyE_clEy", "_ZZ5$l_kmyENKUlyE_clEy", "operator\"\"_km"),
            ("_ZNStli4_größEv", "", ""),
        ] {
            let found = transcribe(name.as_bytes());
            assert_eq!(found.as_deref().unwrap_or_default(), transcribed, "{name}");
            for word in shown.split_whitespace().filter(|_| found.is_some()) {
                assert!(original(transcribed).contains(word), "{name}: {}", original(transcribed));
            }
        }
        // Parameters long and int, a plain name, a name that has the marks already.
        for name in ["_Z1fli3Foo", "_ZN2ns1fEli3Foo", "_Z1fi", "_Z6$u0000ü", "main", "_Zli", "_Zli9_km"] {
            assert_eq!(transcribe(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn random_names_never_panic_and_what_is_transcribed_is_ascii() {
        let mut random = crate::testing::Random::new(11);
        let mut found = 0;
        for _ in 0..20_000 {
            let length = random.below(24);
            let pieces = ["ü", "ß", "1", "2", "3", "9", "a", "N", "E", "li", "$u", "Z", "_"];
            let name: String = (0..length).map(|_| pieces[random.below(pieces.len())]).collect();
            if let Some(transcribed) = transcribe(format!("_Z{name}").as_bytes()) {
                assert!(transcribed.is_ascii(), "{name}: {transcribed}");
                let _ = original(&transcribed);
                found += 1;
            }
            let _ = original(&name);
        }
        assert!(found > 100, "{found}");
    }
}
