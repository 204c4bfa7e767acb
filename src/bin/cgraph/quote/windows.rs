//! Quoting on Windows, for its two shells.

use std::path::Path;

use super::is_plain;

/// A path as a shell takes it; none has a double quote in it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if is_plain(&text) { text } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::quoted;
    use std::path::Path;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new(r"C:\a-b_1.gguf")), r"C:\a-b_1.gguf");
        assert_eq!(quoted(Path::new("my model.gguf")), "\"my model.gguf\"");
        assert_eq!(quoted(Path::new("it's")), "\"it's\"");
    }
}
