//! A process that fetches, adds, reads and removes is killed (SIGKILL) at random moments, again and again,
//! on the same cache; what the cache claims afterwards is right, and what was added is there.

#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "simulation/dice.rs"]
mod dice;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use byhash::ids::{BlobRange, ContentHash};
use byhash::metrics::Metrics;
use byhash::store::import::{Source, stage};
use byhash::store::{Config, Origin, Store, StoreError};
use byhash::verify::{GROUP_LEN, Proof, build_outboard, bytes_of, group_count, proof_runs};
use dice::Dice;

/// How often the process is killed; `BYHASH_KILLS` says another number.
const KILLS: usize = 100;

/// What the store may take: a quarter of all blobs, so that it evicts all the time.
const CAPACITY: u64 = 4 << 20;

/// Different blobs; every eighth is added, and the others are fetched.
const BLOBS: u64 = 64;

struct Sample {
    hash: ContentHash,
    content: Vec<u8>,
    outboard: Vec<u8>,
}

impl Sample {
    fn new(number: u64) -> Self {
        // A part of a group; one; several, up to 30.
        let len = [100, GROUP_LEN, 5 * GROUP_LEN + 7, 30 * GROUP_LEN][number as usize % 4] + number;
        let mut content = vec![0; len as usize];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut content);
        let (hash, outboard) = build_outboard(&content);
        Self { hash, content, outboard }
    }

    fn is_added(number: u64) -> bool {
        number.is_multiple_of(8)
    }

    fn write(&self, store: &Store, groups: Range<u64>) -> Result<(), StoreError> {
        let size = self.content.len() as u64;
        let ranges = [groups.clone()];
        let runs = proof_runs(size, &ranges);
        let nodes = runs.iter().flat_map(|run| &self.outboard[run.offset as usize..][..run.len]).copied().collect();
        let proof = Proof::verify(&self.hash, size, &ranges, nodes).expect("it is the blob's own");
        let range = bytes_of(size, &groups);
        let blob = store.create_partial(self.hash, size)?;
        blob.write(groups.start, &self.content[range.start as usize..range.end as usize], &proof)
    }
}

fn open(dir: &Path) -> Store {
    let config = Config { dir: dir.to_owned(), capacity: CAPACITY, keep_free: 0 };
    Store::open(config, Arc::new(Metrics::default())).unwrap()
}

/// What the killed process runs, until that happens. It says what it has done that must last.
#[test]
#[ignore = "the other test runs it, and kills it"]
fn killed() {
    let Ok(dir) = std::env::var("BYHASH_KILLED_DIR") else { return };
    let mut chance = Dice::new(std::env::var("BYHASH_KILLED_SEED").unwrap().parse().unwrap());
    let say = |text: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
    };
    let store = open(dir.as_ref());
    let samples: Vec<_> = (0..BLOBS).map(Sample::new).collect();
    say("ready");
    loop {
        let number = chance.number(0..BLOBS);
        let sample = &samples[number as usize];
        match chance.number(0..12) {
            0 => store.flush().unwrap(),
            1 if Sample::is_added(number) => {
                say(&format!("removing {number}"));
                store.remove(&sample.hash).unwrap();
            }
            1 => store.remove(&sample.hash).unwrap(),
            2 | 3 => {
                if let Some(blob) = store.blob(&sample.hash).unwrap() {
                    for groups in blob.verified().iter() {
                        blob.read(bytes_of(blob.size(), groups)).unwrap();
                    }
                }
            }
            _ if Sample::is_added(number) => {
                let staged = stage(dir.as_ref(), Source::Stream(&mut sample.content.as_slice()), &|_| {}).unwrap();
                match store.adopt(staged.blob()) {
                    Ok(()) => say(&format!("added {number}")),
                    Err(StoreError::NoRoom { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            _ => {
                let count = group_count(sample.content.len() as u64);
                let first = chance.number(0..count);
                let end = first + 1 + chance.number(0..count - first);
                match sample.write(&store, first..end) {
                    Ok(()) | Err(StoreError::Full { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        say("step");
    }
}

/// Runs the process, kills it after a number of lines and a moment, and notes what it has said.
fn run_and_kill(dir: &Path, chance: &mut Dice, added: &mut BTreeSet<u64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["killed", "--exact", "--ignored", "--nocapture"])
        .env("BYHASH_KILLED_DIR", dir)
        .env("BYHASH_KILLED_SEED", chance.number(0..u64::MAX).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut note = |line: &str| {
        let number = |prefix| line.strip_prefix(prefix).and_then(|number| number.parse().ok());
        if let Some(number) = number("added ") {
            added.insert(number);
        }
        if let Some(number) = number("removing ") {
            added.remove(&number);
        }
        line == "ready"
    };
    let ready = lines.by_ref().find(|line| note(line));
    assert!(ready.is_some(), "the process has ended by itself: {}", child.wait().unwrap());
    for line in lines.by_ref().take(chance.number(0..120) as usize) {
        note(&line);
    }
    // Not always between two steps.
    let (begun, moment) = (Instant::now(), u128::from(chance.number(0..1000)));
    while begun.elapsed().as_micros() < moment {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    lines.for_each(|line| {
        note(&line);
    });
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
}

/// All that is claimed is right, and all that was added is there.
fn check(dir: &Path, samples: &[Sample], added: &BTreeSet<u64>, context: &str) {
    let store = open(dir);
    for (number, sample) in samples.iter().enumerate() {
        let blob = store.blob(&sample.hash).unwrap();
        for groups in blob.iter().flat_map(|blob| blob.verified().iter().cloned().collect::<Vec<_>>()) {
            let range = bytes_of(sample.content.len() as u64, &groups);
            let read = blob.as_ref().unwrap().read(range);
            let read = read.unwrap_or_else(|error| panic!("{context}: {number} is claimed, but {error}"));
            assert_eq!(read, &sample.content[range.start as usize..range.end as usize], "{context}: {number}");
        }
        if added.contains(&(number as u64)) {
            let info = blob.as_ref().unwrap_or_else(|| panic!("{context}: {number} was added")).info();
            assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Local, true), "{context}: {number}");
        }
    }
    let key = samples[0].hash.have_key();
    assert_eq!(store.find(&key).unwrap().is_some(), store.blob(&samples[0].hash).unwrap().is_some(), "{context}");
}

#[test]
fn a_killed_process_leaves_a_cache_whose_claims_are_right() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("BYHASH_KILL_SEED").unwrap_or_else(|| std::process::id().into());
    let kills = number("BYHASH_KILLS").unwrap_or(KILLS as u64);
    println!("seed {seed}: BYHASH_KILL_SEED={seed} runs it again, though not to the microsecond");
    let mut chance = Dice::new(seed);
    let samples: Vec<_> = (0..BLOBS).map(Sample::new).collect();
    let mut added = BTreeSet::new();
    for kill in 0..kills {
        run_and_kill(dir.path(), &mut chance, &mut added);
        // Now and then the index goes too.
        let without_index = chance.number(0..8) == 0;
        if without_index {
            std::fs::remove_file(dir.path().join("index.redb")).unwrap();
        }
        // And now and then nobody looks before the next one starts.
        if without_index || chance.number(0..3) > 0 {
            check(dir.path(), &samples, &added, &format!("kill {kill} of seed {seed}, index gone: {without_index}"));
        }
    }
    assert!(kills < 50 || !added.is_empty());
    let store = open(dir.path());
    let blob = added.first().map(|number| store.blob(&samples[*number as usize].hash).unwrap().unwrap());
    assert!(blob.is_none_or(|blob| blob.read(BlobRange::new(0, 1)).is_ok()));
}
