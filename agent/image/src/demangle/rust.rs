//! Rust names.

/// Removes the brackets around the type of an inherent method, and the generic arguments of
/// functions, from a Rust name.
pub(super) fn without_generics(name: &str) -> String {
    let mut bare = String::with_capacity(name.len());
    let mut rest = name;
    if let Some(end) = closing(name) {
        let (own, after) = name.split_at(end + 1);
        let inner = &own[1..end];
        bare.push_str(if has_as(inner) { own } else { inner });
        rest = after;
    }
    while let Some(at) = rest.find("::<") {
        let (before, generic) = rest.split_at(at);
        bare.push_str(before);
        let Some(end) = closing(&generic[2..]) else {
            rest = generic;
            break;
        };
        rest = &generic[2 + end + 1..];
    }
    bare.push_str(rest);
    bare
}

/// Returns the end of the bracket that a name begins with. The `>` of `->` closes nothing.
fn closing(name: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut before = b' ';
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if before != b'-' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (byte == b'>').then_some(at);
        }
        before = byte;
    }
    None
}

/// Returns true if the type is viewed as a trait: ` as ` outside the brackets of other types.
fn has_as(own: &str) -> bool {
    let mut depth = 0usize;
    own.bytes().enumerate().any(|(at, byte)| {
        match byte {
            b'<' => depth += 1,
            b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && own[at..].starts_with(" as ")
    })
}

/// Returns true if the last part is `h` and a hash of 16 digits, as in a legacy Rust name.
pub(super) fn is_legacy_rust(base: &[u8]) -> bool {
    const TAIL: usize = "17h0123456789abcdefE".len();
    base.len().checked_sub(TAIL).and_then(|at| base.get(at..)).is_some_and(|tail| {
        tail.starts_with(b"17h")
            && tail.ends_with(b"E")
            && tail[3..TAIL - 1].iter().all(|digit| digit.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_arguments_of_rust_functions_are_left_out_whatever_stands_in_them() {
        for (name, bare) in [
            ("<a::Queue<u8>>::push", "a::Queue<u8>::push"),
            ("a::map::<u8, fn(u8) -> u16>::inner::<_>", "a::map::inner"),
            ("<a::B<c as D> as e::F>::g::<h>", "<a::B<c as D> as e::F>::g"),
            ("<[T]>::len", "[T]::len"),
            ("a::b::<unclosed", "a::b::<unclosed"),
            ("<unclosed", "<unclosed"),
            ("plain", "plain"),
            ("", ""),
            ("é::<ü>::ö", "é::ö"),
        ] {
            assert_eq!(without_generics(name), bare, "{name}");
        }
    }
}
