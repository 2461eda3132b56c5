//! The API's socket: who may connect, how much they may say, and how long they may take.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use weir_api::{Message, Response};
use weir_health::Author;
use weir_site::group::{group, user};

use crate::command_lines::CommandLines;
use crate::urgent::PathWords;

/// Who may use the socket beside root unless the file says otherwise, if there is such a group.
pub(crate) const GROUP: &str = "weir";
/// Longest message, bytes.
const LONGEST: u64 = 64 * 1024;
/// How long a connection may stay without a whole message.
const QUIET: Duration = Duration::from_secs(10);
/// How long a request waits for the control process's other work.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const MOST: usize = 64;
/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// A message, and where its response goes.
pub struct Call {
    /// What is asked.
    pub message: Message,
    /// Who asks.
    pub caller: Caller,
    /// Where the response goes.
    pub reply: oneshot::Sender<Response>,
    connection: Arc<OwnedFd>,
}

impl Call {
    /// Has the caller gone, or given up? What nobody waits for any more is not to be carried out.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed() || has_hung_up(&self.connection)
    }
}

/// Hung up, rather than only done with writing.
fn has_hung_up(connection: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(connection, PollFlags::empty())];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok_and(|ready| ready != 0)
}

/// The process that asks, as the kernel vouches for it (SO_PEERCRED, unix(7)).
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its number; none: it is not to be seen from here.
    pub pid: Option<u32>,
    /// Its command line; empty: not to be had.
    pub command: String,
}

impl Caller {
    /// Without its command line, which may take a time.
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().filter(|pid| *pid > 0).map(i32::cast_unsigned);
        Ok(Self { uid: credentials.uid(), pid, command: String::new() })
    }

    /// The same for the history, with the user's name.
    pub fn author(&self) -> Author {
        let Self { uid, pid, ref command } = *self;
        Author { uid, user: user(uid), pid, process: command.clone() }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {}", self.uid)?;
        match self.pid {
            Some(pid) => write!(f, ", process {pid}"),
            None => Ok(()),
        }
    }
}

/// Makes the socket, for root alone.
///
/// # Errors
/// When somebody answers on it already, or it cannot be made.
pub async fn listen(path: &Path) -> Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        bail!(
            "another weir-control answers on {}: stop it first, or give another --socket",
            path.display()
        );
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let _ = fs::remove_file(path);
    bound(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// Nobody connects before it is known who may: whom it does not listen to yet a socket refuses.
fn bound(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Gives the socket to root and the members of a group: the one that the file names, else the
/// usual one. Without either it is root's alone.
///
/// # Errors
/// When its owner cannot be changed.
pub fn share(path: &Path, named: Option<&str>) -> Result<()> {
    let name = named.unwrap_or(GROUP);
    let (group, mode) = group(name).map_or((0, 0o600), |group| (group, 0o660));
    chown(path, None, Some(group))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot give {} to group {name}", path.display()))
}

/// Hands on what is asked, until the receiver is gone. What `words` can obey of it is obeyed first;
/// then `command_lines` is asked who it was.
pub async fn serve(
    listener: StdListener,
    calls: mpsc::Sender<Call>,
    words: Arc<PathWords>,
    command_lines: CommandLines,
) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("API socket: {error}"),
    };
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let words = Arc::clone(&words);
                let session =
                    Session { calls: calls.clone(), words, command_lines: command_lines.clone() };
                tokio::spawn(async move {
                    session.run(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("API socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection to the socket.
struct Session {
    calls: mpsc::Sender<Call>,
    words: Arc<PathWords>,
    command_lines: CommandLines,
}

impl Session {
    /// One JSON message per line, one JSON response per line.
    async fn run(&self, stream: UnixStream) {
        let Ok(caller) = Caller::of(&stream) else { return };
        let Ok(connection) = stream.as_fd().try_clone_to_owned().map(Arc::new) else { return };
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut reader).take(LONGEST);
            let read = timeout(QUIET, limited.read_until(b'\n', &mut line)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return;
            }
            let whole = line.ends_with(b"\n");
            let response = match serde_json::from_slice::<Message>(&line) {
                _ if !whole => Response::Error { message: format!("longer than {LONGEST} bytes") },
                Err(error) => Response::Error { message: format!("not a message: {error}") },
                Ok(message) => self.ask(message, caller.clone(), Arc::clone(&connection)).await,
            };
            let Ok(mut text) = serde_json::to_string(&response) else { return };
            text.push('\n');
            let written = timeout(QUIET, writer.write_all(text.as_bytes())).await;
            if !whole || !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Asks the daemon, which has [`PATIENCE`] to answer.
    async fn ask(
        &self,
        message: Message,
        mut caller: Caller,
        connection: Arc<OwnedFd>,
    ) -> Response {
        let end = Instant::now() + PATIENCE;
        if has_hung_up(&connection) {
            tracing::warn!(by = %caller, "gone before it was heard: not done");
            return Response::Error { message: "not done".into() };
        }
        self.words.on_message(&message);
        if let (Message::Do(_), Some(pid)) = (&message, caller.pid) {
            caller.command = self.command_lines.of(pid).await;
        }
        let (reply, answer) = oneshot::channel();
        let response = match timeout_at(end, self.calls.reserve()).await {
            Ok(Ok(place)) => {
                place.send(Call { message, caller, reply, connection });
                timeout_at(end, answer).await.map(Result::ok)
            }
            refused => {
                // Nobody else will: the word is put right when it is next decided.
                self.words.acknowledge(&message);
                refused.map(|_| None)
            }
        };
        match response {
            Ok(Some(response)) => response,
            Ok(None) => Response::Error { message: "weir-control is stopping".into() },
            Err(_) => {
                Response::Error { message: format!("not done: busy for {} s", PATIENCE.as_secs()) }
            }
        }
    }
}

/// Is this an error of who is not there, rather than of who may not?
pub fn is_absent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream as Client;
    use std::path::PathBuf;

    use weir_api::Query;
    use weir_shm::adjacencies::NextHops;
    use weir_shm::control::{ControlRegion, ControlWriter};

    use super::*;

    fn words() -> Arc<PathWords> {
        let region = ControlRegion::anonymous().unwrap();
        let writer = ControlWriter::new(region, NextHops::anonymous().unwrap());
        Arc::new(PathWords::new(writer.words()))
    }

    /// Serves at a path.
    async fn served(path: &Path, calls: mpsc::Sender<Call>) {
        let listener = listen(path).await.unwrap().into_std().unwrap();
        tokio::spawn(serve(listener, calls, words(), CommandLines::start().unwrap()));
    }

    fn path(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("weir-serve-{test}-{}", std::process::id()))
    }

    #[tokio::test]
    async fn the_socket_is_for_root_and_the_group() {
        let path = path("mode");
        let listener = listen(&path).await.unwrap();
        let seen = || {
            let found = fs::metadata(&path).unwrap();
            (found.gid(), found.mode() & 0o777)
        };
        let made = seen();
        share(&path, Some("daemon")).unwrap();
        let shared = seen();
        share(&path, None).unwrap();
        let usual = seen();
        drop(listener);
        fs::remove_file(&path).unwrap();
        assert_eq!(made.1, 0o600);
        assert_eq!(shared, (group("daemon").unwrap(), 0o660));
        assert_eq!(usual, group(GROUP).map_or((0, 0o600), |group| (group, 0o660)));
    }

    #[tokio::test]
    async fn what_a_client_asked_that_has_gone_is_abandoned() {
        let path = path("gone");
        let (calls, mut called) = mpsc::channel(4);
        served(&path, calls).await;
        let ask = |query: &Query| {
            let mut client = Client::connect(&path).unwrap();
            let text = serde_json::to_string(&Message::Ask(query.clone())).unwrap();
            client.write_all(format!("{text}\n").as_bytes()).unwrap();
            client
        };
        let stays = ask(&Query::Health);
        let call = called.recv().await.unwrap();
        assert!(!call.is_abandoned());
        drop(stays);
        // A child of another test, which has yet to become another program, holds what this had
        // open.
        let gone = async {
            while !call.is_abandoned() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("an abandoned call");
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let path = path("line");
        let (calls, _called) = mpsc::channel(4);
        served(&path, calls).await;
        let client = path.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(client).unwrap();
            // Refused before all of it is read.
            let _ = client.write_all(&vec![b'x'; 1 << 20]);
            let mut line = String::new();
            let _ = std::io::BufReader::new(client).read_line(&mut line);
            line
        });
        let answer = answer.await.unwrap();
        fs::remove_file(&path).unwrap();
        assert!(answer.contains("longer than 65536 bytes"), "{answer:?}");
    }
}
