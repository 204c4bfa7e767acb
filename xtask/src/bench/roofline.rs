//! The roofline plot: each kernel against what memory and arithmetic allow at its intensity.

use serde_json::Value;

use super::plot::{HEAD, head, short};
use super::results::Results;
use super::svg::{Anchor, GRID, INK, MUTED, Svg};

const SIZE: (f64, f64) = (916.0, 520.0);
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Multiply-adds for a byte of weights, and G multiply-adds a second, as powers of ten.
const X: (f64, f64) = (-0.8, 3.3);
const Y: (f64, f64) = (0.0, 3.5);
/// Threads that are shown.
const THREADS: usize = 2;
/// Columns, the field of the results, and their color.
const SERIES: [(&str, f64, &str, &str); 3] = [
    ("1 column", 1.0, "read_1", "#2464b4"),
    ("5 columns", 5.0, "read_5", "#3d8f56"),
    ("512 columns", 512.0, "multiply_adds_512", "#b0483f"),
];
const DOT: f64 = 3.5;
const ROOF: &str = "#4a4d53";

/// From numbers to pixels, both axes logarithmic.
fn place(x: f64, y: f64) -> (f64, f64) {
    let share = |value: f64, range: (f64, f64)| {
        (value.max(1e-12).log10().clamp(range.0, range.1) - range.0) / (range.1 - range.0)
    };
    let (width, height) = (SIZE.0 - LEFT - RIGHT, SIZE.1 - HEAD - BOTTOM);
    (LEFT + width * share(x, X), SIZE.1 - BOTTOM - height * share(y, Y))
}

pub fn draw(results: &Results) -> String {
    let mut svg = Svg::new(SIZE.0, SIZE.1);
    head(
        &mut svg,
        "Kernels under the roofline, 2 threads (G multiply-adds/s by multiply-adds for each byte of weights)",
        &SERIES.map(|(name, _, _, color)| (name, color)),
    );
    axes(&mut svg);
    if let Some(read) = results.run.limit("read", THREADS) {
        for (name, title) in [("int8", "int8"), ("f32", "f32")] {
            if let Some(rate) = results.run.limit(name, THREADS) {
                roof(&mut svg, read / 1e9, rate / 1e9, title);
            }
        }
    }
    let points: Vec<Point> = SERIES.into_iter().flat_map(|series| points(results, series)).collect();
    draw_points(&mut svg, &points);
    svg.finish()
}

fn axes(svg: &mut Svg) {
    let (left, right) = (10f64.powf(X.0), 10f64.powf(X.1));
    let (low, high) = (10f64.powf(Y.0), 10f64.powf(Y.1));
    for power in X.0 as i32..=X.1 as i32 {
        let x = 10f64.powi(power);
        svg.line(place(x, low), place(x, high), GRID, 1.0);
        let (at, floor) = place(x, low);
        svg.text((at, floor + 17.0), Anchor::Middle, 11.0, MUTED, &short(x));
    }
    for power in Y.0 as i32..=Y.1 as i32 {
        let y = 10f64.powi(power);
        svg.line(place(left, y), place(right, y), GRID, 1.0);
        let (at, level) = place(left, y);
        svg.text((at - 8.0, level + 4.0), Anchor::End, 11.0, MUTED, &short(y));
    }
    svg.line(place(left, low), place(right, low), MUTED, 1.0);
    let (end, floor) = place(right, low);
    svg.text((end, floor + 36.0), Anchor::End, 11.0, MUTED, "multiply-adds for each byte of weights");
}

/// Memory's slope up to the rate of arithmetic, then level.
fn roof(svg: &mut Svg, read: f64, rate: f64, title: &str) {
    let start = (10f64.powf(Y.0) / read).max(10f64.powf(X.0));
    let ridge = rate / read;
    let end = 10f64.powf(X.1);
    svg.path(&[place(start, start * read), place(ridge, rate), place(end, rate)], ROOF, 1.5, true);
    // Between the kernels with few columns and those with many.
    let (at, level) = place(60.0, rate);
    svg.text((at, level - 6.0), Anchor::Middle, 11.0, INK, &format!("{title}: {rate:.0} G/s"));
}

/// A kernel at one number of columns.
struct Point {
    at: (f64, f64),
    name: String,
    color: &'static str,
}

fn points(results: &Results, (_, columns, key, color): (&str, f64, &str, &'static str)) -> Vec<Point> {
    let kernels = results.kernels.as_array().into_iter().flatten();
    let point = |kernel: &Value| {
        if kernel["threads"].as_u64() != Some(THREADS as u64) {
            return None;
        }
        let intensity = columns / kernel["bytes_per_weight"].as_f64()?;
        let value = kernel[key].as_f64()?;
        let rate = if key.starts_with("read") { value * intensity } else { value };
        let name = kernel["encoding"].as_str()?.to_uppercase();
        Some(Point { at: place(intensity, rate / 1e9), name, color })
    };
    kernels.filter_map(point).collect()
}

/// Left, top, right and bottom of something drawn.
type Area = [f64; 4];

fn overlap(a: &Area, b: &Area) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// Every dot, and beside it its name where there is room for one; the table has the rest.
fn draw_points(svg: &mut Svg, points: &[Point]) {
    for point in points {
        svg.dot(point.at, DOT, point.color);
    }
    let dot = |p: &Point| [p.at.0 - DOT, p.at.1 - DOT, p.at.0 + DOT, p.at.1 + DOT];
    let mut taken: Vec<Area> = points.iter().map(dot).collect();
    for Point { at: (x, y), name, .. } in points {
        let (width, height) = (5.4 * name.len() as f64, 8.0);
        let corners = [
            (x + 6.0, y - 4.0),
            (x - 6.0 - width, y - 4.0),
            (x - width / 2.0, y - 6.0 - height),
            (x - width / 2.0, y + 6.0),
            (x + 4.0, y - 4.0 - height),
            (x + 4.0, y + 4.0),
        ];
        let areas = corners.map(|(left, top)| [left, top, left + width, top + height]);
        let free = areas.into_iter().find(|area| taken.iter().all(|other| !overlap(area, other)));
        if let Some(area) = free {
            svg.text((area[0], area[3] - 1.0), Anchor::Start, 8.5, MUTED, name);
            taken.push(area);
        }
    }
}
