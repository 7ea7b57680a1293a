//! One client's conversation: who it is, what it asks for, and when its time is up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info};
use walcast_auth::{Identity, Verifier};
use walcast_hub::{
    Closing, ConnId, Connections, LimitError, Outbox, RateLimit, Spec, SubscriptionId, Ticket,
};
use walcast_protocol::{Acknowledgement, Code, Codec, Command, Notice, Refusal, Subscribe};
use walcast_rls::{Access, Viewer};
use walcast_websocket::{CloseCode, OpCode, frame};

use crate::metrics::Metrics;
use crate::order::{Begin, Order, Orders};

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) access: Access,
    pub(crate) orders: Orders,
    pub(crate) connections: Arc<Connections>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: SessionSettings,
    ids: AtomicU64,
}

#[derive(Clone, Debug)]
pub(crate) struct SessionSettings {
    pub(crate) subscriptions_max: usize,
    pub(crate) messages_per_minute_max: u32,
    pub(crate) outbox_bytes_max: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) expiry_warning: Duration,
    pub(crate) leeway: Duration,
    /// What follows an expired token: the anonymous role, or the end.
    pub(crate) downgrade: bool,
}

/// How long the question who may subscribe may wait for its answer, behind those of the others.
const ACCESS_PATIENCE: Duration = Duration::from_secs(15);
/// How long a subscription may wait for the stream to be live.
const LIVE_PATIENCE: Duration = Duration::from_secs(10);

impl Shared {
    pub(crate) fn new(
        verifier: Arc<Verifier>,
        access: Access,
        orders: Orders,
        connections: Arc<Connections>,
        metrics: Arc<Metrics>,
        settings: SessionSettings,
    ) -> Shared {
        let ids = AtomicU64::new(1);
        Shared {
            verifier,
            access,
            orders,
            connections,
            metrics,
            settings,
            ids,
        }
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) struct Session {
    shared: Arc<Shared>,
    codec: &'static dyn Codec,
    id: ConnId,
    outbox: Arc<Outbox>,
    ticket: Option<Ticket>,
    identity: Option<Identity>,
    subscriptions: HashMap<SubscriptionId, Arc<Spec>>,
    /// The pipeline may know of subscriptions of this session, even of one that was never confirmed.
    known_to_pipeline: bool,
    rate: RateLimit,
    began: Instant,
    heard: Instant,
    pinged: Instant,
    warned: bool,
}

impl Session {
    /// A session from `address`, with the token that came with the handshake if there was one.
    /// What is wrong with it is said on the socket, where a browser can read it.
    pub(crate) async fn begin(
        shared: Arc<Shared>,
        codec: &'static dyn Codec,
        address: IpAddr,
        token: Option<&str>,
    ) -> Session {
        let now = Instant::now();
        let mut session = Session {
            codec,
            id: ConnId(shared.next_id()),
            outbox: Arc::new(Outbox::new(shared.settings.outbox_bytes_max)),
            ticket: None,
            identity: None,
            subscriptions: HashMap::new(),
            known_to_pipeline: false,
            rate: RateLimit::new(shared.settings.messages_per_minute_max, now),
            began: now,
            heard: now,
            pinged: now,
            warned: false,
            shared,
        };
        match session.shared.connections.admit(address) {
            Ok(ticket) => session.ticket = Some(ticket),
            Err(error) => {
                session.refuse_connection(&error);
                return session;
            }
        }
        if let Some(identity) = session
            .shared
            .verifier
            .anonymous()
            .filter(|_| token.is_none())
        {
            session.identity = Some(identity);
        }
        if let Some(token) = token
            && let Err(refusal) = session.accept_token(token).await
        {
            session.refuse(&refusal);
            session.outbox.close(match refusal.code {
                Code::RateLimited => Closing::Full,
                _ => Closing::Expired,
            });
        }
        session
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Whether it is within the limits on connections, in all and of its address.
    pub(crate) fn is_admitted(&self) -> bool {
        self.ticket.is_some()
    }

    pub(crate) fn id(&self) -> ConnId {
        self.id
    }

    pub(crate) fn closing(&self, closing: Closing) -> (CloseCode, &'static str) {
        self.shared.metrics.closed(closing);
        let (code, reason) = self.codec.closing(closing);
        (CloseCode(code), reason)
    }

    /// A whole message or control frame came from the client.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Carries out one message; the reason if it ends the connection.
    pub(crate) async fn receive(&mut self, message: &[u8]) -> Option<Closing> {
        self.shared.metrics.messages.inc();
        if let Err(wait) = self.rate.count(Instant::now()) {
            let text = format!(
                "too many messages; the next one is taken in {} s",
                wait.as_secs() + 1
            );
            self.refuse(&Refusal::new(Code::RateLimited, text));
            return None;
        }
        let done = match self.codec.decode(message) {
            Ok(command) => self.carry_out(command).await,
            Err(refusal) => Err(refusal),
        };
        match done {
            Ok(closing) => closing,
            Err(refusal) => {
                self.refuse(&refusal);
                None
            }
        }
    }

    async fn carry_out(&mut self, command: Command) -> Result<Option<Closing>, Refusal> {
        match command {
            Command::Ping => self.acknowledge(&Acknowledgement::Pong),
            Command::Heartbeat => {}
            Command::AccessToken { token } => self.refresh(&token).await?,
            Command::Subscribe(subscribe) => self.subscribe(subscribe).await?,
            Command::Unsubscribe {
                channel,
                subscription,
            } => {
                return self
                    .unsubscribe(channel, subscription.map(SubscriptionId))
                    .await;
            }
        }
        Ok(None)
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Refusal> {
        let viewer = self
            .viewer()
            .map_err(|refusal| refusal.on(&*subscribe.channel))?;
        let spec = Arc::new(Spec {
            target: subscribe.target.clone(),
            events: subscribe.events,
            filter: subscribe.filter.clone(),
            channel: subscribe.channel.as_str().into(),
            format: subscribe.format,
        });
        // The same subscription twice is one subscription.
        let id = match self.subscribed(&spec) {
            Some(id) => id,
            None => {
                self.place_for(&subscribe)?;
                self.authorize(&viewer, &spec).await?;
                SubscriptionId(self.shared.next_id())
            }
        };
        let (done, live) = oneshot::channel();
        let codec = self.codec;
        let channel = subscribe.channel.clone();
        let begin = Begin {
            id,
            connection: self.id,
            viewer,
            spec: spec.clone(),
            outbox: self.outbox.clone(),
            acknowledge: Box::new(move |cursor| {
                let subscribed = Acknowledgement::Subscribed {
                    id,
                    subscribe: &subscribe,
                    cursor,
                };
                text_frame(|out| codec.acknowledgement(&subscribed, out))
            }),
            done,
        };
        self.known_to_pipeline = true;
        let sent = self.shared.orders.send(Order::Subscribe(begin));
        let live = timeout(LIVE_PATIENCE, async {
            sent.await.is_ok() && live.await.is_ok()
        })
        .await;
        if !matches!(live, Ok(true)) {
            let text = "the stream of changes is not available right now; try again in a moment";
            return Err(Refusal::new(Code::SubscriptionFailed, text).on(channel));
        }
        debug!(connection = self.id.0, subscription = id.0, "subscribed");
        self.subscriptions.insert(id, spec);
        Ok(())
    }

    fn subscribed(&self, spec: &Arc<Spec>) -> Option<SubscriptionId> {
        self.subscriptions
            .iter()
            .find(|(_, own)| *own == spec)
            .map(|(id, _)| *id)
    }

    fn place_for(&self, subscribe: &Subscribe) -> Result<(), Refusal> {
        let most = self.shared.settings.subscriptions_max;
        if most != 0 && self.subscriptions.len() >= most {
            let text = format!("this connection has its {most} subscriptions already");
            return Err(Refusal::new(Code::RateLimited, text).on(&*subscribe.channel));
        }
        Ok(())
    }

    async fn authorize(&self, viewer: &Viewer, spec: &Spec) -> Result<(), Refusal> {
        let refuse = |code, text: String| Refusal::new(code, text).on(&*spec.channel);
        let target = &spec.target;
        let asked = spec.filter.as_ref().map(|filter| &**filter.column());
        let access = &self.shared.access;
        let granted = async {
            match &target.table {
                Some(table) => {
                    let columns = asked.as_slice();
                    access.table(viewer, &target.schema, table, columns).await
                }
                None => access.schema(viewer, &target.schema).await,
            }
        };
        // The session's clock stands still meanwhile.
        let granted = timeout(ACCESS_PATIENCE, granted).await.map_err(|_| {
            refuse(
                Code::SubscriptionFailed,
                "access can't be checked at the moment".to_owned(),
            )
        })?;
        let types = granted.map_err(|error| {
            info!(connection = self.id.0, channel = ?spec.channel, role = %viewer.role, reason = %error.reason(), "subscription refused");
            refuse(if error.is_final() { Code::Forbidden } else { Code::SubscriptionFailed }, error.to_string())
        })?;
        if let Some(filter) = &spec.filter
            && let Some(oid) = types.first()
        {
            let checked = filter.check(*oid);
            checked.map_err(|error| refuse(Code::SubscriptionFailed, error.to_string()))?;
        }
        Ok(())
    }

    async fn unsubscribe(
        &mut self,
        channel: Option<String>,
        id: Option<SubscriptionId>,
    ) -> Result<Option<Closing>, Refusal> {
        let ended: Vec<SubscriptionId> = match (id, &channel) {
            (Some(id), _) => self
                .subscriptions
                .contains_key(&id)
                .then_some(id)
                .into_iter()
                .collect(),
            (None, Some(channel)) => {
                let own = self.subscriptions.iter();
                own.filter(|(_, spec)| *spec.channel == **channel)
                    .map(|(id, _)| *id)
                    .collect()
            }
            (None, None) => self.subscriptions.keys().copied().collect(),
        };
        for id in ended {
            self.drop_subscription(id).await;
        }
        self.acknowledge(&Acknowledgement::Unsubscribed {
            channel: channel.as_deref(),
            id,
        });
        // The Fluxbase SDK, which alone names ids, waits for the end of the socket.
        let last = id.is_some() && self.subscriptions.is_empty();
        Ok(last.then_some(Closing::Done))
    }

    async fn drop_subscription(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(&id);
        let (done, ended) = oneshot::channel();
        if self
            .shared
            .orders
            .send(Order::Unsubscribe(id, done))
            .await
            .is_ok()
        {
            let _ = ended.await;
        }
    }

    /// Takes a token for the first time or anew.
    async fn refresh(&mut self, token: &str) -> Result<(), Refusal> {
        self.accept_token(token).await?;
        let viewer = self.viewer()?;
        // First the view, which counts for every change, then what can't be subscribed to any more.
        self.set_viewer(viewer.clone()).await;
        self.end_forbidden(&viewer).await;
        self.acknowledge(&Acknowledgement::TokenAccepted);
        Ok(())
    }

    /// Ends the subscriptions that `viewer` may not have. If that can't be found out they stay:
    /// every change is judged anyway.
    async fn end_forbidden(&mut self, viewer: &Viewer) {
        for (id, spec) in self.subscriptions.clone() {
            match self.authorize(viewer, &spec).await {
                Err(refusal) if refusal.code == Code::Forbidden => {
                    self.drop_subscription(id).await;
                    self.refuse(&refusal);
                }
                Ok(()) => {}
                Err(_) => return,
            }
        }
    }

    async fn set_viewer(&mut self, viewer: Viewer) {
        let (done, set) = oneshot::channel();
        if self
            .shared
            .orders
            .send(Order::SetViewer(self.id, viewer, done))
            .await
            .is_ok()
        {
            let _ = set.await;
        }
    }

    async fn accept_token(&mut self, token: &str) -> Result<(), Refusal> {
        let identity = self
            .shared
            .verifier
            .verify_fresh(token)
            .await
            .map_err(|error| {
                self.shared.metrics.token_refused(error.code());
                Refusal::new(Code::Unauthorized, error.to_string())
            })?;
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
        self.identity = Some(identity);
        self.warned = false;
        Ok(())
    }

    fn viewer(&self) -> Result<Viewer, Refusal> {
        match &self.identity {
            Some(identity) => Ok(Viewer {
                role: identity.role.clone(),
                claims: identity.claims.clone(),
            }),
            None => Err(Refusal::new(
                Code::Unauthorized,
                "authentication required: connect with ?token=…, or send access_token first",
            )),
        }
    }

    /// When [`Session::tick`] is due.
    pub(crate) fn wake_at(&self) -> Instant {
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

    /// What the clock asks for; the reason if it ends the connection.
    pub(crate) async fn tick(&mut self, now: Instant) -> Option<Closing> {
        let settings = self.shared.settings.clone();
        if now >= self.heard + settings.idle_timeout {
            return Some(Closing::Idle);
        }
        if self.identity.is_none() && now >= self.began + settings.handshake_timeout {
            self.refuse(&Refusal::new(Code::Unauthorized, "no token came in time"));
            return Some(Closing::Unauthenticated);
        }
        if let Some(identity) = &self.identity
            && !self.shared.verifier.trusts(identity)
        {
            self.refuse(&Refusal::new(
                Code::Unauthorized,
                "the key that signed the token was withdrawn",
            ));
            return Some(Closing::Expired);
        }
        if now >= self.pinged + settings.ping_interval {
            self.pinged = now;
            self.outbox.push(frame(OpCode::Ping, b""));
        }
        match self.token_left() {
            Some(Duration::ZERO) => self.expire().await,
            Some(left) if left <= settings.expiry_warning && !self.warned => {
                self.warned = true;
                let expires_at = self
                    .identity
                    .as_ref()
                    .and_then(|identity| identity.expires_at);
                self.notice(&Notice::TokenExpiring {
                    expires_at: expires_at.unwrap_or_default(),
                });
                None
            }
            _ => None,
        }
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

    async fn expire(&mut self) -> Option<Closing> {
        let anonymous = self
            .shared
            .verifier
            .anonymous()
            .filter(|_| self.shared.settings.downgrade);
        let Some(identity) = anonymous else {
            self.refuse(&Refusal::new(Code::Unauthorized, "the token has expired"));
            return Some(Closing::Expired);
        };
        let viewer = Viewer {
            role: identity.role.clone(),
            claims: identity.claims.clone(),
        };
        // First the narrower view, then the word about it.
        self.set_viewer(viewer.clone()).await;
        self.identity = Some(identity);
        self.notice(&Notice::Downgraded { role: &viewer.role });
        self.end_forbidden(&viewer).await;
        None
    }

    /// The subscriptions end with the connection.
    pub(crate) async fn end(&mut self) {
        if self.known_to_pipeline {
            let _ = self.shared.orders.send(Order::Disconnect(self.id)).await;
            self.subscriptions.clear();
        }
        self.ticket = None;
    }

    fn refuse_connection(&self, error: &LimitError) {
        self.refuse(&Refusal::new(Code::RateLimited, error.to_string()));
        self.outbox.close(Closing::Full);
    }

    fn refuse(&self, refusal: &Refusal) {
        self.shared.metrics.refused(refusal.code);
        self.say(|out| self.codec.refusal(refusal, out));
    }

    fn notice(&self, notice: &Notice<'_>) {
        self.say(|out| self.codec.notice(notice, out));
    }

    fn acknowledge(&self, acknowledgement: &Acknowledgement<'_>) {
        self.say(|out| self.codec.acknowledgement(acknowledgement, out));
    }

    fn say(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.outbox.push(text_frame(write));
    }
}

fn text_frame(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut payload = Vec::with_capacity(256);
    write(&mut payload);
    frame(OpCode::Text, &payload)
}
