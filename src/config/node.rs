//! The validated configuration of a node.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use super::layers::{Layers, Origin, absolute};
use super::{ConfigError, StateDir};
use crate::ids::{PeerId, PeerSpec};
use crate::store;
use crate::transfer::ServeConfig;

/// Where a node listens unless told otherwise: every IPv4 address, port 7117.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 7117));

/// The cache's size unless told otherwise, in bytes (10 GiB): room for a toolchain and a few
/// large models, and a small part of any disk that such things are used on.
pub const DEFAULT_CACHE_SIZE: u64 = 10 << 30;

/// The smallest cache, in bytes (64 MiB): below it the largest exchanges of a few readers (16 MiB
/// each) would evict one another.
pub const MIN_CACHE_SIZE: u64 = 64 << 20;

/// The largest cache, in bytes (1 EiB): sums of a few such sizes still fit in 64 bits.
pub const MAX_CACHE_SIZE: u64 = 1 << 60;

/// The smallest limit on what is sent or scrubbed, in bytes a second (64 KiB): below it a requester would
/// take its holder, which needs more than five seconds for some of the slices, for silent.
pub const MIN_RATE: u64 = 64 << 10;

/// What the cache leaves free on its file system, in bytes (256 MiB), for whoever else writes there.
pub const KEEP_FREE: u64 = 256 << 20;

const _: () = assert!(MIN_CACHE_SIZE <= DEFAULT_CACHE_SIZE && DEFAULT_CACHE_SIZE <= MAX_CACHE_SIZE);
const _: () = assert!(MAX_CACHE_SIZE <= u64::MAX / 8);

/// What a node is told at its start. Everything in it has been checked as far as words can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Key, cache and control socket lie here.
    pub state: StateDir,
    /// Where to listen; port 0 means any free one.
    pub listen: SocketAddr,
    /// Peers to ask. One without an id is here only if `secret_file` is set.
    pub peers: Vec<PeerSpec>,
    /// Nodes that may connect.
    pub allow: Vec<PeerId>,
    /// The network secret's file, absolute; not read yet.
    pub secret_file: Option<PathBuf>,
    /// The configuration file that was read, absolute.
    pub file: Option<PathBuf>,
    /// Whether any authenticated key may connect.
    pub open: bool,
    /// What the cache may hold on disk, in bytes, [`MIN_CACHE_SIZE`] to [`MAX_CACHE_SIZE`].
    pub cache_size: u64,
    /// The most that is sent to peers, in bytes a second, at least 64 KiB; `None`: as much
    /// as goes.
    pub serve_rate: Option<u64>,
    /// The most that is checked in the background, in bytes a second, at least 64 KiB; `None`: nothing is.
    pub scrub_rate: Option<u64>,
    /// How it mounts, if it does.
    pub mount: MountConfig,
}

/// How a node mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountConfig {
    /// Whether other users than the mounting one may read; root's mount is open to all in any case.
    pub allow_other: bool,
    /// Whether an open fetches the whole blob first.
    pub hydrate: bool,
    /// How often what is on disk is checked.
    pub verify: Verify,
}

/// How often what is on disk is checked against its hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Once in the life of a node, and again when the file has changed.
    #[default]
    Once,
    /// On every read, none of which the kernel then answers by itself.
    Always,
}

impl NodeConfig {
    /// The serving side's part of it.
    pub fn serve(&self) -> ServeConfig {
        ServeConfig { rate: self.serve_rate }
    }

    /// What a node with this configuration needs by name, at its start or while it runs.
    pub fn places(&self) -> Vec<PathBuf> {
        self.state.places().into_iter().chain(self.secret_file.clone()).chain(self.file.clone()).collect()
    }

    /// The store's part of it.
    pub fn store(&self) -> store::Config {
        store_config(&self.state, self.cache_size)
    }
}

/// The configuration of the store in `state` that may hold `cache_size` bytes.
pub fn store_config(state: &StateDir, cache_size: u64) -> store::Config {
    store::Config { dir: state.cache(), capacity: cache_size, keep_free: KEEP_FREE }
}

impl Layers {
    /// Checks everything and composes a node's configuration.
    pub fn node(&self) -> Result<NodeConfig, ConfigError> {
        let listen = match self.pick(|raw| raw.listen.as_ref()) {
            Some((origin, text)) => parse_listen(text).map_err(|reason| value(origin, "listen", reason))?,
            None => DEFAULT_LISTEN,
        };
        let peers = match self.pick(|raw| raw.peer.as_ref()) {
            Some((origin, specs)) => parse_all::<PeerSpec>(origin, "peer", specs)?,
            None => Vec::new(),
        };
        let allow = match self.pick(|raw| raw.allow.as_ref()) {
            Some((origin, ids)) => parse_all::<PeerId>(origin, "allow", ids)?,
            None => Vec::new(),
        };
        let secret_file = match self.pick(|raw| raw.secret_file.as_ref()) {
            Some((origin, path)) => Some(absolute(origin, "secret-file", path)?),
            None => None,
        };
        if secret_file.is_none()
            && let Some(peer) = peers.iter().find(|peer| peer.id.is_none())
            && let Some((origin, _)) = self.pick(|raw| raw.peer.as_ref())
        {
            let reason =
                format!("'{peer}' has no id, and no secret vouches for it: write <id>@{peer} or give --secret-file");
            return Err(value(origin, "peer", reason));
        }
        Ok(NodeConfig {
            state: self.state()?,
            listen,
            peers,
            allow,
            secret_file,
            file: self.file().and_then(|file| std::path::absolute(file).ok()),
            open: self.pick(|raw| raw.open.as_ref()).is_some_and(|(_, open)| *open),
            cache_size: self.cache_size()?,
            serve_rate: self.rate("serve-rate", |raw| raw.serve_rate.as_ref())?,
            scrub_rate: self.rate("scrub-rate", |raw| raw.scrub_rate.as_ref())?,
            mount: MountConfig {
                allow_other: self.pick(|raw| raw.allow_other.as_ref()).is_some_and(|(_, on)| *on),
                hydrate: self.pick(|raw| raw.hydrate.as_ref()).is_some_and(|(_, on)| *on),
                verify: match self.pick(|raw| raw.verify.as_ref()) {
                    Some((origin, text)) => parse_verify(text).map_err(|reason| value(origin, "verify", reason))?,
                    None => Verify::Once,
                },
            },
        })
    }

    /// A limit in bytes a second, if one is given.
    fn rate(&self, key: &str, of: impl Fn(&super::RawConfig) -> Option<&String>) -> Result<Option<u64>, ConfigError> {
        let Some((origin, text)) = self.pick(of) else { return Ok(None) };
        parse_rate(text).map(Some).map_err(|reason| value(origin, key, reason))
    }

    /// What the cache of a node may hold on disk, in bytes.
    fn cache_size(&self) -> Result<u64, ConfigError> {
        Ok(self.given_cache_size()?.map_or(DEFAULT_CACHE_SIZE, |(_, size)| size))
    }

    /// What the cache in the state directory may hold on disk while no node runs, in bytes: what a flag says, else
    /// what the last node there was given, for the environment and the file may be meant for another one, else what
    /// these say.
    pub fn cache_size_without_node(&self) -> Result<u64, ConfigError> {
        let (by_flag, otherwise) = match self.given_cache_size()? {
            Some((Origin::Flags, size)) => (Some(size), None),
            given => (None, given.map(|(_, size)| size)),
        };
        let noted = self.state()?.noted_cache_size();
        Ok(by_flag.or(noted).or(otherwise).unwrap_or(DEFAULT_CACHE_SIZE))
    }

    /// The size of the cache, in bytes, and who says so.
    fn given_cache_size(&self) -> Result<Option<(&Origin, u64)>, ConfigError> {
        let Some((origin, text)) = self.pick(|raw| raw.cache_size.as_ref()) else { return Ok(None) };
        let size = parse_size(text).map_err(|reason| value(origin, "cache-size", reason))?;
        Ok(Some((origin, size)))
    }
}

fn value(origin: &Origin, key: &str, reason: String) -> ConfigError {
    ConfigError::Value { place: origin.place(key), reason }
}

fn parse_all<T>(origin: &Origin, key: &str, texts: &[String]) -> Result<Vec<T>, ConfigError>
where
    T: std::str::FromStr<Err = crate::ids::ParseIdError>,
{
    texts.iter().map(|text| text.parse().map_err(|error| value(origin, key, format!("{error}")))).collect()
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let wanted =
        || format!("'{text}' is not an address: IP:PORT is wanted, for instance {DEFAULT_LISTEN} or [::]:7117");
    text.parse().map_err(|_| wanted())
}

fn parse_verify(text: &str) -> Result<Verify, String> {
    match text {
        "once" => Ok(Verify::Once),
        "always" => Ok(Verify::Always),
        _ => Err(format!("'{text}' is neither 'once' nor 'always'")),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let size = text
        .parse::<bytesize::ByteSize>()
        .map_err(|_| format!("'{text}' is not a size: for instance 20G or 500MiB is wanted"))?
        .as_u64();
    if size < MIN_CACHE_SIZE {
        return Err(format!("'{text}' is too small: at least 64MiB is wanted"));
    }
    if size > MAX_CACHE_SIZE {
        return Err(format!("'{text}' is too large: at most 1EiB is wanted"));
    }
    Ok(size)
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = text
        .parse::<bytesize::ByteSize>()
        .map_err(|_| format!("'{text}' is not a rate: bytes in a second, for instance 50MB, are wanted"))?
        .as_u64();
    if rate < MIN_RATE {
        return Err(format!("'{text}' is too small: at least 64KiB are wanted"));
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{RawConfig, Surroundings};

    fn node(flags: RawConfig) -> Result<NodeConfig, ConfigError> {
        let around = Surroundings { var: &|_| None, root: true, system_file: Path::new("/nonexistent/byhash.toml") };
        Layers::load(flags, None, &around)?.node()
    }

    fn refused(flags: RawConfig, words: &[&str]) {
        let error = node(flags).unwrap_err();
        assert!(error.is_misuse());
        for word in words {
            assert!(error.to_string().contains(word), "{error}: {word} is missing");
        }
    }

    #[test]
    fn nothing_given_means_the_defaults_and_nobody_in() {
        let config = node(RawConfig::default()).unwrap();
        assert_eq!(config.listen, DEFAULT_LISTEN);
        assert_eq!((config.cache_size, config.serve_rate, config.scrub_rate), (DEFAULT_CACHE_SIZE, None, None));
        assert!(config.peers.is_empty() && config.allow.is_empty() && !config.open);
        assert_eq!(config.secret_file, None);
    }

    #[test]
    fn some_of_the_disk_is_left_free_whatever_the_size_of_the_cache() {
        for size in [None, Some("64MiB"), Some("1TiB")] {
            let config = node(RawConfig { cache_size: size.map(str::to_owned), ..RawConfig::default() }).unwrap();
            let store = config.store();
            assert_eq!((store.capacity, store.keep_free), (config.cache_size, 256 << 20), "{size:?}");
        }
    }

    #[test]
    fn all_that_is_given_arrives() {
        let id = PeerId::from_bytes([7; 32]);
        let config = node(RawConfig {
            state: Some("/s".into()),
            listen: Some("[::1]:0".into()),
            peer: Some(vec![format!("{id}@h:1"), "other:2".into()]),
            allow: Some(vec![id.to_string()]),
            secret_file: Some("relative".into()),
            open: Some(true),
            cache_size: Some("1.5GiB".into()),
            serve_rate: Some("50MB".into()),
            allow_other: Some(true),
            hydrate: Some(true),
            verify: Some("always".into()),
            scrub_rate: Some("1MiB".into()),
        })
        .unwrap();
        assert_eq!(config.listen, "[::1]:0".parse().unwrap());
        assert_eq!(config.peers[0].id, Some(id));
        assert_eq!(config.allow, [id]);
        assert!(config.secret_file.unwrap().is_absolute());
        assert!(config.open);
        assert_eq!(config.cache_size, 3 << 29);
        assert_eq!((config.serve_rate, config.scrub_rate), (Some(50_000_000), Some(1 << 20)));
        assert_eq!(config.mount, MountConfig { allow_other: true, hydrate: true, verify: Verify::Always });
    }

    #[test]
    fn bad_values_are_named_with_their_flag() {
        let listen = |text: &str| RawConfig { listen: Some(text.into()), ..RawConfig::default() };
        refused(listen("nowhere"), &["--listen", "'nowhere'"]);
        let peer = |text: &str| RawConfig { peer: Some(vec![text.into()]), ..RawConfig::default() };
        refused(peer("h"), &["--peer", "'h'"]);
        refused(peer("beef@h:1"), &["--peer", "'beef'"]);
        refused(peer("h:1"), &["--peer", "'h:1'", "--secret-file"]);
        let allow = RawConfig { allow: Some(vec!["me".into()]), ..RawConfig::default() };
        refused(allow, &["--allow", "'me'"]);
        let verify = RawConfig { verify: Some("often".into()), ..RawConfig::default() };
        refused(verify, &["--verify", "'often'", "'always'"]);
    }

    #[test]
    fn sizes_have_a_least_and_a_most() {
        let size = |text: &str| RawConfig { cache_size: Some(text.into()), ..RawConfig::default() };
        assert_eq!(node(size("20G")).unwrap().cache_size, 20_000_000_000);
        assert_eq!(node(size("64MiB")).unwrap().cache_size, MIN_CACHE_SIZE);
        refused(size("63MiB"), &["--cache-size", "'63MiB'", "64MiB"]);
        for bad in ["", "big", "-1G", "20X", "9999999999999T"] {
            refused(size(bad), &["--cache-size", &format!("'{bad}'")]);
        }
    }

    #[test]
    fn without_a_node_only_a_flag_counts_above_what_the_last_one_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("byhash.toml");
        let around = Surroundings { var: &|_| None, root: true, system_file: &file };
        let state = StateDir::new(dir.path());
        let size = |flag: Option<&str>| {
            let flags = RawConfig {
                state: Some(dir.path().to_owned()),
                cache_size: flag.map(str::to_owned),
                ..RawConfig::default()
            };
            Layers::load(flags, None, &around).unwrap().cache_size_without_node().unwrap()
        };
        assert_eq!(size(None), DEFAULT_CACHE_SIZE);
        std::fs::write(&file, "cache-size = '1GiB'").unwrap();
        assert_eq!(size(None), 1 << 30);
        state.note_cache_size(2 << 30).unwrap();
        assert_eq!((size(None), size(Some("3GiB"))), (2 << 30, 3 << 30));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(size(None), 2 << 30);
    }

    #[test]
    fn rates_have_a_least() {
        let rate = |text: &str| RawConfig { serve_rate: Some(text.into()), ..RawConfig::default() };
        assert_eq!(node(rate("64KiB")).unwrap().serve_rate, Some(MIN_RATE));
        refused(rate("63KiB"), &["--serve-rate", "'63KiB'", "64KiB"]);
        refused(rate("fast"), &["--serve-rate", "'fast'", "50MB"]);
    }

    #[test]
    fn a_value_in_the_file_is_named_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("byhash.toml");
        std::fs::write(&file, "allow = ['me']").unwrap();
        let around = Surroundings { var: &|_| None, root: true, system_file: &file };
        let error = Layers::load(RawConfig::default(), None, &around).unwrap().node().unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("'me'"), "{error}");
        for key in ["state", "secret-file"] {
            std::fs::write(&file, format!("{key} = ''")).unwrap();
            let error = Layers::load(RawConfig::default(), None, &around).unwrap().node().unwrap_err();
            assert!(error.is_misuse());
            let place = format!("{key} in {}: '' is not a path", file.display());
            assert!(error.to_string().starts_with(&place), "{error}");
        }
    }
}
