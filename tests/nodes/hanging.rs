//! Files of the user's on a file system that hangs: whoever needs them waits, and nobody else.

use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::store::import::{Source, stage};
use byhash::store::{Config, Store};

use super::content::content;
use super::hanging_files::HangingFiles;
use super::node::{Sandbox, fuse_is_here, stdout};

/// How long what must not wait for the hanging file may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `work` gives, which must not wait for the hanging file.
fn at_once<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} waits for a file that hangs"))
}

#[test]
fn questions_about_a_file_that_hangs_hold_up_nothing_but_themselves() {
    if !fuse_is_here("questions_about_a_file_that_hangs_hold_up_nothing_but_themselves") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let files = HangingFiles::mount(&sandbox.make_dir("files"), &content(1, 100_000));
    let hash = stdout(&seat.run([OsStr::new("add"), "--reference".as_ref(), files.file().as_os_str()]));
    let hash = hash.split(' ').next().unwrap().to_owned();
    let node = seat.serve(["--open"]);
    // Dropped first, should the test fail: no process ends before its question is answered.
    let files = files;
    files.hang();
    // One for each thread that could be held up.
    let threads = std::thread::available_parallelism().unwrap().get().min(16);
    let why = || node.command(["why", &hash]).stdout(Stdio::null()).spawn().unwrap();
    let mut asking: Vec<_> = (0..threads).map(|_| why()).collect();
    files.wait_until_asked();
    let status = (*node).clone();
    stdout(&at_once("status", move || status.run(["status"])));
    // It heeds this at once, though the kernel does not let go of a thread whose question is being answered.
    node.signal(libc::SIGTERM);
    at_once("ending", move || asking.iter_mut().for_each(|child| _ = child.wait().unwrap()));
    files.go_on();
    assert_eq!(node.ended(), Some(0));
}

#[test]
fn orders_that_wait_for_a_file_that_hangs_leave_threads_to_all_others() {
    if !fuse_is_here("orders_that_wait_for_a_file_that_hangs_leave_threads_to_all_others") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let files = HangingFiles::mount(&sandbox.make_dir("files"), &content(3, 100_000));
    stdout(&seat.run([OsStr::new("add"), "--reference".as_ref(), files.file().as_os_str()]));
    let other = seat.add(b"other");
    let node = seat.serve(["--open"]);
    // Dropped first, should the test fail: no process ends before its question is answered.
    let files = files;
    files.hang();
    // More than the node has threads for the disk.
    let mut asking: Vec<_> = (0..40).map(|_| node.command(["ls"]).stdout(Stdio::null()).spawn().unwrap()).collect();
    files.wait_until_asked();
    // Until all of them have been asked for.
    for _ in 0..20 {
        let (asked, other) = ((*node).clone(), other.clone());
        let why = at_once("why", move || stdout(&asked.run(["why", &other])));
        assert!(why.contains("all of it"), "{why}");
    }
    files.go_on();
    asking.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
}

#[test]
fn a_blob_whose_file_hangs_is_found_asked_about_and_let_go_of() {
    if !fuse_is_here("a_blob_whose_file_hangs_is_found_asked_about_and_let_go_of") {
        return;
    }
    let sandbox = Sandbox::new();
    let content = content(2, 100_000);
    let files = HangingFiles::mount(&sandbox.make_dir("files"), &content);
    let dir = sandbox.make_dir("store");
    let store = Store::open(Config { dir: dir.clone(), capacity: 1 << 30, keep_free: 0 }, Arc::default()).unwrap();
    store.adopt(stage(&dir, Source::InPlace(&files.file()), &|_| {}).unwrap().blob()).unwrap();
    let hash = ContentHash::of(&content);
    let read = |store: &Store| {
        let blob = store.blob(&hash).unwrap().unwrap();
        std::thread::spawn(move || blob.read(BlobRange::new(0, 1)).unwrap())
    };

    files.hang();
    let reading = read(&store);
    files.wait_until_asked();
    let asked = store.clone();
    let found = at_once("looking for the blob", move || asked.find(&hash.have_key()).unwrap());
    assert!(found.is_some_and(|(found, info)| found == hash && info.complete));
    let other = store.clone();
    at_once("another blob", move || other.create_partial(ContentHash::of(b"x"), 1).unwrap());
    files.go_on();
    assert_eq!(reading.join().unwrap()[..], content[..1]);

    let blob = store.blob(&hash).unwrap().unwrap();
    blob.read(BlobRange::new(0, 1)).unwrap();
    files.hang();
    at_once("letting go of the blob", move || drop(blob));
    files.wait_until_asked();
}
