//! Words of a list in the memory of a target: they show the way its Python interpreters treat
//! calls.
//!
//! The guard follows the list and looks at none of its words. It begins in the data of an image
//! that the collector has open, its steps and its length are small: an attacker in the collector
//! reads one word of each element of such a list, and not arbitrary memory. The interpreter has
//! written the words itself, so they are present: the guard waits for no page-in.

use crate::attach::pages::Memory;
use crate::error::GuardError;
use crate::guard::{Guard, order};
use crate::maps::FileKey;
use crate::protocol::{ELEMENTS, HEAD, List, Reply, TargetId};
use crate::target::Target;

/// Lines of /proc/PID/maps that are read for one answer: some milliseconds.
const LINES: usize = 4096;
/// Bytes of a word.
const WORD: u64 = 8;

impl Guard {
    /// Reads a list of a target, or of a process that its plans cover.
    pub(crate) fn read_list(&self, id: TargetId, pid: i32, list: List) -> Result<Reply, GuardError> {
        self.scope.memory(id)?;
        let image = self.images.iter().find(|open| open.id == list.image && open.target == id);
        let image = image.ok_or_else(|| order("no such image"))?;
        let mut covered = self.plans.iter().filter(|plan| plan.target == id).flat_map(|plan| &plan.processes);
        match self.target(id)? {
            target if target.pid == pid => read(target, image.key, list),
            _ => match covered.find(|covered| covered.target.pid == pid) {
                Some(covered) => read(&covered.target, image.key, list),
                None => Err(GuardError::NoProcess { pid }),
            },
        }
    }
}

fn read(target: &Target, file: FileKey, list: List) -> Result<Reply, GuardError> {
    let mut memory = Memory::of(target);
    let mut word = |address: u64| {
        let mut bytes = [0; WORD as usize];
        let there = address < u64::MAX / 2
            && memory.was_written(address, WORD).unwrap_or(false)
            && memory.read(address, &mut bytes).unwrap_or(false);
        there.then(|| u64::from_ne_bytes(bytes))
    };
    let begin = begin(target, file, list.begin)?;
    let mut words: heapless::Vec<u64, { HEAD + ELEMENTS }> = heapless::Vec::new();
    for at in 0..HEAD as u64 {
        // There is room.
        words.extend(word(begin.saturating_add(at * WORD)));
    }
    let first = words.get(usize::from(list.first)).filter(|_| words.len() == HEAD);
    let mut element = *first.ok_or_else(|| order("the list does not begin there"))?;
    // Its elements may go while it is read: then it is not whole.
    while element != 0
        && let Some(found) = word(element.saturating_add(list.word.into()))
        && let Some(next) = word(element.saturating_add(list.next.into()))
        && words.push(found).is_ok()
    {
        element = next;
    }
    Ok(Reply::List { whole: element == 0, words })
}

/// The address of a place in the data of a file.
fn begin(target: &Target, file: FileKey, offset: u64) -> Result<u64, GuardError> {
    let mut maps = target.maps()?;
    for _ in 0..LINES {
        let Some(line) = target.next_mapping(&mut maps)? else { break };
        // Code and data may share a page of the file, which then is mapped twice.
        let data = line.filter(|mapping| mapping.writable && !mapping.executable);
        if let Some(address) = data.and_then(|mapping| mapping.address(file, offset)) {
            return Ok(address);
        }
    }
    Err(order("no such place in the data of the image"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::protocol::ImageId;

    /// Beginning of a list: in the data of this program, and written to.
    static BEGIN: [AtomicU64; HEAD] = [const { AtomicU64::new(7) }; HEAD];

    fn element(next: u64, word: u64) -> u64 {
        Box::leak(Box::new([word, 0, next])).as_ptr() as u64
    }

    #[test]
    fn a_list_is_followed_as_far_as_it_goes_and_no_further_than_its_bound() {
        let own = Target::unchecked(TargetId(0), std::process::id() as i32).unwrap();
        let mut maps = own.maps().unwrap();
        let mut mappings = std::iter::from_fn(|| own.next_mapping(&mut maps).unwrap()).flatten();
        let at = BEGIN.as_ptr() as u64;
        let data = mappings.find(|mapping| (mapping.start..mapping.end).contains(&at)).unwrap();
        let list =
            List { image: ImageId(0), begin: data.offset + at - data.start, first: 4, next: 16, word: 0 };
        let follow = |first: u64| {
            BEGIN[4].store(first, Ordering::Relaxed);
            let Ok(Reply::List { words, whole }) = read(&own, data.file, list) else { panic!() };
            assert_eq!((words[0], words[4]), (7, first));
            (words[HEAD..].to_vec(), whole)
        };
        assert_eq!(follow(0), (vec![], true));
        assert_eq!(follow(element(element(0, 12), 11)), (vec![11, 12], true));
        // No element, not even an address; a ring.
        assert_eq!(follow(element(8, 11)), (vec![11], false));
        assert_eq!(follow(u64::MAX - 3), (vec![], false));
        let ring = Box::leak(Box::new([5, 0, 0]));
        ring[2] = ring.as_ptr() as u64;
        assert_eq!(follow(ring.as_ptr() as u64), (vec![5; ELEMENTS], false));
        // It begins in the data of that file, and not in its code or in another one.
        assert!(read(&own, data.file, List { first: HEAD as u8, ..list }).is_err());
        let other = FileKey { inode: data.file.inode + 1, ..data.file };
        assert!(read(&own, other, list).is_err());
        let code = own.mappings(|mapping| mapping.file == data.file).unwrap();
        assert!(read(&own, data.file, List { begin: code[0].offset, ..list }).is_err());
    }
}
