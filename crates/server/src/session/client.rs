//! Who is at the other end of a socket: its place among the connections, its token, its clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use walcast_auth::Identity;
use walcast_hub::{ConnId, LimitError, Outbox, RateLimit, Ticket};
use walcast_protocol::{Code, Refusal};
use walcast_rls::Viewer;

use crate::shared::Shared;

/// One connection, whatever its dialect.
pub(crate) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ConnId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) identity: Option<Identity>,
    ticket: Option<Ticket>,
    rate: RateLimit,
    began: Instant,
    heard: Instant,
    pinged: Instant,
    warned: bool,
}

/// What a connection's clock asks for.
pub(super) enum Due {
    Nothing,
    /// Nothing was heard for too long.
    Idle,
    /// It did not say in time who it is.
    Unauthenticated,
    /// The key that signed its token was withdrawn.
    Withdrawn,
    Expired,
    /// The token ends at this time, in seconds since 1970.
    Expiring(i64),
    Ping,
}

impl Client {
    /// A connection from `address`; the error if there are too many.
    pub(super) fn enter(shared: Arc<Shared>, address: IpAddr) -> (Client, Option<LimitError>) {
        let now = Instant::now();
        let (ticket, error) = match shared.connections.admit(address) {
            Ok(ticket) => (Some(ticket), None),
            Err(error) => (None, Some(error)),
        };
        let client = Client {
            id: ConnId(shared.next_id()),
            outbox: Arc::new(Outbox::new(shared.settings.outbox_bytes_max)),
            identity: None,
            ticket,
            rate: RateLimit::new(shared.settings.messages_per_minute_max, now),
            began: now,
            heard: now,
            pinged: now,
            warned: false,
            shared,
        };
        (client, error)
    }

    /// Whether it is within the limits on connections, in all and of its address.
    pub(super) fn is_admitted(&self) -> bool {
        self.ticket.is_some()
    }

    /// A whole message or control frame came from the client.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Counts a message; the refusal if there are too many.
    pub(super) fn count_message(&mut self) -> Result<(), Refusal> {
        self.shared.metrics.messages.inc();
        self.rate.count(Instant::now()).map_err(|wait| {
            let text = format!(
                "too many messages; the next one is taken in {} s",
                wait.as_secs() + 1
            );
            Refusal::new(Code::RateLimited, text)
        })
    }

    /// Who connects without a token, if that is allowed.
    pub(super) fn be_anonymous(&mut self) {
        self.identity = self.shared.verifier.anonymous();
    }

    pub(super) async fn accept_token(&mut self, token: &str) -> Result<(), Refusal> {
        let identity = self.verified(token).await?;
        let before = self
            .identity
            .as_ref()
            .and_then(|identity| identity.subject.as_ref());
        if before.is_some() && before != identity.subject.as_ref() {
            let text = "the token belongs to somebody else; open a new connection for them";
            return Err(Refusal::new(Code::Forbidden, text));
        }
        if let Some(ticket) = &mut self.ticket {
            ticket
                .set_user(identity.subject.clone())
                .map_err(|error| Refusal::new(Code::RateLimited, error.to_string()))?;
        }
        self.set_identity(identity);
        Ok(())
    }

    pub(super) async fn verified(&self, token: &str) -> Result<Identity, Refusal> {
        let verified = self.shared.verifier.verify_fresh(token).await;
        verified.map_err(|error| {
            self.shared.metrics.token_refused(error.code());
            Refusal::new(Code::Unauthorized, error.to_string())
        })
    }

    pub(super) fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.warned = false;
    }

    /// The role that it falls back to when its token ends, if that is allowed.
    pub(super) fn lesser(&self) -> Option<Identity> {
        let anonymous = self.shared.verifier.anonymous();
        anonymous.filter(|_| self.shared.settings.downgrade)
    }

    pub(super) fn viewer(&self) -> Result<Viewer, Refusal> {
        match &self.identity {
            Some(identity) => Ok(viewer(identity)),
            None => Err(Refusal::new(
                Code::Unauthorized,
                "authentication required: connect with ?token=…, or send access_token first",
            )),
        }
    }

    /// When [`Client::due`] is to be asked.
    pub(super) fn wake_at(&self) -> Instant {
        let settings = &self.shared.settings;
        let mut wake =
            (self.heard + settings.idle_timeout).min(self.pinged + settings.ping_interval);
        if self.identity.is_none() {
            wake = wake.min(self.began + settings.handshake_timeout);
        }
        if let Some(left) = self.token_left() {
            let until = if self.warned {
                left
            } else {
                left.saturating_sub(settings.expiry_warning)
            };
            wake = wake.min(Instant::now() + until);
        }
        wake
    }

    /// What the clock asks for, the most urgent first.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let settings = &self.shared.settings;
        if now >= self.heard + settings.idle_timeout {
            return Due::Idle;
        }
        let Some(identity) = &self.identity else {
            return match now >= self.began + settings.handshake_timeout {
                true => Due::Unauthenticated,
                false => self.ping(now),
            };
        };
        if !self.shared.verifier.trusts(identity) {
            return Due::Withdrawn;
        }
        match self.token_left() {
            Some(Duration::ZERO) => return Due::Expired,
            Some(left) if left <= settings.expiry_warning && !self.warned => {
                self.warned = true;
                return Due::Expiring(identity.expires_at.unwrap_or_default());
            }
            _ => {}
        }
        self.ping(now)
    }

    fn ping(&mut self, now: Instant) -> Due {
        if now < self.pinged + self.shared.settings.ping_interval {
            return Due::Nothing;
        }
        self.pinged = now;
        Due::Ping
    }

    /// The time until the token is no longer accepted, leeway included.
    fn token_left(&self) -> Option<Duration> {
        let expires_at = u64::try_from(self.identity.as_ref()?.expires_at?).unwrap_or(0);
        let end = UNIX_EPOCH + Duration::from_secs(expires_at) + self.shared.settings.leeway;
        Some(
            end.duration_since(SystemTime::now())
                .unwrap_or(Duration::ZERO),
        )
    }

    /// Its place is given back.
    pub(super) fn leave(&mut self) {
        self.ticket = None;
    }
}

pub(super) fn viewer(identity: &Identity) -> Viewer {
    Viewer {
        role: identity.role.clone(),
        claims: identity.claims.clone(),
    }
}
