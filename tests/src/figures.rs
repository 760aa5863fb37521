//! Figures of a benchmark: sections of rows, each with a value a round, and what it is compared with.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::iperf::spread;

/// Where a benchmark writes what it has to say.
#[derive(Args, Debug)]
pub struct Output {
    /// Writes the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the tables as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Writes a chart.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Output {
    /// Prints the tables, and writes what was asked for.
    pub fn write(&self, json: String, markdown: String, svg: String) -> Result<()> {
        print!("{markdown}");
        for (path, content) in [(&self.json, json), (&self.markdown, markdown), (&self.svg, svg)] {
            if let Some(path) = path {
                std::fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// [`Output::write`] of figures.
    pub fn write_figures(&self, figures: &Figures) -> Result<()> {
        self.write(figures.json(), figures.markdown(), figures.svg())
    }
}

/// What a benchmark has to say.
#[derive(Debug, Default)]
pub struct Figures {
    pub title: String,
    pub sections: Vec<Section>,
}

/// Rows of one unit that belong in one picture.
#[derive(Debug)]
pub struct Section {
    pub title: String,
    /// Of the values, such as `1/s` or `ns`.
    pub unit: &'static str,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    /// The row this one is compared with, in the same section.
    baseline: Option<String>,
    /// One a round.
    values: Vec<f64>,
}

/// A row as it is shown.
struct Shown<'a> {
    name: &'a str,
    baseline: Option<&'a str>,
    min: f64,
    median: f64,
    max: f64,
    /// Median of the ratios to the baseline within each round.
    ratio: Option<f64>,
}

impl Section {
    pub fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, rows: Vec::new() }
    }

    /// Adds the value of a row in the present round. A row that is compared gets its value in every round in which its
    /// baseline gets one.
    pub fn add(&mut self, name: &str, baseline: Option<&str>, value: f64) {
        let position = self.rows.iter().position(|row| row.name == name);
        let index = position.unwrap_or_else(|| {
            self.rows.push(Row { name: name.into(), baseline: baseline.map(Into::into), values: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[index].values.push(value);
    }

    fn shown(&self) -> Vec<Shown<'_>> {
        let base = |name: &str| self.rows.iter().find(|row| row.name == name);
        self.rows
            .iter()
            .filter_map(|row| {
                let [min, median, max] = spread(&row.values)?;
                let ratios = row.baseline.as_deref().and_then(base).map(|base| {
                    row.values.iter().zip(&base.values).map(|(value, base)| value / base).collect::<Vec<_>>()
                });
                let ratio = ratios.and_then(|ratios| spread(&ratios)).map(|[_, median, _]| median);
                Some(Shown { name: &row.name, baseline: row.baseline.as_deref(), min, median, max, ratio })
            })
            .collect()
    }
}

impl Figures {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), sections: Vec::new() }
    }

    /// `{"title", "rows": [{"section", "unit", "name", "min", "median", "max", "baseline", "ratio"}]}`.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self
            .sections
            .iter()
            .flat_map(|section| {
                section.shown().into_iter().map(|row| {
                    json!({
                        "section": section.title, "unit": section.unit, "name": row.name,
                        "min": rounded(row.min), "median": rounded(row.median), "max": rounded(row.max),
                        "baseline": row.baseline, "ratio": row.ratio.map(rounded),
                    })
                })
            })
            .collect();
        format!("{:#}\n", json!({ "title": self.title, "rows": rows }))
    }

    /// A table for each section.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            writeln!(text, "**{}**\n", section.title).unwrap_or_default();
            writeln!(text, "| | {} min / median / max | ratio |\n|---|---|---|", section.unit).unwrap_or_default();
            for row in section.shown() {
                let ratio = match (row.ratio, row.baseline) {
                    (Some(ratio), Some(base)) if base != row.name => format!("{ratio:.2} of {base}"),
                    _ => String::new(),
                };
                let (min, median, max) = (short(row.min), short(row.median), short(row.max));
                writeln!(text, "| {} | {min} / {median} / {max} | {ratio} |", row.name).unwrap_or_default();
            }
            text.push('\n');
        }
        text
    }

    /// A bar for the median of each row, with a line from its minimum to its maximum.
    pub fn svg(&self) -> String {
        const ROW: f64 = 24.0;
        let mut body = String::new();
        let mut y = 40.0;
        for section in &self.sections {
            let rows = section.shown();
            y += 14.0;
            let (title, unit) = (escape(&section.title), section.unit);
            writeln!(body, "<text x=\"16\" y=\"{y:.1}\" font-weight=\"bold\">{title} ({unit})</text>")
                .unwrap_or_default();
            y += 10.0;
            let longest = rows.iter().map(|row| row.max).fold(f64::MIN_POSITIVE, f64::max);
            for row in &rows {
                body.push_str(&bar(row, y, longest));
                y += ROW;
            }
            y += 16.0;
        }
        let title = escape(&self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"{y:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"16\" y=\"24\" font-size=\"15\">{title} (bar: median; line: min to max)</text>\n{body}</svg>\n"
        )
    }
}

fn bar(row: &Shown<'_>, y: f64, longest: f64) -> String {
    const LEFT: f64 = 300.0;
    const WIDTH: f64 = 460.0;
    let x = |value: f64| LEFT + value / longest * WIDTH;
    let colour = if row.name.contains("diolkos") { "#1f6f8b" } else { "#9aa5ab" };
    let ratio = row.ratio.map(|ratio| format!(", {ratio:.2}x")).unwrap_or_default();
    let (name, middle, below) = (escape(row.name), y + 9.0, y + 13.0);
    format!(
        "<text x=\"{:.1}\" y=\"{below:.1}\" text-anchor=\"end\">{name}</text>\n\
         <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>\n\
         <text x=\"{:.1}\" y=\"{below:.1}\">{}{ratio}</text>\n",
        LEFT - 8.0,
        x(row.median) - LEFT,
        x(row.min),
        x(row.max),
        x(row.max) + 8.0,
        short(row.median),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Three or four digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn figures() -> Figures {
        let mut section = Section::new("connections < here", "1/s");
        for (base, ours) in [(10.0, 20.0), (20.0, 20.0), (10.0, 15.0)] {
            section.add("direct", Some("direct"), base);
            section.add("diolkos", Some("direct"), ours);
        }
        Figures { title: "t".into(), sections: vec![section] }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_the_rounds() {
        let json: Value = serde_json::from_str(&figures().json()).unwrap();
        assert_eq!(json["rows"][1]["name"], "diolkos");
        assert_eq!(json["rows"][1]["ratio"], 1.5);
        assert_eq!(json["rows"][1]["min"], 15.0);
        assert_eq!(json["rows"][0]["ratio"], 1.0);
    }

    #[test]
    fn a_baseline_is_not_compared_with_itself_in_the_table() {
        let markdown = figures().markdown();
        assert!(markdown.contains("| diolkos | 15.0 / 20.0 / 20.0 | 1.50 of direct |"), "{markdown}");
        assert!(markdown.contains("| direct | 10.0 / 10.0 / 20.0 |  |"), "{markdown}");
    }

    #[test]
    fn the_chart_escapes_what_xml_would_take_for_its_own() {
        assert!(figures().svg().contains("connections &lt; here"));
    }
}
