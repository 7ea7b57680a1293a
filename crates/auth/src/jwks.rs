use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::JwksConfig;
use crate::error::SetupError;
use crate::fetch::Fetcher;
use crate::key::Key;
use crate::verifier::Verifier;

/// Each may have to be tried for a token that names no key.
const KEYS_MAX: usize = 128;

/// How reading the key set goes, for `/ready`, metrics and logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwksStatus {
    /// Reads so far, good and bad.
    pub attempts: u64,
    pub failures: u64,
    /// Why the last read failed; `None` when it went well. The keys read before stay in use.
    pub last_error: Option<String>,
    /// Usable keys in use from file and address.
    pub keys: usize,
}

/// Keeps the key set fresh until `stop`: reads it at once, then at every interval, after a failure sooner, and when a
/// token names an unknown key, but that at most once per `unknown_key_interval`. Returns at once when there is none.
pub async fn refresh_jwks(verifier: Arc<Verifier>, stop: CancellationToken) {
    let Some(jwks) = verifier.jwks() else {
        return;
    };
    loop {
        let wait = tokio::select! {
            () = stop.cancelled() => return,
            wait = read_once(&verifier, jwks) => wait,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = jwks.asked_in_time() => {}
        }
    }
}

/// Reads every source once; returns how long to wait for the next time.
async fn read_once(verifier: &Verifier, jwks: &Jwks) -> Duration {
    jwks.progress.lock().start();
    let result = jwks.read().await;
    jwks.progress.lock().is_running = false;
    let error = result
        .file
        .as_ref()
        .err()
        .or(result.url.as_ref().and_then(|r| r.as_ref().err()));
    let last_error = error.cloned();
    if let Some(error) = &last_error {
        tracing::warn!(%error, "cannot read the JWKS; the keys read before stay in use");
    }
    let has_failed = last_error.is_some();
    let keys = verifier.take_read_keys(result);
    jwks.status.send_modify(|status| {
        status.attempts += 1;
        status.failures += u64::from(has_failed);
        status.last_error = last_error;
        status.keys = keys;
    });
    let config = &jwks.config;
    if has_failed {
        config.unknown_key_interval.min(config.refresh_interval)
    } else {
        config.refresh_interval
    }
}

/// The sources of a key set, and who asked for it when.
pub(crate) struct Jwks {
    config: JwksConfig,
    fetcher: Option<Fetcher>,
    progress: Mutex<Progress>,
    asked: Notify,
    status: watch::Sender<JwksStatus>,
}

#[derive(Default)]
struct Progress {
    is_running: bool,
    started: Option<Instant>,
}

/// What one round of reading gave; `Err` keeps the keys from before.
pub(crate) struct Read {
    pub(crate) file: Result<Vec<Key>, String>,
    pub(crate) url: Option<Result<Vec<Key>, String>>,
}

impl Jwks {
    pub(crate) fn new(config: &JwksConfig) -> Result<Self, SetupError> {
        let fetcher = config
            .url
            .as_deref()
            .map(|url| Fetcher::new(url, config))
            .transpose()?;
        Ok(Self {
            config: config.clone(),
            fetcher,
            progress: Mutex::default(),
            asked: Notify::new(),
            status: watch::Sender::default(),
        })
    }

    pub(crate) fn has_url(&self) -> bool {
        self.fetcher.is_some()
    }

    pub(crate) fn status(&self) -> watch::Receiver<JwksStatus> {
        self.status.subscribe()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Asks for a fresh set. False: too soon after the last read.
    pub(crate) fn ask(&self) -> bool {
        let progress = self.progress.lock();
        if progress.is_running {
            return true;
        }
        let is_due = progress.is_due(self.config.unknown_key_interval);
        if is_due {
            self.asked.notify_one();
        }
        is_due
    }

    /// Returns when somebody asked. A request left over from before the last read counts for nothing.
    async fn asked_in_time(&self) {
        loop {
            self.asked.notified().await;
            if self
                .progress
                .lock()
                .is_due(self.config.unknown_key_interval)
            {
                return;
            }
        }
    }

    async fn read(&self) -> Read {
        let file = match &self.config.file {
            Some(path) => tokio::fs::read(path)
                .await
                .map_err(|error| format!("cannot read the file: {error}"))
                .and_then(|bytes| {
                    parse(&bytes, true).map_err(|reason| format!("the file {reason}"))
                }),
            None => Ok(Vec::new()),
        };
        let url = match &self.fetcher {
            Some(fetcher) => Some(
                fetcher
                    .fetch()
                    .await
                    .and_then(|bytes| parse(&bytes, false).map_err(|r| format!("the answer {r}"))),
            ),
            None => None,
        };
        Read { file, url }
    }
}

impl Progress {
    fn start(&mut self) {
        self.is_running = true;
        self.started = Some(Instant::now());
    }

    fn is_due(&self, interval: Duration) -> bool {
        self.started
            .is_none_or(|started| started.elapsed() >= interval)
    }
}

/// The usable keys of a JWK set (RFC 7517 §5); others are skipped, as §5 asks. `symmetric`: whether `oct` keys count.
pub(crate) fn parse(bytes: &[u8], symmetric: bool) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(bytes)
        .map_err(|_| "is not a JWK set ({\"keys\": […]})".to_owned())?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!(
            "has {} keys, at most {KEYS_MAX} are taken",
            set.keys.len()
        ));
    }
    let mut keys = Vec::new();
    for (index, value) in set.keys.into_iter().enumerate() {
        let key = serde_json::from_value::<Jwk>(value)
            .map_err(|_| "not a JWK")
            .and_then(|jwk| Key::from_jwk(&jwk, symmetric));
        match key {
            Ok(key) => keys.push(key),
            Err(reason) => tracing::debug!(index, reason, "key of the JWKS skipped"),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_key_by_key() {
        let x = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
        let key = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{x}"}}"#);
        let many = vec![key.as_str(); KEYS_MAX + 1].join(",");
        let cases: &[(String, Result<usize, &str>)] = &[
            (r#"{"keys":[]}"#.into(), Ok(0)),
            (format!(r#"{{"keys":[{key}]}}"#), Ok(1)),
            (
                format!(r#"{{"keys":[1,null,{{}},{{"kty":"x"}},{key}],"more":true}}"#),
                Ok(1),
            ),
            (format!(r#"{{"keys":[{{"kty":"oct","k":"{x}"}}]}}"#), Ok(0)),
            (format!(r#"{{"keys":[{many}]}}"#), Err("129 keys")),
            ("<!doctype html><html>".into(), Err("not a JWK set")),
            (String::new(), Err("not a JWK set")),
            (r#"{"keys":{}}"#.into(), Err("not a JWK set")),
            (format!("[{key}]"), Err("not a JWK set")),
            (r#"{"error":"nope"}"#.into(), Err("not a JWK set")),
        ];
        for (text, expected) in cases {
            match (parse(text.as_bytes(), false), expected) {
                (Ok(keys), Ok(count)) => assert_eq!(keys.len(), *count, "{text}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{text}: {reason}"),
                (got, _) => panic!("{text}: {:?}", got.map(|keys| keys.len())),
            }
        }
    }
}
