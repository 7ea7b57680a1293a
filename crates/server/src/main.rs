//! The binary: reads the settings, runs one command, turns errors into exit codes.
//!
//! Exit codes: 0 done; 1 failed; 2 the command line or the settings are wrong.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use walcast_server::doctor::{doctor, has_errors};
use walcast_server::explain::explain;
use walcast_server::migrate::migrate;
use walcast_server::serve::serve;
use walcast_server::settings::{Command, Config, Settings, SettingsError};
use walcast_server::{logs, token};
use walcast_source::connect_sql;

fn main() -> ExitCode {
    let (command, settings) = match Settings::load(std::env::args_os()) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(error),
    };
    // Also what is wrong is easier to see beside everything that is in force.
    if command == Command::CheckConfig {
        print!("{}", settings.describe());
    }
    let config = match settings.config(&command) {
        Ok(config) => config,
        Err(error) => return refuse(error),
    };
    // Two libraries of this binary bring a provider for TLS each; this says which one counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(command, config)),
        Err(error) => Err(error).context("the runtime can't be started"),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("walcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => {
            logs::begin(config.log_format, &config.log_level);
            serve(config, stop_on_signal()?).await?;
        }
        Command::Migrate => {
            logs::begin(config.log_format, &config.log_level);
            let mut client = connect_sql(config.database()?.expose(), "walcast migrate").await?;
            migrate(&mut client).await?;
        }
        Command::CheckConfig => println!("# these settings are fine"),
        Command::Doctor => {
            let findings = doctor(&config).await?;
            for finding in &findings {
                println!("{finding}");
            }
            if has_errors(&findings) {
                return Ok(ExitCode::FAILURE);
            }
            println!("ready to serve");
        }
        Command::Token(request) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            println!("{}", token::make_token(&config, &request, now.as_secs())?);
        }
        Command::ExplainRls { table, role } => {
            print!("{}", explain(&config, &table, role.as_deref()).await?);
        }
        other => anyhow::bail!("{other:?} is not available in this version"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Cancelled by SIGTERM or SIGINT; the second one ends the process at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be watched")?;
    let token = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!("stopping; once more to stop at once");
                token.cancel();
            } else {
                std::process::exit(1);
            }
        }
    });
    Ok(stop)
}

fn refuse(error: SettingsError) -> ExitCode {
    match error {
        // --help and --version come this way, too; clap knows where they are to be printed.
        SettingsError::CommandLine(error) => error.exit(),
        other => {
            eprintln!("walcast: {other}");
            ExitCode::from(2)
        }
    }
}
