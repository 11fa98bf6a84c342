//! The identity of a build.

use std::fmt;

use crate::limits::BUILD_ID_BYTES;

/// The bytes of the linker's note `NT_GNU_BUILD_ID`: equal bytes, equal build.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BuildId {
    bytes: [u8; BUILD_ID_BYTES],
    length: u8,
}

impl BuildId {
    /// Makes a build-id of these bytes; `None` unless there are 1 to [`BUILD_ID_BYTES`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut id = Self { bytes: [0; BUILD_ID_BYTES], length: u8::try_from(bytes.len()).ok()? };
        if bytes.is_empty() {
            return None;
        }
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(id)
    }

    /// Returns the bytes, 1 to [`BUILD_ID_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Returns true if the hexadecimal form begins with `digits` (any case).
    #[must_use]
    pub fn begins_with(&self, digits: &str) -> bool {
        let hex = self.to_string();
        hex.get(..digits.len()).is_some_and(|start| start.eq_ignore_ascii_case(digits))
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_shows_as_hex_and_is_found_by_its_first_digits() {
        let id = BuildId::new(&[0x01, 0xab, 0xcd, 0xef]).unwrap();
        assert_eq!(id.to_string(), "01abcdef");
        assert!(id.begins_with("01ab"));
        assert!(id.begins_with("01ABC"));
        assert!(id.begins_with("01abcdef"));
        assert!(!id.begins_with("01abcdef0"));
        assert!(!id.begins_with("1ab"));
    }

    #[test]
    fn an_empty_or_overlong_build_id_is_none() {
        assert_eq!(BuildId::new(&[]), None);
        assert_eq!(BuildId::new(&[1; BUILD_ID_BYTES + 1]), None);
        assert!(BuildId::new(&[1; BUILD_ID_BYTES]).is_some());
        assert_eq!(BuildId::new(&[1; 300]), None);
    }
}
