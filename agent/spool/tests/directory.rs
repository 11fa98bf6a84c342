//! A spool in a real folder: the results of the simulated disk hold for the box's file system.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Run, check, read};
use edgelat_spool::{Directory, Options, Store};
use nix::errno::Errno;

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgelat-spool-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn runs_follow_one_another_in_a_folder_and_segments_are_merged() {
    let folder = Folder::new("runs");
    let options = Options {
        max_bytes: 64 << 10,
        segment_bytes: 8 << 10,
        sync_ns: 0,
        bytes_per_day: None,
        ..common::SMALL
    };
    let mut runs = Vec::new();
    for number in 1..=3 {
        let directory = Directory::open(&folder.0).unwrap();
        let mut run = Run::new(Box::new(directory), options, number);
        for _ in 0..150 {
            assert_eq!(run.interval(5, 20, false), None);
        }
        let files: Vec<u64> = std::fs::read_dir(&folder.0)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert!(files.iter().sum::<u64>() <= 64 << 10, "{files:?}");
        runs.push(run);
    }
    let has = read(&Directory::open(&folder.0).unwrap());
    runs.iter().for_each(|run| check(&has, run.id, &run.truth, 0, 150));
    assert_eq!((has.damaged, has.dropped), (0, 0));
}

#[test]
fn room_is_reserved_without_a_change_of_length_and_given_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new("room");
    let mut directory = Directory::open(&folder.0).unwrap();
    directory.create("a", 1 << 20).unwrap();
    directory.write("a", 0, b"hello").unwrap();
    directory.sync("a").and_then(|()| directory.sync_names()).unwrap();
    let found = std::fs::metadata(folder.0.join("a")).unwrap();
    assert_eq!((found.len(), found.mode() & 0o777), (5, 0o644));
    let reserved = found.blocks() * 512;
    directory.truncate("a", 5).unwrap();
    let kept = std::fs::metadata(folder.0.join("a")).unwrap().blocks() * 512;
    // A file system that reserves nothing has nothing to give back.
    assert!(kept < 1 << 20 && (reserved < 1 << 20 || kept < reserved), "{reserved} and {kept} bytes");
}

#[test]
fn what_is_no_file_is_no_segment() {
    let folder = Folder::new("files");
    let mut directory = Directory::open(&folder.0).unwrap();
    std::fs::create_dir(folder.0.join("00000001-00000001.seg")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.0.join("00000002-00000002.seg")).unwrap();
    assert_eq!(directory.list(), Ok(vec![]));
    assert_eq!(directory.read("00000002-00000002.seg", 10), Err(Errno::ELOOP));
    assert_eq!(directory.create("00000002-00000002.seg", 10), Err(Errno::ELOOP));
    assert_eq!(directory.read("none", 10), Err(Errno::ENOENT));
    assert_eq!(Directory::open(&folder.0.join("none")).unwrap_err(), Errno::ENOENT);
    assert_eq!(Directory::open("/etc/passwd".as_ref()).unwrap_err(), Errno::ENOTDIR);
}
