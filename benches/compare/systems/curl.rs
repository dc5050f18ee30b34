//! curl from nginx: no file system, the bytes come and are thrown away.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use super::nginx::{self, Nginx};
use super::{Offered, Profile, System};
use crate::content::{Content, SMALL_LEN};
use crate::processes::{first_line, missing, output, program};
use crate::readings::{Figure, Limit, READERS, Reached, Reading, What, repeat};

pub fn offered() -> Offered {
    Offered {
        profile: Profile {
            name: "curl (HTTP)",
            settings: "output to /dev/null; one process a reader, each with one kept connection; nothing is kept, so warm is cold again",
            abilities: ["no", "no", "no", "no", "no", "not here (HTTPS does)"],
        },
        missing: || missing(&["curl", "nginx"]),
        version: || {
            let said = first_line(program("curl").arg("--version"));
            format!("{}, {}", said.split(" (").next().unwrap_or_default(), nginx::version())
        },
        make: |dir, content| Box::new(Web(Nginx::start(&dir.join("curl"), &content.dir))),
    }
}

struct Web(Nginx);

impl System for Web {
    fn start(&self, home: &Path) -> Box<dyn Reached> {
        Box::new(Fetching { url: self.0.url.clone(), home: home.to_owned() })
    }
}

struct Fetching {
    url: String,
    home: PathBuf,
}

/// What a curl is to print of each file: its length.
const PRINT_LEN: &str = "write-out = \"%{size_download}\\n\"\nsilent\nfail\noutput = \"/dev/null\"\n";

impl Fetching {
    /// A curl that fetches what `orders` say, each of which is a few lines of its settings.
    fn start(&self, name: &str, orders: impl Iterator<Item = String>) -> Child {
        let file = self.home.join(name);
        let mut text = String::new();
        for order in orders {
            let separator = if text.is_empty() { "" } else { "next\n" };
            write!(text, "{separator}{order}{PRINT_LEN}").unwrap();
        }
        std::fs::write(&file, text).unwrap();
        program("curl").arg("-q").arg("--config").arg(file).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn large_once(&self, content: &Content) -> Figure {
        let start = Instant::now();
        let order = format!("url = \"{}/{}\"\n", self.url, Content::LARGE);
        assert_eq!(lens(self.start("large", std::iter::once(order))), [content.len]);
        content.len as f64 / 1e6 / start.elapsed().as_secs_f64()
    }

    fn small_once(&self, content: &Content) -> Figure {
        let start = Instant::now();
        let order = |path: &String| format!("url = \"{}/{path}\"\n", self.url);
        let share = |reader: usize| content.small.iter().skip(reader).step_by(READERS).map(order);
        let readers: Vec<_> =
            (0..READERS).map(|reader| self.start(&format!("small-{reader}"), share(reader))).collect();
        let lens: Vec<usize> = readers.into_iter().flat_map(lens).collect();
        assert!(lens.len() == content.small.len() && lens.iter().all(|len| *len == SMALL_LEN));
        lens.len() as f64 / start.elapsed().as_secs_f64()
    }

    fn random_once(&self, content: &Content) -> Figure {
        let start = Instant::now();
        let order = |page: &u64| {
            let at = page * SMALL_LEN as u64;
            let last = at + SMALL_LEN as u64 - 1;
            format!("url = \"{}/{}\"\nrange = \"{at}-{last}\"\n", self.url, Content::LARGE)
        };
        let lens = lens(self.start("random", content.pages.iter().map(order)));
        assert!(lens.len() == content.pages.len() && lens.iter().all(|len| *len == SMALL_LEN));
        lens.len() as f64 / start.elapsed().as_secs_f64()
    }
}

/// What a curl printed: the length of each file that came.
fn lens(curl: Child) -> Vec<usize> {
    let output = curl.wait_with_output().unwrap();
    assert!(output.status.success(), "curl: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(|len| len.parse().unwrap()).collect()
}

impl Reached for Fetching {
    fn read(&self, reading: Reading, content: &Content, _limit: Limit) -> Figure {
        let once = || match reading.what {
            What::Large => self.large_once(content),
            What::Small => self.small_once(content),
            What::Random => self.random_once(content),
        };
        if reading.warm { repeat(once) } else { once() }
    }

    fn check(&self, content: &Content) {
        let file = self.home.join("large");
        output(program("curl").args(["-q", "-s", "-o"]).arg(&file).arg(format!("{}/{}", self.url, Content::LARGE)));
        assert!(std::fs::read(file).unwrap() == std::fs::read(content.large()).unwrap(), "curl brought other bytes");
    }
}
