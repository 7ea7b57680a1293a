//! Many subscribers of one table or topic, all on one thread of their own.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

use crate::client::Client;
use crate::dialect::{Dialect, Wish};
use crate::frames::{payload_id, record_id};
use crate::stage::token;
use crate::times::Times;

/// Handshakes that go on at the same time.
const CONNECTING_MAX: usize = 32;

/// Who must get a row or message.
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

/// A crowd to be.
#[derive(Clone)]
pub(crate) struct Members {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
    pub(crate) count: usize,
    pub(crate) wish: Wish,
    pub(crate) sees: Sees,
    /// Told of each delivery.
    pub(crate) times: Option<Arc<Times>>,
}

impl Crowd {
    /// Connects them all, and each has what it wishes for.
    pub(crate) async fn gather(members: Members) -> Result<Crowd> {
        let (tell, arrivals) = mpsc::channel();
        let (ready, gathered) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        on_a_thread(move || members.run(tell, ready, stopped));
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

    /// The same; `None`: not so soon.
    pub(crate) fn arrival_within(&self, time: Duration) -> Result<Option<Instant>> {
        match self.arrivals.recv_timeout(time) {
            Ok(arrival) => Ok(Some(arrival?.1)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => anyhow::bail!("the subscribers are gone"),
        }
    }
}

/// Runs a future on a thread of its own, with tasks that need not be `Send`.
pub(crate) fn on_a_thread<F: Future<Output = ()>>(make: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime needs nothing but files and memory");
        LocalSet::new().block_on(&runtime, make());
    });
}

impl Members {
    fn receivers(&self) -> usize {
        match self.sees {
            Sees::All => self.count,
            Sees::Own => 1,
        }
    }

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
        let tally = Rc::new(RefCell::new(Tally {
            receivers: self.receivers(),
            times: self.times.clone(),
            seen: Vec::new(),
            tell,
        }));
        for (number, client) in clients {
            tokio::task::spawn_local(self.clone().listen(number, client, tally.clone()));
        }
        let _ = ready.send(Ok(()));
        let _ = stopped.await;
    }

    async fn listen(self, number: usize, client: Client, tally: Rc<RefCell<Tally>>) {
        let id_of = match self.wish {
            Wish::Table(_) => record_id,
            Wish::Topic(_) => payload_id,
        };
        let (count, sees) = (self.count, self.sees);
        let each = |message: &[u8]| {
            let Some(id) = id_of(message) else {
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
    }

    async fn connect(&self) -> Result<Vec<(usize, Client)>> {
        let mut connecting = JoinSet::new();
        let mut clients = Vec::new();
        for number in 0..self.count {
            if connecting.len() == CONNECTING_MAX {
                clients.push(connecting.join_next().await.context("one is there")???);
            }
            let (address, dialect, wish) = (self.address, self.dialect, self.wish.clone());
            let token = token(number)?;
            connecting.spawn(async move {
                let mut client = Client::connect(address, dialect, &token).await?;
                client.join(&wish).await?;
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
    times: Option<Arc<Times>>,
    seen: Vec<u32>,
    tell: mpsc::Sender<Arrival>,
}

impl Tally {
    fn count(&mut self, id: usize) -> Result<()> {
        if let Some(times) = &self.times {
            times.arrive(id);
        }
        if self.seen.len() <= id {
            self.seen.resize(id + 1, 0);
        }
        let seen = self.seen.get_mut(id).context("it was made long enough")?;
        *seen += 1;
        ensure!(
            *seen as usize <= self.receivers,
            "row {id} came more often than there are receivers"
        );
        if *seen as usize == self.receivers {
            let _ = self.tell.send(Ok((id, Instant::now()))); // the bench has ended
        }
        Ok(())
    }
}
