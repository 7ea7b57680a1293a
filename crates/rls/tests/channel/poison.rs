//! Policies that raise, sleep, change their role, or end the session.

use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;
use walcast_harness::eventually;
use walcast_rls::{ChannelAccess, ChannelDenial, ChannelFailure, ChannelRefusal, CheckConfig};

use crate::rig::{ALICE, BOB, Rig, denied, read, user, viewer, write};

fn failed(failure: ChannelFailure) -> Result<(), ChannelRefusal> {
    Err(failure.into())
}

const POISON: &str = "
    CREATE FUNCTION public.poison(t text, e text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
      CASE t
        WHEN 'raise' THEN IF e = 'presence' THEN RAISE 'secret of %', auth.uid(); END IF;
        WHEN 'sleep' THEN RAISE LOG 'asked in %.', current_database(); PERFORM pg_sleep(60);
        WHEN 'reset' THEN RESET ROLE;
        WHEN 'become' THEN SET LOCAL ROLE service_role;
        WHEN 'claims' THEN PERFORM set_config('request.jwt.claims', '{\"sub\": \"root\"}', true);
        WHEN 'forget' THEN DEALLOCATE ALL;
        ELSE RETURN current_user = 'authenticated';
      END CASE;
      RETURN true;
    END $$;
    CREATE POLICY a ON realtime.messages TO authenticated USING (public.poison(topic, extension))";

#[tokio::test]
async fn an_error_costs_nobody_else_an_answer() -> Result<()> {
    let rig = Rig::new(POISON).await?;
    let access = rig.access().await?;
    let asks = [
        read("a", "broadcast"),
        read("raise", "broadcast"),
        read("raise", "presence"),
        write("raise", "presence"),
        write("b", "broadcast"),
    ];
    let answers = access.judge(&user(ALICE, ""), &asks).await;
    let raised = ChannelFailure::Error {
        code: "P0001".into(),
    };
    let expected = [
        Ok(()),
        Ok(()),
        failed(raised.clone()),
        failed(raised),
        Ok(()),
    ];
    assert_eq!(answers, expected);
    assert!(!format!("{answers:?}").contains("secret"), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn nobody_leaves_a_role_or_claims_behind() -> Result<()> {
    let rig = Rig::new(POISON).await?;
    let config = CheckConfig {
        connections: 1,
        ..rig.config()
    };
    let access = ChannelAccess::connect(config).await?;
    for poison in ["reset", "become", "claims"] {
        let asks = [read(poison, "broadcast"), write("fine", "broadcast")];
        let answers = access.judge(&user(ALICE, ""), &asks).await;
        assert_eq!(answers[0], failed(ChannelFailure::Escaped), "{poison}");
        // the only session there is, or the next one
        let fine = access.judge(&user(BOB, ""), &[read("fine", "x")]).await;
        assert_eq!(fine, [Ok(())], "after {poison}");
        let anon = access
            .judge(&viewer("anon", "{}"), &[read("fine", "x")])
            .await;
        assert_eq!(anon, [denied(ChannelDenial::NoPolicy)], "after {poison}");
    }
    let forgetful = access.judge(&user(ALICE, ""), &[read("forget", "x")]).await;
    assert!(forgetful[0].is_err(), "{forgetful:?}");
    let fine = access.judge(&user(BOB, ""), &[read("fine", "x")]).await;
    assert_eq!(fine, [Ok(())]);
    Ok(())
}

#[tokio::test]
async fn who_sleeps_is_told_so_and_not_asked_again_at_once() -> Result<()> {
    let rig = Rig::new(POISON).await?;
    let config = CheckConfig {
        statement_timeout: Duration::from_secs(5),
        connections: 1,
        ..rig.config()
    };
    let access = ChannelAccess::connect(config).await?;
    let asks: Vec<_> = (0..20).map(|n| read("sleep", &n.to_string())).collect();
    let alice = user(ALICE, "");
    let timed_out = failed(ChannelFailure::Timeout);
    assert_eq!(
        access.judge(&alice, &asks).await,
        vec![timed_out.clone(); 20]
    );
    let asked = rig.asked();
    assert!(asked > 0);
    assert_eq!(access.judge(&alice, &asks[..1]).await, [timed_out]);
    assert_eq!(rig.asked(), asked, "no session is spent on it");
    let fine = access.judge(&user(BOB, ""), &[read("fine", "x")]).await;
    assert_eq!(fine, [Ok(())]);
    Ok(())
}

#[tokio::test]
async fn who_gives_up_waiting_takes_nothing_along() -> Result<()> {
    let rig = Rig::new(POISON).await?;
    let config = CheckConfig {
        connections: 1,
        ..rig.config()
    };
    let access = ChannelAccess::connect(config).await?;
    let sleeper = {
        let access = access.clone();
        tokio::spawn(async move { access.judge(&user(ALICE, ""), &[read("sleep", "x")]).await })
    };
    let busy =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'checker' AND wait_event = 'PgSleep'
                   AND datname = current_database()";
    eventually(Duration::from_secs(60), async || {
        let row = rig.admin.query_one(busy, &[]).await.ok()?;
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await?;
    sleeper.abort();
    let fine = access.judge(&user(BOB, ""), &[read("fine", "x")]).await;
    assert_eq!(
        fine,
        [Ok(())],
        "the session was busy, and another took its place"
    );
    Ok(())
}

#[tokio::test]
async fn a_lost_session_is_opened_again() -> Result<()> {
    let rig = Rig::new(POISON).await?;
    let access = rig.access().await?;
    for _ in 0..3 {
        let fine = access.judge(&user(BOB, ""), &[read("fine", "x")]).await;
        assert_eq!(fine, [Ok(())]);
        rig.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'checker' AND datname = current_database()")
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crowd_is_answered_in_turn() -> Result<()> {
    let rig = Rig::new(POISON).await?;
    let access = rig.access().await?;
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..300 {
        let access = access.clone();
        crowd.spawn(async move {
            let asks = [read("fine", "broadcast"), write("raise", "presence")];
            let alice = user(ALICE, &n.to_string());
            loop {
                let answers = access.judge(&alice, &asks).await;
                // Who has waited for eight seconds is told to try again; how many do is the machine's to say.
                if !answers.contains(&failed(ChannelFailure::Busy)) {
                    break answers;
                }
            }
        });
    }
    let patience = Duration::from_secs(90);
    while let Some(answers) = timeout(patience, crowd.join_next()).await? {
        let answers = answers?;
        assert_eq!(answers[0], Ok(()));
        assert!(matches!(
            answers[1],
            Err(ChannelRefusal::Failed(ChannelFailure::Error { .. }))
        ));
    }
    Ok(())
}
