//! Many subscribers of one table, all on one thread of their own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

use crate::client::Client;
use crate::frames::record_id;
use crate::stage::{Table, token};

/// Handshakes that go on at the same time.
const CONNECTING_MAX: usize = 32;

/// Who must get a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Every subscriber.
    All,
    /// Of n subscribers the one whose number is the row's `id % n`, and nobody else.
    Own,
}

/// The last of its receivers has got a row, by its `id`; or a subscriber has failed.
type Arrival = Result<(usize, Instant)>;

/// Subscribers, each with a user of its own. They end on drop.
pub(crate) struct Crowd {
    arrivals: mpsc::Receiver<Arrival>,
    _stop: oneshot::Sender<()>,
}

impl Crowd {
    /// Connects and subscribes them all.
    pub(crate) async fn gather(
        address: SocketAddr,
        members: usize,
        table: Table,
        sees: Sees,
    ) -> Result<Crowd> {
        let (tell, arrivals) = mpsc::channel();
        let (ready, gathered) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime needs nothing but files and memory");
            let members = Members {
                address,
                count: members,
                table,
                sees,
            };
            LocalSet::new().block_on(&runtime, members.run(tell, ready, stopped));
        });
        gathered.await.context("the subscribers are gone")??;
        Ok(Crowd {
            arrivals,
            _stop: stop,
        })
    }

    /// When the next row was complete. Blocks.
    pub(crate) fn arrival(&self, patience: Duration) -> Result<(usize, Instant)> {
        self.arrivals
            .recv_timeout(patience)
            .context("a row is not delivered to everybody")?
    }
}

struct Members {
    address: SocketAddr,
    count: usize,
    table: Table,
    sees: Sees,
}

impl Members {
    async fn run(
        self,
        tell: mpsc::Sender<Arrival>,
        ready: oneshot::Sender<Result<()>>,
        stopped: oneshot::Receiver<()>,
    ) {
        let clients = match self.connect().await {
            Ok(clients) => clients,
            Err(error) => {
                let _ = ready.send(Err(error)); // nobody waits any more: then nobody needs it
                return;
            }
        };
        let receivers = if self.sees == Sees::All {
            self.count
        } else {
            1
        };
        let tally = Rc::new(RefCell::new(Tally {
            receivers,
            seen: Vec::new(),
            tell,
        }));
        for (number, client) in clients {
            let tally = tally.clone();
            let (count, sees) = (self.count, self.sees);
            tokio::task::spawn_local(async move {
                let each = |text: &[u8]| {
                    let Some(id) = record_id(text) else {
                        return Ok(());
                    };
                    ensure!(
                        sees == Sees::All || id % count == number,
                        "a row of somebody else"
                    );
                    tally.borrow_mut().count(id)
                };
                if let Err(error) = client.listen(each).await {
                    let _ = tally.borrow().tell.send(Err(error)); // the bench has ended
                }
            });
        }
        let _ = ready.send(Ok(()));
        let _ = stopped.await;
    }

    async fn connect(&self) -> Result<Vec<(usize, Client)>> {
        let mut connecting = JoinSet::new();
        let mut clients = Vec::new();
        for number in 0..self.count {
            if connecting.len() == CONNECTING_MAX {
                clients.push(connecting.join_next().await.context("one is there")???);
            }
            let (address, name, token) = (self.address, self.table.name, token(number)?);
            connecting.spawn(async move {
                let mut client = Client::connect(address, &token).await?;
                client.subscribe(name).await?;
                anyhow::Ok((number, client))
            });
        }
        while let Some(client) = connecting.join_next().await {
            clients.push(client??);
        }
        Ok(clients)
    }
}

/// How many have got each row.
struct Tally {
    receivers: usize,
    seen: Vec<usize>,
    tell: mpsc::Sender<Arrival>,
}

impl Tally {
    fn count(&mut self, id: usize) -> Result<()> {
        if self.seen.len() <= id {
            self.seen.resize(id + 1, 0);
        }
        let seen = self.seen.get_mut(id).context("it was made long enough")?;
        *seen += 1;
        ensure!(
            *seen <= self.receivers,
            "row {id} came more often than there are receivers"
        );
        if *seen == self.receivers {
            let _ = self.tell.send(Ok((id, Instant::now()))); // the bench has ended
        }
        Ok(())
    }
}
