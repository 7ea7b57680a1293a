//! The clock and the tokens of a socket's channels: what ends them, and what keeps them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use walcast_auth::Identity;
use walcast_hub::Closing;
use walcast_protocol::phoenix::{Ending, Shutdown, Token};

use super::channel::{channel_viewer, hears, unable};
use super::credential::expired;
use super::rights::{Kind, Rights};
use super::{Session, identify};
use crate::session::client::viewer;

/// How often it is looked for joins that have waited long enough. Nothing depends on it but the
/// clock of their tokens.
const UNSETTLED: Duration = Duration::from_secs(1);

impl Session {
    /// When [`Session::tick`] is due.
    pub(in crate::session) fn wake_at(&self) -> Instant {
        let settings = &self.shared.settings;
        let wake = (self.heard + settings.idle_timeout).min(self.pinged + settings.ping_interval);
        let left = self.channels.values();
        let left = left.filter_map(|channel| self.token_left(&channel.identity));
        let unsettled = (!self.waiting.is_empty()).then_some(UNSETTLED);
        match left.chain(unsettled).min() {
            Some(left) => wake.min(Instant::now() + left),
            None => wake,
        }
    }

    pub(in crate::session) async fn tick(&mut self, now: Instant) -> Option<Closing> {
        if now >= self.heard + self.shared.settings.idle_timeout {
            return Some(Closing::Idle);
        }
        self.settle_finished().await;
        let mut over = Vec::new();
        for (topic, channel) in &self.channels {
            let identity = &channel.identity;
            if self.token_left(identity) == Some(Duration::ZERO) {
                over.push((topic.clone(), expired(identity).at_refresh()));
            } else if !identity.is_anonymous() && !self.shared.verifier.trusts(identity) {
                // The key that signed the token was withdrawn.
                over.push((topic.clone(), Shutdown::TokenSignature));
            }
        }
        for (topic, shutdown) in over {
            self.shut(&topic, shutdown).await;
        }
        if now >= self.pinged + self.shared.settings.ping_interval {
            self.ping(now);
        }
        None
    }

    /// A new token for a channel. The same again, and API keys, are no news.
    pub(super) async fn refresh(&mut self, topic: &str, token: Option<Token>) {
        let (Some(token), Some(channel)) = (token, self.channels.get(topic)) else {
            return;
        };
        if channel.token == token.as_str() {
            return;
        }
        let accepted = match identify(&self.shared, token.as_str()).await {
            Ok(identity) => self.judge_anew(topic, token.as_str(), identity).await,
            Err(error) => Err(error.at_refresh()),
        };
        if let Err(shutdown) = accepted {
            self.shut(topic, shutdown).await;
        }
    }

    /// First the narrower view, then all else.
    async fn judge_anew(
        &mut self,
        topic: &str,
        token: &str,
        identity: Identity,
    ) -> Result<(), Shutdown> {
        let Some(channel) = self.channels.get_mut(topic) else {
            return Ok(());
        };
        if channel.membership.namespace() == walcast_hub::Namespace::Private {
            let asking = channel_viewer(&identity, &self.headers);
            let access = &self.shared.channel_access;
            let presence = channel.rights.was_asked(Kind::Presence);
            let judged = Rights::of_reader(access, &asking, channel.subtopic(), presence).await;
            channel.rights = judged.map_err(|failure| unable(&failure))?;
            if !channel.rights.may_join() {
                let topic = channel.subtopic().to_owned();
                return Err(Shutdown::PermissionRevoked { topic });
            }
            channel
                .membership
                .set_hears(hears(&channel.rights, channel.own));
        }
        if let Some(changes) = &channel.changes {
            changes.set_viewer(viewer(&identity)).await;
        }
        channel.identity = identity;
        channel.token = token.to_owned();
        Ok(())
    }

    /// Ends a channel, if it is joined, and says why.
    pub(super) async fn shut(&mut self, topic: &str, shutdown: Shutdown) {
        let Some(channel) = self.channels.remove(topic) else {
            return;
        };
        let ending = match self.shared.settings.phoenix.close_for_good {
            true => Ending::Close,
            false => shutdown.ending(),
        };
        channel
            .shut(self.version, &self.outbox, shutdown, ending)
            .await;
    }

    /// The time until a token is no longer accepted, leeway included.
    fn token_left(&self, identity: &Identity) -> Option<Duration> {
        let expires_at = u64::try_from(identity.expires_at?).unwrap_or(0);
        let end = UNIX_EPOCH + Duration::from_secs(expires_at) + self.shared.settings.leeway;
        let left = end.duration_since(SystemTime::now());
        Some(left.unwrap_or(Duration::ZERO))
    }
}
