//! Similar names, for suggestions.

use crate::limits::NEAR_NAMES;

/// Returns the nearest of a few words to an unknown word.
#[must_use]
pub fn nearest(wanted: &str, words: impl IntoIterator<Item = impl AsRef<str>>) -> Option<String> {
    let mut nearest = Nearest::new(wanted);
    words.into_iter().for_each(|word| nearest.offer(word.as_ref()));
    nearest.into_names().into_iter().next()
}

/// Longest name compared letter by letter; longer ones are offered only if they contain the other.
const COMPARED: usize = 64;

/// Collects the nearest of many names.
pub(crate) struct Nearest {
    wanted: String,
    last: String,
    found: Vec<(Distance, String)>,
}

/// Smaller is nearer: kind of similarity, then differing letters, then difference in length.
type Distance = (u8, usize, usize);

impl Nearest {
    /// Collects names like `wanted`; glob characters do not count.
    pub(crate) fn new(wanted: &str) -> Self {
        let wanted: String = wanted
            .chars()
            .filter(|character| !"*?[]\\".contains(*character))
            .collect::<String>()
            .to_ascii_lowercase();
        Self { last: last_part(&wanted).to_owned(), wanted, found: Vec::new() }
    }

    /// Considers a name.
    pub(crate) fn offer(&mut self, name: &str) {
        let Some(distance) = self.distance(name) else { return };
        let furthest = self.found.last().map(|(distance, name)| (*distance, name.as_str()));
        if self.found.len() == NEAR_NAMES && furthest.is_some_and(|furthest| furthest <= (distance, name)) {
            return;
        }
        match self.found.binary_search_by(|(other, named)| (*other, named.as_str()).cmp(&(distance, name))) {
            Ok(_) => {}
            Err(at) => {
                self.found.insert(at, (distance, name.to_owned()));
                self.found.truncate(NEAR_NAMES);
            }
        }
    }

    /// Returns the names, nearest first.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.found.into_iter().map(|(_, name)| name).collect()
    }

    fn distance(&self, name: &str) -> Option<Distance> {
        if self.wanted.is_empty() {
            return None;
        }
        let lower = name.to_ascii_lowercase();
        let last = last_part(&lower);
        let longer = lower.len().abs_diff(self.wanted.len());
        if lower == self.wanted || last == self.wanted {
            return Some((0, 0, longer));
        }
        // With half of the letters wrong it is another name.
        let near = |a: &str, b: &str| {
            let most = (a.len().min(b.len()) / 3).clamp(1, 8);
            (a.len() <= COMPARED && b.len() <= COMPARED)
                .then(|| edits(a.as_bytes(), b.as_bytes(), most))
                .flatten()
        };
        if let Some(edits) = near(&lower, &self.wanted).into_iter().chain(near(last, &self.last)).min() {
            return Some((1, edits, longer));
        }
        let contains = self.wanted.len() >= 3 && lower.contains(&self.wanted);
        let contained = last.len() >= 4 && self.wanted.contains(last);
        (contains || contained).then_some((2, 0, longer))
    }
}

/// Returns the part after the last `::` outside parameters.
fn last_part(name: &str) -> &str {
    let end = name.find(['(', '<']).filter(|&end| end > 0).unwrap_or(name.len());
    name[..end].rsplit("::").next().unwrap_or(name)
}

/// Returns the inserted, removed, replaced or swapped letters from `a` to `b`; `None` above `most`.
fn edits(a: &[u8], b: &[u8], most: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut before = [0; COMPARED + 1];
    let mut row: [usize; COMPARED + 1] = std::array::from_fn(|index| index);
    for (i, &left) in a.iter().enumerate() {
        let mut next = [i + 1; COMPARED + 1];
        for (j, &right) in b.iter().enumerate() {
            let mut best = (row[j] + usize::from(left != right)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && left == b[j - 1] && a[i - 1] == right {
                best = best.min(before[j - 1] + 1);
            }
            next[j + 1] = best;
        }
        if next[..=b.len()].iter().all(|&edits| edits > most) {
            return None;
        }
        (before, row) = (row, next);
    }
    Some(row[b.len()]).filter(|&edits| edits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(wanted: &str, names: &[&str]) -> Vec<String> {
        let mut nearest = Nearest::new(wanted);
        names.iter().for_each(|name| nearest.offer(name));
        nearest.into_names()
    }

    #[test]
    fn misspelt_names_come_before_names_that_contain_the_word() {
        let names = ["do_work", "do_wrok_later", "work", "unrelated", "undo_work_all", "Do_Work"];
        assert_eq!(near("do_wrok", &names)[..2], ["Do_Work", "do_work"]);
        assert_eq!(near("do_work", &names)[..2], ["Do_Work", "do_work"]);
        assert_eq!(near("zzz", &names), [""; 0]);
        assert_eq!(near("", &names), [""; 0]);
    }

    #[test]
    fn the_last_part_of_a_scoped_name_is_enough() {
        let names = ["ns::Queue::push(int)", "ns::Queue::pop()", "main"];
        assert_eq!(near("Queue::psuh", &names), ["ns::Queue::push(int)"]);
        assert_eq!(near("push", &names), ["ns::Queue::push(int)"]);
        assert_eq!(near("pop*", &names), ["ns::Queue::pop()"]);
    }

    #[test]
    fn no_more_than_the_nearest_few_are_kept() {
        let names: Vec<String> = (0..100).map(|number| format!("step_{number:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(near("step_00x", &names).len(), NEAR_NAMES);
        assert_eq!(near("step_00x", &names)[0], "step_00");
    }

    #[test]
    fn one_word_of_a_few_is_offered_or_none() {
        let words = ["interval", "state_dir", "max_cost"];
        for (wanted, expected) in [
            ("intervall", Some("interval")),
            ("maxcost", Some("max_cost")),
            ("dir", Some("state_dir")),
            ("pid", None),
        ] {
            assert_eq!(nearest(wanted, words).as_deref(), expected, "{wanted}");
        }
    }

    #[test]
    fn edits_are_counted_as_by_hand() {
        for (a, b, most, expected) in [
            ("", "", 3, Some(0)),
            ("abc", "abc", 0, Some(0)),
            ("abc", "abd", 1, Some(1)),
            ("abc", "acb", 1, Some(1)),
            ("kitten", "sitting", 3, Some(3)),
            ("kitten", "sitting", 2, None),
            ("a", "", 1, Some(1)),
        ] {
            assert_eq!(edits(a.as_bytes(), b.as_bytes(), most), expected, "{a} {b}");
        }
    }
}
