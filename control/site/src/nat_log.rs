//! `[nat_log]`: where allocations of NAT are logged.

use std::fs;
use std::path::PathBuf;

use rustix::fs::Access;
use toml::Spanned;

use super::checker::Checker;
use super::schema::NatLog;

const DEFAULT_MAX_SIZE: i64 = 64;
const DEFAULT_KEEP: i64 = 8;

/// Where allocations are logged, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatLogConfig {
    /// The file; those before it have `.1` and so on behind its name.
    pub file: PathBuf,
    /// Bytes of a file, at most.
    pub max_size: u64,
    /// Files that are kept beside it.
    pub keep: u32,
}

/// What the file says of it.
pub fn nat_log(c: &mut Checker<'_>, given: Option<&Spanned<NatLog>>) -> Option<NatLogConfig> {
    let given = given?.get_ref();
    let file = given.file.get_ref();
    if !file.is_absolute() || file.file_name().is_none() {
        c.refuse(
            given.file.span(),
            format!("{} is no path of a file from / on", file.display()),
            "say where the log is to be, such as \"/var/log/weir/nat.log\"",
        );
    }
    let max_size = c.number("max_size", &given.max_size, 1..4097, DEFAULT_MAX_SIZE) as u64;
    let keep = c.number("keep", &given.keep, 2..1001, DEFAULT_KEEP) as u32;
    Some(NatLogConfig { file: file.clone(), max_size: max_size << 20, keep })
}

/// Does it keep a listing of all that the flow table has room for, and what was before? Says how much
/// that takes; none: it does.
pub fn crowded(log: &NatLogConfig, flow_table: u32) -> Option<String> {
    /// Bytes of a line of IPv4, as long as they get.
    const LINE: u64 = 240;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let listing = u64::from(flow_table) * LINE;
    let kept = log.max_size * u64::from(log.keep);
    (kept < 2 * listing).then(|| {
        format!(
            "[nat_log] keeps {} MiB, and a listing of as many flows as flow_table has room for is {} \
             MiB: little would be left of what was before. Let max_size times keep be {} or more",
            mib(kept),
            mib(listing),
            mib(2 * listing)
        )
    })
}

/// Why the log cannot be written on this machine, as far as can be told; none: it can.
pub fn hindrance(log: &NatLogConfig) -> Option<String> {
    let directory = log.file.parent()?;
    let why = match fs::metadata(directory) {
        Err(error) => format!("its directory {}: {error}", directory.display()),
        Ok(found) if !found.is_dir() => format!("{} is no directory", directory.display()),
        Ok(_) if log.file.is_dir() => "it is a directory".to_owned(),
        Ok(_) => match rustix::fs::access(directory, Access::WRITE_OK) {
            Err(error) => format!("its directory {}: {error}", directory.display()),
            Ok(()) => return None,
        },
    };
    Some(format!(
        "allocations of NAT are not logged: {} cannot be written: {why}. It is tried again and again, \
         and forwarding goes on",
        log.file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_a_listing_would_fill_is_warned_of_with_what_it_takes() {
        let log = |max_size: u64, keep| NatLogConfig {
            file: "/var/log/nat.log".into(),
            max_size: max_size << 20,
            keep,
        };
        assert_eq!(crowded(&log(64, 8), 1 << 20), None);
        let text = crowded(&log(4, 8), 1 << 20).unwrap();
        assert!(text.contains("keeps 32 MiB"), "{text}");
        assert!(text.contains("is 240 MiB") && text.contains("be 480 or more"), "{text}");
        assert_eq!(crowded(&log(60, 8), 1 << 20), None);
    }

    #[test]
    fn a_directory_that_is_not_there_or_none_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let log = |name: &str| NatLogConfig {
            file: directory.path().join(name),
            max_size: 1 << 20,
            keep: 2,
        };
        assert_eq!(hindrance(&log("nat.log")), None);
        let text = hindrance(&log("none/nat.log")).unwrap();
        assert!(text.contains("none: No such file or directory"), "{text}");
        fs::write(directory.path().join("file"), "").unwrap();
        let text = hindrance(&log("file/nat.log")).unwrap();
        assert!(text.contains("file is no directory"), "{text}");
    }
}
