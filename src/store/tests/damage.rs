//! Files that somebody has changed behind the store's back.

use std::fs;

use super::*;

/// A store with one complete blob that has been read once, warm.
fn with_blob() -> (tempfile::TempDir, Store, Sample, Arc<Blob>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(8 * GROUP + 9, 3);
    let blob = sample.write_all(&store);
    assert!(sample.read_all(&store).unwrap());
    (dir, store, sample, blob)
}

#[test]
fn a_flipped_byte_of_content_costs_its_group_and_is_repaired_in_a_new_file() {
    let (dir, store, sample, blob) = with_blob();
    let path = content_path(dir.path(), &sample.hash);
    let mut passed_through = blob.content_file().unwrap();
    flip(&path, 2 * GROUP_LEN + 1);
    let damaged = fs::read(&path).unwrap();
    let corrupt = blob.read(BlobRange::new(GROUP_LEN, 5 * GROUP_LEN));
    assert!(matches!(corrupt, Err(StoreError::Corrupt { .. })), "{corrupt:?}");
    assert_eq!(blob.missing(sample.all()), std::slice::from_ref(&(2..3)));
    assert!(!blob.is_complete());
    assert_eq!(store.shared.metrics.store_corrupt_groups.get(), 1);
    assert_eq!(read_groups(&blob, 3..9).unwrap(), sample.bytes(&(3..9)));

    sample.write(&store, 2..3).unwrap();
    assert!(blob.is_complete() && sample.read_all(&store).unwrap());
    // The complete file was not written to: who reads it directly sees what it saw before.
    let mut old = Vec::new();
    std::io::Read::read_to_end(&mut passed_through, &mut old).unwrap();
    assert_eq!(old, damaged);
    drop((blob, store));
    assert!(sample.read_all(&open(dir.path())).unwrap());
}

#[test]
fn a_write_that_finds_the_blob_complete_claims_nothing_of_what_turns_out_damaged_meanwhile() {
    let (dir, store, sample, blob) = with_blob();
    // Two had the same group on its way, and the other was first.
    let files = blob.begin_write().unwrap();
    flip(&content_path(dir.path(), &sample.hash), 2 * GROUP_LEN + 1);
    assert!(read_groups(&blob, 2..3).is_err());
    store.shared.reserve(GROUP_LEN).unwrap();
    let used = of_blobs(&store);
    blob.write_to(&files, 2, sample.bytes(&(2..3)), &sample.proof(2..3), GROUP_LEN).unwrap();
    assert_eq!(blob.missing(sample.all()), std::slice::from_ref(&(2..3)), "nothing was written");
    assert_eq!(of_blobs(&store), used - GROUP_LEN);
    sample.write(&store, 2..3).unwrap();
    assert!(blob.is_complete() && sample.read_all(&store).unwrap());
}

#[test]
fn damage_in_files_that_were_just_replaced_is_looked_for_in_those_of_now() {
    let (dir, store, sample, blob) = with_blob();
    drop((blob, store));
    let path = content_path(dir.path(), &sample.hash);
    (0..9).for_each(|group| flip(&path, group * GROUP_LEN + 1));
    let store = open(dir.path());
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    let mut reads = 0;
    let result = blob.with_files(std::slice::from_ref(&(4..6)), |files| {
        reads += 1;
        if reads == 1 {
            // Somebody else finds damage, and a write mends it in new files, into which the rest is copied.
            assert!(read_groups(&blob, 0..1).is_err());
            sample.write(&store, 0..1).unwrap();
        }
        blob.read_and_check(files, &(4..6), &mut vec![0; 2 * GROUP])
    });
    assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{result:?}");
    assert_eq!(reads, 2);
    assert_eq!(blob.missing(sample.all()), std::slice::from_ref(&(4..6)), "else they would be fetched and not mended");
    assert!(read_groups(&blob, 0..1).is_ok());
}

#[test]
fn a_flipped_byte_of_the_outboard_is_noticed_and_repaired() {
    for node in 0..8 {
        let (dir, store, sample, blob) = with_blob();
        drop((blob, store));
        flip(&outboard_path(dir.path(), &sample.hash), node * 64 + 40);
        let store = open(dir.path());
        assert!(sample.read_all(&store).unwrap(), "all of the content is right, so nothing is dropped");
        assert_eq!(fs::read(outboard_path(dir.path(), &sample.hash)).unwrap(), sample.outboard);
    }
}

/// Makes `blob` believe that all of it was found right in the file as it is now.
fn believe_all_checked(blob: &Blob, sample: &Sample) {
    let stamp = blob.files().unwrap().stamp().unwrap();
    blob.state().checked = Some((stamp, std::iter::once(sample.all()).collect()));
}

#[test]
fn a_warm_read_does_not_hash_as_long_as_the_file_is_untouched() {
    let (dir, _store, sample, blob) = with_blob();
    let path = content_path(dir.path(), &sample.hash);
    flip(&path, 5);
    // A lie, to see that nothing is hashed.
    believe_all_checked(&blob, &sample);
    assert_eq!(blob.read(BlobRange::new(5, 6)).unwrap()[0], !sample.content[5]);
    blob.check(sample.all()).unwrap();

    let file = fs::File::open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(matches!(blob.read(BlobRange::new(5, 6)), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_check_finds_damage_without_anyone_reading_it() {
    let (dir, _store, sample, blob) = with_blob();
    believe_all_checked(&blob, &sample);
    flip(&content_path(dir.path(), &sample.hash), 7 * GROUP_LEN);
    fs::File::open(content_path(dir.path(), &sample.hash)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(matches!(blob.check(sample.all()), Err(StoreError::Corrupt { .. })));
    assert_eq!(blob.missing(sample.all()), std::slice::from_ref(&(7..8)));
    assert!(matches!(blob.check(sample.all()), Err(StoreError::NotHeld { .. })));
    blob.check(0..7).unwrap();
}

#[test]
fn a_wrong_proof_is_not_served() {
    let (dir, _store, sample, blob) = with_blob();
    let ranges = [0..1, 8..9];
    let sound = blob.read_proof(&ranges).unwrap();
    // Made anew, as long as the content is right.
    flip(&outboard_path(dir.path(), &sample.hash), 0);
    assert_eq!(blob.read_proof(&ranges).unwrap(), sound);
    flip(&outboard_path(dir.path(), &sample.hash), 0);
    flip(&content_path(dir.path(), &sample.hash), 5 * GROUP_LEN);
    assert!(matches!(blob.read_proof(&ranges), Err(StoreError::Corrupt { .. })));
    assert_eq!(blob.missing(sample.all()), ranges);
}

#[test]
fn files_that_are_gone_or_shorter_drop_the_blob() {
    type Damage = fn(&Path, &Sample);
    let cases: [Damage; 4] = [
        |dir, sample| fs::remove_file(content_path(dir, &sample.hash)).unwrap(),
        |dir, sample| truncate(&content_path(dir, &sample.hash), 100),
        |dir, sample| {
            fs::remove_file(outboard_path(dir, &sample.hash)).unwrap();
            flip(&content_path(dir, &sample.hash), 100);
        },
        |dir, sample| {
            fs::remove_file(content_path(dir, &sample.hash)).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", content_path(dir, &sample.hash)).unwrap();
        },
    ];
    for damage in cases {
        let (dir, store, sample, blob) = with_blob();
        drop((blob, store));
        damage(dir.path(), &sample);
        let store = open(dir.path());
        let missing = sample.read_all(&store);
        assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
        assert!(store.blob(&sample.hash).unwrap().is_none());
        assert_eq!(of_blobs(&store), 0);
        sample.write_all(&store);
        assert!(sample.read_all(&store).unwrap());
    }
}

#[test]
fn an_outboard_that_is_gone_or_cut_short_is_made_anew_from_the_content() {
    for cut in [None, Some(64), Some(0)] {
        for is_open in [false, true] {
            let (dir, mut store, sample, mut blob) = with_blob();
            if !is_open {
                drop((blob, store));
                store = open(dir.path());
                blob = store.blob(&sample.hash).unwrap().unwrap();
            }
            let path = outboard_path(dir.path(), &sample.hash);
            match cut {
                None if is_open => continue,
                None => fs::remove_file(&path).unwrap(),
                Some(len) => truncate(&path, len),
            }
            blob.read_proof(&[0..1, 8..9]).unwrap();
            assert!(sample.read_all(&store).unwrap() && blob.is_complete());
            assert_eq!(fs::read(&path).unwrap(), sample.outboard);
            assert_eq!(of_blobs(&store), sample.charge());
            assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_file_cut_short_while_open_is_noticed() {
    let (dir, _store, sample, blob) = with_blob();
    truncate(&content_path(dir.path(), &sample.hash), 100);
    assert!(matches!(blob.read(BlobRange::new(0, 200)), Err(StoreError::Missing { .. })));
    assert!(!blob.has(0..1));
}

#[test]
fn a_damaged_blob_of_one_group_goes_altogether() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(100, 1);
    let blob = sample.write_all(&store);
    flip(&content_path(dir.path(), &sample.hash), 7);
    assert!(matches!(blob.read(BlobRange::new(0, 1)), Err(StoreError::Corrupt { .. })));
    assert!(!content_path(dir.path(), &sample.hash).exists());
    assert_eq!((of_blobs(&store), store.usage().blobs), (0, 0));
    sample.write_all(&store);
    assert!(sample.read_all(&store).unwrap());
}

fn truncate(path: &Path, len: u64) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}
