//! A real web server in a namespace.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::listeners;
use crate::netns::Netns;
use crate::process::Process;

/// The port nginx listens on.
pub const PORT: u16 = 8080;

/// Starts nginx, which serves the files below `directory/files` on every address of `netns` until
/// dropped. Its own files go into `directory` too.
///
/// # Errors
/// When its configuration cannot be written, or it does not come to listen.
pub fn serve(netns: &Netns, directory: &Path) -> Result<Process> {
    let files = directory.join("files");
    fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
    let place = directory.display();
    let configuration = directory.join("nginx.conf");
    // One process without a master, so that killing it ends it; root, so that it may read anything.
    let text = format!(
        "daemon off;
        master_process off;
        user root;
        pid {place}/nginx.pid;
        error_log {place}/error.log;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {place}/body;
            proxy_temp_path {place}/proxy;
            fastcgi_temp_path {place}/fastcgi;
            uwsgi_temp_path {place}/uwsgi;
            scgi_temp_path {place}/scgi;
            server {{ listen {PORT}; listen [::]:{PORT}; root {place}/files; }}
        }}\n"
    );
    fs::write(&configuration, text)
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-e").arg(directory.join("error.log"));
    command.arg("-c").arg(&configuration).stdout(Stdio::null());
    let server = netns.spawn(&mut command)?;
    listeners::wait_for(netns, PORT)?;
    Ok(server)
}
