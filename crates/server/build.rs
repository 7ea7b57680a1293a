//! Tells the binary which commit it was built from. Without git (a tarball) it is "unknown", unless
//! `BUILD_COMMIT` says it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    // A release knows its commit exactly; a debug build is not rebuilt for each commit.
    let log = "../../.git/logs/HEAD";
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
        && std::path::Path::new(log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let build = std::env::var("BUILD_COMMIT")
        .ok()
        .filter(|text| !text.is_empty());
    let build = build.or_else(commit).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=WALCAST_BUILD={build}");
}

fn commit() -> Option<String> {
    // Only our own repository: a tarball may have been unpacked inside another one.
    std::path::Path::new("../../.git").exists().then_some(())?;
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
