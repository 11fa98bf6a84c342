//! Suffixes that compilers and linkers append to names.
//!
//! A compiler that makes a second body for a function, or splits it, names the result after it and
//! appends words and numbers behind dots: `foo.constprop.0.cold`. These words decide the treatment:
//!
//! | suffix | made by | what it is | treated as |
//! | --- | --- | --- | --- |
//! | `.cold`, `.cold.N` | GCC, LLVM | the unlikely part of `foo`, moved away | a cold part of `foo`, never a function |
//! | `.part.N` | GCC | a part of `foo` that is shared by its inlined copies | a function of its own, and followed where `foo` jumps into it |
//! | `.constprop.N`, `.isra.N`, `.clone.N`, `.localalias`, `.lto_priv.N` | GCC | `foo` with other parameters or another visibility | found as `foo` too: a call enters one of the bodies |
//! | `.llvm.N`, `.__uniq.N` | LLVM | `foo`, renamed to be unique | found as `foo` too |
//!
//! So a call of `foo` is counted once, in any of its bodies. `.part.N` is left out of `foo` because
//! one call may pass both.

/// Meaning of a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The function, or another body of it.
    Whole,
    /// A shared part that functions call or jump to.
    Part,
    /// A part moved away because it is unlikely to run.
    Cold,
}

/// A linkage name without its suffix, and the meaning of the suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split<'n> {
    pub(crate) base: &'n [u8],
    /// Begins with its dot; empty for a plain name.
    pub(crate) suffix: &'n [u8],
    pub(crate) body: Body,
}

impl Split<'_> {
    /// Returns true if the symbol is the function or another body of it, so that the base names it.
    pub(crate) fn is_whole(&self) -> bool {
        self.body == Body::Whole
    }
}

/// Splits the suffix off. A dot that does not begin a known suffix belongs to the name.
pub(crate) fn split(name: &[u8]) -> Split<'_> {
    let mut at = 0;
    while let Some(dot) = name.get(at + 1..).and_then(|rest| rest.iter().position(|&byte| byte == b'.')) {
        at += 1 + dot;
        let (base, suffix) = name.split_at(at);
        if let Some(body) = body(suffix) {
            return Split { base, suffix, body };
        }
    }
    Split { base: name, suffix: &[], body: Body::Whole }
}

/// Returns the meaning of a suffix; `None` unless it consists of known words with their numbers.
fn body(suffix: &[u8]) -> Option<Body> {
    // Compilers append a handful of words. Without a bound, a name of only dots and words would be
    // read from each of its dots to its end.
    const LONGEST: usize = 128;
    if suffix.len() > LONGEST {
        return None;
    }
    let mut body = Body::Whole;
    let mut after_word = false;
    for word in suffix.get(1..)?.split(|&byte| byte == b'.') {
        let number = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
        match word {
            _ if number && after_word => {
                after_word = false;
                continue;
            }
            b"cold" => body = Body::Cold,
            b"part" if body != Body::Cold => body = Body::Part,
            b"part" | b"constprop" | b"isra" | b"clone" | b"localalias" | b"lto_priv" | b"llvm"
            | b"__uniq" => {}
            _ => return None,
        }
        after_word = true;
    }
    Some(body)
}

/// Returns a cold part's name without `.cold` or `.cold.N`: the name of its original body.
pub(crate) fn parent_of_cold(name: &[u8]) -> Option<&[u8]> {
    let without_number = match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if name.get(dot + 1..)?.iter().all(u8::is_ascii_digit) => name.get(..dot)?,
        _ => name,
    };
    without_number.strip_suffix(b".cold").filter(|parent| !parent.is_empty())
}

/// Removes the version that linkers append to versioned names in `.symtab` (`memcpy@@GLIBC_2.14`).
pub(crate) fn without_version(name: &[u8]) -> &[u8] {
    // `contains` is far faster than `position`, and most names have no version.
    if !name.contains(&b'@') {
        return name;
    }
    match name.iter().skip(1).position(|&byte| byte == b'@') {
        Some(at) => &name[..at + 1],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_compilers_are_told_from_dots_in_names() {
        for (name, base, body) in [
            ("foo", "foo", Body::Whole),
            ("foo.cold", "foo", Body::Cold),
            ("foo.cold.12", "foo", Body::Cold),
            ("foo.constprop.0", "foo", Body::Whole),
            ("foo.constprop.0.isra.1", "foo", Body::Whole),
            ("foo.part.0", "foo", Body::Part),
            ("foo.isra.0.part.0", "foo", Body::Part),
            ("foo.part.0.cold", "foo", Body::Cold),
            ("foo.llvm.1234567890", "foo", Body::Whole),
            ("foo.__uniq.123.llvm.456", "foo", Body::Whole),
            ("foo.lto_priv.0", "foo", Body::Whole),
            ("foo.actor", "foo.actor", Body::Whole),
            ("main.main", "main.main", Body::Whole),
            ("foo.0", "foo.0", Body::Whole),
            ("foo.", "foo.", Body::Whole),
            (".cold", ".cold", Body::Whole),
            ("a.b.cold", "a.b", Body::Cold),
            ("_ZN1a1bEv.constprop.0", "_ZN1a1bEv", Body::Whole),
            ("partition.colder", "partition.colder", Body::Whole),
        ] {
            let split = split(name.as_bytes());
            assert_eq!((split.base, split.body), (base.as_bytes(), body), "{name}");
            assert_eq!([split.base, split.suffix].concat(), name.as_bytes());
        }
    }

    #[test]
    fn a_cold_part_names_the_body_that_it_was_cut_from() {
        for (name, parent) in [
            ("foo.cold", Some("foo")),
            ("foo.cold.3", Some("foo")),
            ("foo.part.0.cold", Some("foo.part.0")),
            ("foo.part.0", None),
            ("foo", None),
            (".cold", None),
            ("foo.cold.x", None),
        ] {
            assert_eq!(parent_of_cold(name.as_bytes()), parent.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn versions_are_cut_and_leading_at_signs_are_not() {
        for (name, bare) in [("memcpy@@GLIBC_2.14", "memcpy"), ("memcpy@GLIBC_2.2.5", "memcpy"), ("@x", "@x")]
        {
            assert_eq!(without_version(name.as_bytes()), bare.as_bytes());
        }
    }
}
