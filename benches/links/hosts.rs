//! Two hosts with a link between them: network namespaces, veth, tc.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread::{JoinHandle, spawn};

use crate::support::running::printed;

/// Two hosts, and the rate of the link from the first to the second, which goes when this is dropped.
pub struct Hosts {
    prefix: String,
}

/// Where each of them is on the link.
pub const ADDRESSES: [&str; 2] = ["10.78.0.1", "10.78.0.2"];

impl Hosts {
    /// With `rate` as tc takes it, in both directions. What the shaper lets through at once, and what it
    /// queues, are as of a switch.
    pub fn new(rate: &str) -> Self {
        let hosts = Self { prefix: format!("byhash-bench-{}-{rate}", std::process::id()) };
        for number in 0..2 {
            ip(&["netns", "add", &hosts.name(number)]);
            ip(&["-n", &hosts.name(number), "link", "set", "lo", "up"]);
        }
        let peer = ["type", "veth", "peer", "name", "far", "netns", &hosts.name(1)];
        ip(&[&["-n", hosts.name(0).as_str(), "link", "add", "near"][..], &peer].concat());
        for (number, device) in ["near", "far"].into_iter().enumerate() {
            let host = hosts.name(number);
            ip(&["-n", &host, "addr", "add", &format!("{}/24", ADDRESSES[number]), "dev", device]);
            ip(&["-n", &host, "link", "set", device, "up"]);
            let shape = format!("tbf rate {rate} burst 256kb latency 50ms");
            let words = ["-n", &host, "qdisc", "add", "dev", device, "root"];
            printed(Command::new("tc").args(words).args(shape.split(' ')));
        }
        hosts
    }

    /// What the system calls one of them.
    pub fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Runs `work` on one of them, in a thread of its own.
    pub fn run_on<T: Send + 'static>(&self, number: usize, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let network = File::open(format!("/run/netns/{}", self.name(number))).unwrap();
        spawn(move || {
            // SAFETY: an open descriptor; only this thread moves.
            assert_eq!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            work()
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for number in 0..2 {
            let _ = Command::new("ip").args(["netns", "del", &self.name(number)]).output();
        }
    }
}

fn ip(args: &[&str]) {
    printed(Command::new("ip").args(args));
}
