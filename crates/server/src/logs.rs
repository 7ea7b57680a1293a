//! Logs on stderr: text for people or JSON for machines.

use tracing_subscriber::EnvFilter;

use crate::settings::LogFormat;

/// Begins to log. `filter` as in the setting `log_level`; it was checked when the settings were read.
pub fn begin(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // The first reports every lost connection as an error of its own, where `source` says the same
    // once, with its remedy. The second logs what a policy's function RAISEs, which may be a row.
    let filter = ["pgwire_replication=off", "tokio_postgres=warn"]
        .into_iter()
        .map(|directive| directive.parse().expect("a directive"))
        .fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
