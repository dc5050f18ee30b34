//! The secret that the nodes of one network share.

use std::fmt;
use std::path::Path;

use zeroize::{Zeroize, Zeroizing};

use super::key_file::{KeyFileError, read_private};

/// The length of a network secret, in bytes.
const SECRET_LEN: usize = 32;
/// Keeps the key derived here apart from all other uses of the same secret.
const KEY_CONTEXT: &str = "byhash network secret v1";
/// What a secret file holds, for error messages.
const WANTED: &str = "a network secret: one line of 64 hexadecimal digits, as 'byhash secret' prints it";

/// The length of the TLS exporter value that a proof covers, in bytes.
pub(super) const EXPORTER_LEN: usize = 32;

/// Which side of a lane a node is. Part of its proof, so that a proof cannot be sent back to
/// the side it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The side that opened the lane.
    Dialler = 1,
    /// The side that was listening.
    Listener = 2,
}

/// 256 random bits that let nodes vouch for each other without a list of ids. Wiped from memory
/// when dropped, and never printed but by [`NetworkSecret::reveal`].
#[derive(Clone)]
pub struct NetworkSecret([u8; SECRET_LEN]);

impl NetworkSecret {
    /// A fresh secret.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyFileError> {
        let mut secret = Self([0; SECRET_LEN]);
        getrandom::fill(&mut secret.0).map_err(KeyFileError::NoRandomness)?;
        Ok(secret)
    }

    /// Reads the secret from the file at `path`: one line of 64 hexadecimal digits. Blocks on
    /// the disk.
    ///
    /// # Errors
    ///
    /// A file that is missing, unreadable, readable by others, or holds something else.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let content = read_private(path, WANTED)?.ok_or_else(|| KeyFileError::Read {
            path: path.to_owned(),
            error: std::io::Error::from_raw_os_error(libc::ENOENT),
        })?;
        let line = content.strip_suffix(b"\n").unwrap_or(&content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Self::parse(line).ok_or_else(|| KeyFileError::Malformed { path: path.to_owned(), wanted: WANTED })
    }

    /// The secret as 64 hexadecimal digits, the content of a secret file. For `byhash secret`.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        let mut secret = Self([0; SECRET_LEN]);
        if digits.len() != 2 * SECRET_LEN {
            return None;
        }
        for (byte, pair) in secret.0.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(secret)
    }

    /// The proof that the side `role` of the lane with this exporter value knows the secret.
    pub(super) fn proof(&self, exporter: &[u8; EXPORTER_LEN], role: Role) -> [u8; 32] {
        *self.proof_hash(exporter, role).as_bytes()
    }

    /// Whether `proof` is that of the side `role`. Takes the same time wherever it differs.
    pub(super) fn verify(&self, exporter: &[u8; EXPORTER_LEN], role: Role, proof: &[u8; 32]) -> bool {
        // The equality of `blake3::Hash` is in constant time.
        self.proof_hash(exporter, role) == blake3::Hash::from_bytes(*proof)
    }

    fn proof_hash(&self, exporter: &[u8; EXPORTER_LEN], role: Role) -> blake3::Hash {
        let key = Zeroizing::new(blake3::derive_key(KEY_CONTEXT, &self.0));
        blake3::Hasher::new_keyed(&key).update(exporter).update(&[role as u8]).finalize()
    }
}

impl Drop for NetworkSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(content: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn what_is_revealed_loads_with_or_without_a_newline() {
        let secret = NetworkSecret::generate().unwrap();
        for end in ["", "\n", "\r\n"] {
            let (_directory, path) = write(&format!("{}{end}", *secret.reveal()), 0o600);
            assert_eq!(NetworkSecret::load(&path).unwrap().0, secret.0);
        }
        assert_ne!(NetworkSecret::generate().unwrap().0, secret.0);
    }

    #[test]
    fn an_error_names_the_file_and_never_shows_its_content() {
        let digits = "0123456789abcdef".repeat(4);
        for (content, mode) in [
            (digits.clone(), 0o640),
            (digits.clone(), 0o602),
            (digits[1..].to_owned(), 0o600),
            (format!("{digits}0"), 0o600),
            (format!("{digits}\n\n"), 0o600),
            (digits.replace("0", "+"), 0o600),
            (digits.replace("0", "é"), 0o600),
            (String::new(), 0o600),
        ] {
            let (_directory, path) = write(&content, mode);
            let error = NetworkSecret::load(&path).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(!error.contains("123456789"), "{error}");
            assert_eq!(error.contains("chmod 600"), mode != 0o600, "{error}");
        }
        let missing = tempfile::tempdir().unwrap().path().join("none");
        assert!(NetworkSecret::load(&missing).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn it_does_not_print() {
        assert_eq!(format!("{:?}", NetworkSecret([0xab; 32])), "NetworkSecret(..)");
    }

    #[test]
    fn a_proof_is_good_for_one_secret_one_lane_and_one_role() {
        let (secret, other) = (NetworkSecret([1; 32]), NetworkSecret([2; 32]));
        let lane = [3; EXPORTER_LEN];
        let proof = secret.proof(&lane, Role::Dialler);
        assert!(secret.verify(&lane, Role::Dialler, &proof));
        assert!(!secret.verify(&lane, Role::Listener, &proof));
        assert!(!secret.verify(&[4; EXPORTER_LEN], Role::Dialler, &proof));
        assert!(!other.verify(&lane, Role::Dialler, &proof));
    }
}
