//! Policies: everything that people write, and what they write by mistake.

use crate::kind::{Family, IDS, KINDS, Kind, literal, quoted};
use crate::random::Random;
use crate::world::{Column, Table};

/// Writes expressions over the columns of one table.
pub(crate) struct Grammar<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) table: &'a Table,
}

const COMPARISONS: &[&str] = &[
    "=",
    "=",
    "=",
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "IS DISTINCT FROM",
    "IS NOT DISTINCT FROM",
];

impl<'a> Grammar<'a> {
    /// A policy's USING: what is usual, half of the time.
    pub(crate) fn policy(&mut self) -> String {
        if self.table.tame {
            let depth = self.random.below(3);
            return self.joined(depth);
        }
        match self.random.below(10) {
            0..=3 => self.usual(),
            4 => format!("({}) OR ({})", self.usual(), self.usual()),
            5 => format!("({}) AND ({})", self.usual(), self.truth(1)),
            6 => self.truth(0),
            7 => self.truth(2),
            _ => self.truth(1),
        }
    }

    /// What a fast way to judge is likely to take.
    fn usual(&mut self) -> String {
        let column = self.column();
        match self.random.below(8) {
            0 => "true".to_owned(),
            1 => self.membership(),
            2 if column.kind.family != Family::Array => {
                let list = self.claimed_list(column.kind);
                format!("{} = ANY ({list})", self.name(column))
            }
            3 => {
                let set = self.list(column.kind);
                format!("{} IN ({set})", self.name(column))
            }
            4 => format!(
                "{} = {}",
                self.name(column),
                literal(column.kind, self.random.pick(column.kind.values))
            ),
            _ => {
                let (left, right) = (self.name(column), self.claimed(column.kind));
                if self.random.once_in(2) {
                    format!("{left} = {right}")
                } else {
                    format!("{right} = {left}")
                }
            }
        }
    }

    /// What one statement for all viewers is likely to take: nothing that raises, other tables.
    fn joined(&mut self, depth: usize) -> String {
        if depth > 0 {
            let (left, right) = (self.joined(depth - 1), self.joined(depth - 1));
            return match self.random.below(5) {
                0 => format!("NOT ({left})"),
                1 | 2 => format!("({left}) AND ({right})"),
                _ => format!("({left}) OR ({right})"),
            };
        }
        let (whole, text) = (self.column_as("int4"), self.column_as("text"));
        let column = self.column();
        let name = self.name(column);
        let user = self.random.pick(&[
            "auth.uid()",
            "(SELECT auth.uid())",
            "(auth.jwt() ->> 'owner')::uuid",
        ]);
        match self.random.below(12) {
            0..=2 => format!(
                "EXISTS (SELECT 1 FROM m.members x WHERE x.team = {whole} AND x.member = {user})"
            ),
            3 => format!(
                "{whole} {}IN (SELECT x.team FROM m.members x WHERE x.member = {user})",
                self.random.pick(&["", "", "NOT "])
            ),
            4 => format!(
                "EXISTS (SELECT FROM m.members x WHERE x.tenant = {text} AND x.org = (auth.jwt() ->> 'org')::int AND x.role <> 'owner')"
            ),
            5 => format!(
                "EXISTS (SELECT 1 FROM m.groups g WHERE g.id = {whole} AND (g.open OR g.org IN (SELECT x.org FROM m.members x WHERE x.member = {user})))"
            ),
            6 => format!(
                "EXISTS (SELECT 1 FROM m.members x JOIN m.groups g ON g.id = x.team WHERE g.org = {whole} AND x.member = {user})"
            ),
            7 => format!("{text} = ANY (SELECT x.tenant FROM m.members x WHERE x.member = {user})"),
            8 => format!("{text} > (auth.jwt() ->> 'tenant')"),
            9 => format!(
                "{whole} = ({})",
                self.random.pick(&[
                    "(auth.jwt() ->> 'org')::int",
                    "(auth.jwt() ->> 'level')::int"
                ])
            ),
            10 => format!("{name} IS {}NULL", self.random.pick(&["", "NOT "])),
            _ => self.of_the_viewer(),
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.atom();
        }
        let below = depth - 1;
        match self.random.below(12) {
            0..=2 => format!("({}) AND ({})", self.truth(below), self.truth(below)),
            3..=5 => format!("({}) OR ({})", self.truth(below), self.truth(below)),
            6 => format!("NOT ({})", self.truth(below)),
            7 => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.truth(below),
                self.truth(below),
                self.truth(below)
            ),
            8 => format!(
                "coalesce({}, {})",
                self.truth(below),
                self.random.pick(&["true", "false", "NULL::bool"])
            ),
            9 => format!(
                "({}) {}",
                self.truth(below),
                self.random.pick(&[
                    "IS TRUE",
                    "IS NOT FALSE",
                    "IS NULL",
                    "IS NOT TRUE",
                    "IS UNKNOWN"
                ])
            ),
            10 => format!("({}) = ({})", self.truth(below), self.truth(below)),
            _ => self.atom(),
        }
    }

    fn atom(&mut self) -> String {
        let column = self.column();
        let (name, kind) = (self.name(column), column.kind);
        match self.random.below(20) {
            0..=5 => self.comparison(column),
            6 => {
                let set = self.list(kind);
                format!("{name} {}IN ({set})", self.random.pick(&["", "NOT "]))
            }
            7 if kind.family != Family::Array => {
                let set = self.list(kind);
                format!(
                    "{name} {} (ARRAY[{set}]::{}[])",
                    self.random.pick(&["= ANY", "<> ALL", "<> ANY", "= ALL"]),
                    kind.sql
                )
            }
            8 if kind.family != Family::Array => {
                let list = self.claimed_list(kind);
                format!(
                    "{name} {} ({list})",
                    self.random.pick(&["= ANY", "= ANY", "<> ALL"])
                )
            }
            9 => format!("{name} IS {}NULL", self.random.pick(&["", "NOT "])),
            10 | 11 => self.membership(),
            12 => self.of_the_viewer(),
            13 => self.function(),
            14 => self.of_the_row(),
            15 => {
                let (low, high) = (self.value(kind, 0), self.value(kind, 0));
                format!(
                    "{name} {}BETWEEN {low} AND {high}",
                    self.random.pick(&["", "NOT ", ""])
                )
            }
            16 => self.claims_list_holds(column),
            _ => self.of_the_family(column),
        }
    }

    fn comparison(&mut self, column: &Column) -> String {
        let (name, operator) = (self.name(column), self.random.pick(COMPARISONS));
        let value = match self.random.below(12) {
            0 if column.kind.sql != "m.pair" => quoted(self.random.pick(column.kind.values)),
            1 if column.kind.family == Family::Whole => "2.0".to_owned(),
            _ => self.value(column.kind, 1),
        };
        if self.random.once_in(2) {
            format!("{name} {operator} {value}")
        } else {
            format!("{value} {operator} {name}")
        }
    }

    /// Something of the kind.
    fn value(&mut self, kind: &'static Kind, depth: usize) -> String {
        match self.random.below(if depth == 0 { 8 } else { 12 }) {
            0..=2 => literal(kind, self.random.pick(kind.values)),
            3..=5 => self.claimed(kind),
            6 => match self
                .table
                .columns
                .iter()
                .rfind(|column| column.kind == kind)
            {
                Some(column) => self.name(column),
                None => format!("NULL::{}", kind.sql),
            },
            7 if kind.family == Family::Whole => self
                .random
                .pick(&["1", "7", "1::int8", "3::int2", "(0 + 1)"])
                .to_owned(),
            7 if kind.family == Family::Text => quoted(self.random.pick(kind.values)),
            7 => literal(kind, self.random.pick(kind.values)),
            8 => format!("coalesce({}, {})", self.claimed(kind), self.value(kind, 0)),
            9 => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.truth(0),
                self.value(kind, 0),
                self.value(kind, 0)
            ),
            10 => format!(
                "nullif({}, {})",
                self.value(kind, 0),
                literal(kind, self.random.pick(kind.values))
            ),
            _ => self.changed(kind),
        }
    }

    fn changed(&mut self, kind: &'static Kind) -> String {
        let value = self.value(kind, 0);
        match kind.family {
            Family::Text => {
                let with = self
                    .random
                    .pick(&["lower", "upper", "trim", "reverse", "m.same"]);
                format!("{with}({value})")
            }
            Family::Whole => format!(
                "{value} {}",
                self.random.pick(&["+ 1", "% 2", "* -1", "/ 1", "| 1"])
            ),
            Family::Truth => format!("(NOT {value})"),
            _ => format!("({value})::text::{}", kind.sql),
        }
    }

    /// The viewer's value of the kind, from a claim.
    fn claimed(&mut self, kind: &'static Kind) -> String {
        let claim = self.random.pick(kind.claims);
        if kind.sql == "uuid" && self.random.once_in(2) {
            return self
                .random
                .pick(&[
                    "auth.uid()",
                    "(SELECT auth.uid())",
                    "(SELECT auth.uid() AS uid)",
                    "m.plain_uid()",
                ])
                .to_owned();
        }
        if kind.family == Family::Json {
            return format!("(auth.jwt() -> '{claim}')");
        }
        let text = self.claim_text(claim);
        let value = match kind.family {
            Family::Text if !self.random.once_in(3) => text,
            _ => format!("{text}::{}", kind.sql),
        };
        if self.random.once_in(4) {
            format!("(SELECT {value})")
        } else {
            format!("({value})")
        }
    }

    fn claim_text(&mut self, claim: &str) -> String {
        match self.random.below(14) {
            0..=4 => format!("(auth.jwt() ->> '{claim}')"),
            5 => format!("(auth.jwt() #>> '{{{claim}}}')"),
            6 => format!("((SELECT auth.jwt()) ->> '{claim}')"),
            7 => format!("(current_setting('request.jwt.claims', true)::jsonb ->> '{claim}')"),
            8 => format!(
                "(nullif(current_setting('request.jwt.claims', true), '')::json ->> '{claim}')"
            ),
            9 => format!("m.claim('{claim}')"),
            10 => format!(
                "(auth.jwt() -> 'app' ->> '{}')",
                self.random.pick(&["tenant", "level", "roles"])
            ),
            11 => format!("(auth.jwt() #>> '{{teams,{}}}')", self.random.below(3)),
            12 => format!(
                "coalesce(auth.jwt() ->> '{claim}', {})",
                self.random.pick(&["''", "'1'", "'acme'", "auth.role()"])
            ),
            _ => self
                .random
                .pick(&[
                    "m.tenant()",
                    "auth.role()",
                    "auth.uid()::text",
                    "current_user::text",
                    "m.set_tenant()",
                ])
                .to_owned(),
        }
    }

    fn claimed_list(&mut self, kind: &'static Kind) -> String {
        let (kind, claim) = (
            kind.sql,
            self.random.pick(&["teams", "teams", "app", "tenant"]),
        );
        match self.random.below(6) {
            0 | 1 => {
                format!("ARRAY(SELECT jsonb_array_elements_text(auth.jwt() -> '{claim}')::{kind})")
            }
            2 => format!("SELECT jsonb_array_elements_text(auth.jwt() -> '{claim}')::{kind}"),
            3 => format!("string_to_array(auth.jwt() ->> 'csv', ',')::{kind}[]"),
            4 => format!("translate(auth.jwt() ->> 'teams', '[]', '{{}}')::{kind}[]"),
            _ => format!(
                "(SELECT array_agg(x::{kind}) FROM jsonb_array_elements_text(auth.jwt() -> '{claim}') AS t(x))::{kind}[]"
            ),
        }
    }

    fn claims_list_holds(&mut self, column: &Column) -> String {
        let name = self.name(column);
        match self.random.below(3) {
            0 => format!("(auth.jwt() -> 'teams') @> to_jsonb({name})"),
            1 => format!("(auth.jwt() -> 'teams') ? {name}::text"),
            _ => format!(
                "auth.jwt() @> jsonb_build_object('{}', {name})",
                self.random.pick(&["tenant", "org", "flag"])
            ),
        }
    }

    fn list(&mut self, kind: &'static Kind) -> String {
        let mut items = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            items.push(match self.random.below(8) {
                0 => self.claimed(kind),
                1 => format!("NULL::{}", kind.sql),
                _ => literal(kind, self.random.pick(kind.values)),
            });
        }
        items.join(", ")
    }

    /// Reads other tables. The outer column is always qualified: the inner tables have names like it.
    fn membership(&mut self) -> String {
        let whole = self.column_as("int4");
        let user = self.random.pick(&[
            "auth.uid()",
            "(SELECT auth.uid())",
            "(auth.jwt() ->> 'sub')::uuid",
        ]);
        let table = self.random.pick(&["m.members", "m.members", "m.guarded"]);
        match self.random.below(13) {
            0..=2 => format!(
                "EXISTS (SELECT 1 FROM {table} x WHERE x.team = {whole} AND x.member = {user})"
            ),
            3 => format!("{whole} IN (SELECT x.team FROM {table} x WHERE x.member = {user})"),
            4 => format!("{whole} NOT IN (SELECT x.team FROM {table} x WHERE x.member = {user})"),
            5 => format!(
                "NOT EXISTS (SELECT FROM {table} x WHERE x.team = {whole} AND x.member = {user} AND x.role <> 'owner')"
            ),
            6 => format!(
                "EXISTS (SELECT 1 FROM {table} x JOIN m.groups g ON g.id = x.team WHERE g.org = {whole} AND x.member = {user})"
            ),
            7 => format!(
                "EXISTS (SELECT 1 FROM m.groups g WHERE g.id = {whole} AND (g.open OR g.org IN (SELECT x.org FROM {table} x WHERE x.member = {user})))"
            ),
            8 => format!(
                "(SELECT count(*) FROM {table} x WHERE x.team = {whole}) > {}",
                self.random.below(3)
            ),
            9 => format!(
                "(SELECT x.role FROM {table} x WHERE x.team = {whole} AND x.member = {user}) = {}",
                self.random.pick(&["'owner'", "auth.jwt() ->> 'tenant'"])
            ),
            10 => format!(
                "{whole} = ANY (ARRAY(SELECT x.team FROM {table} x WHERE x.member = {user}))"
            ),
            11 => format!("EXISTS (SELECT 1 FROM m.hidden x WHERE x.team = {whole})"),
            _ => format!(
                "(EXISTS (SELECT 1 FROM {table} x WHERE x.team = {whole} AND x.member = {user} LIMIT 1) OR {whole} = (SELECT max(g.id) FROM m.groups g WHERE g.org = (auth.jwt() ->> 'org')::int))"
            ),
        }
    }

    fn of_the_viewer(&mut self) -> String {
        let random = &mut *self.random;
        match random.below(10) {
            0 => format!(
                "current_user = '{}'",
                random.pick(&["anon", "editor", "authenticated"])
            ),
            1 => "pg_has_role('editor', 'USAGE')".to_owned(),
            2 => format!(
                "auth.role() = '{}'",
                random.pick(&["anon", "authenticated", "a"])
            ),
            3 => "(auth.jwt() ->> 'flag')::bool".to_owned(),
            4 => "coalesce((auth.jwt() ->> 'flag')::bool, false)".to_owned(),
            5 => "(auth.jwt() -> 'app' -> 'roles') ? 'admin'".to_owned(),
            6 => format!("auth.uid() = '{}'", random.pick(&IDS)),
            7 => "auth.jwt() ? 'tenant'".to_owned(),
            8 => "auth.uid() IS NOT NULL".to_owned(),
            _ => format!(
                "(auth.jwt() ->> 'org')::{} >= {}",
                random.pick(&["int", "numeric", "float8"]),
                random.below(3)
            ),
        }
    }

    fn function(&mut self) -> String {
        let (whole, text) = (self.column_as("int4"), self.column_as("text"));
        match self.random.below(11) {
            0 => format!("m.member_of({whole})"),
            1 => format!("{whole} IN (SELECT m.teams())"),
            2 => format!("m.writes({whole})"),
            3 => format!("m.big({whole})"),
            4 => format!("m.strict({text}, auth.jwt() ->> 'tenant')"),
            5 => format!("m.raises({whole})"),
            6 => format!("m.allows({whole}, {text})"),
            7 => format!("{whole} = m.org()"),
            8 => format!("{text} = m.tenant()"),
            9 => format!("{whole} = ANY (m.team_array())"),
            _ => format!("m.is_admin() OR {whole} > 2"),
        }
    }

    fn of_the_row(&mut self) -> String {
        let table = self.table.quoted();
        let (whole, text) = (self.column_as("int4"), self.column_as("text"));
        match self.random.below(7) {
            0 => format!("{table}.* IS NOT NULL"),
            1 => format!("({whole}, {text}) = (1, auth.jwt() ->> 'tenant')"),
            2 => format!("1 / {whole} >= 0"),
            3 => format!("{text}::int > 0"),
            4 => format!("to_jsonb({table}) ->> 'id' = '3'"),
            5 => format!("{table}.id % {} = 0", self.random.between(1, 3)),
            _ => "now() > '2020-01-01'".to_owned(),
        }
    }

    fn of_the_family(&mut self, column: &Column) -> String {
        let (name, random) = (self.name(column), &mut *self.random);
        match column.kind.family {
            Family::Text => {
                let pattern =
                    quoted(random.pick(&["a%", "%A", "_", "", "%", "acme", "a\\_b", "x_y%"]));
                match random.below(5) {
                    0 => format!("{name} LIKE {pattern}"),
                    1 => format!("{name} NOT ILIKE {pattern}"),
                    2 => format!("length({name}) > 1"),
                    3 => format!("{name} ~ '^[a-z]+$'"),
                    _ => format!("starts_with({name}, auth.jwt() ->> 'tenant')"),
                }
            }
            Family::Whole => format!(
                "{name} {} {}",
                random.pick(&["%", "&", "-"]),
                random.pick(&["2 = 0", "1 > 0"])
            ),
            Family::Truth => random
                .pick(&[
                    "#",
                    "NOT #",
                    "# IS TRUE",
                    "# IS NOT FALSE",
                    "#::int = 1",
                    "# = (auth.jwt() ->> 'flag')::bool",
                ])
                .replace('#', &name),
            Family::Array => {
                let element = column.kind.sql.trim_end_matches("[]");
                let kind = KINDS
                    .iter()
                    .find(|kind| kind.sql == element)
                    .expect("arrays are of kinds");
                match random.below(4) {
                    0 => format!("{} = ANY ({name})", self.claimed(kind)),
                    1 => format!("{name} && ARRAY[{}]", self.claimed(kind)),
                    2 => format!(
                        "{name} @> ARRAY[{}]",
                        literal(kind, random.pick(kind.values))
                    ),
                    _ => format!("cardinality({name}) > 0"),
                }
            }
            Family::Json => match random.below(4) {
                0 => format!("{name} ? 'a'"),
                1 => format!("{name} @> '{{\"a\": 1}}'"),
                2 => format!("{name} ->> 'tenant' = auth.jwt() ->> 'tenant'"),
                _ => format!("auth.jwt() @> {name}"),
            },
            Family::Other => format!("{name} = {name}"),
        }
    }

    fn column(&mut self) -> &'a Column {
        &self.table.columns[self.random.below(self.table.columns.len())]
    }

    /// A column cast to the type, preferably one that has it.
    fn column_as(&mut self, sql: &str) -> String {
        let table = self.table.quoted();
        let fitting: Vec<_> = self
            .table
            .columns
            .iter()
            .filter(|column| column.kind.sql == sql)
            .collect();
        match fitting.is_empty() {
            false => format!("{table}.{}", self.random.pick(&fitting).quoted()),
            true if sql == "text" => format!("{table}.{}::text", self.column().quoted()),
            true => format!("{table}.id"),
        }
    }

    /// Alone or with the table's name before it.
    fn name(&mut self, column: &Column) -> String {
        match self.random.once_in(3) {
            true => format!("{}.{}", self.table.quoted(), column.quoted()),
            false => column.quoted(),
        }
    }
}
