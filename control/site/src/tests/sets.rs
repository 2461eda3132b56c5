//! `[[set]]`: sets of prefixes, and what rules and services ask of them.

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::control::SetTest;
use weir_layout::prefix_sets::MAX_PREFIXES;

use super::*;
use crate::{Among, SetFiles};

/// A folder with the good file, these lines at its end, and files of prefixes.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn read(&self, more: &str) -> Result<Site, Vec<String>> {
        let file = self.path("weir.toml");
        fs::write(&file, format!("{GOOD}{more}")).unwrap();
        load(&file).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    fn wrong(&self, more: &str) -> String {
        self.read(more).unwrap_err().join("\n")
    }
}

/// A set with this, and a rule that asks for it as its destination.
fn asked(set: &str) -> String {
    format!(
        "\n[[set]]\nname = \"some\"\n{set}\n[[rule]]\nname = \"last\"\ndestination = \"@some\"\n\
         action = \"drop\"\n"
    )
}

const FILE: &str = "file = \"some.txt\"";

#[test]
fn a_file_has_a_prefix_or_an_address_a_line_of_either_family_and_comments() {
    let text = "\u{feff}# Head\r\n10.0.0.0/8\r\n\r\n  192.0.2.7 # one\n2001:db8::/32\n\t\n::1#x\n#";
    let folder = Folder::new().with("some.txt", text);
    for set in [FILE.to_owned(), format!("file = \"{}\"", folder.path("some.txt").display())] {
        let site = folder.read(&asked(&format!("{set}\nprefixes = [\"198.51.100.9\"]"))).unwrap();
        let set = &site.sets.named()[0];
        assert_eq!((set.name.as_str(), set.prefixes), ("some", [3, 2]));
        let ranges = site.sets.ranges();
        let beginning = |first: [u8; 4]| ranges.firsts4.contains(&u32::from_be_bytes(first));
        assert!(
            beginning([10, 0, 0, 0]) && beginning([192, 0, 2, 7]) && beginning([198, 51, 100, 9])
        );
        assert_eq!(ranges.masks6, [1, 0, 1, 0]);
        assert_eq!(site.warnings, [""; 0]);
    }
}

#[test]
fn each_wrong_line_is_told_with_its_place_and_many_are_bounded() {
    let folder = Folder::new().with("some.txt", "10.0.0.0/8\nten\n10.0.0.1/8 # bits\n1.2.3.4/33\n");
    let wrong = folder.wrong(&asked(FILE));
    for part in [
        "some.txt:2:1: \"ten\" is no prefix or address\n    ten\n    help: write one such as",
        "some.txt:3:1: 10.0.0.1/8 has bits set after its length\n    10.0.0.1/8 # bits\n    help: write 10.0.0.0/8",
        "some.txt:4:1: \"1.2.3.4/33\" is no prefix or address",
    ] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    let folder = Folder::new().with("some.txt", "no\n".repeat(5000));
    let wrong = folder.read(&asked(FILE)).unwrap_err();
    assert_eq!(wrong.len(), 11);
    assert!(wrong[10].contains("4990 more lines are no prefix or address"), "{wrong:?}");
    let noise: Vec<u8> = (0..=255).cycle().filter(|byte| *byte != b'#').take(100_000).collect();
    let wrong = Folder::new().with("some.txt", noise).wrong(&asked(FILE));
    let shown = wrong.lines().all(|line| line.chars().all(|c| !c.is_control()) && line.len() < 900);
    assert!(shown && wrong.contains("is no prefix or address"), "{wrong}");
}

#[test]
fn what_is_wrong_with_the_file_of_a_set_hides_nothing_of_the_configuration() {
    let folder = Folder::new().with("some.txt", "x\n".repeat(60));
    let file = format!("{}\n[[uplink]]\nname = \"fiber\"\ninterface = \"wan9\"\n", asked(FILE));
    let wrong = folder.wrong(&file);
    assert!(wrong.contains("is there twice") && wrong.contains("some.txt:1:1:"), "{wrong}");
}

#[test]
fn a_file_that_is_missing_or_none_is_refused_where_the_configuration_names_it() {
    let folder = Folder::new();
    let told = |what: &str| {
        let wrong = folder.wrong(&asked(FILE));
        assert!(wrong.contains(what) && wrong.contains("weir.toml:"), "{what}: {wrong}");
    };
    told("some.txt cannot be read: No such file");
    let path = folder.path("some.txt");
    fs::create_dir(&path).unwrap();
    told("some.txt is no regular file");
    fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    told("some.txt is no regular file");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    told("some.txt is no regular file");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("some.txt", &path).unwrap();
    told("some.txt cannot be read");
    fs::remove_file(&path).unwrap();
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    told("some.txt is too large: the files of all sets may have 32 MiB");
    fs::remove_file(&path).unwrap();
    fs::write(folder.path("there.txt"), "10.0.0.0/8\n").unwrap();
    std::os::unix::fs::symlink("there.txt", &path).unwrap();
    folder.read(&asked(FILE)).unwrap();
}

#[test]
fn files_have_room_together_and_so_have_prefixes() {
    let folder = Folder::new().with("a", "# \n".repeat(7 << 20)).with("b", "# \n".repeat(7 << 20));
    let set = |name: &str, file: &str| format!("[[set]]\nname = \"{name}\"\nfile = \"{file}\"\n");
    let wrong = folder.wrong(&format!("{}{}", set("one", "a"), set("two", "b")));
    assert!(wrong.contains("/b is too large"), "{wrong}");
    let lines = |count: usize| {
        (0..count as u32)
            .map(|n| format!("{}\n", std::net::Ipv4Addr::from(n << 12)))
            .collect::<String>()
    };
    let folder = Folder::new().with("a", lines(MAX_PREFIXES[0])).with("b", "9.9.9.9\n");
    assert!(folder.read(&set("one", "a")).is_ok());
    let wrong = folder.wrong(&format!("{}{}", set("one", "a"), set("two", "b")));
    assert!(wrong.contains("with this set there are more than 262144 prefixes of IPv4"), "{wrong}");
    let many: String =
        (0..65).map(|n| format!("[[set]]\nname = \"s{n}\"\nprefixes = [\"::1\"]\n")).collect();
    assert!(folder.wrong(&many).contains("65 sets, at most 64 are possible"));
}

/// What a rule of the text asks of its destination, and the warnings.
fn destination(text: &str) -> (Among, Vec<String>) {
    let site = Folder::new().read(text).unwrap();
    (site.rules.last().unwrap().destination.unwrap(), site.warnings)
}

#[test]
fn a_rule_is_about_the_families_of_its_set() {
    for (prefixes, negated, families) in [
        ("\"10.0.0.0/8\"", "", [true, false]),
        ("\"10.0.0.0/8\"", "!", [true, true]),
        ("\"::/1\"", "!", [true, true]),
        ("\"::/1\", \"10.1.1.1\"", "", [true, true]),
        ("\"::/1\", \"10.1.1.1\"", "!", [true, true]),
        ("", "", [false, false]),
        ("", "!", [true, true]),
    ] {
        let text = asked(&format!("prefixes = [{prefixes}]"))
            .replace("\"@some", &format!("\"{negated}@some"));
        let (among, warnings) = destination(&text);
        assert_eq!(among, Among::Set { test: SetTest::new(0, !negated.is_empty()), families });
        let any: Option<IpNet> = match families {
            [true, false] => Some("0.0.0.0/0".parse().unwrap()),
            [false, true] => Some("::/0".parse().unwrap()),
            _ => None,
        };
        assert_eq!(among.prefix(), any);
        assert_eq!(Family::ALL.map(|family| among.concerns(family)), families);
        let is_empty = warnings.iter().any(|it| it.contains("set some has no prefix"));
        assert_eq!(is_empty, prefixes.is_empty(), "{warnings:?}");
    }
}

#[test]
fn a_rule_whose_sets_leave_it_nobody_is_warned_of() {
    let (_, warnings) = destination(&asked("prefixes = [\"2001:db8::/32\"]"));
    assert!(
        warnings.iter().any(|it| it.contains("rule last matches nothing")),
        "no uplink has IPv6"
    );
    let text = asked("prefixes = [\"10.0.0.0/8\"]");
    assert_eq!(destination(&text).1, [""; 0]);
}

#[test]
fn a_set_that_nobody_names_is_warned_of_and_a_name_without_a_set_refused() {
    let set = "[[set]]\nname = \"spare\"\nprefixes = [\"10.0.0.0/8\"]\n";
    let site = Folder::new().read(set).unwrap();
    assert_eq!(
        site.warnings,
        ["set spare is in no rule and no `from`: name it there, or remove it"]
    );
    let rule = "[[rule]]\nsource = \"@some\"\naction = \"drop\"\n";
    let wrong = Folder::new().wrong(rule);
    assert!(wrong.contains("there is no set \"some\"") && wrong.contains("add [[set]]"), "{wrong}");
    let wrong = Folder::new().wrong(&format!("{set}{rule}"));
    assert!(wrong.contains("known: spare"), "{wrong}");
    let wrong = Folder::new().wrong(&format!("{set}{set}"));
    assert!(wrong.contains("set \"spare\" is there twice"), "{wrong}");
    let wrong = Folder::new().wrong("[[set]]\nname = \"spare\"\n");
    assert!(wrong.contains("neither a file nor prefixes"), "{wrong}");
    let wrong = Folder::new().wrong("[[set]]\nname = \"../x\"\nprefixes = [\"10.0.0.0/33\"]\n");
    assert!(wrong.contains("not usable") && wrong.contains("is no prefix or address"), "{wrong}");
}

#[test]
fn only_a_set_is_negated() {
    let wrong = Folder::new().wrong("[[rule]]\nsource = \"!10.0.0.0/8\"\naction = \"drop\"\n");
    assert!(
        wrong.contains("`!` stands before a set") && wrong.contains("[\"10.0.0.0/8\"]"),
        "{wrong}"
    );
    let wrong = Folder::new().wrong("[[rule]]\nsource = \"ten\"\naction = \"drop\"\n");
    assert!(wrong.contains("Write a prefix, or \"@name\" of a set"), "{wrong}");
}

#[test]
fn a_service_is_open_to_sets_and_closed_to_others() {
    let sets = "[[set]]\nname = \"home\"\nprefixes = [\"192.0.2.0/24\"]\n\
                [[set]]\nname = \"bad\"\nprefixes = [\"192.0.2.7\", \"::7\"]\n";
    let publish = |from: &str| {
        format!(
            "{sets}[[publish]]\nname = \"web\"\nprotocol = \"tcp\"\nports = 443\nto = \"10.77.0.5\"\n\
             from = [{from}]\n"
        )
    };
    let site = Folder::new().read(&publish("\"@home\", \"!@bad\", \"198.51.100.0/24\"")).unwrap();
    let web = &site.publish[0];
    assert_eq!((web.allowed_sets, web.barred_sets, web.from.len()), (0b01, 0b10, 1));
    assert_eq!(site.warnings, [""; 0]);
    let site = Folder::new().read(&publish("\"!@bad\"")).unwrap();
    assert_eq!((site.publish[0].allowed_sets, site.publish[0].barred_sets), (0, 0b10));
    let ipv6 = publish("\"@home\"").replace("\"192.0.2.0/24\"", "\"2001:db8::/32\"");
    let site = Folder::new().read(&ipv6).unwrap();
    assert!(site.warnings.iter().any(|it| it.contains("nobody reaches 10.77.0.5")));
    assert!(Folder::new().wrong(&publish("\"@hom\"")).contains("there is no set \"hom\""));
}

#[test]
fn other_content_of_a_file_is_another_site_with_the_same_text() {
    let folder = Folder::new().with("some.txt", "10.0.0.0/8\n");
    let first = folder.read(&asked(FILE)).unwrap();
    let folder = folder.with("some.txt", "10.0.0.0/9\n");
    let second = folder.read(&asked(FILE)).unwrap();
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.sets.checksum(), second.sets.checksum());
}

#[test]
fn kept_files_of_sets_go_by_their_names_and_unread_ones_are_not_missed() {
    let folder = Folder::new().with("some", "10.0.0.0/8\n");
    let file = folder.path("weir.toml");
    fs::write(&file, format!("{GOOD}{}", asked(FILE))).unwrap();
    let read = |from| read(&file, from).map(|reading| reading.site.sets.named()[0].prefixes);
    assert_eq!(read(SetFiles::Kept(folder.0.path())).unwrap(), [1, 0]);
    assert_eq!(read(SetFiles::Unread).unwrap(), [0, 0]);
    assert!(read(SetFiles::Beside(Path::new("/nowhere"))).is_err());
}
