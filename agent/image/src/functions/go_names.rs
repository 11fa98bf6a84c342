//! Go names, as the linker writes them and as people write them.
//!
//! | the linker's | a person's |
//! | --- | --- |
//! | `main.(*Server).handle` | the same; in a glob the star of a receiver is a star |
//! | `gopkg.in/yaml%2ev3.Unmarshal` | `gopkg.in/yaml.v3.Unmarshal` (cmd/internal/objabi/path.go, `PathToPrefix`) |
//! | `main.Map[go.shape.int,go.shape.string]` | `main.Map[int,string]`, or `main.Map` for all instances |
//! | `main.Map[...]` (before Go 1.21) | each of these: the instances are indistinguishable |

use std::borrow::Cow;

use crate::glob::Glob;

/// Prefix of the types of an instance.
const SHAPE: &str = "go.shape.";

/// Types without another name: an instance for such a type has it in its own name.
const BASIC: [&str; 19] = [
    "bool",
    "byte",
    "rune",
    "string",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uintptr",
    "float32",
    "float64",
    "complex64",
    "complex128",
];

/// Returns a name with the linker's `%xx` escapes decoded.
fn readable(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'%') {
        return Cow::Borrowed(name);
    }
    let mut readable = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        readable.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    Cow::Owned(readable)
}

/// Returns true if the names are equal.
pub(super) fn is(name: &[u8], text: &str) -> bool {
    name == text.as_bytes() || *readable(name) == *text.as_bytes()
}

/// Returns true if it is an instance of the generic function of that name, of any types.
pub(super) fn is_of_generic(name: &[u8], text: &str) -> bool {
    name.contains(&b'[') && without_types(&readable(name)) == without_types(text.as_bytes())
}

/// Returns true if it is an instance with the requested types, or with types not in its name.
pub(super) fn is_instance(name: &[u8], text: &str) -> bool {
    let name = readable(name);
    let plain = String::from_utf8_lossy(&name).replace(SHAPE, "").replace(' ', "");
    is_of_generic(&name, text)
        && (types(text).is_none() || plain == text.replace(' ', "") || plain.contains("[...]"))
}

/// Returns true if instances have the requested types in their name; other types do not match.
pub(super) fn are_told_apart(text: &str) -> bool {
    types(text).is_some_and(|types| types.split(',').all(|of| BASIC.contains(&of.trim())))
}

/// Returns the text in the first brackets.
fn types(text: &str) -> Option<&str> {
    let (_, types) = text.split_once('[')?;
    Some(types.split_once(']')?.0)
}

/// Makes a glob with a literal star in a receiver, as in `(*Server)`. `(*)` is any receiver.
pub(super) fn glob(text: &str) -> Glob {
    let mut literal = String::with_capacity(text.len() + 4);
    let mut rest = text;
    while let Some(at) = rest.find("(*") {
        let (before, after) = rest.split_at(at + 2);
        // Letters of Go are those of Unicode, and nothing else that is not ASCII can follow.
        let begins = |first: char| first.is_ascii_alphanumeric() || first == '_' || !first.is_ascii();
        let receiver = after.starts_with(begins);
        literal.push_str(&before[..at + 1]);
        literal.push_str(if receiver { "\\*" } else { "*" });
        rest = after;
    }
    literal.push_str(rest);
    Glob::new(&literal)
}

/// Returns true if the glob matches a name, as the linker or as a person writes it.
pub(super) fn matches(glob: &Glob, name: &[u8]) -> bool {
    let matches = |name: &[u8]| glob.matches(String::from_utf8_lossy(name).chars());
    matches(name) || name.contains(&b'%') && matches(&readable(name))
}

/// Removes the text in brackets from a name: the types that a generic function was made for.
fn without_types(name: &[u8]) -> Vec<u8> {
    let mut depth = 0usize;
    let mut rest = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            byte if depth == 0 => rest.push(byte),
            _ => {}
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_star_of_a_receiver_is_a_star() {
        let server = glob("main.(*Server).*");
        assert!(matches(&server, b"main.(*Server).handle"));
        assert!(!matches(&server, b"main.(*HTTPServer).handle"));
        assert!(matches(&glob("*.(*).handle"), b"main.(*HTTPServer).handle"));
        assert!(matches(&glob("main.(*Ser*).h?ndle"), b"main.(*Server).handle"));
        assert!(!matches(&glob("main.(*Ser*).h?ndle"), b"main.(Server).handle"));
    }

    #[test]
    fn paths_are_what_people_write() {
        let name = b"gopkg.in/yaml%2ev3.Unmarshal";
        assert!(is(name, "gopkg.in/yaml.v3.Unmarshal") && is(name, "gopkg.in/yaml%2ev3.Unmarshal"));
        assert!(!is(name, "gopkg.in/yaml.v2.Unmarshal"));
        assert!(matches(&glob("*/yaml.v3.*"), name) && matches(&glob("*%2ev3.*"), name));
        assert!(is(b"main.f%", "main.f%") && is(b"main.%zz", "main.%zz"));
    }

    #[test]
    fn instances_are_told_apart_where_their_names_are() {
        let name = b"main.Map[go.shape.int,go.shape.string]";
        for asked in ["main.Map", "main.Map[int,string]", "main.Map[int, string]"] {
            assert!(is_of_generic(name, asked) && is_instance(name, asked), "{asked}");
        }
        for other in ["main.Map[int,int]", "main.Map[main.Key,string]"] {
            assert!(is_of_generic(name, other) && !is_instance(name, other), "{other}");
        }
        assert!(!is_of_generic(name, "main.Maps[int,string]"));
        assert!(is_instance(b"main.Map[...]", "main.Map[int,int]"), "an older Go tells nothing");
        assert!(are_told_apart("main.Map[int,int]") && !are_told_apart("main.Map[main.Key,string]"));
        assert!(!are_told_apart("main.Map"));
    }
}
