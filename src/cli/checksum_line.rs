//! The line that `b3sum` prints for a file: written and read.

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

/// The hash that a line begins with, followed by nothing or by a space and whatever else there is. Lines
/// as `b3sum --tag` prints them, `BLAKE3 (<path>) = <hash>`, are understood too.
pub(super) fn hash_in_line(line: &str) -> Option<ContentHash> {
    let line = line.trim();
    let line = line.strip_prefix('\\').unwrap_or(line);
    let word = match line.strip_prefix("BLAKE3 (") {
        Some(tagged) => tagged.rsplit_once(") = ")?.1,
        None => line.split_whitespace().next()?,
    };
    ContentHash::from_name(word.as_bytes())
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
    fn the_hash_is_found_in_what_checksum_programs_print() {
        let hash = ContentHash::of(b"x");
        let lines = [
            format!("{hash}"),
            format!("{hash}  a file\r\n"),
            format!("  {hash} *binary\n"),
            checksum_line(&hash, Path::new("a\\b")),
            format!("BLAKE3 (odd) = name) = {hash}\n"),
        ];
        for line in lines {
            assert_eq!(hash_in_line(&line), Some(hash), "{line}");
        }
        for line in ["", "x", &format!("{hash}0"), &format!("x {hash}"), &format!("BLAKE3 (a) {hash}")] {
            assert_eq!(hash_in_line(line), None, "{line}");
        }
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
            assert_eq!(hash_in_line(&line), Some(ContentHash::of(name.as_bytes())));
        }
    }
}
