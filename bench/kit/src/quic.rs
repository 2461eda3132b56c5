//! QUIC by ngtcp2's example server and client: one transfer, one connection.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::listeners;
use crate::netns::Netns;
use crate::process::{self, Process};
use crate::wait;

/// The port the server listens on.
pub const PORT: u16 = 4433;
/// What the server answers to an upload, once it has all of it.
const THANKS: &str = "all of it came\n";

/// Starts `gtlsserver` on one address; it serves until dropped. Its files go into `directory`.
///
/// # Errors
/// When its certificate cannot be made, or it does not come to listen.
pub fn serve(netns: &Netns, address: impl Into<IpAddr>, directory: &Path) -> Result<Process> {
    let files = directory.join("quic");
    fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
    fs::write(files.join("thanks"), THANKS)?;
    let (key, certificate) = (directory.join("quic.key"), directory.join("quic.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", "/CN=server", "-keyout"]).arg(&key);
    process::output(command.arg("-out").arg(&certificate))?;
    let mut command = Command::new("gtlsserver");
    command.args(["--quiet", "--max-dyn-length=4G", "--htdocs"]).arg(&files);
    command.args([address.into().to_string(), PORT.to_string()]).arg(key).arg(certificate);
    let server = netns.spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    listeners::wait_for_udp(netns, PORT)?;
    Ok(server)
}

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    client: Process,
    answer: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Download(u64),
    Upload,
}

impl Transfer {
    /// Starts to download `bytes`. The client gives the server no more than 64 KiB of credit at a
    /// time, so that it is never silent for long: it is its next packet that takes a connection to
    /// another uplink, and one that only listens has none to send.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn download(
        netns: &Netns,
        server: impl Into<IpAddr>,
        bytes: u64,
        directory: &Path,
    ) -> Result<Self> {
        let credit = ["--max-data=64K", "--max-window=64K", "--max-stream-window=64K"];
        let credit = credit.into_iter().chain(["--max-stream-data-bidi-local=64K"]);
        Self::start(netns, server.into(), Kind::Download(bytes), directory, credit)
    }

    /// Starts to upload `bytes`.
    ///
    /// # Errors
    /// As [`Self::download`].
    pub fn upload(
        netns: &Netns,
        server: impl Into<IpAddr>,
        bytes: u64,
        directory: &Path,
    ) -> Result<Self> {
        let data = directory.join("upload");
        fs::File::create(&data).and_then(|file| file.set_len(bytes))?;
        let data = format!("--data={}", data.display());
        let post = ["--http-method=POST", data.as_str()];
        Self::start(netns, server.into(), Kind::Upload, directory, post.into_iter())
    }

    fn start<'a>(
        netns: &Netns,
        server: IpAddr,
        kind: Kind,
        directory: &Path,
        more: impl Iterator<Item = &'a str>,
    ) -> Result<Self> {
        let (name, path) = match kind {
            Kind::Download(bytes) => ("downloaded", bytes.to_string()),
            Kind::Upload => ("answered", "thanks".to_owned()),
        };
        let directory = directory.join(name);
        fs::create_dir_all(&directory)?;
        let mut command = Command::new("gtlsclient");
        command.args(["--quiet", "--exit-on-all-streams-close", "--timeout=60s"]).args(more);
        command.arg(format!("--download={}", directory.display()));
        command.args([server.to_string(), PORT.to_string()]);
        command.arg(format!("https://{}/{path}", SocketAddr::new(server, PORT)));
        let client = netns.spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        Ok(Self { client, answer: directory.join(path), kind })
    }

    /// Is it still under way?
    ///
    /// # Errors
    /// When the client's state cannot be read.
    pub fn is_under_way(&mut self) -> Result<bool> {
        Ok(self.client.child().try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the transfer failed, ended early, or does not end.
    pub fn finish(mut self) -> Result<()> {
        let status = wait::until("the end of a QUIC transfer", 4 * wait::BOUND, || {
            Ok(self.client.child().try_wait()?)
        })?;
        ensure!(status.success(), "gtlsclient failed ({status}): {:?}", self.kind);
        let answer = || format!("no answer in {}", self.answer.display());
        match self.kind {
            Kind::Download(bytes) => {
                let came = fs::metadata(&self.answer).with_context(answer)?.len();
                ensure!(came == bytes, "{came} of {bytes} bytes came by QUIC");
            }
            Kind::Upload => {
                let text = fs::read_to_string(&self.answer).with_context(answer)?;
                ensure!(text == THANKS, "the server answered an upload with {text:?}");
            }
        }
        Ok(())
    }
}
