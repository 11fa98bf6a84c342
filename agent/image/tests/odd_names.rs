//! Names that compilers write in unusual ways.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::PathBuf;

use common::{compile, directory, open, own_functions, run, text};
use edgelat_image::Pattern;

const CPP: &str = r#"
#include <cstdlib>
#define KEPT __attribute__((noinline, used))
namespace ns { KEPT __attribute__((abi_tag("cxx11"))) int tagged(int x) { return x + rand(); } }
struct Base { int *data; virtual ~Base(); Base(); };
KEPT Base::Base() : data(new int[rand()]) {}
KEPT Base::~Base() { delete[] data; }
struct Left : virtual Base { Left(); ~Left(); };
KEPT Left::Left() { data[0] = rand(); }
KEPT Left::~Left() { data[1] = rand(); }
KEPT int größe(int x) { return x * rand(); }
int main(int argc, char **) {
    Base *base = argc > 1 ? new Base : new Left;
    delete base;
    return ns::tagged(argc) + größe(argc);
}
"#;

#[test]
fn odd_names_of_cpp_are_found_as_they_are_written() {
    let path = compile(&directory("odd_names"), "odd.cpp", CPP, &["-O2"]);
    let image = open(&path);
    let table = own_functions(&image);
    let find = |pattern: &str| -> Vec<String> {
        let found = image.find(&table, &Pattern::parse(pattern).unwrap());
        found.unwrap_or_else(|error| panic!("{error}")).into_iter().map(|found| found.name).collect()
    };
    for pattern in [
        "ns::tagged[abi:cxx11](int)",
        "ns::tagged[abi:cxx11]",
        "ns::tagged",
        "ns::tagged(int)",
        "ns::tag*[abi:cxx11]",
        "größe",
        "gr*e",
    ] {
        let found = find(pattern);
        assert_eq!(found.len(), 1, "{pattern}: {found:?}");
    }
    for (pattern, names) in [
        ("Base::~Base", &["Base::~Base()", "Base::~Base() [deleting]"][..]),
        ("Base::~Base() [deleting]", &["Base::~Base() [deleting]"]),
        ("Left::~Left", &["Left::~Left()", "Left::~Left() [base]", "Left::~Left() [deleting]"]),
        ("Left::Left", &["Left::Left()", "Left::Left() [base]"]),
    ] {
        let mut found = find(pattern);
        found.sort_unstable();
        assert_eq!(found, names, "{pattern}");
    }
}

/// The C library has several functions of one name, which readelf distinguishes.
#[test]
fn versions_of_libc_are_those_of_readelf() {
    let path = PathBuf::from(run("gcc", &["-print-file-name=libc.so.6"]).trim()).canonicalize().unwrap();
    let image = open(&path);
    let table = own_functions(&image);
    let listing = run("readelf", &["--dyn-syms", "--wide", text(&path)]);
    let (mut hidden, mut default) = (0, 0);
    for line in listing.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, value, _, "FUNC", _, _, section, name, ..] = fields.as_slice() else { continue };
        let Some((base, version)) = name.split_once('@').filter(|_| *section != "UND") else { continue };
        let start = u64::from_str_radix(value, 16).unwrap();
        let starts = |pattern: &str| -> Vec<u64> {
            let found = image.find(&table, &Pattern::parse(pattern).unwrap());
            let found = found.unwrap_or_else(|error| panic!("{pattern}: {error}"));
            found.into_iter().map(|function| function.start).collect()
        };
        assert_eq!(starts(name), [start], "{name}");
        assert!(starts(base).contains(&start), "{name}");
        match version.starts_with('@') {
            true => default += 1,
            false => hidden += 1,
        }
    }
    assert!(hidden > 20 && default > 1_000, "{hidden} {default}");
}
