//! The tables, rows and policies of one round.

use std::fmt::Write;

use crate::grammar::Grammar;
use crate::kind::{KINDS, Kind, literal, quoted};
use crate::random::Random;

/// What policies may need, in every round.
pub(crate) const SURROUNDINGS: &str = r#"
    CREATE SCHEMA s; CREATE SCHEMA m; GRANT USAGE ON SCHEMA s, m TO PUBLIC;
    CREATE COLLATION m.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE COLLATION m.accents (provider = icu, locale = 'und-u-ks-level1-kc-true', deterministic = false);
    CREATE TYPE m.mood AS ENUM ('sad', 'ok', 'happy', 'Angry');
    CREATE TYPE m.pair AS (a int, b text);
    CREATE DOMAIN m.count AS int CHECK (value > -5);
    CREATE DOMAIN m.code AS text CHECK (length(value) < 9);
    CREATE DOMAIN m.blind_code AS text COLLATE m.blind;
    CREATE DOMAIN m.person AS uuid;
    CREATE TABLE m.members (team int, member uuid, role text, org int, tenant text, id int);
    CREATE TABLE m.guarded (LIKE m.members); CREATE TABLE m.hidden (LIKE m.members);
    CREATE TABLE m.groups (id int, org int, open bool, team int);
    INSERT INTO m.members VALUES
      (1, '00000000-0000-0000-0000-00000000000a', 'owner', 1, 'acme', 1), (2, '00000000-0000-0000-0000-00000000000a', 'reader', 2, 'a', 2),
      (3, '00000000-0000-0000-0000-00000000000b', 'reader', 2, NULL, 3), (7, 'abcdefab-cdef-abcd-efab-cdefabcdef0d', 'owner', 7, 'A', 4),
      (NULL, '00000000-0000-0000-0000-00000000000c', 'owner', NULL, 'acme', 5), (4, NULL, NULL, 3, 'umbrella', 6);
    INSERT INTO m.guarded TABLE m.members; INSERT INTO m.hidden TABLE m.members;
    INSERT INTO m.groups VALUES (1, 1, false, 1), (2, 1, true, 2), (3, 2, NULL, 3), (5, 7, false, 1), (NULL, 3, true, NULL);
    ALTER TABLE m.members REPLICA IDENTITY FULL; ALTER TABLE m.guarded REPLICA IDENTITY FULL; ALTER TABLE m.hidden REPLICA IDENTITY FULL;
    GRANT SELECT ON m.members, m.guarded, m.groups TO PUBLIC;
    ALTER TABLE m.guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON m.guarded USING (member = (auth.jwt() ->> 'sub')::uuid OR org = 2);
    CREATE TABLE m.log (n int); GRANT INSERT ON m.log TO PUBLIC;
    CREATE FUNCTION m.claim(k text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT auth.jwt() ->> k $$;
    CREATE FUNCTION m.tenant() RETURNS text LANGUAGE sql STABLE RETURN auth.jwt() ->> 'tenant';
    CREATE FUNCTION m.set_tenant() RETURNS text LANGUAGE sql STABLE SET search_path = '' AS $$ SELECT auth.jwt() ->> 'tenant' $$;
    CREATE FUNCTION m.org() RETURNS int LANGUAGE sql AS $$ SELECT (auth.jwt() ->> 'org')::int $$;
    CREATE FUNCTION m.plain_uid() RETURNS uuid LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN (auth.jwt() ->> 'sub')::uuid; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$;
    CREATE FUNCTION m.same(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT t $$;
    CREATE FUNCTION m.big(n int) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT n > 1 $$;
    CREATE FUNCTION m.strict(a text, b text) RETURNS bool LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT a = b OR a > 'b' $$;
    CREATE FUNCTION m.raises(n int) RETURNS bool LANGUAGE plpgsql STABLE AS
      $$ BEGIN IF n = 2 THEN RAISE EXCEPTION 'no'; END IF; RETURN n > 0; END $$;
    CREATE FUNCTION m.writes(n int) RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO m.log VALUES (n); RETURN n <> 3; END $$;
    CREATE FUNCTION m.allows(n int, t text) RETURNS bool LANGUAGE plpgsql STABLE COST 1 AS
      $$ BEGIN RETURN EXISTS (SELECT FROM m.members x WHERE x.team = n AND x.tenant = t) OR t = auth.jwt() ->> 'tenant'; END $$;
    CREATE FUNCTION m.member_of(n int) RETURNS bool LANGUAGE sql STABLE SECURITY DEFINER AS
      $$ SELECT EXISTS (SELECT FROM m.hidden h WHERE h.team = n AND h.member = auth.uid()) $$;
    CREATE FUNCTION m.teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS
      $$ SELECT team FROM m.hidden WHERE member = auth.uid() $$;
    CREATE FUNCTION m.team_array() RETURNS int[] LANGUAGE sql STABLE AS
      $$ SELECT array_agg(team) FROM m.guarded WHERE member = auth.uid() $$;
    CREATE FUNCTION m.is_admin() RETURNS bool LANGUAGE sql STABLE BEGIN ATOMIC
      SELECT coalesce((auth.jwt() -> 'app' -> 'roles') ? 'admin', false); END;"#;

/// Names that the statements around a policy, or its parser, might stumble over.
const NAMES: &[&str] = &[
    "n",
    "t",
    "i",
    "image",
    "tbl",
    "viewers",
    "viewer",
    "c1",
    "c2",
    "g",
    "v",
    "claims",
    "role",
    "user",
    "walcast_image",
    "walcast_row",
    "path",
    "lower",
    "jwt",
    "uid",
    "auth",
    "Owner Id",
    "a\"b",
    "sélect",
    "value",
    "x",
    "team",
    "member",
    "org",
    "sub",
    "tenant",
    "exists",
    "current_user",
    "images",
    "number",
    "key",
    "row",
    "any",
    "array",
    "true",
    "null",
];

#[derive(Debug)]
pub(crate) struct Column {
    name: String,
    pub(crate) kind: &'static Kind,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    /// As they are in the table now, by id - 1.
    pub(crate) rows: Vec<Vec<&'static str>>,
    pub(crate) policies: Vec<String>,
    /// Only the key of an old row is sent.
    pub(crate) keys_only: bool,
    /// Its policies apply to everybody in the crowd but `service_role`, and all may read it.
    pub(crate) guarded: bool,
    /// Its policies are such that one statement can judge for all viewers.
    pub(crate) tame: bool,
}

impl Column {
    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }
}

impl Table {
    pub(crate) fn new(random: &mut Random, number: usize, roles: &[&str]) -> Table {
        let name = match random.below(6) {
            0 => format!(
                "{}{number}",
                random.pick(&["Docs ", "image", "viewers", "d\"q"])
            ),
            _ => format!("t{number}"),
        };
        let mut names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
        names.push(name.clone());
        random.shuffle(&mut names);
        names.truncate(random.between(3, 7));
        let columns = names
            .into_iter()
            .map(|name| Column {
                name,
                kind: &KINDS[random.below(KINDS.len())],
            })
            .collect();
        let mut table = Table {
            name,
            columns,
            rows: Vec::new(),
            policies: Vec::new(),
            keys_only: random.once_in(8),
            guarded: true,
            tame: random.once_in(3),
        };
        table.rows = (0..random.between(4, 9))
            .map(|_| table.row(random))
            .collect();
        for at in 0..random.pick(&[1, 1, 1, 2, 2, 3, 4]) {
            let policy = table.policy(random, at, roles);
            table.policies.push(policy);
        }
        table
    }

    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.rows.len()
    }

    /// All rows for everybody, as a function.
    pub(crate) fn peek(&self) -> String {
        format!("{}()", self.quoted().replacen('"', "m.\"peek_", 1))
    }

    pub(crate) fn qualified(&self) -> String {
        format!("s.{}", self.quoted())
    }

    fn row(&self, random: &mut Random) -> Vec<&'static str> {
        let value = |column: &Column| match random.once_in(6) {
            true => "",
            false => column.kind.values[random.below(column.kind.values.len())],
        };
        let mut row: Vec<_> = self.columns.iter().map(value).collect();
        for (at, column) in self.columns.iter().enumerate() {
            if row[at].is_empty() && !column.kind.values.contains(&"") {
                row[at] = "NULL";
            }
        }
        row
    }

    pub(crate) fn expression(&self, random: &mut Random) -> String {
        Grammar {
            random,
            table: self,
        }
        .policy()
    }

    fn policy(&self, random: &mut Random, at: usize, roles: &[&str]) -> String {
        let kind = if at > 0 && random.once_in(3) {
            "RESTRICTIVE"
        } else {
            "PERMISSIVE"
        };
        let to = match random.once_in(3) {
            true => format!("{}, {}", random.pick(roles), random.pick(roles)),
            false => "PUBLIC".to_owned(),
        };
        let (table, using) = (self.qualified(), self.expression(random));
        let (command, clause) = match random.below(12) {
            0 => ("FOR INSERT", "WITH CHECK"),
            1 => ("FOR UPDATE", "USING"),
            2..=6 => ("FOR SELECT", "USING"),
            _ => ("", "USING"),
        };
        format!("CREATE POLICY p{at} ON {table} AS {kind} {command} TO {to} {clause} ({using})")
    }

    /// Everything about it but its rows.
    pub(crate) fn sql(&mut self, random: &mut Random) -> Vec<String> {
        let table = self.qualified();
        let mut sql = format!("CREATE TABLE {table} (");
        let key = random.below(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            if at == key {
                sql.push_str("id int PRIMARY KEY, ");
            }
            let _ = write!(
                sql,
                "{} {} {}, ",
                column.quoted(),
                column.kind.sql,
                column.kind.collation
            );
        }
        sql.truncate(sql.len() - 2);
        let _ = write!(
            sql,
            "); ALTER TABLE {table} REPLICA IDENTITY {};",
            if self.keys_only { "DEFAULT" } else { "FULL" }
        );
        match random.below(8) {
            0 => {
                self.guarded = false;
                let some = self.columns[random.below(self.columns.len())].quoted();
                let _ = write!(
                    sql,
                    "GRANT SELECT ON {table} TO authenticated, editor; GRANT SELECT (id, {some}) ON {table} TO anon;"
                );
            }
            _ => {
                let _ = write!(sql, "GRANT SELECT ON {table} TO PUBLIC;");
            }
        }
        match random.below(16) {
            0 => {
                self.guarded = false;
                let _ = write!(sql, "ALTER TABLE {table} OWNER TO auditor;");
            }
            1 => {
                let _ = write!(
                    sql,
                    "ALTER TABLE {table} OWNER TO auditor; ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
                );
            }
            _ => {}
        }
        let _ = write!(sql, "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;");
        let peek = format!(
            "CREATE FUNCTION {} RETURNS SETOF {table} LANGUAGE sql STABLE SECURITY DEFINER AS {}",
            self.peek(),
            quoted(&format!("SELECT * FROM {table}")),
        );
        let mut statements = vec![sql, peek];
        statements.extend(self.policies.iter().cloned());
        statements
    }

    pub(crate) fn insert(&self) -> String {
        let mut sql = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let names: Vec<_> = self.columns.iter().map(Column::quoted).collect();
            let values: Vec<_> = self
                .columns
                .iter()
                .zip(row)
                .map(|(column, value)| literal(column.kind, value))
                .collect();
            let _ = write!(
                sql,
                "INSERT INTO {} (id, {}) VALUES ({}, {});",
                self.qualified(),
                names.join(", "),
                at + 1,
                values.join(", ")
            );
        }
        sql
    }

    /// Changes most rows.
    pub(crate) fn update(&mut self, random: &mut Random) -> String {
        let mut sql = String::new();
        for at in 0..self.rows.len() {
            let (new, count) = (self.row(random), random.between(1, self.columns.len()));
            let mut set = Vec::new();
            for _ in 0..count {
                let which = random.below(self.columns.len());
                let column = &self.columns[which];
                self.rows[at][which] = new[which];
                set.push((
                    which,
                    format!("{} = {}", column.quoted(), literal(column.kind, new[which])),
                ));
            }
            set.sort();
            set.dedup_by_key(|(which, _)| *which);
            let set: Vec<_> = set.into_iter().map(|(_, text)| text).collect();
            let _ = write!(
                sql,
                "UPDATE {} SET {} WHERE id = {};",
                self.qualified(),
                set.join(", "),
                at + 1
            );
        }
        sql
    }

    pub(crate) fn delete(&self) -> String {
        format!("DELETE FROM {};", self.qualified())
    }

    /// A change of what decides, that must be noticed before the next verdict.
    pub(crate) fn upheaval(&mut self, random: &mut Random, own: &[String; 2]) -> String {
        let table = self.qualified();
        match random.below(14) {
            0..=2 => "DELETE FROM m.members WHERE team = 1; INSERT INTO m.members (team, member, role) SELECT g, md5('x')::uuid, 'owner' FROM generate_series(1, 3) g; UPDATE m.guarded SET team = team % 3 + 1; UPDATE m.hidden SET team = 3 - team;".to_owned(),
            3..=5 => {
                let new = format!("CREATE POLICY late ON {table} USING ({})", self.expression(random));
                self.policies.push(new.clone());
                new + ";"
            }
            6 | 7 => {
                let new = format!("CREATE POLICY later ON {table} AS RESTRICTIVE FOR SELECT USING ({})", self.expression(random));
                self.policies.push(new.clone());
                new + ";"
            }
            8 => {
                self.policies.remove(0);
                format!("DROP POLICY p0 ON {table};")
            }
            9 => format!("REVOKE {} FROM {};", own[0], own[1]),
            10 => format!("CREATE OR REPLACE FUNCTION m.tenant() RETURNS text LANGUAGE sql STABLE AS {};", quoted("SELECT auth.jwt() ->> 'email'")),
            11 => "CREATE OR REPLACE FUNCTION m.member_of(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n = 3';".to_owned(),
            12 => format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"),
            _ if self.guarded => format!("REVOKE SELECT ON {table} FROM PUBLIC; GRANT SELECT ON {table} TO service_role;"),
            _ => String::new(),
        }
    }
}
