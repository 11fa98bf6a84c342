//! What can be wrong with a configuration file: all of it at once, each with its line, its key, the reason, and what to
//! write instead.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use edgelat_guard::config_file::ConfigFileError;
use thiserror::Error;

/// Something wrong in the file, without the place.
#[derive(Debug, Error)]
pub enum Problem {
    /// A file that is not taken, whatever is in it.
    #[error(transparent)]
    File(#[from] ConfigFileError),
    /// Bytes that are no text.
    #[error("is not UTF-8 text; save it as such")]
    NotText,
    /// Not TOML.
    #[error("{text}")]
    Syntax {
        /// What the parser says, and what it would rather have seen.
        text: String,
    },
    /// A table that there is not.
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
        /// Where it is first.
        first: u32,
    },
    /// More targets than are measured at once.
    #[error(
        "is one more than the {most} targets that there may be; leave out some, or choose several processes with one"
    )]
    TooManyTargets {
        /// The bound.
        most: usize,
    },
    /// A key that there is not.
    #[error("there is no such key; {}", did_you_mean(near, known))]
    UnknownKey {
        /// The key that looks most like it.
        near: Option<String>,
        /// All keys of the table.
        known: Vec<&'static str>,
    },
    /// A key a second time.
    #[error("is set in line {first} already; leave one of them")]
    KeyTwice {
        /// Where it is first.
        first: u32,
    },
    /// A value that the key cannot have.
    #[error("cannot be {given}; write {wanted}")]
    Value {
        /// How it is written in the file.
        given: String,
        /// What it can be.
        wanted: String,
    },
    /// More values than are taken.
    #[error("has more than {most} values; leave out some, or use globs")]
    TooMany {
        /// The bound.
        most: usize,
    },
    /// A key that has to be there.
    #[error("is missing; write {wanted}")]
    Missing {
        /// What to write.
        wanted: &'static str,
    },
    /// A name that another target has.
    #[error("is the name of the target in line {first} too; give each its own")]
    NameTwice {
        /// Where the other is.
        first: u32,
    },
    /// Nothing says which processes are meant.
    #[error("nothing says which processes are meant; write one of {choice}")]
    NoSelector {
        /// The keys that can say it.
        choice: String,
    },
    /// Two keys say which processes are meant.
    #[error("cannot stand beside {other} of line {line}; leave one of them, or make two targets")]
    TwoSelectors {
        /// The other key.
        other: &'static str,
        /// Its line.
        line: u32,
    },
    /// A pattern that is none.
    #[error(transparent)]
    Pattern(#[from] edgelat_image::PatternError),
}

fn did_you_mean(near: &Option<String>, known: &[&str]) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the keys are {}", known.join(", ")),
    }
}

/// A problem with its place.
#[derive(Debug)]
struct ConfigError {
    /// Line in the file, from 1; `None` where it is about the file as such.
    line: Option<u32>,
    /// `agent`, `target "NAME"`, or nothing.
    table: String,
    /// The key, or nothing.
    key: String,
    /// What is wrong and what to write.
    problem: Problem,
}

/// Everything that is wrong with a file.
#[derive(Debug)]
pub struct Errors {
    file: PathBuf,
    /// The first ones by line.
    found: Vec<ConfigError>,
    /// How many there are besides.
    more: usize,
    /// Parts could not be read, so that what is not there may only be hidden.
    torn: bool,
}

impl Errors {
    /// Errors that are shown; whoever has more repairs these first.
    pub(super) const SHOWN: usize = 20;

    /// None yet.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file, found: Vec::new(), more: 0, torn: false }
    }

    /// Something about the file as such.
    pub(super) fn about_file(file: &Path, error: ConfigFileError) -> Self {
        let (table, key) = (String::new(), String::new());
        let error = ConfigError { line: None, table, key, problem: error.into() };
        Self { found: vec![error], ..Self::of(file.to_owned()) }
    }

    /// Something in a line.
    pub(super) fn add(&mut self, line: u32, problem: Problem) {
        self.torn |= matches!(problem, Problem::Syntax { .. });
        self.add_at(line, "", "", problem);
    }

    /// Something about a key of a table, or about the table where `key` is empty.
    pub(super) fn add_at(&mut self, line: u32, table: &str, key: &str, problem: Problem) {
        let (table, key) = (table.to_owned(), key.to_owned());
        self.insert(ConfigError { line: Some(line), table, key, problem });
    }

    fn insert(&mut self, error: ConfigError) {
        // What a line that is no TOML seems to say is not what was meant.
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

    /// Whether something that is not found may be in a part that could not be read.
    pub(super) fn torn(&self) -> bool {
        self.torn
    }

    /// Whether nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether the file is there and the caller may not read it.
    pub fn not_permitted(&self) -> bool {
        let denied = |problem: &Problem| matches!(problem, Problem::File(error) if error.not_permitted());
        self.found.iter().any(|error| denied(&error.problem))
    }

    /// An error with the place where it is: `FILE:LINE: target "NAME": KEY: REASON; NEXT STEP`.
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

/// A line for each error.
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
