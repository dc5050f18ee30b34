//! What the user typed, before anybody looked at it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// The [`SETTINGS`] of one place: the command line, the environment or a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawConfig {
    /// The state directory.
    pub state: Option<PathBuf>,
    /// `IP:PORT` to listen on.
    pub listen: Option<String>,
    /// Peers, `[ID@]HOST:PORT` each.
    pub peer: Option<Vec<String>>,
    /// Ids of nodes that may connect.
    pub allow: Option<Vec<String>>,
    /// The file with the network secret.
    pub secret_file: Option<PathBuf>,
    /// Whether any authenticated key may connect.
    pub open: Option<bool>,
    /// The cache's size, as `20G` or `20GiB`.
    pub cache_size: Option<String>,
    /// The most that is sent to peers in a second, as `50MB`.
    pub serve_rate: Option<String>,
    /// Whether other users than the mounting one may read.
    pub allow_other: Option<bool>,
    /// Whether an open fetches the whole blob first.
    pub hydrate: Option<bool>,
    /// How often what is on disk is checked: `once` or `always`.
    pub verify: Option<String>,
    /// The most that is checked in the background in a second, as `10MB`.
    pub scrub_rate: Option<String>,
}

/// The settings: each is a flag, a key of the file and, with `BYHASH_` before it and in capitals, a variable. Other
/// flags tell a single command what to do.
pub const SETTINGS: [&str; 12] = [
    "state",
    "listen",
    "peer",
    "allow",
    "secret-file",
    "open",
    "cache-size",
    "serve-rate",
    "scrub-rate",
    "allow-other",
    "hydrate",
    "verify",
];

/// What the names of all our variables begin with.
const PREFIX: &str = "BYHASH_";

/// Variables that are no settings: the file, and the filter of the log.
const OTHERS: [&str; 2] = ["CONFIG", "LOG"];

/// How those begin that the tests and benches take.
const OF_TESTS: [&str; 6] = ["BENCH_", "CRASH_", "DAMAGED_", "KILL", "SIM_", "TEST_"];

/// Those of the variables with these `names` that look like ours and are none.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let ours = names.map(|name| name.to_string_lossy().into_owned());
    let is_known = |name: &str| {
        SETTINGS.iter().any(|setting| setting.replace('-', "_").to_uppercase() == name)
            || OTHERS.contains(&name)
            || OF_TESTS.iter().any(|beginning| name.starts_with(beginning))
    };
    ours.filter(|name| name.strip_prefix(PREFIX).is_some_and(|name| !is_known(name))).collect()
}

impl RawConfig {
    /// The settings in `BYHASH_*` variables, as `var` gives them. An empty variable counts as
    /// unset; items of a list are separated by commas or white space.
    pub fn from_environment(var: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| match var(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.into_string().map(Some).map_err(|value| ConfigError::Value {
                place: name.to_owned(),
                reason: format!("'{}' is not UTF-8", value.to_string_lossy()),
            }),
        };
        let list = |name| {
            let split = |value: String| {
                value.split([',', ' ', '\t', '\n']).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            };
            text(name).map(|value| value.map(split))
        };
        let switch = |name: &str| match text(name)?.as_deref() {
            None => Ok(None),
            Some("1" | "true" | "yes") => Ok(Some(true)),
            Some("0" | "false" | "no") => Ok(Some(false)),
            Some(other) => {
                let reason = format!("'{other}' is neither 'true' nor 'false'");
                Err(ConfigError::Value { place: name.to_owned(), reason })
            }
        };
        Ok(Self {
            state: path("BYHASH_STATE"),
            listen: text("BYHASH_LISTEN")?,
            peer: list("BYHASH_PEER")?,
            allow: list("BYHASH_ALLOW")?,
            secret_file: path("BYHASH_SECRET_FILE"),
            open: switch("BYHASH_OPEN")?,
            cache_size: text("BYHASH_CACHE_SIZE")?,
            serve_rate: text("BYHASH_SERVE_RATE")?,
            allow_other: switch("BYHASH_ALLOW_OTHER")?,
            hydrate: switch("BYHASH_HYDRATE")?,
            verify: text("BYHASH_VERIFY")?,
            scrub_rate: text("BYHASH_SCRUB_RATE")?,
        })
    }

    /// The settings in the TOML file at `path`. Relative paths in it start at its directory.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::FileUnreadable { path: path.to_owned(), source })?;
        let mut raw: Self = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
            let reason = error.message().trim().replace('\n', ", ");
            ConfigError::FileInvalid { path: path.to_owned(), line, reason }
        })?;
        let home = path.parent().unwrap_or(Path::new(""));
        let given = [&mut raw.state, &mut raw.secret_file].into_iter().flatten();
        // An empty one stays what it is, no path, or it would be the directory of the file.
        for relative in given.filter(|path| !path.as_os_str().is_empty()) {
            *relative = home.join(&*relative);
        }
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<RawConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("byhash.toml");
        std::fs::write(&path, text).unwrap();
        RawConfig::from_file(&path)
    }

    #[test]
    fn a_file_is_read_and_its_paths_start_where_it_lies() {
        let raw = file("peer = ['h:1']\nopen = true\ncache-size = '1G'\nsecret-file = 'secret'\nstate = '/s'").unwrap();
        assert_eq!(raw.peer.unwrap(), ["h:1"]);
        assert_eq!(raw.open, Some(true));
        assert_eq!(raw.cache_size.unwrap(), "1G");
        assert_eq!(raw.state.unwrap(), Path::new("/s"));
        assert!(raw.secret_file.unwrap().is_absolute());
    }

    #[test]
    fn an_unknown_key_is_named_with_file_and_line() {
        let error = file("open = true\n\npears = ['h:1']\n").unwrap_err().to_string();
        assert!(error.contains("byhash.toml:3: ") && error.contains("pears"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_and_broken_toml_are_named_with_the_line() {
        let error = file("\nopen = 'x'\n").unwrap_err().to_string();
        assert!(error.contains("byhash.toml:2: "), "{error}");
        let error = file("open = true\nlisten = \n").unwrap_err().to_string();
        assert!(error.contains("byhash.toml:2: "), "{error}");
    }

    #[test]
    fn the_settings_are_the_keys_of_the_file_and_the_variables() {
        use std::cell::RefCell;
        let error = file("pears = 1").unwrap_err().to_string();
        let mut keys: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        let asked = RefCell::new(Vec::new());
        let var = |name: &str| {
            asked.borrow_mut().push(OsString::from(name));
            None
        };
        RawConfig::from_environment(&var).unwrap();
        assert_eq!(unknown_variables(asked.borrow().iter().cloned()), Vec::<String>::new());
        assert_eq!(asked.borrow().len(), SETTINGS.len());
        let mut settings = SETTINGS;
        keys.sort_unstable();
        settings.sort_unstable();
        assert_eq!(keys, settings);
    }

    #[test]
    fn variables_that_only_look_like_ours_are_named() {
        let names = ["BYHASH_PEERS", "BYHASH_", "BYHASH_JSON", "BYHASH_Peer", "BYHASH_CACHE-SIZE"];
        let fine = ["BYHASH_PEER", "BYHASH_CACHE_SIZE", "BYHASH_CONFIG", "BYHASH_LOG", "BYHASH_BENCH_MIB", "PEERS"];
        assert_eq!(unknown_variables(names.iter().chain(&fine).map(OsString::from)), names);
    }

    #[test]
    fn environment_lists_are_split_and_an_empty_variable_is_unset() {
        let var = |name: &str| match name {
            "BYHASH_PEER" => Some("a:1, b:2 c:3".into()),
            "BYHASH_LISTEN" => Some("".into()),
            "BYHASH_OPEN" => Some("no".into()),
            _ => None,
        };
        let raw = RawConfig::from_environment(&var).unwrap();
        assert_eq!(raw.peer.unwrap(), ["a:1", "b:2", "c:3"]);
        assert_eq!(raw.listen, None);
        assert_eq!(raw.open, Some(false));
    }

    #[test]
    fn an_environment_switch_that_is_neither_is_named() {
        let var = |name: &str| (name == "BYHASH_OPEN").then(|| "perhaps".into());
        let error = RawConfig::from_environment(&var).unwrap_err().to_string();
        assert!(error.contains("BYHASH_OPEN") && error.contains("perhaps"), "{error}");
    }
}
