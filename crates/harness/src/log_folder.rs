//! Where a server of the tests keeps its log of changes.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};

/// In use until it is dropped; its contents stay for the next server of the same settings, and are
/// removed when the process ends.
pub(crate) struct LogFolder {
    path: PathBuf,
}

impl LogFolder {
    /// The folder of the server with this database and slot. `None`: the settings name one.
    pub(crate) fn of(settings: &[(&str, &str)]) -> Result<Option<LogFolder>> {
        let find = |wanted: &str| settings.iter().find(|(name, _)| *name == wanted);
        if find("log_dir").is_some() {
            return Ok(None);
        }
        let mut hasher = DefaultHasher::new();
        (find("database_url"), find("slot_name")).hash(&mut hasher);
        let parent = parent()?;
        let mut used = used().lock().unwrap_or_else(PoisonError::into_inner);
        for nth in 0.. {
            let path = parent.join(format!("{:016x}-{nth}", hasher.finish()));
            if used.insert(path.clone()) {
                std::fs::create_dir_all(&path)?;
                return Ok(Some(LogFolder { path }));
            }
        }
        unreachable!("the process has fewer servers than that")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LogFolder {
    fn drop(&mut self) {
        let mut used = used().lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&self.path);
    }
}

fn used() -> &'static Mutex<HashSet<PathBuf>> {
    static USED: OnceLock<Mutex<HashSet<PathBuf>>> = OnceLock::new();
    USED.get_or_init(Mutex::default)
}

/// One folder for the process, and a watchdog that removes it afterwards.
fn parent() -> Result<PathBuf> {
    static PARENT: Mutex<Option<(PathBuf, Child)>> = Mutex::new(None);
    let mut parent = PARENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((path, _)) = parent.as_ref() {
        return Ok(path.clone());
    }
    let path = std::env::temp_dir().join(format!("walcast-logs-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path); // of a process that had our id before
    std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    let watchdog = Command::new("sh")
        .args(["-c", r#"trap '' INT TERM HUP; read -r _; rm -rf "$1""#])
        .arg("walcast-harness-watchdog")
        .arg(&path)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the watchdog")?;
    *parent = Some((path.clone(), watchdog));
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::LogFolder;

    #[test]
    fn one_at_a_time_and_the_same_again() {
        let settings = [("database_url", "postgres://x"), ("slot_name", "s")];
        let of = |settings: &[(&str, &str)]| {
            let folder = LogFolder::of(settings).expect("a folder");
            folder.expect("none is named")
        };
        let first = of(&settings);
        let second = of(&settings);
        assert_ne!(first.path(), second.path());
        let path = first.path().to_owned();
        drop(first);
        assert_eq!(of(&settings).path(), path);
        assert_ne!(of(&settings[..1]).path(), path);
        let named = [("log_dir", "/somewhere")];
        assert!(LogFolder::of(&named).expect("no folder").is_none());
    }
}
