//! The index by itself.

use super::super::record::Origin;
use super::*;

fn open(path: &Path) -> Result<Index, StoreError> {
    Index::open(path, || {})
}

fn record(groups: u64, last_use: u64) -> Record {
    Record { size: groups * 16384, held: vec![(0, groups)], origin: Origin::Fetched, pinned: false, last_use }
}

#[test]
fn records_are_found_by_hash_and_by_have_key_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index.redb")).unwrap();
    let hash = ContentHash::of(b"a");
    index.write(|batch| batch.put(&hash, &record(2, 5))).unwrap();
    index.write(|batch| batch.put(&hash, &record(3, 6))).unwrap();
    assert_eq!(index.get(&hash).unwrap(), Some(record(3, 6)));
    assert_eq!(index.find(&hash.have_key()).unwrap(), Some(hash));
    assert_eq!(index.write(|batch| batch.totals()).unwrap(), (record(3, 6).charge(), 1));
    assert_eq!(index.write(|batch| batch.take(&hash)).unwrap(), Some(record(3, 6)));
    assert_eq!(index.find(&hash.have_key()).unwrap(), None);
    assert_eq!(index.write(|batch| batch.totals()).unwrap(), (0, 0));
}

#[test]
fn the_least_recently_used_goes_first_and_pinned_or_local_never() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index.redb")).unwrap();
    let hashes: Vec<_> = (0..5u8).map(|i| ContentHash::of(&[i])).collect();
    index
        .write(|batch| {
            batch.put(&hashes[0], &Record { pinned: true, ..record(1, 1) })?;
            batch.put(&hashes[1], &Record { origin: Origin::Local, ..record(1, 2) })?;
            batch.put(&hashes[2], &record(1, 3))?;
            batch.put(&hashes[3], &record(1, 4))?;
            batch.put(&hashes[4], &record(1, 5))?;
            batch.touch(&hashes[3], 6)
        })
        .unwrap();
    let evicted = index.write(|batch| batch.evict(16385, 9, |hash| *hash == hashes[2])).unwrap();
    let evicted: Vec<_> = evicted.into_iter().map(|(hash, _)| hash).collect();
    assert_eq!(evicted, [hashes[4], hashes[3]]);
    assert_eq!(index.write(|batch| batch.evict(u64::MAX, 9, |_| false)).unwrap().len(), 1);
}

#[test]
fn another_format_is_refused_with_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let index = open(&path).unwrap();
    index.write(|batch| Ok(batch.numbers.insert(VERSION, 77).map(|_| ())?)).unwrap();
    drop(index);
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::IndexVersion { found: 77, .. }));
    assert!(refused.to_string().contains("index.redb"), "{refused}");
}

#[test]
fn a_damaged_file_is_set_aside_but_not_one_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    drop(open(&path).unwrap());
    let sound = std::fs::read(&path).unwrap();
    let header_altered = sound.iter().enumerate().map(|(at, byte)| if at / 512 == 0 { byte ^ 0x55 } else { *byte });
    let magic_only = sound[..64].to_vec();
    for damaged in [b"no index".to_vec(), vec![0; sound.len()], header_altered.collect(), magic_only] {
        std::fs::write(&path, &damaged).unwrap();
        let index = open(&path).unwrap();
        assert_eq!(std::fs::read(dir.path().join("index.redb.damaged")).unwrap(), damaged, "it is set aside as it was");
        assert_eq!(index.write(|batch| batch.totals()).unwrap(), (0, 0));
        assert!(index.bytes_on_disk() > 4096 * damaged.len().div_ceil(4096) as u64);
    }
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Index { .. }), "a directory: {refused:?}");
}
