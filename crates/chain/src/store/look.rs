//! A store's file, looked at and left as it is: the database engine writes even to a file that it refuses, so it is given
//! one whose changes stay in memory.

use std::{
    collections::BTreeMap,
    fmt,
    fs::OpenOptions,
    io,
    ops::Bound,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

/// Bytes that are kept together. The engine's own page, so that what it writes is rarely put together from two sources.
const CHUNK: usize = 4096;

/// A file of which every change is kept in memory and forgotten at the end. It is locked like one that is written to.
pub(super) struct Scratch {
    file: FileBackend,
    changes: Mutex<Changes>,
}

struct Changes {
    len: u64,
    /// From here on the file does not count: it was cut there, or ended.
    end: u64,
    /// By place in chunks.
    chunks: BTreeMap<u64, Box<[u8; CHUNK]>>,
}

impl Scratch {
    /// Looks at the file, which must exist.
    ///
    /// # Errors
    /// Of the operating system.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        // Writing is for the lock alone.
        let file =
            FileBackend::new(OpenOptions::new().read(true).write(true).open(path).map_err(redb::StorageError::Io)?)?;
        let len = file.len().map_err(redb::StorageError::Io)?;
        Ok(Self { file, changes: Mutex::new(Changes { len, end: len, chunks: BTreeMap::new() }) })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk as it is now.
    fn chunk(&self, changes: &Changes, number: u64) -> io::Result<Box<[u8; CHUNK]>> {
        if let Some(chunk) = changes.chunks.get(&number) {
            return Ok(chunk.clone());
        }
        let mut chunk = Box::new([0; CHUNK]);
        let start = number * CHUNK as u64;
        let there = usize::try_from(changes.end.saturating_sub(start)).unwrap_or(CHUNK).min(CHUNK);
        if there > 0 {
            self.file.read(start, &mut chunk[..there])?;
        }
        Ok(chunk)
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The chunks that `len` bytes from `offset` on touch: number, place within the chunk, place within the bytes, count.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % CHUNK as u64).unwrap_or(0);
        let count = (CHUNK - within).min(len - done);
        let part = (at / CHUNK as u64, within, done, count);
        done += count;
        (count > 0).then_some(part)
    })
}

impl StorageBackend for Scratch {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > changes.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Most of a file is not changed: it is read as it is, at once.
        let last = (offset + out.len() as u64).div_ceil(CHUNK as u64);
        if offset + out.len() as u64 <= changes.end
            && changes.chunks.range(offset / CHUNK as u64..last).next().is_none()
        {
            return self.file.read(offset, out);
        }
        for (number, within, at, count) in parts(offset, out.len()) {
            let chunk = self.chunk(&changes, number)?;
            out[at..at + count].copy_from_slice(&chunk[within..within + count]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes();
        if len < changes.len {
            // What is cut off comes back as zeros.
            let (number, within) = (len / CHUNK as u64, usize::try_from(len % CHUNK as u64).unwrap_or(0));
            if within > 0 {
                let mut chunk = self.chunk(&changes, number)?;
                chunk[within..].fill(0);
                changes.chunks.insert(number, chunk);
            }
            changes.chunks.retain(|at, _| at * (CHUNK as u64) < len);
        }
        changes.end = changes.end.min(len);
        changes.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        for (number, within, at, count) in parts(offset, data.len()) {
            let mut chunk = self.chunk(&changes, number)?;
            chunk[within..within + count].copy_from_slice(&data[at..at + count]);
            changes.chunks.insert(number, chunk);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// A change, as the engine makes them.
    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            3 => (0..20_000u64, prop::collection::vec(any::<u8>(), 1..6_000)).prop_map(|(at, data)| Change::Write(at, data)),
            1 => (0..30_000u64).prop_map(Change::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_reads_as_if_it_were_changed_and_the_file_is_not(
            len in 0..25_000usize, changes in prop::collection::vec(change(), 1..12),
        ) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("file");
            let original: Vec<u8> = (0..len).map(|at| (at % 251) as u8 + 1).collect();
            fs::write(&path, &original).expect("written");
            let looked = Scratch::open(&path).expect("it is there");
            let mut model = original.clone();
            for change in changes {
                match change {
                    Change::Write(at, data) => {
                        let (start, end) = (at as usize, at as usize + data.len());
                        if end > model.len() {
                            looked.set_len(end as u64).expect("in memory");
                            model.resize(end, 0);
                        }
                        looked.write(at, &data).expect("in memory");
                        model[start..end].copy_from_slice(&data);
                    }
                    Change::SetLen(len) => {
                        looked.set_len(len).expect("in memory");
                        model.resize(len as usize, 0);
                    }
                }
                let mut read = vec![0; model.len()];
                looked.read(0, &mut read).expect("within");
                prop_assert!(read == model);
                let odd = model.len() / 3;
                let mut part = vec![0; model.len() / 2];
                looked.read(odd as u64, &mut part).expect("within");
                prop_assert!(part == model[odd..odd + part.len()]);
                prop_assert!(looked.read(odd as u64, &mut vec![0; model.len() + 1]).is_err());
            }
            drop(looked);
            prop_assert!(fs::read(&path).expect("there") == original);
        }
    }
}
