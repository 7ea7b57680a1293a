//! The bounds of channels, and what a client is told when it meets one.

/// Bounds on topics, their members and what they hold. 0 means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Topics in this process.
    pub topics_max: usize,
    pub topic_bytes_max: usize,
    pub channels_per_connection_max: usize,
    pub members_per_topic_max: usize,
    /// Payload, meta and envelope of one broadcast.
    pub broadcast_bytes_max: usize,
    pub event_bytes_max: usize,
    pub presence_key_bytes_max: usize,
    /// One connection's meta.
    pub presence_meta_bytes_max: usize,
    pub presence_keys_per_topic_max: usize,
    /// Metas of one topic, of all its keys.
    pub presence_metas_per_topic_max: usize,
    /// All keys and metas of one topic. A full state is one frame: let it fit an outbox.
    pub presence_bytes_per_topic_max: usize,
}

impl Default for ChannelLimits {
    fn default() -> ChannelLimits {
        ChannelLimits {
            topics_max: 1_000_000,
            topic_bytes_max: 255,
            channels_per_connection_max: 100,
            members_per_topic_max: 0,
            broadcast_bytes_max: 256 << 10,
            event_bytes_max: 255,
            presence_key_bytes_max: 255,
            presence_meta_bytes_max: 16 << 10,
            presence_keys_per_topic_max: 10_000,
            presence_metas_per_topic_max: 10_000,
            presence_bytes_per_topic_max: 512 << 10,
        }
    }
}

/// Why a channel does not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// A bound of [`ChannelLimits`], by its name there.
    #[error("{name} reached: {max}")]
    Limit { name: &'static str, max: usize },
    /// No text, or one with control characters.
    #[error("the channel's name is empty or has control characters")]
    Name,
    /// The connection is ending.
    #[error("the connection is ending")]
    Ending,
}

impl ChannelLimits {
    /// Whether a connection that has joined `held` channels may join another.
    pub fn another_channel(&self, held: usize) -> Result<(), ChannelError> {
        let max = self.channels_per_connection_max;
        within("channels_per_connection_max", held + 1, max)
    }

    pub(crate) fn topic(&self, name: &str) -> Result<(), ChannelError> {
        if name.is_empty() || name.contains(char::is_control) {
            return Err(ChannelError::Name);
        }
        within("topic_bytes_max", name.len(), self.topic_bytes_max)
    }

    pub(crate) fn message(&self, event_bytes: usize, bytes: usize) -> Result<(), ChannelError> {
        within("event_bytes_max", event_bytes, self.event_bytes_max)?;
        within("broadcast_bytes_max", bytes, self.broadcast_bytes_max)
    }

    pub(crate) fn meta(&self, key: &str, meta: &[u8]) -> Result<(), ChannelError> {
        let max = self.presence_key_bytes_max;
        within("presence_key_bytes_max", key.len(), max)?;
        let max = self.presence_meta_bytes_max;
        within("presence_meta_bytes_max", meta.len(), max)
    }

    /// What a topic's roster would hold.
    pub(crate) fn roster(
        &self,
        keys: usize,
        metas: usize,
        bytes: usize,
    ) -> Result<(), ChannelError> {
        let max = self.presence_keys_per_topic_max;
        within("presence_keys_per_topic_max", keys, max)?;
        let max = self.presence_metas_per_topic_max;
        within("presence_metas_per_topic_max", metas, max)?;
        let max = self.presence_bytes_per_topic_max;
        within("presence_bytes_per_topic_max", bytes, max)
    }
}

/// `wanted`, if the limit called `name` allows it.
pub(crate) fn within(name: &'static str, wanted: usize, max: usize) -> Result<(), ChannelError> {
    if max != 0 && wanted > max {
        return Err(ChannelError::Limit { name, max });
    }
    Ok(())
}
