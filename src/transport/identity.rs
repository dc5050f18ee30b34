//! The key that a node is.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use zeroize::{Zeroize, Zeroizing};

use super::key_file::{KeyFileError, create_private, read_private};
use super::tls;
use crate::ids::PeerId;

/// What comes before the 32 bytes of the seed in a PKCS#8 version 1 Ed25519 key (RFC 8410,
/// section 7). Version 2, which adds the public key, is not read by OpenSSL 3.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The length of an Ed25519 seed, in bytes.
const SEED_LEN: usize = 32;
/// What a key file holds, for error messages.
const WANTED: &str = "an Ed25519 private key in PKCS#8 PEM form";

/// A node's Ed25519 key pair. Cheap to clone; prints as its public half.
#[derive(Clone)]
pub struct Identity {
    key: Arc<dyn SigningKey>,
    id: PeerId,
}

impl Identity {
    /// The key in the file at `path`, which is made first if there is none: PKCS#8 PEM, as
    /// `openssl pkey` reads and writes it, mode 0600. Of several that start at once, all end up
    /// with the same key. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// A file that is unreadable, readable by others or no Ed25519 key; a directory that is
    /// missing or not writable.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        if let Some(identity) = Self::load(path)? {
            return Ok(identity);
        }
        let pem = new_key_pem()?;
        if create_private(path, pem.as_bytes())? {
            tracing::info!(path = %path.display(), "made a new node key");
        }
        Self::load(path)?.ok_or_else(|| KeyFileError::Read {
            path: path.to_owned(),
            error: std::io::Error::from_raw_os_error(libc::ENOENT),
        })
    }

    /// A fresh key that is not written anywhere.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyFileError> {
        let pem = new_key_pem()?;
        Ok(Self::from_pem(pem.as_bytes()).expect("a key that was just written in this form is read back"))
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        self.id
    }

    /// The private half, for TLS.
    pub(super) fn signing_key(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.key)
    }

    fn load(path: &Path) -> Result<Option<Self>, KeyFileError> {
        let Some(pem) = read_private(path, WANTED)? else { return Ok(None) };
        let malformed = || KeyFileError::Malformed { path: path.to_owned(), wanted: WANTED };
        Self::from_pem(&pem).ok_or_else(malformed).map(Some)
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let key = any_eddsa_type(&der);
        der.zeroize();
        let key = key.ok()?;
        let public: SubjectPublicKeyInfoDer<'_> = key.public_key()?;
        let id = tls::peer_id(public.as_ref())?;
        Some(Self { key, id })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A new key as the text of its file.
fn new_key_pem() -> Result<Zeroizing<String>, KeyFileError> {
    let mut der = Zeroizing::new([0; PKCS8_PREFIX.len() + SEED_LEN]);
    der[..PKCS8_PREFIX.len()].copy_from_slice(&PKCS8_PREFIX);
    getrandom::fill(&mut der[PKCS8_PREFIX.len()..]).map_err(KeyFileError::NoRandomness)?;
    let body = Zeroizing::new(BASE64.encode(&der[..]));
    Ok(Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *body)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// A key made by `openssl genpkey -algorithm ed25519`.
    const OPENSSL_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINT58Qub9YJebUsvpsiRWXapBzC8CwsirhYFn/nSr/DW
-----END PRIVATE KEY-----
";
    /// Its public half, by `openssl pkey -pubout -outform DER | tail -c 32`.
    const OPENSSL_ID: &str = "78ee7d2ae078338decb37fd0c453736842f12d862b01ae8daf513298cc3aee9b";

    #[test]
    fn the_second_start_finds_the_key_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let id = Identity::load_or_create(&path).unwrap().peer_id();
        assert_eq!(Identity::load_or_create(&path).unwrap().peer_id(), id);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI"), "not the form OpenSSL reads");
    }

    #[test]
    fn many_that_start_at_once_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let start = || Identity::load_or_create(&path).unwrap().peer_id();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_key_of_openssl_is_read() {
        let identity = Identity::from_pem(OPENSSL_KEY.as_bytes()).unwrap();
        assert_eq!(identity.peer_id().to_string(), OPENSSL_ID);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        Identity::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err().to_string();
            let path = path.to_str().unwrap();
            assert_eq!(
                error,
                format!("{path} has mode {mode:04o}, so that others can read or change it: run chmod 600 {path}")
            );
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let cut = OPENSSL_KEY.replace("MC4C", "MC4D");
        for content in ["", "hello", &cut, "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Malformed { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert!(matches!(Identity::load_or_create(directory.path()), Err(KeyFileError::Malformed { .. })));
        let nowhere = directory.path().join("missing/key");
        assert!(matches!(Identity::load_or_create(&nowhere), Err(KeyFileError::Write { .. })));
    }

    #[test]
    fn it_prints_its_public_half_only() {
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity {{ id: {}, .. }}", identity.peer_id()));
    }
}
