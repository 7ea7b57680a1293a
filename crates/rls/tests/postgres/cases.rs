//! Policies as people write them × INSERT, UPDATE (both versions), DELETE × several viewers.

use anyhow::Result;
use walcast_rls::Viewer;

use crate::rig::{ALICE, BOB, Rig, ask, user, viewer};

/// A table `docs` in a schema `s` of its own, what its policies need, and how its rows change.
struct Case {
    name: &'static str,
    /// After `CREATE TABLE s.docs (id int PRIMARY KEY, …)` has been written here, too.
    sql: &'static str,
    /// Values of one row each; the first is the id.
    rows: &'static [&'static str],
    /// `SET …` applied to each row in turn.
    update: &'static str,
}

const A: &str = ALICE;

fn viewers() -> Vec<Viewer> {
    vec![
        user(
            ALICE,
            r#""tenant": "acme", "app": {"roles": ["admin", "x"], "level": 3}, "teams": [1, 2], "email": "a@acme.io""#,
        ),
        user(
            BOB,
            r#""tenant": "umbrella", "app": {"roles": [], "level": 1}, "teams": [3], "email": "b@umbrella.io""#,
        ),
        viewer("anon", r#"{"role": "anon"}"#),
        viewer("anon", ""),
        viewer("editor", &format!(r#"{{"sub": "{A}", "tenant": "acme"}}"#)),
        viewer("senior", "{}"),
        viewer("auditor", r#"{"sub": "not a uuid"}"#),
        viewer("holder", "{}"),
        viewer("service_role", "{}"),
    ]
}

const OWNED: &[&str] = &[
    "1, '00000000-0000-0000-0000-00000000000a', 1, 'one'",
    "2, '00000000-0000-0000-0000-00000000000b', 3, 'two'",
    "3, NULL, NULL, NULL",
    "4, '00000000-0000-0000-0000-00000000000a', 3, ''",
];
const OWNED_UPDATE: &str = "owner = CASE WHEN owner IS NULL THEN '00000000-0000-0000-0000-00000000000b'::uuid END, team = coalesce(team, 0) + 1, body = coalesce(body, '') || '\"\\,(x)'";

/// Cases whose table is `(id int PRIMARY KEY, owner uuid, team int, body text)`.
const PLAIN: &[(&str, &str)] = &[
    (
        "own row",
        "CREATE POLICY p ON s.docs USING (auth.uid() = owner);",
    ),
    (
        "own row, as an initplan",
        "CREATE POLICY p ON s.docs FOR SELECT TO authenticated USING ((SELECT auth.uid()) = owner);",
    ),
    ("everybody", "CREATE POLICY p ON s.docs USING (true);"),
    ("nobody", "CREATE POLICY p ON s.docs USING (false);"),
    ("no policy", ""),
    (
        "no policy for reading",
        "CREATE POLICY p ON s.docs FOR INSERT WITH CHECK (true); CREATE POLICY q ON s.docs FOR UPDATE USING (true); CREATE POLICY r ON s.docs FOR DELETE USING (true);",
    ),
    (
        "without USING",
        "CREATE POLICY p ON s.docs FOR ALL WITH CHECK (true);",
    ),
    (
        "without USING beside another",
        "CREATE POLICY p ON s.docs FOR ALL WITH CHECK (true); CREATE POLICY q ON s.docs USING (team = 3); CREATE POLICY r ON s.docs AS RESTRICTIVE;",
    ),
    (
        "two permissive",
        "CREATE POLICY p ON s.docs USING (owner = auth.uid()); CREATE POLICY q ON s.docs TO anon USING (team IS NULL);",
    ),
    (
        "restrictive",
        "CREATE POLICY p ON s.docs USING (true); CREATE POLICY q ON s.docs AS RESTRICTIVE USING (team < 3);",
    ),
    (
        "restrictive alone",
        "CREATE POLICY q ON s.docs AS RESTRICTIVE USING (true);",
    ),
    (
        "restrictive for one role",
        "CREATE POLICY p ON s.docs USING (true); CREATE POLICY q ON s.docs AS RESTRICTIVE TO authenticated USING (owner = auth.uid()); CREATE POLICY r ON s.docs AS RESTRICTIVE TO editor USING (body LIKE 'o%');",
    ),
    (
        "role-specific",
        "CREATE POLICY p ON s.docs TO editor USING (true); CREATE POLICY q ON s.docs TO anon, auditor USING (id > 2);",
    ),
    (
        "tenant claim",
        "CREATE POLICY p ON s.docs USING ((auth.jwt() ->> 'tenant') = CASE team WHEN 1 THEN 'acme' WHEN 3 THEN 'umbrella' END);",
    ),
    (
        "claims by path",
        "CREATE POLICY p ON s.docs USING ((auth.jwt() #>> '{app,level}')::int >= team);",
    ),
    (
        "claims contain",
        "CREATE POLICY p ON s.docs USING ((auth.jwt() -> 'app' -> 'roles') ? 'admin' AND id < 4);",
    ),
    (
        "any of a claimed list",
        "CREATE POLICY p ON s.docs USING (team = ANY (ARRAY(SELECT jsonb_array_elements_text(auth.jwt() -> 'teams')::int)));",
    ),
    (
        "in a claimed list",
        "CREATE POLICY p ON s.docs USING (team IN (SELECT jsonb_array_elements_text(auth.jwt() -> 'teams')::int));",
    ),
    (
        "not in, with NULL",
        "CREATE POLICY p ON s.docs USING (team NOT IN (1, NULL, 9) OR team NOT IN (3, 4));",
    ),
    (
        "current_setting",
        "CREATE POLICY p ON s.docs USING (owner = (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid);",
    ),
    (
        "a claim that is no uuid",
        "CREATE POLICY p ON s.docs USING (owner = (auth.jwt() ->> 'sub')::uuid OR id = 3);",
    ),
    (
        "current_user",
        "CREATE POLICY p ON s.docs USING (current_user = 'editor' OR pg_has_role('editor', 'MEMBER') AND id = 2);",
    ),
    (
        "like",
        "CREATE POLICY p ON s.docs USING (body LIKE '%o%' OR body ILIKE 'ONE%');",
    ),
    (
        "regular expression and similar",
        "CREATE POLICY p ON s.docs USING (body ~ '^(one|two)$' OR body SIMILAR TO '%[(]x[)]' OR body ~* '.*TW');",
    ),
    (
        "is distinct",
        "CREATE POLICY p ON s.docs USING (owner IS DISTINCT FROM auth.uid());",
    ),
    (
        "empty is not null",
        "CREATE POLICY p ON s.docs USING (body = '' OR body IS NULL);",
    ),
    (
        "time of day",
        "CREATE POLICY p ON s.docs USING (now() > '2020-01-01' AND extract(hour FROM now()) >= 0 AND current_date >= '2020-01-01' AND team IS NOT NULL);",
    ),
    (
        "raises for one row",
        "CREATE POLICY p ON s.docs USING (1 / (id - 2) < 100 AND team IS NOT NULL);",
    ),
    (
        "raises always",
        "CREATE POLICY p ON s.docs USING ((body || 'x')::int > id);",
    ),
    (
        "membership",
        "CREATE TABLE s.members (team int, member uuid); GRANT SELECT ON s.members TO PUBLIC; INSERT INTO s.members VALUES (1, 'A'), (2, 'A'), (3, 'B'), (4, 'B'); CREATE POLICY p ON s.docs USING (owner = auth.uid() OR EXISTS (SELECT 1 FROM s.members m WHERE m.team = docs.team AND m.member = auth.uid()));",
    ),
    (
        "membership without a grant",
        "CREATE TABLE s.members (team int, member uuid); CREATE POLICY p ON s.docs USING (EXISTS (SELECT 1 FROM s.members m WHERE m.team = docs.team));",
    ),
    (
        "membership behind its own policy",
        "CREATE TABLE s.members (team int, member uuid); GRANT SELECT ON s.members TO PUBLIC; ALTER TABLE s.members ENABLE ROW LEVEL SECURITY; INSERT INTO s.members VALUES (1, 'A'), (3, 'B'), (4, 'A'); CREATE POLICY m ON s.members USING (member = auth.uid()); CREATE POLICY p ON s.docs USING (team IN (SELECT members.team FROM s.members));",
    ),
    (
        "two levels of membership",
        "CREATE TABLE s.groups (id int, org int); CREATE TABLE s.people (org int, person uuid); GRANT SELECT ON s.groups, s.people TO PUBLIC; INSERT INTO s.groups VALUES (1, 10), (3, 30), (2, 30); INSERT INTO s.people VALUES (10, 'A'), (30, 'B'); CREATE POLICY p ON s.docs USING (EXISTS (SELECT 1 FROM s.groups g JOIN s.people USING (org) WHERE g.id = docs.team AND person = auth.uid()));",
    ),
    (
        "policies that refer to each other",
        "CREATE TABLE s.other (id int); GRANT SELECT ON s.other TO PUBLIC; ALTER TABLE s.other ENABLE ROW LEVEL SECURITY; CREATE POLICY o ON s.other USING (EXISTS (SELECT 1 FROM s.docs WHERE docs.id = other.id)); CREATE POLICY p ON s.docs USING (EXISTS (SELECT 1 FROM s.other WHERE other.id = docs.id));",
    ),
    (
        "a policy that reads its own table",
        "CREATE POLICY p ON s.docs TO anon USING (true); CREATE POLICY q ON s.docs TO authenticated USING (EXISTS (SELECT 1 FROM s.docs d WHERE d.id = docs.id));",
    ),
    (
        "security definer",
        "CREATE TABLE s.members (team int, member uuid); INSERT INTO s.members VALUES (1, 'A'), (3, 'B'); CREATE FUNCTION s.mine() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS 'SELECT team FROM s.members WHERE member = auth.uid()'; CREATE POLICY p ON s.docs USING (team IN (SELECT s.mine()));",
    ),
    (
        "stable plpgsql",
        "CREATE FUNCTION s.allowed(t int) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN t < 3; END'; CREATE POLICY p ON s.docs USING (s.allowed(team));",
    ),
    (
        "volatile",
        "CREATE TABLE s.log (n int); GRANT INSERT ON s.log TO PUBLIC; CREATE FUNCTION s.logged(t int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO s.log VALUES (t); RETURN t <> 3; END'; CREATE POLICY p ON s.docs USING (s.logged(team));",
    ),
    (
        "no EXECUTE",
        "CREATE FUNCTION s.secret(t int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT true'; REVOKE EXECUTE ON FUNCTION s.secret FROM PUBLIC; GRANT EXECUTE ON FUNCTION s.secret TO anon; CREATE POLICY p ON s.docs USING (s.secret(team));",
    ),
    (
        "the row as a whole",
        "CREATE FUNCTION s.sees(d s.docs) RETURNS bool LANGUAGE sql STABLE AS 'SELECT d.owner = auth.uid() AND d.team IS NOT NULL'; CREATE POLICY p ON s.docs USING (s.sees(docs));",
    ),
    (
        "a row compared",
        "CREATE POLICY p ON s.docs USING ((team, body) = (1, 'one') OR docs.* IS NOT NULL AND team = 3);",
    ),
    (
        "FORCE for the owner",
        "ALTER TABLE s.docs OWNER TO holder; ALTER TABLE s.docs FORCE ROW LEVEL SECURITY; CREATE POLICY p ON s.docs USING (id = 1);",
    ),
    (
        "the owner without FORCE",
        "ALTER TABLE s.docs OWNER TO holder; CREATE POLICY p ON s.docs USING (id = 1);",
    ),
    (
        "owned by a granted role",
        "ALTER TABLE s.docs OWNER TO editor; CREATE POLICY p ON s.docs USING (id = 1);",
    ),
    (
        "security disabled",
        "CREATE POLICY p ON s.docs USING (id = 1); ALTER TABLE s.docs DISABLE ROW LEVEL SECURITY;",
    ),
    (
        "no grant for some",
        "REVOKE SELECT ON s.docs FROM PUBLIC; GRANT SELECT ON s.docs TO editor; GRANT SELECT (id, body) ON s.docs TO anon; CREATE POLICY p ON s.docs USING (owner IS NULL OR team > 1);",
    ),
    (
        "no USAGE on the schema",
        "REVOKE USAGE ON SCHEMA s FROM PUBLIC; GRANT USAGE ON SCHEMA s TO anon; CREATE POLICY p ON s.docs USING (true);",
    ),
    (
        "old helper settings",
        "CREATE POLICY p ON s.docs USING (owner = nullif(coalesce(current_setting('request.jwt.claim.sub', true), auth.uid()::text), '')::uuid OR owner = auth.uid());",
    ),
    (
        "a subquery with an aggregate",
        "CREATE POLICY p ON s.docs USING (id <= (SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'editor')));",
    ),
    (
        "the oid of the table",
        "CREATE POLICY p ON s.docs USING (tableoid = 's.docs'::regclass AND id <> 2);",
    ),
    (
        "interval and order",
        "CREATE POLICY p ON s.docs USING ((team || ' days')::interval > interval '2 days' OR body < 'p' COLLATE \"C\");",
    ),
];

/// Cases with tables of their own.
const SHAPED: &[Case] = &[
    Case {
        name: "quoted and mixed-case columns",
        sql: r#"CREATE TABLE s.docs (id int PRIMARY KEY, "Owner Id" uuid, "sélect" text, "a""b" text);
                CREATE POLICY p ON s.docs USING ("Owner Id" = auth.uid() OR "a""b" = "sélect");"#,
        rows: &["1, '00000000-0000-0000-0000-00000000000a', 'x', 'y'", "2, NULL, 'é\"\\', 'é\"\\'"],
        update: r#""Owner Id" = '00000000-0000-0000-0000-00000000000b', "sélect" = 'q'"#,
    },
    Case {
        name: "a column named like the table, and like the words around the image",
        sql: "CREATE TABLE s.docs (id int PRIMARY KEY, docs text, t text, n int, path text, walcast_image text);
              CREATE POLICY p ON s.docs USING (docs = 'x' AND t = 'y' AND n = 3 AND path IS NULL AND walcast_image = 'i');",
        rows: &["1, 'x', 'y', 3, NULL, 'i'", "2, 'y', 'x', 1, 'p', 'i'"],
        update: "t = CASE t WHEN 'y' THEN 'x' ELSE 'y' END",
    },
    Case {
        name: "a generated column, and one that the policy does not read",
        sql: "CREATE TABLE s.docs (id int PRIMARY KEY, price numeric, gone text, twice numeric GENERATED ALWAYS AS (price * 2) STORED, shout text GENERATED ALWAYS AS (upper(gone)) STORED);
              ALTER TABLE s.docs DROP COLUMN shout;
              ALTER TABLE s.docs ADD COLUMN shout text GENERATED ALWAYS AS (upper(gone)) STORED;
              CREATE FUNCTION s.sees(d s.docs) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT d.shout = ''OFF''';
              CREATE POLICY p ON s.docs USING (twice > 5 OR s.sees(docs));",
        rows: &["1, 2.5, 'a'", "2, 2.51, 'b'", "3, NULL, 'off'", "4, NULL, NULL"],
        update: "price = 10 - price",
    },
    Case {
        name: "dropped columns",
        sql: "CREATE TABLE s.docs (id int PRIMARY KEY, a int, b text, c int);
              ALTER TABLE s.docs DROP COLUMN a; ALTER TABLE s.docs ADD COLUMN d text DEFAULT 'dflt';
              CREATE POLICY p ON s.docs USING (b = 'b' AND c = 1 AND d = 'dflt');",
        rows: &["1, 'b', 1", "2, 'b', 2", "3, 'x', 1, 'other'"],
        update: "c = 3 - c",
    },
    Case {
        name: "arrays",
        sql: r#"CREATE TABLE s.docs (id int PRIMARY KEY, readers uuid[], tags text[]);
                CREATE POLICY p ON s.docs USING (auth.uid() = ANY (readers) OR tags && ARRAY['pub,lic', 'q"\']);"#,
        rows: &[
            "1, ARRAY['00000000-0000-0000-0000-00000000000a']::uuid[], '{}'",
            "2, '{}', ARRAY['x', 'pub,lic', NULL]",
            r#"3, NULL, ARRAY['q"\', 'NULL']"#,
            "4, ARRAY[NULL]::uuid[], NULL",
        ],
        update: "readers = readers || '00000000-0000-0000-0000-00000000000b'::uuid, tags = NULL",
    },
    Case {
        name: "json",
        sql: "CREATE TABLE s.docs (id int PRIMARY KEY, data jsonb, raw json);
              CREATE POLICY p ON s.docs USING (data @> jsonb_build_object('owner', auth.uid()) OR data ? 'public' OR data #>> '{a,0}' = 'z' OR data = 'null'::jsonb OR raw ->> 'k' = '\"\\');",
        rows: &[
            r#"1, '{"owner": "00000000-0000-0000-0000-00000000000a"}', NULL"#,
            r#"2, '{"public": null}', 'null'"#,
            r#"3, 'null', '{"k": "v"}'"#,
            r#"4, NULL, '{"k": "\"\\"}'"#,
            r#"5, '{"a": ["z"]}', '[]'"#,
        ],
        update: r#"data = '{"owner": "00000000-0000-0000-0000-00000000000b"}'"#,
    },
    Case {
        name: "enums, domains, composites, ranges",
        sql: "CREATE TYPE s.mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN s.short AS text CHECK (length(value) < 5);
              CREATE TYPE s.place AS (street text, no int);
              CREATE TABLE s.docs (id int PRIMARY KEY, mood s.mood, code s.short, home s.place, valid int4range, moods s.mood[]);
              CREATE POLICY p ON s.docs USING (mood > 'sad' AND code = 'a\"b' OR (home).no = 7 OR valid @> 5 OR 'sad' = ANY (moods));",
        rows: &[
            "1, 'happy', 'a\"b', NULL, NULL, NULL",
            "2, 'sad', 'a\"b', ROW('x, \"y\" (z)', 7), 'empty', '{}'",
            "3, NULL, NULL, ROW(NULL, NULL), '[1,6)', ARRAY['ok', 'sad']::s.mood[]",
            "4, 'ok', '', ROW('', 8), '(,)', NULL",
        ],
        update: "mood = 'ok', code = 'a\"b', valid = NULL, home = ROW('q', (home).no + 1)",
    },
    Case {
        name: "numbers and times at their edges",
        sql: "CREATE TABLE s.docs (id int PRIMARY KEY, n numeric, f float8, b bigint, ts timestamptz, i interval, bin bytea, c char(5), m money);
              CREATE POLICY p ON s.docs USING (n = 'NaN' OR f = 'Infinity' OR b = 9223372036854775807 OR ts = 'infinity' OR ts < '0001-01-01 BC' OR i > '1 mon' OR bin = '\\x00ff' OR c = 'ab' OR m > '1,000.00'::money);",
        rows: &[
            "1, 'NaN', 0, 0, now(), '0', '', '', 0", "2, 1.0, '-Infinity', 9223372036854775807, now(), '0', '', '', 0",
            "3, 0, 'Infinity', 0, now(), '0', '', '', 0", "4, 0, 0, 0, 'infinity', '0', '', '', 0",
            "5, 0, 0, 0, '0044-03-15 BC', '-1 mon 40 days', '', '', 0", "6, 0, 0, 0, now(), '0', '\\x00ff', '', 0",
            "7, 0, 0, 0, now(), '0', '', 'ab', 0", "8, 0, 0, 0, now(), '0', '', ' ab', 1234.5", "9, 0, 1e-300, 0, now(), '0', '', '', 0",
        ],
        update: "n = 1, f = 1, b = b - 1, ts = '2020-01-01', c = 'ab '",
    },
    Case {
        name: "inheritance: the named table's policies",
        sql: "CREATE TABLE s.parent (id int, who text); ALTER TABLE s.parent ENABLE ROW LEVEL SECURITY;
              CREATE TABLE s.docs (PRIMARY KEY (id)) INHERITS (s.parent); CREATE POLICY p ON s.docs USING (who = current_user);",
        rows: &["1, 'anon'", "2, 'editor'"],
        update: "who = 'authenticated'",
    },
    Case {
        name: "the root of a partitioned table",
        sql: "CREATE TABLE s.docs (id int, who text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
              CREATE TABLE s.low PARTITION OF s.docs FOR VALUES FROM (0) TO (2);
              CREATE TABLE s.high (who text, extra int, id int NOT NULL); ALTER TABLE s.high DROP COLUMN extra;
              ALTER TABLE s.high REPLICA IDENTITY FULL; ALTER TABLE s.low REPLICA IDENTITY FULL;
              ALTER TABLE s.docs ATTACH PARTITION s.high FOR VALUES FROM (2) TO (9);
              CREATE POLICY p ON s.docs USING (who = current_user);",
        rows: &["1, 'anon'", "2, 'editor'", "3, 'senior'"],
        update: "who = 'editor'",
    },
    Case {
        name: "long values",
        sql: "CREATE TABLE s.docs (id int PRIMARY KEY, body text); CREATE POLICY p ON s.docs USING (length(body) = 400000);",
        rows: &["1, repeat('é\"\\', 100000) || repeat('x', 100000)", "2, repeat('x', 400001)"],
        update: "body = substr(body, 2)",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn plain_tables() -> Result<()> {
    let plain = PLAIN.iter().map(|(name, policies)| {
        let sql = format!(
            "CREATE TABLE s.docs (id int PRIMARY KEY, owner uuid, team int, body text); {policies}"
        );
        (
            *name,
            sql.replace("'A'", &format!("'{ALICE}'"))
                .replace("'B'", &format!("'{BOB}'")),
            OWNED,
            OWNED_UPDATE,
        )
    });
    compare(plain.collect()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_all_shapes() -> Result<()> {
    compare(
        SHAPED
            .iter()
            .map(|case| (case.name, case.sql.to_owned(), case.rows, case.update))
            .collect(),
    )
    .await
}

type Written = (&'static str, String, &'static [&'static str], &'static str);

async fn compare(cases: Vec<Written>) -> Result<()> {
    let mut sql = String::new();
    for (number, (_, case, ..)) in cases.iter().enumerate() {
        let schema = format!("s{number}");
        let case = case.replace("CREATE POLICY", "\nCREATE POLICY");
        let (table, rest) = case.split_once(";").unwrap_or((&case, ""));
        let prepared = format!(
            "CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO PUBLIC; {table_first}; {grants} {rest}; ",
            table_first = table,
            grants = if table.contains("s.docs (") && !table.contains("PARTITION") {
                ENABLE
            } else {
                ""
            },
        );
        let late = if prepared.contains(ENABLE) {
            ""
        } else {
            ENABLE
        };
        sql.push_str(&format!(
            "{prepared} {late} ALTER SCHEMA s RENAME TO {schema};\n"
        ));
    }
    let mut rig = Rig::new(&sql).await?;
    let mut check = rig.check().await?;
    let (viewers, mut verdicts, mut seen, mut wrong) = (viewers(), 0, 0, Vec::new());
    for (number, (name, _, rows, update)) in cases.iter().enumerate() {
        let table = format!("s{number}.docs");
        for row in *rows {
            let id = row.split(',').next().unwrap_or_default();
            let columns = insert_columns(&rig, &table, row).await?;
            let statements = [
                format!("INSERT INTO {table} ({columns}) VALUES ({row})"),
                format!("UPDATE {table} SET {update} WHERE id = {id}"),
                format!("DELETE FROM {table} WHERE id = {id}"),
            ];
            for statement in statements {
                let statement = statement.replace("::s.", &format!("::s{number}."));
                let before = look(&rig, &viewers, &table, id).await;
                let change = rig.change(&statement).await?;
                let after = look(&rig, &viewers, &table, id).await;
                let answers = ask(&mut check, std::slice::from_ref(&change), &viewers).await;
                let mut expected = Vec::new();
                expected.extend(change.new().map(|_| after));
                expected.extend(change.old().map(|_| before));
                // A system column is in no image, and of an old row there is nothing else.
                let mut unknown_allowed = vec![name.contains("oid of the table"); answers.len()];
                unknown_allowed
                    .iter_mut()
                    .take(usize::from(change.new().is_some()))
                    .for_each(|allowed| *allowed = false);
                for (version, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
                    for (at, (answer, expected)) in answer.iter().zip(expected).enumerate() {
                        verdicts += 1;
                        seen += usize::from(*expected);
                        let unknown =
                            answer.is_none() && unknown_allowed.get(version) == Some(&true);
                        if !unknown && *answer != Some(*expected) {
                            let who = viewers.get(at).map(|viewer| viewer.role.to_string());
                            wrong.push(format!("{name}: {statement:.60}, version {version}, {who:?}: {answer:?}, SELECT says {expected}"));
                        }
                    }
                }
            }
        }
    }
    println!(
        "{verdicts} verdicts, {seen} visible; {:?}",
        check.counters().read()
    );
    assert!(
        wrong.is_empty(),
        "{} of {verdicts} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        seen > verdicts / 20 && seen < verdicts,
        "{seen} of {verdicts} visible: says too little"
    );
    Ok(())
}

const ENABLE: &str = "ALTER TABLE s.docs ENABLE ROW LEVEL SECURITY; ALTER TABLE s.docs REPLICA IDENTITY FULL; GRANT SELECT ON s.docs TO PUBLIC;";

/// As many of the insertable columns as the row has values.
async fn insert_columns(rig: &Rig, table: &str, row: &str) -> Result<String> {
    let schema = table.trim_end_matches("docs");
    let values = rig
        .admin
        .prepare(&format!(
            "SELECT {}",
            row.replace("::s.", &format!("::{schema}"))
        ))
        .await?;
    let count = values.columns().len() as i64;
    let sql = "SELECT string_agg(name, ', ' ORDER BY attnum) FROM (SELECT quote_ident(attname) AS name, attnum FROM pg_attribute
               WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum LIMIT $2) c";
    Ok(rig.admin.query_one(sql, &[&table, &count]).await?.get(0))
}

async fn look(rig: &Rig, viewers: &[Viewer], table: &str, id: &str) -> Vec<bool> {
    let mut seen = Vec::new();
    for viewer in viewers {
        seen.push(rig.finds(viewer, table, &format!("id = {id}")).await);
    }
    seen
}
