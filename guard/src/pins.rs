//! Maps under `/sys/fs/bpf/vnf_{pid}/`, so that other tools can read them with their types:
//! `bpftool map dump pinned /sys/fs/bpf/vnf_4711/rows`.
//!
//! A pin keeps a map alive beyond the process that made it. So pins go when their target is no
//! longer measured, and the next agent sweeps those of a killed agent; otherwise each crash would
//! cost some megabytes of kernel memory until the next boot.
//!
//! - Only maps for reading are pinned. A pinned link would keep probes in a target after the
//!   guard's end, and a pinned switch could be turned on by any opener after a fault.
//! - A directory counts as edgelat's if its name is `vnf_` and a number, only its owner may look
//!   into it, and it holds only edgelat's maps under their names. Anything else is left alone.
//! - The guard holds a lock of each of its directories, which the kernel releases at its end: a
//!   directory without a lock is left over.
//! - When a target changes to a new image, the maps of the new object replace the old ones by
//!   rename: opening a name yields the old map or the new one, never none. The names follow one
//!   after the other, so two of them that are opened at that moment may belong to different
//!   objects.

use std::fs::{self, DirBuilder, DirEntry, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use edgelat_bpf::object::map;
use libbpf_rs::{MapCore, MapHandle, Object};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{GuardError, Os, text};
use crate::load::os_error;
use crate::lock::{self, Want};

/// Mount point of the file system, mounted by systemd or by hand.
const ROOT: &str = "/sys/fs/bpf";
/// Prefix of a directory name; the number of the process follows.
const PREFIX: &str = "vnf_";
/// Mode of a directory.
const MODE: u32 = 0o700;
/// Pinned maps, by their names in the object.
const MAPS: [&str; 2] = [map::ROWS, map::FRAMES];
/// Suffix of a name while it waits to replace another. The file system refuses names with a dot.
const WAITING: &str = "_new";

/// Pins of one target; dropping it removes the pins.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
    /// A sweep leaves the directory alone as long as this is open.
    _held: File,
}

impl Pins {
    /// True for this process' directory.
    pub(crate) fn is_of(&self, pid: i32) -> bool {
        self.directory.ends_with(format!("{PREFIX}{pid}"))
    }

    /// Pins the maps of a target's object.
    ///
    /// # Errors
    /// [`GuardError::NoBpfFileSystem`], or [`GuardError::Pin`] if there is such a directory already
    /// or the kernel refuses. Then nothing is left.
    pub(crate) fn pin(pid: i32, object: &Object) -> Result<Self, GuardError> {
        if !mounted() {
            return Err(GuardError::NoBpfFileSystem { path: text(ROOT) });
        }
        let directory = Path::new(ROOT).join(format!("{PREFIX}{pid}"));
        DirBuilder::new()
            .mode(MODE)
            .create(&directory)
            .map_err(|error| failed("make", &directory, error.into()))?;
        let held = hold(&directory).map_err(|os| failed("lock", &directory, os))?;
        let pins = Self { directory, _held: held };
        pins.place(object)?;
        Ok(pins)
    }

    /// Replaces the pinned maps by those of another object: the process executes another image now.
    ///
    /// # Errors
    /// [`GuardError::Pin`]. Then each name still leads to the old map or already to the new one.
    pub(crate) fn rotate(&mut self, object: &Object) -> Result<(), GuardError> {
        self.place(object)
    }

    fn place(&self, object: &Object) -> Result<(), GuardError> {
        let mut there = Vec::new();
        for name in MAPS {
            let found = object.maps().find(|map| map.name() == name && map.autocreate());
            let Some(found) = found else { continue };
            // Not through the map itself: libbpf remembers its pin path, and does nothing a second
            // time.
            let mut handle = MapHandle::try_from(&found)
                .map_err(|error| failed("pin", &self.path(name), os_error(&error)))?;
            let waiting = self.waiting(name);
            handle.pin(&waiting).map_err(|error| failed("pin", &waiting, os_error(&error)))?;
            there.push(name);
        }
        for name in MAPS {
            let path = self.path(name);
            if there.contains(&name) {
                fs::rename(self.waiting(name), &path).map_err(|error| failed("pin", &path, error.into()))?;
            } else {
                // The previous object may have had one.
                _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn waiting(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{WAITING}"))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The next agent sweeps pins that cannot be removed now.
        for name in MAPS {
            _ = fs::remove_file(self.path(name));
            _ = fs::remove_file(self.waiting(name));
        }
        _ = fs::remove_dir(&self.directory);
    }
}

/// Locks a directory while it is open: for reading, because a directory cannot be opened for
/// writing.
fn hold(directory: &Path) -> Result<File, Os> {
    let open = File::open(directory)?;
    lock::set(&open, Want::Read)?;
    Ok(open)
}

/// Removes the remains of killed agents; returns the number of directories. Those of a live agent
/// are left alone: with another run directory there may be a second agent.
pub fn sweep() -> usize {
    if !mounted() {
        return 0;
    }
    let Ok(entries) = fs::read_dir(ROOT) else { return 0 };
    entries.flatten().filter(|entry| remove_ours(entry).is_some()).count()
}

/// Removes a directory and its contents, if all of it is edgelat's.
fn remove_ours(entry: &DirEntry) -> Option<()> {
    let name = entry.file_name();
    let pid: i32 = name.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
    // As edgelat writes it: no sign, no leading zeros.
    let as_made = pid > 0 && name.to_str()? == format!("{PREFIX}{pid}");
    let metadata = entry.metadata().ok()?;
    let own = metadata.is_dir()
        && metadata.uid() == nix::unistd::geteuid().as_raw()
        && metadata.mode() & 0o7777 == MODE
        // Another file system could be mounted there.
        && metadata.dev() == fs::metadata(ROOT).ok()?.dev();
    if !as_made || !own {
        return None;
    }
    if lock::is_locked(File::open(entry.path()).ok()?) {
        return None;
    }
    let pins: Vec<DirEntry> = fs::read_dir(entry.path()).ok()?.collect::<Result<_, _>>().ok()?;
    if !pins.iter().all(is_ours) {
        return None;
    }
    for pin in pins {
        fs::remove_file(pin.path()).ok()?;
    }
    fs::remove_dir(entry.path()).ok()
}

/// True for an edgelat map under its name.
fn is_ours(pin: &DirEntry) -> bool {
    let file_name = pin.file_name();
    let name = file_name.to_str().unwrap_or_default();
    let name = name.strip_suffix(WAITING).unwrap_or(name);
    let file = pin.file_type().is_ok_and(|kind| kind.is_file());
    // This refuses programs and links: they are no maps.
    file && MAPS.contains(&name)
        && MapHandle::from_pinned_path(pin.path()).is_ok_and(|map| map.name() == name)
}

fn mounted() -> bool {
    statfs(ROOT).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn failed(step: &str, path: &Path, os: Os) -> GuardError {
    GuardError::Pin { step: text(step), path: text(path.display()), os }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use edgelat_bpf::object::Programs;
    use nix::errno::Errno;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::load::{Loaded, Shape};
    use crate::protocol::Route;
    use crate::sandbox::guard::Tasks;
    use crate::sandbox::settle_guard;

    /// Runs a test with a bpf file system at its place.
    fn with_file_system(test: impl FnOnce() + Send) {
        with_mounts(|| {
            mount(Some("bpf"), ROOT, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
            test();
        });
    }

    /// Runs a test on a thread with mounts of its own, and no bpf file system. Needs root.
    fn with_mounts(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let within = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
                while mounted() {
                    umount2(ROOT, MntFlags::MNT_DETACH).unwrap();
                }
                test();
            });
            within.join().unwrap();
        });
    }

    /// Kernels without compare-and-exchange for BPF have no frame table.
    fn has_frames() -> bool {
        crate::features::compare_exchange().is_ok()
    }

    /// Pinned maps of an object with a frame table, if the kernel supports that.
    fn with_frames() -> &'static [&'static str] {
        if has_frames() { &["frames", "rows"] } else { &["rows"] }
    }

    /// An object with a frame table, if the kernel supports it, or an object without.
    fn loaded(maps_frames: bool) -> Loaded {
        let shape = Shape {
            programs: if maps_frames && has_frames() { Programs::Address } else { Programs::AddressHash },
            functions: 3,
            frames: 100,
            sites: 9,
            follow_forks: false,
            only_unhandled: false,
            cpus: None,
            python: None,
            goroutines: false,
        };
        Loaded::new(&shape, &std::rc::Rc::new(crate::watchers::Watchers::new(8).unwrap())).unwrap()
    }

    /// Leaves pins as if their agent was killed.
    fn leave(pins: Pins) {
        let pins = std::mem::ManuallyDrop::new(pins);
        lock::set(&pins._held, Want::Nothing).unwrap();
    }

    fn names(directory: &str) -> Vec<String> {
        let entries = fs::read_dir(Path::new(ROOT).join(directory)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // The kernel's own, if it has them.
        names.retain(|name| !name.ends_with(".debug"));
        names.sort();
        names
    }

    fn map_id(path: &str) -> u32 {
        MapHandle::from_pinned_path(Path::new(ROOT).join(path)).unwrap().info().unwrap().info.id
    }

    #[test]
    fn a_pinned_map_is_read_with_its_types_and_goes_with_its_target() {
        with_file_system(|| {
            let loaded = loaded(true);
            let pins = Pins::pin(4711, &loaded.object).unwrap();
            assert_eq!(names("vnf_4711"), with_frames(), "the switch and the links are not there");
            let directory = fs::metadata(format!("{ROOT}/vnf_4711")).unwrap();
            assert_eq!(directory.mode() & 0o7777, 0o700);
            let rows = MapHandle::from_pinned_path(format!("{ROOT}/vnf_4711/rows")).unwrap();
            let info = rows.info().unwrap().info;
            assert_eq!((rows.name().to_str(), rows.max_entries()), (Some("rows"), 3 * loaded.lanes));
            assert_eq!(info.value_size as usize, size_of::<edgelat_bpf::layout::Row>());
            assert!(info.btf_id > 0 && info.btf_value_type_id > 0, "types");
            // Place on the machine.
            let path = format!("{ROOT}/vnf_4711/rows");
            if let Ok(dump) = Command::new("bpftool").args(["map", "dump", "pinned", &path]).output() {
                let dump = String::from_utf8(dump.stdout).unwrap();
                assert!(dump.contains("\"entries\": 0") && dump.contains("\"buckets\": ["), "{dump}");
            }
            drop(pins);
            assert!(names("").is_empty());
        });
    }

    #[test]
    fn at_an_upgrade_the_maps_of_the_new_object_take_the_place_of_the_old_ones() {
        with_file_system(|| {
            let (old, new, without) = (loaded(true), loaded(true), loaded(false));
            let mut pins = Pins::pin(7, &old.object).unwrap();
            let before = map_id("vnf_7/rows");
            pins.rotate(&new.object).unwrap();
            assert_eq!(names("vnf_7"), with_frames());
            assert_ne!(map_id("vnf_7/rows"), before);
            // And back, although libbpf has pinned that one before.
            pins.rotate(&old.object).unwrap();
            assert_eq!(map_id("vnf_7/rows"), before);
            pins.rotate(&without.object).unwrap();
            assert_eq!(names("vnf_7"), ["rows"]);
            drop(pins);
            assert!(names("").is_empty());
        });
    }

    #[test]
    fn a_guard_that_has_settled_replaces_and_removes_what_it_has_pinned() {
        with_file_system(|| {
            let (old, new) = (loaded(true), loaded(false));
            let mut pins = Pins::pin(7, &old.object).unwrap();
            let before = map_id("vnf_7/rows");
            // This thread only; a forbidden call ends the whole process.
            settle_guard(Tasks { pins: true, ..Tasks::NONE.and(Route::Tracefs) }).unwrap();
            pins.rotate(&new.object).unwrap();
            assert_ne!(map_id("vnf_7/rows"), before);
            assert_eq!(names("vnf_7"), ["rows"]);
            drop(pins);
            assert!(names("").is_empty());
            drop(Pins::pin(8, &old.object).unwrap());
        });
    }

    #[test]
    fn while_the_maps_are_replaced_each_name_leads_to_one() {
        with_file_system(|| {
            let (old, new) = (loaded(true), loaded(true));
            let mut pins = Pins::pin(7, &old.object).unwrap();
            let known = [map_id("vnf_7/rows"), {
                pins.rotate(&new.object).unwrap();
                map_id("vnf_7/rows")
            }];
            let done = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                // It has this thread's mounts.
                let reader = scope.spawn(|| {
                    let mut reads = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                        assert!(known.contains(&map_id("vnf_7/rows")));
                        reads += 1;
                    }
                });
                for object in [&old, &new].into_iter().cycle().take(200) {
                    pins.rotate(&object.object).unwrap();
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                reader.join().unwrap();
            });
        });
    }

    #[test]
    fn what_a_killed_agent_left_is_swept_and_nothing_else() {
        with_file_system(|| {
            let loaded = loaded(true);
            // As if it had been killed: after pinning, between the two steps of pinning, and before pinning.
            leave(Pins::pin(1, &loaded.object).unwrap());
            leave(Pins::pin(22, &loaded.object).unwrap());
            let at = |path: &str| Path::new(ROOT).join(path);
            fs::rename(at("vnf_22/rows"), at("vnf_22/rows_new")).unwrap();
            let make = |path: &str, mode: u32| DirBuilder::new().mode(mode).create(at(path)).unwrap();
            make("vnf_333", 0o700);
            // Directories of others.
            for other in ["vnf_", "vnf_x", "vnf_01", "vnf_-5", "vnf_1_2", "vpn_1"] {
                make(other, 0o700);
            }
            make("vnf_4", 0o755);
            make("vnf_5", 0o700);
            make("vnf_5/rows", 0o700);
            let pin = |name: &str, path: &str| {
                let found = loaded.object.maps().find(|map| map.name() == name).unwrap();
                MapHandle::try_from(&found).unwrap().pin(at(path)).unwrap();
            };
            // One map of edgelat's, and one that it does not pin.
            make("vnf_6", 0o700);
            pin("rows", "vnf_6/rows");
            pin("events", "vnf_6/family");
            // Another map under edgelat's name.
            make("vnf_7", 0o700);
            pin("events", "vnf_7/rows");
            // A program under edgelat's name.
            make("vnf_8", 0o700);
            loaded.program(loaded.programs.entry()).unwrap().pin(at("vnf_8/rows")).unwrap();
            let others = ["vnf_", "vnf_-5", "vnf_01", "vnf_1_2", "vnf_4", "vnf_5", "vnf_6", "vnf_7", "vnf_8"];
            assert_eq!(sweep(), 3);
            assert_eq!(names(""), [&others[..], &["vnf_x", "vpn_1"]].concat());
            assert_eq!(names("vnf_6"), ["family", "rows"]);
            assert_eq!(sweep(), 0);
        });
    }

    #[test]
    fn what_a_living_agent_has_pinned_is_not_swept() {
        with_file_system(|| {
            let loaded = loaded(true);
            let pins = Pins::pin(7, &loaded.object).unwrap();
            leave(Pins::pin(8, &loaded.object).unwrap());
            assert_eq!(sweep(), 1);
            assert_eq!(names("vnf_7"), with_frames());
            leave(pins);
            assert_eq!(sweep(), 1);
            assert!(names("").is_empty());
        });
    }

    #[test]
    fn a_directory_that_is_there_is_not_taken_over() {
        with_file_system(|| {
            let loaded = loaded(false);
            let _first = Pins::pin(7, &loaded.object).unwrap();
            let error = Pins::pin(7, &loaded.object).unwrap_err();
            assert_eq!(error, failed("make", Path::new("/sys/fs/bpf/vnf_7"), Errno::EEXIST.into()));
            assert_eq!(names("vnf_7"), ["rows"], "the first is as it was");
        });
    }

    #[test]
    fn without_its_file_system_nothing_is_pinned_and_the_next_step_is_said() {
        with_mounts(|| {
            let error = Pins::pin(7, &loaded(false).object).unwrap_err();
            assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
            assert_eq!(sweep(), 0);
        });
    }
}
