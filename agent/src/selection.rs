//! Which functions somebody wants: native ones and Go's by [`Pattern`], Python's by [`PythonPattern`].

use edgelat_image::{Pattern, PatternError, PythonPattern};

/// What was asked for, in the order in which it was written, divided by the way it is found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Functions that have symbols.
    pub functions: Vec<Pattern>,
    /// Functions of Python.
    pub python: Vec<PythonPattern>,
}

impl Selection {
    /// Adds what one text asks for: `py:...` is of Python, all else has symbols.
    ///
    /// # Errors
    /// A [`PatternError`] that says what to write instead.
    pub fn add(&mut self, text: &str) -> Result<(), PatternError> {
        match text.strip_prefix(PythonPattern::PREFIX) {
            Some(rest) => self.python.push(PythonPattern::parse(rest)?),
            None => self.functions.push(Pattern::parse(text)?),
        }
        Ok(())
    }
}
