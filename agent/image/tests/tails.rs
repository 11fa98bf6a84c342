//! Ends of calls that leave their function by a jump, in programs compiled on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{compile, compile_aarch64, directory, open, own_functions, text};
use edgelat_image::{CallEnds, Export, Followers, Function, FunctionSites, Image, Refusal, Tails};

const SOURCE: &str = r#"
#define SEEN __attribute__((noipa))
extern int import_it(int);
extern void free(void *);
static volatile int seen;
SEEN int ends(int x) { seen += x; if (x > 5) { seen = 2; return seen; } seen = 3; return x; }
SEEN int hops(int x) { seen = x; return ends(x); }
SEEN int only_hops(int x) { return ends(x); }
SEEN int twice(int x) { seen = x; return hops(x); }
SEEN int either(int x) { seen = x; if (x > 9) return ends(x); return seen; }
SEEN int imports(int x) { seen = x; return import_it(x); }
SEEN void frees(void *p) { seen = 1; free(p); }
SEEN int by_pointer(int (*to)(int), int x) { seen = x; return to(x); }
SEEN int pong(int x);
SEEN int ping(int x) { seen = x; return x ? pong(x - 1) : seen; }
SEEN int pong(int x) { seen = x + 1; return x ? ping(x - 1) : seen; }
SEEN int searches(int *p, int x) { for (;; p++) { seen++; if (*p == x) return ends(x); } }
__attribute__((visibility("hidden"))) int never_ends(int x);
SEEN int to_what_never_ends(int x) { seen = x; return never_ends(x); }
__asm__(".globl never_ends\n.hidden never_ends\n.type never_ends,@function\nnever_ends: 1: " JUMP " 1b\n.size never_ends, .-never_ends");
"#;

type Found = BTreeMap<String, Result<(FunctionSites, CallEnds), Refusal>>;

fn found(path: &Path) -> (Found, Vec<Function>) {
    let image = open(path);
    let table = own_functions(&image);
    let mut tails = Tails::new(&image, &table, Followers::new());
    let functions: Vec<Function> = table.iter().collect();
    let found = functions.iter().map(|function| (function.name.clone(), tails.look(function))).collect();
    (found, functions)
}

/// Returns the addresses of ends in this image.
fn ends(ends: &CallEnds) -> Vec<u64> {
    let mut ends: Vec<u64> = ends.exits.iter().map(|exit| exit.site.address).collect();
    ends.sort_unstable();
    ends
}

/// Checks the properties of the program above, independent of its compilation.
fn check(path: &Path) {
    let (found, functions) = found(path);
    let of = |name: &str| found[name].as_ref().unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    let start = |name: &str| functions.iter().find(|function| function.name == name).unwrap().start;

    let own: Vec<u64> = of("ends").0.exits.iter().map(|exit| exit.site.address).collect();
    assert!(!own.is_empty());
    for name in ["hops", "only_hops", "twice", "either", "searches"] {
        let (sites, whole) = of(name);
        assert_eq!(ends(whole), own, "{name} ends where `ends` does");
        assert!(whole.exits.iter().all(|exit| exit.site.maybe), "{name}: others call `ends` as well");
        assert!(
            whole.open.is_empty() && whole.named.is_empty() && whole.again.is_empty(),
            "{name}: {whole:?}"
        );
        assert_eq!(sites.exits.is_empty(), name != "either", "{name}: {sites:?}");
    }
    assert!(of("only_hops").0.entry.site.address >= start("only_hops"));

    let names = |name: &str| of(name).1.named.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names("imports"), ["import_it"]);
    let (sites, whole) = of("frees");
    assert_eq!((sites.exits.len(), whole.open.len(), whole.named.len()), (0, 1, 0), "all call free");
    let (_, whole) = of("by_pointer");
    assert_eq!((whole.open.len(), whole.exits.len()), (1, 0), "{whole:?}");
    let (_, whole) = of("to_what_never_ends");
    assert_eq!((whole.open.len(), whole.exits.len()), (1, 0), "{whole:?}");
    for (one, other) in [("ping", "pong"), ("pong", "ping")] {
        let (sites, whole) = of(one);
        let returns: Vec<u64> = of(other).0.exits.iter().map(|exit| exit.site.address).collect();
        assert_eq!((ends(whole), sites.exits.len(), whole.again.len()), (returns, 1, 1), "{one}: {whole:?}");
    }
}

#[test]
fn jumps_are_followed_to_the_returns_of_what_they_lead_to() {
    let directory = directory("tails");
    for (name, options) in [
        ("lazy", &["-Wl,-z,lazy", "-fcf-protection=none"][..]),
        ("pads", &["-Wl,-z,now", "-fcf-protection=full"]),
        ("got", &["-fno-plt"]),
    ] {
        let options =
            [options, &["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-DJUMP=\"jmp\""]].concat();
        check(&compile(&directory, &format!("{name}.c"), SOURCE, &options));
    }
}

#[test]
fn jumps_are_followed_on_aarch64() {
    let directory = directory("tails-aarch64");
    for (file, protection) in [("plain.c", "none"), ("pads.c", "bti")] {
        let protection = format!("-mbranch-protection={protection}");
        let options =
            ["-O2", "-shared", "-fPIC", "-nostdlib", "-fvisibility=hidden", "-DJUMP=\"b\"", &protection];
        check(&compile_aarch64(&directory, file, SOURCE, &options));
    }
}

#[test]
fn exits_are_shared_by_few_functions() {
    let directory = directory("tails-many");
    let many: String = (0..12)
        .map(|n| format!("__attribute__((noipa)) int f{n}(int x) {{ seen = {n}; return ends(x); }}\n"))
        .collect();
    let source = format!(
        "static volatile int seen;\n__attribute__((noipa)) int ends(int x) {{ seen += x; return x; }}\n{many}"
    );
    let path = compile(&directory, "many.c", &source, &["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]);
    let image = open(&path);
    let table = own_functions(&image);
    let mut tails = Tails::new(&image, &table, Followers::new());
    let follow = |tails: &mut Tails<'_, _>, names: std::ops::Range<usize>| {
        names
            .map(|n| format!("f{n}"))
            .filter(|name| {
                let function = table.iter().find(|function| function.name == *name).unwrap();
                tails.sites(&function).unwrap().1.open.is_empty()
            })
            .count()
    };
    assert_eq!(follow(&mut tails, 0..6), 6);
    let mut later = Tails::new(&image, &table, tails.followers());
    assert_eq!(follow(&mut later, 6..12), 2, "the others are measured up to the jump");
}

#[test]
fn what_an_image_exports_is_told_from_what_it_chooses_or_has_twice() {
    let directory = directory("tails-exports");
    let source = "int plain(int x) { return x; }\nint datum = 1;\nstatic int one(int x) { return x; }\n\
        static int (*choose(void))(int) { return one; }\nint chosen(int x) __attribute__((ifunc(\"choose\")));\n\
        int wants(int);\nint uses(int x) { return wants(x) + 1; }\n\
        int old(int x) { return x; }\nint fresh(int x) { return x + 1; }\n\
        __asm__(\".symver old, both@V1\\n.symver fresh, both@@V2\");";
    let map = directory.join("map");
    std::fs::write(&map, "V1 { global: *; };\nV2 { } V1;\n").unwrap();
    let options = ["-O2", "-shared", "-fPIC", &format!("-Wl,--version-script={}", text(&map))];
    let image: Image<_> = open(&compile(&directory, "exports.c", source, &options));
    let names = ["plain", "datum", "chosen", "wants", "both", "nothing"].map(str::to_owned);
    let exports = image.exports(&names).unwrap();
    let of = |name: &str| exports.iter().find(|(known, _)| known == name).unwrap().1;
    assert!(matches!(of("plain"), Export::Function(_)));
    for unclear in ["datum", "chosen", "both"] {
        assert_eq!(of(unclear), Export::Unclear, "{unclear}");
    }
    assert_eq!(exports.len(), 4, "{exports:?}");
}
