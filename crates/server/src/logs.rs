//! Logs on stderr: text for people or JSON for machines.

use tracing_subscriber::EnvFilter;

use crate::settings::LogFormat;

/// Begins to log. `filter` as in the setting `log_level`; it was checked when the settings were read.
pub fn begin(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // It reports every lost connection as an error of its own; `source` says the same once, with its remedy.
    let quiet = "pgwire_replication=off".parse().expect("a directive");
    let filter = filter.add_directive(quiet);
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
