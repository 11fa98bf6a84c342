//! Effect of one instruction on the known register contents.

use super::trace::Target;
use super::value::{Table, Value};
use crate::decode::{Code, Effect, Memory, Pointer, Width};

/// Most distinct tables of one function.
const TABLES: usize = 4096;

/// Returns the known value of a register.
pub(crate) fn get(state: &[Value], register: u8) -> Value {
    state.get(usize::from(register)).copied().unwrap_or(Value::Unknown)
}

/// Sets the known value of a register.
pub(crate) fn set(state: &mut [Value], register: u8, value: Value) {
    if let Some(place) = state.get_mut(usize::from(register)) {
        *place = value;
    }
}

/// Merges `new` into `known`, and returns true if that changed anything.
pub(crate) fn join(known: &mut [Value], new: &[Value]) -> bool {
    let mut changed = false;
    for (known, new) in known.iter_mut().zip(new) {
        let joined = known.join(*new);
        changed |= joined != *known;
        *known = joined;
    }
    changed
}

fn clobber(state: &mut [Value], mask: u32) {
    for (register, value) in state.iter_mut().enumerate() {
        if u32::try_from(register)
            .ok()
            .and_then(|register| mask.checked_shr(register))
            .is_some_and(|mask| mask & 1 != 0)
        {
            *value = Value::Unknown;
        }
    }
}

/// Applies an instruction to the registers.
pub(crate) fn apply(code: &Code, effect: Effect, state: &mut [Value], tables: &mut Vec<Table>) {
    match effect {
        Effect::Nothing => {}
        Effect::Clobber(mask) => clobber(state, mask),
        Effect::Adjust { register, by, clobbers } => {
            clobber(state, clobbers);
            set(state, register, get(state, register).plus(by));
        }
        Effect::Move { to, from, add } => set(state, to, get(state, from).plus(add)),
        Effect::Set { to, value } => set(state, to, Value::Constant(value)),
        Effect::AlignDown { to, from } => set(state, to, get(state, from).aligned_down()),
        Effect::Sum { to, a, b, shift, extend } => {
            let sum = sum(get(state, a), get(state, b), shift, extend, tables);
            set(state, to, sum);
        }
        Effect::Difference { to, from, less } => {
            let difference = match (get(state, from), get(state, less)) {
                (value, Value::Constant(less)) => match i32::try_from(less) {
                    Ok(less) => value.plus(-less),
                    Err(_) => Value::Unknown,
                },
                // Space for a variable-length array: the size is unknown, but not negative.
                (value, _) if value.is_stack() => value.aligned_down(),
                _ => Value::Unknown,
            };
            set(state, to, difference);
        }
        Effect::Load { to, memory, width } => {
            let value = loaded(memory, width, state, tables);
            set(state, to, value);
        }
        Effect::Extend { to, from, width } => {
            let value = extended(get(state, from), width, tables);
            set(state, to, value);
        }
        Effect::Leave => {
            let (stack_pointer, frame_pointer) = (code.machine.stack_pointer, code.machine.frame_pointer);
            set(state, stack_pointer, get(state, frame_pointer).plus(8));
            set(state, frame_pointer, Value::Unknown);
        }
        Effect::Call => {
            clobber(state, code.machine.call_clobbers);
            // The result.
            set(state, 0, Value::Foreign);
        }
    }
}

fn element(table: Table, tables: &mut Vec<Table>) -> Value {
    let index = tables.iter().position(|known| *known == table).or_else(|| {
        (tables.len() < TABLES).then(|| {
            tables.push(table);
            tables.len() - 1
        })
    });
    index.and_then(|index| u16::try_from(index).ok()).map_or(Value::Unknown, Value::Element)
}

fn known_table(value: Value, tables: &[Table]) -> Option<Table> {
    match value {
        Value::Element(index) => tables.get(usize::from(index)).copied(),
        _ => None,
    }
}

fn sum(a: Value, b: Value, shift: u8, extend: Option<Width>, tables: &mut Vec<Table>) -> Value {
    match (a, b) {
        (Value::Constant(base), entry) if known_table(entry, tables).is_some() => {
            based(base, entry, shift, extend, tables)
        }
        (entry, Value::Constant(base))
            if shift == 0 && extend.is_none() && known_table(entry, tables).is_some() =>
        {
            based(base, entry, 0, None, tables)
        }
        (value, Value::Constant(add)) | (Value::Constant(add), value) if shift == 0 && extend.is_none() => {
            match (value, i32::try_from(add.cast_signed())) {
                (Value::Constant(value), _) => Value::Constant(value.wrapping_add(add)),
                (value, Ok(add)) if value.is_stack() => value.plus(add),
                _ => Value::From(add),
            }
        }
        (Value::Constant(base) | Value::From(base), _) => Value::From(base),
        (_, Value::From(base)) if shift == 0 && extend.is_none() => Value::From(base),
        (Value::Foreign, Value::Foreign) => Value::Foreign,
        _ => Value::Unknown,
    }
}

/// Returns a table entry with its base added.
fn based(base: u64, entry: Value, shift: u8, extend: Option<Width>, tables: &mut Vec<Table>) -> Value {
    let Some(mut table) = known_table(entry, tables) else { return Value::Unknown };
    if table.base.is_some() {
        return Value::Unknown;
    }
    if let Some(extend) = extend {
        if extend.bytes < table.width.bytes {
            return Value::Unknown;
        }
        if extend.bytes == table.width.bytes {
            table.width.signed = extend.signed;
        }
    }
    table.base = Some(base);
    table.shift = shift;
    element(table, tables)
}

fn loaded(memory: Memory, width: Width, state: &[Value], tables: &mut Vec<Table>) -> Value {
    let table = |address: u64| Table { address, width, base: None, shift: 0 };
    let pointer = if width.bytes == 8 { Value::Foreign } else { Value::Unknown };
    let base = match memory.base {
        None => Value::Constant(0),
        Some(base) => get(state, base),
    };
    match base {
        Value::Constant(base) if memory.indexed => {
            element(table(base.wrapping_add(memory.displacement)), tables)
        }
        Value::From(base) => element(table(base.wrapping_add(memory.displacement)), tables),
        // A word at a fixed address, or behind a pointer from outside.
        Value::Constant(_) | Value::Foreign => pointer,
        Value::Unknown | Value::Entry(_) | Value::AtMost(_) | Value::Element(_) => Value::Unknown,
    }
}

fn extended(value: Value, width: Width, tables: &mut Vec<Table>) -> Value {
    match value {
        Value::Constant(value) if width.bytes == 4 && !width.signed => Value::Constant(value & 0xffff_ffff),
        Value::Constant(value) if width.bytes == 4 => {
            Value::Constant(i64::from((value & 0xffff_ffff) as u32 as i32).cast_unsigned())
        }
        Value::Element(_) => match known_table(value, tables) {
            Some(mut table) if table.base.is_none() && table.width.bytes == width.bytes => {
                table.width.signed = width.signed;
                element(table, tables)
            }
            Some(table) if table.base.is_none() && table.width.bytes < width.bytes => value,
            _ => Value::Unknown,
        },
        _ => Value::Unknown,
    }
}

/// Returns the known target of an indirect jump.
pub(crate) fn target(code: &Code, pointer: Pointer, state: &[Value], tables: &mut Vec<Table>) -> Target {
    let value = match pointer {
        Pointer::Register(register) | Pointer::Untracked(register) => get(state, register),
        Pointer::Memory(memory) | Pointer::UntrackedMemory(memory) => {
            loaded(memory, Width { bytes: 8, signed: false }, state, tables)
        }
    };
    match value {
        Value::Element(_) => known_table(value, tables).map_or(Target::Unknown, Target::Table),
        Value::Foreign => Target::Foreign,
        Value::Constant(address) if !code.contains(address) => Target::Foreign,
        _ => Target::Unknown,
    }
}
