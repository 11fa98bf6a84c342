//! Errors in a configuration file: all of them at once, each with its line, its key, the reason and
//! the correction.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use edgelat_guard::config_file::ConfigFileError;
use thiserror::Error;

/// An error in the file, without its position.
#[derive(Debug, Error)]
pub enum Problem {
    /// A file that is refused whatever its contents.
    #[error(transparent)]
    File(#[from] ConfigFileError),
    /// Bytes that are not text.
    #[error("is not UTF-8 text; save it as such")]
    NotText,
    /// Invalid TOML.
    #[error("{text}")]
    Syntax {
        /// The parser's message with the token that it expected.
        text: String,
    },
    /// An unknown table.
    #[error("there is no table {given}; write {wanted}")]
    UnknownTable {
        /// Its header.
        given: String,
        /// The header to write.
        wanted: &'static str,
    },
    /// Keys before the first header.
    #[error("stands before the first table; write it below [agent], [spool], [upload] or [[target]]")]
    NoTable,
    /// `[agent]` a second time.
    #[error("is there already, in line {first}; write its keys there")]
    TableTwice {
        /// Line of the first table.
        first: u32,
    },
    /// More targets than the agent measures at once.
    #[error(
        "is one more than the {most} targets that there may be; leave out some, or choose several processes with one"
    )]
    TooManyTargets {
        /// The bound.
        most: usize,
    },
    /// An unknown key.
    #[error("there is no such key; {}", did_you_mean(near, known))]
    UnknownKey {
        /// The most similar key.
        near: Option<String>,
        /// All keys of the table.
        known: Vec<&'static str>,
    },
    /// A key that is set twice.
    #[error("is set in line {first} already; leave one of them")]
    KeyTwice {
        /// Line of the first one.
        first: u32,
    },
    /// An invalid value.
    #[error("cannot be {given}; write {wanted}")]
    Value {
        /// The value as written in the file.
        given: String,
        /// Description of the valid values.
        wanted: String,
    },
    /// More values than are accepted.
    #[error("has more than {most} values; leave out some, or use globs")]
    TooMany {
        /// The bound.
        most: usize,
    },
    /// A required key that is missing.
    #[error("is missing; write {wanted}")]
    Missing {
        /// Text to write instead.
        wanted: &'static str,
    },
    /// A name that another target already has.
    #[error("is the name of the target in line {first} too; give each its own")]
    NameTwice {
        /// Line of the other target.
        first: u32,
    },
    /// A target without a selector.
    #[error("nothing says which processes are meant; write one of {choice}")]
    NoSelector {
        /// The selector keys.
        choice: String,
    },
    /// A target with two selectors.
    #[error("cannot stand beside {other} of line {line}; leave one of them, or make two targets")]
    TwoSelectors {
        /// The other key.
        other: &'static str,
        /// Its line.
        line: u32,
    },
    /// An invalid pattern.
    #[error(transparent)]
    Pattern(#[from] edgelat_image::PatternError),
}

fn did_you_mean(near: &Option<String>, known: &[&str]) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the keys are {}", known.join(", ")),
    }
}

/// An error with its position.
#[derive(Debug)]
struct ConfigError {
    /// Line in the file, from 1; `None` if the error concerns the file as a whole.
    line: Option<u32>,
    /// `agent`, `target "NAME"`, or nothing.
    table: String,
    /// The key, or nothing.
    key: String,
    /// The error and its correction.
    problem: Problem,
}

/// All errors in a file.
#[derive(Debug)]
pub struct Errors {
    file: PathBuf,
    /// The first errors, by line.
    found: Vec<ConfigError>,
    /// Number of further errors.
    more: usize,
    /// Parts are unreadable, so that a missing key may be hidden in them.
    torn: bool,
}

impl Errors {
    /// Maximum number of errors shown; a user with more of them repairs these first.
    pub(super) const SHOWN: usize = 20;

    /// Creates an empty list of errors.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file, found: Vec::new(), more: 0, torn: false }
    }

    /// Creates a list with one error about the file as a whole.
    pub(super) fn about_file(file: &Path, error: ConfigFileError) -> Self {
        let (table, key) = (String::new(), String::new());
        let error = ConfigError { line: None, table, key, problem: error.into() };
        Self { found: vec![error], ..Self::of(file.to_owned()) }
    }

    /// Adds an error in a line.
    pub(super) fn add(&mut self, line: u32, problem: Problem) {
        self.torn |= matches!(problem, Problem::Syntax { .. });
        self.add_at(line, "", "", problem);
    }

    /// Adds an error about a key of a table, or about the table if `key` is empty.
    pub(super) fn add_at(&mut self, line: u32, table: &str, key: &str, problem: Problem) {
        let (table, key) = (table.to_owned(), key.to_owned());
        self.insert(ConfigError { line: Some(line), table, key, problem });
    }

    fn insert(&mut self, error: ConfigError) {
        // The apparent meaning of a line that is invalid TOML is not the intended one.
        let torn = |other: &ConfigError| matches!(other.problem, Problem::Syntax { .. });
        if error.line.is_some() && self.found.iter().any(|other| other.line == error.line && torn(other)) {
            return;
        }
        let at = self.found.partition_point(|other| other.line <= error.line);
        self.found.insert(at, error);
        if self.found.len() > Self::SHOWN {
            self.found.pop();
            self.more += 1;
        }
    }

    /// Returns true if a missing item may be in an unreadable part.
    pub(super) fn torn(&self) -> bool {
        self.torn
    }

    /// Returns true if there are no errors.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns true if the file exists but the caller may not read it.
    pub fn not_permitted(&self) -> bool {
        let denied = |problem: &Problem| matches!(problem, Problem::File(error) if error.not_permitted());
        self.found.iter().any(|error| denied(&error.problem))
    }

    /// Formats an error with its position: `FILE:LINE: target "NAME": KEY: REASON; NEXT STEP`.
    fn text(&self, error: &ConfigError) -> String {
        let mut text = self.file.display().to_string();
        if let Some(line) = error.line {
            text.push_str(&format!(":{line}"));
        }
        for place in [&error.table, &error.key].into_iter().filter(|place| !place.is_empty()) {
            text.push_str(": ");
            text.push_str(place);
        }
        format!("{text}: {}", error.problem)
    }
}

/// Prints one line per error.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.found.iter().map(|error| self.text(error)).collect();
        f.write_str(&texts.join("\n"))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n{}: {more} more; correct these first", self.file.display()),
        }
    }
}

impl std::error::Error for Errors {}
