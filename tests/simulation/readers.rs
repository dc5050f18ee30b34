//! Readers of every kind, and what each demands of what it gets.

use std::sync::Arc;
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobReader, BlobSource, Engine, FetchError, Priority};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::plan::{ReadKind, ReadPlan};

/// The longest that one read, or the question for the size, may take (simulated time). Above what
/// the engine allows a read without progress, and long enough for the slowest link.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// The longest single read, in bytes.
const MAX_READ: u64 = 1 << 20;

/// How far ahead of a stream is fetched, in bytes.
const AHEAD: u64 = 2 << 20;

/// A blob as a reader knows it.
#[derive(Clone)]
pub struct Wanted {
    pub hash: ContentHash,
    pub content: Arc<Vec<u8>>,
    /// An honest holder is there all the time: no error is acceptable.
    pub certain: bool,
    /// Somebody sends wrong bytes of it.
    pub maligned: bool,
}

/// Carries out one plan. Panics if a promise is broken.
pub async fn read(engine: Engine, plan: ReadPlan, wanted: Wanted) {
    sleep(plan.start).await;
    let outcome = match plan.kind {
        ReadKind::Stream { step, ahead } => stream(&engine, &wanted, step, ahead).await,
        ReadKind::Random { reads } => random(&engine, &wanted, reads, &mut Dice::new(plan.seed)).await,
        ReadKind::Crowd { readers } => crowd(&engine, &wanted, readers, &mut Dice::new(plan.seed)).await,
        ReadKind::Quits { after_ms } => {
            let quits = timeout(Duration::from_millis(after_ms), stream(&engine, &wanted, 128 << 10, true));
            quits.await.unwrap_or(Ok(()))
        }
        ReadKind::Fetch => fetch(&engine, &wanted).await,
    };
    match outcome {
        Ok(()) => {}
        Err(error) if wanted.certain => panic!("{plan:?}: {error} though an honest holder was there all the time"),
        Err(FetchError::WrongBytes) => assert!(wanted.maligned, "{plan:?}: nobody sends wrong bytes of it"),
        Err(FetchError::NotFound | FetchError::Unreachable | FetchError::TimedOut) => {}
        Err(FetchError::Cancelled) => panic!("{plan:?}: nobody cancelled it"),
    }
}

async fn open(engine: &Engine, wanted: &Wanted) -> Result<Arc<dyn BlobReader>, FetchError> {
    let size = timeout(READ_LIMIT, engine.size(wanted.hash)).await.expect("the size was not answered in time")?;
    assert_eq!(size, wanted.content.len() as u64, "a wrong size");
    Ok(engine.open(wanted.hash, size))
}

async fn read_one(reader: &dyn BlobReader, wanted: &Wanted, range: BlobRange) -> Result<(), FetchError> {
    let read = timeout(READ_LIMIT, reader.read(range, Priority::Foreground)).await;
    let bytes = read.unwrap_or_else(|_| panic!("{range:?} of {} was not answered in time", wanted.hash))?;
    let range = range.clip(wanted.content.len() as u64);
    assert!(bytes == wanted.content[range.start as usize..range.end as usize], "wrong bytes in {range:?}");
    Ok(())
}

async fn stream(engine: &Engine, wanted: &Wanted, step: u64, ahead: bool) -> Result<(), FetchError> {
    let reader = open(engine, wanted).await?;
    let mut at = 0;
    let mut asked = 0;
    while at < reader.size() {
        if ahead && asked < at + AHEAD / 2 {
            let start = asked.max(at + step);
            asked = start + AHEAD;
            reader.prefetch(BlobRange::new(start, asked));
        }
        read_one(&*reader, wanted, BlobRange::new(at, at + step)).await?;
        at += step;
    }
    Ok(())
}

fn any_range(dice: &mut Dice, size: u64) -> BlobRange {
    let start = dice.number(0..size);
    let longest = dice.pick(&[1, 4096, 128 << 10, MAX_READ]);
    BlobRange::new(start, start + dice.number(1..longest + 1))
}

async fn random(engine: &Engine, wanted: &Wanted, reads: u64, dice: &mut Dice) -> Result<(), FetchError> {
    let reader = open(engine, wanted).await?;
    for _ in 0..reads {
        read_one(&*reader, wanted, any_range(dice, reader.size())).await?;
    }
    Ok(())
}

async fn crowd(engine: &Engine, wanted: &Wanted, readers: u64, dice: &mut Dice) -> Result<(), FetchError> {
    let reader = open(engine, wanted).await?;
    let range = any_range(dice, reader.size());
    let mut reads = JoinSet::new();
    for _ in 0..readers {
        let (reader, wanted) = (reader.clone(), wanted.clone());
        // Some want a little less than the others.
        let range = BlobRange::new(range.start + dice.number(0..range.len()), range.end);
        reads.spawn(async move { read_one(&*reader, &wanted, range).await });
    }
    while let Some(read) = reads.join_next().await {
        read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}

async fn fetch(engine: &Engine, wanted: &Wanted) -> Result<(), FetchError> {
    let size = wanted.content.len() as u64;
    let done = std::sync::Mutex::new(0);
    let fetched = engine.fetch(wanted.hash, |so_far, of| {
        let mut done = done.lock().unwrap();
        assert!(*done < so_far && so_far <= of && of == size, "progress went from {done} to {so_far} of {of}");
        *done = so_far;
    });
    let fetched = timeout(READ_LIMIT * 4, fetched).await.expect("the fetch did not end in time")?;
    assert_eq!(fetched, size);
    Ok(())
}
