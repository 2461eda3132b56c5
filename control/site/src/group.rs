//! Users and groups, as the files in /etc have them.

use std::fs;

/// The number of a group of /etc/group.
pub fn group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The name of a user of /etc/passwd.
pub fn user(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let is_it = |line: &&str| line.split(':').nth(2).and_then(|uid| uid.parse().ok()) == Some(uid);
    Some(users.lines().find(is_it)?.split(':').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_and_others_are_not() {
        assert_eq!((user(0).as_deref(), group("root")), (Some("root"), Some(0)));
        assert_eq!((user(u32::MAX - 1), group("no such group")), (None, None));
    }
}
