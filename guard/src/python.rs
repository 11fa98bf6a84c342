//! A plan's data of a Python interpreter: checked, and handed to the programs.

use edgelat_bpf::Frame;
use edgelat_bpf::layout::{CODE_KEPT, CodeSlot};
use edgelat_bpf::object::{AwaitConstants, PythonConstants, map};
use libbpf_rs::{MapCore, MapFlags};

use crate::error::{GuardError, text};
use crate::load::Loaded;
use crate::placement::TargetsOn;
use crate::protocol::{PlanOptions, PythonPlan};

/// Offsets in Python's objects are small.
const MAX_OFFSET: u16 = 1 << 12;
/// Bound for slots for functions of Python, sets of the cache of code objects, and waiting
/// descriptions. An entry of the cache compares the bits above those that find its set.
const MAX_CODE_SLOTS: u32 = 1 << CODE_KEPT;

/// Checks that a plan's data of a Python interpreter is possible. The programs read the target's
/// memory only there, so wrong offsets can at worst name nothing.
pub(crate) fn check(python: &PythonPlan, options: &PlanOptions) -> Result<(), GuardError> {
    let offsets = [
        python.frame_code,
        python.code_file,
        python.code_name,
        python.code_flags,
        python.code_line,
        python.text,
        python.wide_text,
        python.frame_owner,
    ];
    let sizes = [python.slots, python.sets, python.texts, python.awaits.map_or(1, |awaits| awaits.sets)];
    let awaits = python.awaits.is_none_or(|awaits| {
        let offsets = [awaits.frame_position, awaits.code_first, awaits.frame_state.unsigned_abs()];
        // A resume on a CPU that does not count is not seen, but all must be.
        offsets.iter().all(|offset| *offset < MAX_OFFSET) && options.targets_on == TargetsOn::Any
    });
    let possible = offsets.iter().all(|offset| *offset < MAX_OFFSET)
        && awaits
        && python.frame_argument < 2
        && python.code_marks < 8
        && (1..=options.functions).contains(&python.rows)
        && sizes.iter().all(|size| size.is_power_of_two() && *size <= MAX_CODE_SLOTS);
    if possible {
        Ok(())
    } else {
        Err(GuardError::BadPlan { reason: text("what it says of the Python interpreter is impossible") })
    }
}

/// Constants for the programs.
pub(crate) fn constants(python: &PythonPlan, functions: u32) -> PythonConstants {
    PythonConstants {
        rows: python.rows,
        first_row: functions - python.rows,
        slots: python.slots,
        sets: python.sets,
        texts: python.texts,
        frame_argument: python.frame_argument.into(),
        frame_code: python.frame_code.into(),
        code_marks: python.code_marks.into(),
        frame_owner: python.frame_owner.into(),
        code_file: python.code_file.into(),
        code_name: python.code_name.into(),
        code_flags: python.code_flags.into(),
        code_line: python.code_line.into(),
        text: python.text.into(),
        wide_text: python.wide_text.into(),
        counts_only: python.counts_only,
        awaits: python.awaits.map(|awaits| AwaitConstants {
            sets: awaits.sets,
            frame_position: awaits.frame_position.into(),
            code_first: awaits.code_first.into(),
            frame_state: awaits.frame_state.into(),
            ended: awaits.ended.into(),
        }),
    }
}

/// Returns a test for frames in an account. An open await is not, once its row is reused.
pub(crate) fn counts(loaded: &Loaded, options: &PlanOptions) -> impl Fn(&Frame) -> bool {
    let first_row = options.python.as_ref().map(|python| options.functions - python.rows);
    let slots = loaded.object.maps().find(|found| found.name() == map::CODE_SLOTS);
    move |frame| {
        let Some((nth, first_row)) = frame.await_use.zip(first_row) else { return true };
        let Some(row) = frame.function.checked_sub(first_row) else { return true };
        let slot =
            slots.as_ref().and_then(|slots| slots.lookup(&row.to_ne_bytes(), MapFlags::ANY).ok().flatten());
        let whole =
            slot.and_then(|slot| slot.get(std::mem::offset_of!(CodeSlot, whole)..)?.first_chunk().copied());
        whole.is_none_or(|whole| u64::from_ne_bytes(whole) >> 32 == u64::from(nth))
    }
}
