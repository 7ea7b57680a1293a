//! Policies as the documentation of Supabase and InsForge writes them.

use anyhow::Result;
use walcast_rls::{ChannelAsk, ChannelDenial, ChannelViewer, Refusal};

use crate::rig::{ALICE, BOB, Rig, denied, four, read, user, viewer, write};

const ROOMS: &str = "
    CREATE TABLE rooms_users (user_id uuid, room_topic text);
    INSERT INTO rooms_users VALUES ('00000000-0000-0000-0000-00000000000a', 'room-1'),
                                   ('00000000-0000-0000-0000-00000000000b', 'room-2');
    GRANT SELECT ON rooms_users TO authenticated;";

/// Each set, and for the viewers below which of the four questions about `room-1` and `room-2` are
/// allowed, in the order of `four`.
const SETS: &[(&str, &str)] = &[
    (
        "claims name the room",
        "CREATE POLICY a ON realtime.messages FOR SELECT TO authenticated
           USING (realtime.topic() = 'room-' || (auth.jwt() ->> 'room'));
         CREATE POLICY b ON realtime.messages FOR INSERT TO authenticated
           WITH CHECK (realtime.topic() = 'room-' || (auth.jwt() ->> 'room') AND extension = 'broadcast')",
    ),
    (
        "a table names the members",
        "CREATE POLICY a ON realtime.messages FOR SELECT TO authenticated USING (
           EXISTS (SELECT user_id FROM rooms_users WHERE user_id = (SELECT auth.uid()) AND room_topic = (SELECT realtime.topic()))
           AND realtime.messages.extension IN ('broadcast', 'presence'));
         CREATE POLICY b ON realtime.messages FOR INSERT TO authenticated WITH CHECK (
           EXISTS (SELECT user_id FROM rooms_users WHERE user_id = (SELECT auth.uid()) AND room_topic = (SELECT realtime.topic()))
           AND realtime.messages.extension IN ('presence'))",
    ),
    (
        "the row's own columns",
        "CREATE POLICY a ON realtime.messages FOR ALL TO PUBLIC USING (topic LIKE 'room-%' AND private)",
    ),
    (
        "restrictive, and USING stands for WITH CHECK",
        "CREATE POLICY a ON realtime.messages USING (true);
         CREATE POLICY b ON realtime.messages AS RESTRICTIVE FOR INSERT TO authenticated WITH CHECK (extension <> 'presence');
         CREATE POLICY c ON realtime.messages AS RESTRICTIVE FOR SELECT TO anon USING (messages.topic = 'room-2')",
    ),
    (
        "only restrictive",
        "CREATE POLICY a ON realtime.messages AS RESTRICTIVE USING (true)",
    ),
    (
        "null is no",
        "CREATE POLICY a ON realtime.messages USING (auth.jwt() ->> 'gone' = 'x') WITH CHECK (NULL)",
    ),
    (
        "the whole row, and both names",
        "CREATE FUNCTION public.fine(m realtime.messages) RETURNS boolean LANGUAGE plpgsql STABLE AS
           $$ BEGIN RETURN m.topic = realtime.channel_name() AND m.id IS NOT NULL AND m.sender_type = 'system'; END $$;
         CREATE POLICY a ON realtime.messages USING (public.fine(messages) AND channel_name = realtime.topic())",
    ),
];

fn viewers() -> [ChannelViewer; 5] {
    [
        user(ALICE, "1"),
        user(BOB, "2"),
        viewer("anon", r#"{"role": "anon"}"#),
        viewer("authenticated", ""),
        viewer("service_role", r#"{"role": "service_role"}"#),
    ]
}

#[tokio::test]
async fn answers_are_what_postgres_does() -> Result<()> {
    let mut allowed = 0;
    for (name, policies) in SETS {
        let rig = Rig::new(ROOMS).await?;
        rig.run(policies).await?;
        let access = rig.access().await?;
        for viewer in viewers() {
            let asks: Vec<ChannelAsk> = ["room-1", "room-2", "é\"'\\", ""]
                .into_iter()
                .flat_map(four)
                .collect();
            let answers = access.judge(&viewer, &asks).await;
            assert_eq!(answers.len(), asks.len());
            for (ask, answer) in asks.iter().zip(&answers) {
                let truth = rig.truth(&viewer, ask).await?;
                allowed += usize::from(truth);
                assert_eq!(
                    answer.is_ok(),
                    truth,
                    "{name}: {viewer:?} {ask:?} {answer:?}"
                );
                assert!(
                    !matches!(answer, Err(walcast_rls::ChannelRefusal::Failed(_))),
                    "{name}: {ask:?} {answer:?}"
                );
            }
        }
    }
    assert!(allowed > 150, "{allowed}: too few to mean anything");
    Ok(())
}

#[tokio::test]
async fn denied_by_default_and_the_reason_is_told() -> Result<()> {
    let rig = Rig::new("").await?;
    let access = rig.access().await?;
    let (anon, service) = (viewer("anon", "{}"), viewer("service_role", "{}"));
    let ask = [read("a", "broadcast"), write("a", "presence")];
    let no_policy = denied(ChannelDenial::NoPolicy);
    assert_eq!(access.judge(&anon, &ask).await, vec![no_policy; 2]);
    assert_eq!(access.judge(&service, &ask).await, [Ok(()), Ok(())]);

    rig.run("CREATE POLICY a ON realtime.messages FOR SELECT TO anon USING (topic = 'a')")
        .await?;
    let topics = [read("a", "x"), read("b", "x"), read("a\0", "x")];
    assert_eq!(
        access.judge(&anon, &topics).await,
        [
            Ok(()),
            denied(ChannelDenial::Policy),
            denied(ChannelDenial::Topic)
        ],
        "a policy counts from its commit on"
    );
    for (statement, denial) in [
        (
            "REVOKE SELECT, INSERT ON realtime.messages FROM anon",
            ChannelDenial::Privilege,
        ),
        (
            "REVOKE USAGE ON SCHEMA realtime FROM anon",
            ChannelDenial::Schema,
        ),
        ("DROP TABLE realtime.messages", ChannelDenial::Missing),
    ] {
        rig.run(statement).await?;
        assert_eq!(
            access.judge(&anon, &ask).await,
            vec![denied(denial); 2],
            "{statement}"
        );
    }
    for (role, refusal) in [
        ("none", Refusal::Reserved),
        ("nobody", Refusal::Missing),
        ("stranger", Refusal::NotGranted),
        ("checker", Refusal::Login),
        ("postgres", Refusal::Superuser),
    ] {
        let refused = vec![denied(ChannelDenial::Role(refusal)); 2];
        assert_eq!(
            access.judge(&viewer(role, "{}"), &ask).await,
            refused,
            "{role}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn insforge_judges_the_message_itself() -> Result<()> {
    let rig = Rig::new(
        "CREATE POLICY publish ON realtime.messages FOR INSERT TO authenticated WITH CHECK (
           realtime.channel_name() LIKE 'chat:%' AND channel_name = realtime.channel_name()
           AND event_name <> 'admin' AND sender_type = 'user' AND sender_id = auth.uid()
           AND payload ->> 'text' IS NOT NULL)",
    )
    .await?;
    let access = rig.access().await?;
    let message = |topic: &str, event: &str, sender: &str| {
        write(topic, "broadcast")
            .with("event_name", Some(event.into()))
            .with("event", Some(event.into()))
            .with("sender_type", Some("user".into()))
            .with("sender_id", Some(sender.into()))
            .with("payload", Some(r#"{"text": "hi"}"#.into()))
            .with("no_such_column", Some("1".into()))
    };
    let asks = [
        message("chat:1", "say", ALICE),
        message("chat:1", "admin", ALICE),
        message("chat:1", "say", BOB),
        message("news:1", "say", ALICE),
        message("chat:1", "say", ALICE).with("payload", None),
    ];
    let no = denied(ChannelDenial::Policy);
    let expected = [Ok(()), no.clone(), no.clone(), no.clone(), no];
    assert_eq!(access.judge(&user(ALICE, ""), &asks).await, expected);
    Ok(())
}

#[tokio::test]
async fn headers_and_the_search_path_are_the_applications() -> Result<()> {
    let rig = Rig::new(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO anon;
         CREATE TABLE app.open_topics (name text); INSERT INTO app.open_topics VALUES ('open');
         GRANT SELECT ON app.open_topics TO anon;
         SET check_function_bodies = off;
         CREATE FUNCTION public.is_open(t text) RETURNS boolean LANGUAGE sql STABLE AS
           'SELECT EXISTS (SELECT FROM open_topics WHERE name = t)';
         CREATE POLICY a ON realtime.messages FOR SELECT TO anon USING (public.is_open(topic));
         CREATE POLICY b ON realtime.messages FOR INSERT TO anon
           WITH CHECK (current_setting('request.headers')::json ->> 'x-pass' = lower('SESAME'));
         CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''trapped''::text'",
    )
    .await?;
    let mut config = rig.config();
    config.search_path = Some("app, public".to_owned());
    let access = walcast_rls::ChannelAccess::connect(config).await?;
    let anon = viewer("anon", "{}");
    let asks = [read("open", "x"), read("shut", "x"), write("open", "x")];
    let no = denied(ChannelDenial::Policy);
    assert_eq!(
        access.judge(&anon, &asks).await,
        [Ok(()), no.clone(), no.clone()]
    );
    let knows = anon.with_headers(r#"{"x-pass": "sesame"}"#);
    assert_eq!(access.judge(&knows, &asks).await, [Ok(()), no, Ok(())]);
    Ok(())
}

/// Of their newest migrations, as far as it matters here.
pub(crate) const SUPABASE: &str = "
    CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO anon, authenticated;
    CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
      $$ SELECT coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb, '{}') $$;
    CREATE SCHEMA realtime; GRANT USAGE ON SCHEMA realtime TO anon, authenticated, service_role;
    CREATE TABLE realtime.messages (
      topic text NOT NULL, extension text NOT NULL, payload jsonb, event text, private boolean DEFAULT false,
      updated_at timestamp DEFAULT now() NOT NULL, inserted_at timestamp DEFAULT now() NOT NULL,
      id uuid DEFAULT gen_random_uuid() NOT NULL, PRIMARY KEY (id, inserted_at)) PARTITION BY RANGE (inserted_at);
    CREATE TABLE realtime.messages_all PARTITION OF realtime.messages DEFAULT;
    ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
    GRANT SELECT, INSERT, UPDATE ON realtime.messages TO anon, authenticated, service_role;
    CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql STABLE AS
      $$ SELECT nullif(current_setting('realtime.topic', true), '')::text $$;
    CREATE POLICY a ON realtime.messages TO authenticated
      USING (realtime.topic() = 'room-' || (auth.jwt() ->> 'room') AND extension = 'broadcast');";

#[tokio::test]
async fn supabases_own_table_does_as_well() -> Result<()> {
    let rig = Rig::bare().await?;
    rig.run(SUPABASE).await?;
    let access = rig.access().await?;
    for viewer in [user(ALICE, "1"), viewer("anon", "{}")] {
        let asks = four("room-1");
        let answers = access.judge(&viewer, &asks).await;
        for (ask, answer) in asks.iter().zip(answers) {
            let truth = rig.truth(&viewer, ask).await?;
            assert_eq!(answer.is_ok(), truth, "{viewer:?} {ask:?} {answer:?}");
        }
    }
    Ok(())
}
