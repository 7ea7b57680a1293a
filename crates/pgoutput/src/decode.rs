//! Bytes → [`Message`].

use bytes::{Buf, Bytes};

use crate::tuple::split_value;
use crate::{
    Begin, Column, Commit, Delete, Insert, Logical, Lsn, Message, OldRow, Origin, PgTime, Relation,
    RelationId, ReplicaIdentity, Truncate, Tuple, Type, Update, Xid,
};

/// Why bytes are no message. `what` names the field; the bytes themselves are never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("the message ends inside its {what}")]
    Truncated { what: &'static str },
    #[error("unknown message kind {kind:#04x}")]
    UnknownKind { kind: u8 },
    #[error("unexpected byte {byte:#04x} as {what}")]
    UnexpectedByte { what: &'static str, byte: u8 },
    #[error("a row value is cut short or of unknown kind")]
    BadValue,
    #[error("{count} bytes follow the end of the message")]
    TrailingBytes { count: usize },
}

/// Decodes one message. Its names and rows are slices of `bytes`.
pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
    let mut cursor = Cursor { bytes };
    let message = match cursor.u8("kind")? {
        b'B' => Message::Begin(begin(&mut cursor)?),
        b'C' => Message::Commit(commit(&mut cursor)?),
        b'O' => Message::Origin(origin(&mut cursor)?),
        b'R' => Message::Relation(relation(&mut cursor)?),
        b'Y' => Message::Type(type_name(&mut cursor)?),
        b'I' => Message::Insert(insert(&mut cursor)?),
        b'U' => Message::Update(update(&mut cursor)?),
        b'D' => Message::Delete(delete(&mut cursor)?),
        b'T' => Message::Truncate(truncate(&mut cursor)?),
        b'M' => Message::Logical(logical(&mut cursor)?),
        kind => return Err(DecodeError::UnknownKind { kind }),
    };
    match cursor.bytes.len() {
        0 => Ok(message),
        count => Err(DecodeError::TrailingBytes { count }),
    }
}

fn begin(cursor: &mut Cursor) -> Result<Begin, DecodeError> {
    Ok(Begin {
        final_lsn: cursor.lsn("final LSN")?,
        commit_time: cursor.time("commit time")?,
        xid: Xid(cursor.u32("transaction id")?),
    })
}

fn commit(cursor: &mut Cursor) -> Result<Commit, DecodeError> {
    Ok(Commit {
        flags: cursor.u8("commit flags")?,
        commit_lsn: cursor.lsn("commit LSN")?,
        end_lsn: cursor.lsn("end LSN")?,
        commit_time: cursor.time("commit time")?,
    })
}

fn origin(cursor: &mut Cursor) -> Result<Origin, DecodeError> {
    Ok(Origin {
        commit_lsn: cursor.lsn("origin LSN")?,
        name: cursor.string("origin name")?,
    })
}

fn relation(cursor: &mut Cursor) -> Result<Relation, DecodeError> {
    let id = cursor.relation_id()?;
    let schema = cursor.string("schema name")?;
    let name = cursor.string("relation name")?;
    let identity = match cursor.u8("replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        byte => return Err(unexpected("replica identity", byte)),
    };
    let count = cursor.u16("column count")?;
    let columns = (0..count)
        .map(|_| column(cursor))
        .collect::<Result<_, _>>()?;
    Ok(Relation {
        id,
        schema,
        name,
        identity,
        columns,
    })
}

fn column(cursor: &mut Cursor) -> Result<Column, DecodeError> {
    Ok(Column {
        key: cursor.u8("column flags")? & 1 == 1,
        name: cursor.string("column name")?,
        type_oid: cursor.u32("column type")?,
        type_modifier: cursor.u32("column type modifier")?.cast_signed(),
    })
}

fn type_name(cursor: &mut Cursor) -> Result<Type, DecodeError> {
    Ok(Type {
        oid: cursor.u32("type id")?,
        schema: cursor.string("type schema")?,
        name: cursor.string("type name")?,
    })
}

fn insert(cursor: &mut Cursor) -> Result<Insert, DecodeError> {
    let relation = cursor.relation_id()?;
    match cursor.u8("row kind")? {
        b'N' => Ok(Insert {
            relation,
            new: cursor.tuple()?,
        }),
        byte => Err(unexpected("the row of an insert", byte)),
    }
}

fn update(cursor: &mut Cursor) -> Result<Update, DecodeError> {
    let relation = cursor.relation_id()?;
    let (old, next) = match cursor.u8("row kind")? {
        b'K' => (OldRow::Key(cursor.tuple()?), cursor.u8("row kind")?),
        b'O' => (OldRow::Full(cursor.tuple()?), cursor.u8("row kind")?),
        kind => (OldRow::None, kind),
    };
    match next {
        b'N' => Ok(Update {
            relation,
            old,
            new: cursor.tuple()?,
        }),
        byte => Err(unexpected("the new row of an update", byte)),
    }
}

fn delete(cursor: &mut Cursor) -> Result<Delete, DecodeError> {
    let relation = cursor.relation_id()?;
    let old = match cursor.u8("row kind")? {
        b'K' => OldRow::Key(cursor.tuple()?),
        b'O' => OldRow::Full(cursor.tuple()?),
        byte => return Err(unexpected("the old row of a delete", byte)),
    };
    Ok(Delete { relation, old })
}

fn truncate(cursor: &mut Cursor) -> Result<Truncate, DecodeError> {
    let count = cursor.u32("relation count")?;
    let flags = cursor.u8("truncate flags")?;
    // Each id takes four bytes, so a count that lies ends the loop early instead of reserving.
    let mut relations = Vec::new();
    for _ in 0..count {
        relations.push(cursor.relation_id()?);
    }
    Ok(Truncate {
        cascade: flags & 1 != 0,
        restart_identity: flags & 2 != 0,
        relations,
    })
}

fn logical(cursor: &mut Cursor) -> Result<Logical, DecodeError> {
    let transactional = cursor.u8("message flags")? & 1 == 1;
    let lsn = cursor.lsn("message LSN")?;
    let prefix = cursor.string("message prefix")?;
    let size = cursor.u32("content size")?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    Ok(Logical {
        transactional,
        lsn,
        prefix,
        content: cursor.take(size, "content")?,
    })
}

fn unexpected(what: &'static str, byte: u8) -> DecodeError {
    DecodeError::UnexpectedByte { what, byte }
}

/// Checked reads from the front of the message.
struct Cursor {
    bytes: Bytes,
}

impl Cursor {
    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.bytes.try_get_u8().map_err(|_| truncated(what))
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.bytes.try_get_u16().map_err(|_| truncated(what))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.bytes.try_get_u32().map_err(|_| truncated(what))
    }

    fn lsn(&mut self, what: &'static str) -> Result<Lsn, DecodeError> {
        let value = self.bytes.try_get_u64().map_err(|_| truncated(what))?;
        Ok(Lsn(value))
    }

    fn time(&mut self, what: &'static str) -> Result<PgTime, DecodeError> {
        let micros = self.bytes.try_get_i64().map_err(|_| truncated(what))?;
        Ok(PgTime(micros))
    }

    fn relation_id(&mut self) -> Result<RelationId, DecodeError> {
        self.u32("relation id").map(RelationId)
    }

    fn string(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let end = self.bytes.iter().position(|&byte| byte == 0);
        let text = self.take(end.ok_or(truncated(what))?, what)?;
        self.u8(what)?;
        Ok(text)
    }

    fn take(&mut self, size: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if size > self.bytes.len() {
            return Err(truncated(what));
        }
        Ok(self.bytes.split_to(size))
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let columns = self.u16("column count")?;
        let mut rest = &self.bytes[..];
        for _ in 0..columns {
            rest = split_value(rest).ok_or(DecodeError::BadValue)?.1;
        }
        let size = self.bytes.len() - rest.len();
        Ok(Tuple::checked(columns, self.bytes.split_to(size)))
    }
}

fn truncated(what: &'static str) -> DecodeError {
    DecodeError::Truncated { what }
}
