//! Charts of lines and points as SVG. They have a background of their own, so that light and dark viewers show them alike.

use std::fmt::Write;

/// Width and height of a chart with its labels, and of the part with the lines.
const OUTER: (f64, f64) = (460.0, 250.0);
const INNER: (f64, f64) = (370.0, 160.0);
/// The upper left corner of that part.
const CORNER: (f64, f64) = (65.0, 40.0);
const COLORS: [&str; 4] = ["#0072b2", "#767676", "#d55e00", "#009e73"];

/// How numbers become positions along the x axis.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    /// Numbers above 0.
    Logarithmic,
}

pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) scale: Scale,
    pub(crate) y: String,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    /// Empty if the chart has one line only.
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The charts, so many of them in a row.
pub(crate) fn svg(charts: &[Chart], columns: usize) -> String {
    let (width, height) =
        (OUTER.0 * columns.min(charts.len()) as f64, OUTER.1 * charts.len().div_ceil(columns) as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (number, chart) in charts.iter().enumerate() {
        let (x, y) = (OUTER.0 * (number % columns) as f64, OUTER.1 * (number / columns) as f64);
        writeln!(svg, "<g transform=\"translate({x} {y})\">\n{}</g>", chart.draw()).unwrap();
    }
    svg + "</svg>\n"
}

impl Chart {
    fn draw(&self) -> String {
        let numbers = |of: fn(&(f64, f64)) -> f64| self.lines.iter().flat_map(|line| &line.points).map(of);
        let (first, last) = self.ends(numbers(|point| point.0));
        let top = round_up(numbers(|point| point.1).fold(0.0, f64::max));
        let place = |(x, y): (f64, f64)| {
            let along = (self.position(x) - first) / (last - first);
            (CORNER.0 + INNER.0 * along, CORNER.1 + INNER.1 * (1.0 - y / top))
        };
        let mut svg = text((OUTER.0 / 2.0, 18.0), "middle", "font-weight=\"bold\"", &self.title);
        svg += &text((CORNER.0, CORNER.1 - 8.0), "start", "fill=\"#444\"", &self.y);
        let below = CORNER.1 + INNER.1;
        svg += &text((CORNER.0 + INNER.0 / 2.0, below + 36.0), "middle", "fill=\"#444\"", &self.x);
        for step in 0..=4 {
            let value = top * f64::from(step) / 4.0;
            let y = CORNER.1 + INNER.1 * (1.0 - f64::from(step) / 4.0);
            svg += &text((CORNER.0 - 6.0, y + 4.0), "end", "", &number(value));
            svg += &segment((CORNER.0, y), (CORNER.0 + INNER.0, y));
        }
        for value in self.ticks(first, last) {
            let (x, _) = place((value, 0.0));
            svg += &text((x, below + 18.0), "middle", "", &number(value));
            svg += &segment((x, below), (x, below + 4.0));
        }
        for (line, color) in self.lines.iter().zip(COLORS.iter().cycle()) {
            svg += &line.draw(color, &place);
        }
        svg + &self.legend()
    }

    /// The names of the lines, in their colors, above the right end of the chart.
    fn legend(&self) -> String {
        let lines = self.lines.iter().zip(COLORS.iter().cycle());
        let name = |(line, color): (&Line, &&str)| {
            format!("<tspan fill=\"{color}\">\u{a0}\u{a0}{}</tspan>", escape(&line.name))
        };
        let names: String = lines.map(name).collect();
        let (x, y) = (CORNER.0 + INNER.0, CORNER.1 - 8.0);
        format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{names}</text>\n")
    }

    fn position(&self, x: f64) -> f64 {
        match self.scale {
            Scale::Linear => x,
            Scale::Logarithmic => x.log10(),
        }
    }

    /// The positions of the two ends of the x axis.
    fn ends(&self, numbers: impl Iterator<Item = f64>) -> (f64, f64) {
        let positions: Vec<f64> = numbers.map(|x| self.position(x)).collect();
        let last = positions.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self.scale {
            Scale::Linear => (0.0, round_up(last)),
            Scale::Logarithmic => (positions.iter().copied().fold(f64::INFINITY, f64::min), last),
        }
    }

    /// The numbers on the x axis.
    fn ticks(&self, first: f64, last: f64) -> Vec<f64> {
        match self.scale {
            Scale::Linear => (0..=4).map(|step| last * f64::from(step) / 4.0).collect(),
            Scale::Logarithmic => {
                let powers = (0..=12).map(f64::from).filter(|power| (first..=last).contains(power));
                powers.map(|power| 10_f64.powf(power)).collect()
            }
        }
    }
}

impl Line {
    fn draw(&self, color: &str, place: &impl Fn((f64, f64)) -> (f64, f64)) -> String {
        let places: Vec<(f64, f64)> = self.points.iter().map(|point| place(*point)).collect();
        let joined: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let joined = joined.join(" ");
        let mut svg =
            format!("<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{joined}\"/>\n");
        for (x, y) in places {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>").unwrap();
        }
        svg
    }
}

fn text((x, y): (f64, f64), anchor: &str, attributes: &str, text: &str) -> String {
    let text = escape(text);
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {attributes}>{text}</text>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn segment(from: (f64, f64), to: (f64, f64)) -> String {
    format!("<path stroke=\"#ddd\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>\n", from.0, from.1, to.0, to.1)
}

/// The next number whose quarters have few digits.
fn round_up(number: f64) -> f64 {
    let power = 10_f64.powf(number.max(1e-9).log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    steps.map(|step| step * power).into_iter().find(|step| *step >= number).unwrap_or(10.0 * power)
}

/// The shortest form of the number.
fn number(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 1e6 => (value / 1e6, "M"),
        _ if value >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = if value.fract() == 0.0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$}{unit}")
}
