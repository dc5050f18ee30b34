//! Crashes at every point: what a store does to the disk is recorded, cut off after each operation, what
//! was not synced dropped, torn or kept, and a store opened on what is left.

mod disk;
mod faults;
mod recorder;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use byhash::ids::{BlobRange, ContentHash};
use byhash::metrics::Metrics;
use byhash::store::import::{Batch, Source, stage};
use byhash::store::{Config, Origin, Store};
use byhash::verify::{GROUP_LEN, Proof, build_outboard, bytes_of, group_count, proof_runs};
use disk::{Chance, Log, Unsynced, rebuild};
use recorder::{Op, mark, record};

const GROUP: usize = GROUP_LEN as usize;

/// At most so many points are tried, and the others skipped. There are some 400.
/// `BYHASH_CRASH_POINTS` says another number.
const POINTS: usize = 1000;

/// There is one recorder.
static ALONE: Mutex<()> = Mutex::new(());

struct Sample {
    hash: ContentHash,
    content: Vec<u8>,
    outboard: Vec<u8>,
}

impl Sample {
    fn new(seed: u8, len: usize) -> Self {
        let mut content = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut content);
        let (hash, outboard) = build_outboard(&content);
        Self { hash, content, outboard }
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn all(&self) -> Range<u64> {
        0..group_count(self.size())
    }

    fn bytes(&self, groups: &Range<u64>) -> &[u8] {
        let range = bytes_of(self.size(), groups);
        &self.content[range.start as usize..range.end as usize]
    }

    fn proof(&self, groups: &Range<u64>) -> Proof {
        let ranges = [groups.clone()];
        let runs = proof_runs(self.size(), &ranges);
        let nodes = runs.iter().flat_map(|run| &self.outboard[run.offset as usize..][..run.len]).copied().collect();
        Proof::verify(&self.hash, self.size(), &ranges, nodes).unwrap()
    }

    fn write(&self, store: &Store, groups: Range<u64>) {
        let blob = store.create_partial(self.hash, self.size()).unwrap();
        blob.write(groups.start, self.bytes(&groups), &self.proof(&groups)).unwrap();
    }

    fn add(&self, store: &Store, dir: &Path) {
        let staged = stage(dir, Source::Stream(&mut self.content.as_slice()), &|_| {}).unwrap();
        store.adopt(staged.blob()).unwrap();
    }
}

/// Adds many small blobs together, so many that one sync is made for all.
fn add_together(store: &Store, dir: &Path, samples: &[Sample]) {
    let mut batch = Batch::create(dir).unwrap();
    for sample in samples {
        let room = &mut |batch: &str, bytes| store.make_room(batch, bytes);
        batch.stage(Source::Stream(&mut sample.content.as_slice()), room, &|_| {}).unwrap();
    }
    batch.sync().unwrap();
    assert!(store.adopt_all(batch.blobs()).iter().all(Result::is_ok));
}

fn scratch_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(dir: &Path) -> Store {
    let config = Config { dir: dir.to_owned(), capacity: 1 << 20, keep_free: 0 };
    Store::open(config, Arc::new(Metrics::default())).unwrap()
}

/// What had been promised when [`mark`] was called with this number: samples and their groups.
type Promises = Vec<(usize, Vec<Range<u64>>)>;

/// The sample of which a part is fetched and pinned.
const PINNED_SAMPLE: usize = 3;

/// Whether it has to be pinned, if it is there, once this mark was reached.
fn promised_pin(mark: usize) -> Option<bool> {
    match mark {
        0..=2 | 7.. => Some(false),
        4 | 5 => Some(true),
        // While it is being changed.
        3 | 6 => None,
    }
}

/// A life of a store: fetched, added, resumed, removed and evicted blobs, and a restart in between.
fn live(dir: &Path, samples: &[Sample], promises: &mut Vec<Promises>) {
    let mut promise = |held: Promises| {
        promises.push(held);
        mark(promises.len() - 1);
    };
    let whole = |number: usize| (number, vec![samples[number].all()]);
    let store = open(dir);
    samples[0].write(&store, samples[0].all());
    samples[1].write(&store, 2..3);
    samples[1].write(&store, 0..1);
    store.flush().unwrap();
    promise(vec![whole(0), (1, vec![0..1, 2..3])]);
    samples[2].add(&store, dir);
    promise(vec![whole(0), (1, vec![0..1, 2..3]), whole(2)]);
    add_together(&store, dir, &samples[7..]);
    let together = || (7..samples.len()).map(whole);
    let mut promise = |held: Promises| promise(held.into_iter().chain(together()).collect());
    promise(vec![whole(0), (1, vec![0..1, 2..3]), whole(2)]);
    samples[1].write(&store, 1..2);
    samples[3].write(&store, 10..12);
    samples[3].write(&store, 19..20);
    store.flush().unwrap();
    promise(vec![whole(0), whole(1), whole(2), (3, vec![10..12, 19..20])]);
    store.set_pinned(&[samples[PINNED_SAMPLE].hash], true).unwrap();
    // Gone from here on, sooner or later.
    promise(vec![whole(1), whole(2), (3, vec![10..12, 19..20])]);
    store.remove(&samples[0].hash).unwrap();
    store.close().unwrap();
    drop(store);
    let store = open(dir);
    samples[3].write(&store, 0..10);
    samples[0].write(&store, samples[0].all());
    samples[0].add(&store, dir);
    promise(vec![whole(0), whole(1), whole(2), (3, vec![10..12, 19..20])]);
    promise(vec![whole(0), whole(1), whole(2)]);
    store.set_pinned(&[samples[PINNED_SAMPLE].hash], false).unwrap();
    // More than there is room for: what was fetched makes room, what was added stays.
    promise(vec![whole(0), whole(2)]);
    for sample in &samples[4..7] {
        sample.write(&store, sample.all());
    }
    store.close().unwrap();
}

fn samples() -> Vec<Sample> {
    // One group, several, added, partial; and the rest to fill the store.
    let lens = [100, 3 * GROUP, 5 * GROUP + 1, 20 * GROUP, 9 * GROUP, 8 * GROUP, 7 * GROUP];
    // And those that are added together; one of them has an outboard.
    let together = (0..18).map(|number| if number == 0 { GROUP + 9 } else { 50 + number });
    let lens: Vec<usize> = lens.into_iter().chain(together).collect();
    lens.iter().zip(0..).map(|(len, seed)| Sample::new(seed, *len)).collect()
}

/// Opens the store in `dir` and checks that all it claims is right and that it claims what was promised.
fn check(dir: &Path, samples: &[Sample], promised: &Promises, pinned: Option<bool>, context: &str) {
    let store = open(dir);
    if let (Some(pinned), Some(blob)) = (pinned, store.blob(&samples[PINNED_SAMPLE].hash).unwrap()) {
        assert_eq!(blob.info().pinned, pinned, "{context}");
    }
    for (number, sample) in samples.iter().enumerate() {
        let blob = store.blob(&sample.hash).unwrap_or_else(|error| panic!("{context}: {error}"));
        if let Some(blob) = &blob {
            for groups in blob.verified().iter() {
                let read = blob.read(bytes_of(sample.size(), groups));
                let read = read.unwrap_or_else(|error| panic!("{context}: sample {number} is claimed, but {error}"));
                assert_eq!(read, sample.bytes(groups), "{context}: sample {number}");
            }
        }
        for groups in promised.iter().filter(|(promised, _)| *promised == number).flat_map(|(_, groups)| groups) {
            let held = blob.as_ref().is_some_and(|blob| blob.has(groups.clone()));
            assert!(held, "{context}: {groups:?} of sample {number} were promised");
        }
    }
}

#[test]
fn after_a_crash_at_any_point_what_is_claimed_is_right_and_what_was_promised_is_there() {
    let _alone = ALONE.lock();
    let (dir, samples) = (scratch_dir(), samples());
    let mut promises = Vec::new();
    let log = Log::new(record(dir.path(), || live(dir.path(), &samples, &mut promises)));
    let count = log.ops.len();
    assert!(count > 300, "{count} operations are recorded: are the calls still those of the standard library?");
    let points = std::env::var("BYHASH_CRASH_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(POINTS);
    let seed = std::process::id().into();
    println!("{count} operations, seed {seed}");
    let mut chance = Chance(seed);
    let (step, first) = (count.div_ceil(points), chance.next() as usize);
    let last_mark = |cut: usize| {
        log.ops[..cut].iter().rev().find_map(|op| if let Op::Mark(number) = op { Some(*number) } else { None })
    };
    for cut in (first % step..=count).step_by(step) {
        let promised = last_mark(cut).map_or_else(Vec::new, |number| promises[number].clone());
        let pinned = last_mark(cut).and_then(promised_pin);
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(chance.next())] {
            let left = scratch_dir();
            rebuild(&log, cut, unsynced, left.path());
            let context = format!("cut at {cut}, {unsynced:?}");
            check(left.path(), &samples, &promised, pinned, &context);
        }
        if cut % 4 == 0 {
            without_index(&log, cut, &samples, &promised, pinned);
        }
    }
}

/// The crash has taken the index too: what was added is still there, and known as added; what was fetched as well,
/// if its last group is, and known as pinned.
fn without_index(log: &Log, cut: usize, samples: &[Sample], promised: &Promises, pinned: Option<bool>) {
    let left = scratch_dir();
    rebuild(log, cut, Unsynced::Lost, left.path());
    let _ = fs::remove_file(left.path().join("index.redb"));
    check(left.path(), samples, promised, pinned, &format!("cut at {cut}, no index"));
    let added: Promises = promised.iter().filter(|(number, _)| *number == 2 || *number >= 7).cloned().collect();
    if let Some((number, _)) = added.first() {
        let store = open(left.path());
        let blob = store.blob(&samples[*number].hash).unwrap().expect("it was held a moment ago");
        assert_eq!(blob.info().origin, Origin::Local, "cut at {cut}");
        assert_eq!(blob.read(BlobRange::new(0, u64::MAX)).unwrap(), samples[*number].content);
    }
}
