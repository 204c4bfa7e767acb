//! Reading the table.

use std::collections::BTreeMap;
use std::path::Path;

/// Keys and values of a case. Whatever was not asked for at the end is a key that this runner does not know.
pub struct Case {
    /// Its name.
    pub name: String,
    lines: BTreeMap<String, Vec<String>>,
}

impl Case {
    /// Every value of a key.
    pub fn all(&mut self, key: &str) -> Vec<String> {
        self.lines.remove(key).unwrap_or_default()
    }

    /// Fails where a key is there twice that says one thing only: which of them would count?
    pub fn refuse_repeated(&self) -> Result<(), String> {
        const MANY: [&str; 3] = ["message", "input", "output"];
        match self.lines.iter().find(|(key, values)| values.len() > 1 && !MANY.contains(&key.as_str())) {
            Some((key, _)) => Err(format!("the key {key} is there more than once")),
            None => Ok(()),
        }
    }

    /// The value of a key that may be missing.
    pub fn optional(&mut self, key: &str) -> Option<String> {
        self.all(key).pop()
    }

    /// The value of a key.
    pub fn take(&mut self, key: &str) -> Result<String, String> {
        self.optional(key).ok_or_else(|| format!("the case has no {key}"))
    }

    /// A number, 0 where it is missing.
    pub fn number(&mut self, key: &str) -> Result<usize, String> {
        let Some(text) = self.optional(key) else { return Ok(0) };
        text.parse().map_err(|_| format!("{key} is {text:?}, which is no number"))
    }

    /// The tokens; none where they are missing.
    pub fn ids(&mut self) -> Result<Vec<u32>, String> {
        let text = self.optional("tokens").unwrap_or_default();
        let ids: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
        ids.map_err(|_| format!("tokens are {text:?}"))
    }

    /// Fails where keys are left.
    pub fn refuse_the_rest(&self) -> Result<(), String> {
        let left: Vec<&str> = self.lines.keys().map(String::as_str).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("this runner does not know {}", left.join(", "))) }
    }
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set; run the tests with: cargo xtask test"))
}

/// `\n` is a line feed, `\\` a backslash.
fn unescaped(value: &str) -> String {
    value.split("\\\\").map(|part| part.replace("\\n", "\n")).collect::<Vec<_>>().join("\\")
}

/// All cases, in order.
pub fn read() -> Result<Vec<Case>, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases.txt");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let model = variable("CAPSULEGRAPH_TEST_MODEL")?;
    let onnx = format!("{}/models", variable("CAPSULEGRAPH_TEST_ONNX")?);
    parse(&text, &model, &onnx)
}

/// Cases that must fail, each for a reason that its name is a word of.
pub fn wrong() -> Result<Vec<Case>, String> {
    parse(include_str!("wrong.txt"), "", "")
}

/// The cases of a table; `model` and `onnx` are what its places stand for.
fn parse(text: &str, model: &str, onnx: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = unescaped(value).replace("{model}", model).replace("{onnx}", onnx);
        if key == "case" {
            cases.push(Case { name: value, lines: BTreeMap::new() });
        } else if let Some(case) = cases.last_mut() {
            case.lines.entry(key.to_owned()).or_default().push(value);
        } else {
            return Err(format!("{line:?} is in no case"));
        }
    }
    Ok(cases)
}
