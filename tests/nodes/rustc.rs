//! The installed Rust compiler as a guest: its largest library, and the compiler at work with its
//! libraries in the mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::content::hash_of_file;
use super::node::{Node, Sandbox, fuse_is_here, run};
use super::programs::link;

fn sysroot() -> PathBuf {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    run(Command::new(rustc).args(["--print", "sysroot"])).trim_end().into()
}

/// The shared libraries in the compiler's own directory, the largest last.
fn libraries(sysroot: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sysroot.join("lib")).unwrap().map(|entry| entry.unwrap().path());
    let mut libraries: Vec<_> = entries.filter(|path| path.to_string_lossy().contains(".so")).collect();
    libraries.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    libraries
}

fn holder_and_reader(sandbox: &Sandbox) -> (Node, Node) {
    let holder = sandbox.holder("a", &[]);
    let reader = sandbox.reader("b", &[&holder]);
    (holder, reader)
}

#[test]
fn the_largest_library_of_the_toolchain_reads_as_its_name_says() {
    if !fuse_is_here("the_largest_library_of_the_toolchain_reads_as_its_name_says") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    let library = libraries(&sysroot()).pop().expect("the compiler has libraries");
    let hash = holder.add_file(&library);
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
    run(Command::new("cmp").arg(&library).arg(reader.file(&hash)));
    assert_eq!(reader.metric("fetched_bytes"), std::fs::metadata(&library).unwrap().len());
}

#[test]
fn the_compiler_works_with_its_libraries_in_the_mount() {
    if !fuse_is_here("the_compiler_works_with_its_libraries_in_the_mount") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    let sysroot = sysroot();
    // The compiler looks for its libraries in ../lib, seen from where it is.
    let (bin, lib) = (sandbox.make_dir("farm/bin"), sandbox.make_dir("farm/lib"));
    std::fs::copy(sysroot.join("bin/rustc"), bin.join("rustc")).unwrap();
    for library in libraries(&sysroot) {
        link(&holder, &reader, &library, &lib.join(library.file_name().unwrap()));
    }
    let source = sandbox.write("hello.rs", "fn main() { println!(\"{}\", [1, 2, 3].iter().sum::<i32>()); }");
    let program = sandbox.path("hello");
    let mut rustc = Command::new(bin.join("rustc"));
    rustc.env_remove("LD_LIBRARY_PATH").arg("--sysroot").arg(&sysroot).arg("-o").arg(&program).arg(source);
    run(&mut rustc);
    assert_eq!(run(&mut Command::new(program)), "6\n");
    assert!(reader.metric("read_bytes") > 0, "the libraries were taken from elsewhere");
    assert_eq!(reader.metric("read_errors"), 0);
}
