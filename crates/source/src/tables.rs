//! The published tables: what of their changes can be told and judged.

use tokio_postgres::Client;

use crate::preflight::quote;
use crate::{Finding, SourceError};

/// A table that is published, or a partition through which one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `d`, `n`, `f`, `i` as in `pg_class.relreplident`.
    pub(crate) identity: String,
    /// A primary key that may serve as identity: valid and not deferrable.
    pub(crate) usable_key: bool,
    /// The index that `i` names exists.
    pub(crate) identity_index: bool,
    pub(crate) row_security: bool,
    /// A publication's row filter or column list.
    pub(crate) narrowed: bool,
    /// Named only for its replica identity; the root stands for it otherwise.
    pub(crate) partition: bool,
}

/// How a published table's old rows are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Full,
    Key,
    Missing,
}

impl Table {
    pub(crate) async fn read_all(
        sql: &Client,
        publication: &str,
    ) -> Result<Vec<Table>, SourceError> {
        let rows = sql.query(READ, &[&publication]).await?;
        rows.iter()
            .map(|row| {
                Ok(Table {
                    schema: row.try_get("schema")?,
                    name: row.try_get("name")?,
                    identity: row.try_get("identity")?,
                    usable_key: row.try_get("usable_key")?,
                    identity_index: row.try_get("identity_index")?,
                    row_security: row.try_get("row_security")?,
                    narrowed: row.try_get("narrowed")?,
                    partition: row.try_get("partition")?,
                })
            })
            .collect()
    }

    /// `changes_rows`: the publication publishes updates or deletes.
    pub(crate) fn findings(&self, changes_rows: bool) -> Vec<Finding> {
        [
            self.identity_finding(changes_rows),
            self.row_security_finding(),
            self.narrowed_finding(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn identity(&self) -> Identity {
        match self.identity.as_str() {
            "f" => Identity::Full,
            "d" if self.usable_key => Identity::Key,
            "i" if self.identity_index => Identity::Key,
            _ => Identity::Missing,
        }
    }

    fn identity_finding(&self, changes_rows: bool) -> Option<Finding> {
        let table = self.quoted();
        let full = format!("ALTER TABLE {table} REPLICA IDENTITY FULL");
        match self.identity() {
            Identity::Full => None,
            Identity::Key => Some(Finding::info(
                "replica_identity_key",
                format!(
                    "{table} logs only the key of old rows: a DELETE is delivered only where the policies read key columns alone"
                ),
                full,
            )),
            Identity::Missing if changes_rows => Some(Finding::error(
                "replica_identity_missing",
                format!(
                    "{table} is published without a replica identity: every UPDATE and DELETE of the application on it fails"
                ),
                format!("{full}, or give it a primary key that is not deferrable"),
            )),
            Identity::Missing => None,
        }
    }

    fn row_security_finding(&self) -> Option<Finding> {
        (!self.row_security && !self.partition).then(|| {
            let table = self.quoted();
            Finding::info(
                "row_security_off",
                format!("{table} has no row-level security: whoever may SELECT it receives every change"),
                format!("if that is not meant: ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, with policies"),
            )
        })
    }

    fn narrowed_finding(&self) -> Option<Finding> {
        self.narrowed.then(|| {
            Finding::warning(
                "publication_narrowed",
                format!("the publication filters rows or columns of {}: subscribers don't get the others, and policies can't read them", self.quoted()),
                "publish the whole table; what a subscriber sees is for policies and grants",
            )
        })
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// Published tables, and the leaves of partitioned ones: their identity is what UPDATE looks at.
/// Not those of `realtime.messages`: its rows are told as broadcasts, and old ones are dropped by the day.
const READ: &str = "
WITH published AS (
    SELECT c.oid, c.relkind,
           pg_catalog.to_jsonb(t) ->> 'rowfilter' IS NOT NULL
           OR pg_catalog.jsonb_array_length(pg_catalog.to_jsonb(t) -> 'attnames') < (
                  SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND a.attgenerated = '') AS narrowed
      FROM pg_catalog.pg_publication_tables t
      JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
     WHERE t.pubname = $1::text
), listed AS (
    SELECT p.oid, p.narrowed, false AS partition FROM published p
    UNION ALL
    SELECT leaf.relid, false, true
      FROM published p, pg_catalog.pg_partition_tree(p.oid) leaf
     WHERE p.relkind = 'p' AND leaf.isleaf AND leaf.relid <> p.oid
       AND p.oid IS DISTINCT FROM pg_catalog.to_regclass('realtime.messages')
)
SELECT n.nspname::text AS schema, c.relname::text AS name,
       CASE WHEN c.relkind = 'p' THEN 'f' ELSE c.relreplident::text END AS identity,
       c.relrowsecurity AS row_security, l.narrowed IS TRUE AS narrowed, l.partition,
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                  AND i.indisprimary AND i.indimmediate AND i.indisvalid) AS usable_key,
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                  AND i.indisreplident AND i.indisvalid) AS identity_index
  FROM listed l
  JOIN pg_catalog.pg_class c ON c.oid = l.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings() {
        let good = Table {
            schema: "public".into(),
            name: "Todo".into(),
            identity: "f".into(),
            usable_key: true,
            identity_index: false,
            row_security: true,
            narrowed: false,
            partition: false,
        };
        type Case = (fn(&mut Table), &'static [&'static str]);
        let cases: &[Case] = &[
            (|_| (), &[]),
            (|t| t.identity = "d".into(), &["replica_identity_key"]),
            (|t| t.identity = "n".into(), &["replica_identity_missing"]),
            (|t| t.identity = "i".into(), &["replica_identity_missing"]),
            (
                |t| {
                    t.identity = "i".into();
                    t.identity_index = true;
                },
                &["replica_identity_key"],
            ),
            (
                |t| {
                    t.identity = "d".into();
                    t.usable_key = false;
                },
                &["replica_identity_missing"],
            ),
            (|t| t.row_security = false, &["row_security_off"]),
            (
                |t| {
                    t.row_security = false;
                    t.partition = true;
                },
                &[],
            ),
            (|t| t.narrowed = true, &["publication_narrowed"]),
        ];
        for (number, (change, expected)) in cases.iter().enumerate() {
            let mut table = good.clone();
            change(&mut table);
            let codes: Vec<_> = table.findings(true).iter().map(|f| f.code).collect();
            assert_eq!(codes, *expected, "case {number}");
        }
        let inserts_only = Table {
            identity: "n".into(),
            ..good.clone()
        };
        assert_eq!(inserts_only.findings(false), []);
        assert_eq!(good.quoted(), "public.\"Todo\"");
    }
}
