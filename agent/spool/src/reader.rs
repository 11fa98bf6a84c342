//! Reading a spool, from its beginning or from any segment; all commands share this reader.

use std::ops::ControlFlow;

use nix::errno::Errno;

use crate::record::{Checkpoint, Interval, Record, short};
use crate::segment::{Found, Frames, Name, READ_BYTES, sorted};
use crate::store::Store;

/// Reason why a spool cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its directory cannot be listed.
    #[error("the spool cannot be listed: {}", .0.desc())]
    List(Errno),
    /// A segment cannot be read.
    #[error("{file} cannot be read: {}", errno.desc())]
    Segment {
        /// Its name.
        file: String,
        /// The system's error.
        errno: Errno,
    },
    /// A segment was merged with another one during the read.
    #[error("the spool has changed while it was read; read it again")]
    Changed,
}

/// Position of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: Name,
    /// The offset in it.
    pub offset: usize,
    /// The id of the record, 0 if it has none.
    pub id: u64,
}

/// Content of a place.
#[derive(Debug)]
pub enum Seen<'r> {
    /// A checkpoint; the state holds its content.
    Checkpoint,
    /// An interval, which the state includes.
    Interval(&'r Interval),
    /// An interval that was written again later because the disk failed.
    Replaced,
    /// An interval of a run that has no checkpoint left.
    Orphan(&'r Interval),
    /// A record of a type or version that this program does not know.
    Unknown,
    /// Bytes that are no record.
    Damaged,
}

/// The existing segments, the oldest first, with their lengths.
///
/// # Errors
/// If the directory cannot be listed.
pub fn segments(store: &dyn Store) -> Result<Vec<(Name, u64)>, ReadError> {
    let files = store.list().map_err(ReadError::List)?;
    let names: Vec<String> = files.iter().map(|(file, _)| file.clone()).collect();
    let length = |name: &Name| {
        let file = name.file();
        files.iter().find(|(other, _)| *other == file).map_or(0, |(_, length)| *length)
    };
    Ok(sorted(&names).0.iter().map(|name| (*name, length(name))).collect())
}

/// Reads `names`, the oldest first, and passes each record to `take`, with the state of its run
/// after it: streams and their counts. `newest` is true if the last name is the newest segment.
///
/// # Errors
/// If a segment cannot be read. Damage is no error: it is passed on as such.
pub fn read(
    store: &dyn Store,
    names: &[Name],
    newest: bool,
    take: &mut dyn FnMut(Place, Seen<'_>, &Checkpoint) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let mut state = Checkpoint::default();
    let mut following = names.first().map(|name| load(store, *name)).transpose()?;
    for (index, segment) in names.iter().enumerate() {
        let Some(bytes) = following.take() else { break };
        following = names.get(index + 1).map(|name| load(store, *name)).transpose()?;
        // The next checkpoint says from which interval on this segment does not count.
        let next = following.as_deref().and_then(|bytes| Frames::new(bytes, true).next());
        let next = match next {
            Some(Found::Record(_, Record::Checkpoint(next))) => Some((short(&next.run), next.next)),
            _ => None,
        };
        let mut frames = Frames::new(&bytes, newest && following.is_none());
        loop {
            let offset = frames.offset();
            let Some(found) = frames.next() else { break };
            let mut place = Place { segment: *segment, offset, id: 0 };
            let flow = match found {
                Found::Record(id, Record::Checkpoint(checkpoint)) => {
                    place.id = id;
                    state = checkpoint;
                    take(place, Seen::Checkpoint, &state)
                }
                Found::Record(id, Record::Interval(interval)) => {
                    place.id = id;
                    if next.is_some_and(|(run, from)| run == interval.run && interval.last >= from) {
                        take(place, Seen::Replaced, &state)
                    } else if interval.run == short(&state.run) {
                        state.add(&interval);
                        take(place, Seen::Interval(&interval), &state)
                    } else {
                        take(place, Seen::Orphan(&interval), &state)
                    }
                }
                Found::Unknown(id) => take(Place { id, ..place }, Seen::Unknown, &state),
                Found::Damaged => take(place, Seen::Damaged, &state),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads all existing segments as [`read`] does.
///
/// # Errors
/// As [`read`].
pub fn read_all(
    store: &dyn Store,
    take: &mut dyn FnMut(Place, Seen<'_>, &Checkpoint) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let names: Vec<Name> = segments(store)?.into_iter().map(|(name, _)| name).collect();
    read(store, &names, true, take)
}

fn load(store: &dyn Store, name: Name) -> Result<Vec<u8>, ReadError> {
    let file = name.file();
    store.read(&file, READ_BYTES).map_err(|errno| match errno {
        Errno::ENOENT => ReadError::Changed,
        errno => ReadError::Segment { file, errno },
    })
}
