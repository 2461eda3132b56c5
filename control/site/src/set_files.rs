//! Files of prefixes: one a line, with comments, of both families.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rustix::fs::OFlags;
use toml::Spanned;
use weir_layout::prefix_sets::MAX_PREFIXES;

use super::checker::Checker;
use super::place::Problem;

/// Most bytes of the files of all sets together.
const MAX_BYTES: usize = 32 << 20;
/// Prefixes after which a file is read no further: with them there are too many.
const TOO_MANY: usize = MAX_PREFIXES[0] + MAX_PREFIXES[1] + 1;
/// Wrong lines of a file that are told of.
const TOLD: usize = 10;
/// Characters of a wrong line that are shown.
const SHOWN: usize = 60;

/// Where the files of sets are.
#[derive(Clone, Copy, Debug)]
pub enum SetFiles<'p> {
    /// Where the configuration says, by this folder where it says no more.
    Beside(&'p Path),
    /// Kept in this directory, each by its set's name.
    Kept(&'p Path),
    /// They are not read: sets have what the configuration has of them.
    Unread,
}

/// The file of a set, as it was read.
#[derive(Debug)]
pub struct SetFile {
    /// The set's name.
    pub set: String,
    /// All of it.
    pub content: Vec<u8>,
}

/// The files of a site's sets.
pub struct Files<'p> {
    from: SetFiles<'p>,
    room: usize,
    read: Vec<SetFile>,
}

impl<'p> Files<'p> {
    pub fn new(from: SetFiles<'p>) -> Self {
        Self { from, room: MAX_BYTES, read: Vec::new() }
    }

    /// Those that were read.
    pub fn into_read(self) -> Vec<SetFile> {
        self.read
    }

    /// Adds the prefixes of a set's file, or says what is wrong with it.
    pub fn read(
        &mut self,
        c: &mut Checker<'_>,
        set: &str,
        file: &Spanned<PathBuf>,
        nets: &mut Vec<IpNet>,
    ) {
        let path = match self.from {
            SetFiles::Beside(folder) => folder.join(file.get_ref()),
            SetFiles::Kept(directory) => directory.join(set),
            SetFiles::Unread => return,
        };
        match content(&path, self.room) {
            Ok(content) => {
                self.room -= content.len();
                lines(&path, &content, nets, &mut c.problems);
                self.read.push(SetFile { set: set.to_owned(), content });
            }
            Err((why, remedy)) => {
                c.refuse(file.span(), format!("{} {why}", path.display()), remedy);
            }
        }
    }
}

/// What a file has, if it is no more than so many bytes.
fn content(path: &Path, most: usize) -> Result<Vec<u8>, (String, String)> {
    let failed = |error: io::Error| {
        (format!("cannot be read: {error}"), "give the path of a file of prefixes".to_owned())
    };
    let is_file = |data: fs::Metadata| match data.is_file() {
        true => Ok(()),
        false => {
            let remedy = "write the prefixes to a file, and name that".to_owned();
            Err(("is no regular file".to_owned(), remedy))
        }
    };
    // Before it is opened, which a device may take for a command, and again for what was opened.
    is_file(fs::metadata(path).map_err(failed)?)?;
    let mut options = File::options();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(failed)?;
    is_file(file.metadata().map_err(failed)?)?;
    let mut content = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() > most {
        let message =
            format!("is too large: the files of all sets may have {} MiB", MAX_BYTES >> 20);
        return Err((message, "remove comments, or prefixes that others hold".to_owned()));
    }
    Ok(content)
}

/// Takes the prefixes of a file, line by line; what is wrong with each line goes to the problems.
fn lines(path: &Path, content: &[u8], nets: &mut Vec<IpNet>, problems: &mut Vec<Problem>) {
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    let mut wrong = 0;
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let said = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if said.is_empty() {
            continue;
        }
        let found = std::str::from_utf8(said).map_err(|_| unreadable(said)).and_then(parse);
        let (message, remedy) = match found {
            Ok(_) if nets.len() >= TOO_MANY => break,
            Ok(net) => {
                nets.push(net);
                continue;
            }
            Err(what) => what,
        };
        wrong += 1;
        if wrong <= TOLD {
            problems.push(Problem {
                line: index + 1,
                column: 1,
                text: shown(line),
                ..Problem::whole(&path.display().to_string(), message, remedy)
            });
        }
    }
    if wrong > TOLD {
        let more = wrong - TOLD;
        let message = format!("{more} more lines are no prefix or address");
        problems.push(Problem::whole(&path.display().to_string(), message, ""));
    }
}

/// The prefix that a text is: of an address the one that holds it alone. Or what is wrong, and what to
/// do about it.
pub fn parse(text: &str) -> Result<IpNet, (String, String)> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| unreadable(text.as_bytes()))?),
    };
    if net.trunc() != net {
        let message = format!("{net} has bits set after its length");
        return Err((message, format!("write {}", net.trunc())));
    }
    Ok(net)
}

fn unreadable(text: &[u8]) -> (String, String) {
    let message = format!("\"{}\" is no prefix or address", shown(text));
    (message, "write one such as 192.0.2.0/24 or 2001:db8::7".to_owned())
}

/// A text from who knows where, for people: its beginning, without what would move their cursor.
fn shown(text: &[u8]) -> String {
    let begin = String::from_utf8_lossy(&text[..text.len().min(4 * SHOWN)]);
    let begin = begin.trim_end_matches(['\r', '\u{fffd}']);
    let mut shown: String = begin.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if begin.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}
