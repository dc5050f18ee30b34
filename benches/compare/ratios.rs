//! The gate of a quick run: how many times as fast as the others byhash is, against what it was once.

use std::collections::BTreeMap;

use crate::readings::Reading;
use crate::report::{OURS, Results};

/// By reading, then by system.
type Ratios = BTreeMap<String, BTreeMap<String, f64>>;

/// A ratio may fall to this part of the committed one: machines differ, and are busy.
const LEAST_PART: f64 = 0.5;

fn committed() -> Ratios {
    toml::from_str(include_str!("ratios.toml")).expect("ratios.toml is a table of tables")
}

/// Whether the system called `system` takes part.
pub fn name(system: &str) -> bool {
    system == OURS || committed().values().any(|others| others.contains_key(system))
}

/// Prints the ratios, each of the best rounds of both, and ends the process with 1 if one is below half of what
/// it was for any pair of which both were measured.
pub fn hold_against(results: &Results) {
    let ours = results.row(OURS).expect("byhash was measured");
    let mut fell = false;
    println!("\nHow many times as fast byhash is, each in its best round, and what it was when it was committed:");
    for (name, others) in &committed() {
        let reading = Reading::all()
            .find(|reading| reading.to_string() == *name)
            .unwrap_or_else(|| panic!("ratios.toml names a reading that there is not: {name}"));
        for (other, was) in others {
            let Some(row) = results.row(other) else {
                println!("{name:<12} {other:<20} not measured");
                continue;
            };
            // Of each its own best: in a round in which the other was slow, byhash is not fast.
            let [ours, theirs] = [ours, row].map(|row| row.figures(reading).iter().copied().fold(0.0, f64::max));
            let best = ours / theirs;
            let low = best < was * LEAST_PART;
            fell |= low;
            let verdict = if low { "  BELOW HALF OF IT" } else { "" };
            println!("{name:<12} {other:<20} {best:>6.2} {was:>6.2}{verdict}");
        }
    }
    if fell {
        eprintln!("byhash has become slower beside others; if that is meant, change benches/compare/ratios.toml");
        std::process::exit(1);
    }
}
