//! Selected functions: native and Go functions by [`Pattern`], Python's by [`PythonPattern`].

use edgelat_image::{Pattern, PatternError, PythonPattern};

/// Requested functions in the order of the request, grouped by the method that finds them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Functions that have symbols.
    pub functions: Vec<Pattern>,
    /// Functions of Python.
    pub python: Vec<PythonPattern>,
}

impl Selection {
    /// Adds the function pattern in one text: `py:...` means Python, all else has symbols.
    ///
    /// # Errors
    /// A [`PatternError`] with the correction.
    pub fn add(&mut self, text: &str) -> Result<(), PatternError> {
        match text.strip_prefix(PythonPattern::PREFIX) {
            Some(rest) => self.python.push(PythonPattern::parse(rest)?),
            None => self.functions.push(Pattern::parse(text)?),
        }
        Ok(())
    }
}
