//! A real `pgoutput` stream, read over an SQL connection.

use anyhow::Result;
use tokio_postgres::Client;
use walcast_change::{
    Change, ColumnSet, Decoder, Numbers, Operation, Row, Step, TYPES_QUERY, TypeInfo, write_record,
};
use walcast_harness::Postgres;
use walcast_pgoutput::{Message, Relation, decode};

/// A database of its own with a publication of all its tables.
pub(crate) struct Stream {
    pub(crate) client: Client,
    slot: String,
    decoder: Decoder,
}

/// What the replication session sets.
const SETTINGS: &str = "
    set TimeZone = 'UTC';
    set DateStyle = 'ISO';
    set IntervalStyle = 'postgres';
    set extra_float_digits = 1;
    set bytea_output = 'hex';
    set lc_monetary = 'C';
    set xmloption = 'content'";

impl Stream {
    pub(crate) async fn open() -> Result<Stream> {
        let database = Postgres::shared().await.create_database().await?;
        Stream::open_in(&database).await
    }

    pub(crate) async fn open_in(database: &str) -> Result<Stream> {
        let client = Postgres::shared()
            .await
            .connect("postgres", database)
            .await?;
        client.batch_execute(SETTINGS).await?;
        client
            .batch_execute("create publication all_tables for all tables")
            .await?;
        let slot = format!("slot_of_{database}");
        let create = "select pg_create_logical_replication_slot($1, 'pgoutput')";
        client.execute(create, &[&slot]).await?;
        Ok(Stream {
            client,
            slot,
            decoder: Decoder::default(),
        })
    }

    /// The changes since the last call.
    pub(crate) async fn changes(&mut self) -> Result<Vec<Change>> {
        let read = "select data from pg_logical_slot_get_binary_changes($1, null, null,
                    'proto_version', '1', 'publication_names', 'all_tables')";
        let mut changes = Vec::new();
        for row in self.client.query(read, &[&self.slot]).await? {
            let message = decode(row.get::<_, Vec<u8>>(0).into())?;
            if let Message::Relation(relation) = &message {
                self.load_types(relation).await?;
            }
            match self.decoder.step(message)? {
                Step::Change(change) => changes.push(change),
                Step::Truncate(truncated) => changes.extend(truncated),
                Step::Nothing | Step::Commit(_) | Step::Logical(_) => {}
            }
        }
        Ok(changes)
    }

    /// The JSON of the rows inserted since the last call.
    pub(crate) async fn inserted(&mut self) -> Result<Vec<String>> {
        let changes = self.changes().await?;
        let rows = changes.iter().map(|change| match &change.operation {
            Operation::Insert { new } => record(new),
            other => panic!("not an insert: {other:?}"),
        });
        Ok(rows.collect())
    }

    /// Everything in one round trip: nothing may be missing afterwards.
    async fn load_types(&mut self, relation: &Relation) -> Result<()> {
        let types = self.decoder.types_mut();
        let missing = types.missing(relation);
        for row in self.client.query(TYPES_QUERY, &[&missing]).await? {
            let kind: &str = row.get(1);
            types.insert(TypeInfo::from_row(
                row.get(0),
                kind,
                row.get(2),
                row.get(3),
                row.get(4),
                row.get(5),
                row.get(6),
            ));
        }
        assert_eq!(
            types.missing(relation),
            [0; 0],
            "the query brings the types inside types, too"
        );
        Ok(())
    }

    /// `to_jsonb` of a table's rows in the order of their `id`.
    pub(crate) async fn to_jsonb(&self, table: &str) -> Result<Vec<String>> {
        let query = format!("select to_jsonb(t)::text from {table} t order by id");
        let rows = self.client.query(&query, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// The whole row.
pub(crate) fn record(row: &Row) -> String {
    let mut out = Vec::new();
    let columns = ColumnSet::all(row.shape().columns.len());
    write_record(row, &columns, Numbers::Number, &mut out);
    String::from_utf8(out).expect("a record is UTF-8")
}
