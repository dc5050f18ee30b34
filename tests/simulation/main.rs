//! A randomized simulation of whole nodes on a network in memory, with the clock paused.
//!
//! A seed draws a world ([`plan`]): nodes with stores of various sizes, blobs of various sizes, who
//! holds them, holders that misbehave, links that are slow, faults over time, and readers of every
//! kind. The world is run ([`world`], [`readers`]) and must keep these promises:
//!
//! * every read ends within bounded time with the right bytes or a documented error;
//! * a blob with an honest holder that stays reachable is read without error;
//! * afterwards nothing is left: no pending transfer, no byte of the budget, no lane, no task.
//!
//! `BYHASH_SIM_SEEDS=n` runs n fresh seeds more, `BYHASH_SIM_SEED=x` runs that seed alone and says
//! what it does. A seed fixes the world; which of two threads of the disk pool is first it does not.

#[path = "../support/mod.rs"]
mod support;

mod dice;
mod plan;
mod readers;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seeds of every run: 1 and those that follow. Among them are 73 and 103, which found that readers
/// waited for ever for a holder that is always busy.
const SEEDS: u64 = 1000;

/// And these, of which each found something: two holders in turn, none of which ever proves the size,
/// kept readers waiting for ever; lanes that broke too often used up a reader's patience; a holder that
/// sends a little and falls silent wore it out; several that are always busy hid the one that is not.
const TELLING_SEEDS: [u64; 5] = [
    1_795_524_209_881_634_266,
    1_795_524_392_019_983_047,
    1_795_524_693_909_250_207,
    1_795_524_896_564_045_351,
    1_795_524_941_307_970_122,
];

/// Panics so far, those of tasks that nobody waits for among them.
static PANICS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn whatever_happens_readers_get_right_bytes_or_an_honest_error() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        print(panic);
    }));
    if let Some(seed) = number("BYHASH_SIM_SEED") {
        let plan = plan::Plan::draw(seed);
        println!("{plan:#?}");
        return run(&plan);
    }
    let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let fresh = (0..number("BYHASH_SIM_SEEDS").unwrap_or(0)).map(|i| start.wrapping_add(i));
    let seeds = Mutex::new(TELLING_SEEDS.into_iter().chain(1..=SEEDS).chain(fresh));
    let next = || seeds.lock().unwrap().next();
    // Each world has one thread to itself.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    println!("BYHASH_SIM_SEED={seed}");
                    run(&plan::Plan::draw(seed));
                }
            });
        }
    });
}

fn run(plan: &plan::Plan) {
    let ran = std::panic::catch_unwind(|| world::run(plan));
    if let Err(panic) = ran {
        println!("to see it again: BYHASH_SIM_SEED={} cargo test --test simulation", plan.seed);
        std::panic::resume_unwind(panic);
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "seed {}, or one that ran beside it: a task panicked", plan.seed);
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: '{text}'")))
}
