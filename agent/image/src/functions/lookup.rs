//! From names to functions.

use super::{Entry, FunctionTable, Mark, go_names};
use crate::demangle::{self, Form};
use crate::dwarf::Copies;
use crate::near::Nearest;
use crate::{NamePattern, linkage};

impl FunctionTable {
    /// Returns up to [`NEAR_NAMES`](crate::limits::NEAR_NAMES) names similar to `name`, nearest
    /// first.
    #[must_use]
    pub fn near(&self, name: &str) -> Vec<String> {
        let mut nearest = Nearest::new(name);
        let versioned = cfg!(feature = "versions") && name.contains('@');
        for entry in &self.functions {
            if entry.mark == Mark::ColdPart {
                continue;
            }
            for &name in self.names_of(entry) {
                let shown = self.shown(name, Form::Bare);
                // A request with a version may be wrong in the version only.
                if versioned && name.version != 0 {
                    nearest.offer(&(shown + &self.version(name)));
                } else {
                    nearest.offer(&shown);
                }
            }
        }
        nearest.into_names()
    }

    /// Returns the functions of that name, by start: exact matches if there are any, else matches
    /// of the glob. The name of a cloned function finds its clones, and the name of a function that
    /// is chosen at load time (an ifunc) finds the versions named after it.
    pub(crate) fn named(&self, pattern: &NamePattern) -> Vec<usize> {
        let mut found = self.named_in_go(pattern);
        if !found.is_empty() && !pattern.is_glob() {
            return found;
        }
        // A Go program may also have C functions, and may export its own under C names.
        found.extend(self.named_natively(pattern));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns true if Go's table has the name: it keeps inlined functions, for tracebacks.
    pub(crate) fn has_inlined(&self, pattern: &NamePattern) -> bool {
        self.names_in_go().any(is_in_go(pattern))
    }

    /// Returns the offsets of the name in Go's table, in ascending order.
    pub(crate) fn inlined_in_go(&self, pattern: &NamePattern) -> Vec<u32> {
        let is = is_in_go(pattern);
        let mut next = 0u32;
        let place = |name: &[u8]| {
            let at = next;
            // Name tables are far smaller (STRING_TABLE_BYTES).
            next = next.saturating_add(name.len() as u32 + 1);
            is(name).then_some(at)
        };
        self.names_in_go().filter_map(place).collect()
    }

    /// Returns all names of Go's table.
    fn names_in_go(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.go.and_then(|go| self.strings.get(usize::from(go))).map_or(&[][..], Vec::as_slice);
        names.split(|byte| *byte == 0)
    }

    /// Returns the inlined copies of functions of that name, from debug data.
    pub(crate) fn copies(&self, pattern: &NamePattern) -> Copies {
        let Some(inlined) = &self.inlined else { return Copies::default() };
        let is = |name: &[u8], exact: bool| match exact {
            true => {
                pattern.is(name)
                    || demangle::is_any_form(&linkage::split(name), |name| pattern.is_demangled(name))
            }
            false => {
                pattern.matches(name)
                    || demangle::is_any_form(&linkage::split(name), |name| pattern.matches_demangled(name))
            }
        };
        let exact = inlined.matching(|name| is(name, true));
        if exact.count > 0 { exact } else { inlined.matching(|name| is(name, false)) }
    }

    /// Returns the functions of that name that are not Go's.
    fn named_natively(&self, pattern: &NamePattern) -> Vec<usize> {
        // Demangling all names of a large C++ image takes a second. A name without the pattern's
        // longest word cannot match, unless the mangling abbreviates the word.
        let word = pattern.word_of_mangled();
        let may_match = |name: &[u8]| demangle::is_mangled(name) && contains(name, word.as_bytes());
        let exact = self.matching(pattern, |name| {
            let split = linkage::split(name);
            pattern.is(name)
                || split.is_whole() && pattern.is(split.base)
                || may_match(name) && demangle::is_any_form(&split, |name| pattern.is_demangled(name))
        });
        if exact.iter().any(|&index| self.functions[index].mark == Mark::Ifunc) {
            let versions = [pattern.base().as_bytes(), b"."].concat();
            return self.matching(pattern, |name| {
                pattern.is(name) || name.starts_with(&versions) && !name.ends_with(b".resolver")
            });
        }
        if !exact.is_empty() || !pattern.is_glob() {
            return exact;
        }
        self.matching(pattern, |name| {
            pattern.matches(name)
                || may_match(name)
                    && demangle::is_any_form(&linkage::split(name), |name| pattern.matches_demangled(name))
        })
    }

    /// Returns the Go functions of that name ([`go_names`]): exact matches, else the instances of
    /// the generic function of that name, else matches of the glob.
    fn named_in_go(&self, pattern: &NamePattern) -> Vec<usize> {
        let Some(go) = self.go else { return Vec::new() };
        let matching = |matches: &dyn Fn(&[u8]) -> bool| -> Vec<usize> {
            let has = |entry: &Entry| {
                self.names_of(entry).iter().any(|&name| name.table == go && matches(self.linkage_name(name)))
            };
            (0..self.functions.len()).filter(|&index| has(&self.functions[index])).collect()
        };
        let text = pattern.text();
        let exact = matching(&|name| go_names::is(name, text));
        if !exact.is_empty() {
            return exact;
        }
        let generic = matching(&|name| go_names::is_of_generic(name, text));
        if !generic.is_empty() {
            let asked = matching(&|name| go_names::is_instance(name, text));
            return if go_names::are_told_apart(text) || !asked.is_empty() { asked } else { generic };
        }
        if !pattern.is_glob() {
            return Vec::new();
        }
        let glob = go_names::glob(text);
        matching(&|name| go_names::matches(&glob, name))
    }

    /// Returns the functions with a name that `matches`, in a requested version.
    fn matching(&self, pattern: &NamePattern, mut matches: impl FnMut(&[u8]) -> bool) -> Vec<usize> {
        self.functions
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.mark != Mark::ColdPart)
            .filter(|(_, entry)| {
                let names = self.names_of(entry);
                // The symbol of a Go function repeats the name.
                let native = names.iter().all(|name| Some(name.table) != self.go);
                native
                    && names.iter().any(|&name| {
                        matches(self.linkage_name(name)) && pattern.is_version(&self.version(name))
                    })
            })
            .map(|(index, _)| index)
            .collect()
    }
}

fn contains(name: &[u8], word: &[u8]) -> bool {
    word.is_empty() || name.windows(word.len()).any(|window| window == word)
}

/// Compares a name of Go's table with the requested name.
fn is_in_go(pattern: &NamePattern) -> impl Fn(&[u8]) -> bool {
    let glob = pattern.is_glob().then(|| go_names::glob(pattern.text()));
    move |name| match &glob {
        Some(glob) => !name.is_empty() && go_names::matches(glob, name),
        None => go_names::is(name, pattern.text()),
    }
}
