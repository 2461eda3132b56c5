//! The file, and those before it: `nat.log`, `nat.log.1`, … so many as are kept.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weir_site::NatLogConfig;

use super::listings::Listings;

/// What is written to.
#[derive(Debug)]
pub struct LogFile {
    config: NatLogConfig,
    group: Option<u32>,
    file: File,
    /// Bytes that whole lines have.
    len: u64,
    is_new: bool,
    /// When files that are begun ask for a listing.
    pub listings: Listings,
    /// Something was written that may not last.
    is_dirty: bool,
}

impl LogFile {
    /// Opens the file, making it if need be, behind the last whole line.
    ///
    /// # Errors
    /// When it cannot be opened, or written.
    pub fn open(config: &NatLogConfig, group: Option<u32>) -> Result<Self> {
        let mut file = open(&config.file, group)?;
        let len = whole_lines(&mut file)?;
        file.set_len(len)?;
        let is_new = len == 0;
        let (config, listings) = (config.clone(), Listings::new(config.keep));
        Ok(Self { config, group, file, len, is_new, listings, is_dirty: false })
    }

    /// Was there nothing in it?
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Appends whole lines, all to one file: to another where there is no room for them. Where that
    /// fails, none of them is there.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, lines: &str) -> Result<()> {
        let more = lines.len() as u64;
        if self.len > 0 && self.len + more > self.config.max_size {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(lines.as_bytes()) {
            let _ = self.file.set_len(self.len);
            return Err(error.into());
        }
        self.len += more;
        self.is_dirty = true;
        Ok(())
    }

    /// Makes what was written last; where somebody else has taken the file away, or what was in it,
    /// begins another.
    ///
    /// # Errors
    /// When that fails.
    pub fn keep_up(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_dirty) {
            self.file.sync_data()?;
        }
        let here = self.file.metadata()?;
        let is_here = |there: fs::Metadata| (there.dev(), there.ino()) == (here.dev(), here.ino());
        let is_whole = here.len() >= self.len;
        if !is_whole || !fs::symlink_metadata(&self.config.file).is_ok_and(is_here) {
            self.listings.lose_files();
            self.reopen()?;
        }
        Ok(())
    }

    /// Begins another file. The oldest goes.
    fn rotate(&mut self) -> Result<()> {
        self.file.sync_data()?;
        let NatLogConfig { file, keep, .. } = &self.config;
        for number in (0..*keep).rev() {
            let from = numbered(file, number);
            match fs::rename(&from, numbered(file, number + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot rename {}", from.display()));
                }
                _ => {}
            }
        }
        self.listings.begin_file();
        self.reopen()
    }

    /// Goes on with the file that has the name now.
    fn reopen(&mut self) -> Result<()> {
        let next = Self::open(&self.config, self.group)?;
        let listings = std::mem::replace(&mut self.listings, Listings::new(self.config.keep));
        *self = Self { listings, ..next };
        Ok(())
    }
}

/// The file that was begun so many before the last.
fn numbered(file: &Path, number: u32) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// Opens a file that root may write, and a group read. One of a name that leads elsewhere is refused.
fn open(path: &Path, group: Option<u32>) -> Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640).custom_flags(flags.bits() as i32);
    let file = options.open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput))
            .context("it is no file");
    }
    if found.len() == 0 && group.is_some() {
        fchown(&file, None, group)?;
    }
    Ok(file)
}

/// Bytes of the whole lines: a process that ended may have left a part of one.
fn whole_lines(file: &mut File) -> Result<u64> {
    const LONGEST: u64 = 4096;
    let len = file.metadata()?.len();
    let from = len.saturating_sub(LONGEST);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(LONGEST).read_to_end(&mut end)?;
    let lines = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
    Ok(if lines == 0 && from > 0 { len } else { from + lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &Path, max_size: u64, keep: u32) -> NatLogConfig {
        NatLogConfig { file: directory.join("nat.log"), max_size, keep }
    }

    fn read(config: &NatLogConfig, number: u32) -> String {
        fs::read_to_string(numbered(&config.file, number)).unwrap_or_default()
    }

    #[test]
    fn files_stay_within_their_size_and_number_and_hold_the_last_lines_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let config = log(directory.path(), 100, 3);
        let mut file = LogFile::open(&config, None).unwrap();
        let line = |n: u32| format!("{n:09}\n");
        (0..100).for_each(|n| file.append(&[line(2 * n), line(2 * n + 1)].concat()).unwrap());
        let all: String = (0..=3).rev().map(|number| read(&config, number)).collect();
        let last: String = (200 - all.len() as u32 / 10..200).map(line).collect();
        assert_eq!(all, last);
        assert!(all.len() > 300 && fs::read_dir(directory.path()).unwrap().count() == 4);
        assert!((0..=3).all(|number| read(&config, number).len() <= 100));
    }

    #[test]
    fn a_listing_is_due_before_the_oldest_file_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(&log(directory.path(), 10, 4), None).unwrap();
        assert!(file.is_new());
        for due in [false, false, true, false] {
            file.append("123456789\n").unwrap();
            assert_eq!(file.listings.take_due(), due);
        }
    }

    #[test]
    fn lines_that_are_handed_over_together_are_in_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = log(directory.path(), 10, 4);
        let mut file = LogFile::open(&config, None).unwrap();
        file.append("one\n").unwrap();
        file.append("two\nthree\n").unwrap();
        assert_eq!([read(&config, 1), read(&config, 0)], ["one\n", "two\nthree\n"]);
    }

    #[test]
    fn a_file_that_somebody_has_emptied_is_gone_on_with_and_a_listing_due() {
        let directory = tempfile::tempdir().unwrap();
        let config = log(directory.path(), 10, 2);
        let mut file = LogFile::open(&config, None).unwrap();
        file.append("one\ntwo\n").unwrap();
        fs::write(&config.file, "").unwrap();
        file.keep_up().unwrap();
        assert!(file.listings.take_due());
        file.append("three\n").unwrap();
        assert_eq!([read(&config, 1), read(&config, 0)], ["", "three\n"]);
    }

    #[test]
    fn a_part_of_a_line_that_a_killed_process_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        let config = log(directory.path(), 1000, 2);
        fs::write(&config.file, "one\ntwo\nthr").unwrap();
        let mut file = LogFile::open(&config, None).unwrap();
        file.append("three\n").unwrap();
        assert_eq!(read(&config, 0), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_file_that_somebody_took_away_is_begun_anew_and_a_listing_due() {
        let directory = tempfile::tempdir().unwrap();
        let config = log(directory.path(), 1000, 2);
        let mut file = LogFile::open(&config, None).unwrap();
        file.append("one\n").unwrap();
        fs::rename(&config.file, directory.path().join("elsewhere")).unwrap();
        file.keep_up().unwrap();
        assert!(file.listings.take_due());
        file.append("two\n").unwrap();
        assert_eq!(read(&config, 0), "two\n");
    }

    #[test]
    fn what_is_no_file_or_leads_elsewhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = log(directory.path(), 1000, 2);
        std::os::unix::fs::symlink("/dev/null", &config.file).unwrap();
        LogFile::open(&config, None).unwrap_err();
        fs::remove_file(&config.file).unwrap();
        fs::create_dir(&config.file).unwrap();
        LogFile::open(&config, None).unwrap_err();
    }
}
