//! Quoting on Unix.

use std::path::Path;

use super::is_plain;

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if is_plain(&text) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;
    use std::path::Path;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/tmp/a-b_1.gguf")), "/tmp/a-b_1.gguf");
        assert_eq!(quoted(Path::new("my model.gguf")), "'my model.gguf'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }
}
