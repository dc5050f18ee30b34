//! The figures as bars, in SVG: small enough to be written by hand.

use std::fmt::Write;

use crate::readings::{Reading, What};
use crate::report::{OURS, Results, title};

/// All in pixels.
const PANEL_WIDTH: f64 = 450.0;
const NAME_WIDTH: f64 = 140.0;
const BAR_WIDTH: f64 = PANEL_WIDTH - NAME_WIDTH - 70.0;
const BAR_HEIGHT: f64 = 14.0;
const LINE_HEIGHT: f64 = 20.0;
const TITLE_HEIGHT: f64 = 30.0;
const MARGIN: f64 = 10.0;

const OUR_COLOUR: &str = "#1f6feb";
const OTHER_COLOUR: &str = "#9aa4af";
const SPREAD_COLOUR: &str = "#24292f";

/// A panel a reading, cold on the left and warm on the right, each with a scale of its own from zero on.
pub fn chart(results: &Results) -> String {
    let rows = results.rows.iter().filter(|row| row.spread(Reading { what: What::Large, warm: false }).is_some());
    let panel_height = TITLE_HEIGHT + LINE_HEIGHT * rows.count() as f64 + MARGIN;
    let (width, height) = (2.0 * PANEL_WIDTH + MARGIN, 3.0 * panel_height + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (row, what) in [What::Large, What::Small, What::Random].into_iter().enumerate() {
        for (column, warm) in [false, true].into_iter().enumerate() {
            let (left, top) = (MARGIN + PANEL_WIDTH * column as f64, MARGIN + panel_height * row as f64);
            panel(&mut svg, results, Reading { what, warm }, left, top);
        }
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, results: &Results, reading: Reading, left: f64, top: f64) {
    let rows = results.rows.iter().filter_map(|row| Some((row.profile.name, row.spread(reading)?)));
    let rows: Vec<_> = rows.collect();
    let most = rows.iter().map(|(_, spread)| spread[2]).fold(f64::MIN_POSITIVE, f64::max);
    let title = title(reading);
    writeln!(svg, "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>", top + 16.0).unwrap();
    for (line, (name, [least, mid, largest])) in rows.into_iter().enumerate() {
        let y = top + TITLE_HEIGHT + LINE_HEIGHT * line as f64;
        let x = left + NAME_WIDTH;
        let at = |figure: f64| x + BAR_WIDTH * figure / most;
        let colour = if name.starts_with(OURS) { OUR_COLOUR } else { OTHER_COLOUR };
        let (text_y, middle) = (y + BAR_HEIGHT - 3.0, y + BAR_HEIGHT / 2.0);
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{text_y:.1}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT:.0}\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"{SPREAD_COLOUR}\"/>\
             <text x=\"{:.1}\" y=\"{text_y:.1}\">{mid:.0}</text>",
            x - 6.0,
            (at(mid) - x).max(1.0),
            at(least),
            at(largest),
            at(largest) + 5.0,
        )
        .unwrap();
    }
}
