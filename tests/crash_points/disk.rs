//! The disk as a crash leaves it: what was synced, and of the rest what chance gives.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::recorder::{FileId, Op};

/// What a disk writes at once, in bytes: a write may be torn between two of these.
const SECTOR: usize = 512;

/// What becomes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// The power failed: all of it is lost.
    Lost,
    /// The process was killed: all of it is there.
    Kept,
    /// The power failed: some is there, by the sector, in any order; names in the order of their changes.
    Torn(u64),
}

/// A sequence of numbers that depends on the seed alone (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    /// What it leads to, if it is a link.
    link: Option<PathBuf>,
}

/// What was recorded.
pub struct Log {
    pub ops: Vec<Op>,
    durable_since: Vec<usize>,
}

impl Log {
    pub fn new(ops: Vec<Op>) -> Self {
        let durable_since = durable_since(&ops);
        Self { ops, durable_since }
    }
}

/// Puts into `dir` what the first `cut` operations of `log` leave behind.
pub fn rebuild(log: &Log, cut: usize, unsynced: Unsynced, dir: &Path) {
    let ops = &log.ops[..cut];
    let mut chance = Chance(if let Unsynced::Torn(seed) = unsynced { seed } else { 0 });
    let names_until = match unsynced {
        Unsynced::Lost => 0,
        Unsynced::Kept => ops.len(),
        Unsynced::Torn(_) => chance.below(ops.len() as u64 + 1) as usize,
    };
    let mut names: BTreeMap<&Path, FileId> = BTreeMap::new();
    let mut files: HashMap<FileId, Content> = HashMap::new();
    for (number, op) in ops.iter().enumerate() {
        let synced = log.durable_since[number] < cut;
        let named = synced || number < names_until;
        // Of a torn write each sector is there or not; anything else is as a whole.
        let mut there = || synced || unsynced == Unsynced::Kept || unsynced != Unsynced::Lost && chance.below(2) == 0;
        match op {
            Op::Create { file, path } if named => {
                names.insert(path, *file);
            }
            Op::Link { file, path, to } => {
                files.entry(*file).or_default().link = Some(to.clone());
                if named {
                    names.insert(path, *file);
                }
            }
            Op::Rename { file, from, to } if named => {
                names.remove(from.as_path());
                names.insert(to, *file);
            }
            Op::Unlink { path } if named => {
                names.remove(path.as_path());
            }
            Op::Write { file, at, bytes } => {
                let content = &mut files.entry(*file).or_default().bytes;
                for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                    if there() {
                        let at = *at as usize + number * SECTOR;
                        content.resize(content.len().max(at + sector.len()), 0);
                        content[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            Op::SetLen { file, len } if there() => files.entry(*file).or_default().bytes.resize(*len as usize, 0),
            Op::Damage { file, at } => {
                let content = &mut files.entry(*file).or_default().bytes;
                if let Some(byte) = content.get_mut(*at as usize) {
                    *byte = !*byte;
                }
            }
            Op::Lose { path } => drop(names.remove(path.as_path())),
            Op::Mode { file, mode } if there() => files.entry(*file).or_default().mode = *mode,
            _ => {}
        }
    }
    for (name, file) in names {
        let content = files.remove(&file).unwrap_or_default();
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if let Some(to) = content.link {
            symlink(to, &path).unwrap();
            continue;
        }
        fs::write(&path, content.bytes).unwrap();
        let mode = if content.mode == 0 { 0o600 } else { content.mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// For each operation, the number of the one that made it durable.
fn durable_since(ops: &[Op]) -> Vec<usize> {
    let mut since = vec![usize::MAX; ops.len()];
    for (at, op) in ops.iter().enumerate() {
        for (earlier, since) in ops[..at].iter().zip(&mut since) {
            let synced = match (op, earlier) {
                (Op::SyncAll, _) => true,
                (Op::SyncFile { file: synced, .. }, Op::Write { file, .. } | Op::SetLen { file, .. }) => synced == file,
                (Op::SyncFile { file: synced, all }, Op::Mode { file, .. }) => *all && synced == file,
                (
                    Op::SyncDir { path },
                    Op::Create { path: name, .. } | Op::Link { path: name, .. } | Op::Unlink { path: name },
                ) => lies_in(name, path),
                (Op::SyncDir { path }, Op::Rename { to, .. }) => lies_in(to, path),
                _ => false,
            };
            if synced {
                *since = at.min(*since);
            }
        }
    }
    since
}

fn lies_in(name: &Path, dir: &Path) -> bool {
    name.parent() == Some(dir)
}
