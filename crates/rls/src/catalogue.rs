//! What Postgres's catalogue says of a table and a role, read with an empty `search_path`.

use tokio_postgres::{Client, Error, Row};

use crate::names::Names;

/// Everything that decides what a role may see of a table, as far as the catalogue knows it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) role: RoleFacts,
    /// Policies apply to this role: enabled, and neither BYPASSRLS nor an owner without FORCE.
    pub(crate) policies_apply: bool,
    /// USAGE on the schema.
    pub(crate) schema_usage: bool,
    /// SELECT on the table as a whole: on every column that it has, had or will have.
    pub(crate) whole_table: bool,
    /// In the order of their numbers, without dropped ones.
    pub(crate) columns: Vec<ColumnFacts>,
    /// The highest number that a column has, or had when it was dropped.
    pub(crate) last_number: i16,
    /// Numbers of the key's columns, each with its equality operator as SQL text.
    pub(crate) key: Vec<(i16, String)>,
    /// Those for SELECT or ALL that hold for this role, in the order of their names.
    pub(crate) policies: Vec<PolicyFacts>,
    /// Numbers of the columns that they read.
    pub(crate) reads: Vec<i16>,
    /// They call a function that is not Postgres's own, or read another table.
    pub(crate) reaches_out: bool,
    /// They call a function of the application that is declared IMMUTABLE, and may yet read claims.
    pub(crate) folds: bool,
    /// Changes whenever any of this may have changed.
    pub(crate) digest: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RoleFacts {
    pub(crate) superuser: bool,
    pub(crate) bypass: bool,
    pub(crate) replication: bool,
    pub(crate) login_itself: bool,
    /// The login may become it.
    pub(crate) member: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ColumnFacts {
    pub(crate) number: i16,
    pub(crate) name: String,
    pub(crate) selectable: bool,
    /// What it is computed from.
    pub(crate) generated: Option<String>,
    /// Its type's OID; that of a domain is the domain's.
    pub(crate) type_oid: u32,
    /// It has no collation, or the database's own.
    pub(crate) plain_collation: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct PolicyFacts {
    pub(crate) permissive: bool,
    /// `None`: made without USING. Postgres leaves such a policy out.
    pub(crate) qual: Option<String>,
}

/// A table is named by its OID `c.oid`, a role by its row `r`; `n` is the table's schema.
///
/// Row versions (`xmin`) stand for what Postgres itself looks up again; what follows from the
/// memberships of roles is asked for outright, so that no catalogue has to be read as a whole.
/// What a policy's text depends on by name is in it: whatever is renamed, or moved to another schema,
/// changes the text. No digest comes back once it is another, because who changes a row leaves the
/// transaction's number there; but for what was granted to a role, taken, and granted again, and then
/// the rules that rest on it are right again.
const DIGEST: &str = "
  md5(concat_ws('|',
    c.xmin::text, c.oid::text, n.xmin::text, r.oid::text,
    pg_has_role(r.oid, c.relowner, 'USAGE'), r.rolsuper, r.rolbypassrls, r.rolreplication,
    pg_has_role(session_user, r.oid, 'MEMBER'),
    has_schema_privilege(r.oid, n.oid, 'USAGE'), has_table_privilege(r.oid, c.oid, 'SELECT'),
    (SELECT string_agg(a.xmin::text || has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')::text, ',' ORDER BY a.attnum)
       FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
    (SELECT string_agg(i.xmin::text, ',' ORDER BY i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid),
    (SELECT string_agg(concat_ws(':', p.oid, p.xmin::text,
              (SELECT bool_or(m = 0 OR pg_has_role(r.oid, m, 'USAGE')) FROM unnest(p.polroles) m)), ',' ORDER BY p.oid)
       FROM pg_policy p WHERE p.polrelid = c.oid),
    (SELECT string_agg(concat_ws(':', d.refobjid,
              (SELECT concat_ws(';', k.xmin::text, (SELECT s.xmin::text FROM pg_namespace s WHERE s.oid = k.relnamespace),
                        (SELECT sum(a.xmin::text::int8) FROM pg_attribute a WHERE a.attrelid = k.oid AND a.attnum > 0))
                 FROM pg_class k WHERE d.refclassid = 'pg_class'::regclass AND k.oid = d.refobjid),
              (SELECT concat_ws(';', f.xmin::text, (SELECT s.xmin::text FROM pg_namespace s WHERE s.oid = f.pronamespace))
                 FROM pg_proc f WHERE d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid),
              (SELECT concat_ws(';', t.xmin::text, (SELECT s.xmin::text FROM pg_namespace s WHERE s.oid = t.typnamespace),
                        (SELECT sum(v.xmin::text::int8) FROM pg_enum v WHERE v.enumtypid IN (t.oid, t.typelem)))
                 FROM pg_type t WHERE d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid),
              (SELECT concat_ws(';', o.xmin::text, (SELECT s.xmin::text FROM pg_namespace s WHERE s.oid = o.collnamespace))
                 FROM pg_collation o WHERE d.refclassid = 'pg_collation'::regclass AND o.oid = d.refobjid),
              (SELECT concat_ws(';', o.xmin::text, (SELECT s.xmin::text FROM pg_namespace s WHERE s.oid = o.oprnamespace))
                 FROM pg_operator o WHERE d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid)), ',' ORDER BY d.refclassid, d.refobjid)
       FROM (SELECT DISTINCT e.refclassid, e.refobjid
               FROM pg_policy p JOIN pg_depend e ON e.classid = 'pg_policy'::regclass AND e.objid = p.oid
              WHERE p.polrelid = c.oid AND e.refobjid <> c.oid
                AND e.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass,
                                     'pg_collation'::regclass, 'pg_operator'::regclass)) d)))";

/// A version of the function `f` in the schema `s`.
pub(crate) const FUNCTION_VERSION: &str = "concat_ws(':', f.oid, f.xmin::text, s.xmin::text)";

/// The digests of (table, role) pairs given as two arrays.
/// A pair whose table or role is gone has none. A third array has for each pair the functions whose
/// bodies count as well, as the text of an array of OIDs; their versions stand at the end.
pub(crate) fn digest_sql() -> String {
    format!(
        "SELECT ARRAY(SELECT (SELECT {DIGEST}
                                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles r
                               WHERE c.oid = q.relation AND r.rolname = q.role)
                             || coalesce((SELECT string_agg(' ' || {FUNCTION_VERSION}, '' ORDER BY f.oid)
                                            FROM pg_proc f JOIN pg_namespace s ON s.oid = f.pronamespace
                                           WHERE q.functions <> '{{}}' AND f.oid = ANY (q.functions::oid[])), '')
                        FROM unnest($1::oid[], $2::text[], $3::text[]) WITH ORDINALITY AS q(relation, role, functions, at)
                       ORDER BY q.at)"
    )
}

/// Source: `check_enable_rls` and `get_row_security_policies` in Postgres's own sources.
/// The collation 100 is the database's own ("default"): it tells all different texts apart.
fn facts_sql() -> String {
    format!(
        "SELECT n.nspname::text, c.relname::text,
           r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolname = session_user,
           coalesce(pg_has_role(session_user, r.oid, 'MEMBER'), false),
           c.relrowsecurity AND NOT r.rolbypassrls AND NOT r.rolsuper
             AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')),
           has_schema_privilege(r.oid, n.oid, 'USAGE'),
           a.numbers, a.names, a.selectable, a.generated,
           k.numbers, k.operators,
           p.permissive, p.quals, p.reads, p.reaches_out,
           {DIGEST},
           has_table_privilege(r.oid, c.oid, 'SELECT'), p.folds, a.types, a.plain, c.relnatts
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN pg_roles r
         CROSS JOIN LATERAL (
           SELECT array_agg(a.attnum ORDER BY a.attnum) AS numbers,
                  array_agg(a.attname::text ORDER BY a.attnum) AS names,
                  array_agg(has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT') ORDER BY a.attnum) AS selectable,
                  array_agg(CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END ORDER BY a.attnum) AS generated,
                  array_agg(a.atttypid ORDER BY a.attnum) AS types,
                  array_agg(a.attcollation IN (0, 100) ORDER BY a.attnum) AS plain
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a
         CROSS JOIN LATERAL (
           SELECT array_agg(x.number ORDER BY x.at) AS numbers, array_agg(x.operator ORDER BY x.at) AS operators
             FROM (SELECT j.number, j.at, format('OPERATOR(%I.%s)', s.nspname, o.oprname) AS operator
                     FROM pg_index i
                     CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS j(number, class, at)
                     JOIN pg_opclass l ON l.oid = j.class
                     JOIN pg_amop m ON m.amopfamily = l.opcfamily AND m.amoplefttype = l.opcintype
                                   AND m.amoprighttype = l.opcintype AND m.amopstrategy = 3
                     JOIN pg_operator o ON o.oid = m.amopopr
                     JOIN pg_namespace s ON s.oid = o.oprnamespace
                    WHERE i.indrelid = c.oid AND i.indisprimary AND j.at <= i.indnkeyatts) x) k
         CROSS JOIN LATERAL (
           SELECT array_agg(p.polpermissive ORDER BY p.polname) AS permissive,
                  array_agg(pg_get_expr(p.polqual, p.polrelid) ORDER BY p.polname) AS quals,
                  ARRAY(SELECT DISTINCT e.refobjsubid::int2 FROM pg_depend e
                         WHERE e.classid = 'pg_policy'::regclass AND e.objid = ANY (array_agg(p.oid))
                           AND e.refclassid = 'pg_class'::regclass AND e.refobjid = c.oid AND e.refobjsubid <> 0
                        UNION
                        SELECT e.refobjsubid::int2 FROM pg_attrdef d
                          JOIN pg_attribute g ON g.attrelid = d.adrelid AND g.attnum = d.adnum AND g.attgenerated <> ''
                          JOIN pg_depend e ON e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid
                           AND e.refclassid = 'pg_class'::regclass AND e.refobjid = c.oid
                           AND e.refobjsubid <> 0 AND e.refobjsubid <> d.adnum
                         WHERE d.adrelid = c.oid
                           AND EXISTS (SELECT FROM pg_depend u
                                        WHERE u.classid = 'pg_policy'::regclass AND u.objid = ANY (array_agg(p.oid))
                                          AND u.refobjid = c.oid AND u.refobjsubid = d.adnum)) AS reads,
                  EXISTS (SELECT FROM pg_depend e
                           WHERE e.classid = 'pg_policy'::regclass AND e.objid = ANY (array_agg(p.oid))
                             AND (e.refclassid = 'pg_proc'::regclass
                                  OR e.refclassid = 'pg_operator'::regclass
                                  OR e.refclassid = 'pg_class'::regclass AND e.refobjid <> c.oid)) AS reaches_out,
                  EXISTS (SELECT FROM pg_depend e
                            LEFT JOIN pg_operator o ON e.refclassid = 'pg_operator'::regclass AND o.oid = e.refobjid
                            JOIN pg_proc f ON f.oid = coalesce(o.oprcode, e.refobjid)
                            JOIN pg_language l ON l.oid = f.prolang AND l.lanname NOT IN ('c', 'internal')
                           WHERE e.classid = 'pg_policy'::regclass AND e.objid = ANY (array_agg(p.oid))
                             AND e.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
                             AND f.provolatile = 'i') AS folds
             FROM pg_policy p
            WHERE p.polrelid = c.oid AND p.polcmd IN ('*', 'r')
              AND EXISTS (SELECT FROM unnest(p.polroles) m WHERE m = 0 OR pg_has_role(r.oid, m, 'USAGE'))) p
         WHERE c.oid = $1 AND r.rolname = $2"
    )
}

/// The facts; `None` where there is no such table or role. The session's `search_path` is empty.
pub(crate) async fn read(
    client: &Client,
    relation: u32,
    role: &str,
) -> Result<Option<Facts>, Error> {
    let row = client.query_opt(&facts_sql(), &[&relation, &role]).await?;
    row.as_ref().map(facts).transpose()
}

fn facts(row: &Row) -> Result<Facts, Error> {
    let numbers: Vec<i16> = optional(row, 9)?;
    let names: Vec<String> = optional(row, 10)?;
    let selectable: Vec<Option<bool>> = optional(row, 11)?;
    let generated: Vec<Option<String>> = optional(row, 12)?;
    let columns = numbers
        .into_iter()
        .zip(names)
        .zip(selectable)
        .zip(generated)
        .zip(optional::<Vec<u32>>(row, 22)?)
        .zip(optional::<Vec<bool>>(row, 23)?);
    let key_numbers: Vec<i16> = optional(row, 13)?;
    let key_operators: Vec<String> = optional(row, 14)?;
    let permissive: Vec<bool> = optional(row, 15)?;
    let quals: Vec<Option<String>> = optional(row, 16)?;
    Ok(Facts {
        schema: row.try_get(0)?,
        table: row.try_get(1)?,
        role: RoleFacts {
            superuser: row.try_get(2)?,
            bypass: row.try_get(3)?,
            replication: row.try_get(4)?,
            login_itself: row.try_get(5)?,
            member: row.try_get(6)?,
        },
        policies_apply: row.try_get(7)?,
        schema_usage: row.try_get(8)?,
        columns: columns
            .map(
                |(((((number, name), selectable), generated), type_oid), plain)| ColumnFacts {
                    number,
                    name,
                    selectable: selectable == Some(true),
                    generated,
                    type_oid,
                    plain_collation: plain,
                },
            )
            .collect(),
        key: key_numbers.into_iter().zip(key_operators).collect(),
        policies: permissive
            .into_iter()
            .zip(quals)
            .map(|(permissive, qual)| PolicyFacts { permissive, qual })
            .collect(),
        reads: optional(row, 17)?,
        reaches_out: row.try_get(18)?,
        digest: row.try_get(19)?,
        whole_table: row.try_get(20)?,
        folds: row.try_get(21)?,
        last_number: row.try_get(24)?,
    })
}

/// An aggregate over nothing is NULL.
fn optional<'a, T: Default + postgres_types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, Error> {
    Ok(row.try_get::<_, Option<T>>(index)?.unwrap_or_default())
}

/// Whether one of these unqualified names could mean something else than Postgres's own function or
/// operator once `schemas` are searched as well.
///
/// Operators print with their operands' exact types, and an exact match of Postgres's own wins. So
/// only polymorphic ones can lose, and only to one that takes an array, range, enum or row, or a
/// type of Postgres's own: extensions' operators on their own types do no harm. Functions of the
/// same name count always.
pub(crate) async fn is_shadowed(
    client: &Client,
    names: &Names,
    schemas: &[String],
) -> Result<bool, Error> {
    let functions: Vec<&str> = names.functions.iter().map(String::as_str).collect();
    let operators: Vec<&str> = names.operators.iter().map(String::as_str).collect();
    let sql = "SELECT EXISTS (SELECT FROM pg_proc f JOIN pg_namespace s ON s.oid = f.pronamespace
                WHERE f.proname = ANY ($1::text[]) AND s.nspname = ANY ($3::text[]) AND s.nspname <> 'pg_catalog')
        OR EXISTS (SELECT FROM pg_operator o JOIN pg_namespace s ON s.oid = o.oprnamespace
                WHERE o.oprname = ANY ($2::text[]) AND s.nspname = ANY ($3::text[]) AND s.nspname <> 'pg_catalog'
                  AND EXISTS (SELECT FROM pg_type t WHERE t.oid IN (o.oprleft, o.oprright)
                                 AND (t.typtype <> 'b' OR t.typelem <> 0 OR t.typnamespace = 'pg_catalog'::regnamespace))
                  AND EXISTS (SELECT FROM pg_operator b JOIN pg_type t ON t.oid IN (b.oprleft, b.oprright)
                               WHERE b.oprname = o.oprname AND b.oprnamespace = 'pg_catalog'::regnamespace
                                 AND t.typtype = 'p'))";
    client
        .query_one(sql, &[&functions, &operators, &schemas])
        .await?
        .try_get(0)
}
