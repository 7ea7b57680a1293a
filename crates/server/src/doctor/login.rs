//! The login that checks row-level security: what it is worth by itself.
//!
//! A function that a policy calls can put the role back to that login. So it is to be nothing: no
//! attribute, no object, no right of its own, and a member of the subscribers' roles alone.

use tokio_postgres::{Client, Error};
use walcast_source::{Finding, Severity};

use crate::doctor::finding;

/// What the catalogue says of the login of this session. Names are quoted for use in SQL.
#[derive(Debug, Default)]
pub(super) struct Login {
    name: String,
    superuser: bool,
    bypasses: bool,
    replicates: bool,
    /// CREATEROLE or CREATEDB.
    creates: bool,
    /// Memberships whose rights it has without becoming the role.
    inherits: Vec<String>,
    /// Memberships in other roles than the allowed ones.
    others: Vec<String>,
    /// Memberships that it may give to others.
    grants: Vec<String>,
    /// Some of what it owns, described.
    owns: Vec<String>,
    /// Some of the tables that it has rights on by itself.
    tables: Vec<String>,
    /// Allowed roles that it is no member of.
    lacks: Vec<String>,
    /// Allowed roles that do not exist.
    missing: Vec<String>,
    /// Memberships say themselves whether they are inherited: Postgres 16 and later.
    inherit_by_grant: bool,
}

const LOGIN: &str = "
    select pg_catalog.quote_ident(r.rolname), r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolcreaterole or r.rolcreatedb,
           array(select pg_catalog.quote_ident(m.rolname) from pg_catalog.pg_auth_members a join pg_catalog.pg_roles m on m.oid = a.roleid
                 where a.member = r.oid and pg_catalog.pg_has_role(r.oid, m.oid, 'USAGE') group by m.rolname order by m.rolname),
           array(select pg_catalog.quote_ident(m.rolname) from pg_catalog.pg_auth_members a join pg_catalog.pg_roles m on m.oid = a.roleid
                 where a.member = r.oid and m.rolname <> all ($1::text[]) group by m.rolname order by m.rolname),
           array(select pg_catalog.quote_ident(m.rolname) from pg_catalog.pg_auth_members a join pg_catalog.pg_roles m on m.oid = a.roleid
                 where a.member = r.oid and a.admin_option group by m.rolname order by m.rolname),
           array(select coalesce(case when d.dbid in (0, o.oid) then pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) end,
                                 'something in database ' || (select b.datname from pg_catalog.pg_database b where b.oid = d.dbid), '?')
                   from pg_catalog.pg_shdepend d
                  where d.refclassid = 'pg_catalog.pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'o' order by 1 limit 4),
           array(select d.objid::pg_catalog.regclass::text from pg_catalog.pg_shdepend d
                  where d.refclassid = 'pg_catalog.pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'a'
                    and d.classid = 'pg_catalog.pg_class'::regclass and d.dbid = o.oid group by d.objid order by 1 limit 4),
           array(select pg_catalog.quote_ident(t.rolname) from pg_catalog.pg_roles t
                 where t.rolname = any ($1::text[]) and not pg_catalog.pg_has_role(r.oid, t.oid, 'MEMBER') order by t.rolname),
           array(select a.name from pg_catalog.unnest($1::text[]) a (name)
                 where not exists (select from pg_catalog.pg_roles t where t.rolname = a.name)),
           pg_catalog.current_setting('server_version_num')::int >= 160000
    from pg_catalog.pg_roles r, pg_catalog.pg_database o
    where r.rolname = session_user and o.datname = pg_catalog.current_database()";

impl Login {
    pub(super) async fn read(client: &Client, allowed_roles: &[String]) -> Result<Login, Error> {
        let row = client.query_one(LOGIN, &[&allowed_roles]).await?;
        Ok(Login {
            name: row.try_get(0)?,
            superuser: row.try_get(1)?,
            bypasses: row.try_get(2)?,
            replicates: row.try_get(3)?,
            creates: row.try_get(4)?,
            inherits: row.try_get(5)?,
            others: row.try_get(6)?,
            grants: row.try_get(7)?,
            owns: row.try_get(8)?,
            tables: row.try_get(9)?,
            lacks: row.try_get(10)?,
            missing: row.try_get(11)?,
            inherit_by_grant: row.try_get(12)?,
        })
    }

    /// `shared`: it is `database_url`'s login, which has other duties.
    pub(super) fn judge(&self, shared: bool) -> Vec<Finding> {
        let mut findings = self.memberships();
        let powers = self.powers();
        if !shared {
            let warn = |(code, what, remedy): (_, String, String)| {
                let what = format!(
                    "the login that checks policies, {}, {what}: a function that a policy calls can act as it",
                    self.name
                );
                finding(Severity::Warning, code, what, &remedy)
            };
            findings.extend(powers.into_iter().map(warn));
            return findings;
        }
        let own_login = "set rls_database_url to a login of its own: CREATE ROLE walcast_rls LOGIN NOINHERIT PASSWORD '…'; \
             GRANT anon, authenticated, service_role TO walcast_rls; (proto-docs/sql.md)";
        let powers: Vec<_> = powers.into_iter().map(|(_, what, _)| what).collect();
        findings.push(match powers.is_empty() {
            true => finding(
                Severity::Info,
                "rls_login_shared",
                "database_url's login checks policies as well".to_owned(),
                own_login,
            ),
            false => finding(
                Severity::Warning,
                "rls_login_powerful",
                format!(
                    "database_url's login, {}, checks policies as well, and {}: a function that a policy calls can act as it",
                    self.name,
                    powers.join(", ")
                ),
                own_login,
            ),
        });
        findings
    }

    /// What the subscribers' roles lack.
    fn memberships(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.lacks.is_empty() {
            let (login, roles) = (&self.name, self.lacks.join(", "));
            findings.push(finding(
                Severity::Error,
                "rls_login_not_member",
                format!(
                    "{login} is not a member of {roles}: nobody with these roles can subscribe"
                ),
                &format!("GRANT {roles} TO {login};"),
            ));
        }
        if !self.missing.is_empty() {
            let roles = self.missing.join(", ");
            findings.push(finding(
                Severity::Warning,
                "role_missing",
                format!("allowed_roles names roles that do not exist: {roles}"),
                "run walcast migrate, or correct allowed_roles",
            ));
        }
        findings
    }

    /// What it is beyond what it has to be: code, what, remedy. Of a superuser nothing else is said.
    fn powers(&self) -> Vec<(&'static str, String, String)> {
        let login = &self.name;
        let attribute = |name: &str| format!("ALTER ROLE {login} {name};");
        if self.superuser {
            let (what, remedy) = ("is a superuser".to_owned(), attribute("NOSUPERUSER"));
            return vec![("rls_login_superuser", what, remedy)];
        }
        let mut powers = Vec::new();
        if self.bypasses {
            let what = "bypasses row-level security".to_owned();
            powers.push(("rls_login_bypasses", what, attribute("NOBYPASSRLS")));
        }
        if self.replicates {
            let what = "may read the replication stream".to_owned();
            powers.push(("rls_login_replicates", what, attribute("NOREPLICATION")));
        }
        if self.creates {
            let what = "may create roles or databases".to_owned();
            let remedy = attribute("NOCREATEROLE NOCREATEDB");
            powers.push(("rls_login_creates", what, remedy));
        }
        if !self.inherits.is_empty() {
            let roles = self.inherits.join(", ");
            let what = format!("has the rights of {roles} without becoming them");
            let mut remedy = attribute("NOINHERIT");
            if self.inherit_by_grant {
                remedy += &format!(" GRANT {roles} TO {login} WITH INHERIT FALSE;");
            }
            powers.push(("rls_login_inherits", what, remedy));
        }
        powers.extend(self.belongings());
        powers
    }

    fn belongings(&self) -> Vec<(&'static str, String, String)> {
        let login = &self.name;
        let mut powers = Vec::new();
        for (code, roles, words, option) in [
            ("rls_login_member", &self.others, "is a member of", ""),
            (
                "rls_login_grants",
                &self.grants,
                "may give away the membership in",
                "ADMIN OPTION FOR ",
            ),
        ] {
            if !roles.is_empty() {
                let roles = roles.join(", ");
                let remedy = format!("REVOKE {option}{roles} FROM {login};");
                powers.push((code, format!("{words} {roles}"), remedy));
            }
        }
        if !self.owns.is_empty() {
            let what = format!("owns {}", self.owns.join(", "));
            let remedy = format!("REASSIGN OWNED BY {login} TO …; in each database");
            powers.push(("rls_login_owns", what, remedy));
        }
        if !self.tables.is_empty() {
            let tables = self.tables.join(", ");
            let remedy = format!("REVOKE ALL ON {tables} FROM {login};");
            let what = format!("has rights of its own on {tables}");
            powers.push(("rls_login_granted", what, remedy));
        }
        powers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Login {
        Login {
            name: "checker".into(),
            ..Login::default()
        }
    }

    fn found(login: &Login, shared: bool) -> Vec<(&'static str, String)> {
        let findings = login.judge(shared).into_iter();
        findings
            .map(|finding| (finding.code, finding.remedy))
            .collect()
    }

    #[test]
    fn each_property_with_its_remedy() {
        assert_eq!(found(&fine(), false), []);
        let roles = || vec!["a".to_owned(), "\"B\"".to_owned()];
        for (login, code, remedy) in [
            (
                Login {
                    superuser: true,
                    bypasses: true,
                    inherits: roles(),
                    ..fine()
                },
                "rls_login_superuser",
                "ALTER ROLE checker NOSUPERUSER;",
            ),
            (
                Login {
                    bypasses: true,
                    ..fine()
                },
                "rls_login_bypasses",
                "ALTER ROLE checker NOBYPASSRLS;",
            ),
            (
                Login {
                    replicates: true,
                    ..fine()
                },
                "rls_login_replicates",
                "ALTER ROLE checker NOREPLICATION;",
            ),
            (
                Login {
                    creates: true,
                    ..fine()
                },
                "rls_login_creates",
                "ALTER ROLE checker NOCREATEROLE NOCREATEDB;",
            ),
            (
                Login {
                    inherits: roles(),
                    ..fine()
                },
                "rls_login_inherits",
                "ALTER ROLE checker NOINHERIT;",
            ),
            (
                Login {
                    inherits: roles(),
                    inherit_by_grant: true,
                    ..fine()
                },
                "rls_login_inherits",
                "ALTER ROLE checker NOINHERIT; GRANT a, \"B\" TO checker WITH INHERIT FALSE;",
            ),
            (
                Login {
                    others: roles(),
                    ..fine()
                },
                "rls_login_member",
                "REVOKE a, \"B\" FROM checker;",
            ),
            (
                Login {
                    grants: roles(),
                    ..fine()
                },
                "rls_login_grants",
                "REVOKE ADMIN OPTION FOR a, \"B\" FROM checker;",
            ),
            (
                Login {
                    owns: roles(),
                    ..fine()
                },
                "rls_login_owns",
                "REASSIGN OWNED BY checker TO …; in each database",
            ),
            (
                Login {
                    tables: roles(),
                    ..fine()
                },
                "rls_login_granted",
                "REVOKE ALL ON a, \"B\" FROM checker;",
            ),
            (
                Login {
                    lacks: roles(),
                    ..fine()
                },
                "rls_login_not_member",
                "GRANT a, \"B\" TO checker;",
            ),
        ] {
            assert_eq!(found(&login, false), [(code, remedy.to_owned())]);
        }
    }

    #[test]
    fn a_shared_login_is_one_finding() {
        assert_eq!(found(&fine(), true)[0].0, "rls_login_shared");
        let login = Login {
            replicates: true,
            creates: true,
            ..fine()
        };
        let found = found(&login, true);
        assert_eq!((found.len(), found[0].0), (1, "rls_login_powerful"));
    }

    /// The statement itself, against logins that each have one property too many.
    #[tokio::test]
    async fn logins_of_a_real_postgres() -> anyhow::Result<()> {
        let postgres = walcast_harness::Postgres::start().await?;
        let admin = postgres.connect("postgres", "postgres").await?;
        admin
            .batch_execute(
                "CREATE ROLE anon; CREATE ROLE \"App Role\"; CREATE ROLE app_owner; CREATE TABLE t (id int);
                 CREATE ROLE fine LOGIN NOINHERIT; GRANT anon TO fine;
                 CREATE ROLE super LOGIN SUPERUSER; CREATE ROLE bypasses LOGIN NOINHERIT BYPASSRLS; GRANT anon TO bypasses;
                 CREATE ROLE replicates LOGIN NOINHERIT REPLICATION; GRANT anon TO replicates;
                 CREATE ROLE creates LOGIN NOINHERIT CREATEROLE; GRANT anon TO creates;
                 CREATE ROLE inherits LOGIN; GRANT anon TO inherits;
                 CREATE ROLE member LOGIN NOINHERIT; GRANT anon, app_owner, \"App Role\" TO member;
                 CREATE ROLE grants LOGIN NOINHERIT; GRANT anon TO grants WITH ADMIN OPTION;
                 CREATE ROLE owns LOGIN NOINHERIT; GRANT anon TO owns; CREATE SCHEMA mine AUTHORIZATION owns;
                 CREATE ROLE granted LOGIN NOINHERIT; GRANT anon TO granted; GRANT SELECT ON t TO granted;
                 CREATE ROLE lacks LOGIN NOINHERIT;",
            )
            .await?;
        let allowed = ["anon".to_owned()];
        for (login, code) in [
            ("fine", None),
            ("super", Some("rls_login_superuser")),
            ("bypasses", Some("rls_login_bypasses")),
            ("replicates", Some("rls_login_replicates")),
            ("creates", Some("rls_login_creates")),
            ("inherits", Some("rls_login_inherits")),
            ("member", Some("rls_login_member")),
            ("grants", Some("rls_login_grants")),
            ("owns", Some("rls_login_owns")),
            ("granted", Some("rls_login_granted")),
            ("lacks", Some("rls_login_not_member")),
        ] {
            let client = postgres.connect(login, "postgres").await?;
            let read = Login::read(&client, &allowed).await?;
            let codes: Vec<_> = found(&read, false).into_iter().collect();
            let names: Vec<_> = codes.iter().map(|(code, _)| *code).collect();
            assert_eq!(
                names,
                code.into_iter().collect::<Vec<_>>(),
                "{login}: {codes:?}"
            );
            // What is advised is SQL, and helps. (Reassigning asks for a name.)
            for (_, remedy) in codes.iter().filter(|(code, _)| *code != "rls_login_owns") {
                admin.batch_execute(remedy).await?;
            }
            if login == "super" {
                admin
                    .batch_execute("ALTER ROLE super NOINHERIT; GRANT anon TO super")
                    .await?;
            }
            if login != "owns" {
                let read = Login::read(&client, &allowed).await?;
                assert_eq!(found(&read, false), [], "{login}, after the remedy");
            }
        }
        let client = postgres.connect("owns", "template1").await?;
        let read = Login::read(&client, &allowed).await?;
        assert_eq!(read.owns, ["something in database postgres"]);
        Ok(())
    }
}
