//! A disk that fails on demand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which calls fail from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) write: Arc<AtomicBool>,
    pub(crate) sync: Arc<AtomicBool>,
}

impl Faults {
    pub(crate) fn write(&self) -> io::Result<()> {
        fail(&self.write, io::ErrorKind::StorageFull)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        fail(&self.sync, io::ErrorKind::Other)
    }
}

fn fail(when: &AtomicBool, kind: io::ErrorKind) -> io::Result<()> {
    match when.load(Ordering::Acquire) {
        true => Err(kind.into()),
        false => Ok(()),
    }
}
