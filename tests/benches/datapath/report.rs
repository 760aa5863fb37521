//! The results as JSON, as a table and as a chart.

use std::fmt::Write as _;

use serde_json::json;

use crate::sizes::Sizes;

/// What the rows of XDP and of tc are compared with.
const XDP_BASELINE: &str = "xdp_parse_lookup";
const TC_BASELINE: &str = "tc_parse_lookup";
pub const BASELINES: [&str; 2] = [XDP_BASELINE, TC_BASELINE];

/// The times of all rows, by round.
pub struct Report {
    rows: Vec<(&'static str, Vec<f64>)>,
}

/// One row of the result.
struct Figures {
    name: &'static str,
    min: f64,
    median: f64,
    max: f64,
    /// Median of the ratios to the baseline within each round.
    ratio: f64,
}

impl Report {
    pub fn new(names: Vec<&'static str>) -> Self {
        Self { rows: names.into_iter().map(|name| (name, Vec::new())).collect() }
    }

    /// Adds the time of a row in the present round, in ns.
    pub fn add(&mut self, row: usize, ns: f64) {
        self.rows[row].1.push(ns);
    }

    pub fn json(&self, sizes: &Sizes) -> String {
        let rows: Vec<_> = self
            .figures()
            .iter()
            .map(|row| {
                json!({"name": row.name, "ns": [rounded(row.min), rounded(row.median), rounded(row.max)], "x_r1": (row.ratio * 100.0).round() / 100.0})
            })
            .collect();
        format!("{:#}\n", json!({ "rows": rows, "sizes": sizes.json() }))
    }

    pub fn markdown(&self, sizes: &Sizes) -> String {
        let mut text = String::from("| program | ns min / median / max | x R1 (T1) |\n|---|---|---|\n");
        for Figures { name, min, median, max, ratio } in self.figures() {
            writeln!(text, "| {name} | {min:.1} / {median:.1} / {max:.1} | {ratio:.2} |").unwrap();
        }
        text + &sizes.markdown()
    }

    /// A bar for the median of each row, with a line from its minimum to its maximum.
    pub fn svg(&self) -> String {
        const ROW: f64 = 26.0;
        const LEFT: f64 = 230.0;
        const WIDTH: f64 = 480.0;
        const TOP: f64 = 44.0;
        let figures = self.figures();
        let longest = figures.iter().map(|row| row.max).fold(1.0, f64::max);
        let x = |ns: f64| LEFT + ns / longest * WIDTH;
        let height = TOP + ROW * figures.len() as f64 + 16.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"16\" y=\"24\" font-size=\"15\">CPU time of one packet, ns (median; line: min to max), and x R1 or T1</text>\n"
        );
        for (index, row) in figures.iter().enumerate() {
            let y = TOP + ROW * index as f64;
            let colour = if row.name.starts_with("pod") { "#1f6f8b" } else { "#9aa5ab" };
            let middle = y + 9.0;
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
                 <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\">{:.0} ns, {:.2}x</text>",
                LEFT - 8.0,
                y + 13.0,
                row.name,
                x(row.median) - LEFT,
                x(row.min),
                x(row.max),
                x(row.max) + 8.0,
                y + 13.0,
                row.median,
                row.ratio,
            )
            .unwrap();
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn figures(&self) -> Vec<Figures> {
        self.rows
            .iter()
            .map(|(name, times)| {
                let base = self.times(if name.starts_with("xdp") { XDP_BASELINE } else { TC_BASELINE });
                let ratios = times.iter().zip(base).map(|(time, base)| time / base).collect();
                let (min, median, max) = spread(times.clone());
                Figures { name, min, median, max, ratio: spread(ratios).1 }
            })
            .collect()
    }

    fn times(&self, name: &str) -> &[f64] {
        self.rows.iter().find(|(known, _)| *known == name).map(|(_, times)| times.as_slice()).unwrap_or_default()
    }
}

/// Minimum, median and maximum.
pub fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => (0.0, 0.0, 0.0),
        [min, .., max] => (*min, values[values.len() / 2], *max),
        [only] => (*only, *only, *only),
    }
}

fn rounded(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}
