//! The places where settings come from, highest first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{ConfigError, RawConfig, StateDir};

/// What the process finds around it; tests make up their own.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub var: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the process runs as root, which decides the default places.
    pub root: bool,
    /// Root's configuration file.
    pub system_file: &'a Path,
}

impl Surroundings<'static> {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        // SAFETY: geteuid has no preconditions and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        Self { var: &|name| std::env::var_os(name), root, system_file: Path::new("/etc/byhash.toml") }
    }
}

impl Surroundings<'_> {
    fn dir(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let set = |name| (self.var)(name).map(PathBuf::from).filter(|path| path.is_absolute());
        set(variable).or_else(|| set("HOME").map(|home| home.join(below_home)))
    }

    fn default_state(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/var/lib/byhash"));
        }
        self.dir("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("byhash"))
    }

    fn default_file(&self) -> Option<PathBuf> {
        if self.root {
            return Some(self.system_file.to_owned());
        }
        self.dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("byhash/config.toml"))
    }
}

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flags,
    Environment,
    File(PathBuf),
}

impl Origin {
    /// How the user knows `key` there: `--peer`, `BYHASH_PEER`, `peer in /etc/byhash.toml`.
    pub(super) fn place(&self, key: &str) -> String {
        match self {
            Self::Flags => format!("--{key}"),
            Self::Environment => format!("BYHASH_{}", key.replace('-', "_").to_uppercase()),
            Self::File(path) => format!("{key} in {}", path.display()),
        }
    }
}

/// Flags over environment over file.
#[derive(Debug)]
pub struct Layers {
    layers: Vec<(Origin, RawConfig)>,
    default_state: Option<PathBuf>,
}

impl Layers {
    /// Stacks `flags` on what the environment and a file say. The file is `file`, else
    /// `BYHASH_CONFIG`, else the default one if it exists: `/etc/byhash.toml` for root,
    /// `$XDG_CONFIG_HOME/byhash/config.toml` for a user.
    pub fn load(flags: RawConfig, file: Option<PathBuf>, around: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let mut layers = vec![(Origin::Flags, flags), (Origin::Environment, RawConfig::from_environment(around.var)?)];
        let from_environment = || (around.var)("BYHASH_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        let file = match file.or_else(from_environment) {
            Some(named) => Some(named),
            None => around.default_file().filter(|path| path.exists()),
        };
        if let Some(file) = file {
            let raw = RawConfig::from_file(&file)?;
            layers.push((Origin::File(file), raw));
        }
        Ok(Self { layers, default_state: around.default_state() })
    }

    /// The value of the highest layer that has one, and that layer's origin.
    pub(super) fn pick<'a, T: ?Sized + 'a>(
        &'a self,
        get: impl Fn(&'a RawConfig) -> Option<&'a T>,
    ) -> Option<(&'a Origin, &'a T)> {
        self.layers.iter().find_map(|(origin, raw)| get(raw).map(|value| (origin, value)))
    }

    /// The configuration file, if there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.layers.iter().find_map(|(origin, _)| match origin {
            Origin::File(path) => Some(path.as_path()),
            Origin::Flags | Origin::Environment => None,
        })
    }

    /// The state directory, absolute. Nothing is made on disk.
    pub fn state(&self) -> Result<StateDir, ConfigError> {
        let path = match self.pick(|raw| raw.state.as_ref()) {
            Some((origin, path)) => absolute(origin, "state", path)?,
            None => self.default_state.clone().ok_or(ConfigError::NoStateDir)?,
        };
        Ok(StateDir::new(path))
    }
}

/// `path` as seen from the root directory; an empty one is an error that names `key`.
pub(super) fn absolute(origin: &Origin, key: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|error| ConfigError::Value {
        place: origin.place(key),
        reason: format!("'{}' is not a path: {error}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Option<OsString> {
        (name == "HOME").then(|| "/home/u".into())
    }

    fn around(var: &dyn Fn(&str) -> Option<OsString>, root: bool) -> Surroundings<'_> {
        Surroundings { var, root, system_file: Path::new("/nonexistent/byhash.toml") }
    }

    #[test]
    fn the_default_state_depends_on_who_asks() {
        let state = |var: &dyn Fn(&str) -> Option<OsString>, root| {
            Layers::load(RawConfig::default(), None, &around(var, root)).unwrap().state()
        };
        assert_eq!(state(&user, true).unwrap().path(), Path::new("/var/lib/byhash"));
        assert_eq!(state(&user, false).unwrap().path(), Path::new("/home/u/.local/state/byhash"));
        let xdg = |name: &str| (name == "XDG_STATE_HOME").then(|| "/xdg".into());
        assert_eq!(state(&xdg, false).unwrap().path(), Path::new("/xdg/byhash"));
        assert!(matches!(state(&|_| None, false), Err(ConfigError::NoStateDir)));
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "state = '/file'\nlisten = '127.0.0.1:3'\ncache-size = '3G'").unwrap();
        let var = |name: &str| match name {
            "BYHASH_CONFIG" => Some(file.clone().into_os_string()),
            "BYHASH_STATE" => Some("/env".into()),
            "BYHASH_LISTEN" => Some("127.0.0.1:2".into()),
            _ => None,
        };
        let flags = RawConfig { state: Some("/flag".into()), ..RawConfig::default() };
        let layers = Layers::load(flags, None, &around(&var, true)).unwrap();
        assert_eq!(layers.state().unwrap().path(), Path::new("/flag"));
        let (origin, listen) = layers.pick(|raw| raw.listen.as_ref()).unwrap();
        assert_eq!((origin.place("listen").as_str(), listen.as_str()), ("BYHASH_LISTEN", "127.0.0.1:2"));
        let (origin, size) = layers.pick(|raw| raw.cache_size.as_ref()).unwrap();
        assert_eq!(size, "3G");
        assert_eq!(origin.place("cache-size"), format!("cache-size in {}", file.display()));
    }

    #[test]
    fn a_named_file_must_exist_and_a_default_one_need_not() {
        assert!(Layers::load(RawConfig::default(), None, &around(&user, false)).is_ok());
        let error = Layers::load(RawConfig::default(), Some("/nonexistent/x.toml".into()), &around(&user, false));
        assert!(error.unwrap_err().to_string().contains("/nonexistent/x.toml"));
    }

    #[test]
    fn the_default_file_is_read_when_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("byhash.toml");
        std::fs::write(&file, "state = 'here'").unwrap();
        let around = Surroundings { var: &|_| None, root: true, system_file: &file };
        let layers = Layers::load(RawConfig::default(), None, &around).unwrap();
        assert_eq!(layers.state().unwrap().path(), dir.path().join("here"));
    }
}
