//! The guard: a small nftables table of weir's own that keeps the kernel from forwarding between
//! LANs and uplinks what XDP has not seen or has left to it, and commands run by one uplink
//! (`weir use`) from sending by another.
//!
//! The gateway forwards for others (`net.ipv4.ip_forward`), so the kernel would too: before the XDP
//! program is attached, while its device is being replaced, by an interface where it cannot run. The
//! table is the first thing there at a start, is put back when somebody removes it, stays when
//! `weir-control` ends, and goes by `weir detach`. IPv6 has one too where an uplink has a path of
//! it, after IPv4's: what is in its way is not in IPv4's. One of that name without weir's comment is
//! somebody else's, and stays. Whatever else the kernel forwards is none of its business.
//!
//! `weir_publish::guard` says what is in it; `nft`, run with its text, makes each change of it whole.

mod nft;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use socket2::SockFilter;
use tokio::sync::watch;
use weir_layout::Family;
use weir_service::Complaint;
use weir_view::own::GUARD_COMMENT;

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

/// By [`Family`], the commands that make its table; none: it is to have none.
pub type Commands = [Option<String>; Family::COUNT];

/// The tables are there as long as this process runs, and longer.
#[derive(Debug)]
pub struct Guard {
    table: String,
    wanted: watch::Sender<Commands>,
    stands: Arc<AtomicBool>,
}

impl Guard {
    /// Puts the tables of this name in place by these commands, and from then on back there. Needs a
    /// tokio runtime. What is in their way is said, and tried again.
    pub async fn start(table: String, commands: Commands) -> Self {
        let stands = Arc::new(AtomicBool::new(false));
        let mut keepers = Keepers {
            of: Family::ALL.map(|family| Keeper::new(family, &table)),
            stands: Arc::clone(&stands),
        };
        keepers.hold(&commands).await;
        let (wanted, follow) = watch::channel(commands);
        tokio::spawn(keep(keepers, follow));
        Self { table, wanted, stands }
    }

    /// One without a table, for tests of what has a guard.
    pub fn absent() -> Self {
        let (wanted, _) = watch::channel(Commands::default());
        Self { table: String::new(), wanted, stands: Arc::default() }
    }

    /// Is IPv4's table there, as far as is known?
    pub fn stands(&self) -> bool {
        self.stands.load(Ordering::Relaxed)
    }

    /// Its name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Makes a table anew if the commands that make it have changed.
    pub fn follow(&self, commands: Commands) {
        self.wanted.send_if_modified(|wanted| {
            let new = *wanted != commands;
            *wanted = commands;
            new
        });
    }
}

/// Everybody's tables, as nft tells them to programs (libnftables-json(5)), without the elements of
/// sets; nothing where nft is not there, or has no right to ask.
pub async fn ruleset() -> String {
    nft(&["--json", "--terse", "list", "ruleset"], "").await.unwrap_or_default()
}

/// Removes the tables of this name that are weir's.
///
/// # Errors
/// When nftables refuses.
pub async fn remove(table: &str) -> Result<()> {
    nft(&["-f", "-"], &format!("table ip {table}\ndelete table ip {table}\n")).await?;
    remove_v6(table).await
}

/// Removes that of IPv6, which not every kernel may have.
async fn remove_v6(table: &str) -> Result<()> {
    let Some(listed) = list(Family::V6, table).await else { return Ok(()) };
    if !is_weirs(&listed) {
        tracing::info!("nftables table ip6 {table} is not weir's: it stays");
        return Ok(());
    }
    nft(&["delete", "table", "ip6", table], "").await?;
    tracing::info!("nftables table ip6 {table} is removed");
    Ok(())
}

/// Was this table of IPv6 made by weir?
fn is_weirs(listed: &str) -> bool {
    listed.contains(&format!("comment \"{GUARD_COMMENT}\""))
}

/// A table without its counters, and without what is in sets; `None` when it is not there.
async fn list(family: Family, table: &str) -> Option<String> {
    let family = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    nft(&["--stateless", "--terse", "list", "table", family, table], "").await.ok()
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
async fn keep(mut keepers: Keepers, mut wanted: watch::Receiver<Commands>) {
    loop {
        let settled = keepers.of.iter().all(Keeper::is_settled);
        let [v4, v6] = &mut keepers.of;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = v4.changes.heard() => tokio::time::sleep(SETTLE).await,
            () = v6.changes.heard() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(RETRY), if !settled => {}
        }
        let commands = wanted.borrow_and_update().clone();
        keepers.hold(&commands).await;
    }
}

/// What is heard of changes of nftables; nothing without a socket.
struct Changes(Option<TokioSocket>);

impl Changes {
    fn new() -> Self {
        let socket = subscribe();
        if let Err(error) = &socket {
            tracing::warn!("changes of nftables by others are not seen: {error}");
        }
        Self(socket.ok())
    }

    /// Returns when some table was changed, or might have been.
    async fn heard(&mut self) {
        match &mut self.0 {
            Some(socket) => _ = socket.recv(&mut Vec::with_capacity(64)).await,
            None => std::future::pending().await,
        }
    }

    /// Forgets the transactions that were heard of by now; how many.
    fn forget(&self) -> usize {
        let Some(socket) = &self.0 else { return 0 };
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
}

/// The keepers of both tables.
struct Keepers {
    of: [Keeper; Family::COUNT],
    /// nftables took IPv4's when it was last made.
    stands: Arc<AtomicBool>,
}

impl Keepers {
    /// Makes the tables what they should be, where they are not: IPv4's first.
    async fn hold(&mut self, wanted: &Commands) {
        for (keeper, wanted) in self.of.iter_mut().zip(wanted) {
            let stands = keeper.hold(wanted.as_deref()).await;
            if keeper.family == Family::V4 {
                self.stands.store(stands, Ordering::Relaxed);
            }
        }
    }
}

/// A table as it was made.
#[derive(Debug)]
struct Made {
    /// By which commands.
    text: String,
    /// How nftables lists it.
    listed: String,
}

/// What is known of a family's table.
struct Keeper {
    family: Family,
    table: String,
    made: Option<Made>,
    /// Of its own: what is heard while the other's table is made may be of this one.
    changes: Changes,
    complaint: Complaint,
    /// There is to be none, and none of weir's is there.
    gone: bool,
}

impl Keeper {
    fn new(family: Family, table: &str) -> Self {
        Self {
            family,
            table: table.to_owned(),
            made: None,
            changes: Changes::new(),
            complaint: Complaint::default(),
            gone: false,
        }
    }

    /// Is the table what it should be, as far as is known?
    const fn is_settled(&self) -> bool {
        self.made.is_some() || self.gone
    }

    /// What the log calls it.
    fn name(&self) -> String {
        match self.family {
            Family::V4 => self.table.clone(),
            Family::V6 => format!("ip6 {}", self.table),
        }
    }

    /// Makes the table what it should be, if it is not; says whether it was not refused.
    async fn hold(&mut self, wanted: Option<&str>) -> bool {
        self.changes.forget();
        let done = match wanted {
            Some(wanted) => self.try_hold(wanted).await,
            None => self.let_go().await,
        };
        let holds = done.is_ok();
        self.complaint.say(done.err().map(|error| match (wanted, self.family) {
            (Some(_), Family::V4) => format!(
                "the kernel is not kept from forwarding between LANs and uplinks on its own: \
                 {error:#}"
            ),
            (Some(_), Family::V6) => format!(
                "the kernel is not kept from forwarding IPv6 between LANs and uplinks on its own: \
                 {error:#}"
            ),
            (None, _) => format!("nftables table {} is still there: {error:#}", self.name()),
        }));
        holds
    }

    /// Removes the table, if that was not done yet.
    async fn let_go(&mut self) -> Result<()> {
        self.made = None;
        if !self.gone {
            remove_v6(&self.table).await?;
            self.gone = true;
        }
        Ok(())
    }

    async fn try_hold(&mut self, wanted: &str) -> Result<()> {
        self.gone = false;
        if let Some(made) = self.made.take() {
            if !self.is_still(&made.listed).await {
                self.put_back();
            } else if made.text == wanted {
                self.made = Some(made);
                return Ok(());
            }
        }
        if self.family == Family::V6 && self.list().await.is_some_and(|listed| !is_weirs(&listed)) {
            bail!("there is an nftables table {} that is not weir's: rename it", self.name());
        }
        // As listed when somebody else had changed something too: perhaps the table.
        let mut doubtful = Vec::new();
        for _ in 0..TRIES {
            self.changes.forget();
            nft(&["-f", "-"], wanted).await?;
            let listed = self.list().await.unwrap_or_default();
            if self.changes.forget() > 1 || listed.is_empty() {
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
            tracing::info!("nftables table {} is in place", self.name());
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
        tracing::warn!("nftables table {} was changed or removed: put back", self.name());
    }

    /// The table without its counters; `None` when it is not there.
    async fn list(&self) -> Option<String> {
        list(self.family, &self.table).await
    }
}
