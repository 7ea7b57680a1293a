//! The table of built-in types against the catalogue.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use walcast_change::{JsonType, Types};
use walcast_harness::Postgres;
use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity};

/// The arrays of catalogue rows, which are looked up.
const LOOKED_UP: [&str; 4] = ["_pg_type", "_pg_attribute", "_pg_proc", "_pg_class"];

#[tokio::test]
async fn every_built_in_type_is_known() -> Result<()> {
    let client = Postgres::shared()
        .await
        .connect("postgres", "postgres")
        .await?;
    let query = "
        select t.oid, t.typname::text, t.typoutput = 'array_out'::regproc, t.typelem,
            coalesce(e.typdelim, ',')::text
        from pg_type t left join pg_type e on e.oid = t.typelem
        where t.oid < 10000 and t.typtype in ('b', 'r', 'm') and t.typname <> all ($1)";
    let rows = client.query(query, &[&&LOOKED_UP[..]]).await?;
    assert!(rows.len() > 140);
    let types = Types::default();
    for row in rows {
        let (oid, name): (u32, &str) = (row.get(0), row.get(1));
        assert_eq!(types.missing(&relation(oid)), [0; 0], "{oid} {name}");
        assert_eq!(&*types.type_name(oid), name, "{oid}");
        if row.get(2) {
            let expected = JsonType::Array {
                element: Arc::new(types.json_type(row.get(3))),
                delimiter: row.get::<_, &str>(4).as_bytes()[0],
            };
            assert_eq!(types.json_type(oid), expected, "{oid} {name}");
        }
    }
    Ok(())
}

fn relation(type_oid: u32) -> Relation {
    Relation {
        id: RelationId(1),
        schema: Bytes::new(),
        name: Bytes::new(),
        identity: ReplicaIdentity::Default,
        columns: vec![Column {
            key: false,
            name: Bytes::new(),
            type_oid,
            type_modifier: -1,
        }],
    }
}
