//! Compilers and an interpreter that lie in the mount with all that belongs to them, at work.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::node::{Node, Sandbox, fuse_is_here, program_is_here, run, stdout};

fn holder_and_reader(sandbox: &Sandbox) -> (Node, Node) {
    let holder = sandbox.holder("a", &[]);
    let reader = sandbox.reader("b", &[&holder]);
    (holder, reader)
}

/// Gives files to `holder` and makes links to them in the mount of `reader`: pairs of file and link.
fn link_all(holder: &Node, reader: &Node, files: &[(PathBuf, PathBuf)]) {
    let paths = files.iter().map(|(file, _)| file.as_os_str());
    let printed = stdout(&holder.run(std::iter::once("add".as_ref()).chain(paths)));
    let hashes: Vec<_> = printed.lines().map(|line| &line[..64]).collect();
    assert_eq!(hashes.len(), files.len());
    for (hash, (_, link)) in hashes.into_iter().zip(files) {
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(reader.file(hash), link).unwrap();
    }
}

/// Files below `root` for which `wanted` holds, with their places below `farm`.
fn tree(root: &Path, farm: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<(PathBuf, PathBuf)> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                _ if !wanted(&path) => {}
                true => left.push(path),
                false => found.push((path.clone(), farm.join(path.strip_prefix(root).unwrap()))),
            }
        }
    }
    found
}

fn opens(node: &Node) -> u64 {
    node.metric("opens_passed_through") + node.metric("opens_streamed")
}

#[test]
fn the_rust_compiler_and_its_library_compile_and_link_from_the_mount() {
    if !fuse_is_here("the_rust_compiler_and_its_library_compile_and_link_from_the_mount") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let sysroot: PathBuf = run(Command::new(rustc).args(["--print", "sysroot"])).trim_end().into();
    let farm = sandbox.make_dir("farm");
    let library = |path: &Path| path.is_dir() || !path.to_string_lossy().contains("/lib/rustlib/src/");
    let mut files = tree(&sysroot.join("lib"), &farm.join("lib"), &library);
    files.push((sysroot.join("bin/rustc"), farm.join("bin/rustc")));
    // The wrappers of the linker look at what they are called, and that is a hash in the mount.
    let (wrappers, files): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(file, _)| file.to_string_lossy().contains("/bin/gcc-ld/"));
    for (file, copy) in wrappers {
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(file, copy).unwrap();
    }
    link_all(&holder, &reader, &files);

    let source = "use std::collections::BTreeMap;\n\
                  fn main() { let m: BTreeMap<_, _> = (1..4).map(|n| (n, n * n)).collect(); println!(\"{m:?}\"); }";
    let (source, program) = (sandbox.write("squares.rs", source), sandbox.path("squares"));
    let mut rustc = Command::new(farm.join("bin/rustc"));
    // Reached through a link, it sees itself in the mount, and its libraries not beside it.
    rustc.env("LD_LIBRARY_PATH", farm.join("lib")).arg("--sysroot").arg(&farm);
    run(rustc.arg("-o").arg(&program).arg(source));
    assert_eq!(run(&mut Command::new(program)), "{1: 1, 2: 4, 3: 9}\n");
    assert!(opens(&reader) > 10, "the toolchain was taken from elsewhere");
    assert_eq!(reader.metric("read_errors"), 0);
}

#[test]
fn the_c_compiler_with_its_parts_compiles_and_links_from_the_mount() {
    if !fuse_is_here("the_c_compiler_with_its_parts_compiles_and_links_from_the_mount") || !program_is_here("gcc") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    let farm = sandbox.make_dir("farm");
    let ask = |question: String| PathBuf::from(run(Command::new("gcc").arg(question)).trim_end());
    let mut files = Vec::new();
    let mut need = |path: PathBuf| {
        let on_path = || PathBuf::from("/usr/bin").join(&path);
        let found = if path.is_absolute() { path.clone() } else { on_path() };
        files.push((found.canonicalize().unwrap(), farm.join(path.file_name().unwrap())));
    };
    for program in ["cc1", "collect2", "ld", "as"] {
        need(ask(format!("-print-prog-name={program}")));
    }
    for file in
        ["Scrt1.o", "crt1.o", "crti.o", "crtn.o", "crtbeginS.o", "crtendS.o", "libgcc.a", "libgcc_s.so.1", "libm.so.6"]
    {
        need(ask(format!("-print-file-name={file}")));
    }
    need("/usr/bin/gcc".into());
    link_all(&holder, &reader, &files);
    let source =
        sandbox.write("hello.c", "#include <stdio.h>\nint main(void) { return printf(\"%d\\n\", 6 * 7) != 3; }\n");
    let program = sandbox.path("hello");
    let mut gcc = Command::new(farm.join("gcc"));
    gcc.arg0("gcc").arg("-B").arg(&farm).arg("-O2").arg("-v").arg("-o").arg(&program).arg(source);
    let output = gcc.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(farm.join("cc1").to_str().unwrap()), "{said}");
    assert_eq!(run(&mut Command::new(program)), "42\n");
    assert!(opens(&reader) >= 6, "the toolchain was taken from elsewhere: {} opens", opens(&reader));
    assert_eq!(reader.metric("read_errors"), 0);
}

#[test]
fn a_python_interpreter_runs_with_its_standard_library_in_the_mount() {
    if !fuse_is_here("a_python_interpreter_runs_with_its_standard_library_in_the_mount") || !program_is_here("python3")
    {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    let ask = "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); print(sysconfig.get_path('stdlib'))";
    let said = run(Command::new("python3").args(["-c", ask]));
    let (program, library) = said.trim_end().split_once('\n').unwrap();
    let library = Path::new(library);
    let farm = sandbox.make_dir("farm");
    // Whatever is not the library itself, and what it was compiled to.
    let left_out =
        ["__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "lib2to3"];
    let wanted = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        !left_out.contains(&&*name) && !name.starts_with("config-") && !name.ends_with(".a") && path.exists()
    };
    let mut files = tree(library, &farm.join("lib").join(library.file_name().unwrap()), &wanted);
    files.push((program.into(), farm.join("bin/python3")));
    link_all(&holder, &reader, &files);
    let script = "import csv, decimal, email.message, hashlib, http.client, json, sqlite3, sys, unittest, xml.dom.minidom, zlib\n\
                  assert json.__file__.startswith(sys.argv[1]), json.__file__\n\
                  print(json.dumps({'sum': sum(range(10)), 'pi': str(decimal.Decimal(355) / 113)[:6]}))";
    let mut python = Command::new(farm.join("bin/python3"));
    python.env("PYTHONHOME", &farm).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("PYTHONPATH");
    if let Some(lib) = Path::new(program).parent().and_then(Path::parent) {
        python.env("LD_LIBRARY_PATH", lib.join("lib"));
    }
    let script = script.replace("sqlite3, ", "");
    python.args(["-c", &script]).arg(&farm);
    let expected = "{\"sum\": 45, \"pi\": \"3.1415\"}\n";
    assert_eq!(run(&mut python), expected);
    assert!(opens(&reader) > 100, "the library was taken from elsewhere");
    // What was read once is then read without the node, from the kernel's memory or from the files of the cache.
    let once = reader.metric("reads");
    assert_eq!(run(&mut python), expected);
    assert!(reader.metric("reads") - once < once / 10, "{once} reads, then {} more", reader.metric("reads") - once);
    assert_eq!(reader.metric("read_errors"), 0);
}
