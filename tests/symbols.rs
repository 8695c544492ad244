//! What the shared library shows to the dynamic linker, held against what is promised: exported
//! names, needed libraries, SONAME, glibc floor and hardening.
//!
//! `MOONCAKE_LIBRARY=/path/to/libmooncake.so` checks another file than the one of this build.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed test is a panic.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader, Sym};

type Elf<'a> = ElfFile64<'a, object::Endianness, &'a [u8]>;

/// Libraries the loader may be asked for. libpthread and libdl are part of glibc: since 2.34 they
/// are empty, before they hold functions the library uses.
const NEEDED_ALLOWED: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

/// Oldest glibc the library runs on.
const GLIBC_FLOOR: (u32, u32) = (2, 28);

#[test]
fn exports_are_the_promised_list() {
    let data = library();
    let elf = parse(&data);
    let endian = elf.endian();
    let symbols = elf.elf_dynamic_symbol_table();
    let exported: BTreeSet<String> = symbols
        .iter()
        .filter(|symbol| symbol.st_shndx(endian) != elf::SHN_UNDEF)
        .filter(|symbol| matches!(symbol.st_bind(), elf::STB_GLOBAL | elf::STB_WEAK))
        .map(|symbol| {
            let name = symbols.symbol_name(endian, symbol).unwrap();
            String::from_utf8(name.to_vec()).unwrap()
        })
        .collect();
    let promised = names("include/mooncake.symbols");
    let missing: Vec<_> = promised.difference(&exported).collect();
    let extra: Vec<_> = exported.difference(&promised).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:?}, not listed: {extra:?}");
}

#[test]
fn lists_of_symbols_agree() {
    let text = read("include/mooncake.symbols");
    let listed: Vec<&str> = text.lines().collect();
    assert!(listed.is_sorted(), "include/mooncake.symbols is not sorted");
    let map: BTreeSet<String> = read("include/mooncake.map")
        .lines()
        .map(str::trim)
        .filter(|line| line.ends_with(';') && *line != "*;" && *line != "};")
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect();
    assert_eq!(map, names("include/mooncake.symbols"), "include/mooncake.map");
}

#[test]
fn only_allowed_libraries_are_needed() {
    for needed in dynamic_strings(elf::DT_NEEDED) {
        assert!(NEEDED_ALLOWED.contains(&needed.as_str()), "needs {needed}");
    }
}

#[test]
fn soname_carries_the_abi_number() {
    let abi = mooncake::capi::version::MC_ABI_VERSION;
    assert_eq!(dynamic_strings(elf::DT_SONAME), [format!("libmooncake.so.{abi}")]);
    assert!(dynamic_strings(elf::DT_RUNPATH).is_empty());
    assert!(dynamic_strings(elf::DT_RPATH).is_empty());
}

#[test]
fn no_symbol_is_newer_than_the_glibc_floor() {
    let data = library();
    let elf = parse(&data);
    let endian = elf.endian();
    let versions = elf.elf_section_table().versions(endian, elf.data()).unwrap().unwrap();
    let symbols = elf.elf_dynamic_symbol_table();
    let mut too_new = Vec::new();
    for (index, symbol) in symbols.enumerate() {
        let version = versions.version_index(endian, index).index();
        let Ok(Some(version)) = versions.version(version) else { continue };
        let version = String::from_utf8_lossy(version.name());
        let Some(number) = version.strip_prefix("GLIBC_") else { continue };
        let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) > GLIBC_FLOOR {
            let name = symbols.symbol_name(endian, symbol).unwrap();
            too_new.push(format!("{}@{version}", String::from_utf8_lossy(name)));
        }
    }
    assert!(too_new.is_empty(), "newer than glibc {GLIBC_FLOOR:?}: {too_new:?}");
}

#[test]
fn memory_is_protected() {
    let data = library();
    let elf = parse(&data);
    let endian = elf.endian();
    let headers = elf.elf_header().program_headers(endian, elf.data()).unwrap();
    let of_type = |wanted| headers.iter().filter(move |header| header.p_type(endian) == wanted);
    let stack: Vec<_> = of_type(elf::PT_GNU_STACK).collect();
    assert_eq!(stack.len(), 1, "no word about the stack means executable");
    assert!(!stack[0].p_flags(endian).contains(elf::PF_X), "the stack is executable");
    assert_eq!(of_type(elf::PT_GNU_RELRO).count(), 1, "no RELRO");
    for header in of_type(elf::PT_LOAD) {
        let flags = header.p_flags(endian);
        let both = flags.contains(elf::PF_W) && flags.contains(elf::PF_X);
        assert!(!both, "writable and executable");
    }
    let flags: u64 = dynamic(elf::DT_FLAGS_1).iter().sum();
    assert_ne!(flags & elf::DF_1_NOW.0, 0, "symbols are bound lazily");
    assert_ne!(flags & elf::DF_1_NODELETE.0, 0, "dlclose would unmap the library");
    assert!(dynamic(elf::DT_TEXTREL).is_empty(), "text relocations");
}

/// What a static link needs besides libmooncake.a is written into the pkg-config file and the
/// CMake package; rustc knows the truth.
#[test]
fn native_libraries_are_those_of_the_package_files() {
    let rlib = newest_rlib();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native_libraries");
    fs::create_dir_all(&out).unwrap();
    let source = out.join("empty.rs");
    fs::write(&source, "extern crate mooncake;\n").unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--edition=2021", "--crate-type=staticlib", "--print=native-static-libs"])
        .arg(format!("--extern=mooncake={}", rlib.display()))
        .arg(format!("-Ldependency={}", rlib.parent().unwrap().display()))
        .arg("-o")
        .arg(out.join("libempty.a"))
        .arg(&source)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let printed = text
        .lines()
        .find_map(|line| line.split_once("native-static-libs:"))
        .unwrap_or_else(|| panic!("rustc printed no libraries: {text}"))
        .1
        .trim();

    let lists = read("CMakeLists.txt");
    let listed = lists
        .lines()
        .find_map(|line| line.trim().strip_prefix("set(MOONCAKE_NATIVE_LIBRARIES "))
        .expect("CMakeLists.txt sets MOONCAKE_NATIVE_LIBRARIES")
        .trim_end_matches(')');
    let listed: Vec<String> = listed.split_whitespace().map(|name| format!("-l{name}")).collect();
    assert_eq!(listed.join(" "), printed);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names(path: &str) -> BTreeSet<String> {
    read(path).lines().map(str::to_owned).collect()
}

/// The folder where cargo put this test and the libraries it was built with.
fn build_folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn library() -> Vec<u8> {
    let path = match std::env::var_os("MOONCAKE_LIBRARY") {
        Some(path) => PathBuf::from(path),
        None => build_folder().join("libmooncake.so"),
    };
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn newest_rlib() -> PathBuf {
    fs::read_dir(build_folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("libmooncake") && name.ends_with(".rlib")
        })
        .max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap())
        .expect("cargo builds the rlib for this test")
}

fn parse(data: &[u8]) -> Elf<'_> {
    Elf::parse(data).unwrap()
}

fn dynamic(tag: elf::DynamicTag) -> Vec<u64> {
    let data = library();
    let elf = parse(&data);
    let endian = elf.endian();
    let (entries, _) =
        elf.elf_section_table().dynamic(endian, elf.data()).unwrap().expect("a dynamic section");
    entries
        .iter()
        .filter(|entry| entry.d_tag(endian) == tag)
        .map(|entry| entry.d_val(endian))
        .collect()
}

fn dynamic_strings(tag: elf::DynamicTag) -> Vec<String> {
    let data = library();
    let elf = parse(&data);
    let endian = elf.endian();
    let sections = elf.elf_section_table();
    let (_, link) = sections.dynamic(endian, elf.data()).unwrap().expect("a dynamic section");
    let strings = sections.strings(endian, elf.data(), link).unwrap();
    dynamic(tag)
        .into_iter()
        .map(|offset| {
            let text = strings.get(u32::try_from(offset).unwrap()).unwrap();
            String::from_utf8(text.to_vec()).unwrap()
        })
        .collect()
}
