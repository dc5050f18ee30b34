//! Nodes on hosts of their own, joined by links of a certain rate: network namespaces, veth, tc. A program
//! of their own, one test at a time: the links are to be what limits, not the machine.

#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "../nodes/content.rs"]
mod content;
#[allow(dead_code, reason = "each test binary uses its own part")]
#[path = "../nodes/node.rs"]
mod node;
#[path = "../support/skip.rs"]
mod skip;

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use content::{MIB, content, hash_of};
use node::{Node, Sandbox, eventually, fuse_is_here, program_is_here, run};
use skip::skip;

/// One host in the middle, and others that it reaches over a link each.
struct Hosts {
    prefix: String,
    rates: Vec<u64>,
}

impl Hosts {
    /// `rates` are those from each of the others to the one in the middle, in bits a second.
    fn new(name: &str, rates: &[u64]) -> Self {
        let hosts = Self { prefix: format!("byhash-{}-{name}", std::process::id()), rates: rates.to_vec() };
        ip(&["netns", "add", &hosts.middle()]);
        ip(&["-n", &hosts.middle(), "link", "set", "lo", "up"]);
        for (number, rate) in rates.iter().enumerate() {
            let (other, near, far) = (hosts.other(number), format!("near{number}"), "far");
            ip(&["netns", "add", &other]);
            ip(&["-n", &other, "link", "set", "lo", "up"]);
            let peer = ["type", "veth", "peer", "name", far, "netns", &other];
            ip(&[&["-n", hosts.middle().as_str(), "link", "add", &near][..], &peer].concat());
            for (host, device, last) in [(&hosts.middle(), near.as_str(), 1), (&other, far, 2)] {
                ip(&["-n", host, "addr", "add", &format!("10.77.{number}.{last}/24"), "dev", device]);
                ip(&["-n", host, "link", "set", device, "up"]);
            }
            let shape = format!("tbf rate {rate} burst 64kb latency 50ms");
            let words = ["-n", &other, "qdisc", "add", "dev", far, "root"];
            run(Command::new("tc").args(words).args(shape.split(' ')));
        }
        hosts
    }

    fn middle(&self) -> String {
        format!("{}-m", self.prefix)
    }

    fn other(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The link of one of the others goes dead: nothing comes, and nobody is told.
    fn unplug(&self, number: usize) {
        ip(&["-n", &self.middle(), "link", "set", &format!("near{number}"), "down"]);
    }

    /// A node on each of the others that holds `blobs`, and one in the middle that mounts and asks them.
    fn nodes(&self, sandbox: &Sandbox, blobs: &[&[u8]]) -> (Vec<Node>, Node) {
        let holder = |number| {
            let mut seat = sandbox.seat(&format!("holder{number}"));
            blobs.iter().for_each(|bytes| drop(seat.add(bytes)));
            seat.network = Some(self.other(number));
            seat.serve(["--open", "--listen", &format!("10.77.{number}.2:0")])
        };
        let holders: Vec<Node> = (0..self.rates.len()).map(holder).collect();
        let mut seat = sandbox.seat("reader");
        seat.network = Some(self.middle());
        let peers: Vec<&Node> = holders.iter().collect();
        let reader = seat.mount(node::asking(&peers));
        eventually("all are reached", || reader.metric("lanes_dialled") >= self.rates.len() as u64);
        (holders, reader)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let others = (0..self.rates.len()).map(|number| self.other(number));
        for host in others.chain([self.middle()]) {
            let _ = Command::new("ip").args(["netns", "del", &host]).output();
        }
    }
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

/// Whether hosts can be made here. A test returns if not; in CI it fails.
fn hosts_are_here(test: &str) -> bool {
    // SAFETY: it takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(test, "network namespaces need root");
    }
    root && program_is_here("ip") && program_is_here("tc") && program_is_here("nsenter") && fuse_is_here(test)
}

/// Held by the test that runs.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads `file` to its end and checks what comes; how long it took.
fn time_of_read(mut file: File, bytes: &[u8]) -> Duration {
    let (start, mut read) = (Instant::now(), Vec::new());
    file.read_to_end(&mut read).unwrap();
    let took = start.elapsed();
    assert!(read == bytes, "wrong bytes");
    took
}

#[test]
fn two_holders_of_unequal_speed_give_more_than_either() {
    let _alone = alone();
    if !hosts_are_here("two_holders_of_unequal_speed_give_more_than_either") {
        return;
    }
    // The links are to be what limits, not the machine; what runs beside may still slow one attempt.
    const RATES: [u64; 2] = [80_000_000, 40_000_000];
    const ATTEMPTS: u8 = 3;
    let hosts = Hosts::new("sum", &RATES);
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..ATTEMPTS).map(|attempt| content(40 + u64::from(attempt), 48 * MIB)).collect();
    let (holders, reader) = hosts.nodes(&sandbox, &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let shares = || holders.iter().map(|holder| reader.fetched_from(&holder.id) as f64).collect::<Vec<_>>();
    let good = blobs.iter().any(|bytes| {
        let before = shares();
        let took = time_of_read(File::open(reader.file(&hash_of(bytes))).unwrap(), bytes).as_secs_f64();
        let ratio = (shares()[0] - before[0]) / (shares()[1] - before[1]);
        let bits = bytes.len() as f64 * 8.0;
        let (sum, alone) = (bits / (RATES[0] + RATES[1]) as f64, bits / RATES[0] as f64);
        eprintln!("{took:.2} s; the sum of both: {sum:.2} s; the faster alone: {alone:.2} s; shares {ratio:.2} to 1");
        // Half of the gain is left to noise.
        took < (sum + alone) / 2.0 && (1.4..3.0).contains(&ratio)
    });
    assert!(good, "in {ATTEMPTS} attempts two links did not give more than one, by shares as their rates");
}

#[test]
fn a_link_that_goes_dead_in_the_middle_is_not_missed() {
    let _alone = alone();
    if !hosts_are_here("a_link_that_goes_dead_in_the_middle_is_not_missed") {
        return;
    }
    let hosts = Hosts::new("dead", &[80_000_000, 80_000_000]);
    let sandbox = Sandbox::new();
    let bytes = content(41, 32 * MIB);
    let (holders, reader) = hosts.nodes(&sandbox, &[&bytes]);
    let mut file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    let mut first = vec![0; MIB];
    file.read_exact(&mut first).unwrap();
    assert!(first == bytes[..MIB]);
    eventually("the first one sends", || reader.fetched_from(&holders[0].id) > 0);
    hosts.unplug(0);
    time_of_read(file, &bytes[MIB..]);
    assert_eq!(reader.metric("read_errors"), 0);
    assert!(reader.fetched_from(&holders[1].id) > 0);
}
