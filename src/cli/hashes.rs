//! The hashes that a user names: as arguments, or line by line on standard input.

use std::io::BufRead;

use clap::Args;

use super::checksum_line::hash_in_line;
use super::failure::CommandError;
use crate::control::MAX_HASHES;
use crate::ids::ContentHash;

/// What stands for standard input among the arguments.
const STDIN: &str = "-";

/// Arguments that name at least one blob.
#[derive(Debug, Args)]
pub(super) struct HashArgs {
    /// Hashes; - reads them from standard input, one a line, as b3sum and 'byhash add' print them
    #[arg(required = true, value_name = "HASH")]
    hashes: Vec<String>,
}

/// Arguments that name blobs, or, if there are none, all.
#[derive(Debug, Args)]
pub(super) struct MaybeHashArgs {
    /// Only these; - reads them from standard input, one a line, as b3sum and 'byhash add' print them
    #[arg(value_name = "HASH")]
    hashes: Vec<String>,
}

impl HashArgs {
    /// Checks the arguments.
    pub(super) fn hashes(self) -> Result<Hashes, CommandError> {
        Hashes::new(self.hashes, Box::new(std::io::stdin().lock()))
    }
}

impl MaybeHashArgs {
    /// Checks the arguments; `None` if there are none.
    pub(super) fn hashes(self) -> Result<Option<Hashes>, CommandError> {
        let given = (!self.hashes.is_empty()).then_some(HashArgs { hashes: self.hashes });
        given.map(HashArgs::hashes).transpose()
    }
}

/// Hashes, a batch at a time, so that there may be any number of lines.
pub(super) struct Hashes {
    /// `None` stands for standard input.
    arguments: std::vec::IntoIter<Option<ContentHash>>,
    stdin: Box<dyn BufRead>,
    reading: bool,
    /// Lines read so far.
    line: u64,
}

impl Hashes {
    fn new(arguments: Vec<String>, stdin: Box<dyn BufRead>) -> Result<Self, CommandError> {
        let parse = |text: &String| match text.as_str() {
            STDIN => Ok(None),
            text => text.parse().map(Some),
        };
        let arguments = arguments.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { arguments: arguments.into_iter(), stdin, reading: false, line: 0 })
    }

    /// The next hashes, as many as one order may name; none after the last. What stands before a line
    /// that is not understood has been handed out when that is told.
    pub(super) fn next_batch(&mut self) -> Result<Vec<ContentHash>, CommandError> {
        let mut batch = Vec::new();
        while batch.len() < MAX_HASHES {
            match self.next() {
                Ok(Some(hash)) => batch.push(hash),
                Ok(None) => break,
                Err(error) if batch.is_empty() => return Err(error),
                Err(error) => {
                    // Told at the next call: nothing is read before.
                    self.stdin = Box::new(Failed(Some(error)));
                    break;
                }
            }
        }
        Ok(batch)
    }

    fn next(&mut self) -> Result<Option<ContentHash>, CommandError> {
        loop {
            if !self.reading {
                match self.arguments.next() {
                    Some(Some(hash)) => return Ok(Some(hash)),
                    Some(None) => self.reading = true,
                    None => return Ok(None),
                }
            }
            let mut line = String::new();
            let failed = |error: std::io::Error| match error.downcast::<CommandError>() {
                Ok(error) => error,
                Err(error) => CommandError::Failed(format!("standard input cannot be read: {error}")),
            };
            if self.stdin.read_line(&mut line).map_err(failed)? == 0 {
                self.reading = false;
                continue;
            }
            self.line += 1;
            if line.trim().is_empty() {
                continue;
            }
            return hash_in_line(&line).map(Some).ok_or_else(|| {
                let shown: String = line.trim().chars().take(80).collect();
                CommandError::Misused(format!(
                    "standard input, line {}: '{shown}' does not begin with a hash",
                    self.line
                ))
            });
        }
    }
}

/// A reader that fails.
struct Failed(Option<CommandError>);

impl std::io::Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.0.take().map_or(Ok(0), |error| Err(std::io::Error::other(error)))
    }
}

impl BufRead for Failed {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.0.take().map_or(Ok(&[]), |error| Err(std::io::Error::other(error)))
    }

    fn consume(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(arguments: &[&str], stdin: String) -> Hashes {
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        Hashes::new(arguments, Box::new(std::io::Cursor::new(stdin))).unwrap()
    }

    #[test]
    fn arguments_and_lines_come_in_their_order_and_in_batches() {
        let all: Vec<_> = (0..MAX_HASHES as u32 + 5).map(|i| ContentHash::of(&i.to_le_bytes())).collect();
        let lines: String = all[1..].iter().map(|hash| format!("{hash}  some file\n\n")).collect();
        let mut hashes = hashes(&[&all[0].to_string(), "-", &all[0].to_string()], lines);
        assert_eq!(hashes.next_batch().unwrap(), all[..MAX_HASHES]);
        assert_eq!(hashes.next_batch().unwrap(), [&all[MAX_HASHES..], &all[..1]].concat());
        assert!(hashes.next_batch().unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_none_is_named_after_those_before_it_were_handed_out() {
        let hash = ContentHash::of(b"x");
        let mut hashes = hashes(&["-"], format!("{hash}\nwhat\n{hash}\n"));
        assert_eq!(hashes.next_batch().unwrap(), [hash]);
        let CommandError::Misused(sentence) = hashes.next_batch().unwrap_err() else { panic!() };
        assert!(sentence.contains("line 2") && sentence.contains("'what'"), "{sentence}");
        assert!(Hashes::new(vec!["what".to_owned()], Box::new(std::io::empty())).is_err());
    }
}
