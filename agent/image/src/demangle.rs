//! C++ and Rust names as people write them.
//!
//! C++ symbols follow the Itanium C++ ABI (`_Z...`). Rust symbols follow either that ABI with a
//! hash as the last part (`..17h0123456789abcdefE`, the legacy scheme) or scheme v0 (`_R...`, RFC
//! 2603). A person who wants to measure `queue::push` knows neither mangling, nor the hash, and
//! rarely the exact parameter list, so a name is offered in several [forms](Form).
//!
//! Mangled names refer back to their own parts, so a short name can stand for an endless text and a
//! bottomless tree. Input, output and depth are bounded ([`limits`](crate::limits)); a name beyond
//! them keeps its linkage name only.

mod coded;
mod rust;
#[cfg(feature = "cpp")]
mod transcribe;

use std::fmt::{self, Write};

pub(crate) use self::coded::may_be_abbreviated;
use self::rust::{is_legacy_rust, without_generics};
use crate::limits::DEMANGLED_BYTES;
use crate::linkage::{self, Split};

/// Stack that demangling needs at most in an optimised build (measured: over 256 KiB, less than
/// this; 8 times as much without optimisation). The main thread has 8 MiB, other threads of musl
/// 128 KiB.
pub const STACK_BYTES: usize = 512 << 10;

/// Detail level of a shown name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As shown to people: with parameters, without return type (`ns::max<int>(int, int)`); Rust
    /// without its hash. Template constructors have no parameters here either.
    Full,
    /// Without parameters (`ns::max<int>`). Rust names have none, but additions of scheme v0 to the
    /// legacy scheme are left out: `<queue::Queue>::push::<u8>` is `queue::Queue::push`.
    Bare,
    /// With parameters, the return type of templates (`int ns::max<int>(int, int)`) and the types
    /// of their arguments (`Ring<(unsigned long)8>`), as tools such as `nm -C` list it.
    AsListed,
}

/// Returns true if a linkage name is mangled, so that [`demangle`] may succeed.
#[must_use]
pub fn is_mangled(linkage_name: &[u8]) -> bool {
    linkage_name.starts_with(b"_Z") || linkage_name.starts_with(b"_R")
}

/// Demangles a linkage name. A compiler suffix follows as `[clone .constprop.0]`, as in c++filt.
/// `None` for a name that is not mangled, is damaged, or exceeds a bound.
#[must_use]
pub fn demangle(linkage_name: &[u8], form: Form) -> Option<String> {
    let split = linkage::split(linkage_name);
    let name = base(split.base, form)?;
    Some(if split.suffix.is_empty() { name } else { with_suffix(name, split.suffix) })
}

fn with_suffix(name: String, suffix: &[u8]) -> String {
    format!("{name} [clone {}]", String::from_utf8_lossy(suffix))
}

/// Demangles a linkage name without its suffix.
pub(crate) fn base(base: &[u8], form: Form) -> Option<String> {
    if base.len() > DEMANGLED_BYTES || !is_mangled(base) {
        return None;
    }
    let mut out = Bounded(String::new());
    if let Some((thunk, function)) = thunk(base) {
        // The target of a thunk follows like a name of its own.
        let name = self::base(&[b"_Z", function].concat(), form)?;
        write!(out, "{thunk} to {name}").ok()?;
    } else if base.starts_with(b"_R") || is_legacy_rust(base) {
        let name = std::str::from_utf8(base).ok()?;
        // The alternate form leaves the hash out.
        write!(out, "{:#}", rustc_demangle::try_demangle(name).ok()?).ok()?;
        if form == Form::Bare {
            return Some(without_generics(&out.0));
        }
    } else {
        cpp(base, form, &mut out)?;
        if form != Form::Bare
            && let Some(mark) = structor(base, &out.0)
        {
            out.write_str(mark).ok()?;
        }
    }
    Some(out.0)
}

#[cfg(feature = "cpp")]
fn cpp(base: &[u8], form: Form, out: &mut Bounded) -> Option<()> {
    use cpp_demangle::{BorrowedSymbol, DemangleOptions, ParseOptions};

    use crate::limits::DEMANGLE_DEPTH;

    let transcribed = transcribe::transcribe(base);
    let name = transcribed.as_ref().map_or(base, String::as_bytes);
    let options = ParseOptions::default().recursion_limit(DEMANGLE_DEPTH);
    let Ok((symbol, rest)) = BorrowedSymbol::with_tail_and_options(name, &options) else {
        return out.write_str(&plain_cpp(base)?).ok();
    };
    if !rest.is_empty() {
        return None;
    }
    let options = DemangleOptions::new().recursion_limit(DEMANGLE_DEPTH);
    // Template arguments as people write them: Ring<8>, not Ring<(unsigned long)8>.
    let as_written = options.no_return_type().hide_expression_literal_types();
    let options = match form {
        Form::Bare => as_written.no_params(),
        // The demangler mistakes the first parameter for a return type and leaves it out.
        _ if is_template_constructor(base) => as_written.no_params(),
        Form::Full => as_written,
        Form::AsListed => options,
    };
    symbol.structured_demangle(out, &options).ok()?;
    if transcribed.is_some() {
        out.0 = transcribe::original(&out.0);
    }
    if form == Form::Bare && base.starts_with(b"_ZZ") {
        out.0.truncate(without_qualifiers(&out.0).len());
    }
    Some(())
}

/// Removes the parameters and the `const` behind them. The demangler leaves that `const` if the
/// function is inside another, like a lambda. The target type of a conversion may be const.
#[cfg(feature = "cpp")]
fn without_qualifiers(name: &str) -> &str {
    let mut rest = name;
    if rest.rsplit("::").next().is_some_and(|last| last.starts_with("operator ")) {
        return rest;
    }
    while let Some(shorter) =
        [" const", " volatile", " &&", " &"].iter().find_map(|qualifier| rest.strip_suffix(qualifier))
    {
        rest = shorter;
    }
    rest
}

/// Returns the mark of a destructor or constructor variant. One that frees its object (`D0`) calls
/// the other, and with virtual bases one of a whole object (`C1`, `D1`) that of its bases (`C2`,
/// `D2`): all have one name in the source, a call is one of each. Itanium C++ ABI 5.1.4.3.
fn structor(base: &[u8], name: &str) -> Option<&'static str> {
    if name.contains("::~") {
        return match base.strip_suffix(b"Ev")? {
            [.., b'D', b'0'] => Some(DELETING),
            [.., b'D', b'2'] => Some(OF_BASE),
            _ => None,
        };
    }
    // Class::Class(...). The letters may occur by chance.
    let (scope, last) = name.split('(').next()?.rsplit_once("::")?;
    let class = scope.rsplit("::").next()?.split('<').next()?;
    (class == last && base.windows(3).any(|window| window == b"C2E")).then_some(OF_BASE)
}

const DELETING: &str = " [deleting]";
const OF_BASE: &str = " [base]";

/// In every form without parameters: finding their end takes most of a demangler.
#[cfg(not(feature = "cpp"))]
fn cpp(base: &[u8], _form: Form, out: &mut Bounded) -> Option<()> {
    out.write_str(&plain_cpp(base)?).ok()
}

/// Returns the name, without parameters, of a function that is neither a template nor an operator,
/// nor a member of one: `_Z4pushi`, `_ZNK5Queue4sizeEv`, a constructor (`C1`, `C2`) or a destructor
/// (`D0` to `D2`). Itanium C++ ABI 5.1.3.
fn plain_cpp(base: &[u8]) -> Option<String> {
    let rest = base.strip_prefix(b"_Z")?;
    let Some(mut rest) = rest.strip_prefix(b"N") else {
        let (name, parameters) = plain_part(rest)?;
        // Template arguments stand at the place of parameters.
        return (!parameters.is_empty() && parameters[0] != b'I').then(|| name.to_owned());
    };
    while let [b'K' | b'V' | b'r', after @ ..] = rest {
        rest = after;
    }
    let mut parts: Vec<String> = Vec::new();
    loop {
        let last = parts.last().map(String::as_str);
        rest = match (rest, last) {
            ([b'E', parameters @ ..], Some(_)) => {
                return (!parameters.is_empty()).then(|| parts.join("::"));
            }
            ([b'C', b'1' | b'2', after @ ..], Some(class)) => {
                parts.push(class.to_owned());
                after
            }
            ([b'D', b'0'..=b'2', after @ ..], Some(class)) => {
                parts.push(format!("~{class}"));
                after
            }
            _ => {
                let (name, after) = plain_part(rest)?;
                parts.push(name.to_owned());
                after
            }
        };
    }
}

/// Splits an identifier, which follows its length, from the rest.
fn plain_part(text: &[u8]) -> Option<(&str, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length: usize = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    let (name, rest) = text[digits..].split_at_checked(length)?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    // Anonymous namespaces have a mangled name of this kind.
    Some(if name.starts_with("_GLOBAL__N") { ("(anonymous namespace)", rest) } else { (name, rest) })
}

/// Returns true if any form of a name `is` the requested name. The base name of another body of a
/// function is a form; that of a part is not.
pub(crate) fn is_any_form(split: &Split<'_>, mut is: impl FnMut(&str) -> bool) -> bool {
    let forms: &[Form] = if split.base.starts_with(b"_R") || is_legacy_rust(split.base) {
        &[Form::Full, Form::Bare]
    } else {
        &[Form::Full, Form::Bare, Form::AsListed]
    };
    forms.iter().any(|&form| {
        let Some(name) = base(split.base, form) else { return false };
        let source = name.strip_suffix(DELETING).or_else(|| name.strip_suffix(OF_BASE));
        source.is_some_and(|name| split.is_whole() && is(name))
            || split.is_whole() && is(&name)
            || !split.suffix.is_empty() && is(&with_suffix(name, split.suffix))
    })
}

/// A thunk adjusts `this` and continues with the target: `Th`, offset, function; or `Tv`, two
/// offsets. People know other tools' words for it, not the demangler's. Itanium C++ ABI 5.1.4.3.
fn thunk(base: &[u8]) -> Option<(&'static str, &[u8])> {
    let (name, offsets, mut rest) = match base.strip_prefix(b"_ZT")? {
        [b'h', rest @ ..] => ("non-virtual thunk", 1, rest),
        [b'v', rest @ ..] => ("virtual thunk", 2, rest),
        _ => return None,
    };
    for _ in 0..offsets {
        let end = rest.iter().position(|&byte| byte == b'_')?;
        rest = rest.get(end + 1..)?;
    }
    // A thunk of a thunk does not exist, and would allow recursion.
    (!rest.starts_with(b"T")).then_some((name, rest))
}

/// Returns true if a mangled name may be a template constructor (`C1` to `C3`). A name with these
/// letters by chance is shown without parameters.
#[cfg(feature = "cpp")]
fn is_template_constructor(base: &[u8]) -> bool {
    base.windows(3).any(|window| matches!(window, b"C1I" | b"C2I" | b"C3I"))
}

/// A text that refuses to grow beyond [`DEMANGLED_BYTES`], which stops the demangler.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > DEMANGLED_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambdas_literal_operators_and_letters_beyond_ascii_have_the_names_of_their_source() {
        for (linkage, full, bare) in [
            ("_Zli3_kmy", "operator\"\"_km(unsigned long long)", "operator\"\"_km"),
            (
                "_ZN2nsli5_bitsIJLc49ELc48EEEElv",
                "ns::operator\"\"_bits<49, 48>()",
                "ns::operator\"\"_bits<49, 48>",
            ),
            ("_ZNK5Ünit7größeEl", "Ünit::größe(long) const", "Ünit::größe"),
            (
                "_ZZNK5Ünit3runElENKUllE_clEl",
                "Ünit::run(long) const::{lambda(long)#1}::operator()(long) const",
                "Ünit::run(long) const::{lambda(long)#1}::operator()",
            ),
            (
                "_ZZNK2ns1Q4walkElENKUllE0_clEl",
                "ns::Q::walk(long) const::{lambda(long)#2}::operator()(long) const",
                "ns::Q::walk(long) const::{lambda(long)#2}::operator()",
            ),
        ] {
            assert_eq!(demangle(linkage.as_bytes(), Form::Full).as_deref(), Some(full), "{linkage}");
            assert_eq!(demangle(linkage.as_bytes(), Form::Bare).as_deref(), Some(bare), "{linkage}");
        }
        assert_eq!(without_qualifiers("f()::A::operator int const"), "f()::A::operator int const");
    }

    #[test]
    fn structors_with_one_name_in_the_source_are_told_apart() {
        for (linkage, name) in [
            ("_ZN4BaseD0Ev", "Base::~Base() [deleting]"),
            ("_ZN4BaseD1Ev", "Base::~Base()"),
            ("_ZN4BaseD2Ev", "Base::~Base() [base]"),
            ("_ZN4BaseC1Ei", "Base::Base(int)"),
            ("_ZN4BaseC2Ei", "Base::Base(int) [base]"),
            ("_ZN2ns4RingIiEC2Ev", "ns::Ring<int>::Ring() [base]"),
            // Letters by chance.
            ("_ZN2ns5oldC2Ev", "ns::oldC2()"),
            ("_ZN2ns5oldD0Ev", "ns::oldD0()"),
        ] {
            assert_eq!(demangle(linkage.as_bytes(), Form::Full).as_deref(), Some(name), "{linkage}");
        }
    }

    #[test]
    fn plain_names_of_cpp_are_understood_without_the_demangler() {
        for (linkage, name) in [
            ("_Z4pushi", Some("push")),
            ("_ZNK5Queue4sizeEv", Some("Queue::size")),
            ("_ZN5space5QueueC2Ev", Some("space::Queue::Queue")),
            ("_ZN5QueueD1Ev", Some("Queue::~Queue")),
            ("_ZN12_GLOBAL__N_14workEi", Some("(anonymous namespace)::work")),
            // Templates, operators, abbreviations, data, truncation.
            ("_Z3maxIiET_S0_S0_", None),
            ("_ZN4RingILm8EE3putEi", None),
            ("_ZN5QueueplERKS_", None),
            ("_ZNSt5queueE", None),
            ("_ZN5Queue5countE", None),
            ("_ZN5QueueD1E", None),
            ("_ZTV5Queue", None),
            ("_ZN5Queue4si", None),
            ("_Z99999999999999999999f", None),
            ("_Z", None),
            ("_ZNE", None),
        ] {
            assert_eq!(plain_cpp(linkage.as_bytes()).as_deref(), name, "{linkage}");
            if let Some(whole) = demangle(linkage.as_bytes(), Form::Bare).filter(|_| name.is_some()) {
                assert_eq!(Some(&*whole), name, "{linkage}");
            }
        }
    }

    #[test]
    fn names_of_cpp_and_rust_are_shown_as_people_write_them() {
        for (linkage, full, bare) in [
            ("_ZN5space3fooEibc", "space::foo(int, bool, char)", "space::foo"),
            ("_ZNK5Queue4sizeEv", "Queue::size() const", "Queue::size"),
            ("_Z3maxIiET_S0_S0_", "max<int>(int, int)", "max<int>"),
            ("_ZN5QueueC2Ev", "Queue::Queue() [base]", "Queue::Queue"),
            ("_ZN5QueueC1IiEET_", "Queue::Queue<int>", "Queue::Queue<int>"),
            ("_ZN4RingILm8EE3putEi", "Ring<8>::put(int)", "Ring<8>::put"),
            ("_ZThn16_N1A1fEi", "non-virtual thunk to A::f(int)", "non-virtual thunk to A::f"),
            ("_ZTv0_n24_N1AD1Ev", "virtual thunk to A::~A()", "virtual thunk to A::~A"),
            ("_ZN3fooEv.constprop.0", "foo() [clone .constprop.0]", "foo [clone .constprop.0]"),
            (
                "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE",
                "core::fmt::Formatter::pad",
                "core::fmt::Formatter::pad",
            ),
            ("_RNvC6_123foo3bar", "123foo::bar", "123foo::bar"),
            (
                "_RNvMsa_NtCs3zSXJmDbpbR_4core3fmtNtB5_9Formatter3pad",
                "<core::fmt::Formatter>::pad",
                "core::fmt::Formatter::pad",
            ),
            ("_RINvC1a4workhE", "a::work::<u8>", "a::work"),
            (
                "_RNvXC1aNtB2_5QueueNtB2_4Work4work",
                "<a::Queue as a::Work>::work",
                "<a::Queue as a::Work>::work",
            ),
        ] {
            assert_eq!(demangle(linkage.as_bytes(), Form::Full).as_deref(), Some(full), "{linkage}");
            assert_eq!(demangle(linkage.as_bytes(), Form::Bare).as_deref(), Some(bare), "{linkage}");
        }
        assert_eq!(demangle(b"_Z3maxIiET_S0_S0_", Form::AsListed).as_deref(), Some("int max<int>(int, int)"));
    }

    #[test]
    fn what_is_not_mangled_or_damaged_is_none() {
        for name in ["main", "", "_Z", "_ZN", "_ZN3fooEvgarbage!", "_R", "_ZNfoo", "_ZN3foo3barE\u{e9}"] {
            assert_eq!(demangle(name.as_bytes(), Form::Full), None, "{name}");
        }
        assert_eq!(demangle(b"_Z3f\xff\xfe\xfdi", Form::Full), None);
    }

    #[test]
    fn a_name_that_stands_for_a_text_without_end_is_none() {
        // S_ is std::pair; each further parameter is a pair of the one before it and twice as long.
        let bomb = |pairs: u8| {
            let references: String = (0..pairs)
                .map(|index| char::from(if index < 10 { b'0' + index } else { b'A' + index - 10 }))
                .map(|reference| format!("S_IS{reference}_S{reference}_E"))
                .collect();
            demangle(format!("_Z1fSt4pairIiiE{references}").as_bytes(), Form::Full)
        };
        let short = bomb(2).unwrap();
        assert!(short.ends_with("std::pair<std::pair<int, int>, std::pair<int, int> > >)"), "{short}");
        assert_eq!(bomb(35), None);
        assert_eq!(demangle(&[b"_Z1f".as_slice(), &[b'i'; DEMANGLED_BYTES]].concat(), Form::Full), None);
    }

    #[test]
    fn deep_names_do_not_exhaust_a_small_stack() {
        std::thread::Builder::new()
            .stack_size(if cfg!(debug_assertions) { 4 << 20 } else { STACK_BYTES })
            .spawn(|| {
                for deep in [
                    format!("_Z1f{}i", "P".repeat(8_000)),
                    format!("_Z1f{}i{}", "1aI".repeat(2_000), "E".repeat(2_000)),
                    format!("_ZN{}1aE", "1a".repeat(3_000)),
                    format!("_Z1fIX{}1aE", "nt".repeat(3_000)),
                    format!("_Z1fIX{}1aE", "T_".repeat(3_000)),
                    format!("_Z1f{}v", "PFv".repeat(2_000)),
                    format!("_RNvC1a{}", "1b".repeat(100)),
                    format!("_R{}C1a1b", "Nv".repeat(2_000)),
                    format!("_RIC1a{}E", "R".repeat(5_000)),
                ] {
                    for form in [Form::Full, Form::Bare, Form::AsListed] {
                        let _ = demangle(deep.as_bytes(), form);
                    }
                }
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
