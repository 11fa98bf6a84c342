//! Entry kinds of a unit: `.debug_abbrev`, DWARF 5 section 7.5.3.

use super::cursor::Cursor;

/// Kinds of entries in one unit. Compilers number them from 1 on, and need some hundred.
const KINDS: u64 = 1 << 16;

/// One kind of entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Kind {
    /// `DW_TAG_*`.
    pub(super) tag: u64,
    /// True if child entries follow.
    pub(super) children: bool,
    /// Attribute (`DW_AT_*`) and form of each value.
    pub(super) attributes: Vec<(u64, u64)>,
}

/// The kinds of entries of a unit, by number.
#[derive(Debug, Default)]
pub(super) struct Kinds(Vec<Option<Kind>>);

impl Kinds {
    /// Reads the kinds at `at`, and subtracts attributes from `effort`. `None` if they are damaged.
    pub(super) fn read(section: &[u8], at: u64, effort: &mut u64) -> Option<Self> {
        let mut cursor = Cursor::new(section, at)?;
        let mut kinds = Vec::new();
        loop {
            let number = cursor.leb128()?;
            if number == 0 {
                return Some(Self(kinds));
            }
            let tag = cursor.leb128()?;
            let mut kind = Kind { tag, children: cursor.number(1)? != 0, attributes: Vec::new() };
            loop {
                *effort = effort.checked_sub(1)?;
                let (attribute, form) = (cursor.leb128()?, cursor.leb128()?);
                // implicit_const: its value stands here.
                if form == 0x21 {
                    cursor.leb128()?;
                }
                if (attribute, form) == (0, 0) {
                    break;
                }
                kind.attributes.push((attribute, form));
            }
            let at = usize::try_from(number).ok().filter(|_| number < KINDS)?;
            if at >= kinds.len() {
                *effort = effort.checked_sub((at - kinds.len()) as u64)?;
                kinds.resize_with(at + 1, || None);
            }
            *kinds.get_mut(at)? = Some(kind);
        }
    }

    /// Returns the kind with a number.
    pub(super) fn get(&self, number: u64) -> Option<&Kind> {
        self.0.get(usize::try_from(number).ok()?)?.as_ref()
    }
}
