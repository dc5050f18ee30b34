//! What the README shows exists: commands, flags, files, its two set-up commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../README.md");

/// The lines of the README's code blocks.
fn code_lines() -> Vec<&'static str> {
    let mut inside = false;
    README
        .lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            inside && !fence
        })
        .collect()
}

/// The commands of byhash shown, prompts and comments taken off.
fn commands() -> Vec<&'static str> {
    let shown: Vec<_> = code_lines()
        .into_iter()
        .filter_map(|line| {
            let command = line.split_once("$ ").map_or(line, |(_prompt, command)| command);
            command.strip_prefix("byhash ").map(|rest| rest.split(" #").next().unwrap_or(rest).trim())
        })
        .collect();
    assert!(shown.len() >= 10, "{shown:?}");
    shown
}

fn help(subcommand: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_byhash")).args([subcommand, "--help"]).output().unwrap();
    assert!(output.status.success(), "'byhash {subcommand}' is shown but there is no such command");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_and_flag_shown_exists() {
    let mut helps = BTreeMap::new();
    for command in commands() {
        let subcommand = command.split_whitespace().next().unwrap();
        let help = helps.entry(subcommand).or_insert_with(|| help(subcommand));
        for flag in command.split_whitespace().filter(|word| word.starts_with('-') && *word != "-") {
            assert!(help.contains(flag), "'byhash {command}': no {flag} in its help");
        }
    }
}

#[test]
fn every_file_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in
        README.split('`').filter(|name| ["mount-scripts/", "src/", "tests/"].iter().any(|dir| name.starts_with(dir)))
    {
        assert!(root.join(name.split_whitespace().next().unwrap()).exists(), "{name}");
    }
    assert!(root.join("LICENSE").exists());
}

#[test]
fn the_two_set_up_commands_stand_alone() {
    for command in ["cargo run --release -- demo", "cargo test"] {
        assert!(code_lines().contains(&command), "{command}");
    }
}
