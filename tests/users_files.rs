//! Files of users that are served from where they lie, on a file system that hangs: more of them are asked for than a
//! node has threads, and all else goes on.

#[path = "support/hanging_files.rs"]
mod hanging_files;
#[path = "support/skip.rs"]
mod skip;
mod support;

use std::ffi::CString;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::os::unix::ffi::OsStrExt;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::store::MAX_IN_PLACE_THREADS;
use byhash::store::import::{Source, stage};
use byhash::transfer::Priority;
use byhash::transport::memory::MemoryNetwork;
use hanging_files::HangingFiles;
use skip::skip;
use support::{TestNode, ask_and_take_nothing, content, node_id};
use tokio::task::yield_now;
use tokio::time::timeout;

/// More than a node has threads for the disk, which is four times as many as may have to do with files of users.
const MANY: usize = 5 * MAX_IN_PLACE_THREADS;

/// How long what must not wait for the hanging file may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first bytes of a file.
const FIRST: BlobRange = BlobRange { start: 0, end: 10 };

/// The directory of a mount, which is taken off with it.
struct MountPoint(tempfile::TempDir);

impl Drop for MountPoint {
    fn drop(&mut self) {
        let path = CString::new(self.0.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the pointer is to a string that ends in zero and outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Runs `test` as a node runs, with a file system for files of the user's and what their one file has.
fn with_hanging_files(name: &str, test: impl AsyncFnOnce(&HangingFiles, &[u8])) {
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        return skip(name, "/dev/fuse cannot be opened");
    }
    // Dropped last: it waits for all of its threads.
    let runtime = byhash::daemon::runtime().unwrap();
    let point = MountPoint(tempfile::tempdir().unwrap());
    let content = content(1, 100_000);
    let files = HangingFiles::mount(point.0.path(), &content);
    runtime.block_on(test(&files, &content));
    files.go_on();
}

/// Has the file of the user's served by `node`.
fn add_in_place(node: &TestNode, files: &HangingFiles) -> ContentHash {
    let staged = stage(node.dir(), Source::InPlace(&files.file()), &|_| {}).unwrap();
    node.store.adopt(staged.blob()).unwrap();
    staged.blob().hash
}

/// Goes on with `future` as far as that goes now; whether it is through.
async fn poll_once<T>(future: &mut Pin<Box<impl Future<Output = T>>>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

#[test]
fn reads_of_files_that_hang_leave_threads_to_all_others() {
    with_hanging_files("reads_of_files_that_hang_leave_threads_to_all_others", async |files, content| {
        let network = MemoryNetwork::new();
        let node = TestNode::start(&network, 1, &[]);
        let (hanging, other) = (add_in_place(&node, files), node.hold(b"other"));
        let reader = node.open(hanging).await.unwrap();
        files.hang();
        let mut reads: Vec<_> = (0..MANY).map(|_| Box::pin(reader.read(FIRST, Priority::Foreground))).collect();
        for read in &mut reads {
            assert!(!poll_once(read).await, "it hangs");
        }
        files.wait_until_asked();
        let read = timeout(PATIENCE, node.read(other, 5)).await.expect("another blob waits for a file that hangs");
        assert!(read.unwrap() == b"other");
        // Those who wait for a thread leave no trace.
        let last = reads.pop();
        drop(reads);
        files.go_on();
        let last = timeout(PATIENCE, last.unwrap()).await.expect("the file hangs no more");
        assert!(last.unwrap()[..] == content[..10]);
    });
}

#[test]
fn requests_for_files_that_hang_leave_threads_to_all_others() {
    with_hanging_files("requests_for_files_that_hang_leave_threads_to_all_others", async |files, _| {
        let network = MemoryNetwork::new();
        let holder = TestNode::start(&network, 1, &[]);
        let (hanging, other) = (add_in_place(&holder, files), holder.hold(b"other"));
        let asking = TestNode::start(&network, 9, &[1]);
        files.hang();
        let mut lanes = Vec::new();
        // Nobody may have more under way than 16, and the last of the three no more than 8.
        for (requester, requests) in [(2, 16), (3, 16), (4, 8)] {
            let dialer = network.dialer(node_id(requester));
            for _ in 0..requests {
                lanes.push(ask_and_take_nothing(&dialer, node_id(1), hanging, 1).await);
            }
            while holder.metrics.serving_pending.get() < lanes.len() as u64 {
                yield_now().await;
            }
        }
        assert_eq!(lanes.len(), MANY);
        files.wait_until_asked();
        let read = timeout(PATIENCE, asking.read(other, 5)).await.expect("another blob waits for a file that hangs");
        assert!(read.unwrap() == b"other");
        // A requester that goes is not waited for, though the file still hangs.
        drop(lanes);
        let gone = async {
            while holder.metrics.serving_pending.get() > 0 {
                yield_now().await;
            }
        };
        timeout(PATIENCE, gone).await.expect("who has gone keeps places of those who are served");
    });
}
