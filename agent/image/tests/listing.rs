//! Functions of real files, compared with the output of binutils.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{assert_same, compile, directory, open, own_functions, readelf, run, text};
use edgelat_image::{DebugFiles, Image, Kind, Origin, Pattern, Refusal, boxed};

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static __attribute__((noinline)) int twice(int x) { return x * 2 + rand(); }
static __attribute__((cold, noinline)) void too_much(int x) { fprintf(stderr, "too much: %d\n", x); abort(); }
int __attribute__((noinline)) do_work(int x) {
    if (x > 1000) too_much(x);
    return twice(x) + twice(x + 1);
}
int alias_of_work(int x) __attribute__((alias("do_work")));
static int chosen_now(int x) { return x + 1; }
static int (*choose(void))(int) { return chosen_now; }
int chosen(int x) __attribute__((ifunc("choose")));
int main(int argc, char **argv) { return do_work(argc) + chosen(argc); }
"#;

const CPP: &str = r#"
#include <stdexcept>
#include <string>
#include <vector>
#include <cstdio>
namespace ns {
struct Queue {
    std::vector<std::string> items;
    __attribute__((noinline)) Queue() {}
    __attribute__((noinline)) void push(std::string const& item) {
        if (item.empty()) throw std::runtime_error("empty");
        items.push_back(item);
    }
    __attribute__((noinline)) void push(int item) { push(std::to_string(item)); }
    __attribute__((noinline)) bool operator==(Queue const& other) const { return items == other.items; }
};
template <typename T> __attribute__((noinline)) T largest(T a, T b) { return a < b ? b : a; }
}
int main(int argc, char**) {
    ns::Queue queue, other;
    queue.push(argc); queue.push("text");
    printf("%d %d\n", ns::largest<int>(argc, 2), queue == other);
    return (int)ns::largest<double>(1.5, argc);
}
"#;

const RUST: &str = r#"
mod queue {
    pub struct Queue(pub Vec<u64>);
    impl Queue {
        #[inline(never)]
        pub fn push(&mut self, item: u64) { self.0.push(item); }
    }
    pub trait Work { fn work(&self) -> u64; }
    impl Work for Queue {
        #[inline(never)]
        fn work(&self) -> u64 { self.0.iter().sum() }
    }
}
fn main() {
    let mut queue = queue::Queue(Vec::new());
    queue.push(std::env::args().count() as u64);
    println!("{}", queue::Work::work(&queue));
}
"#;

fn found(image: &Image<std::fs::File>, pattern: &str) -> Vec<String> {
    let table = own_functions(image);
    let functions =
        image.find(&table, &Pattern::parse(pattern).unwrap()).unwrap_or_else(|error| panic!("{error}"));
    functions.into_iter().map(|function| function.name).collect()
}

#[test]
fn a_c_program_lists_the_symbols_that_readelf_lists() {
    let directory = directory("listing_c");
    for (options, kind) in [
        (&["-O2", "-Wl,--build-id"][..], Kind::PositionIndependentExecutable),
        (&["-O2", "-no-pie"], Kind::Executable),
        (&["-O2", "-static"], Kind::Executable),
        (&["-O2", "-static-pie"], Kind::PositionIndependentExecutable),
        (&["-O2", "-shared", "-fPIC"], Kind::SharedObject),
        (&["-O2", "-Wl,--hash-style=sysv"], Kind::PositionIndependentExecutable),
    ] {
        let path = compile(&directory, "work.c", C, options);
        let image = open(&path);
        assert_eq!(image.kind(), kind, "{options:?}");
        let table = own_functions(&image);
        assert_same(&table, &readelf(&path));
        let work = image.find(&table, &Pattern::parse("do_work").unwrap()).unwrap();
        assert_eq!(
            (work[0].name.as_str(), work[0].aliases.as_slice()),
            ("do_work", ["alias_of_work".to_owned()].as_slice())
        );
        assert_eq!(work.len(), 1);
        assert_eq!(work[0].cold.len(), 1, "gcc moves the call of abort away: {work:?}");
        assert_eq!(image.find(&table, &Pattern::parse("alias_of_work").unwrap()).unwrap(), work);
        let chosen = image.find(&table, &Pattern::parse("chosen").unwrap()).unwrap();
        assert_eq!(chosen[0].refusal, Some(Refusal::IfuncResolver));
        assert_eq!(image.sites(&table, &chosen[0]), Err(Refusal::IfuncResolver));
    }
}

#[test]
fn names_of_cpp_are_found_with_and_without_parameters_and_as_nm_shows_them() {
    let directory = directory("listing_cpp");
    let path = compile(&directory, "queue.cpp", CPP, &["-O2"]);
    let image = open(&path);
    assert_same(&own_functions(&image), &readelf(&path));
    let string = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > const&";
    let push = [format!("ns::Queue::push({string})"), "ns::Queue::push(int)".to_owned()];
    let sorted = |pattern: &str| {
        let mut names = found(&image, pattern);
        names.sort_unstable();
        names
    };
    let mut both = push.to_vec();
    both.sort_unstable();
    for pattern in ["ns::Queue::push", "ns::Queue::p?sh", "*::push*(*"] {
        assert!(both.iter().all(|name| sorted(pattern).contains(name)), "{pattern}: {:?}", sorted(pattern));
    }
    assert_eq!(sorted("ns::Queue::push"), both);
    assert_eq!(found(&image, "ns::Queue::push(int)"), ["ns::Queue::push(int)"]);
    assert_eq!(found(&image, "_ZN2ns5Queue4pushEi"), ["ns::Queue::push(int)"]);
    assert_eq!(found(&image, &push[0]), [push[0].clone()]);
    for pattern in ["ns::largest<int>", "ns::largest<int>(int,int)", "int ns::largest<int>(int, int)"] {
        assert_eq!(found(&image, pattern), ["ns::largest<int>(int, int)"], "{pattern}");
    }
    assert_eq!(found(&image, "ns::largest<*>").len(), 2);
    assert_eq!(found(&image, "ns::Queue::operator==").len(), 1);
    assert_eq!(found(&image, "ns::Queue::Queue"), ["ns::Queue::Queue()"]);

    let table = own_functions(&image);
    let error = image.find(&table, &Pattern::parse("ns::Queue::psuh").unwrap()).unwrap_err();
    assert!(error.to_string().contains("did you mean ns::Queue::push"), "{error}");
}

/// c++filt is the oracle for the names of a whole library.
#[test]
fn names_of_libstdcxx_are_those_of_cppfilt() {
    let path = PathBuf::from(run("gcc", &["-print-file-name=libstdc++.so.6"]).trim());
    let image = open(&path);
    let table = own_functions(&image);
    let functions: Vec<_> = table.iter().filter(|function| function.linkage_name.starts_with("_Z")).collect();
    assert!(functions.len() > 1_000);
    let list = directory("listing_cppfilt").join("names");
    std::fs::write(
        &list,
        functions.iter().map(|function| function.linkage_name.clone() + "\n").collect::<String>(),
    )
    .unwrap();
    let expected = run("sh", &["-c", &format!("c++filt <{}", text(&list))]);
    // One of the two spells out std::string's substitution.
    let common = |name: &str| {
        let mut name = name.replace(' ', "");
        for (long, short) in [
            ("std::basic_string<char,std::char_traits<char>,std::allocator<char>>", "std::string"),
            ("std::basic_istream<char,std::char_traits<char>>", "std::istream"),
            ("std::basic_ostream<char,std::char_traits<char>>", "std::ostream"),
            ("std::basic_iostream<char,std::char_traits<char>>", "std::iostream"),
            ("std::string::basic_string(", "std::string::string("),
            ("std::istream::basic_istream(", "std::istream::istream("),
            ("std::ostream::basic_ostream(", "std::ostream::ostream("),
            ("std::iostream::basic_iostream(", "std::iostream::iostream("),
            ("::~basic_istream(", "::~istream("),
            ("::~basic_ostream(", "::~ostream("),
            ("::~basic_iostream(", "::~iostream("),
            ("std::string::~basic_string(", "std::string::~string("),
            ("std::nullptr_t", "decltype(nullptr)"),
            ("<1l,1000000000l>", "<1,1000000000>"),
            ("(__gnu_cxx::_Lock_policy)", ""),
        ] {
            name = name.replace(long, short);
        }
        name
    };
    let mut differing = Vec::new();
    for (function, expected) in functions.iter().zip(expected.lines()) {
        assert_ne!(function.name, function.linkage_name, "not demangled");
        // c++filt does not distinguish constructor and destructor variants.
        let name = function.name.trim_end_matches(" [deleting]").trim_end_matches(" [base]");
        // Ours leaves out the return type, and the parameters of template constructors.
        if !name.ends_with(')') && expected.starts_with(name) {
            continue;
        }
        if !common(expected).ends_with(&common(name)) {
            differing.push((expected, name));
        }
    }
    assert!(differing.len() * 200 <= functions.len(), "of {}: {differing:#?}", functions.len());
}

#[test]
fn names_of_rust_are_found_without_their_hash_in_both_manglings() {
    let directory = directory("listing_rust");
    for mangling in ["legacy", "v0"] {
        let option = format!("-Csymbol-mangling-version={mangling}");
        // From some version on rustc has legacy as an unstable option only; otherwise it is v0.
        if mangling == "legacy" && !rustc_accepts(&directory, &option) {
            continue;
        }
        let path = compile(&directory, "queue.rs", RUST, &["-O", &option]);
        let image = open(&path);
        assert_same(&own_functions(&image), &readelf(&path));
        let push =
            if mangling == "legacy" { "queue::queue::Queue::push" } else { "<queue::queue::Queue>::push" };
        assert_eq!(found(&image, push), [push], "{mangling}");
        assert_eq!(found(&image, "queue::queue::Queue::push"), [push], "{mangling}");
        assert_eq!(found(&image, "<queue::queue::Queue as queue::queue::Work>::work").len(), 1);
        assert!(found(&image, "queue::main").len() == 1);
        assert!(found(&image, "*Queue*").len() >= 2);
    }
}

fn rustc_accepts(directory: &Path, option: &str) -> bool {
    let input = directory.join("empty.rs");
    std::fs::write(&input, "fn main() {}").unwrap();
    let output = directory.join("empty");
    std::process::Command::new("rustc")
        .args([option, "-o", text(&output), text(&input)])
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn the_c_library_lists_the_symbols_that_readelf_lists() {
    let path = std::fs::canonicalize(run("gcc", &["-print-file-name=libc.so.6"]).trim()).unwrap();
    let image = open(&path);
    assert_eq!(image.kind(), Kind::SharedObject);
    assert_eq!(image.facts().soname.as_deref(), Some("libc.so.6"));
    let own = readelf(&path);
    assert_same(&own_functions(&image), &own);

    // With the debug file, if the machine has it, all local functions too.
    let opener = |path: &Path| std::fs::File::open(path).map(boxed);
    let table = image.functions(&DebugFiles::new(&opener), &mut |_| ()).unwrap();
    let hex = image.build_id().unwrap().to_string();
    let debug = PathBuf::from(format!("/usr/lib/debug/.build-id/{}/{}.debug", &hex[..2], &hex[2..]));
    if debug.exists() {
        let both: BTreeSet<_> = own.union(&readelf(&debug)).cloned().collect();
        assert_same(&table, &both);
        assert!(table.len() > own_functions(&image).len());
    }
    let malloc = image.find(&table, &Pattern::parse("malloc").unwrap()).unwrap();
    assert_eq!((malloc.len(), malloc[0].name.as_str()), (1, "malloc"));
    let setcontext = image.find(&table, &Pattern::parse("swapcontext").unwrap()).unwrap();
    assert_eq!(setcontext.len(), 1);
    assert_eq!(table.defines(&["swapcontext", "no_such_function"]), ["swapcontext"]);
}

/// Strips the symbols of a program as a distribution does, in all common ways.
#[test]
fn a_stripped_program_has_its_functions_back_from_its_debug_file() {
    let directory = directory("listing_stripped");
    let path = compile(&directory, "work.c", C, &["-O2", "-g", "-Wl,--build-id"]);
    let expected = readelf(&path);
    let image = open(&path);
    let hex = image.build_id().unwrap().to_string();
    let place = directory.join("debug/.build-id").join(&hex[..2]);
    std::fs::create_dir_all(&place).unwrap();
    let debug = place.join(format!("{}.debug", &hex[2..]));
    run("objcopy", &["--only-keep-debug", text(&path), text(&debug)]);
    let stripped = directory.join("stripped");
    run("strip", &["--strip-all", "-o", text(&stripped), text(&path)]);

    let image = open(&stripped);
    assert!(!image.facts().symtab);
    let none = own_functions(&image);
    assert!(none.is_empty());
    let error = image.find(&none, &Pattern::parse("do_work").unwrap()).unwrap_err().to_string();
    assert!(error.contains("stripped") && error.contains("debug symbols"), "{error}");
    let opener = |path: &Path| std::fs::File::open(path).map(boxed);
    let files = DebugFiles::new(&opener).directory(directory.join("debug"));
    let mut seen = Vec::new();
    let table = image.functions(&files, &mut |progress| seen.push(progress)).unwrap();
    assert!(table.skipped().is_empty(), "{:?}", table.skipped());
    assert_same(&table, &expected);
    assert!(table.iter().all(|function| function.origin == Origin::DebugFile));
    assert!(
        seen.iter().any(|progress| progress.origin == Origin::DebugFile && progress.done == progress.total)
    );

    // The debug file of another build is rejected with a message.
    let other = compile(&directory, "other.c", "int main(void) { return 1; }", &["-g", "-Wl,--build-id"]);
    run("objcopy", &["--only-keep-debug", text(&other), text(&debug)]);
    let table = image.functions(&files, &mut |_| ()).unwrap();
    assert!(table.is_empty());
    let error = table.skipped()[0].error.to_string();
    assert!(error.contains("build-id") && error.contains(&hex), "{error}");
    assert_eq!(table.skipped()[0].path.as_deref(), Some(debug.as_path()));
}

#[test]
fn a_stripped_program_has_its_functions_back_from_gnu_debugdata() {
    let directory = directory("listing_debugdata");
    let path = compile(&directory, "work.c", C, &["-O2", "-g", "-Wl,--build-id", "-rdynamic"]);
    let expected = readelf(&path);
    // GDB's manual, "MiniDebugInfo": functions missing in the dynamic table, in ELF, in xz.
    let dynamic = run("nm", &["-D", "--format=posix", "--defined-only", text(&path)]);
    let dynamic: BTreeSet<&str> = dynamic.lines().filter_map(|line| line.split(' ').next()).collect();
    let kept: String = expected
        .iter()
        .filter(|(.., name)| !dynamic.contains(name.as_str()))
        .map(|(.., name)| format!("{name}\n"))
        .collect();
    assert!(kept.contains("twice") && kept.contains("do_work.cold") && !kept.contains("do_work\n"), "{kept}");
    let list = directory.join("kept");
    std::fs::write(&list, kept).unwrap();
    let mini = directory.join("mini");
    run("objcopy", &["--only-keep-debug", text(&path), text(&mini)]);
    run("objcopy", &["-S", &format!("--keep-symbols={}", text(&list)), text(&mini)]);
    run("xz", &["--force", text(&mini)]);
    let stripped = directory.join("stripped");
    let section = format!(".gnu_debugdata={}", text(&directory.join("mini.xz")));
    run("strip", &["--strip-all", "-o", text(&stripped), text(&path)]);
    run("objcopy", &["--add-section", &section, text(&stripped)]);

    let image = open(&stripped);
    let table = own_functions(&image);
    assert!(table.skipped().is_empty(), "{:?}", table.skipped());
    assert_same(&table, &expected);
    let origin = |name: &str| image.find(&table, &Pattern::parse(name).unwrap()).unwrap()[0].origin;
    assert_eq!(origin("do_work"), Origin::Dynsym);
    assert_eq!(origin("twice"), Origin::Debugdata);
    let work = image.find(&table, &Pattern::parse("do_work").unwrap()).unwrap();
    assert_eq!(work[0].cold.len(), 1, "the part is in one table and its function in the other");
}

/// Removing the section table leaves the dynamic section as the only way to the symbols.
#[test]
fn a_library_without_sections_lists_its_dynamic_symbols() {
    let directory = directory("listing_sectionless");
    for style in ["gnu", "sysv", "both"] {
        let option = format!("-Wl,--hash-style={style}");
        let path =
            compile(&directory, "work.c", C, &["-O2", "-shared", "-fPIC", "-s", "-Wl,--build-id", &option]);
        let expected = readelf(&path);
        let whole = open(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40..48].fill(0); // e_shoff
        bytes[60..64].fill(0); // e_shnum, e_shstrndx
        let image = Image::open(bytes).unwrap();
        assert_eq!(image.build_id(), whole.build_id());
        let table = own_functions(&image);
        assert_same(&table, &expected);
        assert_eq!(image.imports(&["abo?t", "rand", "no_such"]).unwrap(), ["abort", "rand"]);
    }
}

/// An image without a linker's build-id has a computed one: it differs if a constant in code or
/// data differs, and equals that of its stripped copy.
#[test]
fn builds_without_a_build_id_are_told_apart() {
    let directory = directory("listing_no_build_id");
    let build = |code: &str, data: &str| {
        let source = format!(
            r#"volatile unsigned n;
            __attribute__((noinline)) unsigned turns(void) {{ return n + {code}; }}
            const char text[] = "{data}";
            int main(void) {{ return (turns() + text[n]) & 1; }}"#
        );
        let name = format!("turns_{code}_{data}.c");
        compile(&directory, &name, &source, &["-O2", "-Wl,--build-id=none"])
    };
    let id = |path: &Path| {
        let image = open(path);
        assert_eq!(image.build_id_offset(), None);
        image.build_id().unwrap().to_string()
    };
    let builds = [build("1000", "some"), build("1001", "some"), build("1000", "same")];
    let [first, code, data] = builds.each_ref().map(|path| id(path));
    assert!(first.len() == 16 && first != code && first != data && code != data, "{first} {code} {data}");
    let stripped = directory.join("stripped");
    run("strip", &["--strip-all", "-o", text(&stripped), text(&builds[0])]);
    assert_eq!(id(&stripped), first);
}

#[test]
fn imports_and_needed_libraries_are_listed() {
    let directory = directory("listing_imports");
    let source = r#"
        #include <ucontext.h>
        ucontext_t a, b;
        int main(void) { return swapcontext(&a, &b); }
    "#;
    let path = compile(&directory, "switch.c", source, &["-O2"]);
    let image = open(&path);
    assert_eq!(image.imports(&["swapcontext", "makecontext", "setcontext"]).unwrap(), ["swapcontext"]);
    assert_eq!(image.facts().needed, ["libc.so.6"]);
    let path = compile(&directory, "throw.cpp", "int main(int c, char**) { if (c > 9) throw 1; }", &["-O2"]);
    assert_eq!(open(&path).imports(&["__cxa_throw", "_Unwind_*"]).unwrap(), ["__cxa_throw"]);
}

/// Without symbols the unwind tables have the ranges of all compiled functions.
#[test]
fn functions_without_a_name_are_listed_by_their_address() {
    let directory = directory("listing_unnamed");
    let path = compile(&directory, "work.c", C, &["-O2", "-g"]);
    let stripped = directory.join("stripped");
    run("strip", &["--strip-all", "-o", text(&stripped), text(&path)]);
    let image = open(&stripped);
    let files = DebugFiles::none().unnamed(true);
    let table = image.functions(&files, &mut |_| ()).unwrap();
    let unnamed = image.find(&table, &Pattern::parse("fn_0x*").unwrap()).unwrap();
    let whole = open(&path);
    for function in own_functions(&whole).iter().filter(|f| ["main", "do_work"].contains(&f.name.as_str())) {
        let found = unnamed.iter().find(|unnamed| unnamed.start == function.start).unwrap();
        assert_eq!((found.end, found.origin), (function.end, Origin::Unwind));
        let name = format!("fn_0x{:x}", function.start);
        assert_eq!(found.name, name);
        assert_eq!(image.find(&table, &Pattern::parse(&name).unwrap()).unwrap(), std::slice::from_ref(found));
    }
    // `*` means functions with a name; a caller that does not request unnamed ones pays nothing.
    let named = image.find(&table, &Pattern::parse("*").unwrap()).unwrap_or_default();
    assert!(named.iter().all(|function| function.origin != Origin::Unwind), "{named:?}");
    assert!(!own_functions(&image).has(Origin::Unwind));
    // Stubs are no functions, and named functions are not listed again.
    let table = whole.functions(&files, &mut |_| ()).unwrap();
    assert!(table.iter().filter(|f| f.origin == Origin::Unwind).all(|f| f.name.starts_with("fn_0x")));
    assert!(
        !table.iter().any(|f| f.origin == Origin::Unwind && f.start == unnamed[0].start && f.name == "main")
    );
    let starts: Vec<u64> = table.iter().map(|function| function.start).collect();
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:x?}");
}

#[test]
fn an_address_or_offset_finds_the_function_that_begins_there() {
    let directory = directory("listing_address");
    let path = compile(&directory, "work.c", C, &["-O2", "-Wl,--build-id", "-g"]);
    let stripped = directory.join("stripped");
    run("strip", &["--strip-all", "-o", text(&stripped), text(&path)]);
    let whole = open(&path);
    let table = own_functions(&whole);
    let work = whole.find(&table, &Pattern::parse("do_work").unwrap()).unwrap().remove(0);
    let build_id = whole.build_id().unwrap().to_string();
    let offset = whole.file_offset(work.start).unwrap();
    assert_eq!(whole.address_of(offset), Some(work.start));

    let patterns = [
        format!("+0x{:x}@{build_id}", work.start),
        format!("+0x{:x}@{}", work.start, build_id[..8].to_uppercase()),
        format!("stripped:0x{offset:x}@{build_id}"),
    ];
    for pattern in &patterns {
        let pattern = Pattern::parse(pattern).unwrap();
        assert_eq!(whole.find(&table, &pattern).unwrap(), std::slice::from_ref(&work), "{pattern}");
        // Without symbols the unwind tables give the end of the function.
        let image = open(&stripped);
        let unnamed = image.find(&own_functions(&image), &pattern).unwrap();
        assert_eq!(
            (unnamed[0].start, unnamed[0].end, unnamed[0].origin),
            (work.start, work.end, Origin::Unwind)
        );
    }
    let refused = |pattern: String| {
        let pattern = Pattern::parse(&pattern).unwrap();
        let image = open(&stripped);
        let symbols = whole.find(&table, &pattern).unwrap_err().to_string();
        (symbols, image.find(&own_functions(&image), &pattern).unwrap_err().to_string())
    };
    let (symbols, unwind) = refused(format!("+0x{:x}@{build_id}", work.start + 1));
    assert!(symbols.contains("1 bytes inside 'do_work'"), "{symbols}");
    assert!(unwind.contains(&format!("1 bytes inside 'fn_0x{:x}'", work.start)), "{unwind}");
    let (symbols, _) = refused(format!("+0x{:x}@0123456789", work.start));
    assert!(symbols.contains(&build_id), "{symbols}");
    let (symbols, _) = refused(format!("+0x0@{build_id}"));
    assert!(symbols.contains("not in the code"), "{symbols}");
}
