//! The TOML of the file as tables with keys, and each with its line.
//!
//! `toml_parser` finds the pieces; what is built from them here is no more than the configuration needs: tables with
//! headers, keys in them, and values that are scalars or lists of scalars. A value of another kind is
//! [`Value::Other`], which no key takes. Everything else of TOML (dotted keys, tables in tables) comes out as a table
//! or a key of a name that nobody knows, and is refused as such.

use std::borrow::Cow;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, parse_document};
use toml_parser::{ErrorSink, Expected, ParseError, Raw, Source, Span};

use super::error::{Errors, Problem};

/// A table: what stands from one header to the next.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// What stands in the brackets; nothing for the keys before the first header, `None` where it cannot be read.
    pub name: Option<String>,
    /// It is an element of a list: double brackets.
    pub element: bool,
    /// Line of the header, from 1.
    pub line: u32,
    /// Its keys in the order of the file; one can be there more than once.
    pub entries: Vec<Entry<'a>>,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// The key; a dotted one with its dots.
    pub key: String,
    /// Line of the key, from 1.
    pub line: u32,
    /// Its value; `None` where it cannot be read, which has been said then.
    pub item: Option<Item<'a>>,
}

/// A value where it stands.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Its line, from 1.
    pub line: u32,
    /// How it is written in the file.
    pub written: &'a str,
    /// What it is.
    pub value: Value<'a>,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// A string of any kind.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction or an exponent, as digits.
    Decimal(String),
    /// `true` or `false`.
    Flag(bool),
    /// A list.
    List(Vec<Item<'a>>),
    /// A time, a table in braces, a list in a list, a whole number of more than 64 bits, a word without quotes.
    Other,
}

/// Reads the tables of a text; the first has the keys before the first header. What is no TOML goes to `errors`.
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
        // One mistake makes several errors of its line, and the first tells most.
        if line != last_line && found.len() < Errors::SHOWN {
            found.push((line, in_words(&error)));
        }
        last_line = line;
    });
    // A list without its end swallows the rest of the file, and none of it looks right in there.
    if let Some(line) = builder.unclosed {
        found.retain(|(other, _)| *other < line);
        found.push((line, "the list that begins here has no end; write ] after its last value".to_owned()));
    }
    for (line, text) in found {
        errors.add(line, Problem::Syntax { text });
    }
    builder.tables
}

/// What the parser says, and what it would rather have seen.
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
    if expected.is_empty() {
        text.push_str("; write it as TOML wants it");
    }
    text
}

/// Lines of ascending offsets, counted once.
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

    /// The line of an offset, from 1.
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
    /// Parts of the key or header that is being read.
    key: Vec<String>,
    key_line: u32,
    /// The next part belongs to the same key.
    dotted: bool,
    /// Lists that are open.
    lists: u32,
    /// The line where a list begins that the file does not end.
    unclosed: Option<u32>,
}

impl<'a> Builder<'a> {
    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'a> {
        let text = self.source.input().get(span.start()..span.end()).unwrap_or_default();
        Raw::new_unchecked(text, encoding, span)
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

    /// A value of the last key, or of the list that is open there.
    fn put(&mut self, span: Span, value: Value<'a>) {
        let line = self.lines.line(span.start());
        let item = Item { line, written: self.raw(span, None).as_str(), value };
        let Some(entry) = self.tables.last_mut().and_then(|table| table.entries.last_mut()) else { return };
        match &mut entry.item {
            Some(Item { value: Value::List(items), .. }) if self.lists > 0 => items.push(item),
            // A second value after a mistake, which has been reported.
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
        let mut part = Cow::Borrowed("");
        self.raw(span, encoding).decode_key(&mut part, error);
        self.key.push(part.into_owned());
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
        if span.is_empty() {
            const EXPECTED: &[Expected] = &[Expected::Description("one after the =")];
            let missing = ParseError::new("the value is missing").with_expected(EXPECTED);
            return error.report_error(missing.with_unexpected(span));
        }
        let mut text = Cow::Borrowed("");
        let raw = self.raw(span, encoding);
        // A bare word that is no value is better answered by its key, which knows what it wants.
        let mut no_value = false;
        let kind = match encoding {
            Some(_) => raw.decode_scalar(&mut text, error),
            None => raw.decode_scalar(&mut text, &mut |_: ParseError| no_value = true),
        };
        let value = match kind {
            _ if no_value => Value::Other,
            ScalarKind::String => Value::Text(text.into_owned()),
            ScalarKind::Boolean(flag) => Value::Flag(flag),
            ScalarKind::Integer(radix) => {
                i64::from_str_radix(&text, radix.value()).map_or(Value::Other, Value::Integer)
            }
            ScalarKind::Float => Value::Decimal(text.into_owned()),
            ScalarKind::DateTime => Value::Other,
        };
        self.put(span, value);
    }

    fn array_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        let value = if self.lists == 0 { Value::List(Vec::new()) } else { Value::Other };
        self.put(span, value);
        self.lists += 1;
        // What stands in a list in a list is not looked at, so that depth costs no stack.
        self.lists == 1
    }

    fn array_close(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        self.lists = self.lists.saturating_sub(1);
        // The parser closes what the file leaves open, with nothing.
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
