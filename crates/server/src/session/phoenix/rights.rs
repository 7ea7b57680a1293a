//! What the policies on `realtime.messages` allow in a private channel.

use walcast_rls::{
    ChannelAccess, ChannelAction, ChannelAsk, ChannelFailure, ChannelRefusal, ChannelViewer,
};

/// Of one channel and one token: judged anew with the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    /// Nothing was asked: everything is allowed in a public channel.
    public: bool,
    broadcast: Extension,
    presence: Extension,
}

/// `None`: not asked yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extension {
    read: Option<bool>,
    write: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Broadcast,
    Presence,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Broadcast => "broadcast",
            Kind::Presence => "presence",
        }
    }
}

impl Rights {
    pub(super) fn public() -> Rights {
        Rights {
            public: true,
            ..Rights::default()
        }
    }

    /// Asks who may read. Writing is asked about when somebody writes.
    pub(super) async fn of_reader(
        access: &ChannelAccess,
        viewer: &ChannelViewer,
        topic: &str,
        presence: bool,
    ) -> Result<Rights, ChannelFailure> {
        let kinds: &[Kind] = match presence {
            true => &[Kind::Broadcast, Kind::Presence],
            false => &[Kind::Broadcast],
        };
        let asks = kinds.iter().map(|kind| (*kind, ChannelAction::Read));
        let mut rights = Rights::default();
        rights.ask(access, viewer, topic, asks.collect()).await?;
        Ok(rights)
    }

    /// Whether there is anything that it may hear.
    pub(super) fn may_join(&self) -> bool {
        self.may_hear(Kind::Broadcast) || self.may_hear(Kind::Presence)
    }

    pub(super) fn may_hear(&self, kind: Kind) -> bool {
        self.public || self.of(kind).read == Some(true)
    }

    /// Whether it was asked what it may hear.
    pub(super) fn was_asked(&self, kind: Kind) -> bool {
        self.of(kind).read.is_some()
    }

    /// Asked at the first time.
    pub(super) async fn may_write(
        &mut self,
        access: &ChannelAccess,
        viewer: &ChannelViewer,
        topic: &str,
        kind: Kind,
    ) -> Result<bool, ChannelFailure> {
        if self.public {
            return Ok(true);
        }
        let mut asks = Vec::new();
        if self.of(kind).read.is_none() {
            asks.push((kind, ChannelAction::Read));
        }
        if self.of(kind).write.is_none() {
            asks.push((kind, ChannelAction::Write));
        }
        self.ask(access, viewer, topic, asks).await?;
        Ok(self.of(kind).write == Some(true))
    }

    async fn ask(
        &mut self,
        access: &ChannelAccess,
        viewer: &ChannelViewer,
        topic: &str,
        asks: Vec<(Kind, ChannelAction)>,
    ) -> Result<(), ChannelFailure> {
        let questions: Vec<ChannelAsk> = asks
            .iter()
            .map(|(kind, action)| ChannelAsk::new(topic, *action, kind.as_str()))
            .collect();
        let answers = access.judge(viewer, &questions).await;
        for ((kind, action), answer) in asks.into_iter().zip(answers) {
            let allowed = match answer {
                Ok(()) => true,
                Err(ChannelRefusal::Failed(failure)) => return Err(failure),
                Err(_) => false,
            };
            let extension = match kind {
                Kind::Broadcast => &mut self.broadcast,
                Kind::Presence => &mut self.presence,
            };
            match action {
                ChannelAction::Read => extension.read = Some(allowed),
                ChannelAction::Write => extension.write = Some(allowed),
            }
        }
        Ok(())
    }

    fn of(&self, kind: Kind) -> Extension {
        match kind {
            Kind::Broadcast => self.broadcast,
            Kind::Presence => self.presence,
        }
    }
}
