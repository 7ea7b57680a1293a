//! A conversation in the native protocol.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use walcast_change::Numbers;
use walcast_hub::{Closing, ConnId, LimitError, Outbox, Spec, SubscriptionId};
use walcast_protocol::{
    Acknowledgement, Code, Codec, Command, Native, Notice, Refusal, Start, Subscribe,
    UnknownNumbers,
};
use walcast_websocket::{CloseCode, OpCode, frame};

use super::client::{Client, Due, viewer};
use super::memberships::Memberships;
use super::subscriptions::{Subscriptions, Words};
use super::{Message, text_frame};
use crate::shared::Shared;

pub(crate) struct Session {
    client: Client,
    subscriptions: Subscriptions,
    memberships: Memberships,
    /// As the URL has it. One that is unknown is told to the first who would be given wrong numbers.
    numbers: Result<Option<Numbers>, UnknownNumbers>,
}

impl Session {
    pub(super) async fn begin(
        shared: Arc<Shared>,
        address: IpAddr,
        token: Option<&str>,
        numbers: Result<Option<Numbers>, UnknownNumbers>,
    ) -> Session {
        let (client, error) = Client::enter(shared.clone(), address);
        let mut session = Session {
            subscriptions: Subscriptions::new(shared, client.id, client.outbox.clone()),
            memberships: Memberships::new(),
            numbers,
            client,
        };
        match (error, token) {
            (Some(error), _) => session.refuse_connection(&error),
            (None, None) => session.client.be_anonymous(),
            (None, Some(token)) => {
                if let Err(refusal) = session.client.accept_token(token).await {
                    session.refuse(&refusal);
                    session.client.outbox.close(match refusal.code {
                        Code::RateLimited => Closing::Full,
                        _ => Closing::Expired,
                    });
                }
            }
        }
        session
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.client.outbox
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.client.is_admitted()
    }

    pub(super) fn id(&self) -> ConnId {
        self.client.id
    }

    pub(super) fn closing(&self, closing: Closing) -> (CloseCode, &'static str) {
        self.client.shared.metrics.closed(closing);
        let (code, reason) = Native.closing(closing);
        (CloseCode(code), reason)
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.client.heard(now);
    }

    pub(super) async fn receive(&mut self, message: &Message) -> Option<Closing> {
        let done = match self.client.count_message() {
            Err(refusal) => Err(refusal),
            Ok(()) => match Native.decode(message.bytes()) {
                Ok(command) => self.carry_out(command).await,
                Err(refusal) => Err(refusal),
            },
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
            Command::Channel(command) => {
                self.memberships.carry_out(&self.client, command)?;
                self.memberships.give_way().await;
            }
            Command::Unsubscribe {
                channel,
                subscription,
            } => {
                let id = subscription.map(SubscriptionId);
                return Ok(self.unsubscribe(channel, id).await);
            }
        }
        Ok(None)
    }

    async fn subscribe(&mut self, mut subscribe: Subscribe) -> Result<(), Refusal> {
        self.say_numbers(&mut subscribe)?;
        let viewer = self
            .client
            .viewer()
            .map_err(|refusal| refusal.on(&*subscribe.channel))?;
        let spec = Arc::new(Spec {
            target: subscribe.target.clone(),
            events: subscribe.events,
            filter: subscribe.filter.clone(),
            channel: subscribe.channel.as_str().into(),
            format: subscribe.format(),
            tag: 0,
            columns: None,
        });
        // The same subscription twice is one subscription, unless it is to begin elsewhere.
        let id = match self.subscriptions.find(&spec) {
            Some(id) if subscribe.start == Start::Now && self.subscriptions.goes_on(id) => id,
            before => {
                if let Some(id) = before {
                    self.subscriptions.drop(id).await;
                }
                self.place_for(&subscribe)?;
                self.subscriptions.authorize(&viewer, &spec).await?;
                SubscriptionId(self.client.shared.next_id())
            }
        };
        let start = subscribe.start;
        let words = words(id, subscribe);
        self.subscriptions
            .begin(id, viewer, spec, start, words)
            .await
    }

    /// A subscription that does not say how its numbers are to stand has them as the connection.
    fn say_numbers(&self, subscribe: &mut Subscribe) -> Result<(), Refusal> {
        if subscribe.numbers.is_none() {
            subscribe.numbers = self.numbers.map_err(|error| {
                let text = format!("in the URL: {error}");
                Refusal::new(Code::SubscriptionFailed, text).on(&*subscribe.channel)
            })?;
        }
        Ok(())
    }

    fn place_for(&self, subscribe: &Subscribe) -> Result<(), Refusal> {
        let most = self.client.shared.settings.subscriptions_max;
        if most != 0 && self.subscriptions.len() >= most {
            let text = format!("this connection has its {most} subscriptions already");
            return Err(Refusal::new(Code::RateLimited, text).on(&*subscribe.channel));
        }
        Ok(())
    }

    async fn unsubscribe(
        &mut self,
        channel: Option<String>,
        id: Option<SubscriptionId>,
    ) -> Option<Closing> {
        let ended: Vec<SubscriptionId> = match (id, &channel) {
            (Some(id), _) => {
                let known = self.subscriptions.contains(id);
                known.then_some(id).into_iter().collect()
            }
            (None, channel) => {
                let own = self.subscriptions.iter();
                let of = |spec: &Spec| {
                    let named = channel.as_deref();
                    named.is_none_or(|channel| *spec.channel == *channel)
                };
                own.filter(|(_, spec)| of(spec)).map(|(id, _)| id).collect()
            }
        };
        for id in ended {
            self.subscriptions.drop(id).await;
        }
        if id.is_none() {
            self.memberships.leave(channel.as_deref());
        }
        self.acknowledge(&Acknowledgement::Unsubscribed {
            channel: channel.as_deref(),
            id,
        });
        // The Fluxbase SDK, which alone names ids, waits for the end of the socket.
        let last = id.is_some() && self.subscriptions.is_empty() && self.memberships.is_empty();
        last.then_some(Closing::Done)
    }

    /// Takes a token for the first time or anew.
    async fn refresh(&mut self, token: &str) -> Result<(), Refusal> {
        self.client.accept_token(token).await?;
        let viewer = self.client.viewer()?;
        for refusal in self.subscriptions.set_viewer(&viewer).await {
            self.refuse(&refusal);
        }
        self.acknowledge(&Acknowledgement::TokenAccepted);
        Ok(())
    }

    pub(super) fn wake_at(&self) -> Instant {
        self.client.wake_at()
    }

    pub(super) async fn tick(&mut self, now: Instant) -> Option<Closing> {
        let unauthorized = |text: &str| Refusal::new(Code::Unauthorized, text);
        match self.client.due(now) {
            Due::Nothing => {}
            Due::Idle => return Some(Closing::Idle),
            Due::Unauthenticated => {
                self.refuse(&unauthorized("no token came in time"));
                return Some(Closing::Unauthenticated);
            }
            Due::Withdrawn => {
                self.refuse(&unauthorized("the key that signed the token was withdrawn"));
                return Some(Closing::Expired);
            }
            Due::Expired => return self.expire().await,
            Due::Expiring(expires_at) => self.notice(&Notice::TokenExpiring { expires_at }),
            Due::Ping => {
                self.client.outbox.push(frame(OpCode::Ping, b""));
            }
        }
        None
    }

    async fn expire(&mut self) -> Option<Closing> {
        let Some(identity) = self.client.lesser() else {
            self.refuse(&Refusal::new(Code::Unauthorized, "the token has expired"));
            return Some(Closing::Expired);
        };
        let viewer = viewer(&identity);
        // First the narrower view, then the word about it.
        let ended = self.subscriptions.set_viewer(&viewer).await;
        self.client.set_identity(identity);
        self.notice(&Notice::Downgraded { role: &viewer.role });
        for refusal in ended {
            self.refuse(&refusal);
        }
        None
    }

    pub(super) async fn end(&mut self) {
        self.memberships.leave(None);
        self.subscriptions.end().await;
        self.client.leave();
    }

    fn refuse_connection(&self, error: &LimitError) {
        self.refuse(&Refusal::new(Code::RateLimited, error.to_string()));
        self.client.outbox.close(Closing::Full);
    }

    fn refuse(&self, refusal: &Refusal) {
        self.client.shared.metrics.refused(refusal.code);
        self.say(|out| Native.refusal(refusal, out));
    }

    fn notice(&self, notice: &Notice<'_>) {
        self.say(|out| Native.notice(notice, out));
    }

    fn acknowledge(&self, acknowledgement: &Acknowledgement<'_>) {
        self.say(|out| Native.acknowledgement(acknowledgement, out));
    }

    fn say(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.client.outbox.push(text_frame(write));
    }
}

fn words(id: SubscriptionId, subscribe: Subscribe) -> Words {
    let channel: Arc<str> = subscribe.channel.as_str().into();
    let caught_up = channel.clone();
    Words {
        acknowledge: Box::new(move |position| {
            let subscribed = Acknowledgement::Subscribed {
                id,
                subscribe: &subscribe,
                position,
            };
            text_frame(|out| Native.acknowledgement(&subscribed, out))
        }),
        caught_up: Box::new(move |position| {
            let notice = Notice::CaughtUp {
                channel: &caught_up,
                id,
                position,
            };
            text_frame(|out| Native.notice(&notice, out))
        }),
    }
}
