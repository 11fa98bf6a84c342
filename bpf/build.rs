//! Writes `layout.h` from `src/layout.rs`, compiles `src/latency.bpf.c` with clang and passes the
//! SHA-256 of the object to the crate.

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "src/layout.rs"]
mod layout;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

fn main() {
    if let Err(message) = build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let sources =
        ["latency.bpf.c", "python.bpf.h", "await.bpf.h", "record.bpf.c", "scheduler.bpf.c", "layout.rs"];
    for path in sources.map(|name| format!("src/{name}")).into_iter().chain(["build.rs".to_owned()]) {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=LLVM_OBJCOPY");

    fs::write(out.join("layout.h"), header()).map_err(|e| format!("cannot write layout.h: {e}"))?;

    // libbpf-sys names the folder of libbpf's own BPF headers; using the vendored ones keeps the object
    // independent of what the build machine has installed.
    let libbpf = env::var("DEP_BPF_INCLUDE").map_err(|_| "libbpf-sys did not name its include folder")?;
    let object = out.join("latency.bpf.o");
    compile(Path::new("src/latency.bpf.c"), &object, &out, &libbpf)?;
    forget_lines(&object)?;
    let bytes = fs::read(&object).map_err(|e| format!("cannot read {}: {e}", object.display()))?;
    println!("cargo::rustc-env=OBJECT_BYTES={}", bytes.len());
    println!("cargo::rustc-env=OBJECT_SHA256={}", hex(&Sha256::digest(bytes)));
    pack(&object)?;
    compile(Path::new("src/scheduler.bpf.c"), &out.join("scheduler.bpf.o"), &out, &libbpf)?;
    compile(Path::new("src/record.bpf.c"), &out.join("record.bpf.o"), &out, &libbpf)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compile(source: &Path, object: &Path, out: &Path, libbpf: &str) -> Result<(), String> {
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "-D__TARGET_ARCH_x86",
        Ok("aarch64") => "-D__TARGET_ARCH_arm64",
        other => return Err(format!("no BPF programs for this architecture: {other:?}")),
    };
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    command
        .args([
            "-target",
            "bpf",
            "-mcpu=v3",
            "-O2",
            "-g",
            "-gno-column-info",
            "-Wall",
            "-Wextra",
            "-Werror",
            arch,
        ])
        // The path of the checkout must not reach the object: its hash is equal on every machine.
        // The replacement path must not exist: clang would put the text of each line into the BTF,
        // a quarter of the packed object.
        .arg(format!(
            "-ffile-prefix-map={}=edgelat-bpf",
            env::current_dir().map_err(|e| e.to_string())?.display()
        ))
        .arg(format!("-ffile-prefix-map={}=out", out.display()))
        .arg("-I")
        .arg(out)
        .arg("-I")
        .arg(libbpf)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object);
    let status = command
        .status()
        .map_err(|e| format!("cannot run {clang} ({e}); install it with `cross/setup build` or set CLANG"))?;
    if !status.success() {
        return Err(format!("{clang} failed on {}", source.display()));
    }
    slim(object)
}

/// Removes the parts of the object that the kernel and libbpf never need, more than half of its
/// bytes: DWARF (the types are in BTF), the relocations of BTF (already applied; only for tools
/// that merge objects) and labels of basic blocks.
fn slim(object: &Path) -> Result<(), String> {
    objcopy(object, |command| {
        command.args(["--strip-debug", "--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"]).args([
            "--remove-section=.llvm_addrsig",
            "--wildcard",
            "--strip-symbol=LBB*",
        ])
    })
}

/// Removes the source line of each instruction, a third of the packed size. Only readers of the
/// verifier's log would use it.
fn forget_lines(object: &Path) -> Result<(), String> {
    let extension = object.with_extension("BTF.ext");
    let section = format!(".BTF.ext={}", extension.display());
    objcopy(object, |command| command.args(["--dump-section", &section]))?;
    let bytes = fs::read(&extension).map_err(|e| format!("cannot read {}: {e}", extension.display()))?;
    let slim = without_lines(&bytes).ok_or("the .BTF.ext is not what it was")?;
    fs::write(&extension, slim).map_err(|e| format!("cannot write {}: {e}", extension.display()))?;
    objcopy(object, |command| command.args(["--update-section", &section]))
}

fn objcopy(object: &Path, arguments: impl Fn(&mut Command) -> &mut Command) -> Result<(), String> {
    let objcopy = env::var("LLVM_OBJCOPY").unwrap_or_else(|_| "llvm-objcopy".into());
    let status = arguments(&mut Command::new(&objcopy)).arg(object).status().map_err(|e| {
        format!("cannot run {objcopy} ({e}); install it with `cross/setup build` or set LLVM_OBJCOPY")
    })?;
    if status.success() { Ok(()) } else { Err(format!("{objcopy} failed on {}", object.display())) }
}

/// Returns a `struct btf_ext_header` (libbpf, src/libbpf_internal.h) and its parts, without the
/// lines. After eight bytes it has offset and length of each part, relative to the header's end:
/// functions, lines, relocations.
fn without_lines(bytes: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let header = word(4)?;
    let part = |at: usize| bytes.get(header + word(at)?..)?.get(..word(at + 4)?);
    let (functions, relocations) = (part(8)?, part(24)?);
    let mut slim = bytes.get(..header)?.to_vec();
    let after = functions.len();
    for (at, value) in [(8, 0), (16, after), (20, 0), (24, after)] {
        slim.get_mut(at..at + 4)?.copy_from_slice(&u32::try_from(value).ok()?.to_le_bytes());
    }
    slim.extend([functions, relocations].concat());
    Some(slim)
}

/// Writes the object beside itself, packed. Ten is the highest level.
fn pack(object: &Path) -> Result<(), String> {
    let bytes = fs::read(object).map_err(|e| format!("cannot read {}: {e}", object.display()))?;
    let packed = object.with_extension("o.deflate");
    let written = fs::write(&packed, miniz_oxide::deflate::compress_to_vec(&bytes, 10));
    written.map_err(|e| format!("cannot write {}: {e}", packed.display()))
}

fn header() -> String {
    let mut text = String::from("/* Written by build.rs from layout.rs. */\n#pragma once\n");
    for (name, value) in layout::CONSTANTS {
        _ = writeln!(text, "#define {name} {value:#x}ULL");
    }
    for s in layout::STRUCTS {
        _ = writeln!(text, "struct {} {{", s.name);
        for f in s.fields {
            let base = match f.element {
                "u32" => "__u32",
                "u64" => "__u64",
                "i64" => "__s64",
                other => unreachable!("layout.rs uses {other}, which has no fixed layout in C"),
            };
            match f.count {
                0 => _ = writeln!(text, "\t{base} {};", f.name),
                n => _ = writeln!(text, "\t{base} {}[{n}];", f.name),
            }
        }
        _ = writeln!(text, "}};");
        let (name, size) = (s.name, s.size);
        _ = writeln!(text, "_Static_assert(sizeof(struct {name}) == {size}, \"size of {name}\");");
        for f in s.fields {
            let (field, offset) = (f.name, f.offset);
            _ = writeln!(
                text,
                "_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, \"{name}.{field}\");"
            );
        }
    }
    text
}
