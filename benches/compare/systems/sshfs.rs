//! sshfs, from an sshd of this bench with keys of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Offered, Profile, System};
use crate::content::Content;
use crate::processes::{MountPoint, Running, first_line, free_port, listens, missing, output, program};
use crate::readings::{Files, Reached};

pub fn offered() -> Offered {
    Offered {
        profile: Profile {
            name: "sshfs",
            settings: "ro, kernel_cache, max_conns=4, dcache_timeout=3600, entry_timeout=3600, attr_timeout=3600, Ciphers=aes128-gcm@openssh.com, Compression=no; sshd with internal-sftp",
            abilities: ["no", "no", "no", "no", "in memory only", "yes, SSH"],
        },
        missing: || missing(&["sshfs", "ssh", "sshd", "ssh-keygen", "fusermount3"]),
        version: || {
            // `fusermount3` speaks before it.
            let said = output(program("sshfs").arg("--version"));
            let own = said.lines().find(|line| line.starts_with("SSHFS")).unwrap_or("SSHFS");
            let ssh = first_line(program("ssh").arg("-V"));
            format!("{own}, {}", ssh.split(", ").next().unwrap_or_default())
        },
        make: |dir, content| Box::new(Sshd::start(&dir.join("sshd"), content)),
    }
}

struct Sshd {
    home: PathBuf,
    address: SocketAddr,
    content: Content,
    _process: Running,
}

impl Sshd {
    fn start(home: &Path, content: &Content) -> Self {
        std::fs::create_dir(home).unwrap();
        for key in ["host", "client"] {
            let file = home.join(key);
            output(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file));
        }
        // SAFETY: geteuid has no preconditions and cannot fail.
        if unsafe { libc::geteuid() } == 0 {
            // Without it sshd does not start; its service makes it where one is installed.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let dir = home.display();
        let settings = format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/client.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             MaxStartups 100\nSubsystem sftp internal-sftp\n",
            address.port()
        );
        let file = home.join("sshd_config");
        std::fs::write(&file, settings).unwrap();
        let known = std::fs::read_to_string(home.join("host.pub")).unwrap();
        std::fs::write(home.join("known_hosts"), format!("[127.0.0.1]:{} {known}", address.port())).unwrap();
        let log = home.join("log");
        let process = Running::start(program("sshd").arg("-D").arg("-e").arg("-f").arg(file), &log)
            .wait_until("sshd", || listens(address));
        Self { home: home.to_owned(), address, content: content.clone(), _process: process }
    }
}

impl System for Sshd {
    fn start(&self, home: &Path) -> Box<dyn Reached> {
        let user = output(program("id").arg("-un"));
        let from = format!("{}@127.0.0.1:{}", user.trim(), self.content.dir.display());
        let mount = MountPoint::start(home.join("mount"), "sshfs", |dir| {
            let mut command = program("sshfs");
            command.arg("-f").arg("-F").arg("/dev/null").arg("-p").arg(self.address.port().to_string());
            command.arg(from).arg(dir);
            for (option, file) in [("IdentityFile", "client"), ("UserKnownHostsFile", "known_hosts")] {
                command.arg("-o").arg(format!("{option}={}", self.home.join(file).display()));
            }
            let options = "IdentitiesOnly=yes,BatchMode=yes,Ciphers=aes128-gcm@openssh.com,Compression=no,ro,\
                           kernel_cache,max_conns=4,dcache_timeout=3600,entry_timeout=3600,attr_timeout=3600";
            command.arg("-o").arg(options);
            command
        });
        Box::new(Files::below(&mount.dir.clone(), &self.content, mount))
    }
}
