//! What the catalogue says of the names in a table's policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::{Client, Error, Row};

use crate::catalogue;
use crate::claims::{self, Class, Vocabulary};
use crate::names::Names;
use crate::search_path::{self, Searched};

/// The names that a table's policies may use, and the functions whose bodies this rests on.
#[derive(Debug, Default)]
pub(crate) struct Lexicon {
    pub(crate) vocabulary: Vocabulary,
    /// Why the policies can't be taken apart, whatever their text says.
    pub(crate) refusal: Option<&'static str>,
    /// The functions that were read, by OID, each with its version as the digest puts it.
    pub(crate) functions: BTreeMap<u32, String>,
}

const DEPENDENCIES: &str = "
  WITH d AS (
    SELECT DISTINCT e.refclassid, e.refobjid
      FROM pg_policy p JOIN pg_depend e ON e.classid = 'pg_policy'::regclass AND e.objid = p.oid
     WHERE p.polrelid = $1 AND p.polcmd IN ('*', 'r')
       AND NOT (e.refclassid = 'pg_class'::regclass AND e.refobjid = $1))
  SELECT EXISTS (SELECT FROM d WHERE d.refclassid = 'pg_operator'::regclass),
         EXISTS (SELECT FROM d LEFT JOIN pg_type t ON t.oid = d.refobjid LEFT JOIN pg_type m ON m.oid = t.typelem
                  WHERE d.refclassid = 'pg_type'::regclass AND coalesce(t.typtype <> 'e' AND m.typtype IS DISTINCT FROM 'e', true)),
         EXISTS (SELECT FROM d WHERE d.refclassid NOT IN ('pg_operator'::regclass, 'pg_type'::regclass, 'pg_class'::regclass,
                                                          'pg_proc'::regclass, 'pg_collation'::regclass))
           OR EXISTS (SELECT FROM pg_cast k WHERE k.oid >= 16384 AND k.castfunc <> 0 AND k.castsource < 16384 AND k.casttarget < 16384),
         ARRAY(SELECT s.nspname::text FROM d JOIN pg_proc f ON f.oid = d.refobjid JOIN pg_namespace s ON s.oid = f.pronamespace
                WHERE d.refclassid = 'pg_proc'::regclass ORDER BY f.oid),
         ARRAY(SELECT f.proname::text FROM d JOIN pg_proc f ON f.oid = d.refobjid
                WHERE d.refclassid = 'pg_proc'::regclass ORDER BY f.oid),
         ARRAY(SELECT s.nspname::text FROM d JOIN pg_class k ON k.oid = d.refobjid JOIN pg_namespace s ON s.oid = k.relnamespace
                WHERE d.refclassid = 'pg_class'::regclass AND k.relkind IN ('r', 'p') AND NOT k.relrowsecurity ORDER BY k.oid),
         ARRAY(SELECT k.relname::text FROM d JOIN pg_class k ON k.oid = d.refobjid
                WHERE d.refclassid = 'pg_class'::regclass AND k.relkind IN ('r', 'p') AND NOT k.relrowsecurity ORDER BY k.oid)";

/// Declared IMMUTABLE, a function that reads claims may be computed while planning: not this way.
const FUNCTIONS: &str = "
  SELECT f.oid, s.nspname::text, f.proname::text, f.pronargs = 0 AND NOT f.proretset AND f.prokind = 'f'
           AND f.provolatile = 's' AND l.lanname = 'sql',
         f.prosrc, (SELECT substr(o, 13) FROM unnest(f.proconfig) o WHERE o LIKE 'search_path=%'),
         EXISTS (SELECT FROM unnest(f.proconfig) o WHERE o NOT LIKE 'search_path=%'), {VERSION},
         to_jsonb(f) ->> 'prosqlbody' IS NOT NULL
    FROM pg_proc f JOIN pg_namespace s ON s.oid = f.pronamespace JOIN pg_language l ON l.oid = f.prolang
   WHERE (s.nspname::text, f.proname::text) IN (SELECT * FROM unnest($1::text[], $2::text[]))";

/// A body of the SQL standard (`RETURN …`, `BEGIN ATOMIC`), which Postgres 14 and later have: its names
/// were bound when it was made, so those without a schema are Postgres's own in any `search_path`.
const BOUND_BODY: &str = "SELECT pg_get_function_sqlbody($1)";

/// What reads settings or any table, though it is not volatile, is left out.
const BUILTINS: &str = "
  SELECT f.proname::text, bool_or(f.provolatile = 'v' OR f.prokind NOT IN ('f', 'a')),
         bool_and(f.provolatile = 'i' AND f.prokind = 'f'), bool_or(f.proretset)
    FROM pg_proc f
   WHERE f.pronamespace = 'pg_catalog'::regnamespace AND f.proname = ANY ($1::text[])
     AND f.proname NOT LIKE '%to\\_xml%' AND f.proname NOT LIKE 'pg\\_show\\_%' AND f.proname <> 'current_setting'
   GROUP BY f.proname";

/// How deep functions that read claims may call each other.
const DEPTH_MAX: usize = 4;

struct Found {
    usable: bool,
    body: Option<sqlparser::ast::Expr>,
}

/// Reads what there is to know of the names in `text`, the policies of a table. `searched`: where
/// functions find their names.
pub(crate) async fn read(
    client: &Client,
    relation: u32,
    text: &str,
    searched: &Searched,
) -> Result<Lexicon, Error> {
    let mut lexicon = Lexicon::default();
    let row = client.query_one(DEPENDENCIES, &[&relation]).await?;
    let refusals = [
        "it uses an operator of the application",
        "it uses a type of the application",
        "it uses an object of the application",
    ];
    for (at, refusal) in refusals.into_iter().enumerate() {
        if row.try_get(at)? {
            lexicon.refusal = Some(refusal);
            return Ok(lexicon);
        }
    }
    let mut wanted = pairs(&row, 3)?;
    lexicon.vocabulary.tables = pairs(&row, 5)?.into_iter().collect();
    let mut builtins = Names::of(text)
        .map(|names| names.functions)
        .unwrap_or_default();
    let mut functions: HashMap<(String, String), Found> = HashMap::new();
    for _ in 0..DEPTH_MAX {
        wanted.retain(|name| !functions.contains_key(name));
        if wanted.is_empty() {
            break;
        }
        let (schemas, names): (Vec<String>, Vec<String>) = wanted.drain(..).unzip();
        let sql = FUNCTIONS.replace("{VERSION}", catalogue::FUNCTION_VERSION);
        for row in client.query(&sql, &[&schemas, &names]).await? {
            let key = (row.try_get(1)?, row.try_get(2)?);
            let found = function(client, &row, searched, &mut builtins).await?;
            if let Some(body) = &found.body {
                wanted.extend(claims::calls(body));
            }
            lexicon.functions.insert(row.try_get(0)?, row.try_get(7)?);
            // One of two of that name would have to be chosen.
            if let Some(other) = functions.insert(key.clone(), found)
                && let Some(found) = functions.get_mut(&key)
            {
                drop(other);
                found.usable = false;
            }
        }
    }
    lexicon.vocabulary.builtins = read_builtins(client, &builtins).await?;
    settle(&mut lexicon.vocabulary, &functions);
    Ok(lexicon)
}

async fn function(
    client: &Client,
    row: &Row,
    searched: &Searched,
    builtins: &mut BTreeSet<String>,
) -> Result<Found, Error> {
    let source: String = row.try_get(4)?;
    let own: Option<String> = row.try_get(5)?;
    let other_settings: bool = row.try_get(6)?;
    let mut usable: bool = row.try_get::<_, bool>(3)? && !other_settings;
    if usable && row.try_get(8)? {
        let oid: u32 = row.try_get(0)?;
        let text: Option<String> = client.query_one(BOUND_BODY, &[&oid]).await?.try_get(0)?;
        let body = text.as_deref().and_then(claims::bound_body);
        let names = text.as_deref().and_then(Names::of).unwrap_or_default();
        builtins.extend(names.functions);
        return Ok(Found { usable, body });
    }
    let names = Names::of(&source);
    if let Some(names) = names.filter(|_| usable) {
        let own = own.map(|path| search_path::searched(&path, ""));
        let searched = own.as_ref().unwrap_or(searched);
        usable = !searched.catalog_late
            && !catalogue::is_shadowed(client, &names, &searched.schemas).await?;
        builtins.extend(names.functions);
    }
    Ok(Found {
        usable,
        body: claims::body(&source).filter(|_| usable),
    })
}

async fn read_builtins(
    client: &Client,
    names: &BTreeSet<String>,
) -> Result<HashMap<String, Class>, Error> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut known = HashMap::new();
    for row in client.query(BUILTINS, &[&names]).await? {
        let (volatile, immutable, rows): (bool, bool, bool) =
            (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let class = match (volatile, immutable, rows) {
            (true, ..) => continue,
            (_, true, true) => Class::Rows,
            (_, true, false) => Class::Immutable,
            _ => Class::Ambient,
        };
        known.insert(row.try_get(0)?, class);
    }
    Ok(known)
}

/// A function reads claims only if its body does; that may rest on other functions.
fn settle(vocabulary: &mut Vocabulary, functions: &HashMap<(String, String), Found>) {
    for _ in 0..DEPTH_MAX {
        for (name, found) in functions {
            let Some(body) = found.body.as_ref().filter(|_| found.usable) else {
                continue;
            };
            if !vocabulary.functions.contains_key(name) && claims::is_of_claims(body, vocabulary) {
                vocabulary.functions.insert(name.clone(), Class::Claims);
            }
        }
    }
}

fn pairs(row: &Row, at: usize) -> Result<Vec<(String, String)>, Error> {
    let (schemas, names): (Vec<String>, Vec<String>) = (row.try_get(at)?, row.try_get(at + 1)?);
    Ok(schemas.into_iter().zip(names).collect())
}
