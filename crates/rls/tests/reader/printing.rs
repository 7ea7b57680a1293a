//! Values print as in the stream.

use anyhow::Result;

use crate::desk::{Desk, texts};
use crate::rig::viewer;

/// What the walsender's session is told, see `walcast-source`.
const STREAM: &str = "SET datestyle = 'ISO,MDY'; SET intervalstyle = 'postgres'; SET timezone = 'UTC';
    SET bytea_output = 'hex'; SET extra_float_digits = 1; SET lc_monetary = 'C'; SET xmlbinary = 'base64'; SET search_path = ''";

/// What the login's own sessions have instead.
const LOGIN: &str = "ALTER ROLE checker IN DATABASE {} SET datestyle = 'German';
    ALTER ROLE checker IN DATABASE {} SET intervalstyle = 'iso_8601'; ALTER ROLE checker IN DATABASE {} SET timezone = 'Asia/Tokyo';
    ALTER ROLE checker IN DATABASE {} SET bytea_output = 'escape'; ALTER ROLE checker IN DATABASE {} SET extra_float_digits = -10;
    ALTER ROLE checker IN DATABASE {} SET search_path = app, public";

const TABLE: &str = r#"
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TYPE app.mood AS ENUM ('sad', 'very "happy"'); CREATE DOMAIN app.short AS varchar(9);
    CREATE TYPE app.pair AS (a int, b text, at timestamptz, t regclass);
    CREATE FUNCTION app.helper() RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN current_setting(''search_path'') = ''app, public''; END';
    CREATE FUNCTION app.unqualified() RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN helper(); END';
    CREATE TABLE app.kinds (id int PRIMARY KEY,
      b bool, i2 int2, i8 int8, n numeric, n2 numeric(20, 4), f4 float4, f8 float8, m money, t text, v varchar(5), c char(5), ch "char", na name,
      by bytea, d date, ti time, tz timetz, ts timestamp, tsz timestamptz, iv interval, u uuid, j json, jb jsonb, jp jsonpath, x xml,
      ip inet, ci cidr, mac macaddr, mac8 macaddr8, bi bit(3), vb varbit, po point, li line, ls lseg, bo box, pa path, pg polygon, ce circle,
      tv tsvector, tq tsquery, lsn pg_lsn, ir int4range, tr tstzrange, mr int4multirange, oi oid, rc regclass, rt regtype, rp regproc, ro regrole, rn regnamespace,
      mo app.mood, sh app.short, pr app.pair, ia int[], ta text[], tsa timestamptz[], pra app.pair[], rca regclass[], i2v int2vector);
    ALTER TABLE app.kinds ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.kinds USING (app.unqualified());
    GRANT SELECT ON app.kinds TO PUBLIC;"#;

const VALUES: &str = r#"
    true, -32768, 9223372036854775807, 'NaN', 1.5, 1.1, 0.1::float8 + 0.2::float8, '$1,234.50', E'\t\\N\n', 'vé', 'c', 'x', 'name',
    '\x00ff5c0a', 'infinity', '24:00', '01:02:03.45+02', '2026-02-03 04:05:06.789', '2026-02-03 04:05:06+09', '1 year 2 mons -3 days 04:05:06.7', '00000000-0000-0000-0000-00000000000a',
    '{"a":  1, "b": "\\"}', '{"z": [1, null], "a": "\t"}', '$.a[*] ? (@ > 1)', '<a b="c">&lt;</a>',
    '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '101', '10101', '(1.1,2)', '{1,2,3}', '[(1,2),(3,4)]', '(3,4),(1,2)', '[(1,2),(3,4)]', '((1,2),(3,4))', '<(1,2),3>',
    'a:1A b', 'a & !b', '16/B374D848', '[1,5)', '["2026-01-01 00:00+09",)', '{[1,2),[5,9)}', 4294967295, 'app.kinds', 'app.pair', 'app.helper', 'anon', 'app',
    'very "happy"', 'short', ROW(1, 'a"b\', '2026-02-03 04:05:06+09', 'app.kinds'), '{1,NULL,3}', '{"a,b","\"q\"",NULL,""}', '{"2026-02-03 04:05:06+09"}',
    ARRAY[ROW(1, NULL, NULL, 'app.kinds')::app.pair], '{app.kinds,pg_class}', '1 2 3'"#;

#[tokio::test]
async fn every_type_prints_as_in_the_stream() -> Result<()> {
    let mut desk = Desk::new(TABLE).await?;
    let database = desk.rig.database.clone();
    desk.rig.run(&LOGIN.replace("{}", &database)).await?;
    desk.rig
        .run(&format!(
            "SET search_path = pg_catalog; INSERT INTO app.kinds VALUES (1, {VALUES})"
        ))
        .await?;
    desk.rig
        .run("INSERT INTO app.kinds (id) VALUES (2)")
        .await?;
    desk.rig
        .run("INSERT INTO app.kinds (id, f4, f8, n, ts, t, by, ia, jb) VALUES (3, 'NaN', '-Infinity', 'Infinity', '-infinity', '', '', '{}', 'null')")
        .await?;
    desk.rig.run(STREAM).await?;
    let changes = desk.rig.changes().await?;
    let shape = changes[0].shape.clone();
    let mut streamed: Vec<_> = changes
        .iter()
        .filter_map(|change| change.new().map(texts))
        .collect();
    streamed.sort();
    let read = desk.read(&viewer("anon", "{}"), &shape, None, None).await?;
    assert_eq!((read.len(), shape.columns.len()), (3, 60));
    for (read, streamed) in read.iter().zip(&streamed) {
        for (at, column) in shape.columns.iter().enumerate() {
            assert_eq!(read[at], streamed[at], "{}", column.name);
        }
    }
    Ok(())
}
