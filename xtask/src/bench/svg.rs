//! A small writer of SVG pictures: a light card, so that dark pages show it as it is.

use std::fmt::Write as _;

/// Ink of titles, of labels, of grid lines.
pub const INK: &str = "#2b2d31";
pub const MUTED: &str = "#62666d";
pub const GRID: &str = "#e3e4e1";
/// What is behind it all, and its edge.
const CARD: &str = "#fbfbf9";
const EDGE: &str = "#cfd1cd";

/// Where a text ends up around its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture in the making; coordinates in pixels, y downwards.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Writing to a String cannot fail.
macro_rules! put {
    ($svg:ident, $($argument:tt)*) => {
        let _ = writeln!($svg.body, $($argument)*);
    };
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        put!(
            self,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{color}" stroke-width="{width}"/>"#,
            from.0,
            from.1,
            to.0,
            to.1
        );
    }

    pub fn path(&mut self, points: &[(f64, f64)], color: &str, width: f64, dashed: bool) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = if dashed { r#" stroke-dasharray="5 4""# } else { "" };
        put!(
            self,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"{dash}/>"#,
            points.join(" ")
        );
    }

    pub fn dot(&mut self, at: (f64, f64), radius: f64, color: &str) {
        put!(self, r#"<circle cx="{:.1}" cy="{:.1}" r="{radius}" fill="{color}"/>"#, at.0, at.1);
    }

    pub fn bar(&mut self, at: (f64, f64), width: f64, height: f64, color: &str) {
        put!(
            self,
            r#"<rect x="{:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}" rx="1.5" fill="{color}"/>"#,
            at.0,
            at.1
        );
    }

    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, size: f64, color: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        put!(
            self,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{}</text>"#,
            at.0,
            at.1,
            escaped(text)
        );
    }

    /// The whole picture.
    pub fn finish(self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n\
             <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"{CARD}\" stroke=\"{EDGE}\"/>\n{body}</svg>\n",
            width - 1.0,
            height - 1.0
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Anchor, INK, Svg};

    #[test]
    fn a_picture_is_closed_and_its_texts_are_escaped() {
        let mut svg = Svg::new(100.0, 50.0);
        svg.text((1.0, 2.0), Anchor::Middle, 10.0, INK, "a < b & c");
        svg.path(&[(0.0, 0.0), (1.0, 1.0)], INK, 1.0, true);
        let text = svg.finish();
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains("a &lt; b &amp; c") && text.contains("0.0,0.0 1.0,1.0"));
    }
}
