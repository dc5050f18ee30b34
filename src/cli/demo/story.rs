//! What the demo does, step by step, and what must hold in each.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::failure::CommandError;
use super::super::output::print;
use super::super::table::size;
use super::node::{Node, Seed};
use super::reading::{hash_of, speeds};
use super::sandbox::{Sandbox, at};
use super::second_blob::{self, SECOND_BLOB_LEN};
use crate::ids::ContentHash;

/// After this many bytes of the second blob its holders are asked who has served ...
const ASK_AT: u64 = SECOND_BLOB_LEN / 4;
/// ... and after this many that one is killed, while the bytes beyond are on their way.
const KILL_AT: u64 = SECOND_BLOB_LEN * 3 / 8;

/// Tells all of it; the mount is still there afterwards. Gives the mount point.
pub(super) fn tell(sandbox: &Sandbox, file: &Path) -> Result<PathBuf, CommandError> {
    second_blob::check_room(sandbox.dir(), file)?;
    let name = sandbox.dir().display();
    print(&format!("byhash demo: two holders and a mounted node on this machine, all in {name}\n"))?;

    step("Three nodes, each with a key of its own")?;
    let holders = [Seed::new(sandbox, "holder-1")?, Seed::new(sandbox, "holder-2")?];
    let reader = Seed::new(sandbox, "reader")?;

    step("Two of them hold and serve; only the third may connect")?;
    let allow = ["--allow".to_owned(), reader.id.to_string()];
    let [first, second] = holders;
    let holders = [first.start(&["serve".as_ref()], &allow)?, second.start(&["serve".as_ref()], &allow)?];

    step("The third mounts, and knows the two")?;
    let mountpoint = sandbox.mountpoint();
    std::fs::create_dir(&mountpoint).map_err(|error| at(&mountpoint, &error))?;
    let peers: Vec<String> =
        holders.iter().flat_map(|holder| ["--peer".to_owned(), holder.peer.clone()]).chain(["-f".to_owned()]).collect();
    let reader = reader.start(&[OsStr::new("mount"), mountpoint.as_os_str()], &peers)?;

    step("Both holders get the file")?;
    let (hash, _) = hash_of(file, |_| Ok(()))?;
    add_to_both(&holders, file, hash)?;

    step("It is read through the mount of the third, by its hash")?;
    let start = Instant::now();
    let took = |start: Instant| format!("{:.2} s", start.elapsed().as_secs_f64());
    let named = mountpoint.join("by-hash").join(hash.to_string());
    print(&format!("reading {}\n", named.display()))?;
    let (read, len) = hash_of(&named, |_| Ok(()))?;
    compare(read, hash)?;
    print(&format!("{} in {}, and their BLAKE3 hash is the name.\n", size(len), took(start)))?;

    step("A second blob: a holder is killed in the middle of its read")?;
    let original = sandbox.dir().join("second");
    let hash = second_blob::write(&original)?;
    add_to_both(&holders, &original, hash)?;
    let named = mountpoint.join("by-hash").join(hash.to_string());
    read_through_a_death(&holders, &reader, &named, hash)?;

    step("Now it is in the third's cache: the same read, warm")?;
    let (mount, local) = speeds(&named, &original)?;
    print(&format!(
        "through the mount {:.0} MB/s, the same bytes from a local file {:.0} MB/s: {:.2} of it\n",
        mount / 1e6,
        local / 1e6,
        mount / local
    ))?;
    Ok(mountpoint)
}

/// Reads `named` to its end, although the holder that serves it dies in the middle.
fn read_through_a_death(
    holders: &[Node<'_>; 2],
    reader: &Node<'_>,
    named: &Path,
    hash: ContentHash,
) -> Result<(), CommandError> {
    let served = || -> Result<[u64; 2], CommandError> {
        Ok([holders[0].metric("served_bytes")?, holders[1].metric("served_bytes")?])
    };
    let served_before = served()?;
    let fetched_before = reader.metric("fetched_bytes")?;
    print(&format!("reading {}\n", named.display()))?;
    let mut victim = None;
    let mut survivor_at_death = None;
    let (read, len) = hash_of(named, |reached| {
        if victim.is_none() && reached >= ASK_AT {
            print(&format!("{} are read. Who serves?\n", size(reached)))?;
            let now = served()?;
            let parts = [now[0] - served_before[0], now[1] - served_before[1]];
            let most = usize::from(parts[1] > parts[0]);
            held(parts[most] > 0, "none of the holders has served any of it")?;
            print(&format!("{} has served {} of it: it will die.\n", holders[most].name(), size(parts[most])))?;
            victim = Some(most);
        }
        if let Some(victim) = victim
            && survivor_at_death.is_none()
            && reached >= KILL_AT
        {
            holders[victim].kill()?;
            print(&format!("{} were read when it died; the read goes on.\n", size(reached)))?;
            let fetched = reader.metric("fetched_bytes")? - fetched_before;
            held(fetched < SECOND_BLOB_LEN, "all of it had been fetched before the holder died")?;
            survivor_at_death = Some(holders[1 - victim].metric("served_bytes")?);
        }
        Ok(())
    })?;
    let (Some(victim), Some(at_death)) = (victim, survivor_at_death) else {
        return Err(CommandError::Failed(format!("the blob ended after {len} bytes, before a holder was killed")));
    };
    compare(read, hash)?;
    held(len == SECOND_BLOB_LEN, "the blob read has another length")?;
    let survivor = &holders[1 - victim];
    let rest = survivor.metric("served_bytes")? - at_death;
    held(rest > 0, "the other holder has served nothing after the death of the first")?;
    let (rest, name) = (size(rest), survivor.name());
    print(&format!("{}, all right: {name} served {rest} after the death of the other.\n", size(len)))
}

fn add_to_both(holders: &[Node<'_>; 2], file: &Path, hash: ContentHash) -> Result<(), CommandError> {
    for holder in holders {
        let printed = holder.add(file)?;
        held(printed == hash.to_string(), "byhash add has printed another hash than the file's")?;
    }
    Ok(())
}

fn compare(read: ContentHash, wanted: ContentHash) -> Result<(), CommandError> {
    held(read == wanted, &format!("the bytes read have the hash {read} and not {wanted}"))
}

fn held(holds: bool, otherwise: &str) -> Result<(), CommandError> {
    if holds { Ok(()) } else { Err(CommandError::Failed(otherwise.to_owned())) }
}

fn step(what: &str) -> Result<(), CommandError> {
    print(&format!("\n== {what}\n"))
}
