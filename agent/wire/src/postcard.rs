//! Numbers, texts and lists as postcard writes them (<https://postcard.jamesmunns.com/wire-format>).
//!
//! The format of a payload is postcard's. It is implemented here instead of derived, because the
//! reader must not trust its input: a length is never a reason to allocate, every list ends with
//! its bytes, and a number out of range is invalid. `agent/spool/tests/postcard.rs` compares it
//! with the output of the postcard crate for the same structures.

/// Bytes of the longest number.
const VARINT_BYTES: usize = 10;

/// Appends a number, seven bits a byte, the lowest first.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a number with a sign, zig-zag: 0, -1, 1, -2 are 0, 1, 2, 3.
pub fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Appends a text or bytes, after their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a number that may be missing.
pub fn put_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(number.is_some().into());
    if let Some(number) = number {
        put(out, number);
    }
}

/// The unread rest of a payload.
#[derive(Debug)]
pub struct Bytes<'b>(pub &'b [u8]);

impl<'b> Bytes<'b> {
    /// Takes the next `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(taken)
    }

    /// Reads a number.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for place in 0..VARINT_BYTES {
            let byte = *self.take(1)?.first()?;
            // The tenth byte holds the last bit of 64.
            if place + 1 == VARINT_BYTES && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Reads a 32-bit number.
    pub fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// Reads a number with a sign.
    pub fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// Reads a number of elements of at least one byte each: never more than there are bytes.
    pub fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|length| *length <= self.0.len())
    }

    /// Reads bytes after their length.
    pub fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    /// Reads a text of at most `most` bytes.
    pub fn text(&mut self, most: usize) -> Option<String> {
        let text = std::str::from_utf8(self.bytes()?).ok()?;
        (text.len() <= most).then(|| text.to_owned())
    }

    /// Reads a flag.
    pub fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// Reads a number that may be missing.
    pub fn option(&mut self) -> Option<Option<u64>> {
        match self.flag()? {
            true => self.number().map(Some),
            false => Some(None),
        }
    }

    /// Reads sixteen bytes without a length.
    pub fn id(&mut self) -> Option<[u8; 16]> {
        self.take(16)?.try_into().ok()
    }
}
