//! A Postgres that takes walcast's roles over TLS only, as those that others run do.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use serde_json::json;
use tokio_postgres::error::SqlState;
use walcast_harness::{Postgres, Walcast, eventually};

use crate::stage::{ALICE, BINARY, DEADLINE, Stage, subscribe};

const PASSWORD: &str = "a password, with @:/?# in it";
const PASSWORD_ESCAPED: &str = "a%20password%2C%20with%20%40%3A%2F%3F%23%20in%20it";

/// The roles of walcast have no way in without TLS; `with_certificate` has none without a
/// certificate of its name. Everybody else is the tests'.
const RULES: &str = "\
local all all trust
hostssl all with_certificate 127.0.0.1/32 cert
hostnossl all with_password,with_certificate,walcast_checks 127.0.0.1/32 reject
hostssl all with_password,walcast_checks 127.0.0.1/32 scram-sha-256
hostssl replication with_password 127.0.0.1/32 scram-sha-256
host all postgres 127.0.0.1/32 trust
";

/// Certificates of one authority, as PEM files.
struct Certificates {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Result<Certificates> {
        let folder = tempfile::tempdir()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(&format!("authority of {}", folder.path().display()));
        let root = params.self_signed(&key)?;
        std::fs::write(folder.path().join("root.pem"), root.pem())?;
        Ok(Certificates {
            folder,
            issuer: Issuer::new(params, key),
        })
    }

    /// Certificate and key.
    fn issue(&self, name: &str, hosts: &[&str]) -> Result<(String, String)> {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = named(name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn write(&self, name: &str, pem: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, pem)?;
        Ok(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Gives the server its certificate and its rules of who may come in. Its files belong to its own
/// account, so it writes them itself.
async fn arm(postgres: &Postgres, certificates: &Certificates) -> Result<()> {
    let sql = postgres.connect("postgres", "postgres").await?;
    let (certificate, key) = certificates.issue("the database", &["localhost"])?;
    let root = std::fs::read_to_string(certificates.path("root.pem"))?;
    for (file, text) in [
        ("server.crt", certificate.as_str()),
        ("server.key", &key),
        ("root.crt", &root),
        ("pg_hba.conf", RULES),
    ] {
        sql.batch_execute(&format!(
            "copy (select regexp_split_to_table($pem${text}$pem$, '\n')) \
             to program 'cat > {file} && chmod 600 {file}'"
        ))
        .await?;
    }
    sql.batch_execute(&format!(
        "set password_encryption = 'scram-sha-256';
         create role with_password login replication password '{PASSWORD}' in role pg_read_all_data;
         create role with_certificate login replication in role pg_read_all_data;
         alter role walcast_checks password '{PASSWORD}';"
    ))
    .await?;
    for setting in ["ssl = on", "ssl_ca_file = 'root.crt'"] {
        sql.batch_execute(&format!("alter system set {setting}"))
            .await?;
    }
    sql.batch_execute("select pg_reload_conf()").await?;
    // The postmaster hears of it at some time. Its rules and its certificate come together, before the next
    // connection.
    eventually(DEADLINE, async || {
        let plain = postgres.connect("with_password", "postgres").await;
        let refused = plain.err()?.downcast::<tokio_postgres::Error>().ok()?;
        (refused.code()? == &SqlState::INVALID_AUTHORIZATION_SPECIFICATION).then_some(())
    })
    .await
    .context("no way in without TLS")
}

/// What `pg_stat_ssl` says of one.
#[derive(Debug)]
struct Session {
    user: String,
    kind: String,
    tls: bool,
    certified: bool,
}

impl Session {
    fn of(row: &tokio_postgres::Row) -> Session {
        Session {
            user: row.get(0),
            kind: row.get(1),
            tls: row.get(2),
            certified: row.get::<_, Option<&str>>(3).is_some(),
        }
    }
}

fn url(postgres: &Postgres, database: &str, user: &str, host: &str, options: &str) -> String {
    format!(
        "postgres://{user}:{PASSWORD_ESCAPED}@{host}:{}/{database}?{options}",
        postgres.port()
    )
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn a_database_behind_tls() -> Result<()> {
    let postgres: &'static Postgres = Box::leak(Box::new(Postgres::start().await?));
    let mut stage = Stage::on(postgres, &[]).await?;
    stage.walcast.terminate().await?;
    let certificates = Certificates::new()?;
    arm(postgres, &certificates).await?;
    let (certificate, key) = certificates.issue("with_certificate", &[])?;
    let own = certificates.write("own.pem", &certificate)?;
    let own_key = certificates.write("own.key", &key)?;
    let root = shown(&certificates.path("root.pem"));

    let full = format!("hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root}");
    let certified = format!("{full}&sslcert={}&sslkey={}", shown(&own), shown(&own_key));
    let authority = format!("sslmode=verify-ca&sslrootcert={root}");
    let database = stage.database.clone();
    for (user, host, options) in [
        ("with_password", "127.0.0.1", "sslmode=prefer"),
        ("with_password", "127.0.0.1", "sslmode=require"),
        ("with_password", "127.0.0.1", authority.as_str()),
        ("with_password", "localhost", &full),
        ("with_certificate", "localhost", &certified),
    ] {
        let case = format!("{user}@{host} {options}");
        stage.set(
            "database_url",
            &url(postgres, &database, user, host, options),
        );
        let checks = if user == "with_certificate" {
            full.as_str()
        } else {
            options
        };
        let checks = url(postgres, &database, "walcast_checks", host, checks);
        stage.set("rls_database_url", &checks);
        stage.start_again().await.context(case.clone())?;
        let mut alice = stage.connect(ALICE).await?;
        subscribe(&mut alice, json!({ "channel": "table:todos" })).await?;
        stage
            .execute(&format!("insert into todos values (1, '{ALICE}', 'seen')"))
            .await?;
        let event = alice.next_json(DEADLINE).await?;
        ensure!(
            event["payload"]["record"]["body"] == "seen",
            "{case}: {event}"
        );
        let rows = stage
            .sql
            .query(
                "select a.usename::text, a.backend_type, s.ssl, s.client_dn
                 from pg_stat_activity a join pg_stat_ssl s using (pid)
                 where a.datname = current_database() and a.usename <> 'postgres'",
                &[],
            )
            .await?;
        let sessions: Vec<Session> = rows.iter().map(Session::of).collect();
        let is = |name: &str, kind: &str| {
            let mut all = sessions.iter();
            all.any(|session| session.user == name && session.kind == kind)
        };
        ensure!(
            is("walcast_checks", "client backend"),
            "{case}: {sessions:?}"
        );
        ensure!(is(user, "walsender"), "{case}: {sessions:?}");
        for session in &sessions {
            let certified = session.user == "with_certificate";
            ensure!(session.tls, "{case}: {session:?}");
            ensure!(session.certified == certified, "{case}: {session:?}");
        }
        stage.execute("delete from todos").await?;
        stage.walcast.terminate().await?;
    }
    Ok(())
}

/// What TLS is there to refuse, said so that an operator knows what to do.
#[tokio::test]
async fn a_database_that_is_not_whom_it_says() -> Result<()> {
    let postgres: &'static Postgres = Box::leak(Box::new(Postgres::start().await?));
    let mut stage = Stage::on(postgres, &[]).await?;
    stage.walcast.terminate().await?;
    let certificates = Certificates::new()?;
    arm(postgres, &certificates).await?;
    let another = Certificates::new()?;
    let other = shown(&another.path("root.pem"));
    let root = shown(&certificates.path("root.pem"));
    let database = stage.database.clone();
    for (host, options, says) in [
        ("127.0.0.1", "sslmode=disable".to_owned(), "no encryption"),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={root}"),
            "not valid for name",
        ),
        (
            "localhost",
            "hostaddr=127.0.0.1&sslmode=verify-full".to_owned(),
            "UnknownIssuer",
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={other}"),
            "UnknownIssuer",
        ),
        (
            "127.0.0.1",
            "sslmode=verify-ca&sslrootcert=/nowhere".to_owned(),
            "/nowhere",
        ),
    ] {
        let url = url(postgres, &database, "with_password", host, &options);
        let settings = [("database_url", url.as_str()), ("slot_name", &database)];
        let (status, out, errors) = Walcast::run(BINARY, &settings, &["doctor"]).await?;
        ensure!(!status.success(), "{options} passed");
        let said = format!("{out}{errors}");
        ensure!(said.contains(says), "{options}: {said}");
        ensure!(
            !said.contains(PASSWORD) && !said.contains(PASSWORD_ESCAPED),
            "{said}"
        );
    }
    Ok(())
}
