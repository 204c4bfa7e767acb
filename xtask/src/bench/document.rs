//! docs/performance.md and docs/plots: what lies between its markers, and the pictures.

use std::fs;

use super::marks::{Floors, Mark};
use super::results::Results;
use super::{plot, tables};
use crate::shell::{Outcome, root};

/// Writes every table between its markers, and every plot.
pub fn write(results: &Results, marks: &[Mark], floors: &Floors) -> Outcome {
    let path = root().join("docs/performance.md");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    fs::write(&path, filled(text, results, marks, floors)?)
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    plot::all(results).into_iter().try_for_each(|(name, picture)| self::plot(name, &picture))
}

/// Writes a plot.
pub fn plot(name: &str, picture: &str) -> Outcome {
    let folder = root().join("docs/plots");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let path = folder.join(format!("{name}.svg"));
    fs::write(&path, picture).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Writes tables between their markers on another page of docs.
pub fn fill(page: &str, tables: &[(&str, String)]) -> Outcome {
    let path = root().join("docs").join(page);
    let mut text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    for (name, table) in tables {
        text = replace_between(&text, name, table)?;
    }
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// The page with every table in its place.
fn filled(mut text: String, results: &Results, marks: &[Mark], floors: &Floors) -> Outcome<String> {
    let mut tables = tables::all(results);
    tables.push(("marks", tables::marks(results, marks, floors)));
    for (name, table) in tables {
        text = replace_between(&text, name, &table)?;
    }
    Ok(text)
}

fn replace_between(text: &str, name: &str, content: &str) -> Outcome<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let start = text.find(&begin).ok_or_else(|| format!("the page lacks {begin}"))? + begin.len();
    let stop = text[start..].find(&end).ok_or_else(|| format!("the page lacks {end}"))? + start;
    Ok(format!("{}{content}{}", &text[..start], &text[stop..]))
}

#[cfg(test)]
mod tests {
    use super::{filled, replace_between};
    use crate::bench::marks::Floors;
    use crate::bench::plot;
    use crate::bench::results::Results;
    use crate::shell::root;

    #[test]
    fn the_page_has_a_place_for_every_table_and_shows_every_plot() {
        let page = std::fs::read_to_string(root().join("docs/performance.md")).unwrap();
        assert!(filled(page.clone(), &Results::default(), &[], &Floors::new()).is_ok());
        for (name, _) in plot::all(&Results::default()) {
            assert!(page.contains(&format!("(plots/{name}.svg)")), "{name}");
        }
    }

    #[test]
    fn only_what_lies_between_the_markers_changes() {
        let text = "a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb\n";
        let new = "a\n<!-- t:begin -->\nnew\n<!-- t:end -->\nb\n";
        assert_eq!(replace_between(text, "t", "new\n"), Ok(new.to_owned()));
        assert!(replace_between(text, "u", "new\n").is_err());
    }
}
