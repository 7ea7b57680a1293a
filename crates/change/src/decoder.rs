//! Messages in, changes out: the relation cache and the transaction in progress.

use std::collections::HashMap;
use std::sync::Arc;

use walcast_pgoutput::{
    Commit, Logical, Lsn, Message, OldRow, PgTime, Relation, RelationId, Tuple, Xid,
};

use crate::{Change, Cursor, Operation, Shape, Types};

/// Why a message makes no sense after those before it. The stream must be begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    #[error("a {message} message outside a transaction")]
    OutsideTransaction { message: &'static str },
    #[error("relation {} was never described", relation.0)]
    UnknownRelation { relation: RelationId },
    #[error("a row of relation {} has {found} values, its table {expected} columns", relation.0)]
    ColumnCount {
        relation: RelationId,
        expected: usize,
        found: usize,
    },
    #[error("a delete without an old row")]
    NoOldRow,
}

/// What a message came to.
#[derive(Debug)]
pub enum Step {
    /// It changed the decoder's own state only.
    Nothing,
    Change(Change),
    /// One change for each table that was truncated together.
    Truncate(Vec<Change>),
    /// The transaction is complete; its `end_lsn` may be acknowledged once all of it is dealt with.
    Commit(Commit),
    Logical(Logical),
}

/// Follows one stream. Bounded by the number of published tables.
#[derive(Debug, Default)]
pub struct Decoder {
    relations: HashMap<RelationId, Arc<Shape>>,
    types: Types,
    transaction: Option<Transaction>,
}

#[derive(Debug)]
struct Transaction {
    commit_lsn: Lsn,
    commit_time: PgTime,
    xid: Xid,
    changes: u64,
}

impl Decoder {
    pub fn new(types: Types) -> Decoder {
        Decoder {
            types,
            ..Decoder::default()
        }
    }

    /// The types known so far; load what [`Types::missing`] names before `describe`.
    pub fn types_mut(&mut self) -> &mut Types {
        &mut self.types
    }

    /// Takes a Relation message together with what the catalogue says of the primary key.
    /// Without that, [`Decoder::step`] takes the message as it is.
    pub fn describe(&mut self, relation: &Relation, primary_key: Option<&[String]>) {
        let shape = Shape::new(relation, primary_key, &self.types);
        self.relations.insert(relation.id, Arc::new(shape));
    }

    /// Forgets a half transaction: the connection was made anew and Postgres sends it again.
    pub fn restart(&mut self) {
        self.transaction = None;
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    pub fn shape(&self, relation: RelationId) -> Option<&Arc<Shape>> {
        self.relations.get(&relation)
    }

    pub fn step(&mut self, message: Message) -> Result<Step, ChangeError> {
        match message {
            Message::Begin(begin) => {
                self.transaction = Some(Transaction {
                    commit_lsn: begin.final_lsn,
                    commit_time: begin.commit_time,
                    xid: begin.xid,
                    changes: 0,
                });
                Ok(Step::Nothing)
            }
            Message::Commit(commit) => {
                let open = self.transaction.take();
                open.ok_or(ChangeError::OutsideTransaction { message: "commit" })?;
                Ok(Step::Commit(commit))
            }
            Message::Relation(relation) => {
                self.describe(&relation, None);
                Ok(Step::Nothing)
            }
            Message::Insert(insert) => {
                let shape = self.shape_of(insert.relation, [&insert.new])?;
                let operation = Operation::insert(&shape, insert.new);
                self.change(shape, operation)
            }
            Message::Update(update) => {
                let tuples = [Some(&update.new), old_tuple(&update.old)];
                let shape = self.shape_of(update.relation, tuples.into_iter().flatten())?;
                let operation = Operation::update(&shape, update.old, update.new);
                self.change(shape, operation)
            }
            Message::Delete(delete) => {
                let shape = self.shape_of(delete.relation, old_tuple(&delete.old))?;
                let operation = Operation::delete(&shape, delete.old);
                self.change(shape, operation.ok_or(ChangeError::NoOldRow)?)
            }
            Message::Truncate(truncate) => {
                let changes = truncate.relations.into_iter().map(|relation| {
                    let shape = self.shape_of(relation, [])?;
                    self.next_change(shape, Operation::Truncate)
                });
                Ok(Step::Truncate(changes.collect::<Result<_, _>>()?))
            }
            Message::Logical(logical) => Ok(Step::Logical(logical)),
            Message::Type(_) | Message::Origin(_) => Ok(Step::Nothing),
        }
    }

    fn change(&mut self, shape: Arc<Shape>, operation: Operation) -> Result<Step, ChangeError> {
        self.next_change(shape, operation).map(Step::Change)
    }

    fn next_change(
        &mut self,
        shape: Arc<Shape>,
        operation: Operation,
    ) -> Result<Change, ChangeError> {
        let open = self.transaction.as_mut();
        let open = open.ok_or(ChangeError::OutsideTransaction { message: "row" })?;
        let cursor = Cursor {
            commit_lsn: open.commit_lsn,
            ordinal: open.changes,
        };
        open.changes += 1;
        Ok(Change {
            cursor,
            commit_time: open.commit_time,
            xid: open.xid,
            shape,
            operation,
        })
    }

    fn shape_of<'a>(
        &self,
        relation: RelationId,
        tuples: impl IntoIterator<Item = &'a Tuple>,
    ) -> Result<Arc<Shape>, ChangeError> {
        let shape = self.relations.get(&relation);
        let shape = shape.ok_or(ChangeError::UnknownRelation { relation })?;
        let expected = shape.columns.len();
        match tuples.into_iter().find(|tuple| tuple.len() != expected) {
            None => Ok(shape.clone()),
            Some(tuple) => Err(ChangeError::ColumnCount {
                relation,
                expected,
                found: tuple.len(),
            }),
        }
    }
}

fn old_tuple(old: &OldRow) -> Option<&Tuple> {
    match old {
        OldRow::None => None,
        OldRow::Key(tuple) | OldRow::Full(tuple) => Some(tuple),
    }
}
