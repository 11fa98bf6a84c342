//! Sequential reading of numbers.

/// A position in a byte slice. Reads beyond the end give `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    /// Returns the position `at` bytes behind the start, if it exists.
    pub(super) fn new(bytes: &'b [u8], at: u64) -> Option<Self> {
        let at = usize::try_from(at).ok().filter(|at| *at <= bytes.len())?;
        Some(Self { bytes, at })
    }

    /// Returns the number of bytes before it.
    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    /// Returns this position in bytes that end at `end`.
    pub(super) fn until(self, end: u64) -> Option<Self> {
        let end = usize::try_from(end).ok()?;
        Some(Self { bytes: self.bytes.get(..end).filter(|bytes| self.at <= bytes.len())?, at: self.at })
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Returns the next bytes.
    pub(super) fn take(&mut self, count: u64) -> Option<&'b [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// Reads a little-endian number of up to eight bytes.
    pub(super) fn number(&mut self, bytes: u64) -> Option<u64> {
        let mut number = [0; 8];
        let taken = self.take(bytes)?;
        number.get_mut(..taken.len())?.copy_from_slice(taken);
        Some(u64::from_le_bytes(number))
    }

    /// Reads an unsigned LEB128 number, without bits beyond the 64th. A signed one has equal
    /// length.
    pub(super) fn leb128(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0u32.. {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7f).checked_shl(place * 7).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(number);
            }
            if place == 9 {
                break;
            }
        }
        None
    }

    /// Reads a string up to its NUL.
    pub(super) fn string(&mut self) -> Option<&'b [u8]> {
        let length = self.bytes.get(self.at..)?.iter().position(|byte| *byte == 0)?;
        let string = self.take(length as u64)?;
        self.take(1)?;
        Some(string)
    }
}
