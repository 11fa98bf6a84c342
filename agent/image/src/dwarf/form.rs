//! Values of attributes: DWARF 5 section 7.5.6 (forms), and those of GNU before it.

use super::cursor::Cursor;

/// Encoding of the numbers of a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoding {
    /// DWARF's version.
    pub(super) version: u64,
    /// Bytes of an address.
    pub(super) address_bytes: u64,
    /// Bytes of an offset.
    pub(super) offset_bytes: u64,
    /// Offset of the unit in `.debug_info`: most references count from there.
    pub(super) start: u64,
}

/// A value, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'b> {
    /// An address.
    Address(u64),
    /// An index into `.debug_addr`.
    AddressIndex(u64),
    /// Offset of an entry in `.debug_info`.
    Entry(u64),
    /// A string.
    Text(&'b [u8]),
    /// Offset of a string in `.debug_str`.
    String(u64),
    /// Offset of a string in `.debug_line_str`.
    LineString(u64),
    /// An index into `.debug_str_offsets`.
    StringIndex(u64),
    /// An offset into another section.
    Offset(u64),
    /// A value in another file, or a signature.
    Elsewhere,
    /// Any other value.
    Other,
}

/// Reads a form's value and moves behind it. `None` if the form is unknown or the value truncated.
pub(super) fn read<'b>(form: u64, cursor: &mut Cursor<'b>, unit: &Encoding) -> Option<Value<'b>> {
    let other = |taken: Option<&[u8]>| taken.map(|_| Value::Other);
    let local = |offset: Option<u64>| Some(Value::Entry(unit.start.checked_add(offset?)?));
    Some(match form {
        0x01 => Value::Address(cursor.number(unit.address_bytes)?),
        // block1, block2, block4, block and exprloc.
        0x0a | 0x03 | 0x04 => {
            let length = cursor.number(match form {
                0x0a => 1,
                0x03 => 2,
                _ => 4,
            })?;
            other(cursor.take(length))?
        }
        0x09 | 0x18 => {
            let length = cursor.leb128()?;
            other(cursor.take(length))?
        }
        // data1, flag, data2, data4, data8, data16.
        0x0b | 0x0c => other(cursor.take(1))?,
        0x05 => other(cursor.take(2))?,
        0x06 => other(cursor.take(4))?,
        0x07 => other(cursor.take(8))?,
        0x1e => other(cursor.take(16))?,
        // sdata, udata, loclistx, rnglistx.
        0x0d | 0x0f | 0x22 | 0x23 => {
            cursor.leb128()?;
            Value::Other
        }
        0x08 => Value::Text(cursor.string()?),
        0x0e => Value::String(cursor.number(unit.offset_bytes)?),
        0x1f => Value::LineString(cursor.number(unit.offset_bytes)?),
        0x1a | 0x1f02 => Value::StringIndex(cursor.leb128()?),
        0x25..=0x28 => Value::StringIndex(cursor.number(form - 0x24)?),
        0x1b | 0x1f01 => Value::AddressIndex(cursor.leb128()?),
        0x29..=0x2c => Value::AddressIndex(cursor.number(form - 0x28)?),
        // ref_addr: as wide as an address in DWARF 2.
        0x10 => Value::Entry(cursor.number(if unit.version == 2 {
            unit.address_bytes
        } else {
            unit.offset_bytes
        })?),
        0x11 => local(cursor.number(1))?,
        0x12 => local(cursor.number(2))?,
        0x13 => local(cursor.number(4))?,
        0x14 => local(cursor.number(8))?,
        0x15 => local(cursor.leb128())?,
        0x17 => Value::Offset(cursor.number(unit.offset_bytes)?),
        // flag_present, implicit_const: no bytes.
        0x19 | 0x21 => Value::Other,
        // ref_sup4, ref_sup8, ref_sig8, strp_sup and GNU's ref_alt and strp_alt.
        0x1c => cursor.take(4).map(|_| Value::Elsewhere)?,
        0x20 | 0x24 => cursor.take(8).map(|_| Value::Elsewhere)?,
        0x1d | 0x1f20 | 0x1f21 => cursor.take(unit.offset_bytes).map(|_| Value::Elsewhere)?,
        // indirect: the form stands with the value; it is never indirect again.
        0x16 => match cursor.leb128()? {
            0x16 | 0x21 => return None,
            form => read(form, cursor, unit)?,
        },
        _ => return None,
    })
}
