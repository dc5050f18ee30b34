//! What the README shows exists: commands, flags, files, variables, links, its two set-up commands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const README: &str = include_str!("../README.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of `text` that are inside code blocks, or those that are not.
fn lines(text: &str, in_blocks: bool) -> Vec<&str> {
    let mut inside = false;
    let chosen = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !fence && inside == in_blocks
    });
    chosen.collect()
}

/// The lines of the README's code blocks, without prompts.
fn code_lines() -> Vec<&'static str> {
    let unprompted = |line: &'static str| line.split_once("$ ").map_or(line, |(_prompt, command)| command);
    lines(README, true).into_iter().map(unprompted).collect()
}

/// What stands between backticks in the README's text.
fn code_spans() -> Vec<String> {
    let text = lines(README, false).join("\n");
    text.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The words of `command` up to a comment or what the shell takes, each `<placeholder>` as one word.
fn words(command: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in command.split_whitespace() {
        match words.last_mut() {
            Some(last) if last.rfind('<') > last.rfind('>') => *last = format!("{last} {word}"),
            _ if ["#", "&&", "|", ">", "<", ";"].contains(&word) => break,
            _ => words.push(word.to_owned()),
        }
    }
    words
}

/// The commands of `program` shown anywhere, as arguments.
fn commands(program: &str) -> BTreeSet<Vec<String>> {
    let spans = code_spans();
    let shown = code_lines().into_iter().chain(spans.iter().map(String::as_str));
    shown.map(words).filter(|words| words[..].first().is_some_and(|first| first == program)).collect()
}

/// Whether byhash understands `args` up to the end. Nothing is carried out: help is asked for.
fn is_understood(args: &[String]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byhash"));
    command.args(args).arg("--help").output().unwrap().status.success()
}

#[test]
fn every_command_and_flag_shown_is_understood() {
    let commands = commands("byhash");
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        assert!(is_understood(&command[1..]), "{command:?}");
    }
}

#[test]
fn a_command_or_flag_that_does_not_exist_would_be_seen() {
    for command in ["byhash munt /mnt/net", "byhash mount /mnt/net --pear <id of a>@192.0.2.1:7117", "byhash add -z x"]
    {
        assert!(!is_understood(&words(command)[1..]), "{command}");
    }
    assert_eq!(words("byhash serve --allow <id of a>@h:1 > log # x"), ["byhash", "serve", "--allow", "<id of a>@h:1"]);
}

#[test]
fn the_two_set_up_commands_stand_alone() {
    for command in ["cargo run --release -- demo", "cargo test"] {
        assert!(code_lines().contains(&command), "{command}");
    }
}

#[test]
fn every_test_and_bench_shown_exists() {
    let shown = lines(README, true).into_iter().chain(lines(README, false));
    for line in shown.filter(|line| line.contains("cargo ")) {
        let words: Vec<_> = line.split_whitespace().map(|word| word.trim_matches(['`', '.', ',', ':'])).collect();
        for pair in words.windows(2) {
            let dir = match pair[0] {
                "--test" => "tests",
                "--bench" => "benches",
                _ => continue,
            };
            let places = [format!("{dir}/{}.rs", pair[1]), format!("{dir}/{}/main.rs", pair[1])];
            assert!(places.iter().any(|place| root().join(place).exists()), "{line}");
        }
    }
}

#[test]
fn every_file_named_exists() {
    let spans = code_spans();
    let ours = ["mount-scripts/", "src/", "tests/", "benches/", ".ci/", "LICENSE", "Cargo"];
    let named: Vec<_> = spans.iter().filter(|span| ours.iter().any(|start| span.starts_with(start))).collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(root().join(name.split_whitespace().next().unwrap()).exists(), "{name}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let text = lines(README, false).join("\n");
    let headings: BTreeSet<String> =
        text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect();
    for link in text.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        match target.strip_prefix('#') {
            Some(heading) => assert!(headings.contains(heading), "{target}"),
            None if target.contains("://") => {}
            None => assert!(root().join(target.split('#').next().unwrap()).exists(), "{target}"),
        }
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
}

#[test]
fn every_variable_named_is_read_somewhere() {
    let mut code = String::new();
    let mut todo: Vec<PathBuf> = ["src", "tests", "benches"].iter().map(|dir| root().join(dir)).collect();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("tests/readme.rs") {
            code += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
        }
    }
    let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
    let named: BTreeSet<_> =
        README.split(|c| !is_part(c)).filter(|name| name.starts_with("BYHASH_") && !name.ends_with('_')).collect();
    assert!(!named.is_empty());
    for name in named {
        assert!(code.contains(&format!("\"{name}\"")), "{name}");
    }
}
