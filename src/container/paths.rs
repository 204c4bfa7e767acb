//! Paths that are written to: what they lead to, and whether two of them are one file.

use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use super::os;
use crate::error::{Error, Result};

/// Symbolic links that are followed in a row, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The file that writing to `target` makes or replaces: links are followed, so that they stay links.
///
/// # Errors
/// [`Error::Io`] where something is there that is no file; [`Error::InvalidArgument`] where the path names none.
pub fn file_to_write(target: &Path) -> Result<PathBuf> {
    if let Ok(meta) = fs::metadata(target) {
        refuse_other_than_file(meta.file_type()).map_err(|why| Error::io("write", target, why))?;
    }
    let path = followed(target).map_err(|why| Error::io("write", target, why))?;
    let Some(name) = path.file_name() else {
        return Err(Error::InvalidArgument(format!("{} names no file to write", target.display())));
    };
    if let Some(why) = os::no_file(name) {
        return Err(Error::InvalidArgument(format!(
            "{} names {why}; name a file to write",
            target.display()
        )));
    }
    Ok(path)
}

/// Whether Windows takes a file's name for a device's, whatever follows its first dot.
#[must_use]
pub fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ').to_ascii_lowercase();
    let numbered = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    // Windows takes superscript digits of Latin-1 for digits.
    let is_one = |number: &str| {
        let mut chars = number.chars();
        matches!((chars.next(), chars.next()), (Some('0'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}'), None))
    };
    ["con", "prn", "aux", "nul", "conin$", "conout$"].contains(&stem.as_str()) || numbered.is_some_and(is_one)
}

/// Refuses to write what is read as well, and to write one file twice. A file that does not exist yet is known by
/// its directory and its name.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the output.
pub fn refuse_overwriting(inputs: &[&Path], outputs: &[&Path]) -> Result<()> {
    let inputs: Vec<PathBuf> = inputs.iter().map(|path| identity(path)).collect();
    let mut seen = Vec::with_capacity(outputs.len());
    for output in outputs {
        let own = identity(output);
        let wrong = if inputs.contains(&own) {
            "belongs to what is read and would be overwritten; name another file to write"
        } else if seen.contains(&own) {
            "would be written twice; name two different files"
        } else {
            seen.push(own);
            continue;
        };
        return Err(Error::InvalidArgument(format!("{} {wrong}", output.display())));
    }
    Ok(())
}

/// Whether a path says more to the system than which file in which folder.
#[must_use]
pub fn says_more(path: &str) -> bool {
    path.contains(os::SPECIAL)
}

/// Why something of this type can be neither read nor replaced as a file.
pub(super) fn refuse_other_than_file(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() { "a directory" } else { "a device or a pipe" };
    Err(io::Error::other(format!("it is {what}, not a file")))
}

/// The directory that holds `path`.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where the links at `path` lead; what is there in the end need not exist.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            // An absolute path takes the place of the directory.
            Ok(next) => path = directory_of(&path).join(next),
            // It is no link, or there is nothing.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("its symbolic links lead in a circle"))
}

/// One path of all that lead to the same file.
fn identity(path: &Path) -> PathBuf {
    let path = followed(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    let directory = directory_of(&path).canonicalize().ok();
    let to_be_made =
        directory.zip(path.file_name()).map(|(directory, name)| directory.join(os::compared(name)));
    to_be_made.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(inputs: &[&Path], outputs: &[&Path]) -> bool {
        matches!(refuse_overwriting(inputs, outputs), Err(Error::InvalidArgument(_)))
    }

    #[test]
    fn one_file_is_known_by_all_its_paths() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("m"), "m").unwrap();
        for name in ["m", "new", "nowhere/new"] {
            let (plain, other) = (dir.path().join(name), dir.path().join("sub").join("..").join(name));
            assert!(refused(&[&plain], &[&plain]), "{name}");
            assert!(refused(&[], &[&plain, &plain]), "{name}");
            if !name.contains('/') {
                assert!(refused(&[&plain], &[&other]), "{name}");
                assert!(refused(&[], &[&plain, &other]), "{name}");
            }
            assert!(!refused(&[&dir.path().join("else")], &[&plain]), "{name}");
        }
    }

    #[test]
    fn devices_are_known() {
        for name in ["NUL", "nul.cgraph", "Com1.x.y", "LPT\u{b9}", "CON .txt", "conout$"] {
            assert!(is_device(name), "{name}");
        }
        for name in ["null", "com", "com10", "com01", "com+1", "x.nul", "console.cgraph", ""] {
            assert!(!is_device(name), "{name}");
        }
    }

    #[cfg(windows)]
    #[test]
    fn names_that_windows_holds_for_one_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for other in ["NEW", "new.", "new "] {
            assert!(refused(&[], &[&at("new"), &at(other)]), "{other}");
        }
        assert!(!refused(&[], &[&at("new"), &at("newer")]));
        for name in ["NUL", "com1.cgraph", "m.cgraph:stream"] {
            assert!(matches!(file_to_write(&at(name)), Err(Error::InvalidArgument(_))), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_what_need_not_exist() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("m"), "m").unwrap();
        for (target, link) in [("m", "a"), ("a", "b"), ("new", "c"), ("e", "d"), ("d", "e")] {
            symlink(target, at(link)).unwrap();
        }
        assert_eq!(file_to_write(&at("b")).unwrap(), at("m"));
        assert_eq!(file_to_write(&at("c")).unwrap(), at("new"));
        assert!(refused(&[&at("m")], &[&at("b")]) && refused(&[], &[&at("c"), &at("new")]));
        let circle = file_to_write(&at("d")).unwrap_err().to_string();
        assert!(circle.contains("circle"), "{circle}");
        let device = file_to_write(Path::new("/dev/null")).unwrap_err().to_string();
        assert_eq!(device, "cannot write /dev/null: it is a device or a pipe, not a file");
        assert!(matches!(file_to_write(Path::new("..")), Err(Error::Io { .. })));
    }
}
