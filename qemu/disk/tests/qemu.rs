//! QEMU as the client of the disk: its monitor takes requests for a drive.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use edgelat_disk::log::{self, Act, Log};
use edgelat_disk::server::{Disk, serve};

const REQUESTS: &str = "write -P 5 512 4096\n\
                        flush\n\
                        write -f -P 6 8192 512\n\
                        write -z 4096 4096\n\
                        discard 65536 65536\n\
                        read -P 5 512 3584\n\
                        read -P 0 4096 4096\n\
                        read -P 6 8192 512\n";

#[test]
fn qemu_reads_what_it_wrote_and_its_flushes_and_fua_are_in_the_log() {
    let folder = std::env::temp_dir().join(format!("edgelat-disk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (socket, written) = (folder.join("disk"), folder.join("log"));
    let listener = UnixListener::bind(&socket).unwrap();
    let qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio", "-drive"])
        .arg(format!(
            "if=none,id=disk,file=nbd:unix:{},format=raw,cache=writeback,discard=unmap",
            socket.display()
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-system-x86_64: cross/setup test");
    for request in REQUESTS.lines() {
        writeln!(qemu.stdin.as_ref().unwrap(), "qemu-io disk \"{request}\"").unwrap();
    }
    writeln!(qemu.stdin.as_ref().unwrap(), "quit").unwrap();
    let log = Log::new(Instant::now(), Some(std::fs::File::create(&written).unwrap()));
    let disk = Mutex::new(Disk::new(vec![1; 1 << 20], log));
    serve(listener.accept().unwrap().0, &disk).unwrap();
    let said = qemu.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    // It says what it read, and complains where that was something else.
    assert_eq!(said.matches("read 3584/3584 bytes").count(), 1, "{said}");
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");

    let acts: Vec<Act> =
        disk.into_inner().unwrap().into_log().entries().iter().map(|entry| entry.act.clone()).collect();
    let wanted = [
        Act::Write { offset: 512, bytes: vec![5; 4096], durable: false },
        Act::Flush,
        Act::Write { offset: 8192, bytes: vec![6; 512], durable: true },
        Act::Zero { offset: 4096, length: 4096, durable: false, trim: false },
        Act::Zero { offset: 65536, length: 65536, durable: false, trim: true },
    ];
    assert_eq!(acts[..wanted.len()], wanted);
    // At its end it flushes.
    assert!(acts[wanted.len()..].iter().all(|act| *act == Act::Flush), "{acts:?}");
    let file = log::read(std::fs::File::open(&written).unwrap()).unwrap();
    assert!(file.iter().map(|entry| &entry.act).eq(&acts));
    std::fs::remove_dir_all(folder).unwrap();
}
