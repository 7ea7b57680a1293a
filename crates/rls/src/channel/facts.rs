//! What the catalogue says of `realtime.messages` and a role, read with an empty `search_path`.

use tokio_postgres::{Error, Row};

use super::ask::{ChannelAction, ChannelDenial, ChannelRefusal, refused};
use crate::catalogue::{PolicyFacts, RoleFacts};
use crate::policy::combine;
use crate::{CheckConfig, role};

/// Read for every call: policies and grants are as they are now.
#[derive(Debug)]
pub(crate) struct Facts {
    role: RoleFacts,
    /// `None`: there is no such table.
    table: Option<TableFacts>,
}

#[derive(Debug)]
struct TableFacts {
    /// Enabled, and neither BYPASSRLS nor an owner without FORCE.
    policies_apply: bool,
    schema_usage: bool,
    may_select: bool,
    may_insert: bool,
    read: Vec<PolicyFacts>,
    write: Vec<PolicyFacts>,
    folds: bool,
    columns: Vec<String>,
}

/// What there is to do for an action.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No policies apply, and the privilege is there.
    Allowed,
    /// All of them as one expression.
    Policies(String),
}

/// For INSERT a policy for ALL has its USING where it has no WITH CHECK. Who may not see the column `id`
/// may not look at messages; Supabase inserts `topic`, InsForge `channel_name`.
///
/// Source: `get_row_security_policies` in Postgres's own sources.
pub(crate) fn sql() -> String {
    format!(
        "SELECT r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolname = session_user,
           coalesce(pg_has_role(session_user, r.oid, 'MEMBER'), false),
           c.oid IS NOT NULL,
           coalesce(c.relrowsecurity AND NOT r.rolbypassrls AND NOT r.rolsuper
             AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')), true),
           coalesce(has_schema_privilege(r.oid, c.relnamespace, 'USAGE'), false),
           {may_select}, {may_insert},
           sees.permissive, sees.quals, adds.permissive, adds.quals,
           EXISTS (SELECT FROM pg_depend e
                     LEFT JOIN pg_operator o ON e.refclassid = 'pg_operator'::regclass AND o.oid = e.refobjid
                     JOIN pg_proc f ON f.oid = coalesce(o.oprcode, e.refobjid)
                     JOIN pg_language l ON l.oid = f.prolang AND l.lanname NOT IN ('c', 'internal')
                    WHERE e.classid = 'pg_policy'::regclass AND e.objid = ANY (sees.oids || adds.oids)
                      AND e.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
                      AND f.provolatile = 'i'),
           ARRAY(SELECT k.attname::text FROM pg_attribute k
                  WHERE k.attrelid = c.oid AND k.attnum > 0 AND NOT k.attisdropped)
         FROM pg_roles r
         LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
                ON n.nspname = 'realtime' AND c.relname = 'messages' AND c.relkind IN ('r', 'p')
         CROSS JOIN LATERAL {sees} CROSS JOIN LATERAL {adds}
         WHERE r.rolname = $1",
        may_select = may("'id'", "SELECT"),
        may_insert = may("'topic', 'channel_name'", "INSERT"),
        sees = policies("sees", 'r', "p.polqual"),
        adds = policies("adds", 'a', "coalesce(p.polwithcheck, p.polqual)"),
    )
}

fn policies(name: &str, command: char, qual: &str) -> String {
    format!(
        "(SELECT array_agg(p.polpermissive ORDER BY p.polname) AS permissive,
                 array_agg(pg_get_expr({qual}, p.polrelid) ORDER BY p.polname) AS quals,
                 array_agg(p.oid) AS oids
            FROM pg_policy p
           WHERE p.polrelid = c.oid AND p.polcmd IN ('*', '{command}')
             AND EXISTS (SELECT FROM unnest(p.polroles) m WHERE m = 0 OR pg_has_role(r.oid, m, 'USAGE'))
         ) AS {name}"
    )
}

fn may(columns: &str, privilege: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attname IN ({columns}) AND a.attnum > 0 AND NOT a.attisdropped
                    AND has_column_privilege(r.oid, c.oid, a.attnum, '{privilege}'))"
    )
}

/// From a row of [`sql`].
pub(crate) fn facts(row: &Row) -> Result<Facts, Error> {
    let role = RoleFacts {
        superuser: row.try_get(0)?,
        bypass: row.try_get(1)?,
        replication: row.try_get(2)?,
        login_itself: row.try_get(3)?,
        member: row.try_get(4)?,
    };
    if !row.try_get::<_, bool>(5)? {
        return Ok(Facts { role, table: None });
    }
    let table = TableFacts {
        policies_apply: row.try_get(6)?,
        schema_usage: row.try_get(7)?,
        may_select: row.try_get(8)?,
        may_insert: row.try_get(9)?,
        read: policy_facts(row, 10)?,
        write: policy_facts(row, 12)?,
        folds: row.try_get(14)?,
        columns: row.try_get(15)?,
    };
    Ok(Facts {
        role,
        table: Some(table),
    })
}

fn policy_facts(row: &Row, at: usize) -> Result<Vec<PolicyFacts>, Error> {
    let permissive: Option<Vec<bool>> = row.try_get(at)?;
    let quals: Option<Vec<Option<String>>> = row.try_get(at + 1)?;
    let permissive = permissive.unwrap_or_default().into_iter();
    let policies = permissive.zip(quals.unwrap_or_default());
    Ok(policies
        .map(|(permissive, qual)| PolicyFacts { permissive, qual })
        .collect())
}

impl Facts {
    /// What to do to find out whether the role may; `Err`: it may not, whatever the message.
    pub(crate) fn standing(
        facts: Option<&Facts>,
        name: &str,
        action: ChannelAction,
        config: &CheckConfig,
    ) -> Result<Standing, ChannelRefusal> {
        role::check(name, facts.map(|facts| &facts.role), config).map_err(refused)?;
        let Some(table) = facts.and_then(|facts| facts.table.as_ref()) else {
            return Err(ChannelDenial::Missing.into());
        };
        let (privilege, policies) = match action {
            ChannelAction::Read => (table.may_select, &table.read),
            ChannelAction::Write => (table.may_insert, &table.write),
        };
        if !table.schema_usage {
            return Err(ChannelDenial::Schema.into());
        }
        if !privilege {
            return Err(ChannelDenial::Privilege.into());
        }
        if !table.policies_apply {
            return Ok(Standing::Allowed);
        }
        match combine(policies) {
            Some(expression) => Ok(Standing::Policies(expression)),
            None => Err(ChannelDenial::NoPolicy.into()),
        }
    }

    pub(crate) fn has_column(&self, name: &str) -> bool {
        let table = self.table.as_ref();
        table.is_some_and(|table| table.columns.iter().any(|column| column == name))
    }

    /// How long plans may be kept, as `plan_cache_mode` puts it: what is declared IMMUTABLE may be
    /// computed when a statement is planned, with the claims of that moment.
    pub(crate) fn plans(&self) -> &'static str {
        match &self.table {
            Some(table) if !table.folds => "auto",
            _ => "force_custom_plan",
        }
    }
}
