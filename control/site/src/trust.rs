//! Files that this process runs as itself: may anybody else change what they are?

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// `S_ISVTX`: in such a directory nobody renames or removes what is another's.
const STICKY: u32 = 0o1000;
/// Writable by the group or by others.
const OPEN: u32 = 0o022;
/// More symbolic links than the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// Why somebody other than root and this process's user could change what an absolute path leads
/// to: the file, a directory on the way, or a symbolic link. `None`: nobody can.
pub fn weakness(path: &Path) -> Option<String> {
    let ours = rustix::process::geteuid().as_raw();
    let mut ahead: VecDeque<PathBuf> = parts(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    loop {
        let found = match fs::symlink_metadata(&at) {
            Ok(found) => found,
            Err(error) => return Some(format!("{} cannot be looked at: {error}", at.display())),
        };
        let (uid, mode) = (found.uid(), found.mode());
        if uid != 0 && uid != ours {
            return Some(format!("{} belongs to user {uid}: chown root it first", at.display()));
        }
        if found.is_symlink() {
            links += 1;
            let target = fs::read_link(&at).ok().filter(|_| links < MOST_LINKS);
            let Some(target) = target else {
                return Some(format!("{} leads nowhere", at.display()));
            };
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            parts(&target).into_iter().rev().for_each(|part| ahead.push_front(part));
        } else if mode & OPEN != 0 && !(found.is_dir() && mode & STICKY != 0 && !ahead.is_empty()) {
            return Some(format!("{} is writable by others: chmod go-w it first", at.display()));
        }
        at.push(ahead.pop_front()?);
        if at.ends_with("..") {
            at.pop();
            at.pop();
        }
    }
}

fn parts(path: &Path) -> VecDeque<PathBuf> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(named).map(|part| PathBuf::from(part.as_os_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// Needs root, to have another user's files.
    #[test]
    fn what_another_user_could_change_is_not_trusted() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path();
        let open = top.join("open");
        fs::create_dir_all(&open).unwrap();
        let file = |path: &Path, mode| {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        file(&top.join("good"), 0o755);
        file(&top.join("loose"), 0o775);
        file(&top.join("theirs"), 0o755);
        chown(top.join("theirs"), Some(65_534), None).unwrap();
        file(&open.join("good"), 0o755);
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        symlink("open/good", top.join("link")).unwrap();
        symlink("good", top.join("fine")).unwrap();
        symlink("/", open.join("way")).unwrap();
        symlink(open.join("way").join(top.strip_prefix("/").unwrap()), top.join("round")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        let weak = |name: &str| weakness(&top.join(name));
        let found = ["good", "fine", "open/../good"].map(weak);
        let refused = ["loose", "theirs", "open/good", "link", "round/good", "loop", "none"]
            .map(|name| weak(name).unwrap_or_default());
        assert_eq!(
            found,
            [
                None,
                None,
                Some(format!("{} is writable by others: chmod go-w it first", open.display()))
            ]
        );
        let why = [
            "loose is writable",
            "belongs to user 65534",
            "open is writable",
            "open is writable",
            "open is writable",
            "leads nowhere",
            "cannot be looked at",
        ];
        for (refused, why) in refused.iter().zip(why) {
            assert!(refused.contains(why), "{refused} for {why}");
        }
    }
}
