//! The configuration file, and the last good one that takes its place when it is refused.

use std::path::{Path, PathBuf};

use anyhow::Result;
use weir_api::{Configuration, Refused};
use weir_service::WrongConfiguration;
use weir_site::{Reading, SetFiles, Site};

use crate::state::State;

/// Where the configuration in force is from.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    state: State,
    refused: Option<Refused>,
    fallen_back: bool,
    /// When the one in force was taken over, seconds since the Unix epoch.
    taken_s: u64,
}

impl Source {
    /// Of a file that has not been read yet.
    pub fn new(path: &Path, state: State) -> Self {
        Self { path: path.into(), state, refused: None, fallen_back: false, taken_s: 0 }
    }

    /// The last good file, with the LANs and paths that the file has beyond it: for what must be in
    /// place before it is known which of the two this machine can have.
    ///
    /// # Errors
    /// What is wrong with the file, if there is no last good one.
    pub fn either(&self) -> Result<Site> {
        let unread = SetFiles::Unread;
        let site = |path: &Path| attempt(path, unread, |_, _| Ok(())).map(|reading| reading.site);
        match (site(&self.state.last_good()), site(&self.path)) {
            (Ok(last), Ok(file)) => Ok(last.with_paths_of(file)),
            (Ok(last), Err(_)) => Ok(last),
            (Err(_), file) => file,
        }
    }

    /// The site to start with: the file's, or if that is refused, the last good one.
    ///
    /// # Errors
    /// Why the file is refused, if there is nothing to fall back to.
    pub fn start(&mut self, accept: impl Fn(&Site, &Path) -> Result<()>) -> Result<Site> {
        let refused = match self.read(&accept) {
            Ok(site) => return Ok(site),
            Err(error) => error,
        };
        let (last, sets) = (self.state.last_good(), self.state.last_good_sets());
        let Ok(Reading { site, .. }) = attempt(&last, SetFiles::Kept(&sets), &accept) else {
            return Err(refused);
        };
        tracing::error!(
            "{refused:#}\n{} is refused: going on with the last good configuration, {}. Mend the \
             file, then `weir reload`",
            self.path.display(),
            last.display()
        );
        self.fallen_back = true;
        self.taken_s = weir_api::time::now_s();
        Ok(site)
    }

    /// The file's site; what was in force before stays the last good one if it is refused.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn read(&mut self, accept: impl FnMut(&Site, &Path) -> Result<()>) -> Result<Site> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        match attempt(&self.path, SetFiles::Beside(folder), accept) {
            Ok(reading) => {
                self.refused = None;
                self.fallen_back = false;
                self.taken_s = weir_api::time::now_s();
                if let Err(error) = self.state.keep(&reading) {
                    tracing::warn!("the last good configuration is not kept: {error:#}");
                }
                Ok(reading.site)
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.refused = Some(Refused { time_s: weir_api::time::now_s(), why });
                Err(error)
            }
        }
    }

    /// Where it is kept since when overrides are in force.
    pub fn overrides(&self) -> PathBuf {
        self.state.overrides()
    }

    /// Where it is kept which prefixes LANs were told of.
    pub fn advertised(&self) -> PathBuf {
        self.state.advertised()
    }

    /// Where it is kept which prefixes providers delegate.
    pub fn delegated(&self) -> PathBuf {
        self.state.delegated()
    }

    /// Where it is kept which ports hosts have asked for.
    pub fn mapped(&self) -> PathBuf {
        self.state.mapped()
    }

    /// Where the changes of the history are kept.
    pub fn history(&self) -> PathBuf {
        self.state.history()
    }

    /// Where it is kept for how much of the time paths were usable.
    pub fn availability(&self) -> PathBuf {
        self.state.availability()
    }

    /// When what is in force was taken over, seconds since the Unix epoch.
    pub fn taken_s(&self) -> u64 {
        self.taken_s
    }

    /// Was the file refused when it was last read?
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// What is in force.
    pub fn view(&self) -> Configuration {
        let file = self.path.display().to_string();
        let in_force = match self.fallen_back {
            true => self.state.last_good().display().to_string(),
            false => file.clone(),
        };
        Configuration { file, in_force, refused: self.refused.clone() }
    }
}

fn attempt(
    path: &Path,
    sets: SetFiles<'_>,
    mut accept: impl FnMut(&Site, &Path) -> Result<()>,
) -> Result<Reading> {
    let wrong = |problems: Vec<weir_site::Problem>| {
        let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
        WrongConfiguration(text.join("\n"))
    };
    let reading = weir_site::read(path, sets).map_err(wrong)?;
    accept(&reading.site, path)?;
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n";

    fn all(_: &Site, _: &Path) -> Result<()> {
        Ok(())
    }

    #[test]
    fn until_a_file_is_taken_what_both_ask_for_holds() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let file = directory.join("weir.toml");
        let mut source = Source::new(&file, State::open(&directory.join("state")).unwrap());
        let either = |source: &Source| {
            let site = source.either().unwrap();
            (site.interfaces().map(ToOwned::to_owned).collect::<Vec<_>>(), site.has_ipv6())
        };
        let four = ["lan0", "wan0"].map(ToOwned::to_owned).to_vec();
        std::fs::write(&file, GOOD).unwrap();
        source.either().unwrap();
        source.start(all).unwrap();
        assert_eq!(either(&source), (four.clone(), false));
        let six = format!("{GOOD}ipv6 = {{ translate = \"none\" }}\n");
        std::fs::write(&file, &six).unwrap();
        assert_eq!(either(&source), (four.clone(), true));
        source.read(all).unwrap();
        let other = GOOD.replace("lan0", "lan1").replace("wan0", "wan1");
        std::fs::write(&file, other).unwrap();
        let both = ["lan0", "lan1", "wan0", "wan1"].map(ToOwned::to_owned).to_vec();
        assert_eq!(either(&source), (both, true));
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(either(&source), (four, true));
    }

    #[test]
    fn the_last_good_file_has_its_sets_as_they_were_whatever_became_of_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let (file, prefixes) = (directory.join("weir.toml"), directory.join("some.txt"));
        let state = directory.join("state");
        let source = || Source::new(&file, State::open(&state).unwrap());
        let set = "[[set]]\nname = \"some\"\nfile = \"some.txt\"\n";
        std::fs::write(&file, format!("{GOOD}{set}")).unwrap();
        std::fs::write(&prefixes, "10.0.0.0/8\n").unwrap();
        let good = source().start(all).unwrap().sets.checksum();
        std::fs::write(&prefixes, "nonsense\n").unwrap();
        let mut again = source();
        assert_eq!(again.start(all).unwrap().sets.checksum(), good);
        assert!(again.view().refused.unwrap().why.contains("some.txt:1:"));
        std::fs::write(&prefixes, "10.0.0.0/9\n").unwrap();
        assert_ne!(again.read(all).unwrap().sets.checksum(), good);
        assert_eq!(std::fs::read(state.join("last-good-sets/some")).unwrap(), b"10.0.0.0/9\n");
        // A configuration without it leaves none behind.
        std::fs::write(&file, GOOD).unwrap();
        again.read(all).unwrap();
        assert_eq!(std::fs::read_dir(state.join("last-good-sets")).unwrap().count(), 0);
    }

    #[test]
    fn a_start_falls_back_to_the_last_good_file_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let file = directory.join("weir.toml");
        let source = || Source::new(&file, State::open(&directory.join("state")).unwrap());
        std::fs::write(&file, "nonsense").unwrap();
        let first = source().start(all).unwrap_err();
        std::fs::write(&file, GOOD).unwrap();
        source().start(all).unwrap();
        std::fs::write(&file, "nonsense").unwrap();
        let mut again = source();
        let site = again.start(all).unwrap();
        let view = again.view();
        std::fs::write(&file, GOOD.replace("fiber", "cable")).unwrap();
        let mended = again.read(all).unwrap();
        let after = again.view();
        assert!(first.is::<WrongConfiguration>(), "{first:?}");
        assert_eq!(
            (site.uplinks[0].name.as_str(), mended.uplinks[0].name.as_str()),
            ("fiber", "cable")
        );
        assert!(view.in_force.ends_with("last-good.toml"), "{view:?}");
        assert!(view.refused.unwrap().why.contains("weir.toml:1:"));
        assert_eq!((after.in_force, after.refused), (after.file, None));
    }
}
