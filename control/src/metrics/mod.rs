//! Metrics by HTTP, on a thread of low priority that nothing waits for. What there is to be
//! had, [`weir_metrics`] has.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the way to the thread, and what it listens on |
//! | `answer` | requests and responses |
//! | `limits` | how much clients may have of it |
//!
//! The daemon tells what it knows twice a second, and hears nothing of who asks. However many do,
//! figures are read at most ten times a second, and the text is handed to all of them.

mod answer;
mod limits;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weir_api::time;
use weir_metrics::{Scrape, Told};
use weir_service::Complaint;
use weir_shm::Pins;
use weir_site::Site;

use answer::Answerer;
use limits::{LIMITS, Limits, Room};

/// How long until an address is tried again that could not be listened on.
const AGAIN: Duration = Duration::from_secs(1);
/// Connections that wait to be taken.
const BACKLOG: i32 = 16;
/// Where a CPU has more to do, a tenth of it (sched(7)): who forwards comes first. With the least
/// there is (19), a scrape took seconds on a busy machine, which is when figures are wanted.
const NICE: i32 = 10;

/// The way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Exporter {
    listen: watch::Sender<Vec<SocketAddr>>,
    told: watch::Sender<Told>,
    started_ms: u64,
}

impl Exporter {
    /// Starts the thread, which listens nowhere yet.
    ///
    /// # Errors
    /// Without a thread or a runtime for it.
    pub fn start(pins: Pins) -> io::Result<Self> {
        let (listen, wanted) = watch::channel(Vec::new());
        let started_ms = time::now_ms();
        let (tell, told) = watch::channel(Told { started_ms, ..Told::default() });
        let answerer = Answerer::new(move |format| {
            let scrape = Scrape::take(&pins, told.borrow().clone())?;
            Ok(scrape.text(format))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!("no lower priority: {error}");
            }
            runtime.block_on(run(wanted, Arc::new(answerer), LIMITS));
        };
        std::thread::Builder::new().name("weir-metrics".into()).spawn(work)?;
        Ok(Self { listen, told: tell, started_ms })
    }

    /// Listens where the file says; never waits.
    pub fn follow(&self, site: &Site) {
        self.listen.send_if_modified(|known| {
            let differs = *known != site.metrics;
            known.clone_from(&site.metrics);
            differs
        });
    }

    /// Does it listen, or is it to? Else there is nobody to tell.
    pub fn is_on(&self) -> bool {
        !self.listen.borrow().is_empty()
    }

    /// Takes what the daemon knows; never waits.
    pub fn tell(&self, told: Told) {
        self.told.send_replace(Told { started_ms: self.started_ms, ..told });
    }
}

/// Serves at the addresses that are wanted, until nobody says which any more.
async fn run(
    mut wanted: watch::Receiver<Vec<SocketAddr>>,
    answerer: Arc<Answerer>,
    limits: Limits,
) {
    let room = Room::new(limits);
    let mut served: HashMap<SocketAddr, Served> = HashMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        served.retain(|address, _| now.contains(address));
        for address in now {
            let serve = || serve(address, Arc::clone(&answerer), room.clone());
            served.entry(address).or_insert_with(|| Served(tokio::spawn(serve())));
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// What serves at an address; dropped, it is over.
struct Served(JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves at an address. What keeps it from that is said once, and tried again.
async fn serve(address: SocketAddr, answerer: Arc<Answerer>, room: Room) {
    let mut complaint = Complaint::default();
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) => complaint.say(Some(format!(
                "metrics are not served at {address}: {error}. It is tried again and again; if \
                 another program has the port, give another in [metrics]"
            ))),
        }
        tokio::time::sleep(AGAIN).await;
    };
    tracing::info!("metrics are served at http://{address}/metrics");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => room.hold(stream, Arc::clone(&answerer)).await,
            Err(error) => {
                complaint.say(Some(format!("metrics at {address}: {error}")));
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that "[::]" and "0.0.0.0" may both be named.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests;
