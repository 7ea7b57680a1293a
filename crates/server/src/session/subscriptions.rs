//! The table subscriptions of one connection, or of one channel of it: asked of the database, then
//! ordered from the pipeline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};
use walcast_change::Position;
use walcast_hub::{ConnId, Filter, Member, Outbox, Spec, Standing, SubscriptionId};
use walcast_protocol::{Code, Refusal, Start};
use walcast_rls::Viewer;

use crate::order::{Acknowledge, Attached, Begin, Order};
use crate::replay::Resume;
use crate::seldom::Seldom;
use crate::shared::Shared;

/// Judged as one viewer, and ended together.
pub(crate) struct Subscriptions {
    shared: Arc<Shared>,
    connection: ConnId,
    outbox: Arc<Outbox>,
    begun: HashMap<SubscriptionId, Begun>,
    /// The pipeline may know of subscriptions, even of one that was never confirmed.
    known_to_pipeline: bool,
    /// Ordered together and not confirmed (yet).
    unconfirmed: Vec<(SubscriptionId, Arc<Standing>)>,
}

struct Begun {
    spec: Arc<Spec>,
    standing: Arc<Standing>,
    /// Reads the rows that it begins with. Ends with the subscription.
    snapshot: Option<AbortOnDropHandle<()>>,
}

/// What the dialect says while a subscription begins.
pub(crate) struct Words {
    /// It is live, or it is known from where it will be caught up.
    pub(crate) acknowledge: Box<dyn FnOnce(Position) -> Bytes + Send>,
    /// It has been caught up: nothing is missing up to here.
    pub(crate) caught_up: Box<dyn FnOnce(Position) -> Bytes + Send>,
}

/// What is said at the place where subscriptions that begin together become live; `None`: nothing.
pub(crate) type Speak = Box<dyn FnOnce() -> Option<Bytes> + Send>;

/// How long the question who may subscribe may wait for its answer, behind those of the others.
const ACCESS_PATIENCE: Duration = Duration::from_secs(15);
/// How long a subscription may wait for the stream to be live.
const LIVE_PATIENCE: Duration = Duration::from_secs(10);

static REFUSED: Seldom = Seldom::new();

impl Subscriptions {
    pub(crate) fn new(
        shared: Arc<Shared>,
        connection: ConnId,
        outbox: Arc<Outbox>,
    ) -> Subscriptions {
        Subscriptions {
            shared,
            connection,
            outbox,
            begun: HashMap::new(),
            known_to_pipeline: false,
            unconfirmed: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.begun.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    pub(crate) fn contains(&self, id: SubscriptionId) -> bool {
        self.begun.contains_key(&id)
    }

    /// Whether it goes on: it was begun, and nobody had to end it since.
    pub(crate) fn goes_on(&self, id: SubscriptionId) -> bool {
        let begun = self.begun.get(&id);
        begun.is_some_and(|begun| !begun.standing.has_ended())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SubscriptionId, &Arc<Spec>)> {
        self.begun.iter().map(|(id, begun)| (*id, &begun.spec))
    }

    pub(crate) fn find(&self, spec: &Spec) -> Option<SubscriptionId> {
        let mut own = self.iter();
        own.find(|(_, known)| ***known == *spec).map(|(id, _)| id)
    }

    /// Begins a subscription that was authorized, and waits until it is acknowledged.
    pub(crate) async fn begin(
        &mut self,
        id: SubscriptionId,
        viewer: Viewer,
        spec: Arc<Spec>,
        start: Start,
        words: Words,
    ) -> Result<(), Refusal> {
        let standing = match self.begun.get(&id) {
            Some(begun) => begun.standing.clone(),
            None => Arc::new(Standing::new(viewer)),
        };
        let attached = Attached {
            id,
            connection: self.connection,
            spec: spec.clone(),
            member: Member {
                outbox: self.outbox.clone(),
                gate: None,
                standing: standing.clone(),
            },
        };
        let acknowledge = words.acknowledge;
        let snapshot = match start {
            Start::Now => {
                let acknowledge = Box::new(|position| Some(acknowledge(position)));
                self.live(attached, Vec::new(), acknowledge).await?;
                // One that is asked for again goes on to be read.
                let before = self.begun.get_mut(&id);
                before.and_then(|begun| begun.snapshot.take())
            }
            Start::Since(since) => {
                standing.set_aside(since);
                self.known_to_pipeline = true;
                let resume = Resume {
                    attached,
                    since,
                    had: None,
                    acknowledge: Some(acknowledge),
                    caught_up: Some(words.caught_up),
                };
                let resumed = self.shared.replay.resume(resume).await;
                resumed.inspect_err(|_| standing.end())?;
                None
            }
            Start::Snapshot => {
                let snapshots = self.shared.snapshots.clone();
                let snapshot = snapshots.open(attached).await?;
                standing.set_aside(snapshot.place);
                self.known_to_pipeline = true;
                self.outbox.push(acknowledge(snapshot.place));
                let sending = tokio::spawn(snapshots.send(snapshot));
                Some(AbortOnDropHandle::new(sending))
            }
        };
        debug!(
            connection = self.connection.0,
            subscription = id.0,
            "subscribed"
        );
        let begun = Begun {
            spec,
            standing,
            snapshot,
        };
        self.begun.insert(id, begun);
        Ok(())
    }

    /// Begins subscriptions that were authorized, all at one place in the stream, where `speak` is
    /// called. If it fails, or the future is dropped before its end, none of them counts as begun,
    /// and the next call makes sure that none of them is.
    pub(crate) async fn begin_all(
        &mut self,
        viewer: &Viewer,
        specs: Vec<Arc<Spec>>,
        speak: Speak,
    ) -> Result<(), Refusal> {
        while let Some((id, standing)) = self.unconfirmed.last() {
            standing.end();
            self.drop(*id).await;
            self.unconfirmed.pop();
        }
        let attached = specs.iter().map(|spec| Attached {
            id: SubscriptionId(self.shared.next_id()),
            connection: self.connection,
            spec: spec.clone(),
            member: Member {
                outbox: self.outbox.clone(),
                gate: None,
                standing: Arc::new(Standing::new(viewer.clone())),
            },
        });
        let mut attached: Vec<Attached> = attached.collect();
        let standings = attached.iter();
        let standings = standings.map(|one| (one.id, one.member.standing.clone()));
        self.unconfirmed = standings.collect();
        let Some(last) = attached.pop() else {
            if let Some(frame) = speak() {
                self.outbox.push(frame);
            }
            return Ok(());
        };
        self.live(last, attached, Box::new(|_| speak())).await?;
        for ((id, standing), spec) in self.unconfirmed.drain(..).zip(specs) {
            let begun = Begun {
                spec,
                standing,
                snapshot: None,
            };
            self.begun.insert(id, begun);
        }
        Ok(())
    }

    async fn live(
        &mut self,
        attached: Attached,
        more: Vec<Attached>,
        acknowledge: Acknowledge,
    ) -> Result<(), Refusal> {
        let channel = attached.spec.channel.clone();
        let (done, live) = oneshot::channel();
        let begin = Begin {
            attached,
            more,
            acknowledge,
            done,
        };
        self.known_to_pipeline = true;
        let sent = self.shared.orders.send(Order::Subscribe(begin));
        let live = timeout(LIVE_PATIENCE, async {
            sent.await.is_ok() && live.await.is_ok()
        });
        match live.await {
            Ok(true) => Ok(()),
            _ => {
                let text =
                    "the stream of changes is not available right now; try again in a moment";
                Err(Refusal::new(Code::SubscriptionFailed, text).on(&*channel))
            }
        }
    }

    /// Whether `viewer` may subscribe to what `spec` names.
    pub(crate) async fn authorize(&self, viewer: &Viewer, spec: &Spec) -> Result<(), Refusal> {
        let refuse = |code, text: String| Refusal::new(code, text).on(&*spec.channel);
        let target = &spec.target;
        let asked = spec.filter.iter().flat_map(Filter::columns);
        let asked: Vec<&str> = asked.map(|column| &**column).collect();
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
            if let Some(left_out) = REFUSED.due() {
                info!(connection = self.connection.0, channel = ?spec.channel, role = %viewer.role, reason = %error.reason(), left_out, "subscription refused");
            }
            refuse(if error.is_final() { Code::Forbidden } else { Code::SubscriptionFailed }, error.to_string())
        })?;
        if let Some(filter) = &spec.filter {
            let checked = filter.check(&types);
            checked.map_err(|error| refuse(Code::SubscriptionFailed, error.to_string()))?;
        }
        Ok(())
    }

    pub(crate) async fn drop(&mut self, id: SubscriptionId) {
        // First the word that nobody may take it in, then the pipeline, which may have it.
        if let Some(mut begun) = self.begun.remove(&id) {
            match begun.standing.was_set_aside() {
                true => self.shared.replay.change(|| begun.standing.end()),
                false => begun.standing.end(),
            }
            begun.snapshot = None;
        }
        let (done, ended) = oneshot::channel();
        let order = Order::Unsubscribe(id, done);
        if self.shared.orders.send(order).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// All are judged as `viewer` from now on. First the view, which counts for every change, then
    /// what can't be subscribed to any more: these end, and are returned.
    pub(crate) async fn set_viewer(&mut self, viewer: &Viewer) -> Vec<Refusal> {
        for (_, standing) in &self.unconfirmed {
            standing.end();
        }
        let mut ended = self.end_unread().await;
        // This counts at once for what is being caught up.
        self.shared.replay.change(|| {
            for begun in self.begun.values() {
                begun.standing.set_viewer(viewer);
            }
        });
        self.set_viewer_of_live(viewer).await;
        ended.extend(self.end_forbidden(viewer).await);
        ended
    }

    async fn set_viewer_of_live(&self, viewer: &Viewer) {
        let (done, set) = oneshot::channel();
        let order = Order::SetViewer(self.connection, viewer.clone(), done);
        if self.known_to_pipeline && self.shared.orders.send(order).await.is_ok() {
            let _ = set.await;
        }
    }

    /// Rows that are being read are those of the viewer who asked for them.
    async fn end_unread(&mut self) -> Vec<Refusal> {
        let is_read = |begun: &Begun| {
            begun
                .snapshot
                .as_ref()
                .is_none_or(|task| task.is_finished())
        };
        let unread = self.begun.iter().filter(|(_, begun)| !is_read(begun));
        let unread: Vec<_> = unread
            .map(|(id, begun)| (*id, begun.spec.clone()))
            .collect();
        let mut ended = Vec::new();
        for (id, spec) in unread {
            self.drop(id).await;
            let text = "the token was changed while the snapshot was read; subscribe again";
            ended.push(Refusal::new(Code::SnapshotFailed, text).on(&*spec.channel));
        }
        ended
    }

    /// If it can't be found out what is forbidden, everything stays: every change is judged anyway.
    async fn end_forbidden(&mut self, viewer: &Viewer) -> Vec<Refusal> {
        let begun: Vec<_> = self.iter().map(|(id, spec)| (id, spec.clone())).collect();
        let mut ended = Vec::new();
        for (id, spec) in begun {
            match self.authorize(viewer, &spec).await {
                Err(refusal) if refusal.code == Code::Forbidden => {
                    self.drop(id).await;
                    ended.push(refusal);
                }
                Ok(()) => {}
                Err(_) => break,
            }
        }
        ended
    }

    pub(crate) async fn end(&mut self) {
        if let Some(order) = self.end_at_once() {
            let _ = self.shared.orders.send(order).await;
        }
    }

    /// Nobody takes any of them in from now on. Returns what the pipeline is to be told.
    fn end_at_once(&mut self) -> Option<Order> {
        let end_all = || self.begun.values().for_each(|begun| begun.standing.end());
        let mut begun = self.begun.values();
        match begun.any(|begun| begun.standing.was_set_aside()) {
            true => self.shared.replay.change(end_all),
            false => end_all(),
        }
        self.begun.clear();
        for (_, standing) in self.unconfirmed.drain(..) {
            standing.end();
        }
        let known = std::mem::take(&mut self.known_to_pipeline);
        known.then_some(Order::Disconnect(self.connection))
    }
}

/// However the session ends, also by a panic, nothing is judged for it any more.
impl Drop for Subscriptions {
    fn drop(&mut self) {
        if let Some(order) = self.end_at_once()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let orders = self.shared.orders.clone();
            runtime.spawn(async move {
                let _ = orders.send(order).await;
            });
        }
    }
}

#[cfg(test)]
mod tests;
