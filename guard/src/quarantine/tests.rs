use std::os::unix::fs::PermissionsExt;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::slot::*;
use super::*;
use crate::testing::Folder;

/// A while ago, the same for the whole of a test.
static BEGIN: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| age::now() - 1_000);

fn record(number: u8) -> Record {
    Record {
        key: Key::new(&[number; 20], functions_hash(["main.handle"])),
        signal: libc::SIGSEGV,
        code: 1,
        pid: 4711,
        time: *BEGIN + u64::from(number),
        boot_id: [7; BOOT_ID_BYTES],
        path: cut("/usr/bin/redis-server"),
        target: cut("redis"),
        times: 1,
    }
}

fn file_of(folder: &Folder) -> std::path::PathBuf {
    folder.join(FILE)
}

#[test]
fn what_was_put_there_is_found_by_the_next_agent() {
    let folder = Folder::new();
    let state = folder.join("var/lib/edgelat");
    Store::open(&state).unwrap().add(record(1)).unwrap();
    let next = Store::open(&state).unwrap();
    assert!(next.keeps());
    assert_eq!(next.contains(&record(1).key).unwrap(), Some(record(1)));
    assert_eq!(next.contains(&record(2).key).unwrap(), None);
    // Other functions of the same image may be tried.
    let other = Key { functions: functions_hash(["main.other"]), ..record(1).key };
    assert_eq!(next.contains(&other).unwrap(), None);
    assert_eq!(next.list(), (vec![record(1)], 0));
}

#[test]
fn the_file_has_one_size_and_is_nobody_elses() {
    let folder = Folder::new();
    let state = folder.join("state");
    let store = Store::open(&state).unwrap();
    let of = |path: &Path| path.metadata().unwrap();
    let mode = |path: &Path| of(path).permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join(FILE))), (0o755, 0o600));
    for number in 0..RECORDS as u8 + 3 {
        store.add(record(number)).unwrap();
        assert_eq!(of(&state.join(FILE)).len(), FILE_BYTES as u64);
    }
}

#[test]
fn when_it_is_full_the_oldest_goes() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    for number in 0..RECORDS as u8 {
        store.add(record(number)).unwrap();
    }
    // The first one is the youngest again.
    store.add(record(0)).unwrap();
    assert_eq!(store.list().0.len(), RECORDS);
    store.add(record(200)).unwrap();
    let (records, damaged) = store.list();
    assert_eq!((records.len(), damaged), (RECORDS, 0));
    assert_eq!(store.contains(&record(1).key).unwrap(), None);
    assert_eq!(records[0].key, record(2).key);
    assert_eq!(records[RECORDS - 2].times, 2);
    assert_eq!(records[RECORDS - 1], record(200));
}

#[test]
fn what_happens_again_is_counted_and_the_last_time_is_kept() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    store.add(record(1)).unwrap();
    store.add(Record { pid: 4712, times: 2, ..record(1) }).unwrap();
    assert_eq!(store.list(), (vec![Record { pid: 4712, times: 3, ..record(1) }], 0));
    store.add(Record { times: u32::MAX, ..record(1) }).unwrap();
    assert_eq!(store.contains(&record(1).key).unwrap().unwrap().times, u32::MAX);
}

/// Contents of the disk when the power goes at any byte of any of the writes.
fn every_cut(before: &[u8], writes: &[Write], mut check: impl FnMut(&[u8], bool)) {
    let mut disk = before.to_vec();
    for (number, (index, bytes)) in writes.iter().enumerate() {
        for cut in 0..=SLOT_BYTES {
            let mut torn = disk.clone();
            torn[index * SLOT_BYTES..][..cut].copy_from_slice(&bytes[..cut]);
            // The last bytes of both may be the same.
            let whole = torn[index * SLOT_BYTES..][..SLOT_BYTES] == bytes[..];
            check(&torn, number > 0 || whole);
        }
        disk[index * SLOT_BYTES..][..SLOT_BYTES].copy_from_slice(bytes);
    }
}

fn disk_of(records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    for record in records {
        store.add(record).unwrap();
    }
    std::fs::read(file_of(&folder)).unwrap()
}

#[test]
fn a_power_cut_at_any_byte_loses_no_other_record() {
    let disk = disk_of([record(1), record(2), record(3)]);
    every_cut(&disk, &writes(&slots(&disk), &record(4), EXPIRY), |torn, written| {
        let (records, damaged) = newest(slots(torn));
        assert_eq!(records[..3], [record(1), record(2), record(3)]);
        assert_eq!(records.get(3), written.then_some(&record(4)));
        assert!(damaged <= 1);
    });
}

#[test]
fn a_power_cut_while_a_record_is_counted_once_more_leaves_the_old_or_the_new_one() {
    let disk = disk_of([record(1), record(2)]);
    let mut seen = [false; 3];
    every_cut(&disk, &writes(&slots(&disk), &record(1), EXPIRY), |torn, written| {
        let (records, _) = newest(slots(torn));
        assert_eq!(records.len(), 2);
        let one = records.iter().find(|found| found.key == record(1).key).unwrap();
        assert_eq!(one.times, if written { 2 } else { 1 });
        seen[one.times as usize] = true;
    });
    assert_eq!(seen, [false, true, true]);
}

#[test]
fn a_power_cut_in_a_full_quarantine_loses_at_most_the_one_that_was_to_go() {
    let disk = disk_of((0..RECORDS as u8).map(record));
    let mut torn_disks = Vec::new();
    every_cut(&disk, &writes(&slots(&disk), &record(100), EXPIRY), |torn, written| {
        let (records, _) = newest(slots(torn));
        for number in 1..RECORDS as u8 {
            assert!(records.contains(&record(number)), "{number}");
        }
        assert_eq!(records.contains(&record(100)), written);
        torn_disks.push(torn.to_vec());
    });
    // And the next one, after any of these, loses at most the two oldest.
    for disk in torn_disks.iter().step_by(256) {
        every_cut(disk, &writes(&slots(disk), &record(101), EXPIRY), |torn, written| {
            let (records, _) = newest(slots(torn));
            for number in 2..RECORDS as u8 {
                assert!(records.contains(&record(number)), "{number}");
            }
            assert_eq!(records.contains(&record(101)), written);
        });
    }
}

#[test]
fn a_damaged_record_is_skipped_and_counted_and_its_slot_used_again() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    for number in 1..=3 {
        store.add(record(number)).unwrap();
    }
    let sound = std::fs::read(file_of(&folder)).unwrap();
    // The second slot, each bit of it.
    for bit in 0..SLOT_BYTES * 8 {
        let mut bytes = sound.clone();
        bytes[SLOT_BYTES + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(file_of(&folder), &bytes).unwrap();
        assert_eq!(store.list(), (vec![record(1), record(3)], 1), "bit {bit}");
    }
    store.add(record(4)).unwrap();
    assert_eq!(store.list(), (vec![record(1), record(3), record(4)], 0));
}

#[test]
fn whatever_is_in_the_file_it_is_read() {
    let folder = Folder::new();
    for content in [Vec::new(), b"EDQR".to_vec(), vec![0xff; FILE_BYTES * 2], vec![b'E'; 300]] {
        std::fs::write(file_of(&folder), &content).unwrap();
        let store = Store::open(&folder).unwrap();
        assert_eq!(store.list(), (Vec::new(), content.len().div_ceil(SLOT_BYTES).min(SLOTS)));
        store.add(record(1)).unwrap();
        assert_eq!(store.contains(&record(1).key).unwrap(), Some(record(1)));
        assert!(file_of(&folder).metadata().unwrap().len() <= content.len().max(FILE_BYTES) as u64);
    }
    // Sound by its sum, but never written by the agent.
    for (at, value) in [(AT_LENGTHS, 33), (AT_LENGTHS + 1, 113), (AT_LENGTHS + 2, 255), (AT_PATH, 0xff)] {
        let mut bytes = encode(1, &record(1));
        bytes[at] = value;
        let crc = CRC.checksum(&bytes[..AT_CRC]);
        bytes[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Slot::read(&bytes), Slot::Damaged, "{at}");
    }
}

#[test]
fn the_layout_is_the_one_that_is_described() {
    let mut bytes = encode(3, &record(9));
    assert_eq!(&bytes[..8], b"EDQR\x02\x14\x15\x05");
    assert_eq!(bytes[8..16], 3u64.to_le_bytes());
    assert_eq!(bytes[32..36], libc::SIGSEGV.to_le_bytes());
    assert_eq!((&bytes[64..84], &bytes[216..221]), (&[9; 20][..], &b"redis"[..]));
    assert_eq!(bytes[208..216], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(Slot::read(&bytes), Slot::Taken { sequence: 3, record: record(9) });
    bytes[4] = 3;
    let crc = CRC.checksum(&bytes[..AT_CRC]);
    bytes[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Slot::read(&bytes), Slot::Damaged, "another version");
}

#[test]
fn clearing_takes_one_image_or_all_and_says_how_many() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    let other = Record { key: Key { functions: 1, ..record(0xab).key }, ..record(0xab) };
    for record in [record(1), record(0xab), other, record(2)] {
        store.add(record).unwrap();
    }
    // Another command, with a descriptor of its own.
    let command = Store::open(&folder).unwrap();
    for none in ["", "abab", "abababac", "ab".repeat(21).as_str(), "xxxxxxxx"] {
        assert_eq!(command.clear(Some(none)), 0, "{none}");
    }
    assert_eq!(command.clear(Some("ABABabab")), 2);
    assert_eq!(store.list().0, [record(1), record(2)]);
    assert_eq!(command.clear(Some(&"01".repeat(20))), 1);
    assert_eq!(store.contains(&record(1).key).unwrap(), None);
    store.add(record(5)).unwrap();
    std::fs::write(file_of(&folder), {
        let mut bytes = std::fs::read(file_of(&folder)).unwrap();
        bytes[FILE_BYTES - 1] = 1;
        bytes
    })
    .unwrap();
    assert_eq!(store.list().1, 1);
    assert_eq!(command.clear(None), 2);
    assert_eq!(store.list(), (Vec::new(), 0));
}

#[test]
fn two_writers_lose_nothing_of_each_other() {
    let folder = Folder::new();
    let writer = |first: u8| {
        let store = Store::open(&folder).unwrap();
        move || (first..first + 20).for_each(|number| store.add(record(number)).unwrap())
    };
    let (one, other) = (writer(0), writer(100));
    std::thread::scope(|scope| {
        scope.spawn(one);
        scope.spawn(other);
    });
    let (records, damaged) = Store::open(&folder).unwrap().list();
    assert_eq!((records.len(), damaged), (40, 0));
}

#[test]
fn a_command_that_was_stopped_with_the_lock_holds_nobody_up() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    store.add(record(1)).unwrap();
    let stopped = File::options().read(true).write(true).open(file_of(&folder)).unwrap();
    lock::set(&stopped, Want::Write).unwrap();
    let error = store.add(record(2)).unwrap_err();
    assert_eq!(error, failed("lock its file", Errno::EAGAIN.into()));
    // It holds nevertheless, and so do the entries in the file.
    assert_eq!(store.contains(&record(2).key).unwrap(), Some(record(2)));
    assert_eq!(store.contains(&record(1).key).unwrap(), Some(record(1)));
    assert_eq!(store.clear(Some(&"01".repeat(20))), 0, "that could not be written");
    drop(stopped);
    store.add(record(3)).unwrap();
    assert_eq!(Store::open(&folder).unwrap().list(), (vec![record(1), record(2), record(3)], 0));
}

#[test]
fn in_memory_it_holds_as_long_as_the_process_and_is_bounded() {
    let store = Store::in_memory();
    assert!(!store.keeps());
    for number in 0..100 {
        store.add(record(number)).unwrap();
    }
    store.add(record(99)).unwrap();
    assert_eq!(store.list().0.len(), RECORDS);
    assert_eq!(store.contains(&record(99).key).unwrap().unwrap().times, 2);
    assert_eq!(store.contains(&record(0).key).unwrap(), None);
    assert_eq!(store.clear(None), RECORDS);
    assert_eq!(store.list(), (Vec::new(), 0));
}

#[test]
fn a_state_directory_that_is_none_is_an_error_that_says_what_follows() {
    let folder = Folder::new();
    std::fs::write(folder.join("file"), "").unwrap();
    let error = Store::open(&folder.join("file")).unwrap_err().to_string();
    assert!(error.contains("file/quarantine") && error.contains("as long as edgelat runs"), "{error}");
    // A link could lead to a foreign file, a pipe would wait for ever.
    std::os::unix::fs::symlink(folder.join("file"), file_of(&folder)).unwrap();
    assert!(Store::open(&folder).is_err());
    std::fs::remove_file(file_of(&folder)).unwrap();
    nix::unistd::mkfifo(&file_of(&folder), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(Store::open(&folder).is_err());
}

/// A thread with mounts of its own; needs root, as the tests of this crate do.
fn read_only(folder: &Folder) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(&**folder), &**folder, none, MsFlags::MS_BIND, none).unwrap();
    mount(none, &**folder, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none).unwrap();
}

#[test]
fn a_quarantine_that_can_only_be_read_still_holds() {
    let folder = Folder::new();
    Store::open(&folder).unwrap().add(record(1)).unwrap();
    std::thread::scope(|scope| {
        let within = scope.spawn(|| {
            read_only(&folder);
            let error = Store::open(&folder.join("none")).unwrap_err();
            assert_eq!(
                error,
                failed(&format!("open {}", folder.join("none/quarantine").display()), Errno::EROFS.into())
            );
            let store = Store::open(&folder).unwrap();
            assert!(!store.keeps());
            assert_eq!(store.contains(&record(1).key).unwrap(), Some(record(1)));
            assert!(store.add(record(2)).is_err());
            assert_eq!(store.list().0, [record(1), record(2)]);
            assert_eq!(store.clear(None), 1, "the one that was remembered");
            assert_eq!(store.list().0, [record(1)]);
        });
        within.join().unwrap();
    });
}

#[test]
fn a_set_of_functions_is_the_same_in_any_order_and_for_ever() {
    assert_eq!(functions_hash(["b", "a", "b"]), functions_hash(["a", "b"]));
    assert_ne!(functions_hash(["ab"]), functions_hash(["a", "b"]));
    assert_ne!(functions_hash([]), functions_hash([""]));
    // In files of agents that were shipped.
    assert_eq!(functions_hash([]), 0xcbf2_9ce4_8422_2325);
    // FNV-1a of "foobar" is 0x85944171f73967e8, by its authors' table; one more zero byte is one more multiplication.
    assert_eq!(functions_hash(["foobar"]), 0x8594_4171_f739_67e8u64.wrapping_mul(0x0000_0100_0000_01b3));
}

#[test]
fn faults_of_the_kernel_and_own_aborts_go_to_quarantine_and_signals_of_others_do_not() {
    let deserves =
        |signal, code| deserves(&Fault { signal, code, handled: false, sent: code == libc::SI_USER });
    const SI_KERNEL: i32 = 0x80;
    assert!(super::deserves(&Fault::UNTOLD));
    for (signal, code) in [
        (libc::SIGSEGV, 1),
        (libc::SIGSEGV, SI_KERNEL),
        (libc::SIGBUS, 2),
        (libc::SIGTRAP, SI_KERNEL),
        (libc::SIGSYS, 1),
        (libc::SIGABRT, libc::SI_TKILL),
    ] {
        assert!(deserves(signal, code), "{signal} {code}");
    }
    for (signal, code) in [
        (libc::SIGSEGV, libc::SI_USER),
        (libc::SIGABRT, libc::SI_USER),
        (libc::SIGABRT, libc::SI_QUEUE),
        (libc::SIGSEGV, libc::SI_TKILL),
    ] {
        assert!(!deserves(signal, code), "{signal} {code}");
    }
    // tgkill by another process, in place of abort(3).
    let (signal, code) = (libc::SIGABRT, libc::SI_TKILL);
    assert!(!super::deserves(&Fault { signal, code, handled: false, sent: true }));
}

#[test]
fn what_a_user_does_holds_for_nobody_else_and_once_is_not_enough() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    let of = |user| record(1).key.of_user(user);
    let once = Record { key: of(65_534), time: age::now() - 60, ..record(1) };
    store.add(once.clone()).unwrap();
    assert_eq!(store.contains(&of(65_534)).unwrap(), None, "one fault is over after a moment");
    store.add(Record { time: age::now(), ..once }).unwrap();
    let held = store.contains(&of(65_534)).unwrap().unwrap();
    assert!(held.times == 2 && lasts(&held));
    for other in [0, 1000, ANY_USER] {
        assert_eq!(store.contains(&of(other)).unwrap(), None, "{other}");
    }
    // A record of another version holds for all, until it is forgotten.
    store.add(record(1)).unwrap();
    assert!(store.contains(&of(0)).unwrap().is_some_and(|found| found.key.user == ANY_USER));
    assert_eq!(store.list().0.len(), 2);
    let forgetful = Store::open(&folder).unwrap().expiring(Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(forgetful.contains(&of(0)).unwrap(), None);
    assert!(forgetful.list().0.is_empty());
    // And the next fault is the first one again.
    forgetful.add(Record { key: of(65_534), time: age::now(), ..record(1) }).unwrap();
    assert_eq!(forgetful.list().0[0].times, 1);
}

#[test]
fn a_file_of_the_version_before_is_read() {
    let folder = Folder::new();
    let mut bytes = encode(3, &record(9));
    let path = "/opt/".to_owned() + &"x".repeat(115);
    bytes[AT_VERSION] = 1;
    bytes[AT_LENGTHS + 1] = 120;
    bytes[AT_PATH..AT_PATH + 120].copy_from_slice(path.as_bytes());
    let crc = CRC.checksum(&bytes[..AT_CRC]);
    bytes[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(file_of(&folder), bytes).unwrap();
    let store = Store::open(&folder).unwrap();
    let found = store.contains(&record(9).key.of_user(1000)).unwrap().unwrap();
    assert_eq!((found.path.as_str(), found.key.user), (&path[..PATH_BYTES], ANY_USER));
}

#[test]
fn an_entry_without_a_date_that_can_be_right_gets_one() {
    let folder = Folder::new();
    let store = Store::open(&folder).unwrap();
    store.add(Record { time: 50, times: 2, ..record(1) }).unwrap();
    assert!(store.contains(&record(1).key).unwrap().is_some());
    let dated = &store.list().0[0];
    assert!(dated.time > 1_735_689_600 && dated.times == 2, "{dated:?}");
}

#[test]
fn a_path_is_cut_between_characters_and_obeyed_by_no_terminal() {
    let cut: heapless::String<8> = cut("/a\u{1b}[2Jäöü");
    assert_eq!(cut, "/a?[2Jä");
}

#[test]
fn a_build_that_was_killed_is_left_alone_by_the_next_agent_until_one_has_lived() {
    let folder = Folder::new();
    let next = || Store::open(&folder).unwrap();
    let key = record(1).key.of_user(1000);
    let fault = |times| Record { key: key.clone(), times, time: age::now(), ..record(1) };
    let killed = |times| Record { signal: libc::SIGKILL, ..fault(times) };
    let held = || next().contains(&key).unwrap().map(|held| (held.signal, held.times));
    // A user may have done it, once.
    next().add(killed(1)).unwrap();
    assert_eq!((held(), next().list().0.len()), (None, 0));
    // Memory counts twice only if nothing is known.
    next().add(killed(2)).unwrap();
    assert_eq!(held(), Some((libc::SIGKILL, 2)));
    next().add(killed(1)).unwrap();
    assert_eq!(held(), Some((libc::SIGKILL, 3)));
    // A fault is another matter, and neither replaces the other.
    next().add(fault(2)).unwrap();
    assert_eq!(next().list().0.len(), 2);
    next().lived(&key);
    assert_eq!((held(), next().list().0.len()), (Some((libc::SIGSEGV, 2)), 1));
    next().add(killed(2)).unwrap();
    assert_eq!(next().clear(None), 2);
    assert_eq!((held(), next().list().0.len()), (None, 0));
}
