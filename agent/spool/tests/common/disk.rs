//! A disk that records every operation and can be cut off at any moment. It then holds everything
//! that was synced, and any chosen part of the rest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use edgelat_spool::Store;
use nix::errno::Errno;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new file with a name.
    Create(String, usize),
    /// Bytes written to a file at an offset.
    Write(usize, usize, Vec<u8>),
    /// A file is cut off.
    Truncate(usize, usize),
    /// A file is renamed.
    Rename(String, String, usize),
    /// A name is removed.
    Remove(String, usize),
    /// All of a file is synced.
    Sync(usize),
    /// All names are synced.
    SyncNames,
}

/// Errors of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every change fails with this error.
    pub all: Option<Errno>,
    /// Syncing a file fails with this error, and data since the last sync is in any state.
    pub sync: Option<Errno>,
    /// Room in bytes. A write that is too large writes as much as fits.
    pub capacity: Option<usize>,
}

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Default)]
pub struct State {
    pub ops: Vec<Op>,
    files: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    pub faults: Faults,
}

/// The disk; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Disk(pub Rc<RefCell<State>>);

impl Disk {
    /// A disk with these files, all of them synced.
    pub fn with(files: &Files) -> Self {
        let disk = Self::default();
        let mut state = disk.0.borrow_mut();
        for (name, bytes) in files {
            let file = state.files.len();
            state.files.push(bytes.clone());
            state.names.insert(name.clone(), file);
            state.ops.push(Op::Create(name.clone(), file));
            state.ops.push(Op::Write(file, 0, bytes.clone()));
            state.ops.push(Op::Sync(file));
        }
        state.ops.push(Op::SyncNames);
        drop(state);
        disk
    }

    pub fn store(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }

    pub fn ops(&self) -> usize {
        self.0.borrow().ops.len()
    }

    pub fn fail(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// Files as programs see them.
    pub fn files(&self) -> Files {
        let state = self.0.borrow();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].clone())).collect()
    }

    /// Numbers of the operations before `end` that need not be on the disk.
    pub fn loose(&self, end: usize) -> Vec<usize> {
        let state = self.0.borrow();
        let ops = &state.ops[..end];
        let synced = |from: usize, op: &Op| ops[from..].contains(op);
        (0..end)
            .filter(|number| match &ops[*number] {
                Op::Write(file, ..) | Op::Truncate(file, _) => !synced(*number, &Op::Sync(*file)),
                Op::Create(..) | Op::Rename(..) | Op::Remove(..) => !synced(*number, &Op::SyncNames),
                Op::Sync(_) | Op::SyncNames => false,
            })
            .collect()
    }

    /// Files on the disk after the operations before `end`; `keep` decides each write and name.
    pub fn after(&self, end: usize, keep: &dyn Fn(usize) -> Kept) -> Files {
        let state = self.0.borrow();
        let mut files: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, op) in state.ops[..end].iter().enumerate() {
            let kept = keep(number);
            if kept == Kept::Nothing {
                continue;
            }
            match op {
                Op::Create(name, file) => _ = names.insert(name, *file),
                Op::Write(file, offset, bytes) => {
                    let bytes = match kept {
                        Kept::First(length) => &bytes[..length],
                        _ => bytes,
                    };
                    let file = files.entry(*file).or_default();
                    file.resize(file.len().max(offset + bytes.len()), 0);
                    let to = &mut file[*offset..offset + bytes.len()];
                    match kept {
                        Kept::Zeros => to.fill(0),
                        _ => to.copy_from_slice(bytes),
                    }
                }
                Op::Truncate(file, length) => files.entry(*file).or_default().resize(*length, 0),
                Op::Rename(from, to, file) => {
                    if names.get(from.as_str()) == Some(file) {
                        names.remove(from.as_str());
                    }
                    names.insert(to, *file);
                }
                Op::Remove(name, file) => {
                    if names.get(name.as_str()) == Some(file) {
                        names.remove(name.as_str());
                    }
                }
                Op::Sync(_) | Op::SyncNames => {}
            }
        }
        names
            .into_iter()
            .map(|(name, file)| (name.to_owned(), files.get(&file).cloned().unwrap_or_default()))
            .collect()
    }
}

/// Fate of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    All,
    Nothing,
    /// The first bytes of a write.
    First(usize),
    /// The length of a write, and zeros.
    Zeros,
}

impl State {
    fn may(&self) -> Result<(), Errno> {
        self.faults.all.map_or(Ok(()), Err)
    }

    fn file(&self, name: &str) -> Result<usize, Errno> {
        self.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn taken(&self) -> usize {
        self.names.values().map(|file| self.files[*file].len()).sum()
    }
}

impl Store for Disk {
    fn create(&mut self, file: &str, _: u64) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.may()?;
        if let Ok(known) = state.file(file) {
            state.files[known].clear();
            state.ops.push(Op::Truncate(known, 0));
            return Ok(());
        }
        let number = state.files.len();
        state.files.push(Vec::new());
        state.names.insert(file.to_owned(), number);
        state.ops.push(Op::Create(file.to_owned(), number));
        Ok(())
    }

    fn write(&mut self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.may()?;
        let (number, offset) = (state.file(file)?, offset as usize);
        let room = state.faults.capacity.map_or(usize::MAX, |capacity| {
            let more = (offset + bytes.len()).saturating_sub(state.files[number].len());
            let left = capacity.saturating_sub(state.taken());
            bytes.len() - more.saturating_sub(left).min(bytes.len())
        });
        let fits = &bytes[..bytes.len().min(room)];
        let content = &mut state.files[number];
        content.resize(content.len().max(offset + fits.len()), 0);
        content[offset..offset + fits.len()].copy_from_slice(fits);
        state.ops.push(Op::Write(number, offset, fits.to_vec()));
        if fits.len() < bytes.len() { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    fn sync(&mut self, file: &str) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        let number = state.file(file)?;
        if let Some(errno) = state.faults.all.or(state.faults.sync) {
            return Err(errno);
        }
        state.ops.push(Op::Sync(number));
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.may()?;
        state.ops.push(Op::SyncNames);
        Ok(())
    }

    fn truncate(&mut self, file: &str, length: u64) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.may()?;
        let number = state.file(file)?;
        if state.files[number].len() != length as usize {
            state.files[number].resize(length as usize, 0);
            state.ops.push(Op::Truncate(number, length as usize));
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.may()?;
        let number = state.file(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), number);
        state.ops.push(Op::Rename(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn remove(&mut self, file: &str) -> Result<(), Errno> {
        let mut state = self.0.borrow_mut();
        state.may()?;
        let number = state.file(file)?;
        state.names.remove(file);
        state.ops.push(Op::Remove(file.to_owned(), number));
        Ok(())
    }

    fn list(&self) -> Result<Vec<(String, u64)>, Errno> {
        let files = self.files();
        Ok(files.into_iter().map(|(name, bytes)| (name, bytes.len() as u64)).collect())
    }

    fn read(&self, file: &str, most: usize) -> Result<Vec<u8>, Errno> {
        let state = self.0.borrow();
        let bytes = &state.files[state.file(file)?];
        Ok(bytes[..bytes.len().min(most)].to_vec())
    }
}
