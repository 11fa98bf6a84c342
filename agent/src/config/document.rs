//! The file's TOML as tables with keys, each with its line.
//!
//! `toml_parser` finds the tokens. The code here builds no more than the configuration needs:
//! tables with headers, keys in them, and values that are scalars or lists of scalars. Any other
//! value is [`Value::Other`], which no key accepts. The rest of TOML (dotted keys, nested tables)
//! becomes a table or key with an unknown name and is refused as unknown.
//!
//! Strings are unquoted here, without the features that only multi-line strings need, and bare
//! words are left to the keys: a third of what the parser would otherwise add to the binary.

use toml_parser::decoder::Encoding;
use toml_parser::parser::{EventReceiver, parse_document};
use toml_parser::{ErrorSink, Expected, ParseError, Source, Span};

use super::error::{Errors, Problem};

/// A table: the text from one header to the next.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// Name in the brackets; empty for keys before the first header, `None` if unreadable.
    pub name: Option<String>,
    /// True for an element of a list: double brackets.
    pub element: bool,
    /// Line of the header, from 1.
    pub line: u32,
    /// Keys in the order of the file; a key can occur more than once.
    pub entries: Vec<Entry<'a>>,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// The key; dotted keys include their dots.
    pub key: String,
    /// Line of the key, from 1.
    pub line: u32,
    /// Value of the key; `None` if unreadable, which has been reported.
    pub item: Option<Item<'a>>,
}

/// A value with its position.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Its line, from 1.
    pub line: u32,
    /// The value as written in the file.
    pub written: &'a str,
    /// The parsed value.
    pub value: Value<'a>,
}

/// Kinds of value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// A quoted string.
    Text(String),
    /// A word without quotes: a number, `true`, `false`, or an invalid value.
    Bare(&'a str),
    /// A list.
    List(Vec<Item<'a>>),
    /// A table in braces, a list in a list.
    Other,
}

/// Reads the tables of a text; the first holds the keys before any header.
///
/// Invalid TOML is reported to `errors`.
pub(super) fn read<'a>(text: &'a str, errors: &mut Errors) -> Vec<Table<'a>> {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut builder = Builder {
        source,
        lines: Lines::of(text),
        tables: vec![Table { name: Some(String::new()), element: false, line: 1, entries: Vec::new() }],
        key: Vec::new(),
        key_line: 1,
        dotted: false,
        lists: 0,
        unclosed: None,
    };
    let mut found = Vec::new();
    let mut lines = Lines::of(text);
    let mut last_line = 0;
    parse_document(&tokens, &mut builder, &mut |error: ParseError| {
        let at = error.unexpected().or(error.context()).map_or(text.len(), |span| span.start());
        let line = lines.line(at);
        // One mistake causes several errors in its line; the first is the most informative.
        if line != last_line && found.len() < Errors::SHOWN {
            found.push((line, in_words(&error)));
        }
        last_line = line;
    });
    // An unterminated list swallows the rest of the file, where everything then looks wrong.
    if let Some(line) = builder.unclosed {
        found.retain(|(other, _)| *other < line);
        found.push((line, "the list that begins here has no end; write ] after its last value".to_owned()));
    }
    for (line, text) in found {
        errors.add(line, Problem::Syntax { text });
    }
    builder.tables
}

/// Formats the parser's message with the token that it expected.
fn in_words(error: &ParseError) -> String {
    let mut text = error.description().to_owned();
    let expected = error.expected().unwrap_or_default();
    for (number, expected) in expected.iter().enumerate() {
        text.push_str(if number == 0 { "; expected " } else { " or " });
        match expected {
            Expected::Literal("\n") => text.push_str("the end of the line"),
            Expected::Literal(literal) => {
                text.push('`');
                text.push_str(literal);
                text.push('`');
            }
            Expected::Description("literal string") => text.push_str("a text in quotes"),
            Expected::Description(description) => text.push_str(description),
            _ => {}
        }
    }
    if expected.is_empty() && !text.contains("; ") {
        text.push_str("; write it as TOML wants it");
    }
    text
}

const NO_END: &str = "the text has no end; write the quote that it begins with after it";
const NO_LINES: &str =
    "a text over several lines is not taken; write it in one, between single quotes of one kind";
const NO_ESCAPE: &str =
    "\\ in double quotes begins an escape; write \\\\ for itself, or single quotes around the text";
const NO_KEY: &str = "the key is missing; write one before the =";
const NO_VALUE: &str = "the value is missing; write one after the =";

/// Returns the text between two quotes.
fn inside(raw: &str, quote: char) -> Option<&str> {
    raw.strip_prefix(quote)?.strip_suffix(quote)
}

/// Resolves escapes. Those for control characters are invalid here: no key accepts such.
fn unescaped(text: &str) -> Result<String, &'static str> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let digits = match after.bytes().next() {
            Some(b'\\' | b'"') => 0,
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            // At the end of the text, a backslash escapes the closing quote.
            None => return Err(NO_END),
            Some(_) => return Err(NO_ESCAPE),
        };
        let (escape, after) = after.split_at_checked(1 + digits).ok_or(NO_ESCAPE)?;
        match digits {
            0 => plain.push_str(escape),
            _ => {
                let digits = &escape[1..];
                // `from_str_radix` would accept a sign before the digits.
                let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let number = hexadecimal.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
                plain.push(number.and_then(char::from_u32).ok_or(NO_ESCAPE)?);
            }
        }
        rest = after;
    }
    plain.push_str(rest);
    Ok(plain)
}

/// Line numbers of ascending offsets, counted in one pass.
#[derive(Debug)]
struct Lines<'a> {
    text: &'a [u8],
    offset: usize,
    line: u32,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self { text: text.as_bytes(), offset: 0, line: 1 }
    }

    /// Returns the line of an offset, from 1.
    fn line(&mut self, offset: usize) -> u32 {
        if offset < self.offset {
            (self.offset, self.line) = (0, 1);
        }
        let between = self.text.get(self.offset..offset).unwrap_or_default();
        self.line += between.iter().filter(|byte| **byte == b'\n').count() as u32;
        self.offset = offset;
        self.line
    }
}

struct Builder<'a> {
    source: Source<'a>,
    lines: Lines<'a>,
    tables: Vec<Table<'a>>,
    /// Parts of the current key or header.
    key: Vec<String>,
    key_line: u32,
    /// The next part belongs to the same key.
    dotted: bool,
    /// Number of open lists.
    lists: u32,
    /// First line of a list that the file does not close.
    unclosed: Option<u32>,
}

impl<'a> Builder<'a> {
    fn raw(&self, span: Span) -> &'a str {
        self.source.input().get(span.start()..span.end()).unwrap_or_default()
    }

    /// Returns the contents of a quoted string; reports what is wrong with it to `error`.
    fn unquoted(&self, span: Span, encoding: Encoding, error: &mut dyn ErrorSink) -> String {
        let raw = self.raw(span);
        let text = match encoding {
            Encoding::LiteralString => inside(raw, '\'').map(str::to_owned).ok_or(NO_END),
            Encoding::BasicString => inside(raw, '"').ok_or(NO_END).and_then(unescaped),
            Encoding::MlLiteralString | Encoding::MlBasicString => Err(NO_LINES),
        };
        text.unwrap_or_else(|reason| {
            error.report_error(ParseError::new(reason).with_unexpected(span));
            String::new()
        })
    }

    fn header(&mut self, span: Span, element: bool) {
        let line = self.lines.line(span.start());
        self.key.clear();
        self.lists = 0;
        self.tables.push(Table { name: None, element, line, entries: Vec::new() });
    }

    fn header_end(&mut self) {
        let name = std::mem::take(&mut self.key).join(".");
        if let Some(table) = self.tables.last_mut() {
            table.name = Some(name);
        }
    }

    /// Adds a value to the last key or to its open list.
    fn put(&mut self, span: Span, value: Value<'a>) {
        let line = self.lines.line(span.start());
        let item = Item { line, written: self.raw(span), value };
        let Some(entry) = self.tables.last_mut().and_then(|table| table.entries.last_mut()) else { return };
        match &mut entry.item {
            Some(Item { value: Value::List(items), .. }) if self.lists > 0 => items.push(item),
            // A second value after a mistake that has been reported.
            Some(_) => {}
            empty => *empty = Some(item),
        }
    }
}

impl EventReceiver for Builder<'_> {
    fn std_table_open(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        self.header(span, false);
    }

    fn std_table_close(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.header_end();
    }

    fn array_table_open(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        self.header(span, true);
    }

    fn array_table_close(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.header_end();
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        if !std::mem::take(&mut self.dotted) {
            self.key.clear();
            self.key_line = self.lines.line(span.start());
        }
        let part = match encoding {
            Some(encoding) => self.unquoted(span, encoding, error),
            None if span.is_empty() => {
                error.report_error(ParseError::new(NO_KEY).with_unexpected(span));
                return;
            }
            None => self.raw(span).to_owned(),
        };
        self.key.push(part);
    }

    fn key_sep(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.dotted = true;
    }

    fn key_val_sep(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        let entry = Entry { key: std::mem::take(&mut self.key).join("."), line: self.key_line, item: None };
        self.lists = 0;
        if let Some(table) = self.tables.last_mut() {
            table.entries.push(entry);
        }
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let value = match encoding {
            Some(encoding) => Value::Text(self.unquoted(span, encoding, error)),
            None if span.is_empty() => {
                return error.report_error(ParseError::new(NO_VALUE).with_unexpected(span));
            }
            None => Value::Bare(self.raw(span)),
        };
        self.put(span, value);
    }

    fn array_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        let value = if self.lists == 0 { Value::List(Vec::new()) } else { Value::Other };
        self.put(span, value);
        self.lists += 1;
        // Contents of nested lists are skipped, so that depth costs no stack.
        self.lists == 1
    }

    fn array_close(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        self.lists = self.lists.saturating_sub(1);
        // The parser closes an unterminated list with an empty span.
        if span.is_empty() {
            let entry = self.tables.last_mut().and_then(|table| table.entries.last_mut());
            self.unclosed = entry.and_then(|entry| entry.item.take()).map(|item| item.line);
        }
    }

    fn inline_table_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        self.put(span, Value::Other);
        false
    }
}
