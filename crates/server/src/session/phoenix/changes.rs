//! The `postgres_changes` of one channel: begun, tried again while the database is away, judged
//! anew with every token. A task of its own, so that a channel that waits for its changes holds
//! nobody up, its own socket neither.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use walcast_hub::{ConnId, Outbox, Spec};
use walcast_protocol::phoenix::{Binding, Style, System, write_system};
use walcast_rls::Viewer;

use super::binding::{Label, Unable, specs};
use crate::session::subscriptions::{Speak, Subscriptions};
use crate::session::text_frame;
use crate::shared::Shared;

/// The task's other end. It ends, and its subscriptions with it, when this is dropped.
pub(super) struct Changes {
    tokens: mpsc::Sender<NewToken>,
    task: JoinHandle<()>,
    bindings: usize,
}

struct NewToken {
    viewer: Viewer,
    /// Everything is judged as this viewer.
    done: oneshot::Sender<()>,
}

/// What one channel wants to hear of.
pub(super) struct Work {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    style: Style,
    label: Label,
    bindings: Vec<Binding>,
    subscriptions: Subscriptions,
}

/// Why not all of it is live.
#[derive(Debug)]
pub(super) enum Missing {
    /// Each is told once.
    Never(Vec<System>),
    /// Nothing is live, but may be by and by.
    Later,
}

/// Between tries, when the database can't be asked or the stream stands still.
const RETRY: Duration = Duration::from_secs(5);

impl Work {
    /// Each different binding once.
    pub(super) fn new(
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        topic: Arc<str>,
        style: Style,
        bindings: &[Binding],
    ) -> Work {
        let mut different: Vec<Binding> = Vec::new();
        for binding in bindings {
            if !different.iter().any(|known| known.id == binding.id) {
                different.push(binding.clone());
            }
        }
        let connection = ConnId(shared.next_id());
        Work {
            subscriptions: Subscriptions::new(shared.clone(), connection, outbox.clone()),
            shared,
            outbox,
            style,
            label: Label {
                topic,
                format: style.format(),
            },
            bindings: different,
        }
    }

    /// Makes all live that can be, at one place in the stream, where `acknowledge` speaks.
    pub(super) async fn attempt(
        &mut self,
        viewer: &Viewer,
        acknowledge: impl FnOnce(&[System]) -> Speak,
    ) -> Result<(), Missing> {
        let mut wanted: Vec<Arc<Spec>> = Vec::new();
        let mut refused = Vec::new();
        for binding in &self.bindings {
            match specs(&self.shared.access, viewer, binding, &self.label).await {
                Ok(specs) => wanted.extend(specs),
                Err(Unable::Never(system)) => refused.push(system),
                Err(Unable::Later) => return Err(Missing::Later),
            }
        }
        wanted.retain(|spec| self.subscriptions.find(spec).is_none());
        let acknowledge = acknowledge(&refused);
        let begun = self.subscriptions.begin_all(viewer, wanted, acknowledge);
        begun.await.map_err(|_| Missing::Later)?;
        match refused.is_empty() {
            true => Ok(()),
            false => Err(Missing::Never(refused)),
        }
    }

    pub(super) fn bindings(&self) -> usize {
        self.bindings.len()
    }

    pub(super) async fn end(mut self) {
        self.subscriptions.end().await;
    }

    /// Begins, if it has not begun, and goes on as a task.
    pub(super) fn start(self, viewer: Viewer, begun: bool) -> Changes {
        let (tokens, new_tokens) = mpsc::channel(1);
        let bindings = self.bindings.len();
        Changes {
            task: tokio::spawn(self.run(viewer, begun, new_tokens)),
            tokens,
            bindings,
        }
    }

    async fn run(
        mut self,
        mut viewer: Viewer,
        mut begun: bool,
        mut tokens: mpsc::Receiver<NewToken>,
    ) {
        loop {
            let token = tokio::select! {
                token = tokens.recv() => token,
                () = self.begin(&viewer), if !begun => {
                    begun = true;
                    continue;
                }
            };
            let Some(token) = token else { break };
            viewer = token.viewer;
            // Who may not subscribe any more is told so by the next attempt.
            self.subscriptions.set_viewer(&viewer).await;
            let _ = token.done.send(());
            begun = false;
        }
        self.subscriptions.end().await;
    }

    /// Until all that can be is live.
    async fn begin(&mut self, viewer: &Viewer) {
        let mut told = false;
        loop {
            let subscribed = self.words(&System::Subscribed);
            let acknowledge = |refused: &[System]| -> Speak {
                let frame = refused.is_empty().then_some(subscribed);
                Box::new(move || frame)
            };
            match self.attempt(viewer, acknowledge).await {
                Ok(()) => return,
                Err(Missing::Never(refused)) => {
                    return refused.iter().for_each(|system| self.say(system));
                }
                Err(Missing::Later) => {}
            }
            if !std::mem::replace(&mut told, true) {
                let reason =
                    "Unable to subscribe to changes at the moment; trying again".to_owned();
                self.say(&System::Retrying { reason });
            }
            sleep(RETRY).await;
        }
    }

    fn say(&self, system: &System) {
        self.outbox.push(self.words(system));
    }

    fn words(&self, system: &System) -> Bytes {
        text_frame(|out| write_system(self.style.version, None, &self.label.topic, system, out))
    }
}

impl Changes {
    /// How many different bindings it has.
    pub(super) fn bindings(&self) -> usize {
        self.bindings
    }

    /// Every change is judged as `viewer` from now on.
    pub(super) async fn set_viewer(&self, viewer: Viewer) {
        let (done, set) = oneshot::channel();
        if self.tokens.send(NewToken { viewer, done }).await.is_ok() {
            let _ = set.await;
        }
    }

    /// After this nothing of it is sent any more.
    pub(super) async fn end(self) {
        drop(self.tokens);
        let _ = self.task.await;
    }
}
