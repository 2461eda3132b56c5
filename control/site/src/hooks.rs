//! Programs of the operator's that are run when a state changes: which ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::trust;

/// What a directory has to run, by name, and what is there that cannot be run, with the reason.
///
/// # Errors
/// That it cannot be read.
pub fn programs(directory: &Path) -> Result<(Vec<PathBuf>, Vec<String>), String> {
    let failed = |error| format!("hooks directory {} cannot be read: {error}", directory.display());
    let open = fs::read_dir(directory).map_err(failed)?;
    if let Some(why) = trust::weakness(directory) {
        return Err(format!("hooks directory {} is not used: {why}", directory.display()));
    }
    let (mut programs, mut refused) = (Vec::new(), Vec::new());
    for entry in open {
        let path = entry.map_err(failed)?.path();
        match hindrance(&path) {
            None => programs.push(path),
            Some(why) => refused.push(format!("hook {} is not run: {why}", path.display())),
        }
    }
    programs.sort();
    refused.sort();
    Ok((programs, refused))
}

fn hindrance(path: &Path) -> Option<String> {
    unusable(path).map(str::to_owned).or_else(|| trust::weakness(path))
}

fn unusable(path: &Path) -> Option<&'static str> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.starts_with(b".") || !name.iter().all(good) {
        return Some("rename it to letters, digits, _, - and ., not beginning with .");
    }
    match fs::metadata(path) {
        Err(_) => Some("it leads nowhere"),
        Ok(data) if !data.is_file() => Some("it is no file"),
        Ok(data) if data.permissions().mode() & 0o111 == 0 => Some("chmod +x it first"),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(directory: &Path, name: &str, mode: u32) {
        let path = directory.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_change_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        add(directory, "good", 0o755);
        add(directory, "loose", 0o775);
        let (found, refused) = programs(directory).unwrap();
        assert_eq!(found, [directory.join("good")]);
        assert!(
            refused.len() == 1 && refused[0].contains("loose is writable by others"),
            "{refused:?}"
        );
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(programs(directory).unwrap_err().contains("is not used"));
    }

    #[test]
    fn what_cannot_be_run_is_named_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        add(directory, "good", 0o755);
        add(directory, "mute", 0o644);
        add(directory, "old~", 0o755);
        fs::create_dir(directory.join("directory")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", directory.join("link")).unwrap();
        let (programs, refused) = programs(directory).unwrap();
        assert_eq!(programs, [directory.join("good")]);
        let reasons = ["it is no file", "it leads nowhere", "chmod +x", "rename it"];
        assert_eq!(refused.len(), reasons.len());
        for (refused, reason) in refused.iter().zip(reasons) {
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(super::programs(&directory.join("none")).unwrap_err().contains("cannot be read"));
    }
}
