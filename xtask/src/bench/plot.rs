//! The plots of docs/plots: one panel a model, all panels of a picture alike.

use super::models::{MODELS, Model};
use super::results::{DEPTHS, Engine, Figure, Measured, PASSES, PROMPTS, Results};
use super::roofline;
use super::svg::{Anchor, GRID, INK, MUTED, Svg};

/// Panels in a row, the size of one, and what its axes take of it on the left, right, top and bottom.
const COLUMNS: usize = 3;
const PANEL: (f64, f64) = (300.0, 220.0);
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 30.0;
/// Height of a picture's title and legend.
pub const HEAD: f64 = 62.0;
/// Steps of an axis at most.
const TICKS: f64 = 5.0;

pub fn color(engine: Engine) -> &'static str {
    match engine {
        Engine::Ours => "#2464b4",
        Engine::Mapped => "#d08422",
        Engine::Repacked => "#85888f",
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Bars,
}

/// What the x axis counts: the index into these is what a value is asked for.
#[derive(Clone, Copy)]
enum Labels {
    Numbers(&'static [usize]),
    Words(&'static [&'static str]),
}

impl Labels {
    fn texts(self) -> Vec<String> {
        match self {
            Self::Numbers(numbers) => numbers.iter().map(usize::to_string).collect(),
            Self::Words(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        }
    }
}

/// A picture: what a panel shows of a model.
struct Picture {
    /// Of its file.
    name: &'static str,
    title: &'static str,
    labels: Labels,
    /// What the y axis counts.
    unit: &'static str,
    form: Form,
    /// The value of an engine at the label of this index.
    value: fn(&Measured, Engine, usize) -> Option<f64>,
}

const PICTURES: [Picture; 6] = [
    Picture {
        name: "prefill",
        title: "Prefill by prompt length, 2 threads",
        labels: Labels::Numbers(&PROMPTS),
        unit: "tokens/s",
        form: Form::Lines,
        value: |m, e, i| m.median(e, Figure::Prefill(PROMPTS[i], 2)),
    },
    Picture {
        name: "decode",
        title: "Decode by context, 2 threads",
        labels: Labels::Numbers(&DEPTHS),
        unit: "tokens/s",
        form: Form::Lines,
        value: |m, e, i| m.median(e, Figure::Decode(DEPTHS[i], 2)),
    },
    Picture {
        name: "passes",
        title: "Passes with all logits by tokens, 2 threads",
        labels: Labels::Numbers(&PASSES),
        unit: "tokens/s",
        form: Form::Lines,
        value: |m, e, i| m.median(e, Figure::Pass(PASSES[i], 2)),
    },
    Picture {
        name: "threads",
        title: "Decode by threads",
        labels: Labels::Words(&["1 thread", "2 threads"]),
        unit: "tokens/s",
        form: Form::Bars,
        value: |m, e, i| m.median(e, Figure::Decode(0, i + 1)),
    },
    Picture {
        name: "first-token",
        title: "Open to first token",
        labels: Labels::Words(&["warm cache", "cold cache"]),
        unit: "ms",
        form: Form::Bars,
        value: |m, e, i| m.median(e, [Figure::Warm, Figure::Cold][i]),
    },
    Picture {
        name: "memory",
        title: "Peak memory",
        labels: Labels::Words(&["anonymous", "resident"]),
        unit: "MB",
        form: Form::Bars,
        value: |m, e, i| Some(m.median(e, [Figure::Anonymous, Figure::Resident][i])? / 1e6),
    },
];

/// Every plot under its file's name.
pub fn all(results: &Results) -> Vec<(&'static str, String)> {
    let mut plots: Vec<_> = PICTURES.iter().map(|p| (p.name, draw(p, results))).collect();
    plots.push(("roofline", roofline::draw(results)));
    plots
}

fn draw(picture: &Picture, results: &Results) -> String {
    let models: Vec<(&Model, &Measured)> =
        MODELS.iter().filter_map(|m| Some((m, results.models.get(m.name)?))).collect();
    let rows = models.len().div_ceil(COLUMNS).max(1);
    let mut svg = Svg::new(COLUMNS as f64 * PANEL.0 + 16.0, HEAD + rows as f64 * PANEL.1 + 8.0);
    head(
        &mut svg,
        &format!("{} ({})", picture.title, picture.unit),
        &Engine::ALL.map(|e| (e.title(), color(e))),
    );
    for (i, (model, measured)) in models.iter().enumerate() {
        let corner = (8.0 + (i % COLUMNS) as f64 * PANEL.0, HEAD + (i / COLUMNS) as f64 * PANEL.1);
        panel(&mut svg, corner, picture, model, measured);
    }
    svg.finish()
}

/// A line's name, its color and its value in a row.
pub type Line<'a, R> = (&'a str, &'a str, fn(&R) -> Option<f64>);

/// A picture of lines: a panel a model, whose rows give the labels of the x axis and a value of each line.
pub fn by_label<R>(
    title: &str,
    models: &[(&str, Vec<&R>)],
    lines: &[Line<'_, R>],
    label: impl Fn(&R) -> String,
) -> String {
    let mut svg = Svg::new(COLUMNS as f64 * PANEL.0 + 16.0, HEAD + PANEL.1 + 8.0);
    let legend: Vec<(&str, &str)> = lines.iter().map(|(name, color, _)| (*name, *color)).collect();
    head(&mut svg, title, &legend);
    for (i, (name, rows)) in models.iter().enumerate() {
        let corner = (8.0 + i as f64 * PANEL.0, HEAD);
        let labels: Vec<String> = rows.iter().map(|row| label(row)).collect();
        let values = rows.iter().flat_map(|row| lines.iter().filter_map(|(_, _, value)| value(row)));
        let axes = Axes::draw(&mut svg, corner, name, &labels, values.fold(0.0, f64::max));
        for (_, color, value) in lines.iter().rev() {
            let points: Vec<(f64, f64)> = rows
                .iter()
                .enumerate()
                .filter_map(|(i, row)| Some((axes.x(i), axes.y(value(row)?))))
                .collect();
            svg.path(&points, color, 2.0, false);
            points.iter().for_each(|point| svg.dot(*point, 3.0, color));
        }
    }
    svg.finish()
}

/// Title and legend.
pub fn head(svg: &mut Svg, title: &str, legend: &[(&str, &str)]) {
    svg.text((20.0, 26.0), Anchor::Start, 15.0, INK, title);
    let mut x = 20.0;
    for (name, color) in legend {
        svg.bar((x, 40.0), 12.0, 12.0, color);
        svg.text((x + 18.0, 50.0), Anchor::Start, 12.0, MUTED, name);
        x += 36.0 + 6.6 * name.len() as f64;
    }
}

/// The steps of an axis from 0 to at least `most`: 1, 2 or 5 times a power of ten.
fn ticks(most: f64) -> Vec<f64> {
    let rough = most.max(1e-9) / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let count = (most / step).ceil().max(1.0) as usize;
    (0..=count).map(|i| i as f64 * step).collect()
}

/// A number without needless digits.
pub fn short(value: f64) -> String {
    if value >= 10.0 || value == value.round() { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Where values of a panel lie.
struct Axes {
    left: f64,
    slot: f64,
    ceiling: f64,
    floor: f64,
    top: f64,
}

impl Axes {
    /// Draws the axes of a panel for values up to `most`, with `labels` below and `title` above.
    fn draw(svg: &mut Svg, corner: (f64, f64), title: &str, labels: &[String], most: f64) -> Self {
        let ticks = ticks(most);
        let top = ticks.last().copied().unwrap_or(1.0);
        let (left, right) = (corner.0 + LEFT, corner.0 + PANEL.0 - RIGHT);
        let (ceiling, floor) = (corner.1 + TOP, corner.1 + PANEL.1 - BOTTOM);
        let axes = Self { left, slot: (right - left) / labels.len().max(1) as f64, ceiling, floor, top };
        svg.text((left, corner.1 + 20.0), Anchor::Start, 12.5, INK, title);
        for tick in &ticks {
            svg.line((left, axes.y(*tick)), (right, axes.y(*tick)), GRID, 1.0);
            svg.text((left - 6.0, axes.y(*tick) + 3.5), Anchor::End, 10.5, MUTED, &short(*tick));
        }
        svg.line((left, floor), (right, floor), MUTED, 1.0);
        for (i, label) in labels.iter().enumerate() {
            svg.text((axes.x(i), floor + 16.0), Anchor::Middle, 10.5, MUTED, label);
        }
        axes
    }

    /// The middle of label `i`.
    fn x(&self, i: usize) -> f64 {
        self.left + self.slot * (i as f64 + 0.5)
    }

    fn y(&self, value: f64) -> f64 {
        self.floor - (self.floor - self.ceiling) * value / self.top
    }
}

fn panel(svg: &mut Svg, corner: (f64, f64), picture: &Picture, model: &Model, measured: &Measured) {
    let labels = picture.labels.texts();
    let value = |engine, i| (picture.value)(measured, engine, i);
    let all = Engine::ALL.iter().flat_map(|e| (0..labels.len()).filter_map(|i| value(*e, i)));
    let axes = Axes::draw(svg, corner, model.title, &labels, all.fold(0.0, f64::max));
    let (slot, floor) = (axes.slot, axes.floor);
    let (x, y) = (|i: usize| axes.x(i), |value: f64| axes.y(value));
    match picture.form {
        // The last drawn lies on top.
        Form::Lines => {
            for engine in Engine::ALL.into_iter().rev() {
                let points: Vec<(f64, f64)> =
                    (0..labels.len()).filter_map(|i| Some((x(i), y(value(engine, i)?)))).collect();
                svg.path(&points, color(engine), 2.0, false);
                points.iter().for_each(|point| svg.dot(*point, 3.0, color(engine)));
            }
        }
        Form::Bars => {
            let width = slot * 0.8 / Engine::ALL.len() as f64;
            for i in 0..labels.len() {
                for (n, engine) in Engine::ALL.into_iter().enumerate() {
                    let Some(value) = value(engine, i) else { continue };
                    let from = x(i) + width * (n as f64 - 0.5 * Engine::ALL.len() as f64);
                    svg.bar((from + 1.0, y(value)), width - 2.0, floor - y(value), color(engine));
                    svg.text((from + width / 2.0, y(value) - 4.0), Anchor::Middle, 9.5, MUTED, &short(value));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{all, short, ticks};
    use crate::bench::results::{Engine, Figure, Measured, Results};

    #[test]
    fn axes_have_few_round_steps() {
        assert_eq!(ticks(370.0), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(ticks(5.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ticks(0.0).len(), 2);
        assert_eq!((short(0.5), short(2.0), short(1234.6)), ("0.5".into(), "2".into(), "1235".into()));
    }

    #[test]
    fn every_plot_is_drawn_from_whatever_was_measured() {
        let mut results = Results::default();
        assert!(all(&results).iter().all(|(_, svg)| svg.ends_with("</svg>\n")));
        let mut measured = Measured::default();
        measured.add(Engine::Ours, Figure::Decode(0, 2), 100.0);
        results.models.insert("smollm2".into(), measured);
        let plots = all(&results);
        assert_eq!(plots.len(), 7);
        assert!(plots[1].1.contains("SmolLM2") && plots[1].1.contains("<circle"));
        assert!(plots.iter().all(|(_, svg)| !svg.contains("NaN") && !svg.contains("inf")));
    }
}
