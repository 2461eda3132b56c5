//! The guard: a small nftables table of weir's own that keeps the kernel from forwarding between
//! LANs and uplinks what XDP has not seen or has left to it, and commands run by one uplink
//! (`weir use`) from sending by another.
//!
//! The gateway forwards for others (`net.ipv4.ip_forward`), so the kernel would too: before the XDP
//! program is attached, while its device is being replaced, by an interface where it cannot run. The
//! table is the first thing there at a start, is put back when somebody removes it, stays when
//! `weir-control` ends, and goes by `weir detach`. IPv6 has one too where an uplink has a path of
//! it. Whatever else the kernel forwards is none of its business.
//!
//! `weir_publish::guard` says what is in it; `nft`, run with its text, makes each change of it whole.

mod nft;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use socket2::SockFilter;
use tokio::sync::watch;
use weir_service::Complaint;

use nft::nft;

/// `NETLINK_NETFILTER` (linux/netlink.h).
const NETFILTER: isize = 12;
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h): every change of a ruleset.
const CHANGES: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`: what a transaction ends with, a message by itself.
const NEW_GENERATION: u16 = 0x0a0f;
/// Where `struct nlmsghdr` has the type of a message.
const KIND_AT: u32 = 4;
/// How long a burst of changes by others is gathered.
const SETTLE: Duration = Duration::from_millis(250);
/// How often a table is made at once that others may have changed meanwhile.
const TRIES: u32 = 5;
/// After how long one that was refused, or that others keep changing, is made again.
const RETRY: Duration = Duration::from_secs(2);

/// The table is there as long as this process runs, and longer.
#[derive(Debug)]
pub struct Guard {
    table: String,
    wanted: watch::Sender<String>,
    stands: Arc<AtomicBool>,
}

impl Guard {
    /// Puts the table of this name in place by these commands, and from then on back there. Needs a
    /// tokio runtime. What is in its way is said, and tried again.
    pub async fn start(table: String, commands: String) -> Self {
        let changes = subscribe();
        if let Err(error) = &changes {
            tracing::warn!("changes of nftables by others are not seen: {error}");
        }
        let changes = changes.ok();
        let stands = Arc::new(AtomicBool::new(false));
        let mut keeper = Keeper {
            table: table.clone(),
            made: None,
            changes,
            complaint: Complaint::default(),
            stands: Arc::clone(&stands),
            perhaps_v6: true,
        };
        keeper.hold(&commands).await;
        let (wanted, follow) = watch::channel(commands);
        tokio::spawn(keep(keeper, follow));
        Self { table, wanted, stands }
    }

    /// One without a table, for tests of what has a guard.
    pub fn absent() -> Self {
        let (wanted, _) = watch::channel(String::new());
        Self { table: String::new(), wanted, stands: Arc::default() }
    }

    /// Is the table there, as far as is known?
    pub fn stands(&self) -> bool {
        self.stands.load(Ordering::Relaxed)
    }

    /// Its name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Makes the table anew if the commands that make it have changed.
    pub fn follow(&self, commands: String) {
        self.wanted.send_if_modified(|wanted| {
            let new = *wanted != commands;
            *wanted = commands;
            new
        });
    }
}

/// Removes the tables of this name.
///
/// # Errors
/// When nftables refuses.
pub async fn remove(table: &str) -> Result<()> {
    nft(&["-f", "-"], &format!("table ip {table}\ndelete table ip {table}\n")).await?;
    remove_v6(table).await
}

/// Removes that of IPv6, which not every kernel may have.
async fn remove_v6(table: &str) -> Result<()> {
    match list("ip6", table).await {
        Some(_) => nft(&["delete", "table", "ip6", table], "").await.map(drop),
        None => Ok(()),
    }
}

/// A table without its counters; `None` when it is not there.
async fn list(family: &str, table: &str) -> Option<String> {
    nft(&["--stateless", "list", "table", family, table], "").await.ok()
}

/// A message for each transaction, its last. The rest is filtered out: a table with the names of all
/// interfaces is more than the socket has room for, and what is lost tells nothing.
fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETFILTER)?;
    socket2::SockRef::from(socket.socket_ref()).attach_filter(&filter())?;
    socket.socket_mut().bind_auto()?;
    socket.socket_mut().add_membership(CHANGES)?;
    Ok(socket)
}

/// Accepts [`NEW_GENERATION`], drops all else (`linux/bpf_common.h`).
fn filter() -> [SockFilter; 4] {
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const IS_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    // Filters read numbers in network order; those of netlink are in the machine's.
    let kind = u16::from_be_bytes(NEW_GENERATION.to_ne_bytes());
    [
        SockFilter::new(LOAD_HALF, 0, 0, KIND_AT),
        SockFilter::new(IS_EQUAL, 0, 1, kind.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Ends with the [`Guard`].
async fn keep(mut keeper: Keeper, mut wanted: watch::Receiver<String>) {
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = keeper.disturbed() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(RETRY), if keeper.made.is_none() => {}
        }
        let text = wanted.borrow_and_update().clone();
        keeper.hold(&text).await;
    }
}

/// The table as it was made.
#[derive(Debug)]
struct Made {
    /// By which commands.
    text: String,
    /// How nftables lists it.
    listed: String,
}

/// What is known of the table.
struct Keeper {
    table: String,
    made: Option<Made>,
    changes: Option<TokioSocket>,
    complaint: Complaint,
    /// nftables took the table when it was last made.
    stands: Arc<AtomicBool>,
    /// There may be a table of IPv6.
    perhaps_v6: bool,
}

impl Keeper {
    /// Returns when some table was changed, or might have been.
    async fn disturbed(&mut self) {
        match &mut self.changes {
            Some(socket) => _ = socket.recv(&mut Vec::with_capacity(64)).await,
            None => std::future::pending().await,
        }
    }

    /// Forgets the transactions that were heard of by now; how many.
    fn heard(&self) -> usize {
        let Some(socket) = &self.changes else { return 0 };
        let mut count = 0;
        loop {
            let mut head = [0; 16];
            match socket.socket_ref().recv(&mut &mut head[..], 0) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count,
                // More than there was room for.
                Err(_) => count += 2,
            }
        }
    }

    /// Makes the table what it should be, if it is not.
    async fn hold(&mut self, wanted: &str) {
        let done = self.try_hold(wanted).await;
        self.stands.store(done.is_ok(), Ordering::Relaxed);
        self.complaint.say(done.err().map(|error| {
            format!(
                "the kernel is not kept from forwarding between LANs and uplinks on its own: \
                 {error:#}"
            )
        }));
    }

    async fn try_hold(&mut self, wanted: &str) -> Result<()> {
        self.heard();
        if let Some(made) = self.made.take() {
            if !self.is_still(&made.listed).await {
                self.put_back();
            } else if made.text == wanted {
                self.made = Some(made);
                return Ok(());
            }
        }
        // As listed when somebody else had changed something too: perhaps the table.
        let mut doubtful = Vec::new();
        for _ in 0..TRIES {
            self.heard();
            let has_v6 = wanted.contains("table ip6 ");
            if self.perhaps_v6 && !has_v6 {
                remove_v6(&self.table).await?;
                self.heard();
            }
            self.perhaps_v6 = has_v6;
            nft(&["-f", "-"], wanted).await?;
            let listed = self.list().await.unwrap_or_default();
            if self.heard() > 1 || listed.is_empty() {
                if !listed.is_empty() && self.is_still(&listed).await {
                    doubtful.push(listed);
                } else {
                    self.put_back();
                }
                continue;
            }
            if doubtful.iter().any(|other| *other != listed) {
                self.put_back();
            }
            tracing::info!("nftables table {} is in place", self.table);
            self.made = Some(Made { text: wanted.to_owned(), listed });
            break;
        }
        Ok(())
    }

    /// Is the table there, and listed so?
    async fn is_still(&self, listed: &str) -> bool {
        self.list().await.as_deref() == Some(listed)
    }

    fn put_back(&self) {
        tracing::warn!("nftables table {} was changed or removed: put back", self.table);
    }

    /// The tables without their counters; `None` when one is not there.
    async fn list(&self) -> Option<String> {
        let mut listed = list("ip", &self.table).await?;
        if self.perhaps_v6 {
            listed += &list("ip6", &self.table).await?;
        }
        Some(listed)
    }
}
