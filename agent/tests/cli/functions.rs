//! `edgelat functions` on real files and processes.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

use super::shell::{Folder, edgelat, edgelat_as_nobody, succeed};
use serde_json::{Value, json};

const PROGRAM: &str = "
    #include <stdlib.h>
    #include <unistd.h>
    volatile int sink;
    __attribute__((noinline)) int do_work(int n) {
        int sum = 0;
        for (int i = 0; i < n; i++) sum += sink;
        return sum;
    }
    __attribute__((noinline, noreturn)) void give_up(int status) { sink = 1; _exit(status); }
    int main(int argc, char **argv) {
        if (argc == 3) pause();
        if (argc > 1) give_up(do_work(argc));
        return do_work(argc);
    }";

fn named<'a>(lines: &'a [Value], name: &str) -> &'a Value {
    lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("{name} is listed"))
}

#[test]
fn a_function_that_can_be_probed_shows_its_sites_and_one_that_cannot_its_reason() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &[]);
    let lines = edgelat(&["functions", "--json", &program]).status(0).quietly().json();

    let work = named(&lines, "do_work");
    assert_eq!(work["probeable"], true);
    assert_eq!(work["reason"], Value::Null);
    assert_eq!(work["reason_text"], Value::Null);
    assert_eq!(work["image"], program.as_str());
    assert_eq!(work["linkage_name"], "do_work");
    assert_eq!(work["origin"], ".symtab");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is a number"));
    assert_eq!(number(&work["end"]) - number(&work["start"]), number(&work["size"]));
    let exits = work["sites"]["exits"].as_array().unwrap();
    assert!(!exits.is_empty());
    assert_eq!(exits.len(), work["sites"]["stepping"]["exits"].as_array().unwrap().len());

    let give_up = named(&lines, "give_up");
    assert_eq!(give_up["probeable"], false);
    assert_eq!(give_up["reason"], "no-exit");
    assert!(give_up["reason_text"].as_str().unwrap().contains(' '));
    assert_eq!(give_up["sites"], Value::Null);
}

#[test]
fn sites_are_file_offsets_of_the_instructions_that_the_compiler_wrote() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &["-no-pie", "-fcf-protection=none"]);
    let lines = edgelat(&["functions", "--json", &program, "do_work"]).status(0).quietly().json();
    assert_eq!(lines.len(), 1);
    let bytes = fs::read(&program).unwrap();
    for exit in lines[0]["sites"]["exits"].as_array().unwrap() {
        // ret, on x86_64; the word 0xd65f03c0 on aarch64.
        let at = exit.as_u64().unwrap() as usize;
        let code = if cfg!(target_arch = "x86_64") { &[0xc3][..] } else { &[0xc0, 0x03, 0x5f, 0xd6] };
        assert_eq!(&bytes[at..at + code.len()], code);
    }
}

#[test]
fn the_table_ends_with_a_summary_that_adds_up() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &[]);
    let table = edgelat(&["functions", &program]).status(0).quietly().stdout();
    let lines = edgelat(&["functions", "--json", &program]).status(0).json();
    let probeable = lines.iter().filter(|line| line["probeable"] == true).count();
    assert!(
        table.contains(&format!("\n{} functions, {probeable} can be probed = ", lines.len())),
        "{} and {probeable}: {table}",
        lines.len()
    );
    let no_exit = lines.iter().filter(|line| line["reason"] == "no-exit").count();
    assert!(table.contains(&format!("{no_exit}  no-exit\n")), "{table}");
    assert!(!table.contains('\x1b'), "colours are for terminals");
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["ADDRESS", "SIZE", "PROBE", "FUNCTION"]
    );
}

#[test]
fn a_glob_chooses_and_a_near_name_is_offered() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &[]);
    let lines = edgelat(&["functions", "--json", &program, "do_*"]).status(0).quietly().json();
    assert!(lines.iter().all(|line| line["name"].as_str().unwrap().starts_with("do_")), "{lines:?}");
    named(&lines, "do_work");
    edgelat(&["functions", &program, "do_wrok"]).status(6).says("did you mean do_work");
    edgelat(&["functions", &program, "nothing_like_it_*"]).status(6).says("not found");
    edgelat(&["functions", &program, "libfoo.so:f"])
        .status(6)
        .says("asks for an image that is not there; what is: program");
}

#[test]
fn a_stripped_file_is_listed_from_its_debug_file_or_says_what_is_missing() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &["-static", "-Wl,--build-id=0x0123456789abcdef"]);
    let debug_files = folder.text("debug");
    let debug_file = format!("{debug_files}/.build-id/01/23456789abcdef.debug");
    fs::create_dir_all(format!("{debug_files}/.build-id/01")).unwrap();
    succeed(Command::new("objcopy").args(["--only-keep-debug", &program, &debug_file]));
    succeed(Command::new("strip").arg(&program));

    edgelat(&["functions", &program, "do_work"])
        .status(6)
        .says("no debug file was found (build-id 0123456789abcdef)");
    // Functions without a name are listed by address.
    let lines = edgelat(&["functions", "--json", &program]).status(0).json();
    assert!(lines.len() > 100, "{}", lines.len());
    for line in &lines {
        let start = line["start"].as_u64().unwrap();
        assert_eq!(
            (line["name"].as_str(), line["origin"].as_str()),
            (Some(&*format!("fn_{start:#x}")), Some(".eh_frame"))
        );
    }
    let lines = edgelat(&["functions", "--json", "--debug-dir", &debug_files, &program, "do_work"])
        .status(0)
        .quietly()
        .json();
    assert_eq!(lines[0]["origin"], "debug file");
    assert_eq!(lines[0]["build_id"], "0123456789abcdef");
    assert_eq!(lines[0]["probeable"], true);
}

#[test]
fn what_is_no_image_ends_with_7_and_says_why() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &[]);
    let bytes = fs::read(&program).unwrap();
    let file = |name: &str, bytes: &[u8]| folder.write(name, bytes);
    for (path, part) in [
        (file("script", b"#!/bin/sh\n"), "not an ELF file"),
        (file("empty", b""), "the file is empty"),
        (file("truncated", &bytes[..bytes.len() / 2]), "the file is truncated"),
        (folder.text("missing"), "No such file or directory; name an executable"),
        (folder.text("."), "a directory"),
        ("/dev/null".to_string(), "not a regular file"),
    ] {
        let ran = edgelat(&["functions", &path]).status(7).says(part);
        assert!(ran.stderr().contains(&path), "the file is named: {}", ran.stderr());
        assert_eq!(ran.stdout(), "");
    }
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_hold_us() {
    let folder = Folder::new();
    let pipe = folder.text("pipe");
    succeed(Command::new("mkfifo").arg(&pipe));
    edgelat(&["functions", &pipe]).status(7).says("not a regular file");
}

#[test]
fn a_file_that_may_not_be_read_ends_with_3() {
    let folder = Folder::new();
    let secret = folder.write("secret", b"");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    edgelat_as_nobody(&["functions", &secret]).status(3).says("Permission denied");
}

#[test]
fn a_process_is_listed_with_its_libraries() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &[]);
    let mut process = Command::new(&program).args(["a", "b"]).spawn().unwrap();
    let pid = process.id().to_string();
    // Until it has executed the program and mapped its libraries, it maps other files.
    let ready = || {
        fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|wait| wait.contains("pause"))
            || fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with("34 "))
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") S "))
    };
    while !ready() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let lines = edgelat(&["functions", "--json", &pid]).status(0).json();
    assert_eq!(named(&lines, "do_work")["image"], program.as_str());
    assert!(lines.iter().any(|line| line["image"].as_str().unwrap().contains("libc.so")));
    let table = edgelat(&["functions", &pid, "libc.so:getpid"]).status(0).quietly().stdout();
    assert!(table.lines().next().unwrap().contains("IMAGE"), "{table}");
    assert!(table.contains("libc.so.6"), "{table}");
    // A name is searched in all images, and is no error if at least one has it.
    let lines = edgelat(&["functions", "--json", &pid, "do_work"]).status(0).quietly().json();
    assert_eq!(lines.len(), 1);
    edgelat(&["functions", &pid, "no_such_function"]).status(6).says("not found");
    edgelat(&["functions", &pid, "libno.so:f"]).status(6).says("what is: program");
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_process_that_is_gone_ends_with_5() {
    let mut process = Command::new("true").spawn().unwrap();
    let pid = process.id().to_string();
    process.wait().unwrap();
    edgelat(&["functions", &pid]).status(5).says(&format!("no process {pid}"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut edgelat = Command::new(env!("CARGO_BIN_EXE_edgelat"))
        .args(["functions", "--json", env!("CARGO_BIN_EXE_edgelat")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    edgelat.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = edgelat.wait_with_output().unwrap();
    assert_eq!((first, output.status.code(), output.stderr.as_slice()), (*b"{", Some(0), &b""[..]));
}

#[test]
fn every_line_has_every_field() {
    let folder = Folder::new();
    let program = folder.compile("program", PROGRAM, &[]);
    let fields = json!([
        "aliases",
        "build_id",
        "end",
        "image",
        "inlined_copies",
        "language",
        "language_version",
        "linkage_name",
        "name",
        "origin",
        "probeable",
        "reason",
        "reason_text",
        "sites",
        "size",
        "start"
    ]);
    for line in edgelat(&["functions", "--json", &program]).status(0).json() {
        let mut keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(json!(keys), fields);
    }
}
