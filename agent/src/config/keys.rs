//! The keys of a table: each is requested once by its name, and all others are unknown.

use std::{fmt::Write as _, ops::RangeInclusive, path::PathBuf, time::Duration};

use edgelat_image::nearest;

use super::document::{Entry, Item, Value};
use super::error::{Errors, Problem};
use crate::values;

/// Maximum number of values in a list.
pub(super) const LIST: usize = 1_024;

/// Longest path in bytes, without the final 0: PATH_MAX of include/uapi/linux/limits.h.
const PATH_BYTES: usize = 4_095;

/// Maximum number of characters of a value in an error.
const SHOWN: usize = 60;

/// The keys of one table, with the list that collects their errors.
pub(super) struct Keys<'d, 'e> {
    entries: Vec<&'d Entry<'d>>,
    asked: Vec<&'static str>,
    line: u32,
    table: String,
    errors: &'e mut Errors,
}

impl<'d, 'e> Keys<'d, 'e> {
    /// Takes the keys of the table that begins in `line`; `table` names it in errors.
    pub fn new(line: u32, entries: &'d [Entry<'d>], table: String, errors: &'e mut Errors) -> Self {
        let mut keys = Self { entries: Vec::new(), asked: Vec::new(), line, table, errors };
        for entry in entries {
            match keys.entries.iter().find(|other| other.key == entry.key) {
                Some(other) => {
                    let problem = Problem::KeyTwice { first: other.line };
                    keys.wrong(entry.line, &entry.key, problem);
                }
                None => keys.entries.push(entry),
            }
        }
        keys
    }

    /// Reports an error in a key.
    pub fn wrong(&mut self, line: u32, key: &str, problem: Problem) {
        self.errors.add_at(line, &self.table, key, problem);
    }

    /// Reports that a key is missing, unless it may be hidden in an unreadable part.
    pub fn missing(&mut self, key: &str, problem: Problem) {
        if !self.errors.torn() {
            self.errors.add_at(self.line, &self.table, key, problem);
        }
    }

    /// Returns the line of a key, if present.
    pub fn line_of(&mut self, key: &'static str) -> Option<u32> {
        self.entry(key).map(|entry| entry.line)
    }

    fn entry(&mut self, key: &'static str) -> Option<&'d Entry<'d>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.entries.iter().copied().find(|entry| entry.key == key)
    }

    /// Returns a value converted by `read`; `None` if missing or wrong. `wanted` describes it.
    pub fn get<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&Value<'d>) -> Option<T>,
    ) -> Option<T> {
        let item = self.entry(key)?.item.as_ref()?;
        let value = read(&item.value);
        if value.is_none() {
            self.cannot_be(key, item, wanted);
        }
        value
    }

    /// Reports the valid values of a key, or of one value of its list.
    pub fn cannot_be(&mut self, key: &str, item: &Item<'_>, wanted: &str) {
        let given = match &item.value {
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            _ => item.written.chars().take_while(|character| !character.is_control()).take(SHOWN).collect(),
        };
        self.wrong(item.line, key, Problem::Value { given, wanted: wanted.to_owned() });
    }

    /// Returns the values of a list of strings, converted by `read`; empty if missing.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        mut read: impl FnMut(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for item in self.items(key, wanted) {
            match text(&item.value).and_then(&mut read) {
                Some(value) => values.push(value),
                None => self.cannot_be(key, item, wanted),
            }
        }
        values
    }

    /// Returns the values of a list; empty if missing.
    pub fn items(&mut self, key: &'static str, wanted: &str) -> &'d [Item<'d>] {
        match self.entry(key).and_then(|entry| entry.item.as_ref()) {
            Some(Item { value: Value::List(items), .. }) if items.len() <= LIST => return items,
            Some(Item { value: Value::List(_), line, .. }) => {
                self.wrong(*line, key, Problem::TooMany { most: LIST })
            }
            Some(item) => self.cannot_be(key, item, wanted),
            None => {}
        }
        &[]
    }

    /// Returns `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let flag = self.get(key, "true or false", |value| match value {
            Value::Bare("true") => Some(true),
            Value::Bare("false") => Some(false),
            _ => None,
        });
        flag.unwrap_or(default)
    }

    /// Returns the meaning of one of a few words; the first of the table is the default.
    pub fn word<T: Copy>(&mut self, key: &'static str, table: &[(&'static str, T)]) -> Option<T> {
        let wanted = alternatives(table.iter().map(|(word, _)| *word));
        self.get(key, &wanted, |value| values::meaning(table, text(value)?))
    }

    /// Returns a time with its unit.
    pub fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let wanted = format!(
            "a time from \"{}\" to \"{}\", such as \"{}\"",
            values::in_words(*range.start()),
            values::in_words(*range.end()),
            values::in_words(default)
        );
        let read = |value: &Value<'_>| values::duration(text(value)?).filter(|time| range.contains(time));
        self.get(key, &wanted, read).unwrap_or(default)
    }

    /// Returns a percentage of one CPU.
    pub fn percent(&mut self, key: &'static str, range: RangeInclusive<f64>, default: f64) -> f64 {
        let wanted =
            format!("percent of one CPU from {} to {}, such as {default:?}", range.start(), range.end());
        let read =
            |value: &Value<'_>| values::decimal(&number(value)?).filter(|percent| range.contains(percent));
        self.get(key, &wanted, read).unwrap_or(default)
    }

    /// Returns a whole number.
    pub fn number(&mut self, key: &'static str, wanted: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.get(key, wanted, |value| whole(value).filter(|number| range.contains(number)))
    }

    /// Returns a size in bytes.
    pub fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>, example: &str) -> Option<u64> {
        let size = |bytes: u64| match bytes.is_multiple_of(1 << 20) {
            true => format!("{}MiB", bytes >> 20),
            false => format!("{}KiB", bytes >> 10),
        };
        let plain = values::bytes(example).unwrap_or_default();
        let (least, most) = (size(*range.start()), size(*range.end()));
        let wanted = format!("bytes from \"{least}\" to \"{most}\", such as \"{example}\" or {plain}");
        self.get(key, &wanted, |value| {
            let bytes = whole(value).or_else(|| values::bytes(text(value)?));
            bytes.filter(|bytes| range.contains(bytes))
        })
    }

    /// Returns an absolute path, if present.
    pub fn path_if(&mut self, key: &'static str, example: &str) -> Option<PathBuf> {
        let wanted = format!("an absolute path, such as \"{example}\"");
        self.get(key, &wanted, |value| absolute(text(value)?))
    }

    /// Returns an absolute path.
    pub fn path(&mut self, key: &'static str, default: &str) -> PathBuf {
        self.path_if(key, default).unwrap_or_else(|| PathBuf::from(default))
    }

    /// Returns a list of absolute paths.
    pub fn paths(&mut self, key: &'static str, example: &str) -> Vec<PathBuf> {
        self.list(key, &format!("a list of absolute paths, such as [\"{example}\"]"), absolute)
    }

    /// Reports the keys that were never requested.
    pub fn finish(mut self) {
        for entry in std::mem::take(&mut self.entries) {
            if !self.asked.contains(&entry.key.as_str()) {
                let near = nearest(&entry.key, &self.asked);
                let problem = Problem::UnknownKey { near, known: self.asked.clone() };
                self.wrong(entry.line, &entry.key, problem);
            }
        }
    }
}

/// Returns the text of a string value without control characters.
pub(super) fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::Text(text) if !text.contains(char::is_control) => Some(text),
        _ => None,
    }
}

/// Returns a whole, non-negative number.
pub(super) fn whole(value: &Value<'_>) -> Option<u64> {
    values::digits(&number(value)?)
}

/// Returns a possible decimal number without the underscores between its digits.
///
/// TOML has no numbers with leading zeros.
fn number(value: &Value<'_>) -> Option<String> {
    let Value::Bare(word) = value else { return None };
    let starts_twice = matches!(word.as_bytes(), [b'0', b'0'..=b'9' | b'_', ..]);
    (!starts_twice).then(|| word.replace('_', ""))
}

fn absolute(text: &str) -> Option<PathBuf> {
    let fits = text.starts_with('/') && text.len() <= PATH_BYTES && !text.contains(char::is_control);
    fits.then(|| PathBuf::from(text))
}

/// Formats alternatives: `"a", "b" or "c"`.
pub(super) fn alternatives<'a>(words: impl ExactSizeIterator<Item = &'a str>) -> String {
    let last = words.len().saturating_sub(1);
    let mut text = String::new();
    for (number, word) in words.enumerate() {
        let before = match number {
            0 => "",
            number if number == last => " or ",
            _ => ", ",
        };
        // A write to a String cannot fail.
        let _ = write!(text, "{before}\"{word}\"");
    }
    text
}
