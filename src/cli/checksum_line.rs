//! The line that `b3sum` prints for a file.

use std::path::Path;

use crate::ids::ContentHash;

/// `<hash>  <path>` and a newline. As in b3sum, a path that would break the line (a newline, a
/// carriage return or a backslash in it) is escaped, and a leading backslash says so; what is
/// not UTF-8 is shown by the replacement character.
pub(super) fn checksum_line(hash: &ContentHash, path: &Path) -> String {
    let name = path.to_string_lossy();
    if !name.contains(['\\', '\n', '\r']) {
        return format!("{hash}  {name}\n");
    }
    let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    format!("\\{hash}  {escaped}\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_that_break_the_line_are_escaped() {
        let hash = ContentHash::EMPTY;
        let line = |name: &str| checksum_line(&hash, Path::new(name));
        assert_eq!(line("-"), format!("{hash}  -\n"));
        assert_eq!(line("a b/ü"), format!("{hash}  a b/ü\n"));
        assert_eq!(line("a\\b\nc\rd"), format!("\\{hash}  a\\\\b\\nc\\rd\n"));
    }

    #[test]
    fn b3sum_prints_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plain", "two words", "back\\slash", "new\nline"] {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            let Ok(output) = Command::new("b3sum").arg(&path).output() else {
                eprintln!("b3sum is not installed: not compared");
                return;
            };
            let line = checksum_line(&ContentHash::of(name.as_bytes()), &path);
            assert_eq!(String::from_utf8(output.stdout).unwrap(), line);
        }
    }
}
