//! `[[set]]`: named sets of prefixes, from the file and from others.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;
use weir_layout::Family;
use weir_layout::control::SetTest;
use weir_layout::prefix_sets::{self, MAX_PREFIXES, MAX_SETS};

use super::checker::Checker;
use super::schema::{self, File};
use super::set_files::{self, Files, SetFile, SetFiles};
use super::set_ranges::{Interval, Ranges};
use super::{PublishConfig, RuleConfig};

/// The sets of a site, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    named: Vec<SetConfig>,
    ranges: Arc<Ranges>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    /// Name.
    pub name: String,
    /// By [`Family`], its prefixes.
    pub prefixes: [u32; Family::COUNT],
}

impl Sets {
    /// In the order of their numbers.
    pub fn named(&self) -> &[SetConfig] {
        &self.named
    }

    /// What all of them hold.
    pub fn ranges(&self) -> prefix_sets::Ranges<'_> {
        self.ranges.borrow()
    }

    /// Of [`ranges`](Self::ranges).
    pub fn checksum(&self) -> u64 {
        self.ranges.checksum()
    }
}

/// Which addresses a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Those of a prefix.
    Prefix(IpNet),
    /// Those that a set holds, or does not.
    Set {
        /// What is asked of them.
        test: SetTest,
        /// By [`Family`], whether it is about addresses of it: a set of one family alone is about
        /// no other, and what it does not hold is of both.
        families: [bool; Family::COUNT],
    },
}

impl Among {
    /// Is it about addresses of a family?
    pub fn concerns(&self, family: Family) -> bool {
        match self {
            Self::Prefix(net) => Family::of(net.addr()) == family,
            Self::Set { families, .. } => families[family.index()],
        }
    }

    /// Does a prefix leave out no address of a family?
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Prefix(net) if net.prefix_len() == 0)
    }

    /// The prefix of all that it may be about; none: it may be about either family.
    pub fn prefix(&self) -> Option<IpNet> {
        match self {
            Self::Prefix(net) => Some(*net),
            Self::Set { families: [true, false], .. } => Some(IpNet::V4(ipnet::Ipv4Net::default())),
            Self::Set { families: [false, true], .. } => Some(IpNet::V6(ipnet::Ipv6Net::default())),
            Self::Set { .. } => None,
        }
    }

    /// What it asks of sets.
    pub fn test(&self) -> SetTest {
        match self {
            Self::Prefix(_) => SetTest::ANY,
            Self::Set { test, .. } => *test,
        }
    }
}

/// The sets while the file is checked: by name too.
pub struct Known {
    sets: Sets,
    numbers: HashMap<String, usize>,
}

impl Known {
    /// What a rule says of its packets' source, or destination.
    pub fn among(&self, c: &mut Checker<'_>, given: &Spanned<schema::Among>) -> Among {
        match given.get_ref() {
            schema::Among::Prefix(net) => {
                Among::Prefix(c.prefix(&Spanned::new(given.span(), *net)))
            }
            schema::Among::Set { name, negated } => {
                let number = self.number(c, name, given);
                let has = self.sets.named.get(number).map_or([0; 2], |set| set.prefixes);
                let families = has.map(|count| count > 0 || *negated);
                Among::Set { test: SetTest::new(number as u8, *negated), families }
            }
        }
    }

    /// The number of a set that must be known, else 0 after an error.
    pub fn number(&self, c: &mut Checker<'_>, name: &str, given: &Spanned<schema::Among>) -> usize {
        if self.numbers.is_empty() {
            c.refuse(
                given.span(),
                format!("there is no set \"{name}\""),
                format!("add [[set]] with name = \"{name}\" and a file, or prefixes"),
            );
            return 0;
        }
        c.find("set", &Spanned::new(given.span(), name.to_owned()), &self.numbers)
    }

    /// Has a set prefixes of a family?
    pub fn has(&self, number: usize, family: Family) -> bool {
        self.sets.named.get(number).is_some_and(|set| set.prefixes[family.index()] > 0)
    }

    /// Done: says which nobody asks for.
    pub fn finish(
        self,
        c: &mut Checker<'_>,
        rules: &[RuleConfig],
        services: &[PublishConfig],
    ) -> Sets {
        let of_rules = rules.iter().flat_map(|rule| [rule.source, rule.destination]).flatten();
        let of_rules = of_rules.filter_map(|among| among.test().number());
        let by_rules = of_rules.fold(0u64, |used, number| used | 1 << number);
        let of_services = services.iter().map(|it| it.allowed_sets | it.barred_sets);
        let used = of_services.fold(by_rules, |used, more| used | more);
        let unused =
            self.sets.named.iter().enumerate().filter(|(at, _)| used >> (at % 64) & 1 == 0);
        c.warnings.extend(unused.map(|(_, set)| {
            format!("set {} is in no rule and no `from`: name it there, or remove it", set.name)
        }));
        self.sets
    }
}

/// The sets of the file, whose own files are read as `from` says; and the files that were read.
pub fn sets(c: &mut Checker<'_>, file: &File, from: SetFiles<'_>) -> (Known, Vec<SetFile>) {
    let numbers = c.unique("set", file.set.iter().map(|set| &set.get_ref().name));
    c.too_many("sets", file.set.len(), MAX_SETS);
    let mut files = Files::new(from);
    let mut named = Vec::new();
    let mut held: [Vec<Interval>; Family::COUNT] = Default::default();
    for (number, given) in file.set.iter().take(MAX_SETS).enumerate() {
        let nets = prefixes(c, given, &mut files);
        let mut counts = [0; Family::COUNT];
        for net in &nets {
            let at = Family::of(net.addr()).index();
            counts[at] += 1;
            held[at].push(Interval::of(net, number as u8));
        }
        let name = given.get_ref().name.get_ref().clone();
        // Without its file, what it lacks is said.
        if nets.is_empty() && c.problems.is_empty() && !matches!(from, SetFiles::Unread) {
            c.warnings.push(format!(
                "set {name} has no prefix: \"@{name}\" is nobody, \"!@{name}\" everybody"
            ));
        }
        named.push(SetConfig { name, prefixes: counts });
        let full =
            Family::ALL.into_iter().find(|of| held[of.index()].len() > MAX_PREFIXES[of.index()]);
        if let Some(family) = full {
            let (most, of) = (MAX_PREFIXES[family.index()], family_name(family));
            let message = format!("with this set there are more than {most} prefixes of {of}");
            c.refuse(given.get_ref().name.span(), message, "merge some, or remove some");
            held = Default::default();
            break;
        }
    }
    let ranges = Arc::new(Ranges::of(&held));
    (Known { sets: Sets { named, ranges }, numbers }, files.into_read())
}

/// What a set holds.
fn prefixes(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Set>,
    files: &mut Files<'_>,
) -> Vec<IpNet> {
    let set = given.get_ref();
    c.name("set", &set.name);
    if set.file.is_none() && set.prefixes.is_none() {
        c.refuse(given.span(), "the set has neither a file nor prefixes", "give it one of them");
    }
    let mut nets = Vec::new();
    for text in set.prefixes.iter().flatten() {
        match set_files::parse(text.get_ref()) {
            Ok(net) => nets.push(net),
            Err((message, remedy)) => c.refuse(text.span(), message, remedy),
        }
    }
    if let Some(file) = &set.file {
        files.read(c, set.name.get_ref(), file, &mut nets);
    }
    nets
}

/// As people call it.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The folder of a configuration file.
pub fn folder(file: &str) -> &Path {
    Path::new(file).parent().unwrap_or(Path::new(""))
}
