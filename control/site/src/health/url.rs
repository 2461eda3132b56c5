//! URLs of HTTP probes.

/// The parts of a URL that a probe needs (RFC 3986 §3, without user information and fragment).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// By `https` rather than `http`.
    pub tls: bool,
    /// Host without brackets: a name or an address.
    pub host: String,
    /// Host and port as they go into the `Host` field.
    pub authority: String,
    /// Port, the scheme's unless it is given.
    pub port: u16,
    /// Path and query, at least `/`.
    pub path: String,
}

impl Url {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it and what to do.
    pub fn parse(url: &str) -> Result<Self, (String, &'static str)> {
        let wrong = |help| (format!("\"{url}\" cannot be probed"), help);
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(wrong("begin it with http:// or https://")),
        };
        if !rest.bytes().all(|b| b.is_ascii_graphic()) || rest.contains(['#', '@', '\\']) {
            return Err(wrong("use printable ASCII without `#`, `@`, `\\` and spaces"));
        }
        let (authority, path) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, "/"),
        };
        let path = if path.starts_with('?') { format!("/{path}") } else { path.into() };
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((host, port)) => (host, port),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|p| *p > 0),
            None if port.is_empty() => Some(if tls { 443 } else { 80 }),
            None => None,
        };
        let port = port.ok_or_else(|| wrong("use a port from 1 to 65535"))?;
        if host.is_empty() {
            return Err(wrong("name a host"));
        }
        Ok(Self { tls, host: host.into(), authority: authority.into(), port, path })
    }
}
