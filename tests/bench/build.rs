//! Compiles the empty BPF programs with clang.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    if let Err(message) = build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=src/empty.bpf.c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-c", "src/empty.bpf.c", "-o"])
        .arg(out.join("empty.bpf.o"))
        .status()
        .map_err(|e| format!("cannot run {clang} ({e}); install it with `cross/setup build` or set CLANG"))?;
    if status.success() { Ok(()) } else { Err(format!("{clang} failed on src/empty.bpf.c")) }
}
