//! CPUs that the threads of a target may run on.

use std::io::Read as _;

use nix::errno::Errno;

use super::machine;
use crate::cpus::CpuSet;
use crate::error::{GuardError, text};
use crate::outside;

/// Upper bound for the threads of a process that are examined.
const THREADS: usize = 16_384;
/// Bytes of /proc/PID/task/TID/status that are read: the line with up to 65536 groups of the user
/// (NGROUPS_MAX, include/uapi/linux/limits.h) precedes the wanted line.
const STATUS_BYTES: u64 = 1 << 20;

/// CPUs that threads of a process may run on.
///
/// # Errors
/// If there is no such process, or its threads cannot be examined, or there are too many.
pub fn cpus_of(pid: i32) -> Result<CpuSet, GuardError> {
    let mut all = CpuSet::default();
    each_thread(pid, |_, cpus| {
        all = all.and(&cpus);
        Ok(())
    })?;
    Ok(all)
}

/// CPUs for targets that must stay on isolated CPUs; the programs in the kernel ignore hits on
/// others.
///
/// # Errors
/// If no CPU is isolated.
pub fn isolated_cpus() -> Result<CpuSet, GuardError> {
    let isolated = machine::isolated();
    if isolated.is_empty() {
        let reason = text("no CPU is isolated here");
        return Err(GuardError::NoIsolatedCpu { reason });
    }
    Ok(isolated)
}

/// Refuses a process of which a thread may run on a CPU that is not isolated.
///
/// # Errors
/// The thread and its CPUs; or the reason why they are unknown.
pub fn stays_on_isolated(pid: i32) -> Result<(), GuardError> {
    let isolated = isolated_cpus()?;
    each_thread(pid, |thread, cpus| match cpus.is_within(&isolated) {
        true => Ok(()),
        false => Err(GuardError::NotOnIsolated {
            pid,
            thread,
            cpus: text(cpus.without(&isolated)),
            isolated: text(isolated),
        }),
    })
}

/// Calls `look` for every thread with its CPUs.
fn each_thread(
    pid: i32,
    mut look: impl FnMut(i32, CpuSet) -> Result<(), GuardError>,
) -> Result<(), GuardError> {
    let folder = format!("/proc/{pid}/task");
    let threads =
        outside::names(&folder).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ESRCH) => GuardError::NoProcess { pid },
            _ => GuardError::Proc { file: text(&folder), os: error.into() },
        })?;
    let mut seen = 0;
    for thread in threads {
        if seen == THREADS {
            return Err(GuardError::TooManyThreads { pid, bound: THREADS as u32 });
        }
        let path = format!("{folder}/{thread}/status");
        let mut status = String::new();
        let read = outside::open(&path).and_then(|file| file.take(STATUS_BYTES).read_to_string(&mut status));
        let id = thread.parse().ok();
        match (read.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)), id) {
            (Ok(_), Some(id)) => {
                let cpus = allowed(&status)
                    .ok_or_else(|| GuardError::Proc { file: text(&path), os: Errno::ERANGE.into() })?;
                look(id, cpus)?;
                seen += 1;
            }
            // The thread has ended meanwhile.
            (Err((Some(Errno::ENOENT | Errno::ESRCH), _)), _) | (_, None) => {}
            (Err((_, error)), _) => {
                return Err(GuardError::Proc { file: text(&path), os: error.into() });
            }
        }
    }
    if seen == 0 { Err(GuardError::NoProcess { pid }) } else { Ok(()) }
}

/// A line break in a name cannot forge the line: it is written as `\n` (fs/proc/array.c,
/// `proc_task_name`).
fn allowed(status: &str) -> Option<CpuSet> {
    CpuSet::parse(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::unistd::gettid;

    use super::*;

    #[test]
    fn where_threads_may_run_is_read_from_their_status() {
        let status =
            "Name:\tx\\nCpus_allowed_list:\t9\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\nMems_allowed:\t1\n";
        assert_eq!(allowed(status).unwrap().to_string(), "0-3");
        assert_eq!(allowed("Name:\tx\n"), None);
    }

    #[test]
    fn a_thread_that_may_run_elsewhere_counts_as_well() {
        let (told, hear) = channel();
        let (end, wait) = channel::<()>();
        let online = cpus_of(std::process::id() as i32).unwrap();
        let first = online.iter().next().unwrap();
        let thread = std::thread::spawn(move || {
            assert!(core_affinity::set_for_current(core_affinity::CoreId { id: first as usize }));
            told.send(gettid().as_raw()).unwrap();
            _ = wait.recv();
        });
        let id = hear.recv().unwrap();
        let mut seen = Vec::new();
        each_thread(std::process::id() as i32, |thread, cpus| {
            seen.push((thread, cpus));
            Ok(())
        })
        .unwrap();
        assert!(seen.contains(&(id, CpuSet::from_iter([first]))), "{seen:?}");
        assert_eq!(cpus_of(std::process::id() as i32).unwrap(), online);
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_may_run_on_cpus_that_are_not_isolated_is_refused_with_the_thread() {
        let me = std::process::id() as i32;
        let refused = stays_on_isolated(me).unwrap_err();
        match isolated_cpus() {
            Ok(_) => {
                assert!(matches!(refused, GuardError::NotOnIsolated { pid, .. } if pid == me), "{refused}")
            }
            Err(_) => assert!(matches!(refused, GuardError::NoIsolatedCpu { .. }), "{refused}"),
        }
    }

    #[test]
    fn a_process_that_is_gone_is_nobody() {
        assert!(matches!(cpus_of(i32::MAX), Err(GuardError::NoProcess { .. })));
    }
}
