// SPDX-License-Identifier: Apache-2.0
//! Results as one chart: a panel per measurement, a bar per row, whiskers from p10 to p90.

use super::{
    axis::Axis,
    svg::{Anchor, Svg},
    table::number,
};
use crate::{
    facts::Facts,
    interleave::Outcome,
    results::{Measure, Row, Shape},
    system::System,
};

const WIDTH: f64 = 1180.0;
const MARGIN: f64 = 28.0;
const GAP: f64 = 36.0;
const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = (WIDTH - 2.0 * MARGIN - GAP) / COLUMNS as f64;
/// Room for the labels of rows, left of the bars.
const LABEL_WIDTH: f64 = 216.0;
/// Room for the number that stands right of the longest whisker.
const VALUE_WIDTH: f64 = 64.0;
const ROW_HEIGHT: f64 = 24.0;
const BAR_HEIGHT: f64 = 15.0;
const TITLE_HEIGHT: f64 = 30.0;
const AXIS_HEIGHT: f64 = 40.0;
/// Where the first panels begin.
const HEAD_HEIGHT: f64 = 128.0;

const STYLE: &str = "
  text { font-family: 'Inter', 'Helvetica Neue', Arial, sans-serif; fill: #24292f; }
  .head { font-size: 22px; font-weight: 600; } .note { font-size: 12px; fill: #57606a; }
  .title { font-size: 14px; font-weight: 600; } .label { font-size: 12px; }
  .value { font-size: 12px; font-weight: 600; } .mark { font-size: 11px; fill: #57606a; }
  .paper { fill: #ffffff; } .grid { stroke: #e4e7eb; stroke-width: 1; }
  .base { stroke: #8c959f; stroke-width: 1; } .whisker { stroke: #24292f; stroke-width: 1.2; }
  .plain { fill: #afb8c1; } .runc { fill: #5b8def; } .runsc { fill: #f0a03c; }
  .trine { fill: #1f9d72; } .missing { font-size: 12px; fill: #cf222e; font-style: italic; }
";

/// What may be compared by its length: a panel whose numbers are of one unit, in which it is shown.
struct Panel<'a> {
    measure: &'a Measure,
    /// What samples are divided by.
    divisor: f64,
    unit: &'static str,
}

/// Draws all measurements.
pub(crate) fn draw(facts: &Facts, measures: &[Measure]) -> String {
    // What nobody could be measured for is in the table, with the reason.
    let drawn = measures.iter().filter(|it| it.rows.iter().any(|row| row.summary.is_some()));
    let panels: Vec<Panel<'_>> = drawn.map(Panel::of).collect();
    let heights: Vec<f64> = panels
        .chunks(COLUMNS)
        .map(|line| line.iter().map(Panel::height).fold(0.0, f64::max))
        .collect();
    let height = HEAD_HEIGHT + heights.iter().map(|line| line + GAP).sum::<f64>();

    let mut svg = Svg::default();
    svg.rectangle(0.0, 0.0, WIDTH, height, "paper");
    head(&mut svg, facts);
    let mut y = HEAD_HEIGHT;
    for (line, height) in panels.chunks(COLUMNS).zip(heights) {
        for (column, panel) in line.iter().enumerate() {
            panel.draw(&mut svg, MARGIN + column as f64 * (PANEL_WIDTH + GAP), y);
        }
        y += height + GAP;
    }
    svg.finish(WIDTH, height, STYLE, "Trine, runc and gVisor side by side")
}

fn head(svg: &mut Svg, facts: &Facts) {
    let quick = if facts.is_quick { " (--quick: these numbers mean nothing)" } else { "" };
    let title = format!("Trine, runc and gVisor side by side{quick}");
    svg.text(MARGIN, 38.0, Anchor::Start, "head", &title);
    let mut y = 58.0;
    for line in facts.lines().iter().take(3) {
        svg.text(MARGIN, y, Anchor::Start, "note", line);
        y += 16.0;
    }
    let mut x = MARGIN;
    for system in System::ALL {
        svg.rectangle(x, y - 5.0, 12.0, 12.0, system.name());
        svg.text(x + 18.0, y + 5.0, Anchor::Start, "label", system.name());
        x += 84.0;
    }
    let note =
        "bars: medians; whiskers: p10 to p90; shorter is better, unless the title says otherwise";
    svg.text(x, y + 5.0, Anchor::Start, "note", note);
}

impl<'a> Panel<'a> {
    fn of(measure: &'a Measure) -> Self {
        let (divisor, unit) = measure.scale();
        Self { measure, divisor, unit }
    }

    fn height(&self) -> f64 {
        TITLE_HEIGHT + ROW_HEIGHT * self.measure.rows.len() as f64 + AXIS_HEIGHT
    }

    fn draw(&self, svg: &mut Svg, left: f64, top: f64) {
        svg.text(left, top + 14.0, Anchor::Start, "title", &self.measure.title);
        let bars = self.bars();
        let reach =
            |bar: &Bar<'_>| bar.whisker.map_or(0.0, |(_, high)| bar.start + high.max(bar.length));
        let axis = Axis::to(bars.iter().map(reach).fold(0.0, f64::max));
        let origin = left + LABEL_WIDTH;
        let scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / axis.end;
        let (first, last) = (top + TITLE_HEIGHT, top + self.height() - AXIS_HEIGHT);

        for (mark, label) in axis.marks() {
            let x = origin + mark * scale;
            let class = if mark == 0.0 { "base" } else { "grid" };
            svg.stroke((x, first), (x, last + 4.0), class);
            svg.text(x, last + 18.0, Anchor::Middle, "mark", &label);
        }
        let middle = origin + axis.end * scale / 2.0;
        svg.text(middle, last + 34.0, Anchor::Middle, "mark", self.unit);
        for (index, bar) in bars.iter().enumerate() {
            bar.draw(svg, origin, first + ROW_HEIGHT * (index as f64 + 0.5), scale);
        }
    }

    fn bars(&self) -> Vec<Bar<'a>> {
        let mut start = 0.0;
        let mut bars = vec![];
        for row in &self.measure.rows {
            let length = row.median().unwrap_or(0.0) / self.divisor;
            let spread = row.summary.map(|it| (it.p10 / self.divisor, it.p90 / self.divisor));
            bars.push(Bar { row, start, length, whisker: spread });
            if self.measure.shape == Shape::Sequence {
                start += length;
            }
        }
        bars
    }
}

/// A row in the unit of its panel.
struct Bar<'a> {
    row: &'a Row,
    start: f64,
    length: f64,
    whisker: Option<(f64, f64)>,
}

impl Bar<'_> {
    fn draw(&self, svg: &mut Svg, origin: f64, middle: f64, scale: f64) {
        let x = origin + self.start * scale;
        let baseline = middle + 4.0;
        svg.text(origin - 8.0, baseline, Anchor::End, "label", &self.row.label);
        let Some((low, high)) = self.whisker else {
            let text = match &self.row.outcome {
                Outcome::Failed(_) => "failed",
                Outcome::Absent(_) | Outcome::Measured(_) => "absent",
            };
            svg.text(origin + 6.0, baseline, Anchor::Start, "missing", text);
            return;
        };
        // A bar of no width could not be seen; one below zero (memory that grew) is drawn as none.
        let width = (self.length * scale).max(1.0);
        svg.rectangle(x, middle - BAR_HEIGHT / 2.0, width, BAR_HEIGHT, self.row.system.name());
        let (from, to) = (x + low.max(0.0) * scale, x + high.max(0.0) * scale);
        if to > from {
            svg.stroke((from, middle), (to, middle), "whisker");
            for end in [from, to] {
                svg.stroke((end, middle - 4.0), (end, middle + 4.0), "whisker");
            }
        }
        let value = number(self.length);
        svg.text(x + width.max(to - x) + 6.0, baseline, Anchor::Start, "value", &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Unit;

    fn measures() -> Vec<Measure> {
        let rows = vec![
            Row::new(System::Runc, "runc run", Outcome::Measured(vec![80_000.0, 90_000.0])),
            Row::new(System::Runsc, "runsc <run>", Outcome::Failed("it & broke".to_owned())),
            Row::new(System::Trine, "trine run", Outcome::Measured(vec![20_000.0; 3])),
        ];
        let measure = |shape, unit| Measure {
            id: "x",
            title: "fork, exit & wait".to_owned(),
            method: String::new(),
            unit,
            shape,
            rows: rows.clone(),
        };
        vec![
            measure(Shape::Compared, Unit::Nanoseconds),
            measure(Shape::Sequence, Unit::Milliseconds),
            measure(Shape::Compared, Unit::Mebibytes),
        ]
    }

    #[test]
    fn chart_is_balanced_and_has_a_bar_per_measured_row() {
        let text = draw(&Facts::default(), &measures());

        assert_eq!(text.matches("<text").count(), text.matches("</text>").count());
        assert_eq!(text.matches(r#"class="trine""#).count(), 1 + 3, "the legend and three panels");
        assert_eq!(text.matches(r#"class="runsc""#).count(), 1, "the legend only");
        assert_eq!(text.matches(">failed</text>").count(), 3);
        assert!(text.contains("runsc &lt;run&gt;") && text.contains("fork, exit &amp; wait"));
        assert!(text.ends_with("</svg>\n") && !text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn nanoseconds_are_shown_in_a_readable_unit() {
        let text = draw(&Facts::default(), &measures()[..1]);

        assert!(text.contains(">us</text>") && text.contains(">85.00</text>"));
    }

    #[test]
    fn sequence_bars_begin_where_the_one_before_ends() {
        let measures = measures();
        let panel = Panel::of(&measures[1]);

        let starts: Vec<f64> = panel.bars().iter().map(|bar| bar.start).collect();

        assert_eq!(starts, [0.0, 85_000.0, 85_000.0]);
    }
}
