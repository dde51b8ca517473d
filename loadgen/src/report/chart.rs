//! Plots as SVG: bars, and lines with logarithmic axes. Colours are the page's.

use std::fmt::Write;

use super::number;

const WIDTH: f64 = 460.0;
const BAR: f64 = 16.0;
const LABEL: f64 = 150.0;
const VALUE: f64 = 58.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 24.0;
const RIGHT: f64 = 24.0;

/// A group of bars: what they have in common, and each one's colour class and value.
pub struct Group {
    /// What is written to the left of it.
    pub label: String,
    /// Class and value of each bar.
    pub bars: Vec<(String, f64)>,
}

/// Horizontal bars, in groups. The axis begins at 0.
pub fn bars(title: &str, groups: &[Group]) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + bars as f64 * BAR + groups.len() as f64 * 8.0;
    let most = groups.iter().flat_map(|g| &g.bars).map(|bar| bar.1).fold(0.0, f64::max);
    let room = WIDTH - LABEL - VALUE;
    let mut body = String::new();
    let mut y = TOP;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        text(&mut body, LABEL - 6.0, middle, "end", &group.label);
        for (class, value) in &group.bars {
            let width = if most > 0.0 { (value / most * room).max(1.0) } else { 1.0 };
            let (top, tall) = (y + 1.0, BAR - 3.0);
            let _ = write!(
                body,
                r#"<rect class="{class}" x="{LABEL}" y="{top:.1}" width="{width:.1}" height="{tall}" rx="2"/>"#
            );
            text(&mut body, LABEL + width + 4.0, y + BAR - 5.0, "start", &number(*value));
            y += BAR;
        }
        y += 8.0;
    }
    frame(title, height, &body)
}

/// A line: its colour class, and its points from left to right.
pub struct Line {
    /// Class of its colour.
    pub class: String,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
}

/// A mark on an axis: where, and what is written there.
pub type Mark = (f64, String);

/// Lines over a logarithmic vertical axis. `x` has the marks of the horizontal one, whose scale is
/// `scale` (such as a logarithm).
pub fn lines(title: &str, lines: &[Line], x: &[Mark], scale: fn(f64) -> f64) -> String {
    let ys = || lines.iter().flat_map(|line| &line.points).map(|point| point.1.max(1e-3));
    let (low, high) = (ys().fold(f64::MAX, f64::min), ys().fold(1e-3, f64::max));
    let (low, high) = (low.log10().floor(), (high.log10().ceil()).max(low.log10().floor() + 1.0));
    let xs = || x.iter().map(|mark| scale(mark.0));
    let (left, right) = (xs().fold(f64::MAX, f64::min), xs().fold(f64::MIN, f64::max));
    let across = if right > left { right - left } else { 1.0 };
    let place_x = |x: f64| LEFT + (scale(x) - left) / across * (WIDTH - LEFT - RIGHT);
    let place_y = |y: f64| {
        HEIGHT - BOTTOM - (y.max(1e-3).log10() - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
    };
    let mut body = String::new();
    let mut decade = low;
    while decade <= high {
        let y = place_y(10f64.powf(decade));
        let end = WIDTH - RIGHT;
        let _ = write!(body, r#"<path class="grid" d="M{LEFT} {y:.1}H{end}"/>"#);
        text(&mut body, LEFT - 6.0, y + 4.0, "end", &round(10f64.powf(decade)));
        decade += 1.0;
    }
    for (at, label) in x {
        text(&mut body, place_x(*at), HEIGHT - BOTTOM + 18.0, "middle", label);
    }
    for line in lines {
        let mut path = String::new();
        for (step, &(x, y)) in line.points.iter().enumerate() {
            let letter = if step == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", place_x(x), place_y(y));
        }
        let _ = write!(body, r#"<path class="line {}" d="{path}"/>"#, line.class);
        if line.points.len() <= x.len() {
            for &(x, y) in &line.points {
                let (x, y) = (place_x(x), place_y(y));
                let class = &line.class;
                let _ = write!(body, r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#);
            }
        }
    }
    frame(title, HEIGHT, &body)
}

/// A power of ten, short.
fn round(value: f64) -> String {
    match value {
        large if large >= 1e6 => format!("{} M", value / 1e6),
        large if large >= 1e4 => format!("{} k", value / 1e3),
        _ => format!("{value}"),
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escape(words);
    let _ = write!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

fn frame(title: &str, height: f64, body: &str) -> String {
    let title = escape(title);
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><text class="title" x="0" y="13">{title}</text>{body}</svg>"#
    )
}

/// A text as it stands in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_room() {
        let group =
            Group { label: "a < b".into(), bars: vec![("ours".into(), 1.0), ("c".into(), 4.0)] };
        let svg = bars("CPU", &[group]);
        let room = WIDTH - LABEL - VALUE;
        assert!(svg.contains(&format!(r#"width="{room:.1}""#)), "{svg}");
        assert!(svg.contains(&format!(r#"width="{:.1}""#, room / 4.0)), "{svg}");
        assert!(svg.contains("a &lt; b"));
    }

    #[test]
    fn decades_are_equally_far_apart() {
        let line =
            Line { class: "ours".into(), points: vec![(0.0, 1.0), (1.0, 10.0), (2.0, 100.0)] };
        let marks = [(0.0, "0".to_owned()), (1.0, "1".into()), (2.0, "2".into())];
        let svg = lines("growth", &[line], &marks, |x| x);
        let (middle, bottom) = ((HEIGHT - BOTTOM + TOP) / 2.0, HEIGHT - BOTTOM);
        assert!(svg.contains(&format!("M{LEFT:.1} {bottom:.1}L")), "{svg}");
        assert!(svg.contains(&format!(" {middle:.1}L")), "{svg}");
    }
}
