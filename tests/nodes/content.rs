//! What is read in these tests.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

pub const MIB: usize = 1 << 20;

/// Bytes in which each page is marked with its number.
const PAGE_LEN: usize = 4096;

/// Writes `len` bytes in which no two pages are the same, and gives their hash. Fast enough for a
/// gibibyte in a debug build: a mebibyte of random bytes, again and again with other page numbers.
pub fn write_content(to: &mut impl Write, seed: u64, len: usize) -> io::Result<String> {
    let mut piece = vec![0; MIB.min(len)];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut piece);
    let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
    while done < len {
        for (page, bytes) in piece.chunks_exact_mut(PAGE_LEN).enumerate() {
            bytes[..8].copy_from_slice(&((done / PAGE_LEN + page) as u64).to_le_bytes());
        }
        let part = &piece[..piece.len().min(len - done)];
        hasher.update(part);
        to.write_all(part)?;
        done += part.len();
    }
    Ok(hasher.finalize().to_string())
}

/// `len` bytes of their own for each `seed`.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    write_content(&mut bytes, seed, len).unwrap();
    bytes
}

pub fn hash_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

/// The hash of what reading `path` to its end gives.
pub fn hash_of_file(path: &Path) -> io::Result<String> {
    hash_of_rest(&mut File::open(path)?, &mut blake3::Hasher::new())
}

/// Reads `file` on to its end; the hash of what `hasher` has seen and the rest.
pub fn hash_of_rest(file: &mut File, hasher: &mut blake3::Hasher) -> io::Result<String> {
    let mut buffer = vec![0; MIB];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Numbers below `below` in an order without a pattern, the same in each run.
pub fn scattered(below: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    })
}
