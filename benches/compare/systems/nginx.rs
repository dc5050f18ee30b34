//! nginx, which serves the files by HTTP to those who read so: with sendfile, open files cached, connections
//! kept, no log of accesses and a worker a core.

use std::net::SocketAddr;
use std::path::Path;

use crate::processes::{Running, first_line, free_port, listens, program};

/// A running nginx.
pub struct Nginx {
    /// Where it answers.
    pub url: String,
    _process: Running,
}

/// What it says of itself.
pub fn version() -> String {
    first_line(program("nginx").arg("-v")).trim_start_matches("nginx version: ").to_owned()
}

impl Nginx {
    /// Serves what is below `root`, with its own files below `home`.
    pub fn start(home: &Path, root: &Path) -> Self {
        std::fs::create_dir_all(home).unwrap();
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let home = home.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {home}/{kind};\n"))
            .concat();
        // SAFETY: geteuid has no preconditions and cannot fail.
        let user = if unsafe { libc::geteuid() } == 0 { "user root;\n" } else { "" };
        let settings = format!(
            "{user}daemon off;\nworker_processes auto;\npid {home}/pid;\nerror_log {home}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n{temporary}    access_log off;\n    sendfile on;\n    tcp_nopush on;\n    \
             keepalive_requests 1000000;\n    open_file_cache max=100000;\n    \
             server {{ listen {address}; root {}; autoindex on; }}\n}}\n",
            root.display()
        );
        let file = format!("{home}/nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let log = format!("{home}/log");
        let process = Running::start(program("nginx").args(["-c", &file, "-e", &log]), Path::new(&log))
            .wait_until("nginx", || listens(address));
        Self { url: format!("http://{address}"), _process: process }
    }
}
