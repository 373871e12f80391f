//! Line charts as SVG, readable on light and on dark pages.

use std::fmt::Write;

use crate::report;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
/// The plot's sides; the legend is to its right.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 390.0;
/// Height of a line of the legend.
const LINE: f64 = 22.0;

/// Colours of series on light and dark, told apart also by those who do not see all of them (after Okabe and Ito).
const COLOURS: [(&str, &str); 8] = [
    ("#57606a", "#9198a1"),
    ("#0062b1", "#58a6ff"),
    ("#007a5a", "#3fb990"),
    ("#b35900", "#f0a04b"),
    ("#a3417f", "#e48cc4"),
    ("#c0392b", "#ff7b72"),
    ("#7a6200", "#d8c04c"),
    ("#2b7f9e", "#79c7e3"),
];

/// A chart with logarithmic axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Its heading.
    pub title: String,
    /// What is to the right, with its unit.
    pub x: String,
    /// What is upwards, with its unit.
    pub y: String,
    /// Places to the right that are named: value and name.
    pub ticks: Vec<(f64, String)>,
    /// The lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Which colour.
    pub colour: usize,
    /// Whether it is broken.
    pub dashed: bool,
    /// From left to right.
    pub points: Vec<Point>,
}

/// A point of a line; all values are above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// How far to the right.
    pub x: f64,
    /// How far up.
    pub y: f64,
    /// The lowest and the highest of what `y` is the median of.
    pub range: (f64, f64),
}

/// A logarithmic axis: from a span of values to a span of the drawing.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, margin: f64, (from, to): (f64, f64)) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        Self {
            low: low / margin,
            high: high * margin,
            from,
            to,
        }
    }

    fn at(self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }

    /// Round values in its span: 1, 2 and 5 of each power of ten, or only the powers when there are many.
    fn round_values(self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut values = Vec::new();
        let mut power = 10_f64.powf(self.low.log10().floor());
        while power <= self.high {
            values.extend(steps.iter().map(|step| step * power));
            power *= 10.0;
        }
        values.retain(|value| (self.low..=self.high).contains(value));
        values
    }
}

impl Chart {
    /// The drawing; `None` when there is no point in it.
    #[must_use]
    pub fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        points().next()?;
        let x = Axis::new(points().map(|point| point.x), 1.15, (LEFT, RIGHT));
        let ranges = points().flat_map(|point| [point.range.0, point.range.1]);
        let y = Axis::new(ranges, 1.2, (BOTTOM, TOP));

        let mut svg = head(&self.title);
        self.axes(&mut svg, x, y);
        for series in &self.series {
            series.draw(&mut svg, x, y);
        }
        self.legend(&mut svg);
        svg += "</svg>\n";
        Some(svg)
    }

    fn axes(&self, svg: &mut String, x: Axis, y: Axis) {
        for value in y.round_values() {
            let at = y.at(value);
            let _ = writeln!(
                svg,
                r#"<path class="grid" d="M{LEFT} {at:.1}H{RIGHT}"/><text class="small" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 8.0,
                at + 4.0,
                tick(value)
            );
        }
        for (value, name) in &self.ticks {
            let at = x.at(*value);
            let _ = writeln!(
                svg,
                r#"<path class="grid" d="M{at:.1} {TOP}V{BOTTOM}"/><text class="small" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                BOTTOM + 20.0,
                escaped(name)
            );
        }
        let _ = writeln!(
            svg,
            r#"<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>
<text transform="translate(20 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 48.0,
            escaped(&self.x),
            f64::midpoint(TOP, BOTTOM),
            escaped(&self.y)
        );
    }

    fn legend(&self, svg: &mut String) {
        let (left, mut at) = (RIGHT + 20.0, TOP + 8.0);
        for series in &self.series {
            let _ = writeln!(
                svg,
                r#"<path class="{}" d="M{left} {at}h28"/><text class="small" x="{}" y="{}">{}</text>"#,
                series.class(),
                left + 36.0,
                at + 4.0,
                escaped(&series.name)
            );
            at += LINE;
        }
    }
}

impl Series {
    fn class(&self) -> String {
        let dash = if self.dashed { " dash" } else { "" };
        format!("line c{}{dash}", self.colour % COLOURS.len())
    }

    fn draw(&self, svg: &mut String, x: Axis, y: Axis) {
        let mut line = String::new();
        for (number, point) in self.points.iter().enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            let _ = write!(line, "{command}{:.1} {:.1}", x.at(point.x), y.at(point.y));
        }
        let _ = writeln!(
            svg,
            r#"<path class="{}" d="{line}"><title>{}</title></path>"#,
            self.class(),
            escaped(&self.name)
        );
        let colour = self.colour % COLOURS.len();
        for point in &self.points {
            let (at, low, high) = (x.at(point.x), y.at(point.range.0), y.at(point.range.1));
            let _ = writeln!(
                svg,
                r#"<path class="range c{colour}" d="M{at:.1} {low:.1}V{high:.1}"/><circle class="dot d{colour}" cx="{at:.1}" cy="{:.1}" r="3"/>"#,
                y.at(point.y)
            );
        }
    }
}

fn head(title: &str) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="14" role="img">
<title>{title}</title>
<style>
rect {{ fill: #ffffff; }}
text {{ fill: #1f2328; }}
.small {{ font-size: 12px; }}
.grid {{ stroke: #d8dee4; fill: none; }}
.axis {{ stroke: #57606a; fill: none; }}
.line {{ stroke-width: 2; fill: none; }}
.range {{ stroke-width: 1.5; opacity: 0.6; fill: none; }}
.dash {{ stroke-dasharray: 6 4; }}
"#,
        title = escaped(title)
    );
    let mut dark = String::from(
        "rect { fill: #0d1117; }\ntext { fill: #e6edf3; }\n.grid { stroke: #30363d; }\n.axis { stroke: #9198a1; }\n",
    );
    for (number, (light_colour, dark_colour)) in COLOURS.iter().enumerate() {
        let _ = writeln!(
            svg,
            ".c{number} {{ stroke: {light_colour}; }}\n.d{number} {{ fill: {light_colour}; }}"
        );
        let _ = writeln!(
            dark,
            ".c{number} {{ stroke: {dark_colour}; }}\n.d{number} {{ fill: {dark_colour}; }}"
        );
    }
    let _ = writeln!(
        svg,
        "@media (prefers-color-scheme: dark) {{\n{dark}}}\n</style>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>",
        escaped(title)
    );
    svg
}

/// A round value, without digits that say nothing.
fn tick(value: f64) -> String {
    if value >= 1.0 {
        return format!("{value:.0}");
    }
    let text = report::number(value);
    let text = text.trim_end_matches('0');
    match text.trim_end_matches('.') {
        "" | "0" | "-0" => format!("{value:e}"),
        short => short.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn chart() -> Chart {
        let point = |x: f64, y: f64| Point {
            x,
            y,
            range: (y * 0.9, y * 1.1),
        };
        let series = |name: &str, factor: f64| Series {
            name: name.to_owned(),
            colour: 1,
            dashed: false,
            points: vec![point(64.0, factor), point(1e8, 1e4 * factor)],
        };
        Chart {
            title: "a < b & c".to_owned(),
            x: "message".to_owned(),
            y: "time (µs)".to_owned(),
            ticks: vec![(64.0, "64 B".to_owned()), (1e8, "100 MB".to_owned())],
            series: vec![series("one", 3.0), series("<two>", 300.0)],
        }
    }

    #[test]
    fn it_is_xml_with_every_series_axis_and_point() {
        let svg = chart().svg().unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
        for expected in [
            "a < b & c",
            "one",
            "<two>",
            "64 B",
            "100 MB",
            "message",
            "time (µs)",
            "10",
        ] {
            assert!(texts.contains(&expected), "{expected}: {texts:?}");
        }
        let count = |name: &str| {
            document
                .descendants()
                .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", name)))
                .count()
        };
        assert_eq!(count("circle"), 4);
        let inside = document
            .descendants()
            .filter(|node| node.tag_name().name() == "circle")
            .all(|circle| {
                let at = |name| circle.attribute(name).unwrap().parse::<f64>().unwrap();
                (LEFT..=RIGHT).contains(&at("cx")) && (TOP..=BOTTOM).contains(&at("cy"))
            });
        assert!(inside, "{svg}");
    }

    #[test]
    fn nothing_is_not_drawn() {
        let mut empty = chart();
        empty.series.clear();
        assert_eq!(empty.svg(), None);
    }

    #[test]
    fn one_point_is_drawn_in_the_plot() {
        let mut one = chart();
        one.series.truncate(1);
        one.series[0].points.truncate(1);
        assert!(!one.svg().unwrap().contains("NaN"));
    }

    #[test]
    fn axes_have_round_values() {
        let axis = |low: f64, high: f64| Axis::new([low, high].into_iter(), 1.0, (0.0, 1.0));
        assert_eq!(axis(0.9, 60.0).round_values(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(
            axis(3.0, 30_000.0).round_values(),
            [10.0, 100.0, 1000.0, 10_000.0]
        );
        assert_eq!([0.05, 0.2, 1.0, 2000.0].map(tick), ["0.05", "0.2", "1", "2000"]);
        assert_eq!(tick(0.001), "0.001");
    }
}
