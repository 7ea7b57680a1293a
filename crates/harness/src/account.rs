//! The operating system's account that runs Postgres, which refuses to run as root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Whom Postgres runs as: ourselves, or, when we are root, `postgres` (else `nobody`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    ids: Option<(u32, u32)>,
}

impl Account {
    /// Looks the account up. Errors when we are root and neither account exists.
    pub(crate) fn find() -> Result<Account> {
        if id_of(&["-u"])? != 0 {
            return Ok(Account { ids: None });
        }
        for name in ["postgres", "nobody"] {
            if let (Ok(uid), Ok(gid)) = (id_of(&["-u", name]), id_of(&["-g", name])) {
                return Ok(Account {
                    ids: Some((uid, gid)),
                });
            }
        }
        anyhow::bail!("running as root, and there is neither an account postgres nor nobody")
    }

    /// A command that runs as this account, in `folder`, without the caller's `PG…` settings.
    pub(crate) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Hands `folder` over to the account.
    pub(crate) fn own(&self, folder: &Path) -> Result<()> {
        let Some((uid, gid)) = self.ids else {
            return Ok(());
        };
        std::os::unix::fs::chown(folder, Some(uid), Some(gid))
            .with_context(|| format!("handing {} over to uid {uid}", folder.display()))
    }
}

fn id_of(arguments: &[&str]) -> Result<u32> {
    let output = Command::new("id").args(arguments).output()?;
    anyhow::ensure!(output.status.success(), "no such account");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
