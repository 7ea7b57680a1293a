//! Where the JSON differs from `to_jsonb` on purpose; `proto-docs/types.md` names the same.

use anyhow::Result;
use tokio_postgres::error::SqlState;
use walcast_harness::Postgres;

use crate::stream::Stream;

#[tokio::test]
async fn json_stands_as_it_was_written() -> Result<()> {
    let mut stream = Stream::open().await?;
    let insert = r#"create table t (a json);
        insert into t values ('{"b" : 1E2,
 "a":-0.0, "b":"\u0000\ud800"}')"#;
    stream.client.batch_execute(insert).await?;
    let ours = stream.inserted().await?;
    assert_eq!(
        ours,
        [r#"{"a":{"b" : 1E2,  "a":-0.0, "b":"\u0000\ud800"}}"#]
    );
    Ok(())
}

#[tokio::test]
async fn floats_keep_exponent_and_sign() -> Result<()> {
    let mut stream = Stream::open().await?;
    let insert =
        "create table t (id int, a float8, b float8); insert into t values (1, '1e20', '-0')";
    stream.client.batch_execute(insert).await?;
    assert_eq!(stream.inserted().await?, [r#"{"id":1,"a":1e+20,"b":-0}"#]);
    let theirs = r#"{"a": 100000000000000000000, "b": 0, "id": 1}"#;
    assert_eq!(stream.to_jsonb("t").await?, [theirs]);
    Ok(())
}

#[tokio::test]
async fn casts_to_json_are_not_used() -> Result<()> {
    let mut stream = Stream::open().await?;
    let create = "create type mood as enum ('good');
        create function as_json(mood) returns json language sql as $$ select '{\"mood\": 1}'::json $$;
        create cast (mood as json) with function as_json(mood);
        create table t (id int, a mood); insert into t values (1, 'good')";
    stream.client.batch_execute(create).await?;
    assert_eq!(stream.inserted().await?, [r#"{"id":1,"a":"good"}"#]);
    assert_eq!(
        stream.to_jsonb("t").await?,
        [r#"{"a": {"mood": 1}, "id": 1}"#]
    );
    Ok(())
}

#[tokio::test]
async fn documents_deeper_than_512_are_strings() -> Result<()> {
    let mut stream = Stream::open().await?;
    let insert = "create table t (a jsonb);
        insert into t select (repeat('[', n) || repeat(']', n))::jsonb from unnest(array[512, 513]) n";
    stream.client.batch_execute(insert).await?;
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    let expected = [
        format!(r#"{{"a":{}}}"#, nested(512)),
        format!(r#"{{"a":"{}"}}"#, nested(513)),
    ];
    assert_eq!(stream.inserted().await?, expected);
    Ok(())
}

/// A SQL_ASCII database has bytes, not characters. Asked for UTF-8, it ends the stream at the first
/// value that is none; asked for SQL_ASCII, it sends the bytes as they are.
#[tokio::test]
async fn bytes_that_are_no_utf8_are_replaced() -> Result<()> {
    let client = Postgres::shared()
        .await
        .connect("postgres", "postgres")
        .await?;
    let create = "create database bytes encoding 'SQL_ASCII' template template0";
    client.batch_execute(create).await?;
    let mut stream = Stream::open_in("bytes").await?;
    let insert = r#"create table t (a text, b text[], c json, d int);
        insert into t values (E'\xff"', array[E'\xe2\x82'], E'{"x":"\xff"}', 1)"#;
    stream.client.batch_execute(insert).await?;
    let refused = stream.inserted().await.expect_err("the text is no UTF-8");
    let code = refused
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(|error| error.code());
    assert_eq!(code, Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE));
    stream
        .client
        .batch_execute("set client_encoding = 'SQL_ASCII'")
        .await?;
    let expected = "{\"a\":\"\u{fffd}\\\"\",\"b\":[\"\u{fffd}\"],\"c\":\"{\\\"x\\\":\\\"\u{fffd}\\\"}\",\"d\":1}";
    assert_eq!(stream.inserted().await?, [expected]);
    Ok(())
}

/// Only a superuser can make such a value; it stays inside its quotes all the same.
#[tokio::test]
async fn json_that_is_none_is_a_string() -> Result<()> {
    let mut stream = Stream::open().await?;
    let create = "create cast (text as json) without function;
        create table t (id int, a json, b json[], c int);
        insert into t select 1, v::json, array[v::json], 2 from (select '1,\"id\":7'::text) s (v)";
    stream.client.batch_execute(create).await?;
    let expected = r#"{"id":1,"a":"1,\"id\":7","b":["1,\"id\":7"],"c":2}"#;
    assert_eq!(stream.inserted().await?, [expected]);
    Ok(())
}

#[tokio::test]
async fn a_type_altered_since_it_was_read_is_a_string_until_it_is_read_again() -> Result<()> {
    let mut stream = Stream::open().await?;
    let create = "create type pair as (a int, b int);
        create table t (v pair); insert into t values ('(1,2)');";
    stream.client.batch_execute(create).await?;
    assert_eq!(stream.inserted().await?, [r#"{"v":{"a":1,"b":2}}"#]);
    let alter = "alter type pair add attribute c int; insert into t values ('(1,2,3)')";
    stream.client.batch_execute(alter).await?;
    assert_eq!(stream.inserted().await?, [r#"{"v":"(1,2,3)"}"#]);
    Ok(())
}

#[tokio::test]
async fn great_values() -> Result<()> {
    let mut stream = Stream::open().await?;
    let insert = r#"create table t (id int, a text, b jsonb, c bytea, d text[]);
        insert into t select 1, v, to_jsonb(v), convert_to(w, 'UTF8'), array[w, null, w]
        from (select repeat(E'x"\\ü\n', n), repeat(E'x"\\ü\n', n / 10) from (values (1750000)) n (n)) s (v, w)"#;
    stream.client.batch_execute(insert).await?;
    let ours = stream.inserted().await?;
    let theirs = stream.to_jsonb("t").await?;
    assert!(ours[0].len() > 30_000_000, "{}", ours[0].len());
    assert_eq!(crate::same_json::same(&ours[0], &theirs[0]), Ok(()));
    Ok(())
}
