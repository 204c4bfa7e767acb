//! `cargo xtask bench --drafts [--peers]`: what drafting saves in a budget, and what minis are worth; the results, the
//! order of measuring and docs/memory.md's tables.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::choice::{Auto, Tried};
use super::measure::{Programs, Subject};
use super::minis::{Compared, First, SIZES, TIMED};
use super::models::MODELS;
use super::results::{Measured, median};
use super::run::Run;
use super::speculate::{self, AUTO_PERCENT, CASES, Case, Files, Row, SAMPLINGS};
use super::tables::{self, percent, show, table};
use crate::shell::Outcome;

/// Models whose mini's first token is timed: their names here, and that of the .gguf for those of [`MODELS`].
pub const FIRSTS: [&str; 2] = ["f16", "1b-q8_0"];

/// What drafts cost, by one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Drafts {
    pub run: Run,
    pub rows: Vec<Row>,
    /// With a slow disk.
    pub slow: Vec<Row>,
    pub tried: Vec<Tried>,
    /// Cases whose budget has room for no mini.
    pub without: Vec<String>,
    pub auto: Option<Auto>,
}

/// Minis beside llama.cpp, by one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Minis {
    pub run: Run,
    pub compared: Compared,
    pub firsts: Vec<First>,
}

/// Both, kept between runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DraftResults {
    pub drafts: Option<Drafts>,
    pub minis: Option<Minis>,
}

impl DraftResults {
    /// Those of an earlier run, or none.
    pub fn load(path: &Path) -> Self {
        fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    pub fn save(&self, path: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        fs::write(path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// A case's row of this temperature; with a slow disk where `slow`.
    pub fn row(&self, case: &Case, temperature: f64, slow: bool) -> Option<&Row> {
        let drafts = self.drafts.as_ref()?;
        let rows = if slow { &drafts.slow } else { &drafts.rows };
        rows.iter().find(|row| row.case == case.name && row.temperature == temperature)
    }

    /// Differing positions of a mini of [`SIZES`] over those of the mixes' line.
    pub fn mini_ratio(&self, percent: u64) -> Option<f64> {
        let compared = &self.minis.as_ref()?.compared;
        let at = SIZES.iter().position(|size| *size == percent)?;
        compared.ratio(compared.minis.get(at)?)
    }

    /// A mini's first token over llama.cpp's.
    pub fn first_ratio(&self, name: &str) -> Option<f64> {
        self.minis.as_ref()?.firsts.iter().find(|first| first.name == name)?.ratio()
    }

    /// The tables of docs/memory.md under the names of their markers, those of parts that were measured.
    pub fn tables(&self) -> Vec<(&'static str, String)> {
        let drafts = self.drafts.as_ref().map(|drafts| ("drafts", drafts.table()));
        drafts.into_iter().chain(self.minis.as_ref().map(|minis| ("minis", minis.table()))).collect()
    }
}

impl Programs {
    /// Bytes and speeds of mode speculative against mode exact; what is there is kept by `keep` after every model.
    pub fn drafts(&self, run: Run, say: &dyn Fn(&str), keep: &mut dyn FnMut(&Drafts) -> Outcome) -> Outcome {
        let prompts = speculate::prompts()?;
        let mut drafts = Drafts { run, ..Drafts::default() };
        for case in &CASES {
            let files = Files::make(&self.cgraph, &self.folder, case)?;
            say(&format!("{} at {}%: minis", case.title, case.percent));
            if files.choose(&prompts, &mut drafts.tried)? {
                for temperature in SAMPLINGS {
                    say(&format!("{} at {}%: {}", case.title, case.percent, sampling(temperature)));
                    drafts.rows.push(files.row(&prompts, temperature)?);
                }
                if case.speed.is_some() {
                    say(&format!("{} at {}%: slow disk", case.title, case.percent));
                    drafts.slow.push(files.slow(&prompts)?);
                }
            } else {
                drafts.without.push(case.name.to_owned());
            }
            if case.name == CASES[CASES.len() - 1].name {
                drafts.auto = Some(files.auto(AUTO_PERCENT)?);
            }
            keep(&drafts)?;
        }
        Ok(())
    }

    /// Minis against mixes, and first tokens.
    pub fn minis(&self, python: &Path, run: Run, say: &dyn Fn(&str)) -> Outcome<Minis> {
        let f16 = Files::make(&self.cgraph, &self.folder, &CASES[0])?;
        let compared = self.compare(python, &f16, say)?;
        let mut firsts = Vec::new();
        for name in FIRSTS {
            say(&format!("first tokens of {name}"));
            firsts.push(match MODELS.iter().find(|model| model.name == name) {
                None => {
                    let size = TIMED * compared.source_bytes / 100;
                    self.first(python, name, [&f16.source, &f16.full], Some(size))?
                }
                Some(model) => {
                    let converted = self.folder.join(format!("{name}.cgraph"));
                    let subject = Subject { model, source: model.source()?, converted };
                    self.convert(&subject, false, &mut Measured::default())?;
                    self.first(python, name, [&subject.source, &subject.converted], None)?
                }
            });
        }
        Ok(Minis { run, compared, firsts })
    }
}

fn sampling(temperature: f64) -> String {
    if temperature > 0.0 { format!("temperature {temperature}") } else { "greedy".to_owned() }
}

/// Megabytes, with a digit behind the point below a hundred.
fn mega(bytes: f64) -> String {
    show(Some(bytes / 1e6))
}

fn header(run: &Run) -> String {
    let Run { commit, date, machine, .. } = run;
    format!("Commit {commit}, {date} UTC; {machine}")
}

impl Drafts {
    fn table(&self) -> String {
        let rows =
            self.rows.iter().map(|row| (row, "")).chain(self.slow.iter().map(|row| (row, ", slow disk")));
        let rows = rows.map(|(row, disk)| {
            let (exact, speculative) = (&row.exact, &row.speculative);
            vec![
                title(row),
                mega(row.mini_bytes as f64),
                sampling(row.temperature) + disk,
                mega(exact.token_bytes()),
                mega(speculative.token_bytes()),
                show(Some(row.bytes_ratio())),
                show(Some(speculative.tokens as f64 / speculative.passes.max(1) as f64)),
                percent(Some(speculative.accepted as f64 / speculative.drafted.max(1) as f64)),
                show(Some(exact.speed())),
                show(Some(speculative.speed())),
                show(Some(row.speed_ratio())),
                exact.tokens.to_string(),
            ]
        });
        let titles = [
            "model and budget",
            "mini, MB",
            "sampling",
            "exact reads a token, MB",
            "speculative",
            "ratio",
            "tokens a pass",
            "guesses accepted",
            "exact, tokens/s",
            "speculative",
            "ratio",
            "tokens, all identical",
        ];
        let tried = table(&["model", "mini tried, MB", "read a token, MB"], self.tried.iter().map(tried));
        format!("{}.\n\n{}\n{tried}{}", header(&self.run), table(&titles, rows), self.remarks())
    }

    /// Models that no mini fits, and what mode auto did.
    fn remarks(&self) -> String {
        let missing = CASES.iter().filter(|case| self.without.iter().any(|name| name == case.name));
        let mut text: String = missing
            .map(|case| format!("\n{} at {}%: the budget has room for no mini.\n", case.title, case.percent))
            .collect();
        if let Some(auto) = &self.auto {
            let (budget, mini) = (mega(auto.budget_bytes as f64), mega(auto.mini_bytes as f64));
            text += &format!(
                "\n{} at {AUTO_PERCENT}% ({budget} MB) with its default mini ({mini} MB): mode auto took `{}`, as \"{}\".\n",
                CASES[CASES.len() - 1].title,
                auto.mode,
                auto.reason
            );
        }
        text
    }
}

fn title(row: &Row) -> String {
    let case = CASES.iter().find(|case| case.name == row.case);
    let (name, share) = case.map_or((row.case.as_str(), 0), |case| (case.title, case.percent));
    format!("{name} in {} MB ({share}%)", mega(row.budget_bytes as f64))
}

fn tried(tried: &Tried) -> Vec<String> {
    let title = CASES.iter().find(|case| case.name == tried.case).map_or("", |case| case.title);
    vec![title.to_owned(), mega(tried.mini_bytes as f64), mega(tried.token_bytes)]
}

impl Minis {
    fn table(&self) -> String {
        let compared = &self.compared;
        let forms =
            compared.mixes.iter().map(|mix| (mix, false)).chain(compared.minis.iter().map(|m| (m, true)));
        let rows = forms.map(|(form, own)| {
            let (share, error) = compared.share(form);
            let points = |share: f64| format!("{:.2}%", 100.0 * share);
            let own = |text: Option<String>| if own { text.unwrap_or_default() } else { String::new() };
            vec![
                form.name.clone(),
                mega(form.bytes as f64),
                percent(Some(form.bytes as f64 / compared.source_bytes.max(1) as f64)),
                format!("{} ± {:.2}", points(share), 100.0 * error),
                own(compared.line(form).map(points)),
                own(compared.ratio(form).map(|ratio| show(Some(ratio)))),
            ]
        });
        let titles = ["form", "MB", "of the .gguf", "positions that differ", "the mixes' line", "ratio"];
        let firsts = self.firsts.iter().map(|first| {
            let ms = [&first.ours, &first.mapped, &first.repacked].map(|samples| show(median(samples)));
            let sizes = [first.mini_bytes, first.source_bytes].map(|bytes| mega(bytes as f64));
            [vec![first.name.to_uppercase()], sizes.to_vec(), ms.to_vec(), vec![show(first.ratio())]].concat()
        });
        let first_titles =
            ["model", "mini, MB", ".gguf, MB", "mini, ms", "llama.cpp, ms", "repacked, ms", "time ratio"];
        format!(
            "{}; peer: {}. {} positions; ± is the standard error.\n\n{}\nThe first token, cold:\n\n{}",
            header(&self.run),
            self.run.peer,
            compared.positions,
            tables::table(&titles, rows),
            tables::table(&first_titles, firsts)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::minis::Form;
    use crate::bench::speculate::Sums;

    fn sums(read_bytes: f64, seconds: f64) -> Sums {
        Sums { tokens: 10, seconds, read_bytes, passes: 5, drafted: 8, accepted: 4, ..Sums::default() }
    }

    #[test]
    fn tables_say_what_was_measured() {
        assert!(DraftResults::default().tables().is_empty());
        let (exact, speculative) = (sums(5e9, 10.0), sums(1e9, 4.0));
        let row = Row { case: "f16".into(), budget_bytes: 160_000_000, exact, speculative, ..Row::default() };
        let mini = Form { name: "mini of 33%".into(), bytes: 150, differing: 270 };
        let mixes = vec![Form { bytes: 100, differing: 300, ..Form::default() }];
        let compared = Compared { positions: 1000, source_bytes: 300, mixes, minis: vec![mini] };
        let results = DraftResults {
            drafts: Some(Drafts { rows: vec![row], without: vec!["q8_0".into()], ..Drafts::default() }),
            minis: Some(Minis { compared, ..Minis::default() }),
        };
        assert_eq!(results.row(&CASES[0], 0.0, false).map(Row::bytes_ratio), Some(0.2));
        assert!(results.row(&CASES[0], 0.0, true).is_none() && results.mini_ratio(37).is_none());
        let ratio = results.mini_ratio(33).unwrap();
        assert!((ratio - 0.9).abs() < 1e-12, "{ratio}");
        let [(_, drafts), (_, minis)] = &results.tables()[..] else { panic!("two tables") };
        let line = "| F16 in 160 MB (60%) | 0.00 | greedy | 500 | 100 | 0.20 | 2.00 | 50% | 1.00 | 2.50 | 2.50 | 10 |";
        assert!(
            drafts.contains(line) && drafts.contains("Q8_0 at 75%: the budget has room for no mini."),
            "{drafts}"
        );
        assert!(minis.contains("| mini of 33% | 0.00 | 50% | 27.00% ± 1.40 | 30.00% | 0.90 |"), "{minis}");
    }
}
