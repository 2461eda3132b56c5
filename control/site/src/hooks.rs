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

    /// A directory of scripts that is gone with the test.
    struct Scripts(PathBuf);

    impl Scripts {
        fn new(test: &str) -> Self {
            let directory = format!("weir-hooks-{test}-{}", std::process::id());
            let directory = std::env::temp_dir().join(directory);
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn add(&self, name: &str, mode: u32, script: &str) {
            let path = self.0.join(name);
            fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", self.0.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Scripts {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_others_can_change_is_not_run() {
        let scripts = Scripts::new("loose");
        scripts.add("good", 0o755, "");
        scripts.add("loose", 0o775, "");
        let (found, refused) = programs(&scripts.0).unwrap();
        assert_eq!(found, [scripts.0.join("good")]);
        assert!(
            refused.len() == 1 && refused[0].contains("loose is writable by others"),
            "{refused:?}"
        );
        fs::set_permissions(&scripts.0, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(programs(&scripts.0).unwrap_err().contains("is not used"));
    }

    #[test]
    fn what_cannot_be_run_is_named_with_the_reason() {
        let scripts = Scripts::new("refused");
        scripts.add("good", 0o755, "");
        scripts.add("mute", 0o644, "");
        scripts.add("old~", 0o755, "");
        fs::create_dir(scripts.0.join("directory")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", scripts.0.join("link")).unwrap();
        let (programs, refused) = programs(&scripts.0).unwrap();
        assert_eq!(programs, [scripts.0.join("good")]);
        let reasons = ["it is no file", "it leads nowhere", "chmod +x", "rename it"];
        assert_eq!(refused.len(), reasons.len());
        for (refused, reason) in refused.iter().zip(reasons) {
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(super::programs(&scripts.0.join("none")).unwrap_err().contains("cannot be read"));
    }
}
