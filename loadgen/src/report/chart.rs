//! SVG plots: bars or points, and lines with logarithmic axes. The page defines the colours.
//!
//! Written by hand, since plotters 0.3.7 does less with as much code (200 lines, including a custom axis, as its own
//! cannot label chosen ticks). Plotters writes colours instead of the classes that the page needs for light and dark;
//! it draws on whole pixels, each dash as a separate line, and has no `aria-label`. Four plots of a report take 43 kB
//! instead of 10.

use std::fmt::Write;

/// Width at which the text stays legible on a phone.
const WIDTH: f64 = 400.0;
const BAR: f64 = 16.0;
/// Height of a group's label, which is above its bars, and the bars' left edge.
const LABEL: f64 = 17.0;
const BEGIN: f64 = 2.0;
/// Room for the text after the longest bar.
const VALUE: f64 = 140.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 24.0;
const RIGHT: f64 = 24.0;
/// Ratio of the largest to the smallest value above which values are points on a logarithmic axis: the length of a bar
/// has no meaning there, as the axis has no zero, and on a linear axis the short bars would be invisible.
const LINEAR_MAX: f64 = 20.0;
/// Half the height of the marks at the ends of a range.
const END: f64 = 3.0;

/// A labelled group of bars.
pub struct Group {
    /// The label above the bars.
    pub label: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// A horizontal bar with a text after it.
pub struct Bar {
    /// CSS class that sets the colour.
    pub class: String,
    /// Length of the bar; without a value only the text is shown.
    pub value: Option<f64>,
    /// Minimum and maximum over the rounds.
    pub range: Option<(f64, f64)>,
    /// The text after the bar.
    pub text: String,
}

/// The scale of the bars: linear, or logarithmic if the values differ widely.
struct Axis {
    /// The exponents of ten at both ends, if the scale is logarithmic.
    decades: Option<(f64, f64)>,
    most: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Axis {
        let (mut least, mut most) = (f64::MAX, 0.0f64);
        for value in values {
            most = most.max(value);
            if value > 0.0 {
                least = least.min(value);
            }
        }
        let decades = (most > least * LINEAR_MAX)
            .then(|| ((least.log10() - 0.15).floor(), most.log10().ceil()));
        Axis { decades, most }
    }

    /// Returns a value's position as a fraction of the axis's length.
    fn place(&self, value: f64) -> f64 {
        match self.decades {
            Some((low, high)) if value > 0.0 => ((value.log10() - low) / (high - low)).max(0.0),
            None if self.most > 0.0 => value / self.most,
            _ => 0.0,
        }
    }

    /// Returns the powers of ten on the axis.
    fn marks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = self.decades.unwrap_or((0.0, -1.0));
        std::iter::successors(Some(low), |exponent| Some(exponent + 1.0))
            .take_while(move |exponent| *exponent <= high)
            .map(|exponent| 10f64.powf(exponent))
    }
}

/// Draws horizontal bars in groups, starting at 0; or points if the axis is logarithmic, in which case `label`
/// formats its ticks.
pub fn bars(title: &str, groups: &[Group], label: fn(f64) -> String) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let bottom = TOP + bars as f64 * BAR + groups.len() as f64 * (LABEL + 6.0);
    let axis = Axis::of(groups.iter().flat_map(|g| &g.bars).filter_map(|bar| bar.value));
    let room = WIDTH - BEGIN - VALUE;
    let mut body = String::new();
    for (place, mark) in axis.marks().enumerate() {
        let x = BEGIN + axis.place(mark) * room;
        let _ = write!(body, r#"<path class="grid" d="M{x:.1} {TOP}V{bottom:.0}"/>"#);
        let anchor = if place == 0 { "start" } else { "middle" };
        text(&mut body, x, bottom + 12.0, anchor, &label(mark));
    }
    let mut y = TOP;
    for group in groups {
        text(&mut body, BEGIN, y + LABEL - 4.0, "start", &group.label);
        y += LABEL;
        for bar in &group.bars {
            let mut end = BEGIN;
            if let Some(value) = bar.value {
                let place = |value| BEGIN + axis.place(value) * room;
                end = draw(&mut body, bar, place(value), y, axis.decades.is_some());
                if let Some((least, most)) = bar.range {
                    end = end.max(range(&mut body, place(least), place(most), y));
                }
            }
            text(&mut body, end + 4.0, y + BAR - 4.0, "start", &bar.text);
            y += BAR;
        }
        y += 6.0;
    }
    let (title, height) = match axis.decades {
        Some(_) => (format!("{title} (logarithmic)"), bottom + 18.0),
        None => (title.to_owned(), bottom),
    };
    frame(&title, height, &body)
}

/// Draws a bar or a point at `x`; returns its right end.
fn draw(body: &mut String, bar: &Bar, x: f64, y: f64, point: bool) -> f64 {
    let (class, middle) = (&bar.class, y + (BAR - 1.0) / 2.0);
    if point {
        let _ = write!(body, r#"<circle class="{class}" cx="{x:.1}" cy="{middle:.1}" r="4"/>"#);
        return x + 4.0;
    }
    let (top, tall, width) = (y + 1.0, BAR - 3.0, (x - BEGIN).max(1.0));
    let _ = write!(
        body,
        r#"<rect class="{class}" x="{BEGIN}" y="{top:.1}" width="{width:.1}" height="{tall}" rx="2"/>"#
    );
    BEGIN + width
}

/// Draws the range of the rounds, from minimum to maximum; returns its right end.
fn range(body: &mut String, least: f64, most: f64, y: f64) -> f64 {
    let middle = y + (BAR - 1.0) / 2.0;
    let (top, bottom) = (middle - END, middle + END);
    let _ = write!(
        body,
        r#"<path class="range" d="M{least:.1} {top:.1}V{bottom:.1}M{least:.1} {middle:.1}H{most:.1}M{most:.1} {top:.1}V{bottom:.1}"/>"#
    );
    most
}

/// A line of a plot.
pub struct Line {
    /// CSS class that sets the colour.
    pub class: String,
    /// The line's points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// An axis tick: its position and its text.
pub type Mark = (f64, String);

/// Draws lines over a logarithmic vertical axis. `x` has the ticks of the horizontal axis, and `scale` its scale
/// (such as a logarithm). `label` formats the ticks of the vertical axis.
pub fn lines(
    title: &str,
    lines: &[Line],
    x: &[Mark],
    scale: fn(f64) -> f64,
    label: fn(f64) -> String,
) -> String {
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
        text(&mut body, LEFT - 6.0, y + 4.0, "end", &label(10f64.powf(decade)));
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

/// Formats a round number in short form.
pub fn round(value: f64) -> String {
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

/// Escapes a text for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_bar_fills_the_width() {
        let svg = bars("CPU", &[group(&[1.0, 4.0])], round);
        let room = WIDTH - BEGIN - VALUE;
        assert!(svg.contains(&format!(r#"width="{room:.1}""#)), "{svg}");
        assert!(svg.contains(&format!(r#"width="{:.1}""#, room / 4.0)), "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("logarithmic"), "{svg}");
    }

    #[test]
    fn bars_are_linear_up_to_a_factor_of_13() {
        let svg = bars("CPU", &[group(&[1.0, 13.0])], round);
        let widths: Vec<f64> = svg
            .split("width=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!((widths[1] / widths[0] - 13.0).abs() < 0.1, "{widths:?}");
    }

    #[test]
    fn wide_range_is_drawn_as_points_on_a_logarithmic_axis() {
        let svg = bars("CPU", &[group(&[1.0, 10.0, 1000.0])], round);
        let room = WIDTH - BEGIN - VALUE;
        assert!(!svg.contains("<rect"), "{svg}");
        // From 0.1 to 1,000 there are four decades.
        for part in [0.25, 0.5, 1.0] {
            assert!(svg.contains(&format!(r#"cx="{:.1}""#, BEGIN + part * room)), "{svg}");
        }
        for label in [">CPU (logarithmic)<", ">0.1<", ">1000<"] {
            assert!(svg.contains(label), "{svg}");
        }
    }

    #[test]
    fn range_between_rounds_is_drawn() {
        let mut group = group(&[4.0]);
        group.bars[0].range = Some((2.0, 4.0));
        let svg = bars("CPU", &[group], round);
        let (half, end) = (BEGIN + (WIDTH - BEGIN - VALUE) / 2.0, WIDTH - VALUE);
        assert!(svg.contains("class=\"range\"") && svg.contains(&format!("M{half:.1} ")), "{svg}");
        assert!(svg.contains(&format!("H{end:.1}")), "{svg}");
    }

    #[test]
    fn bar_without_a_value_shows_its_text() {
        let mut group = group(&[1.0]);
        let text = "c: 41 of 300 done".to_owned();
        group.bars.push(Bar { class: "c".into(), value: None, range: None, text });
        let svg = bars("CPU", &[group], round);
        assert!(svg.contains("c: 41 of 300 done") && !svg.contains(r#"class="c""#), "{svg}");
    }

    fn group(values: &[f64]) -> Group {
        let bar = |&value| Bar {
            class: "ours".into(),
            value: Some(value),
            range: None,
            text: String::new(),
        };
        Group { label: "a < b".into(), bars: values.iter().map(bar).collect() }
    }

    #[test]
    fn decades_are_equally_spaced() {
        let line =
            Line { class: "ours".into(), points: vec![(0.0, 1.0), (1.0, 10.0), (2.0, 100.0)] };
        let marks = [(0.0, "0".to_owned()), (1.0, "1".into()), (2.0, "2".into())];
        let svg = lines("growth", &[line], &marks, |x| x, round);
        let (middle, bottom) = ((HEIGHT - BOTTOM + TOP) / 2.0, HEIGHT - BOTTOM);
        assert!(svg.contains(&format!("M{LEFT:.1} {bottom:.1}L")), "{svg}");
        assert!(svg.contains(&format!(" {middle:.1}L")), "{svg}");
    }
}
