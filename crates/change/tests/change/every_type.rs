//! Every type, alone and inside every kind of type that can hold it, against `to_jsonb`.

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::literals::{BUILT_IN, STRANGE, WITHOUT_VALUES};
use crate::postgres_text::{array, braces, literal};
use crate::same_json::same;
use crate::stream::Stream;

#[tokio::test]
async fn built_in_types() -> Result<()> {
    let mut stream = Stream::open().await?;
    assert_all_have_values(&stream.client).await?;
    for (name, values) in BUILT_IN {
        let delimiter = if *name == "box" { ';' } else { ',' };
        check(
            &mut stream,
            &format!("pg_catalog.\"{name}\""),
            values,
            delimiter,
        )
        .await
        .with_context(|| format!("type {name}"))?;
    }
    Ok(())
}

async fn assert_all_have_values(client: &Client) -> Result<()> {
    let query = "select typname::text from pg_type
        where oid < 10000 and typtype in ('b', 'r', 'm') and typoutput <> 'array_out'::regproc";
    for row in client.query(query, &[]).await? {
        let name: &str = row.get(0);
        let has_values = BUILT_IN.iter().any(|(built_in, _)| *built_in == name);
        assert!(has_values != WITHOUT_VALUES.contains(&name), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn types_of_users() -> Result<()> {
    let mut stream = Stream::open().await?;
    let labels: Vec<String> = STRANGE
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| literal(text))
        .collect();
    let create = format!(
        "create type strange as enum ({});
         create type floats as range (subtype = float8, multirange_type_name = many_floats);
         create domain positive as int8 check (value > 0);
         create domain \"more Positive\" as positive;
         create domain yes as information_schema.yes_or_no;
         create domain counts as information_schema.cardinal_number[];
         create type nothing as ();
         create type one as (sole text);
         create table rows (a int, \"B b\" text, gone int, c timestamptz[]);
         alter table rows drop column gone;
         create schema \"Odd.\"\"schema\";
         create type \"Odd.\"\"schema\".\"Odd,type\" as (\"Odd(\" strange[], \"{{\" numeric);",
        labels.join(", ")
    );
    stream.client.batch_execute(&create).await?;
    let strange = STRANGE;
    let labels: Vec<&str> = strange
        .iter()
        .copied()
        .filter(|text| !text.is_empty())
        .collect();
    for (name, values) in [
        ("strange", &labels[..]),
        ("floats", &["empty", "[1.5,1e30)", "(,NaN]"]),
        ("many_floats", &["{}", "{[1,2],(5,)}"]),
        ("positive", &["1", "9223372036854775807"]),
        ("\"more Positive\"", &["1", "9223372036854775807"]),
        ("yes", &["YES", "NO"]),
        ("counts", &["{}", "{1,NULL}", "[0:1][5:5]={{1},{2}}"]),
        ("nothing", &["()"]),
        ("one", &["()", "(\"\")", "(a)", "(\"(\"\"\\\\\")"]),
        ("rows", &["(,,)", "(1,\"a b\",\"{2020-01-01,NULL}\")"]),
        (
            "\"Odd.\"\"schema\".\"Odd,type\"",
            &["(,)", "(\"{NULL,\"\"NULL\"\",\"\"\\\\\\\\N\"\"}\",1.50)"],
        ),
    ] {
        check(&mut stream, name, values, ',')
            .await
            .with_context(|| format!("type {name}"))?;
    }
    Ok(())
}

/// Puts each of `values` into a column of `kind` and into all kinds of types made of it.
async fn check(stream: &mut Stream, kind: &str, values: &[&str], delimiter: char) -> Result<()> {
    stream.client.batch_execute(&made_of(kind)).await?;
    let mut insert = String::new();
    for value in values {
        insert.push_str(&insertion(kind, value, delimiter));
    }
    insert.push_str("insert into made default values;");
    for arrays in arrays(values, delimiter) {
        insert.push_str(&format!(
            "insert into made (a, da, \"C a\") values ({0}, {0}, row({0}));",
            literal(&arrays)
        ));
    }
    stream.client.batch_execute(&insert).await?;
    let theirs = stream.to_jsonb("made").await?;
    let ours = stream.inserted().await?;
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        same(ours, theirs).map_err(|why| anyhow::anyhow!("{why}\n{ours}\n{theirs}"))?;
    }
    stream.client.batch_execute(DROP).await?;
    Ok(())
}

fn made_of(kind: &str) -> String {
    format!(
        "create domain d as {kind};
         create domain da as {kind}[];
         create type comp as (x {kind}, y {kind}[], z d);
         create type outer_comp as (c comp, ca comp[], \"wei\"\"rd, ü\" {kind});
         create type array_comp as (a {kind}[]);
         create domain dc as comp;
         create table made (
            id int generated always as identity, v {kind}, d d, a {kind}[], da da, ad d[],
            c comp, ca comp[], oc outer_comp, dc dc, dca dc[], \"C a\" array_comp);"
    )
}

const DROP: &str =
    "drop table made; drop domain dc; drop type array_comp, outer_comp, comp; drop domain da, d;";

fn insertion(kind: &str, value: &str, delimiter: char) -> String {
    let values = literal(&array([Some(value), None, Some(value)], delimiter));
    let value = literal(value);
    format!(
        "insert into made (v, d, a, da, ad, c, ca, oc, dc, dca)
         select v, v, a, a, a::d[], c, array[c, null, c], row(c, array[c, null], v)::outer_comp, c, array[c::dc]
         from (select v, a, row(v, a, v)::comp as c from (select {value}::{kind}, {values}::{kind}[]) s (v, a)) s;"
    )
}

/// Arrays of all the values: one, two and three dimensions, bounds of their own, none at all.
fn arrays(values: &[&str], delimiter: char) -> Vec<String> {
    let all = array(values.iter().copied().map(Some), delimiter);
    let with_null = array(values.iter().copied().map(Some).chain([None]), delimiter);
    let row = || {
        array(
            [values.first().copied(), None, values.last().copied()],
            delimiter,
        )
    };
    let plane = || braces([row(), row()], delimiter);
    vec![
        "{}".to_owned(),
        "{NULL}".to_owned(),
        all,
        with_null,
        plane(),
        braces([plane(), plane()], delimiter),
        format!("[0:2]={}", row()),
        format!("[-3:-2][5:7]={}", plane()),
    ]
}
