//! Protobuf's encoding (<https://protobuf.dev/programming-guides/encoding/>), as far as messages
//! written by hand need it: a field is its number, the wire type of its value, and the value.
//!
//! A schema compiler would add a run-time several times the size of the few messages that edgelat
//! writes (metrics for Prometheus, OTLP) and the one that it reads. Callers pass the field numbers.
use crate::postcard::{Bytes, put, put_signed};

// Wire types.
const VARINT: u64 = 0;
const I64: u64 = 1;
const LEN: u64 = 2;
const I32: u64 = 5;

/// Appends a number that is not negative, or a flag, or an enum.
pub fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    put(out, field << 3 | VARINT);
    put(out, value);
}

/// Appends a number with a sign: `sint32`, `sint64`.
pub fn signed(out: &mut Vec<u8>, field: u64, value: i64) {
    put(out, field << 3 | VARINT);
    put_signed(out, value);
}

/// Appends a number of eight bytes: `fixed64`, and `sfixed64` as its two's complement.
pub fn fixed(out: &mut Vec<u8>, field: u64, value: u64) {
    put(out, field << 3 | I64);
    out.extend(value.to_le_bytes());
}

/// Appends a `double`.
pub fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    fixed(out, field, value.to_bits());
}

/// Appends bytes, a text, a message, or a packed list.
pub fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put(out, field << 3 | LEN);
    put(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a text if there is any.
pub fn text(out: &mut Vec<u8>, field: u64, value: &str) {
    if !value.is_empty() {
        bytes(out, field, value.as_bytes());
    }
}

/// A decoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'b> {
    /// A number of any length.
    Number(u64),
    /// A number of eight bytes.
    Fixed(u64),
    /// A number of four bytes.
    Short(u32),
    /// Bytes, a text, a message, or a packed list.
    Bytes(&'b [u8]),
}

/// The bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no protobuf message")]
pub struct Malformed;

/// The fields of a message, in their order. [`Malformed`] ends the iteration. Nothing is allocated,
/// and no length is trusted.
#[derive(Debug)]
pub struct Fields<'b>(Bytes<'b>);

impl<'b> Fields<'b> {
    /// The fields of these bytes.
    pub fn of(message: &'b [u8]) -> Self {
        Self(Bytes(message))
    }

    fn field(&mut self) -> Option<(u64, Value<'b>)> {
        let key = self.0.number()?;
        let value = match key & 7 {
            VARINT => Value::Number(self.0.number()?),
            I64 => Value::Fixed(u64::from_le_bytes(self.0.take(8)?.try_into().ok()?)),
            LEN => Value::Bytes(self.0.bytes()?),
            I32 => Value::Short(u32::from_le_bytes(self.0.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        // Field numbers begin at 1.
        (key >> 3 > 0).then_some((key >> 3, value))
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Value<'b>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

/// Decodes a packed list of variable-length numbers.
///
/// # Errors
/// If the bytes are no such list.
pub fn packed(list: &[u8]) -> Result<Vec<u64>, Malformed> {
    let (mut bytes, mut numbers) = (Bytes(list), Vec::new());
    while !bytes.0.is_empty() {
        numbers.push(bytes.number().ok_or(Malformed)?);
    }
    Ok(numbers)
}

/// Decodes the sign of a `sint32` or `sint64`.
pub fn unsigned_as_signed(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Vec::new();
        number(&mut message, 1, 300);
        signed(&mut message, 2, -3);
        fixed(&mut message, 3, u64::MAX);
        double(&mut message, 4, 1.5);
        bytes(&mut message, 16, b"ab");
        text(&mut message, 17, "");
        // The first is the example of the specification.
        assert!(message.starts_with(&[0x08, 0xac, 0x02]));
        let fields: Result<Vec<_>, _> = Fields::of(&message).collect();
        let expected = [
            (1, Value::Number(300)),
            (2, Value::Number(5)),
            (3, Value::Fixed(u64::MAX)),
            (4, Value::Fixed(1.5f64.to_bits())),
            (16, Value::Bytes(b"ab")),
        ];
        assert_eq!(fields.as_deref(), Ok(&expected[..]));
        assert_eq!(unsigned_as_signed(5), -3);
        assert_eq!(packed(&[1, 0xac, 0x02]), Ok(vec![1, 300]));
    }

    #[test]
    fn what_is_no_message_is_said_to_be_none_and_ends() {
        for bytes in [
            &b"\x08"[..],
            b"\x0a\x05ab",
            b"\x09\0\0",
            b"\x0b",
            b"\x00\x01",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let fields: Vec<_> = Fields::of(bytes).collect();
            assert_eq!(fields, [Err(Malformed)], "{bytes:x?}");
        }
        assert_eq!(packed(&[0x80]), Err(Malformed));
    }
}
