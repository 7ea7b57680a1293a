//! Who looks at the ledger: a role, its claims, and what they let it see.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::book::{Rows, Sight, user};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The roles of the ledger's subscribers; [`crate::SCHEMA`] gives each its own policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `version % 2 = 0`
    Anon,
    /// `owner = auth.uid()`
    Authenticated,
    /// The same, without the right to read the bodies.
    Masked,
    /// Bypasses row-level security.
    Service,
    /// By a sub-select in a table of members: owner n is seen by n and by n - 1.
    Team,
    /// By a SECURITY DEFINER function, over the same members.
    Auditor,
}

impl Role {
    pub const ALL: [Role; 6] = [
        Role::Anon,
        Role::Authenticated,
        Role::Masked,
        Role::Service,
        Role::Team,
        Role::Auditor,
    ];

    /// Its name in Postgres.
    pub fn name(self) -> &'static str {
        match self {
            Role::Anon => "anon",
            Role::Authenticated => "authenticated",
            Role::Masked => "masked",
            Role::Service => "service_role",
            Role::Team => "team",
            Role::Auditor => "auditor",
        }
    }
}

/// A role and a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub role: Role,
    pub user: u16,
}

impl Subscriber {
    pub fn new(role: Role, user: u16) -> Subscriber {
        Subscriber { role, user }
    }

    /// What it may see of the ledger.
    pub fn sight(self) -> Sight {
        match self.role {
            Role::Anon => Sight::Even,
            Role::Authenticated | Role::Masked => Sight::Owner(self.user),
            Role::Service => Sight::All,
            Role::Team | Role::Auditor => Sight::Owners(vec![self.user, self.user + 1]),
        }
    }

    fn claims(self) -> Value {
        json!({ "sub": user(self.user), "role": self.role.name() })
    }

    /// A token that is valid for a day, signed with HS256.
    pub fn token(self, secret: &str) -> Result<String> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let end = SystemTime::now().duration_since(UNIX_EPOCH)? + DAY;
        let mut claims = self.claims();
        claims["exp"] = end.as_secs().into();
        let key = EncodingKey::from_secret(secret.as_bytes());
        Ok(encode(&Header::default(), &claims, &key)?)
    }
}

/// Reads the ledger as a subscriber would; one connection for all, opened again when it breaks.
pub struct Desk {
    url: String,
    client: Mutex<Option<Client>>,
}

impl Desk {
    /// `url` is that of a superuser.
    pub fn new(url: String) -> Desk {
        Desk {
            url,
            client: Mutex::new(None),
        }
    }

    /// The rows that `subscriber` may see now, every commit counted that has been decoded so far.
    /// Tried again while Postgres is away.
    pub async fn rows(&self, subscriber: Subscriber, deadline: Duration) -> Result<Rows> {
        let end = Instant::now() + deadline;
        loop {
            match self.try_rows(subscriber).await {
                Ok(rows) => return Ok(rows),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn try_rows(&self, subscriber: Subscriber) -> Result<Rows> {
        let mut place = self.client.lock().await; // one reads at a time; nothing else is done with it
        let client = match place.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
                tokio::spawn(connection); // its error reaches us through the client
                client
            }
        };
        settle(&client).await?;
        let claims = subscriber.claims().to_string();
        client.batch_execute("begin").await?;
        let role = subscriber.role.name();
        client
            .execute(
                "select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)",
                &[&claims, &role],
            )
            .await?;
        let rows = client.query("select id, version from ledger", &[]).await?;
        client.batch_execute("rollback").await?;
        *place = Some(client);
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// Waits for the end of every transaction that has begun so far. A commit is decoded before other sessions
/// see it: who was acknowledged behind it would find it neither among the rows nor among the events.
async fn settle(client: &Client) -> Result<()> {
    let next = "select pg_current_xact_id()::text";
    let next: String = client.query_one(next, &[]).await?.get(0);
    let over = "select pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8";
    while !client.query_one(over, &[&next]).await?.get::<_, bool>(0) {
        sleep(PAUSE).await;
    }
    Ok(())
}
