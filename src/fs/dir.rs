//! Listing directories, without state: the place in a listing is in the cookie.

use super::{BY_HASH_NAME, Filesystem, FsError, Ino, Kind};
use crate::ids::ContentHash;

/// How many names are taken from the source at a time; about as many as fit the kernel's buffer
/// of one page.
const PAGE_NAMES: usize = 64;

/// The cookies of "." and ".."; those of blobs follow.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const FIRST_BLOB: u64 = 3;

/// How many leading bits of a hash make its cookie. A cookie must stay positive as the `off_t` of
/// telldir(3).
const COOKIE_BITS: u32 = 62;
const _: () = assert!((1 << COOKIE_BITS) + FIRST_BLOB < i64::MAX as u64);

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The number its inode will have, unless it collides with one in use.
    pub ino: Ino,
    /// Where a listing goes on after this name.
    pub cookie: u64,
    /// Directory or file.
    pub kind: Kind,
    /// The name.
    pub name: String,
}

impl DirEntry {
    fn directory(ino: Ino, cookie: u64, name: &str) -> Self {
        Self { ino, cookie, kind: Kind::Directory, name: name.to_owned() }
    }
}

/// Where a listing goes on after `hash`. Two blobs whose hashes begin with the same 62 bits share
/// a cookie; the second may be left out of a listing, and is found by its name all the same.
fn cookie(hash: &ContentHash) -> u64 {
    FIRST_BLOB + (leading_bits(hash) >> (u64::BITS - COOKIE_BITS))
}

fn leading_bits(hash: &ContentHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The last hash a listing that stopped at `cookie` can have shown.
fn last_shown(cookie: u64) -> Option<ContentHash> {
    let prefix = cookie.checked_sub(FIRST_BLOB)?.min((1 << COOKIE_BITS) - 1);
    let low_ones = (1 << (u64::BITS - COOKIE_BITS)) - 1;
    let mut bytes = [0xff; 32];
    bytes[..8].copy_from_slice(&((prefix << (u64::BITS - COOKIE_BITS)) | low_ones).to_be_bytes());
    Some(ContentHash::from_bytes(bytes))
}

impl Filesystem {
    /// Gives the names of `ino` after `cookie` (0: from the beginning) to `push`, in order, until
    /// it returns true, which says that the name did not fit. `by-hash` shows the blobs held
    /// complete, as they are at the time: nothing is kept between calls, so a listing may be left
    /// and taken up anywhere. No network.
    pub fn list(&self, ino: Ino, cookie: u64, push: &mut dyn FnMut(&DirEntry) -> bool) -> Result<(), FsError> {
        let mut fixed = vec![DirEntry::directory(ino, DOT, "."), DirEntry::directory(Ino::ROOT, DOT_DOT, "..")];
        match ino {
            Ino::ROOT => fixed.push(DirEntry::directory(Ino::BY_HASH, FIRST_BLOB, BY_HASH_NAME)),
            Ino::BY_HASH => {}
            _ => return Err(FsError::NotADirectory),
        }
        let full = fixed.iter().filter(|entry| entry.cookie > cookie).any(&mut *push);
        if ino == Ino::BY_HASH && !full {
            self.list_blobs(last_shown(cookie), push);
        }
        Ok(())
    }

    fn list_blobs(&self, mut after: Option<ContentHash>, push: &mut dyn FnMut(&DirEntry) -> bool) {
        loop {
            let page = self.source.complete_blobs(after, PAGE_NAMES);
            for (hash, _size) in &page {
                let name = hash.to_string();
                let entry = DirEntry { ino: Ino::first_choice(hash), cookie: cookie(hash), kind: Kind::File, name };
                if push(&entry) {
                    return;
                }
            }
            match page.last() {
                Some((hash, _size)) if page.len() == PAGE_NAMES => after = Some(*hash),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cookies_at_the_ends_are_positive_and_distinct_from_the_dots() {
        assert_eq!(cookie(&ContentHash::from_bytes([0; 32])), FIRST_BLOB);
        assert!(cookie(&ContentHash::from_bytes([0xff; 32])) < i64::MAX as u64);
        assert_eq!(last_shown(DOT_DOT), None);
        assert_eq!(last_shown(u64::MAX), Some(ContentHash::from_bytes([0xff; 32])));
    }

    proptest! {
        #[test]
        fn a_listing_goes_on_after_the_name_it_stopped_at(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let (a, b) = (ContentHash::from_bytes(a), ContentHash::from_bytes(b));
            prop_assert!(last_shown(cookie(&a)).unwrap() >= a);
            if cookie(&a) < cookie(&b) {
                prop_assert!(last_shown(cookie(&a)).unwrap() < b);
            }
            prop_assert_eq!(a < b, cookie(&a) < cookie(&b));
        }
    }
}
