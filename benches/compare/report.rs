//! What came of it, as tables.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::chart::chart;
use crate::content::{Content, SMALL_LEN};
use crate::facts::facts;
use crate::readings::{Figure, Limit, READERS, Reading, What};
use crate::support::median;
use crate::systems::{ABILITIES, Offered, Profile};

/// The system that the others are compared with.
pub const OURS: &str = "byhash";

/// Everything that was measured.
pub struct Results {
    /// What was read, and how often.
    pub setting: String,
    pub rows: Vec<Row>,
}

/// One system.
pub struct Row {
    pub profile: Profile,
    version: String,
    missing: Vec<&'static str>,
    figures: BTreeMap<Reading, Vec<Figure>>,
}

impl Row {
    /// What was measured, a round each.
    pub fn figures(&self, reading: Reading) -> &[Figure] {
        self.figures.get(&reading).map_or(&[], Vec::as_slice)
    }

    /// Least, median and most, if it was measured.
    pub fn spread(&self, reading: Reading) -> Option<[Figure; 3]> {
        let figures = self.figures(reading);
        let least = figures.iter().copied().min_by(f64::total_cmp)?;
        let most = figures.iter().copied().max_by(f64::total_cmp)?;
        Some([least, median(figures), most])
    }
}

impl Results {
    pub fn new(content: &Content, rounds: usize, limit: Limit) -> Self {
        let setting = format!(
            "A large file of {} MiB, {} small ones of {SMALL_LEN} bytes with {READERS} readers, {} reads of {SMALL_LEN} \
             bytes at random. Median of {rounds} rounds (least-most). What took longer than {} s was broken off, and \
             what came until then counts.",
            content.len >> 20,
            content.small.len(),
            content.pages.len(),
            limit.0.as_secs()
        );
        Self { setting, rows: Vec::new() }
    }

    /// A system that is measured, or of which `missing` is not installed.
    pub fn enter(&mut self, offered: &Offered, missing: &[&'static str]) {
        let version = if missing.is_empty() { (offered.version)() } else { String::new() };
        let (profile, missing) = (offered.profile.clone(), missing.to_vec());
        self.rows.push(Row { profile, version, missing, figures: BTreeMap::new() });
    }

    pub fn note(&mut self, name: &str, reading: Reading, figure: Figure) {
        let row = self.row_mut(name);
        row.figures.entry(reading).or_default().push(figure);
    }

    fn row_mut(&mut self, name: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.profile.name == name).expect("only what was entered is measured")
    }

    /// The row of the system called `name`, if it was measured.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.profile.name == name && !row.figures.is_empty())
    }

    /// All of it in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.setting);
        let heads: Vec<String> = Reading::all().map(|reading| format!("{reading}, {}", reading.unit())).collect();
        text += &lines("", &heads, self.rows.iter().map(|row| (row.profile.name, self.measured(row))));
        if let Some(ours) = self.row(OURS) {
            let others = self.rows.iter().filter(|row| row.profile.name != OURS && !row.figures.is_empty());
            let ratios = others.map(|row| (row.profile.name, ratios(ours, row)));
            let heads: Vec<String> = Reading::all().map(|reading| reading.to_string()).collect();
            text += "\nHow many times as fast byhash is:\n\n";
            text += &lines("than", &heads, ratios);
        }
        text += "\nWhat else each does:\n\n";
        let able = |row: &Row| row.profile.abilities.map(str::to_owned).to_vec();
        text += &lines("", &ABILITIES.map(str::to_owned), self.rows.iter().map(|row| (row.profile.name, able(row))));
        text += "\nAs it was run:\n\n";
        let run = |row: &Row| vec![row.version.clone(), row.profile.settings.to_owned()];
        let heads = ["version", "settings"].map(str::to_owned);
        text += &lines("", &heads, self.rows.iter().map(|row| (row.profile.name, run(row))));
        text
    }

    fn measured(&self, row: &Row) -> Vec<String> {
        if !row.missing.is_empty() {
            return vec![format!("not here: {}", row.missing.join(", "))];
        }
        let cell = |reading: Reading| {
            row.spread(reading)
                .map_or_else(String::new, |[least, mid, most]| format!("{mid:.0} ({least:.0}-{most:.0})"))
        };
        Reading::all().map(cell).collect()
    }

    /// Writes table, chart and facts to `dir`.
    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        let facts = facts();
        fs::write(dir.join("compare.md"), format!("{}\n{facts}", self.table())).unwrap();
        fs::write(dir.join("machine.txt"), facts).unwrap();
        fs::write(dir.join("compare.svg"), chart(self)).unwrap();
        let mut raw = String::from("system\treading\tunit\tfigures\n");
        for row in &self.rows {
            for reading in Reading::all() {
                let figures: Vec<String> = row.figures(reading).iter().map(|figure| format!("{figure:.1}")).collect();
                writeln!(raw, "{}\t{reading}\t{}\t{}", row.profile.name, reading.unit(), figures.join(" ")).unwrap();
            }
        }
        fs::write(dir.join("figures.tsv"), raw).unwrap();
    }
}

/// `ours` as a multiple of `other`, where both were measured.
fn ratios(ours: &Row, other: &Row) -> Vec<String> {
    let ratio = |reading| Some(ours.spread(reading)?[1] / other.spread(reading)?[1]);
    Reading::all().map(|reading| ratio(reading).map_or_else(String::new, |ratio| format!("{ratio:.2}"))).collect()
}

/// A table in Markdown that can be read as it is, too.
fn lines<'a>(corner: &str, heads: &[String], rows: impl Iterator<Item = (&'a str, Vec<String>)>) -> String {
    let mut cells: Vec<Vec<String>> = vec![[&[corner.to_owned()], heads].concat()];
    cells.extend(rows.map(|(name, row)| [vec![name.to_owned()], row].concat()));
    let width = |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..=heads.len()).map(|column| width(column).unwrap_or(0).clamp(3, 40)).collect();
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        let cell = |column| row.get(column).map_or("", String::as_str);
        let cells = widths.iter().enumerate().map(|(column, width)| format!(" {:<width$} |", cell(column)));
        text += &format!("|{}\n", cells.collect::<String>());
        if number == 0 {
            let rule = |width: &usize| format!(" {} |", "-".repeat(*width));
            text += &format!("|{}\n", widths.iter().map(rule).collect::<String>());
        }
    }
    text
}

/// What a panel of the chart shows.
pub fn title(reading: Reading) -> String {
    let what = match reading.what {
        What::Large => "one large file",
        What::Small => "small files, eight readers",
        What::Random => "4 KiB at random",
    };
    format!("{what}, {}, {}", if reading.warm { "warm" } else { "cold" }, reading.unit())
}
