//! The order of commits as Postgres itself tells it: a logical slot of our own that nobody disturbs.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tokio_postgres::Client;
use walcast_pgoutput::Lsn;

const SLOT: &str = "walcast_witness";

/// Reads what the slot has kept and tells each transaction's place. Does not depend on the server's
/// decoder: of each transaction only the message Begin is looked at (its LSN and its number).
#[derive(Default)]
pub struct Witness {
    order: HashMap<u64, Lsn>,
}

impl Witness {
    /// Makes the slot; the publication must exist. What is committed from now on is witnessed.
    pub async fn start(sql: &Client) -> Result<Witness> {
        let mut witness = Witness::default();
        witness.renew(sql).await?;
        Ok(witness)
    }

    /// A new slot, also where the old one was invalidated. What was committed since the last
    /// [`read`](Witness::read) is not witnessed.
    pub async fn renew(&mut self, sql: &Client) -> Result<()> {
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
        sql.execute(drop, &[&SLOT]).await?;
        let create = "select pg_create_logical_replication_slot($1, 'pgoutput')";
        sql.execute(create, &[&SLOT]).await?;
        Ok(())
    }

    /// Takes in everything that has been committed so far: transaction → LSN of its commit record.
    pub async fn read(&mut self, sql: &Client) -> Result<&HashMap<u64, Lsn>> {
        // 'B', then the commit's LSN, the time (8 bytes each) and the transaction's number.
        let read = "select substring(data from 2 for 8), substring(data from 18 for 4)
                    from pg_logical_slot_get_binary_changes($1, null, null,
                         'proto_version', '1', 'publication_names', 'realtime')
                    where get_byte(data, 0) = 66";
        for row in sql.query(read, &[&SLOT]).await? {
            let (lsn, xid): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(1));
            let lsn = u64::from_be_bytes(lsn.try_into().ok().context("8 bytes")?);
            let xid = u32::from_be_bytes(xid.try_into().ok().context("4 bytes")?);
            self.order.insert(u64::from(xid), Lsn(lsn));
        }
        Ok(&self.order)
    }

    /// How many transactions it has seen.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
