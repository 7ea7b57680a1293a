use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::cache::{Cache, Digest};
use crate::claims::Object;
use crate::config::{AuthConfig, KeyConfig};
use crate::error::{AuthError, SetupError};
use crate::identity::Identity;
use crate::jwks::{self, Jwks, JwksStatus, Read};
use crate::key::{Key, KeyId};
use crate::key_set::KeySet;
use crate::role::is_usable_role;
use crate::token::Token;

/// The default bound of a token in bytes; the most that any proxy lets through in a header, too.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Some 10 MiB with claims of 1 KiB.
const CACHED_TOKENS_MAX: usize = 10_000;

/// Checks tokens. Shared by all connections; a check takes microseconds and never waits, except [`Verifier::verify_fresh`].
pub struct Verifier {
    config: AuthConfig,
    sources: Mutex<Sources>,
    keys: RwLock<Arc<KeySet>>,
    jwks: Option<Jwks>,
    cache: Mutex<Cache>,
    generation: watch::Sender<u64>,
}

/// The keys by where they came from, since each source is replaced on its own.
#[derive(Default)]
struct Sources {
    fixed: Vec<Arc<Key>>,
    file: Vec<Arc<Key>>,
    url: Option<Vec<Arc<Key>>>,
}

impl Verifier {
    /// Reads the configured keys and files. The JWKS address is read by [`crate::refresh_jwks`], which must be running.
    pub fn new(config: AuthConfig) -> Result<Self, SetupError> {
        check_roles(&config)?;
        let sources = Sources {
            fixed: fixed_keys(&config.keys)?,
            file: file_keys(&config.keys)?,
            url: None,
        };
        let jwks = config.keys.jwks.as_ref().map(Jwks::new).transpose()?;
        let is_complete = !jwks.as_ref().is_some_and(Jwks::has_url);
        let keys = sources.all();
        if keys.is_empty() && jwks.is_none() && config.anonymous_role.is_none() {
            return Err(SetupError::NoKeys);
        }
        Ok(Self {
            config,
            keys: RwLock::new(Arc::new(KeySet::new(keys, 0, is_complete))),
            sources: Mutex::new(sources),
            jwks,
            cache: Mutex::new(Cache::new(CACHED_TOKENS_MAX)),
            generation: watch::Sender::new(0),
        })
    }

    /// Who the bearer of `token` is, now.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.verify_at(token, unix_now())
    }

    /// As [`Self::verify`]; a token signed with a key we don't know waits, at most the request's timeout, for a fresh
    /// key set if one may be asked for. For connecting clients, so that the first token after a rotation works.
    pub async fn verify_fresh(&self, token: &str) -> Result<Identity, AuthError> {
        let Some(jwks) = &self.jwks else {
            return self.verify(token);
        };
        let mut status = jwks.status();
        let attempts = status.borrow_and_update().attempts;
        let first = self.verify(token);
        if !matches!(
            first,
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable)
        ) {
            return first;
        }
        if !jwks.ask() && status.borrow().attempts == attempts {
            return first;
        }
        let read = status.wait_for(|status| status.attempts > attempts);
        match tokio::time::timeout(jwks.timeout(), read).await {
            Ok(Ok(_)) => self.verify(token),
            _ => first,
        }
    }

    /// As [`Self::verify`], at a given time in Unix seconds.
    pub fn verify_at(&self, token: &str, now: i64) -> Result<Identity, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > self.config.token_bytes_max {
            return Err(AuthError::TooLong);
        }
        let keys = self.keys.read().clone();
        let digest = Cache::digest(token);
        if let Some(identity) = self.cached(&digest, keys.generation, now)? {
            return Ok(identity);
        }
        let token = Token::parse(token)?;
        let key = self.signer(&keys, &token)?;
        let identity = self.identity(&token.payload()?, key, now)?;
        self.cache
            .lock()
            .insert(digest, identity.clone(), keys.generation, now);
        Ok(identity)
    }

    /// The identity without a token, if that is allowed.
    pub fn anonymous(&self) -> Option<Identity> {
        self.config
            .anonymous_role
            .as_deref()
            .map(Identity::anonymous)
    }

    /// Whether the key behind an identity is still accepted. To be asked for open connections when [`Self::keys_changed`]
    /// tells of a change.
    pub fn trusts(&self, identity: &Identity) -> bool {
        match &identity.key {
            Some(id) => self.keys.read().contains(id),
            None => self.config.anonymous_role.is_some(),
        }
    }

    /// Whether the identity's time is over, leeway included.
    pub fn is_expired(&self, identity: &Identity, now: i64) -> bool {
        identity
            .expires_at
            .is_some_and(|exp| now >= exp.saturating_add(self.leeway()))
    }

    /// A number that grows when the accepted keys change.
    pub fn keys_changed(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// How reading the JWKS goes; `None` when none is configured. `attempts > 0` once the first read is done.
    pub fn jwks_status(&self) -> Option<watch::Receiver<JwksStatus>> {
        self.jwks.as_ref().map(Jwks::status)
    }

    /// Takes new secrets, PEM keys and the JWKS file's content, for a reload without restart. Whatever is not among
    /// them any more is no longer accepted. The JWKS address stays the one from the start. On error nothing changes.
    pub fn reload_keys(&self, config: &KeyConfig) -> Result<(), SetupError> {
        let (fixed, file) = (fixed_keys(config)?, file_keys(config)?);
        let mut sources = self.sources.lock();
        sources.fixed = fixed;
        sources.file = file;
        self.replace_keys(&sources);
        Ok(())
    }

    pub(crate) fn jwks(&self) -> Option<&Jwks> {
        self.jwks.as_ref()
    }

    /// Takes what a round of reading gave; returns how many keys are now in use from file and address.
    pub(crate) fn take_read_keys(&self, read: Read) -> usize {
        let shared = |keys: Vec<Key>| keys.into_iter().map(Arc::new).collect::<Vec<_>>();
        let mut sources = self.sources.lock();
        if let Ok(keys) = read.file {
            sources.file = shared(keys);
        }
        if let Some(Ok(keys)) = read.url {
            sources.url = Some(shared(keys));
        }
        self.replace_keys(&sources);
        sources.file.len() + sources.url.as_ref().map_or(0, Vec::len)
    }

    /// Puts the set of all sources in place, unless it is the same as before.
    fn replace_keys(&self, sources: &Sources) {
        let is_complete = sources.url.is_some() || !self.jwks.as_ref().is_some_and(Jwks::has_url);
        let all = sources.all();
        let mut keys = self.keys.write();
        if keys.is_complete == is_complete && keys.is_same(&all) {
            return;
        }
        let generation = keys.generation + 1;
        *keys = Arc::new(KeySet::new(all, generation, is_complete));
        self.generation.send_replace(generation);
    }

    fn cached(
        &self,
        digest: &Digest,
        generation: u64,
        now: i64,
    ) -> Result<Option<Identity>, AuthError> {
        let found = self.cache.lock().get(digest, generation);
        match found {
            Some(identity) if self.is_expired(&identity, now) => Err(AuthError::Expired),
            found => Ok(found),
        }
    }

    /// The key that signed the token.
    fn signer(&self, keys: &KeySet, token: &Token<'_>) -> Result<KeyId, AuthError> {
        let is_named = token.kid.as_deref().is_some_and(|kid| keys.has_kid(kid));
        let fitting: Vec<&Key> = keys
            .named(token.kid.as_deref())
            .into_iter()
            .filter(|key| key.allows(token.algorithm))
            .collect();
        let signer = fitting
            .iter()
            .find(|key| key.verifies(token.algorithm, token.message.as_bytes(), token.signature));
        if let Some(key) = signer {
            return Ok(key.id);
        }
        if !is_named && !keys.is_complete {
            return Err(AuthError::KeysUnavailable);
        }
        if token.kid.is_some()
            && !is_named
            && let Some(jwks) = &self.jwks
        {
            jwks.ask();
            return Err(AuthError::UnknownKey);
        }
        Err(match fitting.is_empty() {
            true if token.kid.is_some() && !is_named && keys.does(token.algorithm) => {
                AuthError::UnknownKey
            }
            true => AuthError::Algorithm,
            false => AuthError::Signature,
        })
    }

    /// The identity in a payload whose signature was found good.
    fn identity(&self, payload: &str, key: KeyId, now: i64) -> Result<Identity, AuthError> {
        let claims = Object::parse(payload)?;
        let expires_at = self.check_times(&claims, now)?;
        self.check_addressees(&claims)?;
        let role = self.role(&claims)?;
        Ok(Identity {
            subject: claims.string("sub")?.map(Arc::from),
            claims: claims.with_role(&role)?.into(),
            role: role.into(),
            expires_at,
            key: Some(key),
        })
    }

    fn check_times(&self, claims: &Object<'_>, now: i64) -> Result<Option<i64>, AuthError> {
        let latest = now.saturating_add(self.leeway());
        let expires_at = claims.time("exp")?;
        match expires_at {
            None if self.config.require_expiry => return Err(AuthError::NoExpiry),
            Some(exp) if now >= exp.saturating_add(self.leeway()) => {
                return Err(AuthError::Expired);
            }
            _ => {}
        }
        for name in ["nbf", "iat"] {
            if claims.time(name)?.is_some_and(|from| from > latest) {
                return Err(AuthError::NotYetValid);
            }
        }
        Ok(expires_at)
    }

    fn check_addressees(&self, claims: &Object<'_>) -> Result<(), AuthError> {
        let (audiences, issuers) = (&self.config.audiences, &self.config.issuers);
        if !audiences.is_empty() && !claims.strings("aud")?.iter().any(|a| audiences.contains(a)) {
            return Err(AuthError::Audience);
        }
        if !issuers.is_empty() && !claims.string("iss")?.is_some_and(|i| issuers.contains(&i)) {
            return Err(AuthError::Issuer);
        }
        Ok(())
    }

    fn role(&self, claims: &Object<'_>) -> Result<String, AuthError> {
        let named = claims.string_at(&self.config.role_claim)?;
        let role = named
            .or_else(|| self.config.default_role.clone())
            .ok_or(AuthError::Role)?;
        let is_allowed = is_usable_role(&role) && self.config.allowed_roles.contains(&role);
        is_allowed.then_some(role).ok_or(AuthError::Role)
    }

    fn leeway(&self) -> i64 {
        i64::try_from(self.config.leeway.as_secs()).unwrap_or(i64::MAX)
    }
}

impl Sources {
    fn all(&self) -> Vec<Arc<Key>> {
        self.fixed
            .iter()
            .chain(&self.file)
            .chain(self.url.iter().flatten())
            .cloned()
            .collect()
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn fixed_keys(config: &KeyConfig) -> Result<Vec<Arc<Key>>, SetupError> {
    let mut keys = Vec::new();
    if let Some(secret) = &config.secret {
        keys.push(Key::from_secret("jwt_secret", secret.as_bytes())?);
    }
    if let Some(secret) = &config.previous_secret {
        keys.push(Key::from_secret("jwt_previous_secret", secret.as_bytes())?);
    }
    if let Some(pem) = &config.public_keys_pem {
        keys.extend(Key::from_pem(pem)?);
    }
    Ok(keys.into_iter().map(Arc::new).collect())
}

fn file_keys(config: &KeyConfig) -> Result<Vec<Arc<Key>>, SetupError> {
    let Some(path) = config.jwks.as_ref().and_then(|jwks| jwks.file.clone()) else {
        return Ok(Vec::new());
    };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(SetupError::JwksFile { path, source }),
    };
    match jwks::parse(&bytes, true) {
        Ok(keys) if !keys.is_empty() => Ok(keys.into_iter().map(Arc::new).collect()),
        Ok(_) => {
            let reason = "holds no key that can be used".into();
            Err(SetupError::JwksContent { path, reason })
        }
        Err(reason) => Err(SetupError::JwksContent { path, reason }),
    }
}

fn check_roles(config: &AuthConfig) -> Result<(), SetupError> {
    let named = |setting, role: &String| (setting, role.clone());
    let default = config
        .default_role
        .iter()
        .map(|role| named("jwt_default_role", role));
    let anonymous = config
        .anonymous_role
        .iter()
        .map(|role| named("anonymous_role", role));
    let allowed = config
        .allowed_roles
        .iter()
        .map(|role| named("allowed_roles", role));
    match default
        .chain(anonymous)
        .chain(allowed)
        .find(|(_, role)| !is_usable_role(role))
    {
        Some((setting, role)) => Err(SetupError::Role { setting, role }),
        None => Ok(()),
    }
}

fn unix_now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
