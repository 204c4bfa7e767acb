//! Minis in mode fast: how often their most likely token differs from the full file's, beside llama.cpp's mixes of the
//! same weights, and how soon the first token comes.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk;
use super::measure::{Programs, length, own_first_token};
use super::results::{Engine, FIRST, median};
use super::speculate::Files;
use crate::setup;
use crate::shell::{Outcome, capture, root};

/// Lengths of the minis in percent of the F16 .gguf.
pub const SIZES: [u64; 3] = [33, 37, 42];
/// The one of them whose first token is timed.
pub const TIMED: u64 = 37;
/// llama-quantize's mixes.
const MIXES: [&str; 7] = ["Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"];
/// Positions of prose, those of one window, and those whose logits one file keeps.
const POSITIONS: usize = 8192;
const WINDOW: usize = 512;
const PART: usize = 2048;
/// Measurements of a first token.
const ROUNDS: usize = 3;

/// Weights in a light form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Form {
    pub name: String,
    /// Length of its file; of a mix that of its .gguf.
    pub bytes: u64,
    /// Positions at which the most likely token is not the full file's.
    pub differing: usize,
}

/// Minis and mixes of one model on the same prose.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Compared {
    pub positions: usize,
    pub source_bytes: u64,
    pub mixes: Vec<Form>,
    /// In the order of [`SIZES`].
    pub minis: Vec<Form>,
}

impl Compared {
    /// A form's share of differing positions, and the standard error of it.
    pub fn share(&self, form: &Form) -> (f64, f64) {
        let (count, positions) = (form.differing as f64, self.positions.max(1) as f64);
        let share = count / positions;
        (share, (share * (1.0 - share) / positions).sqrt())
    }

    /// What the mixes reach at a form's length.
    pub fn line(&self, form: &Form) -> Option<f64> {
        let points: Vec<_> = self.mixes.iter().map(|mix| (mix.bytes as f64, self.share(mix).0)).collect();
        at(&envelope(&points), form.bytes as f64)
    }

    /// A mini's differing positions over the line's.
    pub fn ratio(&self, form: &Form) -> Option<f64> {
        Some(self.share(form).0 / self.line(form)?)
    }
}

/// The corners of the lowest line, bent upwards alone, that has no point below it; from the shortest form to the one
/// that differs least.
fn envelope(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut line: Vec<(f64, f64)> = Vec::new();
    for point in sorted {
        if line.last().is_some_and(|last| point.1 >= last.1) {
            continue;
        }
        while let [.., a, b] = line[..] {
            if (b.0 - a.0) * (point.1 - a.1) - (b.1 - a.1) * (point.0 - a.0) > 0.0 {
                break;
            }
            line.pop();
        }
        line.push(point);
    }
    line
}

/// The line's height; `None` before its begin, as no mix is that short. After its end it stays.
fn at(line: &[(f64, f64)], x: f64) -> Option<f64> {
    if line.first().is_none_or(|first| x < first.0) {
        return None;
    }
    let within = line.windows(2).find(|pair| x <= pair[1].0);
    within.map_or(line.last().map(|last| last.1), |pair| {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    })
}

/// A mini's first token against llama.cpp's on the same model, milliseconds from a cold page cache.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct First {
    pub name: String,
    pub mini_bytes: u64,
    pub source_bytes: u64,
    pub ours: Vec<f64>,
    pub mapped: Vec<f64>,
    pub repacked: Vec<f64>,
}

impl First {
    /// Our median over llama.cpp's shorter one.
    pub fn ratio(&self) -> Option<f64> {
        let peers = [&self.mapped, &self.repacked].into_iter().filter_map(|samples| median(samples));
        Some(median(&self.ours)? / peers.reduce(f64::min)?)
    }
}

/// Prose as one line: what follows the first chapter's title, without further ones.
fn prose(text: &str) -> String {
    let title = |line: &&str| line.starts_with("CHAPTER ");
    let lines = text.lines().map(str::trim).skip_while(|line| !title(line));
    let lines = lines.take_while(|line| !line.starts_with("*** END"));
    lines.filter(|line| !line.is_empty() && !title(line)).collect::<Vec<_>>().join(" ")
}

/// The most likely token of every row of a .npy file of f32, as many rows as it has.
fn most_likely(mut file: impl Read) -> Outcome<Vec<u32>> {
    let failed = |e: std::io::Error| format!("cannot read logits: {e}");
    let mut start = [0; 10];
    file.read_exact(&mut start).map_err(failed)?;
    let mut header = vec![0; usize::from(u16::from_le_bytes([start[8], start[9]]))];
    file.read_exact(&mut header).map_err(failed)?;
    let (rows, columns) = shape(&String::from_utf8_lossy(&header)).ok_or("the logits have no shape")?;
    let mut row = vec![0; 4 * columns];
    let mut likely = Vec::with_capacity(rows);
    for _ in 0..rows {
        file.read_exact(&mut row).map_err(failed)?;
        let values = row.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let best =
            values.enumerate().fold(
                (0, f32::NEG_INFINITY),
                |best, (id, value)| {
                    if value > best.1 { (id, value) } else { best }
                },
            );
        likely.push(best.0 as u32);
    }
    Ok(likely)
}

/// Rows and columns that a .npy file's header names.
fn shape(header: &str) -> Option<(usize, usize)> {
    let (_, rest) = header.split_once("'shape': (")?;
    let (numbers, _) = rest.split_once(')')?;
    let mut numbers = numbers.split(',').map(|number| number.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl Programs {
    /// Minis of F16 and llama.cpp's mixes on prose, judged by the same evaluator.
    pub fn compare(&self, python: &Path, f16: &Files<'_>, say: &dyn Fn(&str)) -> Outcome<Compared> {
        let tokens = self.prose_tokens(&f16.full)?;
        let (positions, source_bytes) = (tokens.len(), length(&f16.source)?);
        let wanted = self.likely(&f16.full, "exact", &tokens)?;
        let form = |name: String, bytes: u64, likely: &[u32]| {
            let differing = likely.iter().zip(&wanted).filter(|(a, b)| a != b).count();
            Form { name, bytes, differing }
        };
        let (mut mixes, mut minis) = (Vec::new(), Vec::new());
        for mix in MIXES {
            say(&format!("the mix {mix}"));
            let source = self.mix(python, &f16.source, mix)?;
            let converted = self.folder.join("mix.cgraph");
            let mut command = Command::new(&self.cgraph);
            command.arg("convert").arg(&source).arg("-o").arg(&converted).args(["--no-mini", "-q"]);
            capture(&mut command)?;
            mixes.push(form(mix.to_owned(), length(&source)?, &self.likely(&converted, "exact", &tokens)?));
            remove(&converted)?;
        }
        for percent in SIZES {
            say(&format!("a mini of {percent}%"));
            let mini = self.mini(&f16.full, Some(percent * source_bytes / 100))?;
            let likely = self.likely(&mini, "fast", &tokens)?;
            minis.push(form(format!("mini of {percent}%"), length(&mini)?, &likely));
        }
        Ok(Compared { positions, source_bytes, mixes, minis })
    }

    /// A mini of a full file, by default of the default length.
    pub fn mini(&self, full: &Path, size: Option<u64>) -> Outcome<PathBuf> {
        let mini = full.with_extension("mini.cgraph");
        let mut command = Command::new(&self.cgraph);
        command.arg("split").arg(full).arg("-o").arg(&mini).arg("-q");
        if let Some(size) = size {
            command.args(["--size", &size.to_string()]);
        }
        capture(&mut command)?;
        Ok(mini)
    }

    /// The F16 model as one of llama-quantize's mixes; made once.
    fn mix(&self, python: &Path, source: &Path, mix: &str) -> Outcome<PathBuf> {
        let path = self.folder.join(format!("smollm2-mix-{mix}.gguf"));
        if !path.is_file() {
            let part = self.folder.join("mix.part");
            let mut peer = Command::new(python);
            peer.arg(root().join("xtask/python/peer.py")).arg("mix").arg(source).arg(&part).arg(mix);
            capture(&mut peer)?;
            fs::rename(&part, &path).map_err(|e| format!("cannot rename {}: {e}", part.display()))?;
        }
        Ok(path)
    }

    /// The first tokens of the prose.
    fn prose_tokens(&self, model: &Path) -> Outcome<Vec<u32>> {
        let source = setup::prose()?;
        let text =
            fs::read_to_string(&source).map_err(|e| format!("cannot read {}: {e}", source.display()))?;
        let path = self.folder.join("prose.txt");
        fs::write(&path, prose(&text)).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        let mut command = Command::new(&self.cgraph);
        let text = capture(command.arg("tokenize").arg(model).arg("--prompt-file").arg(&path))?;
        let mut tokens: Vec<u32> = serde_json::from_str(&text).map_err(|e| format!("no token ids: {e}"))?;
        if tokens.len() < POSITIONS {
            return Err(format!("the prose has {} tokens alone", tokens.len()));
        }
        tokens.truncate(POSITIONS);
        Ok(tokens)
    }

    /// The most likely token after every position, in windows.
    fn likely(&self, file: &Path, mode: &str, tokens: &[u32]) -> Outcome<Vec<u32>> {
        let (ids, logits) = (self.folder.join("prose.json"), self.folder.join("prose.npy"));
        let mut likely = Vec::with_capacity(tokens.len());
        for part in tokens.chunks(PART) {
            let text = Value::from(part).to_string();
            fs::write(&ids, text).map_err(|e| format!("cannot write {}: {e}", ids.display()))?;
            let mut command = Command::new(&self.cgraph);
            command.arg("eval").arg(file).args(["--mode", mode, "--ctx", &WINDOW.to_string()]);
            command.args(["--threads", "2", "-q"]).arg("--tokens").arg(&ids).arg("--logits").arg(&logits);
            capture(&mut command)?;
            let rows = File::open(&logits).map_err(|e| format!("cannot open {}: {e}", logits.display()))?;
            likely.extend(most_likely(BufReader::new(rows))?);
            remove(&logits)?;
        }
        if likely.len() != tokens.len() {
            return Err(format!("{} rows of logits for {} tokens", likely.len(), tokens.len()));
        }
        Ok(likely)
    }

    /// Opening a mini of this length (the default one without) to its first token, and llama.cpp's first token.
    pub fn first(&self, python: &Path, name: &str, files: [&Path; 2], size: Option<u64>) -> Outcome<First> {
        let [source, full] = files;
        let mini = self.mini(full, size)?;
        let (mini_bytes, source_bytes) = (length(&mini)?, length(source)?);
        let mut first = First { name: name.to_owned(), mini_bytes, source_bytes, ..First::default() };
        let prompt = FIRST.to_string();
        for round in 0..ROUNDS {
            let mut engines = Engine::ALL;
            engines.rotate_left(round % Engine::ALL.len());
            for engine in engines {
                for file in [source, full, &mini] {
                    disk::evict(file)?;
                }
                if engine == Engine::Ours {
                    let report = self.own(&mini, 2, &["--mode", "fast", "-p", &prompt, "-n", "0"])?;
                    first.ours.push(own_first_token(&report)?);
                    continue;
                }
                let report = self.peer(python, source, engine, &["--threads", "2"])?;
                let ms = report["first_token_ms"].as_f64().ok_or("llama.cpp told no first token")?;
                if engine == Engine::Mapped { &mut first.mapped } else { &mut first.repacked }.push(ms);
            }
        }
        Ok(first)
    }
}

fn remove(path: &Path) -> Outcome {
    fs::remove_file(path).map_err(|e| format!("cannot remove {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_leaves_out_what_others_beat() {
        // The third lies above the line between its neighbours, the last is longer than a better one.
        let points = [(4.0, 0.2), (1.0, 1.0), (3.0, 0.6), (2.0, 0.5), (5.0, 0.3)];
        assert_eq!(envelope(&points), [(1.0, 1.0), (2.0, 0.5), (4.0, 0.2)]);
        // A concave corner is cut.
        assert_eq!(envelope(&[(1.0, 1.0), (2.0, 0.9), (3.0, 0.1)]), [(1.0, 1.0), (3.0, 0.1)]);
    }

    #[test]
    fn the_line_lies_between_its_corners() {
        let line = [(1.0, 1.0), (2.0, 0.5), (4.0, 0.2)];
        assert_eq!([at(&line, 0.9), at(&line, 1.0), at(&line, 1.5)], [None, Some(1.0), Some(0.75)]);
        assert!((at(&line, 3.0).unwrap() - 0.35).abs() < 1e-12);
        assert_eq!((at(&line, 9.0), at(&[], 1.0)), (Some(0.2), None));
    }

    #[test]
    fn a_mini_is_held_against_the_line() {
        let form = |bytes, differing| Form { name: String::new(), bytes, differing };
        let mixes = vec![form(100, 400), form(200, 200)];
        let compared = Compared { positions: 1000, source_bytes: 300, mixes, minis: vec![form(150, 270)] };
        let mini = &compared.minis[0];
        assert!((compared.ratio(mini).unwrap() - 0.9).abs() < 1e-12);
        assert!((compared.share(mini).1 - 0.01404).abs() < 1e-5);
        let first =
            First { ours: vec![3.0, 1.0, 2.0], mapped: vec![8.0], repacked: vec![5.0], ..First::default() };
        assert_eq!((first.ratio(), First::default().ratio()), (Some(0.4), None));
    }

    #[test]
    fn logits_and_prose_are_read() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend([1f32, 3.0, 3.0, -1.0, -2.0, -0.5].iter().flat_map(|x| x.to_le_bytes()));
        assert_eq!(most_likely(&file[..]), Ok(vec![1, 2]));
        assert!(most_likely(&file[..file.len() - 1]).is_err());
        let text =
            "Title\r\nCHAPTER I\r\nIt was\r\n\r\na day.\r\nCHAPTER II\r\nEnd.\r\n*** END OF\r\nLicence";
        assert_eq!(prose(text), "It was a day. End.");
    }
}
