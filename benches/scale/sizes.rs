//! Blobs from a byte on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::file;
use crate::support::mounted::read;
use crate::support::pseudo_random;
use crate::support::running::Seat;

/// Bytes; those above the limit are left out, the limit itself is the last.
const SIZES: [u64; 9] = [1, 4 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30, 4 << 30];

/// Bytes up to which a blob has no zeros.
const DENSE: u64 = 1 << 30;

pub fn sizes(dir: &Path, most: u64) {
    std::fs::create_dir(dir).unwrap();
    let holder = Seat::new(&dir.join("holder"));
    let node = holder.serve(&[]);
    let seat = Seat::new(&dir.join("reader"));
    let mount = dir.join("mount");
    let reader = seat.mount(&mount, std::slice::from_ref(&node.peer));
    println!("         bytes     cold     MB/s     warm     MB/s  memory of the reader  of the holder");
    for size in SIZES.into_iter().filter(|size| *size < most).chain([most]) {
        let path = dir.join("plain");
        let plain = File::create(&path).unwrap();
        let bytes = pseudo_random(size.min(DENSE) as usize);
        plain.write_all_at(&bytes, 0).unwrap();
        drop(bytes);
        plain.write_all_at(b"d", size - 1).unwrap();
        let hash = holder.add(std::slice::from_ref(&path))[0];
        std::fs::remove_file(path).unwrap();
        [&node, &reader].iter().for_each(|node| node.process.forget_peak());
        let times = [(); 2].map(|()| {
            let start = Instant::now();
            read(&file(&mount, hash), size as usize);
            start.elapsed().as_secs_f64()
        });
        let [cold, warm] =
            times.map(|seconds| format!("{:>6.1} ms {:>7.0}", seconds * 1e3, size as f64 / 1e6 / seconds));
        println!(
            "{size:>14} {cold} {warm} {:>17} MiB {:>10} MiB",
            reader.process.peak_memory() >> 20,
            node.process.peak_memory() >> 20
        );
        for node in [&holder, &seat] {
            node.output(&["rm", &hash.to_string()]);
        }
    }
    drop((reader, node));
    std::fs::remove_dir_all(dir).unwrap();
}
