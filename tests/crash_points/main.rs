//! Crashes at every point: what a store does to the disk is recorded, cut off after each operation, what
//! was not synced dropped, torn or kept, and a store opened on what is left.

mod disk;
mod faults;
mod lives;
mod recorder;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use byhash::ids::{BlobRange, ContentHash};
use byhash::metrics::Metrics;
use byhash::store::import::{Batch, Source, stage};
use byhash::store::{Config, Origin, Store};
use byhash::verify::{GROUP_LEN, Proof, build_outboard, bytes_of, group_count, proof_runs};
use disk::{Chance, Log, Unsynced, rebuild};
use recorder::{Op, mark, record};

const GROUP: usize = GROUP_LEN as usize;

/// At most so many points of a life are tried, and the others skipped. There are some 900 in the longest, and 400 in the
/// others. `BYHASH_CRASH_POINTS` says another number.
const POINTS: usize = 1000;

/// There is one recorder; what a crash leaves is looked at without it.
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

fn content_file(dir: &Path, sample: &Sample) -> PathBuf {
    let name = sample.hash.to_string();
    dir.join("blobs").join(&name[..2]).join(name)
}

/// A store so small that [`live`] fills it, but only in the end, however much of it the index takes.
fn open(dir: &Path) -> Store {
    open_with(dir, 2 << 20)
}

fn open_with(dir: &Path, capacity: u64) -> Store {
    let config = Config { dir: dir.to_owned(), capacity, keep_free: 0 };
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
    let lens = [100, 3 * GROUP, 5 * GROUP + 1, 20 * GROUP, 40 * GROUP, 35 * GROUP, 30 * GROUP];
    // And those that are added together; one of them has an outboard.
    let together = (0..18).map(|number| if number == 0 { GROUP + 9 } else { 50 + number });
    let lens: Vec<usize> = lens.into_iter().chain(together).collect();
    lens.iter().zip(0..).map(|(len, seed)| Sample::new(seed, *len)).collect()
}

/// What a store has to hold after a crash.
#[derive(Default)]
struct Expected<'a> {
    promised: &'a [(usize, Vec<Range<u64>>)],
    /// A sample that is pinned, or is not, if it is there.
    pinned: Option<(usize, bool)>,
    /// Samples that the disk may have damaged where nothing is promised.
    damaged: &'a [usize],
}

impl Expected<'_> {
    fn of(&self, number: usize) -> impl Iterator<Item = &Range<u64>> {
        self.promised.iter().filter(move |(promised, _)| *promised == number).flat_map(|(_, groups)| groups)
    }

    fn may_be_damaged(&self, number: usize, group: u64) -> bool {
        self.damaged.contains(&number) && !self.of(number).any(|groups| groups.contains(&group))
    }
}

/// Checks that all that `store` claims is right, that it claims what is expected, and that it takes anew what is damaged.
fn check(store: Store, samples: &[Sample], expected: &Expected, context: &str) {
    if let Some((number, pinned)) = expected.pinned
        && let Some(blob) = store.blob(&samples[number].hash).unwrap()
    {
        assert_eq!(blob.info().pinned, pinned, "{context}");
    }
    for (number, sample) in samples.iter().enumerate() {
        let blob = store.blob(&sample.hash).unwrap_or_else(|error| panic!("{context}: {error}"));
        if let Some(blob) = &blob {
            for group in blob.verified().iter().cloned().flatten() {
                let groups = group..group + 1;
                match blob.read(bytes_of(sample.size(), &groups)) {
                    Ok(read) => assert_eq!(read, sample.bytes(&groups), "{context}: sample {number}"),
                    Err(error) => assert!(
                        expected.may_be_damaged(number, group),
                        "{context}: group {group} of sample {number} is claimed, but {error}"
                    ),
                }
            }
        }
        for groups in expected.of(number) {
            let held = blob.as_ref().is_some_and(|blob| blob.has(groups.clone()));
            assert!(held, "{context}: {groups:?} of sample {number} were promised");
        }
        if expected.damaged.contains(&number) {
            let blob = store.create_partial(sample.hash, sample.size()).unwrap();
            blob.missing(sample.all()).into_iter().for_each(|groups| sample.write(&store, groups));
            assert_eq!(blob.read(BlobRange::new(0, u64::MAX)).unwrap(), sample.content, "{context}: sample {number}");
        }
    }
}

/// A life that was recorded, and what was promised in it.
struct Life {
    log: Log,
    promises: Vec<Promises>,
}

/// What a crash has left.
struct Crash<'a> {
    dir: &'a Path,
    /// The last mark before it.
    mark: Option<usize>,
    promised: &'a [(usize, Vec<Range<u64>>)],
    /// It has taken the index too.
    without_index: bool,
    context: String,
}

impl Life {
    fn record(live: impl FnOnce(&Path, &mut Vec<Promises>)) -> Self {
        let _alone = ALONE.lock();
        let (dir, mut promises) = (scratch_dir(), Vec::new());
        let log = Log::new(record(dir.path(), || live(dir.path(), &mut promises)));
        Self { log, promises }
    }

    /// Hands over what a crash at any point leaves.
    fn crash_everywhere(&self, check: impl Fn(&Crash)) {
        let (log, count) = (&self.log, self.log.ops.len());
        let points = std::env::var("BYHASH_CRASH_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(POINTS);
        let seed = std::process::id().into();
        println!("{count} operations, seed {seed}");
        let mut chance = Chance(seed);
        let (step, first) = (count.div_ceil(points), chance.next() as usize);
        let last_mark = |cut: usize| {
            log.ops[..cut].iter().rev().find_map(|op| if let Op::Mark(number) = op { Some(*number) } else { None })
        };
        for cut in (first % step..=count).step_by(step) {
            let mark = last_mark(cut);
            let promised = mark.map_or(&[][..], |number| &self.promises[number]);
            // Where all is lost that was not synced, a write more changes nothing.
            let lost = (cut == 0 || !matches!(log.ops[cut - 1], Op::Write { .. })).then_some(Unsynced::Lost);
            for unsynced in lost.into_iter().chain([Unsynced::Kept, Unsynced::Torn(chance.next())]) {
                let left = scratch_dir();
                rebuild(log, cut, unsynced, left.path());
                let context = format!("cut at {cut}, {unsynced:?}");
                check(&Crash { dir: left.path(), mark, promised, without_index: false, context });
            }
            if cut % 4 == 0 {
                let left = scratch_dir();
                rebuild(log, cut, Unsynced::Lost, left.path());
                let _ = fs::remove_file(left.path().join("index.redb"));
                let context = format!("cut at {cut}, no index");
                check(&Crash { dir: left.path(), mark, promised, without_index: true, context });
            }
        }
    }
}

impl Crash<'_> {
    /// Checks that `store`, opened once more, has a sample that was promised and knows where it came from.
    fn check_origin(&self, store: &Store, samples: &[Sample], number: usize, origin: Origin) {
        if self.promised.iter().any(|(promised, _)| *promised == number) {
            let blob = store.blob(&samples[number].hash).unwrap();
            let blob = blob.unwrap_or_else(|| panic!("{}: sample {number} was held a moment ago", self.context));
            assert_eq!(blob.info().origin, origin, "{}", self.context);
            let read =
                blob.read(BlobRange::new(0, u64::MAX)).unwrap_or_else(|error| panic!("{}: {error}", self.context));
            assert_eq!(read, samples[number].content, "{}", self.context);
        }
    }
}

#[test]
fn after_a_crash_at_any_point_what_is_claimed_is_right_and_what_was_promised_is_there() {
    let samples = samples();
    let life = Life::record(|dir, promises| live(dir, &samples, promises));
    let count = life.log.ops.len();
    assert!(count > 300, "{count} operations are recorded: are the calls still those of the standard library?");
    life.crash_everywhere(|crash| {
        let pinned = crash.mark.and_then(promised_pin).map(|pinned| (PINNED_SAMPLE, pinned));
        check(open(crash.dir), &samples, &Expected { promised: crash.promised, pinned, damaged: &[] }, &crash.context);
        // Where the crash has taken the index too, what was fetched is there as well, if its last group is.
        if crash.without_index {
            let added = crash.promised.iter().map(|(number, _)| *number).find(|number| *number == 2 || *number >= 7);
            added.into_iter().for_each(|number| crash.check_origin(&open(crash.dir), &samples, number, Origin::Local));
        }
    });
}
