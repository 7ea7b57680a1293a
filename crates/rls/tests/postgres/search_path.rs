//! Functions of policies find the application's `search_path`; the policies' own names find Postgres's.

use anyhow::Result;
use walcast_rls::{CheckConfig, PostgresCheck};

use crate::rig::{ALICE, NO, Rig, YES, ask, user};

async fn compare(sql: &str, path: Option<&str>, expected: Option<bool>) -> Result<()> {
    let mut rig = Rig::new(&format!(
        "CREATE TABLE docs (id int PRIMARY KEY, name varchar, tags int[], team int); GRANT SELECT ON docs TO PUBLIC;
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE TABLE members (team int, who uuid); GRANT SELECT ON members TO PUBLIC;
         INSERT INTO members VALUES (1, '{ALICE}'); {sql}"
    ))
    .await?;
    let config = CheckConfig {
        search_path: path.map(str::to_owned),
        ..rig.config()
    };
    let mut check = PostgresCheck::connect(config).await?;
    let change = [rig
        .change("INSERT INTO docs VALUES (1, 'ABC', '{1,2}', 1)")
        .await?];
    let direct = rig.finds(&user(ALICE, ""), "docs", "id = 1").await;
    for _ in 0..2 {
        let seen = ask(&mut check, &change, &[user(ALICE, "")]).await;
        assert_eq!(seen, [vec![expected]], "{sql}");
    }
    if path.is_none() {
        assert_eq!(Some(direct), expected, "{sql}");
    }
    Ok(())
}

const PLPGSQL: &str = "CREATE FUNCTION mine(t int) RETURNS bool LANGUAGE plpgsql STABLE AS
    'BEGIN RETURN EXISTS (SELECT FROM members WHERE team = t AND who = auth.uid()); END';
    CREATE POLICY p ON docs USING (mine(team));";

#[tokio::test]
async fn functions_with_unqualified_names() -> Result<()> {
    compare(PLPGSQL, None, YES).await?;
    compare(PLPGSQL, Some("public, auth"), YES).await?;
    compare(PLPGSQL, Some("auth"), NO).await?;
    let sql = "CREATE FUNCTION mine(t int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM members WHERE team = t AND who = auth.uid())';
        CREATE POLICY p ON docs USING (mine(team));";
    compare(sql, None, YES).await
}

/// The policy means pg_catalog's functions and operators, whatever came into the path later.
#[tokio::test]
async fn names_that_are_shadowed() -> Result<()> {
    let lower = "CREATE POLICY p ON docs USING (lower(name) = 'abc');
        CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''shadow''::text';";
    compare(lower, None, YES).await?;
    let array = "CREATE POLICY p ON docs USING (array_length(tags, 1) = 2);
        CREATE FUNCTION public.array_length(int[], int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 77';";
    compare(array, None, YES).await?;
    let operator = "CREATE POLICY p ON docs USING (tags = '{1,2}'::int[]);
        CREATE FUNCTION public.never(int[], int[]) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
        CREATE OPERATOR public.= (LEFTARG = int[], RIGHTARG = int[], FUNCTION = public.never);";
    compare(operator, None, YES).await?;
    // Both at once: the name is Postgres's, the function finds the application's path.
    let both = format!(
        "{} {PLPGSQL}",
        "CREATE POLICY r ON docs AS RESTRICTIVE USING (lower(name) = 'abc');
         CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''shadow''::text';"
    );
    compare(&both, None, YES).await
}
