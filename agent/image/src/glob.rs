//! Globs: `*` for any run of characters, `?` for one, `[a-z]` and `[!a-z]` for one of a set, `\`
//! before a literal character.
//!
//! A glob is matched against every name of an image, and both may be untrusted, so matching must
//! not backtrack. The elements between the stars are the states of an automaton, one bit each, and
//! a character moves all of them at once: the time is the length of the name times the number of
//! 64-element words of the glob, which is 1 for any glob that a person would type.

use crate::limits::PATTERN_BYTES;

/// A compiled glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    elements: Vec<Element>,
    /// Bit `i`: a star stands before element `i` (or at the end, for the last), so state `i` persists.
    stars: Vec<u64>,
    /// For each ASCII character, the elements that it matches: `words` words of 64 elements.
    ascii: Vec<u64>,
    words: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    Exactly(char),
    Any,
    Set { negated: bool, ranges: Vec<(char, char)> },
}

const ASCII: usize = 128;
const WORD: usize = u64::BITS as usize;

impl Glob {
    /// Compiles a glob. Every text is valid: `[` without `]`, or a final `\`, is literal. Only the
    /// first [`PATTERN_BYTES`] bytes are read; [`Pattern::parse`](crate::Pattern::parse) refuses
    /// more.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().take(PATTERN_BYTES).collect();
        let mut elements = Vec::new();
        let mut starred = Vec::new();
        let mut star = false;
        let mut rest = text.as_slice();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let element = match first {
                '*' => {
                    star = true;
                    continue;
                }
                '?' => Element::Any,
                '[' => match set(after) {
                    Some((element, after)) => {
                        rest = after;
                        element
                    }
                    None => Element::Exactly('['),
                },
                '\\' => match after.split_first() {
                    Some((&escaped, after)) => {
                        rest = after;
                        Element::Exactly(escaped)
                    }
                    None => Element::Exactly('\\'),
                },
                other => Element::Exactly(other),
            };
            elements.push(element);
            starred.push(star);
            star = false;
        }
        starred.push(star);
        // One state more than elements: the last is "all matched".
        let words = elements.len() / WORD + 1;
        let mut stars = vec![0; words];
        for (state, _) in starred.iter().enumerate().filter(|(_, starred)| **starred) {
            stars[state / WORD] |= 1 << (state % WORD);
        }
        let mut ascii = vec![0; words * ASCII];
        for (character, row) in (0u8..).zip(ascii.chunks_exact_mut(words)) {
            fill(row, &elements, char::from(character));
        }
        Self { elements, stars, ascii, words }
    }

    /// Returns true if the text has a glob character, so that it can match more than itself.
    #[must_use]
    pub fn is_glob(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    /// Returns true if the glob matches the whole of a name.
    pub fn matches(&self, name: impl IntoIterator<Item = char>) -> bool {
        let mut states = vec![0u64; self.words];
        let mut other = vec![0; self.words];
        states[0] = 1;
        for character in name {
            let row = match self.ascii.chunks_exact(self.words).nth(character as usize) {
                Some(row) => row,
                None => {
                    other.fill(0);
                    fill(&mut other, &self.elements, character);
                    &other
                }
            };
            let mut carry = 0;
            let mut alive = 0;
            for ((state, matched), star) in states.iter_mut().zip(row).zip(&self.stars) {
                let moved = *state & matched;
                let next = moved << 1 | carry | *state & star;
                carry = moved >> (WORD - 1);
                *state = next;
                alive |= next;
            }
            if alive == 0 {
                return false;
            }
        }
        let last = self.elements.len();
        states[last / WORD] >> (last % WORD) & 1 == 1
    }

    /// Returns the runs of letters, digits and underscores that every match contains.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![String::new()];
        for (state, element) in self.elements.iter().enumerate() {
            if self.stars[state / WORD] >> (state % WORD) & 1 == 1 {
                words.push(String::new());
            }
            match (element, words.last_mut()) {
                (Element::Exactly(character), Some(word))
                    if character.is_ascii_alphanumeric() || *character == '_' =>
                {
                    word.push(*character);
                }
                _ => words.push(String::new()),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }
}

/// Sets the bits of the elements that a character matches.
fn fill(row: &mut [u64], elements: &[Element], character: char) {
    for (index, element) in elements.iter().enumerate() {
        let matches = match element {
            Element::Exactly(wanted) => *wanted == character,
            Element::Any => true,
            Element::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
            }
        };
        if matches {
            row[index / WORD] |= 1 << (index % WORD);
        }
    }
}

/// Returns the set after a `[` and the rest after its `]`. As in a shell, a first `]` is a member.
fn set(text: &[char]) -> Option<(Element, &[char])> {
    let (negated, body) = match text.split_first() {
        Some(('!' | '^', rest)) => (true, rest),
        _ => (false, text),
    };
    let end = 1 + body.get(1..)?.iter().position(|&character| character == ']')?;
    let mut ranges = Vec::new();
    let mut members = body.get(..end)?;
    while let Some((&low, rest)) = members.split_first() {
        (ranges, members) = match rest {
            ['-', high, rest @ ..] => ([ranges, vec![(low, *high)]].concat(), rest),
            _ => ([ranges, vec![(low, low)]].concat(), rest),
        };
    }
    Some((Element::Set { negated, ranges }, body.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, name: &str) -> bool {
        Glob::new(glob).matches(name.chars())
    }

    #[test]
    fn stars_questions_and_sets_match_as_in_a_shell() {
        for (glob, yes, no) in [
            ("work", vec!["work"], vec!["", "wor", "works", "xwork"]),
            ("work_*", vec!["work_", "work_a", "work_a_b"], vec!["work", "xwork_a"]),
            ("*", vec!["", "a", "anything at all"], vec![]),
            ("", vec![""], vec!["a"]),
            ("*_end", vec!["_end", "the_end", "_end_end"], vec!["_end_", "end"]),
            ("a*b*c", vec!["abc", "aXbYc", "abcbc"], vec!["ac", "abcd", "acb"]),
            ("?", vec!["a", "é", "∂"], vec!["", "ab"]),
            ("[a-cx]?", vec!["az", "x1"], vec!["dz", "a"]),
            ("[!a-c]", vec!["d", "é"], vec!["a", ""]),
            ("[^a]", vec!["b"], vec!["a"]),
            ("[]a]", vec!["]", "a"], vec!["b"]),
            ("[a-]", vec!["-", "a"], vec!["b"]),
            ("operator[]", vec!["operator[]"], vec!["operator"]),
            (r"a\*", vec!["a*"], vec!["ab", r"a\b"]),
            (r"a\", vec![r"a\"], vec!["a"]),
            ("**a**", vec!["a", "bab"], vec!["b"]),
            ("é*", vec!["é", "étude"], vec!["e"]),
        ] {
            for name in yes {
                assert!(matches(glob, name), "{glob} should match {name}");
            }
            for name in no {
                assert!(!matches(glob, name), "{glob} should not match {name}");
            }
        }
    }

    /// A matcher so simple that it is right, and so slow that it is only for tests.
    fn naive(glob: &[char], name: &[char]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                naive(rest, name) || name.split_first().is_some_and(|(_, name)| naive(glob, name))
            }
            (Some(('?', rest)), Some((_, name))) => naive(rest, name),
            (Some((wanted, rest)), Some((found, name))) => wanted == found && naive(rest, name),
            _ => false,
        }
    }

    #[test]
    fn random_globs_match_what_a_naive_matcher_matches() {
        let mut random = crate::testing::Random::new(7);
        let mut matched = 0;
        for _ in 0..20_000 {
            let mut text = |alphabet: &[char], longest| -> Vec<char> {
                (0..random.below(longest)).map(|_| alphabet[random.below(alphabet.len())]).collect()
            };
            let glob = text(&['a', 'b', '*', '?'], 10);
            let name = text(&['a', 'b'], 12);
            let expected = naive(&glob, &name);
            matched += usize::from(expected);
            let glob: String = glob.iter().collect();
            assert_eq!(Glob::new(&glob).matches(name.iter().copied()), expected, "{glob} on {name:?}");
        }
        assert!(matched > 1_000, "the test must see matches, saw {matched}");
    }

    #[test]
    fn globs_longer_than_a_word_of_states_carry_over() {
        for length in [62, 63, 64, 65, 127, 128, 129, 300] {
            let name = "ab".repeat(length);
            let exact = &name[..length];
            assert!(matches(exact, exact));
            assert!(matches(&format!("{exact}*"), &name));
            assert!(matches(&format!("*{exact}"), &format!("x{exact}")));
            assert!(!matches(&format!("{exact}?"), exact));
        }
    }

    #[test]
    fn a_glob_made_to_backtrack_takes_linear_time() {
        let glob = Glob::new(&"*a".repeat(400));
        let name = "a".repeat(16_000) + "b";
        let start = std::time::Instant::now();
        assert!(!glob.matches(name.chars()));
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[test]
    fn the_words_of_a_glob_are_part_of_every_match() {
        for (glob, words) in [
            ("a::bcd*", vec!["a", "bcd"]),
            ("*", vec![]),
            ("ab*cd_e?fghi", vec!["ab", "cd_e", "fghi"]),
            ("x[abc]yz", vec!["x", "yz"]),
            (r"ab\cd", vec!["abcd"]),
        ] {
            assert_eq!(Glob::new(glob).words(), words);
        }
    }
}
